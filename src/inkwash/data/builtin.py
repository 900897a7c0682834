"""The data sets that have a name: each as a pack in the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inkwash.data.cache import published
from inkwash.data.dataset import Array, Dataset, finish_pack, open_pack, read_pack
from inkwash.data.fetch import Progress, fetch
from inkwash.data.known import KNOWN, parse
from inkwash.data.spec import Split


def known_set(name: str, split: Split, cache: Path, progress: Progress | None = None) -> Dataset:
    """A real, named set at its own size, from the cache or from wherever it can be had; DatasetUnavailableError."""
    known = KNOWN[name]

    def build(staged: Path) -> None:
        images, labels = parse(known, split, fetch(known, split, cache, progress))
        write(staged, images, labels, known.classes)

    folder = published(cache / "packs" / f"{name}-{split}", lambda f: read_pack(f) is not None, build)
    return open_pack(folder, name, flip=known.flip)


def write(staged: Path, images: Array, labels: Array | None, classes: tuple[str, ...]) -> None:
    """Make a pack of arrays that are in memory."""
    images = np.ascontiguousarray(images)
    images.tofile(staged / "images.bin")
    size = {f"{images.shape[2]}x{images.shape[1]}": len(images)}
    finish_pack(staged, images, labels, classes, sizes=size)
