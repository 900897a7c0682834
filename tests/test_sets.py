"""Sets of pictures on the disk: the same whoever makes them, in however many attempts, and never more in memory."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import threading
import time
import tracemalloc
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inkwash import MLP, Config, Euler, Flow, Heun, Linear, Sampling, UNet
from inkwash.checkpoint import CheckpointError, DiskFull
from inkwash.codec import AnyCodec, Pixels, Scaled, Standard
from inkwash.data import Dataset, order
from inkwash.evaluation import blocks
from inkwash.evaluation.blocks import Row, filled, sha256
from inkwash.evaluation.proportions import Asked, asked
from inkwash.evaluation.sets import COPIED, SHOWN, Pictures, features, generate, predictions, real
from inkwash.features import Extractor, Judge
from inkwash.model import Plain
from inkwash.pipeline import Pipeline
from inkwash.ranks import Ranks, ranks
from test_ranks import together

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")

CLASSES = ("cat", "dog", "owl")
ROW = Row((3, 2), "<f4", {"what": "squares"})


def rows(start: int, stop: int) -> np.ndarray:
    """Row i holds i² and five more."""
    return (np.arange(start, stop)[:, None] ** 2 + np.arange(6)).reshape(-1, 3, 2).astype(np.float32)


def fill(start: int, stop: int, told: Any, asked_for: list[tuple[int, int]] | None = None) -> tuple[np.ndarray, float]:
    if asked_for is not None:
        asked_for.append((start, stop))
    return rows(start, stop), 2.0 * (stop - start)


# Arrays on the disk


def test_rows_are_filled_once_and_a_longer_array_goes_on(tmp_path: Path) -> None:
    file, made = tmp_path / "some" / "a.bin", []
    short = filled(file, ROW, 6, partial(fill, asked_for=made), block=4)
    assert made == [(0, 4), (4, 6)] and short.cost == 12
    longer = filled(file, ROW, 11, partial(fill, asked_for=made), block=4)
    assert made[2:] == [(6, 8), (8, 11)]
    again = filled(file, ROW, 11, partial(fill, asked_for=made), block=100)  # its blocks are those it was begun with
    fewer = filled(file, ROW, 9, partial(fill, asked_for=made), block=4)
    assert len(made) == 4 and longer.cost == again.cost == 22
    assert fewer.cost == pytest.approx(16 + 6 / 3)
    for found, n in ((short, 6), (longer, 11), (again, 11), (fewer, 9)):
        assert np.array_equal(found.array, rows(0, n)) and found.array.dtype == np.float32
    longer.array[:] = 0  # in memory alone
    assert np.array_equal(filled(file, ROW, 11, fill, block=4).array, rows(0, 11))


def slowly(start: int, stop: int, told: Any) -> tuple[np.ndarray, float]:
    time.sleep(0.004)
    return rows(start, stop), 2.0 * (stop - start)


def test_killed_at_any_instant_it_goes_on_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    n, counts, kills = 200, [0], 0
    context = multiprocessing.get_context("fork")
    while counts[-1] < n:
        process = context.Process(target=filled, args=(file, ROW, n, slowly), kwargs={"block": 3})
        process.start()
        goal = counts[-1] + (17, 40, 1, 33)[kills % 4]
        while process.is_alive() and _counted(file) < goal:
            pass
        if kills < 6:
            os.kill(process.pid or 0, signal.SIGKILL)
            kills += 1
        process.join(30)
        counts.append(_counted(file))
        done = np.fromfile(file.with_suffix(".done"), blocks.DONE)["rows"]
        there = np.concatenate([np.arange(3 * i, 3 * i + k) for i, k in enumerate(done)])
        on_disk = np.fromfile(file, "<f4").reshape(-1, 3, 2)
        assert np.array_equal(on_disk[there], rows(0, n)[there])  # what counts as there is there
    assert kills == 6 and counts == sorted(counts) and 0 < counts[2] < counts[5] < n
    undisturbed = filled(tmp_path / "b.bin", ROW, n, slowly, block=3)
    assert file.read_bytes() == (tmp_path / "b.bin").read_bytes()
    assert filled(file, ROW, n, slowly, block=3).cost == undisturbed.cost == 2 * n


def _counted(file: Path) -> int:
    try:
        return int(np.frombuffer(file.with_suffix(".done").read_bytes(), blocks.DONE)["rows"].sum())
    except (FileNotFoundError, ValueError):
        return 0


def test_rows_are_on_the_disk_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, happened = tmp_path / "a.bin", []
    write = blocks._write

    def watched(place: Path, at: int, left: memoryview, *, sync: bool) -> None:
        write(place, at, left, sync=sync)
        happened.append((place.suffix, at, len(left), sync))

    monkeypatch.setattr(blocks, "_write", watched)
    filled(file, ROW, 5, fill, block=4)
    assert happened == [
        (".bin", 0, 96, True),
        (".done", 0, 16, False),
        (".bin", 96, 24, True),
        (".done", 16, 16, False),
    ]


def test_another_array_is_never_mixed_in(tmp_path: Path) -> None:
    file = tmp_path / "a.bin"
    filled(file, ROW, 6, fill, block=4)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"holds something else .*what: 'squares' there, 'cubes' asked for"):
        filled(file, replace(ROW, of={"what": "cubes"}), 6, fill, block=4)
    with pytest.raises(ValueError, match="another format, shape or dtype"):
        filled(file, replace(ROW, dtype="<f8"), 6, fill, block=4)
    with pytest.raises(ValueError, match=r"Rows 6 to 8 of a\.bin should be \(2, 3, 2\) of <f4, but are \(3, 3, 2\)"):
        filled(file, ROW, 8, lambda start, stop, told: (rows(start, stop + 1), 0.0), block=4)
    assert file.read_bytes()[: len(before)] == before
    os.truncate(file, 5 * 24)
    with pytest.raises(CheckpointError, match="has 120 bytes, and 144 were written: it was cut short"):
        filled(file, ROW, 6, fill, block=4)
    file.with_suffix(".json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        filled(file, ROW, 6, fill, block=4)
    file.with_suffix(".json").unlink()  # as the message says
    assert np.array_equal(filled(file, ROW, 6, fill, block=4).array, rows(0, 6))


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, made, sync, synced = tmp_path / "a.bin", [], os.fsync, []

    def full(fd: int) -> None:
        if (
            os.fstat(fd).st_size == 10 * 24 and len(synced) == 3
        ):  # the array's own, after the head's and the lengthening
            raise OSError(errno.ENOSPC, "No space left on device")
        synced.append(fd) if os.fstat(fd).st_size == 10 * 24 else None
        sync(fd)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFull, match=r"No space left for .*a\.bin .*80% of it is kept; free some space and run"):
        filled(file, ROW, 10, fill, block=4)
    monkeypatch.undo()
    whole = filled(file, ROW, 10, partial(fill, asked_for=made), block=4).array
    assert made == [(8, 10)] and np.array_equal(whole, rows(0, 10))
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 100}))
    with pytest.raises(DiskFull, match=r"0 MiB more are needed and 0 are free.*What was there before is kept"):
        filled(file, ROW, 20, fill, block=4)
    assert np.array_equal(filled(file, ROW, 10, fill, block=4).array, rows(0, 10))


def test_a_process_waits_for_another_that_fills_the_same(tmp_path: Path) -> None:
    file, made, told = tmp_path / "a.bin", [], []
    context = multiprocessing.get_context("fork")
    process = context.Process(target=filled, args=(file, ROW, 300, slowly), kwargs={"block": 3})
    process.start()
    while _counted(file) == 0:
        time.sleep(0.001)
    found = filled(file, ROW, 300, partial(fill, asked_for=made), block=3, watch=told.append)
    process.join(30)
    assert not made and np.array_equal(found.array, rows(0, 300))
    assert told == sorted(told) and told[-1] == 1 and any(0 < f < 1 for f in told)


def test_one_that_is_killed_leaves_no_lock(tmp_path: Path) -> None:
    file, made = tmp_path / "a.bin", []
    context = multiprocessing.get_context("fork")
    process = context.Process(target=filled, args=(file, ROW, 300, slowly), kwargs={"block": 3})
    process.start()
    while _counted(file) == 0:
        time.sleep(0.001)
    threading.Timer(0.1, process.kill).start()
    found = filled(file, ROW, 300, partial(fill, asked_for=made), block=3)
    process.join(30)
    assert made and made[0][0] > 0 and np.array_equal(found.array, rows(0, 300))


def test_progress_counts_what_was_there(tmp_path: Path) -> None:
    file, told = tmp_path / "a.bin", []

    def halfway(start: int, stop: int, watch: Any) -> tuple[np.ndarray, float]:
        watch(0.5)
        return rows(start, stop), 0.0

    filled(file, ROW, 4, halfway, block=4, watch=told.append)
    assert told == [0.0, 0.5, 1.0]
    told.clear()
    filled(file, ROW, 10, halfway, block=4, watch=told.append)
    assert told == sorted(told) and sorted(set(told)) == pytest.approx([0.4, 0.6, 0.8, 0.9, 1.0])


# Pictures that a model draws


def pipeline(chunk: int | None = 2, **changes: Any) -> Pipeline:
    """A class-conditional U-Net with random weights, none of them zero."""
    settings: dict[str, Any] = {
        "shape": (1, 8, 8),
        "net": UNet("tiny", widths=(32, 32), depth=1),
        "path": Linear(),
        "target": Flow(),
        "inputs": Plain(),
        "codec": Pixels(),
        "classes": CLASSES,
        "sampling": Sampling(Euler(), steps=2),
    }
    config = Config(**settings | changes)
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return Pipeline(config, model, torch.device("cpu"), chunk)


def draw(pipe: Pipeline, n: int, folder: Path, **changes: Any) -> Pictures:
    return generate(pipe, n, folder, **{"weights": "w", "seed": 3, "batch_size": 4} | changes)


@pytest.mark.parametrize(("chunk", "batch_size"), [(2, 128), (2, 2), (4, 4), (4, 8)])
def test_samples_from_any_number_on_are_those_of_one_call(chunk: int, batch_size: int) -> None:
    pipe = pipeline(chunk)
    whole, labels = pipe(13, seed=5).array, [2, 0, 1, 1, 2, 0, 0, -1, 1, 2, 2, 0, 1]
    chosen = pipe(13, seed=5, label=labels).array
    for first, n in ((0, 3), (1, 1), (4, 9), (5, 8), (7, 2), (11, 2)):
        part = pipe(n, seed=5, first=first, batch_size=batch_size)
        assert (part.array == whole[first : first + n]).all(), (first, n)
        part = pipe(n, seed=5, first=first, batch_size=batch_size, label=labels[first : first + n])
        assert (part.array == chosen[first : first + n]).all(), (first, n)
        assert part.settings.get("first", 0) == first
    seen: list[int] = []
    pipe(2, first=5, trace=lambda query, answer: seen.append(len(query.x)))
    assert set(seen) == {2}
    with pytest.raises(ValueError, match="first = -1 must be at least 0"):
        pipe(1, first=-1)


def test_what_is_generated_is_what_one_call_draws(tmp_path: Path) -> None:
    pipe = pipeline()
    whole = pipe(13, seed=3).array
    for batch_size in (1, 4, 5, 256):
        found = draw(pipe, 13, tmp_path / str(batch_size), batch_size=batch_size)
        assert (found.array == whole).all() and found.array.dtype == np.uint8
        assert found.labels is not None and found.labels.tolist() == [0, 1, 2] * 4 + [0]
    assert found.classes == CLASSES and found.folder is not None and found.folder.parent == tmp_path / "256"


def test_a_set_grows_and_is_found_again(tmp_path: Path) -> None:
    pipe, drawn = pipeline(), []
    pipe.model.net.register_forward_hook(lambda m, args, out: drawn.append(len(args[0])))
    small = draw(pipe, 5, tmp_path)
    assert sum(drawn) == 2 * 6  # two steps, whole chunks of 2
    large = draw(pipe, 12, tmp_path, batch_size=6)
    assert sum(drawn) == 2 * (6 + 8)  # number 4's chunk once more
    assert (large.array == pipe(12, seed=3).array).all() and (small.array == large.array[:5]).all()
    drawn.clear()
    again = draw(pipe, 12, tmp_path, batch_size=100)
    assert not drawn and again.key == large.key == small.key and again.about == large.about
    assert again.about["n"] == 12 and again.about["calls"] == 2 and again.about["seconds"] > 0


@pytest.mark.parametrize(
    "change",
    [{"seed": 4}, {"weights": "v"}, {"steps": 3}, {"guidance": 2.0}, {"sampler": "heun"}, {"labels": [0] * 5}],
)
def test_whatever_changes_the_pictures_gives_another_set(tmp_path: Path, change: dict[str, Any]) -> None:
    pipe = pipeline()
    one, other = draw(pipe, 5, tmp_path), draw(pipe, 5, tmp_path, **change)
    assert one.key != other.key and one.folder != other.folder
    passed = {"label" if k == "labels" else k: v for k, v in change.items() if k != "weights"}
    assert (other.array == pipe(5, **{"seed": 3} | passed).array).all()


def test_chunk_and_codec_belong_to_a_set(tmp_path: Path) -> None:
    keys = {draw(p, 3, tmp_path).key for p in (pipeline(2), pipeline(4), pipeline(2, codec=Scaled(-1.0, 1.0)))}
    assert len(keys) == 3


def test_about_says_how_it_was_drawn(tmp_path: Path) -> None:
    found = draw(pipeline(), 5, tmp_path, sampler=Heun(), steps=3, guidance=1.5, labels=Asked((1, 1, 1, 0), 5))
    told = {"seed": 3, "n": 5, "steps": 3, "guidance": 1.5, "weights": "w", "chunk": 2, "what": "generated"}
    assert found.about.items() >= told.items() and found.about["sampler"]["kind"] == "heun"
    assert found.about["calls"] == 5  # two a step, and one in the last
    assert found.about["label"] == {"shares": [1, 1, 1, 0]} and found.about["values"] == {"kind": "pixels"}
    assert found.folder is not None
    head = json.loads((found.folder / "pictures.json").read_text())
    assert head["of"]["model"]["net"]["widths"] == [32, 32]  # whole there, and its hash in every record
    assert found.about["model"] == sha256(head["of"]["model"])


def test_a_set_knows_by_which_code_it_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn before a change of the code stays what it was, and says so."""
    pipe = pipeline()
    for commit, n in (("a" * 40, 3), ("b" * 40, 3), ("b" * 40, 7), ("b" * 40, 9), ("c" * 40, 5)):
        monkeypatch.setattr(blocks, "commit", lambda commit=commit: commit)
        found = draw(pipe, n, tmp_path)
    drawn = found.about["drawn"]
    assert [one["commit"] for one in drawn] == ["a" * 40, "b" * 40]
    assert all(datetime.fromisoformat(one["date"]).tzinfo is not None for one in drawn)


@pytest.mark.parametrize("codec", [Scaled(-2.0, 3.0), Standard((0.5, 1.0), (2.0, 3.0))])
def test_floats_become_pictures_and_vectors_stay(tmp_path: Path, codec: AnyCodec) -> None:
    vectors = isinstance(codec, Standard)
    changes: dict[str, Any] = {"codec": codec} | ({"shape": (2,), "net": MLP(32, 1)} if vectors else {})
    pipe = pipeline(2, **changes)
    found, drawn = draw(pipe, 5, tmp_path), pipe(5, seed=3)
    expected = drawn.array if vectors else drawn.pictures()
    assert drawn.array.dtype == np.float32 and found.array.dtype == (np.float32 if vectors else np.uint8)
    assert (found.array == expected).all()


def test_pictures_of_a_broken_model_are_refused(tmp_path: Path) -> None:
    pipe = pipeline()

    def broken(m: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        out[1, 0, 0, 0] = float("nan")
        return out

    pipe.model.net.register_forward_hook(broken)
    with pytest.raises(ValueError, match=r"answers with NaN or infinity at t = 1 for picture 1: no number"):
        draw(pipe, 5, tmp_path)


def test_every_batch_of_a_grown_set_is_looked_at(tmp_path: Path) -> None:
    pipe = pipeline()
    draw(pipe, 13, tmp_path, batch_size=8)  # in blocks of 8
    seen: list[int] = []

    def broken(m: Any, args: Any, out: torch.Tensor) -> torch.Tensor:
        seen.extend(args[3].label.tolist())
        return torch.where(args[3].label[:, None, None, None] == 14 % 3, float("nan"), out)

    pipe.model.net.register_forward_hook(broken)
    with pytest.raises(ValueError, match=r"for picture 14: no number"):
        draw(pipe, 16, tmp_path, batch_size=2)
    assert seen == [1, 1] * 2 + [2, 0]  # 13 after one that is dropped, in two steps; then 14 and 15


def test_labels_that_do_not_fit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for labels in ([0, 1], [0, 1, 2, 3, 0], [-2, 0, 0, 0, 0]):
        with pytest.raises(ValueError, match="labels must be 5 indices of classes, 0 to 2, or -1 for any"):
            draw(pipeline(), 5, tmp_path, labels=labels)
    with pytest.raises(ValueError, match="trained without classes"):
        draw(pipeline(classes=()), 5, tmp_path, labels=[0] * 5)
    with pytest.raises(ValueError, match="needs a model with classes"):
        draw(pipeline(classes=()), 5, tmp_path, guidance=2.0)
    assert not list(tmp_path.iterdir())
    assert draw(pipeline(classes=()), 2, tmp_path).labels is None


def labelled(
    labels: list[int] | None, cache: Path, n: int | None = None, classes: tuple[str, ...] = CLASSES
) -> Pictures:
    """Real pictures with these labels, n of them chosen; without the first, which is of no split."""
    every = None if labels is None else np.array([0, *labels])
    size = 100 if labels is None else len(labels)
    images = np.zeros((size + 1, 2, 2, 1), np.uint8)
    data = Dataset("blots", images, every, classes, None, f"print-{labels}", generated=False)
    return real(data, np.arange(1, size + 1), "test", n, cache=cache)


def test_classes_are_asked_for_as_often_as_the_real_have_them(tmp_path: Path) -> None:
    has = labelled([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, -1, -1], tmp_path)  # 3 : 6 : 1, and 2 without
    assert has.about["counts"] == [3, 6, 1, 2]
    whole = asked(has, 1200, CLASSES)
    assert whole is not None and len(whole) == 1200 and whole.shares == (3, 6, 1, 2)
    assert np.bincount(whole.array + 1).tolist() == [200, 300, 600, 100]
    counts = np.stack([np.cumsum(whole.array == c) for c in (0, 1, 2, -1)])
    shares = np.array([3, 6, 1, 2])[:, None] / 12 * np.arange(1, 1201)
    assert (counts - shares < 1).all() and (shares - counts < 1.5).all()
    some = asked(has, 77, CLASSES)
    assert some is not None and list(some) == list(whole)[:77] == whole[:77] and some[76] == whole[76]
    assert asked(labelled([0, 1, 2] * 4, tmp_path), 7, CLASSES) == Asked((1, 1, 1, 0), 7)
    assert list(Asked((5, 5, 5, 0), 7)) == [0, 1, 2, 0, 1, 2, 0]
    for labels, classes in ((None, CLASSES), ([0, 0, 1], ("a", "b", "c")), ([-1, -1], CLASSES)):
        assert asked(labelled(labels, tmp_path, classes=classes), 7, CLASSES) == Asked((1, 1, 1, 0), 7)
    assert asked(has, 7, ()) is None
    with pytest.raises(ValueError, match="must be 0 or more, and not all 0"):
        Asked((0, 0), 3)


def test_a_set_with_classes_grows_whatever_part_of_the_split_is_measured(tmp_path: Path) -> None:
    """Chosen real pictures have their classes by chance; what is asked for follows the whole split, so 8 begin 20."""
    labels = [0] * 30 + [1] * 20 + [2] * 10
    pipe, found = pipeline(), []
    for n in (8, 20, 60):
        chosen = labelled(labels, tmp_path, n)
        drawn = draw(pipe, min(n, 20), tmp_path / "drawn", labels=asked(chosen, min(n, 20), CLASSES))
        found.append((drawn, np.bincount(chosen.labels, minlength=3).tolist()))
    (few, one), (more, other), (_, every) = found
    assert every == [30, 20, 10] and one != [4, 3, 1] and other != [10, 7, 3]  # otherwise this shows nothing
    assert few.key == more.key and few.labels is not None and more.labels is not None
    assert few.labels.tolist() == more.labels[:8].tolist() and (few.array == more.array[:8]).all()
    for labelled_so in (few.labels, more.labels):
        shares = np.bincount(labelled_so) - np.array([3, 2, 1]) / 6 * len(labelled_so)
        assert abs(shares).max() < 1


# Real pictures


def dataset(n: int = 40, shape: tuple[int, ...] = (6, 6, 1), dtype: str = "uint8") -> Dataset:
    images = (np.arange(n * int(np.prod(shape))) * 37 % 251).reshape(n, *shape).astype(dtype)
    return Dataset("blots", images, np.arange(n) % 3, CLASSES, None, f"print-{n}-{dtype}", generated=False)


def test_real_pictures_are_a_fixed_choice_in_a_fixed_order(tmp_path: Path) -> None:
    data = dataset()
    few = np.arange(5, 35)
    found = real(data, few, "val", 12, seed=7, cache=tmp_path)
    chosen = few[order(7, 0, 30)[:12]]
    assert (found.array == data.images[chosen]).all() and (found.labels == chosen % 3).all()
    every = real(data, few, "val", seed=7, cache=tmp_path)
    assert len(every) == 30 and (every.array[:12] == found.array).all() and every.key == found.key
    assert found.about["n"] == 12 and found.about["of"] == 30 and found.about["fingerprint"] == data.fingerprint
    keys = {
        real(*args, cache=tmp_path).key
        for args in (
            (data, few, "val", 12, 7),
            (data, few, "test", 12, 7),
            (data, few, "val", 12, 8),
            (data, few + 1, "val", 12, 7),
            (replace(data, fingerprint="other"), few, "val", 12, 7),
        )
    }
    assert len(keys) == 5
    with pytest.raises(ValueError, match=r"31 pictures of blots \(val\) were asked for, and there are 30\. "):
        real(data, few, "val", 31, cache=tmp_path)


def test_real_floats_become_8_bit_pictures_and_vectors_stay(tmp_path: Path) -> None:
    data = dataset(dtype="float32")
    data.images[3, 0, 0, 0], data.images[4, 0, 0, 0] = -10.0, 500.0
    found = real(data, np.arange(40), "test", cache=tmp_path)
    expected = ((data.images[order(0, 0, 40)] + 10) * (255 / 510)).round()
    assert found.array.dtype == np.uint8 and (found.array == expected).all()
    assert found.about["values"] == {"low": -10.0, "high": 500.0, "kind": "scaled"}
    models = real(data, np.arange(40), "test", scale=Scaled(0.0, 1000.0), cache=tmp_path)
    expected = (data.images[order(0, 0, 40)] * (255 / 1000)).round().clip(0, 255)
    assert (models.array == expected).all() and models.key != found.key
    assert models.about["values"] == {"low": 0.0, "high": 1000.0, "kind": "scaled"}
    plain = real(dataset(), np.arange(40), "test", scale=Scaled(0.0, 1000.0), cache=tmp_path)
    assert (plain.array == dataset().images[order(0, 0, 40)]).all() and plain.about["values"] == {"kind": "pixels"}
    points = dataset(shape=(2,), dtype="float64")
    assert (real(points, np.arange(40), "test", cache=tmp_path).array == points.images[order(0, 0, 40)]).all()


# Features


def net(weights: str = "w", calls: list[int] | None = None, chunk: int = 8, side: int = 8) -> Extractor:
    """A product with a fixed matrix, in chunks; its last bits depend on how many rows are multiplied."""
    matrix = torch.from_numpy(np.cos(np.arange(side * side * 5.0)).reshape(side * side, 5).astype(np.float32))

    def product(x: torch.Tensor) -> torch.Tensor:
        if calls is not None:
            calls.append(len(x))
        return x @ matrix

    prepare = lambda u: u.flatten(1).float() / 255  # noqa: E731
    return Extractor("waves(a=1)", 5, weights, "none", torch.device("cpu"), product, prepare, chunk)


def pictures(n: int, key: str = "k", side: int = 8) -> Pictures:
    array = (np.arange(n * side * side) * 31 % 256).reshape(n, side, side, 1).astype(np.uint8)
    return Pictures(array, None, (), {}, key)


def test_features_are_the_nets_own_and_computed_once(tmp_path: Path) -> None:
    few, more, calls = pictures(SHOWN + 3), pictures(SHOWN + 21), []
    expected = net()(more.array).numpy()
    first = features(few, net(calls=calls), folder=tmp_path)
    assert (first == expected[: SHOWN + 3]).all() and first.dtype == np.float32
    assert len(calls) == SHOWN // 8 + 1
    second = features(more, net(calls=calls), folder=tmp_path)
    assert (second == expected).all() and len(calls) == SHOWN // 8 + 1 + 3
    features(few, net(calls=calls), folder=tmp_path)
    assert len(calls) == SHOWN // 8 + 4
    features(few, net("v", calls), folder=tmp_path)
    features(replace(few, key="other"), net(calls=calls), folder=tmp_path)
    assert len(calls) > 3 * (SHOWN // 8)
    assert {f.name.split("-")[1] for f in tmp_path.glob("*.bin")} == {"waves"} and len(
        list(tmp_path.glob("*.bin"))
    ) == 3


def test_what_other_code_computed_is_not_found(tmp_path: Path) -> None:
    calls: list[int] = []
    shown = pictures(8)
    for version, computed in ((1, 1), (2, 2), (1, 2)):
        features(shown, replace(net(calls=calls), version=version), folder=tmp_path)
        assert len(calls) == computed
    seen: list[int] = []
    for version, computed in ((1, 1), (2, 2), (1, 2)):
        judge = Judge(("a",), "w", None, replace(net(calls=seen), version=version))
        predictions(shown, judge, folder=tmp_path)
        assert len(seen) == computed


def test_features_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    bad = replace(net(), net=lambda x: torch.where(x[:, :5] > 0.9, float("nan"), 0.0))
    shown = pictures(3)
    shown.array[1] = 250
    shown.array[[0, 2]] = 100
    with pytest.raises(ValueError, match=r"waves\(a=1\) gives NaN or infinity for a picture with values 250 to 250"):
        features(shown, bad, folder=tmp_path)


def test_no_more_than_a_block_is_in_memory(tmp_path: Path) -> None:
    n, side = 8 * COPIED, 32
    on_disk = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (n, side, side, 1))
    on_disk[::7] = 5
    data = Dataset("large", on_disk.view(np.ndarray), None, (), None, "print", generated=False)
    tracemalloc.start()
    found = real(data, np.arange(n), "test", cache=tmp_path)
    _, copying = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    features(found, net(side=side), folder=tmp_path)
    _, showing = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    index = 5 * 8 * n  # five arrays of n numbers, to choose and order
    assert copying < 2 * COPIED * side**2 + index < on_disk.nbytes / 3
    assert showing < 2 * SHOWN * side**2 + index


# Ranks


def both(place: Path) -> None:
    with ranks() as here:
        pipe = pipeline()
        told: list[float] = []
        for n in (7, 21):
            drawn = draw(pipe, n, place, ranks=here, watch=told.append)
        found = features(drawn, net(chunk=2), ranks=here)
        kept = real(dataset(), np.arange(40), "test", cache=place, ranks=here)
        features(replace(kept, array=np.repeat(np.repeat(kept.array[:, :4, :4], 2, 1), 2, 2)), net(), ranks=here)
        assert told == sorted(told[: told.index(1.0)]) + told[told.index(1.0) :] and told[-1] == 1
        np.save(place / f"seen-{here.rank}.npy", found)


def test_two_ranks_make_what_one_makes_bit_for_bit(tmp_path: Path) -> None:
    assert together(2, both, tmp_path / "two") == [0, 0]
    assert together(1, both, tmp_path / "one") == [0]
    arrays = sorted(f.relative_to(tmp_path / "one") for f in (tmp_path / "one").rglob("*.bin"))
    assert len(arrays) == 4
    for name in arrays:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (np.load(tmp_path / "two" / "seen-0.npy") == np.load(tmp_path / "two" / "seen-1.npy")).all()


def fail_halfway(file: Path) -> None:
    def failing(start: int, stop: int, told: Any) -> tuple[np.ndarray, float]:
        if here.rank == 1 and start > 6:
            raise ValueError("a bad block")
        return rows(start, stop), 0.0

    with ranks() as here:
        filled(file, ROW, 20, failing, block=4, ranks=here)


def test_what_was_done_when_a_rank_failed_is_kept(tmp_path: Path) -> None:
    file, made = tmp_path / "a.bin", []
    assert together(2, fail_halfway, file) == [1, 1]
    assert np.array_equal(filled(file, ROW, 20, partial(fill, asked_for=made), block=4).array, rows(0, 20))
    assert (12, 16) in made and (4, 8) not in made


def test_a_small_set_leaves_every_rank_something_to_do(tmp_path: Path) -> None:
    sizes: list[int] = []

    def noted(file: Any, row: Any, n: int, fill: Any, *, block: int, **rest: Any) -> Any:
        sizes.append(block)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("inkwash.evaluation.sets.filled", noted)
        for world in (1, 2, 4):
            with pytest.raises(KeyboardInterrupt):
                draw(pipeline(), 21, tmp_path, batch_size=256, ranks=Ranks(0, world))
    assert sizes == [22, 12, 6]
