"""Captions as tokens, encoded once and packed, so that training reads numbers and runs no text encoder.

Nothing here knows what an encoder is: whoever has one gives a function, and a key that names all it depends on. Each
different caption is encoded once, and its own tokens are kept, as many as it has.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inkwash.data.cache import cache_dir, published
from inkwash.data.dataset import Array, Dataset
from inkwash.data.fetch import Progress

Encode = Callable[[Sequence[str]], Sequence[npt.NDArray[np.float32]]]
"""Texts to the tokens of each, float32 [its number of tokens, W]; none for a text without a word."""

CHUNK = 256
"""Captions given to the encoder together; no token depends on it."""

FORMAT = 1
"""The version of the layout: tokens.bin (float16, one after the other), lengths.bin (int32), captions.json."""


@dataclass(frozen=True, eq=False)
class Packed:
    """Tokens of N captions, kept once for each different one: see `inkwash.data.dataset.Texts`.

    values [T, W]: those of all different captions, one after the other; start [U + 1]: where each begins; which [N]:
    the caption of each example.
    """

    values: Array
    start: npt.NDArray[np.int64]
    which: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """How many tokens each example's caption has: [N]."""
        return np.diff(self.start)[self.which]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, tokens of the longest caption of all, width of a token)."""
        return len(self.which), int(np.diff(self.start).max()), int(self.values.shape[1])

    def __getitem__(self, index: Array) -> Array:
        """The tokens of examples [B]: [B, L, W] float16, zero beyond each one's own."""
        which = self.which[index]
        _, longest, width = self.shape
        place = self.start[which, None] + np.arange(longest)
        there = place < self.start[which + 1, None]
        out = np.zeros((*there.shape, width), np.float16)
        out[there] = self.values[place[there]]
        return out


def with_tokens(
    data: Dataset,
    encode: Encode,
    key: str,
    *,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Dataset:
    """The data set with the tokens of its captions beside them; from the cache, made there if need be.

    key: what makes tokens mean what they mean: a hash of an encoder's weights, and how many tokens it reads. The data
    set's fingerprint stays: its captions are in it, and which encoder read them is the model's to say. A build that was
    killed goes on where it was. progress: called with (what, done, total); cache: instead of `cache_dir()`.

    Raises ValueError for a data set without a caption, and for tokens beyond float16's range, 65504.
    """
    if data.captions is None or not data.captioned:
        raise ValueError(
            f"{data.name} has no captions. A folder has them in metadata.jsonl, as `text` of each picture."
        )
    told = sorted(set(data.captions))
    place = {text: i for i, text in enumerate(told)}
    which = np.array([place[c] for c in data.captions], np.int64)
    kept = sha256(json.dumps([FORMAT, key, told]).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", data.name).lstrip(".")[:48]
    final = (cache or cache_dir()) / "captions" / f"{name}-{kept[:16]}"
    published(final, _whole, lambda staged: _build(staged, told, encode, data.name, progress), resumable=True)
    table = _table(final)
    values = np.memmap(final / "tokens.bin", np.float16, "r", shape=(table["tokens"], table["width"])).view(np.ndarray)
    start = np.concatenate([[0], np.fromfile(final / "lengths.bin", "<i4")]).cumsum(dtype=np.int64)
    packed = Packed(values, start, which)
    return replace(data, tokens=packed, lengths=packed.lengths)


def _build(staged: Path, texts: list[str], encode: Encode, name: str, progress: Progress | None) -> None:
    """Encode into a folder that survives a kill, from where an earlier build of it was."""
    note = staged / "progress.done"
    done, written, width = _done(note, staged)
    mode = "r+b" if done else "wb"
    with (staged / "tokens.bin").open(mode) as tokens, (staged / "lengths.bin").open(mode) as lengths:
        tokens.truncate(written * width * 2)
        lengths.truncate(done * 4)
        for file in (tokens, lengths):
            file.seek(0, os.SEEK_END)
        for at in range(done, len(texts), CHUNK):
            found = encode(texts[at : at + CHUNK])
            width = int(found[0].shape[1])
            joined = np.concatenate(list(found))
            with np.errstate(over="ignore"):  # found out and said below
                small = joined.astype(np.float16)
            if not np.isfinite(small).all():
                raise ValueError(f"Tokens of captions of {name} are not finite in float16. Take another encoder.")
            tokens.write(small.data)
            lengths.write(np.array([len(f) for f in found], "<i4").data)
            done, written = done + len(found), written + len(small)
            for file in (tokens, lengths):
                file.flush()
                os.fsync(file.fileno())
            note.write_text(json.dumps([done, written, width]))
            if progress is not None:
                progress("Reading captions", done, len(texts))
    table = {"format": FORMAT, "captions": len(texts), "tokens": written, "width": width}
    (staged / "captions.json").write_text(json.dumps(table), encoding="utf-8")
    note.unlink()


def _done(note: Path, staged: Path) -> tuple[int, int, int]:
    """Captions and tokens that an earlier build has surely written, and their width."""
    try:
        done, written, width = map(int, json.loads(note.read_text()))
        there = (staged / "lengths.bin").stat().st_size >= done * 4
        there &= (staged / "tokens.bin").stat().st_size >= written * width * 2
        return (done, written, width) if there else (0, 0, 0)
    except (OSError, ValueError, TypeError):
        return 0, 0, 0


def _table(folder: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    return table


def _whole(folder: Path) -> bool:
    try:
        table = _table(folder)
        whole: bool = table["format"] == FORMAT
        whole &= (folder / "lengths.bin").stat().st_size == 4 * table["captions"]
        whole &= (folder / "tokens.bin").stat().st_size == 2 * table["tokens"] * table["width"]
        return whole
    except (OSError, ValueError, TypeError, KeyError):
        return False
