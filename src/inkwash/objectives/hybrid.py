"""The variational bound as an objective, alone and beside the simple loss (Nichol and Dhariwal 2021, sec. 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from inkwash.bound import decoder_term, step_term
from inkwash.losses import Loss
from inkwash.model import Model
from inkwash.objectives.regression import Noised, OverTimes, errors, noised
from inkwash.objectives.weights import AnyWeight, Unweighted
from inkwash.targets import solve, trained_times
from inkwash.times import AnyDensity, Uniform
from inkwash.types import Batch, Coeffs, Denoised, Noise, Path, like


class _OfChain(OverTimes):
    """An objective of a chain's steps, asked at their upper ends: also at t = 1 itself."""

    steps: int
    learns_variance: ClassVar[bool] = True

    def asked(self, path: Path) -> Tensor:
        """Upper ends of steps, the first and the last among them."""
        n = _chain(path, self.steps)
        times = torch.cat([torch.tensor([0.0, 1.0], dtype=torch.float64), trained_times(path)])
        return (times * n).ceil().clamp(1, n) / n


@dataclass(frozen=True)
class Hybrid(_OfChain):
    """The simple loss teaches the mean, the variational bound the variance: L_simple + lam·L_vlb (math.md, eq. 36).

    In L_vlb the mean's gradient is stopped. It is in bits per dimension and times the number of steps, an estimate of
    the whole sum, without L_T, which cannot be learned. A table has its own steps, each to the entry before; a
    continuous path is cut into `steps` equal ones, and t is always the upper end of one. The model must have a learned
    variance. Data in bins have the decoder of eq. 17, others a density.
    lam: of the bound; loss, times, weight: of `Regression`.
    Raises ValueError for a negative lam, for fewer than one step, and for a model without a learned variance.
    """

    lam: float = 0.001
    loss: Loss = "mse"
    times: AnyDensity = field(default_factory=Uniform)
    weight: AnyWeight = field(default_factory=Unweighted)
    steps: int = 1000
    kind: Literal["hybrid"] = field(default="hybrid", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.lam >= 0 and math.isfinite(self.lam)):
            raise ValueError(f"lam = {self.lam} must be 0 or more and finite. The usual value is 0.001.")
        _at_least_one(self.steps)

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The mean over each example's elements, [B]."""
        draw, y, mix = _predict(model, batch, noise, self.times, self.steps)
        simple = errors(self.loss, self.weight, model, batch, draw, y)
        bits = _bits(model, batch, draw, y.detach(), mix, self.steps)
        return (simple + self.lam * bits).flatten(1).mean(1)


@dataclass(frozen=True)
class Bound(_OfChain):
    """The variational bound alone, for the mean and the variance (Nichol and Dhariwal 2021, L_vlb), as in `Hybrid`.

    Its terms differ by orders of magnitude between times: take `Importance` for `times`.
    Raises ValueError for fewer than one step, and for a model without a learned variance.
    """

    times: AnyDensity = field(default_factory=Uniform)
    steps: int = 1000
    kind: Literal["bound"] = field(default="bound", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _at_least_one(self.steps)

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The mean over each example's elements, [B]: bits per dimension."""
        draw, y, mix = _predict(model, batch, noise, self.times, self.steps)
        return _bits(model, batch, draw, y, mix, self.steps).flatten(1).mean(1)


def _predict(model: Model, batch: Batch, noise: Noise, times: AnyDensity, steps: int) -> tuple[Noised, Tensor, Tensor]:
    """A draw at the end of a step of the chain, and the prediction of target and variance in it."""
    draw = noised(model, batch, noise, times, _chain(model.path, steps))
    y, mix = model.predict_all(draw.x, draw.t, draw.c, batch.cond)
    if mix is None:
        raise ValueError(
            "The variational bound is for a model with a learned variance: Model(..., learned_variance=True), with a "
            "network built with outputs=2."
        )
    return draw, y, mix


def _bits(model: Model, batch: Batch, draw: Noised, y: Tensor, mix: Tensor, steps: int) -> Tensor:
    """worth·T·L_s of every element, in bits: the step from draw.t to the entry before, or L_0 from the first entry."""
    n = _chain(model.path, steps)
    entry = (draw.t * n).round()
    # L_0 takes the place of the first step's term below; here that is a step of no length, whose term is 0.
    nxt = model.path(torch.where(entry > 1, entry - 1, entry) / n)
    pred = solve(draw.c, model.target(draw.c), draw.x, y)._replace(var_mix=mix)
    terms = step_term(batch.x0, pred, draw.c, nxt)
    rows = (entry == 1).nonzero().flatten()
    if len(rows):
        here = rows.to(terms.device)
        first = Denoised(*(v[here] for v in pred if v is not None))
        before = model.path(torch.full_like(draw.t[rows], 2 / n)) if n > 1 else None
        now = Coeffs(*(v[rows] for v in draw.c))
        terms = terms.index_copy(0, here, decoder_term(batch.x0[here], first, now, before, width=batch.bin))
    return like(draw.worth * (n / math.log(2)), terms) * terms


def _chain(path: Path, steps: int) -> int:
    """The number of steps of a table, found from its first entry, 1/T; `steps` for a continuous path."""
    least = 1e-9
    first = float(path.snap(torch.tensor([least], dtype=torch.float64)))
    return steps if first == least else round(1 / first)


def _at_least_one(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps = {steps} must be at least 1. The usual value is 1000.")
