"""Training an autoencoder: a generator that yields progress, as the training of diffusion models is."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path as File

import numpy as np
import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.autoencoding.folder import CODEC, CodecRun
from inkwash.autoencoding.look import Look, look
from inkwash.autoencoding.losses import Parts
from inkwash.autoencoding.recipe import CodecRecipe, continued
from inkwash.autoencoding.state import State
from inkwash.autoencoding.step import Step, Taken
from inkwash.codec import LatentCodec, Latents
from inkwash.codecfolder import save_codec
from inkwash.data import Dataset, split
from inkwash.data import Stream as Examples
from inkwash.data import load as load_data
from inkwash.device import autocast_dtype, keep_memory, pick_device
from inkwash.pictures import save_png
from inkwash.training import Progress, TrainingError
from inkwash.training.run import memory_used

LOG_EVERY = 10
"""Steps between two reports: the loss is fetched from the device only then."""

LEAST = 16
"""Pictures to train on, at least."""

GLANCE = 64
"""Held-out pictures looked at while training goes on."""

BLOCK = 256
"""Pictures whose latents are measured at once."""

JUDGED = 1000
"""Held-out pictures the finished codec is judged by, where there are so many."""


def train_codec(
    recipe: CodecRecipe | None = None,
    out: str | File | None = None,
    *,
    resume: str | File | None = None,
    stop: Callable[[], bool] = lambda: False,
    data_progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Progress]:
    """Train an autoencoder in the folder `out` (runs/<name>-codec by default), yielding progress.

    resume: go on from a run's folder, or from one of its checkpoints, with its own recipe or one that differs in length
    and intervals. stop: asked after every step; when it says yes, the state is saved and training ends. data_progress:
    told (what, done, total) while data are prepared, and while the finished codec is measured.

    Raises ValueError for what the recipe, the data or the folder makes impossible, and TrainingError when losses stay
    non-finite.
    """
    start: File | None = None
    if resume is not None:
        run = CodecRun.at(resume)
        start = run.files.resume_point(resume)
        old = run.recipe()
        recipe = continued(old, recipe or old)
    elif recipe is None:
        raise ValueError("train_codec needs a recipe, or a run to resume.")
    else:
        run = CodecRun.new(out, recipe)
    data = load_data(recipe.data, progress=data_progress)
    device = pick_device(recipe.train.device)
    recipe = _checked(recipe, data, device)
    state = State.fresh(recipe, device)
    if start is not None:
        state.restore(start, data)
    with run.files.alone():
        yield from _Loop(recipe, data, state, run, device, stop, data_progress).run(resumed=start is not None)


def _checked(recipe: CodecRecipe, data: Dataset, device: torch.device) -> CodecRecipe:
    """The recipe with what the data decide; ValueError for data no autoencoder can be trained on."""
    if data.images.ndim != 4 or data.images.dtype != np.uint8:
        what = f"vectors of {data.shape[0]} numbers" if data.images.ndim == 2 else f"pictures of {data.images.dtype}"
        raise ValueError(f"{data.name} holds {what}, and an autoencoder is trained on 8-bit pictures.")
    recipe = replace(recipe, autoencoder=replace(recipe.autoencoder, channels=data.images.shape[-1]))
    _neutral(recipe).diffused(data.shape)
    mine, held_out = split(data, recipe.data.val_fraction, recipe.train.seed)
    if len(mine) < LEAST:
        raise ValueError(
            f"{data.name} has {len(mine)} pictures to train on ({len(held_out)} are held out): an autoencoder needs at "
            f"least {LEAST}, better thousands."
        )
    recipe.loss.check(data.shape)
    autocast = autocast_dtype(recipe.train.precision, device)
    train = replace(recipe.train, precision="fp32" if autocast is None else "bf16")
    return replace(recipe, data=replace(recipe.data, flip=data.flip), train=train)


def _neutral(recipe: CodecRecipe) -> Latents:
    """The codec before its latents are measured: as they come out of the encoder."""
    channels = recipe.autoencoder.latent_channels
    return Latents(recipe.autoencoder, (0.0,) * channels, (1.0,) * channels)


class _Loop:
    """One session of training: the state, what feeds it, and what it writes."""

    def __init__(
        self,
        recipe: CodecRecipe,
        data: Dataset,
        state: State,
        run: CodecRun,
        device: torch.device,
        stop: Callable[[], bool],
        told: Callable[[str, int, int], None] | None,
    ) -> None:
        self.recipe, self.data, self.state, self.files, self.device = recipe, data, state, run, device
        self.stop, self.told = stop, told
        self.mine, self.held_out = split(data, recipe.data.val_fraction, recipe.train.seed)
        self.step = Step(
            recipe, Examples(data, recipe.train.seed, self.mine), device, autocast_dtype(recipe.train.precision, device)
        )
        self.notes: list[str] = list(data.notes)
        if device.type == "cpu":
            keep_memory()

    def run(self, *, resumed: bool) -> Iterator[Progress]:
        train, state = self.recipe.train, self.state
        self.notes += self.files.begin(self.recipe, state.step, resumed=resumed)
        began = time.perf_counter() - state.seconds
        taken: list[Taken] = []
        last = (state.step, time.perf_counter())
        yield self._report([], 0.0)
        while True:
            state.seconds = time.perf_counter() - began
            fraction = self._fraction()
            finished = fraction >= 1
            stopping = not finished and self.stop()
            every = {"checkpoint": train.checkpoint_every, "look": train.look_every, "log": LOG_EVERY}
            due = {name for name, n in every.items() if taken and state.step % n == 0}
            if finished or stopping or due:
                self._refuse_to_go_on_blind()
                rate = (state.step - last[0]) * train.batch_size / max(time.perf_counter() - last[1], 1e-9)
                report = self._report(taken, rate)
                saved = self._save() if taken and (finished or stopping or "checkpoint" in due) else None
                report = replace(report, saved=saved)
                if finished:
                    report = self._finish(report)
                elif "look" in due:
                    report = self._shown(report, self._look(self._codec(), GLANCE))
                yield replace(report, notes=self._said(), done=finished or stopping)
                taken = []
                last = (state.step, time.perf_counter())
                if finished or stopping:
                    return
            taken.append(self.step(state, fraction))

    def _fraction(self) -> float:
        train = self.recipe.train
        if train.steps is not None:
            return min(1.0, self.state.step / train.steps)
        return min(1.0, self.state.seconds / (60 * (train.minutes or 1)))

    def _codec(self) -> LatentCodec:
        """The averaged weights as a codec whose latents are not measured yet."""
        return LatentCodec(_neutral(self.recipe), self.state.average.net)  # type: ignore[arg-type]

    def _shown(self, report: Progress, found: Look) -> Progress:
        """The report with what was seen, which is logged, and a sheet of it."""
        step = self.state.step
        path = self.files.folder / "samples" / f"step-{step:07d}.png"
        save_png(found.sheet(), path, {"step": step, **found.figures()})
        self.notes.append(f"step {step:,}: {found}")
        if found.dead:
            self.notes.append(self._useless(found))
        self._log({"step": step, **found.figures()})
        return replace(report, sampled=path, figures={**report.figures, **found.figures()})

    def _finish(self, report: Progress) -> Progress:
        """Measure the latents of the pictures trained on, and reconstructions of those held out; publish the codec."""
        recipe, state = self.recipe, self.state
        glance = self._look(self._codec(), GLANCE)
        if glance.dead:
            raise TrainingError(f"There is no codec: {self._useless(glance)}")
        codec = self._codec().measured(self._blocks())
        found = self._look(codec, JUDGED)
        images = state.step * recipe.train.batch_size
        save_codec(
            codec,
            self.files.folder / CODEC,
            data=self.data.name,
            trained={"steps": state.step, "images": images, "seconds": round(state.seconds, 1)},
            measured=found.figures(),
        )
        return self._shown(report, found)

    def _useless(self, found: Look) -> str:
        """What to do where channels of the latents say nothing."""
        run, more = self.files.folder, 2 * self.state.step
        named = f"channel{'s' * (len(found.dead) > 1)} {', '.join(map(str, found.dead))}"
        return (
            f"In {named} of {self.recipe.autoencoder.latent_channels} the latents of all pictures are the same, and "
            "such a codec is not saved. Where longer training does not end this (inkwash train-codec --resume "
            f"{run} --steps {more}), begin anew with fewer --channels, another --seed, or a smaller --kl or --lr."
        )

    def _blocks(self) -> Iterator[Tensor]:
        """The pictures trained on, some at a time."""
        n = len(self.mine)
        for start in range(0, n, BLOCK):
            if self.told is not None:
                self.told("Measuring the latents", start, n)
            rows = self.mine[start : start + BLOCK]
            yield torch.from_numpy(np.array(self.data.images[rows])).to(self.device)

    def _look(self, codec: LatentCodec, most: int) -> Look:
        """At so many held-out pictures, evenly spread over them."""
        n = len(self.held_out)
        return look(codec, self.data, self.held_out[np.linspace(0, n - 1, min(most, n)).astype(np.int64)])

    def _save(self) -> File | None:
        try:
            return self.state.save(self.recipe, self.data, self.files.folder)
        except checkpoint.DiskFull as error:
            self.notes.append(f"{error} Training goes on.")
            return None
        except checkpoint.NonFinite as error:
            raise TrainingError(str(error)) from error

    def _said(self) -> tuple[str, ...]:
        notes, self.notes = tuple(self.notes), []
        return notes

    def _report(self, taken: list[Taken], rate: float) -> Progress:
        """The figures of this moment, logged where there are new ones."""
        state, fraction = self.state, self._fraction()
        parts = [t.parts for t in taken]
        means = {f"train_{name}": _mean([getattr(p, name) for p in parts]) for name in Parts._fields} if parts else {}
        progress = Progress(
            step=state.step,
            fraction=fraction,
            loss=_mean([t.loss for t in taken]),
            grad_norm=_mean([t.norm for t in taken]),
            lr=self.recipe.optim.lr * self.recipe.optim.schedule(state.step, fraction),
            images_per_second=rate,
            eta=state.seconds * (1 - fraction) / fraction if fraction > 0 else math.nan,
            seconds=state.seconds,
            memory=memory_used(self.device),
            skipped=int(state.skipped),
            figures=means,
            notes=() if taken else self._said(),
        )
        if taken:
            names = ("step", "loss", "grad_norm", "lr", "images_per_second", "seconds", "memory", "skipped")
            self._log({**{n: getattr(progress, n) for n in names}, **means})
        return progress

    def _log(self, line: Mapping[str, float]) -> None:
        try:
            self.files.files.log([json.dumps({k: round(v, 9) for k, v in line.items() if math.isfinite(v)})])
        except OSError as error:
            self.notes.append(f"metrics.jsonl cannot be written: {error}. Training goes on.")

    def _refuse_to_go_on_blind(self) -> None:
        streak, patience = int(self.state.streak), self.recipe.train.patience
        if streak >= patience:
            raise TrainingError(
                f"The loss or its gradient was not finite in the last {streak} steps, so nothing was learned in them. "
                "--precision fp32 or a smaller --lr usually helps."
            )


def _mean(values: list[Tensor]) -> float:
    """The mean of the finite values; NaN where there are none."""
    if not values:
        return math.nan
    v = torch.stack(values)
    return float(v[v.isfinite()].cpu().double().mean())
