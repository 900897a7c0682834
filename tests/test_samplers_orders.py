"""Orders of convergence, measured on Gaussian data against the exact flow (closed form 3).

On even grids every multistep method is of order 2 at most, because its first step and its last are of order 1 (each
makes an error ~h², once). On grids whose steps shrink to ~h² at both ends that error is ~h⁴, and the method's own order
shows. Shrinking only the first three steps is not enough for order 4: divided differences over a cluster of width h²
multiply the errors of the start by h^-6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from affine import DETERMINISTIC, affine, graded, prior, spaced
from gaussian import PATHS, TARGETS, flow_map, model, numbers
from inkwash.drive import drive
from inkwash.noise import Philox
from inkwash.samplers import DpmSolver, RungeKutta
from inkwash.types import Condition, Denoised, Query, Sampler

OWN = {  # the order of the method itself
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    **{f"dpm++ {k}": k for k in (1, 2, 3)},
    **{f"unipc {k} {b}": k + 1 for k in (1, 2, 3) for b in ("bh1", "bh2")},
    **{f"deis {k}": k for k in (1, 2, 3, 4)},
    **{f"ipndm {k}": min(k, 2) for k in (1, 2, 3, 4)},  # the weights of even steps on uneven ones
    **{f"adams {k}": k for k in (1, 2, 3, 4)},
}
LAMS = torch.logspace(-2, 0.5, 9, dtype=torch.float64)


def data(path: str) -> Tensor:
    """Eigenvalues over 2.5 decades; on VE, whose noise goes to 80, of wider data."""
    return LAMS * (400 if path == "ve" else 1)


def error(sampler: Sampler, path: str, times: list[float]) -> float:
    """The distance to the exact flow's map, in its gain and its offset over all eigenvalues."""
    lam = data(path)
    mu, x = torch.ones_like(lam), torch.stack([torch.zeros_like(lam), torch.ones_like(lam)])
    grid = torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, 2)
    coroutine = sampler(PATHS[path], x, grid, Philox(0, torch.arange(2)))
    out = drive(coroutine, model(PATHS[path], TARGETS["v"], mu, lam), Condition())
    return float((out - flow_map(PATHS[path], times[0], times[-1], x, mu, lam)).norm())


def order(sampler: Sampler, path: str, grid: Callable[[float, float, int], list[float]]) -> float:
    return math.log2(error(sampler, path, grid(0.9, 0.1, 40)) / error(sampler, path, grid(0.9, 0.1, 80)))


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
def test_order_on_graded_grids(path: str, name: str) -> None:
    """The method's own: k for Adams and DEIS, k for DPM-Solver++, k + 1 for UniPC, and for iPNDM 2."""
    assert order(DETERMINISTIC[name], path, graded) == pytest.approx(OWN[name], abs=0.43)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
def test_order_on_even_grids(path: str, name: str) -> None:
    assert order(DETERMINISTIC[name], path, spaced) == pytest.approx(min(OWN[name], 2), abs=0.25)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("path", "bound"), [("linear", 0.02), ("vp", 0.066), ("ve", 0.02)])
def test_all_the_way_down_to_the_data(path: str, bound: float, name: str) -> None:
    """On an even grid to t = 0 the last step is of order 1, and long in log-SNR: orders lie between 1 and 2 there."""
    first, second = (error(DETERMINISTIC[name], path, spaced(0.98, 0.0, steps)) for steps in (20, 40))
    assert second < (bound if OWN[name] > 1 else 2 * bound if path == "vp" else 0.09)
    assert first / second > 2 ** (1.1 if OWN[name] > 1 else 0.92)


@pytest.mark.parametrize(("order", "own"), [(1, 1), (2, 2), (3, 2)])
@pytest.mark.parametrize("path", ["linear", "vp"])
def test_weak_order_of_the_stochastic_form(path: str, order: Literal[1, 2, 3], own: int) -> None:
    """The mean is exact on Gaussian data, and the variance converges with order 1, 2 and 2.

    The answers it remembers carry the noise of the steps between them, which no polynomial follows: 3 is not reached.
    """
    errors = []
    for steps in (40, 80):
        found = affine(DpmSolver(order, sde=True), PATHS[path], graded(0.9, 0.1, steps))
        mean, variance = found.moments(*prior(PATHS[path], 0.9))
        want_mean, want = prior(PATHS[path], 0.1)
        torch.testing.assert_close(mean, want_mean, rtol=1e-12, atol=1e-12)
        errors.append(float((variance - want).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(own, abs=0.42)


@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
def test_adaptive_runge_kutta_keeps_its_tolerance(path: str) -> None:
    """The error is proportional to the tolerance: measured tol^0.85 to tol^1.10, from 1e-4 to 1e-8."""
    loose, tight = (error(RungeKutta(tol, tol), path, [0.9, 0.1]) for tol in (1e-4, 1e-8))
    assert 0.8 < math.log10(loose / tight) / 4 < 1.15
    assert tight < 1e-7
    # With the relative tolerance loose, the absolute one counts, and the other way round, though less.
    assert error(RungeKutta(1e-8, 1e-2), path, [0.9, 0.1]) > 100 * tight
    assert error(RungeKutta(1e-2, 1e-8), path, [0.9, 0.1]) > 100 * tight


def test_adaptive_runge_kutta_takes_each_rows_own_steps() -> None:
    """A row of a narrow, far coordinate takes more steps than an easy one, and neither waits for the other's error."""
    path, asked = PATHS["linear"], []
    mu, lam = torch.zeros(1, dtype=torch.float64), torch.tensor([1e-4], dtype=torch.float64)
    x = torch.tensor([[30.0], [0.0]], dtype=torch.float64)

    def watch(query: Query, answer: Denoised) -> None:
        asked.append(query.t)

    times = torch.tensor([[0.9, 0.9], [0.0, 0.0]], dtype=torch.float64)
    drive(
        RungeKutta(last=0.01)(path, x, times, Philox(0, torch.arange(2))),
        model(path, TARGETS["v"], mu, lam),
        Condition(),
        watch,
    )
    hard, easy = (len(torch.stack(asked)[:, row].unique()) for row in (0, 1))
    assert hard > 1.5 * easy
    assert len(asked) % 6 == 2  # six a step, the first of all, and the last step's
    final = numbers(path, float(asked[-1][0]))
    assert final[1] / final[0] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("path", "last", "expected"), [("table", 0.002, 0.0100005), ("table", 0.05, 0.05), ("ve", 0.002, 0.002)]
)
def test_adaptive_runge_kutta_ends_where_the_path_begins(path: str, last: float, expected: float) -> None:
    """A table is not asked below its first entry, whose ratio is 0.01; on other paths `last` stands."""
    asked: list[float] = []
    times = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    sampler, x = RungeKutta(0.1, 0.1, last), torch.full((1, 4), 0.7, dtype=torch.float64)
    coroutine = sampler(PATHS[path], x, times, Philox(0, torch.arange(1)))
    drive(coroutine, model(PATHS[path], TARGETS["v"]), Condition(), lambda q, _: asked.append(float(q.t)))
    final = numbers(PATHS[path], asked[-1])
    assert final[1] / final[0] == pytest.approx(expected, rel=1e-6)
    assert asked[-1] == pytest.approx(min(asked), rel=1e-12)
