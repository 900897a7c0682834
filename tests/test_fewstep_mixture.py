"""Two-time networks that learn a mixture in the plane from its exact velocity: their W2 against that of the flow."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.fewstep import Consistency, MeanFlow, Shortcut, SoFlow
from inkwash.fewstep.flowmap import FlowMap
from inkwash.model import Model
from inkwash.nets import MLP
from inkwash.noise import Philox, Stream
from inkwash.objectives import Regression
from inkwash.paths import Linear
from inkwash.samplers import Euler, Heun, Jumps
from inkwash.targets import Flow
from inkwash.times import Uniform, UShaped
from inkwash.types import Batch, Condition, Denoised, Denoiser, Given, Query, Sampler, like

SHARES = torch.tensor([0.5, 0.3, 0.2])
CENTRES = torch.tensor([[1.0, 0.2], [-0.6, 0.9], [-0.3, -1.1]])
STD = 0.2
NOTHING = Condition()
N = 1000


def velocity(x: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
    """E[eps - x0 | x]: each component's regression line, weighed by its responsibility."""
    alpha, sigma = (1 - t)[:, None, None].to(x.dtype), t[:, None, None].to(x.dtype)
    variance = (alpha * STD) ** 2 + sigma**2
    away = x[:, None] - alpha * CENTRES
    share = torch.softmax(SHARES.log() - away.square().sum(2) / (2 * variance[..., 0]), 1)[..., None]
    x0 = (share * (CENTRES + alpha * STD**2 / variance * away)).sum(1)
    return (share * sigma / variance * away).sum(1) - x0


def exact(query: Query, cond: Condition) -> Denoised:
    v, t = velocity(query.x, query.t), like(query.t, query.x)
    return Denoised(query.x - t * v, query.x + (1 - t) * v)


def points(number: Tensor) -> Tensor:
    """Data of these numbers; every tenth of them has the components in their very shares."""
    which = torch.bucketize((number % 10).double() / 10 + 0.05, SHARES.double().cumsum(0))
    return CENTRES[which] + STD * Philox(5, number)(torch.empty(len(number), 2), 1, Stream.EPS)


def drawn(sampler: Sampler, steps: int, denoiser: Denoiser, n: int = N, seed: int = 11) -> tuple[Tensor, Tensor]:
    """Noise, and where it goes in so many even steps."""
    noise = Philox(seed, torch.arange(n))
    start = noise(torch.empty(n, 2), 0, Stream.START)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:, None].expand(-1, n)
    with torch.no_grad():
        return start, drive(sampler(Linear(), start, times, noise), denoiser, NOTHING)


def distance(found: Tensor) -> float:
    """W2 to as many points of the data, by the best matching."""
    optimize = pytest.importorskip("scipy.optimize")
    cost = torch.cdist(found.double(), points(10**7 + torch.arange(N)).double()).square().numpy()
    rows, columns = optimize.linear_sum_assignment(cost)
    return float(cost[rows, columns].mean() ** 0.5)


@lru_cache
def teachers(steps: int) -> float:
    """W2 of the flow itself: in 64 of Heun's steps its own, which is what a sample of 1000 has; in few of Euler's."""
    return distance(drawn(Heun() if steps == 64 else Euler(), steps, exact)[1])


def trained(loss: FlowMap | Regression, depth: int, lr: float, steps: int, size: int = 512) -> Model:
    """A perceptron that has learned from the exact velocity, or from pairs of noise and where the flow takes it."""
    torch.manual_seed(0)
    net = MLP(width=64, depth=depth).build((2,), Given(jumps=True))
    model = Model(net, Linear(), Flow(), jumps=True)
    optim = torch.optim.Adam(net.parameters(), lr)
    eps, x0 = drawn(Heun(), 32, exact, 4096, seed=3) if isinstance(loss, Regression) else (None, None)
    taught = loss.taught(velocity) if isinstance(loss, FlowMap) else loss
    for step in range(steps):
        number = torch.arange(step * size, (step + 1) * size)
        batch = Batch(points(number), NOTHING, number, size)
        if eps is not None and x0 is not None:
            batch = batch._replace(x0=x0[number % 4096], eps=eps[number % 4096])
        value = taught(model, batch, Philox(5, number), step / steps).mean()
        optim.zero_grad()
        value.backward()
        for group in optim.param_groups:
            group["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        optim.step()
    return model


def test_the_flow_itself_takes_many_steps() -> None:
    """What the factors below are of: in one Euler step, the mean of everything, five times as far, in two three."""
    whole = teachers(64)
    assert 0.05 < whole < 0.25
    assert teachers(1) > 4 * whole
    assert teachers(2) > 2 * whole


@pytest.mark.parametrize(
    ("loss", "sampler", "one", "four", "how"),
    [
        (SoFlow(gap=0.3, last=0.1, same=0.25, times=Uniform(), power=0.0), Jumps(), 2.2, 1.3, (1, 5e-3, 250)),
        (Consistency(times=Uniform(), power=0.0), Jumps(1.0), 2.0, 1.6, (1, 5e-3, 250)),
        (Shortcut(same=0.5), Jumps(), 1.4, 1.3, (1, 5e-3, 250)),
        (MeanFlow(times=Uniform()), Jumps(), 2.5, 1.6, (2, 3e-3, 250)),
        (Regression(times=UShaped()), Euler(), 1.3, 1.3, (1, 5e-3, 200)),
    ],
    ids=["soflow", "consistency", "shortcut", "meanflow", "reflow"],
)
def test_a_student_of_one_step_comes_within_a_factor_of_the_flow(
    loss: FlowMap | Regression, sampler: Sampler, one: float, four: float, how: tuple[int, float, int]
) -> None:
    """Factors of the flow's own W2, in one step and in four; what flow matching alone reaches is 5.7 and 1.4.

    Measured: 1.6 and 1.0, 1.5 and 1.3, 1.0 and 0.9, 2.0 and 0.9, 1.0 and 0.9. A step to the wrong side, or the network
    asked at t in place of where the step ends, makes SoFlow's 3.1 and 3.5.
    """
    model = trained(loss, *how)
    for steps, factor in ((1, one), (4, four)):
        found = distance(drawn(sampler, steps, model)[1]) / teachers(64)
        assert found < factor, steps
