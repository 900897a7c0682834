"""The order of training and its augmentation, as pure functions of (seed, epoch, index).

A run needs to remember only how many examples it has seen: example k of a run is at position k mod n of epoch k div n.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from inkwash.data.dataset import Dataset, Rows
from inkwash.data.mix import Use, mix, uniform

Index = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Stream:
    """The endless sequence of training examples of a data set under a seed.

    index: the examples to use (None: all of them), such as the first half of what `split` returns.
    flip: whether each example is mirrored in half of the epochs; None: as the data set says.
    """

    dataset: Dataset
    seed: int
    index: Index | None = None
    flip: bool | None = None

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ValueError(f"{self.dataset.name} has no examples to train on. Hold fewer of them out.")

    def __len__(self) -> int:
        """Examples in an epoch."""
        return len(self.dataset) if self.index is None else len(self.index)

    def rows(self, k: npt.ArrayLike) -> Rows:
        """Examples number k ([B] integers, 0 and up) of the run; they may lie in several epochs."""
        epoch, position = np.divmod(np.asarray(k, np.int64), len(self))
        index = np.empty_like(position)
        mirrored = np.zeros(position.shape, bool)
        flip = self.dataset.images.ndim == 4 and (self.dataset.flip if self.flip is None else self.flip)
        for e in np.unique(epoch).tolist():
            here = epoch == e
            chosen = order(self.seed, e, len(self))[position[here]]
            index[here] = chosen if self.index is None else self.index[chosen]
            if flip:
                mirrored[here] = flips(self.seed, e, index[here])
        return self.dataset.take(index, mirrored)


@lru_cache(maxsize=4)  # the current and the next epoch, of training and of validation
def order(seed: int, epoch: int, n: int) -> Index:
    """The order in which an epoch visits n examples: a permutation of 0..n-1, int64, read-only."""
    permutation = np.argsort(mix(np.arange(n), Use.ORDER, seed, epoch), kind="stable").astype(np.int64)
    permutation.flags.writeable = False
    return permutation


def flips(seed: int, epoch: int, index: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which of the examples `index` are mirrored in this epoch: each with probability 1/2, independently."""
    return np.asarray(mix(index, Use.FLIP, seed, epoch) >> np.uint64(63) == 1)


def split(dataset: Dataset, val_fraction: float, seed: int) -> tuple[Index, Index]:
    """The examples to train on and those held out, each in ascending order.

    Whether an example is held out depends on (seed, index) alone, so the count is near val_fraction·N, not exactly
    it. Where chance would leave one side of a tiny set empty, the nearest example goes there. ValueError if
    val_fraction is not in [0, 1), or is positive for a single example.
    """
    n = len(dataset)
    if not 0.0 <= val_fraction < 1.0:
        raise ValueError(f"val_fraction = {val_fraction} must be in [0, 1). Try 0.05.")
    if val_fraction == 0.0:
        return np.arange(n), np.arange(0)
    if n < 2:
        raise ValueError(f"{dataset.name} has {n} example: none can be held out. Set val_fraction = 0.")
    draw = uniform(np.arange(n), Use.SPLIT, seed)
    held = draw < val_fraction
    held[draw.argmin()] = True
    held[draw.argmax()] = False
    return np.flatnonzero(~held), np.flatnonzero(held)
