"""Multistep methods: a one-step method, corrected by differences of what the model said at former steps.

Each method puts a polynomial through its past answers f_0, f_1, ... (f_0 the newest) at nodes u_0, u_1, ... and
integrates it exactly against the kernel of its own variable (math.md, eq. 28-30). In Newton's form the first answer
gives the one-step method, and every further divided difference a correction; `corrections` turns those into weights of
the answers. At step i of N the method uses min(order, i + 1, N - i) answers: it starts with what there is, and ends,
whatever the grid, with its one-step method, which alone is defined on the way to sigma = 0.

Steps are a row's own, those in which it moves: the weights are made for its grid without pauses (`moving`), and a row
that stands still remembers what it did before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.samplers.steps import Asking, ends, held, rows, slopes, standing, velocities, walk
from inkwash.types import Coeffs, Component, Denoised, Noise, Path


@dataclass(frozen=True)
class Adams(Component):
    """Adams and Bashforth's methods for dx/dt in t, with the weights of the grid's own, uneven steps.

    order: of the method (1 is Euler's); reached on grids whose steps grow smoothly from short ones at both ends. On
    even grids the first step and the last, of order 1, keep it at 2.
    """

    order: Literal[1, 2, 3, 4] = 4
    kind: Literal["adams"] = field(default="adams", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        slope = velocities(slopes(path, times[:-1], times[1:] != times[:-1]), x)
        own, number = moving(times, self)
        weights = corrections(pasts(own[:-1], self.order), adams_moments(own), used(own, self.order))
        weights[:, 0] += own.diff(dim=0)
        return remembering(x, times, at(number, weights), lambda i, x, pred: (x, slope(i, pred)))


@dataclass(frozen=True)
class Deis(Component):
    """DEIS (Zhang and Chen 2023), rho-AB: Adams and Bashforth for x/alpha in r = sigma/alpha, where DDIM is Euler.

    order: of the method (1 is DDIM); as for `Adams`.
    """

    order: Literal[1, 2, 3, 4] = 3
    kind: Literal["deis"] = field(default="deis", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        own, number = moving(times, self)
        grid, _, nxt = ends(path, own)
        ratio = grid.sigma / grid.alpha
        weights = corrections(pasts(ratio[:-1], self.order), adams_moments(ratio), used(own, self.order))
        return _beyond_ddim(x, times, nxt, nxt.alpha[:, None] * weights, number)


@dataclass(frozen=True)
class Ipndm(Component):
    """iPNDM (Liu et al. 2022; Zhang and Chen 2023): `Deis` with the weights of even steps on any grid.

    On a grid even in r = sigma/alpha it is `Deis`; on another the weights are not the method's own, and the order is 2.
    """

    order: Literal[1, 2, 3, 4] = 4
    kind: Literal["ipndm"] = field(default="ipndm", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        own, number = moving(times, self)
        grid, _, nxt = ends(path, own)
        even = -torch.arange(len(times), dtype=torch.float64)[:, None].expand_as(times)
        weights = corrections(pasts(even[:-1], self.order), adams_moments(even), used(own, self.order))
        span = -(grid.sigma / grid.alpha).diff(dim=0)
        # Before the first correction the span may be infinite, and there its weights are 0.
        weights = torch.where(weights == 0, 0.0, (nxt.alpha * span)[:, None] * weights)
        return _beyond_ddim(x, times, nxt, weights, number)


def _beyond_ddim(x: Tensor, times: Tensor, nxt: Coeffs, weights: Tensor, number: Tensor | None) -> Asking:
    """DDIM's steps, and the weighted memories of eps on top."""
    weights[:, 0] += nxt.sigma
    alpha = rows(at(number, nxt.alpha), x)
    return remembering(x, times, at(number, weights), lambda i, x, pred: (alpha[i] * pred.x0, pred.eps))


def moving(times: Tensor, who: object) -> tuple[Tensor, Tensor | None]:
    """Every row's own grid, without its pauses and filled up at its end, and the number there of each step [N, B].

    The number of a step in which a row stands still is that of its next. None where every row moves in every step.
    Raises ValueError where a row turns: a polynomial through its answers would have two at one time.
    """
    change = times.diff(dim=0)
    if bool(((change > 0).any(dim=0) & (change < 0).any(dim=0)).any()):
        raise ValueError(
            f"{who} remembers its answers from step to step and cannot follow times that turn, up and down in one "
            "grid. Use one without a memory (ddim, heun), Resampled, or a run for every stretch."
        )
    moves = change != 0
    if bool(moves.all()):
        return times, None
    number = moves.long().cumsum(0)
    own = times[-1:].repeat(len(times), 1)
    # Steps that do not move write the same time as the move before them.
    own.scatter_(0, torch.cat([torch.zeros_like(number[:1]), number]), times)
    return own, number - moves.long()


def at(number: Tensor | None, c: Tensor) -> Tensor:
    """What belongs to the own steps of rows, c [N, ..., B], at the steps of the batch that `moving` numbers."""
    if number is None:
        return c
    index = number.reshape(len(c), *[1] * (c.dim() - 2), -1)
    return c.gather(0, index.expand_as(c))


def used(own: Tensor, order: int) -> Tensor:
    """How many answers each step [N, B] of a grid without pauses uses: min(order, steps taken + 1, steps left)."""
    left = (own[1:] != own[:-1]).long().flip(0).cumsum(0).flip(0)
    taken = torch.arange(len(left))[:, None]
    return torch.minimum(taken + 1, left).clamp(max=order)


def adams_moments(u: Tensor) -> list[Tensor]:
    """The integrals over each step of (v - u_0)...(v - u_{m-1}), for m = 1, 2, 3, u [N+1, B] the grid: each [N, B].

    Gauss's rule with two points is exact for them.
    """
    start, end = u[:-1], u[1:]
    middle, half = (start + end) / 2, (end - start) / 2
    points = (middle - half * 3**-0.5, middle + half * 3**-0.5)
    moments, products = [], [torch.ones_like(start)] * 2
    for node in pasts(start, 3):
        products = [p * (v - node) for p, v in zip(products, points, strict=True)]
        moments.append(half * (products[0] + products[1]))
    return moments


def pasts(u: Tensor, order: int) -> list[Tensor]:
    """u [N, B] as it was 0, 1, ... order - 1 steps before each step; before the first step, as at the first."""
    return [torch.cat([u[:1].expand(m, -1), u[: len(u) - m]]) for m in range(min(order, len(u)))]


def corrections(nodes: Sequence[Tensor], moments: Sequence[Tensor], count: Tensor) -> Tensor:
    """The weights [N, K, B] of f_0, ..., f_{K-1} in sum_m moments_m·f[u_0, ..., u_m], m < count (math.md, eq. 28-29).

    nodes: u_0, u_1, ... [N, B] of each step; count [N, B]: how many of them it uses. A difference over an infinite
    distance is 0.
    """
    weights = torch.zeros(len(count), len(nodes), count.shape[1], dtype=torch.float64)
    for m in range(1, len(nodes)):
        for j in range(m + 1):
            # f[u_0, ..., u_m] = sum_j f_j / prod_{l != j} (u_j - u_l)
            share = moments[m - 1]
            for node in (*nodes[:j], *nodes[j + 1 : m + 1]):
                share = share / (nodes[j] - node)
            weights[:, j] += torch.where(m < count, share, 0.0)
    return weights


def remembering(
    x: Tensor,
    times: Tensor,
    weights: Tensor,
    base: Callable[[int, Tensor, Denoised], tuple[Tensor, Tensor]],
) -> Asking:
    """Walk to x + sum_j weights_j·f_j: `base` gives that x and what is to be remembered of an answer, f_0."""
    factors = [rows(w, x) for w in weights.unbind(1)]
    reach = (weights != 0).any(2).long().cumsum(1).argmax(1).add(1).tolist()  # up to the last that is not 0
    history, still = list[Tensor](), standing(times)

    def step(i: int, x: Tensor, pred: Denoised) -> Tensor:
        nonlocal history
        x, newest = base(i, x, pred)
        history = remembered(still[i], history, newest, len(factors))
        for factor, f in zip(factors[: reach[i]], history, strict=False):
            x = x + factor[i] * f
        return x

    return walk(x, times, step)


def remembered(still: Tensor | None, history: list[Tensor], newest: Tensor, most: int) -> list[Tensor]:
    """The answers from the newest on, `most` of them; rows that stand still keep theirs."""
    longer = [newest, *history][:most]
    return [held(still, old, new) for old, new in zip(history, longer, strict=False)] + longer[len(history) :]
