"""Objectives: what training minimises, one number per example.

`Regression` is the simple loss, with a weight and a coupling; `Bound` is the variational bound, `Hybrid` both. Those
for few steps are in `inkwash.fewstep`.
"""

from __future__ import annotations

from typing import Annotated

from inkwash.fewstep import Consistency, MeanFlow, Shortcut, SoFlow
from inkwash.kinds import OneOf
from inkwash.objectives.coupling import AnyCoupling, Independent, OptimalTransport, Requiring
from inkwash.objectives.hybrid import Bound, Hybrid
from inkwash.objectives.regression import Noised, Regression, noised
from inkwash.objectives.weights import (
    P2,
    AnyWeight,
    EdmWeight,
    MinSnr,
    SigmoidWeight,
    SoftMinSnr,
    Unweighted,
    Weight,
)

AnyObjective = Annotated[Regression | Hybrid | Bound | SoFlow | Consistency | Shortcut | MeanFlow, OneOf()]
"""An objective as a recipe names it."""

__all__ = [
    "P2",
    "AnyCoupling",
    "AnyObjective",
    "AnyWeight",
    "Bound",
    "EdmWeight",
    "Hybrid",
    "Independent",
    "MinSnr",
    "Noised",
    "OptimalTransport",
    "Regression",
    "Requiring",
    "SigmoidWeight",
    "SoftMinSnr",
    "Unweighted",
    "Weight",
    "noised",
]
