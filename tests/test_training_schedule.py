"""Small evaluations while a run goes on: what they keep and say, and that they never cost it anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inkwash import checkpoint
from inkwash.data import split
from inkwash.evaluation import weights_hash
from inkwash.evaluation.record import Measure, Record
from inkwash.evaluation.record import read as read_records
from inkwash.recipes import Recipe, RecipeError, read_recipe
from inkwash.training import train
from inkwash.training.run import read_metrics
from tinyruns import PLANE, finish, losses

SCHEDULED: dict[str, Any] = {
    "data": {"val_fraction": 0.4},
    "evaluation": {"every": 4, "measure": "fd", "measure_every": 4, "measure_n": 30, "features": "raw"},
    "objective": {"kind": "regression"},
    "train": {"steps": 12, "checkpoint_every": 100, "keep": 1},
}


def scheduled(**tables: dict[str, Any]) -> Recipe:
    both = {k: {**SCHEDULED.get(k, {}), **tables.get(k, {})} for k in {**SCHEDULED, **tables}}
    merged = {k: {**PLANE.get(k, {}), **both.get(k, {})} for k in {**PLANE, **both}}
    return read_recipe(merged | {"objective": both["objective"]})


def fd(run: Path) -> dict[int, float]:
    return {int(m["step"]): m["fd"] for m in read_metrics(run / "metrics.jsonl") if "fd" in m}


def test_pictures_drawn_on_a_schedule_are_measured_recorded_and_told(tmp_path: Path) -> None:
    progress = finish(scheduled(), tmp_path / "whole")
    notes = [n for p in progress for n in p.notes]
    assert any(n.startswith("Every 4 steps 30 pictures are drawn and compared with") for n in notes)
    records = read_records(tmp_path / "whole/evaluation")
    assert [r.model["trained"]["steps"] for r in records] == [4, 8, 12]
    assert fd(tmp_path / "whole") == {4 * (i + 1): pytest.approx(r.value) for i, r in enumerate(records)}
    said = [f"step {4 * (i + 1)}: FD-raw {r.value:.4g}" for i, r in enumerate(records)]
    assert [n for n in notes if "FD-raw" in n] == said
    first = records[0]
    assert (first.measure.split, first.measure.n, first.measure.features) == ("val", 30, "raw")
    assert first.measure.reference < 30  # what was held out
    assert first.model["ema"] == 0.1
    assert first.sampling["steps"] == 2
    best = min(fd(tmp_path / "whole").items(), key=lambda item: item[1])[0]
    assert {p.name for p in (tmp_path / "whole/checkpoints").iterdir()} == {f"step-{best}", "step-12"}
    asked = iter([False] * 5 + [True])
    finish(scheduled(), tmp_path / "parts", stop=lambda: next(asked))
    finish(scheduled(), resume=tmp_path / "parts")
    assert fd(tmp_path / "parts") == fd(tmp_path / "whole")
    again = read_records(tmp_path / "parts/evaluation")
    assert [(r.measure, r.value) for r in again] == [(r.measure, r.value) for r in records]
    told = finish(scheduled(train={"steps": 4}, evaluation={"measure": "kid", "measure_n": 31}), tmp_path / "kid")[-1]
    assert set(told.figures) >= {"kid", "validation_train"}
    assert "fd" not in told.figures


def test_the_best_is_by_the_measure_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured 3, 1, 2: step 8 is kept, whatever the validation loss says; where it cannot be measured, none is."""
    values: list[float | Exception] = [3.0, 1.0, 2.0]

    def compare(pipe: Any, steps: Any, model: Any) -> Record:
        value = values.pop(0)
        if isinstance(value, Exception):
            raise value
        assert not any(p.requires_grad for p in pipe.model.net.parameters())  # the average
        return Record(Measure("fd", "points", "val", "hash", 30, 24, "raw"), value, model=dict(model))

    monkeypatch.setattr("inkwash.training.scheduled.against", lambda setup, data, rows: compare)
    finish(scheduled(), tmp_path / "run")
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"step-8", "step-12"}
    values[:] = [OSError(28, "No space left on device"), 5.0]
    longer = finish(scheduled(train={"steps": 20}), resume=tmp_path / "run")
    assert any("fd of step 16 was not measured" in n and "goes on" in n for p in longer for n in p.notes)
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"step-8", "step-20"}


def test_the_records_are_of_the_weights_they_were_measured_of_and_the_last_is_on_the_card(tmp_path: Path) -> None:
    run = tmp_path / "run"
    progress = train(scheduled(), run)
    hashes = [weights_hash(run) for p in progress if p.saved]
    records = read_records(run / "evaluation")
    assert [r.model["weights_sha256"] for r in records] == hashes
    assert len(set(hashes)) == 3 and None not in hashes
    card = (run / "model/README.md").read_text()
    assert (
        f"| FD-raw | {records[-1].value:.4g} |" in card and card.count("FD-raw") == 2
    )  # and what it was measured with
    finish(scheduled(train={"steps": 14, "checkpoint_every": 13}, evaluation={"measure_every": 100}), resume=run)
    asked = iter([False, True])
    finish(scheduled(train={"steps": 18}), resume=run, stop=lambda: next(asked))
    assert "FD-raw" not in (run / "model/README.md").read_text()  # which is now of step 15


MISHAPS = [
    OSError(28, "No space left on device"),
    MemoryError("no memory"),
    RuntimeError("of CUDA"),
    checkpoint.DiskFull("No space left."),
    np.linalg.LinAlgError("SVD did not converge"),
    ValueError("The model answers with NaN"),
]


@pytest.mark.parametrize(
    "error", [*MISHAPS, TypeError("a mistake"), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_a_measure_that_fails_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """It is told and logged and training goes on; a mistake of ours ends the run, whose steps are saved by then."""
    steps = iter([4, 8])

    def compare(pipe: Any, *_: Any) -> Record:
        step = next(steps)
        assert checkpoint.newest_good(tmp_path / "run/checkpoints")[0].name == f"step-{step}"
        if step == 4:
            raise error
        return Record(Measure("fd", "points", "val", "hash", 30, 24, "raw"), 2.0, model={"weights_sha256": None})

    monkeypatch.setattr("inkwash.training.scheduled.against", lambda setup, data, rows: compare)
    if error not in MISHAPS:
        with pytest.raises(type(error)):
            finish(scheduled(train={"steps": 8}), tmp_path / "run")
        assert losses(tmp_path / "run")[-1][0] == 4
        return
    progress = finish(scheduled(train={"steps": 8}), tmp_path / "run")
    (note,) = [n for p in progress for n in p.notes if "was not measured" in n]
    assert note == f"fd of step 4 was not measured: {str(error).rstrip('.')}. Training goes on."
    logged = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [m["note"] for m in logged if "note" in m] == [note]
    assert fd(tmp_path / "run") == {8: 2.0}


def test_the_classifier_is_taught_what_the_run_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[Any] = []
    monkeypatch.setattr(
        "inkwash.training.scheduled.classifier_file", lambda data, train, rows: taught.append((train, rows))
    )
    with pytest.raises(ValueError, match="needs labelled pictures"):
        finish(scheduled(evaluation={"features": "classifier"}), tmp_path / "run")
    ((train_set, rows),) = taught
    recipe = scheduled()
    assert rows.tolist() == split(train_set, recipe.data.val_fraction, recipe.train.seed)[0].tolist()
    assert len(rows) < len(train_set)


def test_what_a_schedule_needs_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none are held out\. Use data\.val_fraction = 0\.05, or evaluation\.split"):
        scheduled(data={"val_fraction": 0.0})
    assert scheduled(data={"val_fraction": 0.0}, evaluation={"split": "test"}).evaluation.split == "test"
    with pytest.raises(ValueError, match=r'features = "classifier" needs labelled pictures'):
        finish(scheduled(evaluation={"features": "classifier"}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"compares 15 drawn pictures .*: at least 16 of each"):
        finish(scheduled(evaluation={"measure_n": 15}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"compares 30 drawn pictures .* with \d real ones"):
        finish(scheduled(data={"val_fraction": 0.05}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_run_may_be_validated_on_the_datas_own_test_split(tmp_path: Path) -> None:
    progress = finish(
        scheduled(data={"val_fraction": 0.0}, evaluation={"split": "test", "measure_n": 16}), tmp_path / "run"
    )
    assert [p.step for p in progress if p.validation is not None] == [4, 8, 12]
    assert {r.measure.split for r in read_records(tmp_path / "run/evaluation")} == {"test"}
