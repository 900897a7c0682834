"""What a source's name means, and what was probably meant when it means nothing."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from inkwash.data.generated import POINTS
from inkwash.data.known import KNOWN
from inkwash.data.shapes import SHAPES
from inkwash.data.sources import Folder, Source, archive_or_folder

NAMES = (*KNOWN, SHAPES, *POINTS)
"""The data sets that have a name."""

_ARRAYS = (".npy", ".npz")


def find_source(name: str) -> Source | Path:
    """A folder or an archive, or the path of an array file; ValueError, with what was probably meant, otherwise."""
    path = Path(name).expanduser()
    if not path.exists():
        raise ValueError(_missing(name, path))
    if path.is_file() and path.suffix.lower() in _ARRAYS:
        return path
    source = archive_or_folder(path)
    if source is None:
        raise ValueError(f"{name} is one file. Give a folder of pictures, a .zip or .tar(.gz), an .npy or an .npz.")
    return source


def no_images(source: Source) -> str:
    """The message for a source without pictures."""
    others = source.listing().other.most_common(3)
    held = f" It holds {', '.join(f'{n:,} {s}' for s, n in others)}." if others else " It is empty."
    return f"No images in {source.path}.{held}{_suggestion(str(source.path), source.path)}"


def _missing(name: str, path: Path) -> str:
    looks_like_a_path = len(path.parts) > 1 or name.startswith(".") or "." in path.name
    what = f"No images in {name}" if looks_like_a_path else f"There is no data set or folder named {name}"
    fallback = f" Built-in names: {', '.join(NAMES)}." if not looks_like_a_path else " There is no such file or folder."
    return f"{what}.{_suggestion(name, path) or fallback}"


def _suggestion(name: str, path: Path) -> str:
    plain = {_plain(n): n for n in NAMES}
    if not (len(path.parts) > 1) and (near := difflib.get_close_matches(_plain(name), plain, 1, 0.7)):
        return f" Did you mean {plain[near[0]]}?"
    around = {p.name: p for p in _around(path)}
    lower = {n.lower(): n for n in around}
    for key in difflib.get_close_matches(path.name.lower(), lower, 3, 0.6):
        found = around[lower[key]]
        shown = f"{name[: len(name) - len(path.name)]}{found.name}" if name.endswith(path.name) else str(found)
        if not found.is_dir():
            return f" Did you mean {shown}?"
        if count := len(Folder(found).listing().images):
            return f" Did you mean {shown} ({count:,} images)?"
    return ""


def _around(path: Path) -> list[Path]:
    """Folders and files beside a path that could be sources."""
    try:
        beside = sorted(path.parent.iterdir())
    except OSError:
        return []
    return [
        p
        for p in beside
        if p.name != path.name
        and not p.name.startswith(".")
        and (p.is_dir() or p.suffix.lower() in _ARRAYS or archive_or_folder(p) is not None)
    ]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
