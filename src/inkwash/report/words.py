"""Numbers and records in words, as the page says them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inkwash.evaluation.card import row_of
from inkwash.evaluation.record import Record

_ELSEWHERE = ("what", "model", "weights", "inkwash", "torch", "data", "trained")  # of a sampling: told already


@dataclass(frozen=True)
class Row:
    """A line of the table of measures: what a card's has, and more.

    other: what is to be said where the weights are not the model's; provenance: its record, field by field.
    """

    title: str
    value: str
    interval: str
    floor: str
    n: str
    against: str
    drawn: str
    bias: str
    better: str
    other: str
    provenance: list[tuple[str, str]]


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
        "against": "Against",
        "drawn": "Drawn with",
    }
    told = {name: {v for r in rows if (v := getattr(r, name))} for name in heads}
    alike = {name for name in ("n", "against", "drawn") if len(told[name]) == 1 and len(rows) > 1}
    kept = [(name, head) for name, head in heads.items() if told[name] and name not in alike]
    return kept, [f"{heads[name]}: {next(iter(told[name]))}" for name in heads if name in alike]


def row(record: Record, weights: str | None) -> Row:
    """A record as a line. weights: of the model as it is now; others' records, and those of none, are marked."""
    model = record.model
    other = ""
    if weights is not None and model.get("weights_sha256") != weights:
        steps, length = (model.get("trained") or {}).get("steps"), model.get("ema")
        of = [f"{steps:,.0f} steps" if steps else "", f"ema {length:g}" if length else ""]
        other = ", ".join(["other weights", *filter(None, of)])
    return Row(
        *row_of(record),
        bias="" if record.bias is None else f"{record.bias:.4g}",
        better={"lower": "↓", "higher": "↑", "": ""}[record.better],
        other=other,
        provenance=provenance(record),
    )


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
