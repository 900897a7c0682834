"""Is a picture's caption found again among others? By an embedding that is read off the picture's features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inkwash.evaluation.interval import Middle, Share

Floats = npt.NDArray[np.float64]

BLOCK = 1024


@dataclass(frozen=True)
class Retrieved:
    """How well captions were found: the shares of pictures whose own is the first, and among the first five; its rank.

    candidates: how many there were to choose from.
    """

    first: Share
    five: Share
    rank: Middle
    candidates: int

    @property
    def by_chance(self) -> tuple[float, float, float]:
        """What the three are where pictures say nothing: 1/N, 5/N, (N + 1)/2."""
        n = self.candidates
        return 1 / n, min(5, n) / n, (n + 1) / 2


def retrieve(read: npt.NDArray[Any], candidates: npt.NDArray[Any], own: npt.NDArray[np.int64]) -> Retrieved:
    """Look for each picture's caption, number own [n], among N by the cosine (math.md, eq. 61).

    read [n, K]: the embeddings read off the pictures; candidates [N, K]: those of the captions; both less the mean
    caption, which says nothing of a picture and would make some candidates everybody's neighbours.
    """
    found = ranks(read, candidates, own)
    n = len(found)
    first, five = int((found <= 1).sum()), int((found <= 5).sum())
    return Retrieved(Share(first, n), Share(five, n), Middle.of(found), len(candidates))


def ranks(read: npt.NDArray[Any], candidates: npt.NDArray[Any], own: npt.NDArray[np.int64]) -> Floats:
    """The rank [n] of each one's own candidate, 1 for the nearest; of equally near ones each has their mean rank."""
    if not len(candidates) or read.ndim != 2 or read.shape[1:] != candidates.shape[1:]:
        raise ValueError(f"Embeddings {read.shape} cannot be looked for among candidates {candidates.shape}.")
    among = _unit(candidates)
    out = np.empty(len(read))
    for start in range(0, len(read), BLOCK):
        rows = slice(start, start + BLOCK)
        cosine = _unit(read[rows]) @ among.T
        mine = np.take_along_axis(cosine, own[rows, None], 1)
        apart = np.abs(cosine - mine) > 1e-12  # rounding makes no order
        nearer, equal = ((cosine > mine) & apart).sum(1), (~apart).sum(1)
        out[rows] = nearer + (equal + 1) / 2
    return out


def sentences(tokens: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> Floats:
    """The embedding [n, W] of each text: the mean of its token states [n, L, W], of length 1; zeros for a text without.

    lengths [n]: how many of the L are its own.
    """
    out = np.zeros((len(tokens), tokens.shape[2]))
    for i, length in enumerate(lengths):
        if length:
            out[i] = tokens[i, :length].astype(np.float64).mean(0)
    return _unit(out)


def _unit(x: npt.NDArray[Any]) -> Floats:
    """Rows of length 1; those of zeros stay."""
    x = np.asarray(x, dtype=np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(np.divide(x, length, out=np.zeros_like(x), where=length > 0))
