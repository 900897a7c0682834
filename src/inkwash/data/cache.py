"""Where prepared data lives, and how a folder appears there whole or not at all."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_dir() -> Path:
    """inkwash's cache folder: $INKWASH_CACHE, or the platform's usual place (~/.cache/inkwash on Linux).

    It may not exist yet. Everything in it can be deleted at any time; it is made again when it is needed.
    """
    if chosen := os.environ.get("INKWASH_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "inkwash"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "inkwash" / "Cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "inkwash"


def published(
    final: Path, valid: Callable[[Path], bool], build: Callable[[Path], None], *, resumable: bool = False
) -> Path:
    """The folder `final`, built if it is not there: `build` fills a staged folder, which is synced and renamed.

    A reader sees all of it or nothing, also if the builder is killed at any instant. Of several processes that want
    the same folder, one builds and the others wait for it; where locks do not work (some network drives) each
    builds its own and the first one published stays. `valid` says whether a folder found there can be used.
    resumable: what a killed build left is given to the next one, where the lock says that no other is at it.
    """
    if valid(final):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".staged-{final.name}-"
    with _locked(final.with_name(f".lock-{final.name}")) as locked:
        if valid(final):
            return final
        if locked:  # whoever left these is gone: they were killed while they held the lock
            for stale in final.parent.glob(f"{prefix}*"):
                shutil.rmtree(stale, ignore_errors=True)
            if final.exists():
                shutil.rmtree(final)  # altered or of an older format
        shared = resumable and locked
        if shared:
            staged = final.with_name(f".partial-{final.name}")
            staged.mkdir(exist_ok=True)
        else:
            staged = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
        try:
            build(staged)
            staged.chmod(0o755)  # mkdtemp's is private; a cache may be shared
            sync(staged)
            try:
                staged.rename(final)
            except OSError:
                if not valid(final):  # otherwise another process was first
                    raise
            _sync_folder(final.parent)
        finally:
            if not shared:
                shutil.rmtree(staged, ignore_errors=True)
    return final


def sync(folder: Path) -> None:
    """Have every file of a flat folder, and the folder itself, written to the disk."""
    for path in folder.iterdir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # some platforms cannot open a folder; the rename is still atomic there
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold an exclusive lock on a file; yields False where the platform or the drive has none."""
    try:
        import fcntl
    except ImportError:
        yield False
        return
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            yield False
            return
        yield True
