"""How pictures are drawn: the sampler, its grid, guidance, and what a caller may change about them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.grids import AnyGrid, Even, Grid, Listed, spread
from inkwash.guidance import AnyRule, Cfg, Guided, Rule, check_interval, highest, same_noise
from inkwash.kinds import from_text, in_text
from inkwash.noise import Philox
from inkwash.paths import AnyPath, ratio
from inkwash.samplers import Ancestral, AnySampler, Ddim, Heun
from inkwash.targets import check
from inkwash.types import Component, Condition, Denoised, Denoiser, Path, Query, Sampler, Target

MOST_STEPS = 10_000
"""More are taken for a slip: DDPM has 1,000."""

EVERYWHERE = (0.0, math.inf)
"""The interval of every sigma/alpha: what `Sampling.changed` is told where None would leave the interval as it is."""

ALL_NOISE = 5.0
"""The least noise-to-signal ratio at which noise alone may stand for noised data, where a list of times begins."""

_TOWARDS_NOISE = "the model knows no jumps towards noise. Use heun, which asks for velocities"


@dataclass(frozen=True)
class Sampling(Component):
    """How pictures are drawn: the sampler, its steps, the guidance scale (1 = off), and x0 kept in [-1, 1] or not.

    grid: which times are visited; path: another path than the model's own to sample along (`guidance.Along`); rule: how
    guidance puts its answers together; interval: (low, high) of sigma/alpha, outside of which it is off; (0, inf) is
    kept as None, everywhere.
    """

    method: AnySampler = field(default_factory=Heun)
    steps: int = 20
    guidance: float = 1.0
    clip: bool = False
    grid: AnyGrid = field(default_factory=Even)
    path: AnyPath | None = None
    rule: AnyRule = field(default_factory=Cfg)
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"A sampler needs at least 1 step, not {self.steps}.")
        if self.steps > MOST_STEPS:
            raise ValueError(f"steps = {self.steps} is too many: at most {MOST_STEPS} are taken. Usual are 10 to 50.")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance = {self.guidance} must be a finite number. 1 is off; usual values are 1 to 4.")
        if self.interval is not None:
            levels = tuple(map(float, self.interval))  # a list would be neither equal to a tuple nor hashable
            check_interval(levels)
            object.__setattr__(self, "interval", None if levels == EVERYWHERE else levels)
        if self.path is not None and isinstance(self.method, Ancestral | Ddim) and self.method.added == "learned":
            raise ValueError(
                f'added = "learned" belongs to the path the model was trained on, and path = {self.path} is sampled '
                'along: a learned variance depends on the path. Leave the path out, or use "small" or "large".'
            )

    def changed(
        self,
        *,
        steps: int | Sequence[float] | None = None,
        sampler: Sampler | str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        grid: Grid | str | None = None,
        path: Path | str | None = None,
        rule: Rule | str | None = None,
        interval: Sequence[float] | str | None = None,
    ) -> Sampling:
        """These settings with those given in their place.

        steps: a number, or a decreasing list of times within [0, 1]; sampler, grid, path, rule: an instance, or as text
        ("heun", "dpm++(order=3)"); eta: of DDIM, which it implies; interval: (low, high), or as text "0.3,5"; (0, inf)
        is everywhere. Raises ValueError for what does not exist or fit.
        """
        method: Any = from_text(AnySampler, sampler, "sampler") if isinstance(sampler, str) else sampler or self.method
        if eta is not None:
            if sampler is None:
                method = Ddim()
            if not isinstance(method, Ddim):
                raise ValueError(
                    f"eta = {eta} belongs to the ddim sampler, not to {method}. Ask for ddim, or drop eta."
                )
            method = replace(method, eta=eta)
        spacing: Any = from_text(AnyGrid, grid, "grid") if isinstance(grid, str) else grid or self.grid
        if steps is not None and not isinstance(steps, int):
            if grid is not None:
                raise ValueError(f"steps = {list(steps)} and grid = {grid} both say which times. Give one of them.")
            spacing = Listed(tuple(steps))
            steps = len(spacing.times) - 1
        elif isinstance(spacing, Listed) and steps is None:
            steps = len(spacing.times) - 1
        along: Any = from_text(AnyPath, path, "path") if isinstance(path, str) else path or self.path
        by: Any = from_text(AnyRule, rule, "rule") if isinstance(rule, str) else rule or self.rule
        levels: Any = _numbers(interval) if isinstance(interval, str) else interval
        return replace(
            self,
            method=method,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
            grid=spacing,
            path=along,
            rule=by,
            interval=self.interval if levels is None else levels,
        )

    def guided(
        self, denoiser: Denoiser, names: Collection[str], trained: Path, weak: Denoiser | None = None
    ) -> Denoiser:
        """The denoiser with this guidance, which at scale 1 passes on every query that asks for no further conditions.

        names: the conditions that are hidden in what is pushed away from; trained: the model's own path; weak: answers
        for that instead, on the path that is sampled along, as the denoiser does.
        """
        whole = bool(getattr(self.method, "adaptive", False))
        return Guided(denoiser, self.guidance, names, self.rule, self.interval, weak, self.path or trained, whole)

    def times(self, trained: Path, start: float = 1.0) -> Tensor:
        """The times to visit, [N+1, 1], for a model trained on a path: from `start`, or where the model ends, to 0.

        Raises ValueError for times that do not end at 0, and for a list that begins where noise alone is no noised data
        (unless `start` is below 1: then something else may).
        """
        path, top = (trained, start) if self.path is None else (self.path, min(start, highest(trained, self.path)))
        times = self.grid(path, self.steps, top)
        first, last = float(times[0]), float(times[-1])
        if last != 0:
            raise ValueError(
                f"The times end at t = {last:g}, where there is still noise in the picture: end them at 0, as in "
                "[1, 0.6, 0.3, 0]."
            )
        if start == 1 and isinstance(self.grid, Listed) and first < top and ratio(path(times[0])) < ALL_NOISE:
            raise ValueError(
                f"The list begins at t = {first:g}, where sigma/alpha is {float(ratio(path(times[0]))):.3g}, and "
                f"sampling begins with noise alone: begin it at {math.floor(1e6 * top) / 1e6:g}, or at a time where "
                f"sigma/alpha is {ALL_NOISE:g} or more."
            )
        return spread(times, 1)

    def asked(self, trained: Path, times: Tensor) -> Tensor:
        """The times of the model's own path at which it is asked when `times` are visited."""
        return times if self.path is None else same_noise(trained, self.path, times)

    def unlearned(self, objective: Any, trained: Path, times: Tensor | None = None) -> str | None:
        """Why it asks a model for what the objective that trained it leaves out, so that answers would be anything.

        objective: of a model on the path `trained`; times: those visited, [N + 1, 1], where they are not the grid's.
        None: it does not; nor is it known of an objective of a user's own, unless that has such a method. Of a sampler
        that chooses its own times the grid's are asked about.
        """
        says = getattr(objective, "unlearned", None)
        if says is None:
            return None
        times = self.times(trained) if times is None else times
        t = s = self.asked(trained, times[:-1])
        if (ends := getattr(self.method, "ends", None)) is not None:  # it jumps
            s = self.asked(trained, ends(self.path or trained, times))
        up = bool((s > t).any())
        why = _TOWARDS_NOISE if up else says(t.flatten(), s.flatten())
        if why is None:
            return None
        return f"{in_text(self.method)} in {self.steps} steps asks for what is never learned: {why}."

    def rehearse(self, trained: Path, target: Target, *, learned_variance: bool = False) -> int:
        """How often the sampler asks, found by answering it without a network, for a model of this path and target.

        Raises ValueError where it refuses the path or the grid, and where such a model cannot be asked.
        """
        times, calls = self.times(trained), 0
        check(trained, target, self.asked(trained, times[:-1]))

        def answer(query: Query, cond: Condition) -> Denoised:
            nonlocal calls
            calls += 1
            nothing = torch.zeros_like(query.x)
            return Denoised(nothing, query.x, nothing if learned_variance else None)

        start, noise = torch.ones(1, 1, dtype=torch.float64), Philox(0, torch.zeros(1, dtype=torch.int64))
        drive(self.method(self.path or trained, start, times, noise), answer, Condition())
        return calls


def _numbers(text: str) -> tuple[float, ...]:
    """The numbers of "0.3,5" or "(0.3, 5)"."""
    with suppress(ValueError):
        return tuple(float(number) for number in text.strip(" ()").split(","))
    raise ValueError(f"interval = {text!r} must be two values of sigma/alpha. Write it as in 0.3,5.")
