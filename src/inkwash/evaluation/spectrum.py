"""The radial power spectrum: how much of the pictures is coarse and how much fine."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FLOOR = (2 / 255) ** 2 / 12
"""The power that rounding to 8 bits alone has, at every frequency: of less nothing can be said."""

_NUMBERS = 1 << 21
"""Of pictures transformed at a time: 16 MB, and twice that for their transform."""


def spectrum(pictures: Array) -> npt.NDArray[np.float64]:
    """[R]: the mean power at r = 1 to R cycles in the shorter side, R half of it (math.md, eq. 52).

    pictures: [n, H, W, C], uint8 (brought to [-1, 1]) or floats in [-1, 1]; channels are averaged. White noise of
    variance s² has the power s² everywhere. There is no r = 0: a picture's mean is its brightness, whose square
    depends on what is called 0. Where the sides differ, r counts cycles in the length of the shorter one. The corners
    beyond R, which the shorter side cannot hold at all angles, are left out. Raises ValueError for anything else.
    """
    if pictures.ndim != 4 or len(pictures) == 0 or min(pictures.shape[1:3]) < 2:
        raise ValueError(f"A spectrum is of pictures [n, H, W, C] of 2 pixels a side or more, not {pictures.shape}.")
    n, height, width, channels = pictures.shape
    side = min(height, width)
    radius = side * np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    ring = np.floor(radius + 0.5).astype(np.int64)
    power = np.zeros((height, width))
    size = max(1, _NUMBERS // (height * width * channels))
    for start in range(0, n, size):
        x = pictures[start : start + size].astype(np.float64)
        x = x / 127.5 if pictures.dtype == np.uint8 else x  # less 1, which is brightness and left out
        power += np.square(np.abs(np.fft.fft2(x, axes=(1, 2)))).sum((0, 3))
    power /= n * channels * height * width
    rings = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    return np.asarray(rings[1 : side // 2 + 1])


def spectrum_error(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The root mean square, over r, of the difference of two spectra [R] in decibels (math.md, eq. 52).

    Power below what rounding to 8 bits has counts as that (`FLOOR`). Raises ValueError for pictures of other sizes.
    """
    of_a, of_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if of_a.shape != of_b.shape or of_a.ndim != 1:
        raise ValueError(f"Spectra of shapes {of_a.shape} and {of_b.shape} are of pictures of different sizes.")
    decibels = 10 * np.log10(np.maximum(of_a, FLOOR) / np.maximum(of_b, FLOOR))
    return float(np.sqrt(np.square(decibels).mean()))
