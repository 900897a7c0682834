"""The training loop: a generator that yields progress. The caller shows it, or looks away."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.data import Dataset
from inkwash.data import Stream as Examples
from inkwash.data import load as load_data
from inkwash.device import out_of_memory
from inkwash.evaluation.card import measured_lines
from inkwash.noise import Philox
from inkwash.objectives import Requiring
from inkwash.recipes import Recipe, read_recipe
from inkwash.training.compiling import Compiled
from inkwash.training.conditioning import require
from inkwash.training.dropping import hidden
from inkwash.training.previews import Asked
from inkwash.training.progress import Progress, TrainingError
from inkwash.training.run import Run, continued, memory_used
from inkwash.training.scheduled import Scheduled
from inkwash.training.setup import Setup, set_up
from inkwash.training.state import State
from inkwash.training.validate import Validation, overfitting, unseen
from inkwash.types import Remembering

LOG_EVERY = 10
"""Steps between two reports: the loss is fetched from the device only then."""


def train(
    recipe: Recipe | Mapping[str, Any] | str | File | None = None,
    out: str | File | None = None,
    *,
    resume: str | File | None = None,
    stop: Callable[[], bool] = lambda: False,
    data_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Progress]:
    """Train as the recipe says, in the folder `out` (runs/<name> by default), yielding progress.

    resume: go on from a run's folder, or from one of its checkpoints, with its own recipe or one that differs in
    lengths and intervals. stop: asked after every step; when it says yes, the state is saved and training ends.
    data_progress: told (what, done, total) while data are prepared.

    Raises ValueError for what the recipe or the folder makes impossible, before anything heavy is built, and
    TrainingError when losses stay non-finite.
    """
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = read_recipe(recipe)
    start: File | None = None
    notes: list[str] = []
    if resume is not None:
        run = Run.at(resume)
        if out is not None and File(out).resolve() != run.folder.resolve():
            raise ValueError(f"out = {out} and resume = {resume} both say where. A resumed run stays in its folder.")
        start = run.resume_point(resume)
        old = read_recipe(run.folder / "recipe.toml")
        recipe, notes = continued(old, recipe or old, run.folder)
    elif recipe is None:
        raise ValueError("train needs a recipe, or a run to resume.")
    else:
        run = Run.new(out, recipe)
    if recipe.train.tensorboard and find_spec("tensorboard") is None:
        raise ValueError(
            'train.tensorboard = true needs TensorBoard: pip install "inkwash[track]", or leave it out; '
            "metrics.jsonl holds the same numbers."
        )
    if isinstance(recipe.objective, Requiring):
        recipe.objective.require()
    require(recipe)
    dataset = load_data(recipe.data, progress=data_progress)
    held_out = unseen(recipe, dataset, data_progress)
    setup = set_up(recipe, dataset, resumed=start is not None, progress=data_progress)
    state = State.fresh(setup)
    if start is not None:
        state.restore(start, setup)
    with run.alone():
        loop = _Loop(setup, state, run, held_out, stop, resumed=start is not None)
        loop.notes += [f"Changed: {note}" for note in notes]
        yield from loop.run()


class _Loop:
    """One session of training: the state, what feeds it, and what it writes."""

    def __init__(
        self,
        setup: Setup,
        state: State,
        run: Run,
        held_out: tuple[Dataset, np.ndarray] | None,
        stop: Callable[[], bool],
        *,
        resumed: bool,
    ) -> None:
        self.setup, self.state, self.files, self.stop, self.resumed = setup, state, run, stop, resumed
        self.recipe = setup.recipe
        self.objective = setup.objective
        mine = setup.trained_on
        self.examples = Examples(setup.dataset, self.recipe.train.seed, mine)
        self.validation = None if held_out is None else Validation(setup, held_out, (setup.dataset, mine))
        self.measure = None if held_out is None else Scheduled.of(setup, run.folder, held_out)
        self.notes: list[str] = [*setup.dataset.notes, *setup.notes]
        self.asked = Asked.of(setup, held_out or (setup.pictures, setup.seen_rows))
        if self.measure is not None:
            self.notes.append(self.measure.cost)
        if self.recipe.train.snapshots and not state.series:
            self.notes.append("No snapshots are taken: this run was begun without the averages they are of.")
        self.compiled = Compiled(setup.model.net, self.recipe.train.compile is True)
        self.unlogged: list[str] = []
        self.told_of_snapshots = False
        self.published = -1  # the step that the weights of model/ are of
        self.board = run.board(state.step) if self.recipe.train.tensorboard else None
        self.good = self._latest()

    def run(self) -> Iterator[Progress]:
        train, state = self.recipe.train, self.state
        self.notes += self.files.begin(self.recipe, state.step, resumed=self.resumed)
        if not self.resumed:
            report, sampled = self._report([], [], 0.0), self._sample()
            yield replace(report, sampled=sampled, notes=self._said())
        began = time.perf_counter() - state.seconds
        losses: list[Tensor] = []
        norms: list[Tensor] = []
        last = (state.step, time.perf_counter())
        while True:
            state.seconds = time.perf_counter() - began
            fraction = self._fraction()
            finished = fraction >= 1
            stopping = not finished and self.stop()
            due = {name for name, n in self._intervals().items() if losses and state.step % n == 0}
            if losses:
                self._snapshot()  # before the checkpoint: a run resumed there finds it
            if finished or stopping or due:
                self._refuse_to_go_on_blind()
                steps, now = state.step - last[0], time.perf_counter()
                rate = steps * train.batch_size / max(now - last[1], 1e-9)
                loss: float | None = None
                figures: dict[str, float] = {}
                score: tuple[str, float] | None = None
                if self.validation is not None and ("validate" in due or finished):
                    loss, figures = self._validate(self.validation)
                    score = None if self.measure is not None else (self.validation.key, loss)
                # Logged before it is saved: a checkpoint's lines are complete, whenever the process is killed.
                report = self._report(losses, norms, rate, loss, figures)
                save = finished or stopping or not due.isdisjoint(("checkpoint", "measure"))
                saved = self._save(score) if losses and save else None
                if self.measure is not None and ("measure" in due or (finished and losses)):
                    report = self._measure(self.measure, report)
                sampled = self._sample() if losses and (finished or "sample" in due) else None
                yield replace(report, saved=saved, sampled=sampled, notes=self._said(), done=finished or stopping)
                losses, norms = [], []
                last = (state.step, time.perf_counter())
                if finished or stopping:
                    if self.board is not None:
                        self.board.close()
                    return
            loss_now, norm = self._step(fraction)
            losses.append(loss_now)
            norms.append(norm)

    def _step(self, fraction: float) -> tuple[Tensor, Tensor]:
        """One step of the optimisers; returns the loss and the gradient's norm, still on the device."""
        train, state, setup = self.recipe.train, self.state, self.setup
        number = state.step * train.batch_size + np.arange(train.batch_size)
        setup.model.net.train()
        while True:
            try:
                loss = self.compiled(lambda: self._gradients(number, fraction), self._forget)
                break
            except RuntimeError as error:
                if not out_of_memory(error) or state.accumulate >= train.batch_size:
                    raise
            self._halve()
        grads = [p.grad for p in state.net.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads)
        ok = loss.isfinite() & norm.isfinite()
        torch._foreach_mul_(grads, (train.clip / (norm + 1e-6)).clamp(max=1.0))
        lr = self.recipe.optim.lr * self.recipe.optim.schedule(state.step, fraction)
        for optim in state.optims:
            for group in optim.param_groups:
                group["lr"] = lr
            optim.found_inf = (~ok).float()  # type: ignore[attr-defined]
            optim.step()
            optim.zero_grad()
        state.step += 1
        for average in state.averages.values():
            average.update(state.net, state.step, ok)
        state.skipped += ~ok
        state.streak = torch.where(ok, torch.zeros_like(state.streak), state.streak + 1)
        return loss, norm

    def _gradients(self, number: np.ndarray, fraction: float) -> Tensor:
        """Accumulate the gradients of the batch's mean loss, part by part; its value."""
        recipe, setup = self.recipe, self.setup
        total = torch.zeros((), device=setup.device)
        memory = self.state.memory
        for part in np.split(number, self.state.accumulate):
            rows = self.examples.rows(part)
            batch = setup.batch(rows, torch.from_numpy(part))
            noise = Philox(recipe.train.seed, batch.number)
            batch = hidden(batch, noise, setup.rates)._replace(memory=self.state.memory or None)
            with torch.random.fork_rng(devices=[setup.device] if setup.device.type == "cuda" else []):
                # For dropout inside the network; everything else is counter-based.
                torch.manual_seed((recipe.train.seed * 0x9E3779B97F4A7C15 + int(part[0])) % 2**63)
                losses = self.objective(setup.model, batch, noise, fraction)
            loss = losses.sum() / recipe.train.batch_size
            torch.autograd.backward(loss)
            total = total + loss.detach()
            if memory and isinstance(recipe.objective, Remembering):  # this waits for the device
                memory = recipe.objective.remember(memory, setup.model, batch, noise, losses)
        self.state.memory = memory  # only now: every part was drawn with what was known before the step
        return total

    def _forget(self) -> None:
        for optim in self.state.optims:
            optim.zero_grad()

    def _halve(self) -> None:
        self._forget()
        if self.setup.device.type == "cuda":
            torch.cuda.empty_cache()
        size = self.recipe.train.batch_size
        parts = next(n for n in range(2 * self.state.accumulate, size + 1) if size % n == 0)
        self.state.accumulate = parts
        self.notes.append(
            f"Out of memory: the batch of {size} is now computed in {parts} parts of {size // parts}. Its gradient "
            f"stays the same, but for rounding and dropout's masks. train.accumulate = {parts} starts a run that way."
        )

    def _fraction(self) -> float:
        if self.setup.steps is not None:
            return min(1.0, self.state.step / self.setup.steps)
        return min(1.0, self.state.seconds / (60 * (self.recipe.train.minutes or 1)))

    def _said(self) -> tuple[str, ...]:
        """The notes since the last report."""
        notes = (*self.notes, *self.compiled.notes)
        self.notes, self.compiled.notes = [], []
        return notes

    def _intervals(self) -> dict[str, int]:
        """What is done every so many steps."""
        train, evaluation = self.recipe.train, self.recipe.evaluation
        every = {"checkpoint": train.checkpoint_every, "sample": train.sample_every, "log": LOG_EVERY}
        every |= {"validate": evaluation.every} if self.validation is not None else {}
        return every | ({"measure": evaluation.measure_every} if self.measure is not None else {})

    def _validate(self, validation: Validation) -> tuple[float, dict[str, float]]:
        """The validation loss of the average, and what else is found; overfitting is said when it begins."""
        found, state = validation(self.state.ema.net), self.state
        figures = found.figures()
        if math.isfinite(found.value):
            known = state.lowest is not None and state.lowest.risen
            state.lowest, rise = overfitting(state.lowest, state.step, found, validation.key)
            if rise is not None:
                figures["overfitting"] = rise.by
                if not known:
                    self.notes.append(str(rise))
        return found.value, figures

    def _measure(self, measure: Scheduled, report: Progress) -> Progress:
        """Draw pictures and compare them with those held out; the report with the number, which is logged.

        After the checkpoint is saved: this takes long and training does not need it, so whatever ends it costs no
        steps. Where it worked that is saved again: which checkpoint is the best is known now, and the model's card.
        """
        step = self.state.step
        try:
            record = measure(self.setup, self.state, published=self.published == step)
        except (OSError, MemoryError, RuntimeError, ValueError) as error:
            note = f"{measure.name} of step {step:,} was not measured: {str(error).rstrip('.')}. Training goes on."
            self.notes.append(note)
            self._write({"step": step, "note": note})
            return report
        self.notes.append(f"step {step:,}: {record.measure.title} {record.value:.4g}")
        if math.isfinite(record.value):
            self._write({"step": step, measure.name: round(record.value, 9)})
            card = measured_lines([record]) if record.model["weights_sha256"] else ""
            self._save(("|".join(map(str, record.measure.key)), record.value), card)
        return replace(report, figures={**report.figures, measure.name: record.value})

    def _snapshot(self) -> None:
        try:
            notes = self.files.snapshot(self.setup, self.state)
            self.notes += [] if self.told_of_snapshots else notes
            self.told_of_snapshots |= bool(notes)
        except checkpoint.DiskFull as error:
            self.notes.append(f"{error} Training goes on without this snapshot.")
        except checkpoint.NonFinite as error:
            raise TrainingError(f"{error} {_where(self.good)}.") from error

    def _save(self, score: tuple[str, float] | None, measured: str = "") -> File | None:
        saved = None
        try:
            self.good = saved = self.state.save(self.setup, self.files.folder, score)
            self.state.save_model(self.setup, self.files.folder, measured)
            self.published = self.state.step
        except checkpoint.DiskFull as error:
            self.notes.append(f"{error} Training goes on. {_where(self.good)}.")
        except checkpoint.NonFinite as error:
            raise TrainingError(f"{error} {_where(self.good)}.") from error
        return saved

    def _sample(self) -> File | None:
        try:
            return self.files.sample(self.setup, self.state, self.asked)
        except (OSError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            self.notes.append(f"The samples of step {self.state.step} were not drawn: {error}. Training goes on.")
            return None

    def _report(
        self,
        losses: list[Tensor],
        norms: list[Tensor],
        rate: float,
        validation: float | None = None,
        figures: Mapping[str, float] | None = None,
    ) -> Progress:
        """The figures of this moment, logged where there are new ones."""
        state = self.state
        fraction = self._fraction()
        progress = Progress(
            step=state.step,
            fraction=fraction,
            loss=_mean(losses),
            grad_norm=_mean(norms),
            lr=self.recipe.optim.lr * self.recipe.optim.schedule(state.step, fraction),
            images_per_second=rate,
            eta=state.seconds * (1 - fraction) / fraction if fraction > 0 else math.nan,
            seconds=state.seconds,
            memory=memory_used(self.setup.device),
            skipped=int(state.skipped),
            validation=validation,
            figures=figures or {},
        )
        if losses:
            self._log(progress)
        return progress

    def _log(self, progress: Progress) -> None:
        """Append the figures to metrics.jsonl."""
        numbers = {f.name: getattr(progress, f.name) for f in fields(progress) if f.name != "done"}
        numbers |= progress.figures
        self._write({k: round(v, 9) for k, v in numbers.items() if isinstance(v, (int, float)) and math.isfinite(v)})

    def _write(self, line: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl; where the disk is full, later."""
        self.unlogged.append(json.dumps(line))
        try:
            self.files.log(self.unlogged)
            self.unlogged.clear()
        except OSError as error:
            if len(self.unlogged) == 1:
                self.notes.append(f"metrics.jsonl cannot be written: {error}. Training goes on, and lines are kept.")
        if self.board is not None:
            for name in line.keys() - {"step", "note"}:
                self.board.add_scalar(name, line[name], line["step"])

    def _refuse_to_go_on_blind(self) -> None:
        streak, patience = int(self.state.streak), self.recipe.train.patience
        if streak >= patience:
            raise TrainingError(
                f"The loss or its gradient was not finite in the last {streak} steps (train.patience = {patience}), "
                f"so nothing was learned in them. {_where(self.good)}. A smaller optim.lr, or train.precision = fp32, "
                "usually helps."
            )

    def _latest(self) -> File | None:
        try:
            return checkpoint.newest_good(self.files.folder / "checkpoints")[0]
        except checkpoint.CheckpointError:
            return None


def _mean(values: list[Tensor]) -> float:
    """The mean of the finite values; NaN where there are none."""
    if not values:
        return math.nan
    v = torch.stack(values)
    return float(v[v.isfinite()].cpu().double().mean())


def _where(good: File | None) -> str:
    return f"The last good checkpoint is {good}" if good else "There is no checkpoint yet"
