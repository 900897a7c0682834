"""What is left of a picture without its colours, or with its contours alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.conditions.tasks import Bytes, Own, Plain, framed, like, tensors


@dataclass(frozen=True)
class Grey(Plain):
    """The luma of ITU-R BT.601, (299 R + 587 G + 114 B)/1000, in all three colours: colourisation.

    Rounded to the nearest byte (halves up), in whole numbers; an alpha channel stays.
    """

    kind: Literal["grey"] = field(default="grey", kw_only=True, repr=False)

    def check(self, shape: tuple[int, ...]) -> None:
        """There must be colours."""
        if shape[0] not in (3, 4) or len(shape) != 3:
            raise ValueError(f"Data of shape {shape} have no colours that could be learned. Set data.channels = 3.")

    def show(self, pictures: Any) -> Any:
        """uint8 [B, H, W, 3 or 4] to the same, without colours."""
        u = tensors(pictures)
        self.check((u.shape[3], u.shape[1], u.shape[2]))
        grey = (_luma1000(u) + 500) // 1000
        return like(torch.cat([grey.expand(*u.shape[:3], 3), u[..., 3:]], -1), pictures)

    def own(self, picture: Bytes, shape: tuple[int, ...]) -> Own:
        """A picture, grey or in colours (which are taken away), brought to the data's shape."""
        return Own(self.show(framed(picture, shape)[None])[0])


@dataclass(frozen=True)
class Edges(Plain):
    """The magnitude of Sobel's gradient of the luma (BT.601), white on black: min(255, √(g_x² + g_y²)/4).

    g_x is the picture correlated with [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], g_y with its transpose, the outermost
    pixels repeated beyond the border; a straight step between two values is as bright as they are apart. In all
    channels; an alpha channel is opaque.
    """

    kind: Literal["edges"] = field(default="edges", kw_only=True, repr=False)

    def check(self, shape: tuple[int, ...]) -> None:
        """Pictures of one channel, or with colours."""
        if len(shape) != 3 or shape[0] not in (1, 3, 4):
            raise ValueError(f"Data of shape {shape} are not grey, RGB or RGBA pictures: they have no edges.")

    def show(self, pictures: Any) -> Any:
        """uint8 [B, H, W, C] to the same."""
        u = tensors(pictures)
        b, h, w, c = u.shape
        self.check((c, h, w))
        luma = u[..., 0] * 1000 if c == 1 else _luma1000(u)[..., 0]
        # Whole numbers below 2^24 · 1000: float64 holds them, and its square root is correctly rounded on every device.
        p = F.pad(luma.double()[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
        down = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
        across = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
        x, y = down[:, :, 2:] - down[:, :, :-2], across[:, 2:] - across[:, :-2]
        edge = ((x * x + y * y).sqrt() / 4000.0).round().clamp(max=255.0)[..., None]
        whole = edge.expand(b, h, w, c) if c < 4 else torch.cat([edge.expand(b, h, w, 3), edge * 0 + 255.0], -1)
        return like(whole, pictures)

    def own(self, picture: Bytes, shape: tuple[int, ...]) -> Own:
        """The edges of a picture, brought to the data's shape before they are found."""
        return Own(self.show(framed(picture, shape)[None])[0])


def _luma1000(u: Tensor) -> Tensor:
    """A thousand times the luma of int32 pixels [B, H, W, 3 or more]: [B, H, W, 1]."""
    return 299 * u[..., 0:1] + 587 * u[..., 1:2] + 114 * u[..., 2:3]
