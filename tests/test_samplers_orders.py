"""Orders of convergence, measured on Gaussian data against the exact flow (closed form 3).

On even grids every multistep method is of order 2 at most, because its first step and its last are of order 1 (each
makes an error ~h², once). On grids whose steps shrink to ~h² at both ends that error is ~h⁴, and the method's own order
shows. Shrinking only the first three steps is not enough for order 4: divided differences over a cluster of width h²
multiply the errors of the start by h^-6.
"""

from __future__ import annotations

import math
from functools import lru_cache

import pytest
import torch

from affine import DETERMINISTIC, STOCHASTIC, graded, spaced
from convergence import OWN, errors, orders, weak_errors
from gaussian import PATHS, TARGETS, model, numbers
from inkwash.drive import drive
from inkwash.noise import Philox
from inkwash.samplers import DpmSolver, Heun, RungeKutta
from inkwash.types import Condition, Denoised, Query, Sampler

ROADS = ["linear", "vp", "ve", "table"]  # a table's alpha is smooth between its entries, and no method loses its order


@lru_cache
def measured(path: str, name: str) -> list[float]:
    """The order on graded steps and on even ones, from 80 and 160 steps."""
    grids = [grid(0.9, 0.1, steps) for grid in (graded, spaced) for steps in (80, 160)]
    return orders(errors(DETERMINISTIC[name], path, grids))


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("path", ROADS)
def test_order_on_graded_grids(path: str, name: str) -> None:
    """The method's own: k for Adams and DEIS, k for DPM-Solver++, k + 1 for UniPC, and for iPNDM 2."""
    assert measured(path, name)[0] == pytest.approx(OWN[name], abs=0.25)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("path", ROADS)
def test_order_on_even_grids(path: str, name: str) -> None:
    assert measured(path, name)[1] == pytest.approx(min(OWN[name], 2), abs=0.25)


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("path", "bound"), [("linear", 0.02), ("vp", 0.066), ("ve", 0.02)])
def test_all_the_way_down_to_the_data(path: str, bound: float, name: str) -> None:
    """On an even grid to t = 0 the last step is of order 1, and long in log-SNR: orders lie between 1 and 2 there."""
    first, second = errors(DETERMINISTIC[name], path, [spaced(0.98, 0.0, steps) for steps in (20, 40)])
    assert second < (bound if OWN[name] > 1 else 2 * bound if path == "vp" else 0.09)
    assert first / second > 2 ** (1.1 if OWN[name] > 1 else 0.92)


WEAK: dict[str, tuple[Sampler, int]] = {
    "ancestral": (STOCHASTIC["ancestral"], 1),
    "ancestral large": (STOCHASTIC["ancestral large"], 1),
    "ddim 0.3": (STOCHASTIC["ddim 0.3"], 1),
    "ddim 0.7 large": (STOCHASTIC["ddim 0.7 large"], 1),
    "dpm++ 1 sde": (DpmSolver(1, sde=True), 1),
    "dpm++ 2 sde": (DpmSolver(2, sde=True), 2),
    "dpm++ 3 sde": (DpmSolver(3, sde=True), 2),
    "heun churn": (Heun(churn=2.0), 2),
    "heun churn 1.1": (Heun(churn=10.0, churn_noise=1.1), 0),
}


@pytest.mark.parametrize("name", WEAK)
@pytest.mark.parametrize("path", ROADS)
def test_weak_orders(path: str, name: str) -> None:
    """The variance converges with order 1, and with order 2 for Heun and DPM-Solver++ 2 and 3.

    The answers DPM-Solver++ remembers carry the noise of the steps between them, which no polynomial follows: 3 is not
    reached. Churn takes x from x_t's law exactly to that of another time, and Heun's steps back are of order 2; with
    churn_noise other than 1 the limit is another law. The mean is exact but for Heun's, where
    the slopes alpha' and sigma' change.
    """
    sampler, own = WEAK[name]
    (mean, variance), (finer_mean, finer) = (weak_errors(sampler, path, graded(0.9, 0.1, steps)) for steps in (80, 160))
    assert math.log2(variance / finer) == pytest.approx(own, abs=0.25)
    if isinstance(sampler, Heun) and path in ("vp", "table"):  # where alpha' and sigma' are not constant
        assert math.log2(mean / finer_mean) == pytest.approx(2, abs=0.25)
    else:
        assert max(mean, finer_mean) < 1e-12


@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
def test_adaptive_runge_kutta_keeps_its_tolerance(path: str) -> None:
    """The error is proportional to the tolerance: measured tol^0.85 to tol^1.10, from 1e-4 to 1e-8."""
    loose, tight = (errors(RungeKutta(tol, tol), path, [[0.9, 0.1]])[0] for tol in (1e-4, 1e-8))
    assert 0.8 < math.log10(loose / tight) / 4 < 1.15
    assert tight < 1e-7
    # With the relative tolerance loose, the absolute one counts, and the other way round, though less.
    assert errors(RungeKutta(1e-8, 1e-2), path, [[0.9, 0.1]])[0] > 100 * tight
    assert errors(RungeKutta(1e-2, 1e-8), path, [[0.9, 0.1]])[0] > 100 * tight


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
