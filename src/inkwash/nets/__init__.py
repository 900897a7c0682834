"""Networks: `UNet` for pictures and `MLP` for points. Each is its own configuration; `build` makes the module."""

from __future__ import annotations

from typing import Annotated

from inkwash.kinds import OneOf
from inkwash.nets.mlp import MLP
from inkwash.nets.unet import UNet

AnyNet = Annotated[UNet | MLP, OneOf()]
"""A network as a recipe names it."""

__all__ = ["MLP", "AnyNet", "UNet"]
