"""Paths against independent computations: DDPM's tables, derivatives, inverses, kernels and posteriors."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import gaussian
from gaussian import PATHS
from inkwash.paths import (
    VE,
    VP,
    CosineBetas,
    CosineSchedule,
    Linear,
    LinearBetas,
    LinearSchedule,
    QuadraticBetas,
    Shifted,
    SigmoidBetas,
    SigmoidSchedule,
    Table,
    forward_variance,
    is_noise_level,
    is_table,
    least_ratio,
    posterior_variance,
    ratio,
)
from inkwash.types import Coeffs, Path

CONTINUOUS: dict[str, Path] = {
    "linear": Linear(),
    "ve": VE(),
    "ve 3": VE(3.0),
    "vp": VP(),
    "vp linear": VP(LinearSchedule(0.3, 7.0)),
    "vp cosine": VP(CosineSchedule()),
    "vp sigmoid": VP(SigmoidSchedule()),
    "vp sigmoid 5 -2": VP(SigmoidSchedule(5.0, -2.0)),
    "linear x3": Shifted(Linear(), 3.0),
    "linear /4": Shifted(Linear(), 0.25),
    "vp x2": Shifted(VP(), 2.0),
    "vp cosine x2": Shifted(VP(CosineSchedule()), 2.0),
    "vp sigmoid /3": Shifted(VP(SigmoidSchedule()), 1 / 3),
    "ve x2": Shifted(VE(), 2.0),
}
ALL = PATHS | CONTINUOUS | {"zero snr": Table(zero_snr=True), "zero snr 9": Table(CosineBetas(9), zero_snr=True)}
PRESERVING = [n for n in ALL if n.startswith(("vp", "table", "cosine", "zero"))]
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


@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_central_differences(name: str) -> None:
    path, h = ALL[name], 1e-6
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


@pytest.mark.parametrize("name", [*ALL, "one", "two"])
def test_time_inverts_the_ratio(name: str) -> None:
    path = (ALL | {"one": Table([0.7]), "two": Table([0.1, 0.5])})[name]
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
    inside = entries(1000)
    assert torch.equal(table.time(ratio(table(inside))), inside)  # entries are found to the last bit
    beyond = table(torch.ones(1, dtype=torch.float64))
    assert float(table.time(2 * beyond.sigma / beyond.alpha)) == pytest.approx(1, abs=2e-12)


@pytest.mark.parametrize("name", ALL)
def test_noise_to_signal_rises(name: str) -> None:
    c = ALL[name](torch.linspace(0, 0.999, 2000, dtype=torch.float64))
    assert bool(((c.sigma / c.alpha).diff() > 0).all())


def test_times_near_an_entry_are_the_entry() -> None:
    """Within a billionth of a step, on either side: i/T is not exact in floating point."""
    table = Table(LinearBetas(10))
    for i in (1, 6, 9):
        exact, *near = (table(torch.tensor([(i + d) / 10], dtype=torch.float64)) for d in (0.0, -5e-10, 5e-10))
        assert all(float(n.alpha) == float(exact.alpha) for n in near)
        off = table(torch.tensor([(i + 5e-9) / 10], dtype=torch.float64))
        assert float(off.sigma) > float(exact.sigma)
        just = torch.tensor([(i + 1e-7) / 10], dtype=torch.float64)
        assert float(table.snap(just)) == pytest.approx((i + 1) / 10)
        assert float(table.time(ratio(table(just)))) == pytest.approx(float(just), rel=1e-11)


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


@pytest.mark.parametrize("name", ALL)
def test_marginal_is_the_composition_of_kernels(name: str) -> None:
    """Steps q(x_t | x_s) = N(rho·x_s, beta) on any grid compose to N(alpha·x0, sigma²) (math.md, eq. 3-4)."""
    times = [0.0, 0.003, 0.1, 0.35, 0.36, 0.8, 0.99]
    mean, variance = 1.0, 0.0
    for s, t in pairwise(times):
        now, nxt = (ALL[name](torch.tensor([u], dtype=torch.float64)) for u in (t, s))
        rho, beta = float(now.alpha / nxt.alpha), float(forward_variance(now, nxt))
        assert beta > 0
        mean, variance = rho * mean, rho**2 * variance + beta
        assert mean == pytest.approx(float(now.alpha), rel=1e-12)
        assert variance == pytest.approx(float(now.sigma) ** 2, rel=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_posterior_variance_is_bayes(name: str) -> None:
    """The precision of x_s given x_t and x0 is that of the marginal plus rho²/beta of the kernel."""
    c = ALL[name](torch.tensor([0.05, 0.2, 0.55, 0.97], dtype=torch.float64))
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
    for path in (*CONTINUOUS.values(), Table(LinearBetas(10)), gaussian.VP()):
        t = torch.rand(4, 3, dtype=torch.float64) * 0.9 + 0.05
        whole, rows = path(t), [path(row) for row in t]
        for a, b in zip(whole, Coeffs(*map(torch.stack, zip(*rows, strict=True))), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", [*CONTINUOUS, "table"])
def test_coefficients_are_float64(name: str) -> None:
    """Whatever the precision of the times and ratios: they are subtracted from 1 and from one another."""
    path, t = ALL[name], torch.tensor([0.05, 0.3, 0.71], dtype=torch.float32)
    for single, double in zip(path(t), path(t.double()), strict=True):
        assert single.dtype == torch.float64
        assert torch.equal(single, double)
    assert path.time(t).dtype == torch.float64
    assert torch.equal(path.time(t), path.time(t.double()))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_derivatives_are_those_of_autograd(name: str) -> None:
    t = torch.linspace(1e-3, 1 - 1e-3, 57, dtype=torch.float64, requires_grad=True)
    c = CONTINUOUS[name](t)
    for value, slope in ((c.alpha, c.dalpha), (c.sigma, c.dsigma)):
        if value.requires_grad:
            (found,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
            torch.testing.assert_close(slope, found, rtol=1e-9, atol=1e-11)
        else:
            assert not slope.any()  # VE's alpha is 1


@pytest.mark.parametrize("name", PRESERVING)
def test_variance_is_preserved(name: str) -> None:
    c = ALL[name](torch.linspace(0, 1, 301, dtype=torch.float64))
    torch.testing.assert_close(c.alpha**2 + c.sigma**2, torch.ones_like(c.alpha), rtol=2e-15, atol=0)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_paths_begin_clean_and_can_be_trained_everywhere(name: str) -> None:
    path = CONTINUOUS[name]
    zero, t = torch.zeros(1, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    c = path(zero)
    assert (float(c.alpha), float(c.sigma)) == (1.0, 0.0)
    assert float(path.time(zero)) == 0.0
    assert torch.equal(path.snap(t), t)
    assert not is_table(path)


def test_what_is_a_table() -> None:
    assert all(is_table(Table(LinearBetas(steps))) for steps in SIZES)
    assert not is_table(gaussian.VP())  # type: ignore[arg-type]


def test_the_ratio_is_infinite_without_signal() -> None:
    c = Linear()(torch.tensor([0.0, 0.2, 1.0], dtype=torch.float64))
    torch.testing.assert_close(ratio(c), torch.tensor([0.0, 0.25, math.inf], dtype=torch.float64), rtol=1e-15, atol=0)


T = torch.tensor([1e-9, 0.01, 0.3, 0.5, 0.88, 1.0], dtype=torch.float64)
BIT = 2.0**-40
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)
NEAR = torch.tensor([BIT, 1 - BIT], dtype=torch.float64)  # as near the ends as keeps 1 - t exact


@pytest.mark.parametrize(("low", "high"), [(0.1, 20.0), (0.3, 7.0)])
def test_vp_linear_is_the_vp_sde(low: float, high: float) -> None:
    """The integral of a beta(t) that rises linearly; what a user would write has the same numbers."""
    path = VP(LinearSchedule(low, high))
    for ours, theirs in zip(path(T), gaussian.VP(low, high)(T), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert float(path(ENDS).alpha[1]) == pytest.approx(math.exp(-(low + high) / 4), rel=1e-14)
    slopes = path(ENDS)
    assert float(slopes.dsigma[0]) == math.inf
    assert float(slopes.dalpha[0]) == pytest.approx(-low / 2, rel=1e-15)
    tiny = torch.tensor([1e-9], dtype=torch.float64)
    assert float(path.time(tiny)) == pytest.approx(1e-18 / low, rel=1e-12)  # sigma² = low·t there
    assert float(path(1e-9 * tiny).sigma) == pytest.approx(math.sqrt(low) * 1e-9, rel=1e-12)
    beyond = torch.tensor([1.3], dtype=torch.float64)
    torch.testing.assert_close(path.time(ratio(path(beyond))), beyond, rtol=1e-13, atol=0)
    assert float(path.time(torch.tensor([math.inf]))) == math.inf


def test_the_default_vp_path_is_the_usual_one() -> None:
    assert VP() == VP(LinearSchedule()) == VP(LinearSchedule(0.1, 20.0))
    assert float(VP()(ENDS).alpha[1]) == pytest.approx(0.0065716, rel=1e-4)


def test_vp_cosine_is_a_quarter_circle() -> None:
    path = VP(CosineSchedule())
    c = path(T)
    angle = math.pi / 2 * T
    for found, wanted in zip(
        c, (angle.cos(), angle.sin(), -math.pi / 2 * angle.sin(), math.pi / 2 * angle.cos()), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-14, atol=1e-15)
    assert [v.tolist() for v in path(ENDS)] == [[1, 0], [0, 1], [0, -math.pi / 2], [math.pi / 2, 0]]
    near = path(NEAR)
    assert float(near.sigma[0]) == pytest.approx(math.pi / 2 * BIT, rel=1e-15)
    assert float(near.alpha[1]) == pytest.approx(math.pi / 2 * BIT, rel=1e-15)
    assert path.time(torch.tensor([0, 1, math.inf])).tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(("high", "low"), [(3.0, -3.0), (5.0, -2.0), (1.0, 0.5)])
def test_vp_sigmoid_is_a_stretched_sigmoid(high: float, low: float) -> None:
    path = VP(SigmoidSchedule(high, low))
    S = torch.sigmoid(high + (low - high) * T)
    first, last = torch.sigmoid(torch.tensor([high, low], dtype=torch.float64)).tolist()
    torch.testing.assert_close(path(T).alpha ** 2, (S - last) / (first - last), rtol=1e-13, atol=1e-14)
    c = path(ENDS)
    assert [c.alpha.tolist(), c.sigma.tolist()] == [[1, 0], [0, 1]]
    assert (float(c.dsigma[0]), float(c.dalpha[1])) == (math.inf, -math.inf)
    # Near the ends alpha² and sigma² leave 0 with the slope (high - low)·S·(1 - S)/(S(0) - S(1)).
    slopes = [(high - low) * v * (1 - v) / (first - last) for v in (first, last)]
    near = path(NEAR)
    assert float(near.sigma[0]) == pytest.approx(math.sqrt(slopes[0] * BIT), rel=1e-10)
    assert float(near.alpha[1]) == pytest.approx(math.sqrt(slopes[1] * BIT), rel=1e-10)
    assert float(c.dalpha[0]) == pytest.approx(-slopes[0] / 2, rel=1e-13)
    assert float(c.dsigma[1]) == pytest.approx(slopes[1] / 2, rel=1e-13)
    torch.testing.assert_close(path.time(ratio(near)), NEAR, rtol=1e-10, atol=0)
    assert path.time(torch.tensor([0, math.inf])).tolist() == [0.0, 1.0]
    assert float(path.time(torch.tensor([1e30]))) == 1.0  # never past the end by rounding


def test_the_default_sigmoid_runs_from_3_to_minus_3() -> None:
    assert SigmoidSchedule() == SigmoidSchedule(high=3.0, low=-3.0)


def test_ve_is_edms() -> None:
    c = VE()(torch.tensor([0.0, 0.25, 1.0, 1.5]))
    assert [v.tolist() for v in c] == [[1] * 4, [0, 20, 80, 120], [0] * 4, [80] * 4]
    assert VE(5.0).time(torch.tensor([1.0, 10.0])).tolist() == [0.2, 2.0]  # beyond the end, for a sampler's churn


def lin_alphas(betas: list[float]) -> tuple[list[float], list[float]]:
    """Algorithm 1 of Lin et al. (2023) with 60 digits: alpha and sigma."""
    with localcontext() as context:
        context.prec = 60
        root, product = [], Decimal(1)
        for beta in betas:
            product *= 1 - Decimal(beta)
            root.append(product.sqrt())
        alpha = [(r - root[-1]) * root[0] / (root[0] - root[-1]) for r in root]
        return [float(a) for a in alpha], [float((1 - a * a).sqrt()) for a in alpha]


@pytest.mark.parametrize(
    "betas", [LinearBetas(), CosineBetas(20), [1e-9, 1e-8, 1e-7, 0.9], [0.5, 0.5], [1e-12, 3e-12, 2e-12]]
)
def test_zero_terminal_snr_is_lins_rescaling(betas: Any) -> None:
    """No signal at the end, the first entry as it was, and sigma with all its digits where it is small."""
    plain, table = Table(betas), Table(betas, zero_snr=True)
    numbers = plain.betas if isinstance(plain.betas, tuple) else tuple(plain.betas().tolist())
    c = table(entries(table.steps))
    alpha, sigma = lin_alphas(list(numbers))
    # The ends of a table of tiny betas nearly agree, and their difference has fewer digits.
    torch.testing.assert_close(c.alpha[1:], torch.tensor(alpha, dtype=torch.float64), rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(c.sigma[1:], torch.tensor(sigma, dtype=torch.float64), rtol=1e-11, atol=0)
    assert (float(c.alpha[0]), float(c.sigma[0])) == (1.0, 0.0)
    assert (float(c.alpha[-1]), float(c.sigma[-1])) == (0.0, 1.0)
    torch.testing.assert_close(c.sigma[1], plain(entries(table.steps)).sigma[1], rtol=1e-12, atol=0)
    assert all(bool(v.isfinite().all()) for v in c)
    assert torch.equal(table.time(ratio(c)), entries(table.steps))
    assert not Table(betas).zero_snr


def test_zero_terminal_snr_needs_two_betas() -> None:
    with pytest.raises(ValueError, match="at least 2 betas, not 1"):
        Table([0.5], zero_snr=True)
    assert Table([0.5]).steps == 1


def test_linear_shifted_is_sd3s() -> None:
    """t -> s·t/(1 + (s - 1)·t) (Esser et al. 2024, eq. 23), and its derivative s/(1 + (s - 1)·t)²."""
    for s in (3.0, 0.5):
        c = Shifted(Linear(), s)(T)
        tau, speed = s * T / (1 + (s - 1) * T), s / (1 + (s - 1) * T) ** 2
        for found, wanted in zip(c, (1 - tau, tau, -speed, speed), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-15)
    assert [v.tolist() for v in Shifted(Linear(), 4.0)(ENDS)] == [[1, 0], [0, 1], [-4, -0.25], [4, 0.25]]


@pytest.mark.parametrize("factor", [2.0, 0.4])
@pytest.mark.parametrize("name", ["linear", "ve", "vp", "vp cosine", "vp sigmoid 5 -2"])
def test_a_shift_multiplies_the_ratio_and_keeps_the_curve(name: str, factor: float) -> None:
    path = CONTINUOUS[name]
    shifted = Shifted(path, factor)
    t = torch.linspace(0.001, 0.95, 40, dtype=torch.float64)
    c = shifted(t)
    torch.testing.assert_close(ratio(c), factor * ratio(path(t)), rtol=1e-10, atol=0)
    on_the_curve = path(path.time(ratio(c)))
    torch.testing.assert_close(c.alpha, on_the_curve.alpha, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(c.sigma, on_the_curve.sigma, rtol=1e-10, atol=1e-13)
    for ours, plain in zip(Shifted(path)(t), path(t), strict=True):  # by 1, the default
        torch.testing.assert_close(ours, plain, rtol=1e-11, atol=1e-12)


def test_a_shift_is_exact_at_the_ends() -> None:
    quarter = math.pi / 2
    c = Shifted(VP(CosineSchedule()), 2.0)(ENDS)
    assert [v.tolist() for v in c] == [[1, 0], [0, 1], [0, -quarter / 2], [2 * quarter, 0]]
    assert [v.tolist() for v in Shifted(VE(80.0), 3.0)(ENDS)] == [[1, 1], [0, 240], [0, 0], [240, 240]]
    for path in (VP(), VP(SigmoidSchedule())):  # infinite slopes stay without a value
        c = Shifted(path, 2.0)(ENDS)
        assert math.isnan(c.dsigma[0])
        assert (float(c.alpha[0]), float(c.sigma[0])) == (1.0, 0.0)


def test_a_table_cannot_be_shifted() -> None:
    with pytest.raises(ValueError, match=r"A table cannot be shifted: .*entries alone.* \(vp, linear or ve\)"):
        Shifted(Table(), 2.0)
    assert Shifted(gaussian.VP(), 2.0).factor == 2.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VE(0.0), r"top = 0.0 must be a sigma"),
        (lambda: VE(math.inf), r"top = inf must be"),
        (lambda: LinearSchedule(0.0, 1.0), r"not low = 0.0 and high = 1.0"),
        (lambda: LinearSchedule(1.0, 1.0), r"not low = 1.0 and high = 1.0"),
        (lambda: LinearSchedule(0.1, math.inf), r"high = inf"),
        (lambda: LinearSchedule(math.nan, 1.0), r"low = nan"),
        (lambda: SigmoidSchedule(-3.0, 3.0), r"not from -3.0 to 3.0"),
        (lambda: SigmoidSchedule(3.0, 3.0), r"not from 3.0 to 3.0"),
        (lambda: SigmoidSchedule(math.inf, 0.0), r"not from inf to 0.0"),
        (lambda: SigmoidSchedule(3.0, -math.inf), r"not from 3.0 to -inf"),
        (lambda: Shifted(Linear(), 0.0), r"factor = 0.0 must be"),
        (lambda: Shifted(Linear(), math.inf), r"factor = inf must be"),
        (lambda: Shifted(Linear(), math.nan), r"factor = nan must be"),
    ],
)
def test_impossible_paths_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_table_takes_numbers() -> None:
    assert Table(CosineBetas(5, s=0.0)).steps == 5  # the cosine itself, cut off at max_beta
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
        (LinearBetas, {"start": 0.0}, "start = 0.0 must be"),
        (SigmoidBetas, {"end": float("nan")}, "end = nan must be"),
        (CosineBetas, {"steps": -1}, "at least 1 step, not steps = -1"),
        (CosineBetas, {"max_beta": 1.0}, "max_beta = 1.0 must lie strictly between"),
        (CosineBetas, {"s": float("nan")}, "s = nan must be"),
    ],
)
def test_schedules_refuse_what_makes_no_betas(schedule: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**settings)


@pytest.mark.parametrize("path", [*CONTINUOUS.values(), Table(), Table(zero_snr=True)])
def test_only_on_exploding_paths_is_t_the_noise_level(path: Path) -> None:
    assert is_noise_level(path) == (isinstance(path, VE) or isinstance(getattr(path, "path", None), VE))


def test_shrunken_data_or_a_bent_sigma_are_no_noise_level() -> None:
    """VE in every way but one."""

    def bent(shrink: float, power: float) -> Any:
        return lambda t: Coeffs(1 - shrink * t, 80 * t**power, -shrink * t.sign(), 80 * t)

    assert is_noise_level(bent(0.0, 1.0)) and is_noise_level(Shifted(VE(0.5), 3.0))
    assert not is_noise_level(bent(1e-3, 1.0)) and not is_noise_level(bent(-1e-3, 1.0))
    assert not is_noise_level(bent(0.0, 1.01)) and not is_noise_level(bent(0.0, 0.99))


def test_the_least_ratio_is_that_of_the_first_time() -> None:
    """sqrt(beta_1/(1 - beta_1)) on a table, whatever its end; 0 on every path without entries."""
    assert least_ratio(Table((0.2, 0.3))) == pytest.approx(0.5, rel=1e-14)
    assert (
        least_ratio(Table()) == least_ratio(Table(zero_snr=True)) == pytest.approx(math.sqrt(1e-4 / 0.9999), rel=1e-9)
    )
    assert {least_ratio(p) for p in CONTINUOUS.values()} == {0.0}


@pytest.mark.parametrize(
    "settings",
    [{"s": -0.1}, {"s": math.inf}, {"s": math.nan}, {"max_beta": 0.0}, {"max_beta": 1.0}, {"max_beta": -0.5}],
)
def test_cosine_betas_that_are_none_are_refused(settings: dict[str, float]) -> None:
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} = "):
        CosineBetas(**settings)
    CosineBetas(s=0.0, max_beta=0.5)
