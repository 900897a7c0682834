"""`shapes`: small grey pictures made by a formula, for when no real ones can be had. They are always named as such."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from inkwash.data.dataset import Array
from inkwash.data.mix import Use, mix, uniform
from inkwash.data.spec import Split

SHAPES = "shapes"
CLASSES = ("circle", "ring", "half moon", "crescent", "bar", "square", "frame", "triangle", "cross", "star")
COUNT: dict[Split, int] = {"train": 20_000, "test": 4_000}
SIDE = 28

Floats = npt.NDArray[np.float32]


def draw(split: Split = "train", n: int | None = None) -> tuple[Array, npt.NDArray[np.int64]]:
    """n pictures, uint8 [n, 28, 28, 1], white on black and antialiased, and their classes [n].

    Picture i is a pure function of (split, i): a shape of random class, position (within 3 pixels of the middle),
    size (radius 7 to 11 pixels), angle and brightness (60 to 100 %).
    """
    i = np.arange(COUNT[split] if n is None else n)
    parts = [_draw(i[k : k + 2048], split) for k in range(0, len(i), 2048)]
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _draw(i: Array, split: Split) -> tuple[Array, npt.NDArray[np.int64]]:
    key = (Use.SHAPES, 0 if split == "train" else 1)
    labels = (mix(i, *key, 0) % np.uint64(len(CLASSES))).astype(np.int64)

    def between(low: float, high: float, what: int) -> Floats:
        return (low + (high - low) * uniform(i, *key, what)).astype(np.float32)[:, None, None]

    middle = (SIDE - 1) / 2
    cx, cy = between(middle - 3, middle + 3, 1), between(middle - 3, middle + 3, 2)
    radius, angle, light = between(7, 11, 3), between(0, 2 * np.pi, 4), between(0.6, 1.0, 5)
    grid = np.arange(SIDE, dtype=np.float32)
    dx, dy = (grid[None, None, :] - cx) / radius, (grid[None, :, None] - cy) / radius
    # The shape's own frame: radius 1, turned.
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    cover = np.empty(u.shape, np.float32)
    for c in np.unique(labels).tolist():
        mine = labels == c
        # Signed distance to the edge, in pixels; a pixel is as light as the shape covers it, to first order.
        cover[mine] = np.clip(0.5 - _distance(CLASSES[c], u[mine], v[mine]) * radius[mine], 0.0, 1.0)
    pixels = np.rint(255.0 * light * cover).astype(np.uint8)
    return pixels[..., None], labels


def _distance(name: str, u: Floats, v: Floats) -> Floats:
    """Signed distance (or a close bound) from (u, v) to the outline of a shape of radius 1; negative inside."""
    r: npt.NDArray[Any] = np.hypot(u, v)
    d: npt.NDArray[Any]
    match name:
        case "circle":
            d = r - 0.9
        case "ring":
            d = np.abs(r - 0.75) - 0.2
        case "half moon":
            d = np.maximum(r - 0.95, v)
        case "crescent":
            d = np.maximum(r - 0.95, 0.75 - np.hypot(u - 0.45, v))
        case "bar":
            d = _box(u, v, 1.0, 0.25)
        case "square":
            d = _box(u, v, 0.75, 0.75)
        case "frame":
            d = np.abs(_box(u, v, 0.68, 0.68)) - 0.14
        case "triangle":
            d = np.maximum(np.maximum(v, 0.8660254 * u - 0.5 * v), -0.8660254 * u - 0.5 * v) - 0.5
        case "cross":
            d = np.minimum(_box(u, v, 1.0, 0.27), _box(u, v, 0.27, 1.0))
        case _:  # star: fold the plane into half of one of its five points, whose edge is then one line
            fold = np.pi / 5
            a = np.abs((np.arctan2(v, u) + fold) % (2 * fold) - fold)
            x, y = r * np.cos(a), r * np.sin(a)
            inner = 0.45
            ex, ey = inner * np.cos(fold) - 1.0, inner * np.sin(fold)  # from the tip to the notch
            d = (ey * (x - 1.0) - ex * y) / np.hypot(ex, ey)
    return d.astype(np.float32)


def _box(u: Floats, v: Floats, half_u: float, half_v: float) -> Floats:
    x, y = np.abs(u) - half_u, np.abs(v) - half_v
    outside = np.hypot(np.maximum(x, 0), np.maximum(y, 0))
    return (outside + np.minimum(np.maximum(x, y), 0)).astype(np.float32)
