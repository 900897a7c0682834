"""Features read a block of rows at a time, in float64: measures need no more memory than a few blocks take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Features = npt.NDArray[np.floating[Any]]
"""[n, d], one row a picture; usually float32 and memory-mapped."""

BLOCK = 1024
"""Rows of a block: at d = 1280 a block is 10 MB and the matrix of two blocks 8 MB. Larger is no faster."""


def blocks(features: Features) -> Iterator[tuple[slice, Tensor]]:
    """Which rows, and these rows [B, d] as float64, for every block in order.

    Raises ValueError for features that are not [n, d] or not finite.
    """
    if features.ndim != 2:
        raise ValueError(f"Features are [n, d], one row a picture, not of shape {features.shape}.")
    for start in range(0, len(features), BLOCK):
        rows = slice(start, min(start + BLOCK, len(features)))
        block = torch.from_numpy(np.array(features[rows], dtype=np.float64))
        if not block.isfinite().all():
            raise ValueError(
                f"Features {rows.start} to {rows.stop - 1} hold NaN or infinity. Look at the pictures they were "
                "computed from, and at the feature net's weights."
            )
        yield rows, block


def same_width(a: Features, b: Features) -> None:
    """Raise ValueError where two sets of features do not have the same d."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"Features of shapes {a.shape} and {b.shape} are not of one net. Use the same net for both.")
