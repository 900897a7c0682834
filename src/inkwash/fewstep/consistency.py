"""Flow maps learned from their own composition: SoFlow (alpha-Flow), consistency, shortcuts. No derivative is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.fewstep.flowmap import FlowMap, Jump
from inkwash.losses import Loss
from inkwash.model import Model
from inkwash.times import AnyDensity, LogitNormal, Uniform, draw
from inkwash.types import Batch, Noise, like


def composed(model: Model, jump: Jump, share: float) -> Tensor:
    """share·v + (1 - share)·u(x_l, l, s): from t to s by the velocity as far as l, and on by the network.

    l = t + (s - t)·share and x_l = x - (t - l)·v (math.md, eq. 65). At the flow map it is wrong by a multiple of
    share²·(t - s), and a jump is made of 1/share such steps: what is learned is wrong by a multiple of share.
    """
    t, s = jump.t, jump.s
    between = t + (s - t) * share
    x = jump.x - like(t - between, jump.x) * jump.v
    return share * jump.v + (1 - share) * model.mean_velocity(x, between, s, jump.cond)


class _Closing(FlowMap):
    """A loss whose first step, the share `gap` of the way, shrinks to `last` over the run, geometrically."""

    gap: float
    last: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.last <= self.gap <= 1:
            raise ValueError(
                f"gap = {self.gap} and last = {self.last} must lie in (0, 1], and last not above gap: the share of a "
                "jump that is made with the velocity shrinks over the run. Usual are 0.25 and 0.1."
            )

    def share(self, progress: float) -> float:
        """gap·(last/gap)^progress."""
        return self.gap * math.exp(progress * math.log(self.last / self.gap))

    def goal(self, model: Model, jump: Jump, progress: float) -> Tensor:
        """See `composed`."""
        return composed(model, jump, self.share(progress))


@dataclass(frozen=True)
class SoFlow(_Closing):
    """Solution consistency between any two times: u(x, t, s) = r·v + (1 - r)·u(x_l, l, s), l = t + (s - t)·r.

    Luo et al. 2025 (SoFlow); Zhang et al. 2025 (alpha-Flow) arrive at it from MeanFlow, which is its limit r -> 0, as
    flow matching is r = 1. See `FlowMap` and `composed`; gap is r at the beginning, last at the end. steps: learn only
    the jumps that samplers of so many even steps are made of, each number equally often: from any t to the next i/k
    below it (multistep consistency, Heek et al. 2024); (): between any two times. Raises ValueError for steps below 1.
    """

    gap: float = 0.25
    last: float = 0.1
    steps: tuple[int, ...] = ()
    times: AnyDensity = field(default_factory=lambda: LogitNormal(-0.2, 1.0))
    same: float = 0.25
    begin: float = 0.0
    loss: Loss = "mse"
    power: float = 0.5
    kind: Literal["soflow"] = field(default="soflow", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps and min(self.steps) < 1:
            raise ValueError(f"steps = {list(self.steps)} must be whole numbers from 1 on. Usual are 1, 2 and 4.")

    def pairs(self, batch: Batch, noise: Noise, model: Model) -> tuple[Tensor, Tensor]:
        """Any two times; of `steps`, t as drawn and the end of the step that it lies in."""
        if not self.steps:
            return super().pairs(batch, noise, model)
        t = draw(self.times, batch, noise, model.path)
        counts = torch.tensor(self.steps, dtype=torch.float64)
        which = draw(Uniform(), batch, noise, model.path, which=1)
        k = counts[(which * len(counts)).long().clamp(max=len(counts) - 1)]
        return t, _end(t, k)

    def unlearned(self, t: Tensor, s: Tensor) -> str | None:
        """Of `steps`, all jumps but those to the end of a step of one of them."""
        ends = [(_end(t - 1e-9, torch.tensor(float(k))) - s).abs() < 1e-6 for k in self.steps]
        if not ends or bool(torch.stack([*ends, s == t]).any(0).all()):
            return None
        counts = " or ".join(map(str, self.steps))
        return f"the model knows the jumps of {counts} even steps alone. Use one of these numbers of steps"


def _end(t: Tensor, k: Tensor) -> Tensor:
    """The end of the one of k even steps from 1 to 0 that t lies in."""
    return ((t * k).ceil() - 1).clamp(min=0) / k


@dataclass(frozen=True)
class Consistency(_Closing):
    """Consistency from t to the data alone, s = 0: x0 as seen at t and a little nearer are the same.

    Song et al. 2023; with a trained network to begin with and a shrinking gap, Geng et al. 2025 (easy consistency
    tuning). It is `SoFlow` with s = 0, and its sampler goes to s = 0 and renoises (`Jumps(renoise=1)`).
    """

    gap: float = 0.25
    last: float = 0.1
    times: AnyDensity = field(default_factory=lambda: LogitNormal(0.0, 1.2))
    same: float = 0.25
    begin: float = 0.0
    loss: Loss = "mse"
    power: float = 0.5
    kind: Literal["consistency"] = field(default="consistency", kw_only=True, repr=False)

    def pairs(self, batch: Batch, noise: Noise, model: Model) -> tuple[Tensor, Tensor]:
        """t as drawn, and s = 0."""
        t = draw(self.times, batch, noise, model.path)
        return t, torch.zeros_like(t)

    def unlearned(self, t: Tensor, s: Tensor) -> str | None:
        """All but those to the data."""
        if bool(((s == 0) | (s == t)).all()):
            return None
        return "the model knows the jumps to the data alone. Use jumps(renoise=1.0), or one step"


@dataclass(frozen=True)
class Shortcut(FlowMap):
    """A jump of size d is two of half its size: u(x, t, s) = (u(x, t, m) + u(x_m, m, s))/2 (Frans et al. 2025).

    d is a power of two from 1 down to 2/finest, t a multiple of d, m the middle; jumps of 1/finest are the velocity.
    Raises ValueError where finest is no power of two from 2 up.
    """

    finest: int = 128
    times: AnyDensity = field(default_factory=Uniform)
    same: float = 0.75
    begin: float = 0.0
    loss: Loss = "mse"
    power: float = 0.0
    kind: Literal["shortcut"] = field(default="shortcut", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finest < 2 or self.finest & (self.finest - 1):
            raise ValueError(f"finest = {self.finest} must be a power of two, from 2 up. Usual is 128.")

    def pairs(self, batch: Batch, noise: Noise, model: Model) -> tuple[Tensor, Tensor]:
        """t and t - d; d is any of its sizes equally often."""
        levels = self.finest.bit_length() - 1
        level = (draw(Uniform(), batch, noise, model.path, which=1) * levels).floor().clamp(max=levels - 1)
        size = 0.5**level
        t = ((draw(self.times, batch, noise, model.path) / size).ceil() * size).clamp(max=1.0)
        return t, t - size

    def unlearned(self, t: Tensor, s: Tensor) -> str | None:
        """All but those whose size is 1 or a half, a quarter, .. of it, from a multiple of their size."""
        t, size = t[s < t], (t - s)[s < t]
        levels, place = -size.log2(), t / size
        odd = (levels - levels.round()).abs() + (place - place.round()).abs() > 1e-6
        if not bool((odd | (size < 2 / self.finest - 1e-6)).any()):
            return None
        most = self.finest // 2
        return f"the model knows halves of halves of the whole alone. Use a power of two, up to {most}, of even steps"

    def goal(self, model: Model, jump: Jump, progress: float) -> Tensor:
        """The mean of the two halves."""
        x, t, s, _, cond = jump
        middle = (t + s) / 2
        first = model.mean_velocity(x, t, self._until(t, middle), cond)
        x = x - like(t - middle, x) * first
        return (first + model.mean_velocity(x, middle, self._until(middle, s), cond)) / 2

    def _until(self, t: Tensor, s: Tensor) -> Tensor:
        """s, but t where the jump is of the finest size: that is the velocity, which flow matching teaches."""
        return torch.where(t - s <= 1 / self.finest, t, s)
