"""Samplers on Gaussian data, where everything is known (REFERENCES' closed forms 1, 2, 3 and 9; math.md, section 7).

With the best denoiser for Gaussian data every sampler is an affine map, A·x + b + sum_i K_i·z_i in each coordinate. The
map is read off exactly by feeding it unit impulses in place of noise; no Monte Carlo is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from gaussian import LAM, MU, PAIRS, PATHS, TARGETS, VP, flow_map, model, numbers, w2
from inkwash.drive import drive
from inkwash.noise import Philox, Stream
from inkwash.paths import CosineBetas, Linear, LinearBetas, Table
from inkwash.samplers import Ancestral, Ddim, Euler, Heun
from inkwash.targets import Eps, V
from inkwash.times import grid
from inkwash.types import Coeffs, Condition, Denoised, Path, Query, Sampler

DOWN = [0.98, 0.9, 0.71, 0.7, 0.4, 0.22, 0.05, 0.0]  # any grid; t = 1 is singular for eps on `Linear`

SAMPLERS: dict[str, Sampler] = {
    "ddim": Ddim(),
    "ddim 0.3": Ddim(eta=0.3),
    "ddim 0.7 large": Ddim(eta=0.7, added="large"),
    "ddim 1": Ddim(eta=1.0),
    "ancestral": Ancestral(),
    "ancestral large": Ancestral(added="large"),
    "euler": Euler(),
    "heun": Heun(),
}


@dataclass
class Impulses:
    """In place of noise: row 2 + i gets a unit impulse at step i, and nothing else."""

    steps: list[int]

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        assert stream == Stream.STEP
        self.steps.append(step)
        z = torch.zeros_like(like)
        z[2 + step] = 1.0
        return z


@dataclass
class Affine:
    """out = gain·x + offset + sum_i noise[i]·z_i, each [D]."""

    gain: Tensor
    offset: Tensor
    noise: Tensor

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and variance of the output for an input of these."""
        return self.gain * mean + self.offset, self.gain**2 * variance + self.noise.square().sum(0)


def affine(sampler: Sampler, path: Path, times: list[float], target: str = "v", lam: Tensor = LAM) -> Affine:
    """Run the sampler through a real model on impulses, and read off its map."""
    steps, impulses = len(times) - 1, Impulses([])
    x = torch.zeros(2 + steps, len(lam), dtype=torch.float64)
    x[1] = 1.0
    coroutine = sampler(path, x, grid(times, len(x)), impulses)  # type: ignore[arg-type]
    out = drive(coroutine, model(path, TARGETS[target], lam=lam), Condition())
    random = isinstance(sampler, Ancestral) or (isinstance(sampler, Ddim) and sampler.eta > 0)
    last = steps - 1 if times[-1] == 0 else steps
    assert impulses.steps == (list(range(last)) if random else [])  # fresh noise at every step that adds some, once
    return Affine(out[1] - out[0], out[0], out[2:] - out[0])


def expected(sampler: Sampler, path: Path, times: list[float], lam: Tensor = LAM) -> Affine:
    """The same map by the recursions of math.md, in forms that the samplers do not use."""
    gain, offset, noise = torch.ones_like(lam), torch.zeros_like(lam), []
    for t, s in pairwise(times):
        (a_t, s_t, _, _), (a_s, s_s, _, _) = numbers(path, t), numbers(path, s)
        S2 = a_t**2 * lam + s_t**2

        # One step in z = x - alpha_t·mu: z -> k·z, and mean -> m·mu.
        def slope(u: float) -> Tensor:  # S'/S, the velocity's factor of z
            a, b, da, db = numbers(path, u)
            return (a * da * lam + b * db) / (a**2 * lam + b**2)

        added = 0.0
        if isinstance(sampler, (Ddim, Ancestral)):
            eta = sampler.eta if isinstance(sampler, Ddim) else 1.0
            beta = s_t**2 - (a_t / a_s) ** 2 * s_s**2
            small = s_s**2 * beta / s_t**2
            k = (a_s * a_t * lam + math.sqrt(max(s_s**2 - eta**2 * small, 0.0)) * s_t) / S2
            if eta == 1.0:  # the posterior mean with the best x0 (eq. 5)
                k = a_t / a_s * s_s**2 / s_t**2 + a_s * beta / s_t**2 * a_t * lam / S2
            m = a_s
            added = eta * math.sqrt(small if sampler.added == "small" or s == 0 else beta)
        else:
            h, da = s - t, numbers(path, t)[2]
            k, m = 1 + h * slope(t), a_t + h * da
            if isinstance(sampler, Heun) and s_s > 0:
                # The second slope is taken at Euler's point, k·z + m·mu, which is k·z + (m - a_s)·mu from the mean.
                at_s, da_s = slope(s), numbers(path, s)[2]
                k, m = (
                    1 + h / 2 * (slope(t) + at_s * k),
                    a_t + h / 2 * (da + da_s + at_s * (m - a_s)),
                )
        gain, offset, noise = k * gain, k * (offset - a_t * MU) + m * MU, [k * n for n in noise]
        noise.append(torch.full_like(lam, added))
    return Affine(gain, offset, torch.stack(noise))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_every_sampler_is_its_recursion(name: str, path: str, target: str) -> None:
    """Closed form 2: gain, offset and the share of every step's noise, for each eigenvalue, to 1e-10."""
    sampler = SAMPLERS[name]
    found, want = affine(sampler, PATHS[path], DOWN, target), expected(sampler, PATHS[path], DOWN)
    torch.testing.assert_close(found.gain, want.gain, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.offset, want.offset, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.noise, want.noise, rtol=1e-10, atol=1e-10)
    mean, variance = found.moments(torch.zeros_like(MU), torch.ones_like(MU))
    want_mean, want_variance = want.moments(torch.zeros_like(MU), torch.ones_like(MU))
    torch.testing.assert_close((mean, variance), (want_mean, want_variance), rtol=1e-10, atol=1e-10)


def prior(path: Path, t: float, lam: Tensor = LAM) -> tuple[Tensor, Tensor]:
    """The mean and variance of x_t itself: what a sampler that starts at t should be given."""
    alpha, sigma, *_ = numbers(path, t)
    return alpha * MU, alpha**2 * lam + sigma**2


def spaced(start: float, end: float, steps: int) -> list[float]:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()


ORDERS = [("ddim", 1), ("euler", 1), ("heun", 2)]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_order_of_convergence(name: str, order: int, path: str) -> None:
    """Closed form 3: the error against the exact flow map from t = 0.9 to 0.1 falls with the claimed order."""
    errors = []
    for steps in (20, 40):
        found = affine(SAMPLERS[name], PATHS[path], spaced(0.9, 0.1, steps))
        x = torch.ones_like(MU)
        errors.append((found.gain * x + found.offset - flow_map(PATHS[path], 0.9, 0.1, x)).abs())
    measured = torch.log2(errors[0].norm() / errors[1].norm())
    assert float(measured) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("name", "order"), ORDERS)
def test_all_the_way_down_to_the_data(name: str, order: int, path: str) -> None:
    """To t = 0, where VP's sigma' is infinite and the last step of Heun is Euler's, the error still falls."""
    errors, x = [], torch.ones_like(MU)
    for steps in (40, 80):
        found = affine(SAMPLERS[name], PATHS[path], spaced(0.98, 0.0, steps))
        error = found.gain * x + found.offset - flow_map(PATHS[path], 0.98, 0.0, x)
        errors.append(float(error.norm()))
    # Heun gets to its order late where sigma/alpha changes fastest at the end: 1.07 on VE, 1.6 on VP, 2.02 on Linear.
    assert math.log2(errors[0] / errors[1]) > (0.75 if order == 1 else 1.05)
    assert errors[1] < (0.05 if order == 1 else 0.009)


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


def test_euler_on_linear_is_ddim() -> None:
    times = [1.0, *DOWN]
    a, b = affine(Euler(), Linear(), times, "flow"), affine(Ddim(), Linear(), times, "flow")
    torch.testing.assert_close(a.gain, b.gain, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(a.offset, b.offset, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("path", [p for p in PATHS if p != "linear"])
@pytest.mark.parametrize("name", ["ddim", "ddim 0.3", "ddim 1"])
def test_same_trajectory_after_a_change_of_variables(name: str, path: str) -> None:
    """Closed form 9: at equal sigma/alpha, x/alpha is the same on every path, at every step, with the same noise.

    For the small variance: the large one in these units, (alpha_t/alpha_s)²·(r_t² - r_s²), depends on the path.
    """
    ratios = torch.tensor([20.0, 9.0, 8.5, 3.0, 1.0, 0.3, 0.05], dtype=torch.float64)
    start = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trajectories = []
    for p in (PATHS["linear"], PATHS[path]):
        seen: list[Tensor] = []

        def watch(query: Query, answer: Denoised, p: Path = p, seen: list[Tensor] = seen) -> None:
            seen.append(query.x / p(query.t).alpha[:, None])

        times = p.time(ratios)[:, None].expand(-1, 3)
        noise, x = Philox(0, torch.arange(3)), start * p(times[0]).alpha[:, None]
        out = drive(SAMPLERS[name](p, x, times, noise), model(p, V()), Condition(), watch)
        trajectories.append(torch.stack([*seen, out / p(times[-1]).alpha[:, None]]))
    assert len(trajectories[0]) == len(ratios)
    torch.testing.assert_close(trajectories[0], trajectories[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("path", PATHS)
def test_rows_of_a_batch_may_be_on_different_grids(name: str, path: str) -> None:
    """Each row alone gives the same bits, noise included; one row ends at t = 0 and the others before."""
    times = torch.tensor([[0.95, 0.5, 0.2, 0.0], [0.8, 0.7, 0.6, 0.5], [0.9, 0.31, 0.3, 0.01]], dtype=torch.float64).T
    noise = Philox(1, torch.tensor([5, 0, 900]))
    x = noise(torch.empty(3, 4, dtype=torch.float64), 0, Stream.EPS)

    def run(rows: slice) -> Tensor:
        part = Philox(1, noise.index[rows])
        return drive(SAMPLERS[name](PATHS[path], x[rows], times[:, rows], part), model(PATHS[path], V()), Condition())

    whole = run(slice(None))
    assert bool(whole.isfinite().all())
    for i in range(3):
        assert torch.equal(run(slice(i, i + 1))[0], whole[i])


def test_steps_that_are_asked() -> None:
    """Ddim and Euler ask once a step, at its start; Heun twice, but once where the step ends without noise."""
    asked: dict[str, list[float]] = {}
    for name in ("ddim", "euler", "heun"):
        asked[name] = []

        def watch(query: Query, answer: Denoised, times: list[float] = asked[name]) -> None:
            assert torch.equal(query.t, query.s)
            times.append(round(float(query.t[0]), 6))

        x = torch.ones(2, 4, dtype=torch.float64)
        coroutine = SAMPLERS[name](Linear(), x, grid([1.0, 0.6, 0.3, 0.0], 2), Philox(0, torch.arange(2)))
        drive(coroutine, model(Linear(), V()), Condition(), watch)
    assert asked["ddim"] == asked["euler"] == [1.0, 0.6, 0.3]
    assert asked["heun"] == [1.0, 0.6, 0.6, 0.3, 0.3]


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_follows_float64(name: str) -> None:
    """Pictures are float32; their coefficients come from float64, so a run stays within rounding of the exact one."""
    outs = []
    for dtype in (torch.float32, torch.float64):
        denoiser, x = model(Linear(), V(), MU.to(dtype), LAM.to(dtype)), torch.ones(2, 4, dtype=dtype)
        coroutine = SAMPLERS[name](Linear(), x, grid(50, 2), Philox(0, torch.arange(2)))
        outs.append(drive(coroutine, denoiser, Condition()))
    assert outs[0].dtype == torch.float32
    torch.testing.assert_close(outs[0].double(), outs[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [n for n in SAMPLERS if n not in ("euler", "heun")])
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
        out = drive(coroutine, model(path, V()), Condition())
        assert bool(out.isfinite().all())
        if end is closest:
            torch.testing.assert_close(out, x, rtol=0, atol=1e-6)  # moved by sqrt(beta) at most


@pytest.mark.parametrize("eta", [-0.1, 1.01, math.nan])
def test_eta_outside_its_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match=rf"eta must lie in \[0, 1\].*{eta}"):
        Ddim(eta=eta)


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
