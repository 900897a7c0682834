"""How sure a number is: means and shares with their 95 % confidence intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

Z = 1.959964
"""The standard normal distribution's 97.5 % quantile."""


@dataclass(frozen=True)
class Interval:
    """A mean over examples, and half the width of its 95 % confidence interval: 1.96 standard errors.

    The normal distribution's: for 16 examples Student's would be 9 % wider. half is None for a single example.
    """

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Tensor) -> Interval:
        """Of values [n]."""
        half = None if len(values) < 2 else Z * float(values.std()) / math.sqrt(len(values))
        return cls(float(values.mean()), half)

    @property
    def low(self) -> float | None:
        """The lower end."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """The upper end."""
        return None if self.half is None else self.mean + self.half


def quotient(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> tuple[float, float | None]:
    """sum(above)/sum(below) of paired values [n], and half the width of its 95 % interval (math.md, eq. 62).

    The width is the first order in 1/n: that of the mean of (above - q·below)/mean(below). None for a single pair.
    """
    top, bottom = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    q = float(top.sum() / bottom.sum())
    if len(top) < 2:
        return q, None
    each = (top - q * bottom) / bottom.mean()
    return q, Z * float(each.std(ddof=1)) / math.sqrt(len(each))


@dataclass(frozen=True)
class Middle:
    """A median, and its 95 % interval, which holds whatever the values' distribution is: two of their order."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[Any]) -> Middle:
        """Of values [n]: as many lie below the median as heads in n throws, n/2 ± 1.96·sqrt(n)/2."""
        ordered = np.sort(np.asarray(values, dtype=np.float64))
        n, reach = len(ordered), Z * math.sqrt(len(ordered)) / 2
        low, high = max(math.floor(n / 2 - reach), 0), min(math.ceil(n / 2 + reach), n - 1)
        return cls(float(np.median(ordered)), float(ordered[low]), float(ordered[high]))


@dataclass(frozen=True)
class Share:
    """So many (count) of so many (of): a share, with Wilson's 95 % interval (math.md, eq. 53; Wilson 1927).

    The interval lies within [0, 1] and has a width at shares of 0 and 1 too, where the normal distribution's has none.
    Raises ValueError for a share of nothing.
    """

    count: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.count <= self.of or self.of == 0:
            raise ValueError(f"{self.count} of {self.of} is no share. Count at least one example.")

    @property
    def mean(self) -> float:
        """The share itself, in [0, 1]."""
        return self.count / self.of

    @property
    def low(self) -> float:
        """The lower end, 0 for a share of 0."""
        return max(self._centre() - self._half(), 0.0) if self.count else 0.0

    @property
    def high(self) -> float:
        """The upper end, 1 for a share of 1."""
        return min(self._centre() + self._half(), 1.0) if self.count < self.of else 1.0

    def _centre(self) -> float:
        return (self.count + Z**2 / 2) / (self.of + Z**2)

    def _half(self) -> float:
        return Z / (self.of + Z**2) * math.sqrt(self.count * (self.of - self.count) / self.of + Z**2 / 4)
