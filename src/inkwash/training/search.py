"""Which length of the averages gives the best pictures: each is rebuilt, draws the same seeds, and is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path as File
from typing import Literal

from inkwash.evaluation.card import evaluation_folder
from inkwash.evaluation.evaluate import Watch, evaluate
from inkwash.evaluation.job import RealSide
from inkwash.evaluation.record import Record
from inkwash.evaluation.sweep import SWEEP, sweep
from inkwash.training.posthoc import Kept, Rebuilt, assemble, fitted

SIGMAS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2)
"""What is tried unless other lengths are asked for, as far as it can be rebuilt."""

CHUNK = 64
"""Pictures in a forward pass: thousands are drawn, and nobody waits for the first. Of points the usual, more."""


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

    What is measured is kept with the points of sweeps and not measured again; pictures that were drawn for one that is
    not are found again. Raises ValueError for a length that cannot be rebuilt, before anything is drawn.
    """
    for sigma in sigmas:
        fitted(have, sigma)
    place = evaluation_folder(run)
    found: list[Candidate] = []
    best: tuple[float, Rebuilt] | None = None
    for number, sigma in enumerate(sorted(set(sigmas))):
        rebuilt = assemble(run, have, sigma, trust=trust)
        pipe = rebuilt.pipeline(device=str(side.net.device), chunk=CHUNK if len(rebuilt.config.shape) == 3 else None)
        of = f"Length {number + 1} of {len(set(sigmas))}"

        def told(what: str, fraction: float, of: str = of) -> None:
            if watch is not None:
                watch(f"{of}: {what.partition(': ')[2].lower()}", fraction)

        model = {"folder": str(run), "data": pipe.config.data, "trained": dict(have.trained), "ema": sigma}
        (point,) = sweep(
            pipe,
            side.reference,
            side.net,
            {},
            n,
            evaluate=evaluate,
            file=place / SWEEP,
            model=model,
            by=by,
            seed=seed,
            folder=place / "searched",
            watch=told,
        )
        record = point.record
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
