"""Data that already is an array: .npy, .npz, and idx files as MNIST's."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inkwash.data.dataset import Array
from inkwash.data.known import KNOWN, read_idx
from inkwash.data.numbers import chosen
from inkwash.data.sources import Listing, Source
from inkwash.data.spec import Split

# Of numpy, zipfile and zlib, for a file that is cut short, altered, or holds pickled objects.
_UNFIT = (ValueError, OSError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Arrays:
    """A set in memory (or memory-mapped): images [N, H, W, C] bytes or floats, or points [N, D] floats.

    flip: whether mirroring makes sense, where nobody says otherwise.
    """

    images: Array
    labels: npt.NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    captions: tuple[str, ...] | None = None
    flip: bool = True
    vectors: npt.NDArray[np.float32] | None = None
    vector_names: tuple[str, ...] = ()


def read_numpy(path: Path, numbers: Sequence[str] = ()) -> Arrays:
    """An .npy, or an .npz with `images` and, where known, `labels`, `classes`, `captions`, `vectors`; else ValueError.

    vectors: [N, V] numbers, NaN where one is not known, called as `vector_names` says, or 0 to V - 1; of them those
    that `numbers` names, or all.
    Pictures are [N, H, W], [N, H, W, C] or [N, C, H, W] (taken as such where only that leaves few channels); whole
    numbers must be 0 to 255 (booleans become 0 and 255), floats are kept as they are. [N, D] floats are points.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) == b"PK":  # numpy leaves a damaged zip open
                zipfile.ZipFile(file).close()
        held = np.load(path, mmap_mode="r", allow_pickle=False)
    except _UNFIT as error:
        raise ValueError(f"{path} is not a whole file of plain arrays ({error}). Save it again with numpy.") from error
    if isinstance(held, np.ndarray):
        if numbers:
            raise ValueError(f"{path} holds pictures alone. Numbers that go with them: an .npz with `vectors`.")
        return Arrays(_images(held, path))
    with held:
        keys = held.files
        if "images" not in keys and len(keys) != 1:
            raise ValueError(f"{path} has no array `images`, but {', '.join(keys)}. Save it as images=…, labels=….")
        images = _images(_member(held, "images" if "images" in keys else keys[0], path), path)
        labels = _labels(_member(held, "labels", path), len(images), path) if "labels" in keys else None
        classes = _texts(held, "classes", path) if "classes" in keys else ()
        captions = _texts(held, "captions", path) if "captions" in keys else None
        names = _texts(held, "vector_names", path) if "vector_names" in keys else None
        vectors = _vectors(_member(held, "vectors", path), names, len(images), path) if "vectors" in keys else None
    if labels is not None and not classes:
        classes = tuple(str(i) for i in range(int(labels.max()) + 1))
    if labels is not None and labels.max() >= len(classes):
        raise ValueError(f"{path}: label {labels.max()} has no name among its {len(classes)} classes.")
    if captions is not None and len(captions) != len(images):
        raise ValueError(f"{path} has {len(images)} images and {len(captions)} captions. Each image needs one.")
    if vectors is None:
        if numbers:
            raise ValueError(f"{path} has no array `vectors`, and data.vector asks for {', '.join(numbers)} in it.")
        return Arrays(images, labels, classes, captions)
    kept, called = chosen(vectors, names or tuple(str(i) for i in range(vectors.shape[1])), numbers, str(path))
    return Arrays(images, labels, classes, captions, vectors=kept, vector_names=called)


def read_idx_files(source: Source, listing: Listing, split: Split) -> tuple[str, Arrays]:
    """The set in idx files of a folder or an archive, and its name where its contents are a known set's."""
    prefix = "train-" if split == "train" else "t10k-"
    names = {kind: next((n for n in listing.idx if f"{prefix}{kind}" in n), "") for kind in ("images", "labels")}
    if not names["images"]:
        raise ValueError(f"{source.path} has no file {prefix}images-idx3-ubyte, but {', '.join(listing.idx)}.")
    blobs = dict(source.read([n for n in names.values() if n], 1 << 32))
    raw = {n: b.read_bytes() if isinstance(b, Path) else b for n, b in blobs.items() if not isinstance(b, Exception)}
    images = read_idx(raw[names["images"]])
    if images.ndim != 3:
        raise ValueError(f"{names['images']} in {source.path} has {images.ndim} axes, expected 3: [N, H, W].")
    labels = read_idx(raw[names["labels"]]).astype(np.int64) if names["labels"] else None
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(f"{source.path} has {len(images)} images and {labels.size} labels. Each image needs one.")
    header = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes()
    digest = sha256(header + images.tobytes()).hexdigest()
    for known in KNOWN.values():
        if digest in known.files[split].values():
            return known.name, Arrays(images[..., None], labels, known.classes, flip=known.flip)
    classes = () if labels is None else tuple(str(i) for i in range(int(labels.max()) + 1))
    return "", Arrays(images[..., None], labels, classes, flip=False)


def _member(held: Any, key: str, path: Path) -> Array:
    """One array of an .npz; they are only read, and found to be damaged, when they are asked for."""
    try:
        array = held[key]
    except _UNFIT as error:
        raise ValueError(
            f"{path}: {key} cannot be read ({error}). Save the file again with numpy, as arrays of numbers or of texts "
            "(not of objects: np.array(names, dtype=str))."
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: {key} is a plain file, not an array. Save it again with numpy.savez.")
    return array


def _texts(held: Any, key: str, path: Path) -> tuple[str, ...]:
    """A member that is a list of names: texts, UTF-8 bytes or numbers."""
    array = _member(held, key, path)
    if array.ndim != 1:
        raise ValueError(f"{path}: {key} has shape {list(array.shape)}; expected a list of texts, one axis.")
    try:
        return tuple(c.decode() if isinstance(c, bytes) else str(c) for c in array)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {key} is not UTF-8 ({error}). Save texts: np.array(names, dtype=str).") from error


def _images(x: Array, path: Path) -> Array:
    if x.ndim == 2 and np.issubdtype(x.dtype, np.floating):
        pass
    elif x.ndim == 3:
        x = x[..., None]
    elif x.ndim == 4:
        if x.shape[1] <= 4 < x.shape[3]:
            x = x.transpose(0, 2, 3, 1)
    else:
        raise ValueError(
            f"{path} holds {x.dtype} of shape {list(x.shape)}. Pictures are [N, H, W] or [N, H, W, C]; "
            "points are [N, D] and floats."
        )
    if 0 in x.shape:
        raise ValueError(f"{path} is empty: its shape is {list(x.shape)}.")
    if x.dtype == np.uint8 or x.dtype == np.float32:
        pass
    elif x.dtype == np.bool_:
        x = x.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(x.dtype, np.floating):
        x = x.astype(np.float32)
    elif np.issubdtype(x.dtype, np.integer) and x.min() >= 0 and x.max() <= 255:
        x = x.astype(np.uint8)
    else:
        raise ValueError(
            f"{path} holds {x.dtype} that do not fit in a byte. Save bytes (0 to 255), or floats in the range you want."
        )
    if x.dtype == np.float32 and not all(np.isfinite(x[i : i + 4096]).all() for i in range(0, len(x), 4096)):
        raise ValueError(f"{path} holds numbers that are not finite (NaN or infinity). Remove those examples.")
    return x


def _labels(y: Array, n: int, path: Path) -> npt.NDArray[np.int64]:
    if y.shape != (n,) or not np.issubdtype(y.dtype, np.integer) or y.min() < -1:
        raise ValueError(
            f"{path}: labels are {y.dtype} of shape {list(y.shape)}; expected {n} whole numbers from 0 (-1: none)."
        )
    return y.astype(np.int64)


def _vectors(v: Array, names: Sequence[str] | None, n: int, path: Path) -> npt.NDArray[np.float32]:
    if v.ndim == 1:
        v = v[:, None]
    if v.ndim != 2 or len(v) != n or 0 in v.shape or v.dtype.kind not in "fiub":
        raise ValueError(f"{path}: vectors are {v.dtype} of shape {list(v.shape)}; expected {n} rows of numbers.")
    if names is not None and not len(set(names)) == len(names) == v.shape[1]:
        raise ValueError(f"{path}: {v.shape[1]} numbers need as many different vector_names, not {', '.join(names)}.")
    with np.errstate(over="ignore"):
        v = v.astype(np.float32)
    if np.isinf(v).any():
        raise ValueError(f"{path} has vectors that are infinite in float32. NaN says that a number is not known.")
    return v
