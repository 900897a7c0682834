"""Whether two models can be asked the same of the same pictures: one of them is to be the weaker version."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from inkwash.conditions import ByText
from inkwash.modelfolder import Config
from inkwash.types import CONDITIONS


def check_alike(mine: Config, weak: Config) -> None:
    """Raise ValueError, naming what differs, where a weak model draws other pictures, or is told of them otherwise."""
    if (wrong := differing(mine, weak)) is not None:
        raise ValueError(
            f"The weak model differs in its {wrong}: both must draw the same kind of pictures, and be told of them in "
            "the same way. Take an earlier step of this run, RUN@STEP, or a smaller model of the same data."
        )


def differing(mine: Config, other: Config) -> str | None:
    """In what two models differ that ought to draw the same kind of pictures; None where they do not."""
    a, b = _identity(mine), _identity(other)
    wrong = next((name for name in a if a[name] != b[name]), None)
    return None if wrong is None else f"{wrong}, {b[wrong]!r:.80} instead of {a[wrong]!r:.80}"


def _identity(config: Config) -> dict[str, Any]:
    """What must be the same; how often each condition was hidden may differ, and where a text encoder lies."""
    told: dict[str, Any] = {name: getattr(config.conditions, name) for name in CONDITIONS[1:]}
    told = {name: way and replace(way, dropout=0.0) for name, way in told.items()}
    told |= {"guidance": config.conditions.guidance}
    if (text := config.conditions.text) is not None:
        told["text"] = ByText(text.encoder) if text.sha256 is None else (text.sha256, text.encoder.max_tokens)
    return {"shape": config.shape, "codec": config.codec, "classes": config.classes, "conditions": told}
