"""DDPM's chain of T steps as a path: exact at its entries, interpolated between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from inkwash.paths.betas import Betas, LinearBetas
from inkwash.types import Coeffs, Component, Path


@dataclass(frozen=True)
class Table(Component):
    """DDPM's chain of T steps: alpha_i² = prod_{j<=i} (1 - beta_j), sigma_i² = 1 - alpha_i² at t = i/T (math.md, 1-3).

    betas: a schedule (`LinearBetas()`, `CosineBetas(steps=200)`, ...) or the numbers themselves, each in (0, 1).
    The table's entry i is at t = i/T; t = 0 is clean. Between entries the angle atan2(sigma, alpha) is interpolated by
    a monotone cubic (Fritsch and Carlson 1980), once continuously differentiable, so that continuous solvers run on it.
    zero_snr: alpha shifted and stretched so that alpha_T = 0 exactly and alpha_1 stays as it was (Lin et al. 2023,
    algorithm 1; math.md, eq. 25): training then sees the pure noise that sampling starts from. The target must not be
    eps, which says nothing of the data there.
    Raises ValueError for betas outside (0, 1), and for zero_snr with fewer than two of them.
    """

    betas: Betas | tuple[float, ...] = field(default_factory=LinearBetas)
    zero_snr: bool = False
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
        if self.zero_snr and betas.numel() < 2:
            raise ValueError("zero_snr keeps alpha_1 and makes alpha_T = 0: it needs at least 2 betas, not 1.")

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
        rise = (3 - 2 * u) * u * u
        angle = (1 - rise) * p0 + rise * p1 + u * ((u - 1) ** 2 * m0 + u * (u - 1) * m1)  # the entries to the last bit
        speed = 6 * u * (u - 1) * (p0 - p1) + (3 * u - 1) * (u - 1) * m0 + u * (3 * u - 2) * m1
        alpha, sigma = (math.pi / 2 - angle).sin(), angle.sin()  # cos would not be 0 at the rounded pi/2
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
        u = (low + high) / 2 * self.steps
        return torch.where((u - u.round()).abs() < 2e-9, u.round(), u) / self.steps  # as times near an entry are

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
        if not self.zero_snr:
            return torch.atan2((-torch.expm1(log_alpha_bar)).sqrt(), (log_alpha_bar / 2).exp())
        # alpha_1·(alpha - alpha_T)/(alpha_1 - alpha_T), and 1 minus that, in differences that keep their digits.
        log = log_alpha_bar[1:] / 2
        first, last = log[0], log[-1]
        alpha = log.exp() * torch.expm1(last - log) / torch.expm1(last - first)
        lost = last.exp() * torch.expm1(log - first) / torch.expm1(last - first) - torch.expm1(log)
        return torch.cat([torch.zeros(1, dtype=torch.float64), torch.atan2((lost * (2 - lost)).sqrt(), alpha)])

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


def is_table(path: Path) -> bool:
    """Whether a path can be trained only at isolated times: then snapping moves a time that is not one of them."""
    between = torch.tensor([0.123456789, 0.618033989], dtype=torch.float64)
    return not torch.equal(path.snap(between), between)
