"""A model: a network, the path it was trained on, what it predicts, and how it is shown its inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from inkwash.kinds import OneOf
from inkwash.paths import AnyPath, Linear, ratio
from inkwash.targets import check, estimates, inverse, there, trained_times
from inkwash.types import Coeffs, Component, Condition, Denoised, Factor, Path, Query, Target, carry, like


class Inputs(Protocol):
    """How a network is shown x and t: the factors c_in and c_noise of Karras et al. (2022)."""

    def scale(self, c: Coeffs) -> Tensor:
        """The factor [B] by which x is multiplied."""
        ...

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        """The number [B] that stands for the time, of the order of 0 to 1000."""
        ...


@dataclass(frozen=True)
class Plain(Component):
    """x as it is, and 1000·t."""

    kind: Literal["plain"] = field(default="plain", kw_only=True, repr=False)

    def scale(self, c: Coeffs) -> Tensor:
        """Always 1."""
        return torch.ones_like(c.alpha)

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        """1000·t."""
        return 1000 * t


@dataclass(frozen=True)
class Indexed(Component):
    """x as it is, and the index t·steps - 1 of a table's entry, counted from 0 as DDPM does."""

    steps: int = 1000
    kind: Literal["indexed"] = field(default="indexed", kw_only=True, repr=False)

    def scale(self, c: Coeffs) -> Tensor:
        """Always 1."""
        return torch.ones_like(c.alpha)

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        """t·steps - 1."""
        return t * self.steps - 1


@dataclass(frozen=True)
class UnitVariance(Component):
    """x divided by its standard deviation sqrt(alpha²·data_std² + sigma²), and 1000·t.

    data_std: the data's standard deviation, after the codec.
    """

    data_std: float = 0.5
    kind: Literal["unit-variance"] = field(default="unit-variance", kw_only=True, repr=False)

    def scale(self, c: Coeffs) -> Tensor:
        """1/sqrt(alpha²·data_std² + sigma²)."""
        return (c.alpha**2 * self.data_std**2 + c.sigma**2).rsqrt()

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        """1000·t."""
        return 1000 * t


@dataclass(frozen=True)
class EdmInputs(Component):
    """x divided by its standard deviation, and 250·ln(sigma/alpha): Karras et al.'s c_in, and 1000 times their c_noise.

    The clock reads the noise-to-signal ratio instead of t, kept within [1e-4, 1e4], so within about ±2303.
    data_std: the data's standard deviation, after the codec. Raises ValueError where it is not more than 0.
    """

    data_std: float = 0.5
    kind: Literal["edm"] = field(default="edm", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.data_std > 0 and math.isfinite(self.data_std)):
            raise ValueError(f"data_std = {self.data_std} must be a deviation, more than 0. EDM's is 0.5.")

    def scale(self, c: Coeffs) -> Tensor:
        """1/sqrt(alpha²·data_std² + sigma²)."""
        return (c.alpha**2 * self.data_std**2 + c.sigma**2).rsqrt()

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        """250·ln(sigma/alpha), finite at both ends."""
        return 250 * ratio(c).clamp(1e-4, 1e4).log()


@dataclass(frozen=True)
class CarriedInputs(Component):
    """On the linear path, what a network trained on `path` with `inputs` was shown: see `targets.Carried`."""

    inputs: Annotated[Plain | Indexed | UnitVariance | EdmInputs, OneOf()]
    path: AnyPath
    kind: Literal["carried"] = field(default="carried", kw_only=True, repr=False)

    def scale(self, c: Coeffs) -> Tensor:
        """Its factor, and that from the linear path's scale to its path's."""
        own = self.path(there(self.path, c))
        return self.inputs.scale(own) * ((own.alpha**2 + own.sigma**2) / (c.alpha**2 + c.sigma**2)).sqrt()

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        """Its clock at the time of the same sigma/alpha."""
        t = there(self.path, c)
        return self.inputs.clock(t, self.path(t))


AnyInputs = Annotated[Plain | Indexed | UnitVariance | EdmInputs | CarriedInputs, OneOf()]
"""Inputs as a recipe names them."""


class Known(NamedTuple):
    """What a model needs to know about times: the factors of `targets.estimates`, of its input, and its clock [B]."""

    factors: Sequence[Factor]
    scale: Factor
    clock: Tensor


@dataclass
class Model:
    """A network with its path, target and inputs. It is a `Denoiser`: it runs under every sampler.

    net: a module with the signature of `inkwash.types.Net`; autocast: the dtype to run the network in (None: its own),
    an option of the run and not of the model; learned_variance: the network gives twice the channels, and the second
    half v, in about [-1, 1], says where between the small and the large variance each element's lies (math.md, eq. 34);
    jumps: the network looks at a second time s, and answers a query with s != t by the data and noise of the mean
    velocity from t to s: a DDIM step with them ends where the flow does.
    Raises ValueError for a target the path cannot be inverted with, and for jumps on another path than `Linear`.
    """

    net: nn.Module
    path: Path
    target: Target
    inputs: Inputs = field(default_factory=Plain)
    autocast: torch.dtype | None = None
    learned_variance: bool = False
    jumps: bool = False

    def __post_init__(self) -> None:
        check(self.path, self.target, trained_times(self.path))
        if self.jumps and not isinstance(self.path, Linear):
            raise ValueError(
                f"A model of jumps is one of mean velocities, and only on the linear path does a step with one end "
                f"where it says: {self.path} is another. Take path = linear."
            )

    def predict(self, x: Tensor, t: Tensor, c: Coeffs, cond: Condition) -> Tensor:
        """The network's raw prediction of the target for x [B, ...] at t [B], with c = path(t); x's shape and dtype."""
        return self.predict_all(x, t, c, cond)[0]

    def predict_all(self, x: Tensor, t: Tensor, c: Coeffs, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """As `predict`, and the variance's mix (v + 1)/2 of x's shape, or None for a model without a learned one.

        Raises ValueError where a learned variance is promised and the network does not give twice the channels.
        """
        clock = carry(self.inputs.clock(t, c), x.device, torch.float32)
        return self._run(x, like(self.inputs.scale(c), x), clock, clock, cond)

    def mean_velocity(self, x: Tensor, t: Tensor, s: Tensor, cond: Condition) -> Tensor:
        """u(x, t, s) of x's shape: the mean of the flow's velocity between t and s, [B] each; at s = t the velocity.

        x_s = x_t - (t - s)·u. It can be differentiated in x, t and s, forwards too. For a model of jumps.
        """
        c = self.path(t)
        clock, until = (carry(self.inputs.clock(r, self.path(r)), x.device, torch.float32) for r in (t, s))
        y, _ = self._run(x, like(self.inputs.scale(c), x), clock, until, cond)
        x0, eps, _ = estimates(like(inverse(c, self.target(c)), x).unbind(), x, y)
        return eps - x0

    def known(self, t: Tensor, x: Tensor) -> Known:
        """What the model needs to know about the times t [B] to answer queries like x, which may have other rows."""
        factors, scale, clock = self._looked_up(t)
        return Known(like(factors, x).unbind(), like(scale, x), carry(clock, x.device, torch.float32))

    def _looked_up(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Everything that depends on the times t [B] alone, in float64 on the host: factors [4, B], scale, clock."""
        c = self.path(t)
        return inverse(c, self.target(c)), self.inputs.scale(c), self.inputs.clock(t, c)

    def answer(self, known: Known, query: Query, cond: Condition) -> Denoised:
        """As a call, where the times t are known already."""
        until = known.clock
        # In a graph, which way to go cannot depend on what the times are.
        if query.s is not query.t and (torch.compiler.is_exporting() or not torch.equal(query.s, query.t)):
            if not self.jumps:
                raise ValueError(
                    "This model knows the velocity at a time, not the mean velocity between two: it cannot answer a "
                    "jump from t to s. Use a sampler for ordinary models (ddim, dpm++, heun), or distil it first."
                )
            until = carry(self.inputs.clock(query.s, self.path(query.s)), query.x.device, torch.float32)
        y, var_mix = self._run(query.x, known.scale, known.clock, until, cond)
        return estimates(known.factors, query.x, y, var_mix)

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """Estimate data and noise in query.x. Raises ValueError for a jump (s != t) where it is no model of jumps."""
        return self.answer(self.known(query.t, query.x), query, cond)

    def _run(
        self, x: Tensor, scale: Factor, clock: Tensor, until: Tensor, cond: Condition
    ) -> tuple[Tensor, Tensor | None]:
        shown, kind = x if isinstance(scale, float) and scale == 1 else scale * x, x.device.type
        if self.autocast is None and not torch.is_autocast_enabled(kind):  # entering a context takes microseconds
            y: Tensor = self.net(shown, clock, until, cond)
        else:
            with torch.autocast(kind, self.autocast or torch.float32, enabled=self.autocast is not None):
                y = self.net(shown, clock, until, cond)
        y = y if y.dtype == x.dtype else y.to(x.dtype)
        if not self.learned_variance:
            return y, None
        if y.shape[1] != 2 * x.shape[1]:
            raise ValueError(
                f"A model with a learned variance needs a network with {2 * x.shape[1]} output channels for data of "
                f"{x.shape[1]}, and this one gives {y.shape[1]}. Build it with outputs=2."
            )
        y, v = y.chunk(2, dim=1)
        return y, (v + 1) / 2


class Prepared:
    """A model that has looked at the times of a grid once, and looks them up when it is asked about them.

    The answers are the model's own, bit for bit. times: [N]; x: any tensor of the samples' dtype and device.
    """

    def __init__(self, model: Model, times: Tensor, x: Tensor) -> None:
        self.model = model
        self.place = {t: i for i, t in enumerate(times.tolist())}
        self.factors, self.scale, clock = model._looked_up(times)
        self.clock = carry(clock, x.device, torch.float32)
        self.known: dict[int, list[Known]] = {}

    def _known(self, rows: int) -> list[Known]:
        """What is known of every time, for queries of so many rows at one and the same time."""
        if rows not in self.known:
            clocks = self.clock[:, None].expand(-1, rows).unbind()
            numbers = zip(self.factors.T.tolist(), self.scale.tolist(), clocks, strict=True)
            self.known[rows] = [Known(*n) for n in numbers]
        return self.known[rows]

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """Estimate data and noise in query.x; at times that are not of the grid, as the model does."""
        places = [self.place.get(t) for t in query.t.tolist()]
        first = places[0]
        if first is None or None in places:
            return self.model(query, cond)
        if places.count(first) == len(places):
            return self.model.answer(self._known(len(places))[first], query, cond)
        rows = torch.tensor(places)
        factors, clock = like(self.factors[:, rows], query.x).unbind(), self.clock[rows.to(self.clock.device)]
        return self.model.answer(Known(factors, like(self.scale[rows], query.x), clock), query, cond)
