"""What a model's card says of how it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as File
from typing import Any

from inkwash import checkpoint
from inkwash.checkpoint.atomic import held
from inkwash.evaluation.likelihood import weights_hash
from inkwash.evaluation.record import Record, newest, read
from inkwash.grids import AnyGrid
from inkwash.kinds import from_table, in_text
from inkwash.modelfolder import find_model, load_own_codec, read_config, save_model
from inkwash.paths import AnyPath
from inkwash.samplers import AnySampler


def evaluation_folder(run: str | File) -> File:
    """Where what is measured of a model is kept: evaluation/ in its run's folder, or beside a model that is in none."""
    model = named(find_model(run))
    in_run = model.name == "model" and (model.parent / "recipe.toml").is_file()
    return model.parent / ("evaluation" if in_run else f"{model.name}-evaluation")


def named(folder: File) -> File:
    """The folder by a path that ends in its name, which "." does not."""
    return folder if folder.name.strip(".") else folder.resolve()


def write_card(run: str | File, *, trust: bool = False) -> str:
    """Put the newest numbers of these very weights into the model's card; "" or why that could not be done."""
    model = find_model(run)
    records = [r for r in read(evaluation_folder(run)) if r.model.get("weights_sha256") == weights_hash(model)]
    # Training publishes the model as well, and only one process may.
    with held(model.parent) as free:
        if not free:
            return f"{model.parent} is being trained, so its card was left as it is; the records have the numbers."
        weights, config = checkpoint.load(model).tensors["model"], read_config(model, trust=trust)
        save_model(config, weights, model, measured_lines(newest(records)), codec=load_own_codec(model, config))
    return ""


def measured_lines(records: Sequence[Record]) -> str:
    """The numbers as Markdown: a table, and below it what each was measured with; "" for none."""
    if not records:
        return ""
    rows = ["| measure | value | 95 % interval | floor | n | against | drawn with |", "|---|---|---|---|---|---|---|"]
    rows += [f"| {' | '.join(row_of(r))} |" for r in records]
    return "\n".join(["", "## Measured", "", *rows, "", *(f"- {line}" for line in provenance(records)), ""])


def row_of(record: Record) -> tuple[str, str, str, str, str, str, str]:
    """A record in a table's cells: measure, value, interval, floor, n, reference, sampling."""
    m = record.measure
    interval = "" if record.low is None or record.high is None else f"{record.low:.4g} to {record.high:.4g}"
    floor = ""
    if record.floor is not None and record.floor_of == "halves":
        floor = f"{record.floor:.4g} (two halves of {record.floor_n:,})"
    elif record.floor is not None:
        ends = record.floor_low, record.floor_high
        between = "" if None in ends else f", {ends[0]:.4g} to {ends[1]:.4g}"
        floor = f"{record.floor:.4g} (the real {record.floor_n:,}{between})"
    if record.chance is not None:
        floor += f"{', ' if floor else ''}chance {record.chance:.4g}"
    value = f"{record.value:.4g}{f' {record.unit}' if record.unit else ''}"
    return m.title, value, interval, floor, f"{m.n:,}", f"{m.data} {m.split}, {m.reference:,}", drawn_with(record)


def drawn_with(record: Record) -> str:
    """How the pictures were drawn, in a few words; "" where that is not known."""
    told: dict[str, Any] = record.sampling
    if "sampler" not in told:
        return ""
    steps = f"{told.get('steps')} steps" + (f", {told['calls']:g} calls" if "calls" in told else "")
    words = [_component(AnySampler, told["sampler"]), steps, f"guidance {told.get('guidance', 1):g}"]
    words += [str(told[name]) for name in ("rule", "interval", "weak") if told.get(name)]
    if told.get("grid") and (grid := _component(AnyGrid, told["grid"])) != "even":
        words.append(f"grid {grid}")
    if told.get("path"):
        words.append(f"along {_component(AnyPath, told['path'])}")
    return ", ".join([*words, f"seed {told.get('seed')}"])


def provenance(records: Sequence[Record]) -> list[str]:
    """What numbers were measured with: a line for all that share it."""
    found: dict[str, list[str]] = {}
    for record in records:
        m, made = record.measure, record.made
        commit, _, changed = str(made.get("commit") or "").partition("+")
        code = f"inkwash {made.get('inkwash')}" + (f" at {commit[:12]}" if commit else "")
        net = f"features {m.features}, weights {m.weights[:12]}" if m.features else "no features"
        parts = [
            net + (f", {m.resize}" if m.resize else ""),
            f"reference {m.data_hash[:12]}",
            code + (f" with {changed}" if changed else ""),
            f"{made.get('date', '')[:10]}",
        ]
        found.setdefault("; ".join(part for part in parts if part), []).append(m.title)
    return [f"{', '.join(dict.fromkeys(titles))}: {line}" for line, titles in found.items()]


def _component(union: Any, table: Any) -> str:
    """A component's table as one writes it on a command line; of a user's own only the name."""
    try:
        return in_text(from_table(union, table))
    except ValueError:
        return str(table["kind"]) if isinstance(table, dict) and "kind" in table else str(table)
