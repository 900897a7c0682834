"""`inkwash ema`: what it writes and says, the search among lengths, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inkwash
from inkwash.cli.app import run as main
from inkwash.evaluation.record import read as read_records
from inkwash.pipeline import VECTORS
from inkwash.recipes import read_recipe
from inkwash.training import search, train
from inkwash.training.posthoc import kept
from inkwash.training.search import SIGMAS, possible

STEPS = 256


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ema") / "run"
    recipe: dict[str, Any] = {
        "data": {"source": "moons", "limit": 60, "val_fraction": 0.5},
        "net": {"kind": "mlp", "width": 8, "depth": 1},
        "optim": {"kind": "adamw", "lr": 0.02},
        "train": {"steps": STEPS, "batch_size": 4, "samples": 2, "sample_every": 10_000, "checkpoint_every": 10_000},
        "evaluation": {"every": 10_000, "images": 1},
        "sampler": {"steps": 2},
    }
    list(train(read_recipe(recipe), out))
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def ema(*words: str) -> int:
    return main(["ema", *words])


def test_a_length_becomes_a_model_that_is_sampled_like_any_other(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ema(str(run), "--sigma", "0.08") == 0
    told = capsys.readouterr().out
    found = inkwash.rebuild(run, 0.08)
    assert "0.08 of 256 steps" in told
    assert f"{len(found.fit.parts)} averages that were kept, at 16 steps" in told
    assert f"{found.fit.residual:.2%} of its norm" in told
    assert f"inkwash sample {run}/ema-0.080" in told
    pipe = inkwash.load(run / "ema-0.080", device="cpu")
    assert pipe.config.ema == 0.08
    assert np.array_equal(pipe(4).array, found.pipeline(device="cpu")(4).array)
    assert main(["sample", str(run / "ema-0.080"), "-n", "4", "--out", str(tmp_path / "s.png")]) == 0
    assert ema(str(run), "--sigma", "0.0805", "--step", "128") == 0
    config = json.loads((run / "ema-0.0805-step-128/config.json").read_text())
    assert (config["ema"], config["trained"]["steps"]) == (0.0805, 128)
    assert ema(str(run), "--sigma", "0.05", "--out", str(tmp_path / "mine")) == 0
    assert inkwash.load(tmp_path / "mine").config.ema == 0.05
    own = {"model", "ema-0.080", "ema-0.0805-step-128"}
    assert {p.parent.name for p in run.glob("*/config.json")} == own


def test_the_search_measures_each_length_and_writes_the_best(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--search", "fd", "--split", "val", "-n", "40", "--features", "raw", "--sigmas", "0.2,0.05,0.1"]
    assert ema(str(run), *words) == 0
    told = capsys.readouterr().out
    records = read_records(run / "evaluation")
    assert [r.model["ema"] for r in records] == [0.05, 0.1, 0.2]
    assert len({r.value for r in records}) == 3
    assert all(r.measure == records[0].measure for r in records)
    assert all(r.sampling["seed"] == 0 for r in records)
    best = min(records, key=lambda r: r.value)
    folder = run / f"ema-{best.model['ema']:.3f}"
    pipe = inkwash.load(folder, device="cpu")
    assert pipe.config.ema == best.model["ema"]
    assert best.model["folder"] == str(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert best.model["weights_sha256"] == manifest["files"]["model.safetensors"]["sha256"]
    assert [r.model.get("weights_sha256") for r in records if r is not best] == [None, None]
    assert f"{best.value:.4g}" in (folder / "README.md").read_text()
    line = next(line for line in told.splitlines() if "<- best" in line)
    assert line.startswith(f"{best.model['ema']:g} ")
    assert f"{best.value:.4g}" in line
    assert "FD-raw" in told
    assert (run / "evaluation/ema.png").is_file()
    assert not list(run.glob("evaluation/**/pictures.bin"))
    assert main(["eval", str(folder), "--split", "val", "-n", "40", "--features", "raw", "--measures", "fd"]) == 0
    again = read_records(run / f"{folder.name}-evaluation")[0]
    assert again.value == pytest.approx(best.value, rel=0.05)


def test_a_search_that_was_stopped_goes_on_where_it_was(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[float, int]] = []
    measure = search.evaluate

    def stopped(pipe: Any, *args: Any, **settings: Any) -> Any:
        seen.append((pipe.config.ema, pipe.chunk))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(pipe, *args, **settings)

    monkeypatch.setattr(search, "evaluate", stopped)
    words = ["--search", "kid", "--split", "val", "-n", "20", "--features", "raw", "--sigmas", "0.05,0.1,0.2"]
    assert ema(str(run), *words) == 130
    assert not read_records(run / "evaluation")
    assert ema(str(run), *words) == 0
    assert seen == [(sigma, VECTORS) for sigma in (0.05, 0.1, 0.1, 0.2)]  # points: not pictures' chunk
    found = [(r.model["ema"], r.value) for r in read_records(run / "evaluation")]
    shutil.rmtree(run / "evaluation")
    monkeypatch.setattr(search, "evaluate", measure)
    assert ema(str(run), *words) == 0
    assert [(r.model["ema"], r.value) for r in read_records(run / "evaluation")] == found


def test_the_usual_lengths_are_those_that_can_be_rebuilt(trained: Path) -> None:
    have = kept(trained)
    assert possible(have) == [s for s in SIGMAS if s > 0.02]  # 16 snapshots are too far apart for 0.02
    assert possible(have, [0.28, 0.1]) == [0.1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "Which length? Give one with --sigma 0.08"),
        (["--sigma", "0.1", "--search", "fd", "--split", "val"], "--sigma 0.1 and --search fd both say which length"),
        (["--search", "fd"], "Against which real pictures?"),
        (["--search", "fd", "--split", "val", "--sigmas", "0.1,x"], "--sigmas 0.1,x are no numbers"),
        (["--sigma", "0.1", "--sigmas", "0.1"], "add --search fd or --search kid"),
        (["--search", "fd", "--split", "val", "--sigmas", "0.1,0.005", "--features", "raw"], "cannot be rebuilt"),
        (["--sigma", "0.005"], "cannot be rebuilt at step 256"),
        (["--sigma", "0.1", "--step", "100"], "Nothing was kept at step 100"),
        (["--sigma", "0.1", "--out", "{run}/samples"], "holds files that are no checkpoint's"),
    ],
)
def test_mistakes_are_said(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert ema(str(run), *(w.format(run=run) for w in words)) == 2
    assert said in capsys.readouterr().err
    assert not list(run.glob("ema-*"))


def test_a_run_without_snapshots_and_a_damaged_one_are_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "snapshots/step-64/ema-0.1.safetensors").write_bytes(b"no")
    assert ema(str(run), "--sigma", "0.15") == 2
    assert "step-64 is damaged: ema-0.1.safetensors has 2 bytes" in capsys.readouterr().err
    shutil.rmtree(run / "snapshots")
    assert ema(str(run), "--sigma", "0.15") == 2
    assert "has no snapshots" in capsys.readouterr().err
    assert ema(str(run.parent), "--sigma", "0.15") == 2
    assert f"No run in {run.parent}" in capsys.readouterr().err
