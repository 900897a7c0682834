"""MeanFlow: the mean velocity by the derivative along the flow (Geng et al. 2025)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from inkwash.fewstep.flowmap import FlowMap, Jump, exact
from inkwash.losses import Loss
from inkwash.model import Model
from inkwash.times import AnyDensity, LogitNormal
from inkwash.types import like


@dataclass(frozen=True)
class MeanFlow(FlowMap):
    """u = v - (t - s)·du/dt, the derivative along the flow, where x moves with the velocity (Geng et al. 2025, eq. 10).

    See math.md, eq. 66. tangent: with which velocity x moves in the derivative: that of the example, or "own", the
    network's u(x, t, t), as in improved MeanFlow (2025), whose regression is then on a fixed goal. derivative:
    "differences", over t ± `width`, central but for times nearer than that to 1 or to s, where they are of first order;
    or "exact", forward-mode, without fused attention, which has none, and never compiled: it raises ValueError for a
    network without such a derivative. Both in the weights' own precision. Networks here are told 1000·t, and the exact
    derivative is mostly of what is fine in their answer to that: docs/few-steps.md. See `FlowMap` for the rest.
    """

    tangent: Literal["example", "own"] = "own"
    derivative: Literal["exact", "differences"] = "differences"
    width: float = 0.05
    times: AnyDensity = field(default_factory=lambda: LogitNormal(-0.4, 1.0))
    same: float = 0.5
    begin: float = 0.0
    loss: Loss = "mse"
    power: float = 0.75
    kind: Literal["meanflow"] = field(default="meanflow", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.width <= 0.1:
            raise ValueError(
                f"width = {self.width} must lie in (0, 0.1]: the half width of differences in t. Usual is 0.05."
            )

    def goal(self, model: Model, jump: Jump, progress: float) -> Tensor:
        """v - (t - s)·(v·grad_x u + du/dt)."""
        x, t, s, v, cond = jump
        model = exact(model)
        moving = v if self.tangent == "example" else model.mean_velocity(x, t, t, cond)

        def u(x: Tensor, t: Tensor) -> Tensor:
            return model.mean_velocity(x, t, s, cond)

        if self.derivative == "exact":
            model = replace(model, net=_Forward(model.net))
            with sdpa_kernel(SDPBackend.MATH):
                change = _derivative(u, x, t, moving)
        else:
            # Where t ± width leaves [0, 1], or t - width passes s, on one side only as far as there is room.
            up, down = (1 - t).clamp(max=self.width), (t - s).clamp(max=self.width)
            ahead = u(x + like(up, x) * moving, t + up)
            change = (ahead - u(x - like(down, x) * moving, t - down)) / like(up + down, x)
        return v - like(t - s, x) * change


def _derivative(u: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, moving: Tensor) -> Tensor:
    """du/dt where x moves with the velocity `moving`. ValueError for a network that answers, but not with this."""
    try:
        change: Tensor = torch.func.jvp(u, (x, t), (moving, torch.ones_like(t)))[1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        u(x, t)  # what fails without a derivative as well says so itself
        raise ValueError(
            f'derivative = "exact" needs a network with a forward-mode derivative, and this one has none ({error}). '
            'Set derivative = "differences": --set objective.derivative=differences.'
        ) from error
    return change


class _Forward(nn.Module):
    """A network that is called past its compilation.

    torch 2.13 compiles no forward-mode derivative of a norm over groups, and a compiled network that meets one is, in
    silence, never run compiled again.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *given: Any) -> Any:
        """What the network says."""
        return self.net.forward(*given)
