"""Codecs that need no weights: pixels, pictures of floats, and vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

from inkwash.types import Component

if TYPE_CHECKING:
    import numpy as np


class Direct(Component):
    """Base of codecs that are all of their configuration: they need no weights, and keep every shape."""

    def bind(self, weights: Mapping[str, Tensor] | None = None) -> Self:
        """The codec itself."""
        return self

    def to(self, device: torch.device) -> Self:
        """The codec itself: it computes where its data are."""
        return self

    @property
    def weights(self) -> None:
        """None: there are none."""
        return

    def diffused(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of x for data of a shape, (C, H, W) or (D,): the same."""
        return shape

    def pictured(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the data for x of a shape: the same."""
        return shape


@dataclass(frozen=True)
class Pixels(Direct):
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
class Scaled(Direct):
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
class Standard(Direct):
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


def codec_for(images: np.ndarray) -> Pixels | Scaled | Standard:
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
