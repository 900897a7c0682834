"""Partners: for each picture of a source, the one of the same name in another."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inkwash.data.find import find_source, no_images
from inkwash.data.labels import root_of
from inkwash.data.sources import Source

_LISTED = 5


@dataclass(frozen=True)
class Pairs:
    """Where partners lie, and the name there of the partner of each picture."""

    source: Source
    names: dict[str, str]


def pairs_source(name: str) -> Source:
    """The folder or the archive of `data.pairs`; ValueError where it is not there, or is none."""
    try:
        source = find_source(name)
    except ValueError as error:
        raise ValueError(f"data.pairs: {error}") from error
    if isinstance(source, Path):
        raise ValueError(f"data.pairs = {name} is an array. Partners are files: give a folder or an archive.")
    return source


def match(chosen: Sequence[str], images: Sequence[str], where: Path, source: Source) -> Pairs:
    """Find the partner of each of the pictures `chosen` of those, `images`, that lie in `where`.

    Names are compared below the folders that all pictures of a source share, so that photos/a.png in one archive and
    drawings/a.png in another are partners. ValueError, naming five, where any has none: which pictures a model learns
    from should not hang on which files are missing. Partners without a picture do not matter.
    """
    theirs = source.listing().images
    if not theirs:
        raise ValueError(f"data.pairs: {no_images(source)}")
    ours_below, theirs_below = len(root_of(images)), len(root_of(theirs))
    there = {name[theirs_below:]: name for name in theirs}
    if missing := [name for name in chosen if name[ours_below:] not in there]:
        listed = ", ".join(missing[:_LISTED]) + (", …" if len(missing) > _LISTED else "")
        near = difflib.get_close_matches(missing[0][ours_below:], there, 1)
        such = near[0] if near else next(iter(there))
        raise ValueError(
            f"{len(missing):,} of {len(chosen):,} pictures in {where} have no partner in {source.path}: {listed}. "
            f"A partner has the same name; there are such as {such}. Add them, or take these pictures out."
        )
    return Pairs(source, {name: there[name[ours_below:]] for name in chosen})
