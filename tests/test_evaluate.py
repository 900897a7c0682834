"""The whole of an evaluation, on sides whose numbers are known."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from gaussian import LAM, MU
from inkwash import checkpoint
from inkwash.checkpoint.atomic import held
from inkwash.codec import Pixels, Scaled, Standard
from inkwash.data import Dataset, load, split
from inkwash.data.mix import normal, uniform
from inkwash.evaluation import (
    ALL,
    BoundSettings,
    Pictures,
    Reference,
    Side,
    check_measures,
    evaluate,
    evaluation_folder,
    frechet,
    given,
    likelihood_records,
    measure,
    moments,
    read_records,
    real,
    real_side,
    reference,
    save_plots,
    score,
    weights_hash,
    write_card,
)
from inkwash.evaluation import figures as measures_room
from inkwash.evaluation.figures import MEASURES, Neighbours, neighbours
from inkwash.evaluation.record import append
from inkwash.evaluation.sets import values_of
from inkwash.features import Extractor, Judge, extractor
from inkwash.model import Model, Plain
from inkwash.modelfolder import Config, save_model
from inkwash.nets import MLP, UNet
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline
from inkwash.ranks import Ranks
from inkwash.targets import Flow

RAW = extractor("raw")
CLASSES = ("dark", "bright")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


def blots(n: int, key: int = 1, size: int = 8) -> np.ndarray:
    """Pictures of noise, every other one dark: class 0 and class 1 in turn."""
    noise = (100 * uniform(np.arange(n * size * size), key)).astype(np.uint8).reshape(n, size, size, 1)
    return noise + 150 * (np.arange(n) % 2)[:, None, None, None].astype(np.uint8)


def dataset(n: int = 240, key: int = 1) -> Dataset:
    return Dataset("blots", blots(n, key), np.arange(n) % 2, CLASSES, None, f"print-{n}-{key}", generated=False)


def brightness() -> Judge:
    """A judge that is right whatever it sees."""

    def logits(x: torch.Tensor) -> torch.Tensor:
        bright = x.flatten(1).mean(1)
        return torch.stack([125 - bright, bright - 125], 1)

    raw = Extractor("logits", 2, "judge's", "none", torch.device("cpu"), logits, lambda u: u.float(), 32)
    return Judge(CLASSES, "judge's", 0.9, raw)


def drawn(array: np.ndarray, labels: Any = None, **about: Any) -> Pictures:
    return Pictures(array, labels, CLASSES, {"seed": 3, **about}, "drawn's")


def known(data: Dataset, split: str = "test") -> Reference:
    return reference(data, np.arange(len(data)), split, RAW)


def test_every_number_is_the_measure_s_own_and_says_what_it_is_of() -> None:
    data = dataset()
    fake = drawn(blots(180, 2), np.arange(180) % 2, sampler="heun")
    real_side = known(data)
    found = score(
        fake, real_side, RAW, judge=brightness(), train=real(data, np.arange(120), "train"), model={"folder": "m"}
    )
    x, y = (a.reshape(len(a), -1).astype(np.float64) / 255 for a in (fake.array, real_side.pictures.array))
    fd = found["fd"]
    assert fd.value == pytest.approx(frechet(moments(x), moments(y)), rel=1e-5)
    assert fd.floor == pytest.approx(frechet(moments(y[::2]), moments(y[1::2])), rel=1e-5)
    assert fd.floor_n == 120
    m = fd.measure
    assert (m.data, m.split, m.n, m.reference, m.features, m.weights) == ("blots", "test", 180, 240, "raw", RAW.weights)
    assert (m.data_hash, m.resize) == (real_side.key, RAW.resize)
    assert (fd.model, fd.sampling) == ({"folder": "m"}, {"seed": 3, "sampler": "heun"})
    assert fd.made["inkwash"] == inkwash.__version__
    names = {r.measure.name for r in found.records}
    expected = {
        "fd",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "class-histogram",
        "class-accuracy",
        "spectrum",
    }
    assert names == expected | {"memorised"}
    spectrum, accuracy = found["spectrum"].measure, found["class-accuracy"].measure
    assert (spectrum.features, spectrum.weights) == ("", "")
    assert (accuracy.features, accuracy.weights) == ("classifier", "judge's")
    assert found["precision"].measure.settings["k"] == 3 and found["density"].measure.settings["k"] == 5
    assert found["precision"].better == "higher" and found["fd"].better == "lower"


def test_classes_are_counted_and_asked_for() -> None:
    """90 dark and 30 bright pictures against halves: a quarter would have to change; asked for were 60 of each."""
    array = np.concatenate([blots(180, 2)[::2], blots(60, 3)[1::2]])
    asked = np.array([0] * 60 + [1] * 60)
    judge = brightness()
    data = dataset()
    real_side = replace(known(data), predicted=np.arange(240) % 2)
    real_side.about["classifier"] = judge.weights
    found = score(drawn(array, asked), real_side, RAW, measures=("classes",), judge=judge)
    assert found["class-histogram"].value == pytest.approx(0.25)
    assert found["class-histogram"].floor == 0.5 * 2  # even rows are all dark, odd ones all bright
    assert found["class-accuracy"].value == pytest.approx((60 + 30) / 120)
    assert found["class-accuracy"].low < 0.75 < found["class-accuracy"].high
    assert found.classes == CLASSES
    unasked = score(drawn(array), real_side, RAW, measures=("classes",), judge=judge)
    assert [r.measure.name for r in unasked.records] == ["class-histogram"]
    travelled = replace(real_side, pictures=None, about=real_side.about | {"classifier": "another's"})
    left_out = score(drawn(array, asked), travelled, RAW, measures=("classes",), judge=judge)
    assert left_out.records == () and "classes was left out" in left_out.notes[0]


def test_a_floor_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    power = MEASURES["spectrum"]

    def counted(fake: Side, real: Side) -> Any:
        calls.append(len(real))
        return power(fake, real)

    monkeypatch.setitem(measures_room.MEASURES, "spectrum", counted)
    data = dataset()
    first = score(drawn(blots(40, 2)), known(data), RAW, measures=("spectrum",))
    again = score(drawn(blots(60, 4)), known(data), RAW, measures=("spectrum",))
    assert calls == [240, 120, 240]
    assert first["spectrum"].floor == again["spectrum"].floor
    # Other code finds its own; the package's attribute is the function of that name.
    monkeypatch.setattr(sys.modules["inkwash.evaluation.evaluate"], "VERSION", 2)
    score(drawn(blots(40, 2)), known(data), RAW, measures=("spectrum",))
    assert calls == [240, 120, 240, 240, 120]


def test_a_floor_is_of_one_judge_and_of_one_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sees that the halves of the real are dark and bright, another sees no difference."""
    one = brightness()
    blind = replace(one, weights="blind", logits=replace(one.logits, net=lambda x: torch.eye(2)[:1].repeat(len(x), 1)))
    data = dataset()
    floors = [
        score(drawn(blots(40, 2)), known(data), RAW, measures=("classes",), judge=judge)["class-histogram"].floor
        for judge in (one, blind, one)
    ]
    halves = known(data).pictures.array.reshape(240, -1)  # type: ignore[union-attr]
    bright = halves.mean(1) > 125
    assert floors == [abs(bright[::2].mean() - bright[1::2].mean()), 0.0, floors[0]] and floors[0] > 0
    first = score(drawn(blots(40, 2)), known(data), RAW, measures=("precision-recall",))["recall"].floor
    monkeypatch.setattr(measures_room, "PRECISION_K", 30)
    assert score(drawn(blots(40, 2)), known(data), RAW, measures=("precision-recall",))["recall"].floor != first


def test_halves_are_disjoint_and_of_one_size() -> None:
    whole = Side(np.arange(14.0).reshape(7, 2), labels=np.arange(7))
    a, b = whole.half(0), whole.half(1)
    assert (a.features == whole.features[[0, 2, 4]]).all() and (b.features == whole.features[[1, 3, 5]]).all()
    assert a.labels is not None and a.labels.tolist() == [0, 2, 4] and np.shares_memory(a.features, whole.features)


def test_copies_are_found_and_shown(tmp_path: Path) -> None:
    train, held_out = blots(200, 1), dataset(200, 5)
    fake = blots(100, 2)
    fake[10:30] = train[40:60]
    fake[50] = train[41]  # the same picture twice is shown once
    seen = Pictures(train, None, CLASSES, {}, "train's", tmp_path / "train")
    found = score(drawn(fake), known(held_out), RAW, measures=("nearest",), train=seen)
    record = found["memorised"]
    assert record.value == pytest.approx(0.21) and record.bias == 0.01 and record.low > 0.1
    how = {"share": 0.01, "train": 200, "of": 200, "most": 10_000, "train_hash": "train's"}
    assert record.measure.settings == how and not any("searched" in note for note in found.notes)
    closest = found.neighbours.closest(20)
    assert sorted(closest.tolist()) == list(range(10, 30))
    assert found.neighbours.index[closest].tolist() == (closest + 30).tolist()
    written = save_plots(found, tmp_path / "plots")
    assert [f.name for f in written] == ["nearest.png", "spectrum.png"]
    with Image.open(written[0]) as image:
        shown = np.asarray(image.convert("L"))
    scale = round(60 / 8)
    cells = [fake[i, :, :, 0].repeat(scale, 0).repeat(scale, 1) for i in closest[:12]]
    row = next(y for y in range(len(shown)) if (shown[y : y + 8 * scale, 10 : 10 + 8 * scale] == cells[0]).all())
    below = shown[row + 8 * scale + 2 : row + 16 * scale + 2, 10 : 10 + 8 * scale]
    assert (below == cells[0]).all()  # a copy's neighbour is the picture itself


def test_a_part_of_the_training_set_is_said_to_be_one() -> None:
    """All pictures are copies, and a quarter of the training set is searched: a quarter is found, and both are said."""
    data, held_out = dataset(400), dataset(200, 5)
    fake = drawn(blots(400))
    seen = real(data, np.arange(400), "train", 100)
    found = score(fake, known(held_out), RAW, measures=("nearest",), train=seen)
    assert found["memorised"].value == pytest.approx(0.25)
    assert {"train": 100, "of": 400}.items() <= found["memorised"].measure.settings.items()
    told = "100 of 400 training pictures were searched: of pictures that are all copies, about 25 % would be found."
    assert told in found.notes


def test_measures_that_look_at_a_part_of_the_pictures_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["inkwash.evaluation.evaluate"], "MOST", 40)
    names = ("fd", "precision-recall", "nearest")
    for n, said in ((40, False), (41, True)):
        found = score(drawn(blots(n, 2)), known(dataset(40)), RAW, measures=names)
        assert ("precision-recall, nearest: of the first 40 pictures a side" in " ".join(found.notes)) == said
    assert not score(drawn(blots(41, 2)), known(dataset(40)), RAW, measures=("fd",)).notes


def test_the_classifier_learns_what_the_run_saw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured on what the run held out, and taught the rest."""
    monkeypatch.chdir(tmp_path)
    config = Config((1, 8, 8), UNet("tiny"), Linear(), Flow(), Plain(), Pixels(), data="some")
    save_model(config, config.network().state_dict(), "run/model")
    np.save("some.npy", blots(60))
    Path("run/recipe.toml").write_text('[data]\nsource = "some.npy"\nval_fraction = 0.5\n[train]\nseed = 3\n')
    taught: list[np.ndarray] = []
    monkeypatch.setattr(
        "inkwash.evaluation.job.classifier_file", lambda data, train, rows, **_: taught.append(rows) and None
    )
    side = real_side("run", "val", None, "raw", 60, measures=("classes",))
    data = load("some.npy")
    mine, held = split(data, 0.5, 3)
    assert taught[0].tolist() == mine.tolist() and side.rows is not None and side.rows.tolist() == held.tolist()


def test_without_held_out_pictures_copies_are_shown_not_counted() -> None:
    seen = Side(blots(50, 1).reshape(50, -1).astype(np.float32))
    fake = Side(blots(20, 2).reshape(20, -1).astype(np.float32))
    assert neighbours(fake, seen, None).share is None
    assert neighbours(fake, seen, Side(seen.features[:98])).share is None
    assert neighbours(fake, seen, Side(np.tile(seen.features, (2, 1))[:99])).share is not None
    data = dataset()
    found = score(
        drawn(blots(20, 2)), known(data, "train"), RAW, measures=("nearest",), train=real(data, np.arange(99), "t")
    )
    assert found.records == () and found.neighbours is not None and "shown, not counted" in found.notes[0]
    assert Neighbours(np.array([3.0, 1.0, 2.0]), np.array([0, 1, 1]), None).closest(5).tolist() == [1, 0]


class Perfect(torch.nn.Module):
    """The flow of Gaussian data along alpha = 1 - t, sigma = t: eps - x0, both as expected at x."""

    def forward(self, x: torch.Tensor, t_emb: torch.Tensor, s_emb: torch.Tensor, cond: Any) -> torch.Tensor:
        t = t_emb.double()[:, None] / 1000
        alpha, sigma = 1 - t, t
        gap = (x - alpha * MU) / (alpha**2 * LAM + sigma**2)
        return (sigma * gap - (MU + alpha * LAM * gap)).float()


def test_a_perfect_model_is_as_far_from_the_data_as_chance_is() -> None:
    """Gaussian data and their exact denoiser: the distance is the bias; with the wrong mean, |shift|² more."""
    n = 2000
    x = (MU.numpy() + np.sqrt(LAM.numpy()) * normal(np.arange(4 * n), 9).reshape(n, 4)).astype(np.float32)
    data = Dataset("made", x, None, (), None, "gaussian", generated=True)
    real_side = known(data)

    def measured(mean: float) -> Any:
        codec = Standard((mean,) * 4, (1.0,) * 4)
        config = Config((4,), MLP(), Linear(), Flow(), Plain(), codec, data="made")
        pipe = Pipeline(config, Model(Perfect(), Linear(), Flow(), Plain()), torch.device("cpu"))
        return evaluate(pipe, real_side, n, measures=("fd", "kid"), steps=20, seed=1)

    found = measured(0.0)
    assert 0 < found["fd"].value < 4 * found["fd"].bias
    assert found["kid"].low < 0 < found["kid"].high
    assert found["fd"].sampling["calls"] == 39 and found["fd"].sampling["seed"] == 1
    shifted = measured(0.5)
    assert shifted["fd"].value == pytest.approx(4 * 0.25, rel=0.1)
    assert shifted["kid"].low > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"measures": ("fid",)}, r"no measure 'fid'\. Did you mean fd\?"),
        ({"measures": ("zebra",)}, "Choose from fd, kid, precision-recall"),
        ({"array": blots(15)}, "15 pictures are too few"),
        ({"data": dataset(14)}, r"14 real pictures of blots \(test\) are too few"),
        ({"net": replace(RAW, weights="f" * 64)}, "another feature net"),
    ],
)
def test_what_cannot_be_measured_is_refused(change: dict[str, Any], says: str) -> None:
    real_side = known(change.get("data", dataset()))
    with pytest.raises(ValueError, match=says):
        score(
            drawn(change.get("array", blots(40))),
            real_side,
            change.get("net", RAW),
            measures=change.get("measures", ALL),
        )


def test_all_measures_are_named() -> None:
    check_measures(ALL)
    assert set(MEASURES) | {"nearest", "text", "vector", "image"} == set(ALL)


def test_pictures_from_anywhere(tmp_path: Path) -> None:
    np.save(tmp_path / "drawn.npy", blots(40, 2))
    like = known(dataset())
    found = given(str(tmp_path / "drawn.npy"), like, 30)
    assert len(found) == 30 and found.labels is None
    assert {p.tobytes() for p in found.array} <= {p.tobytes() for p in blots(40, 2)}
    np.save(tmp_path / "large.npy", blots(40, 2, size=16))
    said = r"shape \(16, 16, 1\), and those of blots \(test\) \(8, 8, 1\)\. Bring them to one size"
    with pytest.raises(ValueError, match=said):
        score(given(str(tmp_path / "large.npy"), like), like, extractor("lite0"), measures=("fd",))


def floats(n: int = 40, low: float = 0.0, high: float = 1.0) -> np.ndarray:
    """Pictures of floats, the values from low to high."""
    values = uniform(np.arange(n * 64), 3).astype(np.float32)
    values[:2] = 0, 1
    return (low + (high - low) * values).reshape(n, 8, 8, 1)


def of_floats(codec: Any, shape: tuple[int, ...] = (1, 8, 8)) -> Pipeline:
    config = Config(shape, UNet("tiny"), Linear(), Flow(), Plain(), codec, data="made")
    return Pipeline(config, config.build(), torch.device("cpu"))


def test_black_and_white_are_the_model_s_own_on_both_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of floats from 0 to 1, and real pictures that only reach 0.5: they are half as bright as its own."""
    monkeypatch.chdir(tmp_path)
    config = Config((1, 8, 8), UNet("tiny"), Linear(), Flow(), Plain(), Scaled(0.0, 1.0), data="train")
    save_model(config, config.network().state_dict(), "run/model")
    np.save("train.npy", floats())
    np.save("other.npy", floats(high=0.5))
    Path("run/recipe.toml").write_text('[data]\nsource = "train.npy"\n')
    side = real_side("run", "test", "other.npy", "raw", 40, measures=("fd", "nearest"))
    assert side.reference.pictures is not None and side.train is not None
    expected = (255 * floats(high=0.5)).round().astype(np.uint8)
    assert sorted(p.tobytes() for p in side.reference.pictures.array) == sorted(p.tobytes() for p in expected)
    assert side.reference.about["values"] == side.train.about["values"] == values_of(Scaled(0.0, 1.0))
    assert evaluate(of_floats(Scaled(0.0, 1.0)), side.reference, 20, measures=("fd",), steps=1).records
    theirs = given("other.npy", side.reference)
    assert theirs.about["values"] == values_of(Scaled(0.0, 1.0)) and theirs.array.max() == 128


@pytest.mark.parametrize(
    ("codec", "shape", "says"),
    [
        (Scaled(0.0, 2.0), (1, 8, 8), r"Black and white are not the same .*'high': 2\.0.*'high': 1\.0"),
        (Pixels(), (1, 8, 8), "Black and white are not the same"),
        (Scaled(0.0, 1.0), (1, 16, 16), r"have the shape \(16, 16, 1\), and those of made \(test\) \(8, 8, 1\)"),
        (Scaled(0.0, 1.0), (3, 8, 8), r"have the shape \(8, 8, 3\)"),
    ],
)
def test_pictures_unlike_the_real_are_refused_before_any_is_drawn(
    codec: Any, shape: tuple[int, ...], says: str, tmp_path: Path
) -> None:
    data = Dataset("made", floats(), None, (), None, "floats", generated=True)
    with pytest.raises(ValueError, match=says):
        evaluate(of_floats(codec, shape), known(data), 20, measures=("fd",), folder=tmp_path / "drawn")
    assert not (tmp_path / "drawn").exists()


def test_ranks_need_one_folder() -> None:
    pipe = of_floats(Scaled(0.0, 1.0))
    data = Dataset("made", floats(), None, (), None, "floats", generated=True)
    with pytest.raises(ValueError, match="2 processes draw together, so say where: folder = "):
        evaluate(pipe, known(data), 20, measures=("fd",), ranks=Ranks(1, 2))


def test_bits_belong_to_the_rows_they_are_of() -> None:
    x = normal(np.arange(160), 4).astype(np.float32).reshape(40, 4)
    data = Dataset("made", x, None, (), None, "print", generated=True)
    config = Config((4,), MLP(), Linear(), Flow(), Plain(), Standard((0.0,) * 4, (1.0,) * 4), data="made")
    pipe = Pipeline(config, Model(Perfect(), Linear(), Flow(), Plain()), torch.device("cpu"))

    def hashed(rows: np.ndarray | None) -> str:
        found = measure(pipe, data, 4, rows=rows, bound=BoundSettings(steps=2))
        (record,) = likelihood_records(found, "val", {}, torch.device("cpu"))
        return record.measure.data_hash

    assert hashed(np.arange(20)) == hashed(np.arange(20)) != hashed(np.arange(20, 40)) != hashed(None)
    assert hashed(None) == hashed(np.arange(40))


def test_what_is_missing_is_said() -> None:
    """Of several things that are, the one that nobody could give first."""
    judge = brightness()

    def why(side: Reference, judge: Judge | None, array: np.ndarray, name: str = "classes") -> str:
        return score(drawn(array), side, RAW, measures=(name,), judge=judge).notes[0]

    mine = known(dataset())
    travelled = replace(mine, pictures=None)
    assert why(mine, None, blots(40)) == "classes was left out: there is no classifier of blots."
    assert why(travelled, None, blots(40)) == "classes was left out: the reference came without a classifier."
    assert "the reference has no pictures that this classifier could see" in why(travelled, judge, blots(40))
    unlabelled = replace(travelled, labels=None)
    assert "blots has no labels that a classifier could be trained on" in why(unlabelled, None, blots(40))
    vectors = normal(np.arange(80), 1).astype(np.float32).reshape(40, 2)
    points = known(Dataset("dots", vectors, np.arange(40) % 2, CLASSES, None, "dots", generated=True))
    for side in (points, replace(points, pictures=None)):
        for name in ("classes", "spectrum"):
            assert why(side, None, vectors, name) == f"{name} was left out: these are not pictures."
    bare = replace(travelled, spectrum=None)
    assert "the reference has no pictures, and nothing" in why(bare, None, blots(40), "spectrum")


def run_with_card(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    config = Config((2,), MLP(8, 1), Linear(), Flow(), Plain(), Standard((0.0, 0.0), (1.0, 1.0)), data="moons")
    weights = config.network().state_dict()
    save_model(config, weights, tmp_path / "run" / "model")
    (tmp_path / "run" / "recipe.toml").write_text('[data]\nsource = "moons"\n')
    return tmp_path / "run", weights


def test_a_card_has_the_numbers_of_its_own_weights(tmp_path: Path) -> None:
    run, weights = run_with_card(tmp_path)
    folder = evaluation_folder(run)
    assert folder == run / "evaluation"
    record = score(drawn(blots(40)), known(dataset()), RAW, measures=("fd",))["fd"]
    mine = replace(record, value=11.25, model={"weights_sha256": weights_hash(run)})
    append(folder, [replace(mine, value=99.5), mine, replace(mine, value=77.5, model={"weights_sha256": "other"})])
    before = weights_hash(run)
    assert write_card(run) == ""
    card = (run / "model" / "README.md").read_text()
    assert "| FD-raw | 11.25 |" in card and "99.5" not in card and "77.5" not in card
    assert "# A diffusion model made with inkwash" in card
    assert weights_hash(run) == before
    again = checkpoint.load(run / "model").tensors["model"]
    assert all(torch.equal(again[k], weights[k]) for k in weights)
    with held(run):
        assert "is being trained" in write_card(run)


def test_a_model_in_no_run_is_measured_beside_it(tmp_path: Path) -> None:
    run, _ = run_with_card(tmp_path)
    (run / "recipe.toml").unlink()
    assert evaluation_folder(run / "model") == run / "model-evaluation"
    assert read_records(evaluation_folder(run)) == []


def test_numbers_are_plain_json() -> None:
    record = score(drawn(blots(40)), known(dataset()), RAW, measures=("kid",))["kid"]
    assert json.loads(json.dumps(record.table()))["measure"]["data"] == "blots"
    assert math.isfinite(record.value)
    assert load("moons").images.shape[1] == 2
