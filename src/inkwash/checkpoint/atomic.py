"""Folders and files that appear under their name at once, whole, and that a power cut does not take back."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_HIDDEN = re.compile(r"\.inkwash-(staging|old|trash)-(.+)-[0-9a-f]{8}")


def hidden(kind: str, target: Path) -> Path:
    """A fresh name beside the target for what is being written ("staging"), replaced ("old") or deleted ("trash")."""
    return target.parent / f".inkwash-{kind}-{target.name}-{os.urandom(4).hex()}"


def replace(staged: Path, target: Path) -> None:
    """Give the staged folder the target's name, at once if possible; `inkwash.checkpoint` says how else.

    Afterwards the staged name is gone, or is the previous folder's, for the caller to delete.
    """
    if not target.exists():
        staged.rename(target)
    elif not exchange(staged, target):
        old = hidden("old", target)
        with held(target):  # so that another writer's sweep does not put it back between the two renames
            target.rename(old)
            try:
                staged.rename(target)
            except OSError:
                old.rename(target)
                raise
        flush(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    flush(target.parent)


def exchange(a: Path, b: Path) -> bool:
    """Let two folders swap names in one atomic step. False where this system or file system cannot."""
    import ctypes

    x, y, swap = os.fsencode(a), os.fsencode(b), 2
    here = -100  # AT_FDCWD; RENAME_EXCHANGE and RENAME_SWAP are both 2
    known: dict[str, tuple[str, tuple[Any, ...]]] = {
        "linux": ("renameat2", (here, x, here, y, swap)),
        "darwin": ("renamex_np", (x, y, swap)),
    }
    if sys.platform not in known:
        return False
    name, arguments = known[sys.platform]
    function = getattr(ctypes.CDLL(None), name, None)
    return function is not None and function(*arguments) == 0


def sweep(parent: Path) -> None:
    """Clean up after writers that were killed: delete what they left, put back what they had renamed aside."""
    for kind, name, place in leftovers(parent):
        with held(place) as abandoned:
            if abandoned and kind == "old" and not (parent / name).exists():
                place.rename(parent / name)
            elif abandoned:
                shutil.rmtree(place, ignore_errors=True)


@contextmanager
def held(place: Path) -> Iterator[bool]:
    """Lock a folder until the end of the block or of the process; False if another has it.

    Without such locks, a folder that nobody has touched for an hour counts as free.
    """
    fd, free = -1, False
    try:
        import fcntl

        fd = os.open(place, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except (ImportError, OSError):
        with suppress(OSError):  # deleted since: then it is not ours either
            free = time.time() - place.stat().st_mtime > 3600
    try:
        yield free
    finally:
        if fd >= 0:
            os.close(fd)


def write(file: Path, data: bytes) -> Path:
    """Put a file in place of what has its name, whole, on the disk, whenever the process is killed; the file."""
    make_parent(file)
    beside = file.with_name(f".{file.name}.{os.urandom(4).hex()}")
    try:
        beside.write_bytes(data)
        flush(beside)
        beside.replace(file)
        flush(file.parent)
    finally:
        beside.unlink(missing_ok=True)
    return file


def flush(place: Path) -> None:
    """Have a file's or a folder's bytes on the disk before going on."""
    folder = place.is_dir()
    if folder and os.name == "nt":
        return  # Windows has no such call for folders
    fd = os.open(place, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if not (folder and error.errno == errno.EINVAL):  # some network disks have none either
            raise
    finally:
        os.close(fd)


def leftovers(parent: Path) -> list[tuple[str, str, Path]]:
    """The hidden folders in parent, oldest first: (kind, the name they were made for, path)."""
    found = []
    with suppress(OSError):
        for place in parent.iterdir():
            if match := _HIDDEN.fullmatch(place.name):
                with suppress(OSError):  # deleted since
                    found.append((place.stat().st_mtime_ns, match[1], match[2], place))
    return [(kind, name, place) for _, kind, name, place in sorted(found)]


def make_parent(target: Path) -> None:
    """Create the folders above target, and make sure that a power cut does not lose them with what is in them."""
    missing = [parent for parent in target.parents if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    for parent in missing:
        flush(parent.parent)
