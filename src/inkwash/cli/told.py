"""What a model is told by, besides classes: as people say it on a command line, and in words."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inkwash.conditions import Conditions

NONE = "none"


def told(text: str | None, vector: str | None, image: str | None, mistakes: list[str]) -> dict[str, Any]:
    """The values of a recipe, by dotted name, that --text, --vector and --image set; what cannot be read is noted."""
    if text is None and vector is None and image is None:
        return {}
    return {**_text(text, mistakes), **_vector(vector), **_image(image, mistakes)}


def in_words(conditions: Conditions | None) -> dict[str, str]:
    """Each of a model's conditions, and how rarely it is told: for a table."""
    from inkwash.kinds import in_text

    if conditions is None:
        return {}
    words = {}
    if (text := conditions.text) is not None:
        words["text"] = f"read by {in_text(text.encoder)}, {_hidden(text.dropout)}"
    if (vector := conditions.vector) is not None:
        stated = [f"{m:.4g} ± {s:.4g}" for m, s in zip(vector.mean or (), vector.std or (), strict=True)]
        each = [" ".join(part) for part in zip(vector.names, stated, strict=True)] if stated else vector.names
        words["numbers"] = f"{', '.join(each)}, {_hidden(vector.dropout)}"
    if (image := conditions.image) is not None:
        words["picture"] = f"{in_text(image.task)}, {_hidden(image.dropout)}"
    if (scale := conditions.guidance) is not None:
        words["guidance"] = f"told, from {scale.low:g} to {scale.high:g}"
    return words


def sampling_line(folder: Path) -> str:
    """The command that draws from the model in a folder, with what it must be told."""
    from inkwash.asking import options
    from inkwash.modelfolder import find_model, read_config

    return f"inkwash sample {shlex.quote(str(folder))}{options(read_config(find_model(folder), trust=True))}"


def _hidden(dropout: float) -> str:
    return f"hidden from {dropout:.0%} in training" if dropout else "never hidden in training"


def _text(text: str | None, mistakes: list[str]) -> dict[str, Any]:
    from inkwash.text import AnyEncoder

    if text is None or text == NONE:
        return {"conditions.text": text}
    return _component("conditions.text.encoder", AnyEncoder, text, "text encoder", mistakes)


def _vector(names: str | None) -> dict[str, Any]:
    if names is None:
        return {}
    if names == NONE:
        return {"conditions.vector": NONE, "data.vector": []}
    return {"conditions.vector": {}, "data.vector": [name.strip() for name in names.split(",") if name.strip()]}


def _image(image: str | None, mistakes: list[str]) -> dict[str, Any]:
    from inkwash.conditions import AnyTask
    from inkwash.kinds import kinds_of

    if image is None:
        return {}
    if image == NONE:
        return {"conditions.image": NONE, "data.pairs": NONE}
    if image.partition("(")[0].strip() not in kinds_of(AnyTask) and Path(image).exists():
        return {"conditions.image.task": {"kind": "paired"}, "data.pairs": image}
    found = _component("conditions.image.task", AnyTask, image, "folder and no task", mistakes)
    paired = found.get("conditions.image.task", {}).get("kind") == "paired"
    return found | ({} if paired else {"data.pairs": NONE})


def _component(key: str, union: Any, text: str, what: str, mistakes: list[str]) -> dict[str, Any]:
    from inkwash.kinds import from_text, to_table

    try:
        return {key: to_table(from_text(union, text, what))}
    except ValueError as error:
        mistakes.append(str(error))
        return {}
