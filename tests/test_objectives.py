"""Objectives on Gaussian data: their floor and their minimiser in closed form, and the same losses however cut up.

The expectation over data and noise is exact: at fixed t the loss is quadratic in (x0, eps), and for a quadratic the
mean over the four points (mu ± sqrt(lam), ±1) is the mean over the Gaussians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from gaussian import LAM, MU, PAIRS, PATHS, TARGETS, VP, Oracle, model, numbers
from inkwash.bound import decoder_term
from inkwash.model import Indexed, Model, Plain
from inkwash.noise import Philox, Stream
from inkwash.objectives import Bound, Hybrid, MinSnr, OptimalTransport, Regression, Unweighted, Weight, noised
from inkwash.objectives.regression import Loss
from inkwash.paths import CosineBetas, Linear, LinearBetas, Table
from inkwash.targets import X0, Eps, Flow, V, trained_times
from inkwash.times import Density, Importance, LogitNormal, Uniform, draw
from inkwash.types import Batch, Coeffs, Condition, Path, Query, Remembering, Target

TIMES = [0.02, 0.3, 0.5, 0.94]


@dataclass(frozen=True)
class At(Density):
    """A density that is one time."""

    t: float

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        return torch.zeros_like(u) + self.t


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


# ------------------------------------------------------------------------------------------ the bound as an objective


class Learned(Oracle):
    """The best network, which also answers v for the variance: of each coordinate, as a parameter."""

    def __init__(self, target: Target, mix: Tensor) -> None:
        super().__init__(target)
        self.v = nn.Parameter(2 * mix.expand(4, 4) - 1)  # for every row of a batch
        self.shift = nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        y = super().forward(x, t_emb, s_emb, cond) + self.shift
        return torch.cat([y, self.v.repeat(len(x) // 4, 1)], dim=1)


def learned(path: Path, target: Target, mix: Tensor) -> Model:
    net = Learned(target, mix)
    return Model(net, path, target, net, learned_variance=True)


MIX = torch.tensor([0.0, 1.0, 0.3, 1.2], dtype=torch.float64)
STEPS = 7
CHAINS: list[tuple[Path, Target]] = [
    (Table(CosineBetas(STEPS)), V()),
    (Table(LinearBetas(STEPS, end=0.3)), Eps()),
    (Linear(), Flow()),
    (VP(), X0()),
]


def expected_terms(path: Path, i: int, mix: Tensor, steps: int = STEPS) -> Tensor:
    """The expected term of the step from entry i, in nats: q(x_s | x_t, x0) against the model's step; L_0 at i = 1."""
    (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, i / steps), numbers(path, (i - 1) / steps)
    beta = s_t**2 - (a_t / a_s) ** 2 * s_s**2
    error = LAM * s_t**2 / (a_t**2 * LAM + s_t**2)  # Var[x0 | x_t]
    if i == 1:
        a_b, s_b, *_ = numbers(path, 2 / steps)
        small = s_t**2 * (s_b**2 - (a_b / a_t) ** 2 * s_t**2) / s_b**2
        v = beta**mix * small ** (1 - mix)
        return 0.5 * (error / v + (2 * math.pi * v).log())
    small = s_s**2 * beta / s_t**2
    v = beta**mix * small ** (1 - mix)
    return 0.5 * ((a_s * beta / s_t**2) ** 2 * error / v + small / v - 1 - (small / v).log())


@pytest.mark.parametrize("i", range(1, STEPS + 1))
@pytest.mark.parametrize(("path", "target"), CHAINS)
def test_the_bound_is_the_sum_of_its_terms_in_bits(path: Path, target: Target, i: int) -> None:
    """T times the term of the drawn step, per dimension; a time within a step counts as its end."""
    m = learned(path, target, MIX)
    inside = (i - 0.4) / STEPS
    for t in (inside, i / STEPS):
        loss = Bound(times=At(t), steps=STEPS)(m, four_points(), NOISE, 0.0)
        assert loss.shape == (4,)
        want = expected_terms(path, i, MIX).mean() * STEPS / math.log(2)
        torch.testing.assert_close(loss.mean().detach(), want, rtol=1e-8, atol=1e-8)


def test_a_table_has_its_own_steps() -> None:
    """`steps` is for continuous paths alone; the net is shown an entry."""
    m = learned(Table(CosineBetas(STEPS)), V(), MIX)
    losses = [Bound(times=At(0.5), steps=n)(m, four_points(), NOISE, 0.0) for n in (STEPS, 1000)]
    assert torch.equal(*losses)
    line = learned(Linear(), V(), MIX)
    losses = [Bound(times=At(0.5), steps=n)(line, four_points(), NOISE, 0.0) for n in (STEPS, 1000)]
    assert not torch.allclose(*losses)
    assert Bound().steps == Hybrid().steps == 1000


def test_a_chain_of_one_step_is_its_decoder() -> None:
    """From pure noise: the mean is that of the data, the variance 1, large and small alike."""
    m = learned(Linear(), V(), MIX)
    loss = Bound(times=At(0.3), steps=1)(m, four_points(), NOISE, 0.0).mean()
    want = 0.5 * (LAM + math.log(2 * math.pi))
    torch.testing.assert_close(loss.detach(), want.mean() / math.log(2), rtol=1e-10, atol=0)


@pytest.mark.parametrize(("steps", "i"), [(2, 1), (2, 2), (49, 1), (49, 2), (50, 7), (50, 29)])
def test_entries_are_found_whatever_their_rounding(steps: int, i: int) -> None:
    """i/T·T may miss i by a bit: 1/49·49 < 1."""
    m = learned(VP(), V(), MIX)
    loss = Bound(times=At(i / steps), steps=steps)(m, four_points(), NOISE, 0.0).mean()
    want = expected_terms(VP(), i, MIX, steps).mean() * steps / math.log(2)
    torch.testing.assert_close(loss.detach(), want, rtol=1e-8, atol=1e-8)


def test_each_row_has_the_variance_of_its_own_answer() -> None:
    """Rows at the first entry and rows that are not, each with another mix."""
    mixes = torch.linspace(-0.2, 1.1, 16, dtype=torch.float64).reshape(4, 4)
    path, batch = Linear(), four_points()
    t = torch.tensor([0.5, 1 / 7, 1 / 7, 6 / 7], dtype=torch.float64)
    m = learned(path, V(), mixes)
    got = Bound(times=At(t), steps=STEPS)(m, batch, NOISE, 0.0)  # type: ignore[arg-type]
    for k in range(4):
        entry = math.ceil(float(t[k]) * STEPS - 1e-9)
        one = learned(path, V(), mixes[k])
        alone = Bound(times=At(entry / STEPS), steps=STEPS)(one, batch, NOISE, 0.0)[k]
        torch.testing.assert_close(got[k], alone, rtol=1e-12, atol=0)


def test_data_in_bins_have_the_probability_of_their_bin() -> None:
    m, batch = learned(Linear(), V(), MIX), four_points()
    t = torch.full((4,), 1 / STEPS, dtype=torch.float64)
    now, before = Linear()(t), Linear()(2 * t)
    x = now.alpha[:, None] * batch.x0 + now.sigma[:, None] * batch.eps
    pred = m(Query(x, t, t), Condition())
    for width in (None, 0.5):
        got = Bound(times=At(0.1), steps=STEPS)(m, batch._replace(bin=width), NOISE, 0.0)
        want = decoder_term(batch.x0, pred, now, before, "learned", width).mean(1) * STEPS / math.log(2)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@dataclass(frozen=True)
class Spread(Density):
    """Times of a list, one after another."""

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        return torch.tensor([0.05, 0.5, 0.99, 0.05], dtype=torch.float64)


@pytest.mark.parametrize("weight", [Unweighted(), MinSnr(2.0)])
@pytest.mark.parametrize("loss", ["mse", "l1"])
@pytest.mark.parametrize(("path", "target"), CHAINS)
def test_the_hybrid_teaches_the_mean_simply_and_the_variance_by_the_bound(
    path: Path, target: Target, loss: Loss, weight: Weight
) -> None:
    m = learned(path, target, MIX)
    nn.init.constant_(m.net.shift, 0.2)  # so that the bound has something to teach the mean

    def of(objective: Regression | Hybrid | Bound) -> tuple[Tensor, Tensor, Tensor]:
        m.net.zero_grad()
        losses = objective(m, four_points(), NOISE, 0.0)
        losses.sum().backward()
        return losses.detach(), m.net.shift.grad.clone(), None if m.net.v.grad is None else m.net.v.grad.clone()

    times = [math.ceil(t * STEPS) / STEPS for t in (0.05, 0.5, 0.99, 0.05)]
    ends = dataclass(frozen=True)(
        type("Ends", (Density,), {"__call__": lambda self, u, path: torch.tensor(times, dtype=torch.float64)})
    )()
    simple, on_mean, on_variance = of(Regression(loss, ends, weight))
    assert not on_variance.any()
    bound, bound_on_mean, bound_on_variance = of(Bound(Spread(), STEPS))
    hybrid = of(Hybrid(0.25, loss, Spread(), weight, STEPS))
    assert bound_on_mean.abs().min() > 1e-6
    torch.testing.assert_close(hybrid[0], simple + 0.25 * bound, rtol=1e-12, atol=1e-12)
    assert torch.equal(hybrid[1], on_mean)
    torch.testing.assert_close(hybrid[2], 0.25 * bound_on_variance, rtol=1e-12, atol=1e-14)
    assert Hybrid() == Hybrid(0.001, "mse", Uniform(), Unweighted(), 1000)


def test_the_best_variance_is_where_the_bounds_gradient_vanishes() -> None:
    """v = S_s²·beta/S_t², the variance of x_s given x_t; at s = 0, Var[x0 | x_t]."""
    path = Table(CosineBetas(STEPS))
    for i in range(1, STEPS + 1):
        (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, i / STEPS), numbers(path, (i - 1) / STEPS)
        a_b, s_b, *_ = numbers(path, 2 / STEPS)
        beta = s_t**2 - (a_t / a_s) ** 2 * s_s**2
        small = s_s**2 * beta / s_t**2 if i > 1 else s_t**2 * (s_b**2 - (a_b / a_t) ** 2 * s_t**2) / s_b**2
        best = (a_s**2 * LAM + s_s**2) * beta / (a_t**2 * LAM + s_t**2)
        m = learned(path, V(), (best / small).log() / math.log(beta / small))
        (slope,) = torch.autograd.grad(Bound(times=At(i / STEPS))(m, four_points(), NOISE, 0.0).sum(), m.net.v)
        torch.testing.assert_close(slope.sum(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)


# -------------------------------------------------------------------------------------------------- importance sampling


@pytest.mark.parametrize(
    "make", [lambda d: Regression(times=d), lambda d: Hybrid(times=d, steps=7), lambda d: Bound(d, 7)]
)
def test_importance_weighs_the_loss_and_remembers_it_unweighed(make) -> None:
    density = Importance(5, 2, 0.1)
    losses = torch.tensor([[1.0, 2], [3, 1], [0.1, 0.2], [7, 8], [2, 2]], dtype=torch.float64)
    memory = {"losses": losses, "seen": torch.tensor([2, 3, 4, 5, 6])}
    size = losses.square().mean(1).sqrt()
    shares = 0.9 * size / size.sum() + 0.02
    number = torch.arange(20)
    g = torch.Generator().manual_seed(0)
    x0 = torch.randn(20, 4, generator=g, dtype=torch.float64)
    noise, m = Philox(4, number), learned(Linear(), V(), MIX)
    batch, objective = Batch(x0, Condition(), number, 20, memory=memory), make(density)
    got = objective(m, batch, noise, 0.0).detach()
    t = draw(density.given(memory), batch, noise, Linear())

    @dataclass(frozen=True)
    class Fixed(Density):
        def __call__(self, u: Tensor, path: Path) -> Tensor:
            return t

    plain = make(Fixed())(m, batch._replace(memory=None), noise, 0.0).detach()
    bins = (t * 5).long()
    torch.testing.assert_close(got, plain / (5 * shares[bins]), rtol=1e-12, atol=0)
    # What is remembered is the loss itself, and what is remembered from is the batch's own memory.
    kept = objective.remember(memory, m, batch, noise, got)
    want = density.remember(memory, t, plain)
    assert torch.equal(kept["seen"], want["seen"])
    torch.testing.assert_close(kept["losses"], want["losses"], rtol=1e-12, atol=0)
    first, second = (batch._replace(x0=x0[r], number=number[r]) for r in (slice(0, 8), slice(8, 20)))
    parts = objective.remember(memory, m, first, noise.at(number[:8]), got[:8])
    parts = objective.remember(parts, m, second, noise.at(number[8:]), got[8:])
    assert torch.equal(parts["losses"], kept["losses"])
    assert {n: v.shape for n, v in objective.memory().items()} == {"losses": (5, 2), "seen": (5,)}
    assert isinstance(objective, Remembering)


def test_objectives_say_at_which_times_they_ask() -> None:
    """A chain's are the upper ends of its steps, t = 1 among them; the others have none at 1 but on a table."""
    line, table = Linear(), Table(LinearBetas(30))
    assert torch.equal(Regression().asked(line), trained_times(line)) and Regression().asked(line).max() < 1
    for objective in (Hybrid(steps=10), Bound(steps=10)):
        steps = objective.asked(line) * 10
        torch.testing.assert_close(steps, steps.round(), rtol=1e-12, atol=0)
        assert set(steps.round().tolist()) == set(range(1, 11)) and steps[-1] == 10
        assert objective.asked(table).min() == 1 / 30 and objective.asked(table).max() == 1
        entries = objective.asked(table) * 30
        torch.testing.assert_close(entries, entries.round(), rtol=1e-12, atol=0)
    assert len(Bound(steps=10**12).asked(line)) == 22


def test_objectives_say_whether_their_noise_depends_on_the_data() -> None:
    assert Regression(coupling=OptimalTransport()).coupled
    assert not Regression().coupled and not Hybrid().coupled and not Bound().coupled


def test_objectives_say_whether_they_need_a_learned_variance() -> None:
    assert not Regression.learns_variance
    assert Hybrid.learns_variance
    assert Bound.learns_variance
    for objective in (Hybrid(times=At(0.5)), Bound(At(0.5))):
        with pytest.raises(ValueError, match=r"learned_variance=True.*outputs=2"):
            objective(model(Linear(), V()), four_points(), NOISE, 0.0)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Hybrid(-0.1), "lam = -0.1 must be 0 or more"),
        (lambda: Hybrid(math.nan), "lam = nan"),
        (lambda: Hybrid(math.inf), "lam = inf"),
        (lambda: Hybrid(steps=0), "steps = 0 must be at least 1"),
        (lambda: Bound(steps=0), "steps = 0 must be at least 1"),
    ],
)
def test_impossible_bounds_are_refused(make, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
    Hybrid(0.0, steps=1)
