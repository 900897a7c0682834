"""Teacher and students side by side: quality, calls and seconds a picture, and the same seeds drawn by each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inkwash import pictures
from inkwash.distilling.straightness import straightness
from inkwash.evaluation import evaluate
from inkwash.evaluation.record import append_lines, read_lines
from inkwash.evaluation.sweep import SWEEP, Point, Watch, sweep
from inkwash.features import tensors_hash
from inkwash.modelfolder import model_hash
from inkwash.pipeline import Pipeline
from inkwash.recipes import Teacher
from inkwash.samples import Samples
from inkwash.teaching import Bound
from inkwash.training.previews import Asked

if TYPE_CHECKING:
    from PIL.Image import Image

    from inkwash.data import Dataset
    from inkwash.evaluation import RealSide

TEACHER_CALLS = (50, 20, 10, 5)
"""Steps at which a teacher is measured, by a sampler of one call a step."""

STUDENT_STEPS = (4, 2, 1)
"""Steps at which a student is measured."""

SHOWN = 8
"""Seeds in the sheet: one row of it each."""

TRAJECTORIES, HEUN_STEPS = 64, 32
"""By how many, and in how many steps, straightness is measured."""

STRAIGHT = "straightness.jsonl"
"""The file in a run's evaluation folder that keeps it."""


@dataclass(frozen=True)
class Contestant:
    """A model in the report: its name there, its pipeline, what records say of it, and how it is drawn.

    folder: where its points are kept, so that none is measured twice; steps, sampler: as `evaluation.sweep` takes them.
    """

    name: str
    pipe: Pipeline
    about: Mapping[str, Any]
    folder: File
    steps: Sequence[int]
    sampler: str

    @property
    def varied(self) -> dict[str, list[str]]:
        """What a sweep varies."""
        return {"sampler": [self.sampler], "steps": [str(n) for n in self.steps]}


def measured(
    models: Sequence[Contestant], side: RealSide, n: int, *, seed: int = 0, watch: Watch | None = None, **given: Any
) -> dict[str, list[Point]]:
    """The points of each model, by its name: the Fréchet distance of n pictures, calls and seconds.

    given: more of `evaluation.evaluate`'s arguments. All are compared with the same real pictures by the same net.
    """
    found = {}
    for one in models:
        told = None if watch is None else _named(watch, one.name)
        found[one.name] = sweep(
            one.pipe,
            side.reference,
            side.net,
            one.varied,
            n,
            evaluate=evaluate,
            file=one.folder / SWEEP,
            model=one.about,
            seed=seed,
            folder=one.folder / "swept",
            watch=told,
            **given,
        )
    return found


def straightened(
    models: Sequence[Contestant], examples: tuple[Dataset, np.ndarray], *, seed: int = 0, watch: Watch | None = None
) -> dict[str, float]:
    """How straight each model's flow is, by its name (`straightness`): of a model of two times, of u(x, t, t).

    Each is guided as it is drawn; all go from the same noise, asked for what the same `examples` show: data, and which
    of its rows. Kept in the model's folder, and not measured again.
    """
    found = {}
    for one in models:
        pipe = one.pipe
        told = Asked.told(pipe.config, pipe.codec, examples, TRAJECTORIES, pipe.device)
        shown = {name: value for name, value in vars(told.cond).items() if value is not None}
        own = pipe.config.sampling
        asked = pipe.described(own) | {
            "model": model_hash(pipe.config, pipe.model),
            "shown": tensors_hash(shown),
            "trajectories": told.count,
            "heun_steps": HEUN_STEPS,
            "seed": seed,
            "torch": torch.__version__,
        }
        asked = json.loads(json.dumps(asked))
        kept = [line["straightness"] for line in read_lines(one.folder / STRAIGHT) if line["asked"] == asked]
        if kept:
            found[one.name] = float(kept[-1])
            continue
        if watch is not None:
            watch(f"{one.name}: straightness", 0.0)
        x = torch.empty(told.count, *pipe.config.shape, device=pipe.device)
        velocity = Bound(pipe, own, Teacher(one.name)).velocity
        found[one.name] = straightness(velocity, told.cond, x, steps=HEUN_STEPS, seed=seed)
        append_lines(one.folder / STRAIGHT, [json.dumps({"asked": asked, "straightness": found[one.name]})])
    return found


def straight_line(found: Mapping[str, float]) -> str:
    """What is said of straightness under the table."""
    each = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
    return (
        f"Straightness S of the flow, 0 where one Euler step is exact ({TRAJECTORIES} trajectories x {HEUN_STEPS} Heun "
        f"steps): {each}.\n"
    )


def table(found: Mapping[str, Sequence[Point]]) -> str:
    """The report in Markdown: a row for each model and number of steps.

    D is the distance less the floor, what two halves of the real pictures have between them; the last column is D as a
    multiple of that of the first model's most steps.
    """
    first = next(points for points in found.values())[0]
    record, floor = first.record, _floor(first)
    title = record.measure.title
    lines = [
        f"{title} against {record.measure.data} ({record.measure.split}), n = {record.measure.n:,}; floor {floor:.4g}.",
        "",
        f"| model | sampler | steps | calls | seconds a picture | {title} | 95 % | D | D / D of the first |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    whole = first.value - floor
    for name, points in found.items():
        for p in points:
            interval = "" if p.low is None or p.high is None else f"{p.low:.4g} to {p.high:.4g}"
            own = p.value - _floor(p)
            cells = [name, type(p.settings.method).__name__, f"{p.settings.steps}", f"{p.calls:g}", f"{p.seconds:.4g}"]
            cells += [f"{p.value:.4g}", interval, f"{own:.4g}", f"{own / whole:.2f}" if whole > 0 else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(found: Mapping[str, Sequence[Point]]) -> Image:
    """Distance against calls and against seconds, a line for each model."""
    first = next(points for points in found.values())[0]
    record = first.record
    lines = {
        name: [
            pictures.Mark((p.calls, p.seconds), p.value, p.low, p.high, (), str(p.settings.steps))
            for p in sorted(points, key=lambda p: p.calls)
        ]
        for name, points in found.items()
    }
    return pictures.front(
        lines,
        ("network calls a picture", f"seconds a picture ({record.made.get('device', 'device not said')})"),
        ylabel=f"{record.measure.title} against {record.measure.data} ({record.measure.split}), "
        f"n = {record.measure.n:,} (lower is better)",
        title="Quality in a few steps",
        floor=record.floor,
    )


def sheet(
    models: Sequence[Contestant],
    *,
    seed: int = 0,
    rows: int = SHOWN,
    examples: tuple[Dataset, np.ndarray] | None = None,
) -> Image:
    """The same seeds drawn by each model in each number of steps: a column for each way, a row for each seed.

    examples: data, and which of its rows, whose captions, numbers or pictures are asked for, by models that are told
    of them; the others draw every class in turn.
    """
    columns: list[Samples] = []
    heads = []
    for one in models:
        pipe, cond = one.pipe, None
        if examples is not None and pipe.config.conditions.names:
            asked = Asked.told(pipe.config, pipe.codec, examples, rows, pipe.device)
            rows, cond = asked.count, asked.cond
        for steps in one.steps:
            columns.append(pipe(rows, cond=cond, seed=seed, sampler=one.sampler, steps=steps))
            heads.append(f"{one.name}, {steps}")
    array = np.stack([samples.pictures() for samples in columns], axis=1)
    return pictures.grid(array.reshape(-1, *array.shape[2:]), len(columns), labels=heads)


def _floor(p: Point) -> float:
    floor = p.record.floor
    return 0.0 if floor is None or not math.isfinite(floor) else floor


def _named(watch: Watch, name: str) -> Watch:
    return lambda what, fraction: watch(f"{name}: {what}", fraction)
