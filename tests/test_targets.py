"""Targets: the 2x2 solve on every path, its identities, and what is refused where it has no solution."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gaussian
from gaussian import PAIRS, PATHS, TARGETS
from inkwash.data import Dataset, DataSpec
from inkwash.grids import Karras
from inkwash.model import EdmInputs, Indexed, Model, Plain, UnitVariance
from inkwash.objectives import Regression
from inkwash.paths import VE, VP, CosineSchedule, Linear, LinearBetas, Shifted, SigmoidSchedule, Table, is_noise_level
from inkwash.recipes import Recipe
from inkwash.sampling import Sampling
from inkwash.targets import X0, Edm, Eps, Flow, V, check, mixed, solve, trained_times
from inkwash.times import LogNormalNoise
from inkwash.training.setup import set_up
from inkwash.types import Coeffs, Condition, Path, Query

T = torch.tensor([0.001, 0.02, 0.137, 0.5, 0.731, 0.99], dtype=torch.float64)


EDM = {"edm": Edm(), "edm 2": Edm(2.0)}


@pytest.mark.parametrize(("path", "target"), [*PAIRS, *((p, t) for p in PATHS for t in EDM)])
def test_round_trip(path: str, target: str) -> None:
    """(x0, eps) -> (x, y) -> (x0, eps), row by row at different times."""
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, len(T), 3, 4, dtype=torch.float64, generator=g)
    c = PATHS[path](T)
    a, b = (TARGETS | EDM)[target](c)

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
class Turned:
    """A user's own target: v turned by an angle, y = cos(turn)·v + sin(turn)·x."""

    turn: float = 0.7

    def __call__(self, c: Coeffs) -> tuple[Tensor, Tensor]:
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        return cos * -c.sigma + sin * c.alpha, cos * c.alpha + sin * c.sigma


@pytest.mark.parametrize("path", PATHS)
def test_a_users_own_target(path: str) -> None:
    """Knowing x, y says no more and no less than v = (y - sin·x)/cos."""
    c = PATHS[path](T)
    check(PATHS[path], Turned(), torch.linspace(0, 1, 11, dtype=torch.float64))
    x, y = torch.randn(2, len(T), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, v = solve(c, Turned()(c), x, y), solve(c, V()(c), x, (y - math.sin(0.7) * x) / math.cos(0.7))
    torch.testing.assert_close(ours.x0, v.x0, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.eps, v.eps, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sd", [0.5, 1.7])
@pytest.mark.parametrize("path", PATHS)
def test_edm_is_never_singular_and_has_unit_variance(path: str, sd: float) -> None:
    """det = -S/sd, and Var F = a²·sd² + b² = 1 for data of deviation sd (math.md, section 10)."""
    times = torch.linspace(0, 1, 11, dtype=torch.float64)
    check(PATHS[path], Edm(sd), times)
    c = PATHS[path](times)
    a, b = Edm(sd)(c)
    S = (c.alpha**2 * sd**2 + c.sigma**2).sqrt()
    torch.testing.assert_close(c.alpha * b - c.sigma * a, -S / sd, rtol=1e-13, atol=0)
    torch.testing.assert_close(a**2 * sd**2 + b**2, torch.ones_like(a), rtol=1e-13, atol=0)


@pytest.mark.parametrize("sd", [0.5, 1.7])
@pytest.mark.parametrize("path", PATHS)
def test_edm_is_karras_preconditioning(path: str, sd: float) -> None:
    """D = c_skip·x + c_out·F(c_in·x; c_noise) of Karras et al. (2022), table 1, whatever the network, on every path."""
    net = Wavy()
    model = Model(net, PATHS[path], Edm(sd), EdmInputs(sd))
    c = PATHS[path](T)
    x = torch.randn(len(T), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = model(Query(x, T, T), Condition()).x0
    s = c.sigma / c.alpha  # EDM's sigma; its x is ours divided by alpha
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / (s**2 + sd**2).sqrt()
    c_in, c_noise = 1 / (s**2 + sd**2).sqrt(), s.log() / 4
    x_hat = x / c.alpha[:, None]
    want = c_skip[:, None] * x_hat + c_out[:, None] * torch.sin(3 * c_in[:, None] * x_hat)
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(net.t_emb, (1000 * c_noise).float(), rtol=1e-6, atol=0)


class Wavy(nn.Module):
    """An arbitrary network."""

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        self.t_emb = t_emb
        return torch.sin(3 * x)


def test_edm_defaults_to_half() -> None:
    assert Edm() == Edm(0.5)
    assert EdmInputs() == EdmInputs(0.5)


@pytest.mark.parametrize("cls", [Edm, EdmInputs])
@pytest.mark.parametrize("std", [0.0, -1.0, math.inf, math.nan])
def test_a_deviation_is_more_than_nothing(cls: type, std: float) -> None:
    with pytest.raises(ValueError, match=f"data_std = {std} must be a deviation"):
        cls(std)


def test_edms_clock_is_finite() -> None:
    """250·ln(sigma/alpha), held at ratios of 1e-4 and 1e4."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    limit = 1000 * math.log(10)
    c = Linear()(ends)
    assert EdmInputs().clock(ends, c).tolist() == pytest.approx([-limit, limit], rel=1e-14)
    assert EdmInputs(0.3).scale(c).tolist() == pytest.approx([1 / 0.3, 1.0], rel=1e-14)
    for ratio in (2e-4, 1.0, 5e3):
        c = VE(ratio)(ends)
        assert float(EdmInputs().clock(ends, c)[1]) == pytest.approx(250 * math.log(ratio), rel=1e-14)


@pytest.mark.parametrize("a", [0.0, 1.0, 2.0, -0.7])
@pytest.mark.parametrize("b", [0.0, 1.0, 2.0, -0.7])
def test_a_mixture_skips_no_work_that_counts(a: float, b: float) -> None:
    """Numbers, tensors or one of each: a·x + b·y."""
    x, y = torch.tensor([[3.0, -5.0]]), torch.tensor([[0.25, 7.0]])
    wanted = torch.tensor([[3 * a + 0.25 * b, -5 * a + 7 * b]])
    for first in (a, torch.full((1, 1), a)):
        for second in (b, torch.full((1, 1), b)):
            torch.testing.assert_close(mixed(first, x, second, y), wanted)
    infinite = torch.tensor([math.inf])
    assert mixed(0.0, infinite, 1.0, y[0, :1]).tolist() == [0.25]  # what counts for nothing is not looked at
    assert mixed(1.0, x[0, :1], 0.0, infinite).tolist() == [3.0]
    assert mixed(1.0, x, 0.0, y) is x
    assert mixed(0.0, x, 1.0, y) is y


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
        (gaussian.VP(), Flow(), [0.5, 0.0], ["Flow()", "t = 0 (alpha = 1, sigma = 0)", "inf"]),
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


TO_THE_END = Table(LinearBetas(10), zero_snr=True)


@pytest.mark.parametrize("steps", [2, 10, 1000])
def test_zero_terminal_snr_refuses_eps(steps: int) -> None:
    """The last entry is trained, though no entry near it is singular; the reason is given, and v is accepted."""
    path = Table(LinearBetas(steps, end=min(0.3, 20 / steps)), zero_snr=True)
    for make in (
        lambda target: Model(nn.Identity(), path, target),
        lambda target: Recipe(DataSpec("x"), path, target),
    ):
        with pytest.raises(ValueError, match=r"t = 1 \(alpha = 0, sigma = 1\).*the noise says nothing of the data.*v"):
            make(Eps())
        for target in (V(), X0(), Edm()):
            make(target)
    Model(nn.Identity(), Table(LinearBetas(steps)), Eps())  # a table that stops short of it


@pytest.mark.parametrize("path", [Linear(), VP(CosineSchedule()), Shifted(Linear(), 3.0), VP(), VE()])
def test_eps_can_be_trained_where_alpha_is_0_only_at_the_end(path: Path) -> None:
    Model(nn.Identity(), path, Eps())
    Model(nn.Identity(), path, X0())


def test_trained_times() -> None:
    inside = [i / 20 for i in range(1, 20)]
    assert trained_times(Linear()).tolist() == pytest.approx([*inside, 1 - 1e-6], rel=1e-14)
    assert float(trained_times(Linear())[-1]) < 1
    assert trained_times(TO_THE_END).tolist() == pytest.approx([math.ceil(10 * t - 1e-9) / 10 for t in [*inside, 1]])


def test_only_without_signal_is_the_noise_to_blame() -> None:
    for path, target, time in ((Linear(), X0(), 0.0), (gaussian.VP(), Flow(), 0.0)):
        with pytest.raises(ValueError, match="does not determine") as error:
            check(path, target, torch.tensor([time], dtype=torch.float64))  # type: ignore[arg-type]
        assert "noise says nothing" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "target", "inputs"),
    [
        (Linear(), Flow(), UnitVariance(1.155)),
        (VP(), V(), UnitVariance(1.155)),
        (Table(LinearBetas(30)), V(), Indexed(30)),
        (VE(), V(), EdmInputs(1.155)),
        (VE(), Edm(0.7), EdmInputs(0.7)),
        (Shifted(VE(), 0.5), V(), EdmInputs(1.155)),
        (Shifted(Linear(), 0.5), V(), UnitVariance(1.155)),
        (Linear(), Edm(0.7), EdmInputs(0.7)),
        (Table(LinearBetas(30)), Edm(), EdmInputs(0.5)),
    ],
)
def test_inputs_that_a_recipe_leaves_open(path: Any, target: Any, inputs: object) -> None:
    """The clock is the table's index, EDM's for its path or target, and else 1000·t; the deviation is the data's."""
    points = np.array([[-1.5, 1.5], [0.5, -0.5]], dtype=np.float32)  # encoded to -1 and 1
    exploding = {"objective": Regression(times=LogNormalNoise()), "sampler": Sampling(grid=Karras())}
    settings: Any = exploding if is_noise_level(path) else {}
    made = set_up(Recipe(DataSpec("x"), path, target, **settings), Dataset("x", points, None, (), None, "", True))
    assert made.model.inputs == made.recipe.inputs == inputs


def test_a_grid_of_rows_is_checked_row_by_row() -> None:
    times = torch.tensor([[0.9, 0.8], [0.5, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="t = 1 "):
        check(Linear(), Eps(), times)


def test_the_first_of_several_bad_times_is_named_and_nearly_bad_ones_pass() -> None:
    times = torch.tensor([0.5, 1 - 1e-13, 1.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"at t = 1 \(alpha = 1e-13, sigma = 1\)"):
        check(Linear(), Eps(), times)
    check(Linear(), Eps(), torch.tensor([1 - 1e-10], dtype=torch.float64))


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


def test_the_reason_is_the_noise_or_the_derivative() -> None:
    end = torch.ones(1, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"There a time derivative of the path, .* is infinite") as error:
        check(VP(SigmoidSchedule()), Flow(), end)
    assert "says nothing" not in str(error.value)
    with pytest.raises(ValueError, match="There x is noise alone, and the noise says nothing") as error:
        check(Linear(), Eps(), end)
    assert "derivative" not in str(error.value)
    with pytest.raises(ValueError, match=r"= 0\. Use a target that does"):
        check(Linear(), X0(), 0 * end)


def test_an_ordinary_model_refuses_a_jump() -> None:
    model = Model(Recorder(), Linear(), Flow())
    with pytest.raises(ValueError, match=r"jump.*Use a sampler"):
        model(Query(torch.zeros(1, 2), ONE, ZERO), Condition())


def test_the_reason_is_that_of_the_time_named() -> None:
    """A time that is fine before the first that is not does not change what is said of it."""
    times = torch.tensor([0.5, 1.0, 0.5], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"at t = 1 .*infinite"):
        check(VP(SigmoidSchedule()), Flow(), times)
    with pytest.raises(ValueError, match=r"at t = 1 .*the noise says nothing of the data"):
        check(Linear(), Eps(), times)
