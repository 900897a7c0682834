"""What pictures are drawn for: the conditions of real examples, so that an answer can be held against what was asked.

Picture k of a drawn set is asked for what example k of the real ones has: its caption, its numbers, what is shown of
it, and its label. Where more are drawn than there are real ones they begin anew, with another draw of whatever is
random in a condition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from inkwash.asking import condition_of, with_conditions
from inkwash.codec import Codec
from inkwash.data import Dataset, Progress
from inkwash.evaluation.blocks import rows_hash
from inkwash.modelfolder import Config
from inkwash.noise import Philox
from inkwash.types import Condition

SEED = 0
"""Of what is random in a condition. Not that of the pictures: under every seed the same is asked."""


@dataclass(frozen=True, eq=False)
class Requests:
    """The conditions of the examples `rows` of a data set, over and over, for a model of this config.

    data: prepared by `requests`: with the tokens, numbers and pictures that the model is told of. sequence: what tells
    the sequence of which `rows` are the first (`Pictures.key`); "" where they are all there is to tell.
    """

    config: Config
    codec: Codec
    data: Dataset
    rows: np.ndarray
    device: torch.device
    sequence: str = ""

    def __call__(self, start: int, stop: int) -> Condition:
        """What pictures start to stop of the drawn set are asked for."""
        number = np.arange(start, stop)
        return self.of(self.rows[number % len(self.rows)], number)

    def of(self, rows: np.ndarray, number: np.ndarray) -> Condition:
        """The conditions of any rows of the data set; number: their own, to which all that is random is tied."""
        taken = self.data.take(rows)
        if self.config.classes:
            taken = taken._replace(labels=self._labels(rows))
        noise = Philox(SEED, torch.from_numpy(number.astype(np.int64)))
        return condition_of(self.config, self.codec, taken, noise, self.device)

    def labels(self, n: int) -> np.ndarray | None:
        """The classes that the first n pictures are asked for, [n]; None for a model without."""
        return self._labels(self.rows[np.arange(n) % len(self.rows)]) if self.config.classes else None

    def about(self, n: int) -> dict[str, Any]:
        """What determines those of the first n besides the model, JSON-able.

        Of rows that do not begin anew, the sequence they are taken from: it does so however many are taken.
        """
        names = [*(["label"] if self.labelled else []), *self.config.conditions.names]
        first = self.sequence and n <= len(self.rows)
        rows = {"sequence": self.sequence} if first else {"rows": rows_hash(self.rows)}
        return {"of": names, "fingerprint": self.data.fingerprint, **rows, "seed": SEED}

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels that mean what the model's do."""
        return bool(self.config.classes) and self.data.labels is not None and self.data.classes == self.config.classes

    def _labels(self, rows: np.ndarray) -> np.ndarray:
        if not self.labelled or self.data.labels is None:
            return np.full(len(rows), -1)
        return np.asarray(self.data.labels[rows], dtype=np.int64)


def requests(
    config: Config,
    codec: Codec,
    data: Dataset | None,
    rows: np.ndarray | None,
    device: torch.device,
    progress: Progress | None = None,
    sequence: str = "",
) -> Requests | None:
    """What a model can be asked for by the examples `rows` of a data set; None for one that takes a label at most.

    Captions are encoded, or found in the cache. Raises ValueError where the data lack what the model is told of, and
    where there are no data, but a saved reference.
    """
    if not config.conditions.names:
        return None
    if data is None or rows is None:
        raise ValueError(
            f"This model is asked for {' and '.join(config.conditions.names)} of real examples, and here are none: a "
            "saved reference has no captions, numbers or pictures. Give --split, or data with them, instead."
        )
    return Requests(config, codec, with_conditions(config, codec, data, progress), rows, device, sequence)


def changed(asked: Requests, data: Dataset, rows: np.ndarray, progress: Progress | None = None) -> Requests:
    """The same questions of other examples, such as those a model was trained on."""
    return replace(asked, data=with_conditions(asked.config, asked.codec, data, progress), rows=rows, sequence="")
