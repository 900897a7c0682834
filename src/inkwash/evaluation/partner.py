"""How near each picture is to the one it should be: PSNR and structural similarity, picture by picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from inkwash.features.similarity import WINDOW, ssim

Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

ROUNDING = 1 / 12
"""The mean squared error, in grey levels, that rounding to 8 bits alone has: of less nothing can be said. 58.9 dB."""

BLOCK = 256


def squared(a: Bytes, b: Bytes, known: npt.NDArray[np.bool_] | None = None) -> Floats:
    """[n]: the mean squared difference of two sets of pictures uint8 [n, H, W, C], in squared grey levels.

    known: [n, H, W], the places that count; a picture with none of them has NaN.
    """
    _alike(a, b)
    out = np.empty(len(a))
    for start in range(0, len(a), BLOCK):
        rows = slice(start, start + BLOCK)
        error = np.square(a[rows].astype(np.float64) - b[rows].astype(np.float64)).mean(3)
        if known is None:
            out[rows] = error.mean((1, 2))
        else:
            count = known[rows].sum((1, 2))
            total = np.where(known[rows], error, 0.0).sum((1, 2))
            out[rows] = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return out


def psnr(a: Bytes, b: Bytes) -> Floats:
    """[n]: 10·log10(255²/mean squared difference) of each pair, in dB; at most what rounding leaves (`ROUNDING`)."""
    return np.asarray(10 * np.log10(255**2 / np.maximum(squared(a, b), ROUNDING)))


def structure(a: Bytes, b: Bytes) -> Floats | None:
    """[n]: the structural similarity of each pair (Wang et al. 2004); None for pictures smaller than its window."""
    _alike(a, b)
    if min(a.shape[1:3]) < WINDOW:
        return None
    parts = []
    for start in range(0, len(a), BLOCK):
        x, y = (torch.from_numpy(np.array(u[start : start + BLOCK])).permute(0, 3, 1, 2) / 127.5 - 1 for u in (a, b))
        parts.append(ssim(x, y).double().numpy())
    return np.concatenate(parts)


def _alike(a: Bytes, b: Bytes) -> None:
    if a.shape != b.shape or a.ndim != 4 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(
            f"Pictures {a.dtype} {list(a.shape)} and {b.dtype} {list(b.shape)} cannot be held against each other: give "
            "as many 8-bit pictures of one size."
        )
