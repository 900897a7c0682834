"""A model: a network, the path it was trained on, what it predicts, and how it is shown its inputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor, nn

from inkwash.kinds import OneOf
from inkwash.targets import check, solve
from inkwash.types import Coeffs, Component, Condition, Denoised, Path, Query, Target, carry, like


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


AnyInputs = Annotated[Plain | Indexed | UnitVariance, OneOf()]
"""Inputs as a recipe names them."""


@dataclass
class Model:
    """A network with its path, target and inputs. It is a `Denoiser`: it runs under every sampler.

    net: a module with the signature of `inkwash.types.Net`; autocast: the dtype to run the network in (None: its own),
    an option of the run and not of the model. Raises ValueError for a target the path cannot be inverted with.
    """

    net: nn.Module
    path: Path
    target: Target
    inputs: Inputs = field(default_factory=Plain)
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        check(self.path, self.target, self.path.snap(torch.linspace(0.05, 0.95, 19, dtype=torch.float64)))

    def predict(self, x: Tensor, t: Tensor, c: Coeffs, cond: Condition) -> Tensor:
        """The network's raw prediction of the target for x [B, ...] at t [B], with c = path(t); x's shape and dtype."""
        clock = carry(self.inputs.clock(t, c), x.device, torch.float32)
        shown = like(self.inputs.scale(c), x) * x
        with torch.autocast(x.device.type, self.autocast or torch.float32, enabled=self.autocast is not None):
            y: Tensor = self.net(shown, clock, clock, cond)
        return y.to(x.dtype)

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """Estimate data and noise in query.x. Raises ValueError for a jump (s != t), which takes a few-step model."""
        if query.s is not query.t and not torch.equal(query.s, query.t):
            raise ValueError(
                "This model knows the velocity at a time, not the mean velocity between two: it cannot answer a jump "
                "from t to s. Use a sampler for ordinary models (ddim, ancestral, euler, heun)."
            )
        c = self.path(query.t)
        return solve(c, self.target(c), query.x, self.predict(query.x, query.t, c, cond))
