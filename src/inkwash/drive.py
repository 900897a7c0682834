"""The driver: it answers a sampler's queries with a denoiser. Progress, previews and GIFs are watchers of it."""

from __future__ import annotations

from collections.abc import Callable, Generator

import torch
from torch import Tensor

from inkwash.types import Condition, Denoised, Denoiser, Query

Watch = Callable[[Query, Denoised], None]
"""Called after every answer with the query and the answer; to draw a preview, count, or raise to stop."""


def drive(
    asking: Generator[Query, Denoised, Tensor], denoiser: Denoiser, cond: Condition, watch: Watch | None = None
) -> Tensor:
    """Run a sampler's coroutine to its end and return its final x.

    Under `no_grad` but not inference mode: a denoiser that needs gradients may enable them.
    """
    with torch.no_grad():
        try:
            query = next(asking)
            while True:
                answer = denoiser(query, cond)
                if watch is not None:
                    watch(query, answer)
                query = asking.send(answer)
        except StopIteration as stop:
            final: Tensor = stop.value
            return final
