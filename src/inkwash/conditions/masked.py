"""A picture with a part hidden: filling in, and painting on beyond a border."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from inkwash.conditions.tasks import Bytes, Own, Plain, check_bytes, framed
from inkwash.noise import Stream
from inkwash.types import Noise


@dataclass(frozen=True)
class Masked(Plain):
    """The picture itself, with a part of it hidden (NaN in x): all channels of some places.

    In training, with probability 1/2 a rectangle is hidden, with 1/4 a half (left, right, upper, lower), and with 1/4
    all but a rectangle. A rectangle is from 1/4 to 3/4 as high as x, all heights equally likely, and, apart from that,
    so wide; it lies anywhere within, all places equally likely. So 7/16 is hidden on average where 2 divides both
    sides. In latents a hole's border knows a little of what is in it, as far as the autoencoder looks.
    """

    kind: Literal["masked"] = field(default="masked", kw_only=True, repr=False)

    itself: ClassVar[bool] = True

    def check(self, shape: tuple[int, ...]) -> None:
        """At least four pixels a side."""
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(f"Data of shape {shape} have no part that could be hidden: pictures of 4x4 or more have.")

    def show(self, pictures: Any) -> Any:
        """The pictures themselves."""
        return pictures

    def seen(self, x: Tensor, noise: Noise, hidden: Tensor | None = None) -> Tensor:
        """x with NaN where it is hidden: at the places drawn for each sample, or wherever a hidden pixel takes part."""
        h, w = x.shape[2:]
        where = drawn(noise, h, w) if hidden is None else _coarse(hidden, h, w)
        return x.masked_fill(where.to(x.device)[:, None], math.nan)

    def own(self, picture: Bytes, shape: tuple[int, ...]) -> Own:
        """A picture with one channel more than the data: where that one, alpha, is below 128, it is hidden.

        So is one of grey and alpha, or RGBA, of any data that have no alpha. The picture is brought to the data's
        shape, and grey is put where it is hidden. One without alpha is hidden nowhere.
        """
        transparent = picture.ndim == 3 and shape[0] in (1, 3) and picture.shape[2] in (2, 4)
        if picture.ndim != 3 or not (transparent or picture.shape[2] == shape[0] + 1):
            return Own(framed(picture, shape), np.zeros(shape[1:], np.bool_))
        check_bytes(picture[..., :-1])
        alpha = framed(np.ascontiguousarray(picture[..., -1:]), (1, *shape[1:]))[..., 0]
        hidden = alpha < 128
        # What an editor leaves under a transparent pixel is not part of the picture, and a codec would see it.
        open_ = picture[..., -1:] >= 128
        kept = np.where(open_, picture[..., :-1], np.uint8(128))
        return Own(framed(kept, shape), hidden)


def drawn(noise: Noise, height: int, width: int) -> Tensor:
    """What training hides of each sample: [B, height, width] bool, a function of the sample's index."""

    def uniform(number: int) -> Tensor:
        return noise.uniform(number, Stream.MASK)

    def side(length: int, size: Tensor, place: Tensor) -> Tensor:
        least = max(1, length // 4)
        extent = least + (size * (length - 2 * least + 1)).floor()
        start = (place * (length - extent + 1)).floor()
        at = torch.arange(length, dtype=torch.float64)
        return (at >= start[:, None]) & (at < (start + extent)[:, None])

    form = uniform(0)
    box = side(height, uniform(1), uniform(2))[:, :, None] & side(width, uniform(3), uniform(4))[:, None, :]
    quarter = (uniform(5) * 4).floor()[:, None, None]
    y, x = torch.arange(height)[:, None] < height // 2, torch.arange(width)[None, :] < width // 2
    halves = [half.expand(height, width) for half in (x, ~x, y)]
    half = (~y).expand(height, width)
    for number, other in enumerate(halves):
        half = torch.where(quarter == number, other, half)
    form = form[:, None, None]
    return torch.where(form < 0.5, box, torch.where(form < 0.75, half, ~box))


def _coarse(hidden: Tensor, h: int, w: int) -> Tensor:
    """A mask of pixels [B, H, W] at x's size: a place is hidden where any of its pixels is."""
    b, tall, wide = hidden.shape
    if tall % h or wide % w:
        raise ValueError(f"A mask of {wide}x{tall} pixels does not fit what is diffused, which is {w}x{h}.")
    return hidden.reshape(b, h, tall // h, w, wide // w).amax((2, 4))
