"""A run's model as it was at an earlier step, written RUN@STEP: what the run keeps in snapshots/ and checkpoints/."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import NamedTuple

from torch import Tensor

from inkwash import checkpoint
from inkwash.modelfolder import Config, find_model

KEPT = {"snapshots": "snapshot.json", "checkpoints": "state.json"}
"""The folders of a run with a step-N for every kept step, and what in it names the averages and their lengths."""

_WRITTEN = re.compile(r"(.+)@(\d[\d,_]*)")
_STEP = re.compile(r"step-(\d+)")


def split_step(run: str | File) -> tuple[str | File, int | None]:
    """RUN@4096 as RUN and 4096; another text, or a folder of this very name, as it is and None."""
    found = _WRITTEN.fullmatch(str(run))
    if found is None or File(run).exists():
        return run, None
    return found[1], int(re.sub("[,_]", "", found[2]))


class Kept(NamedTuple):
    """What a run keeps of a step: the weights of an average, its length, and how far the training was."""

    weights: Mapping[str, Tensor]
    ema: float
    trained: dict[str, float]


def weights_at(run: str | File, step: int, config: Config) -> tuple[Config, Mapping[str, Tensor]]:
    """What `kept_at` finds for the model of this config, and the config of the model that it is."""
    kept = kept_at(run, step, config.ema)
    return replace(config, trained=kept.trained, ema=kept.ema), kept.weights


def kept_at(run: str | File, step: int, ema: float | None) -> Kept:
    """The average kept at a step whose length is nearest to `ema`, the model's own; None: the shortest.

    Snapshots are kept in float16. Raises ValueError, naming the nearest steps, where none was kept.
    """
    folder = find_model(run).parent
    kept = {n: (place, KEPT[place.parent.name]) for name in KEPT for n, place in _steps(folder / name).items()}
    if step not in kept:
        near = sorted(sorted(kept, key=lambda n: abs(n - step))[:2])
        hint = (
            f"The nearest: {' and '.join(f'{n:,}' for n in near)}." if near else "It keeps none: train.snapshots = 0?"
        )
        raise ValueError(f"{folder} keeps no weights of step {step:,}. {hint}")
    place, table = kept[step]
    about = json.loads(checkpoint.load_text(place, table))
    lengths: dict[str, float] = about.get("lengths") or {"ema": 0.0}  # older checkpoints keep the run's own alone
    own = ema or min(lengths.values())
    name = min(lengths, key=lambda one: abs(lengths[one] - own))
    weights = checkpoint.load(place, [f"{name}.safetensors"]).tensors[name]
    return Kept(weights, lengths[name], about.get("trained", {}))


def _steps(place: File) -> dict[int, File]:
    """The step-N folders in a folder, by number."""
    if not place.is_dir():
        return {}
    return {int(found[1]): f for f in place.iterdir() if (found := _STEP.fullmatch(f.name))}
