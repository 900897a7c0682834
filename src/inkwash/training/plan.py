"""What a run would cost, found out before it starts: `inkwash train --dry-run`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from inkwash.data import load as load_data
from inkwash.data import split
from inkwash.nets.layers import Recomputed
from inkwash.noise import Philox
from inkwash.recipes import Recipe
from inkwash.training.compiling import Compiled
from inkwash.training.conditioning import require
from inkwash.training.ema import SERIES
from inkwash.training.setup import Setup, set_up

LATE = math.nextafter(1.0, 0.0)
"""How far the run is of which the cost is found out: at its end it learns all that it ever does."""


@dataclass(frozen=True)
class Plan:
    """The figures of a run.

    latent: the shape of what is diffused, where that is latents; images: in training and held out; parameters; flops:
    of one example's loss, the mean over a batch (a multiply and an add are 2); memory: estimated bytes in training, of
    what is taught the student's activations alone; step_seconds: measured; steps, seconds: of the whole run; epochs;
    pairs_seconds: what drawing a teacher's pairs takes before it; notes: what a user should know. A step is one of the
    run's end: before an objective's `begin` they cost less.
    """

    recipe: Recipe
    name: str
    shape: tuple[int, ...]
    latent: tuple[int, ...] | None
    classes: tuple[str, ...]
    images: int
    held_out: int
    device: str
    parameters: int
    flops: int
    memory: int
    step_seconds: float
    steps: int
    seconds: float
    epochs: float
    pairs_seconds: float = 0.0
    notes: tuple[str, ...] = ()


def plan(recipe: Recipe, data_progress: Callable[[str, int, int], None] | None = None) -> Plan:
    """Load the data, build the model, time three training steps, and throw it all away."""
    require(recipe)
    dataset = load_data(recipe.data, progress=data_progress)
    setup = set_up(recipe, dataset, dry=True, progress=data_progress)
    train = setup.recipe.train
    mine, held_out = split(dataset, recipe.data.val_fraction, train.seed)
    net = setup.model.net
    parameters = list(net.parameters())
    flops, fixed, activations = _cost(setup)
    optims = setup.recipe.optim.build(net)
    compiled = Compiled(net, train.compile is True)
    seconds = []
    warm_up = 3 if train.compile else 1  # the first step compiles, and the next may find that it must once more

    def learn() -> None:
        torch.autograd.backward(_losses(setup, train.batch_size // train.accumulate).mean())

    def forget() -> None:
        for optim in optims:
            optim.zero_grad()

    for _ in range(warm_up + 3):
        began = time.perf_counter()
        compiled(learn, forget)
        for optim in optims:
            optim.step()
        forget()
        if setup.device.type != "cpu":
            torch.accelerator.synchronize(setup.device)
        seconds.append(time.perf_counter() - began)
    step = min(seconds[warm_up:]) * train.accumulate
    steps = setup.steps or max(1, int(60 * (train.minutes or 0) / step))
    averages = len({train.ema, *(SERIES if train.snapshots else ())})
    teacher = setup.teacher
    taught = list(teacher.pipe.model.net.parameters()) if teacher else []
    drawn = teacher.stated.pairs if teacher else 0
    return Plan(
        recipe=replace(setup.recipe, train=replace(train, compile=compiled.on)),
        name=dataset.name,
        shape=dataset.shape,
        latent=setup.config.shape if recipe.codec else None,
        classes=setup.config.classes,
        images=len(mine),
        held_out=len(held_out),
        device=str(setup.device),
        parameters=sum(p.numel() for p in parameters),
        flops=flops,
        # Weights, gradients and the averages; a teacher's weights; what optimisers keep, and the backward pass.
        memory=(2 + averages) * sum(p.nbytes for p in parameters)
        + sum(p.nbytes for p in taught)
        + _kept_by(optims)
        + fixed
        + activations * (train.batch_size // train.accumulate),
        step_seconds=step,
        steps=steps,
        seconds=steps * step,
        epochs=steps * train.batch_size / max(drawn or len(mine), 1),
        pairs_seconds=teacher.rehearsed(setup.dataset) if teacher and drawn else 0.0,
        notes=(*setup.notes, *compiled.notes),
    )


def _losses(setup: Setup, size: int) -> Tensor:
    rows = setup.dataset.take(np.arange(size) % len(setup.dataset))
    batch = setup.batch(rows, torch.arange(size))._replace(size=size)
    return setup.objective(setup.model, batch, Philox(0, batch.number), LATE)


def _kept_by(optims: Sequence[torch.optim.Optimizer]) -> int:
    """Bytes of the optimisers' state."""
    values = [v for optim in optims for state in optim.state.values() for v in state.values()]
    return sum(v.nbytes for v in values if isinstance(v, Tensor))


def _cost(setup: Setup) -> tuple[int, int, int]:
    """FLOPs of one example's loss, and what its backward pass keeps: bytes of a batch and of every example.

    A batch of any size keeps one copy of the weights in the precision they are computed in. Of blocks that are computed
    again, one at a time keeps more than what it was given: the fullest counts.
    """
    few, many = 2, 6
    again = [part for part in setup.model.net.modules() if isinstance(part, Recomputed) and part.recomputes]
    kept = {size: sum(_kept_in_forward(setup, size)) for size in (few, many)}
    if again:
        for block in again:
            block.recomputes = False
        for size in kept:
            kept[size] += max(_kept_in_forward(setup, size, again)[1:])
        for block in again:
            block.recomputes = True
    activations = (kept[many] - kept[few]) // (many - few)
    size = setup.recipe.train.batch_size // setup.recipe.train.accumulate
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _losses(setup, size)
    return counter.get_total_flops() // size, max(kept[few] - few * activations, 0), activations


def _kept_in_forward(setup: Setup, size: int, blocks: Sequence[nn.Module] = ()) -> list[int]:
    """Bytes kept for the backward pass of so many examples, without the weights: outside of blocks, and in each.

    What a block is given is not counted in it.
    """
    kept: list[dict[int, int]] = [{} for _ in (None, *blocks)]
    known: dict[int, Tensor] = {p.untyped_storage().data_ptr(): p for p in setup.model.net.parameters()}
    place = 0

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[place][storage.data_ptr()] = storage.nbytes()
        return tensor

    def back(tensor: Any) -> Any:
        return tensor

    def enter(block: nn.Module, args: Any) -> None:
        nonlocal place
        place = 1 + blocks.index(block)
        known.update({a.untyped_storage().data_ptr(): a for a in args if isinstance(a, Tensor)})

    def leave(block: nn.Module, args: Any, out: Any) -> None:
        nonlocal place
        place = 0

    hooks = [h for b in blocks for h in (b.register_forward_pre_hook(enter), b.register_forward_hook(leave))]
    with torch.autograd.graph.saved_tensors_hooks(keep, back):
        loss = _losses(setup, size)  # held until the sizes are summed, so that no two share an address
    total = [sum(part.values()) for part in kept]
    for hook in hooks:
        hook.remove()
    del loss
    return total
