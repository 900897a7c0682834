"""Schedules of betas, the numbers a table is made of: evenly spaced, quadratic, sigmoid, cosine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Component


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"A schedule of betas needs at least 1 step, not steps = {steps}.")


@dataclass(frozen=True)
class _BetweenEnds(Component):
    steps: int = 1000
    start: float = 1e-4
    end: float = 0.02
    scaled: bool = False

    def __post_init__(self) -> None:
        _at_least_one(self.steps)
        for name, value in (("start", self.start), ("end", self.end)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} = {value} must be a beta, more than 0. Usual are 1e-4 and 0.02.")

    def _ends(self) -> tuple[float, float]:
        scale = 1000 / self.steps if self.scaled else 1.0
        return scale * self.start, scale * self.end


@dataclass(frozen=True)
class LinearBetas(_BetweenEnds):
    """Betas evenly spaced from `start` to `end` (Ho et al. 2020).

    The values are meant for 1000 steps. With fewer, alpha_T stays far from 0 (0.36 at T = 200) and the prior does not
    match the data at t = 1; `scaled` multiplies both ends by 1000/steps, which keeps alpha_T where it was.
    """

    kind: Literal["linear"] = field(default="linear", kw_only=True, repr=False)

    def __call__(self) -> Tensor:
        """The betas, [steps] float64."""
        start, end = self._ends()
        return torch.linspace(start, end, self.steps, dtype=torch.float64)


@dataclass(frozen=True)
class QuadraticBetas(_BetweenEnds):
    """Betas whose square roots are evenly spaced from sqrt(start) to sqrt(end); `scaled` as in `LinearBetas`."""

    kind: Literal["quadratic"] = field(default="quadratic", kw_only=True, repr=False)

    def __call__(self) -> Tensor:
        """The betas, [steps] float64."""
        start, end = self._ends()
        return torch.linspace(start**0.5, end**0.5, self.steps, dtype=torch.float64) ** 2


@dataclass(frozen=True)
class SigmoidBetas(_BetweenEnds):
    """Betas on a logistic curve from about `start` to about `end`, its argument from -6 to 6; `scaled` as above."""

    kind: Literal["sigmoid"] = field(default="sigmoid", kw_only=True, repr=False)

    def __call__(self) -> Tensor:
        """The betas, [steps] float64."""
        start, end = self._ends()
        return torch.sigmoid(torch.linspace(-6, 6, self.steps, dtype=torch.float64)) * (end - start) + start


@dataclass(frozen=True)
class CosineBetas(Component):
    """alpha_bar(t) = cos²((t + s)/(1 + s)·pi/2), betas cut off at `max_beta` (Nichol and Dhariwal 2021, eq. 17)."""

    steps: int = 1000
    s: float = 0.008
    max_beta: float = 0.999
    kind: Literal["cosine"] = field(default="cosine", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _at_least_one(self.steps)
        if not (self.s >= 0 and math.isfinite(self.s)):
            raise ValueError(f"s = {self.s} must be 0 or more and finite. The usual value is 0.008.")
        if not 0 < self.max_beta < 1:
            raise ValueError(f"max_beta = {self.max_beta} must lie strictly between 0 and 1. The usual value is 0.999.")

    def __call__(self) -> Tensor:
        """The betas, [steps] float64."""
        t = torch.linspace(0, 1, self.steps + 1, dtype=torch.float64)
        alpha_bar = torch.cos((t + self.s) / (1 + self.s) * (math.pi / 2)) ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=self.max_beta)


Betas = Annotated[LinearBetas | CosineBetas | QuadraticBetas | SigmoidBetas, OneOf()]
"""Any schedule of betas."""
