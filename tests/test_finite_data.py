"""A finite data set, whose best denoiser is a softmax over the set: the loss's floor, and samplers that memorise it.

E[x0 | x_t] = sum_i softmax_i(-(x - alpha·x_i)²/(2·sigma²))·x_i. Everything is on the line, so that expectations are
sums, and the flow, which keeps the order of points, is known from start to end: a quantile goes to the same quantile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from affine import DETERMINISTIC, EVERY, STOCHASTIC
from gaussian import PATHS, TARGETS, numbers
from inkwash.drive import drive
from inkwash.grids import Karras, spread
from inkwash.model import Model
from inkwash.noise import Philox
from inkwash.objectives import Regression
from inkwash.paths import Table
from inkwash.times import Density
from inkwash.types import Batch, Coeffs, Condition, Denoised, Path, Query, Target, like

DATA = torch.tensor([-1.2, -0.1, 0.4, 1.5], dtype=torch.float64)
PAIRS = [(p, t) for p in PATHS for t in TARGETS if not (t == "flow" and isinstance(PATHS[p], Table))]
EPS = torch.linspace(-9, 9, 901, dtype=torch.float64)  # nodes of the trapezoidal rule, which is all but exact here
WEIGHT = torch.exp(-EPS.square() / 2) / torch.exp(-EPS.square() / 2).sum()


def best(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """D*(x) for x [B, 1]."""
    return torch.softmax(-((x - alpha * DATA) ** 2) / (2 * sigma**2), dim=1) @ DATA[:, None]


class Memory(nn.Module):
    """The best network for a target, with `off`·cos(3x) added to its answer."""

    def __init__(self, target: Target, off: float = 0.0) -> None:
        super().__init__()
        self.target, self.off = target, off

    def scale(self, c: Coeffs) -> Tensor:
        return torch.ones_like(c.alpha)

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        self.c = c
        return t

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = like(self.c.alpha, x), like(self.c.sigma, x)
        x0 = best(x, alpha, sigma)
        a, b = self.target(self.c)
        return like(a, x) * x0 + like(b, x) * (x - alpha * x0) / sigma + self.off * torch.cos(3 * x)


@dataclass(frozen=True)
class At(Density):
    """Training at one time."""

    t: float

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        return torch.full_like(u, self.t)


def time(path: str, ratio: float) -> float:
    """The time with that sigma/alpha, or a table's next one."""
    return float(PATHS[path].snap(PATHS[path].time(torch.tensor(ratio, dtype=torch.float64))))


def loss(path: str, target: str, t: float, off: float = 0.0) -> float:
    """The regression's expectation over the set and the noise, point by point."""
    net = Memory(TARGETS[target], off)
    x0, eps = DATA.repeat_interleave(len(EPS))[:, None], EPS.repeat(len(DATA))[:, None]
    batch = Batch(x0, Condition(), torch.arange(len(x0)), len(x0), eps)
    model = Model(net, PATHS[path], TARGETS[target], net)
    each = Regression(times=At(t))(model, batch, Philox(0, torch.arange(len(x0))), 0.0)  # type: ignore[arg-type]
    return float((each.view(len(DATA), -1) * WEIGHT).sum() / len(DATA))


def over(path: str, t: float) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes x, the mass p(x)·dx at each, and the variance of the data given x, from the joint probabilities."""
    alpha, sigma, *_ = numbers(PATHS[path], t)
    x = torch.linspace(-1.2 * alpha - 9 * sigma, 1.5 * alpha + 9 * sigma, 20001, dtype=torch.float64)
    joint = torch.exp(-0.5 * ((x[:, None] - alpha * DATA) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi)) / len(DATA)
    p = joint.sum(1)
    mean = (joint * DATA).sum(1) / p
    return x, p * (x[1] - x[0]), (joint * DATA**2).sum(1) / p - mean**2


@pytest.mark.parametrize(("path", "target"), PAIRS)
@pytest.mark.parametrize("ratio", [0.25, 0.8, 3.0])
def test_the_floor_is_the_variance_of_the_data_given_x(path: str, target: str, ratio: float) -> None:
    """It is E Var[x0 | x_t], in data, and (det/sigma)² times that in y: reached by D*, and by nothing else.

    What is added to D*'s answer costs its own mean square, no less, as no part of it can be of use.
    """
    t = time(path, ratio)
    x, mass, variance = over(path, t)
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    alpha, sigma, *_ = numbers(PATHS[path], t)
    a, b = TARGETS[target](PATHS[path](torch.tensor([t], dtype=torch.float64)))
    in_y = (alpha * float(b) - sigma * float(a)) ** 2 / sigma**2
    floor = float((mass * variance).sum())
    assert 0.003 < floor < float(DATA.var(correction=0))
    found = loss(path, target, t)
    assert found == pytest.approx(in_y * floor, rel=1e-7)
    assert loss(path, "x0", t) == pytest.approx(found / in_y, rel=1e-9)
    for off in (0.1, -0.02):
        more = off**2 * float((mass * torch.cos(3 * x) ** 2).sum())
        assert loss(path, target, t, off) - found == pytest.approx(more, rel=1e-5)


def test_eps_and_x0_differ_by_the_signal_to_noise_ratio() -> None:
    """The weight conversion as numbers: at sigma/alpha = 1/2 an error in eps counts 4 times one in data, v 5 times."""
    t = time("vp", 0.5)
    assert loss("vp", "eps", t) / loss("vp", "x0", t) == pytest.approx(4, rel=1e-8)
    assert loss("vp", "v", t) / loss("vp", "x0", t) == pytest.approx(5, rel=1e-8)
    assert loss("linear", "flow", 1 / 3) / loss("linear", "x0", 1 / 3) == pytest.approx(9, rel=1e-8)


def sample(name: str, path: str, start: Tensor, steps: int) -> Tensor:
    """What a sampler makes of standard normals [B] with the best denoiser."""
    p, net = PATHS[path], Memory(TARGETS["v"])
    exact = Model(net, p, TARGETS["v"], net)
    times = Karras(low=0.02)(p, steps)

    def denoiser(query: Query, cond: Condition) -> Denoised:
        return exact(query, cond)._replace(var_mix=torch.full_like(query.x, 0.3))

    x = like(p(times[:1]).sigma, start) * start[:, None]
    noise = Philox(5, torch.arange(len(start)))
    return drive(EVERY[name](p, x, spread(times, len(x)), noise), denoiser, Condition())[:, 0]


@pytest.mark.parametrize("name", [*DETERMINISTIC, "rk45"])
@pytest.mark.parametrize("path", ["linear", "ve", "cosine50"])
def test_a_perfect_network_gives_back_its_training_points(name: str, path: str) -> None:
    """The flow keeps the order on the line: a quarter of the noise for each of the four points, in their order."""
    u = (torch.arange(4, dtype=torch.float64)[:, None] + torch.tensor([0.15, 0.5, 0.85], dtype=torch.float64)) / 4
    out = sample(name, path, torch.special.ndtri(u.flatten()), 40)
    in_t = path == "cosine50" and name.startswith(("euler", "heun", "adams"))  # whose last step does not end on x0
    assert float((out - DATA.repeat_interleave(3)).abs().max()) < (0.02 if in_t else 1e-6)


@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_gives_training_points_too_each_as_often(name: str) -> None:
    count = 1200
    start = Philox(9, torch.arange(count))(torch.empty(count, dtype=torch.float64), 0, 0)
    away = (sample(name, "linear", start, 30)[:, None] - DATA).abs()
    assert float(away.amin(1).max()) < 1e-6
    often = torch.bincount(away.argmin(1), minlength=4) / count
    assert float((often - 0.25).abs().max()) < 4 * math.sqrt(0.25 * 0.75 / count)
