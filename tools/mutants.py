"""Changes every formula of inkwash in every single token, and asks whether some test notices.

    python tools/mutants.py [--room paths samplers] [--sample 100 --seed 0] [--jobs 2]

A room's mutants (see mutate.py) run against the test files of its row in `ROOMS`. At least 95 % must be killed, and
every survivor explained in tools/survivors.toml; the exit status says so. Nothing on disk is changed: for each mutant a
process that has imported torch, but nothing of inkwash, forks a child, and the child imports the changed text.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Outcome, Project, Verdict, preload, survey, try_all
from mutate import Mutant, mutants

ROOT = Path(__file__).parents[1]
SURVIVORS = Path(__file__).with_name("survivors.toml")
SHARE = 0.95
"""Of all mutants, how many must be killed."""

# A room is a module or a package of inkwash; its tests in the order in which they are asked, the nearest first.
ROOMS: dict[str, tuple[str, ...]] = {
    "paths": ("test_paths.py", "test_samplers.py", "test_along.py", "test_grids.py", "test_kinds.py"),
    "targets": ("test_targets.py", "test_objectives.py", "test_kinds.py"),
    "model": ("test_targets.py", "test_pipeline.py", "test_nets.py", "test_objectives.py", "test_kinds.py"),
    "times": ("test_times.py", "test_objectives.py", "test_kinds.py"),
    "grids": ("test_grids.py", "test_kinds.py"),
    "ode": ("test_ode.py",),
    "guidance": ("test_guidance.py", "test_along.py"),
    "samplers": (
        "test_samplers.py",
        "test_samplers_rows.py",
        "test_samplers_moments.py",
        "test_samplers_orders.py",
        "test_kinds.py",
        "test_diffusers.py",
        "test_diffusers_multistep.py",
        "test_samplers_ends.py",
        "test_samplers_mixture.py",
    ),
    "objectives": ("test_objectives.py", "test_weights.py", "test_coupling.py", "test_bound.py", "test_kinds.py"),
    "bound": ("test_bound.py",),
    "likelihood": ("test_likelihood.py", "test_samplers_ends.py"),
}


@dataclass(frozen=True)
class Explained:
    """Why no test can tell these changes of a line from the line itself: a table of survivors.toml."""

    where: str
    line: str
    becomes: tuple[str, ...]
    why: str


@dataclass
class Report:
    """What became of the mutants of a run, room by room, and what is to be said about those that survived."""

    outcomes: dict[str, list[tuple[Mutant, Outcome]]] = field(default_factory=dict)
    explained: list[tuple[Mutant, str]] = field(default_factory=list)
    unexplained: list[Mutant] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether enough were killed, and all others explained."""
        return not self.unexplained and self.share >= SHARE

    @property
    def share(self) -> float:
        """The killed part of all mutants."""
        found = [outcome.killed for room in self.outcomes.values() for _, outcome in room]
        return sum(found) / max(1, len(found))

    def __str__(self) -> str:
        lines = [f"{'room':14}{'mutants':>9}{'killed':>9}{'timed out':>11}{'survived':>10}{'killed':>9}"]
        total: Counter[str] = Counter()
        for room, found in self.outcomes.items():
            counts = Counter(str(outcome.verdict) for _, outcome in found)
            total += counts
            lines.append(_row(room, counts))
        lines.append(_row("all", total))
        for mutant, why in self.explained:
            lines += ["", f"{key(mutant)}, line {mutant.row}: {why}", f"  - {mutant.line}", f"  + {mutant.becomes}"]
        if self.unexplained:
            lines += [
                "",
                f"Not explained: {len(self.unexplained)}. Write a test that fails, or say why none can, here:",
            ]
            lines += [f"\n{_entry(m)}" for m in self.unexplained]
        lines += ["", *(f"Stale: {line}" for line in self.stale)] if self.stale else []
        lines += ["", f"{self.share:.1%} killed; {SHARE:.0%} asked for. {'Passed.' if self.passed else 'Not passed.'}"]
        return "\n".join(lines)


def check(
    project: Project,
    rooms: dict[str, tuple[str, ...]],
    known: Iterable[Explained],
    *,
    sample: int | None = None,
    seed: int = 0,
    jobs: int = 2,
) -> Report:
    """Try the mutants of these rooms, all of them or a random sample.

    Raises ValueError for a room or a test file that is not there, and where a test fails without any change.
    """
    everything = {
        room: [m for file in project.files(room) for m in mutants(file.read_text(), project.name(file))]
        for room in rooms
    }
    chosen = [(room, m) for room, found in everything.items() for m in found]
    if sample is not None and sample < len(chosen):
        chosen = [chosen[i] for i in sorted(random.Random(seed).sample(range(len(chosen)), sample))]
    tests = survey(project, sorted({file for files in rooms.values() for file in files}), jobs)
    reasons = {(e.where, e.line, new): e.why for e in known for new in e.becomes if e.why}
    say = _Progress(len(chosen))
    work = [(m, [tests[file] for file in rooms[room]], _key(m) in reasons) for room, m in chosen]
    outcomes = try_all(project, work, jobs, say)
    say.end()
    report = Report({room: [] for room in rooms})
    for (room, mutant), outcome in zip(chosen, outcomes, strict=True):
        report.outcomes[room].append((mutant, outcome))
        if outcome.killed:
            continue
        if why := reasons.get(_key(mutant)):
            report.explained.append((mutant, why))
        else:
            report.unexplained.append(mutant)
    report.stale = _stale(known, everything, chosen, report)
    return report


def _stale(
    known: Iterable[Explained], everything: dict[str, list[Mutant]], chosen: list[tuple[str, Mutant]], report: Report
) -> list[str]:
    """Explanations of what is not there any more, or was killed; of this run's files alone."""
    there = {_key(m) for found in everything.values() for m in found}
    files = {m.file for found in everything.values() for m in found}
    survived = {_key(m) for m, _ in report.explained}
    tried = {_key(m) for _, m in chosen}
    stale = []
    for entry in known:
        for new in entry.becomes:
            one = (entry.where, entry.line, new)
            if entry.where.split()[0] in files and (one not in there or (one in tried and one not in survived)):
                stale.append(f"{entry.where}: {new} {'was killed' if one in there else 'is no mutant any more'}")
    return stale


def key(mutant: Mutant) -> str:
    """Where a mutant is, whatever lines have moved: "paths/table.py Table.time"."""
    return f"{mutant.file} {mutant.within}".strip()


def _key(mutant: Mutant) -> tuple[str, str, str]:
    return key(mutant), mutant.line, mutant.becomes


def _row(room: str, counts: Counter[str]) -> str:
    total, survived = counts.total(), counts[Verdict.SURVIVED]
    share = (total - survived) / max(1, total)
    return f"{room:14}{total:9}{counts[Verdict.KILLED]:9}{counts[Verdict.TIMED_OUT]:11}{survived:10}{share:9.1%}"


def _entry(mutant: Mutant) -> str:
    return (
        f"[[survivor]]  # line {mutant.row}\nwhere = {_literal(key(mutant))}\nline = {_literal(mutant.line)}\n"
        f'becomes = [\n       {_literal(mutant.becomes)},\n]\nwhy = ""'
    )


def _literal(text: str) -> str:
    return f"'{text}'" if "'" not in text else f"'''{text}'''"


def read(file: Path) -> list[Explained]:
    """The explanations in a file; none where there is none."""
    if not file.exists():
        return []
    table: dict[str, list[dict[str, Any]]] = tomllib.loads(file.read_text())
    return [Explained(e["where"], e["line"], tuple(e["becomes"]), e["why"].strip()) for e in table.get("survivor", [])]


class _Progress:
    """A line now and then: how many are done, how fast, and how long it will take."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.survived = total, 0, 0
        self.start = self.told = time.monotonic()
        self.work = sum(os.times()[2:4])  # of children that have ended

    def __call__(self, outcome: Outcome) -> None:
        self.done += 1
        self.survived += not outcome.killed
        now = time.monotonic()
        if now - self.told > 30:
            self.told = now
            rate = self.done / (now - self.start)
            left = (self.total - self.done) / rate / 60
            told = f"{self.done}/{self.total} mutants, {self.survived} survived, {rate:.1f}/s, {left:.0f} min left"
            print(told, file=sys.stderr)

    def end(self) -> None:
        took, work = time.monotonic() - self.start, sum(os.times()[2:4]) - self.work
        each = f", {took / self.done:.2f} s each ({work / self.done:.2f} s of a processor)" if self.done else ""
        print(f"{self.done} mutants in {took / 60:.1f} min{each}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the check and print the report; 0 if it passed."""
    parser = argparse.ArgumentParser(description="Does some test fail for every single-token change of the formulas?")
    parser.add_argument("--room", nargs="+", choices=list(ROOMS), default=list(ROOMS), help="(default: all)")
    parser.add_argument("--sample", type=int, help="try so many mutants, drawn at random (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    args = parser.parse_args(arguments)
    project = Project(ROOT, ROOT / "src" / "inkwash", ROOT / "tests")
    for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[threads] = "1"  # before they are imported
    preload("torch", "numpy", "scipy.stats", "scipy.integrate", "scipy.optimize", "pydantic", "PIL.Image", "diffusers")
    gc.freeze()  # the children's collections leave these pages alone, and so shared
    rooms = {room: ROOMS[room] for room in args.room}
    try:
        report = check(project, rooms, read(SURVIVORS), sample=args.sample, seed=args.seed, jobs=args.jobs)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
