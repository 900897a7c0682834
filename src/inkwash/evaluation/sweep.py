"""One measure of one model under many sampling settings; `evaluation.front` says which of them no other beats."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path as File
from shutil import rmtree
from typing import Any, Literal, Protocol

import torch

from inkwash import checkpoint
from inkwash.asking import check_guidance
from inkwash.checkpoint.atomic import held
from inkwash.evaluation.card import evaluation_folder, measured_lines
from inkwash.evaluation.likelihood import weights_hash
from inkwash.evaluation.record import Record, append_lines, newest, read, read_lines
from inkwash.features import Extractor, tensors_hash
from inkwash.grids import AnyGrid
from inkwash.guidance import AnyRule
from inkwash.kinds import from_table, from_text, in_text, split_texts, to_table
from inkwash.modelfolder import find_model, load_own_codec, model_hash, read_config, save_model
from inkwash.paths import AnyPath
from inkwash.pipeline import Pipeline
from inkwash.ranks import ALONE, Ranks
from inkwash.samplers import AnySampler
from inkwash.sampling import EVERYWHERE, Sampling

SWEEP = "sweep.jsonl"
"""The file in a run's evaluation folder that keeps every point measured, one a line, so that none is measured twice."""

AXES = ("sampler", "guidance", "rule", "interval", "grid", "path", "steps")
"""What can be varied, in the order in which combinations are laid out: steps change fastest."""

By = Literal["fd", "kid"]


Watch = Callable[[str, float], None]
"""Told what is being done, and the fraction of it that is done."""


class Reference(Protocol):
    """What the pictures are compared with; key: SHA-256 of the real pictures and their order, not of how many."""

    @property
    def key(self) -> str: ...  # noqa: D102

    def __len__(self) -> int: ...


class Evaluate(Protocol):
    """`evaluation.evaluate`: draws n pictures with these settings and measures them: `.records`, `.pictures.folder`."""

    def __call__(  # noqa: D102
        self, pipe: Pipeline, reference: Any, n: int, *, measures: Sequence[str], seed: int, **settings: Any
    ) -> Any: ...


class SweepError(ValueError):
    """Settings that do not exist or do not fit the model: `mistakes` has all of them."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


@dataclass(frozen=True)
class Point:
    """One way to draw and what came of it.

    value, low, high: the measure and its 95 % interval, if it has one; calls: of the denoiser for a picture, on average
    (with guidance each runs the network twice, but for a model that is told its scale); seconds: for a picture, of
    those for all; record: the provenance; also: the records of what else was measured.
    """

    settings: Sampling
    value: float
    low: float | None
    high: float | None
    calls: float
    seconds: float
    record: Record
    also: tuple[Record, ...] = ()

    @classmethod
    def of(cls, settings: Sampling, record: Record, calls: int, also: Sequence[Record] = ()) -> Point:
        """Of records of pictures drawn with these settings; calls: used where the record does not tell."""
        told = record.sampling
        n = record.measure.n
        seconds = float(told.get("seconds", math.nan)) / n
        return cls(
            settings, record.value, record.low, record.high, told.get("calls", calls), seconds, record, tuple(also)
        )


def axes(texts: Sequence[str]) -> dict[str, list[str]]:
    """What to vary, from texts as "steps=5,10,20" or "sampler=heun,ddim(eta=0.5)"; an axis named twice has both lists.

    Raises SweepError with everything that is wrong.
    """
    found: dict[str, list[str]] = {}
    mistakes = []
    for text in texts:
        name, equals, values = (part.strip() for part in text.partition("="))
        if name not in AXES:
            near = difflib.get_close_matches(name, AXES, 1)
            mistakes.append(
                f"{text!r} varies nothing that there is. {f'Did you mean {near[0]}?' if near else ''} "
                f"Choose from {', '.join(AXES)}, as in steps=5,10,20.".replace("  ", " ")
            )
        elif not equals or not split_texts(values):
            mistakes.append(f"{text!r} gives {name} no value. Write it as in steps=5,10,20.")
        else:
            found.setdefault(name, []).extend(split_texts(values))
    if mistakes:
        raise SweepError(mistakes)
    return found


def combinations(
    pipe: Pipeline, varied: Mapping[str, Sequence[str]], *, weak: Pipeline | None = None
) -> tuple[list[tuple[Sampling, int]], list[str]]:
    """Every combination of the values, tried without the network: (settings, calls), and what was refused why.

    weak: what guidance pushes away from; where guidance is 1, nothing does.

    What is not varied is the model's own. A sampler that chooses its own steps, and a listed grid, which has its own,
    come once for all numbers of steps, and so does whatever is asked for twice. Raises SweepError for values that do
    not exist.
    """
    values, mistakes = _values(varied)
    if mistakes:
        raise SweepError(mistakes)
    found: dict[str, tuple[Sampling, int]] = {}
    refused: dict[str, None] = {}
    for chosen in product(*(values.get(name, [None]) for name in AXES)):
        asked = {name: value for name, value in zip(AXES, chosen, strict=True) if value is not None}
        try:
            own = _settled(pipe, asked, weak)
            found.setdefault(_key(own), (own, pipe.config.rehearse(own)))
        except ValueError as error:
            refused[f"{', '.join(f'{k}={_text(v)}' for k, v in asked.items())}: {error}"] = None
    return list(found.values()), list(refused)


def planned(
    pipe: Pipeline, varied: Mapping[str, Sequence[str]], *, skip: bool = False, weak: Pipeline | None = None
) -> tuple[list[tuple[Sampling, int]], list[str]]:
    """`combinations` as they are measured: SweepError has what is refused, unless that is to be left out."""
    these, refused = combinations(pipe, varied, weak=weak)
    if weak is not None and these and all(own.guidance == 1 for own, _ in these):
        raise SweepError(["weak is what guidance pushes away from, and guidance = 1 is off. Try guidance = 2."])
    if refused and (not skip or not these):
        raise SweepError(refused)
    return these, refused


def sweep(
    pipe: Pipeline,
    reference: Reference,
    net: Extractor,
    varied: Mapping[str, Sequence[str]],
    n: int,
    *,
    evaluate: Evaluate,
    file: File,
    model: Mapping[str, Any],
    by: By = "fd",
    also: Sequence[str] = (),
    seed: int = 0,
    skip: bool = False,
    folder: File | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
    weak: Pipeline | None = None,
    **given: Any,
) -> list[Point]:
    """Measure n pictures from each combination of what `axes` gives, with the same seeds; one point for each.

    weak: as in a pipeline's call, loaded; a point without guidance is drawn without it.

    by: what points are compared by; also: further measures of the same pictures, kept with each point. evaluate: what
    measures, usually `evaluation.evaluate`; given: more of its arguments. file: keeps every point as
    soon as it is measured, also of several sweeps at once; those of the same measure, model, n, seed, kind of device
    and versions are not measured again. model: what records say of it (weights_sha256). skip: leave out combinations
    that the model refuses; otherwise nothing is drawn, and SweepError has all reasons. folder: where a point's pictures
    are until it is kept. Of several ranks, which need one, the first measures; the others draw, and get no points.
    Raises ValueError where the file is damaged.
    """
    these, _ = planned(pipe, varied, skip=skip, weak=weak)
    same = {
        "by": by,
        "reference": [reference.key, len(reference)],
        "net": [net.name, net.weights, net.resize],
        "model": model.get("weights_sha256") or tensors_hash(pipe.model.net.state_dict()),
        "n": n,
        "seed": seed,
        "torch": torch.__version__,
    }
    more = tuple(name for name in also if name != by)
    same |= {"also": sorted(more)} if more else {}
    same |= {"judge": given["judge"].weights} if more and given.get("judge") is not None else {}
    other = {} if weak is None else {"weak": model_hash(weak.config, weak.model)}
    kept = _read(file)
    points = []
    for number, (own, calls) in enumerate(these, 1):
        guided = other if own.guidance != 1 else {}
        asked = same | guided | pipe.described(own)
        line = next((line for line in kept if line["asked"] == asked), None)
        record = None if line is None else from_table(Record, line["record"])
        beside = [] if line is None else [from_table(Record, one) for one in line.get("also", [])]
        if record is None:
            found = evaluate(
                pipe,
                reference,
                n,
                measures=(by, *more) if ranks.first else (),
                seed=seed,
                model=model,
                net=net,
                folder=folder,
                ranks=ranks,
                watch=_part(watch, f"Point {number} of {len(these)}"),
                steps=own.steps,
                sampler=own.method,
                guidance=own.guidance,
                rule=own.rule,
                interval=own.interval or EVERYWHERE,
                grid=own.grid,
                path=own.path,
                **({"weak": weak} if guided else {}),
                **given,
            )
            if ranks.first:
                record = next(r for r in found.records if r.measure.name == by)
                beside = [r for r in found.records if r.measure.name != by] if more else []
                tables = {"also": [r.table() for r in beside]} if more else {}
                append_lines(file, [json.dumps({"asked": asked, "record": record.table(), **tables})])
            if folder is not None:
                ranks.barrier()  # all have opened what goes now: pictures by the ten thousand, of no more use
                if ranks.first:
                    _drop(found.pictures.folder)
        if record is not None and ranks.first:
            points.append(Point.of(own, record, calls, beside))
    return points


@dataclass(frozen=True)
class Adopted:
    """What `adopt` did: the model's folder, its default settings before and now, and what a user should know of it."""

    folder: File
    before: Sampling
    now: Sampling
    note: str


def adopt(run: str | File, sampling: Sampling, *, trust: bool = False) -> Adopted:
    """Save settings as those a model is sampled with unless others are asked for; its weights stay bit for bit.

    run: the model's folder or its run's, published anew in one step. Raises ValueError for settings that do not fit the
    model.
    """
    folder = find_model(run)
    config = read_config(folder, trust=trust)
    before = config.sampling
    config.rehearse(sampling)
    check_guidance(config, sampling)
    with held(folder.parent) as free:  # training publishes the model as well, and only one process may
        if not free:
            raise ValueError(f"{folder.parent} is being trained, which saves the model with its own settings. Wait.")
        weights = checkpoint.load(folder).tensors["model"]
        mine = [r for r in read(evaluation_folder(run)) if r.model.get("weights_sha256") == weights_hash(folder)]
        codec = load_own_codec(folder, config)
        save_model(replace(config, sampling=sampling), weights, folder, measured_lines(newest(mine)), codec=codec)
    recipe = folder.parent / "recipe.toml"
    note = ""
    if folder.name == "model" and recipe.is_file():
        note = (
            f"Training that goes on from {folder.parent} saves the model with its recipe's settings again: to keep "
            f"these, write them into [sampler] of {recipe}, or adopt them again at the end."
        )
    return Adopted(folder, before, sampling, note)


def _drop(drawn: File) -> None:
    """Delete a point's pictures, and the folder above them if there are no others."""
    rmtree(drawn, ignore_errors=True)
    with suppress(OSError):
        drawn.parent.rmdir()


def _values(varied: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[Any]], list[str]]:
    """The values of each axis as they are given to a pipeline, and what is wrong with them."""
    unions: dict[str, Any] = {"sampler": AnySampler, "rule": AnyRule, "grid": AnyGrid, "path": AnyPath}
    found: dict[str, list[Any]] = {}
    mistakes = []
    for name, texts in varied.items():
        for text in texts:
            try:
                value: Any
                if name == "steps":
                    if not text.isdecimal():
                        raise ValueError(f"steps = {text} must be a whole number from 1 on.")
                    value = Sampling(steps=int(text)).steps
                elif name == "guidance":
                    value = Sampling(guidance=_float(text)).guidance
                elif name == "interval":
                    value = Sampling().changed(interval=text.strip("()")).interval or EVERYWHERE
                else:
                    value = from_text(unions[name], text, name)
                found.setdefault(name, []).append(value)
            except ValueError as error:
                mistakes.append(str(error))
    return found, mistakes


def _float(text: str) -> float:
    with suppress(ValueError):
        return float(text)
    raise ValueError(f"guidance = {text} must be a number. 1 is off; usual values are 1 to 4.")


def _settled(pipe: Pipeline, asked: Mapping[str, Any], weak: Pipeline | None = None) -> Sampling:
    """The model's settings with these, the number of steps where it means something."""
    guided = asked.get("guidance", pipe.config.sampling.guidance) != 1
    own = pipe.settings(weak=weak is not None and guided, **{k: v for k, v in asked.items() if k != "steps"})
    if "steps" in asked and not pipe.config.own_steps(own):
        own = own.changed(steps=asked["steps"])
    return own


def _part(watch: Watch | None, which: str) -> Watch | None:
    return None if watch is None else lambda what, fraction: watch(f"{which}: {what}", fraction)


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({value[0]:g},{value[1]:g})"
    return f"{value:g}" if isinstance(value, (int, float)) else in_text(value)


def _key(own: Sampling) -> str:
    return json.dumps(to_table(own), sort_keys=True)


def _read(file: File) -> list[dict[str, Any]]:
    """The points kept in a file. Raises ValueError for a line that is whole and none: it may be the work of hours."""
    kept = list(read_lines(file))
    if all(isinstance(line, dict) and line.keys() >= {"asked", "record"} for line in kept):
        return kept
    raise ValueError(f"{file} is damaged. Move it away, and the sweep begins anew.")
