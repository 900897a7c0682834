"""A data set as training reads it: one packed, memory-mapped array, with labels, classes and captions.

On disk a pack is a flat folder: `images.bin` (the array, row by row), `labels.bin` (int64), `captions.json`,
`vectors.bin` (float32), `shown.bin` (as `images.bin`), `names.json` (which file each row came from), `bad-files.txt`,
and `pack.json`, which says how to read the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FORMAT = 1
"""The version of the pack's layout: packs of another are made anew."""

MAX_BAD = 0.05
"""More unreadable pictures than this share stop a run: something is wrong with the source."""


class Rows(NamedTuple):
    """A batch as it is stored: images [B, H, W, C] or points [B, D], a contiguous copy; labels [B] int64 or None.

    What else a data set has of its examples, or None: vectors [B, V] float32, NaN where a number is not known; shown,
    pictures to be shown to a model, laid out as images; tokens [B, L, W] float16 of their captions, and present
    [B, L] bool, which of them there are; noise: the seed and the numbers [B] of the noise they belong to.
    """

    images: Array
    labels: npt.NDArray[np.int64] | None
    vectors: Array | None = None
    shown: Array | None = None
    tokens: Array | None = None
    present: Array | None = None
    noise: tuple[int, npt.NDArray[np.int64]] | None = None


class Texts(Protocol):
    """The tokens of N captions, read as if they were an array [N, L, W] float16: see `inkwash.data.captions`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, L, W): captions, tokens of the longest, width of a token."""
        ...

    def __getitem__(self, index: Array) -> Array:
        """The tokens of captions [B]: [B, L, W] float16, zero beyond each one's own."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Pictures or points, ready for training.

    images: uint8 or float32 [N, H, W, C], memory-mapped and read-only; float16 for latents; or float32 [N, D] for
    points.
    labels: int64 [N], an index into `classes`, -1 where an example has none; or None.
    captions: one text for each example, "" where it has none; or None.
    fingerprint: SHA-256 of shape, type, contents, labels, classes, captions, vectors and what is shown, in hex: the
    same pictures give the same fingerprint from a folder, a zip or a tar.
    generated: made by a formula, not photographed or drawn; to be said wherever the set is named.
    flip: whether training may mirror the pictures (the specification's choice, or the source's own).
    notes: what a user should know, one sentence each: sizes chosen, files left out.
    folder: the pack in the cache, where there is one.
    mirrored: the examples as they are when mirrored, where that is not `images` with its columns turned round.
    vectors: float32 [N, V], NaN where a number is not known, and vector_names, what each of the V is; or None.
    shown: the picture shown to a model with each example, laid out as `images`: its partner (`DataSpec.pairs`), or, in
    latents, what the model's task makes of it; and shown_mirrored, as `mirrored`; or None.
    tokens: [N, L, W] float16 of the captions, by a text encoder, and lengths [N], how many each has; or None.
    noise: the seed of the noise from which a model drew each example, by its number; images are then what is diffused,
    float16. None for examples that belong to no noise.
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
    vectors: Array | None = None
    vector_names: tuple[str, ...] = ()
    shown: Array | None = None
    shown_mirrored: Array | None = None
    tokens: Texts | None = None
    lengths: Array | None = None
    noise: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example as a network sees it: (C, H, W) for pictures, (D,) for points."""
        if self.images.ndim == 2:
            return (int(self.images.shape[1]),)
        _, h, w, c = self.images.shape
        return (int(c), int(h), int(w))

    @property
    def captioned(self) -> int:
        """How many examples have a caption: a text with a word in it."""
        return sum(bool(c.strip()) for c in self.captions or ())

    def take(self, index: npt.ArrayLike, mirrored: npt.ArrayLike | None = None) -> Rows:
        """The examples `index` [B] and all that is known of them; mirrored: [B] bool, those taken mirrored."""
        i = np.asarray(index, np.int64)
        turned = np.zeros(i.shape, bool) if mirrored is None else np.asarray(mirrored, bool)
        tokens = present = None
        if self.tokens is not None and self.lengths is not None:
            tokens = self.tokens[i]
            present = np.arange(tokens.shape[1]) < self.lengths[i, None]
        return Rows(
            images=_turned(self.images, self.mirrored, i, turned),
            labels=None if self.labels is None else self.labels[i],
            vectors=None if self.vectors is None else self.vectors[i],
            shown=None if self.shown is None else _turned(self.shown, self.shown_mirrored, i, turned),
            tokens=tokens,
            present=present,
            noise=None if self.noise is None else (self.noise, i),
        )


def _turned(stored: Array, mirrored: Array | None, index: Array, turned: Array) -> Array:
    """Rows `index` of an array of pictures, those that are `turned` mirrored."""
    rows = stored[index]
    if turned.any():
        rows[turned] = rows[turned, :, ::-1] if mirrored is None else mirrored[index[turned]]
    return rows


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
    vector_names: tuple[str, ...] = ()
    paired: bool = False
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
    vectors: Array | None = None,
    vector_names: Sequence[str] = (),
    shown: Array | None = None,
) -> None:
    """Write everything of a pack but `images.bin` and `shown.bin`, which are there already; pack.json comes last."""
    if labels is not None:
        np.ascontiguousarray(labels, dtype="<i8").tofile(folder / "labels.bin")
    if captions is not None:
        _dump(folder / "captions.json", list(captions))
    if vectors is not None:
        np.ascontiguousarray(vectors, dtype="<f4").tofile(folder / "vectors.bin")
    if names is not None:
        _dump(folder / "names.json", list(names))
    if bad:
        (folder / "bad-files.txt").write_text("".join(f"{n}\t{why}\n" for n, why in bad), encoding="utf-8")
    pack = Pack(
        rows=len(images),
        shape=tuple(images.shape[1:]),
        dtype=images.dtype.str,
        classes=tuple(classes),
        fingerprint=fingerprint(images, labels, classes, captions, vectors, vector_names, shown),
        notes=tuple(notes),
        bad=len(bad),
        sizes=sizes,
        modes=modes,
        captioned=captions is not None,
        labelled=labels is not None,
        vector_names=tuple(vector_names),
        paired=shown is not None,
    )
    _dump(folder / "pack.json", pack.__dict__)


def fingerprint(
    images: Array,
    labels: Array | None,
    classes: Sequence[str],
    captions: Sequence[str] | None,
    vectors: Array | None = None,
    vector_names: Sequence[str] = (),
    shown: Array | None = None,
    chunk: int = 4096,
) -> str:
    """SHA-256 (hex) of everything a model can learn from: see `Dataset.fingerprint`."""
    head: dict[str, Any] = {
        "shape": images.shape,
        "dtype": images.dtype.newbyteorder("<").str,
        "classes": list(classes),
    }
    # Only where there are any: the fingerprints of sets without them are as they were before there could be.
    head |= {"vectors": list(vector_names)} if vectors is not None else {}
    head |= {"shown": True} if shown is not None else {}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for i in range(0, len(images), chunk):
        digest.update(np.ascontiguousarray(images[i : i + chunk]).data)
    if labels is not None:
        digest.update(np.ascontiguousarray(labels, dtype="<i8").data)
    if captions is not None:
        digest.update(json.dumps(list(captions)).encode())
    if vectors is not None:
        # One NaN for all: "not known" has many bit patterns.
        digest.update(np.where(np.isnan(vectors), np.float32(np.nan), vectors).astype("<f4").tobytes())
    if shown is not None:
        for i in range(0, len(shown), chunk):
            digest.update(np.ascontiguousarray(shown[i : i + chunk]).data)
    return digest.hexdigest()


def read_pack(folder: Path) -> Pack | None:
    """What the pack says of itself, or None if it is not there, of another format, or its files have other sizes."""
    try:
        table = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        if table.get("format") != FORMAT:
            return None
        lists = ("shape", "classes", "notes", "vector_names")
        pack = Pack(**table | {k: tuple(table[k]) for k in lists if k in table})
        row = int(np.prod(pack.shape, dtype=np.int64)) * np.dtype(pack.dtype).itemsize
        whole = (folder / "images.bin").stat().st_size == pack.rows * row
        if pack.labelled:
            whole &= (folder / "labels.bin").stat().st_size == pack.rows * 8
        if pack.vector_names:
            whole &= (folder / "vectors.bin").stat().st_size == pack.rows * len(pack.vector_names) * 4
        if pack.paired:
            whole &= (folder / "shown.bin").stat().st_size == pack.rows * row
        return pack if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def open_pack(folder: Path, name: str, *, flip: bool) -> Dataset:
    """The data set in a pack that `read_pack` accepts; memory-mapped, so that opening costs nothing."""
    pack = read_pack(folder)
    if pack is None:
        raise ValueError(f"{folder} is not a complete pack. Delete it; it is made again when it is needed.")
    vectors = np.fromfile(folder / "vectors.bin", dtype="<f4").astype(np.float32) if pack.vector_names else None
    labels = np.fromfile(folder / "labels.bin", dtype="<i8").astype(np.int64) if pack.labelled else None
    captions = tuple(json.loads((folder / "captions.json").read_text("utf-8"))) if pack.captioned else None
    return Dataset(
        name=name,
        images=_mapped(folder / "images.bin", pack),
        labels=labels,
        classes=pack.classes,
        captions=captions,
        fingerprint=pack.fingerprint,
        generated=False,
        flip=flip,
        notes=pack.notes,
        folder=folder,
        vectors=None if vectors is None else vectors.reshape(pack.rows, -1),
        vector_names=pack.vector_names,
        shown=_mapped(folder / "shown.bin", pack) if pack.paired else None,
    )


def _mapped(file: Path, pack: Pack) -> Array:
    return np.memmap(file, dtype=pack.dtype, mode="r", shape=(pack.rows, *pack.shape)).view(np.ndarray)


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
