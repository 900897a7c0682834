"""What a network predicts: y = a·x0 + b·eps. One 2x2 solve turns any prediction into data and noise.

With x = alpha·x0 + sigma·eps and det = alpha·b - sigma·a (math.md, eq. 9):

    x0 = (b·x - sigma·y)/det,    eps = (alpha·y - a·x)/det.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.paths import AnyPath, is_table, ratio
from inkwash.types import Coeffs, Component, Denoised, Factor, Path, Target, like


@dataclass(frozen=True)
class X0(Component):
    """The clean data: (a, b) = (1, 0). Says nothing about the noise at sigma = 0."""

    kind: Literal["x0"] = field(default="x0", kw_only=True, repr=False)

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        """The coefficients (a, b)."""
        return torch.ones_like(c.alpha), torch.zeros_like(c.alpha)


@dataclass(frozen=True)
class Eps(Component):
    """The noise: (a, b) = (0, 1) (Ho et al. 2020). Says nothing about the data at alpha = 0."""

    kind: Literal["eps"] = field(default="eps", kw_only=True, repr=False)

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        """The coefficients (a, b)."""
        return torch.zeros_like(c.alpha), torch.ones_like(c.alpha)


@dataclass(frozen=True)
class V(Component):
    """Salimans and Ho's (2022) v = alpha·eps - sigma·x0: never singular."""

    kind: Literal["v"] = field(default="v", kw_only=True, repr=False)

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        """The coefficients (a, b)."""
        return -c.sigma, c.alpha


@dataclass(frozen=True)
class Flow(Component):
    """The velocity dx/dt = alpha'·x0 + sigma'·eps of flow matching (Lipman et al. 2023); eps - x0 on `Linear`."""

    kind: Literal["flow"] = field(default="flow", kw_only=True, repr=False)

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        """The coefficients (a, b)."""
        return c.dalpha, c.dsigma


@dataclass(frozen=True)
class Edm(Component):
    """EDM's F: (a, b) = (sigma, -alpha·sd²)/(sd·S), S² = alpha²·sd² + sigma² (Karras et al. 2022; math.md, section 10).

    It has unit variance at every time for data of deviation sd = data_std, and det = -S/sd: never singular. On `VE`,
    with `EdmInputs`, the model's x0 is their D = c_skip·x + c_out·F(c_in·x). Raises ValueError for a data_std that is
    not more than 0.
    """

    data_std: float = 0.5
    kind: Literal["edm"] = field(default="edm", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.data_std > 0 and math.isfinite(self.data_std)):
            raise ValueError(f"data_std = {self.data_std} must be a deviation, more than 0. EDM's is 0.5.")

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        """The coefficients (a, b)."""
        scale = self.data_std * (c.alpha**2 * self.data_std**2 + c.sigma**2).sqrt()
        return c.sigma / scale, -c.alpha * self.data_std**2 / scale


Plain = Annotated[X0 | Eps | V | Flow | Edm, OneOf()]
"""A target that is what it says at a path's own times."""


@dataclass(frozen=True)
class Carried(Component):
    """What a network trained on `path` predicts, on the linear path: the target at the time of the same sigma/alpha.

    With `inkwash.model.CarriedInputs` a trained network is a model on `Linear`, and its answers are those of
    `guidance.Along`. Where the linear path has more noise than `path`, the network is asked at its path's end. Raises
    ValueError for the noise as target: near t = 1 it does not determine the data.
    """

    target: Plain
    path: AnyPath
    kind: Literal["carried"] = field(default="carried", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.target, Eps):
            raise ValueError(
                "A network that predicts the noise cannot be carried over to the linear path: near t = 1 the noise "
                "does not determine the data. Have it predict the velocity there (target = flow), which it learns soon."
            )

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        """The coefficients (a, b)."""
        return self.target(self.path(there(self.path, c)))


AnyTarget = Annotated[X0 | Eps | V | Flow | Edm | Carried, OneOf()]
"""A target as a recipe names it."""


def there(path: Path, c: Coeffs) -> Tensor:
    """The times of `path` with the sigma/alpha of c, a path's coefficients; its end where it has no such."""
    return path.time(ratio(c).minimum(ratio(path(torch.ones((), dtype=torch.float64)))))


def solve(c: Coeffs, ab: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> Denoised:
    """Data and noise from x [B, ...] and a prediction y of its shape: c = path(t) and ab = target(c), each [B]."""
    return estimates(like(inverse(c, ab), x).unbind(), x, y)


def inverse(c: Coeffs, ab: tuple[Tensor, Tensor]) -> Tensor:
    """The factors of x and y in x0, and of x and y in eps: [4, B] float64, for c and ab of shape [B]."""
    a, b = ab
    det = c.alpha * b - c.sigma * a
    return torch.stack([b / det, -c.sigma / det, -a / det, c.alpha / det])


def estimates(factors: Sequence[Factor], x: Tensor, y: Tensor, var_mix: Tensor | None = None) -> Denoised:
    """Data and noise from the four factors that `inverse` gives, as numbers, or tensors that multiply x [B, ...]."""
    xx, xy, ex, ey = factors
    return Denoised(mixed(xx, x, xy, y), mixed(ex, x, ey, y), var_mix)


def mixed(a: Factor, x: Tensor, b: Factor, y: Tensor) -> Tensor:
    """a·x + b·y, without the work where a number is 0 or 1, as it is for most targets."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return a * x + b * y
    if a == 0:
        return y if b == 1 else b * y
    if b == 0:
        return x if a == 1 else a * x
    return (x if a == 1 else a * x) + (y if b == 1 else b * y)


def check(path: Path, target: Target, times: Tensor) -> None:
    """Raise ValueError where `target` cannot be turned into data and noise at `times`, or cannot be trained on `path`.

    eps is singular at alpha = 0, x0 at sigma = 0, v, EDM's F and linear flow never. A target made of derivatives is
    refused on a table, which has them only by interpolation, and wherever they are infinite.
    """
    c = path(times)
    probe = target(c._replace(dalpha=torch.full_like(c.alpha, torch.nan), dsigma=torch.full_like(c.alpha, torch.nan)))
    if any(p.isnan().any() for p in probe) and is_table(path):
        raise ValueError(
            f"{target} is made of the path's time derivatives, and {type(path).__name__} has none at its entries "
            "(only an interpolation). Use target v, eps or x0 on a table, or the linear path for flow."
        )
    a, b = target(c)
    det = c.alpha * b - c.sigma * a
    bad = ((det.abs() < 1e-12) | ~det.isfinite()).flatten().nonzero()
    if bad.numel():
        i = int(bad[0])
        alpha, sigma = float(c.alpha.flatten()[i]), float(c.sigma.flatten()[i])
        why = "There x is noise alone, and the noise says nothing of the data. " if alpha == 0 else ""
        if not bool(det.flatten()[i].isfinite()):
            why = "There a time derivative of the path, which the target is made of, is infinite. "
        raise ValueError(
            f"{target} does not determine data and noise at t = {float(times.flatten()[i]):.6g} (alpha = {alpha:.3g}, "
            f"sigma = {sigma:.3g}) of {path}: alpha·b - sigma·a = {float(det.flatten()[i]):.3g}. {why}"
            "Use a target that does (v, or flow on the linear path), or a grid without that time."
        )


def trained_times(path: Path) -> Tensor:
    """Times that stand for those at which a model on `path` is trained: to `check` a target before it is.

    The last is just below 1: on a table that is the last entry, while `Linear` is never trained at t = 1 itself.
    """
    times = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    return path.snap(torch.cat([times, times.new_tensor([1 - 1e-6])]))
