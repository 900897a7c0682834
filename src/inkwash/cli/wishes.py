"""What pictures should show, as people say it on a command line: prompts, numbers, pictures; and for how many."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SWEEP = 9
"""Pictures of a sweep over a number, where nobody says how many."""

FEW = 20
"""Up to so many different wishes, each is drawn four times."""


@dataclass(frozen=True)
class Wishes:
    """What was said, each of labels, prompts and pictures to go round; ranges: first and last of a swept number."""

    labels: Sequence[str] = ()
    prompts: Sequence[str] = ()
    negative: str | None = None
    also: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    image: str | None = None
    mask: str | None = None

    @property
    def swept(self) -> bool:
        """Whether a number is swept over."""
        return any(not _one(low, high) for low, high in self.ranges.values())

    def count(self, classes: int) -> int:
        """How many pictures make a good sheet. classes: of the model."""
        if self.image is not None:
            from inkwash.asking import opened

            if (shown := opened(self.image)).many:
                return len(shown.pictures)
        asked = self.prompts or self.image or self.ranges or self.negative or self.also
        several = max(len(self.prompts), len(self.labels) or (0 if asked else classes))
        if self.swept:
            return SWEEP
        return 4 * several if 1 < several <= FEW else several if several > FEW and self.prompts else 16

    def each(self, count: int) -> dict[str, Any]:
        """The arguments of a pipeline's call for so many pictures; without what was not said."""
        told: dict[str, Any] = {}
        for name, values in (("label", self.labels), ("prompt", self.prompts)):
            if values:
                told[name] = values[0] if len(values) == 1 else [values[i % len(values)] for i in range(count)]
        if self.ranges:
            told["vector"] = {
                name: low if _one(low, high) else [low + (high - low) * i / max(1, count - 1) for i in range(count)]
                for name, (low, high) in self.ranges.items()
            }
        alone = {"negative": self.negative, "also": self.also or None, "mask": self.mask}
        told |= {name: said for name, said in alone.items() if said is not None}
        if self.image is not None:
            from inkwash.asking import opened

            told["image"] = opened(self.image).round(count)
        return told


def wishes(
    mistakes: list[str],
    *,
    label: Sequence[str] | None = None,
    prompt: Sequence[str] | None = None,
    prompts: Path | None = None,
    negative: str | None = None,
    also: Sequence[str] | None = None,
    vector: Sequence[str] | None = None,
    image: str | None = None,
    mask: Path | None = None,
) -> Wishes:
    """The options of these names as they are meant; what cannot be read is noted."""
    texts = list(prompt or [])
    if prompts is not None:
        try:
            texts += [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            mistakes.append(
                f"--prompts {prompts} cannot be read: {error}. Give a text file with a prompt on each line."
            )
    return Wishes(
        tuple(label or ()),
        tuple(texts),
        negative,
        dict(pair for one in also or () if (pair := _weighted(one, mistakes))),
        dict(span for one in vector or () if (span := _range(one, mistakes))),
        image,
        None if mask is None else str(mask),
    )


def _one(low: float, high: float) -> bool:
    return low == high or math.isnan(low)


def _weighted(text: str, mistakes: list[str]) -> tuple[str, float] | None:
    """TEXT=WEIGHT."""
    name, equals, weight = text.rpartition("=")
    try:
        if equals and name.strip():
            return name.strip(), float(weight)
    except ValueError:
        pass
    mistakes.append(f"--also {text!r} must be a text and its weight, as in 'snow=2'.")
    return None


def _range(text: str, mistakes: list[str]) -> tuple[str, tuple[float, float]] | None:
    """NAME=VALUE, or NAME=FIRST:LAST."""
    name, equals, said = text.partition("=")
    try:
        if equals and name.strip():
            first, colon, last = said.partition(":")
            low, high = float(first), float(last if colon else first)
            if math.isnan(low) == math.isnan(high):  # a number that is not known is one, and ends no sweep
                return name.strip(), (low, high)
    except ValueError:
        pass
    mistakes.append(f"--vector {text!r} must be a name and a number, as in angle=30, or a sweep, as in angle=0:90.")
    return None
