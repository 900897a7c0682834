"""The real side: measured once, found again, and the same for those it travels to."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inkwash.checkpoint import CheckpointError, publish
from inkwash.data import Dataset, order
from inkwash.data.mix import uniform
from inkwash.evaluation.frechet import frechet, moments
from inkwash.evaluation.reference import Reference, load_reference, reference, save_reference
from inkwash.evaluation.spectrum import spectrum
from inkwash.features import Extractor, Raw, load_judge
from inkwash.features.classifier import About, ClassifierNet, scaled, write_classifier
from inkwash.ranks import ranks
from test_ranks import together

CLASSES = ("cat", "dog", "owl")
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def dataset(n: int = 61, **changes: Any) -> Dataset:
    images = (256 * uniform(np.arange(n * 64), 7)).astype(np.uint8).reshape(n, 8, 8, 1)
    labels = np.where(np.arange(n) % 10 == 0, -1, np.arange(n) % 3)
    return replace(Dataset("blots", images, labels, CLASSES, None, "print", generated=False), **changes)


def net(calls: list[int] | None = None, **changes: Any) -> Extractor:
    """Sixteen means of four pixels each."""

    def means(x: torch.Tensor) -> torch.Tensor:
        if calls is not None:
            calls.append(len(x))
        return nn.functional.avg_pool2d(x, 2).flatten(1)

    prepare = lambda u: u.permute(0, 3, 1, 2).float()  # noqa: E731
    return replace(Extractor("means", 16, "w", "none", CPU, means, prepare, 8), **changes)


def classifier(file: Path) -> Path:
    """One that was never trained; its answers are its own all the same."""
    torch.manual_seed(0)
    of = ClassifierNet((1, 8, 8), 3).eval()
    with torch.no_grad():  # so that it sees every class in something
        of.head.bias.copy_(-of.head.weight @ of.features(scaled(torch.from_numpy(dataset().images))).mean(0))
    write_classifier(file, About("blots", "print", CLASSES, (1, 8, 8), accuracy=0.75), of)
    return file


def known(n: int | None = None, data: Dataset | None = None, **changes: Any) -> Reference:
    data = data or dataset()
    return reference(data, np.arange(len(data)), "test", **{"features": net(), "n": n} | changes)


def test_everything_is_measured_of_the_chosen_pictures(tmp_path: Path) -> None:
    data, file = dataset(), classifier(tmp_path / "c.safetensors")
    found = known(40, data, seed=3, classifier=file)
    chosen = data.images[order(3, 0, 61)[:40]]
    features = net()(chosen).numpy()
    assert found.pictures is not None and (found.pictures.array == chosen).all()
    assert (found.features == features).all() and len(found) == found.moments.n == 40
    assert np.allclose(found.moments.cov, np.cov(features.astype(float), rowvar=False), rtol=1e-12, atol=1e-12)
    assert found.spectrum is not None and (found.spectrum == spectrum(chosen)).all()
    assert data.labels is not None and found.labels is not None and found.predicted is not None
    assert (found.labels == data.labels[order(3, 0, 61)[:40]]).all() and found.classes == CLASSES
    assert (found.predicted == load_judge(file)(chosen).numpy()).all() and len(set(found.predicted)) > 1
    told = {"data": "blots", "split": "test", "fingerprint": "print", "n": 40, "of": 61, "seed": 3, "features": "means"}
    assert found.about.items() >= (told | {"weights": "w", "resize": "none", "accuracy": 0.75}).items()
    assert (found.data, found.split, found.key) == ("blots", "test", found.pictures.key)


def test_it_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    first = known(features=net(calls))
    assert len(calls) == 8

    def never(*args: Any) -> Any:
        raise AssertionError("computed again")

    module = sys.modules["inkwash.evaluation.reference"]  # the package's attribute is the function of that name
    monkeypatch.setattr(module, "moments", never)
    monkeypatch.setattr(module, "spectrum", never)
    again = known(features=net(calls))
    assert len(calls) == 8 and (again.features == first.features).all()
    assert (again.moments.cov == first.moments.cov).all() and (again.moments.mean == first.moments.mean).all()
    for other in (
        {"features": net(calls, weights="v")},
        {"features": net(calls, resize="half")},
        {"features": net(calls, name="others")},
        {"features": net(calls, version=2)},
        {"data": dataset(fingerprint="x")},
        {"seed": 1},
        {"n": 60},
    ):
        with pytest.raises(AssertionError, match="computed again"):
            known(**other)


def test_floors_are_remembered(cache: Path) -> None:
    found = known()
    assert found.remembered("fd") is None
    found.remember("fd", {"fd": 1 / 3})
    found.remember("kid", 0.1)
    found.remember("kid", 0.2)
    again = known()
    assert again.remembered("fd") == {"fd": 1 / 3} and again.remembered("kid") == 0.2
    for other in (known(60), known(features=net(weights="v")), known(classifier=classifier(cache / "c.safetensors"))):
        assert other.remembered("fd") is None
    (found.store / "fd.json").write_text("{")
    assert found.remembered("fd") is None  # to be computed again
    assert again.remembered("kid") == 0.2


def remember_many(store: Path, part: int) -> None:
    found = replace(known(), store=store)
    for i in range(25):
        found.remember(f"floor-{part}-{i}", i)


def test_processes_that_remember_at_once_lose_nothing(tmp_path: Path) -> None:
    known()
    context = multiprocessing.get_context("fork")
    several = [context.Process(target=remember_many, args=(tmp_path / "store", part)) for part in range(3)]
    for process in several:
        process.start()
    for process in several:
        process.join(30)
    found = replace(known(), store=tmp_path / "store")
    assert found._all() == {f"floor-{part}-{i}": i for part in range(3) for i in range(25)}


def test_it_travels_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = classifier(tmp_path / "c.safetensors")
    mine = known(40, classifier=file)
    mine.remember("floor-fd", {"fd": 1 / 3})
    folder = save_reference(mine, tmp_path / "to" / "travel")
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "elsewhere"))
    theirs = load_reference(folder)
    assert theirs.features.dtype == np.float32 and theirs.features.tobytes() == np.asarray(mine.features).tobytes()
    for name in ("spectrum", "labels", "predicted"):
        one, other = getattr(mine, name), getattr(theirs, name)
        assert one.dtype == other.dtype and (one == other).all(), name
    assert (theirs.moments.mean == mine.moments.mean).all() and (theirs.moments.cov == mine.moments.cov).all()
    assert theirs.moments.n == 40 and theirs.about == mine.about and theirs.classes == CLASSES
    assert theirs.key == mine.key and theirs.remembered("floor-fd") == {"fd": 1 / 3}
    fake = moments(net()(dataset(30, fingerprint="fake").images[::-1].copy()).numpy() + 3.0)
    assert frechet(fake, theirs.moments) == frechet(fake, mine.moments) > 100
    theirs.remember("floor-kid", 0.5)
    assert load_reference(folder).remembered("floor-kid") == 0.5 and mine.remembered("floor-kid") is None
    assert theirs.classifier is not None and theirs.classifier.read_bytes() == file.read_bytes()
    assert (load_judge(theirs.classifier)(dataset().images) == load_judge(file)(dataset().images)).all()
    again = save_reference(theirs, tmp_path / "further")  # it can go on from there
    assert load_reference(again).features.tobytes() == theirs.features.tobytes()
    assert load_reference(again).remembered("floor-kid") == 0.5
    assert theirs.pictures is None and mine.pictures is not None


def test_one_that_was_altered_is_refused(tmp_path: Path) -> None:
    folder = save_reference(known(), tmp_path / "travel")
    assert load_reference(folder).classifier is None
    whole = (folder / "features.safetensors").read_bytes()
    (folder / "features.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"features.safetensors was altered"):
        load_reference(folder)
    with pytest.raises(CheckpointError, match=r"is no saved reference: it has no reference.json"):
        load_reference(publish(tmp_path / "another", {}, {"config.json": "{}"}))
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_reference(tmp_path / "nowhere")
    other = save_reference(known(), tmp_path / "other")
    table = json.loads((other / "reference.json").read_text()) | {"format": 9}
    (other / "reference.json").write_text(json.dumps(table))
    manifest = json.loads((other / "manifest.json").read_text())
    text = (other / "reference.json").read_bytes()
    manifest["files"]["reference.json"] = {"size": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"has format 9, and this inkwash .* reads 2"):
        load_reference(other)


def test_another_net_is_refused_by_name() -> None:
    found = known()
    found.check(net())
    with pytest.raises(ValueError, match=r"measured with another feature net .weights: w there, v here.: a number"):
        found.check(net(weights="v"))
    with pytest.raises(ValueError, match="features: means there, medians here; resize: none there, half here"):
        found.check(net(name="medians", resize="half"))
    with pytest.raises(ValueError, match="version: 1 there, 2 here"):
        found.check(net(version=2))


@pytest.mark.parametrize("name", ["other-inception", "Sums"])
def test_a_net_that_its_name_does_not_find_is_asked_for(name: str) -> None:
    found = known(features=net(name=name))
    with pytest.raises(ValueError, match=rf"feature net {name}, which is not found here by that name alone") as error:
        found.extractor(CPU)
    assert f"--features '{name.removeprefix('other-')}(weights=" in str(error.value) and "net=" in str(error.value)
    found.check(net(name=name))


def test_its_net_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = known(features="raw")
    assert raw.extractor(CPU).name == "raw" and raw.features.shape == (61, 64)
    assert raw.pictures is not None and (raw.features == raw.extractor(CPU)(raw.pictures.array).numpy()).all()
    file = classifier(tmp_path / "c.safetensors")
    own = known(features=f'classifier(weights="{file}")', classifier=file)
    folder = save_reference(own, tmp_path / "travel")
    file.unlink()
    theirs = load_reference(folder)  # its net came along
    seen = theirs.extractor(CPU)(dataset().images[order(0, 0, 61)]).numpy()
    assert seen.shape == (61, 128) and (seen == theirs.features).all()
    monkeypatch.setattr("inkwash.features.raw.tensors_hash", lambda state: "changed")
    with pytest.raises(ValueError, match=r"weights: .* there, changed here"):
        raw.extractor(CPU)


def test_modules_and_vectors(tmp_path: Path) -> None:
    class Sums(nn.Module):
        num_features = 3

        def forward(self, u: torch.Tensor) -> torch.Tensor:
            return u.float().sum((2, 3))

    found = known(features=Sums())
    assert (found.features == dataset().images[order(0, 0, 61)].sum((1, 2)).repeat(3, 1)).all()
    points = Dataset("dots", uniform(np.arange(60), 3).astype(np.float32).reshape(30, 2), None, (), None, "d", False)
    of_points = reference(points, np.arange(30), "train", Raw(), device=CPU)
    assert (of_points.features == points.images[order(0, 0, 30)]).all() and of_points.spectrum is None
    theirs = load_reference(save_reference(of_points, tmp_path / "dots"))
    assert theirs.spectrum is None and theirs.labels is None and theirs.predicted is None and theirs.classes == ()


def measured(place: Path) -> None:
    with ranks() as here:
        found = known(features=net(), ranks=here)
        np.savez(place / f"rank-{here.rank}.npz", features=found.features, cov=found.moments.cov)


def test_every_rank_has_the_same(tmp_path: Path) -> None:
    assert together(2, measured, tmp_path) == [0, 0]
    one = known()
    for rank in range(2):
        with np.load(tmp_path / f"rank-{rank}.npz") as held:
            assert (held["features"] == one.features).all() and (held["cov"] == one.moments.cov).all()
