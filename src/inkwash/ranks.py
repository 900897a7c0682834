"""Several processes that share one job: who this one is, and where all wait for each other.

`torchrun --nproc-per-node 4 -m inkwash ...` starts them, on one machine or on several that see the same disk. Started
in the ordinary way, a process is the only one of its job, and everything here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from inkwash.device import pick_device

PATIENCE = timedelta(days=7)
"""So long a rank waits for the others, which may have more to do. One that dies is noticed at once."""


class RankLostError(RuntimeError):
    """Another rank of the job stopped, so that this one would wait for it in vain; what happened is told there."""


@dataclass(frozen=True)
class Ranks:
    """This process's place: rank 0 to world - 1 of the job, local: its number on its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this is the one that does what is to be done once: prints, writes heads, publishes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until all ranks are here. Raises RankLostError where one of them has stopped."""
        if self.world == 1:
            return
        try:
            distributed.barrier()
        except RuntimeError as error:  # gloo's, when the connection to another rank ends
            raise RankLostError(
                f"Rank {self.rank} of {self.world} stops because another rank has: its own message says why. What is "
                "done so far is kept, and the same command goes on there."
            ) from error

    def device(self, name: str = "auto") -> torch.device:
        """The device of that name for this rank: of several GPUs its own, unless one is named by its number.

        More ranks than GPUs share them. Raises ValueError for a device that is not there.
        """
        device = pick_device(name)
        if self.world > 1 and device.type == "cuda" and device.index is None:
            return torch.device("cuda", self.local % torch.cuda.device_count())
        return device


ALONE = Ranks()
"""The only process of its job."""


@contextmanager
def ranks() -> Iterator[Ranks]:
    """This process's place in the job that torchrun started, connected to the others until the end of the block.

    At the end all wait for each other: a process that leaves while another still talks to it makes that one abort. If
    the block raises, the connection is cut instead. The other ranks then stop with RankLostError when they next wait,
    and torchrun ends those that are at work, within seconds; nobody waits for hours.

    Raises ValueError for an environment that names a rank but not how to reach the others.
    """
    here = from_environment()
    if here.world == 1:
        yield here
        return
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield here
    except BaseException:
        # A barrier here would be taken by the others for the one that they wait at, and they would go on.
        with suppress(RuntimeError):
            distributed.destroy_process_group()
        raise
    try:
        here.barrier()
    finally:
        with suppress(RuntimeError):
            distributed.destroy_process_group()


def from_environment() -> Ranks:
    """The place that torchrun's variables give (RANK, WORLD_SIZE, LOCAL_RANK), or the only one where there are none."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    if missing := [name for name in names if name not in os.environ]:
        raise ValueError(
            f"WORLD_SIZE = {os.environ['WORLD_SIZE']} says that this is one of several processes, but "
            f"{', '.join(missing)} is not set. Start them with `torchrun --nproc-per-node N -m inkwash ...`, or unset "
            "WORLD_SIZE."
        )
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    return Ranks(rank, world, int(os.environ.get("LOCAL_RANK", rank)))
