"""A sampler that asks for jumps an objective never trains is refused before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tinyruns
from inkwash.compare import ComparisonError, ways
from inkwash.data import DataSpec
from inkwash.distilling import AnyMethod, Reflow, student
from inkwash.distilling.report import in_steps
from inkwash.edit import Vary
from inkwash.evaluation.sweep import adopt
from inkwash.fewstep import Consistency, FlowMap, Shortcut, SoFlow
from inkwash.noise import Philox
from inkwash.objectives import Regression
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import Recipe
from inkwash.samplers import Jumps
from inkwash.sampling import Sampling
from inkwash.times import Density
from inkwash.training import train
from inkwash.types import Batch, Condition, Denoised, Query


@dataclass(frozen=True)
class Late(Density):
    """A user's own times: above 0.5."""

    def __call__(self, u: torch.Tensor, path: Any) -> torch.Tensor:
        return 0.5 + u / 2


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
        (Consistency(), 4, 0.0, r"jumps\(renoise=1\.0\)"),
        (Consistency(), 4, 0.5, r"jumps\(renoise=1\.0\)"),
        (SoFlow(steps=(1, 2)), 4, 0.0, "1 or 2 even steps"),
        (SoFlow(steps=(2,)), 1, 0.0, "2 even steps"),
        (Shortcut(), 3, 0.0, "a power of two"),
    ],
)
def test_what_is_never_learned_is_refused(objective: FlowMap, steps: int, renoise: float, fix: str) -> None:
    with pytest.raises(ValueError, match=rf"in {steps} steps asks for what training left out.*{fix}"):
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
    assert in_steps(load("two")) == {"jumps": [2, 1]}
    assert in_steps(load("data")) == {"jumps(renoise=1.0)": [4, 2, 1]}
    old = load("two")
    old.config = replace(old.config, objective=None)
    assert in_steps(old) == {"jumps": [4, 2, 1]}  # nothing says how it has learned


def taught(folder: Path, method: AnyMethod) -> Pipeline:
    """A student of the tiny teacher, trained for a step."""
    tinyruns.trained(folder / "run")
    one = student(folder / "run", method)
    list(train(replace(one, train=replace(one.train, steps=1, minutes=None)), folder / "student"))
    return load(folder / "student")


@pytest.mark.parametrize("method", [SoFlow(), Reflow(pairs=16, steps=(1, 2, 4))])
def test_a_student_is_not_drawn_in_steps_that_it_never_learned(tmp_path: Path, method: AnyMethod) -> None:
    pipe = taught(tmp_path, method)
    for steps in (1, 2, 4):
        assert len(pipe(2, label=0, steps=steps).array) == 2
    before = (tmp_path / "student/model/config.json").read_bytes()
    whole = rf"{pipe.config.sampling.method.kind} in 3 steps asks for what training left out.*1 or 2 or 4 even steps"
    with pytest.raises(ValueError, match=whole):
        pipe(2, label=0, steps=3)
    with pytest.raises(ValueError, match=whole):
        adopt(tmp_path / "student", pipe.config.sampling.changed(steps=3))
    assert (tmp_path / "student/model/config.json").read_bytes() == before
    with pytest.raises(ComparisonError, match=whole):
        ways(pipe, [pipe.config.sampling.method.kind], [4, 3])


def test_an_edit_visits_the_times_that_were_learned(tmp_path: Path) -> None:
    pipe, asked = taught(tmp_path, SoFlow()), []
    x0 = torch.zeros(2, 2)

    def note(query: Query, answer: Denoised) -> None:
        asked.append((float(query.t[0]), float(query.s[0])))

    pipe(2, label=0, edit=Vary(x0, 0.6), trace=note)
    assert asked == [(0.6, 0.5), (0.5, 0.25), (0.25, 0.0)]
    with pytest.raises(ValueError, match="training left out"):  # 0.6 to 0.45
        pipe(2, label=0, edit=Vary(x0, 0.6), grid="even")
    asked.clear()
    pipe(2, label=0, sampler="heun", steps=3, trace=note)  # the velocity was learned at any time
    assert asked[0] == (1.0, 1.0)


def test_an_objective_of_ones_own_stays_out_of_the_models_config(tmp_path: Path) -> None:
    """So a model needs no code from outside that only its training did."""
    plain = tinyruns.moons()
    list(train(plain, tmp_path / "ours"))
    assert load(tmp_path / "ours").config.objective == plain.objective
    list(train(replace(plain, objective=Regression(times=Late())), tmp_path / "theirs"))
    assert load(tmp_path / "theirs").config.objective is None
