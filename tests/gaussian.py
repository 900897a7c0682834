"""Exact truths for tests: Gaussian data, a network that is perfect on it, and a path as a user would write it.

Closed forms are those of docs/math.md, eq. 19-21, in float64; nothing here calls the formulas under test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inkwash.model import Model
from inkwash.paths import VE, CosineBetas, Linear, LinearBetas, Table
from inkwash.targets import X0, Eps, Flow, V
from inkwash.types import Coeffs, Condition, Path, Target, like

MU = torch.tensor([0.7, -1.3, 0.0, 2.0], dtype=torch.float64)
LAM = torch.tensor([0.25, 1.0, 2.5, 0.01], dtype=torch.float64)  # the eigenvalues of the data's covariance


@dataclass(frozen=True)
class VP:
    """A user's own path, which is no `Component`: the variance-preserving SDE (Song et al. 2021b).

    Its dsigma is infinite at t = 0. The library's own has the same numbers (test_paths).
    """

    low: float = 0.1
    high: float = 20.0

    def __call__(self, t: Tensor) -> Coeffs:
        log_alpha = -t * (self.low + t * (self.high - self.low) / 2) / 2
        alpha, sigma = log_alpha.exp(), (-torch.expm1(2 * log_alpha)).sqrt()
        dalpha = -alpha * (self.low + t * (self.high - self.low)) / 2
        return Coeffs(alpha, sigma, dalpha, -alpha * dalpha / sigma)

    def time(self, ratio: Tensor) -> Tensor:
        rise, log = self.high - self.low, torch.log1p(ratio**2)
        return ((self.low**2 + 2 * rise * log).sqrt() - self.low) / rise

    def snap(self, t: Tensor) -> Tensor:
        return t


PATHS: dict[str, Path] = {
    "linear": Linear(),
    "table": Table(LinearBetas()),
    "cosine50": Table(CosineBetas(steps=50)),
    "vp": VP(),
    "ve": VE(),
}
TARGETS: dict[str, Target] = {"x0": X0(), "eps": Eps(), "v": V(), "flow": Flow()}
PAIRS = [(p, t) for p in PATHS for t in TARGETS if not (t == "flow" and isinstance(PATHS[p], Table))]


class Oracle(nn.Module):
    """A network that predicts E[target | x_t] for data N(mu, diag lam): no network does better.

    It is the model's `inputs` as well, because it needs the coefficients in float64 and a network is shown the time in
    float32. It asks for x three times as large, to see that the model scales what it shows.
    """

    def __init__(self, target: Target, mu: Tensor = MU, lam: Tensor = LAM) -> None:
        super().__init__()
        self.target, self.mu, self.lam = target, mu, lam

    def scale(self, c: Coeffs) -> Tensor:
        return torch.full_like(c.alpha, 3.0)

    def clock(self, t: Tensor, c: Coeffs) -> Tensor:
        self.c = c
        return t

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        alpha, sigma = like(self.c.alpha, x), like(self.c.sigma, x)
        z = (x / 3.0 - alpha * self.mu) / (alpha**2 * self.lam + sigma**2)
        a, b = self.target(self.c)
        return like(a, x) * (self.mu + alpha * self.lam * z) + like(b, x) * sigma * z


def model(path: Path, target: Target, mu: Tensor = MU, lam: Tensor = LAM) -> Model:
    """A real model around the oracle: the 2x2 solve and the input scaling are the library's."""
    net = Oracle(target, mu, lam)
    return Model(net, path, target, net)


def numbers(path: Path, t: float) -> tuple[float, float, float, float]:
    """alpha, sigma and their derivatives at one time, as Python floats."""
    return tuple(float(c) for c in path(torch.tensor([t], dtype=torch.float64)))  # type: ignore[return-value]


def flow_map(path: Path, t: float, s: float, x: Tensor, mu: Tensor = MU, lam: Tensor = LAM) -> Tensor:
    """Where the probability flow takes x from t to s (eq. 21)."""
    a_t, s_t, *_ = numbers(path, t)
    a_s, s_s, *_ = numbers(path, s)
    ratio = ((a_s**2 * lam + s_s**2) / (a_t**2 * lam + s_t**2)).sqrt()
    return a_s * mu + ratio * (x - a_t * mu)


def w2(mean: Tensor, variance: Tensor, mu: Tensor = MU, lam: Tensor = LAM) -> float:
    """The Wasserstein-2 distance between N(mean, diag variance) and N(mu, diag lam)."""
    return math.sqrt(float((mean - mu).square().sum() + (variance.sqrt() - lam.sqrt()).square().sum()))
