"""Which length of the averages gives the best pictures: each is rebuilt, draws the same seeds, and is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from tempfile import TemporaryDirectory
from typing import Literal

from inkwash.evaluation.evaluate import evaluate
from inkwash.evaluation.job import RealSide
from inkwash.evaluation.record import Record
from inkwash.training.posthoc import Kept, Rebuilt, assemble, fitted

SIGMAS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)
"""What is tried unless other lengths are asked for, as far as it can be rebuilt."""

CHUNK = 64
"""Pictures in a forward pass: thousands are drawn, and nobody waits for the first."""

Watch = Callable[[str, float], None]
"""Told what is being done, and the fraction of it that is done."""


@dataclass(frozen=True)
class Candidate:
    """A length that was measured: how well it could be rebuilt, and the number."""

    sigma: float
    residual: float
    record: Record


def possible(have: Kept, sigmas: Sequence[float] = SIGMAS) -> list[float]:
    """Those of the lengths that can be rebuilt from what is kept."""

    def can(sigma: float) -> bool:
        try:
            fitted(have, sigma)
        except ValueError:
            return False
        return True

    return [sigma for sigma in sigmas if can(sigma)]


def search(
    run: File,
    have: Kept,
    sigmas: Sequence[float],
    side: RealSide,
    n: int = 2000,
    *,
    by: Literal["fd", "kid"] = "fd",
    seed: int = 0,
    trust: bool = False,
    watch: Watch | None = None,
) -> tuple[list[Candidate], Rebuilt]:
    """Measure each length by n pictures of the same seeds, and give all, in order, and the best one rebuilt.

    Raises ValueError for a length that cannot be rebuilt, before anything is drawn.
    """
    for sigma in sigmas:
        fitted(have, sigma)
    found: list[Candidate] = []
    best: tuple[float, Rebuilt] | None = None
    for number, sigma in enumerate(sorted(set(sigmas))):
        rebuilt = assemble(run, have, sigma, trust=trust)
        pipe = rebuilt.pipeline(device=str(side.net.device), chunk=CHUNK)
        of = f"Length {number + 1} of {len(set(sigmas))}"

        def told(what: str, fraction: float, of: str = of) -> None:
            if watch is not None:
                watch(f"{of}: {what[:1].lower()}{what[1:]}", fraction)

        model = {"folder": str(run), "data": pipe.config.data, "trained": dict(have.trained), "ema": sigma}
        with TemporaryDirectory() as folder:  # pictures of a length that is not kept are of no more use
            seen = evaluate(
                pipe,
                side.reference,
                n,
                measures=(by,),
                seed=seed,
                folder=File(folder),
                model=model,
                net=side.net,
                watch=told,
            )
        record = seen[by]
        found.append(Candidate(sigma, rebuilt.fit.residual, record))
        if best is None or record.value < best[0]:
            best = (record.value, rebuilt)
    if best is None:
        raise ValueError("No length was given to search among. Give some, as in 0.05, 0.1.")
    return found, best[1]


def stamped(candidate: Candidate, folder: File, weights: str | None) -> Record:
    """The record of a length that has become a model of its own."""
    model = candidate.record.model | {"folder": str(folder), "weights_sha256": weights}
    return replace(candidate.record, model=model)
