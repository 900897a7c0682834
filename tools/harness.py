"""Runs tests in forked children: once to learn which test runs which function, then once for every mutant.

A child installs the changed text as an import, so that no file is touched, and runs the tests that reach the change:
those that killed a neighbour first, then the fastest. The first failure ends it.
"""

from __future__ import annotations

import importlib
import importlib.util
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from children import in_children
from mutate import Mutant

FLAGS = ("-x", "-q", "--tb=no", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:faulthandler", "-o", "addopts=",
         "-m", "not slow and not gpu and not net", "-W", "ignore::pytest.PytestConfigWarning")  # fmt: skip
GRACE = 3.0
"""Seconds of the processor that every test is given, beside ten times those it took unchanged."""


@dataclass(frozen=True)
class Project:
    """Where pytest runs, the package whose modules are changed, and the folder of the tests."""

    root: Path
    package: Path
    tests: Path

    def files(self, room: str) -> list[Path]:
        """The files of a room, x.py or all of x/. Raises ValueError where there are none."""
        module, package = self.package / f"{room}.py", self.package / room
        found = [module] if module.exists() else sorted(package.rglob("*.py"))
        if not found:
            raise ValueError(f"There is no {module} and no {package}: what is the room {room!r} called now?")
        return found

    def name(self, file: Path) -> str:
        """The name a file goes by: its path in the package."""
        return file.relative_to(self.package).as_posix()

    def module(self, name: str) -> str:
        """The name under which a file is imported."""
        parts = [self.package.name, *Path(name).with_suffix("").parts]
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Surveyed:
    """A test file as it ran unchanged: for each test its seconds, and the functions (file, line) it ran.

    shared: functions run on behalf of all tests: by imports, by collection, and by fixtures of more than one test.
    """

    file: str
    seconds: tuple[float, ...]
    reached: tuple[frozenset[tuple[str, int]], ...]
    shared: frozenset[tuple[str, int]]

    def reaching(self, mutant: Mutant) -> list[int]:
        """The tests that run the function which the mutant is in; all where it is in none."""
        spot = (mutant.file, mutant.owner)
        if mutant.owner == 0 or spot in self.shared:
            return list(range(len(self.seconds)))
        return [i for i, reached in enumerate(self.reached) if spot in reached]


class Verdict(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant, and the test (file, number) that failed first."""

    verdict: Verdict
    killer: tuple[str, int] | None = None

    @property
    def killed(self) -> bool:
        """A mutant that takes for ever is noticed too."""
        return self.verdict is not Verdict.SURVIVED


@dataclass(frozen=True)
class Stage:
    """A test file, and which of its tests to run, in which order."""

    tests: Surveyed
    order: list[int]


def preload(*modules: str) -> None:
    """Import what children would each import for themselves, so far as it is installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in modules:
            try:
                importlib.import_module(module)
            except ImportError:
                continue


# Before the mutants: which test runs what.


def survey(project: Project, files: Sequence[str], jobs: int) -> dict[str, Surveyed]:
    """Run the test files unchanged. Raises ValueError for one that is not there, or fails."""
    missing = [file for file in files if not (project.tests / file).exists()]
    if missing:
        raise ValueError(f"{project.tests} has no {', '.join(missing)}: correct the table of rooms.")
    tests: dict[str, Surveyed] = {}
    for file, found in zip(files, in_children((partial(_watch, project, f) for f in files), jobs), strict=True):
        if "seconds" not in found:
            why = found.get("failed") or found.get("error") or f"ended by signal {found.get('signal')}"
            raise ValueError(f"{file} fails without any change, so it can say nothing about one:\n{why}")
        reached = tuple(frozenset((f, n) for f, n in test) for test in found["reached"])
        shared = frozenset((f, n) for f, n in found["shared"])
        tests[file] = Surveyed(file, tuple(found["seconds"]), reached, shared)
    return tests


def _watch(project: Project, file: str) -> dict[str, Any]:
    sys.path.insert(0, str(project.package.parent))
    watcher = _Watcher(project)
    sys.setprofile(watcher.profile)
    status = pytest.main([*FLAGS, "--rootdir", str(project.root), str(project.tests / file)], plugins=[watcher])
    sys.setprofile(None)
    if status != 0:
        return {"failed": watcher.failed or f"pytest ends with status {int(status)}"}
    return {
        "seconds": watcher.seconds,
        "reached": [sorted(r) for r in watcher.reached],
        "shared": sorted(watcher.shared),
    }


class _Watcher:
    """A pytest plugin that notes the package's functions each test runs."""

    def __init__(self, project: Project) -> None:
        self.shared: set[tuple[str, int]] = set()
        self.reached: list[set[tuple[str, int]]] = []
        self.seconds: list[float] = []
        self.failed = ""
        self._now = self.shared
        self._spots: dict[CodeType, tuple[str, int] | None] = {}
        self._project = project

    def profile(self, frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            code = frame.f_code
            if code not in self._spots:
                file = Path(code.co_filename)
                inside = file.is_relative_to(self._project.package)
                self._spots[code] = (self._project.name(file), code.co_firstlineno) if inside else None
            if (spot := self._spots[code]) is not None:
                self._now.add(spot)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = set()
        self.reached.append(self._now)
        start = time.perf_counter()
        result = yield
        self.seconds.append(time.perf_counter() - start)
        self._now = self.shared
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Iterator[None]:
        mine = self._now
        if fixturedef.scope != "function":
            self._now = self.shared
        result = yield
        self._now = mine
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = f"{report.nodeid}\n{report.longreprtext}"

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed = f"{report.nodeid}\n{report.longreprtext}"


# The mutants.


def try_all(
    project: Project,
    work: Sequence[tuple[Mutant, Sequence[Surveyed], bool]],
    jobs: int,
    say: Callable[[Outcome], None],
) -> list[Outcome]:
    """Try each mutant on its tests. One expected to survive (the last of the three) only on those that reach it.

    The others, where no test that reaches them fails, are tried on all: one test may have seen what another ran.
    """
    history: dict[str, deque[tuple[str, int]]] = {}

    def attempts() -> Iterator[Callable[[], dict[str, Any]]]:
        for mutant, tests, expected in work:
            stages = _plan(mutant, tests, history.setdefault(mutant.file, deque(maxlen=12)), expected)
            yield partial(_attempt, project, mutant, stages)

    outcomes = []
    for (mutant, *_), found in zip(work, in_children(attempts(), jobs), strict=True):
        if "error" in found:
            raise RuntimeError(f"The harness failed on {mutant}:\n{found['error']}")
        # Out of time: SIGPROF from a test's own timer, SIGKILL from the limits on all of them, or from `in_children`.
        late = found.get("signal") in (signal.SIGPROF, signal.SIGXCPU, signal.SIGKILL)
        killed = late or "signal" in found or found["status"] != 0
        killer = (found["file"], found["test"]) if found.get("test") is not None else None
        outcomes.append(Outcome(Verdict.TIMED_OUT if late else Verdict.KILLED if killed else Verdict.SURVIVED, killer))
        if killer is not None:
            recent = history[mutant.file]
            if killer in recent:
                recent.remove(killer)
            recent.appendleft(killer)
        say(outcomes[-1])
    return outcomes


def _plan(mutant: Mutant, tests: Sequence[Surveyed], recent: Sequence[tuple[str, int]], expected: bool) -> list[Stage]:
    """The tests that reach the mutant, file by file: killers of neighbours first, then the fastest; then the rest."""
    rank = {killer: i for i, killer in enumerate(recent)}
    near, rest = [], []
    for part in tests:
        every = range(len(part.seconds))
        reaching = part.reaching(mutant)
        ranks = [rank.get((part.file, i), len(rank)) for i in every]
        if reaching:
            reaching = [i for *_, i in sorted((ranks[i], part.seconds[i], i) for i in reaching)]
            near.append((ranks[reaching[0]], Stage(part, reaching)))
        if len(reaching) < len(every) and not expected:
            rest.append(Stage(part, sorted(set(every) - set(reaching))))
    near.sort(key=lambda pair: pair[0])  # a stable sort: else in the room's order
    return [stage for _, stage in near] + rest


def _attempt(project: Project, mutant: Mutant, stages: Sequence[Stage]) -> dict[str, Any]:
    sys.path.insert(0, str(project.package.parent))
    sys.meta_path.insert(0, _Changed(project, mutant))
    for stage in stages:
        runner = _Runner(stage)
        status = pytest.main(
            [*FLAGS, "--rootdir", str(project.root), str(project.tests / stage.tests.file)], plugins=[runner]
        )
        if status != 0:
            return {"status": int(status), "file": stage.tests.file, "test": runner.failed}
    return {"status": 0}


class _Changed(SourceFileLoader):
    """Finds one module and loads its changed text; all others are somebody else's."""

    def __init__(self, project: Project, mutant: Mutant) -> None:
        self.file = project.package / mutant.file
        super().__init__(project.module(mutant.file), str(self.file))
        self.text = mutant.applied()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self.name:
            return None
        folder = [str(self.file.parent)] if self.file.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(name, self.file, loader=self, submodule_search_locations=folder)

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, str(self.file), "exec", dont_inherit=True)


class _Runner:
    """A pytest plugin that runs a stage's tests in its order, each with a limit on the processor's time."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.failed: int | None = None
        self._number: dict[pytest.Item, int] = {}
        signal.setitimer(signal.ITIMER_PROF, 30)  # for imports and collection

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if len(items) == len(self.stage.tests.seconds):  # else the mutant has changed what there is: all are run
            self._number = {item: i for i, item in enumerate(items)}
            items[:] = [items[i] for i in self.stage.order]

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._now = self._number.get(item)
        usual = 1.0 if self._now is None else self.stage.tests.seconds[self._now]
        signal.setitimer(signal.ITIMER_PROF, GRACE + 10 * usual)
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = self._now
