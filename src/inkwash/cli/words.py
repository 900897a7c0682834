"""Numbers in words, and files in places: small things that several commands say."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import typer


def say(text: str = "") -> None:
    """A line on the terminal."""
    typer.echo(text)


def duration(seconds: float) -> str:
    """45 s, 3 min 12 s, 2 h 5 min; nothing for what is not known."""
    if not math.isfinite(seconds):
        return ""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    if hours:
        return f"{hours} h {left} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes as 812 MB or 1.2 GB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def number(count: float) -> str:
    """1,234,567 or 2.1 M from a million on."""
    return f"{count:,.0f}" if count < 1e6 else f"{count / 1e6:,.1f} M"


def some(count: int, what: str) -> str:
    """1 picture, 2 pictures, 60,000 pictures."""
    plural = what[:-1] + "ies" if what[-1:] == "y" else what + ("es" if what[-2:] in ("ss", "ch") else "s")
    return f"{count:,} {what if count == 1 else plural}"


def table(rows: dict[str, str]) -> str:
    """Names and values in two columns, empty values left out; values of several lines stay in theirs."""
    width = max(map(len, rows))
    indent = "\n" + " " * (width + 4)
    return "\n".join(f"  {name:<{width}}  {value.replace(chr(10), indent)}" for name, value in rows.items() if value)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of words in aligned columns, the first row above a line; empty columns left out."""
    kept = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    wide = [max(len(row[i]) for row in rows) for i in kept]
    lines = ["  ".join(row[i].ljust(w) for i, w in zip(kept, wide, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def free_name(file: Path) -> Path:
    """The file, or file-2, file-3 ... where there is one already."""
    candidate, n = file, 1
    while candidate.exists():
        n += 1
        candidate = file.with_name(f"{file.stem}-{n}{file.suffix}")
    return candidate


def frame_of(text: str | None, mistakes: list[str]) -> int | list[int] | None:
    """A size as people write it, 32 or 48x64, as pixels or [height, width]; what it is not is noted."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)(?:\s*[x×,]\s*(\d+))?", text.strip().lower()):
        return [int(match[1]), int(match[2])] if match[2] else int(match[1])
    mistakes.append(f"--size {text} is not a size. Give pixels, as in 32, or HEIGHTxWIDTH, as in 48x64.")
    return None


def check_ending(file: Path | None, ending: str, option: str) -> list[str]:
    """A mistake, if a file to write has another ending than its format, or its place cannot be a folder."""
    if file is None:
        return []
    if file.suffix.lower() != ending:
        return [f"{option} {file} must end in {ending}, for example {file.with_suffix(ending)}."]
    if file.is_dir():
        return [f"{option} {file} is a folder. Give a file in it, for example {file / f'samples{ending}'}."]
    over = next((p for p in file.absolute().parents if p.exists()), None)
    if over is not None and not over.is_dir():
        return [f"{option} {file} cannot be written: {over} is a file, not a folder."]
    return []
