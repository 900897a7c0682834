"""Codecs: the two ends of diffusion. They turn stored data into what is diffused, and back.

A codec's `encode` takes a batch as the data room stores it and gives floats, channels first; `decode` is its inverse;
`picture` makes 8-bit pictures of decoded data, for people to look at. For likelihoods, `bin` is how wide one value of
the data is in x (None for floats, which have no bins), and `log_scale` turns densities of x into those of the data's
own units: ln p(u) = ln p(x) + log_scale, the logarithm of |det dx/du| (math.md, eq. 41).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Component

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Pixels(Component):
    """8-bit pixels: x = u/127.5 - 1 in [-1, 1]; a bin is 2/255 wide."""

    kind: Literal["pixels"] = field(default="pixels", kw_only=True, repr=False)

    def encode(self, u: Tensor) -> Tensor:
        """[B, H, W, C] uint8 to [B, C, H, W] float32, laid out channels last."""
        return u.permute(0, 3, 1, 2).float() / 127.5 - 1.0

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H, W, C] uint8: rounded to the nearest, clipped to 0..255."""
        return ((x.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def picture(self, u: Tensor) -> Tensor:
        """The pixels themselves."""
        return u

    @property
    def bin(self) -> float:
        """2/255, the distance of two grey levels."""
        return 2 / 255

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """For one picture of x's shape, and densities per grey level: C·H·W·ln(2/255)."""
        return math.prod(shape) * math.log(self.bin)


@dataclass(frozen=True)
class Scaled(Component):
    """Pictures of floats, with `low` and `high` brought to -1 and 1."""

    low: float = 0.0
    high: float = 1.0
    kind: Literal["scaled"] = field(default="scaled", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"A scale needs low < high, but low = {self.low} and high = {self.high}.")

    def encode(self, u: Tensor) -> Tensor:
        """[B, H, W, C] floats to [B, C, H, W] float32, laid out channels last."""
        return (u.permute(0, 3, 1, 2).float() - self.low) * (2.0 / (self.high - self.low)) - 1.0

    def decode(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, H, W, C] float32 in the data's own units."""
        return ((x.float() + 1.0) * ((self.high - self.low) / 2.0) + self.low).permute(0, 2, 3, 1).contiguous()

    def picture(self, u: Tensor) -> Tensor:
        """low black, high white."""
        return ((u - self.low) * (255.0 / (self.high - self.low))).round().clamp(0, 255).to(torch.uint8)

    @property
    def bin(self) -> None:
        """None: floats have no bins."""
        return

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """For one picture of x's shape: C·H·W·ln(2/(high - low))."""
        return math.prod(shape) * math.log(2 / (self.high - self.low))


@dataclass(frozen=True)
class Standard(Component):
    """Vectors [B, D], each coordinate brought to mean 0 and deviation 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    kind: Literal["standard"] = field(default="standard", kw_only=True, repr=False)

    def encode(self, u: Tensor) -> Tensor:
        """[B, D] floats to [B, D] float32."""
        return (u.float() - u.new_tensor(self.mean, dtype=torch.float32)) / u.new_tensor(self.std, dtype=torch.float32)

    def decode(self, x: Tensor) -> Tensor:
        """[B, D] to [B, D] float32 in the data's own units."""
        return x.float() * x.new_tensor(self.std, dtype=torch.float32) + x.new_tensor(self.mean, dtype=torch.float32)

    def picture(self, u: Tensor) -> Tensor:
        """Vectors have no picture of their own: points are drawn as a scatter. Always raises ValueError."""
        raise ValueError(f"Vectors of {u.shape[-1]} numbers are not pictures. Save them with --npy, or plot 2-D ones.")

    @property
    def bin(self) -> None:
        """None: floats have no bins."""
        return

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """For one vector: -sum of ln std."""
        return -sum(math.log(s) for s in self.std)


Codec = Pixels | Scaled | Standard
"""The codecs there are."""

AnyCodec = Annotated[Codec, OneOf()]
"""A codec as a model's config names it."""


def codec_for(images: np.ndarray) -> Codec:
    """What brings these data to about [-1, 1], or to unit deviation: decided by their type and shape.

    images: [N, H, W, C] pictures, uint8 or floats, or [N, D] vectors.
    """
    if images.ndim == 2:
        mean, std = images.mean(0, dtype="float64"), images.std(0, dtype="float64")
        return Standard(tuple(map(float, mean)), tuple(float(s) if s > 0 else 1.0 for s in std))
    if images.dtype == "uint8":
        return Pixels()
    low, high = float(images.min()), float(images.max())
    return Scaled(low, high if high > low else low + 1.0)
