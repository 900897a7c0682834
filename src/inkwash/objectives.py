"""Objectives: what training minimises, one number per example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.model import Model
from inkwash.noise import Stream
from inkwash.times import AnyDensity, Density, Uniform, draw
from inkwash.types import Batch, Coeffs, Component, Noise, like

Weight = Callable[[Coeffs], Tensor]
"""A weight [B] as a function of the path's coefficients [B]."""

_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda y, target: F.mse_loss(y, target, reduction="none"),
    "l1": lambda y, target: F.l1_loss(y, target, reduction="none"),
    "huber": lambda y, target: F.smooth_l1_loss(y, target, reduction="none"),
}


@dataclass(frozen=True)
class Unweighted(Component):
    """Weight 1 for every time: the simple loss (Ho et al. 2020, eq. 14; math.md, eq. 18)."""

    kind: Literal["unweighted"] = field(default="unweighted", kw_only=True, repr=False)

    def __call__(self, c: Coeffs) -> Tensor:
        """Ones."""
        return torch.ones_like(c.alpha)


class Noised(NamedTuple):
    """One draw of the forward process: x_t [B, ...] at t [B], its coefficients and the noise in it."""

    x: Tensor
    t: Tensor
    c: Coeffs
    eps: Tensor


def noised(model: Model, batch: Batch, noise: Noise, density: Density) -> Noised:
    """Draw times and noise for a batch and mix: x_t = alpha·x0 + sigma·eps (math.md, eq. 3)."""
    t = model.path.snap(draw(density, batch, noise))
    c = model.path(t)
    eps = noise(batch.x0, 0, Stream.EPS) if batch.eps is None else batch.eps
    return Noised(like(c.alpha, batch.x0) * batch.x0 + like(c.sigma, batch.x0) * eps, t, c, eps)


@dataclass(frozen=True)
class Regression(Component):
    """Regress the network's output on the model's target: weight(t)·loss(y_theta(x_t, t), a·x0 + b·eps).

    loss: mse, l1, or huber (quadratic below 1); times: the density of training times; weight: of the coefficients.
    """

    loss: Literal["mse", "l1", "huber"] = "mse"
    times: AnyDensity = field(default_factory=Uniform)
    weight: Annotated[Unweighted, OneOf()] = field(default_factory=Unweighted)
    kind: Literal["regression"] = field(default="regression", kw_only=True, repr=False)

    def elements(self, model: Model, batch: Batch, noise: Noise) -> Tensor:
        """The weighted loss of every element, of x0's shape, float32 (or x0's own float64)."""
        draw = noised(model, batch, noise, self.times)
        a, b = model.target(draw.c)
        target = like(a, draw.x) * batch.x0 + like(b, draw.x) * draw.eps
        y = model.predict(draw.x, draw.t, draw.c, batch.cond)
        return like(self.weight(draw.c), draw.x) * _LOSSES[self.loss](y, target)

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The mean over each example's elements, [B]."""
        return self.elements(model, batch, noise).flatten(1).mean(1)


AnyObjective = Annotated[Regression, OneOf()]
"""An objective as a recipe names it."""
