"""What a report's page is made of: curves, what the model draws, numbers in words."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash import Euler, Heun, Sampling
from inkwash.pictures import chart, text
from inkwash.pipeline import load
from inkwash.report.drawings import curves, draw, overfitting
from inkwash.report.words import duration, plain, row
from pages import HOSTILE, config, metrics, record, saved

# Curves.


def lines_of(monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]) -> dict[str, Any]:
    """What is drawn: by title, the lines and the logarithmic axes."""
    seen: dict[str, Any] = {}

    def spy(lines: Any, *, title: str, log: str, **_: Any) -> Image.Image:
        seen[title] = (dict(lines), log)
        return Image.new("L", (1, 1))

    monkeypatch.setattr("inkwash.pictures.line_plot", spy)
    curves(logged)
    return seen


def test_curves_are_what_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = lines_of(monkeypatch, metrics(20))
    assert list(seen) == ["Training loss", "Validation loss", "Gradient norm", "Learning rate", "Speed"]
    lines, log = seen["Training loss"]
    assert lines[""][0] == [10.0 * i for i in range(1, 21)] and lines[""][1][3] == 0.5 and log == "y"
    assert seen["Validation loss"] == (
        {"held out": ([100, 200], [0.7, 0.6]), "training": ([100, 200], [0.49, 0.48])},
        "",
    )


def test_what_is_measured_on_a_schedule_has_its_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = [{"step": 1, "fd": 30.0}, {"step": 2}, {"step": 3, "fd": 20.0}]
    logged[0] |= {"seconds": 1.0, "memory": 5, "eta": 2.0, "skipped": 0, "validation_band_0": 1.0}
    seen = lines_of(monkeypatch, logged)
    assert seen == {"fd": ({"": ([1.0, 3.0], [30.0, 20.0])}, "")}


def test_the_steps_of_long_runs_have_room_on_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their labels are no nearer to each other than a space, for any number of steps."""
    marks: list[tuple[float, str]] = []

    def spy(draw: Any, at: tuple[float, float], words: str, size: int, *rest: Any) -> None:
        if "ma" in rest:
            marks.append((at[0], words))

    monkeypatch.setattr(chart, "_write", spy)
    for steps in (900, 1_100, 17_000, 110_000, 400_000, 999_000, 1_100_000, 1_999_000, 7_900_000):
        curves([{"step": steps // 100 * i, "loss": 0.00001 * i} for i in range(1, 101)])
        assert 3 <= len(marks) <= 8, steps
        for (a, one), (b, two) in pairwise(marks):
            assert b - a > (text.width(one, 13) + text.width(two, 13)) / 2 + 4, steps
        marks.clear()


def test_overfitting_is_what_the_last_validation_found() -> None:
    low, high = {"step": 10, "validation": 0.5}, {"step": 30, "validation": 0.75, "overfitting": 0.25}
    later = {"step": 40, "loss": 0.1}
    assert overfitting([low, high, later]).endswith(
        "(0.5) and is higher at step 30 (0.75), by more than two standard errors."
    )
    assert overfitting([low, high, {"step": 50, "validation": 0.4}]) == ""
    assert overfitting([low, later]) == "" and overfitting([later]) == ""


# What the model draws.


def test_the_model_draws_each_class_and_the_way_there(tmp_path: Path) -> None:
    pipe = load(saved(tmp_path / "m"), device="cpu", chunk=16)
    drawn, again = draw(pipe), draw(pipe)
    assert [s.caption for s in drawn.samples] == ["cat", HOSTILE]
    assert [s.uri for s in drawn.samples] == [s.uri for s in again.samples]
    assert drawn.how == "euler, 4 steps, guidance 1.5, seed 0"
    assert [round(m.t, 6) for m in drawn.strip] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [m.x0 is None for m in drawn.strip] == [False] * 4 + [True]
    samples = pipe(32, steps=4, seed=0).array
    cats = np.asarray(drawn.samples[0].image)  # 4 by 4, a transparent pixel between
    assert cats.shape == (35, 35, 2)
    for i, cat in enumerate(samples[::2]):
        down, across = 9 * (i // 4), 9 * (i % 4)
        assert (cats[down : down + 8, across : across + 8, 0] == cat[..., 0]).all()
    assert (cats[8, :, 1] == 0).all() and (cats[0, :8, 1] == 255).all()
    end = np.asarray(drawn.strip[-1].x.image)
    assert (end[9:17, :, 0] == samples[1, ..., 0]).all()  # the strip follows the first pictures


def test_the_strip_asks_at_falling_times_only(tmp_path: Path) -> None:
    pipe = load(saved(tmp_path / "m", sampling=Sampling(Heun(), steps=20)), device="cpu", chunk=16)
    times = [m.t for m in draw(pipe).strip]
    assert len(times) == 9 and times[0] == 1.0 and times[-1] == 0.0
    assert all(a > b for a, b in pairwise(times))
    pipe = load(saved(tmp_path / "m", sampling=Sampling(Heun(), steps=3)), device="cpu", chunk=16)
    assert [round(m.t, 3) for m in draw(pipe).strip] == [
        1.0,
        0.667,
        0.333,
        0.0,
    ]  # Heun asks twice at each but the first


def test_long_samplers_are_cut_and_it_is_said(tmp_path: Path) -> None:
    slow = Sampling(Euler(), steps=400)
    pipe = load(saved(tmp_path / "m", sampling=slow, classes=(), shape=(3, 4, 4)), device="cpu", chunk=16)
    drawn = draw(pipe)
    assert drawn.how == "euler, 50 steps, seed 0 (the model's own 400 steps would take long)"
    assert len(drawn.samples) == 1 and drawn.samples[0].image.size == (8 * 5 - 1, 6 * 5 - 1)
    assert drawn.samples[0].image.mode == "RGBA"


def test_large_pictures_are_reduced_and_not_pixelled(tmp_path: Path) -> None:
    made = config(shape=(1, 128, 128), classes=(), sampling=Sampling(Euler(), steps=1))

    class Flat:
        config = made

        def __call__(self, n: int, trace: Any, **_: Any) -> Any:
            from inkwash.samples import Samples
            from inkwash.types import Denoised, Query

            x = torch.zeros(n, 1, 128, 128)
            trace(Query(x, torch.ones(n), torch.ones(n)), Denoised(x, x))
            told = {"sampler": {"kind": "euler"}, "steps": 1, "guidance": 1.0}
            return Samples(np.full((n, 128, 128, 1), 9, np.uint8), (), told)

    drawn = draw(Flat())  # type: ignore[arg-type]
    (shown,) = drawn.samples
    assert shown.kind == "picture" and shown.image.size == (6 * 110 - 4, 4 * 110 - 4)


# Words.


def test_words_of_records() -> None:
    assert [duration(s) for s in (45, 99.4, 240, 7500)] == ["45 seconds", "99 seconds", "4.0 minutes", "2.1 hours"]
    assert plain({"steps": 1200, "images": 76800.0, "empty": None}) == "steps = 1,200, images = 76,800"
    assert plain({"kind": "ddim", "eta": 0.5}) == "ddim(eta=0.5)" and plain([1, "a", True]) == "1, a, yes"
    assert plain({"kind": "their.grid", "a": 1}) == "their.grid(a=1)"
    one = row(record("precision", 0.5, better="higher"), None)
    assert (one.better, one.other, one.bias) == ("↑", "", "")
    assert row(record("fd", 0.5, bias=0.98765), "w").other == "other weights, ema 0.05"
    told = {"sampler": {"kind": "ddim", "eta": 0.5, "added": "small"}, "grid": {"kind": "their.grid", "a": 1}}
    told |= {"path": {"kind": "ve", "top": 50.0}, "steps": 3, "seed": 7}
    drawn = row(record("fd", 0.5, sampling=told), None).drawn
    assert drawn == "ddim(eta=0.5), 3 steps, guidance 1, grid their.grid, along ve(top=50.0), seed 7"
    even = {"sampler": {"kind": "heun"}, "steps": 3, "guidance": 1.5, "grid": {"kind": "even"}, "path": None}
    assert row(record("fd", 0.5, sampling=even), None).drawn == "heun, 3 steps, guidance 1.5, seed None"
