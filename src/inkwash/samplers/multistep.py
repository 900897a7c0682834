"""Multistep methods: a one-step method, corrected by differences of what the model said at former steps.

Each method puts a polynomial through its past answers f_0, f_1, ... (f_0 the newest) at nodes u_0, u_1, ... and
integrates it exactly against the kernel of its own variable (math.md, eq. 28-30). In Newton's form the first answer
gives the one-step method, and every further divided difference a correction; `corrections` turns those into weights of
the answers. At step i of N the method uses min(order, i + 1, N - i) answers: it starts with what there is, and ends,
whatever the grid, with its one-step method, which alone is defined on the way to sigma = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.samplers.steps import Asking, ends, rows, slopes, velocities, walk
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
        weights = corrections(pasts(times[:-1], self.order), adams_moments(times), used(times, self.order))
        weights[:, 0] += times.diff(dim=0)
        return remembering(x, times, weights, lambda i, x, pred: (x, slope(i, pred)))


@dataclass(frozen=True)
class Deis(Component):
    """DEIS (Zhang and Chen 2023), rho-AB: Adams and Bashforth for x/alpha in r = sigma/alpha, where DDIM is Euler.

    order: of the method (1 is DDIM); as for `Adams`.
    """

    order: Literal[1, 2, 3, 4] = 3
    kind: Literal["deis"] = field(default="deis", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        grid, _, nxt = ends(path, times)
        ratio = grid.sigma / grid.alpha
        weights = corrections(pasts(ratio[:-1], self.order), adams_moments(ratio), used(times, self.order))
        return _beyond_ddim(x, times, nxt, nxt.alpha[:, None] * weights)


@dataclass(frozen=True)
class Ipndm(Component):
    """iPNDM (Liu et al. 2022; Zhang and Chen 2023): `Deis` with the weights of even steps on any grid.

    On a grid even in r = sigma/alpha it is `Deis`; on another the weights are not the method's own, and the order is 2.
    """

    order: Literal[1, 2, 3, 4] = 4
    kind: Literal["ipndm"] = field(default="ipndm", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        grid, _, nxt = ends(path, times)
        even = -torch.arange(len(times), dtype=torch.float64)[:, None].expand_as(times)
        weights = corrections(pasts(even[:-1], self.order), adams_moments(even), used(times, self.order))
        span = -(grid.sigma / grid.alpha).diff(dim=0)
        # Before the first correction the span may be infinite, and there its weights are 0.
        weights = torch.where(weights == 0, 0.0, (nxt.alpha * span)[:, None] * weights)
        return _beyond_ddim(x, times, nxt, weights)


def _beyond_ddim(x: Tensor, times: Tensor, nxt: Coeffs, weights: Tensor) -> Asking:
    """DDIM's steps, and the weighted memories of eps on top."""
    weights[:, 0] += nxt.sigma
    alpha = rows(nxt.alpha, x)
    return remembering(x, times, weights, lambda i, x, pred: (alpha[i] * pred.x0, pred.eps))


def used(times: Tensor, order: int) -> Tensor:
    """How many answers each step [N, B] uses: min(order, steps taken + 1, steps left), counting those that move."""
    moves = (times[1:] != times[:-1]).long()
    taken = moves.cumsum(0) - moves
    left = moves.flip(0).cumsum(0).flip(0)
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
    history: list[Tensor] = []

    def step(i: int, x: Tensor, pred: Denoised) -> Tensor:
        x, newest = base(i, x, pred)
        history.insert(0, newest)
        del history[len(factors) :]
        for factor, f in zip(factors[: reach[i]], history, strict=False):
            x = x + factor[i] * f
        return x

    return walk(x, times, step)
