"""Measures from nearest neighbours: precision and recall, density and coverage, and how near to the training set.

Distances are Euclidean, between features, in float64 by blocks: a copied picture lies on another's sphere or at its
centre, and float32 could not tell on which side. Memory is O(n) besides the features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inkwash.evaluation.blocks import Features, blocks, same_width
from inkwash.evaluation.interval import Share

MOST = 10_000
"""Pictures a side of precision, recall, density and coverage, at most: their time grows with the square."""

_ROUNDING = 1e-12
"""Squared distances closer than this part of the squared norms are equal: a sphere's own points lie within it."""


def precision_recall(real: Features, fake: Features, k: int = 3) -> tuple[float, float]:
    """The shares of fakes among the reals, and of reals among the fakes (math.md, eq. 49; Kynkäänniemi et al. 2019).

    Among a set: not farther from one of its pictures than that one's k-th nearest other. Of both sets the first
    min(n, m, MOST) are used. Raises ValueError where that is not more than k.
    """
    real, fake = _paired(real, fake, k)
    held_fake, _ = _held(real, _radii(real, k), fake)
    held_real, _ = _held(fake, _radii(fake, k), real)
    return _share(held_fake > 0), _share(held_real > 0)


def density_coverage(real: Features, fake: Features, k: int = 5) -> tuple[float, float]:
    """How many reals a fake is near, 1 expected, and the share of reals with a fake near (math.md, eq. 50).

    Near a real: not farther than its k-th nearest other real (Naeem et al. 2020). Density may exceed 1; a fake
    far from all others counts for nothing in both, which is their point. Of both sets the first min(n, m, MOST) are
    used: for those from one distribution 1 - 2^-k of the reals are covered. Raises ValueError where that is not more
    than k.
    """
    real, fake = _paired(real, fake, k)
    of_fake, of_real = _held(real, _radii(real, k), fake)
    return float(of_fake.sum()) / (k * len(fake)), _share(of_real > 0)


def nearest(queries: Features, among: Features) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """For each query [n, d] the distance [n] to the nearest row of `among` [m, d], and which one it is [n].

    The distance is exact to float64's rounding: 0 for a copy. Which of several equally near ones is not said. No
    limit on n or m: time grows with n·m, memory with n. Raises ValueError where there is nothing to find.
    """
    same_width(queries, among)
    if not len(among):
        raise ValueError("There is nothing to be near to: the second set is empty.")
    distance, index = np.empty(len(queries)), np.empty(len(queries), dtype=np.int64)
    for i, rows in blocks(queries):
        _, found = _smallest(i, rows, among, 1, own=False)
        index[i] = found[:, 0].numpy()
        # Anew from the difference: |q|² + |a|² - 2 q·a leaves 1e-8 |q| of a copy's distance.
        distance[i] = np.linalg.norm(rows.numpy() - among[index[i]], axis=1)
    return distance, index


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
    """[n]: the squared distance of every row to its k-th nearest other; others may equal it, but it is not its own."""
    found = [_smallest(i, rows, features, k, own=True)[0].amax(1) for i, rows in blocks(features)]
    return torch.cat(found)


def _held(centres: Features, radii: Tensor, points: Features) -> tuple[Tensor, Tensor]:
    """How many of the closed balls hold each point, and how many points each ball holds; radii squared."""
    of_points, of_balls = torch.zeros(len(points), dtype=torch.int64), torch.zeros(len(centres), dtype=torch.int64)
    for i, rows in blocks(points):
        for j, others in blocks(centres):
            squared, norms = _squared(rows, others)
            inside = squared <= norms.mul_(_ROUNDING).add_(radii[j])
            of_points[i] += inside.sum(1)
            of_balls[j] += inside.sum(0)
    return of_points, of_balls


def _smallest(here: slice, rows: Tensor, among: Features, k: int, *, own: bool) -> tuple[Tensor, Tensor]:
    """The k smallest squared distances of a block of rows to all of `among`, and whose [B, k].

    own: the rows are those of `among` at `here`, and none is its own neighbour.
    """
    best = torch.full((len(rows), k), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(rows), k, dtype=torch.int64)
    for j, others in blocks(among):
        squared, _ = _squared(rows, others)
        if own and j == here:
            squared.fill_diagonal_(torch.inf)
        near, which = squared.topk(min(k, len(others)), largest=False)
        both, indices = torch.cat([best, near], 1), torch.cat([index, which + j.start], 1)
        best, chosen = both.topk(k, largest=False)
        index = indices.gather(1, chosen)
    return best, index


def _squared(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """|a|² + |b|² - 2 a·b [A, B], which rounding may make negative, and |a|² + |b|²."""
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    return torch.addmm(norms, a, b.T, alpha=-2.0), norms


def _share(which: Tensor) -> float:
    return float(which.double().mean())
