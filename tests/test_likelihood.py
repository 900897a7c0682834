"""Likelihoods against exact ones: Gaussian data on every path with every target, a mixture, and the bound's terms."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor

from gaussian import LAM, MU, PAIRS, PATHS, TARGETS, model, numbers
from inkwash.grids import Even, Karras, Listed, LogSnr
from inkwash.likelihood import (
    Adaptive,
    Exact,
    HeunSteps,
    Hutchinson,
    Rk4Steps,
    angle,
    bits_per_dim,
    dequantised,
    discrete_bound,
    flow_start,
    log_likelihood,
)
from inkwash.noise import Philox, Stream
from inkwash.paths import VE, Linear, Table
from inkwash.types import Condition, Denoised, Path, Query, like

ROWS = torch.arange(5)
X = MU + LAM.sqrt() * torch.tensor(
    [[0.3, -1.2, 0.5, 2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -2.0, 0.1], [-0.4, 2.2, 1.3, -1.0], [2.5, -0.3, 0.2, 0.7]],
    dtype=torch.float64,
)
NOISE = Philox(3, ROWS)
TIGHT = Adaptive(1e-7, 1e-7)


def normal(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return (-0.5 * ((x - mean) ** 2 / variance + (2 * math.pi * variance).log())).sum(1)


def gaussian(path: Path, x: Tensor, smallest: float, end: float) -> Tensor:
    """Exactly: ln p(x) of what the flow makes of the prior N(0, sigma²) (math.md, eq. 21)."""
    a, s, *_ = numbers(path, end)
    before, after = LAM + smallest**2, a**2 * LAM + s**2
    latent = a * MU + (after / before).sqrt() * (x - MU)
    prior = normal(latent, torch.zeros(4), torch.full((4,), s**2, dtype=torch.float64))
    return prior + 0.5 * (after / before).log().sum()


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_gaussian_data_on_every_path_with_every_target(path: str, target: str) -> None:
    """The density is that of the prior pulled back."""
    end, p = (1.0 if target != "eps" else 0.99), PATHS[path]  # eps says nothing of the data at alpha = 0
    m, table = model(p, TARGETS[target]), isinstance(p, Table)
    smallest, error = (0.3, 1e-2) if table else (0.05, 2e-6)  # a table's clock is slow: a short way, in few steps
    kept = {"solver": Rk4Steps(4, LogSnr(0.3, 3.0)) if table else TIGHT, "smallest": smallest, "end": end}
    exact = gaussian(p, X, smallest, end)
    found = log_likelihood(m, p, X, Condition(), NOISE, trace=Exact(), **kept)
    assert found.dtype == torch.float64
    assert (found - exact).abs().max() < error


def test_the_density_is_that_of_data_with_the_smallest_noise() -> None:
    """On `Linear`, whose prior is exact: N(mu, lam + smallest²), so that the error falls with its square."""
    m, errors = model(Linear(), TARGETS["flow"]), []
    for smallest in (0.02, 0.01):
        found = log_likelihood(m, Linear(), X, Condition(), NOISE, solver=TIGHT, trace=Exact(), smallest=smallest)
        assert (found - normal(X, MU, LAM + smallest**2)).abs().max() < 2e-6
        errors.append((found - normal(X, MU, LAM)).abs().max())
    assert float(errors[0] / errors[1]) == pytest.approx(4, rel=0.05)


@dataclass(frozen=True)
class Mixture:
    """The exact denoiser of data N(centre_k, covariance_k), k with probability weight_k, in the plane."""

    path: Path
    centres: Tensor
    covariances: Tensor
    weights: Tensor

    def parts(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln(weight·density) [B, K], alpha·cov·S^-1·(x - alpha·mu) [B, K, 2] and the inverse of S [B, K, 2, 2]."""
        spread = alpha[:, None, None, None] ** 2 * self.covariances + sigma[:, None, None, None] ** 2 * torch.eye(2)
        off = x[:, None] - alpha[:, None, None] * self.centres
        solved = torch.linalg.solve(spread, off[..., None])[..., 0]
        log = self.weights.log() - 0.5 * ((off * solved).sum(-1) + spread.logdet() + 2 * math.log(2 * math.pi))
        pulled = alpha[:, None, None] * (self.covariances @ solved[..., None])[..., 0]
        return log, pulled, spread

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        c = self.path(query.t)
        log, pulled, _ = self.parts(query.x, c.alpha, c.sigma)
        x0 = (log.softmax(1)[..., None] * (self.centres + pulled)).sum(1)
        return Denoised(x0, (query.x - like(c.alpha, x0) * x0) / like(c.sigma, x0))

    def log_p(self, x: Tensor, blur: float) -> Tensor:
        log, _, _ = self.parts(x, torch.ones(len(x)), torch.full((len(x),), blur))
        return log.logsumexp(1)


def mixture(path: Path) -> Mixture:
    double = torch.float64
    return Mixture(
        path,
        torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.0, -1.5]], dtype=double),
        torch.tensor([[[0.1, 0.05], [0.05, 0.2]], [[0.3, -0.1], [-0.1, 0.1]], [[0.05, 0.0], [0.0, 0.4]]], dtype=double),
        torch.tensor([0.5, 0.3, 0.2], dtype=double),
    )


POINTS = torch.tensor([[-1.0, 0.4], [0.2, 0.1], [1.5, -0.4], [0.1, -2.0], [0.5, 1.0]], dtype=torch.float64)


def test_a_mixture_in_the_plane() -> None:
    exact = mixture(Linear()).log_p(POINTS, 0.01)
    found = log_likelihood(
        mixture(Linear()),
        Linear(),
        POINTS,
        Condition(),
        NOISE,
        solver=TIGHT,
        trace=Exact(),
        smallest=0.01,
    )
    assert (found - exact).abs().max() < 1e-6


@dataclass(frozen=True)
class Given:
    """A trace with probes of one's own."""

    v: Tensor

    def __call__(self, x: Tensor, noise: Any) -> Tensor:
        return self.v.to(x.dtype)[None, None].expand(1, *x.shape)


def test_the_mean_over_all_signs_is_the_exact_trace() -> None:
    def p(trace: Any) -> Tensor:
        m = mixture(Linear())
        return log_likelihood(m, Linear(), POINTS, Condition(), NOISE, solver=HeunSteps(4), trace=trace, smallest=0.1)

    exact = p(Exact())
    signs = [p(Given(torch.tensor(v))) for v in product([-1.0, 1.0], repeat=2)]
    assert (torch.stack(signs).mean(0) - exact).abs().max() < 1e-12
    assert (signs[0] - signs[1]).abs().min() > 1e-3  # the mixture's Jacobian is not diagonal
    assert torch.allclose(signs[0], signs[3], rtol=1e-14)


@dataclass
class Told:
    """A noise that remembers what it was asked for, with numbers of one's own where given."""

    inner: Philox
    normal: Callable[[Tensor], Tensor] | None = None
    place: Tensor | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        self.asked.append((step, stream))
        return self.inner(like, step, stream) if self.normal is None else self.normal(like)

    def uniform(self, step: int, stream: int) -> Tensor:
        self.asked.append((step, stream))
        return self.inner.uniform(step, stream) if self.place is None else self.place

    def at(self, index: Tensor) -> Told:
        raise AssertionError


def test_probes_are_drawn_once() -> None:
    """Signs of a stream of their own, the same along the whole flow; the mean over probes."""
    noise = Told(NOISE)
    m = mixture(Linear())
    args = (m, Linear(), POINTS, Condition())
    kept = {"solver": Rk4Steps(3), "smallest": 0.1}
    found = log_likelihood(*args, noise, trace=Hutchinson(2), **kept)
    assert noise.asked == [(0, Stream.PROBE), (1, Stream.PROBE)]
    signs = [NOISE(POINTS, k, Stream.PROBE).sign() for k in range(2)]
    alone = [log_likelihood(*args, NOISE, trace=lambda x, noise, v=v: v[None], **kept) for v in signs]
    assert torch.allclose(found, (alone[0] + alone[1]) / 2, rtol=1e-13)
    assert torch.equal(Hutchinson(2)(POINTS, NOISE), torch.stack(signs) / math.sqrt(2))
    # A normal that is exactly 0, as one in 2^25 is, has a sign too.
    assert torch.equal(Hutchinson()(POINTS, Told(NOISE, torch.zeros_like)), torch.ones(1, 5, 2, dtype=torch.float64))
    assert Hutchinson().probes == 1
    assert torch.equal(log_likelihood(*args, NOISE, **kept), log_likelihood(*args, NOISE, trace=Hutchinson(1), **kept))


@pytest.mark.parametrize(("solver", "order"), [(HeunSteps, 2), (Rk4Steps, 4)])
@pytest.mark.parametrize("path", ["linear", "ve"])
def test_the_order_of_fixed_steps(solver: Any, order: int, path: str) -> None:
    """Of the log-density, along a grid whose angles lie on a smooth curve."""
    p = PATHS[path]
    grid = Even() if path == "linear" else Karras(0.2, 80.0, rho=3.0)  # which takes one step more, to the data
    m, errors = model(p, TARGETS["v"]), []
    exact = gaussian(p, X, 0.2, 0.9)
    for steps in (24, 48, 96):
        how = solver(steps + (path == "ve"), grid)
        found = log_likelihood(m, p, X, Condition(), NOISE, solver=how, trace=Exact(), smallest=0.2, end=0.9)
        errors.append((found - exact).abs().max())
    assert [float((a / b).log2()) for a, b in pairwise(errors)] == pytest.approx([order, order], abs=0.35)


def test_the_angles_of_a_grid() -> None:
    """Its times read as angles, from the data to `end`; times below the last angle have no steps of their own."""
    asked: list[float] = []

    def ask(query: Query, cond: Condition) -> Denoised:
        asked.append(float(query.t[0]))
        assert torch.equal(query.t, query.s)
        return Denoised(0 * query.x, 0 * query.x)

    args = (ask, Linear(), X, Condition(), NOISE)
    solver = HeunSteps(4, Listed((0.9, 0.5, 0.2, 1e-5, 0)))
    log_likelihood(*args, solver=solver, smallest=0.25)
    assert asked == pytest.approx([0.2, 0.5, 0.5, 1.0], abs=1e-12)  # 0.25 is the ratio at 0.2; the grid begins at 1
    asked.clear()
    log_likelihood(*args, solver=solver, smallest=0.01)
    assert asked == pytest.approx([1 / 101, 0.2, 0.2, 0.5, 0.5, 1], abs=1e-12)
    asked.clear()
    log_likelihood(*args, solver=HeunSteps(2, Even()), smallest=0.01, end=0.5)
    assert asked == pytest.approx([1 / 101, 0.25, 0.25, 0.5], abs=1e-12)
    asked.clear()
    log_likelihood(*args, solver=Rk4Steps(1, Even()))
    low, high = math.atan(1e-3), math.pi / 2
    middle = math.tan((low + high) / 2)
    assert asked == pytest.approx([1 / 1001, *2 * [middle / (1 + middle)], 1], abs=1e-12)
    assert (Rk4Steps().steps, Rk4Steps().grid, HeunSteps().steps) == (32, Karras(), 32)


@pytest.mark.parametrize("solver", [HeunSteps(6), Adaptive(0.1, 0.1)])
def test_a_table_is_not_asked_below_its_first_entry(solver: Any) -> None:
    """There the flow ends, and the density is of data with its noise; a larger `smallest` stands."""
    p, asked = Table(), list[float]()
    m = model(p, TARGETS["v"])

    def ask(query: Query, cond: Condition) -> Denoised:
        asked.append(float(query.t.min()))
        return m(query, cond)

    a, s, *_ = numbers(p, 1 / 1000)
    assert (flow_start(p), flow_start(p, 0.3), flow_start(Linear())) == (pytest.approx(s / a), 0.3, 1e-3)
    assert s / a == pytest.approx(0.01, rel=1e-3)
    kept = {"solver": solver, "trace": Exact()}
    found = log_likelihood(ask, p, X, Condition(), NOISE, **kept)
    assert asked[0] == min(asked) == 1 / 1000
    assert torch.equal(found, log_likelihood(m, p, X, Condition(), NOISE, smallest=s / a, **kept))
    asked.clear()
    log_likelihood(ask, p, X, Condition(), NOISE, smallest=0.02, **kept)
    assert asked[0] == min(asked) == pytest.approx(float(p.time(torch.tensor(0.02))))


def test_the_adaptive_solver_meets_its_tolerance() -> None:
    """The tolerance is that of one step, of the density per dimension."""
    p = PATHS["vp"]
    m = model(p, TARGETS["eps"])
    exact = gaussian(p, X, 0.02, 1.0)
    for tolerance in (1e-3, 1e-5, 1e-7):
        kept = {"solver": Adaptive(tolerance, tolerance), "smallest": 0.02}
        found = log_likelihood(m, p, X, Condition(), NOISE, trace=Exact(), **kept)
        assert 0.1 * tolerance < float((found - exact).abs().max()) < 10 * tolerance
    assert (Adaptive().rtol, Adaptive().atol) == (1e-4, 1e-4)
    default = log_likelihood(m, p, X, Condition(), NOISE, trace=Exact())
    chosen = log_likelihood(m, p, X, Condition(), NOISE, trace=Exact(), solver=Adaptive(), smallest=1e-3, end=1.0)
    assert torch.equal(default, chosen)


@pytest.mark.parametrize("solver", [Adaptive(1e-5, 1e-5), Rk4Steps(5)])
def test_rows_are_what_they_are_alone(solver: Any) -> None:
    m = mixture(Linear())
    together = log_likelihood(m, Linear(), POINTS, Condition(), NOISE, solver=solver, smallest=0.1)
    for i in range(5):
        alone = log_likelihood(m, Linear(), POINTS[[i]], Condition(), NOISE.at(ROWS[[i]]), solver=solver, smallest=0.1)
        assert together[i] == pytest.approx(float(alone), rel=1e-12)


def test_pictures_of_any_shape_and_conditions() -> None:
    """Elements are summed whatever the axes, and the denoiser is shown the condition."""
    seen: list[Condition] = []

    def ask(query: Query, cond: Condition) -> Denoised:
        seen.append(cond)
        c = Linear()(query.t)
        shrink = like(c.alpha / (c.alpha**2 + c.sigma**2), query.x)  # data N(0, I)
        return Denoised(shrink * query.x, like(c.sigma / c.alpha.clamp(min=1e-300), query.x) * shrink * query.x)

    x, cond = X.reshape(5, 1, 2, 2), Condition(ROWS)
    found = log_likelihood(ask, Linear(), x, cond, NOISE, solver=TIGHT, trace=Exact(), smallest=0.1, end=0.9)
    s = (1 - 0.9) ** 2 + 0.9**2
    latent = X * math.sqrt(s / 1.01)
    expected = normal(latent, torch.zeros(4), torch.full((4,), 0.81, dtype=torch.float64)) + 2 * math.log(s / 1.01)
    assert torch.allclose(found, expected, atol=1e-6)
    assert all(c is cond for c in seen)


def test_gradients_stay_inside() -> None:
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)

    def ask(query: Query, cond: Condition) -> Denoised:
        return Denoised(query.x * weight, query.x * 0)

    with torch.no_grad():
        found = log_likelihood(ask, Linear(), X, Condition(), NOISE, solver=HeunSteps(2), smallest=0.1)
    assert not found.requires_grad
    assert weight.grad is None


def test_what_cannot_be_computed_is_refused() -> None:
    m = model(Linear(), TARGETS["flow"])
    for smallest, end in ((0.0, 1.0), (-0.1, 1.0), (1.0, 0.5), (2.0, 0.5)):
        with pytest.raises(
            ValueError, match=rf"smallest = {smallest:g} must be .* at t = {end:g}, .* usual one is 0.001"
        ):
            log_likelihood(m, Linear(), X, Condition(), NOISE, smallest=smallest, end=end)
    assert Exact()(torch.zeros(2, 64), NOISE).shape == (64, 2, 64)
    with pytest.raises(ValueError, match=r"An exact trace in 65 dimensions .* up to 64\. Use Hutchinson's"):
        Exact()(torch.zeros(2, 5, 13), NOISE)
    with pytest.raises(ValueError, match="probes = 0 must be at least 1"):
        Hutchinson(0)
    for solver in (HeunSteps, Rk4Steps):
        with pytest.raises(ValueError, match="at least 1 step, not 0"):
            solver(0)
        assert solver(1).steps == 1
    for rtol, atol in ((-1e-3, 1e-3), (1e-3, 0.0), (math.nan, 1e-3), (1e-3, math.inf)):
        with pytest.raises(ValueError, match=rf"rtol = {rtol} must be 0 or more and atol = {atol} more than 0"):
            Adaptive(rtol, atol)
    assert Adaptive(0.0, 1e-3).rtol == 0


TIMES = torch.tensor([0.9, 0.7, 0.45, 0.2, 0.1, 0.0], dtype=torch.float64)


def expected_terms(path: Path, times: list[float], x0: Tensor, variance: str) -> tuple[Tensor, Tensor]:
    """E over eps of L_T and of every step's term, as eq. 14-17 are written, for the best denoiser of Gaussian data."""
    prior, steps = torch.zeros(len(x0)), []
    a, s, *_ = numbers(path, times[0])
    prior = 0.5 * (a**2 * x0**2 / s**2).sum(1)  # KL of N(a·x0, s²) and N(0, s²)
    for i, (t, u) in enumerate(pairwise(times)):
        (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, u)
        total = a_t**2 * LAM + s_t**2
        miss = ((x0 - MU) * s_t**2 / total) ** 2 + a_t**2 * LAM**2 * s_t**2 / total**2  # E(x0 - D)²
        beta = s_t**2 - (a_t / a_s) ** 2 * s_s**2
        small = s_s**2 * beta / s_t**2
        if u > 0:
            v = small if variance == "small" else beta
            term = 0.5 * (a_s**2 * beta**2 / (s_t**4 * v) * miss + small / v - 1 - math.log(small / v))
        else:
            v = beta
            if variance == "small" and i:
                a_b, s_b, *_ = numbers(path, times[i - 1])
                v = s_t**2 * (s_b**2 - (a_b / a_t) ** 2 * s_t**2) / s_b**2
            term = 0.5 * (miss / v + math.log(2 * math.pi * v))
        steps.append(term.sum(1))
    return prior, torch.stack(steps)


@pytest.mark.parametrize("variance", ["small", "large"])
@pytest.mark.parametrize("path", ["linear", "ve", "cosine50"])
@pytest.mark.parametrize("times", [TIMES, TIMES[[0, 5]]], ids=["5 steps", "1 step"])
def test_the_bound_s_terms(path: str, variance: Any, times: Tensor) -> None:
    """Every term is quadratic in eps, so its mean over eps = 1 and eps = -1 is its expectation."""
    p = PATHS[path]
    prior, steps = expected_terms(p, times.tolist(), X, variance)
    found = [
        discrete_bound(
            model(p, TARGETS["v"]),
            p,
            times,
            X,
            Condition(),
            Told(NOISE, lambda x, s=s: s * torch.ones_like(x)),
            variance=variance,
        )
        for s in (1, -1)
    ]
    assert torch.allclose(found[0].prior, prior, rtol=1e-10)
    assert torch.allclose((found[0].steps + found[1].steps) / 2, steps, rtol=1e-9, atol=1e-9)
    assert torch.equal(found[0].total, found[0].prior + found[0].steps.sum(0))
    assert found[0].steps.shape == (len(times) - 1, 5)


def test_the_bound_of_binned_data() -> None:
    """The last term is of a probability; small variances are the default, and data have no bins by default."""
    p, noise = Linear(), Told(NOISE, torch.ones_like)
    x0, width = torch.tensor([[-1.0, 0.2], [0.6, 1.0]], dtype=torch.float64), 0.4

    def ask(query: Query, cond: Condition) -> Denoised:
        return Denoised(0.9 * query.x, 0 * query.x)

    found = discrete_bound(ask, p, TIMES, x0, Condition(), noise, bin=width)
    plain = discrete_bound(ask, p, TIMES, x0, Condition(), noise, variance="small", bin=None)
    assert torch.equal(found.steps[:-1], plain.steps[:-1]) and torch.equal(found.prior, plain.prior)
    deviation = 0.1 * math.sqrt(0.2**2 - (0.8 / 0.9) ** 2 * 0.1**2) / 0.2  # of the step from 0.2 to 0.1
    mean = 0.9 * (0.9 * x0 + 0.1)
    low = torch.where(x0 == -1, -math.inf, (x0 - width / 2 - mean) / deviation)
    high = torch.where(x0 == 1, math.inf, (x0 + width / 2 - mean) / deviation)
    exact = -(torch.special.ndtr(high) - torch.special.ndtr(low)).log().sum(1)
    assert torch.allclose(found.steps[-1], exact, rtol=1e-9)
    density = 0.5 * ((x0 - mean) ** 2 / deviation**2 + math.log(2 * math.pi * deviation**2)).sum(1)
    assert torch.allclose(plain.steps[-1], density, rtol=1e-12)


def test_every_step_of_the_bound_has_noise_of_its_own() -> None:
    noise, asked = Told(NOISE), list[Query]()

    def ask(query: Query, cond: Condition) -> Denoised:
        asked.append(query)
        assert cond.label is ROWS
        return Denoised(0 * query.x, 0 * query.x)

    discrete_bound(ask, Linear(), TIMES, X, Condition(ROWS), noise)
    assert noise.asked == [(k, Stream.BOUND) for k in range(5)]
    for k, query in enumerate(asked):
        assert torch.equal(query.t, TIMES[k].expand(5)) and torch.equal(query.s, query.t)
        assert torch.allclose(query.x, (1 - TIMES[k]) * X + TIMES[k] * NOISE(X, k, Stream.BOUND), rtol=1e-14)


def test_some_of_the_bound_s_steps_stand_for_all() -> None:
    """Over the possible choices the mean is the whole bound: 6 middle steps, 2 of them evaluated.

    The steps remove 1/2, 1/4, 1/4, 1/2, 1/4, 1/4 of the noise, 2 in all: an eighth of the choices for every quarter.
    """
    shares = [0.5, 0.25, 0.25, 0.5, 0.25, 0.25]
    p = VE(80.0)
    times = torch.tensor([0.05 * math.sqrt(math.prod(1 - v for v in shares[:i])) for i in range(7)] + [0.0]).double()
    m, calls = model(p, TARGETS["v"]), [0]

    def ask(query: Query, cond: Condition) -> Denoised:
        calls[0] += 1
        return m(query, cond)

    def estimate(place: Tensor | None, terms: int | None) -> Any:
        noise = Told(NOISE, torch.ones_like, place)
        bound = discrete_bound(ask, p, times, X, Condition(), noise, terms=terms)
        if terms is not None:
            assert [a for a in noise.asked if a[1] == Stream.CHOICE] == [(k, Stream.CHOICE) for k in range(terms)]
        return bound

    whole, calls[0] = estimate(None, None), 0
    choices = [estimate(((ROWS + j) % 4 + 0.5).double() / 4, 2) for j in range(4)]  # rows in an order of their own
    assert calls[0] == 4 * 3
    assert torch.allclose(torch.stack([c.steps for c in choices]).mean(0), whole.steps, rtol=1e-6)
    assert all(torch.equal(c.steps[-1], whole.steps[-1]) for c in choices)
    for row, hit, worth in ((0, [0, 3], 2.0), (2, [1, 4], 4.0), (3, [2, 5], 4.0)):
        assert choices[0].steps[:-1, row].nonzero().flatten().tolist() == hit
        assert torch.allclose(choices[0].steps[hit, row], worth * whole.steps[hit, row], rtol=1e-6)
    edge = estimate(torch.full((5,), 1 - 2.0**-53, dtype=torch.float64), 1)  # rounding must not reach the last step
    assert torch.equal(edge.steps[-1], whole.steps[-1]) and bool((edge.steps[5] > 0).all())
    assert estimate(torch.full((5,), 0.5, dtype=torch.float64), 6).steps[:-1].count_nonzero(0).tolist() == [6] * 5


def test_a_bound_that_makes_no_sense_is_refused() -> None:
    def bound(times: list[float], terms: int | None = None) -> None:
        m = model(Linear(), TARGETS["v"])
        discrete_bound(m, Linear(), torch.tensor(times), X, Condition(), NOISE, terms=terms)

    for times in ([0.0], [0.5, 0.7, 0.0], [0.5, 0.5, 0.0], [0.5, 0.1]):
        with pytest.raises(ValueError, match="times must fall to 0"):
            bound(times)
    for terms in (0, 3):
        with pytest.raises(ValueError, match=f"terms = {terms} must be within 1 to 2"):
            bound([0.9, 0.6, 0.3, 0.0], terms)


def test_numbers_are_spread_over_their_bins() -> None:
    x = torch.linspace(-1, 1, 3 * 4000).reshape(3, 4, 1000)
    noise = Told(Philox(1, torch.arange(3)))
    spread = dequantised(x, 0.25, noise)
    assert noise.asked == [(0, Stream.BIN)] and spread.dtype == torch.float32
    z = Philox(1, torch.arange(3))(x, 0, Stream.BIN).double()
    u = 0.5 * (1 + torch.erf(z / math.sqrt(2)))
    assert torch.allclose(spread.double(), x + 0.25 * (u - 0.5), rtol=0, atol=2e-7)
    off = ((spread - x) / 0.25 + 0.5).flatten().sort().values  # a uniform number: Kolmogorov's distance at n = 12,000
    assert (off - (torch.arange(12000) + 0.5) / 12000).abs().max() < 1.6 / math.sqrt(12000)


def test_bits_per_dim() -> None:
    """All 256 grey levels alike are 8 bits; a density of 1 in x is log2(127.5) bits, as REFERENCES has it."""
    uniform = torch.tensor([-10 * math.log(256 * 2 / 255)], dtype=torch.float64)
    assert bits_per_dim(uniform, 10, 2 / 255).tolist() == pytest.approx([8], rel=1e-14)
    assert bits_per_dim(torch.zeros(1), 3, 2 / 255).tolist() == pytest.approx([math.log2(127.5)])
    assert bits_per_dim(torch.tensor([-1.0]), 2, 1.0).tolist() == pytest.approx([0.5 / math.log(2)])


def test_the_angle() -> None:
    t = torch.tensor([[0.0, 0.5], [1.0, 0.25]], dtype=torch.float64)
    exact = torch.tensor([[0, math.pi / 4], [math.pi / 2, math.atan(1 / 3)]], dtype=torch.float64)
    assert torch.allclose(angle(Linear(), t), exact, rtol=1e-15)
