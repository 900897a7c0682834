"""Objectives on Gaussian data: their floor and their minimiser in closed form, and the same losses however cut up.

The expectation over data and noise is exact: at fixed t the loss is quadratic in (x0, eps), and for a quadratic the
mean over the four points (mu ± sqrt(lam), ±1) is the mean over the Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from gaussian import LAM, MU, PAIRS, PATHS, TARGETS, Oracle, model
from inkwash.model import Indexed, Model, Plain
from inkwash.noise import Philox, Stream
from inkwash.objectives import Regression, Unweighted, noised
from inkwash.paths import CosineBetas, Linear, LinearBetas, Table
from inkwash.targets import X0, Eps, Flow, V
from inkwash.times import Density, LogitNormal, Uniform
from inkwash.types import Batch, Coeffs, Condition, Path, Target

TIMES = [0.02, 0.3, 0.5, 0.94]


@dataclass(frozen=True)
class At(Density):
    """A density that is one time."""

    t: float

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        return torch.full_like(u, self.t)


@dataclass(frozen=True)
class ToData:
    """The weight that makes an error in any target count as the error in data: (sigma/det)² (math.md, eq. 35)."""

    def __call__(self, c: Coeffs, target: Target) -> Tensor:
        a, b = target(c)
        return (c.sigma / (c.alpha * b - c.sigma * a)) ** 2


def four_points() -> Batch:
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    x0 = MU + signs[:, :1] * LAM.sqrt()
    eps = signs[:, 1:].expand(4, 4)
    return Batch(x0, Condition(), torch.arange(4), 4, eps)


NOISE = Philox(0, torch.arange(4))


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_the_floor_is_the_conditional_variance(path: str, target: str) -> None:
    """The best network's squared error is Var[y | x_t] = (det/sigma)²·lam·sigma²/S² in each coordinate (eq. 20)."""
    best = model(PATHS[path], TARGETS[target])
    for t in TIMES:
        loss = Regression(times=At(t)).elements(best, four_points(), NOISE).mean(0)  # type: ignore[arg-type]
        c = PATHS[path](torch.tensor([t], dtype=torch.float64))
        a, b = TARGETS[target](c)
        det = c.alpha * b - c.sigma * a
        torch.testing.assert_close(loss, det**2 * LAM / (c.alpha**2 * LAM + c.sigma**2), rtol=1e-9, atol=1e-12)


class Bent(nn.Module):
    """The best network, plus gain·x + shift: its expected gradient vanishes at gain = shift = 0 and nowhere else."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.gain = nn.Parameter(torch.zeros(4, dtype=torch.float64))
        self.shift = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        return self.oracle(x, t_emb, s_emb, cond) + self.gain * x / 3.0 + self.shift  # shown 3·x


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_the_minimiser_is_the_best_denoiser(path: str, target: str) -> None:
    oracle = Oracle(TARGETS[target])
    net = Bent(oracle)
    bent = Model(net, PATHS[path], TARGETS[target], oracle)
    for t in TIMES:
        c = PATHS[path](torch.tensor([t], dtype=torch.float64))
        mean = c.alpha * MU
        square = c.alpha**2 * LAM + c.sigma**2 + mean**2
        for weight in (Unweighted(), ToData()):
            objective = Regression(times=At(t), weight=weight)  # type: ignore[arg-type]
            for gain in (0.0, 0.1):
                nn.init.constant_(net.gain, gain)
                net.zero_grad()
                objective(bent, four_points(), NOISE, 0.0).mean().backward()  # type: ignore[no-untyped-call]
                # d/d gain of the mean over 4 coordinates of w·(gain·x)² is w/4·2·gain·E x²; likewise for the shift.
                factor = gain / 2 * weight(c, TARGETS[target])
                tolerance = 1e-9 * float((weight(c, TARGETS[target]) * square).max())
                torch.testing.assert_close(net.gain.grad, factor * square, rtol=1e-9, atol=tolerance)
                torch.testing.assert_close(net.shift.grad, factor * mean, rtol=1e-9, atol=tolerance)


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_an_error_in_any_target_is_an_error_in_data(path: str, target: str) -> None:
    """w_y = w_x0·(sigma/det)² carries a weight over: here for a network that believes in another mean."""
    wrong = MU + 0.3
    losses = []
    for y in (TARGETS[target], X0()):
        objective = Regression(times=At(0.4), weight=ToData())  # type: ignore[arg-type]
        losses.append(objective.elements(model(PATHS[path], y, mu=wrong), four_points(), NOISE))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=1e-12)


class Constant(nn.Module):
    """A network that answers 0.25 and remembers what it was shown."""

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        self.x, self.t_emb, self.cond = x, t_emb, cond
        return torch.full_like(x, 0.25)


@pytest.mark.parametrize(
    ("loss", "want"),
    [
        # eps = 0.5, -1, 1.5, 0.25 against 0.25: differences -0.25, 1.25, -1.25, 0
        ("mse", [0.0625, 1.5625, 1.5625, 0.0]),
        ("l1", [0.25, 1.25, 1.25, 0.0]),
        ("huber", [0.03125, 0.75, 0.75, 0.0]),  # d²/2 below 1, |d| - 1/2 above
    ],
)
def test_losses_by_hand(loss: str, want: list[float]) -> None:
    eps = torch.tensor([[0.5, -1.0], [1.5, 0.25]])
    batch = Batch(torch.zeros(2, 2), Condition(), torch.arange(2), 2, eps)
    objective = Regression(loss, times=At(0.5))  # type: ignore[arg-type]
    constant = Model(Constant(), Linear(), Eps())
    elements = objective.elements(constant, batch, Philox(0, torch.arange(2)))
    assert elements.flatten().tolist() == want
    assert elements.dtype == torch.float32
    mean = objective(constant, batch, Philox(0, torch.arange(2)), 0.3)
    assert mean.tolist() == [(want[0] + want[1]) / 2, (want[2] + want[3]) / 2]


def test_weights_multiply_rows() -> None:
    class Ratio:
        def __call__(self, c: Coeffs, target: Target) -> Tensor:
            return c.alpha / c.sigma

    number = torch.arange(6)
    batch = Batch(torch.ones(6, 3, 2, dtype=torch.float64), Condition(), number, 6)
    noise, m = Philox(2, number), Model(Constant(), Linear(), V())
    plain = Regression().elements(m, batch, noise)
    weighted = Regression(weight=Ratio()).elements(m, batch, noise)  # type: ignore[arg-type]
    t = noised(m, batch, noise, Uniform()).t
    torch.testing.assert_close(weighted, plain * ((1 - t) / t)[:, None, None], rtol=1e-12, atol=0)
    assert len(t.unique()) == 6


def test_what_the_network_is_shown() -> None:
    """x_t of the forward process with Philox's noise for each example's number, at table entries, with the index."""
    number = torch.tensor([5, 7, 1000])
    x0 = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    cond, net = Condition(torch.tensor([1, -1, 0])), Constant()
    table = Table(LinearBetas(100))
    batch = Batch(x0, cond, number, 8)
    noise = Philox(3, number)
    objective = Regression("l1", Uniform(stratified=False))
    losses = objective(Model(net, table, V(), Indexed(100)), batch, noise, 0.0)
    index = net.t_emb.round()
    torch.testing.assert_close(net.t_emb, index, atol=1e-5, rtol=0)
    want = (noise.uniform(0, Stream.TIME) * 100).ceil() - 1  # uniform over 0..99, one number per example
    assert index.tolist() == want.tolist()
    bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 100, dtype=torch.float64), 0)[index.long()].reshape(3, 1, 1)
    eps = torch.cat([Philox(3, n.reshape(1))(x0[:1], 0, Stream.EPS) for n in number])
    torch.testing.assert_close(net.x, (bar.sqrt() * x0 + (1 - bar).sqrt() * eps).float(), rtol=1e-5, atol=1e-6)
    v = (bar.sqrt() * eps - (1 - bar).sqrt() * x0).float()
    torch.testing.assert_close(losses, (v - 0.25).abs().flatten(1).mean(1), rtol=1e-5, atol=1e-6)
    assert net.cond is cond


@pytest.mark.parametrize("density", [Uniform(), LogitNormal(0.3, 1.2), Uniform(stratified=False)])
@pytest.mark.parametrize("path", [Linear(), Table(CosineBetas(50))])
def test_losses_do_not_depend_on_how_the_batch_is_cut(path: Linear | Table, density: Uniform | LogitNormal) -> None:
    """Microbatches, ranks, any order: bit for bit the losses of the whole batch."""
    size, step = 27, 4
    number = step * size + torch.arange(size)
    x0 = Philox(9, number)(torch.empty(size, 3, 5), 0, Stream.START)
    best = model(path, V(), MU[:1].float(), LAM[:1].float())
    objective = Regression("huber", density)

    def losses(rows: Tensor) -> Tensor:
        return objective(best, Batch(x0[rows], Condition(), number[rows], size), Philox(0, number[rows]), 0.5)

    whole = losses(torch.arange(size))
    assert len(whole.unique()) == size
    for order in (torch.arange(size), torch.arange(size).flip(0), torch.arange(size) * 4 % size):
        for parts in (1, 2, 4, size):
            cut = torch.cat([losses(rows) for rows in order.chunk(parts)])
            assert torch.equal(cut, whole[order])


class Product(nn.Module):
    """A network with one matrix product, which autocast would run in its own dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        y: Tensor = self.layer(x)
        self.dtype = y.dtype
        return y


def test_autocast_is_the_models_alone() -> None:
    """None means float32 even inside someone else's autocast; bfloat16 is the network's, the loss stays float32."""
    net, batch = Product(), Batch(torch.randn(4, 8), Condition(), torch.arange(4), 4)
    noise, objective = Philox(0, torch.arange(4)), Regression()
    plain = objective(Model(net, Linear(), Flow()), batch, noise, 0.0)
    assert net.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        inside = objective(Model(net, Linear(), Flow()), batch, noise, 0.0)
    assert net.dtype == torch.float32
    assert torch.equal(inside, plain)
    cast = objective(Model(net, Linear(), Flow(), Plain(), torch.bfloat16), batch, noise, 0.0)
    assert net.dtype == torch.bfloat16
    assert cast.dtype == torch.float32
    assert not torch.equal(cast, plain)
    torch.testing.assert_close(cast, plain, rtol=0.05, atol=0.01)
