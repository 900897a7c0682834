"""Paths between data and noise: x_t = alpha(t)·x0 + sigma(t)·eps, t = 0 data, t = 1 noise.

`Linear` is flow matching's straight line; `Table` is the Markov chain of DDPM given by its betas. A path of your own
is a frozen dataclass with the methods of `inkwash.types.Path`. Formulas are numbered in docs/math.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Coeffs, Component


@dataclass(frozen=True)
class Linear(Component):
    """The straight path of flow matching: alpha = 1 - t, sigma = t (Lipman et al. 2023; Liu et al. 2023)."""

    kind: Literal["linear"] = field(default="linear", kw_only=True, repr=False)

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]."""
        t = t.double()
        return Coeffs(1.0 - t, t, -torch.ones_like(t), torch.ones_like(t))

    def time(self, ratio: Tensor) -> Tensor:
        """The t with t/(1 - t) = ratio; infinity gives 1."""
        return -torch.expm1(-torch.log1p(ratio.double()))  # 1 - 1/(1 + ratio), which keeps its digits near 0

    def snap(self, t: Tensor) -> Tensor:
        """Every time can be trained at: t itself."""
        return t


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


@dataclass(frozen=True)
class Table(Component):
    """DDPM's chain of T steps: alpha_i² = prod_{j<=i} (1 - beta_j), sigma_i² = 1 - alpha_i² at t = i/T (math.md, 1-3).

    betas: a schedule (`LinearBetas()`, `CosineBetas(steps=200)`, ...) or the numbers themselves, each in (0, 1).
    The table's entry i is at t = i/T; t = 0 is clean. Between entries the angle atan2(sigma, alpha) is interpolated by
    a monotone cubic (Fritsch and Carlson 1980), once continuously differentiable, so that continuous solvers run on it.
    Raises ValueError for betas outside (0, 1).
    """

    betas: Betas | tuple[float, ...] = LinearBetas()
    kind: Literal["table"] = field(default="table", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.betas, (Sequence, Tensor)):  # a list or a tensor is welcome; a tuple keeps it hashable
            object.__setattr__(self, "betas", tuple(float(b) for b in self.betas))
        betas = self._betas
        bad = ((betas <= 0) | (betas >= 1) | betas.isnan()).nonzero().flatten()
        if betas.numel() == 0 or bad.numel():
            found = f"beta_{int(bad[0]) + 1} = {float(betas[bad[0]]):.6g}" if bad.numel() else "no betas"
            raise ValueError(
                f"A table's betas must lie strictly between 0 and 1, but {found} of {len(betas)}. "
                "Schedules scaled by 1000/steps need more steps, or a smaller `end`."
            )

    @property
    def steps(self) -> int:
        """T, the number of steps of the chain."""
        return len(self._betas)

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]: DDPM's own at t = i/T, interpolated between."""
        t = t.double()
        i = (t * self.steps).floor().clamp(0, self.steps - 1).long()
        u = t * self.steps - i
        # Times are given as i/T in floating point: within rounding of an entry, mean the entry itself.
        u = torch.where((u - u.round()).abs() < 1e-9, u.round(), u)
        p0, p1, m0, m1 = self._hermite(i)
        angle = ((2 * u - 3) * u * u) * (p0 - p1) + p0 + u * ((u - 1) ** 2 * m0 + u * (u - 1) * m1)
        speed = 6 * u * (u - 1) * (p0 - p1) + (3 * u - 1) * (u - 1) * m0 + u * (3 * u - 2) * m1
        alpha, sigma = angle.cos(), angle.sin()
        return Coeffs(alpha, sigma, -sigma * speed * self.steps, alpha * speed * self.steps)

    def time(self, ratio: Tensor) -> Tensor:
        """The t at which sigma/alpha is `ratio`; ratios beyond the table's end give 1."""
        angle = ratio.double().atan().clamp(max=self._angles[-1])
        i = torch.searchsorted(self._angles, angle.contiguous(), right=True).sub(1).clamp(0, self.steps - 1)
        low, high = i.double() / self.steps, (i + 1).double() / self.steps
        for _ in range(55):  # bisection: the interpolant is monotone, and 55 halvings reach the last bit
            mid = (low + high) / 2
            c = self(mid)
            below = torch.atan2(c.sigma, c.alpha) < angle
            low, high = torch.where(below, mid, low), torch.where(below, high, mid)
        return (low + high) / 2

    def snap(self, t: Tensor) -> Tensor:
        """The entry at or after t, i = 1..T: t uniform in (0, 1] gives i uniform in 1..T."""
        # Rounding may put i/T·T above i, and ceil would then skip to the next entry.
        return (t * self.steps - 1e-9).ceil().clamp(1, self.steps) / self.steps

    @cached_property
    def _betas(self) -> Tensor:
        return torch.tensor(self.betas, dtype=torch.float64) if isinstance(self.betas, tuple) else self.betas()

    @cached_property
    def _angles(self) -> Tensor:
        """atan2(sigma_i, alpha_i) for i = 0..T; 1 - alpha² by expm1, which keeps its digits where alpha is near 1."""
        log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-self._betas).cumsum(0)])
        return torch.atan2((-torch.expm1(log_alpha_bar)).sqrt(), (log_alpha_bar / 2).exp())

    @cached_property
    def _slopes(self) -> Tensor:
        """The interpolant's slope at each entry, from three points, kept below three times its neighbours' secants.

        That bound makes the cubic monotone (Fritsch and Carlson 1980, sec. 3).
        """
        secant = self._angles.diff()
        outer = (secant[:1] * 1.5 - secant[1:2] / 2, secant[-1:] * 1.5 - secant[-2:-1] / 2) if len(secant) > 1 else ()
        first, last = outer or (secant, secant)
        slope = torch.cat([first, (secant[1:] + secant[:-1]) / 2, last])
        bound = 3 * torch.minimum(torch.cat([secant, secant[-1:]]), torch.cat([secant[:1], secant]))
        return slope.clamp(min=0).minimum(bound)

    def _hermite(self, i: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._angles[i], self._angles[i + 1], self._slopes[i], self._slopes[i + 1]


AnyPath = Annotated[Linear | Table, OneOf()]
"""A path as a recipe names it."""


def posterior_variance(now: Coeffs, nxt: Coeffs) -> Tensor:
    """Variance of q(x_s | x_t, x0) for s < t, now = path(t), nxt = path(s): sigma_s²·beta/sigma_t² (math.md, eq. 6).

    On a table with s = t - 1/T it is DDPM's posterior variance, "fixed small".
    """
    return nxt.sigma**2 * forward_variance(now, nxt) / now.sigma**2


def forward_variance(now: Coeffs, nxt: Coeffs) -> Tensor:
    """Variance of q(x_t | x_s), s < t: beta = sigma_t² - (alpha_t/alpha_s)²·sigma_s² (math.md, eq. 4), "large"."""
    return now.sigma**2 - (now.alpha / nxt.alpha) ** 2 * nxt.sigma**2
