"""A sweep: which combinations it makes and refuses, what it measures again, the Pareto front, adopting a point."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inkwash import MLP, Config, Ddim, Euler, Flow, Heun, Karras, Linear, Listed, Sampling, checkpoint
from inkwash.codec import Standard
from inkwash.evaluation.front import best, curve, pareto, plot, table
from inkwash.evaluation.likelihood import weights_hash
from inkwash.evaluation.record import Measure, Record, append
from inkwash.evaluation.sweep import SWEEP, Point, SweepError, adopt, axes, combinations, planned, sweep
from inkwash.kinds import to_table
from inkwash.model import Plain
from inkwash.modelfolder import load_model, save_model
from inkwash.paths import VE
from inkwash.pictures import Mark, front
from inkwash.pipeline import Pipeline
from inkwash.ranks import Ranks
from inkwash.training import resume_recipe, train

MEASURE = Measure("fd", "moons", "test", "a" * 64, 100, 200, "raw", "", "")


def config(classes: tuple[str, ...] = ("up", "down"), sampling: Sampling | None = None) -> Config:
    return Config(
        shape=(2,),
        net=MLP(width=8, depth=1),
        path=Linear(),
        target=Flow(),
        inputs=Plain(),
        codec=Standard((0.0, 0.0), (1.0, 1.0)),
        classes=classes,
        sampling=sampling or Sampling(Heun(), steps=3),
    )


def pipeline(classes: tuple[str, ...] = ("up", "down"), sampling: Sampling | None = None) -> Pipeline:
    made = config(classes, sampling)
    return Pipeline(made, made.build(), torch.device("cpu"))


def record(value: float, **changes: Any) -> Record:
    return Record(MEASURE, value, **changes)


def point(value: float, calls: int, seconds: float = 1.0, better: Any = "lower", **settings: Any) -> Point:
    own = replace(Sampling(), **settings)
    return Point(own, value, None, None, calls, seconds, record(value, better=better))


# What is varied.


def test_axes_are_read_from_texts() -> None:
    read = axes(
        ["steps=5, 10", "sampler=heun,dpm++(order=3),ddim(eta=0.5, added=large)", "steps=20", "path=ve(top=80)"]
    )
    assert read == {
        "steps": ["5", "10", "20"],
        "sampler": ["heun", "dpm++(order=3)", "ddim(eta=0.5, added=large)"],
        "path": ["ve(top=80)"],
    }


def test_every_mistake_in_the_axes_is_told() -> None:
    with pytest.raises(SweepError) as error:
        axes(["step=5", "steps", "grid=", "guidance=1"])
    assert len(error.value.mistakes) == 3
    assert "Did you mean steps?" in error.value.mistakes[0]
    assert "steps no value" in error.value.mistakes[1] and "grid no value" in error.value.mistakes[2]


def test_values_that_do_not_exist_are_told_once_and_together() -> None:
    varied = {
        "sampler": ["hein", "ddim(eta=2)"],
        "steps": ["0", "5", "x"],
        "guidance": ["much", "inf", "2"],
        "grid": ["eve"],
    }
    with pytest.raises(SweepError) as error:
        combinations(pipeline(), varied)
    said = error.value.mistakes
    assert len(said) == 7
    for words in ("Did you mean heun?", "ddim(eta=2)", "steps = x", "at least 1 step", "= much", "= inf", "grid 'eve'"):
        assert sum(words in one for one in said) == 1, words


def test_combinations_are_all_of_them_once_with_their_calls() -> None:
    varied = axes(["steps=2,5", "sampler=heun,euler,heun", "guidance=1,1.50,1.5", "grid=karras"])
    these, refused = combinations(pipeline(), varied)
    assert refused == []
    assert [(s.method, s.guidance, s.steps, calls) for s, calls in these] == [
        (Heun(), 1.0, 2, 3),  # two calls a step, but one at the last
        (Heun(), 1.0, 5, 9),
        (Heun(), 1.5, 2, 3),
        (Heun(), 1.5, 5, 9),
        (Euler(), 1.0, 2, 2),
        (Euler(), 1.0, 5, 5),
        (Euler(), 1.5, 2, 2),
        (Euler(), 1.5, 5, 5),
    ]
    assert {s.grid for s, _ in these} == {Karras()}


def test_what_is_not_varied_is_the_models_own() -> None:
    own = Sampling(Ddim(eta=0.3), steps=7, guidance=2.0, clip=True, grid=Karras(), path=VE())
    (found,), _ = combinations(pipeline(sampling=own), {})
    assert found[0] == own
    (found,), _ = combinations(pipeline(sampling=own), {"steps": ["4"]})
    assert found[0] == replace(own, steps=4)


def test_samplers_and_grids_with_steps_of_their_own_come_once() -> None:
    these, _ = combinations(pipeline(), axes(["sampler=rk45,euler", "steps=3,6"]))
    assert [(to_table(s.method)["kind"], s.steps) for s, _ in these] == [("rk45", 3), ("euler", 3), ("euler", 6)]
    these, refused = combinations(pipeline(), axes(["grid=listed(times=[1,0.5,0]),even", "steps=3,6"]))
    assert [s.steps for s, _ in these] == [2, 3, 6] and refused == []


def test_what_a_model_refuses_is_said_with_the_combination() -> None:
    varied = axes(["grid=even,listed(times=[1, 0.1])", "guidance=1,2", "steps=4"])
    these, refused = combinations(pipeline(classes=()), varied)
    assert [s.guidance for s, _ in these] == [1.0]
    assert len(refused) == 3
    assert (
        refused[0].startswith("guidance=1, grid=listed(times=[1.0, 0.1]), steps=4: ") and "end at t = 0.1" in refused[0]
    )
    assert refused[1].startswith("guidance=2, grid=even, steps=4: ") and "without" in refused[1]


def test_a_weaker_model_is_pushed_away_from_where_there_is_guidance(tmp_path: Path) -> None:
    """Also by a model of nothing; a point without guidance is the one that is drawn without a weaker model."""
    plain, weak = pipeline(classes=()), pipeline(classes=())
    these, refused = combinations(plain, axes(["guidance=1,1.5,2"]), weak=weak)
    assert [s.guidance for s, _ in these] == [1.0, 1.5, 2.0] and refused == []
    with pytest.raises(SweepError, match="guidance = 1 is off"):
        planned(plain, {"steps": ["2"]}, weak=weak)
    alone, asked, other = Asked(), Asked(), Asked()
    run(tmp_path, alone, ["guidance=1"], pipe=plain)
    run(tmp_path, asked, ["guidance=1,2"], pipe=plain, weak=weak)
    assert len(alone.settings) == 1 and [(a["guidance"], a.get("weak")) for a in asked.settings] == [(2.0, weak)]
    for same in (replace(weak.config, trained={"steps": 9.0}), replace(weak.config, sampling=Sampling(steps=1))):
        run(tmp_path, other, ["guidance=2"], pipe=plain, weak=Pipeline(same, weak.model, weak.device))
    assert other.settings == []
    along = Pipeline(replace(weak.config, path=VE()), replace(weak.model, path=VE()), weak.device)
    run(tmp_path, other, ["guidance=2"], pipe=plain, weak=along)
    assert len(other.settings) == 1  # the same weights answer otherwise


# Measuring.


@dataclass
class Asked:
    """Counts what is measured; the value says which settings it was."""

    settings: list[dict[str, Any]] = field(default_factory=list)
    fail_after: int = 99
    meanwhile: Callable[[], object] = lambda: None

    def __call__(
        self, pipe: Any, reference: Any, n: int, *, measures: Any, seed: int, watch: Any, **settings: Any
    ) -> Any:
        if len(self.settings) == self.fail_after:
            raise KeyboardInterrupt
        self.settings.append(settings | {"measures": measures, "seed": seed, "n": n})
        if watch:
            watch("Drawing", 0.5)
        value = float(settings["steps"])
        told = {"steps": settings["steps"], "seconds": 50.0}
        measure = replace(MEASURE, n=n)
        found = (Record(measure, value, value - 1, value + 1, sampling=told),) if "fd" in measures else ()
        folder = settings["folder"] and settings["folder"] / str(settings["steps"])
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "pictures.bin").write_text("")
        self.meanwhile()
        drawn = type("P", (), {"folder": folder})
        return type("E", (), {"records": (Record(replace(measure, name="precision"), 0.5), *found), "pictures": drawn})


@dataclass
class Truth:
    key: str = "k" * 64
    n: int = 200

    def __len__(self) -> int:
        return self.n


@dataclass
class Net:
    name: str = "raw"
    weights: str = "0" * 64
    resize: str = "none"


def run(place: Path, asked: Asked, texts: list[str], **changes: Any) -> list[Point]:
    fixed: dict[str, Any] = {"n": 100, "pipe": pipeline(), "truth": Truth(), "net": Net(), **changes}
    pipe, truth, net, n = (fixed.pop(name) for name in ("pipe", "truth", "net", "n"))
    named: dict[str, Any] = {"model": {"weights_sha256": "w" * 64}, "file": place / SWEEP, "evaluate": asked, **fixed}
    return sweep(pipe, truth, net, axes(texts), n, **named)


def test_each_combination_is_measured_with_the_same_seed(tmp_path: Path) -> None:
    asked, told = Asked(), []
    points = run(tmp_path, asked, ["steps=4,2", "sampler=heun"], seed=3, watch=lambda *seen: told.append(seen), judge=5)
    assert [(p.value, p.low, p.high, p.calls, p.seconds) for p in points] == [(4, 3, 5, 7, 0.5), (2, 1, 3, 3, 0.5)]
    assert {(a["seed"], a["n"], a["measures"]) for a in asked.settings} == {(3, 100, ("fd",))}
    assert [a["sampler"] for a in asked.settings] == [Heun(), Heun()]
    assert [a["judge"] for a in asked.settings] == [5, 5] and asked.settings[0]["model"] == {"weights_sha256": "w" * 64}
    assert told == [("Point 1 of 2: Drawing", 0.5), ("Point 2 of 2: Drawing", 0.5)]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    first = run(tmp_path, Asked(), ["steps=2,4"])
    again = Asked()
    assert run(tmp_path, again, ["steps=4,6,2"])[2] == first[0]
    assert [a["steps"] for a in again.settings] == [6]
    others = (
        *({"n": 101}, {"seed": 1}, {"model": {"weights_sha256": "v" * 64}}, {"truth": Truth("j" * 64)}),
        {"truth": Truth(n=100)},
        *({"net": Net("lite0")}, {"net": Net(weights="1" * 64)}, {"net": Net(resize="to 8 x 8")}),
    )
    for changes in others:
        asked = Asked()
        run(tmp_path, asked, ["steps=2,4"], **changes)
        assert len(asked.settings) == 2, changes
    asked = Asked()
    run(tmp_path, asked, ["steps=2,4"])
    assert asked.settings == []  # and the others have taken nothing away


def test_a_sweep_that_is_stopped_keeps_its_points(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Asked(fail_after=2), ["steps=2,4,6"])
    assert len((tmp_path / SWEEP).read_text().splitlines()) == 2
    assert [f.name for f in tmp_path.iterdir()] == [SWEEP]
    asked = Asked()
    assert [p.value for p in run(tmp_path, asked, ["steps=2,4,6"])] == [2, 4, 6]
    assert [a["steps"] for a in asked.settings] == [6]


def test_nothing_is_drawn_while_something_is_refused(tmp_path: Path) -> None:
    asked = Asked()
    with pytest.raises(SweepError, match="guidance=2"):
        run(tmp_path, asked, ["guidance=1,2"], pipe=pipeline(classes=()))
    assert asked.settings == [] and not (tmp_path / SWEEP).exists()
    assert len(run(tmp_path, asked, ["guidance=1,2"], pipe=pipeline(classes=()), skip=True)) == 1
    with pytest.raises(SweepError, match="guidance=2"):  # nothing is left
        run(tmp_path, asked, ["guidance=2"], pipe=pipeline(classes=()), skip=True)


def test_points_are_those_of_these_weights_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models made in Python have no folder whose manifest would tell their weights."""
    one, two = pipeline(), pipeline()  # no seed: other weights

    def measured(pipe: Pipeline) -> int:
        asked = Asked()
        run(tmp_path, asked, ["steps=2"], pipe=pipe, model={})
        return len(asked.settings)

    assert [measured(pipe) for pipe in (one, two, one, two)] == [1, 1, 0, 0]
    for version in ("inkwash.pipeline.__version__", "torch.__version__"):
        with monkeypatch.context() as other:
            other.setattr(version, "0.0")
            assert measured(one) == 1
        assert measured(one) == 0
    chunked = Pipeline(one.config, one.model, one.device, chunk=7)
    assert measured(chunked) == 1


def test_two_sweeps_at_once_keep_the_points_of_both(tmp_path: Path) -> None:
    other = Asked()
    inner = Asked(meanwhile=lambda: run(tmp_path, other, ["steps=5"], folder=tmp_path / "swept"))
    run(tmp_path, inner, ["steps=2"], folder=tmp_path / "swept")
    assert [a["steps"] for a in (*inner.settings, *other.settings)] == [2, 5]
    again = Asked()
    assert [p.value for p in run(tmp_path, again, ["steps=2,5"])] == [2, 5] and again.settings == []


def test_a_sweep_deletes_the_pictures_that_it_drew_and_no_others(tmp_path: Path) -> None:
    theirs = tmp_path / "swept" / "theirs"
    run(tmp_path, Asked(), ["steps=2,3"], folder=tmp_path / "swept")
    assert not (tmp_path / "swept").exists()
    theirs.mkdir(parents=True)
    run(tmp_path, Asked(), ["steps=3,4"], folder=tmp_path / "swept")
    with pytest.raises(KeyboardInterrupt):  # what is drawn already is there when it goes on
        run(tmp_path, Asked(meanwhile=stopped), ["steps=5"], folder=tmp_path / "swept")
    assert sorted(f.name for f in (tmp_path / "swept").iterdir()) == ["5", "theirs"]


def stopped() -> None:
    raise KeyboardInterrupt


@dataclass(frozen=True)
class Second(Ranks):
    """The second of two ranks; counts how often it waits."""

    waits: list[int] = field(default_factory=list)

    def barrier(self) -> None:
        self.waits.append(1)


def test_all_ranks_draw_and_the_first_alone_measures(tmp_path: Path) -> None:
    asked, second = Asked(), Second(1, 2)
    assert run(tmp_path, asked, ["steps=2,4"], ranks=second, folder=tmp_path / "swept") == []
    assert [(a["steps"], a["measures"]) for a in asked.settings] == [(2, ()), (4, ())] and len(second.waits) == 2
    assert not (tmp_path / SWEEP).exists() and len(list((tmp_path / "swept").iterdir())) == 2
    first, asked = Second(0, 2), Asked()
    assert len(run(tmp_path, asked, ["steps=2,4"], ranks=first, folder=tmp_path / "swept")) == 2
    assert [a["measures"] for a in asked.settings] == [("fd",), ("fd",)] and len(first.waits) == 2
    assert run(tmp_path, asked, ["steps=2,4"], ranks=second, folder=tmp_path / "swept") == []
    assert len(asked.settings) == len(first.waits) == 2 == len(second.waits)  # nothing to draw: nobody waits


def test_a_point_cut_short_is_measured_again(tmp_path: Path) -> None:
    run(tmp_path, Asked(), ["steps=2,4"])
    file = tmp_path / SWEEP
    file.write_bytes(file.read_bytes()[:-20])
    asked = Asked()
    assert [p.value for p in run(tmp_path, asked, ["steps=2,4"])] == [2, 4]
    assert [a["steps"] for a in asked.settings] == [4]
    assert [p.value for p in run(tmp_path, asked, ["steps=2,4"])] == [2, 4] and len(asked.settings) == 1


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '[{"record": 1}]'])
def test_a_damaged_file_is_not_written_over(tmp_path: Path, content: str) -> None:
    (tmp_path / SWEEP).write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        run(tmp_path, Asked(), ["steps=2"])
    assert (tmp_path / SWEEP).read_text() == content


# The front.


def test_the_front_is_what_no_other_point_beats() -> None:
    a, b, c = point(9, 5), point(5, 10), point(2, 40)
    worse, dearer, both = point(6, 10), point(5, 11), point(7, 20)
    assert pareto([both, c, worse, a, dearer, b], "calls") == [a, b, c]


def test_of_points_alike_in_both_all_are_kept() -> None:
    a, b = point(5, 10, steps=3), point(5, 10, steps=4)
    assert pareto([b, a], "calls") == [b, a]
    assert pareto([point(5, 10), c := point(4, 10)], "calls") == [c]  # no dearer and better
    assert pareto([point(5, 10), c := point(5, 9)], "calls") == [c]  # no worse and cheaper


def test_the_front_is_of_one_cost() -> None:
    slow, fast = point(5, 10, seconds=9.0), point(6, 20, seconds=1.0)
    assert pareto([slow, fast], "calls") == [slow]
    assert pareto([slow, fast], "seconds") == [fast, slow]


def test_more_is_better_where_the_record_says_so() -> None:
    low, high = point(0.5, 5, better="higher"), point(0.9, 10, better="higher")
    assert pareto([low, high, point(0.4, 6, better="higher")], "calls") == [low, high]
    assert best([low, high]) is high
    assert best([point(1, 5), point(2, 5)]).value == 1


def test_values_that_are_not_numbers_are_on_no_front() -> None:
    whole = point(5, 10)
    assert pareto([point(math.nan, 1), whole, point(1, 3, seconds=math.nan)], "seconds") == [whole]
    assert best([point(math.nan, 1), whole]) is whole
    with pytest.raises(ValueError, match="none is best"):
        best([point(math.nan, 1)])


def test_the_best_of_equals_is_the_cheapest() -> None:
    cheap = point(5, 4)
    assert best([point(5, 8), cheap, point(5, 6)]) is cheap


def test_the_table_says_it_all() -> None:
    points = [
        replace(point(12.3456, 7, 0.0123, method=Ddim(eta=0.5), steps=7), low=12.0, high=12.71),
        point(20.0, 9, 0.5, guidance=1.5),
    ]
    lines = table(points).splitlines()
    assert [c.strip() for c in lines[0].split("|")[1:-1]] == [
        *("#", "sampler", "steps", "guidance", "grid", "calls", "s a picture", "FD-raw ↓", "95 %", "front")
    ]
    cells = [[c.strip() for c in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0] == ["1", "ddim(eta=0.5)", "7", "1", "even", "7", "0.0123", "12.35", "12 to 12.71", "calls, seconds"]
    assert cells[1] == ["2", "heun", "20", "1.5", "even", "9", "0.5", "20", "", ""]
    assert len({len(line) for line in lines}) == 1
    assert "path" in table([point(1, 1, path=VE())]).splitlines()[0]


# The picture.


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image).astype(int)


def near(image: Any, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels(image) - colour).max(2) < 12


def test_lines_go_through_their_points_and_rings_round_them() -> None:
    blue, ink = (38, 98, 168), (38, 42, 48)
    marks = [Mark((10.0, 0.1), 8.0, best=(True, False), name=""), Mark((100.0, 1.0), 2.0)]
    plain = front({"": [m._replace(best=()) for m in marks]}, ("calls", "s"), ylabel="", title="")
    ringed = front({"": marks}, ("calls", "s"), ylabel="", title="")
    half = plain.width // 2
    for part in (slice(None, half), slice(half, None)):
        down, across = np.nonzero(near(plain, blue)[:, part])
        assert down[across.argmin()] < down[across.argmax()] - 200  # from the top left to the bottom right
    changed = np.abs(pixels(plain) - pixels(ringed)).max(2) > 30
    down, across = np.nonzero(changed)
    assert across.max() < half  # on the first panel alone
    first = np.nonzero(near(plain, blue)[:, :half])
    left = first[1].min() + 4  # the first point's centre is its radius inside
    assert abs((across.min() + across.max()) / 2 - left) <= 1.5
    assert 14 <= across.max() - across.min() <= 20
    assert near(ringed, ink)[changed].any()


def test_the_axis_of_values_is_logarithmic_over_more_than_a_decade() -> None:
    """The middle point, the geometric mean, is in the middle then; at less than a decade it lies nearer the low end."""

    def middle(low: float, high: float) -> float:
        heights = []
        for value in (low, math.sqrt(low * high), high):  # each alone in its colour
            marks = {"a": [Mark((1.0,), low), Mark((1.0,), high)], "b": [Mark((2.0,), value)]}
            image = front(marks, ("calls",), ylabel="", title="", size=(600, 400))
            heights.append(np.nonzero(near(image, (217, 108, 40))[:380])[0].mean())
        return (heights[1] - heights[0]) / (heights[2] - heights[0])

    assert middle(1.0, 10.1) == pytest.approx(0.5, abs=0.02)
    assert middle(1.0, 9.9) == pytest.approx((math.sqrt(9.9) - 1) / 8.9, abs=0.02)


def test_intervals_fit_into_the_picture() -> None:
    faint = tuple(round(c + (255 - c) * 0.45) for c in (38, 98, 168))

    def extent(low: float, high: float, top: float) -> tuple[int, int]:
        marks = {"": [Mark((1.0,), 2.0, low, high), Mark((2.0,), top)]}
        image = front(marks, ("calls",), ylabel="", title="", size=(600, 400))
        rows = np.nonzero(np.abs(pixels(image) - faint).max(2) < 30)[0]
        return int(rows.min()), int(rows.max())

    high, low = extent(-1.0, 4.0, 3.0)
    assert 76 < high < 110 and 310 < low < 342  # within the panel, 76 to 342, up to its margins
    assert extent(0.0, 3.0, 40.0)[1] in (340, 341, 342)  # logarithmic: to the bottom, and the values keep their room


def test_the_floor_is_a_line_at_its_height() -> None:
    marks = {"": [Mark((1.0,), 1.0), Mark((2.0,), 3.0)]}
    grey = (128, 134, 142)
    image = front(marks, ("calls",), ylabel="", title="", size=(600, 400), floor=2.0)
    rows = np.flatnonzero(near(image, grey).sum(1) > 300)
    dots = np.nonzero(near(image, (38, 98, 168))[:340])[0]
    assert len(rows) in (1, 2) and abs(rows.mean() - (dots.min() + dots.max()) / 2) < 2
    assert not (near(front(marks, ("calls",), ylabel="", title="", size=(600, 400)), grey).sum(1) > 300).any()


def test_thirty_points_have_a_legend_that_fits_and_points_that_cannot_be_placed_are_left_out() -> None:
    lines = {f"a sampler of a long name, number {i}": [Mark((5.0, 0.1), 3.0 + i)] for i in range(30)}
    few, many = (front(dict(list(lines.items())[:n]), ("c", "s"), ylabel="", title="") for n in (2, 30))
    assert many.height > few.height and many.width == few.width
    assert (pixels(many)[:, -8:] == 255).all()  # nothing runs out of the picture
    front({"a": [Mark((0.0,), 1.0), Mark((1.0,), math.nan), Mark((math.inf,), 1.0)]}, ("c",), ylabel="", title="")
    front({}, ("c",), ylabel="", title="")


def test_a_sweeps_picture_names_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def spy(lines: Any, costs: Any, **settings: Any) -> Any:
        seen.update(settings, lines=lines, costs=costs)

    monkeypatch.setattr("inkwash.pictures.front", spy)
    points = [
        point(4, 20, 0.2, steps=20),
        point(9, 10, 0.1, steps=10),
        point(3, 20, 0.4, steps=20, guidance=1.5),
    ]
    points = [replace(p, record=replace(p.record, floor=1.25, floor_n=100)) for p in points]
    plot(points)
    assert list(seen["lines"]) == ["heun, guidance 1", "heun, guidance 1.5"]
    assert [m.name for m in seen["lines"]["heun, guidance 1"]] == ["10", "20"]  # in the order of their calls
    assert seen["floor"] == 1.25 and "100 each" in seen["note"] and "twice" in seen["note"]
    assert seen["ylabel"] == "FD-raw against moons (test), n = 100 (lower is better)"
    marks = seen["lines"]["heun, guidance 1"]
    assert [(m.costs, m.value, m.best) for m in marks] == [((10, 0.1), 9, (True, True)), ((20, 0.2), 4, (False, True))]
    with pytest.raises(ValueError, match="without points"):
        plot([])


# Adopting.


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    made = config()
    save_model(made, made.build().net.state_dict(), tmp_path / "run" / "model")
    return tmp_path / "run"


def test_a_point_becomes_the_models_default(model: Path) -> None:
    def sha() -> str:
        return str(json.loads((model / "model" / "manifest.json").read_text())["files"]["model.safetensors"]["sha256"])

    before, weights = sha(), load_model(model)[1].net.state_dict()
    weights = {k: v.clone() for k, v in weights.items()}
    chosen = Sampling(Ddim(eta=0.5), steps=12, guidance=1.5, grid=Karras(), path=VE())
    done = adopt(model, chosen)
    assert done.before == Sampling(Heun(), steps=3) and done.now == chosen
    assert done.note == ""  # there is no recipe, so no training that could go on
    after, loaded = load_model(model)
    assert after == replace(config(), sampling=chosen)
    assert sha() == before
    assert all(torch.equal(v, weights[k]) for k, v in loaded.net.state_dict().items())
    checkpoint.verify(model / "model")
    assert "eta=0.5" in (model / "model" / "README.md").read_text()


def test_the_card_keeps_the_numbers_of_these_weights(model: Path) -> None:
    (model / "recipe.toml").write_text("")
    theirs = record(7.25, model={"weights_sha256": "0" * 64})
    append(model / "evaluation", [record(12.5, model={"weights_sha256": weights_hash(model)}), theirs])
    adopt(model, Sampling(steps=5))
    card = (model / "model" / "README.md").read_text()
    assert "12.5" in card and "7.25" not in card


def test_a_model_in_training_is_left_alone(model: Path) -> None:
    with checkpoint.atomic.held(model) as free:
        assert free
        with pytest.raises(ValueError, match="being trained"):
            adopt(model, Sampling(steps=5))
    assert load_model(model)[0].sampling == Sampling(Heun(), steps=3)


def test_adopting_in_a_run_says_that_training_takes_it_back(model: Path) -> None:
    (model / "recipe.toml").write_text("")
    assert "[sampler]" in adopt(model, Sampling(steps=5)).note
    assert adopt(model / "model", Sampling(steps=5)).note


def test_training_that_goes_on_says_that_it_takes_adopted_settings_back(tmp_path: Path) -> None:
    points = {"source": "moons", "limit": 64}
    told = {"train": {"steps": 1, "batch_size": 8}, "net": {"kind": "mlp", "width": 8, "depth": 1}, "data": points}
    list(train({**told, "sampler": {"steps": 3}}, tmp_path / "run"))

    def resumed(steps: int) -> str:
        recipe, _ = resume_recipe(tmp_path / "run", {"train.steps": steps})
        return "\n".join(note for p in train(recipe, resume=tmp_path / "run") for note in p.notes)

    assert "sampling settings" not in resumed(2)
    adopt(tmp_path / "run", Sampling(Ddim(eta=0.5), steps=12))
    assert "adopted after training" in resumed(3)
    assert load_model(tmp_path / "run")[0].sampling.steps == 3
    assert "sampling settings" not in resumed(4)


def test_what_does_not_fit_the_model_is_not_adopted(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"end at t = 0\.1"):
        adopt(model, Sampling(steps=1, grid=Listed((1.0, 0.1))))
    assert load_model(model)[0].sampling == Sampling(Heun(), steps=3)
    plain = config(classes=())
    save_model(plain, plain.build().net.state_dict(), tmp_path / "plain")
    with pytest.raises(ValueError, match="needs a model with classes"):
        adopt(tmp_path / "plain", Sampling(guidance=2.0))


def test_a_curve_is_of_one_setting_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panel for every measure, in order of the scale; none where something else differs too, or nothing does."""
    drawn: list[tuple[str, list[tuple[float, float]], float | None]] = []

    def seen(lines: dict[str, list[Mark]], costs: Any, **named: Any) -> Any:
        (marks,) = lines.values()
        drawn.append((named["title"], [(m.costs[0], m.value) for m in marks], named["floor"]))
        return front(lines, costs, **named)

    monkeypatch.setattr("inkwash.evaluation.front.pictures.front", seen)
    recall = replace(MEASURE, name="recall")

    def at(guidance: float, **settings: Any) -> Point:
        beside = Record(recall, 1 / guidance, floor=0.8, floor_n=50, better="higher")
        return replace(point(2 * guidance, 9, guidance=guidance, **settings), also=(beside,))

    points = [at(4.0), at(1.0), at(2.0)]
    image = curve(points)
    assert image is not None and image.width == 2 * 440
    assert drawn == [
        ("FD-raw", [(1, 2.0), (2, 4.0), (4, 8.0)], None),
        ("recall", [(1, 1.0), (2, 0.5), (4, 0.25)], 0.8),
    ]
    assert curve([at(1.0), at(2.0, steps=7)]) is None and curve([at(1.0), at(1.0)]) is None
    lines = table(points).splitlines()
    assert "| recall |" in lines[0] and "| 0.25 " in lines[2] and "| 1 " in lines[3]
