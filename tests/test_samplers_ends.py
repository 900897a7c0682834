"""Samplers where a path ends: leaving clean data, arriving at pure noise, and with nothing left to do."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gaussian import V, model
from inkwash.bound import decoder_term
from inkwash.drive import drive
from inkwash.likelihood import discrete_bound
from inkwash.noise import Philox
from inkwash.paths import Linear
from inkwash.samplers import Ddim, Deis, DpmSolver, Heun, Ipndm, RungeKutta, UniPC
from inkwash.types import Coeffs, Condition, Denoised, Query, Sampler


@dataclass(frozen=True)
class Wide:
    """A user's path that ends in noise of deviation 2 and slope 4."""

    def __call__(self, t: Tensor) -> Coeffs:
        return Coeffs(1 - t, 2 * t**2, -torch.ones_like(t), 4 * t)

    def time(self, ratio: Tensor) -> Tensor:
        raise NotImplementedError

    def snap(self, t: Tensor) -> Tensor:
        return t


def consistent(query: Query, cond: Condition) -> Denoised:
    """Any noise at all, also in clean data, and the data that go with it."""
    c = Wide()(query.t).like(query.x)
    eps = torch.cos(3 * query.x) + 0.5 + query.t[:, None]
    return Denoised((query.x - c.sigma * eps) / c.alpha, eps)


def walked(sampler: Sampler, times: list[list[float]]) -> Tensor:
    x = torch.tensor([[0.3, -1.0], [1.1, 0.2]], dtype=torch.float64)[: len(times[0])]
    grid = torch.tensor(times, dtype=torch.float64)
    return drive(sampler(Wide(), x, grid, Philox(0, torch.arange(len(x)))), consistent, Condition())


@pytest.mark.parametrize("sampler", [DpmSolver(1), DpmSolver(2), DpmSolver(3), UniPC(2), UniPC(3), Deis(), Ipndm()])
@pytest.mark.parametrize("step", [[0.0, 0.4], [0.4, 1.0], [0.4, 0.7], [0.4, 0.0]])
def test_one_step_is_ddims_at_both_ends(sampler: Sampler, step: list[float]) -> None:
    """Up from clean data, into pure noise, between, and back to the data."""
    times = [[step[0]], [step[1]]]
    torch.testing.assert_close(walked(sampler, times), walked(Ddim(), times), rtol=1e-12, atol=1e-12)


def test_rows_leave_the_data_one_by_one() -> None:
    """One row begins in clean data and another does not; order 1 is DDIM at every step."""
    times = [[0.0, 0.1], [0.3, 0.5], [0.6, 0.6], [0.9, 1.0]]
    torch.testing.assert_close(walked(DpmSolver(1), times), walked(Ddim(), times), rtol=1e-12, atol=1e-12)


def test_a_little_churn_is_some() -> None:
    x, times = torch.ones(1, 4, dtype=torch.float64), torch.tensor([[0.9], [0.5], [0.2]], dtype=torch.float64)

    def run(sampler: Sampler, seed: int) -> Tensor:
        noise = Philox(seed, torch.arange(1))
        return drive(sampler(Linear(), x, times, noise), model(Linear(), V()), Condition())

    assert torch.equal(run(Heun(), 0), run(Heun(), 1))
    assert not torch.equal(run(Heun(churn=0.5), 0), run(Heun(churn=0.5), 1))
    with pytest.raises(ValueError, match="adds noise"):
        drive(
            Heun(churn=0.5)(Linear(), x, times.flip(0), Philox(0, torch.arange(1))), model(Linear(), V()), Condition()
        )


@pytest.mark.parametrize(("times", "last"), [([0.9, 0.5, 0.2], 0), ([0.9, 0.0], 1), ([0.001, 0.0], 1)])
def test_the_adaptive_solver_jumps_to_clean_data_alone(times: list[float], last: int) -> None:
    """Six calls for each of its steps and one before them; one more, where it stopped, for the step to sigma = 0."""
    asked: list[float] = []
    x, grid = torch.ones(1, 4, dtype=torch.float64), torch.tensor(times, dtype=torch.float64)[:, None]
    coroutine = RungeKutta()(Linear(), x, grid, Philox(0, torch.arange(1)))
    drive(coroutine, model(Linear(), V()), Condition(), lambda q, a: asked.append(float(q.t)))
    assert (len(asked) - 1 - last) % 6 == 0
    assert min(asked) == pytest.approx(max(times[-1], min(0.002 / 1.002, times[0])), rel=1e-9)
    if times[0] == 0.001:  # below where it would stop: nothing is left but the jump
        assert asked == [0.001, 0.001]


def test_a_chain_of_two_steps_knows_the_step_before() -> None:
    """L_0 with the small variance takes the posterior's of the first step in place of 0."""
    x0, times = torch.tensor([[0.4, -0.2]], dtype=torch.float64), torch.tensor([0.9, 0.3, 0.0], dtype=torch.float64)
    denoiser, noise, cond = model(Linear(), V(), torch.zeros(2), torch.ones(2)), Philox(3, torch.arange(1)), Condition()
    seen: list[tuple[Query, Denoised]] = []

    def watched(query: Query, cond: Condition) -> Denoised:
        seen.append((query, denoiser(query, cond)))
        return seen[-1][1]

    found = discrete_bound(watched, Linear(), times, x0, cond, noise).steps[-1]
    query, answer = seen[-1]
    want = decoder_term(x0, answer, Linear()(query.t), Linear()(times[:1]), "small")
    torch.testing.assert_close(found, want.sum(1), rtol=1e-12, atol=0)
