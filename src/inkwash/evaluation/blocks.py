"""An array on the disk that is filled block by block, by one process or many, and goes on where it was stopped.

Three files: `NAME.bin`, the array row by row; `NAME.json`, its head, which says what is in it, and by which commits and
when it was made; `NAME.done`, for every block how many of its rows are there, and what they cost. Rows are on the disk
before they count as there, and what is there is never written again: whenever the process is killed, the next one finds
a true account and goes on. Where a row depends on its number alone, the array is the same as an undisturbed one, and
one that is asked for longer is extended.

Rows are written with ordinary calls, not through a memory map: a full disk is then an error that can be told, not the
end of the process.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path as File
from typing import IO, Any

import numpy as np

from inkwash.checkpoint import CheckpointError, DiskFull
from inkwash.checkpoint.atomic import flush, write
from inkwash.evaluation.record import commit
from inkwash.ranks import ALONE, Ranks

FORMAT = 1
"""The version of the files' layout."""

DONE = np.dtype([("rows", "<i8"), ("seconds", "<f4"), ("cost", "<f4")])
"""What is noted of a block: rows that are there, seconds they took, and their cost in the filler's own unit."""

POLL = 0.2
"""Seconds between two looks at what another process, which fills the same array, has done."""

Watch = Callable[[float], None]
"""Told the fraction done, also of what was there already."""


@dataclass(frozen=True)
class Row:
    """What the array holds: shape and dtype of a row; of: everything that determines the rows, JSON-able."""

    shape: tuple[int, ...]
    dtype: str
    of: Mapping[str, Any]

    @property
    def key(self) -> str:
        """SHA-256 (hex) of all of it."""
        return sha256([list(self.shape), np.dtype(self.dtype).str, self.of])

    @property
    def bytes(self) -> int:
        """Of one row."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Filled:
    """An array that is there: [n, ...], memory-mapped; seconds, cost: spent on it by all that filled it.

    made: by which commit and when, once for every commit that filled a part. Changing the array changes nothing on the
    disk. Where the array on the disk is longer, the last block counts in proportion.
    """

    array: np.ndarray
    seconds: float
    cost: float
    made: tuple[Mapping[str, Any], ...] = ()


Fill = Callable[[int, int, Watch], tuple[np.ndarray, float]]
"""fill(start, stop, watch) -> rows start to stop, and their cost. The rows may depend on their numbers alone."""


def filled(
    file: File, row: Row, n: int, fill: Fill, *, block: int, ranks: Ranks = ALONE, watch: Watch | None = None
) -> Filled:
    """The first n rows of the array in `file` (NAME.bin), those that are missing filled, in blocks of `block` rows.

    An array that is there keeps the blocks it was begun with. Several ranks take the blocks in turn and wait for one
    another; another process that wants the same array waits for this one, told how far it is. Raises ValueError where
    other rows are in the file, CheckpointError where it was cut short, and DiskFull with all that was done kept.
    """
    if n < 1 or block < 1:
        raise ValueError(f"n and block must be at least 1, not {n} and {block}.")
    told = watch or (lambda fraction: None)
    with _alone(file, row, n, told) if ranks.first else nullcontext(True) as whole:
        if not whole:
            _prepare(file, row, n, block)
        ranks.barrier()
        if (head := _head(file)) is None:
            raise CheckpointError(f"Rank {ranks.rank} does not see {file}. All ranks must see the same disk.")
        block = _fitting(file, head, row)
        missing = np.flatnonzero(_done(file, n, block)["rows"] < _due(n, block))
        for number in missing[missing % ranks.world == ranks.rank].tolist():
            _fill_block(file, row, n, fill, block, number, told)
        ranks.barrier()
    told(1.0)
    # Copied on writing, not read-only: torch warns of arrays that it may not write to.
    array = np.memmap(file, row.dtype, "c", shape=(n, *row.shape)).view(np.ndarray)
    done = _done(file, n, block)
    share = _due(n, block) / done["rows"]
    seconds, cost = ((done[name] * share).sum() for name in ("seconds", "cost"))
    return Filled(array, float(seconds), float(cost), tuple((_head(file) or {}).get("made", ())))


def sha256(value: Any) -> str:
    """SHA-256 (hex) of JSON-able data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def rows_hash(rows: np.ndarray) -> str:
    """SHA-256 (hex) of which rows of a data set are meant, and in which order."""
    return hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").data).hexdigest()


def _fill_block(file: File, row: Row, n: int, fill: Fill, block: int, number: int, told: Watch) -> None:
    """Fill what is missing of a block, and note it."""
    here = _done(file, n, block)[number]
    start, stop = number * block + int(here["rows"]), min((number + 1) * block, n)
    before, part, began = _fraction(file, block, n), (stop - start) / n, time.perf_counter()
    told(before)
    rows, cost = fill(start, stop, lambda fraction: told(before + fraction * part))
    if rows.shape != (stop - start, *row.shape) or rows.dtype != row.dtype:
        raise ValueError(
            f"Rows {start} to {stop} of {file.name} should be {(stop - start, *row.shape)} of {row.dtype}, but are "
            f"{rows.shape} of {rows.dtype}."
        )
    here["rows"], here["cost"] = stop - number * block, here["cost"] + cost
    here["seconds"] += time.perf_counter() - began
    try:
        _write(file, start * row.bytes, np.ascontiguousarray(rows).data.cast("B"), sync=True)
        _write(_beside(file, "done"), number * DONE.itemsize, memoryview(here.tobytes()), sync=False)
    except OSError as error:
        raise _explain(error, file, f"{_fraction(file, block, n):.0%} of it is") from error


def _prepare(file: File, row: Row, n: int, block: int) -> None:
    """Create the files, or check and lengthen those that are there."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        head = _head(file)
        if head is None:  # then whatever is in the others is not known
            for ending in ("done", "bin"):
                _beside(file, ending).unlink(missing_ok=True)
            head = {"format": FORMAT, "shape": list(row.shape), "dtype": np.dtype(row.dtype).str, "block": block}
            head |= {"key": row.key, "of": dict(row.of)}
        else:
            block = _fitting(file, head, row)
        made = head.setdefault("made", [])
        if not made or made[-1]["commit"] != commit():
            made.append({"commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")})
            write(_beside(file, "json"), (json.dumps(head, indent=1) + "\n").encode())
        for ending in ("done", "bin"):
            _beside(file, ending).touch()
        size = file.stat().st_size
        rows = _done(file)["rows"]
        if counted := np.flatnonzero(rows).tolist():
            written = (counted[-1] * block + int(rows[counted[-1]])) * row.bytes
            if size < written:
                raise CheckpointError(
                    f"{file} has {size:,} bytes, and {written:,} were written: it was cut short. Delete "
                    f"{_beside(file, 'json')}, and it is made again."
                )
        need = n * row.bytes - size
        if need > (free := shutil.disk_usage(file.parent).free):
            what = f"{need / 2**20:,.0f} MiB more are needed and {free / 2**20:,.0f} are free"
            raise OSError(errno.ENOSPC, what)
        for place, size in ((file, n * row.bytes), (_beside(file, "done"), -(-n // block) * DONE.itemsize)):
            if place.stat().st_size < size:
                os.truncate(place, size)
                flush(place)
    except OSError as error:
        raise _explain(error, file, "What was there before is") from error


def _fitting(file: File, head: Mapping[str, Any], row: Row) -> int:
    """The block of the array that is there. Raises ValueError where it holds something else."""
    if head.get("format") != FORMAT or head.get("key") != row.key:
        was, now = head.get("of") or {}, json.loads(json.dumps(row.of))
        differing = [k for k in {**was, **now} if was.get(k) != now.get(k)]
        told = "; ".join(f"{k}: {was.get(k)!r:.80} there, {now.get(k)!r:.80} asked for" for k in differing[:5])
        raise ValueError(
            f"{file} holds something else than what was asked for ({told or 'another format, shape or dtype'}). They "
            f"are never mixed: choose another folder, or delete {file.parent}."
        )
    return int(head["block"])


def _head(file: File) -> dict[str, Any] | None:
    """What the head says; None where there is none. Raises CheckpointError for one that cannot be read."""
    place = _beside(file, "json")
    try:
        table: dict[str, Any] = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{place} is damaged ({error}). Delete it, and the array is made again.") from error
    return table


def _due(n: int, block: int) -> np.ndarray:
    """How many of the first n rows belong to each block."""
    return np.minimum(n - block * np.arange(-(-n // block)), block)


def _done(file: File, n: int = 0, block: int = 1) -> np.ndarray:
    """What is noted of each block, and of at least those that n rows need."""
    place = _beside(file, "done")
    noted = place.read_bytes() if place.exists() else b""
    noted = noted[: len(noted) // DONE.itemsize * DONE.itemsize].ljust(-(-n // block) * DONE.itemsize, b"\0")
    return np.frombuffer(noted, DONE, -(-n // block) if n else -1).copy()


def _fraction(file: File, block: int, n: int) -> float:
    """How much of the first n rows is there, whoever made it."""
    return int(np.minimum(_done(file, n, block)["rows"], _due(n, block)).sum()) / n


@contextmanager
def _alone(file: File, row: Row, n: int, told: Watch) -> Iterator[bool]:
    """Keep other processes from filling this array until the end of the block; wait where one is at it.

    Yields whether all that is asked for is there: then nobody is waited for. Where the system or the drive has no
    locks, two may fill it at once: with the same bytes.
    """

    def whole() -> bool:
        if (head := _head(file)) is None:
            return False
        told(fraction := _fraction(file, _fitting(file, head, row), n))
        return fraction == 1 and file.exists() and file.stat().st_size >= n * row.bytes

    if whole():
        yield True
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with _beside(file, "lock").open("a") as lock:
        while not _locked(lock) and not whole():
            time.sleep(POLL)
        yield whole()


def _locked(lock: IO[str]) -> bool:
    """Lock an open file, until it is closed, unless another process has: False. True where there are no locks."""
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        return True
    return True


def _beside(file: File, ending: str) -> File:
    """NAME.ending for NAME.bin."""
    return file.with_name(f"{file.name.removesuffix('.bin')}.{ending}")


def _write(file: File, at: int, left: memoryview, *, sync: bool) -> None:
    """Write at a place of a file that is there."""
    with file.open("rb+", buffering=0) as out:
        out.seek(at)
        while left:
            left = left[out.write(left) or 0 :]
        if sync:
            os.fsync(out.fileno())


def _explain(error: OSError, file: File, kept: str) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return DiskFull(f"No space left for {file} ({error}). {kept} kept; free some space and run the command again.")
    return CheckpointError(f"Could not write {file}: {error}")
