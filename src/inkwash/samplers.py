"""Samplers: short coroutines that ask `Query(x, t, s)` and are answered with `Denoised(x0, eps)`.

Each runs on every path, with every target, on any grid of times, and with examples of one batch at different times.
Coefficients are computed once for the whole grid, in float64.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.noise import Stream
from inkwash.paths import forward_variance, posterior_variance
from inkwash.types import Coeffs, Component, Denoised, Noise, Path, Query, like

Asking = Generator[Query, Denoised, Tensor]
"""A sampler at work: it yields queries, is sent answers, and returns the samples."""


@dataclass(frozen=True)
class Ddim(Component):
    """DDIM (Song et al. 2021, eq. 12) with `eta` from 0 (deterministic, order 1) to 1 (ancestral): math.md, eq. 7-8.

    x_s = alpha_s·x0 + sqrt(sigma_s² - eta²·small)·eps + eta·sqrt(added)·z. The mean always uses the small variance,
    that of the posterior; the noise that is `added` may be the large one, beta. On the way to sigma_s = 0 none is.
    """

    eta: float = 0.0
    added: Literal["small", "large"] = "small"
    kind: Literal["ddim"] = field(default="ddim", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], from deterministic to ancestral, but it is {self.eta}.")

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        return _ddim(self.eta, self.added, path, x, times, noise)


@dataclass(frozen=True)
class Ancestral(Component):
    """DDPM's own sampler (Ho et al. 2020, algorithm 2) on any grid: `Ddim(eta=1)`, its noise fixed small or large."""

    added: Literal["small", "large"] = "small"
    kind: Literal["ancestral"] = field(default="ancestral", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        return _ddim(1.0, self.added, path, x, times, noise)


@dataclass(frozen=True)
class Euler(Component):
    """Euler's method for dx/dt = alpha'·x0 + sigma'·eps, in t: order 1. On `Linear` it is DDIM."""

    kind: Literal["euler"] = field(default="euler", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        _, slope, step = _along(path, times, x)
        for i in range(len(times) - 1):
            pred = yield Query(x, times[i], times[i])
            x = x + step[i] * _velocity(slope.at(i), pred)
        return x


@dataclass(frozen=True)
class Heun(Component):
    """Heun's method (the trapezoidal rule) in t: order 2, two calls a step.

    A step to sigma = 0 is Euler's (Karras et al. 2022, algorithm 1): there is no noise left to see at its end.
    """

    kind: Literal["heun"] = field(default="heun", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        grid, slope, step = _along(path, times, x)
        for i in range(len(times) - 1):
            pred = yield Query(x, times[i], times[i])
            first = _velocity(slope.at(i), pred)
            euler = x + step[i] * first
            ends = grid.sigma[i + 1] == 0
            if bool(ends.all()):
                x = euler
                continue
            # A row that has arrived is asked about its start again: its answer is not used.
            t = torch.where(ends, times[i], times[i + 1])
            done = like(ends, x).bool()
            pred = yield Query(torch.where(done, x, euler), t, t)
            heun = x + (0.5 * step[i]) * (first + _velocity(slope.at(i + 1), pred))
            x = torch.where(done, euler, heun)
        return x


AnySampler = Annotated[Ddim | Ancestral | Euler | Heun, OneOf()]
"""A sampler as a recipe names it."""


def _ddim(eta: float, added: Literal["small", "large"], path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
    grid = path(times)
    now, nxt = grid.at(slice(None, -1)), grid.at(slice(1, None))
    small = eta**2 * posterior_variance(now, nxt)
    extra = small if added == "small" else eta**2 * forward_variance(now, nxt) * (nxt.sigma > 0)
    alpha = like(nxt.alpha, x)
    direction = like((nxt.sigma**2 - small).clamp(min=0).sqrt(), x)
    spread = like(extra.clamp(min=0).sqrt(), x)
    random = (extra > 0).any(dim=1)
    for i in range(len(times) - 1):
        pred = yield Query(x, times[i], times[i])
        x = alpha[i] * pred.x0 + direction[i] * pred.eps
        if random[i]:
            x = x + spread[i] * noise(x, i, Stream.STEP)
    return x


def _along(path: Path, times: Tensor, x: Tensor) -> tuple[Coeffs, Coeffs, Tensor]:
    """A grid's coefficients, the same ready to multiply x, and its steps in t."""
    grid = path(times)
    return grid, grid.like(x), like(times.diff(dim=0), x)


def _velocity(c: Coeffs, pred: Denoised) -> Tensor:
    """dx/dt along the path through the estimates (math.md, eq. 12)."""
    return c.dalpha * pred.x0 + c.dsigma * pred.eps
