"""What classes the pictures are of, by a classifier: how often each comes, and whether it is the one asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inkwash.evaluation.interval import Share


def class_histogram(predicted: npt.ArrayLike, classes: int) -> npt.NDArray[np.float64]:
    """[K]: the share of each of the classes among those predicted [n]. Raises ValueError for others, and for none."""
    found = np.asarray(predicted, dtype=np.int64)
    if not found.size or found.min() < 0 or found.max() >= classes:
        seen = f"{found.min()} to {found.max()}" if found.size else "none"
        raise ValueError(f"Predicted classes are numbers from 0 to {classes - 1}, not {seen}.")
    return np.bincount(found, minlength=classes) / found.size


def class_distance(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """The total variation of two histograms [K]: half the sum of |a - b|, the share that would have to change class.

    From 0 to 1. For n and m pictures of one distribution about the sum over classes of
    sqrt(p(1 - p)(1/n + 1/m)/(2 pi)) is expected. Raises ValueError where the classes are not the same.
    """
    of_a, of_b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if of_a.shape != of_b.shape:
        raise ValueError(f"Histograms of {of_a.size} and {of_b.size} classes cannot be compared. Use one classifier.")
    return float(np.abs(of_a - of_b).sum() / 2)


def class_accuracy(predicted: npt.ArrayLike, asked: npt.ArrayLike) -> Share:
    """The share of pictures [n] of which the predicted class is the one asked for; -1, none asked for, is left out.

    Raises ValueError where there are not as many of both, or no class was asked for.
    """
    found, wanted = np.asarray(predicted, dtype=np.int64), np.asarray(asked, dtype=np.int64)
    if found.shape != wanted.shape:
        raise ValueError(f"{found.size} predicted classes and {wanted.size} asked for: there must be as many of both.")
    if not (wanted >= 0).any():
        raise ValueError("No class was asked for, so no picture can be of it. Measure the class histogram instead.")
    of = wanted >= 0
    return Share(int((found[of] == wanted[of]).sum()), int(of.sum()))
