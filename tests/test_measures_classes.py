"""Shares with Wilson's interval, and what a classifier's answers add up to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inkwash.evaluation.classes import class_accuracy, class_distance, class_histogram
from inkwash.evaluation.interval import Interval, Share


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_as_published(count: int, of: int, low: float, high: float) -> None:
    """Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 1998, table I."""
    share = Share(count, of)
    assert share.mean == count / of
    assert (share.low, share.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@pytest.mark.parametrize(("count", "of"), [(0, 10), (3, 10), (10, 10), (1, 1), (990, 1000)])
def test_wilsons_ends_are_where_the_share_seen_is_just_believable(count: int, of: int) -> None:
    """|p - count/of| = 1.96 sqrt(p(1 - p)/of) at both, but for the exact ends of all and none."""
    share = Share(count, of)
    for p in (share.low, share.high):
        if 0 < p < 1:
            assert abs(p - count / of) == pytest.approx(1.959964 * math.sqrt(p * (1 - p) / of), rel=1e-9)
    assert (share.low == 0) == (count == 0)
    assert (share.high == 1) == (count == of)
    mirror = Share(of - count, of)
    assert (1 - mirror.high, 1 - mirror.low) == (pytest.approx(share.low), pytest.approx(share.high))


def test_a_mean_has_its_ends() -> None:
    two = Interval.of(torch.tensor([1.0, 4.0]))  # deviation 3/sqrt(2), over sqrt(2)
    assert (two.mean, two.half) == (2.5, pytest.approx(1.959964 * 1.5))
    assert Interval.of(torch.tensor([4.0])) == Interval(4.0, None)
    assert (Interval(3.0, 0.5).low, Interval(3.0, 0.5).high) == (2.5, 3.5)
    assert (Interval(3.0, None).low, Interval(3.0, None).high) == (None, None)


def test_a_share_of_nothing() -> None:
    for count, of in ((0, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match="is no share"):
            Share(count, of)


def test_histogram_and_its_distance() -> None:
    """Half the sum of differences: 0.2 would have to change class."""
    a, b = class_histogram([0, 0, 1, 3, 3], 4), class_histogram(np.array([0, 1, 1, 3, 3]), 4)
    np.testing.assert_array_equal(a, [0.4, 0.2, 0.0, 0.4])
    assert class_distance(a, b) == pytest.approx(0.2)
    assert class_distance(a, a) == 0
    assert class_distance([1.0, 0.0], [0.0, 1.0]) == 1


def test_half_of_the_classes_dropped_is_a_distance_of_one_half() -> None:
    assert class_distance(np.full(10, 0.1), [0.2] * 5 + [0.0] * 5) == pytest.approx(0.5)


def test_the_distance_expected_of_one_distribution() -> None:
    """The sum over classes of sqrt(p(1 - p)(1/n + 1/m)/2 pi), for counts large enough to be normal."""
    p, n, m, repeats = np.array([0.5, 0.3, 0.15, 0.05]), 2000, 800, 2000
    draw = np.random.default_rng(0)
    pairs = zip(draw.multinomial(n, p, repeats) / n, draw.multinomial(m, p, repeats) / m, strict=True)
    found = [class_distance(a, b) for a, b in pairs]
    expected = np.sqrt(p * (1 - p) * (1 / n + 1 / m) / (2 * math.pi)).sum()
    error = np.std(found) / math.sqrt(repeats)
    assert error < 0.012 * expected
    assert abs(np.mean(found) - expected) < 3 * error


def test_accuracy_counts_those_with_a_class_asked_for() -> None:
    assert class_accuracy([0, 1, 2, 2, 1, 1], [0, 1, 1, -1, 0, 0]) == Share(2, 5)


def test_what_cannot_be_counted() -> None:
    with pytest.raises(ValueError, match="from 0 to 2, not 0 to 3"):
        class_histogram([0, 3], 3)
    with pytest.raises(ValueError, match="from 0 to 2, not -1 to 1"):
        class_histogram([-1, 1], 3)
    with pytest.raises(ValueError, match="not none"):
        class_histogram([], 3)
    with pytest.raises(ValueError, match="2 and 3 classes"):
        class_distance([0.5, 0.5], [0.5, 0.25, 0.25])
    with pytest.raises(ValueError, match="2 predicted classes and 1 asked"):
        class_accuracy([1, 2], [1])
    with pytest.raises(ValueError, match="Measure the class histogram"):
        class_accuracy([1, 2], [-1, -1])
