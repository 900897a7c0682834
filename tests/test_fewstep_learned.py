"""A sampler that asks for jumps an objective never trains is refused before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tinyruns
from inkwash.compare import ComparisonError, ways
from inkwash.data import DataSpec
from inkwash.data.load import load as load_data
from inkwash.distilling import AnyMethod, Reflow, student
from inkwash.distilling.report import Contestant, in_steps, straightened
from inkwash.edit import Vary
from inkwash.evaluation.likelihood import FlowSettings, measure
from inkwash.evaluation.sweep import SweepError, adopt, planned
from inkwash.fewstep import Consistency, FlowMap, Shortcut, SoFlow
from inkwash.grids import Listed
from inkwash.guidance import same_noise
from inkwash.modelfolder import _config, save_model
from inkwash.noise import Philox
from inkwash.objectives import Regression
from inkwash.paths import VP, CosineSchedule, Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import Recipe, Train
from inkwash.samplers import Euler, Jumps
from inkwash.sampling import Sampling
from inkwash.times import Density, Visited
from inkwash.training import train
from inkwash.training.previews import preview_steps
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
        (Shortcut(), 64, 0.0),
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
        (Shortcut(), 3, 0.0, "a power of two, up to 64"),
        (Shortcut(), 128, 0.0, "a power of two, up to 64"),
    ],
)
def test_what_is_never_learned_is_refused(objective: FlowMap, steps: int, renoise: float, fix: str) -> None:
    with pytest.raises(ValueError, match=rf"in {steps} steps asks for what is never learned.*{fix}"):
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
    old.config = replace(old.config, sampling=old.config.sampling.changed(steps=[1.0, 0.5, 0.0]))
    assert in_steps(old) == {"jumps": [2]}


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
    whole = rf"{pipe.config.sampling.method.kind} in 3 steps asks for what is never learned.*1 or 2 or 4 even steps"
    with pytest.raises(ValueError, match=whole):
        pipe(2, label=0, steps=3)
    with pytest.raises(ValueError, match=whole):
        adopt(tmp_path / "student", pipe.config.sampling.changed(steps=3))
    assert (tmp_path / "student/model/config.json").read_bytes() == before
    with pytest.raises(ComparisonError, match=whole):
        ways(pipe, [pipe.config.sampling.method.kind], [4, 3])


@pytest.mark.parametrize("method", [SoFlow(), Shortcut(), Reflow(pairs=16, steps=(1, 2, 4))])
def test_an_edit_visits_the_times_that_were_learned(tmp_path: Path, method: AnyMethod) -> None:
    pipe, asked = taught(tmp_path, method), []
    x0 = torch.zeros(2, 2)

    def note(query: Query, answer: Denoised) -> None:
        asked.append((float(query.t[0]), float(query.s[0])))

    pipe(2, label=0, edit=Vary(x0, 0.6), trace=note)
    assert [t for t, _ in asked] == [0.6, 0.5, 0.25]
    assert not pipe.config.jumps or [s for _, s in asked] == [0.5, 0.25, 0.0]


def test_inversion_takes_velocities_and_no_jumps(tmp_path: Path) -> None:
    pipe, x0 = taught(tmp_path, SoFlow()), torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"knows no jumps towards noise\. Use heun"):
        pipe.encode(x0, label=0)
    assert pipe.encode(x0, label=0, sampler="heun", steps=3).shape == x0.shape


def test_a_sweep_plans_no_steps_that_were_never_learned(tmp_path: Path) -> None:
    pipe = taught(tmp_path, SoFlow())
    asked = {"steps": ["1", "2", "3", "4"]}
    with pytest.raises(SweepError, match="steps=3: jumps in 3 steps asks for what is never learned"):
        planned(pipe, asked)
    assert [(own.steps, calls) for own, calls in planned(pipe, asked, skip=True)[0]] == [(1, 1), (2, 2), (4, 4)]


def test_previews_of_many_steps_are_drawn_in_those_learned(tmp_path: Path) -> None:
    """Not in 50, as those of other models."""
    tinyruns.trained(tmp_path / "run")
    one = student(tmp_path / "run", SoFlow(), steps=[64])
    list(train(replace(one, train=replace(one.train, steps=1, minutes=None)), tmp_path / "student"))
    config = load(tmp_path / "student").config
    assert preview_steps(config) == 64
    assert preview_steps(replace(config, objective=None)) == 50


def test_a_teacher_needs_a_flow_and_reflow_a_network_of_one_time(tmp_path: Path) -> None:
    taught(tmp_path / "few", Reflow(pairs=16, steps=(1, 2)))
    for method in (Reflow(), SoFlow()):
        with pytest.raises(ValueError, match=r"has no flow to learn from.*Visited\(steps=\(1, 2\).*distilled from"):
            student(tmp_path / "few/student", method)
    taught(tmp_path / "two", SoFlow())
    with pytest.raises(ValueError, match=r"a network of two times, and reflow trains one of one.*--pairs"):
        student(tmp_path / "two/student", Reflow())
    assert student(tmp_path / "two/student", SoFlow(), pairs=8).teacher is not None


def test_where_there_is_no_flow_there_is_no_straightness_and_no_likelihood(tmp_path: Path) -> None:
    pipe = taught(tmp_path, Reflow(pairs=16, steps=(1, 2, 4)))
    one = Contestant("x", pipe, {}, tmp_path / "evaluation", {})
    data, rows = load_data(DataSpec("moons", limit=96)), np.arange(96)
    assert straightened([one], (data, rows)) == {}
    with pytest.raises(ValueError, match=r"a flow.*at all its times.*Measure its teacher"):
        measure(pipe, data, 4, flow=FlowSettings())
    pipe.config = replace(pipe.config, objective=Regression())
    assert straightened([one], (data, rows)).keys() == {"x"}
    assert measure(pipe, data, 4, flow=FlowSettings()).flow is not None


def test_the_times_of_another_path_are_those_of_the_models_own() -> None:
    """The cosine path has as much noise as the linear one at other times."""
    learned, steps = SoFlow(steps=(1, 2, 4)), Sampling(method=Jumps(), steps=4)
    assert steps.unlearned(learned, Linear()) is None
    along = VP(CosineSchedule())
    assert steps.changed(path=along).unlearned(learned, Linear()) is not None
    times = same_noise(along, Linear(), torch.tensor([1.0, 0.75, 0.5, 0.25], dtype=torch.float64))
    listed = steps.changed(path=along, steps=[*times.tolist(), 0.0])
    assert listed.unlearned(learned, Linear()) is None


@pytest.mark.parametrize("k", [1, 4, 32])
def test_visited_times_are_known_exactly(k: int) -> None:
    times = torch.arange(1, k + 1, dtype=torch.float64) / k
    assert Visited((k,)).never(times) is None
    assert Visited((k,)).never(times.clamp(max=1 - 1e-4)) is None  # where a path ends just below 1
    for off in (0.2 / k, -0.2 / k):
        assert Visited((k,)).never((times + off)[: k - 1 or 1].clamp(max=0.95)) is not None


def test_all_mistakes_are_told_beside_times_that_are_none() -> None:
    with pytest.raises(ValueError, match=r"begins at t = 0\.5(.|\n)*sampler\.guidance = 2"):
        Recipe(
            DataSpec("x"),
            sampler=Sampling(Euler(), steps=1, grid=Listed((0.5, 0.0)), guidance=2.0),
            train=Train(label_dropout=0.0),
        )


def test_an_objective_of_another_version_hinders_no_model(tmp_path: Path) -> None:
    """It answers nothing: the model is drawn, and nothing is known of how it learned."""
    pipe = taught(tmp_path, SoFlow())
    folder = save_model(pipe.config, pipe.model.net.state_dict(), tmp_path / "other")
    text = (folder / "config.json").read_text()
    assert '"gap"' in text
    assert _config(text.replace('"gap"', '"chasm"'), folder, False) == replace(pipe.config, objective=None)


def test_an_objective_of_ones_own_stays_out_of_the_models_config(tmp_path: Path) -> None:
    """So a model needs no code from outside that only its training did."""
    plain = tinyruns.moons()
    list(train(plain, tmp_path / "ours"))
    assert load(tmp_path / "ours").config.objective == plain.objective
    list(train(replace(plain, objective=Regression(times=Late())), tmp_path / "theirs"))
    assert load(tmp_path / "theirs").config.objective is None
