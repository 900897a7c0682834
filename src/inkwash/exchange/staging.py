"""Folders that are written, checked, and only then given their name."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as File

from inkwash import checkpoint
from inkwash.checkpoint.atomic import held, hidden, make_parent
from inkwash.modelfolder import is_model


@contextmanager
def staged(folder: str | File) -> Iterator[File]:
    """A hidden folder to write into, which is published as `folder` at the end of the block, with a manifest.

    Where the block raises, nothing is left, and what had the name before is untouched. Raises ValueError for a folder
    that is a model's or a run's: what is written would take its place.
    """
    target = File(folder)
    if is_model(target):
        raise ValueError(f"{target} is a model's folder, which this would replace. Choose another folder.")
    place = hidden("staging", target.resolve())
    make_parent(place)
    place.mkdir()
    try:
        with held(place):  # so that no other writer sweeps it away
            yield place
            files = [file for file in place.rglob("*") if file.is_file() and file.name != checkpoint.MANIFEST]
            checkpoint.publish(target, {}, {}, {file.relative_to(place).as_posix(): file for file in files})
    finally:
        shutil.rmtree(place, ignore_errors=True)


def needs(extra: str, *modules: str) -> None:
    """Raise ValueError where one of these modules is not installed, naming the extra that installs it."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise ValueError(f'This needs {", ".join(missing)}: install inkwash with `pip install "inkwash[{extra}]"`.')
