"""What a network is told besides x, the time and a label: numbers, and a picture that lies beside x.

Either has a null for each of its elements, NaN, and nothing that stands under a NaN reaches an answer or a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from inkwash.types import Condition

OCTAVES = 6
"""Frequencies by which one number is told: each turns twice as fast as the one before, the last by pi per deviation.

With two octaves more, what was learned at 12 values was ten times as wrong between them (docs/networks.md).
"""

SLOWEST = math.pi / 32
"""The first of them, in radians per deviation: its sine rises over all numbers within 16 deviations of the mean."""

FEW = 32
"""Up to so many numbers are told by waves. More are the coordinates of one thing, such as an embedding."""


class Numbers(nn.Module):
    """A condition's vector of numbers as one vector [B, width], to be added to what is told of the time.

    A number v, of mean 0 and deviation 1, is told by cos(w v) and sin(w v), w = pi/32·2^k, k = 0 .. 5 (networks.md,
    "Conditions"); one of a vector of more than 32 as it is. What is told of all of them goes through one linear map. In
    place of what is told of a number that is not known (NaN) stands something learned, at first zeros.
    count: of the numbers; 0 is a network without, for which a call gives None.
    """

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count = count
        self.each = 2 * OCTAVES if count <= FEW else 1
        self.unknown = nn.Parameter(torch.zeros(count * self.each)) if count else None  # a vector: not decayed
        self.out = nn.Linear(count * self.each, width, bias=False) if count else None

    def forward(self, cond: Condition, e: Tensor) -> Tensor | None:
        """What cond says of rows like e's [B, ...]. ValueError where it says nothing, too much, or too little."""
        v = cond.vector
        if self.unknown is None or self.out is None:
            if v is not None:
                raise ValueError("This model was built without a vector of numbers and takes none: pass no vector.")
            return None
        if v is None or v.shape != (e.shape[0], self.count):
            got = "none" if v is None else f"one of shape {list(v.shape)}"
            raise ValueError(
                f"This model was built for a vector of {self.count} numbers for every row, "
                f"[{e.shape[0]}, {self.count}], and was given {got}: pass Condition(vector=...), with NaN for a number "
                "that is not known."
            )
        v = v.to(e.device, torch.promote_types(v.dtype, torch.float32))  # angles up to 100 are nothing for 8 bits
        known = ~v.isnan()
        v = v.masked_fill(~known, 0)
        told = (waves(v) if self.each > 1 else v[:, :, None]).to(self.unknown.dtype)
        told = torch.where(known[:, :, None], told, self.unknown.view(self.count, self.each))
        out: Tensor = self.out(told.flatten(1))
        return out


def waves(v: Tensor) -> Tensor:
    """Cosines, then sines of v [...] at the frequencies of `Numbers`: [..., 2·OCTAVES]."""
    octaves = torch.arange(OCTAVES, device=v.device, dtype=v.dtype)
    angles = v[..., None] * (SLOWEST * torch.exp2(octaves))
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def beside(channels: int, cond: Condition, x: Tensor) -> Tensor | None:
    """The picture beside x [B, C, H, W] and where it is known, [B, channels + 1, H, W] in x's dtype.

    channels: of the picture; 0 is a network without, for which there is none. What is not known of it (NaN) is 0; the
    last channel is 1 where all of the picture's are known and 0 where none is, between them their share. So a picture
    of zeros and none differ. ValueError where it is missing, of another shape, or given to a network without.
    """
    image = cond.image
    if not channels:
        if image is not None:
            raise ValueError("This model was built without a picture to go by and takes none: pass no image.")
        return None
    want = (x.shape[0], channels, *x.shape[2:])
    if image is None or image.shape != want:
        got = "none" if image is None else f"one of shape {list(image.shape)}"
        raise ValueError(
            f"This model was built to be shown a picture of {channels} channels beside x, of its height and width, "
            f"here {list(want)}, and was given {got}: pass Condition(image=...), with NaN where it is not known."
        )
    image = image.to(x.device, x.dtype)
    known = ~image.isnan()
    return torch.cat([image.masked_fill(~known, 0), known.to(x.dtype).mean(dim=1, keepdim=True)], dim=1)
