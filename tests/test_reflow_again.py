"""What comes after reflow: its distillation to k steps, and reflow again, of the flow that it made."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inkwash.cli.app import run as main
from inkwash.data import load as load_data
from inkwash.distilling import Reflow, student
from inkwash.fewstep import Consistency, SoFlow
from inkwash.grids import AnyGrid, Even, Quadratic
from inkwash.model import Model
from inkwash.modelfolder import read_config
from inkwash.noise import Philox, Stream
from inkwash.objectives import Regression
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import read_recipe
from inkwash.samplers import AnySampler, Euler, Heun, Jumps
from inkwash.sampling import Sampling
from inkwash.targets import Flow
from inkwash.teaching import drawn_in, pairs
from inkwash.times import UShaped, Visited
from inkwash.training import train
from inkwash.training.setup import set_up
from inkwash.types import Condition

POINTS: dict[str, Any] = {
    "data": {"source": "moons", "limit": 96},
    "net": {"kind": "mlp", "width": 32, "depth": 1},
    "train": {"steps": 60, "batch_size": 64, "samples": 4, "snapshots": 0},
    "optim": {"kind": "adamw", "lr": 1e-2},
    "sampler": {"method": "heun", "steps": 3, "guidance": 2.0},
}


@pytest.fixture
def reflowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that `inkwash distill --method reflow` made, whose flow is not straight yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    list(train(read_recipe(POINTS), "teacher"))
    asked = ["--method", "reflow(pairs=64)", "--set", "train.steps=20"]
    assert main(["distill", "teacher", *asked]) == 0
    return "teacher-reflow"


def test_a_run_shows_what_its_pairs_took(reflowed: str, capsys: pytest.CaptureFixture[str]) -> None:
    kept = next(Path("cache/pairs").glob("*/pairs.json"))
    kept.write_text(json.dumps(json.loads(kept.read_text()) | {"seconds": 90.0}))
    capsys.readouterr()
    again = ["--method", "reflow(pairs=64)", "--set", "train.steps=1", "--out", "again"]
    assert main(["distill", "teacher", *again]) == 0  # with the same pairs, which are found
    said = "Its 64 pairs took 1.5 minutes to draw, which the length of the run does not count."
    assert said in capsys.readouterr().out
    assert read_config(Path("again/model")).trained["pairs_seconds"] == 90.0
    assert main(["info", "again"]) == 0
    trained = r"trained +1 step, 64 examples, [\d.]+ s, and 1 min 30 s of drawing pairs\n"
    out = capsys.readouterr().out
    assert re.search(trained, out)
    assert re.search(r"learned by +Regression\(.*UShaped", out)
    assert " minutes, and 1.5 of drawing its pairs." in Path("again/model/README.md").read_text()
    assert read_config(Path(reflowed, "model")).trained["pairs_seconds"] < 90


def test_the_seconds_that_pairs_took_are_kept_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block takes one second here; what was lost in the middle of a shard is not of these pairs."""
    monkeypatch.setattr("inkwash.teaching.pairing.SHARD", 8)
    monkeypatch.setattr("inkwash.teaching.pairing.BLOCK", 4)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    recipe = read_recipe({**POINTS, "train": {**POINTS["train"], "steps": 1}})
    list(train(recipe, tmp_path / "run"))
    now, power_off, ends = 100.0, 104.5, Pipeline.ends
    monkeypatch.setattr("inkwash.teaching.pairing.time", SimpleNamespace(perf_counter=lambda: now))

    def slow(*given: Any) -> Tensor:
        nonlocal now
        if power_off < now < 200:
            raise RuntimeError("the power went off")
        now += 1.0
        return ends(*given)

    monkeypatch.setattr(Pipeline, "ends", slow)
    found = partial(pairs, load(tmp_path / "run"), "sha", load_data(recipe.data), Sampling(steps=1), 30)
    with pytest.raises(RuntimeError, match="power"):
        found()  # four blocks are of whole shards by then, and one is not
    now += 1000.0
    assert drawn_in(found()) == 8.0
    kept = next((tmp_path / "cache/pairs").glob("*/pairs.json"))
    assert drawn_in(found()) == 8.0
    kept.write_text('{"format": 1, "shape": [30, 2]}')  # of an inkwash that did not write them down
    assert drawn_in(found()) is None
    assert now == 100.0 + 5 + 1000 + 4


def test_distilling_to_k_steps_learns_the_reflowed_flow_where_such_samplers_ask(
    reflowed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    method = "reflow(pairs=40,steps=[1,2,4])"
    capsys.readouterr()
    code = main(["distill", reflowed, "--method", method, "--steps", "1,2,4", "--set", "train.steps=2"])
    assert code == 0, capsys.readouterr().err
    recipe = read_recipe("teacher-reflow-reflow/recipe.toml")
    assert isinstance(recipe.objective, Regression)
    assert (recipe.objective.times, recipe.objective.loss) == (Visited((1, 2, 4)), "l1")
    assert (recipe.sampler.method, recipe.sampler.steps, recipe.sampler.guidance) == (Euler(), 4, 1.0)
    assert recipe.teacher is not None
    assert Path(recipe.teacher.run) == Path("teacher-reflow/model").absolute()
    assert recipe.teacher.sampler is not None
    assert recipe.teacher.sampler.guidance == 1.0  # it is part of the reflowed model already
    # New pairs, of the reflowed flow itself: not of the few steps in which that model is drawn, nor of its teacher's.
    setup = set_up(recipe, load_data(recipe.data))
    rows = setup.dataset.take(np.arange(40))
    x0 = setup.batch(rows, torch.arange(40)).x0
    pipe, labels = load(reflowed), setup.dataset.labels
    assert labels is not None
    ends = [
        setup.codec.encode(torch.from_numpy(pipe(40, label=labels.tolist(), **how).array))
        for how in ({"sampler": "heun", "steps": 16}, {"sampler": "heun", "steps": 200}, {})
    ]
    own, whole, coarse = (float((x0 - other).square().mean().sqrt()) for other in ends)
    assert own < 1e-3  # they are float16
    assert coarse > 4 * whole
    # Trained at these times and no others, all of which its sampler, and those of fewer steps, visit.
    seen: set[float] = set()

    class Spy(nn.Module):
        def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
            seen.update((t_emb.double() / 1000).tolist())
            return torch.zeros_like(x)

    number = torch.arange(recipe.train.batch_size)
    batch = setup.batch(setup.dataset.take(np.arange(64) % 40), number)
    loss = setup.objective(Model(Spy(), Linear(), Flow()), batch, Philox(0, number), 0.5)
    assert batch.eps is not None
    assert torch.equal(batch.eps, Philox(0, torch.arange(64) % 40)(x0[:1].expand(64, -1), 0, Stream.START))
    torch.testing.assert_close(loss, (batch.eps - batch.x0).abs().mean(1))
    visited = {float(t) for k in (1, 2, 4) for t in recipe.sampler.changed(steps=k).times(Linear())[:-1]}
    assert seen == visited == {0.25, 0.5, 0.75, 1.0}


def test_a_second_round_is_of_the_first_ones_flow(reflowed: str) -> None:
    asked = ["--method", "reflow(pairs=24)", "--set", "train.steps=2", "--out", "second"]
    assert main(["distill", reflowed, *asked]) == 0
    first, second = (read_recipe(f"{run}/recipe.toml") for run in (reflowed, "second"))
    for recipe, run, guidance in ((first, "teacher", 2.0), (second, reflowed, 1.0)):
        assert recipe.teacher is not None
        assert recipe.teacher.sampler is not None
        assert Path(recipe.teacher.run) == Path(run, "model").absolute()
        assert recipe.teacher.sampler.guidance == guidance
        assert isinstance(recipe.objective, Regression)
        assert recipe.objective.times == UShaped()
        assert recipe.teacher.sampler.method == Heun()
    assert first.teacher is not None
    assert second.teacher is not None
    assert first.teacher.sampler is not None
    assert second.teacher.sampler is not None
    assert (first.teacher.sampler.steps, second.teacher.sampler.steps) == (3, 16)
    third = student("second", Reflow()).teacher
    assert third is not None
    assert third.sampler == second.teacher.sampler


@pytest.mark.parametrize(
    ("drawn", "method", "steps", "grid"),
    [
        ({"method": "euler", "steps": 15}, Heun(), 16, Even()),
        ({"method": "euler", "steps": 16}, Euler(), 16, Even()),  # its own, at half of Heun's calls
        ({"method": "euler", "steps": 50, "grid": "quadratic"}, Euler(), 50, Quadratic()),
        ({"method": "euler", "steps": 2, "grid": {"kind": "listed", "times": [1.0, 0.4, 0.0]}}, Heun(), 16, Even()),
        ({"method": "ancestral", "steps": 4}, Heun(), 16, Even()),  # it adds noise: its ends are no flow's
        ({"method": "ancestral", "steps": 40}, Heun(), 40, Even()),
        ({"method": "heun", "steps": 3}, Heun(), 3, Even()),
    ],
)
def test_pairs_are_drawn_as_the_teacher_is_where_that_follows_its_flow(
    drawn: dict[str, Any], method: AnySampler, steps: int, grid: AnyGrid, tmp_path: Path
) -> None:
    list(train(read_recipe({**POINTS, "train": {**POINTS["train"], "steps": 1}, "sampler": drawn}), tmp_path / "run"))
    taught = student(tmp_path / "run", Reflow(pairs=8)).teacher
    assert taught is not None
    assert taught.sampler is not None
    assert (taught.sampler.method, taught.sampler.steps, taught.sampler.grid) == (method, steps, grid)
    assert len(taught.sampler.times(Linear())) == steps + 1


def test_a_model_that_jumps_to_the_data_alone_is_followed_along_its_flow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own way adds noise; and in the few steps it is drawn in, Heun's would be far from the flow."""
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    list(train(read_recipe({**POINTS, "train": {**POINTS["train"], "steps": 1}}), tmp_path / "run"))
    for method, followed in ((Consistency(), (Heun(), 16)), (SoFlow(), (Jumps(), 4))):
        recipe = student(tmp_path / "run", method)
        recipe = replace(recipe, train=replace(recipe.train, minutes=None, steps=1))
        list(train(recipe, tmp_path / method.kind))
        taught = student(tmp_path / method.kind, SoFlow(), pairs=8).teacher
        assert taught is not None
        assert taught.sampler is not None
        assert (taught.sampler.method, taught.sampler.steps) == followed
