"""What a run's model is told besides labels: what the recipe or else the data say, with nothing left open."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import numpy as np
import torch

from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Paired
from inkwash.data import Dataset
from inkwash.device import pick_device
from inkwash.kinds import in_text
from inkwash.recipes import Recipe


def settled(
    recipe: Recipe, data: Dataset, rows: np.ndarray, device: torch.device, start: Conditions | None = None
) -> Conditions:
    """The recipe's conditions, or those the data have, with everything stated that depends on the data or on weights.

    rows: those trained on, over which the mean and deviation of numbers are measured where they are not stated; start:
    the conditions of a model to start from, whose mean and deviation are then taken.
    Raises ValueError, with all that is missing, for conditions the data do not have, and for a text encoder that cannot
    be had or is not the one stated.
    """
    told = recipe.conditions
    if told is None:
        told = Conditions(
            text=ByText() if data.captioned else None,
            vector=ByVector() if data.vectors is not None else None,
            image=ByImage(Paired()) if recipe.data.pairs is not None else None,
        )
    if missing := list(_missing(told, data)):
        raise ValueError(" Also: ".join(missing))
    if told.image is not None:
        told.image.task.check(data.shape)
    if start is not None and start.vector and told.vector and start.vector.names == data.vector_names:
        mine, known = told.vector, start.vector
        told = replace(
            told, vector=replace(known, mean=mine.mean or known.mean, std=mine.std or known.std, dropout=mine.dropout)
        )
    vector = told.vector and _measured(told.vector, data, rows)
    try:
        return replace(told, vector=vector, text=told.text and _found(told.text, data, device))
    except ValueError as error:
        if recipe.conditions is not None:
            raise
        raise ValueError(f"{error} Or learn without the captions of {data.name}: --text none.") from error


def require(recipe: Recipe) -> None:
    """Raise ValueError where a text encoder that the recipe asks for cannot be had: before data are prepared."""
    if recipe.conditions is not None and recipe.conditions.text is not None:
        recipe.conditions.text.encoder.bind(pick_device(recipe.train.device))  # as it is wanted afterwards: loaded once


def notes(recipe: Recipe, told: Conditions, data: Dataset) -> Iterator[str]:
    """What a user should know of what is learned from, where the recipe does not say it, and of what cannot be."""
    if recipe.conditions is None and told.text is not None:
        yield f"Learning from the captions of {data.name}, read by {in_text(told.text.encoder)}; --text none does not."
    if recipe.conditions is not None and told.text is None and data.captioned:
        yield f"The captions of {data.name} are not learned from; --text minilm does."
    if told.text is not None and (cut := _cut(told.text, data, recipe.train.device)):
        yield (
            f"{cut:,} captions of {data.name} are longer than the {told.text.encoder.max_tokens} tokens that "
            f"{in_text(told.text.encoder)} reads, and are cut off there."
        )
    if told.vector is not None:
        yield f"Learning from the numbers {', '.join(told.vector.names)} of {data.name}."
    if data.flip and told.text is not None and (sided := sum(map(_sided, data.captions or ()))):
        yield (
            f"{sided:,} captions of {data.name} speak of left or right, and pictures are mirrored while captions stay. "
            "--no-flip keeps them as they are."
        )
    if data.flip and told.vector is not None:
        yield "Pictures are mirrored, and their numbers stay as they are. Where a mirror changes one, use --no-flip."
    if recipe.data.flip is None and not data.flip and data.vectors is not None and data.images.ndim == 4:
        yield ("Pictures are not mirrored, since a mirror may change their numbers. Where it changes none, add --flip.")
    if told.names and getattr(recipe.objective, "coupled", False):
        yield (
            "objective.coupling exchanges noise among examples of the same condition, and there are hardly two of the "
            "same text, numbers or picture: it changes next to nothing here."
        )


def _sided(caption: str) -> bool:
    """Whether a text means another picture in a mirror, as far as its words say."""
    return re.search(r"\b(left|right)(wards?|most|-)?\b", caption, re.IGNORECASE) is not None


def _missing(told: Conditions, data: Dataset) -> Iterator[str]:
    if told.text is not None and not data.captioned:
        yield (
            f"conditions.text learns from captions, and {data.name} has none. A folder has them in metadata.jsonl, a "
            'line for each picture: {"file_name": "a.png", "text": "a red apple"}. --text none learns without.'
        )
    if told.vector is not None and data.vectors is None:
        yield (
            f"conditions.vector learns from numbers, and none of {data.name} are asked for. Name columns of its "
            "metadata.jsonl with data.vector (--vector angle,size)."
        )
    elif told.vector is not None and told.vector.names not in ((), data.vector_names):
        yield (
            f"conditions.vector.names are {', '.join(told.vector.names)}, and the data's numbers are "
            f"{', '.join(data.vector_names)}. Leave conditions.vector out: it is measured."
        )
    if told.image is not None and (data.images.ndim != 4 or data.images.dtype != np.uint8):
        yield f"conditions.image shows 8-bit pictures, and {data.name} holds none. --image none leaves it out."
    elif told.image is not None and told.image.task.paired and data.shown is None:
        yield f"conditions.image is of pairs, and {data.name} comes without: say where, with data.pairs."


def _measured(told: ByVector, data: Dataset, rows: np.ndarray) -> ByVector:
    """With the names of the data's numbers, and their mean and deviation in `rows` where they are not stated."""
    if data.vectors is None or (told.mean is not None and told.std is not None):
        return told
    return told.measured(np.asarray(data.vectors[rows]), data.vector_names)


def _cut(told: ByText, data: Dataset, device: str) -> int:
    """How many captions have more tokens than are read."""
    most = told.encoder.max_tokens
    if told.length is not None and told.length < most:
        return 0
    return sum(n > most for n in told.encoder.bind(pick_device(device)).count(data.captions or ()))


def _found(told: ByText, data: Dataset, device: torch.device) -> ByText:
    """With the SHA-256 of its encoder, a local one named by its whole place, and the length of the longest caption."""
    encoder = told.encoder.bind(device)
    sha256 = encoder.sha256
    if told.sha256 is not None and told.sha256 != sha256:
        raise ValueError(
            f"The text encoder {in_text(told.encoder)} is not the one this run was begun with: its SHA-256 is "
            f"{sha256[:12]}, then {told.sha256[:12]}. The tokens of another mean nothing to the model. Install the "
            "version it was begun with, or start a new run."
        )
    source = File(getattr(told.encoder, "source", "")).expanduser()
    if source.name and source.is_dir():
        local: Any = told.encoder
        told = replace(told, encoder=replace(local, source=str(source.absolute())))
    if told.length is None:
        longest = max(encoder.count(sorted(set(data.captions or ()))), default=0)
        told = replace(told, length=min(longest, told.encoder.max_tokens) or None)
    return replace(told, sha256=sha256)
