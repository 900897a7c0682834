"""Snapshots of the kept averages along a run: RUN/snapshots/step-N, evenly spaced however long the run turns out.

Whether there is one at a step depends on the step alone, so that a resumed run has those of one never stopped.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.checkpoint.atomic import hidden

FIRST = 16
"""Steps between the first snapshots. More of them cost time; a run too short for 16 is none whose averages matter."""

FOLDER = "snapshots"
ABOUT = "snapshot.json"

_STEP = re.compile(r"step-(\d+)")


def spacing(step: int, most: int) -> int:
    """Steps between snapshots in a run that has come to `step`: the least 16·2^j with which there are at most `most`.

    From 16·most/2 steps on there are always more than most/2.
    """
    width = FIRST
    while step // width > most:
        width *= 2
    return width


def due(step: int, most: int) -> bool:
    """Whether a snapshot is taken after the step, where at most so many are kept (0: none)."""
    return most > 0 and step > 0 and step % spacing(step, most) == 0


def take(
    run: File,
    step: int,
    averages: Mapping[str, Mapping[str, Tensor]],
    lengths: Mapping[str, float],
    trained: Any,
    most: int,
) -> list[str]:
    """Publish snapshots/step-N, then drop those that are too dense by now.

    averages: file -> tensors; lengths: file -> sigma_rel; trained: as in the model's config. Floats are stored in
    float16, but a tensor with a number above 65,504 in float32. Returns what a user should know. Raises
    checkpoint.DiskFull with everything that was there still there.
    """
    stored = {name: {key: _half(x) for key, x in tensors.items()} for name, tensors in averages.items()}
    large = [f"{n}: {key}" for n, tensors in stored.items() for key, x in tensors.items() if x.dtype == torch.float32]
    about = {"step": step, "lengths": dict(lengths), "trained": dict(trained), "float32": large}
    checkpoint.publish(run / FOLDER / f"step-{step}", stored, {ABOUT: json.dumps(about)})
    width = spacing(step, most)
    for n, folder in steps(run / FOLDER).items():
        if n % width:
            _delete(folder)
    more = f" and {len(large) - 1} more tensors" if len(large) > 1 else ""
    return [f"Snapshots hold {large[0]}{more} in float32: the numbers are too large for float16."] if large else []


def cut(run: File, step: int) -> None:
    """Delete the snapshots after a step, from which the run goes on."""
    for n, folder in steps(run / FOLDER).items():
        if n > step:
            _delete(folder)


def steps(place: File) -> dict[int, File]:
    """The step-N folders in a folder, by number, in order."""
    names = [(int(m[1]), p) for p in place.iterdir() if (m := _STEP.fullmatch(p.name))] if place.is_dir() else []
    return dict(sorted(names))


def about(folder: File) -> dict[str, Any]:
    """What a snapshot says of itself: step, lengths, trained. Raises CheckpointError where it is damaged."""
    table: dict[str, Any] = json.loads(checkpoint.load_text(folder, ABOUT))
    return table


def _half(x: Tensor) -> Tensor:
    """A float tensor in float16 where its numbers are not too large for it."""
    if not x.is_floating_point():
        return x
    half = x.to(torch.float16)
    return half if bool(half.isfinite().all()) else x.float()


def _delete(folder: File) -> None:
    with suppress(OSError):  # it is in use, or gone: the next snapshot tries again
        trash = hidden("trash", folder)
        folder.rename(trash)  # at once, so that a kill leaves no half-deleted snapshot
        shutil.rmtree(trash, ignore_errors=True)
