"""Several processes in one job: who each is, that all wait, and that nobody waits for one that has stopped."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from inkwash.ranks import ALONE, RankLostError, Ranks, from_environment, ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # said from Python 3.12 on

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def together(world: int, job: Callable[..., Any], *args: Any) -> list[int | None]:
    """Run job(*args) in `world` processes with torchrun's variables; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")  # torch is imported here already: a fresh process takes two seconds
    processes = [context.Process(target=_as_rank, args=(rank, world, port, job, args)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def _as_rank(rank: int, world: int, port: int, job: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
    values = (rank, world, rank, "127.0.0.1", port)
    os.environ |= {name: str(value) for name, value in zip(VARIABLES, values, strict=True)}
    job(*args)


def meet(place: Path) -> None:
    with ranks() as here:
        for turn in range(3):
            if here.rank == turn % here.world:  # the others must not go on before this one has written
                time.sleep(0.1)
                (place / f"turn-{turn}").write_text(str(here.rank))
            here.barrier()
            assert (place / f"turn-{turn}").read_text() == str(turn % here.world)
            here.barrier()
        (place / f"rank-{here.rank}").write_text(f"{here.world} {here.local} {here.first}")
        time.sleep(0.2 * here.rank)  # one leaves before the other


def test_ranks_wait_for_one_another_and_leave_cleanly(tmp_path: Path) -> None:
    assert together(2, meet, tmp_path) == [0, 0]
    assert (tmp_path / "rank-0").read_text() == "2 0 True"
    assert (tmp_path / "rank-1").read_text() == "2 1 False"


def stop(place: Path, how: str) -> None:
    with ranks() as here:
        here.barrier()
        if here.rank == 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise SystemExit(7)
        began = time.monotonic()
        try:
            here.barrier()
        except RankLostError as error:
            (place / "lost").write_text(f"{time.monotonic() - began} {error}")
            raise SystemExit(8) from error


@pytest.mark.parametrize(("how", "code"), [("raised", 7), ("killed", -9)])
def test_a_rank_that_stops_leaves_nobody_waiting(tmp_path: Path, how: str, code: int) -> None:
    """Nor is its leaving taken for its being there."""
    assert together(2, stop, tmp_path, how) == [8, code]
    seconds, _, told = (tmp_path / "lost").read_text().partition(" ")
    assert float(seconds) < 20 and told.startswith("Rank 0 of 2 stops because another rank has")


def test_alone_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with ranks() as here:
        assert here == ALONE == Ranks(0, 1, 0) and here.first
        here.barrier()
        assert not torch.distributed.is_initialized()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert from_environment() == ALONE


def test_what_torchrun_says_is_read_and_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("5", "8", "1", "10.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    assert from_environment() == Ranks(5, 8, 1)
    assert not from_environment().first
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(ValueError, match=r"WORLD_SIZE = 8 .* MASTER_PORT is not set\. Start them with `torchrun"):
        from_environment()


def test_each_rank_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Ranks(1, 2, 1).device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("auto", "cuda"):
        assert [Ranks(r, 6, r).device(name).index for r in range(6)] == [0, 1, 2, 3, 0, 1]
    assert Ranks(9, 16, 1).device().index == 1  # the second machine counts anew
    assert Ranks(1, 2, 1).device("cuda:3").index == 3
    assert ALONE.device("cuda").index is None


def test_the_command_runs_as_a_module_and_under_torchrun() -> None:
    asked = subprocess.run([sys.executable, "-m", "inkwash", "--version"], capture_output=True, text=True, check=True)
    assert asked.stdout.startswith("inkwash ")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "inkwash", "--version"]
    both = subprocess.run(
        torchrun, capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert both.stdout.count(asked.stdout.strip()) == 2
