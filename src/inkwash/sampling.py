"""How pictures are drawn: the sampler, its grid, guidance, and what a caller may change about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from inkwash.grids import AnyGrid, Even, Grid, Listed, spread
from inkwash.guidance import highest
from inkwash.kinds import from_text
from inkwash.paths import AnyPath, ratio
from inkwash.samplers import AnySampler, Ddim, Heun
from inkwash.types import Component, Path, Sampler


@dataclass(frozen=True)
class Sampling(Component):
    """How pictures are drawn: the sampler, its steps, the guidance scale (1 = off), and x0 kept in [-1, 1] or not.

    grid: which times are visited; path: another path than the model's own to sample along (`guidance.Along`).
    """

    method: AnySampler = field(default_factory=Heun)
    steps: int = 20
    guidance: float = 1.0
    clip: bool = False
    grid: AnyGrid = field(default_factory=Even)
    path: AnyPath | None = None

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"A sampler needs at least 1 step, not {self.steps}.")
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance = {self.guidance} must be a finite number. 1 is off; usual values are 1 to 4.")

    def changed(
        self,
        *,
        steps: int | Sequence[float] | None = None,
        sampler: Sampler | str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        grid: Grid | str | None = None,
        path: Path | str | None = None,
    ) -> Sampling:
        """These settings with those given in their place.

        steps: a number, or a decreasing list of times within [0, 1]; sampler, grid, path: an instance, or as text
        ("heun", "dpm++(order=3)"); eta: of DDIM, which it implies. Raises ValueError for what does not exist or fit.
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
        return replace(
            self,
            method=method,
            steps=self.steps if steps is None else steps,
            guidance=self.guidance if guidance is None else guidance,
            grid=spacing,
            path=along,
        )

    def times(self, trained: Path, start: float = 1.0) -> Tensor:
        """The times to visit, [N+1, 1], for a model trained on a path: from `start`, or where the model ends, to 0."""
        if self.path is None:
            return spread(self.grid(trained, self.steps, start), 1)
        return spread(self.grid(self.path, self.steps, min(start, highest(trained, self.path))), 1)

    def asked(self, trained: Path, times: Tensor) -> Tensor:
        """The times of the model's own path at which it is asked when `times` are visited."""
        if self.path is None:
            return times
        end = ratio(trained(torch.ones((), dtype=torch.float64)))
        return trained.time(ratio(self.path(times)).minimum(end))
