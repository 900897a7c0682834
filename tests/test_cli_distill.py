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
from inkwash.fewstep import SoFlow
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
    assert stated.objective == SoFlow(steps=(1, 2, 4))
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


def test_the_report_has_every_way_once_and_measures_none_twice(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fewer in (("TEACHER_CALLS", (6, 5, 2, 1)), ("TRAJECTORIES", 8), ("HEUN_STEPS", 4)):
        monkeypatch.setattr(f"inkwash.distilling.report.{name}", fewer)
    assert main(["distill", "teacher", "--method", "reflow(pairs=8)", "--minutes", "0.02", "--guidance", "1"]) == 0
    capsys.readouterr()
    options = ["few-steps", "teacher-reflow", "-n", "16", "--split", "train", "--features", "raw"]
    code, (said, wrong) = main(options), capsys.readouterr()
    assert code == 0, wrong
    rows = re.findall(r"^\| (teacher|teacher-reflow) \| (\S+) \| (\d+) \| (\d+) ", said, re.M)
    alone = [("teacher", "dpm++", n, n) for n in ("6", "5", "2", "1")]
    students = [("teacher-reflow", "euler", n, n) for n in ("4", "2", "1")]
    assert rows == alone + students
    straight = re.search(
        r"\(8 trajectories x 4 Heun steps\): teacher ([\d.e-]+), teacher-reflow ([\d.e-]+)\.$", said, re.M
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
    # One sampler more: only what it makes is new, and every row is held against the best of both at the most calls.
    kept = Path("teacher/evaluation") / SWEEP
    assert len(kept.read_text().splitlines()) == 4
    assert main([*options, "--sampler", "heun, dpm++"]) == 0
    both = capsys.readouterr().out
    assert len(kept.read_text().splitlines()) == 4 + 2
    cells = _cells(both)
    more = [("teacher", "heun", *n) for n in (("3", "5"), ("1", "1"))]
    assert [row[:4] for row in cells] == more + alone + students
    assert {row[:6] for row in cells} >= {row[:6] for row in _cells(said)}
    found = re.search(r"floor ([\d.e+-]+)\.", both)
    assert found is not None
    floor = float(found[1])
    best = min((cells[0], cells[2]), key=lambda row: float(row[5]))
    for row in cells:
        assert float(row[7]) == pytest.approx(float(row[5]) - floor, rel=2e-3)
        assert float(row[8]) == pytest.approx(float(row[7]) / float(best[7]), abs=0.006, rel=1e-3)
    assert f"The teacher's best: up to 6 calls {best[1]} in {best[2]} steps (D = {best[7]}); up to 5 calls" in both
    assert main([*options, "--sampler", ","]) == 2
    assert "--sampler names none" in capsys.readouterr().err
    assert main([*options, "--sampler", "heun,hoin"]) == 2
    assert "hoin" in capsys.readouterr().err


def test_a_student_at_an_earlier_step_is_reported_in_its_runs_folder(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, fewer in (("TEACHER_CALLS", (2, 1)), ("STUDENT_STEPS", (1,)), ("TRAJECTORIES", 4), ("HEUN_STEPS", 2)):
        monkeypatch.setattr(f"inkwash.distilling.report.{name}", fewer)
    short = ["--set", "train.steps=4", "--set", "train.checkpoint_every=2", "--set", "train.batch_size=8"]
    assert main(["distill", "teacher", *short]) == 0
    options = ["-n", "16", "--split", "train", "--features", "raw"]
    assert main(["few-steps", "teacher-soflow@2", "teacher-soflow", *options]) == 0, capsys.readouterr().err
    rows = {row[0]: row for row in _cells(capsys.readouterr().out)}
    assert list(rows) == ["teacher", "teacher-soflow@2", "teacher-soflow"]
    assert rows["teacher-soflow@2"][5] != rows["teacher-soflow"][5]
    assert Path("teacher-soflow/few-steps/table.md").is_file()
    assert not Path("teacher-soflow@2").exists()
    assert main(["few-steps", "teacher-soflow", "./teacher-soflow", *options]) == 2
    assert "Two would be called teacher-soflow" in capsys.readouterr().err


def _cells(said: str) -> list[tuple[str, ...]]:
    """The rows of the report's table."""
    lines = [line for line in said.splitlines() if line.startswith("| teacher")]
    return [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in lines]


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
