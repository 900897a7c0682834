"""The two paths on which sigma is proportional to t: flow matching's line, and EDM's exploding variance."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.types import Coeffs, Component


@dataclass(frozen=True)
class Linear(Component):
    """The straight path of flow matching: alpha = 1 - t, sigma = t (Lipman et al. 2023; Liu et al. 2023)."""

    kind: Literal["linear"] = field(default="linear", kw_only=True, repr=False)

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t in [0, 1]."""
        t = t.double()
        return Coeffs(1.0 - t, t, -torch.ones_like(t), torch.ones_like(t))

    def time(self, ratio: Tensor) -> Tensor:
        """The t with t/(1 - t) = ratio; infinity gives 1."""
        return -torch.expm1(-torch.log1p(ratio.double()))  # 1 - 1/(1 + ratio), which keeps its digits near 0

    def snap(self, t: Tensor) -> Tensor:
        """Every time can be trained at: t itself."""
        return t


@dataclass(frozen=True)
class VE(Component):
    """Data under more and more noise, never shrunk: alpha = 1, sigma = top·t (EDM, Karras et al. 2022, table 1).

    The path goes on beyond t = 1, where a sampler that adds noise may have to go. Raises ValueError for a top that is
    not more than 0.
    """

    top: float = 80.0
    kind: Literal["ve"] = field(default="ve", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.top > 0 and math.isfinite(self.top)):
            raise ValueError(f"top = {self.top} must be a sigma, more than 0 and finite. EDM's is 80.")

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at t >= 0."""
        t = t.double()
        return Coeffs(torch.ones_like(t), self.top * t, torch.zeros_like(t), torch.full_like(t, self.top))

    def time(self, ratio: Tensor) -> Tensor:
        """The t with top·t = ratio; ratios above `top` give more than 1."""
        return ratio.double() / self.top

    def snap(self, t: Tensor) -> Tensor:
        """Every time can be trained at: t itself."""
        return t
