"""Objectives in a run: what they remember, learn besides the mean, and need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import inkwash
from inkwash.data import load
from inkwash.kinds import from_table
from inkwash.objectives import AnyObjective, Bound, EdmWeight, Hybrid, MinSnr, OptimalTransport, Regression
from inkwash.pictures import read_settings
from inkwash.recipes import RecipeError, read_recipe
from inkwash.times import Importance, LogNormalNoise
from inkwash.training.setup import set_up
from tinyruns import HYBRID, IMPORTANCE, assert_same, finish, losses, plane, recipe, state


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("objective", [HYBRID, {"kind": "bound", "steps": 20, "times": IMPORTANCE}])
def test_what_an_objective_remembers_is_part_of_the_checkpoint(
    tmp_path: Path, objective: dict[str, Any], accumulate: int
) -> None:
    r = replace(plane(train={"accumulate": accumulate}), objective=from_table(AnyObjective, objective))
    finish(r, tmp_path / "whole")
    asked = iter([False, False, False, False, True])
    finish(r, tmp_path / "parts", stop=lambda: next(asked))
    early = state(tmp_path / "parts/checkpoints/step-4")
    assert early["memory.seen"].sum() == 4 * 8  # every example of every step
    assert early["memory.seen"].min() >= 3  # full: from here on times are drawn by it
    finish(r, resume=tmp_path / "parts")
    whole = state(tmp_path / "whole/checkpoints/step-8")
    assert whole["memory.seen"].sum() == 8 * 8
    assert whole["memory.losses"].shape == (4, 3)
    assert_same(whole, state(tmp_path / "parts/checkpoints/step-8"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_times_are_drawn_by_what_was_remembered_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a batch are drawn with one memory, which holds what the steps before have lost."""
    given, kept = [], []
    call, remember = Hybrid.__call__, Hybrid.remember

    def watched(self: Hybrid, model: Any, batch: Any, noise: Any, progress: float) -> torch.Tensor:
        given.append({n: v.clone() for n, v in batch.memory.items()})
        return call(self, model, batch, noise, progress)

    def remembered(self: Hybrid, *args: Any) -> dict[str, torch.Tensor]:
        kept.append(remember(self, *args))
        return kept[-1]

    monkeypatch.setattr(Hybrid, "__call__", watched)
    monkeypatch.setattr(Hybrid, "remember", remembered)
    finish(plane(train={"accumulate": 2, "steps": 3}), tmp_path / "run")
    assert len(given) == len(kept) == 6
    for step in range(3):
        assert_same(given[2 * step], given[2 * step + 1])
        assert_same(given[2 * step], kept[2 * step - 1] if step else Importance(4, 3).memory())


def test_an_objective_without_memory_is_given_none_and_saves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Regression.__call__

    def watched(self: Regression, model: Any, batch: Any, noise: Any, progress: float) -> torch.Tensor:
        assert batch.memory is None
        return call(self, model, batch, noise, progress)

    monkeypatch.setattr(Regression, "__call__", watched)
    monkeypatch.setattr(Regression, "remember", None)
    finish(recipe(train={"steps": 2}), tmp_path / "run")
    assert not any(n.startswith("memory") for n in state(tmp_path / "run/checkpoints/step-2"))


def test_another_objective_begins_with_a_memory_of_its_own(tmp_path: Path) -> None:
    finish(plane(train={"steps": 4}), tmp_path / "run")
    other = plane(objective={"times": {"kind": "importance", "bins": 5, "history": 2}}, train={"steps": 5})
    finish(other, resume=tmp_path / "run")
    after = state(tmp_path / "run/checkpoints/step-5")
    assert after["memory.losses"].shape == (5, 2)
    assert after["memory.seen"].sum() == 8


def test_samples_of_a_run_take_fifty_steps_at_most_or_the_times_that_are_listed(tmp_path: Path) -> None:
    sixty = {"grid": {"kind": "listed", "times": [1 - i / 60 for i in range(61)]}, "steps": 60}
    for name, sampler, steps in (("a", sixty, 60), ("b", {"steps": 60}, 50), ("c", {"steps": 3}, 3)):
        finish(plane(train={"steps": 1}, sampler=sampler), tmp_path / name)
        noted = read_settings(tmp_path / name / "samples/step-0000001.png")
        assert noted["steps"] == steps


def test_a_memory_does_not_outlive_its_objective(tmp_path: Path) -> None:
    """A bound's losses are no hybrid's, though their tables are of one shape."""
    times = {"kind": "importance", "bins": 5, "history": 2}
    first, other = (
        replace(plane(train={"steps": n}), objective=from_table(AnyObjective, {"kind": k, "steps": 9, "times": times}))
        for n, k in ((4, "hybrid"), (5, "bound"))
    )
    finish(first, tmp_path / "run")
    kept = state(tmp_path / "run/checkpoints/step-4")["memory.seen"].sum()
    finish(replace(first, train=replace(first.train, steps=5)), resume=tmp_path / "run")
    assert state(tmp_path / "run/checkpoints/step-5")["memory.seen"].sum() == kept / 4 * 5
    finish(replace(other, train=replace(other.train, steps=6)), resume=tmp_path / "run")
    assert state(tmp_path / "run/checkpoints/step-6")["memory.seen"].sum() == kept / 4


def test_a_learned_variance_is_trained_saved_and_sampled_with(tmp_path: Path) -> None:
    finish(plane(train={"steps": 4}), tmp_path / "run")
    model = inkwash.load(tmp_path / "run", device="cpu").model
    assert model.learned_variance
    before, after = (state(tmp_path / "run/checkpoints/step-4")[n] for n in ("ema.last.weight", "net.last.weight"))
    assert before.shape == after.shape == (4, 16)
    assert after[2:].abs().min() > 0  # both halves have learned
    drawn = inkwash.load(tmp_path / "run", device="cpu")(3, sampler=inkwash.Ancestral("learned"), steps=4)
    small = inkwash.load(tmp_path / "run", device="cpu")(3, sampler=inkwash.Ancestral("small"), steps=4)
    assert (drawn.array != small.array).all()
    plain = {"kind": "regression"}
    with pytest.raises(RecipeError, match=r"objective\.kind: 'hybrid' -> 'regression'(.|\n)*--init-from"):
        finish(replace(plane(), objective=from_table(AnyObjective, plain)), resume=tmp_path / "run")


def test_a_config_that_says_nothing_of_the_variance_has_none(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 1}), tmp_path / "run")
    table = json.loads((tmp_path / "run/model/config.json").read_text())
    assert table.pop("learned_variance") is False
    old = {k: v for k, v in table.items() if k not in ("format", "inkwash")}
    config = from_table(inkwash.Config, old)
    assert not config.learned_variance
    assert not config.build().learned_variance


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('kind = "bound"\ntimes = "importance"', Bound(Importance())),
        (
            'kind = "hybrid"\nlam = 0.01\nsteps = 50\nloss = "huber"\nweight = {kind = "min-snr", gamma = 3}\n'
            'times = {kind = "importance", bins = 7, history = 2, floor = 0.1, stratified = false}',
            Hybrid(0.01, "huber", Importance(7, 2, 0.1, stratified=False), MinSnr(3.0), 50),
        ),
        (
            'kind = "regression"\ncoupling = "optimal-transport"\nweight = {kind = "edm", data_std = 0.4}\n'
            'times = {kind = "log-normal-noise", mean = -0.5}',
            Regression("mse", LogNormalNoise(-0.5), EdmWeight(0.4), OptimalTransport()),
        ),
    ],
)
def test_every_objective_can_be_written_in_a_recipe(tmp_path: Path, text: str, want: Any) -> None:
    file = tmp_path / "r.toml"
    file.write_text(f'[data]\nsource = "swiss-roll"\n[objective]\n{text}\n')
    r = read_recipe(file)
    assert r.objective == want
    file.write_text(inkwash.recipes.write_recipe(r))
    assert read_recipe(file) == r


def test_pixels_are_data_in_bins_and_points_are_not(tmp_path: Path) -> None:
    for r, width in ((recipe(), pytest.approx(2 / 255)), (plane(), None)):
        setup = set_up(r, load(r.data))
        batch = setup.batch(setup.dataset.take([0, 1]), torch.arange(2))
        assert batch.bin == width


def test_optimal_transport_trains_and_without_scipy_says_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = plane(train={"steps": 2})
    r = replace(r, objective=Regression(coupling=OptimalTransport()))
    assert finish(r, tmp_path / "run")[-1].step == 2
    monkeypatch.setattr("inkwash.objectives.coupling.find_spec", lambda name: None if name == "scipy" else object())
    with pytest.raises(ValueError, match=r'needs scipy: pip install "inkwash\[ot\]"'):
        finish(r, tmp_path / "other")
    assert not (tmp_path / "other").exists()
