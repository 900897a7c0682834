"""The average of the weights, with the power profile of Karras et al. (2024, "EDM2", sec. 3.1)."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn


@cache
def power_gamma(sigma_rel: float) -> float:
    """The exponent gamma of the profile whose width is sigma_rel, a share of the run: EDM2, eq. 126.

    sigma_rel² = (gamma + 1)/((gamma + 2)²(gamma + 3)). Raises ValueError outside (0, 0.28), where there is none.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"ema = {sigma_rel} must lie between 0 and 0.28. Usual values are 0.05 to 0.15.")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def power_beta(n: int, sigma_rel: float) -> float:
    """How much of the average is kept at the n-th step, n = 1, 2, ...: (1 - 1/n)^(gamma + 1); nothing at the first."""
    return float((1 - 1 / n) ** (power_gamma(sigma_rel) + 1))


class Ema:
    """A copy of a network whose weights are the running average of another's, in float32 or better."""

    def __init__(self, net: nn.Module, sigma_rel: float) -> None:
        self.sigma_rel = sigma_rel
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module, n: int, ok: Tensor) -> None:
        """Take in the weights after the n-th step (n from 1); nothing changes where ok (a 0-d tensor) is 0."""
        mine: list[Tensor] = list(self.net.parameters())
        theirs: list[Tensor] = list(net.parameters())
        step = torch._foreach_sub(theirs, mine)
        torch._foreach_mul_(step, ok.to(mine[0].dtype) * (1 - power_beta(n, self.sigma_rel)))
        torch._foreach_add_(mine, step)
        for a, b in zip(self.net.buffers(), net.buffers(), strict=True):
            a.copy_(b)
