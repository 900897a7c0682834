"""What samplers share: the walk along a grid, and the quantities it is described by.

A sampler that asks once a step, at its start, is a function `step(i, x, pred) -> x` given to `walk`. All coefficients
are computed once for the whole grid, [N, B] in float64, and cut into steps by `rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor

from inkwash.types import Coeffs, Denoised, Factor, Path, Query, like

Asking = Generator[Query, Denoised, Tensor]
"""A sampler at work: it yields queries, is sent answers, and returns the samples."""


def walk(x: Tensor, times: Tensor, step: Callable[[int, Tensor, Denoised], Tensor]) -> Asking:
    """Ask at the start of every step and go where `step` says; rows whose time does not change stay as they are.

    So grids of different lengths fit into one batch, filled up with repetitions of their first or last time.
    """
    still = standing(times)
    for i, t in enumerate(times[:-1].unbind()):
        pred = yield Query(x, t, t)
        x = held(still[i], x, step(i, x, pred))
    return x


def standing(times: Tensor) -> list[Tensor | None]:
    """For each step which rows [B] do not move; None where all do, which needs no thought on the way."""
    still = times[1:] == times[:-1]
    return [s if some else None for s, some in zip(still, still.any(1).tolist(), strict=True)]


def held(still: Tensor | None, x: Tensor, new: Tensor) -> Tensor:
    """`new`, but x in the rows that stand still."""
    return new if still is None else torch.where(like(still, x).bool(), x, new)


def rows(c: Tensor, x: Tensor) -> Sequence[Factor]:
    """Coefficients [N, B] ready to multiply x [B, ...], one a step; a number where all rows have the same."""
    if bool((c == c[:, :1]).all()):
        numbers: list[float] = c[:, 0].tolist()
        return numbers
    return like(c, x).unbind()


def falling(times: Tensor, who: object) -> None:
    """Raise ValueError where a grid rises: fresh noise belongs to steps towards the data."""
    if bool((times.diff(dim=0) > 0).any()):
        raise ValueError(
            f"{who} adds noise on its way from noise to data and cannot follow times that rise. Use a deterministic "
            "sampler (ddim with eta = 0, heun) to encode, or Resampled for a grid that goes up and down."
        )


def alike(times: Tensor) -> Tensor:
    """Times [N, B] as one column [N, 1], if all are equal.

    Vectorised functions differ in their last bit between the elements of a tensor: so all rows have the same
    coefficients, whatever the size of the batch.
    """
    return times[:, :1] if bool((times == times[:, :1]).all()) else times


def along(path: Path, times: Tensor) -> Coeffs:
    """The path's coefficients at times [N, B]."""
    return Coeffs(*(c.expand(times.shape) for c in path(alike(times))))


def ends(path: Path, times: Tensor) -> tuple[Coeffs, Coeffs, Coeffs]:
    """A grid's coefficients [N+1, B], and those at the start and at the end of every step, [N, B]."""
    grid = along(path, times)
    return grid, grid.at(slice(None, -1)), grid.at(slice(1, None))


def slopes(path: Path, times: Tensor, used: Tensor) -> Coeffs:
    """The coefficients at times [N, B], for a solver that needs the derivatives where `used` [N, B] says.

    Raises ValueError where one of those is infinite: nothing can be integrated in t there.
    """
    c = along(path, times)
    bad = used & ~(c.dalpha.isfinite() & c.dsigma.isfinite())
    if bool(bad.any()):
        raise ValueError(
            f"alpha' or sigma' of {path} is infinite at t = {float(times[bad][0]):.6g}, where a solver in t cannot "
            "start. Use one that needs no derivatives (ddim, dpm++, unipc, deis), or a grid without that time."
        )
    return c


def velocities(c: Coeffs, x: Tensor) -> Callable[[int, Denoised], Tensor]:
    """dx/dt along the path through the estimates, at step i (math.md, eq. 12)."""
    dalpha, dsigma = rows(c.dalpha, x), rows(c.dsigma, x)
    return lambda i, pred: dalpha[i] * pred.x0 + dsigma[i] * pred.eps
