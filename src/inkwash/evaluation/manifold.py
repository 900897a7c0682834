"""Measures from nearest neighbours: precision and recall, density and coverage, and how near to the training set.

Distances are Euclidean, between features, in float64 by blocks: a copied picture lies on another's sphere or at its
centre, and float32 could not tell on which side. Memory is O(n) besides the features.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inkwash.evaluation.interval import Share
from inkwash.evaluation.rows import Features, blocks, same_width

PRECISION_K = 3
DENSITY_K = 5
"""Which nearest other bounds a picture's neighbourhood: the papers' choices."""

MOST = 10_000
"""Pictures a side of precision, recall, density and coverage, at most: their time grows with the square."""

_ROUNDING = 1e-12
"""Squared distances closer than this part of the squared norms are equal: a sphere's own points lie within it."""


def precision_recall(real: Features, fake: Features, k: int = PRECISION_K) -> tuple[float, float]:
    """The shares of fakes among the reals, and of reals among the fakes (math.md, eq. 49; Kynkäänniemi et al. 2019).

    Among a set: not farther from one of its pictures than that one's k-th nearest other. Of both sets the first
    min(n, m, MOST) are used. Raises ValueError where that is not more than k.
    """
    real, fake = _paired(real, fake, k)
    of_real, of_fake = _radii(real, k), _radii(fake, k)
    precise, recalled = torch.zeros(len(fake), dtype=torch.bool), torch.zeros(len(real), dtype=torch.bool)
    for i, j, squared, slack in _distances(fake, real):
        precise[i] |= (squared <= of_real[j] + slack).any(1)
        recalled[j] |= (squared <= of_fake[i, None] + slack).any(0)
    return float(precise.double().mean()), float(recalled.double().mean())


def density_coverage(real: Features, fake: Features, k: int = DENSITY_K) -> tuple[float, float]:
    """How many reals a fake is near, over k, and the share of reals with a fake near (math.md, eq. 50).

    Near a real: not farther than its k-th nearest other real (Naeem et al. 2020). Fakes from the reals' distribution
    have a density of 1 on average, which may be exceeded, and cover about 1 - 2^-k of the reals; fakes far from all
    others count for nothing in both. Of both sets the first min(n, m, MOST) are used. Raises ValueError where that is
    not more than k.
    """
    real, fake = _paired(real, fake, k)
    of_real = _radii(real, k)
    near, covered = 0, torch.zeros(len(real), dtype=torch.bool)
    for _, j, squared, slack in _distances(fake, real):
        inside = squared <= of_real[j] + slack
        near += int(inside.sum())
        covered[j] |= inside.any(0)
    return near / (k * len(fake)), float(covered.double().mean())


def nearest(queries: Features, among: Features) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """For each query [n, d] the distance [n] to the nearest row of `among` [m, d], and which one it is [n].

    The distance is exact to float64's rounding: 0 for a copy. Which of several equally near ones is not said. No
    limit on n or m: time grows with n·m, memory with n. Raises ValueError where there is nothing to find.
    """
    same_width(queries, among)
    if not len(among):
        raise ValueError("There is nothing to be near to: the second set is empty.")
    best = torch.full((len(queries),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(queries), dtype=torch.int64)
    for i, j, squared, _ in _distances(queries, among):
        least, which = squared.min(1)
        index[i] = torch.where(least < best[i], which + j.start, index[i])
        best[i] = torch.minimum(least, best[i])
    chosen, distance = index.numpy(), np.empty(len(queries))
    for i, rows in blocks(queries):
        # Anew from the difference: |q|² + |a|² - 2 q·a leaves 1e-8 |q| of a copy's distance.
        distance[i] = np.linalg.norm(rows.numpy() - among[chosen[i]], axis=1)
    return distance, chosen


def memorised(fake_distances: npt.ArrayLike, real_distances: npt.ArrayLike, share: float = 0.01) -> Share:
    """The share of generated pictures nearer to a training picture than all but 1 % of real held-out ones are.

    Both: distances to the nearest training picture, from `nearest`. `share` is what is expected of a model that does
    not copy (math.md, eq. 51), more of one that does. The interval is for these held-out pictures: their own 1 %
    is uncertain by a part 1/sqrt(share·m). Raises ValueError for too few of them to have a nearest 1 %.
    """
    fake, real = np.asarray(fake_distances, dtype=np.float64), np.sort(np.asarray(real_distances, dtype=np.float64))
    rank = int(share * (len(real) + 1) + 1e-9)  # 0.07·100 is 7 and a bit, 0.29·100 is 29 less a bit
    if not 0 < share < 1 or rank < 1:
        raise ValueError(
            f"The nearest {share:.3g} of {len(real)} held-out pictures are none. Give a share between 0 and 1, and at "
            "least 1/share - 1 pictures."
        )
    return Share(int((fake < real[rank - 1]).sum()), len(fake))


def _paired(real: Features, fake: Features, k: int) -> tuple[Features, Features]:
    """The first of both, equally many."""
    same_width(real, fake)
    n = min(len(real), len(fake), MOST)
    if not 1 <= k < n:
        raise ValueError(f"{k} nearest others need k of at least 1 and more than k pictures a side, not {n}.")
    return real[:n], fake[:n]


def _radii(features: Features, k: int) -> Tensor:
    """[n]: the squared distance of every row to its k-th nearest other. Each pair of blocks is computed once."""
    best = torch.full((len(features), k), torch.inf, dtype=torch.float64)
    for i, rows in blocks(features):
        for j, others in blocks(features[: i.stop]):
            squared, _ = _squared(rows, others)
            if i == j:
                squared.fill_diagonal_(torch.inf)  # no picture is its own neighbour; a copy of it may be
            else:
                best[j] = _least(best[j], squared.T)
            best[i] = _least(best[i], squared)
    return best.amax(1)


def _least(a: Tensor, b: Tensor) -> Tensor:
    """The smallest of the numbers [B, k] and [B, m] in every row, as many as in the first."""
    k = a.shape[1]
    return torch.cat([a, b.topk(min(k, b.shape[1]), dim=1, largest=False).values], 1).topk(k, 1, largest=False).values


def _distances(a: Features, b: Features) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """By pairs of blocks: which rows of a and of b, their squared distances [A, B], and by how much those may err."""
    for i, rows in blocks(a):
        for j, others in blocks(b):
            squared, norms = _squared(rows, others)
            yield i, j, squared, norms.mul_(_ROUNDING)


def _squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """|a|² + |b|² - 2 a·b [A, B], which rounding may make negative, and |a|² + |b|²."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(norms, a, b.T, alpha=-2.0), norms
