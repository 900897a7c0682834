"""A run's folder: recipe.toml, metrics.jsonl, samples/, checkpoints/step-N/, and model/."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import torch

from inkwash import checkpoint
from inkwash.kinds import to_table
from inkwash.model import Model
from inkwash.pictures import save_png
from inkwash.pipeline import Pipeline
from inkwash.recipes import Recipe, RecipeError, read_recipe, write_recipe
from inkwash.training.setup import Setup
from inkwash.training.state import State

if TYPE_CHECKING:
    from inkwash.training.loop import Progress

FIXED = ("data", "path", "target", "net", "inputs", "optim.kind", "train.seed", "train.batch_size", "train.ema")
"""What a resumed run cannot change: its state would mean something else."""


@dataclass(frozen=True)
class Run:
    """The folder of one run."""

    folder: File

    @classmethod
    def new(cls, out: str | File | None, recipe: Recipe) -> Run:
        """A folder for a new run. Raises ValueError where another run is already in it."""
        if out is None:
            name = File(recipe.data.source.rstrip("/")).name.split(".")[0] or "run"
            taken = (File("runs") / (name if n == 1 else f"{name}-{n}") for n in range(1, sys.maxsize))
            return cls(next(f for f in taken if not f.exists()))
        folder = File(out)
        if any((folder / "checkpoints").glob("step-*")) or (folder / "model").exists():
            raise ValueError(
                f"{folder} holds a run already. Continue it with `inkwash train --resume {folder}`, "
                "or choose another folder with --out."
            )
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file. Choose a folder for the run with --out.")
        return cls(folder)

    @classmethod
    def at(cls, folder: str | File) -> Run:
        """The folder of the run that is, or contains, `folder` (a run or one of its checkpoints).

        Raises ValueError where there is no run.
        """
        for candidate in (File(folder), File(folder).parent.parent):
            if (candidate / "recipe.toml").is_file() and (candidate / "checkpoints").is_dir():
                return cls(candidate)
        why = "there is no such folder" if not File(folder).exists() else "it has no recipe.toml and checkpoints/"
        runs = sorted(str(p.parent) for p in File("runs").glob("*/checkpoints"))
        known = f"Runs found here: {', '.join(runs[:5])}." if runs else ""
        raise ValueError(f"No run to resume in {folder}: {why}. {known}".rstrip())

    def resume_point(self, asked: str | File) -> File:
        """The checkpoint to resume from: the one asked for, or the newest one that is whole.

        Raises CheckpointError for a damaged one, naming the newest good one; nothing is ever skipped in silence.
        """
        checkpoints = self.folder / "checkpoints"
        newest, problems = checkpoint.newest_good(checkpoints)
        if File(asked).resolve() != self.folder.resolve():
            try:
                checkpoint.verify(File(asked))
            except checkpoint.CheckpointError as error:
                raise checkpoint.CheckpointError(f"{error} The newest good one: --resume {newest}") from error
            return File(asked)
        if problems:
            listed = "\n  - ".join(problems)
            raise checkpoint.CheckpointError(
                f"The newest checkpoints of {self.folder} cannot be used:\n  - {listed}\n"
                f"The newest good one: --resume {newest}"
            )
        return newest

    def begin(self, recipe: Recipe, step: int, *, resumed: bool) -> None:
        """Write the recipe; where a run is resumed at `step`, cut what was logged after it."""
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        (self.folder / "recipe.toml").write_text(write_recipe(recipe), encoding="utf-8")
        metrics = self.folder / "metrics.jsonl"
        kept = [m for m in read_metrics(metrics) if m["step"] <= step] if resumed else []
        staged = metrics.with_suffix(".new")
        staged.write_text("".join(json.dumps(m) + "\n" for m in kept), encoding="utf-8")
        staged.replace(metrics)

    def board(self) -> Any:
        """A TensorBoard writer into tensorboard/. Raises ValueError where TensorBoard is not installed."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                'train.tensorboard = true needs TensorBoard: pip install "inkwash[track]", or leave it out; '
                "metrics.jsonl holds the same numbers."
            ) from error
        writer: Any = SummaryWriter
        return writer(str(self.folder / "tensorboard"))

    def log(self, progress: Progress, board: Any = None) -> None:
        """Append a line of numbers to metrics.jsonl; what is not finite is left out."""
        numbers = {f.name: getattr(progress, f.name) for f in fields(progress)}
        line = {k: round(v, 9) for k, v in numbers.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        line.pop("done")
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        for name in line.keys() - {"step"} if board is not None else ():
            board.add_scalar(name, line[name], progress.step)

    def sample(self, setup: Setup, state: State) -> File:
        """Draw samples with the averaged weights and fixed seeds; publish samples/step-N.png."""
        from inkwash.gallery import sheet

        model = Model(state.ema.net, setup.model.path, setup.model.target, setup.model.inputs, setup.model.autocast)
        drawn = Pipeline(state.trained(setup), model, setup.device)(setup.recipe.train.samples, seed=0)
        path = self.folder / "samples" / f"step-{state.step:07d}.png"
        save_png(sheet(drawn), path, drawn.settings)
        return path


def resume_recipe(
    run: str | File, overrides: Mapping[str, Any] | None = None, sets: Sequence[str] = ()
) -> tuple[Recipe, list[str]]:
    """The recipe of a run to resume, with changes, and a line for each difference.

    Raises RecipeError for mistakes, and for a change to what cannot change within a run.
    """
    file = Run.at(run).folder / "recipe.toml"
    old = read_recipe(file)
    new = read_recipe(file, overrides, sets)
    was, now = _flat(to_table(old)), _flat(to_table(new))
    keys = [k for k in {**was, **now} if was.get(k) != now.get(k)]
    refused = [k for k in keys if any(k == f or k.startswith(f"{f}.") for f in FIXED)]
    if refused:
        listed = "\n  - ".join(f"{k}: {was.get(k)!r} -> {now.get(k)!r}" for k in refused)
        raise RecipeError(
            f"A resumed run cannot change these:\n  - {listed}\nStart a new run instead, with --init-from {run}."
        )
    return new, [f"{k}: {was.get(k, 'not set')} -> {now.get(k, 'not set')}" for k in keys]


def read_metrics(file: File) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; a last line cut short by a crash is left out."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def memory_used(device: torch.device) -> int:
    """Peak memory in bytes: of the accelerator's allocator, or of the process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _flat(table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{where}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
