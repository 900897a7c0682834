"""A number with its provenance: what was measured, on what, with which settings, and by which code.

Two numbers may be compared where their `Measure` is the same: feature net and weights, resize, data, split and the
number of pictures. Samplers, steps, guidance and models are what one compares.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path as File
from typing import Any, Literal

import torch

from inkwash._version import __version__
from inkwash.kinds import from_table

RECORDS = "records.jsonl"
"""The file in a run's evaluation folder that holds one record a line, the oldest first."""


Better = Literal["lower", "higher", ""]
"""Which way is good; "" where it is neither, but a number of its own."""


class NotComparableError(ValueError):
    """Two numbers that do not measure the same thing; the message names every field that differs."""


@dataclass(frozen=True)
class Measure:
    """What was measured: two numbers whose measures differ in any field say nothing about each other.

    name: fd, kid, precision ...; features, weights, resize: the feature net or classifier, the SHA-256 of its weights,
    and how a picture is brought to its input ("" where none is used); data, split, data_hash: of the reference; n,
    reference: pictures on the two sides; settings: what else the number depends on, as k of the neighbours.
    """

    name: str
    data: str
    split: str
    data_hash: str
    n: int
    reference: int
    features: str = ""
    weights: str = ""
    resize: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As it is printed: only features of TF-Inception give what is called FID."""
        if self.name != "fd":
            return self.name
        kind = self.features.partition("(")[0]
        return "FID" if kind == "inception" else f"FD-{kind}"

    @property
    def key(self) -> tuple[Any, ...]:
        """What must be equal."""
        return tuple(json.dumps(getattr(self, f.name), sort_keys=True) for f in fields(self))


@dataclass(frozen=True)
class Record:
    """One number.

    low, high: its 95 % interval, where there is one; floor: what real pictures get, by floor_of between two "halves" of
    the reference, floor_n pictures each, or, where a picture is held against what was asked of it, by the reference's
    "own" pictures, with floor_low and floor_high; bias: what it is expected to be for two sets of these sizes from one
    distribution, where that is known; chance: what it is for pictures that do not depend on what was asked, or, where
    they were to be like another, for what was shown given back; better: which way is good; model: folder,
    weights_sha256, trained, ema; sampling: the settings of the pictures; made: inkwash, commit, torch, device, date.
    """

    measure: Measure
    value: float
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_n: int | None = None
    bias: float | None = None
    unit: str = ""
    better: Better = "lower"
    model: dict[str, Any] = field(default_factory=dict)
    sampling: dict[str, Any] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    chance: float | None = None
    floor_of: Literal["halves", "own"] = "halves"
    floor_low: float | None = None
    floor_high: float | None = None

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @property
    def line(self) -> str:
        """As a file has it."""
        return json.dumps(self.table(), ensure_ascii=False)


def comparable(a: Record, b: Record) -> None:
    """Raise NotComparableError, naming each field that differs, where two records do not measure the same."""
    if differing := _differing(a, b):
        told = "; ".join(
            f"{name}: {_short(getattr(a.measure, name))} and {_short(getattr(b.measure, name))}" for name in differing
        )
        raise NotComparableError(
            f"{a.measure.title} = {a.value:.4g} and {b.measure.title} = {b.value:.4g} do not measure the same thing. "
            f"They differ in {told}. Measure both in one way."
        )


def shared(runs: Mapping[str, Sequence[Record]]) -> list[tuple[str, Record]]:
    """Of several runs' records those that measure what every run has measured, side by side: (run, record).

    Raises NotComparableError where there is nothing, with what differs between the two that are nearest to it.
    """
    found: dict[tuple[Any, ...], list[tuple[str, Record]]] = {}
    for run, records in runs.items():
        for record in records:
            found.setdefault(record.measure.key, []).append((run, record))
    groups, mistakes = list(found.values()), []
    for run, records in runs.items():
        left = [group for group in groups if any(name == run for name, _ in group)]
        if not left:
            pairs = [(_differing(one, record), name, one, record) for (name, one), *_ in groups for record in records]
            _, name, one, record = min(pairs, key=lambda pair: ("name" in pair[0], len(pair[0])))
            try:
                comparable(one, record)
            except NotComparableError as error:
                mistakes.append(f"{name} and {run}: {error}")
        groups = left or groups
    if mistakes:
        raise NotComparableError("\n".join(mistakes))
    return [each for group in groups for each in group]


def append(folder: File, records: Sequence[Record]) -> File:
    """Add records to a folder's file, all of them or none; the file."""
    return append_lines(folder / RECORDS, [r.line for r in records])


def read(folder: File) -> list[Record]:
    """The records of a folder, the oldest first; [] where there are none. A line that a crash cut short is left out.

    Raises ValueError for a line that is whole and no record.
    """
    return [from_table(Record, line) for line in read_lines(folder / RECORDS)]


def append_lines(file: File, lines: Sequence[str]) -> File:
    """Add lines to a file that several processes may add to, all of them or none; the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as out:
        before = out.seek(0, os.SEEK_END)
        out.seek(max(before - 1, 0))
        cut = out.read() not in (b"", b"\n")  # by a crash: what comes now must not become part of that line
        try:
            out.write(("\n" * cut + "".join(f"{line}\n" for line in lines)).encode())
            out.flush()
            os.fsync(out.fileno())
        except OSError:
            out.truncate(before)
            raise
    return file


def read_lines(file: File) -> Iterator[Any]:
    """What the lines of a file hold as JSON, but for those that a crash cut short; nothing where there is no file."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    for line in text.split("\n"):  # splitlines() would also split at U+2028, which JSON leaves in its strings
        try:
            held = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield held


def made(device: torch.device) -> dict[str, Any]:
    """By what a number was made, and when: versions, commit, device, date (UTC)."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {
        "inkwash": __version__,
        "commit": commit(),
        "torch": torch.__version__,
        "device": device.type,
        "date": now,
    }


@cache
def commit() -> str | None:
    """The commit this package was checked out at, with "+changes" where files differ from it; None if installed."""
    here = File(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", File(__file__).name)  # a checkout of ours, not one that merely contains us
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", "../..") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def newest(records: Sequence[Record]) -> list[Record]:
    """Of every measure and sampling the record made last, in the order they were first made."""
    found: dict[str, Record] = {}
    for record in records:
        found[json.dumps([record.measure.key, _settled(record)], sort_keys=True)] = record
    return list(found.values())


def _settled(record: Record) -> Mapping[str, Any]:
    """What of the sampling and the model tells one result from another: not how long it took."""
    sampling = {k: v for k, v in record.sampling.items() if k not in ("seconds", "device", "drawn")}
    return {"weights": record.model.get("weights_sha256"), **sampling}


def _differing(a: Record, b: Record) -> list[str]:
    return [f.name for f in fields(Measure) if getattr(a.measure, f.name) != getattr(b.measure, f.name)]


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 and " " not in text else repr(value)
