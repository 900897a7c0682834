"""Solvers of the probability flow that look at both ends of a step: Euler's method, Heun's, and Runge and Kutta's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from inkwash.noise import Stream
from inkwash.ode import DORMAND_PRINCE, adaptive
from inkwash.paths import forward_variance, least_ratio
from inkwash.samplers.steps import Asking, alike, along, falling, held, rows, slopes, standing, velocities, walk
from inkwash.types import Coeffs, Component, Factor, Noise, Path, Query, like


@dataclass(frozen=True)
class Euler(Component):
    """Euler's method for dx/dt = alpha'·x0 + sigma'·eps, in t: order 1. On `Linear` it is DDIM.

    Raises ValueError where alpha' or sigma' is infinite at the start of a step.
    """

    kind: Literal["euler"] = field(default="euler", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        slope = velocities(slopes(path, times[:-1], times[1:] != times[:-1]), x)
        step = rows(times.diff(dim=0), x)
        return walk(x, times, lambda i, x, pred: x + step[i] * slope(i, pred))


@dataclass(frozen=True)
class Heun(Component):
    """Heun's method (the trapezoidal rule) in t: order 2, two calls a step; with EDM's churn, a stochastic sampler.

    A step to sigma = 0 is Euler's (Karras et al. 2022, algorithm 1): there is no noise left to see at its end.
    churn: before each of the N steps that start at a noise-to-signal ratio r = sigma/alpha within
    [churn_min, churn_max], the noise is raised to r·(1 + min(churn/N, sqrt(2) - 1)) by fresh noise of deviation
    `churn_noise` (their algorithm 2, with S_churn, S_min, S_max, S_noise; None is no limit). On `VE` it is theirs. On a
    grid that starts below t = 1 it is never raised above the first time: a model trained on another path may have seen
    no more (`Along`).
    Raises ValueError where alpha' or sigma' is infinite at a time it is asked for.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float | None = None
    churn_noise: float = 1.0
    kind: Literal["heun"] = field(default="heun", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name in ("churn", "churn_min", "churn_noise"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} = {getattr(self, name)} must be 0 or more, and finite.")
        if self.churn_max is not None and not self.churn_max >= self.churn_min:
            raise ValueError(
                f"churn_max = {self.churn_max} must not be below churn_min = {self.churn_min}: no step would churn."
            )

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        if self.churn > 0:
            falling(times, self)
        starts = self._starts(path, alike(times)).expand_as(times[1:])
        ends = along(path, times[1:]).sigma == 0
        first = slopes(path, starts, times[1:] != times[:-1])
        second = slopes(path, times[1:], ~ends)
        begin, end = velocities(first, x), velocities(second, x)
        step, half = rows(times[1:] - starts, x), rows((times[1:] - starts) / 2, x)
        carry, spread = self._noising(along(path, times[:-1]), first, x)
        raised = (starts != times[:-1]).any(1).tolist()
        arrived, all_arrived = like(ends, x).bool().unbind(), ends.all(1).tolist()
        still = standing(times)
        for i, t in enumerate(starts.unbind()):
            y = carry[i] * x + spread[i] * noise(x, i, Stream.STEP) if raised[i] else x
            slope = begin(i, (yield Query(y, t, t)))
            new = y + step[i] * slope
            if not all_arrived[i]:
                # A row that has arrived is asked about its start again: its answer is not used.
                done = arrived[i]
                s = torch.where(ends[i], t, times[i + 1])
                other = end(i, (yield Query(torch.where(done, y, new), s, s)))
                new = torch.where(done, new, y + half[i] * (slope + other))
            x = held(still[i], x, new)
        return x

    def _starts(self, path: Path, times: Tensor) -> Tensor:
        """The times [N, B] the steps start from, once noise was added."""
        now = path(times[:-1])
        ratio = now.sigma / now.alpha
        moving = times[:-1] != times[1:]  # steps that fill a row up to the length of others do not count
        more = (self.churn / moving.sum(0).double()).clamp(max=math.sqrt(2) - 1)
        within = (ratio >= self.churn_min) & (ratio <= (math.inf if self.churn_max is None else self.churn_max))
        within &= ratio.isfinite() & moving  # where all is noise already, none can be added
        if self.churn == 0:
            return times[:-1]
        top = torch.where(times[0] < 1, times[0], math.inf)
        return torch.where(within, path.time(ratio * (1 + more)).minimum(top), times[:-1])

    def _noising(self, before: Coeffs, after: Coeffs, x: Tensor) -> tuple[Sequence[Factor], Sequence[Factor]]:
        """The factors of x and of fresh noise that take it from its time to the start of the step."""
        carry = torch.where(before.alpha > 0, after.alpha / before.alpha, 1.0)
        added = torch.where(before.alpha > 0, forward_variance(after, before), 0.0)
        return rows(carry, x), rows(self.churn_noise * added.clamp(min=0).sqrt(), x)


@dataclass(frozen=True)
class RungeKutta(Component):
    """Dormand and Prince's adaptive 5(4) pair: every picture takes the steps its own error asks for.

    It integrates y = x/sqrt(alpha² + sigma²) in the angle phi = atan2(sigma, alpha), where dy/dphi =
    -sin(phi)·x0 + cos(phi)·eps is finite on every path. Of a grid only the two ends count. rtol, atol: a step's error
    is kept below atol + rtol·|y| in the root mean square; last: where a grid ends at sigma = 0, the noise-to-signal
    ratio from which the last, single step (DDIM's) is made, or on a table the first entry's where that is more. Raises
    ValueError for tolerances that are not positive, and where steps shrink to nothing.
    """

    rtol: float = 1e-3
    atol: float = 1e-3
    last: float = 0.002
    kind: Literal["rk45"] = field(default="rk45", kw_only=True, repr=False)

    adaptive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("rtol", "atol", "last"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(
                    f"{name} = {getattr(self, name)} must be more than 0. Usual are 1e-3, and 0.002 as last."
                )

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        begin, final = path(times[0]), path(times[-1])
        clean = torch.tensor(math.atan(max(self.last, least_ratio(path))), dtype=torch.float64)
        start, goal = torch.atan2(begin.sigma, begin.alpha), torch.atan2(final.sigma, final.alpha)
        stop = torch.where(goal > 0, goal, clean.minimum(start))
        asking = adaptive(DORMAND_PRINCE, (x / like(_size(begin), x),), start, stop, self.rtol, self.atol)
        angle, (y,) = next(asking)
        while True:
            t = torch.where(angle == start, times[0], path.time(angle.tan()))
            pred = yield Query(y * like(_size(path(t)), x), t, t)
            try:
                angle, (y,) = asking.send((like(angle.cos(), x) * pred.eps - like(angle.sin(), x) * pred.x0,))
            except StopIteration as finished:
                (y,) = finished.value
                break
        t = torch.where(stop == start, times[0], path.time(stop.tan()))
        x = y * like(_size(path(t)), x)
        if bool((goal == stop).all()):
            return x
        pred = yield Query(x, t, t)
        return torch.where(like(goal == stop, x).bool(), x, like(final.alpha, x) * pred.x0)  # sigma is 0 there


def _size(c: Coeffs) -> Tensor:
    return (c.alpha**2 + c.sigma**2).sqrt()
