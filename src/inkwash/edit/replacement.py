"""Inpainting: what is known replaces what the model expects (math.md, eq. 42), and RePaint's walk up and down the grid.

Replacement keeps the known part exact at every time, but tells the rest of it only through its noised values: it is not
conditioning. Going back up and down again lets the two parts agree better.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.guidance import revised
from inkwash.noise import Stream
from inkwash.paths import forward_variance
from inkwash.samplers import Heun
from inkwash.types import Condition, Denoised, Denoiser, Noise, Path, Query, Sampler, like


@dataclass(frozen=True)
class Inpainted:
    """The data's estimate replaced by `known` where mask is 1, and the noise recomputed to match (math.md, eq. 42).

    known: clean data, broadcastable to x [B, ...]; mask: likewise, 1 where it is known, 0 where it is not, and a weight
    between. Under ancestral steps the known part of x_t is an exact draw of the forward process at all times together.
    At sigma = 0 the noise is left as it is.
    """

    denoiser: Denoiser
    path: Path
    known: Tensor
    mask: Tensor

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The estimates with the known part in place."""
        answer = self.denoiser(query, cond)
        x0 = answer.x0 + self.mask.to(answer.x0) * (self.known.to(answer.x0) - answer.x0)
        return revised(answer, x0, self.path(query.t))


@dataclass(frozen=True)
class Resampled:
    """A sampler for grids that also go up, as RePaint's do (Lugmayr et al. 2022): see `repaint`.

    Falling stretches are `method`'s. A rising one, from s to t, is one draw of the forward process,
    x_t = (alpha_t/alpha_s)·x_s + sqrt(beta)·z, with beta of math.md, eq. 4; it asks nothing. Every stretch has noise of
    its own. Raises ValueError where some rows of a batch rise and others fall in one step, and for a `Heun` with churn,
    which is shared out over all steps of a run: a method is told those of one stretch.
    """

    method: Sampler

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Generator[Query, Denoised, Tensor]:
        """Start sampling; times [N+1, B] in any order."""
        change = times.diff(dim=0)
        rises, falls = (change > 0).any(dim=1).tolist(), (change < 0).any(dim=1).tolist()
        if any(rises) and isinstance(self.method, Heun) and self.method.churn > 0:
            raise ValueError(
                f"churn = {self.method.churn} is shared out over the steps of a run, and Resampled runs {self.method} "
                "once for every stretch: it would churn more, the more often it turns. Use churn = 0, or ancestral."
            )
        if both := [i for i, (up, down) in enumerate(zip(rises, falls, strict=True)) if up and down]:
            raise ValueError(
                f"In step {both[0]} of the grid some rows go up and others down. All rows of a batch must turn at the "
                "same steps: give each row its own times, but one pattern of ups and downs."
            )
        return self._walk(path, x, times, noise, rises)

    def _walk(
        self, path: Path, x: Tensor, times: Tensor, noise: Noise, rises: list[bool]
    ) -> Generator[Query, Denoised, Tensor]:
        here = 0
        while here < len(rises):
            end = here + 1
            while end < len(rises) and rises[end] == rises[here]:
                end += 1
            if rises[here]:
                low, high = path(times[here]), path(times[end])
                spread = forward_variance(high, low).clamp(min=0).sqrt()
                x = like(high.alpha / low.alpha, x) * x + like(spread, x) * noise(x, here, Stream.RENOISE)
            else:
                x = yield from self.method(path, x, times[here : end + 1], _Later(noise, here))
            here = end
        return x


def repaint(times: Tensor, jump: int = 10, resamplings: int = 10) -> Tensor:
    """RePaint's grid from a plain one [N+1, ...]: each stretch of `jump` steps is walked down `resamplings` times.

    On the way down, whenever 1, 1 + jump, 1 + 2·jump, ... steps are left, it goes `jump` steps back up, and does so
    resamplings - 1 times from each such place that has so many steps above it (Lugmayr et al. 2022, algorithm 1 for
    jump = 1). The clean end is not left again. Takes (resamplings - 1)·jump more steps down for each such place, and
    with resamplings = 1 it is the plain grid. Raises ValueError for a jump or resamplings below 1.
    """
    if jump < 1 or resamplings < 1:
        raise ValueError(
            f"jump = {jump} and resamplings = {resamplings} must be at least 1. "
            "RePaint's are 10 and 10; resamplings = 1 is the plain grid."
        )
    last = len(times) - 1
    again = {last - left: resamplings - 1 for left in range(1, last - jump + 1, jump)}
    at, visits = 0, [0]
    while at < last:
        at += 1
        visits.append(at)
        if again.get(at, 0) > 0:
            again[at] -= 1
            at -= jump
            visits.append(at)
    return times[torch.tensor(visits)]


@dataclass(frozen=True)
class _Later:
    """Noise with its steps counted from `first`: no stretch of a grid uses another's."""

    noise: Noise
    first: int

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        return self.noise(like, self.first + step, stream)

    def uniform(self, step: int, stream: int) -> Tensor:
        return self.noise.uniform(self.first + step, stream)

    def at(self, index: Tensor) -> Noise:
        return _Later(self.noise.at(index), self.first)
