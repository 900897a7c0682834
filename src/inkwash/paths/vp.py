"""Variance-preserving paths in continuous time, alpha² + sigma² = 1, by three schedules (math.md, eq. 24).

Each schedule computes the small one of alpha and sigma without subtracting from 1, so that both keep their digits at
either end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Coeffs, Component


@dataclass(frozen=True)
class LinearSchedule(Component):
    """The VP SDE: alpha² = exp(-B), B = low·t + (high - low)·t²/2, beta(t) = B' (Song et al. 2021, eq. 33).

    dsigma is infinite at t = 0, where sigma grows like sqrt(low·t). alpha is 0.0066 at t = 1, not 0, and the path goes
    on beyond. Raises ValueError unless 0 < low < high.
    """

    low: float = 0.1
    high: float = 20.0
    kind: Literal["linear"] = field(default="linear", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (0 < self.low < self.high and math.isfinite(self.high)):
            raise ValueError(
                f"beta(t) must rise from more than 0: 0 < low < high, both finite, not low = {self.low} and "
                f"high = {self.high}. The usual ones are 0.1 and 20."
            )

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t >= 0."""
        rise = self.high - self.low
        B, beta = t * (self.low + t * rise / 2), self.low + t * rise
        alpha, sigma = (-B / 2).exp(), (-torch.expm1(-B)).sqrt()
        return Coeffs(alpha, sigma, -alpha * beta / 2, alpha**2 * beta / (2 * sigma))

    def time(self, ratio: Tensor) -> Tensor:
        """The root of B(t) = ln(1 + ratio²); ratios beyond the path's end give more than 1."""
        B = torch.log1p(ratio**2)
        # 2B/(low + sqrt(low² + 2B·rise)), divided by B for its limit at infinity.
        return 2 / (self.low / B + ((self.low / B) ** 2 + 2 * (self.high - self.low) / B).sqrt())


@dataclass(frozen=True)
class CosineSchedule(Component):
    """alpha = cos(pi·t/2), sigma = sin(pi·t/2): the angle is even in time, and alpha = 0 at t = 1 exactly.

    Salimans and Ho (2022), and the continuous form of Nichol and Dhariwal (2021). All derivatives are finite.
    """

    kind: Literal["cosine"] = field(default="cosine", kw_only=True, repr=False)

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]."""
        quarter = math.pi / 2
        alpha, sigma = ((1 - t) * quarter).sin(), (t * quarter).sin()  # the cosine of a rounded pi/2 is not 0
        return Coeffs(alpha, sigma, -quarter * sigma, quarter * alpha)

    def time(self, ratio: Tensor) -> Tensor:
        """The t with tan(pi·t/2) = ratio; infinity gives 1."""
        return ratio.atan() / (math.pi / 2)


@dataclass(frozen=True)
class SigmoidSchedule(Component):
    """alpha² is the sigmoid of a log-SNR that falls evenly from `high` to `low`, stretched to reach 1 and 0.

    Jabri et al. (2022) and Chen (2023) with tau = 1: alpha² = (S(t) - S(1))/(S(0) - S(1)), where
    S(t) = sigmoid(high + (low - high)·t). As alpha² and sigma² leave 0 with a slope, dsigma is infinite at t = 0 and
    dalpha at t = 1. Raises ValueError unless high > low.
    """

    high: float = 3.0
    low: float = -3.0
    kind: Literal["sigmoid"] = field(default="sigmoid", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.high > self.low and math.isfinite(self.high - self.low)):
            raise ValueError(
                f"The log-SNR must fall from high to low, both finite, not from {self.high} to {self.low}. "
                "The usual ones are 3 and -3."
            )

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]."""
        # S(a) - S(b) = sinh((a - b)/2)/(2·cosh(a/2)·cosh(b/2)): no digits are lost where a is near b.
        half, left, right = self._halves()
        here = ((self.high / 2) - half * t).cosh()
        alpha = ((half * (1 - t)).sinh() * left / (math.sinh(half) * here)).sqrt()
        sigma = ((half * t).sinh() * right / (math.sinh(half) * here)).sqrt()
        slope = half * left * right / (math.sinh(half) * here**2)  # of sigma², and of -alpha²
        return Coeffs(alpha, sigma, -slope / (2 * alpha), slope / (2 * sigma))

    def time(self, ratio: Tensor) -> Tensor:
        """The t with sinh(half·t)·right/(sinh(half·(1 - t))·left) = ratio²; infinity gives 1."""
        half, left, right = self._halves()
        q = ratio**2 * left / right
        # Solved from the nearer end, where the result is small and has all its digits.
        t = torch.atanh(math.sinh(half) / (torch.maximum(q, 1 / q) + math.cosh(half))) / half
        return torch.where(q < 1, t, 1 - t)

    def _halves(self) -> tuple[float, float, float]:
        return (self.high - self.low) / 2, math.cosh(self.high / 2), math.cosh(self.low / 2)


AnySchedule = Annotated[LinearSchedule | CosineSchedule | SigmoidSchedule, OneOf()]
"""A schedule of a variance-preserving path as a recipe names it."""


@dataclass(frozen=True)
class VP(Component):
    """A variance-preserving path in continuous time: alpha² + sigma² = 1, as `schedule` says."""

    schedule: AnySchedule = field(default_factory=LinearSchedule)
    kind: Literal["vp"] = field(default="vp", kw_only=True, repr=False)

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]. Where a derivative is infinite, the schedule says so."""
        return self.schedule(t.double())

    def time(self, ratio: Tensor) -> Tensor:
        """The t at which sigma/alpha is `ratio`."""
        return self.schedule.time(ratio.double())

    def snap(self, t: Tensor) -> Tensor:
        """Every time can be trained at: t itself."""
        return t
