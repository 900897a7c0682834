"""A one-dimensional mixture of Gaussians under noise, exactly: density, quantiles, the best denoiser, and W2 to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from gaussian import numbers
from inkwash.drive import drive
from inkwash.noise import Stream
from inkwash.types import Coeffs, Condition, Denoised, Noise, Path, Query, Sampler, like

WEIGHT = torch.tensor([0.5, 0.2, 0.3], dtype=torch.float64)
MEAN = torch.tensor([-1.4, 0.3, 1.5], dtype=torch.float64)
STD = torch.tensor([0.25, 0.1, 0.4], dtype=torch.float64)


def parts(c: Coeffs, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For x [B, ...] the responsibilities, means' distances and variances [B, ..., 3] of the noised components."""
    alpha, sigma = like(c.alpha, x)[..., None], like(c.sigma, x)[..., None]
    away, variance = x[..., None] - alpha * MEAN, alpha**2 * STD**2 + sigma**2
    log = WEIGHT.log() - variance.log() / 2 - away**2 / (2 * variance)
    likely = (log - log.amax(-1, keepdim=True)).exp()
    return likely / likely.sum(-1, keepdim=True), away, variance


def best(path: Path, query: Query) -> Denoised:
    """E[x0 | x] and E[eps | x]: the components' regression lines, weighed by their responsibilities."""
    c = path(query.t)
    share, away, variance = parts(c, query.x)
    alpha, sigma = like(c.alpha, query.x), like(c.sigma, query.x)
    x0 = (share * (MEAN + alpha[..., None] * STD**2 / variance * away)).sum(-1)
    return Denoised(x0, (share * sigma[..., None] / variance * away).sum(-1))


def even(n: int) -> Tensor:
    """The middles of n equal shares of (0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@lru_cache
def quantiles(path: Path, t: float, n: int) -> Tensor:
    """The `even(n)` quantiles of x_t, by bisection."""
    u = even(n)
    alpha, sigma, *_ = numbers(path, t)
    std = (alpha**2 * STD**2 + sigma**2).sqrt()
    low = torch.full_like(u, float((alpha * MEAN - 9 * std).min()))
    high = torch.full_like(u, float((alpha * MEAN + 9 * std).max()))
    for _ in range(60):
        mid = (low + high) / 2
        below = (WEIGHT * torch.special.ndtr((mid[:, None] - alpha * MEAN) / std)).sum(-1) < u
        low, high = torch.where(below, mid, low), torch.where(below, high, mid)
    return (low + high) / 2


def distance(path: Path, out: Tensor) -> float:
    """W2 between equally likely points on a line and the data: in one dimension quantiles are matched in order."""
    return float((out.flatten().sort().values - quantiles(path, 0.0, out.numel())).square().mean().sqrt())


@dataclass
class Same:
    """In place of noise: this number everywhere."""

    value: float

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        assert stream == Stream.STEP
        return torch.full_like(like, self.value)


def pushed(sampler: Sampler, path: Path, times: list[float], x: Tensor, noise: Noise | Same | Nodes) -> Tensor:
    """Where x [B, ...] goes with the best denoiser."""
    grid = torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, len(x))
    coroutine = sampler(path, x, grid, noise)  # type: ignore[arg-type]
    return drive(coroutine, lambda query, cond: best(path, query), Condition())


def law(step: Sampler, path: Path, times: list[float], width: float, points: int) -> tuple[Tensor, Tensor]:
    """What a sampler without a memory draws: points and their probabilities, by quadrature of its kernels.

    step: the sampler of one step, from x to m(x) + s·z; the density is carried on points from -width to width, dense
    where the data are and spreading like sinh. The trapezoidal rule is as good as exact while they are closer to each
    other than the kernels are wide.
    """
    u = torch.linspace(-1, 1, points, dtype=torch.float64) * math.asinh(width / 2)
    y, share = 2 * u.sinh(), u.cosh()
    alpha, sigma, *_ = numbers(path, times[0])
    variance = alpha**2 * STD**2 + sigma**2
    density = (WEIGHT * (-((y[:, None] - alpha * MEAN) ** 2) / (2 * variance)).exp() / variance.sqrt()).sum(1)
    mass = density * share / (density * share).sum()
    for t, s in pairwise(times):
        mean = pushed(step, path, [t, s], y[None], Same(0.0))[0]
        spread = (pushed(step, path, [t, s], y[None], Same(1.0))[0] - mean)[0]
        if spread == 0:  # on the way to the data
            return mean, mass
        mass = share * (torch.exp(-(((y[:, None] - mean) / spread) ** 2) / 2) @ mass)
        mass = mass / mass.sum()
    return y, mass


@dataclass
class Nodes:
    """In place of noise: for each step of those that take some, Gauss and Hermite's nodes on an axis of its own."""

    steps: list[int]
    z: Tensor

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        assert stream == Stream.STEP
        axis = [1] * like.dim()
        axis[2 + self.steps.index(step)] = -1
        return self.z.reshape(axis).expand_as(like)


def joint_law(
    sampler: Sampler, path: Path, times: list[float], steps: list[int], starts: int, nodes: int
) -> tuple[Tensor, Tensor]:
    """What any sampler draws that takes noise in these steps: all combinations of starts and noises, by quadrature."""
    z, weight = (torch.from_numpy(a) for a in hermegauss(nodes))
    shape = [1, starts] + [nodes] * len(steps)
    x = quantiles(path, times[0], starts).reshape([1, starts] + [1] * len(steps)).expand(shape)
    mass = torch.ones(starts, dtype=torch.float64)
    for _ in steps:
        mass = mass[..., None] * weight
    return pushed(sampler, path, times, x, Nodes(steps, z)).flatten(), mass.flatten() / mass.sum()


def law_distance(path: Path, points: Tensor, mass: Tensor) -> float:
    """W2 between weighted points and the data."""
    order = points.argsort()
    points, upto = points[order], mass[order].cumsum(0)
    u = even(2000)
    middle = upto - mass[order] / 2  # a point stands for the mass around it
    i = torch.searchsorted(middle, u).clamp(1, len(points) - 1)
    share = ((u - middle[i - 1]) / (middle[i] - middle[i - 1])).clamp(0, 1)
    out = points[i - 1] + share * (points[i] - points[i - 1])
    return distance(path, out)
