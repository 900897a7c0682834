"""Pictures in a table: names at the left, headings on top, a caption under each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inkwash.pictures import text

if TYPE_CHECKING:
    from PIL.Image import Image

_MARGIN = 16
_GAP = 22  # between columns, wider than any gap inside a picture
_NAME = (70, 170)  # the least and the most room for names
_LEAST = 104  # a column has room for a caption
_SIZE, _SMALL = 14, 12
_LINE = (226, 229, 233)


def matrix(
    cells: Mapping[tuple[int, int], tuple[Image, str]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str | None = None,
    note: str | None = None,
) -> Image:
    """Each (row, column) with its picture and caption, on white; cells that are not given stay empty.

    title and note stand above them, the note small and grey.
    Pictures of different sizes stand at the top of their row, in the middle of their column; a caption may have
    several lines. Raises ValueError for a place outside of the table, and for a table without cells.
    """
    from PIL import Image as Images
    from PIL import ImageDraw

    if not cells:
        raise ValueError("A table of pictures needs at least one, and there are none.")
    for i, j in cells:
        if not (0 <= i < len(rows) and 0 <= j < len(columns)):
            raise ValueError(f"The cell ({i}, {j}) lies outside of {len(rows)} rows and {len(columns)} columns.")
    wide = max(_LEAST, *(image.width for image, _ in cells.values()))
    names = [text.wrap(name, _NAME[1], largest=_SIZE, smallest=10, lines=4) for name in rows]
    room = max([_NAME[0], *(text.width(line, size) for lines, size in names for line in lines)])
    captions = {at: _lines(caption, wide) for at, (_, caption) in cells.items()}
    left = _MARGIN + round(room) + _GAP
    width = left + len(columns) * (wide + _GAP) - _GAP + _MARGIN
    above: list[tuple[str, int, tuple[int, int, int]]] = []
    for words, largest, colour in ((title, 18, text.INK), (note, _SMALL, text.QUIET)):
        lines, size = text.wrap(words or "", width - 2 * _MARGIN, largest=largest, smallest=10)
        above += [(line, size, colour) for line in lines if line]
    top = _MARGIN + sum(round(size * 1.4) for _, size, _ in above) + 10 * bool(above)
    first = top + (round(_SIZE * 1.2) + 8) * any(columns)
    heights = [
        max(
            [
                len(names[i][0]) * round(_SIZE * 1.3),
                *(image.height + 5 + _tall(captions[at]) for at, (image, _) in cells.items() if at[0] == i),
            ]
        )
        for i in range(len(rows))
    ]
    page = Images.new("RGB", (width, first + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    down = _MARGIN
    for line, size, colour in above:
        text.write(draw, (_MARGIN, down), line, size, colour)
        down += round(size * 1.4)
    for j, name in enumerate(columns):
        lines, size = text.wrap(name, wide, largest=_SIZE, smallest=10, lines=1)
        text.write(draw, (left + j * (wide + _GAP) + wide / 2, top), lines[0], size, anchor="ma")
    down = first
    for i, height in enumerate(heights):
        if i:
            at = down - _GAP // 2
            draw.line([(_MARGIN, at), (width - _MARGIN, at)], fill=_LINE)
        middle = max([image.height for (row, _), (image, _) in cells.items() if row == i], default=height) / 2
        lines, size = names[i]
        begin = down + max(0.0, middle - len(lines) * size * 0.65)
        for k, line in enumerate(lines):
            text.write(draw, (_MARGIN, begin + round(k * size * 1.3)), line, size)
        for (row, j), (image, _) in cells.items():
            if row == i:
                across = left + j * (wide + _GAP)
                page.paste(image, (across + (wide - image.width) // 2, down))
                for k, (line, size) in enumerate(captions[row, j]):
                    at_line = (across + wide / 2, down + image.height + 5 + k * round(_SMALL * 1.3))
                    text.write(draw, at_line, line, size, text.QUIET, "ma")
        down += height + _GAP
    return page


def _lines(caption: str, room: float) -> list[tuple[str, int]]:
    """The caption's lines, each broken to fit, with its size."""
    broken = (text.wrap(line, room, largest=_SMALL, smallest=9) for line in caption.split("\n"))
    return [(line, size) for lines, size in broken for line in lines]


def _tall(lines: Sequence[tuple[str, int]]) -> int:
    return len(lines) * round(_SMALL * 1.3)
