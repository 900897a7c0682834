"""The whole of an evaluation: draw pictures, measure them against real ones, and say of every number what it is of."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from inkwash.evaluation.answers import ANSWERS, Questions, answers
from inkwash.evaluation.blocks import sha256
from inkwash.evaluation.figures import MEASURES, SHARE, VERSION, Figure, Neighbours, Side, neighbours
from inkwash.evaluation.likelihood import Measurement
from inkwash.evaluation.manifold import MOST
from inkwash.evaluation.proportions import asked
from inkwash.evaluation.record import Measure, Record, made
from inkwash.evaluation.reference import Reference
from inkwash.evaluation.requests import requests
from inkwash.evaluation.sets import Pictures, features, generate, plain, predictions, shape_of, values_of
from inkwash.features import Extractor, Judge, tensors_hash
from inkwash.pipeline import Pipeline
from inkwash.ranks import ALONE, Ranks

NEAREST = "nearest"
"""The measure that looks for copies of training pictures: it needs those as well."""

CLASSES = "classes"
"""The measure that needs a classifier."""

ALL = (*MEASURES, *ANSWERS, NEAREST)
"""What is measured unless something else is asked for; of `ANSWERS` what the pictures were asked for."""

NEED_TRAINING = (NEAREST, "text", "vector")
"""The measures that look at training pictures."""

LEAST = 16
"""Pictures a side: half of them are needed to have 5 neighbours each."""

Watch = Callable[[str, float], None]
"""Told what is being done, and the fraction of it that is done."""


@dataclass(frozen=True)
class Evaluation:
    """What was found: the records, and what pictures of it are drawn from.

    pictures: the measured ones; fake, real: the two sides; neighbours: each one's nearest training picture, and train:
    those pictures, where they were given; classes: those that were looked for; notes: what was left out, and why.
    """

    records: tuple[Record, ...]
    pictures: Pictures
    fake: Side
    real: Side
    neighbours: Neighbours | None = None
    train: Pictures | None = None
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Record:
        """The record of a measure, as "fd". Raises KeyError for one that was not measured."""
        return {r.measure.name: r for r in self.records}[name]


def evaluate(
    pipe: Pipeline,
    reference: Reference,
    n: int = 10_000,
    *,
    measures: Sequence[str] = ALL,
    seed: int = 0,
    folder: File | None = None,
    judge: Judge | None = None,
    train: Pictures | None = None,
    model: Mapping[str, Any] | None = None,
    net: Extractor | None = None,
    batch_size: int = 256,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
    **settings: Any,
) -> Evaluation:
    """Draw n pictures and measure them against a reference.

    measures: of `ALL`; folder: where pictures and features are kept and found again (by default a temporary one);
    judge: sees classes; train: where copies are looked for; model: what the records say of it (folder, weights_sha256
    ...); net: the reference's feature net, if it is loaded; settings: of sampling, as a pipeline's call takes them.
    Class-conditional models are asked for the reference's classes, as often as it has them; models that are told more,
    for what each of the reference's pictures has: its caption, numbers, what is shown of it, and its label. With
    several ranks each draws its part, and all find the same; then a folder must be given. Raises ValueError for what
    does not fit.
    """
    check_measures(measures)
    _check_sides(n, shape_of(pipe.config), values_of(pipe.config.codec), reference)
    if folder is None and ranks.world > 1:
        raise ValueError(f"{ranks.world} processes draw together, so say where: folder = ..., which all of them see.")
    net = net or reference.extractor(pipe.device)
    told = watch or (lambda what, fraction: None)
    about = dict(model or {})

    def progress(what: str, done: int, total: int) -> None:
        told(what, done / total if total else 0.0)

    real = reference.pictures
    held, rows, key = (None, None, "") if real is None else (real.data, real.rows, real.key)
    questions = requests(pipe.config, pipe.codec, held, rows, pipe.device, progress, key)
    with TemporaryDirectory(ignore_cleanup_errors=True) if folder is None else nullcontext(folder) as place:
        fake = generate(
            pipe,
            n,
            File(place),
            weights=str(about.get("weights_sha256") or tensors_hash(pipe.model.net.state_dict())),
            labels=asked(reference, n, pipe.config.classes) if questions is None else None,
            asked=questions,
            seed=seed,
            batch_size=batch_size,
            ranks=ranks,
            watch=partial(told, "Drawing"),
            **settings,
        )
        return score(
            fake, reference, net, measures=measures, judge=judge, train=train, model=about, ranks=ranks, watch=watch
        )


def score(
    fake: Pictures,
    reference: Reference,
    net: Extractor,
    *,
    measures: Sequence[str] = ALL,
    judge: Judge | None = None,
    train: Pictures | None = None,
    model: Mapping[str, Any] | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
) -> Evaluation:
    """Measure pictures, drawn or from anywhere, against a reference; see `evaluate`."""
    check_measures(measures)
    _check_sides(len(fake), fake.array.shape[1:], fake.about.get("values", reference.about["values"]), reference)
    told = watch or (lambda what, fraction: None)
    reference.check(net)
    found = features(fake, net, folder=fake.folder, ranks=ranks, watch=partial(told, "Features of the pictures"))
    one = Side(found, fake.array, fake.labels, _seen(fake, judge, net, found, ranks))
    same = judge is not None and reference.about.get("classifier") == judge.weights
    theirs = reference.predicted if same else _seen(reference.pictures, judge, net, reference.features, ranks)
    known = {"moments": reference.moments, "spectrum": reference.spectrum}
    pictures = None if reference.pictures is None else reference.pictures.array
    two = Side(reference.features, pictures, reference.labels, theirs, known)
    floors = _Floors(reference, two)
    stamp = made(net.device)
    records: list[Record] = []
    notes: list[str] = []

    def noted(figure: Figure, floor: float | None, size: int | None) -> Record:
        record = _record(figure, reference, net, judge, (len(one), len(two)), dict(model or {}), fake, stamp)
        if figure.real is not None:
            value, low, high = figure.real
            return replace(record, floor=value, floor_n=len(two), floor_of="own", floor_low=low, floor_high=high)
        return replace(record, floor=floor, floor_n=None if floor is None else size)

    wanted = [name for name in MEASURES if name in measures]
    for number, name in enumerate(wanted):
        told("Measuring", number / len(wanted))
        figures = MEASURES[name](one, two)
        if not figures:
            notes.append(_why_not(name, one, two, reference, judge))
        floor = floors(name, figures, judge) if figures else {}
        records += [noted(figure, floor.get(figure.name), len(two) // 2) for figure in figures]
    close = [name for name in ("precision-recall", "density-coverage", NEAREST) if name in measures]
    if close and max(len(one), len(two)) > MOST:
        notes.append(f"{', '.join(close)}: of the first {MOST:,} pictures a side, since time grows with the square.")
    near, learned = None, None
    if train is not None and any(name in measures for name in _needing(fake)):
        learned = features(train, net, folder=train.folder, watch=partial(told, "Features of the training set"))
    if fake.asked is not None and reference.pictures is not None:
        q = Questions(fake.asked, fake, reference.pictures, one, two, train, learned)
        for name in (name for name in ANSWERS if name in measures):
            told(f"Measuring {name}", 0.0)
            figures, why = answers(name, q)
            notes += [why] if why else []
            records += [noted(figure, None, None) for figure in figures]
    if NEAREST in measures:
        if train is None or learned is None:
            notes.append("Copies were not looked for: that needs the pictures the model was trained on.")
        else:
            trained = Side(learned)
            told("Looking for copies", 0.0)
            held_out = None if reference.split == "train" else two
            of = int(train.about.get("of", len(train)))
            near = neighbours(one, trained, held_out, of)
            if of > (searched := min(len(train), MOST)):
                notes.append(
                    f"{searched:,} of {of:,} training pictures were searched: of pictures that are all copies, about "
                    f"{100 * searched / of:.0f} % would be found."
                )
            if near.share is None:
                few = f"{round(1 / SHARE) - 1} held-out pictures or more, from the split test or val"
                notes.append(f"Copies are shown, not counted: what is near by chance is told by {few}.")
            else:
                record = noted(near.share, None, None)
                settings = {**record.measure.settings, "train_hash": train.key}
                records.append(replace(record, measure=replace(record.measure, settings=settings)))
    told("Measuring", 1.0)
    return Evaluation(tuple(records), fake, one, two, near, train, judge.classes if judge else (), tuple(notes))


def _needing(fake: Pictures) -> tuple[str, ...]:
    """The measures that look at training pictures, for a set that was asked for this."""
    names = () if fake.asked is None else fake.asked.config.conditions.names
    return tuple(name for name in NEED_TRAINING if name == NEAREST or name in names)


def _seen(
    pictures: Pictures | None, judge: Judge | None, net: Extractor, found: np.ndarray, ranks: Ranks
) -> np.ndarray | None:
    """The classes that a judge sees; None without pictures or a judge."""
    if pictures is None or judge is None or pictures.array.ndim != 4:
        return None
    return predictions(pictures, judge, net=net, found=found, ranks=ranks)


@dataclass(frozen=True)
class _Floors:
    """Each measure between two halves of the reference, computed once and kept with it."""

    reference: Reference
    real: Side

    def __call__(self, name: str, figures: Sequence[Figure], judge: Judge | None) -> dict[str, float]:
        """By the names of the measure's figures. figures: what it found of the pictures; judge: what saw classes."""
        by = judge.weights if judge is not None and any(f.by == "judge" for f in figures) else ""
        settings = sorted({json.dumps(f.settings, sort_keys=True) for f in figures})
        called = f"floor-{name}-{sha256([VERSION, by, settings])[:16]}"
        kept = self.reference.remembered(called)
        if kept is None:
            kept = {f.name: f.value for f in MEASURES[name](self.real.half(0), self.real.half(1))}
            self.reference.remember(called, kept)
        return dict(kept)


def _record(
    figure: Figure,
    reference: Reference,
    net: Extractor,
    judge: Judge | None,
    sizes: tuple[int, int],
    model: dict[str, Any],
    fake: Pictures,
    stamp: dict[str, Any],
) -> Record:
    """A figure with everything it depends on."""
    by = {"features": (plain(net.name), net.weights, net.resize), "": ("", "", "")}
    if judge is not None:
        by["judge"] = ("classifier", judge.weights, "")
    name, weights, resize = by[figure.by]
    measure = Measure(
        name=figure.name,
        data=reference.data,
        split=reference.split,
        data_hash=reference.key,
        n=sizes[0],
        reference=sizes[1],
        features=name,
        weights=weights,
        resize=resize,
        settings=figure.settings,
    )
    return Record(
        measure,
        figure.value,
        figure.low,
        figure.high,
        bias=figure.bias,
        chance=figure.chance,
        unit=figure.unit,
        better=figure.better,
        model=model,
        sampling=fake.about,
        made=stamp,
    )


def _why_not(name: str, fake: Side, real: Side, reference: Reference, judge: Judge | None) -> str:
    """What a measure lacks that found nothing, the first of it that nobody could add."""
    if len(reference.about["shape"]) != 3:
        why = "these are not pictures"
    elif name != CLASSES:
        why = "the reference has no pictures, and nothing was measured of them"
    elif real.labels is None or not (real.labels >= 0).any():
        why = f"{reference.data} has no labels that a classifier could be trained on"
    elif judge is None:
        travelled = reference.pictures is None and reference.classifier is None
        why = "the reference came without a classifier" if travelled else f"there is no classifier of {reference.data}"
    else:
        why = "the reference has no pictures that this classifier could see, and another saw them before"
    return f"{name} was left out: {why}."


def _check_sides(n: int, shape: tuple[int, ...], values: Any, reference: Reference) -> None:
    """Raise ValueError for too few pictures, and for those that are not like the real ones."""
    wanted = tuple(reference.about["shape"])
    if tuple(shape) != wanted:
        raise ValueError(
            f"The pictures have the shape {tuple(shape)}, and those of {reference.data} ({reference.split}) {wanted}. "
            "Bring them to one size first: how that is done decides the number."
        )
    if values != (theirs := reference.about["values"]):
        raise ValueError(
            f"Black and white are not the same on the two sides: the pictures have {values}, and those of "
            f"{reference.data} ({reference.split}) {theirs}. Measure the real ones with this model's run, or give "
            "floats for floats and 8-bit pictures for 8-bit pictures."
        )
    for what, count in (("pictures", n), (f"real pictures of {reference.data} ({reference.split})", len(reference))):
        if count < LEAST:
            raise ValueError(f"{count} {what} are too few to measure: take at least {LEAST}, better thousands.")


def likelihood_records(found: Measurement, split: str, model: Mapping[str, Any], device: torch.device) -> list[Record]:
    """The records of a likelihood's measurement."""
    about, stamp, records = found.settings, made(device), []
    parts = (
        ("bits-bound", None if found.bound is None else found.bound.total, about["bound_settings"]),
        ("bits-flow", None if found.flow is None else found.flow.value, about["flow_settings"]),
    )
    for name, value, settings in parts:
        if value is not None:
            how = dict(settings) | {"labels": about["labels"], "seed": about["seed"], "precision": about["precision"]}
            how |= {"conditions": about["conditions"]} if about.get("conditions") else {}
            data = about["data"]
            of = sha256([data["fingerprint"], data["rows"]])
            measure = Measure(name, data["name"], split, of, about["n"], data["of"], settings={**how})
            record = Record(measure, value.mean, value.low, value.high, unit=found.unit, model=dict(model), made=stamp)
            records.append(record)
    return records


def check_measures(names: Sequence[str]) -> None:
    """Raise ValueError for a measure that does not exist, with the nearest."""
    for name in names:
        if name not in ALL:
            near = difflib.get_close_matches(name, ALL, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Choose from {', '.join(ALL)}."
            raise ValueError(f"There is no measure {name!r}. {hint}")
