"""The report on students: at how many calls each sampler of the teacher is measured, which is best, and against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash import MLP, Config, Flow, Linear
from inkwash.codec import Standard
from inkwash.distilling.report import Contestant, at_its_best, best, in_calls, table
from inkwash.evaluation.record import Measure, Record
from inkwash.evaluation.sweep import Point
from inkwash.kinds import from_text
from inkwash.model import Plain
from inkwash.pipeline import Pipeline
from inkwash.samplers import AnySampler
from inkwash.sampling import Sampling
from inkwash.types import Component, Query


def point(sampler: str, steps: int, calls: float, value: float, floor: float | None = 1.0) -> Point:
    own = Sampling(method=from_text(AnySampler, sampler, ""), steps=steps)
    record = Record(Measure("fd", "moons", "test", "", 100, 100, "raw"), value, floor=floor)
    return Point(own, value, None, None, calls, 0.5, record)


TEACHER = [
    point("heun", 25, 49, 3.0),
    point("heun", 5, 9, 6.0),
    point("heun", 1, 1, 80.0),
    point("dpm++", 50, 50, 3.5),
    point("dpm++", 10, 10, 2.0),
    point("dpm++", 2, 2, 30.0),
    point("dpm++(order=3)", 50, 50, math.nan),
    point("euler", 1, 1, 70.0),
]


def test_the_best_is_of_each_samplers_point_of_the_most_calls() -> None:
    found = {calls: best(TEACHER, calls) for calls in (50, 49, 20, 5, 2, 1, 0)}
    index = {calls: None if one is None else TEACHER.index(one) for calls, one in found.items()}
    # At 10 calls dpm++ is better than anything at 50, which says nothing of 50; of 1 and 2 it is 2 that counts.
    assert index == {50: 0, 49: 4, 20: 4, 5: 5, 2: 5, 1: 7, 0: None}
    one = Contestant("teacher", Pipeline.__new__(Pipeline), {}, Path(), {"dpm++": (50, 10, 2), "heun": (25, 5, 1)})
    assert at_its_best(one, TEACHER).drawn == {"heun": (25, 5, 1)}


def test_rows_are_held_against_the_teachers_best_by_what_is_above_the_floor() -> None:
    text = table({"teacher": TEACHER, "student": [point("jumps", 4, 4, 2.5), point("jumps", 1, 1, 6.0)]})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[1] for row in rows[1:]] == [*["heun"] * 3, *["dpm++"] * 3, "dpm++(order=3)", "euler", *["jumps"] * 2]
    assert [(row[7], row[8]) for row in rows[1:4]] == [("2", "1.00"), ("5", "2.50"), ("79", "39.50")]
    assert [(row[0], row[3], row[7], row[8]) for row in rows[-2:]] == [
        ("student", "4", "1.5", "0.75"),
        ("student", "1", "5", "2.50"),
    ]
    assert "floor 1." in text
    assert text.endswith(
        "The teacher's best: up to 50 calls heun in 25 steps (D = 2); up to 20 calls dpm++ in 10 steps (D = 1); "
        "up to 10 calls dpm++ in 10 steps (D = 1); up to 5 calls dpm++ in 2 steps (D = 29); "
        "up to 2 calls dpm++ in 2 steps (D = 29); up to 1 call euler in 1 step (D = 69).\n"
    )
    text = table({"teacher": [point("heun", 1, 1, 3.0, None)]})
    assert "floor not known." in text
    assert text.splitlines()[4].endswith("| 3 |  |  |  |")
    assert "up to 1 call heun in 1 step." in text


@dataclass(frozen=True)
class Thrice(Component):
    """A user's own sampler: three calls a step."""

    def __call__(self, path: Any, x: Any, times: Any, noise: Any) -> Any:
        for t in times[:-1]:
            for _ in range(3):
                yield Query(x, t, t)
        return x


def test_each_sampler_takes_the_steps_that_make_so_many_calls() -> None:
    config = Config((2,), MLP(width=8, depth=1), Linear(), Flow(), Plain(), Standard((0.0, 0.0), (1.0, 1.0)))
    pipe = Pipeline(config, config.build(), torch.device("cpu"))
    own = f"{__name__}:Thrice"
    drawn = in_calls(pipe, ["heun", "dpm++()", own, "rk45"])
    assert drawn["heun"] == [25, 10, 5, 3, 1]  # 49, 19, 9, 5, 1: the last step asks once
    assert drawn["dpm++"] == [50, 20, 10, 5, 2, 1]
    assert drawn[own] == [16, 6, 3, 1]  # not one step in 2 calls
    assert len(drawn["rk45"]) == 1
    with pytest.raises(ValueError, match="hoin"):
        in_calls(pipe, ["heun", "hoin"])
