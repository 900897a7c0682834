"""Which times are trained at. (Which ones a sampler visits: `grids`.)

A density is given by its quantile function: uniform numbers u in (0, 1) in, times out. `draw` makes the u, by default
stratified over the whole batch, which lowers the variance of the loss at no cost. `Importance` is a density that
learns from the losses; its memory belongs to the training run, and is given to it at every step.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.noise import Stream
from inkwash.types import Batch, Component, Noise, Path


class Density(Component, ABC):
    """Base of the distributions of training times, which are frozen dataclasses.

    stratified: whether the u of a batch are spread evenly. Only a density that learns from the losses needs the other
    methods; a density is what it is, and loses nothing, without them.
    """

    stratified: bool = True

    @abstractmethod
    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """The quantile function: u in (0, 1) to t in (0, 1), of training on `path`, increasing, float64."""

    def memory(self) -> dict[str, Tensor]:
        """What it remembers before the first step, on the host; {} for a density that remembers nothing."""
        return {}

    def remember(self, memory: Mapping[str, Tensor], t: Tensor, losses: Tensor) -> dict[str, Tensor]:
        """The memory with the losses [B] at times t [B] in it, both float64 on the host."""
        return dict(memory)

    def given(self, memory: Mapping[str, Tensor] | None) -> Density:
        """The density that follows from a memory; without one, or where it holds too little, the one to begin with."""
        return self

    def weight(self, t: Tensor) -> Tensor:
        """The factor [B] of the loss at t that undoes how much more often than it should be t is drawn."""
        return torch.ones_like(t)

    def never(self, t: Tensor) -> str | None:
        """Why some of the times t [N], in [0, 1], are never near one that is drawn, and what to use; None: none is."""
        return None


@dataclass(frozen=True)
class Uniform(Density):
    """t uniform in (0, 1); on a table, every entry equally often."""

    stratified: bool = True
    kind: Literal["uniform"] = field(default="uniform", kw_only=True, repr=False)

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """t = u."""
        return u


@dataclass(frozen=True)
class LogitNormal(Density):
    """t = sigmoid(z), z ~ N(mean, std²): fewer times near the ends, where flow matching is easy (Esser et al. 2024).

    Raises ValueError for a std that is not more than 0.
    """

    mean: float = 0.0
    std: float = 1.0
    stratified: bool = True
    kind: Literal["logit-normal"] = field(default="logit-normal", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _has_width("logit-normal", self.mean, self.std, "0 and 1")

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """t = sigmoid(mean + std·Phi^-1(u))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


@dataclass(frozen=True)
class LogNormalNoise(Density):
    """ln(sigma/alpha) ~ N(mean, std²): EDM's noise levels, on any path (Karras et al. 2022, table 1).

    Levels beyond the path's end are drawn at it. Raises ValueError for a std that is not more than 0.
    """

    mean: float = -1.2
    std: float = 1.2
    stratified: bool = True
    kind: Literal["log-normal-noise"] = field(default="log-normal-noise", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _has_width("log-normal-noise", self.mean, self.std, "-1.2 and 1.2")

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """The t with sigma/alpha = exp(mean + std·Phi^-1(u))."""
        return path.time((self.mean + self.std * torch.special.ndtri(u)).exp()).clamp(max=1.0)


@dataclass(frozen=True)
class UShaped(Density):
    """p(t) proportional to exp(a·t) + exp(a·(1 - t)): more of both ends, for flows that are straight already.

    Lee et al. 2024 (improved rectified flow), with their a = 4. Raises ValueError for an a that is not more than 0.
    """

    a: float = 4.0
    stratified: bool = True
    kind: Literal["u-shaped"] = field(default="u-shaped", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.a > 0 and math.isfinite(self.a)):
            raise ValueError(f"a = {self.a} must be more than 0. The usual one is 4.")

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """The root t of exp(a·t) - exp(a·(1 - t)) = (2u - 1)(exp(a) - 1), a quadratic in exp(a·t)."""
        k = (2 * u - 1) * math.expm1(self.a) / 2
        return (k + (k**2 + math.exp(self.a)).sqrt()).log() / self.a


@dataclass(frozen=True)
class Visited(Density):
    """The times at which samplers of so many even steps ask: i/k, i = 1 .. k, for each k of `steps`, equally often.

    For a flow that is straight already, and is to be exact there (Liu et al. 2023, distillation). Raises ValueError for
    numbers of steps below 1.
    """

    steps: tuple[int, ...] = (1, 2, 4)
    stratified: bool = True
    kind: Literal["visited"] = field(default="visited", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not self.steps or min(self.steps) < 1:
            raise ValueError(f"steps = {list(self.steps)} must be whole numbers from 1 on. Usual are 1, 2 and 4.")

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """The quantile of the discrete law that counts 1/(k·number of k) for each i/k."""
        times = self._times()
        shares = torch.tensor([1 / k for k in self.steps for _ in range(k)], dtype=torch.float64) / len(self.steps)
        order = times.argsort(stable=True)
        ends = shares[order].cumsum(0)[:-1].contiguous()
        return times[order][torch.searchsorted(ends, u, right=True)]

    def never(self, t: Tensor) -> str | None:
        """All but the times that it visits, up to what a path's end may lack of 1."""
        visited = (t[:, None] - self._times()).abs().amin(1) < 1e-6
        if bool((visited | (t > 0.999)).all()):
            return None
        counts = " or ".join(map(str, self.steps))
        return f"the model knows the times that {counts} even steps visit alone. Use one of these numbers of steps"

    def _times(self) -> Tensor:
        """Each i/k, those of the first k first."""
        return torch.tensor([i / k for k in self.steps for i in range(1, k + 1)], dtype=torch.float64)


@dataclass(frozen=True)
class Importance(Density):
    """Times drawn as often as their losses are large, and weighed down by as much (Nichol and Dhariwal 2021, sec. 3.3).

    (0, 1) is cut into `bins`. A bin's share is proportional to the root of the mean of its last `history` squared
    losses, mixed with `floor` of the uniform one; within a bin t is uniform, and so it is altogether until every bin
    has a full history. With the weight 1/(bins·share) the loss keeps its expectation (math.md, eq. 37).
    Raises ValueError for fewer than one bin or one loss, and for a floor outside (0, 1].
    """

    bins: int = 100
    history: int = 10
    floor: float = 0.001
    stratified: bool = True
    kind: Literal["importance"] = field(default="importance", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.bins < 1 or self.history < 1:
            raise ValueError(f"bins = {self.bins} and history = {self.history} must be at least 1. Usual: 100 and 10.")
        if not 0 < self.floor <= 1:
            raise ValueError(
                f"floor = {self.floor} must lie in (0, 1]: a bin that is never drawn is never learned. Usual is 0.001."
            )

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """t = u: what it begins with."""
        return u

    def memory(self) -> dict[str, Tensor]:
        """losses [bins, history], a ring for each bin; seen [bins], how many each has had."""
        return {
            "losses": torch.zeros(self.bins, self.history, dtype=torch.float64),
            "seen": torch.zeros(self.bins, dtype=torch.int64),
        }

    def given(self, memory: Mapping[str, Tensor] | None) -> Density:
        """The density of the bins' shares."""
        if memory is None or bool((memory["seen"] < self.history).any()):
            return self
        size = torch.linalg.vector_norm(memory["losses"], dim=1)  # the root of the mean square, but for one factor
        if not bool(size.any()):
            return self
        return _Binned((1 - self.floor) * size / size.sum() + self.floor / self.bins, self.stratified)

    def remember(self, memory: Mapping[str, Tensor], t: Tensor, losses: Tensor) -> dict[str, Tensor]:
        """Each bin's newest losses, in the order of the batch, in place of its oldest. Non-finite ones are left out."""
        known = losses.isfinite()
        bins, losses = _bin(t[known], self.bins), losses[known]
        order = bins.argsort(stable=True)
        bins, losses = bins[order], losses[order]
        nth = torch.arange(len(bins)) - torch.searchsorted(bins, bins)  # 0, 1, ... within each bin
        count = torch.bincount(bins, minlength=self.bins)
        kept = nth >= count[bins] - self.history  # of more than fit in the ring the last: no place is written twice
        bins, place = bins[kept], (memory["seen"][bins] + nth)[kept] % self.history
        table = memory["losses"].clone()
        table[bins, place] = losses[kept]
        return {"losses": table, "seen": memory["seen"] + count}


@dataclass(frozen=True, eq=False)
class _Binned(Density):
    """Bins of equal width with the shares [bins], t uniform within each."""

    shares: Tensor
    stratified: bool

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        ends = self.shares.cumsum(0)
        k = torch.searchsorted(ends[:-1].contiguous(), u, right=True)
        within = (u - ends[k]) / self.shares[k] + 1
        return (k + within.clamp(0, 1 - 1e-9)) / len(self.shares)  # never in the next bin by rounding

    def weight(self, t: Tensor) -> Tensor:
        return 1 / (len(self.shares) * self.shares[_bin(t, len(self.shares))])


AnyDensity = Annotated[Uniform | LogitNormal | LogNormalNoise | UShaped | Visited | Importance, OneOf()]
"""A density as a recipe names it."""


def draw(density: Density, batch: Batch, noise: Noise, path: Path, which: int = 0) -> Tensor:
    """Training times [B] float64 for a batch: a pure function of the seed and of batch.number and batch.size.

    which: an example may have several times, counted from 0, independent of one another.
    Stratified: t_i = quantile(frac(u_step + pi(i)/size)), with one u and one permutation pi a step, the same on every
    rank (math.md, eq. 23); else independent. All times of the whole batch are computed wherever some are needed:
    vectorised sigmoids differ in the last bit with the number of rows.
    """
    steps, positions = batch.number // batch.size, batch.number % batch.size
    t = torch.empty(len(batch.number), dtype=torch.float64)
    for step in torch.unique(steps):  # one, unless a caller mixes examples of several steps
        whole = noise.at(step * batch.size + torch.arange(batch.size))
        if density.stratified:
            shift = noise.at(step.reshape(1)).uniform(3 * which + 1, Stream.TIME)
            strata = whole.uniform(3 * which + 2, Stream.TIME).argsort(stable=True)
            u = (shift + strata.double() / batch.size) % 1.0
        else:
            u = whole.uniform(3 * which, Stream.TIME)
        rows = steps == step
        t[rows] = density(u.clamp(1e-12, 1 - 1e-12), path)[positions[rows]]
    return t


def _bin(t: Tensor, bins: int) -> Tensor:
    return (t * bins).long().clamp(max=bins - 1)


def _has_width(name: str, mean: float, std: float, usual: str) -> None:
    if not (std > 0 and math.isfinite(std) and math.isfinite(mean)):
        raise ValueError(
            f"A {name} density needs a finite mean and a std more than 0, not {mean} and {std}. "
            f"The usual ones are {usual}."
        )
