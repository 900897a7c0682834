"""What a network predicts: y = a·x0 + b·eps. One 2x2 solve turns any prediction into data and noise.

With x = alpha·x0 + sigma·eps and det = alpha·b - sigma·a (math.md, eq. 9):

    x0 = (b·x - sigma·y)/det,    eps = (alpha·y - a·x)/det.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Coeffs, Component, Denoised, Path, Target


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


AnyTarget = Annotated[X0 | Eps | V | Flow, OneOf()]
"""A target as a recipe names it."""


def solve(c: Coeffs, ab: tuple[Tensor, Tensor], x: Tensor, y: Tensor) -> Denoised:
    """Data and noise from x [B, ...] and a prediction y of its shape: c = path(t) and ab = target(c), each [B]."""
    a, b = ab
    det = c.alpha * b - c.sigma * a
    rows = torch.stack([b / det, -c.sigma / det, -a / det, c.alpha / det])  # in float64, before the cast
    xx, xy, ex, ey = rows.to(device=x.device, dtype=x.dtype).reshape(4, -1, *(1,) * (x.ndim - 1))
    return Denoised(x0=xx * x + xy * y, eps=ex * x + ey * y)


def check(path: Path, target: Target, times: Tensor) -> None:
    """Raise ValueError where `target` cannot be turned into data and noise at `times`, or cannot be trained on `path`.

    eps is singular at alpha = 0, x0 at sigma = 0, v and linear flow never. A target made of derivatives is refused on
    a table, which has them only by interpolation, and wherever they are infinite.
    """
    c = path(times)
    probe = target(c._replace(dalpha=torch.full_like(c.alpha, torch.nan), dsigma=torch.full_like(c.alpha, torch.nan)))
    if any(p.isnan().any() for p in probe) and _is_table(path, times):
        raise ValueError(
            f"{target} is made of the path's time derivatives, and {type(path).__name__} has none at its entries "
            "(only an interpolation). Use target v, eps or x0 on a table, or the linear path for flow."
        )
    a, b = target(c)
    det = c.alpha * b - c.sigma * a
    bad = ((det.abs() < 1e-12) | ~det.isfinite()).flatten().nonzero()
    if bad.numel():
        i = int(bad[0])
        at = f"t = {float(times.flatten()[i]):.6g} (alpha = {float(c.alpha.flatten()[i]):.3g}, "
        at += f"sigma = {float(c.sigma.flatten()[i]):.3g})"
        raise ValueError(
            f"{target} does not determine data and noise at {at} of {path}: alpha·b - sigma·a = "
            f"{float(det.flatten()[i]):.3g}. Use a target that does (v, or flow on the linear path), "
            "or a grid without that time."
        )


def _is_table(path: Path, times: Tensor) -> bool:
    """Whether the path is defined only at isolated times: then snapping moves a time that is not one of them."""
    between = torch.tensor([0.123456789, 0.618033989], dtype=torch.float64)
    return not torch.equal(path.snap(between), between)
