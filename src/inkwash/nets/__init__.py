"""Networks: `UNet` for pictures and `MLP` for points. Each is its own configuration; `build` makes the module."""

from __future__ import annotations

from inkwash.nets.mlp import MLP
from inkwash.nets.unet import UNet

__all__ = ["MLP", "UNet"]
