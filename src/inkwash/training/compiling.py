"""When to compile a run's network, and how a run goes on where that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from inkwash.device import out_of_memory

T = TypeVar("T")


def pays(device: torch.device, minutes: float | None, steps: int | None) -> bool:
    """Whether a run of this length gains from a compiled network: on CUDA, from 10 minutes or 2,000 steps on.

    Compiling takes minutes. On a CPU U-Nets then ran 1 to 8 % slower, and DiT-S 8 % faster, which half an hour hardly
    wins back (docs/recipes.md, "Compilation"): there it is never chosen. CUDA's limits are custom, not measured.
    """
    if device.type != "cuda":
        return False
    return steps >= 2000 if steps is not None else (minutes or 0) >= 10


class Compiled:
    """A network, compiled in place if that is wanted, until it fails for the first time: from then on it is as it was.

    Its weights and their names do not change. notes: what a user should know of a failure.
    """

    def __init__(self, net: nn.Module, wanted: bool) -> None:
        self.net, self.on = net, wanted
        self.notes: list[str] = []
        if wanted:
            try:
                net.compile(dynamic=False)
            except RuntimeError as error:  # this Python, or this system, is one it does not know
                self._give_up(error)

    def __call__(self, compute: Callable[[], T], undo: Callable[[], None]) -> T:
        """The result of what computes with the network. Where it fails compiled, it is undone, and done without.

        Whatever the error: one that is not of the compilation is raised again by the second try. But running out of
        memory is no reason to give compilation up.
        """
        if self.on:
            try:
                return compute()
            except Exception as error:
                if out_of_memory(error):
                    raise
                self._give_up(error)
                undo()
        return compute()

    def _give_up(self, error: Exception) -> None:
        self.on = False
        self.net._compiled_call_impl = None
        lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith("raised:")]
        why = lines[0].strip().rstrip(".") if lines else type(error).__name__
        self.notes.append(
            f"torch.compile does not work here: {why[:300]}. The run goes on without it, which changes nothing but its "
            "speed; --no-compile spares the attempt."
        )
