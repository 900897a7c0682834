"""Samplers: short coroutines that ask `Query(x, t, s)` and are answered with `Denoised(x0, eps)`.

Each runs on every path, with every target, on any grid of times, and with examples of one batch at different times.
Coefficients are computed once for the whole grid, in float64. Which one to take: docs/samplers.md.
"""

from typing import Annotated

from inkwash.kinds import OneOf
from inkwash.samplers.ddim import Ancestral, Ddim
from inkwash.samplers.exponential import DpmSolver, UniPC
from inkwash.samplers.jumps import Jumps
from inkwash.samplers.multistep import Adams, Deis, Ipndm
from inkwash.samplers.runge import Euler, Heun, RungeKutta
from inkwash.samplers.steps import Asking

AnySampler = Annotated[
    Ddim | Ancestral | Euler | Heun | DpmSolver | UniPC | Deis | Ipndm | Adams | RungeKutta | Jumps, OneOf()
]
"""A sampler as a recipe names it."""

__all__ = [
    "Adams",
    "Ancestral",
    "AnySampler",
    "Asking",
    "Ddim",
    "Deis",
    "DpmSolver",
    "Euler",
    "Heun",
    "Ipndm",
    "Jumps",
    "RungeKutta",
    "UniPC",
]
