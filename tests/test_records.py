"""A number and its provenance: what may be compared, and what is kept when something breaks."""

from __future__ import annotations

import subprocess
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash._version import __version__
from inkwash.evaluation import record as room
from inkwash.evaluation.card import drawn_with, measured_lines, provenance, row_of
from inkwash.evaluation.record import (
    Measure,
    NotComparableError,
    Record,
    append,
    comparable,
    made,
    newest,
    read,
    shared,
)

MEASURE = Measure("fd", "photos", "test", "d" * 64, 1000, 2000, "lite0", "a" * 64, "bicubic to 224", {"k": 3})
SAMPLING = {"sampler": {"kind": "ddim", "eta": 0.5}, "steps": 20, "calls": 20.0, "guidance": 1.5, "seed": 7}
RECORD = Record(
    MEASURE,
    12.3456,
    low=12.0,
    high=12.7,
    floor=3.25,
    floor_n=1000,
    bias=2.0,
    model={"folder": "runs/a/model", "weights_sha256": "w"},
    sampling=SAMPLING,
    made={"inkwash": "0.1.0", "commit": "c" * 40 + "+changes", "date": "2026-01-02T03:04:05+00:00"},
)
OTHERS = {
    "name": "kid",
    "data": "paintings",
    "split": "train",
    "data_hash": "e" * 64,
    "n": 999,
    "reference": 2001,
    "features": "inception",
    "weights": "b" * 64,
    "resize": "bilinear to 299",
    "settings": {"k": 5},
}


def test_every_field_of_a_measure_is_tried() -> None:
    assert set(OTHERS) == {f.name for f in fields(Measure)}


@pytest.mark.parametrize("name", OTHERS)
def test_numbers_of_different_measures_are_refused_with_the_field_that_differs(name: str) -> None:
    other = replace(RECORD, measure=replace(MEASURE, **{name: OTHERS[name]}))
    with pytest.raises(NotComparableError) as error:
        comparable(RECORD, other)
    told = str(error.value)
    assert f"differ in {name}: " in told
    assert sum(f"{f.name}: " in told for f in fields(Measure)) == 1


def of(value: float, **changes: Any) -> Record:
    return replace(RECORD, value=value, measure=replace(MEASURE, **changes))


def test_runs_are_compared_by_what_all_of_them_have() -> None:
    """As after evaluating both on the test split, and a sweep with another net of one, and a seed more of the other."""
    swept = {"split": "val", "features": "classifier", "weights": "c" * 64}
    a = [of(1), of(2, name="kid"), of(3, **swept), of(4, **swept)]
    b = [of(5, n=9), of(6, name="kid"), of(7), of(8)]
    told = [(run, r.value) for run, r in shared({"a": a, "b": b})]
    assert told == [("a", 1), ("b", 7), ("b", 8), ("a", 2), ("b", 6)]
    assert [r.value for _, r in shared({"a": a, "b": b, "c": [of(9, name="kid")]})] == [2, 6, 9]
    assert [r.value for _, r in shared({"a": a})] == [1, 2, 3, 4]


def test_where_nothing_is_shared_the_nearest_two_say_why() -> None:
    a, b = [of(1, name="kid"), of(2)], [of(3, n=5, split="val"), of(4, split="val")]
    with pytest.raises(NotComparableError) as error:
        shared({"a": a, "b": b, "c": [of(5)], "d": [of(6, data="other")]})
    first, second = str(error.value).splitlines()
    assert first.startswith("a and b: FD-lite0 = 2 and FD-lite0 = 4 ") and "differ in split: 'test' and 'val'." in first
    assert second.startswith("a and d: FD-lite0 = 2 and FD-lite0 = 6 ") and "differ in data: " in second
    pairs = {"a": [of(1), of(2, n=2)], "b": [of(3)], "c": [of(4, n=2)]}  # each two share something, all three do not
    with pytest.raises(
        NotComparableError, match=r"^a and c: FD-lite0 = 1 and FD-lite0 = 4 .*differ in n: 1000 and 2\."
    ):
        shared(pairs)
    named = {"a": [of(1, name="kid"), of(2, n=2, split="val")], "b": [of(3)]}  # of one name before of fewer differences
    with pytest.raises(NotComparableError, match=r"^a and b: FD-lite0 = 2 and FD-lite0 = 3 "):
        shared(named)


def test_hashes_are_shortened_and_all_differences_are_told() -> None:
    other = replace(RECORD, measure=replace(MEASURE, weights="b" * 64, n=5))
    with pytest.raises(NotComparableError, match=r"n: 1000 and 5; weights: aaaaaaaaaaaa… and bbbbbbbbbbbb…\."):
        comparable(RECORD, other)


def test_models_and_sampling_are_what_one_compares() -> None:
    comparable(RECORD, replace(RECORD, value=1.0, sampling={"steps": 5}, model={}, made={}, floor=None))


def test_records_come_back_as_they_were_kept(tmp_path: Path) -> None:
    second = replace(RECORD, value=-0.1 + 1e-17, low=None, high=None, unit="dB", better="higher")
    assert append(tmp_path / "evaluation", [RECORD, second]) == tmp_path / "evaluation" / "records.jsonl"
    append(tmp_path / "evaluation", [RECORD])
    assert read(tmp_path / "evaluation") == [RECORD, second, RECORD]
    assert read(tmp_path) == []


def test_a_line_cut_short_is_left_out_and_a_strange_one_refused(tmp_path: Path) -> None:
    file = append(tmp_path, [RECORD])
    with file.open("a") as out:
        out.write('{"measure": {"name"')
    assert read(tmp_path) == [RECORD]
    file.write_text('{"value": 3.0}\n')
    with pytest.raises(ValueError, match="measure"):
        read(tmp_path)


@pytest.mark.parametrize("lost", [1, 2, 30])
def test_a_line_cut_short_takes_no_other_with_it(tmp_path: Path, lost: int) -> None:
    """One character lost: the record is whole, but what comes next would be on its line."""
    second = replace(RECORD, value=2.0)
    file = append(tmp_path, [RECORD, second])
    file.write_bytes(file.read_bytes()[:-lost])
    kept = [RECORD, second] if lost == 1 else [RECORD]
    assert read(tmp_path) == kept
    third, fourth = replace(RECORD, value=3.0), replace(RECORD, value=4.0)
    append(tmp_path, [third])
    append(tmp_path, [fourth])
    assert read(tmp_path) == [*kept, third, fourth]
    assert b"\n\n" not in file.read_bytes()


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85", "\x1e", "\r"])
def test_a_name_may_hold_what_else_ends_a_line(tmp_path: Path, end: str) -> None:
    named = replace(RECORD, model={"folder": f"runs/a{end}b"})
    append(tmp_path, [named, RECORD])
    assert read(tmp_path) == [named, RECORD]


def test_on_a_full_disk_all_records_or_none_are_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = append(tmp_path, [RECORD])
    before, opened = file.read_bytes(), Path.open

    class Full:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self.inner, name)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.inner.close()

        def write(self, data: bytes) -> None:
            self.inner.write(data[: len(data) // 2])
            self.inner.flush()
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda self, *a, **k: Full(opened(self, *a, **k)))
    with pytest.raises(OSError, match="No space"):
        append(tmp_path, [RECORD, RECORD])
    monkeypatch.undo()
    assert file.read_bytes() == before


def test_only_tf_inception_gives_what_is_called_fid() -> None:
    titles = {f: replace(MEASURE, features=f).title for f in ("lite0", "lite0(size=96)", "inception", "dinov2")}
    expected = {"lite0": "FD-lite0", "lite0(size=96)": "FD-lite0", "inception": "FID", "dinov2": "FD-dinov2"}
    assert titles == expected
    assert replace(MEASURE, name="kid", features="inception").title == "kid"


def test_the_newest_of_what_is_the_same_counts() -> None:
    again = replace(RECORD, value=1.0, sampling={**SAMPLING, "seconds": 99.0}, made={"date": "later"})
    other_steps = replace(RECORD, sampling={**SAMPLING, "steps": 5})
    other_model = replace(RECORD, model={"weights_sha256": "v"})
    other_measure = replace(RECORD, measure=replace(MEASURE, n=10))
    kept = newest([RECORD, other_steps, other_model, other_measure, again])
    assert kept == [again, other_steps, other_model, other_measure]


def test_what_made_a_number_is_said() -> None:
    told = made(torch.device("cpu"))
    assert (told["inkwash"], told["torch"], told["device"]) == (__version__, torch.__version__, "cpu")
    assert abs(datetime.now(UTC) - datetime.fromisoformat(told["date"])) < timedelta(minutes=1)


def test_the_commit_is_that_of_the_checkout_and_says_so_of_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "src" / "inkwash" / "evaluation"
    here.mkdir(parents=True)
    (here / "record.py").write_text("1")
    monkeypatch.setattr(room, "__file__", str(here / "record.py"))
    room.commit.cache_clear()
    assert room.commit() is None  # installed: in no checkout

    def git(*words: str) -> str:
        names = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", "-C", str(tmp_path), *names, *words], check=True, capture_output=True, text=True
        ).stdout

    git("init", "-q")
    room.commit.cache_clear()
    assert room.commit() is None  # in somebody else's checkout, as a virtual environment is
    git("add", ".")
    git("commit", "-qm", "one")
    room.commit.cache_clear()
    assert room.commit() == git("rev-parse", "HEAD").strip()
    (here / "record.py").write_text("2")
    room.commit.cache_clear()
    assert room.commit() == git("rev-parse", "HEAD").strip() + "+changes"
    room.commit.cache_clear()


def test_a_record_in_a_row() -> None:
    row = row_of(RECORD)
    expected = ("FD-lite0", "12.35", "12 to 12.7", "3.25 (two halves of 1,000)", "1,000", "photos test, 2,000")
    assert row == (*expected, "ddim(eta=0.5), 20 steps, 20 calls, guidance 1.5, seed 7")
    bare = replace(RECORD, low=None, floor=None, unit="dB", sampling={})
    assert row_of(bare)[1:4] == ("12.35 dB", "", "") and row_of(bare)[-1] == ""
    mine = replace(RECORD, sampling={**SAMPLING, "sampler": {"kind": "mine:Midpoint"}})
    assert drawn_with(mine).startswith("mine:Midpoint, 20 steps")


def test_what_numbers_share_is_said_once() -> None:
    kid = replace(RECORD, measure=replace(MEASURE, name="kid"))
    other = replace(RECORD, measure=replace(MEASURE, name="spectrum", features="", weights="", resize=""))
    lines = provenance([RECORD, kid, RECORD, other])
    end = f"reference {'d' * 12}; inkwash 0.1.0 at {'c' * 12} with changes; 2026-01-02"
    assert lines == [
        f"FD-lite0, kid: features lite0, weights {'a' * 12}, bicubic to 224; {end}",
        f"spectrum: no features; {end}",
    ]
    assert measured_lines([]) == ""
    text = measured_lines([RECORD])
    assert "| FD-lite0 | 12.35 | 12 to 12.7 | 3.25 (two halves of 1,000) | 1,000 | photos test, 2,000 | ddim" in text
