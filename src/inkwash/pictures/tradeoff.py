"""Quality against cost: the same points against each of several costs, side by side, the best of them ringed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from inkwash.pictures import text
from inkwash.pictures.chart import _AXIS, _LINE, _S, COLOURS, _labelled, _log_ticks, _range, _write, ticks

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

_ROW = 22.0  # of the legend
_RADIUS = 4.2
_FLOOR = (128, 134, 142)


class Mark(NamedTuple):
    """One point: its cost on each panel, its value and (None: unknown) interval, on which panels it is ringed, a name.

    The name is written beside the point where it is ringed.
    """

    costs: tuple[float, ...]
    value: float
    low: float | None = None
    high: float | None = None
    best: tuple[bool, ...] = ()
    name: str = ""


def front(
    lines: Mapping[str, Sequence[Mark]],
    costs: Sequence[str],
    *,
    ylabel: str,
    title: str,
    note: str = "",
    floor: float | None = None,
    size: tuple[int, int] = (1180, 520),
) -> Image:
    """A panel for each of `costs` (logarithmic), a line for each series through its points in the order given.

    Values stand on a logarithmic axis where all are positive and they span more than a decade. floor: a grey line, what
    no value is expected to fall below. size: of the panels; the legend and the note stand below. A point whose value or
    cost is not finite, or a cost not above 0, is left out.
    """
    from PIL import Image, ImageDraw

    kept = {name: [m for m in marks if _drawable(m)] for name, marks in lines.items()}
    marks = [m for series in kept.values() for m in series]
    values = [m.value for m in marks] + ([floor] if floor is not None and math.isfinite(floor) else [])
    log = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    # Intervals too; on a logarithmic axis only as far as leaves room for the values.
    reached = [v for m in marks for v in (m.low, m.high) if v is not None and math.isfinite(v)]
    reached = [v for v in reached if not log or v > min(values) / 2]
    y_low, y_high = _range(_scaled([*values, *reached], log), 0.06)
    y_ticks = _log_ticks(y_low, y_high) if log else _labelled(ticks(y_low, y_high, 6))

    rows = _legend_rows(list(kept), size[0] - 40) if len(kept) > 1 else []
    words, note_size = text.wrap(note, size[0] - 40, largest=13, smallest=10) if note else ([], 13)
    height = round(size[1] + _ROW * len(rows) + 20 * len(words) + 12)
    page = Image.new("RGB", (size[0] * _S, height * _S), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    _write(draw, (20, 16), title, 20)
    _write(draw, (20, 48), ylabel, 13, text.QUIET)

    margin = 28 + max((text.width(label, 13) for _, label in y_ticks), default=0)
    wide = (size[0] - 20) / max(len(costs), 1)
    for panel, cost in enumerate(costs):
        box = (panel * wide + margin, 76.0, (panel + 1) * wide - 8, size[1] - 58.0)
        across = [math.log10(m.costs[panel]) for m in marks]
        x_range = _range(np.asarray(across), 0.08)
        _frame(draw, box, x_range, (y_low, y_high), y_ticks, cost)
        if floor is not None and math.isfinite(floor):
            at = box[3] - (float(_scaled([floor], log)[0]) - y_low) / (y_high - y_low) * (box[3] - box[1])
            draw.line([(box[0] * _S, at * _S), (box[2] * _S, at * _S)], fill=_FLOOR, width=round(1.6 * _S))
            _write(draw, (box[2] - 4, at - 3), "floor", 12, text.QUIET, "rd")
        for i, series in enumerate(kept.values()):
            _series(draw, series, panel, i, box, x_range, (y_low, y_high), log)
        if not marks:
            _write(draw, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), "no data", 16, text.QUIET, "mm")
    _legend(draw, list(kept), rows, size[1])
    for i, line in enumerate(words):
        _write(draw, (20, size[1] + _ROW * len(rows) + 20 * i), line, note_size, text.QUIET)
    return page.reduce(_S)


def _drawable(mark: Mark) -> bool:
    return math.isfinite(mark.value) and all(math.isfinite(c) and c > 0 for c in mark.costs)


def _scaled(values: Sequence[float], log: bool) -> np.ndarray:
    return np.log10(values) if log else np.asarray(values, dtype=np.float64)


def _frame(
    draw: ImageDraw,
    box: tuple[float, float, float, float],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    y_ticks: Sequence[tuple[float, str]],
    xlabel: str,
) -> None:
    """A panel's lines, ticks and the name of its cost."""
    left, top, right, bottom = box
    for value, label in y_ticks:
        down = bottom - (value - y_range[0]) / (y_range[1] - y_range[0]) * (bottom - top)
        draw.line([(left * _S, down * _S), (right * _S, down * _S)], fill=_LINE, width=_S)
        _write(draw, (left - 8, down), label, 13, text.QUIET, "rm")
    draw.line([(left * _S, bottom * _S), (right * _S, bottom * _S)], fill=_AXIS, width=_S)
    end = -math.inf
    for value, label in _log_ticks(*x_range):
        across = left + (value - x_range[0]) / (x_range[1] - x_range[0]) * (right - left)
        draw.line([(across * _S, bottom * _S), (across * _S, (bottom + 5) * _S)], fill=_AXIS, width=_S)
        half = text.width(label, 13) / 2
        if across - half > end + 6:  # labels of one decade crowd towards its end
            _write(draw, (across, bottom + 9), label, 13, text.QUIET, "ma")
            end = across + half
    _write(draw, ((left + right) / 2, bottom + 46), xlabel, 13, text.QUIET, "md")


def _series(
    draw: ImageDraw,
    series: Sequence[Mark],
    panel: int,
    number: int,
    box: tuple[float, float, float, float],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    log: bool,
) -> None:
    """One line: through its points, with their intervals, rings and names."""
    left, top, right, bottom = box
    colour = COLOURS[number % len(COLOURS)]
    faint = tuple(round(c + (255 - c) * 0.45) for c in colour)

    def across(cost: float) -> float:
        return (left + (math.log10(cost) - x_range[0]) / (x_range[1] - x_range[0]) * (right - left)) * _S

    def down(value: float) -> float:
        share = (float(_scaled([value], log)[0]) - y_range[0]) / (y_range[1] - y_range[0])
        return (bottom - min(max(share, 0.0), 1.0) * (bottom - top)) * _S

    at = [(across(m.costs[panel]), down(m.value)) for m in series]
    for (x, _), m in zip(at, series, strict=True):
        if m.low is not None and m.high is not None and math.isfinite(m.low) and math.isfinite(m.high):
            low = bottom * _S if log and m.low <= 0 else down(m.low)
            draw.line([(x, low), (x, down(m.high))], fill=faint, width=round(1.4 * _S))
    if len(at) > 1:
        draw.line(at, fill=colour, width=round(1.8 * _S), joint="curve")
    for (x, y), m in zip(at, series, strict=True):
        _symbol(draw, x, y, number, colour)
        if panel < len(m.best) and m.best[panel]:
            r = (_RADIUS + 4.2) * _S
            draw.ellipse([x - r, y - r, x + r, y + r], outline=text.INK, width=round(1.6 * _S))
            _write(draw, (x / _S - 9, y / _S + 6), m.name, 12, text.INK, "ra")


def _symbol(draw: ImageDraw, x: float, y: float, number: int, colour: tuple[int, int, int]) -> None:
    """A disc, or from the eleventh series on, whose colours come again, a square, then a triangle."""
    r = _RADIUS * _S
    match number // len(COLOURS) % 3:
        case 0:
            draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
        case 1:
            draw.rectangle([x - r, y - r, x + r, y + r], fill=colour)
        case _:
            draw.polygon([(x, y - 1.3 * r), (x - 1.2 * r, y + r), (x + 1.2 * r, y + r)], fill=colour)


def _legend_rows(names: Sequence[str], room: float) -> list[list[tuple[int, float]]]:
    """Where each name begins, in as many rows as it takes: rows of (number, across)."""
    rows: list[list[tuple[int, float]]] = [[]]
    across = 0.0
    for i, name in enumerate(names):
        wide = text.width(name, 13) + 48
        if rows[-1] and across + wide > room:
            rows.append([])
            across = 0.0
        rows[-1].append((i, across))
        across += wide
    return rows


def _legend(draw: ImageDraw, names: Sequence[str], rows: list[list[tuple[int, float]]], top: float) -> None:
    for k, row in enumerate(rows):
        middle = top + _ROW * (k + 0.4)
        for i, across in row:
            colour, x = COLOURS[i % len(COLOURS)], 20 + across
            draw.line([(x * _S, middle * _S), ((x + 20) * _S, middle * _S)], fill=colour, width=round(1.8 * _S))
            _symbol(draw, (x + 10) * _S, middle * _S, i, colour)
            _write(draw, (x + 27, middle), names[i], 13, anchor="lm")
