"""Classes to ask for, in the proportions of real data: one endless sequence, so that a drawn set can grow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, overload

import numpy as np


class Labelled(Protocol):
    """What has classes: `Pictures`, a `Reference`."""

    @property
    def about(self) -> Mapping[str, Any]:
        """counts: how often each class comes in all of the split, and last how many examples have none; or None."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        ...


@dataclass(frozen=True)
class Asked(Sequence[int]):
    """Classes in given proportions: the first n of one endless sequence, so that a set drawn with them can grow.

    shares: integers, for each class how often it comes, and last how often the null label, -1. Each label is the one
    that is furthest behind its share, so that none is ever a whole picture ahead; equal shares come in turn.
    """

    shares: tuple[int, ...]
    n: int
    array: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or sum(self.shares) == 0:
            raise ValueError(f"shares = {self.shares} must be 0 or more, and not all 0.")
        least = math.gcd(*self.shares)
        object.__setattr__(self, "shares", tuple(s // least for s in self.shares))
        object.__setattr__(self, "array", _in_turn(self.shares, self.n))

    def __len__(self) -> int:
        return self.n

    @overload
    def __getitem__(self, i: int) -> int: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[int]: ...
    def __getitem__(self, i: int | slice) -> int | Sequence[int]:
        found: int | Sequence[int] = self.array[i].tolist()
        return found


def asked(reference: Labelled, n: int, classes: Sequence[str]) -> Asked | None:
    """n classes in the proportions of real data, for a model of these classes; None for a model without.

    The proportions are those of the whole split, whatever part of it is measured: so a set that was drawn with them
    can grow. Real pictures without a label count for the null label. Where the real data have no labels or other
    classes, every class comes in turn.
    """
    if not classes:
        return None
    counts = reference.about["counts"]
    if counts is None or tuple(reference.classes) != tuple(classes) or not any(counts[:-1]):
        return Asked((*(1 for _ in classes), 0), n)
    return Asked(tuple(counts), n)


@lru_cache(maxsize=4)
def _in_turn(shares: tuple[int, ...], n: int) -> np.ndarray:
    """[n] int64, read-only: each label is the one that is furthest behind its share, the first of several."""
    share, total = np.array(shares, dtype=np.int64), sum(shares)
    behind = np.zeros(len(shares), dtype=np.int64)  # by how much, times the total
    out = np.empty(n, dtype=np.int64)
    for i in range(n):
        behind += share
        out[i] = behind.argmax()
        behind[out[i]] -= total
    out[out == len(shares) - 1] = -1
    out.flags.writeable = False
    return out
