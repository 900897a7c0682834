"""What a run would cost, found out before it starts: `inkwash train --dry-run`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from inkwash.data import load as load_data
from inkwash.data import split
from inkwash.noise import Philox
from inkwash.recipes import Recipe
from inkwash.training.ema import SERIES
from inkwash.training.setup import Setup, set_up


@dataclass(frozen=True)
class Plan:
    """The figures of a run.

    images: in training and held out; parameters; flops: of one forward pass of one example (a multiply and an add are
    2); memory: estimated bytes in training; step_seconds: measured; steps, seconds: of the whole run; epochs.
    """

    recipe: Recipe
    name: str
    shape: tuple[int, ...]
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


def plan(recipe: Recipe, data_progress: Callable[[str, int, int], None] | None = None) -> Plan:
    """Load the data, build the model, time three training steps, and throw it all away."""
    dataset = load_data(recipe.data, progress=data_progress)
    setup = set_up(recipe, dataset, progress=data_progress)
    train = setup.recipe.train
    mine, held_out = split(dataset, recipe.data.val_fraction, train.seed)
    net = setup.model.net
    parameters = list(net.parameters())
    flops, fixed, activations = _cost(setup)
    optims = setup.recipe.optim.build(net)
    if train.compile:
        net.compile()
    seconds = []
    warm_up = 3 if train.compile else 1  # the first step compiles, and the next may find that it must once more
    for _ in range(warm_up + 3):
        began = time.perf_counter()
        torch.autograd.backward(_losses(setup, train.batch_size // train.accumulate).mean())
        for optim in optims:
            optim.step()
            optim.zero_grad()
        if setup.device.type != "cpu":
            torch.accelerator.synchronize(setup.device)
        seconds.append(time.perf_counter() - began)
    step = min(seconds[warm_up:]) * train.accumulate
    steps = train.steps or max(1, int(60 * (train.minutes or 0) / step))
    averages = len({train.ema, *(SERIES if train.snapshots else ())})
    return Plan(
        recipe=setup.recipe,
        name=dataset.name,
        shape=dataset.shape,
        classes=dataset.classes,
        images=len(mine),
        held_out=len(held_out),
        device=str(setup.device),
        parameters=sum(p.numel() for p in parameters),
        flops=flops,
        # Weights, gradients and the averages; what optimisers keep; what the backward pass keeps.
        memory=(2 + averages) * sum(p.nbytes for p in parameters)
        + _kept_by(optims)
        + fixed
        + activations * (train.batch_size // train.accumulate),
        step_seconds=step,
        steps=steps,
        seconds=steps * step,
        epochs=steps * train.batch_size / max(len(mine), 1),
    )


def _losses(setup: Setup, size: int) -> Tensor:
    rows = np.arange(size) % len(setup.dataset)
    labels = None if setup.dataset.labels is None else setup.dataset.labels[rows]
    batch = setup.batch(np.asarray(setup.dataset.images[rows]), labels, torch.arange(size))._replace(size=size)
    return setup.recipe.objective(setup.model, batch, Philox(0, batch.number), 0.0)


def _kept_by(optims: Sequence[torch.optim.Optimizer]) -> int:
    """Bytes of the optimisers' state."""
    values = [v for optim in optims for state in optim.state.values() for v in state.values()]
    return sum(v.nbytes for v in values if isinstance(v, Tensor))


def _cost(setup: Setup) -> tuple[int, int, int]:
    """FLOPs of one example's forward pass, and what its backward pass keeps: bytes of a batch and of every example.

    A batch of any size keeps one copy of the weights in the precision they are computed in.
    """
    few, many = 2, 6
    kept = {size: _kept_in_forward(setup, size) for size in (few, many)}
    activations = (kept[many] - kept[few]) // (many - few)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _losses(setup, 1)
    return int(counter.get_total_flops()), max(kept[few] - few * activations, 0), activations


def _kept_in_forward(setup: Setup, size: int) -> int:
    """Bytes kept for the backward pass of so many examples, without the weights themselves."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in setup.model.net.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def back(tensor: Any) -> Any:
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, back):
        loss = _losses(setup, size)  # held until the sizes are summed, so that no two share an address
    total = sum(kept.values())
    del loss
    return total
