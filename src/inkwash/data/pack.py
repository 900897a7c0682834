"""Decoding a whole source once, in parallel, into a pack."""

from __future__ import annotations

import errno
import os
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import BinaryIO

import numpy as np

from inkwash.data.arrays import Arrays
from inkwash.data.dataset import Array, finish_pack
from inkwash.data.decode import Blob, Framing, Probe, colour, decode, fit, prepare, probe
from inkwash.data.fetch import Progress
from inkwash.data.labels import Arranged
from inkwash.data.mix import Use, mix
from inkwash.data.pairs import Pairs
from inkwash.data.sources import Source
from inkwash.data.spec import DataSpec

_PROBED = 256  # headers read to choose a size and channels
_AS_IT_IS = 128  # pixels a side up to which pictures of one size keep it
_CHOSEN = 64  # pixels a side at most, where the loader chooses
_CHUNK = 32  # pictures in one task of a thread
_CHUNK_BYTES = 1 << 25

Outcome = tuple[int, Array | None, Probe | None, str]
"""Row, pixels, what the picture was, and why there are none."""


@dataclass
class _Tally:
    """What came out of decoding. done: pictures, whether good or bad."""

    done: int = 0
    good: set[int] = field(default_factory=set)
    bad: list[tuple[str, str]] = field(default_factory=list)
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)


def pack_pictures(
    staged: Path,
    source: Source,
    chosen: Arranged,
    spec: DataSpec,
    progress: Progress | None = None,
    pairs: Pairs | None = None,
) -> None:
    """Decode the chosen pictures of a source, bring them to one shape, and write them as a pack into `staged`.

    Threads suffice: Pillow holds no lock while it decodes and resizes. Rows are in the order of `chosen`, files
    that cannot be read are left out of it, together with their partners. ValueError if none can.
    """
    prepare()
    if spec.limit is not None:
        chosen = chosen.pick(subset(len(chosen.names), spec.limit))
    max_bytes = 8 * spec.max_pixels + (1 << 20)  # 16-bit RGBA, stored
    notes = list(chosen.notes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of files that are odd but readable
        framing = _frame(source, chosen, spec, max_bytes, notes, pairs)
        shape = (framing.height, framing.width, framing.channels)
        files = {"images.bin": (source, chosen.names)}
        if pairs is not None:
            files["shown.bin"] = (pairs.source, [pairs.names[n] for n in chosen.names])
        _need_room(staged, len(files) * len(chosen.names) * int(np.prod(shape)))
        tally = _Tally(good=set(range(len(chosen.names))))
        for file, (where, names) in files.items():
            with (staged / file).open("wb") as out:
                for _ in _written(out, where, names, max_bytes, framing, tally, first=file == "images.bin"):
                    if progress is not None:
                        progress("Decoding", tally.done, len(files) * len(chosen.names))
        good = sorted(tally.good)
        for file in files:
            _close_gaps(staged / file, good, int(np.prod(shape)))
    bad = sorted(tally.bad) + chosen.missing
    if not good:
        listed = "".join(f"\n  {n}: {why}" for n, why in bad[:5])
        raise ValueError(f"None of the {len(bad):,} pictures in {source.path} can be read:{listed}")
    kept = chosen.pick(good)
    held = [np.memmap(staged / f, np.uint8, "r", shape=(len(good), *shape)).view(np.ndarray) for f in files]
    finish_pack(
        staged,
        held[0],
        kept.labels,
        kept.classes,
        kept.captions,
        kept.names,
        bad,
        notes,
        dict(tally.sizes.most_common()),
        dict(tally.modes.most_common()),
        vectors=kept.vectors,
        vector_names=kept.vector_names,
        shown=held[1] if len(held) > 1 else None,
    )


def pack_arrays(staged: Path, arrays: Arrays, spec: DataSpec, progress: Progress | None = None) -> None:
    """Write arrays as a pack into `staged`, brought to the specification's size and channels where it names them."""
    x, total = arrays.images, len(arrays.images)
    rows = np.arange(total) if spec.limit is None else subset(total, spec.limit)
    notes: list[str] = []
    framing: Framing | None = None
    if x.ndim == 2:
        if spec.size is not None or spec.channels is not None:
            raise ValueError(f"{spec.source} holds points of {x.shape[1]} numbers: size and channels do not apply.")
    else:
        h, w = spec.frame if spec.size is not None else x.shape[1:3]
        c = spec.channels or x.shape[3]
        if (h, w, c) != x.shape[1:]:
            framing = Framing(h, w, c, spec.resize, colour(spec.background), spec.max_pixels)
    row = int(np.prod(x.shape[1:] if framing is None else (h, w, c))) * x.itemsize
    _need_room(staged, len(rows) * row)
    with (staged / "images.bin").open("wb") as out:
        for i in range(0, len(rows), 1024):
            part = x[rows[i : i + 1024]]
            if framing is not None:
                part = np.stack([fit(p, framing) for p in part])
            out.write(np.ascontiguousarray(part).data)
            shape, dtype = part.shape[1:], part.dtype
            if progress is not None:
                progress("Packing", min(i + 1024, len(rows)), len(rows))
    images = np.memmap(staged / "images.bin", dtype, "r", shape=(len(rows), *shape))
    captions = None if arrays.captions is None else [arrays.captions[i] for i in rows]
    sizes = {f"{x.shape[2]}x{x.shape[1]}": len(rows)} if x.ndim == 4 else None
    finish_pack(
        staged,
        images.view(np.ndarray),
        None if arrays.labels is None else arrays.labels[rows],
        arrays.classes,
        captions,
        notes=notes,
        sizes=sizes,
        modes={f"{x.dtype} array": len(rows)},
        vectors=None if arrays.vectors is None else arrays.vectors[rows],
        vector_names=arrays.vector_names,
    )


def subset(n: int, limit: int) -> Array:
    """At most `limit` of 0..n-1, ascending, evenly at random and always the same."""
    return np.sort(np.argsort(mix(np.arange(n), Use.LIMIT), kind="stable")[:limit])


def _written(
    out: BinaryIO, source: Source, names: list[str], max_bytes: int, framing: Framing, tally: _Tally, *, first: bool
) -> Iterator[None]:
    """Decode the pictures `names` into a file, row by row, and count; yields after each. first: not partners."""
    row_of = {n: i for i, n in enumerate(names)}
    for row, pixels, was, why in _decoded(source.read(names, max_bytes), row_of, framing):
        tally.done += 1
        if was is not None and first:
            tally.sizes[f"{was.width}x{was.height}"] += 1
            tally.modes[was.mode] += 1
        if pixels is not None:
            out.seek(row * pixels.nbytes)
            out.write(pixels.data)
        elif row in tally.good:
            tally.good.remove(row)
            tally.bad.append((names[row] if first else f"{source.path.name}: {names[row]}", why))
        yield


def _decoded(files: Iterable[tuple[str, Blob]], row_of: dict[str, int], framing: Framing) -> Iterator[Outcome]:
    """Decode in threads, as far ahead as keeps them busy and no further."""
    workers = min(32, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers, "decode") as pool:
        waiting: deque[Future[list[Outcome]]] = deque()
        try:
            for chunk in _chunks(files):
                if len(waiting) >= 3 * workers:
                    yield from waiting.popleft().result()
                waiting.append(pool.submit(_decode_chunk, [(row_of[n], b) for n, b in chunk], framing))
            while waiting:
                yield from waiting.popleft().result()
        finally:  # an error, or Ctrl-C: do not decode what nobody waits for
            pool.shutdown(wait=True, cancel_futures=True)


def _decode_chunk(chunk: list[tuple[int, Blob]], framing: Framing) -> list[Outcome]:
    out: list[Outcome] = []
    for row, blob in chunk:
        try:
            pixels, was = decode(blob, framing)
            out.append((row, np.ascontiguousarray(pixels), was, ""))
        # A damaged file makes Pillow raise nearly anything; each is written down, and too many stop the run.
        except Exception as error:  # noqa: BLE001
            out.append((row, None, None, reason(error)))
    return out


def reason(error: Exception) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    if text.startswith("cannot identify image file"):
        text = "not a picture in a known format"
    return text or type(error).__name__


def _chunks(files: Iterable[tuple[str, Blob]]) -> Iterator[list[tuple[str, Blob]]]:
    chunk: list[tuple[str, Blob]] = []
    size = 0
    for name, blob in files:
        chunk.append((name, blob))
        size += len(blob) if isinstance(blob, bytes) else 0
        if len(chunk) == _CHUNK or size > _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _need_room(folder: Path, need: int) -> None:
    """Better said before an hour of decoding than after it."""
    if need > (free := shutil.disk_usage(folder).free):
        where = folder.parent
        raise OSError(
            errno.ENOSPC,
            f"The packed pictures need {need / 2**20:,.0f} MiB in {where}, where {free / 2**20:,.0f} are free. "
            "Choose a smaller size, or set INKWASH_CACHE to a folder on another disk",
        )


def _close_gaps(file: Path, good: list[int], row_bytes: int) -> None:
    """Move the good rows together, so that row i of the file is the i-th good picture."""
    with file.open("rb+") as out:
        for i, row in enumerate(good):
            if i != row:
                out.seek(row * row_bytes)
                data = out.read(row_bytes)
                out.seek(i * row_bytes)
                out.write(data)
        out.truncate(len(good) * row_bytes)


def _frame(
    source: Source, chosen: Arranged, spec: DataSpec, max_bytes: int, notes: list[str], pairs: Pairs | None
) -> Framing:
    """The one shape of all pictures: what the specification says, else chosen from a sample of their headers.

    Partners have no say in the size; but where they have colours, so has everything.
    """
    height, width = spec.frame
    channels = spec.channels
    if channels not in (None, 1, 3, 4):
        raise ValueError(f"channels = {channels} fits no picture file: 1 is grey, 3 RGB, 4 RGBA. Other counts: .npy.")
    background = colour(spec.background)
    if not height or channels is None:
        headers = _headers(source, chosen.names, spec.max_pixels, max_bytes)
        if not height:
            height, width = _choose(headers, notes)
        if channels is None:
            if pairs is not None:
                theirs = [pairs.names[n] for n in chosen.names]
                headers = headers + _headers(pairs.source, theirs, spec.max_pixels, max_bytes)
            channels = 1 if headers and all(p.grey for p in headers) else 3
    return Framing(height, width, channels, spec.resize, background, spec.max_pixels)


def _headers(source: Source, names: list[str], max_pixels: int, max_bytes: int) -> list[Probe]:
    step = max(1, len(names) // _PROBED)
    found: list[Probe] = []
    for _, blob in source.read(names[::step], max_bytes):
        try:
            found.append(probe(blob, max_pixels))
        except Exception:  # noqa: BLE001 - decoding meets it again and writes it down
            continue
    return found


def _sides_step(longest: int) -> int:
    """What both sides must be a multiple of for the presets of `inkwash.nets.UNet`, by the longer side in pixels.

    They halve 4 x 4 pixels to one place, and twice as many a side for each doubling of the longer side beyond 40.
    """
    step = 4
    while longest > 40:
        step, longest = 2 * step, -(-longest // 2)
    return step


def _choose(headers: list[Probe], notes: list[str]) -> tuple[int, int]:
    """Small pictures of one size keep it, but for what networks cannot halve; others become squares, at most 64.

    The squares are no larger than most of the pictures.
    """
    sizes = {(p.height, p.width) for p in headers}
    if len(sizes) == 1:
        ((h, w),) = sizes
        if max(h, w) <= _AS_IT_IS:
            step = _sides_step(max(h, w))
            height, width = (max(step, side // step * step) for side in (h, w))
            if (height, width) != (h, w):
                notes.append(
                    f"The pictures are {w}x{h} pixels; they are brought to {width}x{height}, because networks halve "
                    f"them and need sides that are multiples of {step}. Another size: --size."
                )
            return height, width
    if not headers:
        return _CHOSEN, _CHOSEN
    short = median(min(p.height, p.width) for p in headers)
    step = 32 if short >= 32 else 8 if short >= 8 else 4
    side = max(step, min(_CHOSEN, int(short // step * step)))
    least, most = (pick(headers, key=lambda p: p.width * p.height) for pick in (min, max))
    was = f"{most.width}x{most.height}"
    if len(sizes) > 1:
        was = f"{least.width}x{least.height} to {was}"
    notes.append(f"The pictures are {was} pixels; they are brought to {side}x{side}. Another size: --size.")
    return side, side
