"""A run with texts, numbers and pictures at once is as exact as one without, and its model says what it was told by."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from inkwash import gallery
from inkwash.cli.train import finish as cli_finish
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Paired
from inkwash.data import DataSpec, load, split
from inkwash.distilling.report import Contestant, sheet
from inkwash.evaluation import held_out
from inkwash.kinds import from_table, to_table
from inkwash.modelfolder import Config
from inkwash.noise import Philox
from inkwash.recipes import Recipe, RecipeError, read_recipe
from inkwash.report import report
from inkwash.text import MiniLm
from inkwash.training import plan, train
from inkwash.training.conditioning import notes, settled
from inkwash.training.dropping import hidden
from inkwash.training.previews import Asked
from inkwash.training.run import resume_recipe
from inkwash.training.setup import set_up
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
    assert text == ByText(Words(), Words().bind().sha256, 0.3, length=3) and image == ByImage(Paired(), 0.25)
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
        "net": tables.pop("net", net),
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
        text=ByText(sha256="0" * 64, length=3), vector=told.vector, image=ByImage(Paired())
    ) and told.vector == ByVector().measured(data.vectors, ("size",))  # type: ignore[arg-type]
    said = "\n".join(notes(r, told, data))
    for part in (
        "captions of squares, read by minilm; --text none",
        "numbers size of",
        "2 captions of squares speak of",
    ):
        assert part in said
    assert "Pictures are mirrored, and their numbers stay" in said and "not mirrored" not in said
    own = replace(r, data=replace(r.data, flip=None))
    assert not load(own.data).flip and load(replace(own.data, vector=())).flip
    assert any("not mirrored, since a mirror may change" in n for n in notes(own, told, replace(data, flip=False)))
    # What is stated is neither measured nor taken from a model to start from.
    own = replace(r, conditions=Conditions(vector=ByVector(("size",), std=(2.0,)), image=told.image))
    for start, mean in ((None, told.vector.mean), (Conditions(vector=ByVector(("size",), (9.0,), (5.0,))), (9.0,))):  # type: ignore[union-attr]
        got = settled(own, data, np.arange(24), torch.device("cpu"), start).vector
        assert got is not None and got.std == (2.0,) and got.mean == pytest.approx(mean, abs=1e-5)
    # Longer captions are cut where the encoder ends, and said to be; what was once known stays known.
    long = replace(data, captions=("one", "one two three four", *["one two three four five"] * 2, *[""] * 20))
    worded = replace(r, conditions=replace(told, text=ByText(Words())))
    capped = settled(worded, long, np.arange(24), torch.device("cpu"))
    assert capped.text is not None and capped.text.length == 4
    assert "2 captions of squares are longer than the 4 tokens that" in "\n".join(notes(worded, capped, long))
    assert "are longer than" not in said
    again = replace(r, conditions=replace(told, image=ByImage(Paired())))
    assert settled(again, replace(long, captions=("one",) * 24), np.arange(24), torch.device("cpu")) == told
    bare = replace(data, captions=None, vectors=None, vector_names=(), shown=None)
    assert settled(read_recipe({"data": {"source": "x"}}), bare, np.arange(24), torch.device("cpu")) == Conditions()
    # An empty caption is none, and a set of nothing but those has no captions.
    blank = replace(bare, captions=("", " ") * 12)
    assert settled(replace(r, data=DataSpec("x")), blank, np.arange(24), torch.device("cpu")) == Conditions()
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


def test_a_batch_says_of_each_row_what_the_data_say(tmp_path: Path) -> None:
    r = everything(a_folder(tmp_path / "data"))
    setup = set_up(r, load(r.data))
    rows, number = np.array([5, 0, 11]), torch.tensor([40, 41, 42])
    cond = setup.batch(setup.dataset.take(rows), number).cond
    data, told = setup.pictures, setup.config.conditions
    assert cond.label is not None and cond.label.tolist() == data.labels[rows].tolist()  # type: ignore[index]
    want = Words().bind().encode([data.captions[i] for i in rows])  # type: ignore[index]
    assert cond.tokens is not None and cond.present is not None
    assert torch.equal(cond.present, want.present) and torch.equal(cond.tokens, want.values.half().float())
    assert cond.vector is not None and told.vector is not None and told.vector.mean is not None
    sizes = (data.vectors[rows, 0] - told.vector.mean[0]) / told.vector.std[0]  # type: ignore[index]
    np.testing.assert_allclose(cond.vector[:, 0], sizes, rtol=1e-5)
    assert bool(cond.vector.isnan().any())  # of every fifth no size is known
    x0 = setup.batch(setup.dataset.take(rows), number).x0
    assert cond.image is not None and torch.equal(cond.image, -x0)  # the partners are negatives
    assert setup.rates == {"label": 0.1, "text": 0.3, "vector": 0.2, "image": 0.25}


def test_what_is_hidden_and_masked_belongs_to_a_row_and_not_to_its_part(tmp_path: Path) -> None:
    """However a batch is cut into parts, its conditions have the same bits."""
    told: dict[str, Any] = {
        "text": {"encoder": to_table(Words()), "dropout": 0.4},
        "vector": {"dropout": 0.4},
        "image": {"task": "masked", "dropout": 0.4},
    }
    r = squares(a_folder(tmp_path / "data"), data={"vector": ["size"]}, conditions=told)
    setup = set_up(r, load(r.data))

    def cond(number: np.ndarray) -> Condition:
        n = torch.from_numpy(number)
        return hidden(setup.batch(setup.dataset.take(number % 24), n), Philox(0, n), setup.rates).cond

    numbers = np.arange(40, 56)
    whole, parts = cond(numbers), [cond(part) for part in np.split(numbers, 4)]
    joined = parts[0].cat(*parts[1:])
    for name in ("label", "tokens", "present", "vector", "image"):
        a, b = getattr(whole, name), getattr(joined, name)
        assert torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num()), name
    assert whole.image is not None
    gone = whole.image.isnan().flatten(1).double().mean(1)
    assert bool((gone == 1).any()) and bool(((gone > 0) & (gone < 1)).any())


@pytest.mark.parametrize("net", ["unet", "dit", "modern-dit"])
def test_a_model_of_labels_learns_texts_numbers_and_pictures_from_where_it_was(tmp_path: Path, net: str) -> None:
    """A finished model with new inputs answers as before, whatever they say; then it learns from them."""
    folder = a_folder(tmp_path / "data")
    kinds: dict[str, Any] = {
        "unet": {"kind": "unet", "preset": "tiny", "widths": [16], "patch": 4, "depth": 1},
        "dit": {"kind": "dit", "preset": "S", "width": 16, "depth": 2, "heads": 2, "patch": 4},
        "modern-dit": {"kind": "modern-dit", "preset": "XS", "width": 16, "depth": 2, "heads": 2, "patch": 4},
    }
    # Steps large enough that every layer says something.
    train_for = {"steps": 3, "ema": 0.28}
    start = squares(folder, net=kinds[net], train=train_for, optim={"kind": "adamw", "lr": 0.05})
    finish(start, tmp_path / "base")
    base = inkwash.load(tmp_path / "base").model
    told: dict[str, Any] = {"vector": {}, "image": {"task": "grey"}}
    if net == "unet":  # a transformer has new tokens among the old ones: it answers nearly as before
        told = {"text": {"encoder": to_table(Words())}, **told}
    r = squares(
        folder,
        net=kinds[net],
        data={"vector": ["size"]},
        conditions=told,
        train={"init_from": str(tmp_path / "base")},
    )
    setup = set_up(r, load(r.data))
    assert any(f"knows nothing of {' and '.join(told)}: what reads that is new" in n for n in setup.notes)
    batch = setup.batch(setup.dataset.take(np.arange(8)), torch.arange(8))
    t = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    x, c = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)), base.path(t)
    with torch.no_grad():
        before = base.predict(x, t, c, Condition(batch.cond.label))
        after = setup.model.predict(x, t, c, batch.cond)
    assert float(before.abs().mean()) > 0.005
    assert torch.equal(after, before)
    # It can be trained at once: what is new has a gradient.
    setup.recipe.objective(setup.model, batch, Philox(0, batch.number), 0.0).mean().backward()
    table = {n: p for n, p in setup.model.net.named_parameters() if "numbers.out" in n}
    assert table and all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in table.values())


def test_what_a_model_to_start_from_cannot_give_is_refused(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    text: dict[str, Any] = {"text": {"encoder": to_table(Words())}}
    finish(squares(folder, conditions=text), tmp_path / "text")
    start = {"init_from": str(tmp_path / "text")}
    other = squares(folder, conditions={"text": {"encoder": to_table(Words(salt=1))}}, train=start)
    with pytest.raises(ValueError, match="reads texts by another encoder"):
        set_up(other, load(other.data))
    finish(squares(folder, data={"vector": ["size"]}, conditions={"vector": {}}), tmp_path / "sized")
    start = {"init_from": str(tmp_path / "sized")}
    fewer = squares(folder, train=start)
    with pytest.raises(ValueError, match=r"does not fit this run: .* missing here"):
        set_up(fewer, load(fewer.data))
    finish(squares(folder, conditions={"image": {"task": "grey"}}), tmp_path / "grey")
    other = squares(folder, conditions={"image": {"task": "edges"}}, train={"init_from": str(tmp_path / "grey")})
    with pytest.raises(ValueError, match="has learned grey, and this run is to learn edges"):
        set_up(other, load(other.data))
    renamed = squares(folder, conditions={"image": {"task": "grey"}}, train={"init_from": str(tmp_path / "grey")})
    own = load(renamed.data)
    assert not any("other classes" in n for n in set_up(renamed, own).notes)
    turned = replace(own, classes=own.classes[::-1])
    assert any(
        f"what it has learned of {own.classes[0]} is where {own.classes[-1]} begins" in n
        for n in set_up(renamed, turned).notes
    )
    # Numbers are told as the first model was, also to a model of other data.
    here = inkwash.load(tmp_path / "sized").config.conditions.vector
    again = squares(folder, data={"vector": ["size"]}, conditions={"vector": {}}, train=start)
    data = load(again.data)
    data = replace(data, vectors=2 * data.vectors)  # type: ignore[operator]
    assert set_up(again, data).config.conditions.vector == here


def test_samples_on_the_way_are_of_held_out_rows_with_their_captions_and_what_was_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = everything(a_folder(tmp_path / "data"), train={"samples": 4})
    setup = set_up(r, load(r.data))
    held = split(setup.pictures, 0.2, 0)[1]
    asked = Asked.of(setup, (setup.pictures, held))
    assert asked is not None and asked.count == min(4, len(held))
    rows = held[np.linspace(0, len(held) - 1, asked.count).astype(int)]
    assert asked.captions == tuple(setup.pictures.captions[i] for i in rows)  # type: ignore[index]
    drawn: dict[str, Any] = {}
    real = gallery.sheet
    monkeypatch.setattr("inkwash.gallery.sheet", lambda samples, **more: drawn.update(more) or real(samples, **more))
    finish(r, tmp_path / "run")
    assert drawn["captions"] == asked.captions
    np.testing.assert_array_equal(drawn["shown"], setup.pictures.shown[rows])  # type: ignore[index]
    assert len(list((tmp_path / "run/samples").glob("*.png"))) == 3
    none = squares(a_folder(tmp_path / "other"))
    assert Asked.of(set_up(none, load(none.data)), (load(none.data), np.arange(24))) is None


def test_a_card_says_what_a_model_can_be_asked_for_with_code_that_runs(tmp_path: Path) -> None:
    folder = a_folder(tmp_path / "data")
    r = everything(
        folder, train={"steps": 1}, conditions={"image": {"task": "paired", "dropout": 0.0}, "vector": {"dropout": 0.0}}
    )
    finish(r, tmp_path / "run")
    card = (tmp_path / "run/model/README.md").read_text()
    calls = re.findall(r"`(pipe\(.*\))`", card)
    assert len(calls) == 4 and all('image="picture.png"' in call and "vector={" in call for call in calls)
    Image.open(folder / "003.png").save(tmp_path / "picture.png")
    pipe = inkwash.load(tmp_path / "run", trust=True)
    for call in [*calls, *re.findall(r"^images = (pipe\(.*\))$", card, re.M)]:
        code = call.replace('"picture.png"', repr(str(tmp_path / "picture.png")))
        assert len(eval(code, {"pipe": pipe})) in (4, 16)
    plain = squares(folder)
    finish(plain, tmp_path / "plain")
    card = (tmp_path / "plain/model/README.md").read_text()
    assert "label=" in card and "prompt" not in card


def test_a_model_that_must_be_shown_is_drawn_in_its_report_and_its_command_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {"image": {"task": "paired", "dropout": 0.0}, "vector": {"dropout": 0.0}, "text": None}
    r = everything(a_folder(tmp_path / "data"), train={"steps": 1}, conditions=shown)
    r = replace(r, conditions=replace(r.conditions, text=None))
    *_, last = finish(r, tmp_path / "run")
    cli_finish(tmp_path / "run", last, r)
    mean = inkwash.load(tmp_path / "run").config.conditions.vector.mean[0]  # type: ignore[union-attr,index]
    needed = f"--vector size={mean:.3g} --image picture.png"
    assert f"inkwash sample {tmp_path / 'run'} {needed} --gif" in capsys.readouterr().out
    page = report(tmp_path / "run", device="cpu").file.read_text()
    data, rows = held_out(tmp_path / "run", None, "val")
    assert f"{len(rows)} samples, each asked for what an example of the data has" in page and 2 < len(rows) < 16
    assert f"-n 16 {needed}" in page
    pipe = inkwash.load(tmp_path / "run", device="cpu")
    asked = Asked.told(pipe.config, pipe.codec, (data, rows), 2, pipe.device)
    of_run = Asked.of(set_up(r, load(r.data)), (data, rows[[0, -1]]))
    assert of_run is not None and asked.count == 2 and asked.captions == of_run.captions
    assert torch.equal(asked.cond.image, of_run.cond.image)  # type: ignore[arg-type]
    contestants = [Contestant(name, pipe, {}, tmp_path, {"euler": (2, 1)}) for name in ("teacher", "student")]
    drawn = sheet(contestants, rows=2, examples=(data, rows))
    own = [pipe(2, cond=asked.cond, sampler="euler", steps=n).pictures() for n in (2, 1)] * 2
    heads = ["teacher, 2 steps", "teacher, 1 step", "student, 2 steps", "student, 1 step"]
    want = gallery.pictures.grid(np.stack(own, 1).reshape(-1, *own[0].shape[1:]), 4, labels=heads)
    assert (np.asarray(drawn) == np.asarray(want)).all()


def test_what_a_run_would_cost_is_told_without_writing(tmp_path: Path) -> None:
    r = everything(a_folder(tmp_path / "data"))
    figures = plan(r)
    assert figures.recipe.conditions is not None and figures.recipe.conditions.names == ("text", "vector", "image")
    assert not (tmp_path / "cache" / "tokens").exists() and not (tmp_path / "cache" / "captions").exists()
    assert figures.parameters > plan(squares(tmp_path / "data/squares")).parameters
