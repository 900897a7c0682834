"""Folders that are written, checked, and only then given their name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File

from inkwash import checkpoint
from inkwash.checkpoint.atomic import held, hidden, make_parent

MARK = "draw.py"
"""What every export has, and nothing else that is published: the mark of a folder that a new export may replace."""


def refuse_others(folder: str | File) -> None:
    """Raise ValueError where a folder holds anything but an earlier export, which alone may be replaced."""
    target = File(folder)
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, and what is exported is a folder. Choose another name.")
    held = sorted(p.name for p in target.iterdir()) if target.is_dir() else []
    if held and not _exported(target):
        raise ValueError(
            f"{target} is no earlier export, and what is in it ({', '.join(held[:3])}) would be lost. Choose another "
            "folder."
        )


def _exported(folder: File) -> bool:
    try:
        manifest = json.loads((folder / checkpoint.MANIFEST).read_text("utf-8"))
        return MARK in manifest["files"]
    except (OSError, ValueError, KeyError, TypeError):  # no manifest, or none of ours
        return False


@contextmanager
def staged(folder: str | File) -> Iterator[File]:
    """A hidden folder to write into, which is published as `folder` at the end of the block, with a manifest.

    Where the block raises, nothing is left, and what had the name before is untouched. Raises as `refuse_others` does,
    before the block and again at its end.
    """
    target = File(folder)
    refuse_others(target)
    place = hidden("staging", target.resolve())
    make_parent(place)
    place.mkdir()
    try:
        with held(place):  # so that no other writer sweeps it away
            yield place
            refuse_others(target)
            files = [file for file in place.rglob("*") if file.is_file() and file.name != checkpoint.MANIFEST]
            checkpoint.publish(target, {}, {}, {file.relative_to(place).as_posix(): file for file in files})
    finally:
        shutil.rmtree(place, ignore_errors=True)


def needs(extra: str, *modules: str) -> None:
    """Raise ValueError where one of these modules is not installed, naming the extra that installs it."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise ValueError(f'This needs {", ".join(missing)}: install inkwash with `pip install "inkwash[{extra}]"`.')
