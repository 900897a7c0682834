"""A sampler that asks for jumps an objective never trains is refused before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tinyruns
from inkwash.data import DataSpec
from inkwash.distilling import AnyMethod, student
from inkwash.distilling.report import in_steps
from inkwash.fewstep import Consistency, FlowMap, Shortcut, SoFlow
from inkwash.noise import Philox
from inkwash.paths import Linear
from inkwash.pipeline import load
from inkwash.recipes import Recipe
from inkwash.samplers import Jumps
from inkwash.sampling import Sampling
from inkwash.training import train
from inkwash.types import Batch, Condition


def recipe(objective: FlowMap, steps: int, renoise: float = 0.0) -> Recipe:
    """A recipe of a sampler of jumps."""
    return Recipe(DataSpec("x"), objective=objective, sampler=Sampling(method=Jumps(renoise=renoise), steps=steps))


@pytest.mark.parametrize(
    ("objective", "steps", "renoise"),
    [
        (Consistency(), 1, 0.0),
        (Consistency(), 4, 1.0),
        (SoFlow(), 3, 0.5),
        (SoFlow(steps=(1, 3)), 3, 0.0),
        (SoFlow(steps=(1, 2)), 4, 1.0),
        (Shortcut(), 8, 0.0),
    ],
)
def test_what_is_learned_is_taken(objective: FlowMap, steps: int, renoise: float) -> None:
    assert recipe(objective, steps, renoise).sampler.steps == steps


@pytest.mark.parametrize(
    ("objective", "steps", "renoise", "fix"),
    [
        (Consistency(), 4, 0.0, "renoise = 1.0"),
        (Consistency(), 4, 0.5, "renoise = 1.0"),
        (SoFlow(steps=(1, 2)), 4, 0.0, "1 or 2 even steps"),
        (SoFlow(steps=(2,)), 1, 0.0, "2 even steps"),
        (Shortcut(), 3, 0.0, "a power of two"),
    ],
)
def test_what_is_never_learned_is_refused(objective: FlowMap, steps: int, renoise: float, fix: str) -> None:
    with pytest.raises(ValueError, match=rf"in {steps} steps asks for jumps that are never learned.*{fix}"):
        recipe(objective, steps, renoise)


@pytest.mark.parametrize("objective", [SoFlow(steps=(1, 2, 3, 7)), Consistency(), Shortcut()])
def test_every_jump_of_training_is_among_those_learned_and_its_neighbours_are_not(objective: FlowMap) -> None:
    number = torch.arange(512)
    batch = Batch(torch.zeros(512, 1), Condition(), number, size=512)
    model: Any = SimpleNamespace(path=Linear())
    t, s = objective.pairs(batch, Philox(0, number), model)
    assert bool((s < t).all())
    assert objective.unlearned(t, s) is None
    nearly = s.clone()
    nearly[100] += 1e-3 * (t[100] - s[100])
    assert objective.unlearned(t, nearly) is not None


def test_a_student_learns_the_numbers_of_steps_that_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    list(train(tinyruns.recipe(train={"steps": 1, "snapshots": 0}), "run"))

    def stated(method: AnyMethod, *steps: int) -> tuple[tuple[int, ...], int]:
        one = student("run", method, steps=steps or None)
        assert one.objective.kind == method.kind
        return getattr(one.objective, "steps", ()), one.sampler.steps

    assert stated(SoFlow()) == ((1, 2, 4), 4)
    assert stated(SoFlow(), 2, 3) == ((2, 3), 3)
    assert stated(SoFlow(steps=(1, 2))) == ((1, 2), 2)
    assert stated(SoFlow(steps=(1, 2)), 1) == ((1, 2), 1)
    assert stated(Consistency(), 1, 2) == ((), 2)
    with pytest.raises(ValueError, match="1 or 2 even steps"):
        student("run", SoFlow(steps=(1, 2)), steps=[4])
    with pytest.raises(ValueError, match="a power of two"):
        student("run", Shortcut(), steps=[3])


def test_the_report_draws_a_student_in_the_steps_that_it_has_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, objective, renoise in (("two", SoFlow(steps=(1, 2)), 0.0), ("data", Consistency(), 1.0)):
        jumping = Sampling(method=Jumps(renoise=renoise), steps=2)
        plain = tinyruns.recipe(train={"steps": 1, "snapshots": 0})
        list(train(replace(plain, objective=objective, sampler=jumping), name))
    assert in_steps(load("two"), Path("two")) == {"jumps": [2, 1]}
    assert in_steps(load("data"), Path("data")) == {"jumps(renoise=1.0)": [4, 2, 1]}
    assert in_steps(load("two/model"), Path("two/model")) == {"jumps": [4, 2, 1]}  # nothing says how it has learned
