"""Random numbers as a pure function of integers: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) over a key's words.

It is written out here, rather than taken from numpy's generators, because what follows from it (the order of
training, who is held out, what is mirrored, the generated sets) must be the same under every version of everything.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

_GOLDEN = 0x9E3779B97F4A7C15
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_MASK = (1 << 64) - 1

U64 = npt.NDArray[np.uint64]


class Use(IntEnum):
    """What a number is for; numbers for different uses are independent."""

    ORDER = 1
    FLIP = 2
    SPLIT = 3
    LIMIT = 4
    POINTS = 5
    SHAPES = 6


def mix(index: npt.ArrayLike, *key: int) -> U64:
    """64 random bits for each index (integers, any shape) under a key of integers; equal in, equal out, for ever."""
    state = 0
    for word in key:
        state = _finish((state + _GOLDEN + (word & _MASK)) & _MASK)
    with np.errstate(over="ignore"):
        z = (np.asarray(index).astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN) + np.uint64(state)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_M1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_M2)
        return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(index: npt.ArrayLike, *key: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in (0, 1), float64, one for each index: the upper 52 bits of `mix`, mid-bin."""
    return ((mix(index, *key) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def normal(index: npt.ArrayLike, *key: int) -> npt.NDArray[np.float64]:
    """Standard normals, float64, one for each index (Box and Muller)."""
    u, v = uniform(index, *key, 0), uniform(index, *key, 1)
    return np.asarray(np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v))


def _finish(z: int) -> int:
    z = ((z ^ (z >> 30)) * _M1) & _MASK
    z = ((z ^ (z >> 27)) * _M2) & _MASK
    return z ^ (z >> 31)
