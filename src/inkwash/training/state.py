"""The state of a run: everything that changes from step to step, and its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor, nn

from inkwash import checkpoint
from inkwash.kinds import to_table
from inkwash.modelfolder import Config, save_model
from inkwash.recipes import write_recipe
from inkwash.training.ema import SERIES, Ema, group
from inkwash.training.setup import Setup
from inkwash.training.validate import Lowest
from inkwash.types import Remembering

OWN = "ema"
"""The file of the run's own average."""

_LOSSES = ("held_out", "train")


@dataclass
class State:
    """Weights, their averages, the optimisers, and the counters of a run.

    averages: the run's own, named "ema", and those of `SERIES` that differ from it, by the names of their files; step:
    finished steps; seconds: spent training, over all sessions; skipped: steps with a non-finite loss or gradient;
    streak: how many of them in a row at the end; best: the step of the checkpoint with the lowest `value` of what
    `measure` names; lowest: the lowest validation loss, see `validate.overfitting`; accumulate: the parts
    a batch is computed in, more of them after running out of memory; memory: what the objective has learned from its
    losses, if it does.
    """

    net: nn.Module
    averages: dict[str, Ema]
    optims: list[torch.optim.Optimizer]
    step: int = 0
    seconds: float = 0.0
    skipped: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    streak: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    best: dict[str, Any] = field(default_factory=dict)
    lowest: Lowest | None = None
    accumulate: int = 1
    memory: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def fresh(cls, setup: Setup) -> State:
        """The state before the first step."""
        net, train = setup.model.net, setup.recipe.train
        more = [length for length in SERIES if length != train.ema] if train.snapshots else []
        averages = {OWN: Ema(net, train.ema)} | {group(length): Ema(net, length) for length in more}
        state = cls(net, averages, setup.recipe.optim.build(net))
        state.skipped, state.streak = state.skipped.to(setup.device), state.streak.to(setup.device)
        state.accumulate = train.accumulate
        objective = setup.recipe.objective
        state.memory = objective.memory() if isinstance(objective, Remembering) else {}
        return state

    @property
    def ema(self) -> Ema:
        """The run's own average: what is sampled from, measured, and published as the model."""
        return self.averages[OWN]

    @property
    def series(self) -> dict[str, Ema]:
        """Those of `SERIES`, where they are kept, by the names of their files in a snapshot."""
        kept = {e.sigma_rel: e for e in self.averages.values()}
        return {group(length): kept[length] for length in SERIES if length in kept} if len(kept) > 1 else {}

    def save(self, setup: Setup, run: File, score: tuple[str, float] | None = None) -> File:
        """Publish checkpoints/step-N atomically and drop old ones. Returns its folder.

        score: what was measured at this step and its value, the lower the better: `best` may now be this one. Raises
        checkpoint.DiskFull with everything that was there still there, and this state unchanged.
        """
        best = self.best
        if score is not None and (best.get("measure") != score[0] or score[1] < best["value"]):
            best = {"step": self.step, "measure": score[0], "value": score[1]}
        optim, layout = checkpoint.flatten([o.state_dict() for o in self.optims])
        counters = {
            "step": self.step,
            "seconds": self.seconds,
            "skipped": int(self.skipped),
            "streak": int(self.streak),
            "best": best,
            "lowest": self.lowest and {"key": self.lowest.key, "step": self.lowest.step, "risen": self.lowest.risen},
            "accumulate": self.accumulate,
            "lengths": self.lengths,
            "trained": self.trained(setup).trained,
            "data": setup.dataset.fingerprint,
            "objective": _kind(setup),
            "optim": layout,
        }
        folder = checkpoint.publish(
            run / "checkpoints" / f"step-{self.step}",
            {"net": self.net.state_dict(), **self.averaged(), "optim": optim}
            | ({"memory": self.memory} if self.memory else {})
            | ({"lowest": {n: torch.from_numpy(getattr(self.lowest, n)) for n in _LOSSES}} if self.lowest else {}),
            {"state.json": json.dumps(counters), "recipe.toml": write_recipe(setup.recipe)},
        )
        self.best = best
        kept = {folder, run / "checkpoints" / f"step-{int(best['step'])}"} if best else {folder}
        checkpoint.prune(run / "checkpoints", setup.recipe.train.keep, kept)
        return folder

    def save_model(self, setup: Setup, run: File, measured: str = "") -> None:
        """Publish model/, the averaged weights, atomically. measured: more of its card. Raises as `save` does."""
        save_model(self.trained(setup), self.ema.net.state_dict(), run / "model", measured, codec=setup.codec)

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
        if not self.averages.keys() <= saved.tensors.keys():  # of an older inkwash, or of a run that kept no snapshots
            self.averages = {OWN: self.ema}
        for name, average in self.averages.items():
            average.net.load_state_dict(saved.tensors[name])
        for optim, state in zip(
            self.optims, checkpoint.unflatten(saved.tensors["optim"], counters["optim"]), strict=True
        ):
            optim.load_state_dict(state)
        kept = saved.tensors.get("memory", {})
        same = counters.get("objective") == _kind(setup)  # another one's losses say nothing of this one's
        if same and {n: v.shape for n, v in kept.items()} == {n: v.shape for n, v in self.memory.items()}:
            self.memory = dict(kept)  # else it begins anew
        self.step, self.seconds, self.best = counters["step"], counters["seconds"], counters["best"]
        if lowest := counters.get("lowest"):
            held_out, seen = (saved.tensors["lowest"][n].numpy().copy() for n in _LOSSES)
            self.lowest = Lowest(lowest["key"], lowest["step"], held_out, seen, lowest["risen"])
        self.accumulate = max(self.accumulate, counters["accumulate"])
        self.skipped.fill_(counters["skipped"])
        self.streak.fill_(counters["streak"])

    def trained(self, setup: Setup) -> Config:
        """The model's config with how much it has been trained, and the length of its average."""
        images = self.step * setup.recipe.train.batch_size
        trained = {"steps": self.step, "images": images, "seconds": round(self.seconds, 1)}
        trained |= {} if setup.pairs_seconds is None else {"pairs_seconds": round(setup.pairs_seconds, 1)}
        return replace(setup.config, trained=trained, ema=self.ema.sigma_rel)

    @property
    def lengths(self) -> dict[str, float]:
        """sigma_rel of every average."""
        return {name: average.sigma_rel for name, average in self.averages.items()}

    def averaged(self) -> dict[str, dict[str, Tensor]]:
        """The weights of every average."""
        return {name: average.net.state_dict() for name, average in self.averages.items()}


def averages_of(folder: File) -> tuple[dict[str, float], dict[str, float]]:
    """The lengths of the averages in a checkpoint, by the names of their files, and how much it has been trained.

    Raises checkpoint.CheckpointError where it is damaged.
    """
    counters: dict[str, Any] = json.loads(checkpoint.load_text(folder, "state.json"))
    return counters.get("lengths", {}), counters.get("trained", {})


def _kind(setup: Setup) -> str:
    """Which objective a memory belongs to."""
    return str(to_table(setup.recipe.objective)["kind"])
