"""Small evaluations while a run goes on: every so many steps some pictures are drawn and compared with real ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as File
from typing import Any

import numpy as np

from inkwash.data import Dataset
from inkwash.evaluation.evaluate import LEAST, evaluate
from inkwash.evaluation.likelihood import weights_hash
from inkwash.evaluation.record import Record, append
from inkwash.evaluation.reference import reference
from inkwash.features import Classifier, classifier_file, extractor
from inkwash.kinds import in_text
from inkwash.pipeline import Pipeline
from inkwash.training.run import preview
from inkwash.training.setup import Setup
from inkwash.training.state import State

SEED = 0
"""Of the pictures drawn: the same at every step of every run, so that what changes is the model."""

Compare = Callable[[Pipeline, int | None, Mapping[str, Any]], Record]
"""Draw pictures, in so many steps (None: as the model's list of times says), and measure them: what is said of the
model in the record goes in, the record comes out."""


@dataclass
class Scheduled:
    """One measure, taken on a schedule; name: "fd" or "kid"; folder: of the run; cost: what that costs, in words."""

    name: str
    folder: File
    cost: str
    compare: Compare

    @classmethod
    def of(cls, setup: Setup, folder: File, held_out: tuple[Dataset, np.ndarray]) -> Scheduled | None:
        """What the recipe's evaluation table asks for; None where it asks for nothing.

        Raises ValueError before training for a feature net that cannot be had, and for too few pictures.
        """
        wanted = setup.recipe.evaluation
        if wanted.measure is None:
            return None
        real = min(len(held_out[1]), wanted.measure_n)
        if min(real, wanted.measure_n) < LEAST:
            raise ValueError(
                f"evaluation.measure compares {wanted.measure_n} drawn pictures (evaluation.measure_n) with {real} "
                f"real ones: at least {LEAST} of each are needed, better thousands. Hold more out, or draw more."
            )
        cost = (
            f"Every {wanted.measure_every:,} steps {wanted.measure_n:,} pictures are drawn and compared with {real:,} "
            f"real ones ({wanted.measure}, {in_text(wanted.features)}): training waits meanwhile."
        )
        return cls(wanted.measure, folder, cost, against(setup, *held_out))

    def __call__(self, setup: Setup, state: State, *, published: bool) -> Record:
        """Measure the averaged weights and keep the record. published: whether they are those of the run's model."""
        pipe, steps = preview(setup, state)
        model = {
            "folder": str(self.folder),
            "weights_sha256": weights_hash(self.folder) if published else None,
            "data": pipe.config.data,
            "trained": dict(pipe.config.trained),
            "ema": pipe.config.ema,
        }
        record = self.compare(pipe, steps, model)
        append(self.folder / "evaluation", [record])
        return record


def against(setup: Setup, data: Dataset, rows: np.ndarray) -> Compare:
    """Comparing with examples of a data set: as many as are drawn, or all there are, measured once."""
    wanted = setup.recipe.evaluation
    chosen: Any = wanted.features
    if isinstance(chosen, Classifier) and not chosen.weights:
        file = classifier_file(data, setup.pictures, rows=setup.seen_rows)
        if file is None:
            raise ValueError(
                'evaluation.features = "classifier" needs labelled pictures of two classes or more, and '
                f"{data.name} has none. Use lite0, or raw for points."
            )
        chosen = Classifier(weights=str(file))
    net = extractor(chosen, setup.device)
    real = reference(data, rows, wanted.split, net, min(len(rows), wanted.measure_n))
    name = str(wanted.measure)

    def compare(pipe: Pipeline, steps: int | None, model: Mapping[str, Any]) -> Record:
        # In a temporary folder: the pictures of a moment are looked at once.
        found = evaluate(pipe, real, wanted.measure_n, measures=(name,), seed=SEED, model=model, net=net, steps=steps)
        return found[name]

    return compare
