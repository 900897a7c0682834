"""Small charts: lines over steps, points in the plane. Drawn three times too large and reduced: smooth edges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from inkwash.pictures import text

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

Floats = npt.NDArray[np.float64]

COLOURS = (
    (38, 98, 168),
    (217, 108, 40),
    (52, 146, 94),
    (186, 60, 82),
    (122, 86, 166),
    (140, 104, 70),
    (40, 158, 178),
    (212, 104, 168),
    (150, 150, 52),
    (104, 110, 118),
)
_LINE = (226, 229, 233)
_AXIS = (150, 156, 164)
_S = 3  # drawn this many times larger


def line_plot(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    smooth: bool = True,
    log: Literal["", "x", "y", "xy"] = "",
    faint: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
    size: tuple[int, int] = (900, 500),
) -> Image:
    """A line for each (xs, ys), x ascending, with a legend if there are several: more than 4 are named at their ends.

    smooth: series of 50 and more points get a line through their running mean, over the values drawn faintly.
    log: the axes that are logarithmic. Values that are not finite, or on such an axis not above 0, are left out.
    faint: of some of the series by name, another line, thin and pale in the same colour.
    Raises ValueError where xs and ys differ in length.
    """
    from PIL import Image, ImageDraw

    lines = {name: _usable(name, *points, log) for name, points in series.items()}
    pale = {name: _usable(name, *points, log) for name, points in (faint or {}).items()}
    drawn = [*lines.values(), *pale.values()]
    xs = np.concatenate([x for x, _ in drawn] or [np.zeros(0)])
    ys = np.concatenate([y for _, y in drawn] or [np.zeros(0)])
    x_low, x_high = _range(xs, 0.0)
    y_low, y_high = _range(ys, 0.04)
    most = max(2, min(8, size[0] // 110))  # so that labels as 1,000,000 have room
    x_ticks = _log_ticks(x_low, x_high) if "x" in log else _labelled(ticks(x_low, x_high, most))
    y_ticks = _log_ticks(y_low, y_high) if "y" in log else _labelled(ticks(y_low, y_high, 6))
    at_ends = list(lines) if len(lines) > 4 else []

    page = Image.new("RGB", (size[0] * _S, size[1] * _S), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    left = 28 + max((text.width(label, 13) for _, label in y_ticks), default=0)
    right = size[0] - 28.0 - max((12 + text.width(name, 13) for name in at_ends), default=0.0)
    top, bottom = 76.0, size[1] - 54.0

    def place(x: Any, y: Any) -> tuple[Any, Any]:
        across = left + (x - x_low) / (x_high - x_low) * (right - left)
        return across * _S, (bottom - (y - y_low) / (y_high - y_low) * (bottom - top)) * _S

    _write(draw, (20, 16), title, 20)
    _write(draw, (20, 48), ylabel, 13, text.QUIET)
    _write(draw, ((left + right) / 2, size[1] - 12), xlabel, 13, text.QUIET, "md")
    for height, label in y_ticks:
        down = place(x_low, height)[1]
        draw.line([(left * _S, down), (right * _S, down)], fill=_LINE, width=_S)
        _write(draw, (left - 8, down / _S), label, 13, text.QUIET, "rm")
    draw.line([(left * _S, bottom * _S), (right * _S, bottom * _S)], fill=_AXIS, width=_S)
    for step, label in x_ticks:
        across = place(step, y_low)[0]
        draw.line([(across, bottom * _S), (across, (bottom + 5) * _S)], fill=_AXIS, width=_S)
        _write(draw, (across / _S, bottom + 9), label, 13, text.QUIET, "ma")
    for i, (name, (x, y)) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        if name in pale:
            _polyline(draw, place(*_envelope(*pale[name], size[0])), _faded(colour, 0.5), 1.4)
        if smooth and len(x) >= 50:
            _polyline(draw, place(*_envelope(x, y, size[0])), _faded(colour, 0.72), 1)
            _polyline(draw, place(*_thinned(x, _running_mean(y), size[0])), colour, 2.2)
        else:
            _polyline(draw, place(*_envelope(x, y, size[0])), colour, 2.2)
    if at_ends:
        _name_ends(draw, {n: place(*(float(v[-1]) for v in p)) for n, p in lines.items() if len(p[0])}, right, bottom)
    elif len(lines) > 1:
        _legend(draw, list(lines), right)
    if not len(xs):
        _write(draw, ((left + right) / 2, (top + bottom) / 2), "no data", 16, text.QUIET, "mm")
    return page.reduce(_S)


def scatter(
    points: npt.NDArray[np.floating[Any]],
    *,
    labels: npt.NDArray[np.integer[Any]] | None = None,
    limits: tuple[float, float, float, float] | None = None,
    title: str | None = None,
    axes: bool = True,
    size: tuple[int, int] = (480, 480),
) -> Image:
    """Points [N, 2] in the plane, equally scaled on both axes.

    labels: [N] integers that choose the colours. limits: (x low, x high, y low, y high) to be shown (default:
    all finite points). axes: without them the frame fills the picture. Where points overlap they are darker.
    Raises ValueError for arrays of another shape.
    """
    from PIL import Image, ImageDraw

    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"A scatter takes points [N, 2], not an array of shape {list(points.shape)}.")
    if labels is not None and len(labels) != len(points):
        raise ValueError(f"{len(labels)} labels for {len(points)} points: give one for each point, or None.")
    index = np.zeros(len(points), np.int64) if labels is None else labels.astype(np.int64)
    finite = np.isfinite(points).all(1)
    at, index = points[finite].astype(np.float64), index[finite]

    top, margin = (46 if title else 16 if axes else 1), (16 if axes else 1)
    beside, below = (26, 14) if axes else (0, 0)
    room = np.array([size[0] - 2 * margin - beside, size[1] - top - margin - below], dtype=np.float64)
    if limits is None:
        (x_low, x_high), (y_low, y_high) = _range(at[:, 0], 0.05), _range(at[:, 1], 0.05)
    else:
        x_low, x_high, y_low, y_high = limits
    unit = float(min(room[0] / (x_high - x_low), room[1] / (y_high - y_low)))  # pixels
    box = (x_high - x_low) * unit, (y_high - y_low) * unit
    left = beside + margin + (room[0] - box[0]) / 2
    bottom = top + (room[1] + box[1]) / 2

    page = Image.new("RGB", (size[0] * _S, size[1] * _S), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    if title:
        _write(draw, (left + box[0] / 2, 14), title, 17, anchor="ma")
    for x, label in _labelled(ticks(x_low, x_high, 4)) if axes else ():
        across = left + (x - x_low) * unit
        draw.line([(across * _S, bottom * _S), (across * _S, (bottom - box[1]) * _S)], fill=_LINE, width=_S)
        _write(draw, (across, bottom + 5), label, 11, text.QUIET, "ma")
    for y, label in _labelled(ticks(y_low, y_high, 4)) if axes else ():
        down = bottom - (y - y_low) * unit
        draw.line([(left * _S, down * _S), ((left + box[0]) * _S, down * _S)], fill=_LINE, width=_S)
        _write(draw, (left - 5, down), label, 11, text.QUIET, "rm")

    canvas = np.asarray(page, dtype=np.float32).copy()
    corner = np.array([left, bottom - box[1]])
    inside = ((at >= [x_low, y_low]) & (at <= [x_high, y_high])).all(1)
    pixels = (np.stack([at[:, 0] - x_low, y_high - at[:, 1]], 1) * unit + corner) * _S
    _splat(canvas, pixels[inside], index[inside])
    page = Image.fromarray(np.rint(canvas).astype(np.uint8))
    frame = [left * _S, (bottom - box[1]) * _S, (left + box[0]) * _S, bottom * _S]
    ImageDraw.Draw(page).rectangle(frame, outline=_AXIS, width=_S)
    return page.reduce(_S)


def ticks(low: float, high: float, count: int) -> list[float]:
    """The multiples in [low, high] of 1, 2 or 5 times a power of ten, the one that comes nearest to `count` steps."""
    rough = (high - low) / count
    power = math.floor(math.log10(rough))
    # nearest by ratio: from 1 to 2 the border is sqrt(1 * 2)
    factor = next((f for f, border in ((1, 2), (2, 10), (5, 50)) if (rough / 10.0**power) ** 2 < border), 10)
    step = factor * 10.0**power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, max(0, -power)) for i in range(first, last + 1)]


def _labelled(values: list[float]) -> list[tuple[float, str]]:
    """Each tick with its text: as many decimals as they need, thousands apart; very large and small ones as 1e6."""
    largest = max(map(abs, values), default=0.0)
    decimals = next((d for d in range(9) if all(math.isclose(v, round(v, d), abs_tol=1e-12) for v in values)), 9)
    if largest >= 1e7 or decimals > 5:
        return [(v, f"{v:g}") for v in values]
    return [(v, f"{v:,.{decimals}f}") for v in values]


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks between two powers of ten, at their exponents: powers alone, or with their doubles and fives, or all."""
    decades = high - low
    factors = (1,) if decades > 3 else (1, 2, 5) if decades > 1 else range(1, 10)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    marks = [(math.log10(f) + p, f"{f * 10.0**p:g}") for p in powers for f in factors]
    return [(at, label) for at, label in marks if low - 1e-9 <= at <= high + 1e-9]


def _usable(name: str, xs: Sequence[float], ys: Sequence[float], log: str) -> tuple[Floats, Floats]:
    """The finite points, and the logarithms to base 10 of what stands on a logarithmic axis."""
    x, y = np.asarray(xs, dtype=np.float64), np.asarray(ys, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"Series {name!r} has {x.shape} xs and {y.shape} ys: give two sequences of one length.")
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = np.log10(x) if "x" in log else x, np.log10(y) if "y" in log else y
    keep = np.isfinite(x) & np.isfinite(y)
    return x[keep], y[keep]


def _range(values: Floats, margin: float) -> tuple[float, float]:
    """The values' range, widened by a share of itself; something around a single value."""
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        wide = 0.1 * abs(low) or 0.5
        return low - wide, high + wide
    return low - margin * (high - low), high + margin * (high - low)


def _running_mean(y: Floats) -> Floats:
    """The mean over a window of a fortieth of the series around each value.

    It narrows towards the start, where losses fall fast, and is cut off at the end, where they only scatter.
    """
    here = np.arange(len(y))
    half = np.minimum(max(1, len(y) // 80), here)
    first, stop = here - half, np.minimum(here + half + 1, len(y))
    total = np.concatenate([[0.0], np.cumsum(y)])
    return np.asarray((total[stop] - total[first]) / (stop - first))


def _envelope(x: Floats, y: Floats, pixels: int) -> tuple[Floats, Floats]:
    """At most two points a pixel: where there are more, the lowest and the highest of each stretch."""
    if len(x) <= 2 * pixels:
        return x, y
    starts = np.linspace(0, len(x), pixels, endpoint=False).astype(np.int64)
    extremes = np.stack([np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)], 1)
    return x[starts].repeat(2), extremes.reshape(-1)


def _thinned(x: Floats, y: Floats, points: int) -> tuple[Floats, Floats]:
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), points)).round().astype(np.int64))
    return x[keep], y[keep]


def _polyline(draw: ImageDraw, at: tuple[Floats, Floats], colour: tuple[int, ...], width: float) -> None:
    points = list(zip(at[0].tolist(), at[1].tolist(), strict=True))
    if len(points) == 1:
        (x, y), r = points[0], 4 * _S
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)
    elif points:
        draw.line(points, fill=colour, width=round(width * _S), joint="curve")


def _faded(colour: tuple[int, ...], share: float) -> tuple[int, ...]:
    return tuple(round(c + (255 - c) * share) for c in colour)


def _legend(draw: ImageDraw, names: list[str], right: float) -> None:
    """Names with their colours in one line, ending at `right` beside the y label."""
    for i, name in reversed(list(enumerate(names))):
        _write(draw, (right, 56), name, 13, anchor="rm")
        right -= text.width(name, 13) + 8
        line = [((right - 18) * _S, 56 * _S), (right * _S, 56 * _S)]
        draw.line(line, fill=COLOURS[i % len(COLOURS)], width=round(2.6 * _S))
        right -= 18 + 20


def _name_ends(draw: ImageDraw, ends: dict[str, tuple[float, float]], right: float, bottom: float) -> None:
    """Each name at the height where its line ends, moved apart where they would overlap, in the line's colour."""
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(ends)}
    high = 17.0
    names = sorted(ends, key=lambda name: ends[name][1])
    heights = [ends[name][1] / _S for name in names]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + high)
    over = max(0.0, heights[-1] - bottom) if heights else 0.0
    for i in reversed(range(len(heights))):  # those at the bottom push those above them up again
        heights[i] = min(heights[i], (heights[i + 1] - high) if i + 1 < len(heights) else heights[i] - over)
    for name, height in zip(names, heights, strict=True):
        x, y = ends[name]
        draw.line([(x, y), ((right + 9) * _S, height * _S)], fill=_LINE, width=_S)
        _write(draw, (right + 12, height), name, 13, colours[name], "lm")


def _splat(canvas: npt.NDArray[np.float32], at: Floats, index: npt.NDArray[np.int64]) -> None:
    """Paint a disc at each place [N, 2] (x, y): the more overlap, the more opaque; colours mix by their share."""
    if not len(at):
        return
    radius = _S * float(np.clip(2.6 * (2000 / len(at)) ** 0.25, 1.3, 3.2))
    opacity = float(np.clip(0.85 * (1000 / len(at)) ** 0.4, 0.25, 0.85))
    height, width = canvas.shape[:2]
    reach = math.ceil(radius)
    offsets = [(dx, dy) for dx in range(-reach, reach + 1) for dy in range(-reach, reach + 1)]
    discs = [(dx, dy) for dx, dy in offsets if dx * dx + dy * dy <= radius * radius]
    x, y = np.rint(at.T).astype(np.int64)
    places = np.concatenate([(y + dy).clip(0, height - 1) * width + (x + dx).clip(0, width - 1) for dx, dy in discs])
    which = np.tile((index % len(COLOURS)).astype(np.int8), len(discs))
    present = np.unique(index % len(COLOURS)).tolist()
    counts = [np.bincount(places[which == i], minlength=height * width) for i in present]
    touched = np.flatnonzero(sum(counts))
    shares = np.stack([count[touched] for count in counts], 1).astype(np.float32)
    total = shares.sum(1, keepdims=True)
    colour = shares / total @ np.array([COLOURS[i] for i in present], dtype=np.float32)
    cover = 1 - (1 - opacity) ** total
    flat = canvas.reshape(-1, 3)
    flat[touched] = flat[touched] * (1 - cover) + colour * cover


def _write(
    draw: ImageDraw,
    at: tuple[float, float],
    words: str,
    size: int,
    fill: tuple[int, int, int] = text.INK,
    anchor: str = "la",
) -> None:
    text.write(draw, (at[0] * _S, at[1] * _S), words, size * _S, fill, anchor)
