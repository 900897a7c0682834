"""The state of a run: everything that changes from step to step, and its checkpoints."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from inkwash import checkpoint
from inkwash.kinds import to_table
from inkwash.modelfolder import Config, save_model
from inkwash.recipes import write_recipe
from inkwash.training.ema import Ema
from inkwash.training.setup import Setup
from inkwash.types import Remembering


@dataclass
class State:
    """Weights, their average, the optimisers, and the counters of a run.

    step: finished steps; seconds: spent training, over all sessions; skipped: steps with a non-finite loss or
    gradient; streak: how many of them in a row at the end; best: the lowest validation loss at a checkpoint;
    accumulate: the parts a batch is computed in, more of them after running out of memory; memory: what the objective
    has learned from its losses, if it does.
    """

    net: nn.Module
    ema: Ema
    optims: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    skipped: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    streak: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    best: dict[str, float] = field(default_factory=dict)
    accumulate: int = 1
    memory: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def fresh(cls, setup: Setup) -> State:
        """The state before the first step."""
        net = setup.model.net
        state = cls(net, Ema(net, setup.recipe.train.ema), setup.recipe.optim.build(net))
        state.skipped, state.streak = state.skipped.to(setup.device), state.streak.to(setup.device)
        state.accumulate = setup.recipe.train.accumulate
        objective = setup.recipe.objective
        state.memory = objective.memory() if isinstance(objective, Remembering) else {}
        return state

    def save(self, setup: Setup, run: File, validation: float | None = None) -> File:
        """Publish checkpoints/step-N atomically and drop old ones; `best` may now be this one. Returns its folder.

        Raises checkpoint.DiskFull with everything that was there still there, and this state unchanged.
        """
        best = self.best
        if validation is not None and validation < best.get("loss", math.inf):
            best = {"step": self.step, "loss": validation}
        optim, layout = checkpoint.flatten([o.state_dict() for o in self.optims])
        counters = {
            "step": self.step,
            "seconds": self.seconds,
            "skipped": int(self.skipped),
            "streak": int(self.streak),
            "best": best,
            "accumulate": self.accumulate,
            "data": setup.dataset.fingerprint,
            "objective": _kind(setup),
            "optim": layout,
        }
        folder = checkpoint.publish(
            run / "checkpoints" / f"step-{self.step}",
            {"net": self.net.state_dict(), "ema": self.ema.net.state_dict(), "optim": optim}
            | ({"memory": self.memory} if self.memory else {}),
            {"state.json": json.dumps(counters), "recipe.toml": write_recipe(setup.recipe)},
        )
        self.best = best
        kept = {folder, run / "checkpoints" / f"step-{int(best['step'])}"} if best else {folder}
        checkpoint.prune(run / "checkpoints", setup.recipe.train.keep, kept)
        return folder

    def save_model(self, setup: Setup, run: File) -> None:
        """Publish model/, the averaged weights, atomically. Raises as `save` does."""
        save_model(self.trained(setup), self.ema.net.state_dict(), run / "model")

    def restore(self, folder: File, setup: Setup) -> None:
        """Take over the state of a checkpoint. Raises checkpoint.CheckpointError where it is damaged."""
        saved = checkpoint.load(folder)
        counters: dict[str, Any] = json.loads(saved.texts["state.json"])
        if counters["data"] != setup.dataset.fingerprint:
            raise ValueError(
                f"The data have changed since {folder} was written: {setup.dataset.name} has fingerprint "
                f"{setup.dataset.fingerprint[:12]}, then {counters['data'][:12]}. A run continues on the data it began "
                "with; to train on these, start a new one with --init-from."
            )
        self.net.load_state_dict(saved.tensors["net"])
        self.ema.net.load_state_dict(saved.tensors["ema"])
        for optim, state in zip(
            self.optims, checkpoint.unflatten(saved.tensors["optim"], counters["optim"]), strict=True
        ):
            optim.load_state_dict(state)
        kept = saved.tensors.get("memory", {})
        same = counters.get("objective") == _kind(setup)  # another one's losses say nothing of this one's
        if same and {n: v.shape for n, v in kept.items()} == {n: v.shape for n, v in self.memory.items()}:
            self.memory = dict(kept)  # else it begins anew
        self.step, self.seconds, self.best = counters["step"], counters["seconds"], counters["best"]
        self.accumulate = max(self.accumulate, counters["accumulate"])
        self.skipped.fill_(counters["skipped"])
        self.streak.fill_(counters["streak"])

    def trained(self, setup: Setup) -> Config:
        """The model's config with how much it has been trained."""
        images = self.step * setup.recipe.train.batch_size
        return replace(setup.config, trained={"steps": self.step, "images": images, "seconds": round(self.seconds, 1)})


def _kind(setup: Setup) -> str:
    """Which objective a memory belongs to."""
    return str(to_table(setup.recipe.objective)["kind"])
