"""A coarse picture to be made fine: super-resolution, and the later stages of a cascade."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from inkwash.conditions.tasks import Bytes, Own, Plain, check_bytes, framed, like, tensors
from inkwash.noise import Stream
from inkwash.types import Noise


@dataclass(frozen=True)
class LowResolution(Plain):
    """The mean of every factor x factor pixels, shown at full size.

    Means are rounded to the nearest byte (halves up), and enlarged bilinearly between the centres of the coarse pixels,
    rounded again: in whole numbers, so that every device shows the same bits. noise: conditioning augmentation (Ho et
    al. 2022, "Cascaded diffusion models"): the deviation of Gaussian noise that is added to what is shown, in x's
    units, in training and sampling, so that a model forgives the coarse model's mistakes.
    """

    factor: int = 4
    noise: float = 0.0
    kind: Literal["lowres"] = field(default="lowres", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not 2 <= self.factor <= 256:
            raise ValueError(f"factor = {self.factor} must be 2 to 256: how many times smaller what is shown is.")
        if not 0.0 <= self.noise <= 10.0:
            raise ValueError(f"noise = {self.noise} must be 0 to 10: the deviation of noise on what is shown.")

    def check(self, shape: tuple[int, ...]) -> None:
        """factor must divide both sides."""
        _, h, w = _sides(shape)
        if h % self.factor or w % self.factor:
            raise ValueError(
                f"Pictures of {w}x{h} cannot be made {self.factor} times smaller: factor = {self.factor} must divide "
                "both sides. Set data.size, or another factor."
            )

    def small(self, pictures: Any) -> Any:
        """The coarse pictures themselves: uint8 [B, H, W, C] to [B, H/factor, W/factor, C]."""
        u, f = tensors(pictures), self.factor
        b, h, w, c = u.shape
        self.check((c, h, w))
        total = u.reshape(b, h // f, f, w // f, f, c).sum((2, 4), dtype=torch.int32)
        return like((2 * total + f * f) // (2 * f * f), pictures)

    def enlarged(self, small: Any) -> Any:
        """Coarse pictures uint8 [B, h, w, C] at full size, [B, h·factor, w·factor, C]."""
        f = self.factor
        fine = _between(_between(tensors(small), 1, f), 2, f)  # 4·f² times the value
        return like((fine + 2 * f * f) // (4 * f * f), small)

    def show(self, pictures: Any) -> Any:
        """The coarse pictures at full size: uint8 [B, H, W, C] to the same."""
        return self.enlarged(self.small(pictures))

    def seen(self, x: Tensor, noise: Noise, hidden: Tensor | None = None) -> Tensor:
        """x + noise·z, z standard normal of each sample's own."""
        x = super().seen(x, noise, hidden)
        return x + self.noise * noise(x, 0, Stream.SHOWN) if self.noise else x

    def own(self, picture: Bytes, shape: tuple[int, ...]) -> Own:
        """A user's picture: one of the coarse size is taken as it is, one of the data's size as a picture of theirs.

        Any other is cut to the data's proportions, and each coarse pixel is the mean over the area it covers.
        """
        check_bytes(picture)
        self.check(shape)
        c, h, w = _sides(shape)
        if picture.shape[:2] == (h, w):
            return Own(self.show(framed(picture, shape)[None])[0])
        small = framed(picture, (c, h // self.factor, w // self.factor), by_area=True)
        return Own(self.enlarged(small[None])[0])


def _sides(shape: tuple[int, ...]) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise ValueError(f"Vectors of {shape[0]} numbers are not pictures: nothing can be shown of them.")
    return shape[0], shape[1], shape[2]


def _between(u: Tensor, axis: int, f: int) -> Tensor:
    """Bilinear enlargement of an axis by f, times 2f: sample k of pixel i lies (2k + 1 - f)/(2f) pixels beside it."""
    size = u.shape[axis]
    before = u.index_select(axis, torch.arange(-1, size - 1, device=u.device).clamp(min=0))
    after = u.index_select(axis, torch.arange(1, size + 1, device=u.device).clamp(max=size - 1))
    beside = 2 * torch.arange(f, dtype=torch.int32, device=u.device) + 1 - f
    weight = beside.reshape(-1, *(1,) * (u.ndim - axis - 1))
    u, before, after = (v.unsqueeze(axis + 1) for v in (u, before, after))
    fine = u * (2 * f - weight.abs()) + before * (-weight).clamp(min=0) + after * weight.clamp(min=0)
    return fine.flatten(axis, axis + 1)
