"""Samplers side by side: what a comparison draws, counts and refuses; and what docs/samplers.md shows is run."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from inkwash import MLP, Config, Ddim, Flow, Heun, Linear, Sampling, Table, UNet
from inkwash.cli import main
from inkwash.codec import Pixels, Standard
from inkwash.compare import ComparisonError, comparison, draw, settings_of, ways
from inkwash.drive import drive
from inkwash.grids import AnyGrid
from inkwash.kinds import from_text, kinds_of
from inkwash.model import Plain
from inkwash.modelfolder import save_model
from inkwash.paths import VE, AnyPath
from inkwash.pictures import matrix, read_settings, text
from inkwash.pipeline import Pipeline
from inkwash.samplers import AnySampler
from inkwash.targets import Eps

ROOT = Path(__file__).parent.parent


def config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "shape": (1, 8, 8),
        "net": UNet("tiny", widths=(32, 32), depth=1),
        "path": Linear(),
        "target": Flow(),
        "inputs": Plain(),
        "codec": Pixels(),
        "classes": ("cat", "dog"),
        "sampling": Sampling(Heun(), steps=3, guidance=1.5),
    }
    return Config(**settings | changes)


POINTS = {"shape": (2,), "net": MLP(width=8, depth=1), "codec": Standard((0.0, 0.0), (1.0, 1.0)), "classes": ()}


def pipeline(**changes: Any) -> Pipeline:
    """A pipeline with random weights, none of them zero."""
    made = config(**changes)
    torch.manual_seed(0)
    model = made.build()
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return Pipeline(made, model, torch.device("cpu"))


@dataclass
class Said:
    status: int
    out: str
    err: str


@pytest.fixture
def inkwash_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line in a folder with the models `pictures`, `points` and `vectors`."""
    vectors = {**POINTS, "shape": (3,), "codec": Standard((0.0,) * 3, (1.0,) * 3)}
    plain = Sampling(Heun(), steps=3)
    for name, changes in (
        ("pictures", {}),
        ("points", {**POINTS, "sampling": plain}),
        ("vectors", {**vectors, "sampling": plain}),
    ):
        pipe = pipeline(**changes)
        save_model(pipe.config, pipe.model.net.state_dict(), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_DEBUG", "")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args: str) -> Said:
        with pytest.raises(SystemExit) as left:
            main(args)
        said = capsys.readouterr()
        return Said(left.value.code, said.out, said.err)

    return run


# Ways


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("steps", [("heun", 1, 1), ("heun", 4, 4), ("dpm++", 1, 1), ("dpm++", 4, 4), ("rk45", None, 3)]),
        # Heun's last step is Euler's: 2N - 1 calls.
        ("calls", [("heun", 1, 1), ("heun", 4, 2), ("dpm++", 1, 1), ("dpm++", 4, 4), ("rk45", None, 3)]),
    ],
)
def test_every_sampler_with_every_count(by: Literal["steps", "calls"], expected: list[Any]) -> None:
    found = ways(pipeline(), ["heun", "dpm++", "rk45"], [1, 4], by=by)
    assert [(w.row, w.column, w.settings.steps) for w in found] == expected


@pytest.mark.parametrize(("calls", "steps"), [(1, 1), (2, 1), (3, 2), (5, 3), (19, 10), (20, 10), (50, 25)])
def test_as_many_calls_as_asked_or_one_less(calls: int, steps: int) -> None:
    (way,) = ways(pipeline(), ["heun"], [calls], by="calls")
    assert way.settings.steps == steps


def test_grids_make_rows_and_a_list_has_its_own_steps() -> None:
    found = ways(pipeline(), ["ddim(eta=0.5)"], [2, 3], grids=["karras", "listed(times=[1, 0.5, 0.2, 0.1, 0])"])
    assert [(w.row, w.column, w.settings.steps) for w in found] == [
        ("ddim(eta=0.5) on karras", 2, 2),
        ("ddim(eta=0.5) on karras", 3, 3),
        ("ddim(eta=0.5) on listed(times=[1, 0.5, 0.2, 0.1, 0])", None, 4),
    ]
    assert {w.settings.method for w in found} == {Ddim(0.5)}
    (way,) = ways(pipeline(), ["ddim"], [2], grids=["karras"], guidance=3.0)
    assert (way.row, way.settings.guidance, way.settings.grid) == ("ddim", 3.0, inkwash.Karras())


def test_what_does_not_exist_or_fit_is_said_at_once() -> None:
    with pytest.raises(ComparisonError) as found:
        ways(pipeline(classes=()), ["huen", "ddim(eta=2)"], [0, 2, -1], grids=["karas"], guidance=2.0)
    told = "\n".join(found.value.mistakes)
    assert len(found.value.mistakes) == 5 and str(found.value) == told
    for said in (
        "steps = 0, -1",
        "Did you mean heun",
        "eta must lie",
        "Did you mean karras",
        "needs a model with class",
    ):
        assert said in told
    with pytest.raises(ComparisonError, match="at least 1") as found:
        ways(pipeline(), ["heun"], [0], by="calls")
    assert found.value.mistakes[0].startswith("calls = 0")


def test_what_a_sampler_refuses_is_found_before_anything_is_drawn() -> None:
    table = pipeline(path=Table(), target=Eps())
    with pytest.raises(ComparisonError) as found:
        ways(table, ["euler", "ddim", "ancestral(added=learned)"], [2, 3], grids=["even", "leading(entries=500)"])
    learned, entries = found.value.mistakes  # each said once, for however many ways
    assert "the table has 1000" in entries or "the table has 1000" in learned
    assert "needs a model that learned" in entries or "needs a model that learned" in learned
    zero_snr = Table(zero_snr=True)
    singular = pipeline()
    singular.config = replace(singular.config, path=zero_snr, target=Eps())
    with pytest.raises(ComparisonError, match="eps"):
        ways(singular, ["ddim"], [2])


@dataclass(frozen=True)
class Thrice(inkwash.types.Component):
    """A user's own sampler: three calls a step."""

    def __call__(self, path: Any, x: Any, times: Any, noise: Any) -> Any:
        for t in times[:-1]:
            for _ in range(3):
                yield inkwash.Query(x, t, t)
        return x


def test_too_few_calls_for_a_step() -> None:
    name = f"{__name__}:Thrice"
    assert [w.settings.steps for w in ways(pipeline(), [name], [3, 8], by="calls")] == [1, 2]
    with pytest.raises(ComparisonError, match="makes 3 calls in a single step, more than 2"):
        ways(pipeline(), [name], [2], by="calls")


def test_what_is_said_twice_is_drawn_once_and_what_is_too_much_not_at_all() -> None:
    found = ways(pipeline(), ["heun", "ddim", "heun", "ddim(eta=0.0)"], [3, 2, 3], grids=["karras", "karras(rho=7.0)"])
    assert [(w.row, w.column) for w in found] == [("heun", 3), ("heun", 2), ("ddim", 3), ("ddim", 2)]
    for by in ("steps", "calls"):
        with pytest.raises(ComparisonError, match=f"{by} = 10001, 99999999999: at most 10000 can be compared"):
            ways(pipeline(), ["ddim"], [5, 10_001, 99_999_999_999], by=by)
    assert ways(pipeline(), ["ddim"], [10_000])[0].column == 10_000


# Drawing


def test_the_network_is_warmed_up_as_the_first_way_asks_it() -> None:
    """An eps model of the straight path has no answer at t = 1, where karras does not go."""
    pipe = pipeline(path=VE(), target=Eps(), classes=(), sampling=Sampling(path=Linear()))
    calls: list[float] = []
    pipe.model.net.register_forward_pre_hook(lambda net, args: calls.append(float(args[1][0])))
    these = ways(pipe, ["ddim"], [3], grids=["karras(high=20)"])
    (one,) = draw(pipe, these, 2)
    assert one.calls == 3 and one.samples.settings["path"] == {"kind": "linear"}
    assert len(calls) == 4 and calls[0] == calls[1] == pytest.approx(1000 * 20 / 80)
    straight = pipeline(target=Eps(), classes=())
    assert draw(straight, ways(straight, ["ddim"], [2], grids=["karras"], guidance=1.0), 1)[0].calls == 2


def test_the_pictures_are_those_a_pipeline_draws_and_the_calls_those_it_makes() -> None:
    pipe = pipeline()
    calls: list[int] = []
    hook = pipe.model.net.register_forward_pre_hook(lambda net, args: calls.append(len(args[0])))
    these = ways(pipe, ["heun", "unipc(order=3)", "rk45(rtol=0.1, atol=0.1)"], [2, 4], guidance=1.5)
    seen: list[float] = []
    found = draw(pipe, these, 3, label="dog", seed=7, watch=seen.append)
    hook.remove()
    warm = 4 * 2  # one call before the clock is looked at; a chunk is 2, guidance doubles it, 3 fill two
    assert sum(calls) == warm + sum(one.calls for one in found) * 4 * 2
    assert [one.calls for one in found][:4] == [3, 7, 2, 4] and found[4].calls > 8
    assert seen == sorted(seen) and seen[-1] == 1.0
    for one in found:
        own = one.way.settings
        again = pipe(3, label="dog", seed=7, sampler=own.method, steps=own.steps, guidance=1.5)
        np.testing.assert_array_equal(one.samples.array, again.array)
        assert one.samples.labels == ("dog",) * 3 and one.seconds > 0
    settings = settings_of(found)
    assert settings["seed"] == 7 and settings["guidance"] == 1.5 and "steps" not in settings and "grid" not in settings
    assert [(c["sampler"]["kind"], c["steps"], c["calls"]) for c in settings["compared"]][:3] == [
        ("heun", 2, 3),
        ("heun", 4, 7),
        ("unipc", 2, 2),
    ]
    assert settings["compared"][0]["seconds"] == round(found[0].seconds, 4)


def test_scales_and_rules_of_guidance_have_a_row_each() -> None:
    pipe = pipeline()
    weak = pipeline(classes=("cat", "dog"))
    with torch.no_grad():
        next(weak.model.net.parameters()).mul_(0.5)
    these = ways(pipe, ["ddim"], [2], guidance=[1, 4, 4.0], rules=["cfg", "rescaled"], interval="0,5", weak=False)
    assert [way.row for way in these] == ["ddim, guidance 1", "ddim, guidance 4, cfg", "ddim, guidance 4, rescaled"]
    found = draw(pipe, these, 2, label="dog")
    for one, (scale, rule) in zip(found, [(1, "cfg"), (4, "cfg"), (4, "rescaled")], strict=True):
        alone = pipe(2, label="dog", sampler="ddim", steps=2, guidance=scale, rule=rule, interval=(0, 5))
        np.testing.assert_array_equal(one.samples.array, alone.array)
    assert len({one.samples.array.tobytes() for one in found}) == 3
    settings = settings_of(found)
    assert "guidance" not in settings and "rule" not in settings and settings["interval"] == [0, 5]
    assert [(c["guidance"], c.get("rule", {}).get("kind")) for c in settings["compared"]] == [
        (1, None),
        (4, None),
        (4, "rescaled"),
    ]
    (away,) = draw(pipe, ways(pipe, ["ddim"], [2], guidance=2, weak=True), 2, label="dog", weak=weak)
    alone = pipe(2, label="dog", sampler="ddim", steps=2, guidance=2, weak=weak)
    np.testing.assert_array_equal(away.samples.array, alone.array)
    plain, other = draw(pipe, ways(pipe, ["ddim"], [2], guidance=[1, 2], weak=True), 2, label="dog", weak=weak)
    np.testing.assert_array_equal(plain.samples.array, found[0].samples.array)
    np.testing.assert_array_equal(other.samples.array, away.samples.array)
    with pytest.raises(ComparisonError, match="guidance = 1 is off"):
        ways(pipe, ["ddim"], [2], guidance=1, weak=True)


def test_the_sheet_has_each_ways_pictures_in_its_place_and_its_figures_under_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: dict[str, tuple[float, float]] = {}
    write = text.write
    monkeypatch.setattr(
        text, "write", lambda draw, at, words, *a, **k: (said.update({words: at}), write(draw, at, words, *a, **k))
    )
    pipe = pipeline()
    found = draw(pipe, ways(pipe, ["ddim", "heun", "rk45(rtol=0.1,atol=0.1)"], [2, 5], by="calls"), 3)
    page = np.asarray(comparison(found, "calls", title="Model", note="note"))
    assert said["Model"][1] < said["note"][1] < said["2 calls"][1] == said["5 calls"][1]
    assert said["2 calls"][0] < said["5 calls"][0] and said["ddim"][1] < said["heun"][1]
    assert said["rk45(rtol=0.1, atol=0.1)"][1] > said["heun"][1]
    scale = 8  # cells of about 60 pixels from 8
    for one in found:
        caption = next(
            w
            for w in said
            if w.endswith(f"{one.seconds:.2f} s")
            and f"{one.calls} call" in w
            and (one.way.column is None or w.startswith(f"{one.way.settings.steps} step"))
        )
        x, y = said[caption]
        first = one.samples.pictures()[0].repeat(scale, 0).repeat(scale, 1).repeat(3, 2)
        column = 2 if one.way.column is None else one.way.column
        assert x == said[f"{column} calls"][0]
        below = int(y) - 5 - (2 * 64 + 2) - (16 if one.way.column is None else 0)
        left = int(x - (2 * 64 + 2) / 2)
        np.testing.assert_array_equal(page[below : below + 64, left : left + 64], first)


def test_points_are_drawn_on_the_same_axes() -> None:
    pipe = pipeline(**POINTS, sampling=Sampling(Heun(), steps=3))
    found = draw(pipe, ways(pipe, ["ddim"], [1, 8]), 300)
    page = np.asarray(comparison(found))
    assert page.shape[1] == 16 + 70 + 22 + 180 + 22 + 180 + 16
    widest = max(found, key=lambda one: np.abs(one.samples.array).max())
    ink = [int((page[:, at : at + 176] != 255).any(2)[50:-40].sum()) for at in (16 + 70 + 22 + 2, 110 + 180 + 22)]
    spread = [float(np.ptp(one.samples.array)) for one in found]
    assert np.argmax(ink) == np.argmax(spread) and widest is found[int(np.argmax(spread))]
    pipe = pipeline(
        **{**POINTS, "shape": (3,), "codec": Standard((0.0,) * 3, (1.0,) * 3)}, sampling=Sampling(Heun(), steps=3)
    )
    with pytest.raises(ValueError, match="Vectors of 3 numbers"):
        comparison(draw(pipe, ways(pipe, ["ddim"], [1]), 3))


def test_a_table_of_pictures() -> None:
    red, tall = Image.new("RGB", (120, 40), "red"), Image.new("RGB", (60, 80), "blue")
    page = np.asarray(matrix({(0, 0): (red, "a"), (1, 1): (tall, "b\nc")}, ["one", "two"], ["x", "y"]))
    rows, across = np.nonzero((page == (255, 0, 0)).all(2))
    assert (np.ptp(rows), np.ptp(across)) == (39, 119) and across.min() == 16 + 70 + 22
    rows_blue, across_blue = np.nonzero((page == (0, 0, 255)).all(2))
    assert rows_blue.min() > rows.max() + 20
    assert across_blue.min() == 16 + 70 + 22 + 120 + 22 + 30  # in the middle of its column
    with pytest.raises(ValueError, match="at least one"):
        matrix({}, ["one"], ["x"])
    for place in ((1, 0), (0, 1), (-1, 0)):
        with pytest.raises(ValueError, match="lies outside of 1 rows and 1 columns"):
            matrix({place: (red, "")}, ["one"], ["x"])


# The command


def test_compare_writes_a_sheet_and_says_the_same(inkwash_: Any, tmp_path: Path) -> None:
    said = inkwash_("compare", "pictures", "--sampler", "heun,ddim(eta=0.5)", "--steps", "3,2,2")
    assert said.status == 0, said.err
    head, *rows, last = said.out.splitlines()
    assert head.split() == ["sampler", "steps", "calls", "seconds", "a", "second"]
    assert [row.split()[:3] for row in rows] == [
        ["heun", "2", "3"],
        ["heun", "3", "5"],
        ["ddim(eta=0.5)", "2", "2"],
        ["ddim(eta=0.5)", "3", "3"],
    ]
    assert last == "6 pictures in each of 4 cells in compare.png"
    settings = read_settings(tmp_path / "compare.png")
    assert settings["n"] == 6 and settings["seed"] == 0 and settings["label"] is None and settings["guidance"] == 1.5
    for row, one in zip(rows, settings["compared"], strict=True):
        assert float(row.split()[3]) == pytest.approx(one["seconds"], abs=0.0051)
        assert float(row.split()[4].replace(",", "")) == pytest.approx(6 / one["seconds"], rel=0.02)

    said = inkwash_(
        "compare", "pictures", "-n", "3", "--calls", "3", "--grid", "even, karras", "--label", "dog", "--label", "cat",
        "--seed", "4", "--guidance", "1", "--precision", "bf16", "--out", "sub/x.png",
    )  # fmt: skip
    assert said.out.splitlines()[-1] == "3 pictures in each of 6 cells in sub/x.png"
    settings = read_settings(tmp_path / "sub/x.png")
    assert settings["label"] == ["dog", "cat", "dog"] and settings["precision"] == "bf16"
    assert [c["grid"]["kind"] for c in settings["compared"]] == ["even", "karras"] * 3
    assert [c["sampler"]["kind"] for c in settings["compared"]] == ["heun", "heun", "dpm++", "dpm++", "ddim", "ddim"]
    assert {c["calls"] for c in settings["compared"]} == {3} and settings["guidance"] == 1.0

    said = inkwash_(
        "compare", "pictures", "-n", "1", "--sampler", "ddim", "--steps", "2", "--guidance", "2,4", "--rule", "apg",
        "--interval", "0.3,5", "--weak", "pictures", "--out", "scales.png",
    )  # fmt: skip
    assert said.status == 0, said.err
    settings = read_settings(tmp_path / "scales.png")
    assert [c["guidance"] for c in settings["compared"]] == [2, 4] and settings["rule"]["kind"] == "apg"
    assert settings["interval"] == [0.3, 5] and "weak" in settings
    said = inkwash_("compare", "pictures", "--guidance", "2,much", "--rule", "agp")
    assert said.status == 2 and "--guidance 2,much must be a number" in said.err and "Did you mean apg" in said.err

    said = inkwash_("compare", "points", "-n", "50", "--sampler", "rk45", "--out", "points.png")
    assert said.status == 0 and said.out.splitlines()[1].split()[1] == "own"
    assert said.out.splitlines()[-1] == "50 points in each of 1 cell in points.png"


def test_compare_tells_all_mistakes_at_once(inkwash_: Any, tmp_path: Path) -> None:
    said = inkwash_(
        "compare", "pictures", "--sampler", "huen,ddim(eta=2)", "--steps", "5,x", "--calls", "0", "--grid", "evn",
        "--label", "cta", "--label", "dog", "--sede", "1", "--out", "x.jpg",
    )  # fmt: skip
    assert said.status == 2 and said.out == ""
    expected = [
        "There is no option --sede. Did you mean --seed?",
        "--out x.jpg must end in .png",
        "--steps 5,x and --calls 0 both say how many",
        "--calls 0 must be whole numbers",
        "no sampler 'huen'. Did you mean heun?",
        "eta must lie in [0, 1]",
        "no grid 'evn'. Did you mean even?",
        "no class 'cta'. Did you mean cat",
    ]
    assert said.err.startswith(f"Error: There are {len(expected)} mistakes:")
    for line, part in zip(said.err.split("\n  - ")[1:], expected, strict=True):
        assert part in line
    assert {p.name for p in tmp_path.iterdir()} == {"pictures", "points", "vectors"}
    said = inkwash_("compare", "nobody", "--sampler", ",", "--steps", "-1")
    assert (
        "There are 3 mistakes" in said.err and "No model in nobody" in said.err and "--sampler names none" in said.err
    )
    said = inkwash_("compare", "vectors", "--label", "cat")
    assert "Vectors of 3 numbers" in said.err and "trained without classes" in said.err


# docs/samplers.md


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs/samplers.md").read_text(encoding="utf-8"), re.DOTALL)


def test_the_guides_commands_run(inkwash_: Any, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "pictures").rename(tmp_path / "runs/demo")
    guide = (ROOT / "docs/samplers.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ inkwash (.*)", guide, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = shlex.split(re.sub(r"(?<=--calls )\S+", "2", command))  # the guide's own words, fewer calls
        said = inkwash_(*words)
        assert said.status == 0, said.err


def test_the_guides_python_says_what_it_says(inkwash_: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "pictures").rename(tmp_path / "runs/demo")
    first, second = blocks("python")
    names: dict[str, Any] = {}
    exec(first, names)
    np.testing.assert_array_equal(names["pictures"].array, names["same"].array)
    assert names["same"].settings["sampler"]["kind"] == "unipc"
    exec(second, names)
    assert names["times"].shape == (9, 2)
    for row, grid in enumerate((names["long"], names["short"])):  # each as it would be alone
        alone = drive(
            inkwash.DpmSolver()(Linear(), names["start"][row : row + 1], grid[:, None], names["noise"]),
            names["denoise"],
            inkwash.Condition(),
        )
        torch.testing.assert_close(names["x"][row : row + 1], alone, rtol=1e-14, atol=1e-14)
    exact = 1 + 0.5 * names["start"]  # the flow of N(1, 0.25) from pure noise
    assert float((names["x"] - exact).abs().max()) < 0.1


def test_the_guide_names_every_sampler_and_what_it_shows_is_there() -> None:
    guide = (ROOT / "docs/samplers.md").read_text(encoding="utf-8")
    for kind in kinds_of(AnySampler):
        assert f"`{kind}" in guide
    for kind in kinds_of(AnyGrid):
        assert f"`{kind}" in guide
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", guide):
        assert (ROOT / "docs" / target).exists(), target
    for picture in (ROOT / "docs/images").glob("samplers-*.png"):
        assert picture.name in guide and picture.stat().st_size < 250_000


@pytest.mark.parametrize(
    ("sampler", "path", "up"),
    [(s, p, up) for s in ("euler", "heun", "adams") for p, up in (("vp", True), ("vp(schedule=sigmoid)", False))]
    + [(s, "linear", True) for s in ("ancestral", "ddim(eta=0.5)", "dpm++(sde=true)", "heun(churn=5)")]
    + [("ancestral(added=learned)", "linear", False)],
)
def test_what_the_guide_says_is_refused_is(sampler: str, path: str, up: bool) -> None:
    along, how = from_text(AnyPath, path, "path"), from_text(AnySampler, sampler, "sampler")
    times = torch.linspace(0, 1, 9, dtype=torch.float64) if up else torch.linspace(1, 0, 9, dtype=torch.float64)
    noise = inkwash.Philox(0, torch.zeros(1, dtype=torch.int64))
    x = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"infinite at t|adds noise on its way|needs a model that learned"):
        drive(how(along, x, times[:, None], noise), lambda q, c: inkwash.Denoised(0 * q.x, q.x), inkwash.Condition())
