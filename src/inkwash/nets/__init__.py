"""Networks: U-Nets and transformers for pictures, `MLP` for points. Each is its own configuration; `build` makes it."""

from __future__ import annotations

from typing import Annotated

from inkwash.kinds import OneOf
from inkwash.nets.autoencoder import PRESETS, Autoencoder, KLAutoencoder, Posterior
from inkwash.nets.classic import ClassicUNet
from inkwash.nets.dit import DiT
from inkwash.nets.mlp import MLP
from inkwash.nets.modern import ModernDiT
from inkwash.nets.tinyae import TinyAutoencoder
from inkwash.nets.unet import UNet

AnyNet = Annotated[UNet | MLP | ClassicUNet | DiT | ModernDiT, OneOf()]
"""A network as a recipe names it."""

AnyAutoencoder = Annotated[KLAutoencoder | TinyAutoencoder, OneOf()]
"""An autoencoder as a codec names it."""

__all__ = [
    "MLP",
    "PRESETS",
    "AnyAutoencoder",
    "AnyNet",
    "Autoencoder",
    "ClassicUNet",
    "DiT",
    "KLAutoencoder",
    "ModernDiT",
    "Posterior",
    "TinyAutoencoder",
    "UNet",
]
