"""What a data set says of its pictures, as the conditions of a model: for training, measuring and previews alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from inkwash.codec import Codec
from inkwash.modelfolder import Config
from inkwash.types import Condition, Noise

if TYPE_CHECKING:
    from inkwash.conditions import ByText
    from inkwash.data.dataset import Dataset, Rows
    from inkwash.data.fetch import Progress
    from inkwash.text import Encoder


def condition_of(
    config: Config, codec: Codec, rows: Rows, noise: Noise, device: torch.device | str, scale: Tensor | None = None
) -> Condition:
    """The condition of rows of a data set, as the model takes it: nothing hidden that its task does not hide.

    Latents (float16, with a codec of latents) are taken as they are. noise: of the rows' numbers, for a task that draws
    some. A row without a label is of any class. scale [B]: of a model's guidance, where it is told it; None: not said.
    Raises ValueError where the rows lack what the model takes.
    """
    told = config.conditions
    label = tokens = present = vector = image = None
    if config.classes:
        label = torch.full((len(rows.images),), -1) if rows.labels is None else torch.from_numpy(rows.labels)
    if told.text:
        _check(rows.tokens is not None and rows.present is not None, "texts", "asking.with_conditions encodes captions")
        tokens, present = torch.from_numpy(rows.tokens).to(device).float(), torch.from_numpy(rows.present)
    if told.vector:
        _check(rows.vectors is not None, "vectors", "data.vector names them")
        vector = torch.from_numpy(rows.vectors)
    if told.guidance:
        last = torch.full((len(rows.images),), torch.nan) if scale is None else scale
        vector = torch.cat([*([] if vector is None else [vector]), last[:, None]], 1)
    if told.numbers and vector is not None:
        vector = told.numbers.standard(vector)
    if told.image:
        task = told.image.task
        _check(rows.shown is not None or not task.paired, "partners", "data.pairs names them")
        drawn = rows.noise is not None  # by a teacher: what it was shown belongs to the pair
        latent = rows.images.dtype == np.float16  # and what the task shows was encoded with the pictures
        if rows.shown is not None and (drawn or task.paired or (latent and not task.itself)):
            source = rows.shown
        else:
            source = task.show(rows.images)
        image = task.seen(encoded(codec, source, device), noise)
    cond = Condition(label, tokens, present, vector, image)
    return cond.map(lambda v: v.to(device))


def encoded(codec: Codec, rows: np.ndarray, device: torch.device | str) -> Tensor:
    """Rows as they are stored, as x on a device: what is float16, latents and a teacher's pictures, is that already."""
    u = torch.from_numpy(np.ascontiguousarray(rows)).to(device)
    if u.dtype != torch.float16:
        return codec.encode(u)
    return (u.movedim(-1, 1) if u.ndim == 4 else u).float()


def with_conditions(config: Config, codec: Codec, data: Dataset, progress: Progress | None = None) -> Dataset:
    """The data set with what `condition_of` needs of its rows: the tokens of its captions, from the cache or put there.

    Its pictures stay as they are. Raises ValueError, naming what is missing, for data that cannot say what the model
    takes.
    """
    told = config.conditions
    if told.vector and data.vector_names != told.vector.names:
        has = ", ".join(data.vector_names) if data.vector_names else "none"
        raise ValueError(
            f"This model is told {', '.join(told.vector.names)}, and the numbers of {data.name} are: {has}. Name the "
            "model's with data.vector."
        )
    if told.image and told.image.task.paired and data.shown is None:
        raise ValueError(f"This model translates, and {data.name} has no partners. Name them with data.pairs.")
    if told.text and data.tokens is None:
        if data.captions is None:
            raise ValueError(f"This model is told texts, and {data.name} has no captions. Give data that have.")
        from inkwash.data.captions import with_tokens

        encoder = encoder_of(told.text, "cpu" if not torch.cuda.is_available() else "cuda")
        data = with_tokens(data, encoder.states, encoder.key, progress=progress)
    return data


def encoder_of(told: ByText, device: torch.device | str) -> Encoder:
    """A model's text encoder with its weights. Raises ValueError for other weights than those it was trained with."""
    encoder = told.encoder.bind(device)
    if told.sha256 is not None and encoder.sha256 != told.sha256:
        raise ValueError(
            f"This model reads texts by {told.encoder} with the weights {told.sha256[:12]}, and those here are "
            f"{encoder.sha256[:12]}: its words would mean something else. Install the version it was trained with."
        )
    return encoder


def _check(there: bool, what: str, how: str) -> None:
    if not there:
        raise ValueError(f"This model takes {what}, and these rows have none: {how}.")
