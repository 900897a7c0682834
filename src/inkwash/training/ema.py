"""The averages of the weights that a run keeps, with the power profile of Karras et al. (2024, "EDM2", sec. 3.1)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from inkwash.training.profiles import power_beta

SERIES = (0.05, 0.10)
"""The lengths kept besides the run's own, from whose snapshots any other is rebuilt: EDM2's."""


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


def group(sigma_rel: float) -> str:
    """What the file of an average is called, "ema-0.05"."""
    return f"ema-{sigma_rel:g}"
