"""A data set as training reads it: one packed, memory-mapped array, with labels, classes and captions.

On disk a pack is a flat folder: `images.bin` (the array, row by row), `labels.bin` (int64), `captions.json`,
`names.json` (which file each row came from), `bad-files.txt`, and `pack.json`, which says how to read the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FORMAT = 1
"""The version of the pack's layout: packs of another are made anew."""

MAX_BAD = 0.05
"""More unreadable pictures than this share stop a run: something is wrong with the source."""


@dataclass(frozen=True)
class Dataset:
    """Pictures or points, ready for training.

    images: uint8 or float32 [N, H, W, C], memory-mapped and read-only; float16 for latents; or float32 [N, D] for
    points.
    labels: int64 [N], an index into `classes`, -1 where an example has none; or None.
    captions: one text for each example, "" where it has none; or None.
    fingerprint: SHA-256 of shape, type, contents, labels, classes and captions, in hex: the same pictures give the
    same fingerprint from a folder, a zip or a tar.
    generated: made by a formula, not photographed or drawn; to be said wherever the set is named.
    flip: whether training may mirror the pictures (the specification's choice, or the source's own).
    notes: what a user should know, one sentence each: sizes chosen, files left out.
    folder: the pack in the cache, where there is one.
    mirrored: the examples as they are when mirrored, where that is not `images` with its columns turned round.
    """

    name: str
    images: Array
    labels: Array | None
    classes: tuple[str, ...]
    captions: tuple[str, ...] | None
    fingerprint: str
    generated: bool
    flip: bool = False
    notes: tuple[str, ...] = ()
    folder: Path | None = None
    mirrored: Array | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example as a network sees it: (C, H, W) for pictures, (D,) for points."""
        if self.images.ndim == 2:
            return (int(self.images.shape[1]),)
        _, h, w, c = self.images.shape
        return (int(c), int(h), int(w))


@dataclass(frozen=True)
class Pack:
    """What a pack folder says of itself: the contents of pack.json.

    bad: how many files could not be read; sizes and modes: how many of the originals had each "WxH" and pixel format.
    """

    rows: int
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    bad: int = 0
    sizes: dict[str, int] | None = None
    modes: dict[str, int] | None = None
    captioned: bool = False
    labelled: bool = False
    format: int = FORMAT


def finish_pack(
    folder: Path,
    images: Array,
    labels: Array | None = None,
    classes: Sequence[str] = (),
    captions: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    bad: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    sizes: dict[str, int] | None = None,
    modes: dict[str, int] | None = None,
) -> None:
    """Write everything of a pack but `images.bin`, which already holds `images`; pack.json comes last."""
    if labels is not None:
        np.ascontiguousarray(labels, dtype="<i8").tofile(folder / "labels.bin")
    if captions is not None:
        _dump(folder / "captions.json", list(captions))
    if names is not None:
        _dump(folder / "names.json", list(names))
    if bad:
        (folder / "bad-files.txt").write_text("".join(f"{n}\t{why}\n" for n, why in bad), encoding="utf-8")
    pack = Pack(
        rows=len(images),
        shape=tuple(images.shape[1:]),
        dtype=images.dtype.str,
        classes=tuple(classes),
        fingerprint=fingerprint(images, labels, classes, captions),
        notes=tuple(notes),
        bad=len(bad),
        sizes=sizes,
        modes=modes,
        captioned=captions is not None,
        labelled=labels is not None,
    )
    _dump(folder / "pack.json", pack.__dict__)


def fingerprint(
    images: Array, labels: Array | None, classes: Sequence[str], captions: Sequence[str] | None, chunk: int = 4096
) -> str:
    """SHA-256 (hex) of everything a model can learn from: see `Dataset.fingerprint`."""
    head = {"shape": images.shape, "dtype": images.dtype.newbyteorder("<").str, "classes": list(classes)}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for i in range(0, len(images), chunk):
        digest.update(np.ascontiguousarray(images[i : i + chunk]).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    if captions is not None:
        digest.update(json.dumps(list(captions)).encode())
    return digest.hexdigest()


def read_pack(folder: Path) -> Pack | None:
    """What the pack says of itself, or None if it is not there, of another format, or its files have other sizes."""
    try:
        table = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        if table.get("format") != FORMAT:
            return None
        pack = Pack(**table | {k: tuple(table[k]) for k in ("shape", "classes", "notes")})
        row = int(np.prod(pack.shape, dtype=np.int64)) * np.dtype(pack.dtype).itemsize
        whole = (folder / "images.bin").stat().st_size == pack.rows * row
        if pack.labelled:
            whole &= (folder / "labels.bin").stat().st_size == pack.rows * 8
        return pack if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_pack(folder: Path, name: str, *, flip: bool) -> Dataset:
    """The data set in a pack that `read_pack` accepts; memory-mapped, so that opening costs nothing."""
    pack = read_pack(folder)
    if pack is None:
        raise ValueError(f"{folder} is not a complete pack. Delete it; it is made again when it is needed.")
    images = np.memmap(folder / "images.bin", dtype=pack.dtype, mode="r", shape=(pack.rows, *pack.shape))
    labels = np.fromfile(folder / "labels.bin", dtype="<i8").astype(np.int64) if pack.labelled else None
    captions = tuple(json.loads((folder / "captions.json").read_text("utf-8"))) if pack.captioned else None
    return Dataset(
        name=name,
        images=images.view(np.ndarray),
        labels=labels,
        classes=pack.classes,
        captions=captions,
        fingerprint=pack.fingerprint,
        generated=False,
        flip=flip,
        notes=pack.notes,
        folder=folder,
    )


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
