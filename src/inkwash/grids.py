"""Which times a sampler visits: from `start` (pure noise at 1) down to 0 (data).

A grid is a frozen dataclass that is called with the path, the number of steps and the start. `Even`, `Cut`, `Quadratic`
and `Listed` are laid out in t; `Leading`, `Linspace` and `Trailing` are the usual ways to pick entries of a table;
`Karras` and `LogSnr` are laid out in the noise-to-signal ratio, and so visit the same noise levels on every path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.paths import Table, least_ratio, ratio
from inkwash.types import Component, Path


class Grid(Protocol):
    """A rule for the times of a run. A frozen dataclass."""

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """Times [steps + 1], float64, strictly decreasing from `start` in (0, 1], or just below it, to 0.

        `Cut` alone has fewer, from a start below 1.

        Raises ValueError for less than one step, a start outside (0, 1], or times that do not decrease.
        """
        ...


@dataclass(frozen=True)
class Even(Component):
    """t_i = start·(1 - i/steps): equal steps in t."""

    kind: Literal["even"] = field(default="even", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        _ask(steps, start)
        return _falling(self, torch.linspace(start, 0, steps + 1, dtype=torch.float64))


@dataclass(frozen=True)
class Cut(Component):
    """The start, and what lies below it of t_i = 1 - i/steps: so from a start below 1 fewer steps, to the same times.

    For students that learned to jump to these alone.
    """

    kind: Literal["cut"] = field(default="cut", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        _ask(steps, start)
        whole = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return torch.cat([whole.new_tensor([start]), whole[whole < start - 1e-6]])


@dataclass(frozen=True)
class Quadratic(Component):
    """t_i = start·(1 - i/steps)²: t is the square of the share of steps left, so that steps shrink towards the data.

    DDIM's `quad` (Song et al. 2021, appendix D.2) squares in the same way, but starts at 0.8·T.
    """

    kind: Literal["quadratic"] = field(default="quadratic", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        _ask(steps, start)
        return _falling(self, start * torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 2)


@dataclass(frozen=True)
class Listed(Component):
    """These times. They must decrease within [0, 1], and not begin above `start`.

    Raises ValueError for fewer than two times, times that do not decrease, or another number of steps than they make.
    """

    times: tuple[float, ...]
    kind: Literal["listed"] = field(default="listed", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.times, (Sequence, Tensor)):  # a list or a tensor is welcome; a tuple keeps it hashable
            object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        if len(self.times) < 2 or not 0 <= self.times[-1] <= self.times[0] <= 1:
            raise ValueError(
                f"A list of times must have at least 2, decreasing within [0, 1] from noise to data, but it is "
                f"{list(self.times)}. For example [1, 0.6, 0.3, 0]."
            )
        _falling(self, torch.tensor(self.times, dtype=torch.float64))

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        _ask(steps, start)
        if steps != len(self.times) - 1:
            raise ValueError(
                f"The list has {len(self.times)} times, which make {len(self.times) - 1} steps, not {steps}. "
                f"Ask for {len(self.times) - 1} steps."
            )
        if self.times[0] > start:
            raise ValueError(
                f"The list begins at t = {self.times[0]:g}, above {start:g}, where sampling starts. "
                f"Begin it at {start:g}."
            )
        return torch.tensor(self.times, dtype=torch.float64)


@dataclass(frozen=True)
class _OfEntries(Component):
    entries: int = 1000

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise ValueError(f"entries = {self.entries} must be at least 1: it is the number of steps of the table.")

    def _entries(self, path: Path, steps: int, start: float) -> int:
        """How many entries of the table there are up to `start`."""
        _ask(steps, start)
        if isinstance(path, Table) and path.steps != self.entries:
            raise ValueError(
                f"{self} picks from {self.entries} entries, and the table has {path.steps}. Use entries = {path.steps}."
            )
        count = max(round(start * self.entries), 1)
        if steps > count:
            raise ValueError(
                f"There are {count} entries up to start = {start:g}, too few for {steps} steps. "
                f"Use at most {count} steps, or a grid between the entries (even, karras)."
            )
        return count

    def _at(self, index: Tensor) -> Tensor:
        """Entry `index`, counted from 0, is at t = (index + 1)/entries; the data follow."""
        times = torch.cat([(index + 1) / self.entries, torch.zeros(1, dtype=torch.float64)])
        return _falling(self, times)


@dataclass(frozen=True)
class Leading(_OfEntries):
    """Entries 0, q, 2q, ..., q = entries // steps, from the last: evenly spaced, and entry 0 is the last visited.

    diffusers' "leading" without an offset. The first is (steps - 1)·q: the end of the table, where pure noise is, is
    not visited (Lin et al. 2023, sec. 3.3). Entries are counted from 0, and only those up to `start` are used.
    """

    kind: Literal["leading"] = field(default="leading", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        count = self._entries(path, steps, start)
        return self._at(torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (count // steps))


@dataclass(frozen=True)
class Linspace(_OfEntries):
    """Entries round(i·(entries - 1)/(steps - 1)) for i = steps - 1, ..., 0: both ends of the table are visited.

    diffusers' "linspace"; halves are rounded to even. A single step visits entry 0, as theirs does: of no use, as it
    takes the noise for nearly clean data. Entries are counted from 0, and only those up to `start` are used.
    """

    kind: Literal["linspace"] = field(default="linspace", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        count = self._entries(path, steps, start)
        i = torch.arange(steps - 1, -1, -1, dtype=torch.float64)
        return self._at((i * (count - 1) / max(steps - 1, 1)).round())


@dataclass(frozen=True)
class Trailing(_OfEntries):
    """Entries round(entries - i·entries/steps) - 1 for i = 0, ..., steps - 1: the end of the table is visited first.

    diffusers' "trailing" (Lin et al. 2023, sec. 3.3); halves are rounded to even. On all entries it is `Even` rounded
    to them. Entries are counted from 0, and only those up to `start` are used.
    """

    kind: Literal["trailing"] = field(default="trailing", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        count = self._entries(path, steps, start)
        i = torch.arange(steps, dtype=torch.float64)
        return self._at((count - i * count / steps).round() - 1)


@dataclass(frozen=True)
class _OfRatios(Component):
    low: float = 0.002
    high: float = 80.0

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and math.isfinite(self.high)):
            raise ValueError(
                f"The noise-to-signal ratios must be 0 < low < high, both finite, not low = {self.low} and "
                f"high = {self.high}. EDM's are 0.002 and 80."
            )

    def _bent(self, path: Path, steps: int, start: float, power: float | None) -> Tensor:
        """Times whose ratio^power is even between the ends (None: whose logarithm is), and then 0."""
        _ask(steps, start)
        end = float(ratio(path(torch.tensor([start], dtype=torch.float64))))
        low, high = max(self.low, least_ratio(path)), min(self.high, end)
        if low >= high:
            raise ValueError(
                f"At start = {start:g} sigma/alpha is {end:.4g}, which is not above the lowest, {low:.4g}. "
                "Use a smaller `low`, or a start with more noise."
            )
        if power is None:
            ratios = torch.linspace(math.log(high), math.log(low), steps, dtype=torch.float64).exp()
        else:
            ratios = torch.linspace(high**power, low**power, steps, dtype=torch.float64) ** (1 / power)
        ratios[0] = high
        times = torch.cat([path.time(ratios), torch.zeros(1, dtype=torch.float64)])
        if high == end:
            times[0] = start
        return _falling(self, times)


@dataclass(frozen=True)
class Karras(_OfRatios):
    """r_i = (high^(1/rho) + i/(steps - 1)·(low^(1/rho) - high^(1/rho)))^rho, then 0 (Karras et al. 2022, eq. 5).

    r = sigma/alpha from `high` to `low`, at the times where the path has it. Where the path does not reach `high` by
    `start`, the ratio there is taken; where it is reached before, as on `Linear`, the first time is below `start`. On a
    table `low` is at least the first entry's ratio. Raises ValueError where the ratio at `start` is not above `low`.
    """

    rho: float = 7.0
    kind: Literal["karras"] = field(default="karras", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.rho > 0 and math.isfinite(self.rho)):
            raise ValueError(f"rho = {self.rho} must be more than 0 and finite. Karras et al. use 7.")

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        return self._bent(path, steps, start, 1 / self.rho)


@dataclass(frozen=True)
class LogSnr(_OfRatios):
    """Even in the log-SNR -2·ln(sigma/alpha) from that of `high` to that of `low`, then 0 (Lu et al. 2022).

    `low` and `high` are ratios sigma/alpha, and `start` is treated as in `Karras`.
    """

    kind: Literal["log-snr"] = field(default="log-snr", kw_only=True, repr=False)

    def __call__(self, path: Path, steps: int, start: float = 1.0) -> Tensor:
        """The times."""
        return self._bent(path, steps, start, None)


AnyGrid = Annotated[Even | Cut | Leading | Trailing | Linspace | Quadratic | Karras | LogSnr | Listed, OneOf()]
"""A grid as a recipe names it."""


def grid(steps: int | Sequence[float], batch: int) -> Tensor:
    """Times [N+1, batch] for a sampler run by hand: `steps` even steps from 1 to 0, or a decreasing list of times.

    Raises ValueError for fewer than one step, or a list that does not decrease within [0, 1].
    """
    if isinstance(steps, int):
        _ask(steps, 1.0)
        return spread(torch.linspace(1, 0, steps + 1, dtype=torch.float64), batch)
    return spread(torch.tensor(Listed(tuple(steps)).times, dtype=torch.float64), batch)


def spread(times: Tensor, batch: int) -> Tensor:
    """The same times [N+1] for every example of a batch: [N+1, batch], as samplers want them."""
    return times[:, None].expand(-1, batch).contiguous()


def _ask(steps: int, start: float) -> None:
    if steps < 1:
        raise ValueError(f"A sampler needs at least 1 step, not {steps}.")
    if not 0 < start <= 1:
        raise ValueError(f"start = {start} must be a time above 0 and at most 1, which is pure noise.")


def _falling(grid: Component, times: Tensor) -> Tensor:
    bad = (~(times.diff() < 0)).nonzero().flatten()
    if len(bad):
        i = int(bad[0])
        raise ValueError(
            f"{grid} does not decrease: t = {float(times[i]):.6g} is followed by {float(times[i + 1]):.6g}. "
            "Use fewer steps, or times that do."
        )
    return times
