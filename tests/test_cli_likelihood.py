"""Likelihoods of data sets: the figures against exact ones, what the command prints and writes, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from gaussian import LAM, MU, Oracle
from inkwash.cli import main
from inkwash.codec import Pixels, Scaled, Standard
from inkwash.data import Dataset, load, order, split
from inkwash.evaluation import BoundSettings, FlowSettings, Interval, bound_plot, held_out, measure, trace_for
from inkwash.grids import Even, Karras, Quadratic
from inkwash.likelihood import Adaptive, Exact, HeunSteps, Hutchinson, dequantised, discrete_bound, log_likelihood
from inkwash.model import Model, Plain
from inkwash.modelfolder import Config, save_model
from inkwash.nets import MLP, UNet
from inkwash.noise import Philox
from inkwash.paths import VE, Linear, LinearBetas, Table
from inkwash.pipeline import Pipeline
from inkwash.sampling import Sampling
from inkwash.targets import Eps, Flow, V
from inkwash.types import Condition, Given

STD = (2.0, 0.5, 1.0, 3.0)


def dataset(images: np.ndarray, labels: Any = None, classes: tuple[str, ...] = ()) -> Dataset:
    labels = None if labels is None else np.asarray(labels, np.int64)
    return Dataset("made", images, labels, classes, None, "print", generated=True)


def vectors() -> tuple[Pipeline, Dataset, torch.Tensor]:
    """A model that is perfect on Gaussian data with deviations of their own, 40 examples, and their exact ln p."""
    x = MU + LAM.sqrt() * torch.randn(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = (x * torch.tensor(STD) + 1.0).float()
    config = Config((4,), MLP(), Linear(), Flow(), Plain(), Standard((1.0,) * 4, STD), data="made")
    net = Oracle(Flow())
    log_p = -0.5 * ((x - MU) ** 2 / LAM + (2 * math.pi * LAM).log()) - torch.tensor(STD).log()
    return Pipeline(config, Model(net, Linear(), Flow(), net), torch.device("cpu")), dataset(u.numpy()), log_p.sum(1)


def test_floats_are_measured_in_their_own_units() -> None:
    """The flow is exact; the bound is that of `discrete_bound`, with the last step in the data's units."""
    pipe, data, log_p = vectors()
    flow = FlowSettings(Adaptive(1e-5, 1e-5), trace=Exact())
    rows = np.arange(5, 40)
    found = measure(pipe, data, 20, rows=rows, bound=BoundSettings(40), flow=flow, seed=3, batch_size=7)
    chosen = rows[order(3, 0, 35)[:20]]
    exact = -log_p[chosen] / 4
    assert found.unit == "nats/dim"
    assert found.flow is not None and found.bound is not None
    assert found.flow.value.mean == pytest.approx(float(exact.mean()), abs=2e-4)
    assert found.flow.value.half == pytest.approx(1.959964 * float(exact.std()) / math.sqrt(20), abs=2e-4)
    b = found.bound
    same = discrete_bound(
        pipe.model,
        Linear(),
        torch.linspace(1, 0, 41, dtype=torch.float64),
        pipe.config.codec.encode(torch.from_numpy(data.images[chosen])),
        Condition(),
        Philox(3, torch.from_numpy(chosen)),
        variance="large",
    )
    scale = -sum(map(math.log, STD))
    assert b.total.mean == pytest.approx(float(same.total.mean() - scale) / 4, rel=1e-5)
    assert b.last.mean == pytest.approx(float(same.steps[-1].mean() - scale) / 4, rel=1e-5)
    assert b.middle.mean == pytest.approx(float(same.steps[:-1].sum(0).mean()) / 4, rel=1e-5)
    assert b.prior.mean + b.middle.mean + b.last.mean == pytest.approx(b.total.mean)
    assert sum(b.steps) == pytest.approx(b.middle.mean + b.last.mean)
    assert (b.calls, len(b.times), len(b.steps), b.variance) == (40, 41, 40, "large")
    which = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
    assert found.settings["data"] == {"name": "made", "fingerprint": "print", "of": 35, "rows": which}
    assert (found.settings["n"], found.settings["seed"], found.settings["labels"]) == (20, 3, "none")
    assert found.settings["dequantisation"] is None


def on_ve(std: float = 0.5) -> tuple[Pipeline, Dataset, float]:
    """A model that is perfect on data N(0, std²) on EDM's path, sampled on Karras' grid; the data; their -ln p."""
    lam = torch.full((4,), std**2, dtype=torch.float64)
    x = lam.sqrt() * torch.randn(200, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    net = Oracle(V(), torch.zeros(4, dtype=torch.float64), lam)
    config = Config((4,), MLP(), VE(), V(), Plain(), Standard((0.0,) * 4, (1.0,) * 4), sampling=Sampling(grid=Karras()))
    truth = 0.5 * (x**2 / lam + (2 * math.pi * lam).log()).mean()
    return Pipeline(config, Model(net, VE(), V(), net), torch.device("cpu")), dataset(x.float().numpy()), float(truth)


def test_the_bound_is_of_the_grid_the_model_samples_on() -> None:
    """On VE the last of 100 even steps is at sigma = 0.8. On the model's own grid the large variance is the tighter."""
    pipe, data, truth = on_ve()

    def found(**settings: Any) -> Any:
        return measure(pipe, data, 200, bound=BoundSettings(100, **settings), batch_size=200)

    own, even, small = found(), found(grid=Even()), found(variance="small")
    assert (own.bound.grid, own.bound.least, own.bound.variance) == ("karras", pytest.approx(0.002), "large")
    assert own.settings["bound_settings"]["grid"]["kind"] == "karras"
    assert (even.bound.grid, even.bound.least) == ("even", pytest.approx(0.8))
    assert own.bound == found(grid=Karras()).bound
    assert own.bound.total.mean - truth == pytest.approx(0.38, abs=0.03)
    assert even.bound.total.mean - truth == pytest.approx(0.91, abs=0.03)
    assert small.bound.total.mean - truth == pytest.approx(1.39, abs=0.03)
    assert found(grid=Karras(low=0.008)).bound.total.mean < own.bound.total.mean


def pictures(learned: bool = False, table: bool = False) -> tuple[Pipeline, Dataset]:
    torch.manual_seed(0)
    path, target = (Table(LinearBetas(20, 1e-3, 0.3)), V()) if table else (Linear(), Flow())
    config = Config((1, 8, 8), UNet("tiny"), path, target, Plain(), Pixels(), ("cat", "dog"), data="made")
    net = UNet("tiny").build((1, 8, 8), Given(2), 2 if learned else 1)
    for p in net.parameters():
        if not p.any():  # the zeros of a fresh network, which hide its labels
            torch.nn.init.normal_(p, std=0.1)
    u = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), dtype=np.uint8)
    model = Model(net, path, target, Plain(), learned_variance=learned)
    return Pipeline(config, model, torch.device("cpu")), dataset(u, [0, 1, 1, 0, 0, 1, 0, 1, 1], ("cat", "dog"))


def test_pictures_are_measured_in_bits() -> None:
    """Both are what `inkwash.likelihood` gives for the chosen pictures with their labels, divided by 64·ln 2."""
    pipe, data = pictures()
    told: list[float] = []
    flow = FlowSettings(HeunSteps(3, Even()), trace=Hutchinson(2), smallest=0.01)
    found = measure(pipe, data, 5, bound=BoundSettings(4), flow=flow, seed=1, batch_size=2, watch=told.append)
    chosen = order(1, 0, 9)[:5].copy()
    x = Pixels().encode(torch.from_numpy(data.images[chosen]))
    cond, noise = Condition(torch.from_numpy(data.labels[chosen])), Philox(1, torch.from_numpy(chosen))
    times = torch.linspace(1, 0, 5, dtype=torch.float64)
    bits = 64 * math.log(2)
    b = discrete_bound(pipe.model, Linear(), times, x, cond, noise, variance="large", bin=2 / 255)
    assert found.bound is not None and found.flow is not None and found.unit == "bits/dim"
    parts = {"prior": b.prior, "middle": b.steps[:-1].sum(0), "last": b.steps[-1], "total": b.total}
    for name, values in parts.items():
        assert getattr(found.bound, name).mean == pytest.approx(float(values.mean() / bits), rel=1e-5)
    assert found.bound.total.half == pytest.approx(1.959964 * float(b.total.std()) / bits / math.sqrt(5), rel=1e-4)
    assert found.bound.steps == pytest.approx((b.steps.mean(1) / bits).tolist(), rel=1e-5)
    assert found.bound.times == (1.0, 0.75, 0.5, 0.25, 0.0)
    log_p = log_likelihood(
        pipe.model,
        Linear(),
        dequantised(x, 2 / 255, noise),
        cond,
        noise,
        solver=HeunSteps(3, Even()),
        trace=Hutchinson(2),
        smallest=0.01,
    )
    assert found.flow.value.mean == pytest.approx(float(-log_p.mean() / bits) + math.log2(127.5), rel=1e-5)
    assert found.flow.calls == 6
    assert found.settings["labels"] == "own"
    assert told == sorted(told) and told[-1] == 1 and max(told[:12]) <= 0.5 and len(told) == 3 * (4 + 6) + 2
    again = measure(pipe, data, 5, flow=flow, seed=1, batch_size=5)
    assert again.bound is None and again.flow is not None
    assert again.flow.value.mean == pytest.approx(found.flow.value.mean, rel=1e-5)
    assert measure(pipe, data, 1, bound=BoundSettings(1)).bound.total.half is None  # type: ignore[union-attr]


def test_a_table_is_asked_at_its_entries() -> None:
    """The chain's times are entries, each once; a learned variance is used where there is one; some steps of many."""
    pipe, data = pictures(learned=True, table=True)
    found = measure(pipe, data, 2, bound=BoundSettings(12, grid=Quadratic(), terms=3)).bound
    assert found is not None
    assert [t * 20 for t in found.times] == pytest.approx([20, 17, 14, 12, 9, 7, 5, 4, 3, 2, 1, 0])
    assert (found.calls, found.variance, len(found.steps)) == (4, "learned", 11)
    small = measure(pipe, data, 2, bound=BoundSettings(12, variance="small")).bound
    assert small is not None and small.variance == "small" and small.calls == 12
    flow = measure(pipe, data, 2, flow=FlowSettings(HeunSteps(1))).flow
    assert flow is not None and flow.least == pytest.approx(math.sqrt(1e-3 / 0.999))  # the first beta is 1e-3


def test_labels_that_are_not_the_model_s_are_any_class() -> None:
    pipe, data = pictures()
    flow = FlowSettings(HeunSteps(1), smallest=0.3)
    null = replace(data, labels=np.full(9, -1))
    expected = measure(pipe, null, 4, flow=flow)
    assert expected.settings["labels"] == "own"
    for other in (replace(data, classes=("dog", "cat")), replace(data, labels=None)):
        found = measure(pipe, other, 4, flow=flow)
        assert found.settings["labels"] == "any class"
        assert found.flow == expected.flow
    assert measure(pipe, data, 4, flow=flow).flow != expected.flow


def test_data_that_do_not_fit_are_refused() -> None:
    pipe, data = pictures()
    flow = FlowSettings(HeunSteps(1))
    with pytest.raises(ValueError, match=r"made has examples of shape \(1, 4, 8\), uint8, .* for \(1, 8, 8\), uint8"):
        measure(pipe, replace(data, images=data.images[:, :4]), 2, flow=flow)
    with pytest.raises(ValueError, match=r"8, 8\), float32, and .* \(1, 8, 8\), uint8\. Use data .*\(made\)"):
        measure(pipe, replace(data, images=data.images.astype(np.float32)), 2, flow=flow)
    floats = Pipeline(replace(pipe.config, codec=Scaled(), data=""), pipe.model, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"float32\. Use data like those it was trained on\.$"):
        measure(floats, data, 2, flow=flow)
    for n, size in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"must be at least 1, not {n} and"):
            measure(pipe, data, n, flow=flow, batch_size=size)
    model = Model(pipe.model.net, Linear(), Eps(), Plain())
    for settings in ({"flow": flow}, {"bound": BoundSettings(3)}):
        with pytest.raises(ValueError, match="does not determine data and noise at t = 1"):
            measure(Pipeline(pipe.config, model, torch.device("cpu")), data, 2, **settings)
    with pytest.raises(ValueError, match="no bound to draw"):
        bound_plot(measure(pipe, data, 2, flow=flow))


def test_intervals_and_probes() -> None:
    assert Interval.of(torch.tensor([1.0, 2.0, 6.0])) == Interval(3.0, pytest.approx(1.959964 * math.sqrt(7 / 3)))
    assert Interval.of(torch.tensor([4.0])) == Interval(4.0, None)
    assert [trace_for(s, None) for s in ((2,), (8, 8), (1, 8, 9), (65,))] == [
        Exact(),
        Exact(),
        Hutchinson(1),
        Hutchinson(1),
    ]
    assert [trace_for(s, 3) for s in ((2,), (1, 28, 28))] == [Hutchinson(3)] * 2


@pytest.fixture
def moons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/moons, whose recipe holds out a tenth, and photos.npy with a model runs/photos of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INKWASH_DEBUG", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    net = MLP(8, 1)
    config = Config(
        (2,), net, Linear(), Flow(), Plain(), Standard((0.0, 0.0), (1.0, 2.0)), ("upper", "lower"), data="moons"
    )
    save_model(config, net.build((2,), Given(2)).state_dict(), "runs/moons/model")
    recipe = '[data]\nsource = "moons"\nval_fraction = 0.1\nlimit = 3000\n[train]\nseed = 5\n'
    Path("runs/moons/recipe.toml").write_text(recipe)
    pipe, data = pictures()
    save_model(replace(pipe.config, data="photos"), pipe.model.net.state_dict(), "runs/photos/model")
    np.save("photos.npy", data.images)
    Path("runs/photos/recipe.toml").write_text('[data]\nsource = "photos.npy"\n')
    return tmp_path


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["likelihood", *args])
    return int(left.value.code or 0)


def test_what_is_held_out(moons: Path) -> None:
    data, rows = held_out("runs/moons")
    assert data.fingerprint == load(inkwash.DataSpec("moons", split="test")).fingerprint
    assert rows.tolist() == list(range(10_000))
    train = load(inkwash.DataSpec("moons", limit=3000))
    mine, held = split(train, 0.1, 5)
    for part, expected in (("val", held), ("train", mine)):
        data, rows = held_out("runs/moons", part=part)  # type: ignore[arg-type]
        assert data.fingerprint == train.fingerprint
        assert rows.tolist() == expected.tolist()
    assert held_out("runs/moons/model", "gaussians")[0].name == "gaussians"
    assert len(held_out("runs/moons", "gaussians", "train")[1]) == 3000  # nothing of other data was held out
    assert len(held_out("runs/photos", "photos.npy")[1]) == 9
    Path("runs/moons/recipe.toml").unlink()
    assert held_out("runs/moons")[0].name == "moons"  # which the model's own config says


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["runs/moons", "--split", "nil"], "--split nil"),
        (["runs/none"], "No model in runs/none"),
        (["runs/photos"], "photos.npy is one array, without a test split. Use --split val, or --data OTHER.npy"),
        (["runs/photos", "--split", "val"], "held nothing out of training (val_fraction = 0). Use --split test"),
        (["runs/moons", "--data", "photos.npy"], "shape (1, 8, 8), uint8, and the model was made for (2,), float32"),
        (["runs/moons", "--solver", "rk4", "--rtol", "0.1"], "--rtol 0.1 is the tolerance of --solver adaptive"),
        (["runs/moons", "--rtol", "1"], "--rtol 1 is the tolerance of --solver adaptive, above 0 and below 1"),
        *(
            (
                ["runs/moons", "--flow", *given],
                f"{given[0]} is of the bound, which --flow leaves out. Drop one of the two",
            )
            for given in (["--plot", "a.png"], ["--terms", "3"], ["--variance", "small"], ["--grid", "even"])
        ),
        *(
            (
                ["runs/moons", "--bound", *given],
                f"{given[0]} is of the flow, which --bound leaves out. Drop one of the two",
            )
            for given in (["--solver", "heun"], ["--probes", "3"], ["--rtol", "0.1"])
        ),
        (["runs/moons", "--flow", "--steps", "3"], "--steps is of the bound, which --flow leaves out, and of --solver"),
        (
            ["runs/moons", "--flow", "--solver", "adaptive", "--steps", "3"],
            "--steps is of the bound, which --flow leaves",
        ),
        (["runs/moons", "--grid", "krras"], "Did you mean karras"),
        (["runs/moons", "--out", "a.txt", "--plot", "b.txt"], "--plot b.txt must end in .png"),
        (["runs/moons", "--variance", "learned", "-n", "2", "--steps", "2"], "no learned variance"),
        (["runs/moons", "--terms", "5", "-n", "2", "--steps", "3"], "terms = 5 must be within 1 to 2"),
    ],
)
def test_mistakes(moons: Path, capsys: pytest.CaptureFixture[str], args: list[str], says: str) -> None:
    assert run(*args) == 2
    said = capsys.readouterr()
    assert says in said.err and said.err.startswith("Error: ") and "Traceback" not in said.err
    assert not Path("likelihood.json").exists()


def test_without_a_recipe_or_data(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs/moons/recipe.toml").unlink()
    assert run("runs/moons", "--split", "val") == 2
    assert "not in a run's folder" in capsys.readouterr().err
    config = Config((2,), MLP(8, 1), Linear(), Flow(), Plain(), Standard((0.0, 0.0), (1.0, 2.0)))
    save_model(config, MLP(8, 1).build((2,)).state_dict(), "runs/nameless")
    assert run("runs/nameless") == 2
    assert "does not say what it was trained on. Give --data SOURCE" in capsys.readouterr().err


def test_the_command(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("runs/moons", "-n", "12", "--steps", "5", "--seed", "2", "--rtol", "1e-3") == 0
    said = capsys.readouterr().out
    figures = json.loads(Path("likelihood.json").read_text())
    pipe = inkwash.load("runs/moons", device="cpu")
    data, rows = held_out("runs/moons")
    exactly = {"bound": BoundSettings(5), "flow": FlowSettings(Adaptive(1e-3, 1e-3), Exact())}
    found = measure(pipe, data, 12, rows=rows, seed=2, **exactly)
    assert found.bound is not None and found.flow is not None
    assert figures["bound"]["total"] == {"mean": found.bound.total.mean, "half": found.bound.total.half}
    assert figures["flow"]["value"]["mean"] == found.flow.value.mean
    told = {"name": "moons", "fingerprint": data.fingerprint, "of": 10_000, "split": "test"}
    assert figures["data"] == told | {"rows": found.settings["data"]["rows"]}
    manifest = json.loads(Path("runs/moons/model/manifest.json").read_text())
    assert figures["model"]["weights_sha256"] == manifest["files"]["model.safetensors"]["sha256"]
    assert figures["model"]["folder"] == "runs/moons/model"
    assert (figures["n"], figures["unit"], figures["inkwash"]) == (12, "nats/dim", inkwash.__version__)
    assert figures["bound_settings"]["steps"] == 5 and figures["flow_settings"]["solver"]["rtol"] == 1e-3
    lines = said.splitlines()
    assert lines[0] == "12 examples of moons (test), each with its own label; nats/dim, mean ± 95 % interval"
    assert [line.split("  ")[1] for line in lines[1:6]] == ["L_T", "L_1 to L_4", "L_0", "bound", "flow"]
    for line, value in ((lines[4], found.bound.total), (lines[5], found.flow.value)):
        assert f"{value.mean:.4f} ± {value.half:.4f}" in line
    assert lines[6] == (
        "bound: an upper bound of -ln p of the data under the chain of 5 steps with large variance, on the grid even "
        "down to sigma/alpha = 0.25."
    )
    assert (
        lines[7]
        == "flow: -ln p of the data under the flow down to sigma/alpha = 0.001; the solver's error is no bound."
    )
    assert lines[8] == "Figures in likelihood.json, the bound step by step in likelihood.png"
    with Image.open("likelihood.png") as image:
        assert image.size == (900, 500)


def test_one_of_the_two(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("runs/photos", "--data", "photos.npy", "-n", "3")
    assert run(*args, "--flow", "--solver", "heun", "--steps", "2", "--out", "out/flow.json") == 0
    said = capsys.readouterr().out
    figures = json.loads(Path("out/flow.json").read_text())
    assert figures["bound"] is None and not Path("out/flow.png").exists()
    assert figures["flow_settings"]["solver"]["kind"] == "heun" and figures["flow"]["calls"] == 4
    assert figures["flow_settings"]["trace"] == {"kind": "exact"} and figures["dequantisation"] == "uniform in the bin"
    assert (
        "flow: on average an upper bound of -log2 P of the 8-bit data, by uniform dequantisation, under the flow down "
        "to sigma/alpha = 0.001; the solver's error is no bound."
    ) in said
    assert "bound " not in said[:60]
    assert "with the label of any class; bits/dim" in said
    assert run(*args, "--bound", "--steps", "2", "--variance", "small", "--plot", "b.png") == 0
    said = capsys.readouterr().out
    assert json.loads(Path("likelihood.json").read_text())["flow"] is None and Path("b.png").exists()
    assert "-log2 P of the 8-bit data under the chain of 2 steps with small variance" in said and "  L_1 " in said
    assert run(*args, "--grid", "karras(low=0.008)", "--steps", "3", "--solver", "rk4", "--probes", "1") == 0
    said = capsys.readouterr().out
    assert "on the grid karras(low=0.008) down to sigma/alpha = 0.008.\n" in said
    assert "the solver's error and the probes' noise are no bounds" in said
    figures = json.loads(Path("likelihood-2.json").read_text())
    assert figures["bound_settings"]["grid"]["low"] == 0.008 and figures["flow_settings"]["solver"]["steps"] == 3
    assert figures["flow"]["least"] == 0.001 and figures["bound"]["least"] == pytest.approx(0.008)


GUIDE = (Path(__file__).parent.parent / "docs" / "likelihood.md").read_text(encoding="utf-8")


def test_the_guide_s_snippet(moons: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    fast = "bound=inkwash.BoundSettings(2), flow=inkwash.FlowSettings(inkwash.HeunSteps(2))"
    code = code.replace("runs/demo", "runs/moons").replace(" 64,", " 4,")
    exec(code.replace("bound=inkwash.BoundSettings(), flow=inkwash.FlowSettings()", fast), {})
    unit, *figures = capsys.readouterr().out.split()
    assert unit == "nats/dim"
    found = measure(
        inkwash.load("runs/moons"),
        held_out("runs/moons")[0],
        4,
        bound=BoundSettings(2),
        flow=FlowSettings(HeunSteps(2)),
    )
    assert found.bound is not None and found.flow is not None
    assert [float(f) for f in figures] == [found.bound.total.mean, found.flow.value.mean, found.flow.value.half]


def test_what_the_guide_names_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    for option in set(re.findall(r"`(--[a-z]+)", GUIDE)):
        assert option in text, option
    for name in re.findall(r"inkwash\.(\w+)", GUIDE):
        assert hasattr(inkwash, name), name
