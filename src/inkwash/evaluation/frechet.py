"""The Fréchet distance between two sets of features: that of the Gaussians with their means and covariances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inkwash.evaluation.rows import Features, blocks

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Moments:
    """Of n rows of features the mean [d] and the covariance [d, d] (divided by n - 1), float64."""

    n: int
    mean: Array
    cov: Array


def moments(features: Features) -> Moments:
    """Mean and covariance of features [n, d], read twice by blocks: as `numpy.cov`, whatever the blocks.

    Raises ValueError for fewer than 2 rows, and for features that are not finite.
    """
    n = len(features)
    if n < 2:
        raise ValueError(f"A covariance needs at least 2 pictures, not {n}.")
    mean = sum((block.sum(0) for _, block in blocks(features)), torch.zeros(())) / n
    scatter = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64)
    for _, block in blocks(features):
        block -= mean
        scatter.addmm_(block.T, block)
    return Moments(n, mean.numpy(), (scatter / (n - 1)).numpy())


def frechet(a: Moments, b: Moments) -> float:
    """The squared Wasserstein-2 distance of two Gaussians (math.md, eq. 44; Dowson and Landau 1982), 0 and up.

    The trace of the root is a sum of singular values (eq. 45): nothing complex, and covariances may be singular, as
    they are for n <= d. What rounding makes negative is 0. Raises ValueError where the numbers of features differ.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"{a.mean.size} and {b.mean.size} features are not of one net. Use the same net for both.")
    cross = torch.linalg.svdvals(_factor(a.cov).T @ _factor(b.cov)).sum()
    value = np.square(a.mean - b.mean).sum() + np.trace(a.cov) + np.trace(b.cov) - 2 * float(cross)
    return max(float(value), 0.0)


def frechet_bias(cov: Array, n: int, m: int) -> float:
    """What `frechet` is expected to be for n and m pictures of one and the same distribution (math.md, eq. 46).

    cov: the covariance of its features; to first order in 1/n and 1/m, for Gaussian features and n, m much larger than
    their number d. Whitened features and n = m: 2d/n + d(d + 1)/2n. Of two sets that differ it is a part of what their
    distance is too large by, not a number to subtract.
    """
    lam = torch.linalg.eigvalsh(torch.tensor(cov, dtype=torch.float64)).clamp(min=0)
    total = lam[:, None] + lam
    pairs = lam[:, None] * lam / total.where(total > 0, 1.0)  # 0 over 0 is 0 here
    return (1 / n + 1 / m) * float(lam.sum() + (pairs.sum() + pairs.trace()) / 2)


def _factor(cov: Array) -> Tensor:
    """F [d, r] with F F^T = cov, r its numerical rank: eigenvalues that rounding alone explains are left out.

    Their roots would not be small: 1e-16 of the largest is 1e-8 of its root, for each of maybe a thousand.
    """
    lam, vectors = torch.linalg.eigh(torch.tensor(cov, dtype=torch.float64))
    kept = lam > len(lam) * torch.finfo(torch.float64).eps * lam[-1]
    factor: Tensor = vectors[:, kept] * lam[kept].sqrt()
    return factor
