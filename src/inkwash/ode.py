"""Ordinary differential equations: Runge-Kutta methods as coroutines, for samplers and likelihoods.

A method yields `(t [B], state)` and is sent the state's derivatives there: it knows nothing of networks. A state is a
tuple of tensors [B, ...]; every row has a time of its own and, in `adaptive`, an error and a step of its own, so a row
comes out as it would alone. Times may rise or fall. Times and steps live on the host in float64 (see `types`).
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.types import like

State = tuple[Tensor, ...]
"""What is integrated: tensors [B, ...], or their derivatives."""

Solving = Generator[tuple[Tensor, State], State, State]
"""A method at work: it yields times [B] and states, is sent derivatives, and returns the last state."""


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method as its table (Butcher 1964): k_i = f(t + nodes_i·h, y + h·sum_j rows_ij·k_j).

    The step is y + h·sum_i weights_i·k_i, accurate to `order`; with h·sum_i error_i·k_i added it would be the embedded
    method's, one order lower: the size of that sum is the estimate of the error.
    """

    order: int
    nodes: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    error: tuple[float, ...] = ()


HEUN = Tableau(2, (0.0, 1.0), ((), (1.0,)), (1 / 2, 1 / 2))
"""The trapezoidal rule, explicit (Heun 1900)."""

RK4 = Tableau(4, (0.0, 1 / 2, 1 / 2, 1.0), ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical method of Kutta (1901)."""

DORMAND_PRINCE = Tableau(
    5,
    (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    (-71 / 57600, 0.0, 71 / 16695, -71 / 1920, 17253 / 339200, -22 / 525, 1 / 40),
)
"""Dormand and Prince's 5(4) pair (1980); its last stage is the first of the next step."""


def fixed(tableau: Tableau, state: State, times: Tensor) -> Solving:
    """Integrate along the grid times [N+1, B], one step of the tableau from each time to the next."""
    for i in range(len(times) - 1):
        t, h = times[i], times[i + 1] - times[i]
        slopes: list[State] = []
        for node, row in zip(tableau.nodes, tableau.rows, strict=True):
            slopes.append((yield t + node * h, _moved(state, h, row, slopes)))
        state = _moved(state, h, tableau.weights, slopes)
    return state


def adaptive(tableau: Tableau, state: State, start: Tensor, end: Tensor, rtol: float, atol: float) -> Solving:
    """Integrate every row from its start [B] to its end [B] in steps whose estimated error is below the tolerances.

    The error of a row is, for each tensor of the state, the root mean square of the estimate over
    atol + rtol·max(|y before|, |y after|), and the greatest of these over the tensors: it is kept below 1. The tableau
    needs an error estimate whose last stage is the next step's first. Raises ValueError where steps shrink to nothing.
    """
    t, span = start.clone(), end - start
    slope = yield t, state
    h = _first_step(state, slope, span, rtol, atol)
    while True:
        left = end - t
        moving = left != 0
        if not bool(moving.any()):
            return state
        # The last step reaches the end itself; one that would leave a crumb is cut in half instead.
        h = torch.where(h.abs() >= left.abs(), left, torch.where(h.abs() > 0.5 * left.abs(), 0.5 * left, h))
        stuck = moving & ~(h.abs() >= 1e-10 * span.abs())  # also where the first step is NaN
        if bool(stuck.any()):
            row = int(stuck.nonzero()[0])
            raise ValueError(
                f"The adaptive solver's step shrank to {float(h[row]):.3g} at {float(t[row]):.6g}: what the network "
                f"answers there is not smooth to rtol = {rtol}, or not finite. Use larger tolerances, or a sampler "
                "with fixed steps."
            )
        slopes = [slope]
        for node, row_ in zip(tableau.nodes[1:], tableau.rows[1:], strict=True):
            reached = _moved(state, h, row_, slopes)
            slopes.append((yield t + node * h, reached))
        error = torch.where(moving, _error(tableau, state, reached, h, slopes, rtol, atol), 0.0)
        good = error <= 1  # not so where it is NaN
        keep = [like(good & moving, y).bool() for y in state]
        state = tuple(torch.where(k, new, old) for k, new, old in zip(keep, reached, state, strict=True))
        slope = tuple(torch.where(k, new, old) for k, new, old in zip(keep, slopes[-1], slope, strict=True))
        t = torch.where(good & moving, torch.where(h == left, end, t + h), t)
        factor = (0.9 * error ** (-1 / tableau.order)).nan_to_num(nan=0.2).clamp(0.2, 5.0)
        h = h * factor


def _moved(state: State, h: Tensor, row: tuple[float, ...], slopes: list[State]) -> State:
    """y + h·sum_j row_j·k_j for every tensor of the state."""
    moved = []
    for part, y in enumerate(state):
        for weight, slope in zip(row, slopes, strict=True):
            if weight != 0:
                y = y + like(weight * h, y) * slope[part]
        moved.append(y)
    return tuple(moved)


def _first_step(state: State, slope: State, span: Tensor, rtol: float, atol: float) -> Tensor:
    """A first step [B] that moves the state by about a hundredth of its size (Hairer et al. 1993, sec. II.4)."""
    steps = []
    for y, k in zip(state, slope, strict=True):
        size = atol + rtol * y.abs()
        d0, d1 = _rms(y / size), _rms(k / size)
        steps.append(torch.where((d0 < 1e-5) | (d1 < 1e-5), 1e-3, 0.01 * d0 / d1))
    # Of a state that is almost 0 a hundredth is nothing: not less than a millionth of the way, which may be refused.
    return torch.stack(steps).amin(0).maximum(1e-6 * span.abs()).minimum(span.abs()) * span.sign()


def _error(
    tableau: Tableau, before: State, after: State, h: Tensor, slopes: list[State], rtol: float, atol: float
) -> Tensor:
    zero = tuple(torch.zeros_like(y) for y in before)
    estimate = _moved(zero, h, tableau.error, slopes)
    return torch.stack(
        [
            _rms(e / (atol + rtol * torch.maximum(a.abs(), b.abs())))
            for e, a, b in zip(estimate, before, after, strict=True)
        ]
    ).amax(0)


def _rms(y: Tensor) -> Tensor:
    """The root mean square of each row: [B] float64 on the host."""
    return y.reshape(len(y), -1).square().mean(1).sqrt().cpu().double()  # some accelerators have no float64
