"""A run with texts, numbers and pictures at once is as exact as one without, and its model says what it was told by."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inkwash
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Grey, LowResolution, Masked, Paired
from inkwash.data import Dataset, DataSpec, load, split
from inkwash.kinds import from_table, to_table
from inkwash.modelfolder import Config
from inkwash.noise import Philox
from inkwash.recipes import Recipe, RecipeError, read_recipe, write_recipe
from inkwash.text import MiniLm
from inkwash.training import plan, train
from inkwash.training.conditioning import notes, settled
from inkwash.training.dropping import hidden
from inkwash.training.previews import Asked
from inkwash.training.run import Run, resume_recipe
from inkwash.training.setup import Setup, set_up
from inkwash.types import Condition, Given
from tinyruns import assert_same, finish, losses, state
from tinytext import Words


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


COLOURS = {"red": (1, -1, -1), "lime": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


def a_folder(folder: Path, n: int = 24, side: int = 16) -> Path:
    """Pictures of squares with captions, numbers and labels, and in another folder their negatives."""
    r = np.random.default_rng(3)
    pictures, negatives = folder / "squares", folder / "negatives"
    pictures.mkdir(parents=True)
    negatives.mkdir()
    lines = []
    for i in range(n):
        size, colour = int(r.integers(4, 12)), ["red", "lime", "blue", "white"][i % 4]
        picture = np.zeros((side, side, 3), np.uint8)
        picture[:size, :size] = (np.array(COLOURS[colour]) + 1) // 2 * 200 + 40
        Image.fromarray(picture).save(pictures / f"{i:03d}.png")
        Image.fromarray(255 - picture).save(negatives / f"{i:03d}.png")
        line: dict[str, Any] = {"file_name": f"{i:03d}.png", "text": f"a {colour} square", "label": colour}
        lines.append(line | ({"size": size} if i % 5 else {}))
    for place in (pictures, negatives):
        (place / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return pictures


def everything(folder: Path, **tables: Any) -> Recipe:
    """A recipe of a tiny model that is told of labels, texts, numbers and pictures, each hidden now and then."""
    base: dict[str, Any] = {
        "data": {
            "source": str(folder),
            "vector": ["size"],
            "pairs": str(folder.parent / "negatives"),
            "val_fraction": 0.2,
            "flip": True,
        },
        "net": {"kind": "unet", "preset": "tiny", "widths": [16], "patch": 4, "depth": 1, "dropout": 0.1},
        "optim": {"kind": "adamw", "lr": 0.01},
        "train": {"steps": 6, "batch_size": 8, "samples": 4, "sample_every": 3, "precision": "fp32"},
        "sampler": {"steps": 2, "guidance": 2.0},
        "conditions": {
            "text": {"encoder": to_table(Words()), "dropout": 0.3},
            "vector": {"dropout": 0.2},
            "image": {"task": "paired", "dropout": 0.25},
        },
    }
    return read_recipe({k: {**base.get(k, {}), **tables.get(k, {})} for k in {**base, **tables}})


def test_a_run_with_every_condition_resumes_bit_for_bit_and_keeps_what_it_was_told_by(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    r = everything(folder, train={"checkpoint_every": 3})
    finish(r, tmp_path / "whole")
    asked = iter([False, False, False, True])
    finish(r, tmp_path / "parts", stop=lambda: next(asked))
    finish(r, resume=tmp_path / "parts")
    assert_same(state(tmp_path / "whole/checkpoints/step-6"), state(tmp_path / "parts/checkpoints/step-6"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    # The run's recipe says all, and the model has the same.
    stated = read_recipe(tmp_path / "whole/recipe.toml")
    config = inkwash.load(tmp_path / "whole", trust=True).config
    assert stated.conditions == config.conditions
    text, vector, image = config.conditions.text, config.conditions.vector, config.conditions.image
    assert text == ByText(Words(), Words().bind().sha256, 0.3) and image == ByImage(Paired(), 0.25)
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    sizes = np.array([json.loads(line).get("size", np.nan) for line in lines])[split(load(r.data), 0.2, 0)[0]]
    assert vector is not None and vector.mean is not None and vector.std is not None
    assert (vector.names, vector.dropout) == (("size",), 0.2)
    assert (*vector.mean, *vector.std) == pytest.approx((np.nanmean(sizes), np.nanstd(sizes)), rel=1e-5)
    assert config.given == Given(classes=4, tokens=8, vector=1, image=3)


def test_resuming_refuses_other_conditions_and_another_encoder(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    finish(everything(folder, train={"steps": 1}), tmp_path / "run")
    same, told = resume_recipe(tmp_path / "run", {"train.steps": 2})
    assert told == ["train.steps: 1 -> 2"] and same.conditions == read_recipe(tmp_path / "run/recipe.toml").conditions
    with pytest.raises(RecipeError, match=r"conditions\.text\.dropout: 0\.3 -> 0\.5(.|\n)*--init-from"):
        resume_recipe(tmp_path / "run", {"conditions.text.dropout": 0.5})
    with pytest.raises(RecipeError, match=r"conditions\.text\.encoder\.salt: 0 -> 1"):
        resume_recipe(tmp_path / "run", {"conditions.text.encoder.salt": 1})
    # The words of a package may change under its name.
    text = (tmp_path / "run/recipe.toml").read_text()
    assert "0" * 64 in text
    (tmp_path / "run/recipe.toml").write_text(text.replace("0" * 64, "1" * 64))
    with pytest.raises(ValueError, match=r"not the one this run was begun with: its SHA-256 is 0{12}, then 1{12}"):
        list(train(resume=tmp_path / "run"))


def squares(folder: Path, **tables: Any) -> Recipe:
    """A recipe of a tiny model of the same pictures that is told of nothing but labels."""
    net = {"kind": "unet", "preset": "tiny", "widths": [16], "patch": 4, "depth": 1}
    base: dict[str, Any] = {
        "data": {"source": str(folder)},
        "net": net,
        "train": {"steps": 1, "batch_size": 8, "samples": 2, "precision": "fp32"},
        "sampler": {"steps": 2},
        "conditions": {},
    }
    return read_recipe({k: {**base.get(k, {}), **tables.get(k, {})} for k in {**base, **tables}})


def test_a_run_of_before_there_were_conditions_goes_on_without(tmp_path: Path) -> None:
    notes = [n for p in finish(squares(a_folder(tmp_path / "data")), tmp_path / "run") for n in p.notes]
    assert any("captions of squares are not learned from; --text minilm does" in n for n in notes)
    file = tmp_path / "run/recipe.toml"
    text = file.read_text()
    assert "[conditions]\n" in text
    file.write_text(text.replace("[conditions]\n", ""))
    config = tmp_path / "run/model/config.json"
    table = json.loads(config.read_text())
    assert table.pop("conditions") == {}
    longer, _ = resume_recipe(tmp_path / "run", {"train.steps": 2})
    assert finish(longer, resume=tmp_path / "run")[-1].step == 2
    assert json.loads(config.read_text())["conditions"] == {}
    loaded: Config = from_table(Config, {k: v for k, v in table.items() if k not in ("format", "inkwash")})
    assert loaded.conditions == Conditions() and loaded.given == Given(classes=4)


def test_conditions_are_chosen_by_the_data_and_what_they_lack_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MiniLm, "bind", lambda self, device="cpu": Words().bind(device))
    folder = a_folder(tmp_path / "data")
    spec = {"source": str(folder), "vector": ["size"], "pairs": str(folder.parent / "negatives"), "flip": True}
    r = read_recipe({"data": spec})
    data = replace(load(r.data), captions=("to the left", "Rightwards arrow", "bright", *[""] * 21))
    told = settled(r, data, np.arange(24), torch.device("cpu"))
    assert told == Conditions(
        text=ByText(sha256="0" * 64), vector=told.vector, image=ByImage(Paired())
    ) and told.vector == ByVector().measured(data.vectors, ("size",))  # type: ignore[arg-type]
    said = "\n".join(notes(r, told, data))
    for part in (
        "captions of squares, read by minilm; --text none",
        "numbers size of",
        "2 captions of squares speak of",
    ):
        assert part in said
    bare = replace(data, captions=None, vectors=None, vector_names=(), shown=None)
    assert settled(read_recipe({"data": {"source": "x"}}), bare, np.arange(24), torch.device("cpu")) == Conditions()
    # An empty caption is none, and a set of nothing but those has no captions.
    assert (
        settled(replace(r, data=DataSpec("x")), replace(bare, captions=("",) * 24), np.arange(24), torch.device("cpu"))
        == Conditions()
    )
    everything_asked = {"text": {}, "vector": {}, "image": {"task": "paired"}}
    asked = read_recipe({"data": spec, "conditions": everything_asked})
    with pytest.raises(
        ValueError, match=r"(?s)squares has none.*metadata\.jsonl.*Also: .*--vector.*Also: .*data\.pairs"
    ):
        settled(asked, bare, np.arange(24), torch.device("cpu"))
    for table, why in [
        ({"data": spec, "conditions": {"text": {}}}, r"conditions\.vector = {}"),
        ({"data": spec, "conditions": {"vector": {}}}, r"data\.pairs = .* is not looked at"),
        (
            {"data": {"source": "x"}, "conditions": {"image": {"task": "paired"}}},
            "does not say where their other halves",
        ),
        ({"data": {"source": "x"}, "conditions": {"image": "gray"}}, "grey"),
        ({"data": {"source": "x"}, "conditions": {"txt": {}}}, "Did you mean conditions.text"),
    ]:
        with pytest.raises(RecipeError, match=why):
            read_recipe(table)
