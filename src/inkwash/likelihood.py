"""How likely a model finds data: exactly, by its probability flow, or bounded, step by step.

The flow runs in the angle phi = atan2(sigma, alpha), with the state y = x_t/sqrt(alpha² + sigma²) (math.md, eq. 39):

    y = cos(phi)·x0 + sin(phi)·eps,    dy/dphi = cos(phi)·eps - sin(phi)·x0.

All is finite there on every path, also where alpha is 0 or the derivative of sigma is infinite. The log-density changes
along it by the divergence of dy/dphi (eq. 40), which is a trace: exact with every basis vector, or estimated without
bias by random signs. Randomness, solvers' errors and their like are not bounds: see docs/likelihood.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from inkwash import ode
from inkwash.bound import Variance, decoder_term, prior_term, step_term
from inkwash.grids import AnyGrid, Karras, spread
from inkwash.kinds import OneOf
from inkwash.noise import Stream
from inkwash.paths import forward_variance, least_ratio
from inkwash.types import Coeffs, Component, Condition, Denoiser, Noise, Path, Query, like

SMALLEST_RATIO = 1e-3
"""sigma/alpha where the flow ends near the data: a deviation of an eighth of an 8-bit picture's bin.

What is found is the density of data with that much noise added, which is that of the model that stops there. Data whose
density varies on scales r >> 1e-3 has the same to about (1e-3/r)²/2 a dimension; much smaller ratios cost more steps.
On a table the flow ends at the first entry, where the ratio is usually 0.01: below it no network was asked.
"""

MOST_EXACT = 64
"""The largest dimension for which a trace is taken with every basis vector: each is a pass back through the network."""


@dataclass(frozen=True)
class Exact(Component):
    """The trace itself, from all D basis vectors. Only for D up to 64."""

    kind: Literal["exact"] = field(default="exact", kw_only=True, repr=False)

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """The vectors [D, B, ...] whose products v'Jv add up to the trace. Raises ValueError for a D above 64."""
        d = math.prod(x.shape[1:])
        if d > MOST_EXACT:
            raise ValueError(
                f"An exact trace in {d} dimensions takes {d} passes back through the network for every evaluation; "
                f"it is meant for up to {MOST_EXACT}. Use Hutchinson's estimate."
            )
        return torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:]).expand(d, *x.shape)


@dataclass(frozen=True)
class Hutchinson(Component):
    """The trace's estimate v'Jv from random signs v, averaged over `probes` of them (Hutchinson 1990).

    It has no bias, and of all v with mean 0 and covariance I signs have the least variance.
    """

    probes: int = 1
    kind: Literal["hutchinson"] = field(default="hutchinson", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"probes = {self.probes} must be at least 1.")

    def __call__(self, x: Tensor, noise: Noise) -> Tensor:
        """The vectors [probes, B, ...], with entries ±1/sqrt(probes), which are signs of normals."""
        positive = torch.stack([noise(x, k, Stream.PROBE) >= 0 for k in range(self.probes)])  # a normal may be 0
        return (2 * positive.to(x.dtype) - 1) / math.sqrt(self.probes)


AnyTrace = Annotated[Exact | Hutchinson, OneOf()]
"""How a divergence is computed."""


class Solver(Protocol):
    """Integrates from the angle `low` to `high`: see `ode`. A frozen dataclass."""

    def __call__(self, state: ode.State, path: Path, low: float, high: float) -> ode.Solving:
        """A coroutine that yields angles [B] and states."""
        ...


@dataclass(frozen=True)
class _Steps(Component):
    steps: int = 32
    grid: AnyGrid = field(default_factory=Karras)
    tableau: ClassVar[ode.Tableau]

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"A solver needs at least 1 step, not {self.steps}.")

    def __call__(self, state: ode.State, path: Path, low: float, high: float) -> ode.Solving:
        """A coroutine that yields angles [B] and states."""
        begin = float(path.time(torch.tensor(math.tan(high), dtype=torch.float64)).clamp(max=1.0))
        angles = angle(path, self.grid(path, self.steps, begin)).clamp(low, high)
        angles[0], angles[-1] = high, low
        angles = angles[torch.cat([angles.diff() < 0, torch.ones(1, dtype=torch.bool)])]  # no steps of length 0
        y, *_ = state
        return ode.fixed(self.tableau, state, spread(angles.flip(0), len(y)))


@dataclass(frozen=True)
class HeunSteps(_Steps):
    """Heun's method of order 2 along a grid, whose times are read as angles; two evaluations a step."""

    tableau: ClassVar[ode.Tableau] = ode.HEUN
    kind: Literal["heun"] = field(default="heun", kw_only=True, repr=False)


@dataclass(frozen=True)
class Rk4Steps(_Steps):
    """The classical Runge-Kutta method of order 4 along a grid; four evaluations a step."""

    tableau: ClassVar[ode.Tableau] = ode.RK4
    kind: Literal["rk4"] = field(default="rk4", kw_only=True, repr=False)


@dataclass(frozen=True)
class Adaptive(Component):
    """Dormand and Prince's method with steps of its own for every example, their error below rtol·|state| + atol.

    The state is y and the log-density per dimension, so that both are controlled.
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    kind: Literal["adaptive"] = field(default="adaptive", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol > 0 and math.isfinite(self.rtol + self.atol)):
            raise ValueError(
                f"rtol = {self.rtol} must be 0 or more and atol = {self.atol} more than 0. The usual ones are 1e-4."
            )

    def __call__(self, state: ode.State, path: Path, low: float, high: float) -> ode.Solving:
        """A coroutine that yields angles [B] and states."""
        y, *_ = state
        start, end = (torch.full((len(y),), phi, dtype=torch.float64) for phi in (low, high))
        return ode.adaptive(ode.DORMAND_PRINCE, state, start, end, self.rtol, self.atol)


AnySolver = Annotated[HeunSteps | Rk4Steps | Adaptive, OneOf()]
"""How the flow is integrated."""


def log_likelihood(
    denoiser: Denoiser,
    path: Path,
    x: Tensor,
    cond: Condition,
    noise: Noise,
    *,
    solver: Solver | None = None,
    trace: Exact | Hutchinson | None = None,
    smallest: float = SMALLEST_RATIO,
    end: float = 1.0,
) -> Tensor:
    """ln p(x) of each row of x [B, ...] under the probability flow, in nats: [B] float64 on the host (eq. 39-40).

    The prior is N(0, sigma²) at the time `end`, as for sampling. p is the density of x0 + r·eps, r = `flow_start`: the
    flow ends there, at the angle phi, and y = cos(phi)·x. noise: of the probes, which stay the same along the flow.
    solver: `Adaptive()` by default; trace: `Hutchinson()` by default. Raises ValueError for a `smallest` that is not
    between 0 and the ratio at `end`, and where the solver or the trace does.
    """
    low, high = _ends(path, smallest, end)
    probes = (trace or Hutchinson())(x, noise)
    field_ = _Field(denoiser, path, cond)
    dims = math.prod(x.shape[1:])

    def rise(phi: Tensor, state: ode.State) -> ode.State:
        velocity, divergence = _with_divergence(field_, phi, state[0], probes)
        return velocity, divergence / dims

    start = (x * math.cos(low), torch.zeros(len(x), dtype=torch.float64))
    y, risen = _solve((solver or Adaptive())(start, path, low, high), rise)
    variance = math.sin(high) ** 2
    prior = -0.5 * (dims * math.log(2 * math.pi * variance) + _sum(y * y) / variance)
    return prior + dims * (risen + math.log(math.cos(low)))


def flow_start(path: Path, smallest: float = SMALLEST_RATIO) -> float:
    """The ratio sigma/alpha where `log_likelihood` starts: `smallest`, or a table's first entry's if that is more."""
    return max(smallest, least_ratio(path))


class BoundTerms(NamedTuple):
    """An upper bound of -ln p(x0) in its parts, nats, float64 on the host: prior [B] is L_T; steps [N, B] in order.

    The last of the steps is L_0.
    """

    prior: Tensor
    steps: Tensor

    @property
    def total(self) -> Tensor:
        """The bound, [B]."""
        return self.prior + self.steps.sum(0)


def discrete_bound(
    denoiser: Denoiser,
    path: Path,
    times: Tensor,
    x0: Tensor,
    cond: Condition,
    noise: Noise,
    *,
    variance: Variance = "small",
    bin: float | None = None,
    terms: int | None = None,
) -> BoundTerms:
    """An unbiased estimate of the variational bound of -ln p(x0) for the chain along `times` [N+1], 1 ... 0 (eq. 13).

    p is the density of x0 [B, ...], or, with the width of the bins, the probability of its bins. Every step has noise
    of its own. terms: evaluate only so many of the N - 1 middle steps for each row, chosen at random, the likelier the
    larger the share beta/sigma_t² of the noise that a step removes; they are weighed so that every entry keeps its
    expectation. None is all. The last step is always evaluated.
    Raises ValueError for times that do not fall to 0, and for a number of terms that is not within 1 to N - 1.
    """
    n, rows = len(times) - 1, torch.arange(len(x0))
    if n < 1 or not bool((times.diff() < 0).all()) or float(times[-1]) != 0:
        raise ValueError(f"The bound's times must fall to 0, the data, but they are {times.tolist()}.")
    if terms is not None and not 1 <= terms <= n - 1:
        raise ValueError(
            f"terms = {terms} must be within 1 to {n - 1}, the steps before the last. Leave it out for all."
        )
    c = path(times)
    middle, worth = torch.arange(n - 1)[:, None].expand(-1, len(x0)), torch.ones(n, dtype=torch.float64)
    if terms is not None:
        share = forward_variance(c.at(slice(0, n - 1)), c.at(slice(1, n))) / c.sigma[:-2] ** 2
        edges = (share / share.sum()).cumsum(0)
        place = torch.stack([noise.uniform(k, Stream.CHOICE) + k for k in range(terms)]) / terms
        middle = torch.searchsorted(edges, place, right=True).clamp(max=n - 2)
        worth = share.sum() / (terms * share)
    steps = torch.zeros(n, len(x0), dtype=torch.float64)
    with torch.no_grad():
        for k, i in enumerate([*middle, torch.full_like(rows, n - 1)]):
            now, nxt = _at(c, i), _at(c, i + 1)
            x = like(now.alpha, x0) * x0 + like(now.sigma, x0) * noise(x0, k, Stream.BOUND)
            pred = denoiser(Query(x, times[i], times[i]), cond)
            if k < len(middle):
                term = worth[i] * _sum(step_term(x0, pred, now, nxt, variance))
            else:
                before = _at(c, i - 1) if n > 1 else None
                term = _sum(decoder_term(x0, pred, now, before, variance, bin))
            steps[i, rows] += term
        return BoundTerms(_sum(prior_term(x0, _at(c, 0 * rows))), steps)


def dequantised(x: Tensor, bin: float, noise: Noise) -> Tensor:
    """x + bin·(U - 1/2), U uniform for every element: data in bins made continuous (math.md, eq. 41).

    U is the normal's cdf of a normal, in float64: as the normals are within 1e-6 of exact ones, U is within 4e-7 of a
    uniform number, less than the rounding of x.
    """
    u: Tensor = torch.special.ndtr(noise(x, 0, Stream.BIN).cpu().double())
    return x + (bin * (u - 0.5)).to(device=x.device, dtype=x.dtype)


def bits_per_dim(log_p: Tensor, dims: int, bin: float) -> Tensor:
    """-log_p/(dims·ln 2) - log2(bin): bits per number of data in bins, from its density in nats (math.md, eq. 41)."""
    return -log_p / (dims * math.log(2)) - math.log2(bin)


def angle(path: Path, t: Tensor) -> Tensor:
    """phi = atan2(sigma, alpha) at times t of any shape: 0 is data, pi/2 has no data left."""
    c = path(t)
    return torch.atan2(c.sigma, c.alpha)


@dataclass(frozen=True)
class _Field:
    """dy/dphi, with the denoiser asked on its own path: at its time and scale."""

    denoiser: Denoiser
    path: Path
    cond: Condition

    def __call__(self, phi: Tensor, y: Tensor) -> Tensor:
        t = self.path.time(phi.clamp(max=math.pi / 2).tan())  # rounding may have gone beyond the end
        c = self.path(t)
        answer = self.denoiser(Query(like(torch.hypot(c.alpha, c.sigma), y) * y, t, t), self.cond)
        return like(phi.cos(), y) * answer.eps - like(phi.sin(), y) * answer.x0


def _with_divergence(field_: _Field, phi: Tensor, y: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """dy/dphi, and the sum over the probes of v'Jv for its Jacobian J: [B] float64 on the host."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        velocity = field_(phi, y)
        total = torch.zeros(len(y), dtype=torch.float64)
        for k, v in enumerate(probes):
            (back,) = torch.autograd.grad(velocity, y, v, retain_graph=k < len(probes) - 1)
            total += _sum(back * v)
    return velocity.detach(), total


def _ends(path: Path, smallest: float, end: float) -> tuple[float, float]:
    """The angles near the data and at `end`."""
    low, high = math.atan(flow_start(path, smallest)), float(angle(path, torch.tensor(end, dtype=torch.float64)))
    if not (smallest > 0 and low < high):
        raise ValueError(
            f"smallest = {smallest:g} must be more than 0 and below the noise-to-signal ratio at t = {end:g}, "
            f"{math.tan(high):g}. The usual one is {SMALLEST_RATIO:g}."
        )
    return low, high


def _solve(solving: ode.Solving, rise: Callable[[Tensor, ode.State], ode.State]) -> ode.State:
    with torch.no_grad():
        try:
            phi, state = next(solving)
            while True:
                phi, state = solving.send(rise(phi, state))
        except StopIteration as stop:
            final: ode.State = stop.value
            return final


def _at(c: Coeffs, i: Tensor) -> Coeffs:
    """The coefficients of each row at its own step i [B] of a grid."""
    return Coeffs(*(v[i] for v in c))


def _sum(x: Tensor) -> Tensor:
    """The sum of each row: [B] float64 on the host."""
    return x.detach().flatten(1).sum(1).cpu().double()
