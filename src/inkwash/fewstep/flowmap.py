"""What all losses for two-time networks share: the mean velocity u(x, t, s) of the flow from t to s on the linear path.

x_s = x_t - (t - s)·u(x_t, t, s), and at s = t it is the velocity v (math.md, eq. 63). A loss says what u should be,
from the network itself and a velocity: the conditional one of an example, eps - x0, or a teacher's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from inkwash.losses import LOSSES, Loss
from inkwash.model import Model
from inkwash.noise import Stream
from inkwash.times import AnyDensity, Uniform, draw
from inkwash.types import Batch, Component, Condition, Denoiser, Noise, Objective, Query, like

Velocity = Callable[[Tensor, Tensor, Condition], Tensor]
"""x [B, ...], t [B] and what is asked for, to dx/dt of x's shape: what a teacher knows of the flow."""


class Jump(NamedTuple):
    """Where u is asked: x [B, ...] at t [B], for the way to s [B]; and v, the velocity of x at t. Times are float64."""

    x: Tensor
    t: Tensor
    s: Tensor
    v: Tensor
    cond: Condition


class FlowMap(Component, ABC):
    """Base of the losses that train a two-time network: weight·loss(u, sg(what u should be)) of each example.

    times: the density two times are drawn from, of which the later is t. same: the share of a batch with s = t, which
    is flow matching; all of it before the share `begin` of the run. loss: the mean over an example's elements of the
    squared error (mse), or of l1 or huber: sharper, and for students, whose teacher leaves nothing to chance. power: p
    in the weight (that mean + 1e-3)^-p, without a gradient; with 0 and mse alone is a minimum where the formulas say.
    """

    times: AnyDensity
    same: float
    begin: float
    loss: Loss
    power: float

    def __post_init__(self) -> None:
        if self.times.memory():
            raise ValueError(
                f"times = {self.times} learns from the losses of single times, and a jump has two. Use logit-normal or "
                "uniform."
            )
        if not 0 <= self.same < 1:
            raise ValueError(f"same = {self.same} must lie in [0, 1): with 1 no jump is ever learned. Usual is 0.5.")
        if not 0 <= self.begin < 1:
            raise ValueError(f"begin = {self.begin} must lie in [0, 1): a share of the run. Usual is 0, or 0.5.")
        if not 0 <= self.power <= 1:
            raise ValueError(f"power = {self.power} must lie in [0, 1]. Usual are 0.5 to 1; 0 is the squared error.")

    @property
    def jumps(self) -> bool:
        """It takes a network with two times."""
        return True

    @abstractmethod
    def goal(self, model: Model, jump: Jump, progress: float) -> Tensor:
        """What u should be at these jumps, of x's shape; called without gradients."""

    def pairs(self, batch: Batch, noise: Noise, model: Model) -> tuple[Tensor, Tensor]:
        """Times t and s <= t, [B] each: the later and the earlier of two draws."""
        one, other = (draw(self.times, batch, noise, model.path, which) for which in (0, 1))
        return torch.maximum(one, other), torch.minimum(one, other)

    def unlearned(self, t: Tensor, s: Tensor) -> str | None:
        """Why a jump from t to s <= t, [N] each, is not among what it trains, and what to use; None: all are.

        s = t is the velocity, which all of them learn with `same` above 0.
        """
        return None

    def taught(self, teacher: Velocity) -> Objective:
        """The same loss with a teacher's velocity in place of each example's own."""
        return Taught(self, teacher)

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The loss of each example, [B], float32; the velocity is the example's own, eps - x0."""
        return self.losses(model, batch, noise, progress, None)

    def losses(self, model: Model, batch: Batch, noise: Noise, progress: float, teacher: Velocity | None) -> Tensor:
        """The loss of each example, [B], float32. ValueError for a model that is not one of jumps."""
        if not model.jumps:
            raise ValueError(f"{type(self).__name__} trains a network with two times, and this model has one.")
        t, s = self.pairs(batch, noise, model)
        if progress < self.begin:
            s = t
        else:
            s = torch.where(draw(Uniform(), batch, noise, model.path, which=2) < self.same, t, s)
        eps = noise(batch.x0, 0, Stream.EPS) if batch.eps is None else batch.eps
        x = like(1 - t, batch.x0) * batch.x0 + like(t, batch.x0) * eps
        with torch.no_grad():
            v = eps - batch.x0 if teacher is None else teacher(x, t, batch.cond)
            rows = (s < t).nonzero().flatten()
            goal = v
            if len(rows):  # the others are flow matching, and cost no more than that
                here = rows.to(x.device)
                jump = Jump(x[here], t[rows], s[rows], v[here], batch.cond.map(lambda c: c[rows.to(c.device)]))
                goal = v.index_copy(0, here, self.goal(model, jump, progress).to(v.dtype))
        error = LOSSES[self.loss](model.mean_velocity(x, t, s, batch.cond), goal).flatten(1).mean(1)
        return error if self.power == 0 else error * (error.detach() + 1e-3) ** -self.power


@dataclass(frozen=True)
class Taught:
    """A loss of a two-time network with a teacher bound to it: an `inkwash.types.Objective`."""

    loss: FlowMap
    teacher: Velocity

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The loss of each example, [B]."""
        return self.loss.losses(model, batch, noise, progress, self.teacher)


def velocity_of(denoiser: Denoiser) -> Velocity:
    """The velocity eps - x0 of a denoiser on the linear path, guided or not."""

    def velocity(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        answer = denoiser(Query(x, t, t), cond)
        return answer.eps - answer.x0

    return velocity


def exact(model: Model) -> Model:
    """The model in its weights' own precision: derivatives and small differences drown in bfloat16."""
    return model if model.autocast is None else replace(model, autocast=None)
