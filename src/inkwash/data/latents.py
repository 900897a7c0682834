"""Pictures as latents, encoded once and packed, so that training reads numbers and runs no encoder.

Nothing here knows what a codec is: whoever has one gives a function, and a key that names all it depends on. Where
the data set may be mirrored, mirrored pictures are encoded as well: a mirrored latent is not a mirrored picture's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from inkwash.data.cache import cache_dir, published
from inkwash.data.dataset import Array, Dataset
from inkwash.data.fetch import Progress

Encode = Callable[[Array], Array]
"""Pictures as stored, uint8 [B, H, W, C], to latents as they are diffused, float32 [B, h, w, c]."""

Show = tuple[str, Callable[[Array], Array]]
"""What a model is shown of pictures uint8 [B, H, W, C], of their shape: a name for all of it, and a function."""

CHUNK = 32
"""Pictures encoded together. Part of the key: on it the last bits depend."""

FORMAT = 1
"""The version of the layout: latents.bin, mirrored.bin, and latents.json, which says their shape."""

_SYNC_EVERY = 64
"""Chunks between two notes of how far it is: what is lost when the process is killed."""


def latents(
    data: Dataset,
    encode: Encode,
    key: str,
    *,
    layout: str = "",
    show: Show | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Dataset:
    """The data set with latents, float16 [N, h, w, c], in place of its pictures; from the cache, made there if need be.

    So are the pictures shown to a model (`Dataset.shown`): what `show` makes of the data set's pictures, or, without
    it, their partners, where there are any.

    key: what makes latents mean what they mean, such as a hash of a codec's weights and statistics. The new data set's
    fingerprint is a function of it, of the pictures' fingerprint and of show's name alone, not of bits, and not of how
    they are kept: a run goes on where another machine, or another version of this file, has encoded anew.
    layout: what the cache depends on besides; the pictures' mirror images are stored beside (`Dataset.mirrored`) where
    the data set may be mirrored. A build that was killed goes on where it was. progress: called with (what, done,
    total); cache: instead of `cache_dir()`.

    Raises ValueError for a data set that is not of 8-bit pictures, and for latents beyond float16's range, 65504.
    """
    if data.images.ndim != 4 or data.images.dtype != np.uint8:
        raise ValueError(
            f"{data.name} holds {'vectors' if data.images.ndim == 2 else f'pictures of {data.images.dtype}'}, and an "
            "autoencoder reads 8-bit pictures. Train on it without a codec."
        )
    keep = partial(_kept, data, key=[key, layout], progress=progress, cache=cache or cache_dir())
    folder, (images, mirrored) = keep(data.images, encode, [])
    shown: tuple[Array | None, Array | None] = (None, None)
    if show is not None:
        made = show[1]
        shown = keep(data.images, lambda pictures: encode(made(pictures)), ["shown", show[0]])[1]
    elif data.shown is not None:
        shown = keep(data.shown, encode, ["pairs"])[1]
    return replace(
        data,
        images=images,
        mirrored=mirrored,
        shown=shown[0],
        shown_mirrored=shown[1],
        # Without a picture shown, that of runs from before there could be one.
        fingerprint=_hash([data.fingerprint, key, *(["shown", show[0]] if show is not None else [])]),
        folder=folder,
    )


def _kept(
    data: Dataset,
    pictures: Array,
    encode: Encode,
    what: list[str],
    *,
    key: list[str],
    progress: Progress | None,
    cache: Path,
) -> tuple[Path, tuple[Array, Array | None]]:
    """The latents of pictures of a data set, and of their mirror images, and the folder in the cache they lie in."""
    digest = _hash([FORMAT, CHUNK, key[1], data.fingerprint, key[0], data.flip, *what])
    name = re.sub(r"[^A-Za-z0-9._-]", "_", data.name).lstrip(".")[:48]
    final = cache / "latents" / f"{name}-{digest[:16]}"
    published(final, _whole, lambda staged: _build(staged, data, pictures, encode, progress), resumable=True)
    rows = [np.memmap(final / f, np.float16, "r", shape=_shape(final)).view(np.ndarray) for f in _files(data.flip)]
    return final, (rows[0], rows[1] if data.flip else None)


def _hash(ingredients: list[object]) -> str:
    return hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()


def _files(flip: bool) -> tuple[str, ...]:
    return ("latents.bin", "mirrored.bin") if flip else ("latents.bin",)


def _build(staged: Path, data: Dataset, pictures: Array, encode: Encode, progress: Progress | None) -> None:
    """Encode into a folder that survives a kill, from where an earlier build of it was."""
    n, files = len(data), _files(data.flip)

    def told(done: int, turn: int) -> None:
        if progress is not None:
            progress("Encoding", turn * n + done, n * len(files))

    shape: tuple[int, ...] = ()
    for turn, file in enumerate(files):
        shape = _encode(staged / file, data.name, pictures, encode, bool(turn), partial(told, turn=turn))
    table = {"format": FORMAT, "rows": n, "shape": shape, "mirrored": data.flip, "pictures": data.fingerprint}
    (staged / "latents.json").write_text(json.dumps(table), encoding="utf-8")
    for note in staged.glob("*.done"):
        note.unlink()


def _encode(
    file: Path, name: str, pictures: Array, encode: Encode, mirrored: bool, told: Callable[[int], None]
) -> tuple[int, ...]:
    """Append what is missing to a file of latents; the shape of one of them."""
    n, note = len(pictures), file.with_suffix(".done")

    def encoded(start: int) -> Array:
        part = np.array(pictures[start : start + CHUNK])
        with np.errstate(over="ignore"):  # found out and said below
            found = encode(np.ascontiguousarray(part[:, :, ::-1]) if mirrored else part).astype(np.float16)
        if not np.isfinite(found).all():
            raise ValueError(
                f"Latents of pictures {start} to {start + len(found) - 1} of {name} are not finite in float16: "
                "the codec fails on them, or its statistics are of other data. Train it on pictures like these."
            )
        return found

    first = encoded(0)
    shape, row = first.shape[1:], first[0].nbytes
    done = _done(note, file, row)
    with file.open("r+b" if done else "wb") as out:
        out.truncate(done * row)
        out.seek(done * row)
        for i, start in enumerate(range(done, n, CHUNK), 1):
            out.write((first if start == 0 else encoded(start)).data)
            told(min(start + CHUNK, n))
            if i % _SYNC_EVERY == 0 or start + CHUNK >= n:
                out.flush()
                os.fsync(out.fileno())
                note.write_text(str(min(start + CHUNK, n)))
    return shape


def _done(note: Path, file: Path, row: int) -> int:
    """How many rows an earlier build has surely written; a multiple of the chunk, or all."""
    try:
        done = int(note.read_text())
        return done if file.stat().st_size >= done * row else 0
    except (OSError, ValueError):
        return 0


def _shape(folder: Path) -> tuple[int, ...] | None:
    """[N, h, w, c] of a folder whose files have their sizes; else None."""
    try:
        table = json.loads((folder / "latents.json").read_text(encoding="utf-8"))
        if table["format"] != FORMAT:
            return None
        shape = (int(table["rows"]), *map(int, table["shape"]))
        size = 2 * int(np.prod(shape, dtype=np.int64))
        whole = all((folder / f).stat().st_size == size for f in _files(table["mirrored"]))
        return shape if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _whole(folder: Path) -> bool:
    return _shape(folder) is not None
