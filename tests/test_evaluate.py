"""The whole of an evaluation, on sides whose numbers are known."""

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

import inkwash
from gaussian import LAM, MU
from inkwash import checkpoint
from inkwash.checkpoint.atomic import held
from inkwash.codec import Standard
from inkwash.data import Dataset, load
from inkwash.data.mix import normal, uniform
from inkwash.evaluation import (
    ALL,
    Pictures,
    Reference,
    Side,
    check_measures,
    evaluate,
    evaluation_folder,
    frechet,
    given,
    moments,
    read_records,
    real,
    reference,
    save_plots,
    score,
    weights_hash,
    write_card,
)
from inkwash.evaluation import figures as measures_room
from inkwash.evaluation.figures import MEASURES, Neighbours, neighbours
from inkwash.evaluation.record import append
from inkwash.features import Extractor, Judge, extractor
from inkwash.model import Model, Plain
from inkwash.modelfolder import Config, save_model
from inkwash.nets import MLP
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline
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
    assert record.measure.settings == {"share": 0.01, "train": 200, "most": 10_000, "train_hash": "train's"}
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
    assert set(MEASURES) | {"nearest"} == set(ALL)


def test_pictures_from_anywhere(tmp_path: Path) -> None:
    np.save(tmp_path / "drawn.npy", blots(40, 2))
    like = known(dataset())
    found = given(str(tmp_path / "drawn.npy"), like, 30)
    assert len(found) == 30 and found.labels is None
    assert {p.tobytes() for p in found.array} <= {p.tobytes() for p in blots(40, 2)}
    np.save(tmp_path / "large.npy", blots(40, 2, size=16))
    with pytest.raises(ValueError, match=r"shape \(16, 16, 1\), and blots of \(8, 8, 1\)\. Bring them to one size"):
        given(str(tmp_path / "large.npy"), like)


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
