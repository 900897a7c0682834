"""`inkwash export`, `import`, `push` and `pull`: what they write and say, and what they refuse."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import inkwash
from inkwash import exchange
from inkwash.cli.app import run as main
from inkwash.codec import Latents, Pixels, Standard
from inkwash.codecfolder import save_codec
from inkwash.exchange import dit_names
from inkwash.model import Indexed
from inkwash.modelfolder import Config, save_model
from inkwash.nets import MLP, ClassicUNet, DiT, TinyAutoencoder
from inkwash.paths import Linear, LinearBetas, Table
from inkwash.samplers import Ddim
from inkwash.sampling import Sampling
from inkwash.targets import Eps, Flow

PICTURES = Config(
    shape=(1, 8, 8),
    net=ClassicUNet(widths=(8,), depth=1, attention=(), groups=4),
    path=Table(LinearBetas(40, scaled=True)),
    target=Eps(),
    inputs=Indexed(40),
    codec=Pixels(),
    sampling=Sampling(Ddim(), steps=5, clip=True),
)
POINTS = Config(
    shape=(2,),
    net=MLP(width=8, depth=1),
    path=Linear(),
    target=Flow(),
    inputs=inkwash.Plain(),
    codec=Standard((0.0, 0.0), (1.0, 1.0)),
    sampling=Sampling(Ddim(), steps=3),
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of pictures, and one of points beside it."""
    for config, name in ((PICTURES, "run"), (POINTS, "points")):
        net = config.network()
        generator = torch.Generator().manual_seed(0)
        weights = {k: 0.2 * torch.randn(w.shape, generator=generator) for k, w in net.state_dict().items()}
        save_model(config, weights, tmp_path / name / "model")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"diffusers|huggingface_hub|torch")
        yield Path("run")


def test_out_to_diffusers_and_back(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    assert main(["export", "run", "--to", "diffusers", "theirs"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"draw\.py with diffusers' classes, 10 steps, .*: they differ by at most \d.* is allowed\)", said)
    assert "DDIMPipeline, 10 steps, pictures in [0, 1]: they differ by at most" in said
    assert said.splitlines()[-3:-1] == ["The same. Written to theirs.", "Next:"]
    assert Path("theirs/model_index.json").is_file()
    assert main(["import", "theirs"]) == 0
    said = capsys.readouterr().out
    assert "UNet2DModel, one call: they differ by at most" in said
    assert "The model is in runs/theirs." in said
    here, there = (inkwash.load(r, device="cpu")(3, sampler="heun", steps=4).array for r in ("run", "runs/theirs"))
    assert np.array_equal(here, there)
    assert main(["import", "theirs"]) == 2
    assert "There is a model in runs/theirs already. Choose another place with --out." in capsys.readouterr().err


def test_a_published_dit_comes_in_from_its_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = DiT(depth=1, width=384, heads=6)  # the paper's S, of one block
    weights = net.build((2, 4, 4), inkwash.types.Given(classes=3), 2).state_dict()
    save_file(dit_names.to_official(weights, (2, 4, 4), 2), "DiT.safetensors")
    tiny = TinyAutoencoder(width=8, down=(1, 1), up=(1, 1), latent_channels=2)
    save_codec(Latents(tiny, (0.0, 0.0), (1.0, 1.0)).bind(tiny.build().state_dict()), "vae")
    assert main(["import", "DiT.safetensors"]) == 2
    assert "give its folder with --vae" in capsys.readouterr().err
    assert main(["import", "DiT.safetensors", "--vae", "vae", "--scheduler", "vae"]) == 2
    assert "--scheduler is for folders of diffusers'" in capsys.readouterr().err
    assert main(["import", "DiT.safetensors", "--vae", "vae"]) == 0
    said = capsys.readouterr().out
    assert "are the DiT paper's." in said
    assert "The same." not in said  # nothing was compared
    assert "The model is in runs/DiT." in said
    assert "inkwash sample runs/DiT  (250 steps; faster: --sampler ddim --steps 50)" in said
    assert inkwash.load("runs/DiT", device="cpu").config.pictures == (3, 8, 8)


def test_help_says_what_diffusers_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    assert "`--net classic-unet --set inputs.kind=plain`" in " ".join(capsys.readouterr().out.split())


def test_a_program_lies_beside_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "points", "--to", "torch-export"]) == 0
    assert "The same. Written to points/torch-export." in capsys.readouterr().out
    assert main(["export", "points/model", "--to", "torch-export", "mine"]) == 0
    files = {"README.md", "denoiser.pt2", "draw.py", "manifest.json", "model.json"}
    assert {p.name for p in Path("mine").iterdir()} == files == {p.name for p in Path("points/torch-export").iterdir()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "run"], "To which program? --to diffusers, --to onnx or --to torch-export."),
        (["export", "nothing", "--to", "onnx"], "No model in nothing"),
        (["export", "run", "--to", "keras"], "--to keras"),
        (["export", "points", "--to", "diffusers"], "diffusers has no network like MLP"),
        (
            ["export", "points", "--to", "torch-export", "run"],
            "run is no earlier export, and what is in it (model)",
        ),
        (["import", "nothing"], "There is no folder nothing."),
        (["import", "."], "no folder of diffusers' that can be imported"),
        (["push", "run", "name"], "'name' is no name on a hub: it must be USER/NAME"),
        (["push", "run", "me/name"], "Which licence have the data (not named)? Say it with --licence"),
        (["pull", "name"], "'name' is no name on a hub"),
        (["pull", "me/name", "--out", "run"], "There is a model in run already. Choose another place with --out."),
    ],
)
def test_mistakes_are_said(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("onnxruntime")
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in Path().iterdir()) == ["points", "run"]


def test_what_is_not_installed_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for words, extra in ((["export", "run", "--to", "onnx"], "onnx"), (["export", "run", "--to", "diffusers"], "hf")):
        assert main(words) == 2
        assert f'pip install "inkwash[{extra}]"' in capsys.readouterr().err


def test_pushing_and_pulling_pass_on_what_was_asked(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def push(run: Path, name: str, *, licence: str | None, private: bool, trust: bool, watch: Any) -> str:
        asked.append((run, name, licence, private, trust))
        watch(1.0)
        return "https://there"

    def pull(name: str, out: Path | None, *, revision: str | None, trust: bool) -> Path:
        asked.append((name, out, revision, trust))
        shutil.copytree(run, "got it")
        return Path("got it")

    monkeypatch.setattr(exchange, "push", push)
    monkeypatch.setattr(exchange, "pull", pull)
    assert main(["push", "run", "me/it", "--licence", "CC0", "--private"]) == 0
    assert main(["pull", "me/it", "--revision", "v1", "--trust"]) == 0
    assert asked == [(Path("run"), "me/it", "CC0", True, False), ("me/it", None, "v1", True)]
    said = capsys.readouterr().out
    assert "Uploaded: https://there" in said
    assert "inkwash sample 'got it'" in said
