"""Sampling along another path than the one a model was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.paths import ratio
from inkwash.types import Condition, Denoised, Denoiser, Path, Query, like


@dataclass(frozen=True)
class Along:
    """A model trained on the path `trained`, for sampling along another `path`: the exact change of variables.

    What is asked of x at t is asked of k·x at the time at which `trained` has the same sigma/alpha, where k is the
    ratio of the two sqrt(alpha² + sigma²); data and noise in the answer are those of both (math.md, eq. 27). A table is
    then asked between its entries, where its network was not trained but is smooth. A learned variance is left out: it
    lies between two of which the large one depends on the path's scale.
    Raises ValueError for a time of `path` with more noise than `trained` has at its end: see `highest`.
    """

    denoiser: Denoiser
    trained: Path
    path: Path

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The estimates for query.x, at the times query.t of `path`."""
        t, k = self._there(query.t)
        s = t if query.s is query.t else self._there(query.s)[0]
        return self.denoiser(Query(like(k, query.x) * query.x, t, s), cond)._replace(var_mix=None)

    def _there(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The times [B] of `trained` with the same noise-to-signal ratio, and the factors k [B] of x."""
        here = self.path(t)
        asked, end = ratio(here), _end(self.trained)
        if bool((asked > end * (1 + 1e-9)).any()):  # a time found by inverting the ratio is off by its rounding
            raise ValueError(
                f"t = {float(t[asked.argmax()]):.6g} of {self.path} has more noise than the model has ever seen: "
                f"sigma/alpha = {float(asked.max()):.4g}, and {self.trained} ends at {float(end):.4g}. "
                f"Start at t = {math.floor(1e6 * highest(self.trained, self.path)) / 1e6:.6f} or below."
            )
        there = same_noise(self.trained, self.path, t)
        c = self.trained(there)
        return there, ((c.alpha**2 + c.sigma**2) / (here.alpha**2 + here.sigma**2)).sqrt()


def same_noise(trained: Path, path: Path, t: Tensor) -> Tensor:
    """The times of `trained` with the noise-to-signal ratio that `path` has at t; its end where it has no such."""
    return trained.time(ratio(path(t)).minimum(_end(trained)))


def highest(trained: Path, path: Path) -> float:
    """The largest time of `path` at which a model trained on `trained` can be asked: 1 where nothing is in the way."""
    end = _end(trained)
    return 1.0 if bool(_end(path) <= end) else float(path.time(end))


def _end(path: Path) -> Tensor:
    return ratio(path(torch.ones(1, dtype=torch.float64)))
