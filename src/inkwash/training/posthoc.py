"""Averages of the weights of any length, rebuilt after training from what the run kept (math.md, section 16)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Any, Literal

import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.codec import Codec
from inkwash.device import pick_device
from inkwash.modelfolder import Config, find_model, load_own_codec, read_config, save_model
from inkwash.pipeline import Pipeline
from inkwash.training import snapshots
from inkwash.training.profiles import LONGEST, TOLERANCE, Fit, Profile, fit, within
from inkwash.training.run import Run
from inkwash.training.state import averages_of


@dataclass(frozen=True)
class Kept:
    """What a run keeps up to a step: of each profile the folder and the file its average is in; trained: until then."""

    step: int
    parts: Mapping[Profile, tuple[File, str]]
    trained: dict[str, float]


@dataclass(frozen=True)
class Rebuilt:
    """An average that was not tracked: its weights, the model's config and codec, and how well its profile is met."""

    config: Config
    weights: dict[str, Tensor]
    fit: Fit
    codec: Codec

    def save(self, folder: str | File, measured: str = "") -> File:
        """Write it as a model's folder, which `inkwash.load` takes. measured: more of its card, in Markdown."""
        return save_model(self.config, self.weights, folder, measured, codec=self.codec)

    def pipeline(
        self, *, device: str = "auto", precision: Literal["fp32", "bf16"] = "fp32", chunk: int | None = None
    ) -> Pipeline:
        """It ready to draw, as `inkwash.load` makes it of a folder."""
        model = self.config.build()
        model.net.load_state_dict(self.weights)
        model.autocast = torch.bfloat16 if precision == "bf16" else None
        return Pipeline(self.config, model, pick_device(device), chunk, self.codec)


def rebuild(run: str | File, sigma: float, step: int | None = None, *, trust: bool = False) -> Rebuilt:
    """The average of length `sigma` of a run's weights, as it would be after `step` steps had it been tracked.

    sigma: the width of the averaging window as a share of the run so far (train.ema; EDM2's sigma_rel); step: of a
    snapshot or a checkpoint, by default the newest checkpoint; trust: as in `load`. From snapshots in float16, whose
    rounding is multiplied by `fit.gain`; one of the kept lengths at a kept step is what was kept. Raises ValueError for
    a length that cannot be rebuilt and a step that was not kept, and checkpoint.CheckpointError for damaged files.
    """
    return assemble(run, kept(run, step), sigma, trust=trust)


def assemble(run: str | File, have: Kept, sigma: float, *, trust: bool = False) -> Rebuilt:
    """`rebuild` from what is known to be kept."""
    found = fitted(have, sigma)
    total: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for part, weight in zip(found.parts, found.weights, strict=True):
        folder, name = have.parts[part]
        for key, x in _read(folder, name).items():
            if not x.is_floating_point():
                whole[key] = x
            elif key in total:
                total[key].add_(x.double(), alpha=weight)
            else:
                total[key] = weight * x.double()
    folder = find_model(Run.at(run, "").folder)
    config = read_config(folder, trust=trust)
    weights = {k: v.float() for k, v in total.items()} | whole
    return Rebuilt(replace(config, trained=have.trained, ema=sigma), weights, found, load_own_codec(folder, config))


def fitted(have: Kept, sigma: float) -> Fit:
    """How the length is made of what is kept. Raises ValueError for one that cannot be."""
    if not 0 < sigma < LONGEST:
        raise ValueError(
            f"sigma = {sigma:g} is no length of an average: it must lie between 0 and {LONGEST:.3f}, where every step "
            "counts the same."
        )
    parts = list(have.parts)
    found = fit(Profile(have.step, sigma), parts)
    if found.residual > TOLERANCE:
        low, high = within(have.step, parts)
        steps = len({p.step for p in parts})
        why = (
            f"{steps} kept steps are too far apart for a window that short"
            if sigma < low
            else "the kept lengths see too little of the beginning"
        )
        raise ValueError(
            f"sigma = {sigma:g} cannot be rebuilt at step {have.step:,}: the nearest combination misses its profile by "
            f"{found.residual:.0%} of its norm, and at most {TOLERANCE:.0%} is accepted; {why}. From {low:g} to "
            f"{high:g} can be."
        )
    return found


def kept(run: str | File, step: int | None = None) -> Kept:
    """What a run keeps up to a step. Raises ValueError where it has no snapshots, or none at that step."""
    folder = Run.at(run, "").folder
    taken = snapshots.steps(folder / snapshots.FOLDER)
    if not taken:
        raise ValueError(
            f"{folder} has no snapshots: it was trained with train.snapshots = 0, by an older inkwash, or for fewer "
            f"than {snapshots.FIRST} steps. Only its own average exists, in {folder / 'model'}."
        )
    points = snapshots.steps(folder / "checkpoints")
    if step is None:
        try:
            step = int(checkpoint.newest_good(folder / "checkpoints")[0].name.removeprefix("step-"))
        except checkpoint.CheckpointError:
            step, points = max(taken), {}
    if step not in taken and step not in points:
        near = sorted({*taken, *points}, key=lambda n: abs(n - step))[:2]
        raise ValueError(
            f"Nothing was kept at step {step:,} of {folder}: averages end at snapshots and checkpoints, of which there "
            f"are {len({*taken, *points})}. The nearest: {' and '.join(f'{n:,}' for n in sorted(near))}."
        )
    parts: dict[Profile, tuple[File, str]] = {}
    trained: dict[str, float] = {}
    for at, place in taken.items():
        if at <= step:
            told = _told(place)
            parts |= {Profile(at, length): (place, name) for name, length in told["lengths"].items()}
            trained = told["trained"]
    if step in points:  # in full precision, and with the run's own length
        lengths, trained = averages_of(points[step])
        parts |= {Profile(step, length): (points[step], name) for name, length in lengths.items()}
    return Kept(step, parts, trained)


def _told(folder: File) -> dict[str, Any]:
    try:
        return snapshots.about(folder)
    except checkpoint.CheckpointError as error:
        raise _damaged(folder, error) from error


def _read(folder: File, name: str) -> dict[str, Tensor]:
    try:
        return checkpoint.load(folder, [f"{name}.safetensors"]).tensors[name]
    except checkpoint.CheckpointError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: File, error: Exception) -> checkpoint.CheckpointError:
    if folder.parent.name != snapshots.FOLDER:
        return checkpoint.CheckpointError(str(error))
    return checkpoint.CheckpointError(f"{error} Delete {folder} to do without it, a little less exactly.")
