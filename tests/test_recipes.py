"""Recipes: every mistake is told, all at once, with the nearest right name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inkwash import MLP, CosineBetas, Ddim, Muon, RecipeError, Table, UNet, read_recipe
from inkwash.nets import ClassicUNet, DiT, ModernDiT
from inkwash.recipes import builtin_names, write_recipe

STEPS_9 = {"path": {"kind": "table", "betas": {"kind": "cosine", "steps": 9}}}

EXPLODING = {
    "data": {"source": "x"},
    "path": "ve",
    "target": "edm",
    "objective": {"times": "log-normal-noise"},
    "sampler": {"grid": "karras"},
}
SIGMOID = {"kind": "vp", "schedule": "sigmoid"}
COSINE = {
    "path": {"kind": "vp", "schedule": "cosine"},
    "target": "eps",
    "sampler": {"grid": {"times": [0.99, 0]}, "steps": 1},
}
LEARNED = {"objective": "hybrid", "path": "linear", "sampler": {"grid": {"times": [0.99, 0]}, "steps": 1}}
COUPLED = {"objective": {"coupling": "optimal-transport"}}


def mistakes(source: Any, *args: Any) -> list[str]:
    with pytest.raises(RecipeError) as error:
        read_recipe(source, *args)
    return str(error.value).split("\n  - ")[1:]


def test_all_mistakes_are_told_at_once_with_the_nearest_names() -> None:
    said = mistakes(
        {
            "data": {"source": "x", "sise": 3},
            "trian": {"steps": 3},
            "path": "tabel",
            "net": {"kind": "unet", "widht": [3]},
            "optim": {"kind": "adamw", "lr": "fast"},
            "train": {"batch_size": 0},
            "sampler": {"method": {"kind": "ddim", "eta": 3}},
        },
        None,
        ["lr=3", "foo"],
    )
    expected = [
        "--set 'foo' is not of the form key=value",
        "data.sise is unknown. Did you mean data.size?",
        "trian is unknown. Did you mean train?",
        "path = 'tabel' is unknown. Did you mean table?",
        "net.widht is unknown. Did you mean net.widths?",
        "lr is unknown. Did you mean optim.lr?",
        "optim.lr = 'fast' should be a valid number",
        "train: batch_size = 0 must be more than 0.",
        "eta must lie in [0, 1]",
    ]
    assert len(said) == len(expected), said
    for one in expected:
        assert any(one in line for line in said), one


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": "linear"}, "data is missing."),
        ({"data": {"source": "x"}, "net": 3}, "net: needs a `kind`: unet, mlp, classic-unet, dit, modern-dit"),
        ({"data": {"source": "x"}, "path": "table"}, "Flow() is made of the path's time derivatives"),
        ({"data": {"source": "x"}, "target": "eps"}, "does not determine data and noise at t = 1 "),
        ({"data": {"source": "x", "size": 50}}, "The nearest sizes that fit are 48x48 and 56x56"),
        ({"data": {"source": "x"}, "train": {"ema": 0.5}}, "ema = 0.5 must lie between"),
        ({"data": {"source": "x"}, "train": {"label_dropout": 0.0}, "sampler": {"guidance": 2.0}}, "never learns"),
        (
            {"data": {"source": "x"}, "path": "table", "target": "v", "inputs": "indexed", **STEPS_9},
            "has 9. Leave inputs",
        ),
        (
            {"data": {"source": "x"}, "path": "ve", "target": "edm"},
            'use [objective] times = "log-normal-noise", [sampler] grid = "karras".',
        ),
        (
            {**EXPLODING, "path": {"kind": "shifted", "factor": 0.5, "path": "ve"}, "target": "flow"},
            "VE(top=80.0), factor=0.5) t is the noise level itself, and only its lowest few hundredths are "
            'near the data\'s: use target = "edm" (flow',
        ),
        (EXPLODING | {"objective": {"times": "logit-normal"}}, 'data\'s: use [objective] times = "log-normal-noise".'),
        (EXPLODING | {"sampler": {"grid": "quadratic"}}, 'data\'s: use [sampler] grid = "karras".'),
        ({"data": {"source": "x"}, "sampler": {"path": "ve"}}, "On VE(top=80.0) t is the noise level"),
        (
            EXPLODING | {"objective": {"times": "uniform"}, "sampler": {"path": "linear"}},
            "On VE(top=80.0) t is the noise level itself, and only its lowest few hundredths are near the data's: use "
            '[objective] times = "log-normal-noise".',
        ),
        ({"data": {"source": "x"}, **LEARNED, "target": "eps"}, "determine data and noise at t = 1 (alpha = 0"),
        ({"data": {"source": "x"}, "objective": {"kind": "bound", "steps": 7}, **COSINE}, "at t = 1 (alpha = "),
        (
            {"data": {"source": "x"}, "sampler": {"method": {"kind": "ancestral", "added": "learned"}}},
            "needs a model that learned its variance",
        ),
        (
            {"data": {"source": "x"}, "path": SIGMOID, "target": "v", "sampler": {"method": "euler"}},
            "is infinite at t = 1, where a solver in t cannot start",
        ),
        (
            {"data": {"source": "x"}, "path": SIGMOID, "sampler": {"method": "ddim"}},
            "There a time derivative",
        ),
        (
            {"data": {"source": "x"}, **COUPLED, "sampler": {"method": "ancestral"}},
            "only the flow between them is right. This takes a deterministic sampler",
        ),
        ({"data": {"source": "x"}, "sampler": {"grid": {"times": [1, 0.1]}, "steps": 1}}, "end them at 0"),
        ({"data": {"source": "x"}, "sampler": {"steps": 10_001}}, "steps = 10001 is too many"),
        ({"data": {"source": "x"}, "objective": {"learns_variance": True}}, "objective.learns_variance is unknown."),
        (
            {"data": {"source": "x"}, "objective": {"kind": "bound", "learns_variance": 1}},
            "learns_variance is unknown.",
        ),
        ({"data": {"source": "x"}, "path": {"steps": 5}}, "path has no settings besides its kind"),
        ({"data": {"source": "x"}, "path": {"kind": "table", "betas": "cosin"}}, "Did you mean cosine?"),
        ({"data": {"source": "x"}, "train": {"steps": 1, "minutes": 1}}, "both say how long"),
        ({"data": {"source": "x"}, "train": {"batch_size": 10, "accumulate": 3}}, "does not divide"),
    ],
)
def test_one_mistake_gives_one_line(source: dict[str, Any], message: str) -> None:
    said = mistakes(source)
    assert len(said) == 1
    assert message in said[0]


def test_a_tables_kind_may_be_left_out_where_its_keys_say_it() -> None:
    sets = ["net.dropout=0.1", "objective.loss=l1", "sampler.method.eta=0.5"]
    recipe = read_recipe("photos", {"optim.lr": 1e-4}, sets)
    assert recipe.optim == Muon(lr=1e-4)
    assert recipe.net == UNet(dropout=0.1)
    assert recipe.objective.loss == "l1"
    assert recipe.sampler.method == Ddim(0.5)
    assert read_recipe("roll", None, ["net.width=64"]).net == MLP(width=64)
    tiny = read_recipe("fashion-mnist", {"net.kind": "unet", "net.preset": "tiny"}, ["net.dropout=0.2"])
    assert tiny.net == UNet("tiny", dropout=0.2)


@pytest.mark.parametrize(
    ("asked", "net"),
    [
        ({"net.width": 64, "net.depth": 2}, MLP(64, 2)),  # not a transformer, which has these too
        ({"net.preset": "tiny"}, UNet("tiny")),
        ({"net.preset": "annotated"}, ClassicUNet("annotated")),
        ({"net.preset": "S"}, DiT("S")),
        ({"net.preset": "XS"}, ModernDiT("XS")),
        ({"net.preset": "S", "net.depth": 2, "net.registers": 1}, ModernDiT("S", depth=2, registers=1)),
        ({"net.preset": "S", "net.kind": "modern-dit"}, ModernDiT("S")),
        ({"net.depth": 3, "net.kind": "dit"}, DiT(depth=3)),
        ({"net": "mlp"}, MLP()),
    ],
)
def test_a_preset_or_its_settings_choose_the_kind_of_net(asked: dict[str, Any], net: Any) -> None:
    assert read_recipe("photos", asked).net == net
    assert read_recipe("photos", None, [f"{key}={value}" for key, value in asked.items()]).net == net
    tables: dict[str, Any] = {"data": {"source": "photos"}, "net": {}}
    for key, value in asked.items():
        tables |= {"net": {**tables["net"], key.removeprefix("net."): value}} if "." in key else {key: value}
    assert read_recipe(tables).net == net


@pytest.mark.parametrize(
    ("asked", "net"),
    [
        ({"net.preset": "base"}, UNet("base", patch=2, dropout=0.1)),  # of the same kind: all else is kept
        ({"net.kind": "unet"}, UNet("tiny", patch=2, dropout=0.1)),
        ({"net": "unet"}, UNet("tiny", patch=2, dropout=0.1)),
        ({"net.preset": "S"}, DiT("S")),
        ({"net.preset": "wide64", "net.dropout": 0.3}, ClassicUNet("wide64", dropout=0.3)),
        ({"net.kind": "dit"}, DiT()),
        ({"net.patch": 8, "net.preset": "S", "net.kind": "modern-dit"}, ModernDiT("S", patch=8)),
        ({"net.kind": "mlp", "net.width": 8}, MLP(8)),
    ],
)
def test_another_kind_of_net_drops_a_recipes_settings_of_its_own(asked: dict[str, Any], net: Any) -> None:
    base = {"data": {"source": "x"}, "net": {"kind": "unet", "preset": "tiny", "patch": 2, "dropout": 0.1}}
    assert read_recipe(base, asked).net == net


def test_wrong_kinds_and_presets_are_told_at_once_with_all_there_are() -> None:
    there = (
        "There are unet: tiny, small, base; classic-unet: ddpm-cifar, annotated, wide64; dit: S, B, L, XL; "
        "modern-dit: XS, S, B, L, XL."
    )
    base = {"data": {"source": "x"}, "net": {"kind": "unet", "preset": "tiny"}}
    for source in (base, {"data": {"source": "x"}}):
        assert mistakes(source, {"net.preset": "huge"}) == [f"net.preset = 'huge' is unknown for unet. {there}"]
        assert mistakes(source, {"net.kind": "dit", "net.preset": "tiny"}) == [
            f"net.preset = 'tiny' is unknown for dit. {there}"
        ]
        assert mistakes(source, {"net.kind": "transformer", "net.preset": "huge", "train.step": 3}) == [
            "net = 'transformer' is unknown. There are unet, mlp, classic-unet, dit, modern-dit.",
            "train.step is unknown. Did you mean train.steps?",
            f"net.preset = 'huge' is unknown. {there}",
        ]
    assert len(mistakes(base, {"net.kind": "dti", "net.preset": "S"})) == 1
    told = mistakes({"data": {"source": "x"}, "net": "mlp"}, {"net.preset": "tiny"})
    assert told == ["net.preset is unknown. There are width, depth."]


@pytest.mark.parametrize(
    "table",
    [
        EXPLODING,
        EXPLODING | {"objective": {"times": "importance"}, "sampler": {"path": "linear"}},
        {"sampler": {"path": "ve", "grid": "log-snr"}},
        {**LEARNED, "target": "v"},
        {**LEARNED, "objective": "regression", "target": "eps"},
        {"objective": "bound", "path": "table", "target": "eps", "sampler": {"method": "ancestral"}},
        {"objective": "hybrid", "sampler": {"method": {"kind": "ancestral", "added": "learned"}}},
        {"path": SIGMOID, "target": "v", "sampler": {"method": "ddim"}},
        {**COUPLED, "sampler": {"method": {"kind": "ddim", "eta": 0.0}}},
    ],
)
def test_what_fits_is_let_through(table: dict[str, Any]) -> None:
    read_recipe({"data": {"source": "x"}, **table})


def test_a_class_variable_is_no_setting() -> None:
    (said,) = mistakes("photos", None, ["objective.learns_variance=true"])
    assert "objective.learns_variance is unknown. Did you mean objective." in said or "There are" in said
    (said,) = mistakes({"data": {"source": "x"}, "learns_variance": True})
    assert "objective.learns_variance" not in said


def test_files_that_are_missing_or_not_toml(tmp_path: Path) -> None:
    (tmp_path / "photos.toml").write_text("[data\n")
    with pytest.raises(RecipeError, match=r"no recipe file .*photo\.toml. Did you mean .*photos\.toml"):
        read_recipe(tmp_path / "photo.toml")
    with pytest.raises(RecipeError, match=r"photos\.toml cannot be read as TOML"):
        read_recipe(tmp_path / "photos.toml")


def test_overrides_go_over_the_recipe_and_the_last_length_wins() -> None:
    base = {"data": {"source": "x"}, "train": {"minutes": 5}, "sampler": {"method": "heun"}}
    sets = ["sampler.method.kind=ddim", "sampler.method.eta=0.5"]
    recipe = read_recipe(base, {"train.steps": 7, "train.lr": None}, ["net=unet", "net.preset=tiny", *sets])
    assert (recipe.train.steps, recipe.train.minutes) == (7, None)
    assert recipe.net == UNet("tiny")
    assert recipe.sampler.method == Ddim(0.5)
    assert base == {"data": {"source": "x"}, "train": {"minutes": 5}, "sampler": {"method": "heun"}}


def test_a_source_that_is_no_recipe_gets_the_defaults() -> None:
    assert read_recipe("photos/").data.source == "photos/"
    assert read_recipe("photos/").train.minutes == 30


def test_builtin_recipes_are_valid_and_survive_toml(tmp_path: Path) -> None:
    assert "fashion-mnist" in builtin_names()
    for name in builtin_names():
        recipe = read_recipe(name)
        (tmp_path / "r.toml").write_text(write_recipe(recipe))
        assert read_recipe(tmp_path / "r.toml") == recipe
    table = read_recipe(
        {"data": {"source": "x"}, "path": {"kind": "table", "betas": {"kind": "cosine", "steps": 9}}, "target": "v"}
    )
    assert table.path == Table(CosineBetas(9))


def test_an_override_that_was_not_given_does_not_end_another_ones_meaning():
    recipe = read_recipe("fashion-mnist", {"train.steps": 5, "train.minutes": None})
    assert (recipe.train.steps, recipe.train.minutes) == (5, None)
