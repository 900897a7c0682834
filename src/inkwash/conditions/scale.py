"""The scale of guidance as a condition: for a student that was taught its teacher's guidance at many scales."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from inkwash.noise import Stream
from inkwash.types import Component, Condition, Denoised, Denoiser, Noise, Query


@dataclass(frozen=True)
class ByGuidance(Component):
    """A student told how strongly its teacher was guided (Meng et al. 2023): the last of the numbers it is told.

    low, high: the scales it is taught, drawn uniformly between them. Raises ValueError where they are no range.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"guidance from {self.low:g} to {self.high:g} is no range: give a lower and a higher scale, as in 1:4."
            )

    @property
    def mean(self) -> float:
        """Of the scales drawn in training."""
        return (self.low + self.high) / 2

    @property
    def std(self) -> float:
        """The deviation of the scales drawn in training."""
        return (self.high - self.low) / 12**0.5

    def drawn(self, noise: Noise) -> Tensor:
        """A scale for each of the noise's examples, [B] float64, a function of its number."""
        return self.low + (self.high - self.low) * noise.uniform(0, Stream.SCALE)

    def nearest(self, scale: float) -> float:
        """The scale that it was taught which is nearest to one."""
        return min(max(scale, self.low), self.high)

    def standard(self, scale: float) -> float:
        """What the network is told for a scale."""
        return (scale - self.mean) / self.std

    def taken_from(self, cond: Condition) -> tuple[Condition, Tensor]:
        """A condition without the scale it ends its numbers with, and the scales [B]."""
        assert cond.vector is not None
        rest, scale = cond.vector[:, :-1], self.mean + self.std * cond.vector[:, -1]
        return replace(cond, vector=rest if rest.shape[1] else None), scale

    def check(self, scale: float) -> None:
        """Raise ValueError for a scale that was not taught."""
        slack = 1e-6 * (self.high - self.low)  # what a number loses that comes back from the network's own, in float32
        if not self.low - slack <= scale <= self.high + slack:
            raise ValueError(
                f"guidance = {scale:g} is not among what this model has learned: it is told the scale, from "
                f"{self.low:g} to {self.high:g}. Give one of these."
            )

    def check_told(self, cond: Condition, guidance: float | None) -> None:
        """Raise ValueError where rows of a condition say a scale that was not taught, or one said elsewhere as well."""
        scales = self.taken_from(cond)[1]
        said = scales[~scales.isnan()].tolist()
        if said and guidance is not None:
            raise ValueError(f"guidance = {guidance:g} and a number named guidance both say the scale. Give one.")
        for scale in said:
            self.check(scale)


@dataclass(frozen=True)
class Told:
    """A denoiser told a scale of guidance in every row whose condition does not say its own.

    value: the scale as the network is told it (`ByGuidance.standard`), the last number of the condition's vector.
    """

    denoiser: Denoiser
    value: float

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The denoiser's answers."""
        assert cond.vector is not None
        last = cond.vector[:, -1:]
        told = torch.cat([cond.vector[:, :-1], torch.where(last.isnan(), self.value, last)], 1)
        return self.denoiser(query, replace(cond, vector=told))
