"""Bringing planes [B, C, H, W] of floats in 0..255 to the size a feature net was trained at.

A Fréchet distance belongs to its resize: each net's is fixed and said in words in every record.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bicubic(x: Tensor, side: int) -> Tensor:
    """Keys' bicubic kernel (a = -1/2) with half-pixel centres, widened by the factor where it shrinks (antialiased).

    In floats, without rounding; overshoots are clipped to 0..255. `torch.nn.functional.interpolate`'s antialiased
    mode, which is Pillow's kernel.
    """
    return F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0.0, 255.0)


def bilinear_tf1(x: Tensor, side: int) -> Tensor:
    """TensorFlow 1's bilinear resize, which the FID graph of 2015 has built in: no half-pixel centres, no antialiasing.

    Output pixel i lies at i·(size/side) of the input, between that pixel's floor and the next one or the last.
    """
    return _line(_line(x, side, 2), side, 3)


def _line(x: Tensor, side: int, axis: int) -> Tensor:
    size = x.shape[axis]
    # float32, as TensorFlow has it: where i·size/side is whole, it must not be found a hair below.
    at = torch.arange(side, dtype=torch.float32) * torch.tensor(size / side, dtype=torch.float32)
    low = at.floor().long()
    high = (low + 1).clamp(max=size - 1)
    part = (at - low).to(x.device).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    bottom, top = x.index_select(axis, low.to(x.device)), x.index_select(axis, high.to(x.device))
    return bottom + (top - bottom) * part
