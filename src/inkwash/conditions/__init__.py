"""Conditions: what a model can be told of a picture besides its label, and how rarely it is told so in training.

A model's config carries `Conditions`: which of text, numbers and a picture it takes, by which encoder, with which
statistics, made how. Rates at which a condition is hidden in training are its `dropout`; without any it can never be
left out, and guidance does not push away from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import floor, log10
from typing import Annotated

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inkwash.conditions.edges import Edges, Grey
from inkwash.conditions.lowres import LowResolution
from inkwash.conditions.masked import Masked
from inkwash.conditions.scale import ByGuidance, Told
from inkwash.conditions.tasks import Paired, Task
from inkwash.kinds import OneOf
from inkwash.text import AnyEncoder, MiniLm
from inkwash.types import Component, Denoiser

AnyTask = Annotated[LowResolution | Grey | Edges | Paired | Masked, OneOf()]
"""What a picture shown to a model is of the one it is to make, as a recipe or a model's config names it."""


@dataclass(frozen=True)
class ByText(Component):
    """A model told by a text, through a frozen encoder.

    sha256: of the encoder's weights and tokenizer, None before they are known; a model refuses another. dropout: the
    share of training examples whose text is hidden, in [0, 1). length: how many tokens the longest caption has as it
    is read; None before it is known, and of models from before it was kept.
    """

    encoder: AnyEncoder = field(default_factory=MiniLm)
    sha256: str | None = None
    dropout: float = 0.1
    length: int | None = None

    def __post_init__(self) -> None:
        _check_dropout("text", self.dropout)
        if self.length is not None and not 0 < self.length <= self.encoder.max_tokens:
            raise ValueError(
                f"text.length = {self.length} must be 1 to {self.encoder.max_tokens}, which the encoder reads: "
                "leave it out, it is measured."
            )


@dataclass(frozen=True)
class ByVector(Component):
    """A model told by numbers, each brought to mean 0 and deviation 1 over the training examples where it is known.

    names: what each number is; mean, std: None until they are measured (`measured`). dropout: the share of training
    examples whose numbers are hidden, in [0, 1).
    """

    names: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    dropout: float = 0.1

    def __post_init__(self) -> None:
        _check_dropout("vector", self.dropout)
        for what, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and not (len(values) == len(self.names) and np.isfinite(values).all()):
                raise ValueError(f"vector.{what} = {values} must be {len(self.names)} finite numbers, one a name.")
        if self.std is not None and min(self.std, default=1.0) <= 0:
            raise ValueError(f"vector.std = {self.std} must be above 0. Leave it out: it is measured.")

    def measured(self, vectors: npt.NDArray[np.float32], names: tuple[str, ...]) -> ByVector:
        """The same with the names, means and deviations of these vectors [N, V], NaN where a number is not known.

        In float64, over the known ones; a deviation to six digits, a mean to a millionth of it; a number that never
        varies has deviation 1. What is stated stays. Raises ValueError for one that is known nowhere.
        """
        known = np.isfinite(vectors)
        if empty := [n for n, k in zip(names, known.T, strict=True) if not k.any()]:
            raise ValueError(f"No training example has a number {', '.join(empty)}. Take it out of data.vector.")
        columns = [vectors[k, i].astype(np.float64) for i, k in enumerate(known.T)]
        std = self.std or tuple(float(f"{c.std():.6g}") if c.min() < c.max() else 1.0 for c in columns)
        mean = self.mean or tuple(
            round(float(c.mean()), 6 - floor(log10(s))) for c, s in zip(columns, std, strict=True)
        )
        return replace(self, names=names, mean=mean, std=std)

    def standard(self, vectors: Tensor) -> Tensor:
        """What a network is told for numbers [B, V]: (v - mean)/std, float32; what is not known (NaN) stays so."""
        if self.mean is None or self.std is None:
            raise ValueError("The means of a model's numbers have not been measured. Take `measured` of its data.")
        mean, std = (torch.tensor(c, dtype=torch.float64, device=vectors.device) for c in (self.mean, self.std))
        return ((vectors.double() - mean) / std).float()


@dataclass(frozen=True)
class ByImage(Component):
    """A model shown a picture beside x: one made of the picture it is to make, or its partner.

    dropout: the share of training examples whose picture is hidden, in [0, 1); 0: it is always shown.
    """

    task: AnyTask
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check_dropout("image", self.dropout)


@dataclass(frozen=True)
class Conditions(Component):
    """What a model takes besides a label; None: not that.

    guidance: not of pictures, but of how they are drawn: a student is told it as one number more. Raises ValueError
    where a number of the data has its name.
    """

    text: ByText | None = None
    vector: ByVector | None = None
    image: ByImage | None = None
    guidance: ByGuidance | None = None

    def __post_init__(self) -> None:
        if self.guidance is not None and self.vector is not None and SCALE in self.vector.names:
            raise ValueError(
                f"The data have a number named {SCALE}, as the scale that a student is told is. Rename it."
            )

    @property
    def numbers(self) -> ByVector | None:
        """All numbers that the network is told: those of the data and, last, the scale of guidance."""
        told = self.guidance
        if told is None:
            return self.vector
        own = self.vector or ByVector((), (), (), dropout=0.0)
        mean, std = (None if c is None else (*c, more) for c, more in ((own.mean, told.mean), (own.std, told.std)))
        return replace(own, names=(*own.names, SCALE), mean=mean, std=std)

    def tell(self, denoiser: Denoiser, scale: float) -> Denoiser:
        """The denoiser of a model told this scale of guidance, where it is one that is told it."""
        return denoiser if self.guidance is None else Told(denoiser, self.guidance.standard(scale))

    def pushed(self, scale: float) -> float:
        """By how much answers are pushed as a model is drawn with this scale: 1, not at all, where it is told it."""
        return scale if self.guidance is None else 1.0

    @property
    def names(self) -> tuple[str, ...]:
        """Which there are, as `inkwash.types.CONDITIONS` names them."""
        return tuple(n for n in ("text", "vector", "image") if getattr(self, n) is not None)

    @property
    def dropped(self) -> tuple[str, ...]:
        """Those that may be hidden: what guidance can push away from."""
        return tuple(n for n in self.names if getattr(self, n).dropout > 0)


SCALE = "guidance"
"""The name of the scale of guidance among a model's numbers."""


def _check_dropout(name: str, dropout: float) -> None:
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"{name}.dropout = {dropout} must be in [0, 1): the share of examples that do not see it.")


__all__ = [
    "AnyTask",
    "ByGuidance",
    "ByImage",
    "ByText",
    "ByVector",
    "Conditions",
    "Edges",
    "Grey",
    "LowResolution",
    "Masked",
    "Paired",
    "Task",
    "Told",
]
