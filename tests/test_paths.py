"""Paths against independent computations: DDPM's tables, derivatives, inverses, kernels and posteriors."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from gaussian import PATHS, VP
from inkwash.paths import (
    CosineBetas,
    Linear,
    LinearBetas,
    QuadraticBetas,
    SigmoidBetas,
    Table,
    forward_variance,
    posterior_variance,
)
from inkwash.types import Coeffs

SIZES = [1, 2, 10, 200, 1000]
SCHEDULES = ["linear", "linear-scaled", "cosine", "quadratic", "sigmoid"]


def schedule(name: str, steps: int) -> Table:
    made = {
        "linear": LinearBetas(steps),
        "linear-scaled": LinearBetas(steps, scaled=True, end=min(0.02, 0.0009 * steps)),
        "cosine": CosineBetas(steps),
        "quadratic": QuadraticBetas(steps),
        "sigmoid": SigmoidBetas(steps),
    }
    return Table(made[name])


def betas_of(name: str, steps: int) -> np.ndarray:
    """The schedules as their papers and DDPM's code write them, in numpy."""
    scale = 1000 / steps
    if name == "linear":
        return np.linspace(1e-4, 0.02, steps)
    if name == "linear-scaled":
        return np.linspace(scale * 1e-4, scale * min(0.02, 0.0009 * steps), steps)
    if name == "quadratic":
        return np.linspace(1e-4**0.5, 0.02**0.5, steps) ** 2
    if name == "sigmoid":
        return 1 / (1 + np.exp(-np.linspace(-6, 6, steps))) * (0.02 - 1e-4) + 1e-4

    def bar(t: float) -> float:
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array([min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)])


def entries(steps: int) -> torch.Tensor:
    return torch.arange(steps + 1, dtype=torch.float64) / steps


@pytest.mark.parametrize("steps", SIZES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_table_is_ddpms(name: str, steps: int) -> None:
    """alpha_i² is DDPM's alphas_cumprod, with clean data in front; sigma keeps its digits where it is small."""
    betas = betas_of(name, steps)
    table = schedule(name, steps)
    assert table.steps == steps
    c = table(entries(steps))
    alphas_cumprod = np.cumprod(1 - betas)
    np.testing.assert_allclose(c.alpha[1:] ** 2, alphas_cumprod, rtol=1e-9)
    np.testing.assert_allclose(c.sigma[1:] ** 2, 1 - alphas_cumprod, rtol=1e-9)
    np.testing.assert_allclose(c.alpha**2 + c.sigma**2, 1, rtol=1e-14)
    assert (float(c.alpha[0]), float(c.sigma[0])) == (1.0, 0.0)


@pytest.mark.parametrize("steps", SIZES)
@pytest.mark.parametrize("name", SCHEDULES)
def test_posterior_is_ddpms(name: str, steps: int) -> None:
    """Neighbouring times give DDPM's posterior_variance and posterior_mean_coef1/2 (Ho et al. 2020, eq. 6-7)."""
    betas = betas_of(name, steps)
    bar = np.cumprod(1 - betas)
    previous = np.append(1.0, bar[:-1])
    c = schedule(name, steps)(entries(steps))
    now, nxt = c.at(slice(1, None)), c.at(slice(None, -1))
    variance = posterior_variance(now, nxt)
    np.testing.assert_allclose(variance, betas * (1 - previous) / (1 - bar), rtol=1e-8, atol=1e-15)
    np.testing.assert_allclose(forward_variance(now, nxt), betas, rtol=1e-8)
    # Ddim's form of the mean, alpha_s·x0 + sqrt(sigma_s² - variance)·(x - alpha_t·x0)/sigma_t (math.md, eq. 8).
    from_x = (nxt.sigma**2 - variance).clamp(min=0).sqrt() / now.sigma
    np.testing.assert_allclose(from_x, np.sqrt(1 - betas) * (1 - previous) / (1 - bar), rtol=1e-7, atol=1e-9)
    coef1 = betas * np.sqrt(previous) / (1 - bar)
    np.testing.assert_allclose(nxt.alpha - from_x * now.alpha, coef1, rtol=1e-7, atol=1e-9)


def test_scaled_betas_keep_the_end_of_the_table() -> None:
    """At T = 200 the unscaled table stops at alpha_T = 0.36 (alpha_bar_T = 0.13): the prior does not match."""
    one = torch.ones(1, dtype=torch.float64)
    assert float(Table(LinearBetas(1000))(one).alpha) == pytest.approx(0.0063528, rel=1e-4)
    assert float(Table(LinearBetas(200))(one).alpha) == pytest.approx(0.36357, rel=1e-4)
    assert float(Table(LinearBetas(200))(one).alpha) == pytest.approx(math.sqrt(0.13218), rel=1e-4)
    assert float(Table(LinearBetas(200, scaled=True))(one).alpha) == pytest.approx(0.0055, abs=5e-5)
    for betas in (LinearBetas, QuadraticBetas, SigmoidBetas, CosineBetas):
        assert Table(betas()).steps == 1000
    for betas in (LinearBetas, QuadraticBetas, SigmoidBetas):
        scaled = betas(250, scaled=True)()
        torch.testing.assert_close(scaled, 4 * betas(250)(), rtol=1e-14, atol=0)
        assert torch.equal(betas(1000, scaled=True)(), betas(1000)())


@pytest.mark.parametrize("name", PATHS)
def test_derivatives_are_central_differences(name: str) -> None:
    path, h = PATHS[name], 1e-6
    t = torch.linspace(0.01, 0.99, 491, dtype=torch.float64) + 1.2345e-4  # off the table's entries
    c, up, down = path(t), path(t + h), path(t - h)
    torch.testing.assert_close(c.dalpha, (up.alpha - down.alpha) / (2 * h), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(c.dsigma, (up.sigma - down.sigma) / (2 * h), rtol=1e-6, atol=1e-7)


def test_tables_slopes_are_continuous() -> None:
    """Between entries the angle is C1, monotone, and third-order close to a smooth schedule."""
    for table in (Table(CosineBetas(50)), Table(LinearBetas(20, end=0.3)), Table([0.5, 1e-4, 0.5, 0.9])):
        knots = entries(table.steps)[1:-1]
        left, right = table(knots - 1e-7 / table.steps), table(knots + 1e-7 / table.steps)
        torch.testing.assert_close(left.dsigma, right.dsigma, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(left.dalpha, right.dalpha, rtol=1e-5, atol=1e-5)
        fine = table(torch.linspace(0, 1, 1201, dtype=torch.float64))
        assert bool((torch.atan2(fine.sigma, fine.alpha).diff() >= 0).all())
    # alpha_i = cos(f(i/T)) for a smooth f: the interpolant's error is O(T^-3) where nothing is bounded or clipped.
    errors = []
    for steps in (40, 80):
        f = lambda t: 0.2 * t + 0.9 * t**2 + 0.3 * t**3  # noqa: E731
        bar = torch.cos(f(entries(steps))) ** 2
        table = Table((1 - bar[1:] / bar[:-1]).tolist())
        t = torch.linspace(0, 1, 977, dtype=torch.float64)
        c = table(t)
        errors.append(float((torch.atan2(c.sigma, c.alpha) - f(t)).abs().max()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(3, abs=0.1)
    assert errors[1] < 1e-6


@pytest.mark.parametrize("name", [*PATHS, "one", "two"])
def test_time_inverts_the_ratio(name: str) -> None:
    path = (PATHS | {"one": Table([0.7]), "two": Table([0.1, 0.5])})[name]
    t = torch.linspace(0.0001, 0.99, 300, dtype=torch.float64).reshape(3, 100)
    c = path(t)
    torch.testing.assert_close(path.time(c.sigma / c.alpha), t, rtol=1e-9, atol=2e-12)


def test_time_at_the_ends() -> None:
    ends = torch.tensor([0.0, math.inf], dtype=torch.float64)
    assert Linear().time(ends).tolist() == [0.0, 1.0]
    tiny = torch.tensor([1e-12], dtype=torch.float64)
    torch.testing.assert_close(Linear().time(tiny), tiny, rtol=1e-11, atol=0)
    table = Table(LinearBetas())
    torch.testing.assert_close(table.time(ends), torch.tensor([0.0, 1.0], dtype=torch.float64), rtol=0, atol=2e-12)
    assert float(table(table.time(ends[:1])).sigma) == 0.0
    beyond = table(torch.ones(1, dtype=torch.float64))
    assert float(table.time(2 * beyond.sigma / beyond.alpha)) == pytest.approx(1, abs=2e-12)


@pytest.mark.parametrize("name", PATHS)
def test_noise_to_signal_rises(name: str) -> None:
    c = PATHS[name](torch.linspace(0, 0.999, 2000, dtype=torch.float64))
    assert bool(((c.sigma / c.alpha).diff() > 0).all())


def test_snap_gives_entries_equally_often() -> None:
    """The entry at or after t; an entry is its own, although i/T·T may exceed i in floating point (7/25, 29/35)."""
    for steps in (1, 2, 25, 29, 35, 49, 200, 1000):
        table = Table(LinearBetas(steps))
        t = entries(steps)[1:]
        assert torch.equal(table.snap(t), t), steps
        assert torch.equal(table.snap(t - 0.5 / steps), t)
        assert torch.equal(table.snap(torch.zeros(1, dtype=torch.float64)), t[:1])
    t = torch.rand(5, dtype=torch.float64)
    assert torch.equal(Linear().snap(t), t)


@pytest.mark.parametrize("name", PATHS)
def test_marginal_is_the_composition_of_kernels(name: str) -> None:
    """Steps q(x_t | x_s) = N(rho·x_s, beta) on any grid compose to N(alpha·x0, sigma²) (math.md, eq. 3-4)."""
    times = [0.0, 0.003, 0.1, 0.35, 0.36, 0.8, 0.99]
    mean, variance = 1.0, 0.0
    for s, t in pairwise(times):
        now, nxt = (PATHS[name](torch.tensor([u], dtype=torch.float64)) for u in (t, s))
        rho, beta = float(now.alpha / nxt.alpha), float(forward_variance(now, nxt))
        assert beta > 0
        mean, variance = rho * mean, rho**2 * variance + beta
        assert mean == pytest.approx(float(now.alpha), rel=1e-12)
        assert variance == pytest.approx(float(now.sigma) ** 2, rel=1e-10)


@pytest.mark.parametrize("name", PATHS)
def test_posterior_variance_is_bayes(name: str) -> None:
    """The precision of x_s given x_t and x0 is that of the marginal plus rho²/beta of the kernel."""
    c = PATHS[name](torch.tensor([0.05, 0.2, 0.55, 0.97], dtype=torch.float64))
    for s in range(3):
        for t in range(s + 1, 4):
            now, nxt = c.at(slice(t, t + 1)), c.at(slice(s, s + 1))
            beta = now.sigma**2 - (now.alpha / nxt.alpha) ** 2 * nxt.sigma**2
            precision = 1 / nxt.sigma**2 + (now.alpha / nxt.alpha) ** 2 / beta
            torch.testing.assert_close(posterior_variance(now, nxt), 1 / precision, rtol=1e-10, atol=0)


def test_linear_is_the_straight_line() -> None:
    c = Linear()(torch.tensor([0.0, 0.25, 1.0]))
    want = [[1, 0.75, 0], [0, 0.25, 1], [-1, -1, -1], [1, 1, 1]]
    assert [v.tolist() for v in c] == want
    assert all(v.dtype == torch.float64 for v in c)


def test_coefficients_have_any_shape() -> None:
    for path in (Linear(), Table(LinearBetas(10)), VP()):
        t = torch.rand(4, 3, dtype=torch.float64) * 0.9 + 0.05
        whole, rows = path(t), [path(row) for row in t]
        for a, b in zip(whole, Coeffs(*map(torch.stack, zip(*rows, strict=True))), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("path", [Linear(), Table(LinearBetas(10))])
def test_coefficients_are_float64(path: Linear | Table) -> None:
    """Whatever the precision of the times and ratios: they are subtracted from 1 and from one another."""
    t = torch.tensor([0.05, 0.3, 0.71], dtype=torch.float32)
    for single, double in zip(path(t), path(t.double()), strict=True):
        assert single.dtype == torch.float64
        assert torch.equal(single, double)
    assert path.time(t).dtype == torch.float64
    assert torch.equal(path.time(t), path.time(t.double()))


def test_a_table_takes_numbers() -> None:
    numbers = [0.1, 0.2, 0.3]
    assert Table(numbers) == Table(tuple(numbers)) == Table(torch.tensor(numbers, dtype=torch.float64))
    assert hash(Table(numbers)) == hash(Table(tuple(numbers)))
    c = Table(numbers)(torch.tensor([1 / 3, 2 / 3, 1], dtype=torch.float64))
    torch.testing.assert_close(c.alpha**2, torch.tensor([0.9, 0.72, 0.504], dtype=torch.float64))


@pytest.mark.parametrize(
    ("betas", "found"),
    [
        ([0.1, 0.0], "beta_2 = 0 of 2"),
        ([1.0], "beta_1 = 1 of 1"),
        ([0.1, math.nan, 2.0], "beta_2 = nan of 3"),
        ([-0.5], "beta_1 = -0.5"),
        ([], "no betas"),
        (LinearBetas(10, scaled=True), "beta_6 = 1.11556"),
    ],
)
def test_impossible_betas_are_refused(betas: object, found: str) -> None:
    with pytest.raises(ValueError, match="strictly between 0 and 1") as error:
        Table(betas)  # type: ignore[arg-type]
    assert found in str(error.value)
    assert "more steps" in str(error.value)


@pytest.mark.parametrize(
    ("schedule", "settings", "message"),
    [
        (LinearBetas, {"steps": 0, "scaled": True}, "at least 1 step, not steps = 0"),
        (QuadraticBetas, {"start": -1e-4}, "start = -0.0001 must be"),
        (SigmoidBetas, {"end": float("nan")}, "end = nan must be"),
        (CosineBetas, {"steps": -1}, "at least 1 step, not steps = -1"),
        (CosineBetas, {"max_beta": 1.0}, "max_beta = 1.0 must lie strictly between"),
        (CosineBetas, {"s": float("nan")}, "s = nan must be"),
    ],
)
def test_schedules_refuse_what_makes_no_betas(schedule: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**settings)
