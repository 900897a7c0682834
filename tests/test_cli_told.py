"""What a model is told by, on the command line: options to recipes, mistakes beside the others, and words back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inkwash.cli.app import app
from inkwash.cli.told import in_words, told
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Grey, LowResolution, Paired
from inkwash.recipes import Recipe, read_recipe
from inkwash.text import Clip, MiniLm


def asked(source: Any, *options: str | None) -> Recipe:
    mistakes: list[str] = []
    overrides = told(*options, mistakes)  # type: ignore[misc]
    assert not mistakes
    return read_recipe(source, overrides)


def test_options_are_values_of_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("x", None, None, None).conditions is None  # the data say
    assert asked("x", "none", None, None).conditions == Conditions()
    assert asked("x", "minilm", None, None).conditions == Conditions(text=ByText(MiniLm()))
    clip = asked("x", 'clip(source="a/b", width=512)', None, "lowres(factor=2)").conditions
    assert clip == Conditions(text=ByText(Clip("a/b", 512)), image=ByImage(LowResolution(2)))
    numbers = asked("x", None, "angle, size", None)
    assert (numbers.data.vector, numbers.conditions) == (("angle", "size"), Conditions(vector=ByVector()))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "grey").mkdir()
    (tmp_path / "others").mkdir()
    pairs = asked("x", None, None, "others")
    assert (pairs.data.pairs, pairs.conditions) == ("others", Conditions(image=ByImage(Paired())))
    # A task's name is the task; ./grey is the folder.
    assert asked("x", None, None, "grey").data.pairs is None and asked("x", None, None, "./grey").data.pairs == "./grey"


def test_options_change_a_recipe_s_own_conditions_and_keep_the_rest() -> None:
    own = {
        "data": {"source": "x", "vector": ["a"]},
        "conditions": {"text": {"dropout": 0.3}, "vector": {"dropout": 0.2}, "image": {"task": "grey", "dropout": 0.4}},
    }
    changed = asked(own, "minilm(max_tokens=32)", "none", "edges")
    assert changed.conditions is not None and changed.data.vector == ()
    assert changed.conditions.text == ByText(MiniLm(32), None, 0.3) and changed.conditions.vector is None
    assert changed.conditions.image is not None and changed.conditions.image.task.kind == "edges"
    assert changed.conditions.image.dropout == 0.4
    paired = {"data": {"source": "x", "pairs": "others"}, "conditions": {"image": {"task": "paired"}}}
    for image, want in (("none", Conditions()), ("grey", Conditions(image=ByImage(Grey())))):
        other = asked(paired, None, None, image)
        assert (other.data.pairs, other.conditions) == (None, want)
    assert asked(paired, None, None, "paired").data.pairs == "others"
    assert asked(own, "none", None, "none").conditions == Conditions(vector=ByVector(dropout=0.2))
    assert read_recipe(own, None, ["conditions=none", "data.vector=[]"]).conditions == Conditions()
    assert read_recipe("emoji-text", {"conditions.text": "none"}, ["sampler.guidance=1"]).conditions == Conditions()


def test_mistakes_are_told_together_before_anything_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = ["train", "nowhere", "--text", "minilmm", "--image", "gray", "--net", "unett"]
    found = CliRunner().invoke(app, args)
    said = str(found.exception)
    assert found.exit_code != 0
    for part in ("no text encoder 'minilmm'. Did you mean minilm?", "'gray'. Did you mean grey?", "Did you mean unet"):
        assert part in said
    assert list(tmp_path.iterdir()) == []


def test_conditions_in_words() -> None:
    words = in_words(
        Conditions(
            ByText(MiniLm(), dropout=0.1),
            ByVector(("angle", "size"), (10.0, 0.5), (2.5, 1.0), 0.0),
            ByImage(LowResolution(4, 0.1), 0.25),
        )
    )
    assert words == {
        "text": "read by minilm, hidden from 10% in training",
        "numbers": "angle 10 ± 2.5, size 0.5 ± 1, never hidden in training",
        "picture": "lowres(noise=0.1), hidden from 25% in training",
    }
    assert in_words(Conditions()) == {} == in_words(None)
