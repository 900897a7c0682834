"""What a run's folder has to tell. Anything may be missing or damaged: what cannot be read is noted, not fatal."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path as File
from typing import Any

from inkwash.checkpoint import CheckpointError
from inkwash.evaluation import evaluation_folder, weights_hash
from inkwash.evaluation.card import named
from inkwash.evaluation.record import RECORDS, Record, newest, read_lines
from inkwash.kinds import from_table
from inkwash.modelfolder import Config, read_config
from inkwash.training.run import read_metrics

METRICS, RECIPE = "metrics.jsonl", "recipe.toml"


@dataclass
class Material:
    """A run as it was found.

    folder: the run's, or of a bare model the model's own; model: the model's folder; recipe: its text; metrics: lines
    of numbers, `step` among them; sheets: sample sheets by step; records: the newest of each measure and sampling;
    plots: pictures the evaluation drew; finished: when training last wrote something; problems: what could not be read.
    """

    folder: File
    model: File | None = None
    config: Config | None = None
    config_text: str = ""
    weights: str | None = None
    recipe: str = ""
    source: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    sheets: list[tuple[int, File]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    plots: list[File] = field(default_factory=list)
    finished: datetime | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def evaluation(self) -> File:
        """The folder of its measures, where `inkwash eval` puts them."""
        return self.folder / "evaluation" if self.model is None else evaluation_folder(self.model)

    @property
    def page(self) -> File:
        """Where its report goes; a model's own folder holds nothing else."""
        folder = self.folder
        return folder.parent / f"{folder.name}-report.html" if self.bare else folder / "report.html"

    @property
    def bare(self) -> bool:
        """Whether it is a model's folder, which may hold nothing but the model."""
        return self.model == self.folder

    @property
    def is_run(self) -> bool:
        """Whether it is more than a model: whether training left its recipe or its log."""
        return bool(self.recipe or self.metrics)

    @property
    def fraction(self) -> float | None:
        """How much of the training is done, as it last said; None where it does not say."""
        told = [m["fraction"] for m in self.metrics if "fraction" in m]
        return float(told[-1]) if told else None


def gather(run: str | File, *, trust: bool = False) -> Material:
    """Read what there is in a run's folder, or in a model's.

    Raises ValueError where there is nothing of either.
    """
    folder = named(File(run))
    inside = (folder / "config.json").is_file()
    if inside and folder.name == "model" and any((folder.parent / name).is_file() for name in (RECIPE, METRICS)):
        folder, inside = folder.parent, False  # it stands for the run
    found = Material(folder)
    if inside or (folder / "model" / "config.json").is_file():
        _model(found, folder if inside else folder / "model", trust)
    _recipe(found)
    found.metrics = _metrics(folder / METRICS)
    if found.model is None and not found.is_run:
        why = "there is no such folder" if not folder.exists() else f"it has no model, no {RECIPE} and no {METRICS}"
        raise ValueError(f"No run in {folder}: {why}. `inkwash train SOURCE` makes one.")
    _dates(found)
    found.sheets = sorted((int(f.stem[5:]), f) for f in folder.glob("samples/step-*.png") if f.stem[5:].isdigit())
    found.plots = sorted(found.evaluation.glob("*.png"))
    found.records = _records(found)
    return found


def _model(found: Material, folder: File, trust: bool) -> None:
    found.model = folder
    try:
        found.config_text = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
        found.weights = weights_hash(folder)
        found.config = read_config(folder, trust=trust)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, CheckpointError) as error:
        found.problems.append(f"The model in {folder} cannot be read: {_short(error)}")


def _recipe(found: Material) -> None:
    file = found.folder / RECIPE
    if file.is_file():
        found.recipe = file.read_text(encoding="utf-8", errors="replace")
        try:
            found.source = str(tomllib.loads(found.recipe).get("data", {}).get("source", ""))
        except (tomllib.TOMLDecodeError, AttributeError) as error:
            found.problems.append(f"{file} is no whole recipe: {error}.")


def _metrics(file: File) -> list[dict[str, Any]]:
    """The lines that have a step, in order; of their values those that can be drawn."""
    kept = [{k: v for k, v in m.items() if _number(v)} for m in read_metrics(file) if _number(m["step"])]
    return sorted(kept, key=lambda m: m["step"])


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _dates(found: Material) -> None:
    files = [found.folder / METRICS, *([found.model / "config.json"] if found.model else [])]
    there = [f for f in files if f.is_file()]
    if there:
        found.finished = datetime.fromtimestamp(there[0].stat().st_mtime, UTC)


def _records(found: Material) -> list[Record]:
    """The newest records: those of the model's present weights first. Lines that are no records are noted."""
    file = found.evaluation / RECORDS
    kept, bad = [], 0
    for line in read_lines(file):
        try:
            kept.append(from_table(Record, line))
        except ValueError:
            bad += 1
    if bad:
        found.problems.append(f"{file}: {bad} of {bad + len(kept)} lines are no records, and were left out.")
    return sorted(
        newest(kept), key=lambda r: found.weights is not None and r.model.get("weights_sha256") != found.weights
    )


def _short(error: Exception) -> str:
    """The first line of an error, without pydantic's links."""
    lines = [line.strip() for line in str(error).splitlines() if "For further information" not in line]
    return re.sub(r"\s+", " ", " ".join(lines))[:400]
