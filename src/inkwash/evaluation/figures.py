"""The measures by name: each a function of two sides, so that the floor between two halves of the real data is the same
function of other arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from inkwash.evaluation.classes import class_accuracy, class_distance, class_histogram
from inkwash.evaluation.frechet import Moments, frechet, frechet_bias, moments
from inkwash.evaluation.kernel import kid
from inkwash.evaluation.manifold import DENSITY_K, MOST, PRECISION_K, density_coverage, memorised, nearest
from inkwash.evaluation.manifold import precision_recall as precision_and_recall
from inkwash.evaluation.record import Better
from inkwash.evaluation.spectrum import spectrum, spectrum_error

By = Literal["features", "judge", ""]
"""What a number depends on besides the pictures."""

VERSION = 1
"""Of all measures' code, as part of what is kept by: raised where a change of it changes a number."""

SHARE = 0.01
"""Of real held-out pictures, how many lie nearer to a training picture than the distance that counts as copied."""


@dataclass(frozen=True)
class Figure:
    """What a measure found. by: whether it belongs to the feature net or to the classifier; the rest as in `Record`.

    real: the same of the reference's own pictures, with its interval: what a record calls its floor.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    better: Better = "lower"
    bias: float | None = None
    chance: float | None = None
    real: tuple[float, float | None, float | None] | None = None
    by: By = "features"
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Side:
    """One of two sets: its features, and where they are known its pictures, their labels, and the classes seen in them.

    features [n, d]; array: uint8 [n, H, W, C]; labels [n], -1 for none; predicted [n], by a classifier; known: what
    need not be computed again ("moments", "spectrum").
    """

    features: np.ndarray
    array: np.ndarray | None = None
    labels: np.ndarray | None = None
    predicted: np.ndarray | None = None
    known: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    @cached_property
    def moments(self) -> Moments:
        """Mean and covariance of the features."""
        known: Moments | None = self.known.get("moments")
        return known or moments(self.features)

    @cached_property
    def spectrum(self) -> np.ndarray | None:
        """Radial power spectrum; None for what are no pictures."""
        known: np.ndarray | None = self.known.get("spectrum")
        if known is not None or self.array is None or self.array.ndim != 4:
            return known
        return spectrum(self.array)

    def half(self, which: Literal[0, 1]) -> Side:
        """Every other example; both halves have the same number."""
        rows = slice(which, 2 * (len(self) // 2), 2)

        def cut(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else values[rows]

        return Side(self.features[rows], cut(self.array), cut(self.labels), cut(self.predicted))


Found = Sequence[Figure]


def fd(fake: Side, real: Side) -> Found:
    """The Fréchet distance, with what two samples of these sizes from one Gaussian would have on average."""
    a, b = fake.moments, real.moments
    return [Figure("fd", frechet(a, b), bias=frechet_bias(b.cov, a.n, b.n))]


def kernel(fake: Side, real: Side) -> Found:
    """KID, which is unbiased: 0 is expected of one distribution."""
    found = kid(fake.features, real.features)
    return [Figure("kid", found.mean, found.low, found.high, bias=0.0)]


def precision_recall(fake: Side, real: Side) -> Found:
    """How many of the fake lie among the real, and of the real among the fake."""
    precision, recall = precision_and_recall(real.features, fake.features, PRECISION_K)
    how = {"k": PRECISION_K, "most": MOST}
    return [
        Figure("precision", precision, better="higher", settings=how),
        Figure("recall", recall, better="higher", settings=how),
    ]


def density_and_coverage(fake: Side, real: Side) -> Found:
    """How densely the fake lie where the real are, and how many of the real have a fake one near."""
    density, coverage = density_coverage(real.features, fake.features, DENSITY_K)
    how = {"k": DENSITY_K, "most": MOST}
    return [
        Figure("density", density, better="higher", settings=how),
        Figure("coverage", coverage, better="higher", settings=how),
    ]


def classes(fake: Side, real: Side) -> Found:
    """What the judge sees: is it the class that was asked for, and are all classes there as often as in the real?"""
    mine, theirs = fake.predicted, real.predicted
    if mine is None or theirs is None:
        return []
    count = 1 + int(max(mine.max(), theirs.max()))  # of classes that neither has there is nothing to compare
    distance = class_distance(class_histogram(mine, count), class_histogram(theirs, count))
    found = [Figure("class-histogram", distance, by="judge")]
    if fake.labels is not None and (fake.labels >= 0).any():
        share = class_accuracy(mine, fake.labels)
        wanted = class_histogram(fake.labels[fake.labels >= 0], max(count, 1 + int(fake.labels.max())))
        blind = float(wanted[:count] @ class_histogram(theirs, count))
        right = Figure("class-accuracy", share.mean, share.low, share.high, better="higher", by="judge", chance=blind)
        found.append(right)
    return found


def power(fake: Side, real: Side) -> Found:
    """How far the radial power spectra lie apart: blur and noise show here first."""
    a, b = fake.spectrum, real.spectrum
    return [] if a is None or b is None else [Figure("spectrum", spectrum_error(a, b), unit="dB", by="")]


MEASURES: dict[str, Callable[[Side, Side], Found]] = {
    "fd": fd,
    "kid": kernel,
    "precision-recall": precision_recall,
    "density-coverage": density_and_coverage,
    "classes": classes,
    "spectrum": power,
}
"""What can be asked for that compares two sides; the neighbours in the training set are a third's business."""


@dataclass(frozen=True)
class Neighbours:
    """Each fake picture's nearest training picture: distance and index [n], and the share that counts as copies."""

    distance: np.ndarray
    index: np.ndarray
    share: Figure | None

    def closest(self, count: int) -> np.ndarray:
        """The numbers of the `count` fake pictures with the nearest neighbours, of each neighbour the nearest one."""
        ranked = np.argsort(self.distance, kind="stable")
        _, first = np.unique(self.index[ranked], return_index=True)
        return ranked[np.sort(first)[:count]]


def neighbours(fake: Side, train: Side, held_out: Side | None, of: int | None = None) -> Neighbours:
    """Look for copies: the nearest of the first `MOST` training pictures for each of the first `MOST` fake ones.

    held_out: real pictures that were not trained on; how near they come by chance says what is near. Without them, or
    with too few to have a nearest 1 %, there is no share. of: how many the model was trained on, if that is more: only
    copies of those that are searched are found.
    """
    among = train.features[:MOST]
    distance, index = nearest(fake.features[:MOST], among)
    share = None
    if held_out is not None and SHARE * (len(held_out) + 1) >= 1:
        usual, _ = nearest(held_out.features[:MOST], among)
        found = memorised(distance, usual, SHARE)
        how = {"share": SHARE, "train": len(among), "of": of or len(train), "most": MOST}
        share = Figure("memorised", found.mean, found.low, found.high, bias=SHARE, settings=how)
    return Neighbours(distance, index, share)
