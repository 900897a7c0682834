"""Numbers a model is told, in the data's own units: `{"angle": 30}` to rows in the model's order, and back to words."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from inkwash.conditions import ByVector

SPOKEN = 4
"""Of more numbers than this nobody reads a caption."""


def numbers(given: Any, told: ByVector) -> tuple[np.ndarray, bool]:
    """Rows [k, V] float64 in the data's units, NaN where not known, and whether they are one for each sample.

    given: a mapping of names to numbers, or to one number for each sample; V numbers in the model's order; a sequence
    of either, or an array [k, V]. Raises ValueError for names that do not exist, with the nearest, and for numbers that
    are infinite or too many or too few.
    """
    names = told.names
    if isinstance(given, Mapping):
        rows, many = _named(given, names)
    elif isinstance(given, Sequence) and any(isinstance(one, Mapping) for one in given):
        if wrong := [one for one in given if not isinstance(one, Mapping)]:
            raise ValueError(f"vector = a list must hold mappings alone, or numbers alone, and has {wrong[0]!r} too.")
        rows, many = np.concatenate([_named(one, names)[0] for one in given]), True
        if len(rows) != len(given):
            raise ValueError("vector = a list of mappings has one number for each name. Sweep over a single mapping.")
    else:
        try:
            found = np.asarray(given, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"vector = {given!r:.60} is not numbers. Give {_example(names)}.") from error
        if found.ndim not in (1, 2) or found.shape[-1] != len(names):
            raise ValueError(
                f"vector is {list(found.shape)}, and this model takes {len(names)} numbers ({_some(names)}), or [n, "
                f"{len(names)}] for each of n samples. Give {_example(names)}."
            )
        rows, many = np.atleast_2d(found), found.ndim == 2
    if np.isinf(rows).any():
        raise ValueError("vector holds an infinite number. Leave one that is not known out, or give NaN.")
    return rows, many


def spoken(known: np.ndarray, told: ByVector) -> list[str]:
    """Each row [n, V] in words: "angle 30, size 2"; nothing where too many are known."""
    each = [[f"{name} {v:.4g}" for name, v in zip(told.names, row, strict=True) if not np.isnan(v)] for row in known]
    return [", ".join(words) if len(words) <= SPOKEN else "" for words in each]


def _named(given: Mapping[str, Any], names: Sequence[str]) -> tuple[np.ndarray, bool]:
    """A mapping as rows [k, V], and whether any of its values is a list."""
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, 1, 0.4)
            hint = f"Did you mean {near[0]}?" if near else f"It is told {_some(names)}."
            raise ValueError(f"This model is told no number {name!r}. {hint}")
    try:
        values = {name: np.asarray(value, np.float64) for name, value in given.items()}
    except (TypeError, ValueError) as error:
        raise ValueError(f"vector = {dict(given)!r:.60} holds what is no number. Give {_example(names)}.") from error
    counts = {len(v) for v in values.values() if v.ndim == 1}
    if len(counts) > 1 or any(v.ndim > 1 for v in values.values()):
        raise ValueError("vector: give a number for all samples, or a list of one for each, of one length.")
    rows = np.full((max(counts, default=1), len(names)), np.nan)
    for name, value in values.items():
        rows[:, names.index(name)] = value
    return rows, bool(counts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")


def _example(names: Sequence[str]) -> str:
    return f"vector={{{names[0]!r}: 1.0}}" if names else "none"
