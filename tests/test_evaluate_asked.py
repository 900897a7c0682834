"""Evaluating a model that is told captions, numbers and pictures: what it is asked, and how its answers are judged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inkwash.asking import condition_of
from inkwash.codec import Pixels
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, LowResolution, Masked, Paired
from inkwash.data import Dataset
from inkwash.data.mix import normal
from inkwash.evaluation import Pictures, Reference, evaluate, measure, real, reference, requests, score
from inkwash.evaluation.answers import _embeddings as embeddings
from inkwash.evaluation.answers import check_asked
from inkwash.evaluation.card import row_of
from inkwash.evaluation.likelihood import BoundSettings
from inkwash.evaluation.partner import psnr
from inkwash.evaluation.retrieval import sentences
from inkwash.features import extractor
from inkwash.model import Plain
from inkwash.modelfolder import Config
from inkwash.nets import UNet
from inkwash.noise import Philox
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline
from inkwash.targets import Flow

RAW = extractor("raw")
CPU = torch.device("cpu")
SIDE, WIDTH = 12, 384
EVERYTHING = Conditions(
    ByText(), ByVector(("brightness", "tilt"), (100.0, 0.0), (50.0, 1.0)), ByImage(LowResolution(2))
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


def dataset(n: int, key: int = 1) -> Dataset:
    """Pictures that are sums of eight patterns, whose amounts are the caption's embedding and the first two numbers."""
    amounts = normal(np.arange(n * 8), key).reshape(n, 8)
    patterns = 4 * normal(np.arange(8 * SIDE * SIDE * 3), 99).reshape(8, -1)
    images = np.clip(np.rint(128 + amounts @ patterns), 0, 255).astype(np.uint8).reshape(n, SIDE, SIDE, 3)
    tokens = np.zeros((n, 2, WIDTH), np.float16)
    tokens[:, 0, :8] = amounts
    captions = tuple(f"picture {i} of {key}" for i in range(n))
    return Dataset(
        "sums",
        images,
        np.arange(n) % 2,
        ("even", "odd"),
        captions,
        f"print-{n}-{key}",
        generated=True,
        vectors=amounts[:, :2].astype(np.float32),
        vector_names=("brightness", "tilt"),
        tokens=tokens,
        lengths=np.ones(n, np.int64),
    )


def model(conditions: Conditions = EVERYTHING, classes: tuple[str, ...] = ("even", "odd")) -> Pipeline:
    torch.manual_seed(0)
    config = Config(
        (3, SIDE, SIDE), UNet("tiny", widths=(16,), patch=2, depth=1), Linear(), Flow(), Plain(), Pixels(), classes,
        conditions=conditions,
    )  # fmt: skip
    made = config.build()
    for p in made.net.parameters():  # last layers begin at zero, and a condition would change nothing
        torch.nn.init.normal_(p, std=0.05) if p.ndim > 1 else None
    return Pipeline(config, made, CPU, chunk=4)


def known(data: Dataset) -> Reference:
    return reference(data, np.arange(len(data)), "val", RAW)


def answered(array: np.ndarray, side: Reference, conditions: Conditions) -> Pictures:
    """Pictures as if a model of these conditions had drawn them for those of the reference."""
    assert side.pictures is not None
    config = model(conditions).config
    asked = requests(config, Pixels(), side.pictures.data, side.pictures.rows, CPU)
    return Pictures(array, None, config.classes, {"seed": 0}, f"drawn-{array.sum()}", asked=asked)


def test_a_picture_is_drawn_for_what_its_real_one_has() -> None:
    """Picture k for row k of the reference, in its order, and over again: the very picture that a call draws for it."""
    pipe, side = model(), known(dataset(20))
    found = evaluate(pipe, side, 24, measures=("fd",), steps=1, sampler="euler")
    pictures = side.pictures
    assert pictures is not None and pictures.data is not None and pictures.rows is not None
    labels = found.pictures.labels
    assert labels is not None and labels.tolist() == (pictures.rows[np.arange(24) % 20] % 2).tolist()
    for k in (0, 7, 22):
        rows = pictures.data.take(pictures.rows[[k % 20]])
        cond = condition_of(pipe.config, pipe.codec, rows, Philox(0, torch.tensor([k])), CPU)
        alone = pipe(1, cond=cond, first=k, seed=0, steps=1, sampler="euler").pictures()
        assert (found.pictures.array[k] == alone[0]).all()
    assert not (found.pictures.array[2] == found.pictures.array[22]).all()  # another noise
    asked = found["fd"].sampling["asked"]
    assert asked["of"] == ["label", "text", "vector", "image"] and asked["fingerprint"] == pictures.data.fingerprint
    again = evaluate(pipe, known(dataset(20, 2)), 24, measures=("fd",), steps=1, sampler="euler")
    assert again.pictures.key != found.pictures.key and not (again.pictures.array == found.pictures.array).all()


def test_labels_of_another_set_are_asked_of_any_class() -> None:
    pipe = model(classes=("cat", "dog"))
    side = known(dataset(20))
    assert side.pictures is not None
    asked = requests(pipe.config, pipe.codec, side.pictures.data, side.pictures.rows, CPU)
    assert asked is not None and asked.about(20)["of"] == ["text", "vector", "image"]
    labels = asked(0, 5).label
    assert labels is not None and labels.tolist() == [-1] * 5


def test_models_of_a_label_at_most_are_asked_as_ever() -> None:
    data = dataset(20)
    assert requests(model(Conditions()).config, Pixels(), data, np.arange(20), CPU) is None
    found = evaluate(model(Conditions()), known(data), 16, measures=("fd", "text", "image"), steps=1, sampler="euler")
    assert [r.measure.name for r in found.records] == ["fd"] and "asked" not in found["fd"].sampling


def test_without_real_examples_nothing_can_be_asked() -> None:
    side = replace(known(dataset(20)), pictures=None)
    with pytest.raises(ValueError, match="asked for text and vector and image of real examples, and here are none"):
        evaluate(model(), side, 16, measures=("fd",), steps=1)
    data = replace(dataset(20), vector_names=("height",))
    with pytest.raises(ValueError, match="brightness, tilt, and the numbers of sums are: height"):
        evaluate(model(), known(data), 16, measures=("fd",), steps=1)


def test_answers_that_are_the_real_pictures() -> None:
    """What is drawn is what was asked: as good as real pictures by every measure, which are nearly all found."""
    side, trained = known(dataset(100)), dataset(400, 2)
    assert side.pictures is not None
    train = real(trained, np.arange(400), "train")
    fake = answered(side.pictures.array.copy(), side, EVERYTHING)
    found = score(fake, side, RAW, measures=("text", "vector", "image"), train=train)
    names = [r.measure.name for r in found.records]
    numbers = ["r2(brightness)", "slope(brightness)", "r2(tilt)", "slope(tilt)"]
    assert names == ["text-top-1", "text-top-5", "text-rank", *numbers, "psnr", "ssim", "kept"]
    for name in [*names[:7], "kept"]:
        assert found[name].value == pytest.approx(found[name].floor, abs=1e-9) and found[name].floor_of == "own"
    top = found["text-top-1"]
    assert top.value > 0.95 and top.chance == 0.01 and top.floor_low == top.low
    assert top.measure.settings["candidates"] == 100 and top.measure.settings["probe"]["n"] == 400
    assert top.measure.settings["probe"]["train"] == train.key and top.measure.features == "raw"
    assert f"{top.floor:.4g} (the real 100, {top.low:.4g} to {top.high:.4g}), chance 0.01" in row_of(top)
    assert found["text-rank"].value == 1 and found["text-rank"].chance == 50.5
    assert found["r2(tilt)"].value > 0.95 and found["slope(tilt)"].value == pytest.approx(1, abs=0.05)
    assert found["slope(tilt)"].better == ""
    assert found["psnr"].value == pytest.approx(58.92, abs=0.01) and found["ssim"].value == pytest.approx(1)
    shown = LowResolution(2).show(side.pictures.array)
    assert found["psnr"].chance == pytest.approx(float(psnr(shown, side.pictures.array).mean()))
    assert found["kept"].value == 0


def test_answers_to_other_questions() -> None:
    """Every answer is the next picture's: right in itself, and no more what was asked for than by chance."""
    side, train = known(dataset(100)), real(dataset(400, 2), np.arange(400), "train")
    assert side.pictures is not None
    fake = answered(np.roll(side.pictures.array, 1, 0), side, EVERYTHING)
    found = score(fake, side, RAW, measures=("text", "vector", "image"), train=train)
    assert found["text-top-1"].value < 0.05 and found["text-top-1"].floor > 0.95
    assert found["text-rank"].low < 50.5 < found["text-rank"].high
    low, high = found["slope(tilt)"].low, found["slope(tilt)"].high
    assert low is not None and high is not None and low < 0 < high and found["r2(tilt)"].value < 0
    shown = LowResolution(2).show(side.pictures.array).astype(float)
    error = np.square(shown - np.roll(shown, 1, 0)).mean()
    assert found["kept"].value == pytest.approx(error**0.5) and found["psnr"].value < 30


def test_more_answers_than_questions() -> None:
    side, train = known(dataset(50)), real(dataset(400, 2), np.arange(400), "train")
    assert side.pictures is not None
    fake = answered(np.concatenate([side.pictures.array, side.pictures.array[:30]]), side, EVERYTHING)
    found = score(fake, side, RAW, measures=("text", "vector", "image"), train=train)
    assert found["text-top-1"].value > 0.9 and found["psnr"].value > 58 and found["r2(tilt)"].value > 0.9


def test_what_is_missing_is_left_out() -> None:
    """Captions that are empty are no candidates; numbers that are not known are not asked for."""
    data = dataset(100)
    captions = tuple("" if i < 50 else c for i, c in enumerate(data.captions or ()))
    vectors = np.array(data.vectors)
    vectors[:30, 0] = np.nan
    side = known(replace(data, captions=captions, vectors=vectors))
    assert side.pictures is not None
    fake = answered(side.pictures.array.copy(), side, EVERYTHING)
    train = real(dataset(400, 2), np.arange(400), "train")
    found = score(fake, side, RAW, measures=("text", "vector"), train=train)
    assert found["text-top-1"].measure.settings["candidates"] == 50 and found["text-top-1"].value > 0.95
    assert found["r2(brightness)"].value > 0.95
    blind = score(fake, side, RAW, measures=("text", "vector", "image"))
    assert [r.measure.name for r in blind.records] == ["psnr", "ssim", "kept"]
    assert len(blind.notes) == 2 and all("fitted on training pictures" in note for note in blind.notes)
    few = score(fake, side, RAW, measures=("text",), train=real(dataset(400, 2), np.arange(12), "train"))
    assert "12 training pictures have what is to be read" in few.notes[0]


def test_holes_and_partners() -> None:
    """What a filled picture must keep is what was not hidden; of a partner there is nothing to keep."""
    side = known(dataset(60))
    assert side.pictures is not None
    changed = side.pictures.array ^ 1
    found = score(answered(changed, side, Conditions(image=ByImage(Masked()))), side, RAW, measures=("image",))
    assert found["kept"].value == pytest.approx(1) and found["psnr"].chance is None
    asked = answered(changed, side, Conditions(image=ByImage(Masked()))).asked
    assert asked is not None
    seen = asked(0, 60).image
    assert seen is not None
    hidden = torch.isnan(seen[:, 0]).numpy()
    filled = np.where(hidden[..., None], 0, side.pictures.array).astype(np.uint8)
    inside = score(answered(filled, side, Conditions(image=ByImage(Masked()))), side, RAW, measures=("image",))
    assert inside["kept"].value == 0 and inside["psnr"].value < 30
    data = replace(dataset(60), shown=255 - dataset(60).images)
    other = known(data)
    assert other.pictures is not None
    pairs = score(
        answered(other.pictures.array.copy(), other, Conditions(image=ByImage(Paired()))), other, RAW,
        measures=("image",),
    )  # fmt: skip
    assert [r.measure.name for r in pairs.records] == ["psnr", "ssim"]
    turned = psnr(255 - other.pictures.array, other.pictures.array).mean()
    assert pairs["psnr"].chance == pytest.approx(float(turned)) and pairs["psnr"].value > 58


def test_many_numbers_are_measured_together() -> None:
    """Ten columns, each a sum of the patterns' amounts and of another size: one R², of standardised ones."""

    def wide(data: Dataset) -> Dataset:
        amounts = np.asarray(data.tokens)[:, 0, :8].astype(np.float64)
        values = amounts @ normal(np.arange(80), 5).reshape(8, 10) * 10.0 ** np.arange(-4, 6)
        return replace(data, vectors=values.astype(np.float32), vector_names=names)

    names = tuple(f"v{i}" for i in range(10))
    told = Conditions(vector=ByVector(names, (0.0,) * 10, (1.0,) * 10))
    side = known(wide(dataset(100)))
    assert side.pictures is not None
    train = real(wide(dataset(400, 2)), np.arange(400), "train")
    array = side.pictures.array.copy()
    found = score(answered(array, side, told), side, RAW, measures=("vector",), train=train)
    assert [r.measure.name for r in found.records] == ["r2", "slope"] and found["r2"].value > 0.95


def test_a_number_that_does_not_vary_leaves_the_others() -> None:
    data = dataset(100)
    vectors = np.array(data.vectors)
    vectors[:, 0] = 3.0
    side = known(replace(data, vectors=vectors))
    assert side.pictures is not None
    train = real(dataset(400, 2), np.arange(400), "train")
    found = score(answered(side.pictures.array.copy(), side, EVERYTHING), side, RAW, measures=("vector",), train=train)
    assert [r.measure.name for r in found.records] == ["r2(tilt)", "slope(tilt)"] and found["r2(tilt)"].value > 0.9
    assert found.notes == ("vector is not whole: brightness of the real pictures do not vary.",)


def test_captions_are_read_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    data, taken = dataset(100), []
    asked = requests(model().config, Pixels(), data, np.arange(100), CPU)
    assert asked is not None
    own = Dataset.take
    monkeypatch.setattr(Dataset, "take", lambda self, i, *more: taken.append(len(i)) or own(self, i, *more))
    monkeypatch.setattr("inkwash.evaluation.answers.BLOCK", 32)
    rows = np.arange(99, -1, -1)
    whole = sentences(np.asarray(data.tokens)[rows], np.ones(100, np.int64))
    assert (embeddings(asked, rows) == whole).all() and taken == [32, 32, 32, 4]


def test_more_of_what_is_asked_goes_on_where_less_ended(tmp_path: Path) -> None:
    """Until the real examples begin anew: then which of them come again depends on how many there are."""
    pipe, data = model(), dataset(40)

    def drawn(n: int, against: int) -> Pictures:
        side = reference(data, np.arange(40), "val", RAW, against)
        how: dict[str, Any] = {"measures": ("fd",), "steps": 1, "sampler": "euler"}
        return evaluate(pipe, side, n, folder=tmp_path, **how).pictures

    few, more, again = drawn(16, 16), drawn(24, 30), drawn(24, 20)
    assert few.key == more.key != again.key
    alone = evaluate(
        pipe, reference(data, np.arange(40), "val", RAW, 24), 24, measures=("fd",), steps=1, sampler="euler"
    )
    assert (more.array == alone.pictures.array).all()
    assert (again.array[:20] == more.array[:20]).all() and not (again.array[20:] == more.array[20:]).all()


def test_measures_of_what_a_model_is_not_told() -> None:
    assert check_asked(("fd", "text"), ("text",)) == []
    (said,) = check_asked(("fd", "vector"), ("text", "image"))
    assert said.startswith("vector measures how a model follows a vector, and this one is told of text and image.")
    assert "a label at most" in check_asked(("text",), ())[0]


def test_a_likelihood_is_of_examples_with_their_own_conditions() -> None:
    """Other captions, numbers or pictures of the same examples make another bound; an example's do not depend on n."""
    pipe, data = model(), dataset(12)
    how = {"bound": BoundSettings(steps=4), "seed": 3}

    def bound(of: Dataset, n: int = 6) -> float:
        found = measure(pipe, of, n, batch_size=3, **how)
        assert found.settings["conditions"] == ["text", "vector", "image"] and found.bound is not None
        return found.bound.middle.mean

    mine = bound(data)
    assert bound(data) == mine
    assert bound(replace(data, tokens=np.asarray(data.tokens)[::-1].copy())) != mine
    assert bound(replace(data, vectors=2 * np.asarray(data.vectors))) != mine
    assert bound(replace(data, labels=1 - np.asarray(data.labels))) != mine
    null = model(Conditions())
    assert measure(null, data, 6, batch_size=3, **how).settings["conditions"] == []


def test_shown_pictures_have_their_own_noise() -> None:
    """Conditioning augmentation: the same row twice in a set is shown with two draws, under every seed the same two."""
    told = Conditions(image=ByImage(LowResolution(2, noise=0.3)))
    config, data = model(told).config, dataset(4)
    asked = requests(config, Pixels(), data, np.arange(4), CPU)
    assert asked is not None
    image = asked(0, 8).image
    plain = Pixels().encode(torch.from_numpy(LowResolution(2).show(data.images)))
    assert image is not None and not torch.equal(image[:4], image[4:])
    assert (image - plain.repeat(2, 1, 1, 1)).std() == pytest.approx(0.3, rel=0.1)
    again = asked(5, 6).image
    assert again is not None and torch.equal(again[0], image[5])
