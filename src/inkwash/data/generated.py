"""Data sets made by a formula: points in the plane whose distribution is known, for seeing diffusion at work.

Example i is a pure function of (split, i). All have about unit scale.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from inkwash.data.dataset import Array, Dataset, fingerprint
from inkwash.data.mix import Use, mix, normal, uniform
from inkwash.data.spec import Split

Floats = npt.NDArray[np.float64]

COUNT: dict[Split, int] = {"train": 50_000, "test": 10_000}
POINTS = ("swiss-roll", "moons", "checkerboard", "gaussians")


def points(name: str, split: Split = "train", limit: int | None = None) -> Dataset:
    """One of POINTS: float32 [N, 2].

    swiss-roll: (a cos a, a sin a)/10 with a = 3π/2·(1 + 2u), u uniform, plus noise of deviation 0.05.
    moons: two half circles of radius 1, the second turned over and shifted by (1, -1/2); noise 0.08; centred, times
    1.25. Labels: upper, lower.
    checkerboard: uniform on the 8 dark fields of a 4x4 board on [-√3, √3]².
    gaussians: 8 normals of deviation 0.1 whose means lie on a circle of radius √2. Labels: east, north-east and on.
    """
    n = min(limit or COUNT[split], COUNT[split])
    i, key = np.arange(n), (Use.POINTS, POINTS.index(name), 0 if split == "train" else 1)
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    if name == "swiss-roll":
        a = 1.5 * np.pi * (1.0 + 2.0 * uniform(i, *key, 0))
        xy = a[:, None] * _circle(a) / 10.0 + 0.05 * _normals(i, *key)
    elif name == "moons":
        classes, labels = ("upper", "lower"), _choose(i, 2, *key)
        a = np.pi * uniform(i, *key, 0)
        down = labels[:, None] == 1
        xy = np.where(down, (1.0, 0.5) - _circle(a), _circle(a)) + 0.08 * _normals(i, *key)
        xy = 1.25 * (xy - (0.5, 0.25))
    elif name == "checkerboard":
        x, v = 4.0 * uniform(i, *key, 0), 2.0 * uniform(i, *key, 1)
        # v in [0, 2) runs over the two dark fields of x's column, which lie one higher in every second column.
        y = v + np.floor(v) + np.floor(x) % 2
        xy = (np.stack([x, y], 1) - 2.0) * (np.sqrt(3.0) / 2.0)
    else:
        classes = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")
        labels = _choose(i, 8, *key)
        xy = np.sqrt(2.0) * _circle(labels.astype(np.float64) * (np.pi / 4)) + 0.1 * _normals(i, *key)
    data = xy.astype(np.float32)
    return Dataset(name, data, labels, classes, None, fingerprint(data, labels, classes, None), generated=True)


def _circle(a: Floats) -> Floats:
    return np.stack([np.cos(a), np.sin(a)], axis=1)


def _normals(i: Array, *key: int) -> Floats:
    return np.stack([normal(i, *key, 3), normal(i, *key, 4)], axis=1)


def _choose(i: Array, n: int, *key: int) -> npt.NDArray[np.int64]:
    return (mix(i, *key, 2) % np.uint64(n)).astype(np.int64)
