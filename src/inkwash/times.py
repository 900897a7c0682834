"""Times: which ones to train at (densities), and which ones to visit in sampling (grids).

A density is given by its quantile function: uniform numbers u in (0, 1) in, times out. `draw` makes the u, by default
stratified over the whole batch, which lowers the variance of the loss at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.noise import Stream
from inkwash.types import Batch, Component, Noise


class Density(Protocol):
    """A distribution of training times."""

    @property
    def stratified(self) -> bool:
        """Whether the u of a batch are spread evenly."""
        ...

    def __call__(self, u: Tensor) -> Tensor:
        """The quantile function: u in (0, 1) to t in (0, 1), increasing, float64."""
        ...


@dataclass(frozen=True)
class Uniform(Component):
    """t uniform in (0, 1); on a table, every entry equally often."""

    stratified: bool = True
    kind: Literal["uniform"] = field(default="uniform", kw_only=True, repr=False)

    def __call__(self, u: Tensor) -> Tensor:
        """t = u."""
        return u


@dataclass(frozen=True)
class LogitNormal(Component):
    """t = sigmoid(z), z ~ N(mean, std²): fewer times near the ends, where flow matching is easy (Esser et al. 2024).

    Raises ValueError for a std that is not more than 0.
    """

    mean: float = 0.0
    std: float = 1.0
    stratified: bool = True
    kind: Literal["logit-normal"] = field(default="logit-normal", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.std > 0 and math.isfinite(self.std) and math.isfinite(self.mean)):
            raise ValueError(
                f"A logit-normal density needs a finite mean and a std more than 0, not {self.mean} and {self.std}. "
                "The usual ones are 0 and 1."
            )

    def __call__(self, u: Tensor) -> Tensor:
        """t = sigmoid(mean + std·Phi^-1(u))."""
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


AnyDensity = Annotated[Uniform | LogitNormal, OneOf()]
"""A density as a recipe names it."""


def draw(density: Density, batch: Batch, noise: Noise) -> Tensor:
    """Training times [B] float64 for a batch: a pure function of the seed and of batch.number and batch.size.

    Stratified: t_i = quantile(frac(u_step + pi(i)/size)), with one u and one permutation pi a step, the same on every
    rank (math.md, eq. 23); else independent. All times of the whole batch are computed wherever some are needed:
    vectorised sigmoids differ in the last bit with the number of rows.
    """
    steps, positions = batch.number // batch.size, batch.number % batch.size
    t = torch.empty(len(batch.number), dtype=torch.float64)
    for step in torch.unique(steps):  # one, unless a caller mixes examples of several steps
        whole = noise.at(step * batch.size + torch.arange(batch.size))
        if density.stratified:
            shift = noise.at(step.reshape(1)).uniform(1, Stream.TIME)
            strata = whole.uniform(2, Stream.TIME).argsort(stable=True)
            u = (shift + strata.double() / batch.size) % 1.0
        else:
            u = whole.uniform(0, Stream.TIME)
        rows = steps == step
        t[rows] = density(u.clamp(1e-12, 1 - 1e-12))[positions[rows]]
    return t


def grid(steps: int | Sequence[float], batch: int) -> Tensor:
    """Sampling times [N+1, batch] float64: `steps` equal steps from t = 1 to t = 0, or a decreasing list of times.

    Raises ValueError for fewer than one step, or a list that does not decrease within [0, 1].
    """
    if isinstance(steps, int):
        if steps < 1:
            raise ValueError(f"A sampler needs at least 1 step, not {steps}.")
        t = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    else:
        t = torch.tensor([float(v) for v in steps], dtype=torch.float64)
        if len(t) < 2 or not bool((t.diff() < 0).all()) or t[0] > 1 or t[-1] < 0:
            raise ValueError(
                f"A grid of times must decrease within [0, 1], from noise to data, but it is {list(steps)}. "
                "For example [1, 0.6, 0.3, 0]."
            )
    return t[:, None].expand(-1, batch).contiguous()
