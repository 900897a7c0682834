"""Quality against cost: which points of a sweep no other beats, as a table and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from inkwash import pictures
from inkwash.evaluation.record import Record
from inkwash.evaluation.sweep import Point
from inkwash.guidance import Cfg
from inkwash.kinds import in_text, to_table
from inkwash.sampling import Sampling

if TYPE_CHECKING:
    from PIL.Image import Image

Cost = Literal["calls", "seconds"]


def pareto(points: Sequence[Point], by: Cost) -> list[Point]:
    """The points that no other beats, cheapest first.

    One beats another if it is no worse in the value and no dearer, and better in one of the two: of points alike in
    both, all are kept. A point whose value or cost is not finite beats none and is not kept.
    """
    whole = [p for p in points if math.isfinite(p.value) and math.isfinite(getattr(p, by))]

    def beaten(p: Point, q: Point) -> bool:
        mine, its = (_badness(p), getattr(p, by)), (_badness(q), getattr(q, by))
        return its[0] <= mine[0] and its[1] <= mine[1] and its != mine

    kept = [p for p in whole if not any(beaten(p, q) for q in whole)]
    return sorted(kept, key=lambda p: (getattr(p, by), _badness(p)))


def best(points: Sequence[Point]) -> Point:
    """The point of the best value; of several, the one of the fewest calls. Raises ValueError where none is finite."""
    whole = [p for p in points if math.isfinite(p.value)]
    if not whole:
        raise ValueError("No point of the sweep has a finite value, so none is best.")
    return min(whole, key=lambda p: (_badness(p), p.calls, p.seconds))


def table(points: Sequence[Point]) -> str:
    """The points in columns, numbered from 1; the last column names the costs against which one is on the front."""
    if not points:
        return ""
    record = points[0].record
    fronts = {by: pareto(points, by) for by in ("calls", "seconds")}
    along = any(p.settings.path is not None for p in points)
    arrow = "↓" if record.better == "lower" else "↑"
    head = ["#", "sampler", "steps", "guidance"]
    ruled = any(p.settings.rule != Cfg() or p.settings.interval is not None for p in points)
    head += [*(["rule"] if ruled else []), "grid", *(["path"] if along else []), "calls", "s a picture"]
    more = list(dict.fromkeys(r.measure.title for p in points for r in p.also))
    rows = [[*head, f"{record.measure.title} {arrow}", "95 %", *more, "front"]]
    for number, p in enumerate(points, 1):
        own = p.settings
        where = ", ".join(by for by, front in fronts.items() if any(p is q for q in front))
        interval = "" if p.low is None or p.high is None else f"{p.low:.4g} to {p.high:.4g}"
        rows.append(
            [
                str(number),
                in_text(own.method),
                str(own.steps),
                f"{own.guidance:g}",
                *([_rule(own)] if ruled else []),
                in_text(own.grid),
                *([in_text(own.path) if own.path else "own"] if along else []),
                f"{p.calls:g}",
                f"{p.seconds:.3g}",
                f"{p.value:.4g}",
                interval,
                *(_also(p, title) for title in more),
                where,
            ]
        )
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(word.ljust(w) for word, w in zip(row, wide, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in wide) + "|", *lines[1:]])


def plot(points: Sequence[Point], title: str = "Quality against cost") -> Image:
    """The value against calls and against seconds, a line over steps for each way to draw, the fronts ringed.

    The grey line is the measure between two halves of the reference. Raises ValueError without points.
    """
    if not points:
        raise ValueError("A sweep without points has no picture.")
    record = points[0].record
    fronts: dict[Cost, list[Point]] = {"calls": pareto(points, "calls"), "seconds": pareto(points, "seconds")}
    lines: dict[str, list[pictures.Mark]] = {}
    for name, p in sorted(zip(_names(points), points, strict=True), key=lambda one: one[1].calls):
        on = tuple(any(p is q for q in front) for front in fronts.values())
        mark = pictures.Mark((p.calls, p.seconds), p.value, p.low, p.high, on, str(p.settings.steps))
        lines.setdefault(name, []).append(mark)
    measure = record.measure
    unit = f", {record.unit}" if record.unit else ""
    notes = ["Ringed: the points that no other beats in both, with their steps."]
    if any(p.settings.guidance != 1 for p in points):
        notes.append("A call with guidance runs the network twice, where it acts, unless the model is told its scale.")
    if record.floor is not None and record.floor_n is not None:
        notes.append(f"Floor: two halves of the reference, {record.floor_n:,} each.")
    order = dict.fromkeys(name for name in _names(points))
    return pictures.front(
        {name: lines[name] for name in order},
        ("network calls a picture", f"seconds a picture ({record.made.get('device', 'device not said')})"),
        ylabel=f"{measure.title} against {measure.data} ({measure.split}), n = {measure.n:,}{unit} "
        f"({record.better} is better)",
        title=title,
        note=" ".join(notes),
        floor=record.floor,
    )


def curve(points: Sequence[Point], axis: Literal["guidance", "steps"] = "guidance") -> Image | None:
    """Every measure against one setting, a panel for each: what more of it gains, and what it costs.

    None where another setting differs as well, or fewer than two values of this one were measured. Grey: what real
    pictures get, between two halves of the reference or by its own pictures.
    """
    lines: dict[str, list[pictures.Mark]] = {}
    firsts: dict[str, Record] = {}
    same: dict[str, Any] = {axis: 1}
    others = {json.dumps(to_table(replace(p.settings, **same)), sort_keys=True) for p in points}
    if len(others) != 1 or len({getattr(p.settings, axis) for p in points}) < 2:
        return None
    for p in sorted(points, key=lambda p: getattr(p.settings, axis)):
        for r in (p.record, *p.also):
            firsts.setdefault(r.measure.title, r)
            mark = pictures.Mark((float(getattr(p.settings, axis)),), r.value, r.low, r.high, (True,), f"{r.value:.3g}")
            lines.setdefault(r.measure.title, []).append(mark)
    panels = []
    for title, marks in lines.items():
        r = firsts[title]
        unit = f", {r.unit}" if r.unit else ""
        better = f" ({r.better} is better)" if r.better else ""
        told = f"{r.measure.data} ({r.measure.split}), n = {r.measure.n:,}{unit}{better}"
        panels.append(pictures.front({"": marks}, (axis,), ylabel=told, title=title, floor=r.floor, size=(440, 340)))
    return _tiled(panels, 3)


def _tiled(panels: Sequence[Image], columns: int) -> Image:
    """Pictures of one size in rows, on white."""
    from PIL import Image

    wide, high = max(p.width for p in panels), max(p.height for p in panels)
    across = min(columns, len(panels))
    page = Image.new("RGB", (across * wide, -(-len(panels) // columns) * high), (255, 255, 255))
    for i, panel in enumerate(panels):
        page.paste(panel, (i % columns * wide, i // columns * high))
    return page


def _also(p: Point, title: str) -> str:
    """What else was measured of a point, with its interval."""
    r = next((r for r in p.also if r.measure.title == title), None)
    if r is None:
        return ""
    ends = "" if r.low is None or r.high is None else f" ({r.low:.3g} to {r.high:.3g})"
    return f"{r.value:.4g}{ends}"


def _rule(own: Sampling) -> str:
    """How guidance is done, and where."""
    between = "" if own.interval is None else f" in {own.interval[0]:g} to {own.interval[1]:g}"
    return f"{in_text(own.rule)}{between}"


def _names(points: Sequence[Point]) -> Iterator[str]:
    """What of each point's settings differs between points, but for the steps: the name of its line."""
    told = {
        "": [in_text(p.settings.method) for p in points],
        "guidance ": [f"{p.settings.guidance:g}" for p in points],
        "by ": [_rule(p.settings) for p in points],
        "on ": [in_text(p.settings.grid) for p in points],
        "along ": [in_text(p.settings.path) if p.settings.path else "its own path" for p in points],
    }
    shown = {what: texts for what, texts in told.items() if what == "" or len(set(texts)) > 1}
    for i in range(len(points)):
        yield ", ".join(what + texts[i] for what, texts in shown.items())


def _badness(p: Point) -> float:
    return p.value if p.record.better == "lower" else -p.value
