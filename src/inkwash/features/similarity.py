"""How alike two sets of pictures are: structural similarity (SSIM), and SSIM over several scales.

Both take pictures [B, C, H, W] in [-1, 1], of floats, and give one number for each, [B] float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW = 11
"""The side of the Gaussian window in pixels: the least that a picture may have (Wang et al. 2004, sec. III-C)."""

DEVIATION = 1.5
"""The deviation of that Gaussian in pixels."""

RANGE = 2.0
"""From black to white."""

C1, C2 = (0.01 * RANGE) ** 2, (0.03 * RANGE) ** 2
"""What keeps the quotients stable where pictures are dark or flat: (K·L)² with Wang et al.'s K1 and K2."""

SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""The exponents of the scales, finest first (Wang, Simoncelli and Bovik 2003, sec. 3.2)."""


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13), its mean over channels and places; 1 for equal pictures.

    Only places where the whole window lies within the picture count. Raises ValueError for sides below `WINDOW`.
    """
    light, structure = _compared(x, y)
    return (light * structure).flatten(1).mean(1)


def ms_ssim(x: Tensor, y: Tensor, scales: Sequence[float] | None = None) -> Tensor:
    """SSIM over several scales (Wang, Simoncelli and Bovik 2003, eq. 7); 1 for equal pictures.

    The contrast and structure of each scale, and the luminance of the coarsest, averaged over channels and places and
    raised to the scale's exponent; a scale has half the resolution of the one before. A negative average, of pictures
    that are each other's opposite, counts as 1e-4: its power is real, and its gradient finite.

    scales: exponents, finest first; by default as many of `SCALES` as the window fits into, made to sum to 1. Raises
    ValueError for pictures that are too small for them.
    """
    exponents = scales_for(x.shape[-2:]) if scales is None else tuple(scales)
    similarity = x.new_ones(len(x), dtype=torch.float32)
    for i, exponent in enumerate(exponents):
        if i:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        light, structure = _compared(x, y)
        product = light * structure if i + 1 == len(exponents) else structure
        similarity = similarity * product.flatten(1).mean(1).clamp(min=1e-4) ** exponent
    return similarity


def scales_for(size: Sequence[int]) -> tuple[float, ...]:
    """As many of `SCALES` as the window fits into, made to sum to 1; at least one, for pictures of this (H, W)."""
    side, count = min(size), 1
    while count < len(SCALES) and side >> count >= WINDOW:
        count += 1
    total = sum(SCALES[:count])
    return tuple(s / total for s in SCALES[:count])


def _compared(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast with structure, at each place where the window fits: [B, C, H - 10, W - 10]."""
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(
            f"Structural similarity looks at windows of {WINDOW} x {WINDOW} pixels, and these pictures are "
            f"{x.shape[-1]} x {x.shape[-2]}. Use larger ones, or fewer scales."
        )
    x, y = x.float(), y.float()
    channels = x.shape[1]
    blurred = _blur(torch.cat([x, y, x * x, y * y, x * y], dim=1))
    mx, my, xx, yy, xy = torch.split(blurred, channels, dim=1)
    light = (2 * mx * my + C1) / (mx * mx + my * my + C1)
    structure = (2 * (xy - mx * my) + C2) / (xx - mx * mx + yy - my * my + C2)
    return light, structure


def _blur(x: Tensor) -> Tensor:
    """The Gaussian average around each place, down and then across."""
    channels = x.shape[1]
    weights = torch.tensor(_gaussian(), device=x.device).expand(channels, 1, WINDOW)
    return F.conv2d(F.conv2d(x, weights[..., None], groups=channels), weights[..., None, :], groups=channels)


@cache
def _gaussian() -> tuple[float, ...]:
    places = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    bell = (-places.square() / (2 * DEVIATION**2)).exp()
    return tuple((bell / bell.sum()).tolist())
