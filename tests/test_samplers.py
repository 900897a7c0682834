"""Samplers on Gaussian data, and what they refuse. Their formulas are proved in test_samplers_moments, their orders in
test_samplers_orders, and what rows of a batch do in test_samplers_rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from affine import EVERY, MIX, SAMPLERS, affine, prior, spaced
from gaussian import LAM, MU, PATHS, VP, model, numbers, w2
from inkwash import paths
from inkwash.drive import drive
from inkwash.grids import grid
from inkwash.guidance import Clipped
from inkwash.noise import Philox
from inkwash.paths import CosineBetas, Linear, LinearBetas, Table
from inkwash.samplers import Adams, Ancestral, Ddim, Deis, DpmSolver, Euler, Heun, Ipndm, RungeKutta, UniPC
from inkwash.targets import X0, Eps, V, check
from inkwash.types import Coeffs, Condition, Denoised, Denoiser, Path, Query, Sampler

DOWN = [0.98, 0.9, 0.71, 0.7, 0.4, 0.22, 0.05, 0.0]


def sampled(sampler: Sampler, path: Path, times: list[float], size: int = 2, mix: bool = True) -> Tensor:
    """From ones, with noise that is counted."""
    exact = model(path, V())

    def denoiser(query: Query, cond: Condition) -> Denoised:
        return exact(query, cond)._replace(var_mix=MIX.expand_as(query.x) if mix else None)

    x = torch.ones(size, 4, dtype=torch.float64)
    return drive(sampler(path, x, grid_of(times, size), Philox(0, torch.arange(size))), denoiser, Condition())


def grid_of(times: list[float], size: int) -> Tensor:
    return torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, size)


@pytest.mark.parametrize("path", ["linear", "table", "cosine50", "vp"])
@pytest.mark.parametrize("name", ["ancestral", "ancestral large", "ddim 0.3", "ddim", "heun"])
def test_samples_approach_the_data(name: str, path: str) -> None:
    """The exact W2 distance between what comes out and the data: halved by doubling the steps."""
    distances = []
    for steps in (32, 64):
        found = affine(SAMPLERS[name], PATHS[path], spaced(0.98, 0.0, steps))
        distances.append(w2(*found.moments(*prior(PATHS[path], 0.98))))
    assert math.log2(distances[0] / distances[1]) > 0.8
    assert distances[1] < (0.01 if name == "heun" else 0.12)


def test_many_ancestral_steps_give_the_datas_variance() -> None:
    """As DDPM does: every step of its table, from pure noise, with either variance."""
    table, noise = Table(LinearBetas(250, scaled=True)), (torch.zeros_like(MU), torch.ones_like(MU))
    for added in ("small", "large"):
        found = affine(Ancestral(added), table, spaced(1.0, 0.0, 250))  # type: ignore[arg-type]
        mean, variance = found.moments(*noise)
        torch.testing.assert_close(mean, MU, rtol=0.01, atol=0.01)
        torch.testing.assert_close(variance, LAM, rtol=0.05, atol=4e-3)


def test_the_two_variances_are_exact_at_their_extremes() -> None:
    """On any grid: "small" is the reverse variance of a single point, "large" that of variance-one data (VP only)."""
    for path in (Table(CosineBetas(40)), PATHS["vp"]):
        point = affine(Ancestral("small"), path, DOWN[:-1], lam=torch.zeros(4, dtype=torch.float64))
        _, variance = point.moments(*prior(path, DOWN[0], torch.zeros(4)))
        torch.testing.assert_close(variance, torch.full_like(MU, numbers(path, DOWN[-2])[1] ** 2), rtol=1e-10, atol=0)
        unit = affine(Ancestral("large"), path, DOWN[:-1], lam=torch.ones(4, dtype=torch.float64))
        _, variance = unit.moments(*prior(path, DOWN[0], torch.ones(4)))
        torch.testing.assert_close(variance, torch.ones_like(MU), rtol=1e-10, atol=0)


def test_ancestral_is_ddim_with_eta_one_and_adds_nothing_at_the_end() -> None:
    for added in ("small", "large"):
        a, b = (affine(s, Linear(), DOWN) for s in (Ancestral(added), Ddim(1.0, added)))  # type: ignore[arg-type]
        assert torch.equal(a.noise, b.noise)
        assert torch.equal(a.gain, b.gain)
        assert a.noise[-1].abs().max() == 0
        assert a.noise[:-1].abs().min() > 0


@pytest.mark.parametrize("name", EVERY)
def test_float32_follows_float64(name: str) -> None:
    """Pictures are float32; their coefficients come from float64, so a run stays within rounding of the exact one."""
    outs = []
    for dtype in (torch.float32, torch.float64):
        exact, x = model(Linear(), V(), MU.to(dtype), LAM.to(dtype)), torch.ones(2, 4, dtype=dtype)

        def denoiser(query: Query, cond: Condition, exact: Denoiser = exact, dtype: torch.dtype = dtype) -> Denoised:
            return exact(query, cond)._replace(var_mix=MIX.to(dtype).expand_as(query.x))

        coroutine = EVERY[name](Linear(), x, grid_of(spaced(1.0, 0.0, 50), 2), Philox(0, torch.arange(2)))
        outs.append(drive(coroutine, denoiser, Condition()))
    assert outs[0].dtype == torch.float32
    torch.testing.assert_close(outs[0].double(), outs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n.startswith(("ddim", "anc", "dpm++ 1 s"))])
def test_rounding_makes_no_nan(name: str) -> None:
    """Variances that are 0 but for rounding do not come out as roots of negative numbers."""

    class Short(VP):  # from pure noise of deviation 0.7, where sigma_s² and the small variance are equal
        def __call__(self, t: Tensor) -> Coeffs:
            return Coeffs(1 - t, 0.7 * t, -torch.ones_like(t), torch.full_like(t, 0.7))

    s = torch.linspace(0.001, 0.999, 1000, dtype=torch.float64)
    closest = s - 1e-16  # a step so short that beta is rounding, and at some entries of the table negative
    for path, start, end in ((Short(), torch.ones_like(s), s), (Linear(), s, closest), (PATHS["table"], s, closest)):
        x = torch.ones(1000, 4, dtype=torch.float64)
        coroutine = SAMPLERS[name](path, x, torch.stack([start, end]), Philox(0, torch.arange(1000)))
        exact = model(path, V())

        def denoiser(query: Query, cond: Condition, exact: Denoiser = exact) -> Denoised:
            return exact(query, cond)._replace(var_mix=MIX.expand_as(query.x))

        out = drive(coroutine, denoiser, Condition())
        assert bool(out.isfinite().all())
        if end is closest:
            torch.testing.assert_close(out, x, rtol=0, atol=1e-6)  # moved by sqrt(beta) at most


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n.startswith(("ddim ", "anc", "heun churn")) or "sde" in n])
def test_stochastic_samplers_refuse_to_rise(name: str) -> None:
    """Also one step of one row; the deterministic ones go up."""
    with pytest.raises(ValueError, match="adds noise on its way from noise to data and cannot follow times that rise"):
        sampled(SAMPLERS[name], Linear(), [0.9, 0.5, 0.6, 0.1])
    with pytest.raises(ValueError, match="Use a deterministic sampler"):
        drive(
            SAMPLERS[name](
                Linear(),
                torch.ones(2, 4, dtype=torch.float64),
                torch.tensor([[0.9, 0.5], [0.5, 0.6]], dtype=torch.float64),
                Philox(0, torch.arange(2)),
            ),
            model(Linear(), V()),
            Condition(),
        )
    assert bool(sampled(SAMPLERS[name], Linear(), [0.9, 0.5, 0.5, 0.1]).isfinite().all())


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("ddim", "heun") and "learned" in n])
def test_a_learned_variance_needs_a_model_that_has_one(name: str) -> None:
    with pytest.raises(ValueError, match='added = "learned" needs a model that learned its variance'):
        sampled(SAMPLERS[name], Linear(), [0.9, 0.5], mix=False)
    # Where nothing is added, nothing is asked for.
    assert bool(sampled(SAMPLERS[name], Linear(), [0.9, 0.0], mix=False).isfinite().all())


@pytest.mark.parametrize("sampler", [Euler(), Heun(), Heun(churn=1.0), Adams(1), Adams(4)], ids=repr)
def test_solvers_in_t_refuse_infinite_derivatives(sampler: Sampler) -> None:
    """VP's sigma' is infinite at t = 0, where a rising grid starts; a falling one only ends there, which is no step's
    start. The sigmoid schedule's alpha' is infinite at t = 1, where a falling grid starts and a rising one ends.
    """
    sigmoid = paths.VP(paths.SigmoidSchedule())
    up, down = [0.0, 0.3, 0.9], [1.0, 0.9, 0.4, 0.0]
    if sampler != Heun(churn=1.0):
        for path in (VP(), paths.VP(), sigmoid):
            with pytest.raises(ValueError, match=r"alpha' or sigma' of .* is infinite at t = 0, where a solver in t"):
                sampled(sampler, path, up)
            with pytest.raises(ValueError, match="is infinite at t = 0"):
                sampled(sampler, path, [0.0, 0.5, 0.0])  # also where it comes back to
    with pytest.raises(ValueError, match=r"alpha' or sigma' of .* is infinite at t = 1, .*Use one that needs no deri"):
        sampled(sampler, sigmoid, down)
    assert bool(sampled(sampler, VP(), down).isfinite().all())
    assert bool(sampled(sampler, sigmoid, [0.9, *down[2:]]).isfinite().all())
    # A row that stands there is not asked to move from there; it need not be finite where it does not matter.
    assert bool(sampled(sampler, sigmoid, [0.9, 0.4, 0.0, 0.0]).isfinite().all())
    if sampler != Heun(churn=1.0) and not isinstance(sampler, Heun):
        assert bool(sampled(sampler, sigmoid, [0.4, 0.9, 1.0]).isfinite().all())


def test_heun_refuses_an_infinite_derivative_at_the_end_of_a_step() -> None:
    with pytest.raises(ValueError, match="infinite at t = 1"):
        sampled(Heun(), paths.VP(paths.SigmoidSchedule()), [0.4, 0.9, 1.0])


@pytest.mark.parametrize("name", ["ddim", *(n for n in EVERY if n.startswith(("dpm", "unipc", "deis", "ipn", "rk")))])
def test_others_need_no_derivatives(name: str) -> None:
    sigmoid = paths.VP(paths.SigmoidSchedule())
    assert bool(sampled(EVERY[name], sigmoid, [1.0, 0.9, 0.4, 0.0]).isfinite().all())
    if "sde" not in name:
        assert bool(sampled(EVERY[name], sigmoid, [0.0, 0.3, 0.9]).isfinite().all())


@pytest.mark.parametrize("name", EVERY)
def test_singular_targets_are_told_apart_by_their_answers(name: str) -> None:
    """eps says nothing of the data at alpha = 0, x0 nothing of the noise at sigma = 0: `check` refuses such grids.

    On all other times every sampler gives with each target the same, within rounding.
    """
    for target, times in ((Eps(), [1.0, 0.5, 0.0]), (X0(), [0.0, 0.5, 0.9])):
        with pytest.raises(ValueError, match="does not determine data and noise at t = "):
            check(Linear(), target, torch.tensor(times, dtype=torch.float64))
    outs = []
    for target in (X0(), Eps(), V()):
        exact = model(Linear(), target)

        def denoiser(query: Query, cond: Condition, exact: Denoiser = exact) -> Denoised:
            return exact(query, cond)._replace(var_mix=MIX.expand_as(query.x))

        x = torch.ones(2, 4, dtype=torch.float64)
        coroutine = EVERY[name](Linear(), x, grid_of(DOWN, 2), Philox(0, torch.arange(2)))
        outs.append(drive(coroutine, denoiser, Condition()))
    torch.testing.assert_close(outs[0], outs[2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(outs[1], outs[2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("eta", [-0.1, 1.01, math.nan])
def test_eta_outside_its_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"eta must lie in \[0, 1\].*{eta}"):
        Ddim(eta=eta)


@pytest.mark.parametrize("name", ["churn", "churn_min", "churn_noise"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_churn_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} = {value} must be 0 or more, and finite"):
        Heun(**{name: value})  # type: ignore[arg-type]
    assert getattr(Heun(**{name: 0.0}), name) == 0  # type: ignore[arg-type]


def test_churn_limits_are_refused_where_they_leave_nothing() -> None:
    for low, high in ((1.0, 0.9), (0.0, -1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match=rf"churn_max = {high} must not be below churn_min = {low}"):
            Heun(churn=1.0, churn_min=low, churn_max=high)
    assert Heun(churn_min=1.0, churn_max=1.0).churn_max == 1.0


@pytest.mark.parametrize("name", ["rtol", "atol", "last"])
@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf])
def test_bad_tolerances_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name} = {value} must be more than 0"):
        RungeKutta(**{name: value})


def test_runge_kutta_refuses_answers_that_are_not_smooth() -> None:
    def noisy(query: Query, cond: Condition) -> Denoised:
        bad = torch.full_like(query.x, math.nan) if float(query.t[0]) < 0.5 else query.x
        return Denoised(bad, bad)

    coroutine = RungeKutta()(Linear(), torch.ones(1, 4, dtype=torch.float64), grid_of([0.9, 0.1], 1), Philox(0, MU))
    with pytest.raises(ValueError, match="step shrank to"):
        drive(coroutine, noisy, Condition())


def test_defaults() -> None:
    """What a bare name in a recipe means."""
    assert Ddim() == Ddim(0.0, "small")
    assert Ancestral() == Ancestral("small")
    assert Heun() == Heun(0.0, 0.0, None, 1.0)
    assert DpmSolver() == DpmSolver(2, False)
    assert UniPC() == UniPC(2, "bh2")
    assert (Deis(), Ipndm(), Adams()) == (Deis(3), Ipndm(4), Adams(4))
    assert RungeKutta() == RungeKutta(1e-3, 1e-3, 0.002)


@pytest.mark.parametrize("name", EVERY)
def test_a_clipped_denoiser_runs_under_every_sampler(name: str) -> None:
    """A picture that ends at sigma = 0 is the last answer itself: clipped data stay within their limits."""
    exact = model(Linear(), V())

    def denoiser(query: Query, cond: Condition) -> Denoised:
        return Clipped(exact, Linear())(query, cond)._replace(var_mix=MIX.expand_as(query.x))

    x = torch.full((2, 4), 3.0, dtype=torch.float64)
    last: list[Tensor] = []

    def watch(query: Query, answer: Denoised) -> None:
        last.append(answer.x0)

    noise = Philox(0, torch.arange(2))
    out = drive(EVERY[name](Linear(), x, grid_of([1.0, 0.7, 0.3, 0.0], 2), noise), denoiser, Condition(), watch)
    torch.testing.assert_close(out, last[-1], rtol=1e-12, atol=1e-12)
    assert float(out.abs().max()) == pytest.approx(1.0)  # the means 2.0 and -1.3 lie outside


def test_the_driver_keeps_gradients_off_and_lets_them_on() -> None:
    exact = model(Linear(), Eps())
    modes: list[bool] = []

    def denoiser(query: Query, cond: Condition) -> Denoised:
        modes.append(torch.is_grad_enabled())
        with torch.enable_grad():  # what posterior sampling does
            x = query.x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(exact(query._replace(x=x), cond).x0.sum(), x)
        assert bool((gradient > 0).all())
        return exact(query, cond)

    x = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
    out = drive(Ddim()(Linear(), x, grid(DOWN, 2), Philox(0, torch.arange(2))), denoiser, Condition())
    assert modes == [False] * (len(DOWN) - 1)
    assert not out.requires_grad


def test_a_watcher_may_stop_the_driver() -> None:
    calls: Callable[..., None]

    class StopHere(Exception):  # noqa: N818
        pass

    def calls(query: Query, answer: Denoised) -> None:
        if float(query.t[0]) < 0.5:
            raise StopHere

    x = torch.ones(1, 4, dtype=torch.float64)
    with pytest.raises(StopHere):
        drive(Ddim()(Linear(), x, grid(4, 1), Philox(0, torch.arange(1))), model(Linear(), V()), Condition(), calls)
