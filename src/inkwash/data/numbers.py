"""The numbers that go with pictures: columns of metadata.jsonl, or arrays, as [N, V] float32 with NaN for not known."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from inkwash.data.sources import METADATA

Vectors = npt.NDArray[np.float32]

_MOST = float(np.finfo(np.float32).max)

_KNOWN = ("file_name", "text", "label")


def columns(rows: Sequence[dict[str, Any]], names: Sequence[str], where: str) -> tuple[Vectors, tuple[str, ...]]:
    """The numbers in the columns `names` of the lines of metadata.jsonl, and what each is called.

    A column holds a number in every line (or true and false, 1 and 0), or lists of equally many: the numbers of a list
    are called name.0, name.1 and so on. One that is missing or null is not known: NaN. Raises ValueError for a column
    that no line has, for two numbers of one name, and for what is no finite number, naming the picture.
    """
    parts, called = list[Vectors](), list[str]()
    for name in names:
        held = [r.get(name) for r in rows]
        if all(value is None for value in held):
            raise ValueError(f"No line of {METADATA} in {where} has a column {name!r}.{_hint(name, rows)}")
        lengths = {len(value) for value in held if isinstance(value, list)}
        alone = any(value is not None and not isinstance(value, list) for value in held)
        if len(lengths) > 1 or (lengths and alone) or 0 in lengths:
            found = sorted(lengths) + (["a number"] if alone else [])
            raise ValueError(
                f"{METADATA} in {where}: {name} must be a number in every line, or a list of equally many, but it is "
                f"{' and '.join(f'a list of {n}' if isinstance(n, int) else n for n in found)}."
            )
        count = max(lengths, default=1)
        part = np.full((len(rows), count), np.nan, np.float32)
        for i, value in enumerate(held):
            if value is not None:
                part[i] = [_number(v, name, rows[i], where) for v in (value if isinstance(value, list) else [value])]
        parts.append(part)
        called += [name] if not lengths else [f"{name}.{k}" for k in range(count)]
    if twice := sorted({name for name in called if called.count(name) > 1}):
        raise ValueError(
            f"{METADATA} in {where} has two numbers called {', '.join(twice)}: one of a list, and a column of that "
            "name. Rename the column."
        )
    return np.concatenate(parts, axis=1), tuple(called)


def offered(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of metadata.jsonl that hold numbers, or lists of them, wherever they hold anything."""
    names = dict.fromkeys(n for r in rows for n in r if n not in _KNOWN)
    return [n for n in names if _holds(rows, n, (int, float))]  # true and false are 1 and 0


def worded(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The columns of metadata.jsonl besides those it knows that hold strings, or lists of them."""
    names = dict.fromkeys(n for r in rows for n in r if n not in _KNOWN)
    return [n for n in names if _holds(rows, n, str)]


def chosen(vectors: Vectors, held: Sequence[str], names: Sequence[str], where: str) -> tuple[Vectors, tuple[str, ...]]:
    """The columns `names` of an array whose columns are called `held`; all of them where none are named."""
    if unknown := [n for n in names if n not in held]:
        raise ValueError(f"{where} has no numbers called {', '.join(unknown)}, but {', '.join(held)}.")
    return (vectors[:, [list(held).index(n) for n in names]], tuple(names)) if names else (vectors, tuple(held))


def _holds(rows: Sequence[dict[str, Any]], name: str, kind: type | tuple[type, ...]) -> bool:
    """Whether a column holds values of these kinds, or lists of them, wherever it holds anything."""
    values = [r.get(name) for r in rows]
    inside = [v for value in values for v in (value if isinstance(value, list) else [value]) if v is not None]
    return bool(inside) and all(isinstance(v, kind) for v in inside)


def _number(value: Any, name: str, row: dict[str, Any], where: str) -> float:
    if value is None:
        return float("nan")
    if not isinstance(value, (int, float)) or abs(value) > _MOST:
        raise ValueError(
            f"{METADATA} in {where}: {name} of {row['file_name']} is {value!r}, not a number within float32's range. "
            "Leave it out where it is not known."
        )
    return float(value)


def _hint(name: str, rows: Sequence[dict[str, Any]]) -> str:
    there = offered(rows)
    if near := difflib.get_close_matches(name, there, 1):
        return f" Did you mean {near[0]}?"
    return f" Those with numbers: {', '.join(there)}." if there else " None of its columns holds numbers."
