"""Couplings: which noise goes with which data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from typing import Annotated, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from inkwash.kinds import OneOf
from inkwash.types import Component, Condition


class Coupling(Protocol):
    """How the noise of a batch is paired with its data. A frozen dataclass."""

    def __call__(self, x0: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        """The rows of eps [B, ...] in another order: row i goes with row i of x0."""
        ...


@runtime_checkable
class Requiring(Protocol):
    """An objective or a coupling that needs what may not be there. It is asked before a run is set up."""

    def require(self) -> None:
        """Raise ValueError where something is missing, with how to get it."""
        ...


@dataclass(frozen=True)
class Independent(Component):
    """The noise as it was drawn."""

    kind: Literal["independent"] = field(default="independent", kw_only=True, repr=False)

    def __call__(self, x0: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        """eps itself."""
        return eps


@dataclass(frozen=True)
class OptimalTransport(Component):
    """The pairing with the least sum of squared distances, which makes the flow's lines straighter (math.md, eq. 38).

    An exact assignment within the part of the batch that is computed at once (Pooladian et al. 2023; Tong et al. 2024).
    Noise is exchanged only among rows of the same condition, as it would tell the class otherwise. The noise in x_t is
    then no longer independent of x0: only the flow from noise to data is right for such a model, that is, deterministic
    samplers (ddim with eta = 0, euler, heun, ...), and no bound holds.
    Raises ImportError, naming the extra `inkwash[ot]`, where scipy is not installed.
    """

    kind: Literal["optimal-transport"] = field(default="optimal-transport", kw_only=True, repr=False)

    def require(self) -> None:
        """Raise ValueError where scipy is not installed."""
        if find_spec("scipy") is None:
            raise ValueError('Optimal-transport coupling needs scipy: pip install "inkwash[ot]", or leave it out.')

    def __call__(self, x0: Tensor, eps: Tensor, cond: Condition) -> Tensor:
        """The rows of eps in the order of the assignment."""
        try:
            from scipy.optimize import linear_sum_assignment
        except ImportError as error:
            raise ImportError('Optimal-transport coupling needs scipy: pip install "inkwash[ot]".') from error
        # |x0 - eps|² = |x0|² + |eps|² - 2·x0·eps, of which only the product depends on the pairing.
        gain = (x0.flatten(1) @ eps.flatten(1).T).cpu()
        group = _groups(cond, len(x0))
        order = torch.empty_like(group)
        for g in torch.unique(group):
            rows = (group == g).nonzero().flatten()
            _, column = linear_sum_assignment(gain[rows][:, rows].numpy(), maximize=True)
            order[rows] = rows[torch.from_numpy(column)]
        return eps[order.to(eps.device)]


AnyCoupling = Annotated[Independent | OptimalTransport, OneOf()]
"""A coupling as a recipe names it."""


def _groups(cond: Condition, size: int) -> Tensor:
    """A number [B] for each row, equal where the conditions are: what is not known equals what is not known."""
    if cond.tokens is not None and cond.present is not None:
        cond = replace(cond, tokens=cond.tokens.masked_fill(~cond.present[..., None], 0))
    parts = [getattr(cond, f.name) for f in fields(Condition)]
    columns = [_comparable(part, size) for part in parts if part is not None]
    if not columns:
        return torch.zeros(size, dtype=torch.int64)
    group: Tensor
    _, group = torch.unique(torch.cat(columns, dim=1), dim=0, return_inverse=True)
    return group


def _comparable(part: Tensor, size: int) -> Tensor:
    """A field of a condition as rows of numbers [B, n] that are equal where it is: NaN, which equals nothing, is told
    apart by a number of its own."""
    rows = part.cpu().reshape(size, -1).double()
    return torch.cat([rows.nan_to_num(), rows.isnan().double()], dim=1) if rows.isnan().any() else rows
