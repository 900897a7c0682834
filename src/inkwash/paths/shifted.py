"""A path with its noise-to-signal ratio multiplied by a factor: the noise level of another resolution."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.paths.straight import VE, Linear
from inkwash.paths.table import Table, is_table
from inkwash.paths.variance import ratio
from inkwash.paths.vp import VP
from inkwash.types import Coeffs, Component


@dataclass(frozen=True)
class Shifted(Component):
    """Another path, later: at time t it is `path` at tau(t), where sigma/alpha is `factor` times that at t.

    Pictures twice as wide show the same noise averaged over four times as many pixels, so they need twice the ratio
    (Hoogeboom et al. 2023). On `Linear` tau = s·t/(1 + (s - 1)·t) with s = factor, SD3's shift (Esser et al. 2024, eq.
    23). The derivatives are exact (math.md, eq. 26) where those of `path` are finite; where one is infinite, at an end
    of some VP paths, both are NaN.
    Raises ValueError for a factor that is not more than 0, and for a table.
    """

    path: Annotated[Linear | Table | VP | VE, OneOf()] = field(default_factory=Linear)
    factor: float = 1.0
    kind: Literal["shifted"] = field(default="shifted", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.factor > 0 and math.isfinite(self.factor)):
            raise ValueError(
                f"factor = {self.factor} must be more than 0 and finite: it multiplies the noise-to-signal ratio. "
                "Twice the width of pictures is a factor of 2."
            )
        if is_table(self.path):
            raise ValueError(
                "A table cannot be shifted: it is defined at its entries alone, and the shifted noise levels lie "
                "between them. Shift a path in continuous time (vp, linear or ve), or give the table other betas."
            )

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]."""
        here = self.path(t)
        tau = self.path.time(self.factor * ratio(here))
        c = self.path(tau)
        # tau' = factor·ratio'(t)/ratio'(tau), ratio' = W/alpha². As factor·alpha²(tau)/alpha²(t) is also
        # sigma²(tau)/(factor·sigma²(t)), it is the quotient of their sums too, finite where alpha or sigma is 0.
        sums = (self.factor**2 * c.alpha**2 + c.sigma**2) / (self.factor * (here.alpha**2 + here.sigma**2))
        speed = sums * _wronskian(here) / _wronskian(c)
        return Coeffs(c.alpha, c.sigma, c.dalpha * speed, c.dsigma * speed)

    def time(self, ratio: Tensor) -> Tensor:
        """The t at which sigma/alpha is `ratio`."""
        return self.path.time(ratio.double() / self.factor)

    def snap(self, t: Tensor) -> Tensor:
        """Every time can be trained at: t itself."""
        return t


def _wronskian(c: Coeffs) -> Tensor:
    return c.alpha * c.dsigma - c.sigma * c.dalpha
