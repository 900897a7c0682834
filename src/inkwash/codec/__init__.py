"""Codecs: the two ends of diffusion. They turn stored data into what is diffused, and back.

A codec's `encode` takes a batch as the data room stores it and gives floats, channels first; `decode` is its inverse;
`picture` makes 8-bit pictures of decoded data, for people to look at. For likelihoods, `bin` is how wide one value of
the data is in x (None for floats, which have no bins), and `log_scale` turns densities of x into those of the data's
own units: ln p(u) = ln p(x) + log_scale, the logarithm of |det dx/du| (math.md, eq. 41).

What stands in a model's config is an `AnyCodec`. `bind` gives it its weights, where it has any, and the result is a
`Codec`. `Latents` without its weights has no `encode` that one could call by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Protocol

import torch
from torch import Tensor

from inkwash.codec.direct import Pixels, Scaled, Standard, codec_for
from inkwash.codec.latents import LatentCodec, Latents, channel_statistics
from inkwash.kinds import OneOf

AnyCodec = Annotated[Pixels | Scaled | Standard | Latents, OneOf()]
"""A codec as a model's config names it."""


class Codec(Protocol):
    """Encodes and decodes: see `inkwash.codec`."""

    def encode(self, u: Tensor) -> Tensor:
        """Data [B, H, W, C] or [B, D] to x [B, c, h, w] or [B, D] float32."""
        ...

    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`."""
        ...

    def picture(self, u: Tensor) -> Tensor:
        """Data as 8-bit pictures [B, H, W, C]; ValueError for vectors."""
        ...

    @property
    def bin(self) -> float | None:
        """The width in x of one value of the data; None for what has no bins."""
        ...

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """What to add to ln p(x), x of this shape, for the density of the data; ValueError where there is none."""
        ...

    @property
    def weights(self) -> Mapping[str, Tensor] | None:
        """The weights it needs to be bound again; None where it needs none."""
        ...

    def to(self, device: torch.device) -> Codec:
        """The same codec for data on a device."""
        ...


__all__ = [
    "AnyCodec",
    "Codec",
    "LatentCodec",
    "Latents",
    "Pixels",
    "Scaled",
    "Standard",
    "channel_statistics",
    "codec_for",
]
