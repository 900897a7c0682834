"""A run's folder: recipe.toml, metrics.jsonl, samples/, checkpoints/step-N/, and model/."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any

import torch

from inkwash import checkpoint
from inkwash.checkpoint.atomic import flush, held
from inkwash.conditions import Conditions
from inkwash.kinds import to_table
from inkwash.pictures import save_png
from inkwash.pipeline import Pipeline
from inkwash.recipes import LENGTHS, Recipe, RecipeError, read_recipe, write_recipe
from inkwash.training import snapshots
from inkwash.training.previews import Asked, preview_steps
from inkwash.training.setup import Setup
from inkwash.training.state import State

FIXED = (
    *("data", "path", "target", "net", "inputs", "conditions", "optim.kind"),
    *("train.seed", "train.batch_size", "train.ema", "teacher.pairs", "teacher.sampler"),
)
"""What a resumed run cannot change: its state would mean something else."""

PREVIEW = 64
"""Pictures in a forward pass while samples are drawn in training, where no single one is waited for."""


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
        if any((folder / "checkpoints").glob("step-*")) or (folder / "model").exists():  # else nothing can be lost
            raise ValueError(
                f"{folder} holds a run already. Continue it with `inkwash train --resume {folder}`, "
                "or choose another folder with --out."
            )
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file. Choose a folder for the run with --out.")
        return cls(folder)

    @classmethod
    def at(cls, folder: str | File, wanted: str = " to resume") -> Run:
        """The folder of the run that is, or contains, `folder` (a run or one of its checkpoints), wanted for something.

        Raises ValueError where there is no run.
        """
        for candidate in (File(folder), File(folder).resolve().parent.parent):
            if (candidate / "recipe.toml").is_file() and (candidate / "checkpoints").is_dir():
                return cls(candidate)
        why = "there is no such folder" if not File(folder).exists() else "it has no recipe.toml and checkpoints/"
        runs = sorted(str(p.parent) for p in File("runs").glob("*/checkpoints"))
        known = f"Runs found here: {', '.join(runs[:5])}." if runs else ""
        raise ValueError(f"No run{wanted} in {folder}: {why}. {known}".rstrip())

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

    def begin(self, recipe: Recipe, step: int, *, resumed: bool) -> list[str]:
        """Write the recipe; in a run resumed at `step`, cut what was logged and set aside what was saved after it.

        Returns what a user should know of that.
        """
        kept = self.rewind(step if resumed else -1)
        notes = self._taken_back(recipe) if resumed else []
        _replace(self.folder / "recipe.toml", write_recipe(recipe))
        snapshots.cut(self.folder, step)
        return notes + kept

    def rewind(self, step: int) -> list[str]:
        """Cut what was logged after a step, and set aside what was saved after it; what a user should know of that."""
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        (self.folder / "checkpoints").mkdir(exist_ok=True)
        metrics = self.folder / "metrics.jsonl"
        _replace(metrics, "".join(json.dumps(m) + "\n" for m in read_metrics(metrics) if m["step"] <= step))
        later = [f for f in (self.folder / "checkpoints").glob("step-*") if int(f.name.removeprefix("step-")) > step]
        aside = self.folder / "set-aside"
        for folder in later:
            aside.mkdir(exist_ok=True)
            n = sum(1 for _ in aside.glob(f"{folder.name}*"))
            folder.rename(aside / (f"{folder.name}-{n + 1}" if n else folder.name))
        names = ", ".join(sorted(f.name for f in later))
        return [f"Going on from step {step}; the later {names} went to {aside}."] if later else []

    def _taken_back(self, recipe: Recipe) -> list[str]:
        """What to say where the model has been given sampling settings that are not its recipe's: it loses them."""
        try:
            table = json.loads(checkpoint.load_text(self.folder / "model", "config.json"))["sampling"]
        except (checkpoint.CheckpointError, OSError, ValueError, KeyError, TypeError):
            return []  # no model yet, or none that could be sampled anyway
        told = [read_recipe(self.folder / "recipe.toml").sampler, recipe.sampler]
        if table in [json.loads(json.dumps(to_table(sampler))) for sampler in told]:
            return []
        return [
            f"{self.folder / 'model'} has sampling settings that were adopted after training. The next checkpoint "
            f"saves it with the recipe's again: {recipe.sampler}. Adopt them anew at the end."
        ]

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the run until the end of the block. Raises ValueError where another process is training it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder) as free:
            if not free:
                raise ValueError(
                    f"{self.folder} is being trained by another process. Wait for it, or use another --out."
                )
            yield

    def board(self, step: int) -> Any:
        """A TensorBoard writer into tensorboard/, which drops what it may hold after `step`."""
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter
        return writer(str(self.folder / "tensorboard"), purge_step=step)

    def snapshot(self, setup: Setup, state: State) -> list[str]:
        """Publish the kept averages where it is time for them; what a user should know. See `snapshots.take`."""
        most, series = setup.recipe.train.snapshots, state.series
        if not (series and snapshots.due(state.step, most)):
            return []
        averages = {name: average.net.state_dict() for name, average in series.items()}
        lengths = {name: average.sigma_rel for name, average in series.items()}
        return snapshots.take(self.folder, state.step, averages, lengths, state.trained(setup).trained, most)

    def log(self, lines: Sequence[str]) -> None:
        """Append lines to metrics.jsonl: all of them or, where the disk is full (OSError), none."""
        with (self.folder / "metrics.jsonl").open("ab") as file:
            before = file.tell()
            try:
                file.write("".join(line + "\n" for line in lines).encode())
                file.flush()
            except OSError:
                file.truncate(before)
                raise

    def sample(self, setup: Setup, state: State, asked: Asked | None = None) -> File | None:
        """Draw samples with the averaged weights and fixed seeds, in few steps; publish samples/step-N.png.

        asked: their conditions; None: every class in turn. Vectors of other than two numbers have no picture: None.
        """
        from inkwash.gallery import sheet

        if len(setup.config.shape) == 1 and setup.config.shape != (2,):
            return None
        pipe, steps = preview(setup, state)
        if asked is None:
            drawn = pipe(setup.recipe.train.samples, steps=steps, seed=0)
        else:
            drawn = pipe(asked.count, cond=asked.cond, steps=steps, seed=0)
        path = self.folder / "samples" / f"step-{state.step:07d}.png"
        save_png(sheet(drawn) if asked is None else asked.sheet(drawn), path, drawn.settings)
        return path


def preview(setup: Setup, state: State) -> tuple[Pipeline, int | None]:
    """The averaged weights ready to draw many pictures quickly, and in how many steps (None: as a list of times says).

    For pictures drawn while training waits.
    """
    model = replace(setup.model, net=state.ema.net)
    chunk = PREVIEW if len(setup.config.shape) == 3 else None
    pipe = Pipeline(state.trained(setup), model, setup.device, chunk, setup.codec)
    return pipe, preview_steps(setup.config)


def resume_recipe(
    run: str | File, overrides: Mapping[str, Any] | None = None, sets: Sequence[str] = ()
) -> tuple[Recipe, list[str]]:
    """The recipe of a run to resume, with changes, and a line for each difference.

    Raises RecipeError for mistakes, and for a change to what cannot change within a run.
    """
    file = Run.at(run).folder / "recipe.toml"
    old = read_recipe(file)
    return continued(old, read_recipe(file, overrides, sets), run)


def continued(old: Recipe, new: Recipe, run: str | File) -> tuple[Recipe, list[str]]:
    """The new recipe for a run begun with the old one, what it leaves open taken from there, and the differences.

    Raises RecipeError for a change to what cannot change within a run.
    """
    was, now = _flat(to_table(old)), _flat(to_table(new))
    if now.get("conditions.vector.names") == []:
        del now["conditions.vector.names"]  # those of the data
    auto = {n: getattr(old.train, n) for n in ("precision", "compile") if getattr(new.train, n) == "auto"}
    hidden = {f"train.{n}" for n in auto}
    length = {f"train.{n}" for n in LENGTHS} | hidden
    keys = [k for k in {**was, **now} if was.get(k) != now.get(k) and (k in now or k in length)]
    refused = [k for k in keys if any(k == f or k.startswith(f"{f}.") for f in FIXED)]
    if (old.learns_variance, old.jumps) != (new.learns_variance, new.jumps):
        refused.append("objective.kind")  # the network has other outputs
    if (old.train.label_dropout == 1) != (new.train.label_dropout == 1):
        refused.append("train.label_dropout")  # without classes, or with them
    if new.codec is not None and old.codec is None:
        refused.append("codec.folder")
    if new.teacher is not None and old.teacher is None:
        refused.append("teacher.run")
    if refused:
        listed = "\n  - ".join(f"{k}: {was.get(k)!r} -> {now.get(k)!r}" for k in refused)
        raise RecipeError(
            f"A resumed run cannot change these:\n  - {listed}\nStart a new run instead, with --init-from {run}."
        )
    train = replace(new.train, **auto)
    changed = [k for k in keys if k not in hidden]
    told = [f"{k}: {was.get(k, 'not set')} -> {now.get(k, 'not set')}" for k in changed]
    codec = old.codec and replace(old.codec, folder=(new.codec or old.codec).folder)
    told_by = old.conditions or Conditions()  # runs of before had none, whatever their data have
    teacher = old.teacher and replace(old.teacher, run=(new.teacher or old.teacher).run)
    kept = replace(new, data=old.data, net=old.net, inputs=old.inputs, train=train, codec=codec, conditions=told_by)
    return replace(kept, teacher=teacher), told


def read_metrics(file: File) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl; what a crash cut short or a disk damaged is left out."""
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else ():
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return [m for m in found if isinstance(m, dict) and "step" in m]


def memory_used(device: torch.device) -> int:
    """Peak memory in bytes: of the accelerator's allocator, or of the process; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _replace(file: File, text: str) -> None:
    """Write a file so that it is the old one or the new one, whenever the process is killed."""
    staged = file.with_name(f".{file.name}.new")
    staged.write_text(text, encoding="utf-8")
    flush(staged)
    staged.replace(file)


def _flat(table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{where}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
