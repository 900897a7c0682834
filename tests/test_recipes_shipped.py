"""The recipes that ship: each is whole, says what it is, and builds what its head promises."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from inkwash.cli.app import app
from inkwash.codec import LatentCodec, Latents
from inkwash.codecfolder import save_codec
from inkwash.conditions import Conditions
from inkwash.data import load
from inkwash.kinds import to_table
from inkwash.nets import PRESETS
from inkwash.nets.autoencoder import KLAutoencoder
from inkwash.recipes import Recipe, builtin_names, read_recipe, write_recipe
from inkwash.text import Encoder, MiniLm
from inkwash.training.setup import set_up
from inkwash.types import Given

torch.set_num_threads(1)

MADE = {
    "annotated-fashion-mnist": ((1, 28, 28), 0, 6_983_073),
    "cifar10-labels": ((3, 32, 32), 10, 11_054_572),
    "cosine-64": ((3, 64, 64), 10, 11_152_012),
    "ddpm-cifar10": ((3, 32, 32), 10, 35_751_939),
    "dit-s": ((4, 16, 16), 10, 32_478_736),
    "emoji-text": ((3, 64, 64), 0, 6_270_988),
    "emoji-translation": ((3, 64, 64), 0, 5_390_476),
    "fashion-mnist": ((1, 28, 28), 10, 2_031_172),
    "fashion-mnist-few-steps": ((1, 28, 28), 10, 2_064_196),
    "latent-64": ((4, 16, 16), 10, 4_545_892),
    "super-resolution-64": ((3, 64, 64), 0, 4_796_044),
    "swiss-roll": ((2,), 0, 231_810),
}
"""What each diffuses, its classes, and the parameters of its network."""


def head(name: str) -> list[str]:
    lines = files("inkwash.recipes").joinpath(f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in lines[: lines.index("")]]


def test_all_are_listed_here_and_in_help() -> None:
    assert list(MADE) == builtin_names()
    told = re.sub(r"[\s│]+", "", CliRunner().invoke(app, ["train", "--help"]).output)
    assert "file,or" + ",".join(MADE) + "." in told


@pytest.mark.parametrize("name", MADE)
def test_a_head_says_what_the_recipe_does_and_its_commands_are_read(name: str) -> None:
    lines = head(name)
    assert lines[0].endswith(".") and any(line.startswith(f"inkwash train {name}") for line in lines)
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.startswith("inkwash train "):
            args = shlex.split(line, comments=True)
            assert name in args
            read_recipe(name, None, [args[i + 1] for i, a in enumerate(args) if a == "--set"])


@pytest.mark.parametrize("name", MADE)
def test_networks_have_the_parameters_that_are_said(name: str) -> None:
    shape, classes, parameters = MADE[name]
    recipe = read_recipe(name)
    assert recipe.net is not None
    with torch.device("meta"):
        net = recipe.net.build(shape, given(recipe, shape, classes), 2 if recipe.learns_variance else 1)
    assert sum(p.numel() for p in net.parameters()) == parameters
    said = re.findall(r": ([\d.]+)M parameters", files("inkwash.recipes").joinpath(f"{name}.toml").read_text())
    assert said in ([], [f"{parameters / 1e6:.1f}"])


def given(recipe: Recipe, shape: tuple[int, ...], classes: int) -> Given:
    told = recipe.conditions or Conditions()
    tokens = told.text.encoder.width if told.text else 0
    return Given(classes, tokens=tokens, jumps=recipe.jumps, image=shape[0] if told.image else 0)


@pytest.mark.parametrize("name", MADE)
def test_what_is_left_open_is_stated_when_a_run_is_set_up(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    recipe, (shape, classes, _) = read_recipe(name, {"sampler.steps": 2}), MADE[name]  # many are long to rehearse
    if recipe.codec is not None:
        recipe = replace(recipe, codec=replace(recipe.codec, folder=str(a_codec(tmp_path))))
    if len(shape) == 3:
        channels = 3 if recipe.codec else shape[0]
        size = recipe.data.size or shape[1:]
        recipe = replace(recipe, data=replace(recipe.data, source="shapes", size=size, channels=channels, limit=6))
    recipe = replace(recipe, net=replace(recipe.net, **SMALLER.get(name, {})))
    data = load(replace(recipe.data, pairs=None))
    if recipe.conditions is not None:  # texts in no time, and partners
        monkeypatch.setattr(MiniLm, "bind", lambda self, device="cpu": a_reader())
        data = replace(data, captions=("a b",) * len(data), shown=data.images)
    setup = set_up(recipe, data)
    assert setup.recipe.conditions == setup.config.conditions
    assert setup.config.given == given(recipe, shape, len(setup.config.classes))
    assert setup.config.shape == shape and len(setup.config.classes) == (
        min(classes, 10) and len(setup.dataset.classes)
    )
    open_still = [f.name for f in fields(setup.recipe.net) if getattr(setup.recipe.net, f.name) is None]
    assert open_still == [] and setup.recipe.inputs is not None
    assert setup.recipe.train.precision in ("fp32", "bf16") and setup.recipe.train.compile is False
    (tmp_path / "r.toml").write_text(write_recipe(setup.recipe))
    assert read_recipe(tmp_path / "r.toml") == setup.recipe


def a_reader() -> Encoder:
    """Of tokens that are all zero, as wide as MiniLM's."""

    def read(text: str) -> list[int]:
        return [1] * len(text.split())

    return Encoder(384, 64, "0" * 64, torch.device("cpu"), read, read, lambda ids: torch.zeros(*ids.shape, 384))


SMALLER = {"dit-s": {"width": 32, "heads": 2}, "ddpm-cifar10": {"widths": (32, 32, 32, 32)}}
"""Changes that leave the rest open, and weights that are made in no time."""


def a_codec(folder: Path) -> Path:
    """A small untrained one, four times smaller a side, of four channels."""
    config = KLAutoencoder(3, 4, (8, 8, 8), 1, 2, False, True)
    assert [getattr(config, n) for n in ("channels", "latent_channels")] == [3, PRESETS["f4"].latent_channels]
    net = config.build().eval().requires_grad_(False)
    save_codec(LatentCodec(Latents(config, (0.0,) * 4, (1.0,) * 4), net), folder / "codec", data="noise")
    return folder / "codec"


CALLS = {"ddpm-cifar10": 1000, "annotated-fashion-mnist": 200, "cosine-64": 20, "fashion-mnist-few-steps": 4}


@pytest.mark.parametrize("name", MADE)
def test_samplers_fit_and_ask_as_often_as_is_meant(name: str) -> None:
    recipe = read_recipe(name)
    calls = recipe.sampler.rehearse(recipe.path, recipe.target, learned_variance=recipe.learns_variance)
    steps = recipe.sampler.steps
    assert calls == CALLS.get(name, 2 * steps - 1)  # Heun asks twice, but for the last step


def test_the_annotated_table_ends_where_its_comment_says() -> None:
    path: Any = read_recipe("annotated-fashion-mnist").path
    one = torch.ones(1, dtype=torch.float64)
    assert float(path(one).alpha) == pytest.approx(0.36, abs=0.005)
    scaled = read_recipe("annotated-fashion-mnist", None, ["path.betas.scaled=true"]).path
    assert float(scaled(one).alpha) == pytest.approx(0.0055, abs=5e-5)
    assert float(read_recipe("cosine-64").path(one).alpha) == pytest.approx(5e-5, rel=0.03)


def test_one_line_makes_the_wide_network_of_64_pixels() -> None:
    recipe: Recipe = read_recipe("cosine-64", None, ['net={kind="classic-unet",preset="wide64"}'])
    assert recipe.net is not None and to_table(recipe.net.resolve((3, 64, 64)))["widths"] == [128, 256, 512, 1024]
