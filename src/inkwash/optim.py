"""Optimisers and their learning-rate schedule.

Every optimiser here obeys a gate: where its attribute `found_inf` is a tensor holding 1, `step` changes nothing. The
training loop sets it without waiting for the device, so on CPUs and CUDA a non-finite gradient is skipped at no cost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from inkwash.kinds import OneOf
from inkwash.types import Component


@dataclass(frozen=True)
class Schedule(Component):
    """The learning rate over a run: a linear warm-up of `warmup` steps, constant, a linear decay to zero.

    decay: the fraction of the run, in steps or in time, that the decay takes at its end.
    """

    warmup: int = 50
    decay: float = 1 / 3

    def __post_init__(self) -> None:
        if self.warmup < 0 or not 0 <= self.decay <= 1:
            raise ValueError(f"warmup must be 0 or more and decay within [0, 1], not {self.warmup} and {self.decay}.")

    def __call__(self, step: int, progress: float) -> float:
        """The factor on the learning rate for the step that comes after `step` done ones, at `progress` in [0, 1]."""
        warm = min(1.0, (step + 1) / (self.warmup + 1))
        return warm * (min(1.0, (1.0 - progress) / self.decay) if self.decay > 0 else 1.0)


@dataclass(frozen=True)
class AdamW(Component):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), torch's fused implementation where there is one.

    Biases, norms and embeddings (parameters with fewer than two axes, and tables) are not decayed. Raises ValueError
    for settings out of range.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    schedule: Schedule = field(default_factory=Schedule)
    kind: Literal["adamw"] = field(default="adamw", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay, *self.betas)

    def build(self, net: nn.Module) -> list[torch.optim.Optimizer]:
        """The optimisers for the net's parameters."""
        matrices, rest = _split(net)
        return _adamw(matrices, rest, self.lr, self.betas, self.weight_decay)


@dataclass(frozen=True)
class Muon(Component):
    """Muon (Jordan et al. 2024) on weights of two axes and more, AdamW on the rest.

    The rest are biases, norms and embeddings, weights of fewer than 16 rows or columns, and convolutions in groups: a
    depthwise kernel is one small filter for each channel, and no matrix from channels to channels.
    A weight's update is its momentum with all singular values brought to about 1, scaled by 0.2·sqrt(longer side), the
    size of Adam's updates (Liu et al. 2025), so that one learning rate serves both. Raises ValueError for settings out
    of range.
    """

    lr: float = 2e-3
    momentum: float = 0.95
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    schedule: Schedule = field(default_factory=Schedule)
    kind: Literal["muon"] = field(default="muon", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check(self.lr, self.weight_decay, *self.betas, momentum=self.momentum)

    def build(self, net: nn.Module) -> list[torch.optim.Optimizer]:
        """The optimisers for the net's parameters."""
        matrices, rest = _split(net)
        grouped = {id(m.weight) for m in net.modules() if isinstance(m, _ConvNd) and m.groups > 1}
        wide = [p for p in matrices if min(p.shape[0], p[0].numel()) >= 16 and id(p) not in grouped]
        chosen = {id(p) for p in wide}
        thin = [p for p in matrices if id(p) not in chosen]  # too few directions to orthogonalise, or no matrices
        muon = (
            [Orthogonalised(wide, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)] if wide else []
        )
        return [*muon, *_adamw(thin, rest, self.lr, self.betas, self.weight_decay)]


AnyOptim = Annotated[AdamW | Muon, OneOf()]
"""An optimiser as a recipe names it."""


def orthogonalise(m: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of m [..., rows, columns] near 1 by Newton and Schulz's iteration, in bfloat16.

    The quintic's coefficients (Jordan et al. 2024) trade exactness for speed: values end within about [0.7, 1.2].
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = m.shape[-2] > m.shape[-1]
    x = (m.mT if tall else m).bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    out: Tensor = (x.mT if tall else x).to(m.dtype)
    return out


class Orthogonalised(torch.optim.Optimizer):
    """Muon's rule for parameters of two axes and more, an axis past the second counted to the columns."""

    found_inf: Tensor | None = None

    def __init__(self, params: Iterable[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            for shape in dict.fromkeys(p.shape for p in params):  # equal shapes go through one batched iteration
                self._step([p for p in params if p.shape == shape], group)

    def _step(self, params: list[Tensor], group: dict[str, Any]) -> None:
        shape, momentum = params[0].shape, group["momentum"]
        grads = torch.stack([p.grad for p in params if p.grad is not None])
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum"] for p in params]
        old = torch.stack(buffers)
        new = old + (1 - momentum) * (grads - old)
        update = orthogonalise((grads + momentum * (new - grads)).flatten(2)).reshape(grads.shape)
        lr = group["lr"] * 0.2 * max(shape[0], shape[1:].numel()) ** 0.5
        weights = torch.stack(params)
        moved = weights * (1 - group["lr"] * group["weight_decay"]) - lr * update
        if self.found_inf is not None:
            skip = self.found_inf.bool()
            new, moved = torch.where(skip, old, new), torch.where(skip, weights, moved)
        torch._foreach_copy_(buffers, list(new.unbind()))
        torch._foreach_copy_(params, list(moved.unbind()))


class GatedAdamW(torch.optim.AdamW):
    """torch's AdamW with the gate on every device.

    Fused kernels know it on `FUSED` devices. Others get the plain implementation, whose gate is read on the host before
    it begins: that waits for the device, and is sure.
    """

    found_inf: Tensor | None = None

    def __init__(self, params: Any, lr: float, betas: tuple[float, float]) -> None:
        groups = list(params)
        fused = all(p.device.type in FUSED for g in groups for p in g["params"])
        super().__init__(groups, lr=lr, betas=betas, fused=fused)

    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        if self.defaults["fused"] or self.found_inf is None:
            return super().step(closure)
        gate, self.found_inf = self.found_inf, None  # the plain implementation refuses to run with one
        try:
            return None if bool(gate) else super().step(closure)
        finally:
            self.found_inf = gate

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state, written perhaps on another device; which implementation runs is decided by this one's."""
        groups = [{**group, "fused": self.defaults["fused"]} for group in state_dict["param_groups"]]
        super().load_state_dict({**state_dict, "param_groups": groups})


FUSED = ("cpu", "cuda")
"""Devices whose fused kernel obeys `found_inf`."""


def _adamw(
    decayed: list[nn.Parameter], rest: list[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
) -> list[torch.optim.Optimizer]:
    """One optimiser, or none where there is nothing for it."""
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [g for g in groups if g["params"]]
    return [GatedAdamW(groups, lr, betas)] if groups else []


def _check(lr: float, weight_decay: float, *betas: float, momentum: float = 0.0) -> None:
    """Raise ValueError for the settings of an optimiser with which nothing is learned, or everything is lost."""
    if not (lr > 0 and math.isfinite(lr)):
        raise ValueError(f"lr = {lr} must be more than 0 and finite. Usual values are 1e-4 to 1e-2.")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay = {weight_decay} must be 0 or more and finite. Usual values are 0 to 0.1.")
    for name, value in (*(("betas", beta) for beta in betas), ("momentum", momentum)):
        if not 0 <= value < 1:
            raise ValueError(f"{name}: {value} must lie in [0, 1). Usual values are 0.9 to 0.999.")


def _split(net: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Weights that act as matrices, and everything else: biases, norms, embeddings."""
    tables = {id(p) for m in net.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    parameters = [p for p in net.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.ndim >= 2 and id(p) not in tables]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in parameters if id(p) not in chosen]
