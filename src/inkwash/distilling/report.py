"""Teacher and students side by side: quality, calls and seconds a picture, and the same seeds drawn by each."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inkwash import pictures
from inkwash.compare import some, steps_for, ways
from inkwash.distilling.straightness import straightness
from inkwash.evaluation import evaluate
from inkwash.evaluation.record import append_lines, read_lines
from inkwash.evaluation.sweep import SWEEP, Point, Watch, sweep
from inkwash.features import tensors_hash
from inkwash.grids import Listed
from inkwash.kinds import in_text
from inkwash.modelfolder import model_hash
from inkwash.pipeline import Pipeline
from inkwash.recipes import Teacher
from inkwash.samples import Samples
from inkwash.sampling import Sampling
from inkwash.teaching import Bound
from inkwash.training.previews import Asked

if TYPE_CHECKING:
    from PIL.Image import Image

    from inkwash.data import Dataset
    from inkwash.evaluation import RealSide

TEACHER_CALLS = (50, 20, 10, 5, 2, 1)
"""Network calls at which a teacher is measured, by each of its samplers: as many, or just fewer."""

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

    folder: where its points are kept, so that none is measured twice; drawn: its samplers, as they are written on a
    command line, and each one's numbers of steps.
    """

    name: str
    pipe: Pipeline
    about: Mapping[str, Any]
    folder: File
    drawn: Mapping[str, Sequence[int]]


def in_calls(pipe: Pipeline, samplers: Sequence[str]) -> dict[str, list[int]]:
    """The numbers of steps, of each sampler, that make `TEACHER_CALLS` or just fewer, where it can.

    A sampler that chooses its own steps comes once. Raises ValueError for samplers that do not exist or fit.
    """
    found: dict[str, list[int]] = {}
    for way in ways(pipe, samplers, TEACHER_CALLS[:1], by="calls"):
        own = way.settings
        steps = [own.steps] if way.column is None else [steps_for(pipe, own, n) for n in TEACHER_CALLS]
        found[way.sampler] = list(dict.fromkeys(n for n in steps if n))
    return found


def in_steps(pipe: Pipeline) -> dict[str, list[int]]:
    """Of `STUDENT_STEPS`, those in which a student has learned to be drawn by its own sampler; of a list, its own."""
    config, own = pipe.config, pipe.config.sampling
    if isinstance(own.grid, Listed):
        return {in_text(own.method): [own.steps]}
    steps = [n for n in STUDENT_STEPS if config.unlearned(replace(own, steps=n)) is None]
    return {in_text(own.method): steps or [own.steps]}


def measured(
    models: Sequence[Contestant], side: RealSide, n: int, *, seed: int = 0, watch: Watch | None = None, **given: Any
) -> dict[str, list[Point]]:
    """The points of each model, by its name, in the order drawn: the Fréchet distance of n pictures, calls and seconds.

    given: more of `evaluation.evaluate`'s arguments. All are compared with the same real pictures by the same net.
    """
    found: dict[str, list[Point]] = {one.name: [] for one in models}
    for one in models:
        for sampler, steps in one.drawn.items():
            found[one.name] += sweep(
                one.pipe,
                side.reference,
                side.net,
                {"sampler": [sampler], "steps": [str(n) for n in steps]},
                n,
                evaluate=evaluate,
                file=one.folder / SWEEP,
                model=one.about,
                seed=seed,
                folder=one.folder / "swept",
                watch=None if watch is None else _named(watch, f"{one.name}, {sampler}"),
                **given,
            )
    return found


def best(points: Sequence[Point], calls: float) -> Point | None:
    """Of every sampler's point of the most calls, up to `calls`, that of the least distance; None where there is none.

    So at 50 it is the best sampler at 50 calls, at 2 the best at one or two, whatever fewer or more would give.
    """
    most: dict[str, Point] = {}
    for p in points:
        sampler = in_text(p.settings.method)
        if p.calls <= calls and math.isfinite(p.value) and (sampler not in most or p.calls > most[sampler].calls):
            most[sampler] = p
    return min(most.values(), key=lambda p: p.value, default=None)


def at_its_best(one: Contestant, points: Sequence[Point]) -> Contestant:
    """A model by the one sampler that is best at the most calls, in all its numbers of steps."""
    found = best(points, TEACHER_CALLS[0])
    sampler = next(iter(one.drawn)) if found is None else in_text(found.settings.method)
    return replace(one, drawn={sampler: one.drawn[sampler]})


def straightened(
    models: Sequence[Contestant], examples: tuple[Dataset, np.ndarray], *, seed: int = 0, watch: Watch | None = None
) -> dict[str, float]:
    """How straight each model's flow is, by its name (`straightness`): of a model of two times, of u(x, t, t).

    Each is guided as it is drawn; all go from the same noise, asked for what the same `examples` show: data, and which
    of its rows. Kept in the model's folder, and not measured again. Models that learned a flow's values at a few times
    alone have none, and are left out.
    """
    found = {}
    for one in models:
        pipe = one.pipe
        if not pipe.config.flows:
            continue
        told = Asked.told(pipe.config, pipe.codec, examples, TRAJECTORIES, pipe.device)
        shown = {name: value for name, value in vars(told.cond).items() if value is not None}
        usual = pipe.config.sampling  # only its guidance says where a flow leads; steps and samplers follow it
        own = Sampling(guidance=usual.guidance, rule=usual.rule, interval=usual.interval)
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
    """The report in Markdown: a row for each model, sampler and number of steps, and the first model's best sampler.

    D is the distance less the floor, what two halves of the real pictures have between them; the last column is D as a
    multiple of that of the first model at its best at the most calls. Without a floor both are left empty.
    """
    teacher, points = next(iter(found.items()))
    record, floor = points[0].record, _floor(points[0])
    title = record.measure.title
    whole = _above(best(points, TEACHER_CALLS[0]) or points[0])
    lines = [
        f"{title} against {record.measure.data} ({record.measure.split}), n = {record.measure.n:,}; "
        f"floor {_number(floor) or 'not known'}.",
        "",
        f"| model | sampler | steps | calls | seconds a picture | {title} | 95 % | D | D / D of the {teacher}'s best |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, each in found.items():
        for p in each:
            interval = "" if p.low is None or p.high is None else f"{p.low:.4g} to {p.high:.4g}"
            cells = [name, in_text(p.settings.method), f"{p.settings.steps}", f"{p.calls:g}", f"{p.seconds:.4g}"]
            cells += [f"{p.value:.4g}", interval, _number(_above(p))]
            cells += [f"{_above(p) / whole:.2f}" if whole > 0 else ""]
            lines.append(f"| {' | '.join(cells)} |")
    at = [(calls, one) for calls in TEACHER_CALLS if (one := best(points, calls)) is not None]
    told = "; ".join(f"up to {some(calls, 'call')} {_way(one)}" for calls, one in at)
    return "\n".join(lines) + "\n" + (f"\nThe {teacher}'s best: {told}.\n" if told else "")


def plot(found: Mapping[str, Sequence[Point]]) -> Image:
    """Distance against calls and against seconds, a line for each model and sampler."""
    record = next(iter(found.values()))[0].record
    lines: dict[str, list[pictures.Mark]] = {}
    for name, points in found.items():
        several = len({in_text(p.settings.method) for p in points}) > 1
        for p in sorted(points, key=lambda p: p.calls):
            line = f"{name}, {in_text(p.settings.method)}" if several else name
            lines.setdefault(line, []).append(pictures.Mark((p.calls, p.seconds), p.value, p.low, p.high))
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
        for sampler, counts in one.drawn.items():
            for steps in counts:
                columns.append(pipe(rows, cond=cond, seed=seed, sampler=sampler, steps=steps))
                heads.append(f"{one.name}, {some(steps, 'step')}")
    array = np.stack([samples.pictures() for samples in columns], axis=1)
    return pictures.grid(array.reshape(-1, *array.shape[2:]), len(columns), labels=heads)


def _floor(p: Point) -> float:
    """What two halves of the real pictures have between them; NaN: not known."""
    return math.nan if p.record.floor is None else p.record.floor


def _above(p: Point) -> float:
    return p.value - _floor(p)


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else ""


def _way(p: Point) -> str:
    above = _number(_above(p))
    return f"{in_text(p.settings.method)} in {some(p.settings.steps, 'step')}" + (f" (D = {above})" if above else "")


def _named(watch: Watch, name: str) -> Watch:
    return lambda what, fraction: watch(f"{name}: {what}", fraction)
