"""What training tells while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and where the last good state is."""


@dataclass(frozen=True)
class Progress:
    """Where a run is. loss and grad_norm: means since the last report, of the steps that counted.

    fraction: done, in [0, 1]; eta: seconds left; seconds: spent so far over all sessions; memory: bytes in use;
    skipped: steps so far with a non-finite loss or gradient; validation: the loss on held-out pictures, when it was
    just measured (see `inkwash.training.validate`); figures: whatever else was, as metrics.jsonl names it:
    validation_train, validation_band_0 (the least noise) to 3, validation_train_band_0 to 3, overfitting (by how much
    the validation loss has risen above its lowest, where that is significant), fd, kid; saved, sampled: files just
    written; notes: what a user should know, said once.
    """

    step: int
    fraction: float
    loss: float
    grad_norm: float
    lr: float
    images_per_second: float
    eta: float
    seconds: float
    memory: int
    skipped: int
    validation: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    saved: File | None = None
    sampled: File | None = None
    notes: tuple[str, ...] = ()
    done: bool = False
