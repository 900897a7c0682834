"""Text in pictures: a font that can show it, and lines that fit a width."""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

INK = (38, 42, 48)
QUIET = (110, 116, 124)

# Pillow's own font, the first choice, shows ASCII and little else; these cover the rest where they are installed.
_SYSTEM_FONTS = ("DejaVuSans", "NotoSansCJK-Regular", "wqy-zenhei", "Arial Unicode", "PingFang", "msyh", "segoeui")


def write(
    draw: ImageDraw,
    at: tuple[float, float],
    text: str,
    size: int,
    fill: tuple[int, int, int] = INK,
    anchor: str = "la",
) -> None:
    """Draw one line of text; anchor is Pillow's: l, m, r across and a (top), m, s (baseline), d (bottom) down."""
    font, shown = _fit_font(text, size)
    draw.text(at, shown, fill=fill, font=font, anchor=anchor)


def width(text: str, size: int) -> float:
    """How wide `write` draws it, in pixels."""
    font, shown = _fit_font(text, size)
    return float(font.getlength(shown))


def wrap(text: str, room: float, *, largest: int, smallest: int, lines: int = 3) -> tuple[list[str], int]:
    """Break text into at most `lines` lines no wider than room, in the largest size that allows it: (lines, size).

    Breaks after spaces, hyphens, slashes and underscores; what does not fit in the smallest size is cut with "..".
    """
    for size in range(largest, smallest - 1, -1):
        broken = _break(text, room, size)
        if len(broken) <= lines and all(width(line, size) <= room for line in broken):
            return broken, size
    broken = _break(text, room, smallest)
    if len(broken) > lines:
        broken = [*broken[: lines - 1], broken[lines - 1] + ".."]
    return [_cut(line, room, smallest) for line in broken], smallest


def _break(text: str, room: float, size: int) -> list[str]:
    lines = [""]
    for piece in re.findall(r"[^ \-/_]*[ \-/_]|[^ \-/_]+", text):
        if lines[-1] and width((lines[-1] + piece).rstrip(), size) > room:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _cut(line: str, room: float, size: int) -> str:
    if width(line, size) <= room:
        return line
    line = line.removesuffix("..")
    while line and width(line + "..", size) > room:
        line = line[:-1]
    return line + ".."


@cache
def _fit_font(text: str, size: int) -> tuple[FreeTypeFont, str]:
    """A font that has the text's characters, and the text; without such a font, the nearest plain letters or "?"."""
    from PIL import ImageFont

    plain = ImageFont.load_default(size)
    if not isinstance(plain, ImageFont.FreeTypeFont):
        raise ValueError("This Pillow was built without FreeType and cannot draw text. Install Pillow from a wheel.")
    if _shows(plain, text):
        return plain, text
    for name in _SYSTEM_FONTS:
        for suffix in (".ttf", ".ttc"):
            try:
                other = ImageFont.truetype(name + suffix, size)
            except OSError:  # not installed
                continue
            if _shows(other, text):
                return other, text
    bare = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return plain, "".join(c if _shows(plain, c) else "?" for c in bare)


def _shows(font: FreeTypeFont, text: str) -> bool:
    """Whether the font has all the characters: those it lacks look like the one that no font has."""
    lacking = bytes(font.getmask("\uffff"))
    return all(" " <= c <= "~" or bytes(font.getmask(c)) != lacking for c in set(text))
