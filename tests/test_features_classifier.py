"""Classifiers of a data set's own classes: those that ship, those that are trained, and what both are trusted with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inkwash.data import Dataset, DataSpec, load, order, split
from inkwash.data.known import KNOWN
from inkwash.data.shapes import CLASSES, draw
from inkwash.features import Classifier, classifier_file, extractor, judge, load_judge, tensors_hash
from inkwash.features.classifier import (
    SHIPPED,
    About,
    ClassifierNet,
    as_extractor,
    read_classifier,
    scaled,
    write_classifier,
)
from inkwash.features.judge import FILE, accuracy, train_classifier

CPU = torch.device("cpu")


def shapes(n: int = 1000, name: str = "shapes (generated)") -> Dataset:
    """Drawn pictures at half their size, 14x14."""
    images, labels = draw("train", n)
    small = np.rint(images.reshape(n, 14, 2, 14, 2, 1).mean((2, 4))).astype(np.uint8)
    return Dataset(name, small, labels, CLASSES, None, f"{n:064}", generated=True)


def empty(name: str, classes: tuple[str, ...] = (), side: int = 28) -> Dataset:
    known = KNOWN.get(name)
    classes = classes or (known.classes if known else CLASSES)
    return Dataset(name, np.zeros((4, side, side, 1), np.uint8), np.arange(4), classes, None, "0" * 64, generated=False)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps instead of thousands."""
    monkeypatch.setattr(judge, "EXAMPLES", 256)


@pytest.mark.parametrize(("name", "least"), [("fashion-mnist", 0.925), ("mnist", 0.99)])
def test_what_ships(name: str, least: float) -> None:
    about, net = read_classifier(SHIPPED[name])
    assert (about.data, about.classes, about.shape) == (name, KNOWN[name].classes, (1, 28, 28))
    assert about.accuracy is not None
    assert least <= about.accuracy < 1
    assert about.measured == f"the 10,000 test pictures of {name}"
    assert about.command.startswith(f"python tools/train_classifiers.py {name}")
    assert len(about.fingerprint) == 64
    assert 50_000 < sum(p.numel() for p in net.parameters()) < 100_000
    assert sum(file.stat().st_size for file in SHIPPED.values()) < 1 << 20


def test_mnists_classifier_reads_drawn_digits() -> None:
    """A ring is a zero, an upright bar a one, and the strokes of 4 and 7 are those."""
    u = np.zeros((4, 28, 28, 1), np.uint8)
    y, x = np.mgrid[:28, :28] - 13.5
    u[0, ..., 0] = 255 * (np.abs(np.hypot(x / 0.8, y) - 8) < 1.5)
    u[1, 5:23, 13:16] = 255
    u[2, 5:7, 8:20] = 255  # 7: a top and a slanted stroke
    for row in range(5, 24):
        u[2, row, 19 - (row - 5) // 2 : 22 - (row - 5) // 2] = 255
    u[3, 5:15, 8:10] = u[3, 13:15, 8:20] = u[3, 5:24, 17:19] = 255
    assert load_judge(SHIPPED["mnist"])(u).tolist() == [0, 1, 7, 4]


def test_fashion_mnists_classifier_reads_drawn_clothes() -> None:
    """Two legs below a waist are trousers; a body with long sleeves beside it is none, nor is a bag."""
    u = np.zeros((2, 28, 28, 1), np.uint8)
    u[0, 1:27, 9:13] = u[0, 1:27, 15:19] = u[0, 1:8, 9:19] = 200
    u[1, 11:25, 2:26] = 180  # a body
    u[1, 5:11, 8:10] = u[1, 5:11, 18:20] = u[1, 4:6, 8:20] = 180  # and a handle
    names = [KNOWN["fashion-mnist"].classes[i] for i in load_judge(SHIPPED["fashion-mnist"])(u).tolist()]
    assert names == ["Trouser", "Bag"]


@pytest.mark.net
@pytest.mark.parametrize("name", ["fashion-mnist", "mnist"])
def test_what_ships_reaches_what_it_says(name: str) -> None:
    about, net = read_classifier(SHIPPED[name])
    assert accuracy(about, net, load(DataSpec(name, split="test"))) == pytest.approx(about.accuracy, abs=2e-4)


def test_features_are_what_the_last_layer_sees() -> None:
    u = draw("test", 300)[0]
    seen = extractor("classifier(weights=fashion-mnist)")
    about, net = read_classifier(SHIPPED["fashion-mnist"])
    found = seen(u)
    assert found.shape == (300, seen.num_features) == (300, 128)
    sees = load_judge(SHIPPED["fashion-mnist"])
    with torch.no_grad():
        assert torch.allclose(net.head(found), sees.logits(u), atol=1e-4)
        direct = net(torch.from_numpy(u[:3]).permute(0, 3, 1, 2) / 127.5 - 1)
    assert torch.allclose(sees.logits(u[:3]), direct, atol=1e-4)
    assert torch.equal(sees(u), net.head(found).argmax(1))
    assert sees(u).dtype == torch.int64
    assert seen.weights == sees.weights == tensors_hash(net.state_dict())
    assert (sees.classes, sees.accuracy) == (about.classes, about.accuracy)
    assert (seen.name, seen.resize) == ("classifier", "none (28x28)")
    assert extractor(Classifier("mnist")).weights != seen.weights


@pytest.mark.parametrize("shape", [(2, 32, 32, 1), (2, 28, 28, 3), (2, 784)])
def test_pictures_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"classifier of mnist takes 8-bit pictures \[B, 28, 28, 1\], not"):
        load_judge(SHIPPED["mnist"])(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("", "none was named. Take classifier"),
        ("fashion-mnit", "no classifier 'fashion-mnit'. Did you mean fashion-mnist?"),
        ("/no/such/file", "no classifier '/no/such/file'. Name a file"),
    ],
)
def test_a_classifier_that_is_not_there(weights: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Classifier(weights).load(CPU)


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read as a classifier"):
        read_classifier(tmp_path / "x")
    about = About("x", "", ("a", "b"), (1, 8, 8), format=7)
    write_classifier(tmp_path / "y", about, ClassifierNet((1, 8, 8), 2))
    with pytest.raises(ValueError, match="header has format 7, expected 1"):
        Classifier(str(tmp_path / "y")).load(CPU)


def test_large_pictures_are_averaged_over_blocks() -> None:
    """Of a side up to 40 as they are, of 41 over 2x2: the remainder is averaged over what there is of it."""
    assert [ClassifierNet((3, h, w), 4).block for h, w in ((40, 40), (41, 8), (8, 80), (81, 8))] == [1, 2, 2, 3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ClassifierNet((1, 42, 43), 3).eval()
    u = np.zeros((1, 42, 43, 1), np.uint8)
    u[0, ::2] = 100
    u[0, 1::2] = 200
    about = About("x", "", ("a", "b", "c"), (1, 42, 43))
    large = as_extractor("x", 3, about, net, net, CPU)
    assert large.resize == "mean over blocks of 2x2 (from 43x42)"
    net_small = ClassifierNet((1, 21, 22), 3).eval()
    net_small.load_state_dict(net.state_dict())
    with torch.no_grad():
        expected = net_small(scaled(torch.full((1, 21, 22, 1), 150, dtype=torch.uint8)))
    assert torch.allclose(large(u), expected, atol=1e-5)


def test_shipped_ones_are_for_their_sets_alone(tmp_path: Path, quick: None) -> None:
    """By name, classes and shape; else there must be something to learn from."""
    for name in SHIPPED:
        assert classifier_file(empty(name), None, tmp_path) == SHIPPED[name]
    other = empty("mnist", tuple("abcdefghij"))
    for data in (other, empty("mnist", side=32), empty("digits", KNOWN["mnist"].classes)):
        assert classifier_file(data, None, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_learn_from(tmp_path: Path, quick: None) -> None:
    data = shapes(50)
    points = replace(data, images=np.zeros((50, 2), np.float32))
    for train in (
        replace(data, labels=None),
        replace(data, labels=np.full(50, -1)),
        replace(data, labels=np.where(data.labels == 3, 3, -1)),
        replace(data, classes=tuple("abcdefghij")),
        replace(data, images=np.zeros((50, 16, 16, 1), np.uint8)),
        replace(data, images=np.zeros((50, 14, 14, 1), np.float32)),
    ):
        assert classifier_file(data, train, tmp_path) is None
    assert classifier_file(points, points, tmp_path) is None
    with pytest.raises(ValueError, match="has no labels"):
        train_classifier(replace(data, labels=None))


def test_training_learns_and_is_measured_on_what_was_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """50 steps tell ten drawn shapes apart, four times out of five; unlabelled pictures are left alone."""
    data = shapes()
    assert data.labels is not None
    labels = data.labels.copy()
    labels[::50] = -1
    data = replace(data, labels=labels)
    used: list[Any] = []
    stream = judge.Stream
    monkeypatch.setattr(judge, "Stream", lambda d, seed, rows: used.append((seed, rows)) or stream(d, seed, rows))
    told: list[tuple[str, int, int]] = []
    about, net = train_classifier(data, examples=6400, seed=3, progress=lambda *a: told.append(a))
    labelled = np.flatnonzero(labels >= 0)
    assert used[0][0] == 3
    assert used[0][1].tolist() == sorted(labelled[order(3, 0, 980)[98:]])
    assert about.measured == "98 held-out pictures of shapes (generated)"
    assert (about.classes, about.shape, about.fingerprint) == (CLASSES, (1, 14, 14), data.fingerprint)
    assert about.accuracy is not None
    assert about.accuracy > 0.6
    fresh = draw("test", 500)
    small = np.rint(fresh[0].reshape(500, 14, 2, 14, 2, 1).mean((2, 4))).astype(np.uint8)
    other = replace(data, images=small, labels=fresh[1])
    assert accuracy(about, net, other) > 0.6
    first = accuracy(about, net, other, np.arange(10))
    logits = as_extractor("x", 10, about, net, net, CPU)(small)
    assert first == (logits[:10].argmax(1).numpy() == fresh[1][:10]).mean()
    assert 0.4 < logits.softmax(1).amax(1).mean() < 0.96  # labels smoothed by 0.05 ask for 0.955
    assert told[0][0] == "Training a classifier of 10 classes of shapes (generated)"
    assert [t[1:] for t in told] == [(128 * i, 6400) for i in range(1, 51)]


def test_a_classifier_keeps_to_its_rows(tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run held out is neither learned nor measured on, however the run chose it; and kept apart by the rows."""
    data = shapes(200)
    mine, out = split(data, 0.3, 0)
    shown: list[int] = []
    stream, measured = judge.Stream, judge.accuracy

    def noted(about: Any, net: Any, data: Any, rows: Any, device: Any) -> float:
        shown.extend(rows)
        return measured(about, net, data, rows, device)

    monkeypatch.setattr(judge, "Stream", lambda d, seed, rows: shown.extend(rows) or stream(d, seed, rows))
    monkeypatch.setattr(judge, "accuracy", noted)
    file = classifier_file(data, data, tmp_path, rows=mine)
    assert sorted(shown) == mine.tolist() and not set(shown) & set(out)
    assert file is not None and f"{round(0.1 * len(mine))} held-out" in read_classifier(file)[0].measured
    others = {classifier_file(data, data, tmp_path, rows=rows) for rows in (None, np.arange(200), out)}
    assert len(others) == 2 and file not in others
    one_class = np.flatnonzero(data.labels == 3)
    assert classifier_file(data, data, tmp_path, rows=one_class) is None


def test_training_again_gives_the_same_bits(tmp_path: Path) -> None:
    """And leaves torch's generator as it was."""
    data = shapes(300)
    before = torch.get_rng_state()
    begun = [tensors_hash(judge._fresh((1, 8, 8), 2, seed).state_dict()) for seed in (0, 0, 1)]
    assert begun[0] == begun[1] != begun[2]
    hashes = [tensors_hash(train_classifier(data, examples=512, seed=s)[1].state_dict()) for s in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_judge_is_trained_once(tmp_path: Path, quick: None) -> None:
    """By the data's fingerprint; a damaged file is made anew, and the judge comes back with its accuracy."""
    data = shapes(200)
    told: list[str] = []
    file = classifier_file(data, data, tmp_path, lambda what, *_: told.append(what))
    assert file is not None
    assert file.name == FILE
    assert len(told) == 2
    again = classifier_file(data, replace(data, name=data.name), tmp_path, lambda what, *_: told.append(what))
    assert again == file
    assert len(told) == 2
    sees = load_judge(file)
    assert (sees.classes, sees.accuracy) == (CLASSES, read_classifier(file)[0].accuracy)
    assert extractor(Classifier(str(file))).weights == sees.weights
    file.write_bytes(file.read_bytes()[:-4])
    assert classifier_file(data, data, tmp_path, lambda what, *_: told.append(what)) == file
    assert len(told) == 4
    assert load_judge(file).weights == sees.weights
    other = classifier_file(data, replace(data, fingerprint="1" * 64), tmp_path)
    assert other != file
