"""How the answers to a condition and to what guidance pushes away from make one: a rule for every idea of that.

Each keeps x = alpha·x0 + sigma·eps, and at scale 1 is the conditional answer. math.md, section 17.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Protocol

import torch
from torch import Tensor

from inkwash.guidance.clipped import revised
from inkwash.kinds import OneOf
from inkwash.types import Coeffs, Component, Denoised, Path, like


@dataclass(frozen=True)
class Terms:
    """What a rule puts together, for the rows that are guided: answers, each [B, ...], and how strongly to follow them.

    given: to the condition; base: to what is pushed away from; others: to further conditions, with a weight each.
    scale, weights: [B, 1, ...], of x's dtype and device. t: [B].
    """

    given: Denoised
    base: Denoised
    others: tuple[Denoised, ...]
    scale: Tensor
    weights: tuple[Tensor, ...]
    t: Tensor
    path: Path | None

    def coeffs(self) -> Coeffs:
        """The path's coefficients at t, [B] float64. Raises ValueError where the path was not given."""
        if self.path is None:
            raise ValueError("This rule needs the path's coefficients, and Guided has no path. Give it: path=...")
        return self.path(self.t)


class Rule(Protocol):
    """A frozen dataclass that makes one answer of several, with x = alpha·x0 + sigma·eps still exact."""

    def __call__(self, terms: Terms) -> Denoised:
        """The guided estimates; `var_mix` is not looked at."""
        ...


@dataclass(frozen=True)
class Cfg(Component):
    """Classifier-free guidance (Ho and Salimans 2022): base + w·(given - base) + sum of w_k·(other_k - base).

    The same for x0 and for eps (math.md, eq. 22, 57).
    """

    kind: Literal["cfg"] = field(default="cfg", kw_only=True, repr=False)

    def __call__(self, terms: Terms) -> Denoised:
        """The guided estimates."""

        def pushed(base: Tensor, given: Tensor, *others: Tensor) -> Tensor:
            y = base + terms.scale * (given - base)
            for weight, other in zip(terms.weights, others, strict=True):
                y = y + weight * (other - base)
            return y

        answers = terms.base, terms.given, *terms.others
        return Denoised(pushed(*(a.x0 for a in answers)), pushed(*(a.eps for a in answers)))


@dataclass(frozen=True)
class Rescaled(Component):
    """CFG with the deviation of x0 brought back to that of the conditional answer (Lin et al. 2024, sec. 3.4).

    phi: from 0, plain CFG, to 1, the conditional deviation exactly. The deviation is that over all elements of one
    example. math.md, eq. 58. Raises ValueError for another phi.
    """

    phi: float = 0.7
    kind: Literal["rescaled"] = field(default="rescaled", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.phi <= 1:
            raise ValueError(
                f"phi = {self.phi} must lie in [0, 1], from plain guidance to wholly rescaled. Usual: 0.7."
            )

    def __call__(self, terms: Terms) -> Denoised:
        """The guided estimates."""
        plain = Cfg()(terms)
        own, wanted = _deviation(plain.x0), _deviation(terms.given.x0)
        factor = self.phi * torch.where(own > 0, wanted / own, 1.0) + (1 - self.phi)
        return revised(plain, factor * plain.x0, terms.coeffs())


@dataclass(frozen=True)
class Apg(Component):
    """Adaptive projected guidance (Sadat et al. 2024): of each push only what is not parallel to the conditional x0.

    eta: the share of the parallel part that is kept, which is what oversaturates; 1 is plain CFG. norm: the largest
    root mean square over a push's elements, per example, beyond which it is shortened to it (the paper's r divided by
    the root of the number of elements, and so the same for every size of picture); None for no limit. math.md, eq. 58.
    The paper's momentum is left out: it remembers the steps before, and a denoiser is asked in any order, by samplers
    that look twice or refuse a step. Raises ValueError for an eta outside [0, 1] and a norm that is not more than 0.
    """

    eta: float = 0.0
    norm: float | None = None
    kind: Literal["apg"] = field(default="apg", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta = {self.eta} must lie in [0, 1], from no parallel part to plain guidance. Usual: 0.")
        if self.norm is not None and not self.norm > 0:
            raise ValueError(f"norm = {self.norm} must be more than 0, or left out for no limit. Try 0.05.")

    def __call__(self, terms: Terms) -> Denoised:
        """The guided estimates."""
        given, base = terms.given.x0, terms.base.x0
        x0 = given + (terms.scale - 1) * self._kept(given - base, given)
        for weight, other in zip(terms.weights, terms.others, strict=True):
            x0 = x0 + weight * self._kept(other.x0 - base, given)
        return revised(terms.given, x0, terms.coeffs())

    def _kept(self, push: Tensor, given: Tensor) -> Tensor:
        """What is left of a push."""
        if self.norm is not None:
            size = (_dot(push, push) / math.prod(push.shape[1:])).sqrt()
            push = torch.where(size > self.norm, self.norm / size, 1.0) * push
        return push - (1 - self.eta) * _along(push, given) * given


@dataclass(frozen=True)
class CfgZero(Component):
    """CFG-Zero* (Fan et al. 2025): CFG on velocities, the base's first scaled to its best fit of the conditional one.

    s = <v_c, v_u>/|v_u|² per example, and v = s·v_u + w·(v_c - s·v_u), with v = eps - x0, the velocity of the straight
    path, for which the paper states it. On every other path it is that of the straight one at the same sigma/alpha, so
    that a model is guided alike along all of them, and a table, which has no velocity, as well (math.md, eq. 59).
    The paper's second idea, v = 0 in the first steps, is left out: it belongs to steps, of which a denoiser does not
    know, and helps models that have not been trained enough; for an exact one it is wrong. An interval leaves the
    first steps unguided.
    """

    kind: Literal["cfg-zero"] = field(default="cfg-zero", kw_only=True, repr=False)

    def __call__(self, terms: Terms) -> Denoised:
        """The guided estimates."""
        v, base = terms.given.eps - terms.given.x0, terms.base
        from_base, c = base.eps - base.x0, terms.coeffs()
        move = (1 - _along(v, from_base)) * from_base
        alpha, sigma = (like(part / (c.alpha + c.sigma), v) for part in (c.alpha, c.sigma))
        # eps - x0 is then s·v_u, and alpha·x0 + sigma·eps as before.
        scaled = Denoised(base.x0 + sigma * move, base.eps - alpha * move)
        return Cfg()(replace(terms, base=scaled))


AnyRule = Annotated[Cfg | Rescaled | Apg | CfgZero, OneOf()]
"""A rule as a recipe names it."""


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each example, [B, 1, ...]."""
    return (a * b).flatten(1).sum(1).reshape(-1, *(1,) * (a.ndim - 1))


def _along(a: Tensor, b: Tensor) -> Tensor:
    """The factor of b in a's projection on it, per example [B, 1, ...]; 0 where b is 0."""
    square = _dot(b, b)
    return torch.where(square > 0, _dot(a, b) / square, 0.0)


def _deviation(x: Tensor) -> Tensor:
    """The standard deviation over each example's elements, [B, 1, ...]."""
    return x.flatten(1).std(1, correction=0).reshape(-1, *(1,) * (x.ndim - 1))
