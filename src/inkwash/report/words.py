"""Numbers and records in words, as the page says them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inkwash.evaluation.record import Record
from inkwash.grids import AnyGrid
from inkwash.kinds import from_table, in_text
from inkwash.paths import AnyPath
from inkwash.samplers import AnySampler

_ELSEWHERE = ("what", "model", "weights", "inkwash", "torch", "data", "trained")  # of a sampling: told already


@dataclass(frozen=True)
class Row:
    """A line of the table of measures; provenance: its record, field by field."""

    title: str
    value: str
    interval: str
    floor: str
    bias: str
    n: str
    against: str
    drawn: str
    better: str
    current: bool
    provenance: list[tuple[str, str]]


def figure(value: float, like: float | None = None) -> str:
    """Four significant digits, 12.35, 0.001235, 10,000; with as many decimals as another has where one is given."""
    if not math.isfinite(value):
        return "not finite"
    of = abs(value if like is None else like)
    if of and not 1e-5 <= of < 1e6:
        return f"{value:.4g}" if like is None else f"{value:.3g}"
    decimals = max(0, 3 - math.floor(math.log10(of))) if of else 0
    return f"{value:,.{min(decimals, 8)}f}"


def duration(seconds: float) -> str:
    """45 seconds, 3.2 minutes, 2.1 hours."""
    if seconds < 99.5:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:,.1f} minutes" if seconds < 99.5 * 60 else f"{seconds / 3600:,.1f} hours"


def columns(rows: Sequence[Row]) -> tuple[list[tuple[str, str]], list[str]]:
    """The table's columns, (field, heading), without empty ones, and what is the same in all rows, in words."""
    heads = {
        "value": "Value",
        "interval": "95 % interval",
        "floor": "Floor",
        "bias": "Expected bias",
        "n": "Pictures",
        "against": "Reference",
        "drawn": "Drawn with",
    }
    told = {name: {v for r in rows if (v := getattr(r, name))} for name in heads}
    alike = {name for name in ("n", "against", "drawn") if len(told[name]) == 1 and len(rows) > 1}
    kept = [(name, head) for name, head in heads.items() if told[name] and name not in alike]
    return kept, [f"{heads[name]}: {next(iter(told[name]))}" for name in heads if name in alike]


def row(record: Record, weights: str | None) -> Row:
    """A record as a line. weights: of the model as it is now; others' records are marked."""
    m = record.measure
    unit = f" {record.unit}" if record.unit else ""
    interval = ""
    if record.low is not None and record.high is not None:
        interval = f"{figure(record.low, record.value)} to {figure(record.high, record.value)}"
    floor = "" if record.floor is None else figure(record.floor)
    if record.floor is not None and record.floor_n is not None:
        floor += f" (n = {record.floor_n:,})"
    drawn = sampling(record.sampling)
    return Row(
        title=m.title,
        value=figure(record.value) + unit,
        interval=interval,
        floor=floor,
        bias="" if record.bias is None else figure(record.bias),
        n=f"{m.n:,} against {m.reference:,}",
        against=f"{m.data}, {m.split}",
        drawn=drawn,
        better="↓" if record.better == "lower" else "↑",
        current=weights is None or record.model.get("weights_sha256") in (None, weights),
        provenance=provenance(record),
    )


def sampling(told: Mapping[str, Any]) -> str:
    """heun, 10 steps, guidance 1.5; nothing where nothing was drawn."""
    words = [component(AnySampler, told["sampler"])] if told.get("sampler") else []
    if "steps" in told:
        words.append(f"{told['steps']} steps")
    if told.get("guidance", 1) != 1:
        words.append(f"guidance {told['guidance']:g}")
    if told.get("grid") and (grid := component(AnyGrid, told["grid"])) != "even":
        words.append(f"grid {grid}")
    if told.get("path"):
        words.append(f"along {component(AnyPath, told['path'])}")
    return ", ".join(words)


def component(union: Any, table: Any) -> str:
    """A component's table as one writes it on a command line; of what is not known here, all of it."""
    try:
        return in_text(from_table(union, table))
    except ValueError:
        return plain(table)


def provenance(record: Record) -> list[tuple[str, str]]:
    """Everything a record says of how its number came about: (what, in words)."""
    m, model, drawn, made = record.measure, record.model, record.sampling, record.made
    told: list[tuple[str, Any]] = [
        ("Feature net", m.features),
        ("Its weights (SHA-256)", m.weights),
        ("Pictures are brought to it by", m.resize),
        ("Reference", f"{m.data}, {m.split} split, {m.reference:,} pictures"),
        ("Its hash", m.data_hash),
        ("Pictures measured", f"{m.n:,}"),
        ("Settings of the measure", m.settings),
        ("Model", model.get("folder")),
        ("Its weights (SHA-256)", model.get("weights_sha256")),
        ("Trained", model.get("trained")),
        ("EMA length (sigma_rel)", model.get("ema")),
        *((_named(key), value) for key, value in drawn.items() if key not in _ELSEWHERE),
        ("inkwash", made.get("inkwash")),
        ("Commit", made.get("commit")),
        ("torch", made.get("torch")),
        ("Device", made.get("device")),
        ("Date", made.get("date")),
    ]
    return [(what, text) for what, value in told if (text := plain(value))]


def plain(value: Any) -> str:
    """A value of a record for people: tables as name = value, numbers with thousands apart."""
    if value is None or value in ("", {}, [], ()):
        return ""
    if isinstance(value, Mapping) and "kind" in value:
        rest = ", ".join(f"{k}={plain(v)}" for k, v in value.items() if k != "kind")
        return f"{value['kind']}({rest})" if rest else str(value["kind"])
    if isinstance(value, Mapping):
        return ", ".join(f"{k} = {plain(v)}" for k, v in value.items() if v not in (None, ""))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(plain, value))
    return str(value) if isinstance(value, str) else json.dumps(value, default=str)


def _named(key: str) -> str:
    known = {"seed": "Seed", "sampler": "Sampler", "steps": "Steps", "guidance": "Guidance", "grid": "Grid of times"}
    known |= {"calls": "Network calls a picture", "seconds": "Seconds for all pictures", "n": "Pictures drawn"}
    return known.get(key, f"Sampling: {key}")
