"""Looking at an autoencoder: how close its reconstructions of held-out pictures are, and a sheet of both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from inkwash import pictures
from inkwash.codec import LatentCodec, Pixels
from inkwash.data import Dataset
from inkwash.features.similarity import RANGE, WINDOW, ssim

if TYPE_CHECKING:
    from PIL.Image import Image

SHOWN = 24
"""Pictures on a sheet."""

CHUNK = 32


@dataclass(frozen=True)
class Look:
    """Reconstructions of n pictures, against the pictures, both as 8 bits a value.

    psnr: in decibels, of the mean squared error over all values of all pictures, so that one perfect picture does not
    make it infinite; ssim: the mean over the pictures (`similarity.ssim`), NaN where they are smaller than its window;
    l1: the mean absolute error, pictures being in [-1, 1]; shown: some of both [m, H, W, C]; dead: the channels of
    latents, counted from 1, that are the same everywhere in all of them: no codec can be made with those.
    """

    n: int
    psnr: float
    ssim: float
    l1: float
    shown: tuple[np.ndarray, np.ndarray]
    dead: tuple[int, ...] = ()

    def figures(self) -> dict[str, float]:
        """The numbers alone."""
        return {"psnr": self.psnr, "ssim": self.ssim, "l1": self.l1, "n": self.n}

    def __str__(self) -> str:
        alike = f", SSIM {self.ssim:.4f}" if math.isfinite(self.ssim) else ""
        return f"PSNR {self.psnr:.2f} dB{alike} on {self.n:,} held-out pictures"

    def sheet(self) -> Image:
        """Pairs side by side: an original, and what became of it."""
        before, after = self.shown
        pairs = np.stack([before, after], axis=1).reshape(-1, *before.shape[1:])
        across = min(4, len(before))
        return pictures.grid(pairs, 2 * across, labels=["original", "rebuilt"] * across, title=str(self))


def look(codec: LatentCodec, data: Dataset, rows: np.ndarray) -> Look:
    """Encode and decode these rows of a data set."""
    squares = absolute = alike = 0.0
    values = 0
    chosen = np.linspace(0, len(rows) - 1, min(SHOWN, len(rows))).astype(np.int64)
    shown: list[tuple[np.ndarray, np.ndarray]] = []
    lows: list[torch.Tensor] = []
    highs: list[torch.Tensor] = []
    device = next(codec.net.parameters()).device
    for start in range(0, len(rows), CHUNK):
        images = np.array(data.images[rows[start : start + CHUNK]])
        u = torch.from_numpy(images).to(device)
        latents = codec.encode(u)
        lows.append(latents.amin((0, 2, 3)))
        highs.append(latents.amax((0, 2, 3)))
        rebuilt = codec.decode(latents)
        x, y = Pixels().encode(u), Pixels().encode(rebuilt)
        difference = (x - y).double()
        squares += float(difference.square().sum())
        absolute += float(difference.abs().sum())
        alike += float(ssim(x, y).double().sum()) if _fits(images) else math.nan
        values += difference.numel()
        here = chosen[(start <= chosen) & (chosen < start + CHUNK)] - start
        shown.append((images[here], rebuilt.cpu().numpy()[here]))
    before, after = (np.concatenate([pair[i] for pair in shown]) for i in (0, 1))
    error = max(squares / values, (RANGE / 255) ** 2 / values)  # equal to the last bit: as if one grey level were off
    same = torch.stack(lows).amin(0) == torch.stack(highs).amax(0)
    dead = tuple(i for i, constant in enumerate(same.tolist(), 1) if constant)
    psnr = 10 * math.log10(RANGE**2 / error)
    return Look(len(rows), psnr, alike / len(rows), absolute / values, (before, after), dead)


def _fits(images: np.ndarray) -> bool:
    return bool(min(images.shape[1:3]) >= WINDOW)
