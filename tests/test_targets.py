"""Targets: the 2x2 solve on every path, its identities, and what is refused where it has no solution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from gaussian import PAIRS, PATHS, TARGETS, VP
from inkwash.model import Indexed, Model, Plain, UnitVariance
from inkwash.paths import Linear, LinearBetas, Table
from inkwash.targets import X0, Eps, Flow, V, check, solve
from inkwash.types import Coeffs, Condition, Query

T = torch.tensor([0.001, 0.02, 0.137, 0.5, 0.731, 0.99], dtype=torch.float64)


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_round_trip(path: str, target: str) -> None:
    """(x0, eps) -> (x, y) -> (x0, eps), row by row at different times."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, len(T), 3, 4, dtype=torch.float64, generator=g)
    c = PATHS[path](T)
    a, b = TARGETS[target](c)

    def rows(v: Tensor) -> Tensor:
        return v[:, None, None]

    x, y = rows(c.alpha) * x0 + rows(c.sigma) * eps, rows(a) * x0 + rows(b) * eps
    found = solve(c, (a, b), x, y)
    # The condition of the system is that of its determinant: at t = 0.001 the noise is a thousandth of x.
    torch.testing.assert_close(found.x0, x0, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.eps, eps, rtol=0, atol=1e-10)
    torch.testing.assert_close(rows(c.alpha) * found.x0 + rows(c.sigma) * found.eps, x, rtol=1e-12, atol=1e-11)


def test_what_the_targets_are() -> None:
    c = Coeffs(*(torch.tensor([v], dtype=torch.float64) for v in (0.6, 0.8, -3.0, 5.0)))
    assert [tuple(float(v) for v in t(c)) for t in (X0(), Eps(), V(), Flow())] == [(1, 0), (0, 1), (-0.8, 0.6), (-3, 5)]


def test_flow_on_linear_is_the_difference() -> None:
    a, b = Flow()(Linear()(T))
    assert a.tolist() == [-1.0] * 6
    assert b.tolist() == [1.0] * 6


def test_v_is_the_derivative_in_the_angle() -> None:
    """On a variance-preserving path dx/dphi = v for phi = atan2(sigma, alpha) (math.md, eq. 11)."""
    phi, h = torch.tensor([0.1, 0.7, 1.5], dtype=torch.float64), 1e-6
    a, b = V()(Coeffs(phi.cos(), phi.sin(), phi, phi))
    torch.testing.assert_close(a, ((phi + h).cos() - (phi - h).cos()) / (2 * h), rtol=1e-9, atol=0)
    torch.testing.assert_close(b, ((phi + h).sin() - (phi - h).sin()) / (2 * h), rtol=1e-9, atol=0)


@dataclass(frozen=True)
class Edm:
    """A user's own target: EDM's F for data of deviation sd (Karras et al. 2022, eq. 7)."""

    sd: float = 0.5

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        s = self.sd * (c.alpha**2 * self.sd**2 + c.sigma**2).sqrt()
        return c.sigma / s, -c.alpha * self.sd**2 / s


@pytest.mark.parametrize("path", PATHS)
def test_a_users_own_target(path: str) -> None:
    """EDM's preconditioning D = c_skip·x + c_out·F falls out of the 2x2 solve; it is never singular."""
    c = PATHS[path](T)
    check(PATHS[path], Edm(), torch.linspace(0, 1, 11, dtype=torch.float64))
    x, y = torch.randn(2, len(T), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s, sd = c.sigma / c.alpha, 0.5  # EDM's sigma, and its x, are those of alpha = 1
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2).sqrt()
    want = c_skip[:, None] * x / c.alpha[:, None] + c_out[:, None] * y
    torch.testing.assert_close(solve(c, Edm()(c), x, y).x0, want, rtol=1e-9, atol=1e-10)


def test_solve_in_float32_is_cast_from_float64() -> None:
    """Coefficients are divided in float64 and cast once: near alpha = 0 a float32 division would be off."""
    c = Linear()(torch.tensor([0.999], dtype=torch.float64))
    x, y = torch.tensor([[0.3]]), torch.tensor([[-0.7]])
    found = solve(c, Eps()(c), x, y)
    assert found.x0.dtype == found.eps.dtype == torch.float32
    exact = (0.3 - 0.999 * -0.7) / (1 - 0.999)
    assert float(found.x0) == pytest.approx(exact, rel=2e-7)


ONE, ZERO = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)


@pytest.mark.parametrize("target", [V(), Flow()])
def test_v_and_linear_flow_are_never_singular(target: V | Flow) -> None:
    check(Linear(), target, torch.linspace(0, 1, 101, dtype=torch.float64))
    check(Table(LinearBetas(10)), V(), torch.linspace(0, 1, 11, dtype=torch.float64))


@pytest.mark.parametrize(
    ("path", "target", "times", "says"),
    [
        (Linear(), Eps(), [0.5, 1.0], ["Eps()", "t = 1 (alpha = 0, sigma = 1)", "Linear()", "= 0", "Use a target"]),
        (Linear(), X0(), [0.5, 0.0], ["X0()", "t = 0 (alpha = 1, sigma = 0)", "without that time"]),
        (Table(LinearBetas(10)), X0(), [1.0, 0.0], ["X0()", "t = 0 "]),
        (Table(LinearBetas(10)), Flow(), [0.5], ["Flow()", "time derivatives", "Table", "Use target v, eps or x0"]),
        (VP(), Flow(), [0.5, 0.0], ["Flow()", "t = 0 (alpha = 1, sigma = 0)", "inf"]),
    ],
)
def test_what_has_no_solution_is_refused(path: object, target: object, times: list[float], says: list[str]) -> None:
    with pytest.raises(ValueError, match=r"Use ") as error:
        check(path, target, torch.tensor(times, dtype=torch.float64))  # type: ignore[arg-type]
    for words in says:
        assert words in str(error.value)
    # Without the bad time, only what is made of derivatives is refused on a table.
    if not (isinstance(path, Table) and isinstance(target, Flow)):
        check(path, target, torch.tensor(times[:1], dtype=torch.float64))  # type: ignore[arg-type]


def test_one_derivative_is_enough_to_be_refused_on_a_table() -> None:
    for half in (lambda c: (c.dalpha, torch.ones_like(c.alpha)), lambda c: (torch.ones_like(c.alpha), c.dsigma)):
        with pytest.raises(ValueError, match="time derivatives"):
            check(Table(LinearBetas(10)), half, torch.ones(3, dtype=torch.float64))


def test_a_grid_of_rows_is_checked_row_by_row() -> None:
    times = torch.tensor([[0.9, 0.8], [0.5, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="t = 1 "):
        check(Linear(), Eps(), times)


def test_a_model_is_checked_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="time derivatives"):
        Model(nn.Identity(), Table(LinearBetas()), Flow())


class Recorder(nn.Module):
    """A network that keeps what it is shown and answers with a constant."""

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        self.x, self.t_emb, self.s_emb, self.cond = x, t_emb, s_emb, cond
        return torch.full_like(x, 0.25)


def test_a_model_shows_its_network_scaled_inputs() -> None:
    t = torch.tensor([0.004, 0.25, 1.0], dtype=torch.float64)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    cond = Condition(torch.tensor([0, -1, 2]))
    net = Recorder()

    table = Model(net, Table(LinearBetas(1000)), Eps(), Indexed(1000))
    answer = table(Query(x, t, t.clone()), cond)
    assert net.t_emb.tolist() == net.s_emb.tolist() == [3, 249, 999]  # DDPM counts from 0
    assert net.cond is cond
    assert torch.equal(net.x, x)
    torch.testing.assert_close(answer.eps, torch.full_like(x, 0.25))
    alpha = table.path(t).alpha.float()[:, None]
    torch.testing.assert_close(answer.x0, (x - 0.25 * (1 - alpha**2).sqrt()) / alpha, rtol=1e-4, atol=1e-4)

    Model(net, Linear(), V(), Plain())(Query(x, t, t), cond)
    assert net.t_emb.tolist() == [4, 250, 1000]
    assert net.t_emb.dtype == torch.float32
    assert torch.equal(net.x, x)

    Model(net, Linear(), V(), UnitVariance(data_std=0.5))(Query(x, t, t), cond)
    assert net.t_emb.tolist() == [4, 250, 1000]
    for i, v in enumerate(t.tolist()):
        deviation = math.sqrt((1 - v) ** 2 * 0.25 + v**2)
        torch.testing.assert_close(net.x[i], x[i] / deviation)


def test_an_ordinary_model_refuses_a_jump() -> None:
    model = Model(Recorder(), Linear(), Flow())
    with pytest.raises(ValueError, match=r"jump.*Use a sampler"):
        model(Query(torch.zeros(1, 2), ONE, ZERO), Condition())
