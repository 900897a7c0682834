"""Weights of the squared error: how much each time counts.

The target hides a weight (math.md, section 6), so all but `Unweighted` are stated once, for the error in the data, and
carried over to whatever the network predicts. With SNR = alpha²/sigma², an error in the noise is worth SNR in data.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Coeffs, Component, Target


class Weight(Protocol):
    """How much the squared error of a prediction counts. A frozen dataclass."""

    def __call__(self, c: Coeffs, target: Target) -> Tensor:
        """The weight [B] of the squared error in what `target` predicts, at the coefficients c [B]."""
        ...


@dataclass(frozen=True)
class Unweighted(Component):
    """Weight 1 for every time on the network's own output: the simple loss (Ho et al. 2020, eq. 14; math.md, 18)."""

    kind: Literal["unweighted"] = field(default="unweighted", kw_only=True, repr=False)

    def __call__(self, c: Coeffs, target: Target) -> Tensor:
        """Ones."""
        return torch.ones_like(c.alpha)


class _OfData(Component, ABC):
    """A weight w of the error in the data; that of another target's is w·(sigma/det)² (math.md, eq. 35)."""

    @abstractmethod
    def data(self, c: Coeffs) -> Tensor:
        """The weight of the squared error in x0, [B]."""

    def __call__(self, c: Coeffs, target: Target) -> Tensor:
        """The weight of the squared error in what `target` predicts, [B]."""
        a, b = target(c)
        return self.data(c) * (c.sigma / (c.alpha * b - c.sigma * a)) ** 2


@dataclass(frozen=True)
class MinSnr(_OfData):
    """min(SNR, gamma) on the data (Hang et al. 2023); for eps that is min(SNR, gamma)/SNR.

    Raises ValueError for a gamma that is not more than 0.
    """

    gamma: float = 5.0
    kind: Literal["min-snr"] = field(default="min-snr", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _positive("A min-SNR weight", "gamma", self.gamma, "5")

    def data(self, c: Coeffs) -> Tensor:
        """min(SNR, gamma)."""
        return _snr(c).clamp(max=self.gamma)


@dataclass(frozen=True)
class SoftMinSnr(_OfData):
    """gamma·SNR/(SNR + gamma) on the data, without a kink at SNR = gamma (Crowson et al. 2024, HDiT).

    Raises ValueError for a gamma that is not more than 0.
    """

    gamma: float = 5.0
    kind: Literal["soft-min-snr"] = field(default="soft-min-snr", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _positive("A soft min-SNR weight", "gamma", self.gamma, "5")

    def data(self, c: Coeffs) -> Tensor:
        """gamma·SNR/(SNR + gamma), finite at either end."""
        return self.gamma * c.alpha**2 / (c.alpha**2 + self.gamma * c.sigma**2)


@dataclass(frozen=True)
class EdmWeight(_OfData):
    """1/c_out² on the data: 1 for the target `Edm` of the same data_std (Karras et al. 2022, table 1).

    data_std: the data's standard deviation, after the codec. Raises ValueError where it is not more than 0.
    """

    data_std: float = 0.5
    kind: Literal["edm"] = field(default="edm", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _positive("EDM's weight", "data_std", self.data_std, "0.5")

    def data(self, c: Coeffs) -> Tensor:
        """(r² + data_std²)/(r·data_std)² with r = sigma/alpha, multiplied out: finite at alpha = 0."""
        return (c.sigma**2 + c.alpha**2 * self.data_std**2) / (c.sigma * self.data_std) ** 2


@dataclass(frozen=True)
class P2(_OfData):
    """1/(k + SNR)^gamma on the noise: less for times at which pictures are nearly clean (Choi et al. 2022, eq. 8).

    Raises ValueError for a k that is not more than 0, or a gamma below 0.
    """

    k: float = 1.0
    gamma: float = 1.0
    kind: Literal["p2"] = field(default="p2", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _positive("A P2 weight", "k", self.k, "1")
        if not (self.gamma >= 0 and math.isfinite(self.gamma)):
            raise ValueError(f"A P2 weight needs gamma of 0 or more, not {self.gamma}. The usual ones are 0.5 and 1.")

    def data(self, c: Coeffs) -> Tensor:
        """SNR/(k + SNR)^gamma."""
        return _snr(c) * (self.k + _snr(c)) ** -self.gamma


@dataclass(frozen=True)
class SigmoidWeight(_OfData):
    """sigmoid(bias - ln SNR) on the noise (Kingma and Gao 2023): soft min-SNR with gamma = e^bias.

    Raises ValueError for a bias that is not finite.
    """

    bias: float = 0.0
    kind: Literal["sigmoid"] = field(default="sigmoid", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.bias):
            raise ValueError(f"A sigmoid weight needs a finite bias, not {self.bias}. Usual ones are -3 to 3.")

    def data(self, c: Coeffs) -> Tensor:
        """SNR·sigmoid(bias - ln SNR)."""
        return _snr(c) * torch.sigmoid(self.bias - _snr(c).log())


AnyWeight = Annotated[Unweighted | MinSnr | SoftMinSnr | EdmWeight | P2 | SigmoidWeight, OneOf()]
"""A weight as a recipe names it."""


def _snr(c: Coeffs) -> Tensor:
    return (c.alpha / c.sigma) ** 2


def _positive(whose: str, name: str, value: float, usual: str) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{whose} needs {name} more than 0 and finite, not {value}. The usual one is {usual}.")
