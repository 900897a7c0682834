"""Bars beside each other: a few series of shares over named places, such as classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from inkwash.pictures import text
from inkwash.pictures.chart import COLOURS, ticks

if TYPE_CHECKING:
    from PIL.Image import Image

_S = 3  # drawn this many times larger, and reduced
_LINE, _AXIS = (226, 229, 233), (150, 156, 164)


def bars(
    series: Mapping[str, Sequence[float]],
    places: Sequence[str],
    *,
    title: str,
    ylabel: str,
    size: tuple[int, int] = (900, 420),
) -> Image:
    """For each place a bar of every series, from 0 up, with a legend.

    Raises ValueError where a series has not one value, at least 0, for each place.
    """
    from PIL import Image, ImageDraw

    for name, values in series.items():
        if len(values) != len(places) or not all(v >= 0 for v in values):
            raise ValueError(f"{name} has {len(values)} values for {len(places)} places; each needs one of 0 or more.")
    high = max((max(values, default=0.0) for values in series.values()), default=0.0) or 1.0
    levels = ticks(0.0, 1.05 * high, 5)
    page = Image.new("RGB", (size[0] * _S, size[1] * _S), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    left, right, top, bottom = 70.0, size[0] - 24.0, 80.0, size[1] - 76.0
    room = (right - left) / max(len(places), 1)
    wide = 0.8 * room / max(len(series), 1)

    def up(value: float) -> float:
        return bottom - value / (1.05 * high) * (bottom - top)

    def write(at: tuple[float, float], words: str, points: int, fill: tuple[int, int, int], anchor: str) -> None:
        text.write(draw, (at[0] * _S, at[1] * _S), words, points * _S, fill, anchor)

    write((20, 16), title, 20, text.INK, "la")
    write((20, 48), ylabel, 13, text.QUIET, "la")
    for level in levels:
        draw.line([(left * _S, up(level) * _S), (right * _S, up(level) * _S)], fill=_LINE, width=_S)
        write((left - 8, up(level)), f"{level:g}", 13, text.QUIET, "rm")
    for i, values in enumerate(series.values()):
        for j, value in enumerate(values):
            x = left + (j + 0.1) * room + i * wide
            box = [x * _S, up(value) * _S, (x + 0.92 * wide) * _S, bottom * _S]
            draw.rectangle(box, fill=COLOURS[i % len(COLOURS)])
    draw.line([(left * _S, bottom * _S), (right * _S, bottom * _S)], fill=_AXIS, width=_S)
    for j, place in enumerate(places):
        lines, points = text.wrap(place, room - 4, largest=13, smallest=8)
        for k, line in enumerate(lines):
            write((left + (j + 0.5) * room, bottom + 8 + k * (points + 3)), line, points, text.QUIET, "ma")
    x = right
    for i, name in reversed(list(enumerate(series))):
        x -= text.width(name, 13) + 30
        draw.rectangle([x * _S, 52 * _S, (x + 12) * _S, 64 * _S], fill=COLOURS[i % len(COLOURS)])
        write((x + 18, 58), name, 13, text.QUIET, "lm")
    return page.reduce(_S)
