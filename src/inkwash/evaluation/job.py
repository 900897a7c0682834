"""Everything an evaluation of a run needs besides its pictures: the real side, the classifier, the training set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as File
from typing import Any, Literal

import numpy as np
import torch

from inkwash import checkpoint
from inkwash.codec import Scaled
from inkwash.data import Dataset, DataSpec, Progress, load
from inkwash.evaluation.evaluate import ALL, CLASSES, NEED_TRAINING, Watch
from inkwash.evaluation.likelihood import Split, held_out, weights_hash
from inkwash.evaluation.manifold import MOST
from inkwash.evaluation.reference import Reference, load_reference, reference
from inkwash.evaluation.sets import Pictures, real
from inkwash.evaluation.sets import features as features_of
from inkwash.features import (
    AnyFeatures,
    Classifier,
    Extractor,
    Judge,
    classifier_file,
    extractor,
    load_judge,
    probe_file,
)
from inkwash.kinds import from_table, from_text
from inkwash.modelfolder import find_model
from inkwash.pipeline import Pipeline
from inkwash.ranks import ALONE, Ranks

By = Literal["classifier", "probe"]
"""What sees classes."""


@dataclass(frozen=True)
class RealSide:
    """What pictures are measured against.

    reference and its feature net; judge: sees the data's classes, where they have labels; train: what the model saw,
    where copies are looked for; data, rows: the split, None where the reference came from a folder; notes: what is
    missing, and why.
    """

    reference: Reference
    net: Extractor
    judge: Judge | None
    train: Pictures | None
    data: Dataset | None = None
    rows: np.ndarray | None = None
    notes: tuple[str, ...] = ()


def real_side(
    run: str | File | None,
    part: Split,
    source: str | None = None,
    features: AnyFeatures | str = "lite0",
    n: int = 10_000,
    *,
    measures: Sequence[str] = ALL,
    judge: By | None = None,
    device: torch.device | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
) -> RealSide:
    """The real side of a run's model: of its own data unless another source is given, n of the split or all there are.

    run: None for pictures that come from no run; then a source is needed. judge: what sees classes, a "classifier",
    the one that ships for the data or one trained on what the model saw, or a "probe" of the feature net fitted there;
    None: a classifier. Everything is kept in the cache, under the
    hash of all it depends on. Raises ValueError for data that are not there.
    """
    where = device or torch.device("cpu")
    told = watch or (lambda what, fraction: None)

    def progress(what: str, done: int, total: int) -> None:
        told(what, done / total if total else 0.0)

    if run is not None:
        data, rows = held_out(run, source, part, progress=progress)
    elif source is None:
        raise ValueError("These pictures come from no run, so say what to compare them with: --data SOURCE.")
    elif part == "val":
        raise ValueError("What a run held out only a run can say. Give --split test or train.")
    else:
        data = load(DataSpec(source, split=part), progress=progress)
        rows = np.arange(len(data))
    trained, notes = None, []
    try:
        if part == "train":
            trained = data, rows
        elif run is not None:
            trained = held_out(run, None, "train", progress=progress)
        else:  # what the classifier of the classes learns: never the pictures that are measured
            seen = load(DataSpec(str(source), split="train"), progress=progress)
            trained = seen, np.arange(len(seen))
    except ValueError as error:
        notes.append(f"Copies of training pictures cannot be looked for: {error}")
    chosen: AnyFeatures = from_text(AnyFeatures, features, "feature net") if isinstance(features, str) else features
    unnamed = isinstance(chosen, Classifier) and not chosen.weights
    classifier = None
    if unnamed or (CLASSES in measures and judge != "probe"):
        learned, seen_rows = (None, None) if trained is None else trained
        classifier = classifier_file(data, learned, rows=seen_rows, progress=progress, device=where)
    if unnamed and classifier is None:
        raise ValueError(f"{data.name} has no labels to learn, so features = classifier means nothing. Take lite0.")
    net = extractor(Classifier(weights=str(classifier)) if unnamed else chosen, where)
    scale, train = None if run is None else _scale(run), None
    probing = CLASSES in measures and judge == "probe"
    if trained is not None and (probing or (run is not None and any(name in measures for name in NEED_TRAINING))):
        train = real(*trained, "train", min(MOST, len(trained[1])), scale=scale, ranks=ranks)
    if probing:
        classifier = None
        if train is not None and train.labels is not None and tuple(train.classes) == tuple(data.classes):
            found = features_of(train, net, ranks=ranks, watch=partial(told, "Features of the training set"))
            classifier = probe_file(found, train.labels, train.classes, net, data.name, train.key)
        if classifier is None:
            notes.append(f"There is no probe of classes: {data.name} has no training pictures with labels like these.")
    known = reference(
        data,
        rows,
        part,
        net,
        min(n, len(rows)),
        scale=scale,
        classifier=classifier,
        ranks=ranks,
        watch=partial(told, "Features of the real"),
    )
    sees = None if classifier is None else load_judge(classifier, where)
    return RealSide(known, net, sees, train if run is not None else None, data, rows, tuple(notes))


def from_folder(
    folder: File, device: torch.device | None = None, features: AnyFeatures | str | None = None
) -> RealSide:
    """The real side that somebody saved with `save_reference`: their numbers and classifier, and the same feature net.

    features: where the net is here, if its kind alone does not say ("inception(weights=FILE)"). Raises ValueError where
    this machine's feature net has other weights.
    """
    where = device or torch.device("cpu")
    known = load_reference(folder)
    judge = None if known.classifier is None else load_judge(known.classifier, where)
    net = known.extractor(where) if features is None else extractor(features, where)
    known.check(net)
    return RealSide(known, net, judge, None)


def given(source: str, like: Reference, n: int | None = None, *, progress: Progress | None = None) -> Pictures:
    """Pictures from anywhere, a folder, an archive or an array, to be measured as if a model had drawn them.

    Of floats those values are black and white that are in the reference.
    """
    data = load(DataSpec(source), progress=progress)
    few = None if n is None else min(n, len(data))
    found = real(data, np.arange(len(data)), "given", few, scale=_scaled(like.about["values"]))
    labels = found.labels if tuple(found.classes) == tuple(like.classes) else None
    return replace(found, labels=labels)


def _scale(run: str | File) -> Scaled | None:
    """Which values of floats are black and white in a model's pictures; None where it draws no floats."""
    return _scaled(json.loads(checkpoint.load_text(find_model(run), "config.json"))["codec"])


def _scaled(table: Any) -> Scaled | None:
    """A codec's table as `Scaled`, if that is what it is."""
    return from_table(Scaled, table) if isinstance(table, dict) and table.get("kind") == Scaled().kind else None


def about_model(run: str | File, pipe: Pipeline) -> dict[str, Any]:
    """What a record says of the model: its folder, the hash of its weights, how long it was trained, its average."""
    return {
        "folder": str(find_model(run)),
        "weights_sha256": weights_hash(run),
        "data": pipe.config.data,
        "trained": dict(pipe.config.trained),
        "ema": pipe.config.ema,
    }
