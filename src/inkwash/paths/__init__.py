"""Paths between data and noise: x_t = alpha(t)·x0 + sigma(t)·eps, t = 0 data, t = 1 noise.

`Linear` is flow matching's straight line; `Table` is the Markov chain of DDPM given by its betas; `VP` preserves the
variance in continuous time; `VE` is EDM's; `Shifted` is a path at another resolution's noise level. A path of your own
is a frozen dataclass with the methods of `inkwash.types.Path`. Formulas are numbered in docs/math.md.
"""

from __future__ import annotations

from typing import Annotated

from inkwash.kinds import OneOf
from inkwash.paths.betas import Betas, CosineBetas, LinearBetas, QuadraticBetas, SigmoidBetas
from inkwash.paths.shifted import Shifted
from inkwash.paths.straight import VE, Linear
from inkwash.paths.table import Table, is_table
from inkwash.paths.variance import forward_variance, is_noise_level, least_ratio, posterior_variance, ratio
from inkwash.paths.vp import VP, AnySchedule, CosineSchedule, LinearSchedule, SigmoidSchedule

AnyPath = Annotated[Linear | Table | VP | VE | Shifted, OneOf()]
"""A path as a recipe names it."""

__all__ = [
    "VE",
    "VP",
    "AnyPath",
    "AnySchedule",
    "Betas",
    "CosineBetas",
    "CosineSchedule",
    "Linear",
    "LinearBetas",
    "LinearSchedule",
    "QuadraticBetas",
    "Shifted",
    "SigmoidBetas",
    "SigmoidSchedule",
    "Table",
    "forward_variance",
    "is_noise_level",
    "is_table",
    "least_ratio",
    "posterior_variance",
    "ratio",
]
