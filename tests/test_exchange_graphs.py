"""ONNX and torch.export graphs: they compute what the model does, and their loop draws what the pipeline draws."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import inkwash
from inkwash import checkpoint
from inkwash.asking import hideable
from inkwash.codec import LatentCodec, Latents, Pixels, Standard
from inkwash.conditions import ByGuidance, ByImage, ByText, ByVector, Conditions, Grey
from inkwash.drive import drive
from inkwash.exchange import graphs, to_onnx, to_torch_export
from inkwash.exchange.loops import about, draw_py
from inkwash.exchange.staging import staged
from inkwash.model import Indexed, UnitVariance
from inkwash.modelfolder import Config, save_model
from inkwash.nets import MLP, ModernDiT, TinyAutoencoder, UNet
from inkwash.noise import Philox, Stream
from inkwash.paths import VP, Linear, LinearBetas, SigmoidSchedule, Table
from inkwash.samplers import Ancestral, Ddim, Heun, Jumps
from inkwash.sampling import Sampling
from inkwash.targets import Eps, Flow, V
from inkwash.text import MiniLm

DOCS = Path(__file__).parents[1] / "docs/exchange.md"

PICTURES = Config(
    shape=(1, 8, 8),
    net=UNet("tiny", widths=(8,), depth=1),
    path=Table(LinearBetas(40, scaled=True)),
    target=Eps(),
    inputs=Indexed(40),
    codec=Pixels(),
    classes=("cat", "dog"),
    sampling=Sampling(Ddim(), steps=8, guidance=1.7, clip=True),
)
POINTS = Config(
    shape=(2,),
    net=MLP(width=16, depth=1),
    path=Linear(),
    target=Flow(),
    inputs=UnitVariance(0.9),
    codec=Standard((1.0, -2.0), (0.5, 3.0)),
    sampling=Sampling(Heun(), steps=3),
)


def random(net: nn.Module) -> dict[str, torch.Tensor]:
    """Weights drawn anew, so that no layer is zero."""
    generator = torch.Generator().manual_seed(0)
    return {k: 0.2 * torch.randn(w.shape, generator=generator) for k, w in net.state_dict().items()}


def saved(config: Config, folder: Path) -> Path:
    """A model of this config."""
    save_model(config, random(config.network()), folder)
    return folder


def start(config: Config, n: int, seed: int) -> np.ndarray:
    """The normals a pipeline starts from."""
    return Philox(seed, torch.arange(n))(torch.empty(n, *config.shape), 0, Stream.START).numpy()


def loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What draw.py defines, run in its folder."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "draw"}
    exec((folder / "draw.py").read_text(), names)
    return names


ASKED = replace(
    PICTURES,
    net=ModernDiT(patch=4, depth=1, width=16, heads=1, registers=1),
    path=Linear(),
    target=Flow(),
    inputs=UnitVariance(0.5),
    conditions=Conditions(
        text=ByText(MiniLm()), vector=ByVector(("angle", "size"), (0.0, 1.0), (2.0, 0.5)), image=ByImage(Grey(), 0.1)
    ),
    sampling=Sampling(Ddim(), steps=4, guidance=1.7, interval=(0.2, 2.0)),
)
"""A model that is told everything there is to tell."""


def words(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """What it can be asked for: nothing in the first row, some in the second, all in the others."""
    source = np.random.default_rng(seed)
    normal = {k: source.standard_normal((n, *s), np.float32) for k, s in (("vector", (2,)), ("image", (1, 8, 8)))}
    tokens, known = source.standard_normal((n, 3, 384), np.float32), np.arange(n)
    normal["vector"][0] = normal["image"][0] = normal["vector"][1:2, 1] = normal["image"][1:2, :, 4:] = np.nan
    asked = {"label": known % 3 - 1, "tokens": tokens, "present": np.arange(3) < 2 * known[:, None]}
    return asked | normal


def cond_of(asked: dict[str, np.ndarray]) -> inkwash.Condition:
    return inkwash.Condition(**{k: torch.from_numpy(v) for k, v in asked.items()})


def drawn(config: Config, run: Path, noise: np.ndarray, cond: inkwash.Condition) -> torch.Tensor:
    """What our DDIM makes of noise, by the model's own settings."""
    pipe, own = inkwash.load(run, device="cpu"), config.sampling
    denoiser = own.guided(pipe.model, hideable(config), config.path)
    times = own.times(config.path).expand(-1, len(noise))
    with torch.no_grad():
        return drive(
            Ddim()(config.path, torch.from_numpy(noise), times, Philox(0, torch.arange(len(noise)))), denoiser, cond
        )


def check_every_condition(config: Config, folder: Path, run: Any) -> None:
    """The graph's answers are the model's, for other batches and other numbers of tokens than it was made with."""
    model = inkwash.load(folder / "model", device="cpu").model
    for n, seed in ((1, 1), (2, 2), (5, 3)):
        asked = words(n, seed)
        if n == 5:
            asked |= {k: asked[k][:, :1] for k in ("tokens", "present")}
        x, t = np.random.default_rng(n).standard_normal((n, 1, 8, 8), np.float32), np.linspace(0.2, 0.9, n)
        with torch.no_grad():
            want = model(inkwash.Query(torch.from_numpy(x), *2 * [torch.from_numpy(t)]), cond_of(asked))
        got = run(x, t, *asked.values())
        assert want.x0.std() > 0.1
        for ours, theirs in zip(want, got, strict=False):
            np.testing.assert_allclose(ours.numpy(), theirs, rtol=0, atol=1e-4 * float(ours.abs().max()))
    garbage = asked | {"tokens": np.where(asked["present"][:, :, None], asked["tokens"], np.float32(np.nan))}
    for ours, theirs in zip(got, run(x, t, *garbage.values()), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_condition_comes_with_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(ASKED, tmp_path / "model")
    assert len(to_torch_export(run, tmp_path / "graph")) == 4
    names = loop(tmp_path / "graph", monkeypatch)
    about = names["about"]
    assert about["told"] == {"label": [], "tokens": [1, 384], "present": [1], "vector": [2], "image": [1, 8, 8]}
    assert about["hidden"] == ["label", "tokens", "present", "vector", "image"]
    assert about["conditions"]["vector"]["mean"] == [0.0, 1.0]
    levels = [step["t"] / (1 - step["t"]) for step in about["steps"][1:]]
    assert [step["guidance"] for step in about["steps"]] == [1.0, *(1.7 if 0.2 < r <= 2 else 1.0 for r in levels)]
    assert len({step["guidance"] for step in about["steps"]}) == 2
    check_every_condition(ASKED, tmp_path, names["run_denoiser"])
    noise, asked = start(ASKED, 3, 4), words(3)
    theirs = drawn(ASKED, run, noise, cond_of(asked))
    np.testing.assert_allclose(names["draw"](noise, *asked.values()), theirs, rtol=0, atol=1e-4)
    text = (tmp_path / "graph/README.md").read_text()
    assert "- `tokens` [n, tokens, 384]: float32" in text and "- `present` [n, tokens]: bool" in text
    assert "needs it" not in text


def test_a_loop_asks_for_what_a_file_says_and_needs_what_was_never_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = replace(ASKED, conditions=Conditions(image=ByImage(Grey())), classes=(), sampling=Sampling(Ddim(), steps=2))
    run = saved(shown, tmp_path / "model")
    to_torch_export(run, tmp_path / "graph")
    assert "It has always been given image, and needs it." in (tmp_path / "graph/README.md").read_text()
    monkeypatch.chdir(tmp_path / "graph")
    script = Path("draw.py").read_text()
    monkeypatch.setattr(sys, "argv", ["draw.py", "2", "1"])
    with pytest.raises(SystemExit, match=r"always told image: python draw\.py 2 1 ASKED\.npz"):
        exec(script, {"__name__": "__main__"})
    image = words(3)["image"][1:]
    np.savez("asked.npz", image=image)
    monkeypatch.setattr(sys, "argv", ["draw.py", "2", "1", "asked.npz"])
    exec(script, {"__name__": "__main__"})
    noise = np.random.default_rng(1).standard_normal((2, 1, 8, 8)).astype(np.float32)
    x = drawn(shown, run, noise, inkwash.Condition(image=torch.from_numpy(image)))
    for i in range(2):
        with Image.open(f"{i}.png") as picture:
            want = ((x[i, 0] + 1) * 127.5).round().clamp(0, 255).numpy()
            assert np.abs(np.array(picture).astype(int) - want).max() <= 1
            assert want.std() > 10


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        ({}, [0, 1, 0]),
        ({"tokens": np.ones((3, 2, 384)), "present": np.ones((3, 2), bool)}, [-1, -1, -1]),
        ({"tokens": np.ones((3, 2, 384)), "present": np.ones((3, 2), bool), "label": [1, 0, 1]}, [1, 0, 1]),
        ({"prompt": np.ones(3)}, "is not told prompt, but label, tokens, present, vector, image"),
        ({"label": [1, 0], "vector": np.ones((3, 2))}, "label: there must be one for each of 3 samples"),
        ({"tokens": np.ones((3, 2, 384))}, "both tokens and present"),
    ],
)
def test_a_loop_draws_classes_in_turn_only_where_nothing_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], label: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.json").write_text(json.dumps(about(ASKED)))
    np.savez("asked.npz", **asked)
    script, seen = draw_py(ASKED, "torch-export"), []
    start, _, main = script.partition('if __name__ == "__main__":')
    script = start.replace('torch.export.load("denoiser.pt2").module()', "None") + "draw = told_of\nif True:" + main
    script = script.replace("decode(draw(noise, *told, fresh=fresh))", "draw(noise, *told)")
    monkeypatch.setattr(sys, "argv", ["draw.py", "3", "0", "asked.npz"])
    names = {"__name__": "draw", "told_of": lambda noise, *told: seen.append(told) or []}
    if isinstance(label, str):
        with pytest.raises(SystemExit, match=label):
            exec(script, names)
        return
    exec(script, names)
    assert seen[0][0].tolist() == label and seen[0][0].dtype == np.int64


def test_a_loop_pushes_no_model_that_is_told_its_guidance() -> None:
    told = ByGuidance(1.0, 3.0)
    one = about(replace(ASKED, conditions=Conditions(guidance=told), label_dropout=0.0))
    assert (one["told"], one["hidden"], one["guidance"]) == ({"label": [], "vector": [1]}, ["vector"], 1.0)
    assert {step["guidance"] for step in one["steps"]} == {1.0}
    angle = ByVector(("angle",), (0.0,), (1.0,), dropout=0.0)  # without which it was never trained
    two = about(replace(ASKED, conditions=Conditions(vector=angle, guidance=told), label_dropout=0.0))
    assert (two["told"], two["hidden"], two["guidance"]) == ({"label": [], "vector": [2]}, [], 1.0)


@pytest.mark.slow  # a second ONNX export
@pytest.mark.parametrize("net", [ASKED.net, UNet("tiny", widths=(16, 16), attention=(1,), head_dim=16)])
def test_every_condition_comes_with_an_onnx_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Any) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    config = replace(ASKED, net=net)
    to_onnx(saved(config, tmp_path / "model"), tmp_path / "graph")
    names = loop(tmp_path / "graph", monkeypatch)
    inputs = [(i.name, i.shape[1:]) for i in names["denoiser"].get_inputs()]
    assert [name for name, _ in inputs] == ["x", "t", "label", "tokens", "present", "vector", "image"]
    assert inputs[3][1][1] == 384
    assert inputs[6][1] == [1, 8, 8]
    check_every_condition(config, tmp_path, names["run_denoiser"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path_factory.mktemp("onnx")
    found = to_onnx(saved(PICTURES, folder / "model"), folder / "graph")
    assert [c.what for c in found] == [f"denoiser, {what} of {n}" for n in (1, 3) for what in ("x0", "eps")]
    assert all(c.same for c in found)
    return folder


def test_the_loop_beside_an_onnx_file_draws_the_pipelines_pictures(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = loop(exported / "graph", monkeypatch)
    pipe = inkwash.load(exported / "model", device="cpu")
    for label in ([0, 1, 1], [-1, 0, 1]):
        mine = names["decode"](names["draw"](start(PICTURES, 3, 5), np.array(label)))
        theirs = pipe(3, label=label, seed=5).array
        assert theirs.std() > 20
        assert mine.dtype == np.uint8
        assert np.abs(mine.astype(int) - theirs).max() <= 1


def test_the_loop_in_the_docs_is_the_one_that_is_written() -> None:
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len(blocks) == 1
    written = draw_py(PICTURES, "onnx")
    apart = "\n".join(
        difflib.unified_diff(blocks[0].splitlines(), written.splitlines(), "docs", "draw.py", "", "", 1, "")
    )
    assert blocks[0] == written, f"docs/exchange.md shows another draw.py than is written: edit it by hand.\n{apart}"


def test_draw_py_runs_without_inkwash(exported: Path) -> None:
    script = "import sys; sys.modules['inkwash'] = sys.modules['torch'] = None; sys.argv = ['draw.py', '3', '1'];"
    script += "exec(open('draw.py').read())"
    subprocess.run([sys.executable, "-c", script], cwd=exported / "graph", check=True)
    for i in range(3):
        with Image.open(exported / f"graph/{i}.png") as picture:
            assert picture.size == (8, 8)
        (exported / f"graph/{i}.png").unlink()


def test_an_onnx_file_says_what_it_is(exported: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(exported / "graph/denoiser.onnx")
    told = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items() if "inkwash" in k}
    assert told["inkwash.shape"] == [1, 8, 8]
    assert told["inkwash.classes"] == ["cat", "dog"]
    betas = {"kind": "linear", "steps": 40, "start": 1e-4, "end": 0.02, "scaled": True}
    assert told["inkwash.formula"] == {"kind": "table", "betas": betas, "zero_snr": False}
    assert told["inkwash.target"] == {"kind": "eps"}
    assert [(i.name, i.type, i.shape[1:]) for i in session.get_inputs()] == [
        ("x", "tensor(float)", [1, 8, 8]),
        ("t", "tensor(double)", []),
        ("label", "tensor(int64)", []),
    ]
    about = json.loads((exported / "graph/model.json").read_text())
    assert len(about["path"]) == 41
    numbers = 25 * torch.linspace(1e-4, 0.02, 40, dtype=torch.float64)
    assert about["path"][40]["alpha"] == pytest.approx(float((1 - numbers).log().sum().div(2).exp()), rel=1e-12)
    assert [step["t"] for step in about["steps"]] == pytest.approx(np.linspace(1, 0, 9))


def test_the_loop_beside_a_program_draws_the_pipelines_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = to_torch_export(saved(POINTS, tmp_path / "model"), tmp_path / "graph")
    assert len(found) == 4
    assert all(c.difference < 1e-5 for c in found)
    names = loop(tmp_path / "graph", monkeypatch)
    assert len(names["about"]["steps"]) == 6  # Heun's three steps ask five times: the last is Euler's
    mine = names["draw"](start(POINTS, 4, 2)) * [0.5, 3.0] + [1.0, -2.0]
    theirs = inkwash.load(tmp_path / "model", device="cpu")(4, seed=2, sampler="ddim", steps=5).array
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("write", [to_torch_export, to_onnx])
def test_a_model_of_few_steps_jumps_in_its_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    if write is to_onnx:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    config = replace(
        PICTURES,
        path=Linear(),
        target=Flow(),
        inputs=UnitVariance(0.5),
        jumps=True,
        sampling=Sampling(Jumps(), steps=2),
    )
    write(saved(config, tmp_path / "model"), tmp_path / "graph")
    names = loop(tmp_path / "graph", monkeypatch)
    pipe = inkwash.load(tmp_path / "model", device="cpu")
    mine = names["decode"](names["draw"](start(config, 3, 5), np.array([0, 1, -1])))
    theirs = pipe(3, label=[0, 1, -1], seed=5).array
    assert np.abs(mine.astype(int) - theirs).max() <= 1
    flow = pipe(3, label=[0, 1, -1], seed=5, sampler="euler").array  # what it would draw without its second time
    assert np.abs(mine.astype(int) - flow).mean() > 3

    # Its steps are those of its own sampler, given the same noise: as far as that jumps, and with as much noise.
    normals = [Philox(5, torch.arange(3))(torch.empty(3, 1, 8, 8), i, Stream.STEP).numpy() for i in range(2)]
    run, asked = names["run_denoiser"], list[tuple[float, float]]()
    names["run_denoiser"] = lambda x, t, s, label: asked.append((t[0], s[0])) or run(x, t, s, label)
    pictures = [flow]
    for method, fresh, ends in (
        (Jumps(), [], [2 / 3, 1 / 3, 0]),
        (Jumps(renoise=0.6), normals, [1.6 / 2.6, 0.4 / 1.4, 0]),  # sigma/alpha there is 0.8 times 2, and 0.8 times 1/2
        (Jumps(renoise=1.0), normals, [0, 0, 0]),
        (Ddim(), [], [1, 2 / 3, 1 / 3]),
    ):
        names["about"] = json.loads(json.dumps(about(replace(config, sampling=Sampling(method, steps=3)))))
        assert names["about"]["normals"] == 1 + len(fresh)
        asked.clear()
        drawn = names["decode"](names["draw"](start(config, 3, 5), np.array([0, 1, -1]), fresh=fresh))
        np.testing.assert_allclose(asked, [*zip([1, 2 / 3, 1 / 3], ends, strict=True)], rtol=0, atol=1e-12)
        theirs = pipe(3, label=[0, 1, -1], seed=5, sampler=method, steps=3).array
        assert np.abs(drawn.astype(int) - theirs).max() <= 1
        assert all(np.abs(drawn.astype(int) - other).mean() > 1 for other in pictures)
        pictures.append(drawn)


def test_a_loop_that_renoises_starts_as_one_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`draw.py` 3 7: the noise that samples start from is that of a loop without any more, however many are drawn."""
    config = replace(POINTS, inputs=UnitVariance(0.5), jumps=True, sampling=Sampling(Jumps(renoise=0.5), steps=3))
    monkeypatch.chdir(tmp_path)
    seen: list[Any] = []
    for n, method in ((3, Jumps(renoise=0.5)), (2, Jumps(renoise=0.5)), (3, Jumps())):
        Path("model.json").write_text(json.dumps(about(replace(config, sampling=Sampling(method, steps=3)))))
        loop, _, main = draw_py(config, "torch-export").partition('if __name__ == "__main__":')
        names: dict[str, Any] = {"__name__": "draw"}
        exec(loop.replace('torch.export.load("denoiser.pt2").module()', "None"), names)
        names["draw"] = lambda noise, fresh: seen.append([noise, *fresh]) or 0
        monkeypatch.setattr(sys, "argv", ["draw.py", str(n), "7"])
        exec("if True:" + main, names)
    whole, fewer, plain = seen
    assert len(plain) == 1
    np.testing.assert_array_equal(plain[0], np.random.default_rng(7).standard_normal((3, 2)))
    assert [noise.shape for noise in whole] == [(3, 2)] * 3
    assert len({float(noise[0, 0]) for noise in whole}) == 3
    for a, b in zip(whole, fewer, strict=True):
        np.testing.assert_array_equal(a[:2], b)


def test_a_learned_variance_comes_with_the_graph(tmp_path: Path) -> None:
    sampling = Sampling(Ancestral("learned"), steps=4)
    table: dict[str, Any] = {"path": PICTURES.path, "target": Eps(), "inputs": Indexed(40)}
    config = replace(POINTS, **table, learned_variance=True, sampling=sampling)
    found = to_torch_export(saved(config, tmp_path / "model"), tmp_path / "graph")
    assert [c.what.split()[1] for c in found] == 2 * ["x0", "eps", "var_mix"]
    graph = torch.export.load(tmp_path / "graph/denoiser.pt2").module()
    x, t = torch.ones(5, 2), torch.full((5,), 0.5, dtype=torch.float64)
    x0, eps, mix = graph(x, t)
    c = config.path(t)
    torch.testing.assert_close(c.alpha[0] * x0 + c.sigma[0] * eps, x.double(), rtol=1e-5, atol=1e-5, check_dtype=False)
    model = inkwash.load(tmp_path / "model", device="cpu").model
    theirs = model(inkwash.Query(x, t, t), inkwash.Condition()).var_mix
    torch.testing.assert_close(mix, theirs)


def test_a_graph_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = saved(POINTS, tmp_path / "model")
    right = graphs._program

    def wrong(*given: Any) -> Any:
        graph = right(*given)
        return lambda inputs: [1.01 * y for y in graph(inputs)]

    monkeypatch.setattr(graphs, "_program", wrong)
    with pytest.raises(
        ValueError, match=r"x0 of 1: they differ by at most .* Nothing was written\. .*rounding.*version"
    ):
        to_torch_export(run, tmp_path / "graph")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("other", ["run", "model", "codec", "step", "notes", "file"])
def test_nothing_but_an_earlier_export_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    run = saved(POINTS, tmp_path / "run/model")
    place = tmp_path / other
    match other:
        case "model":
            place = run
        case "codec" | "step":  # both with a manifest, as an export has
            checkpoint.publish(place, {"codec": {"w": torch.ones(2)}}, {"codec.json": "{}", "README.md": ""})
        case "notes":
            place.mkdir()
            (place / "draw.py").write_text("mine")
            (place / "manifest.json").write_text("[]")
        case "file":
            place.write_text("mine")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(graphs, "load", None)  # it is said before the work begins
    with pytest.raises(ValueError, match=r"is a file|is no earlier export, and what is in it \(\w.*\) would be lost"):
        to_torch_export(run, place)
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_an_earlier_export_and_an_empty_folder_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    for _ in range(2):
        with staged(tmp_path / "graph") as place:
            (place / "draw.py").write_text("one")
    assert (tmp_path / "graph/draw.py").read_text() == "one"
    with pytest.raises(ValueError, match="is no earlier export"), staged(tmp_path / "late") as place:
        (place / "draw.py").write_text("two")
        (tmp_path / "late").mkdir()
        (tmp_path / "late/mine").write_text("written meanwhile")
    assert (tmp_path / "late/mine").read_text() == "written meanwhile"


@pytest.mark.slow  # a second ONNX export
def test_a_path_that_onnxruntime_cannot_compute_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    config = replace(POINTS, path=VP(SigmoidSchedule()), target=V(), sampling=Sampling(Ddim()))
    run = saved(config, tmp_path / "model")
    with pytest.raises(ValueError, match=r"onnxruntime cannot run this model: .*Cosh.* Export it with --to torch-exp"):
        to_onnx(run, tmp_path / "graph")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def latents() -> LatentCodec:
    """A codec whose channels differ."""
    autoencoder = TinyAutoencoder(width=4, down=(1, 1), up=(1, 1), latent_channels=2)
    return Latents(autoencoder, (0.4, -0.3), (1.6, 0.5)).bind(random(autoencoder.build()))


def test_the_decoder_that_is_exported_is_the_codecs() -> None:
    codec, x = latents(), torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    (pictures,) = graphs.Decoding(codec)(x)
    assert pictures.std() > 0.05
    there = ((pictures + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert (there - codec.decode(x)).abs().max() <= 1


@pytest.mark.slow
def test_a_model_of_latents_comes_with_its_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = latents()
    config = replace(PICTURES, shape=(2, 4, 4), codec=codec.config, sampling=Sampling(Ddim(), steps=4, guidance=1.5))
    save_model(config, random(config.network()), tmp_path / "model", codec=codec)
    found = to_torch_export(tmp_path / "model", tmp_path / "graph")
    assert {c.what.split(",")[0] for c in found} == {"denoiser", "decoder"}
    names = loop(tmp_path / "graph", monkeypatch)
    mine = names["decode"](names["draw"](start(config, 3, 5), np.array([0, -1, 1])))
    theirs = inkwash.load(tmp_path / "model", device="cpu")(3, label=[0, -1, 1], seed=5).array
    assert theirs.shape == (3, 8, 8, 3)
    assert theirs.std() > 5
    assert np.abs(mine.astype(int) - theirs).max() <= 1
