"""`inkwash distill` and `inkwash few-steps`: a student that is an ordinary model, and the report beside its teacher."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from inkwash.cli.app import run as main
from inkwash.distilling.report import STRAIGHT
from inkwash.evaluation.sweep import SWEEP
from inkwash.modelfolder import load_model
from inkwash.pipeline import load
from inkwash.recipes import read_recipe
from inkwash.training import train
from inkwash.types import Condition, Query
from tinyruns import recipe


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A teacher of tiny pictures, whose head is not zero."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    list(train(recipe(train={"steps": 4, "snapshots": 0}, sampler={"steps": 2, "guidance": 2.0}), "teacher"))
    return Path("teacher")


def test_a_teacher_becomes_a_student_that_draws_in_one_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "teacher", "--steps", "1,2,4", "--minutes", "0.02"]) == 0
    said = capsys.readouterr().out
    assert "The teacher's guidance 2 becomes part of the student." in said
    assert "inkwash few-steps" in said
    stated = read_recipe("teacher-soflow/recipe.toml")
    assert stated.teacher is not None
    assert stated.teacher.sampler is not None
    assert (stated.teacher.sampler.guidance, stated.sampler.guidance, stated.sampler.steps) == (2.0, 1.0, 4)
    pipe = load("teacher-soflow")
    one = pipe(2, label=1, steps=1, seed=3)
    assert one.settings["sampler"] == {"kind": "jumps", "renoise": 0.0}
    # One jump from t = 1 is x - u(x, 1, 0): the network's own answer.
    _, model = load_model("teacher-soflow")
    model.net.eval()
    again = load("teacher-soflow")(2, label=1, steps=[1.0, 0.0], seed=3)
    assert (again.array == one.array).all()
    ones, zeros = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    x = torch.randn(1, *pipe.config.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        jump = model(Query(x, ones, zeros), Condition(torch.tensor([1])))
        u = model.mean_velocity(x, ones, zeros, Condition(torch.tensor([1])))
    torch.testing.assert_close(jump.x0, x - u, rtol=0, atol=1e-6)
    assert main(["distill", "teacher", "--minutes", "0.02"]) == 2  # there is one already
    assert "teacher-soflow" in capsys.readouterr().err


def test_the_report_has_every_way_once_and_measures_none_twice(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "teacher", "--method", "reflow(pairs=8)", "--minutes", "0.02", "--guidance", "1"]) == 0
    capsys.readouterr()
    options = ["few-steps", "teacher-reflow", "-n", "16", "--split", "train", "--features", "raw"]
    code, (said, wrong) = main(options), capsys.readouterr()
    assert code == 0, wrong
    rows = re.findall(r"^\| (teacher|teacher-reflow) \| (\w+) \| (\d+) \| (\d+) ", said, re.M)
    assert rows == [("teacher", "DpmSolver", n, n) for n in ("50", "20", "10", "5")] + [
        ("teacher-reflow", "Euler", n, n) for n in ("4", "2", "1")
    ]
    straight = re.search(
        r"\(64 trajectories x 32 Heun steps\): teacher ([\d.e-]+), teacher-reflow ([\d.e-]+)\.$", said, re.M
    )
    kept = [json.loads(Path(run, "evaluation", STRAIGHT).read_text()) for run in ("teacher", "teacher-reflow")]
    assert straight is not None
    assert [f"{line['straightness']:.4g}" for line in kept] == list(straight.groups())
    folder = Path("teacher-reflow/few-steps")
    assert (folder / "table.md").read_text().strip() in said
    assert (folder / "quality.png").stat().st_size > 1000
    assert (folder / "sheet.png").stat().st_size > 1000
    points = Path("teacher-reflow/evaluation") / SWEEP
    lines = points.read_text()
    assert len(lines.splitlines()) == 3
    assert main(options) == 0
    assert points.read_text() == lines
    again = capsys.readouterr().out
    assert again[again.index("FD-raw") :] == said[said.index("FD-raw") :]


def test_mistakes_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["distill", "teacher", "--steps", "0", "--minutes", "0"]) == 2
    said = capsys.readouterr().err
    assert "--steps 0 must be whole numbers from 1 on" in said
    assert "--minutes 0 must be more than 0" in said
    assert main(["distill", "teacher", "--method", "soflo"]) == 2
    assert "soflow" in capsys.readouterr().err
    assert main(["distill", "nothing"]) == 2
    assert main(["few-steps", "teacher"]) == 2
    assert "--teacher RUN" in capsys.readouterr().err
