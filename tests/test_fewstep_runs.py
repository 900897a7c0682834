"""Models of one to four steps from scratch, through the command line: each objective in one recipe, by its kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash.cli.app import run as main
from inkwash.distilling import Reflow, student
from inkwash.fewstep import Consistency, MeanFlow, Shortcut, SoFlow
from inkwash.fewstep.flowmap import FlowMap
from inkwash.model import Model
from inkwash.pipeline import load
from inkwash.recipes import read_recipe
from inkwash.samplers import Euler, Jumps
from inkwash.training.run import read_metrics

TINY = ["--set", 'net={kind="unet",preset="tiny",widths=[16],depth=1,patch=2}', "--set", "data.val_fraction=0.1"]
SHORT = ["--steps", "4", "--batch-size", "8", "--set", "train.samples=4", "--set", "data.limit=40"]


@pytest.mark.parametrize(
    ("sets", "objective", "renoise"),
    [
        ([], SoFlow(same=0.5, begin=0.5), 0.0),
        (["objective.kind=shortcut"], Shortcut(), 0.0),
        (["objective.kind=meanflow", "objective.begin=0.5"], MeanFlow(begin=0.5), 0.0),
        (
            ["objective.kind=consistency", "objective.begin=0.5", "sampler.method.renoise=1.0"],
            Consistency(begin=0.5),
            1.0,
        ),
    ],
    ids=["soflow", "shortcut", "meanflow", "consistency"],
)
def test_each_objective_trains_from_scratch_flow_matching_first(
    sets: list[str], objective: FlowMap, renoise: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    learned: list[tuple[float, int]] = []
    goal = type(objective).goal

    def watched(self: Any, model: Model, jump: Any, progress: float) -> torch.Tensor:
        learned.append((progress, len(jump.x)))
        return goal(self, model, jump, progress)

    monkeypatch.setattr(type(objective), "goal", watched)
    asked = [part for one in sets for part in ("--set", one)]
    assert main(["train", "shapes", "--recipe", "fashion-mnist-few-steps", "--out", "run", *TINY, *SHORT, *asked]) == 0
    recipe = read_recipe("run/recipe.toml")
    assert recipe.objective == objective
    assert recipe.sampler.method == Jumps(renoise)
    assert recipe.teacher is None
    # Jumps are learned from `begin` on, by the rows that are not flow matching.
    assert [progress for progress, _ in learned] == [p for p in (0.0, 0.25, 0.5, 0.75) if p >= objective.begin]
    assert all(abs(rows - 8 * (1 - objective.same)) <= 1 for _, rows in learned)
    assert [int(m["step"]) for m in read_metrics(Path("run/metrics.jsonl")) if "loss" in m] == [4]
    config = json.loads(Path("run/model/config.json").read_text())
    assert config["jumps"] is True
    pipe = load("run")
    asks: list[tuple[float, float]] = []
    pipe(1, label=0, trace=lambda query, answer: asks.append((float(query.t[0]), float(query.s[0]))))
    ends = [0.0] * 4 if renoise else [0.75, 0.5, 0.25, 0.0]
    assert asks == list(zip([1.0, 0.75, 0.5, 0.25], ends, strict=True))
    with pytest.raises(ValueError, match="guidance"):  # nothing was hidden, so there is nothing to push away from
        pipe(1, label=0, guidance=2.0)


def test_students_are_drawn_as_their_method_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    plane = ["--set", 'net={kind="mlp",width=8,depth=1}', "--steps", "1", "--batch-size", "8"]
    assert main(["train", "moons", "--out", "run", *plane]) == 0
    drawn = {m: student("run", m).sampler.method for m in (SoFlow(), Shortcut(), MeanFlow(), Consistency(), Reflow())}
    assert list(drawn.values()) == [Jumps(), Jumps(), Jumps(), Jumps(1.0), Euler()]
