"""Calls in forked processes, a few at a time: whatever a call does to its process, the next one starts afresh."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

MEMORY = 6 << 30
"""Bytes a child may hold: a mutant's loop that never ends may also never stop allocating."""
PATIENCE = 600
"""Seconds after which a child is ended that waits for something, whatever it is; work is limited test by test."""


def in_children(calls: Iterable[Callable[[], dict[str, Any]]], jobs: int) -> Iterator[dict[str, Any]]:
    """Each call's answer from a process of its own, so many at a time, in the order of the calls."""
    waiting = enumerate(calls)
    running: dict[int, _Child] = {}
    answers: dict[int, dict[str, Any]] = {}
    given = 0
    try:
        while True:
            while len(running) < jobs and (job := next(waiting, None)) is not None:
                child = _fork(*job)
                running[child.pipe] = child
            if not running:
                return
            for pipe in select.select(list(running), [], [], 1.0)[0]:
                if data := os.read(pipe, 1 << 16):
                    running[pipe].said.append(data)
                else:
                    child = running.pop(pipe)
                    answers[child.number] = child.answer()
            for child in running.values():
                if time.monotonic() > child.deadline:
                    os.kill(child.pid, signal.SIGKILL)
            while given in answers:
                yield answers.pop(given)
                given += 1
    finally:  # nobody is left behind, whatever has ended this
        for child in running.values():
            os.kill(child.pid, signal.SIGKILL)
            child.answer()


@dataclass(frozen=True)
class _Child:
    number: int
    pid: int
    pipe: int
    deadline: float
    said: list[bytes] = field(default_factory=list)

    def answer(self) -> dict[str, Any]:
        """What it has said, now that it has ended; or by which signal it was."""
        os.close(self.pipe)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return {"signal": -code} if code < 0 else json.loads(b"".join(self.said) or b'{"error": "It said nothing."}')


def _fork(number: int, call: Callable[[], dict[str, Any]]) -> _Child:
    out, into = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about threads: there are none that matter, and the child starts none
        pid = os.fork()
    if pid:
        os.close(into)
        return _Child(number, pid, out, time.monotonic() + PATIENCE)
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        for number in (signal.SIGPROF, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        os.environ.pop("PYTEST_ADDOPTS", None)
        answer = call()
    except BaseException:  # noqa: BLE001
        answer = {"error": traceback.format_exc()}
    try:
        with os.fdopen(into, "wb") as pipe:
            pipe.write(json.dumps(answer).encode())
    finally:  # the parent's code is not the child's, even where nobody listens any more
        os._exit(0)
