"""The variational bound on Gaussian data, term by term and summed: with the optimal mean and variance it is tight.

Expectations are exact: every term is quadratic in (x0, eps) where the variance does not depend on x, and for a
quadratic the mean over the four points (mu ± sqrt(lam), ±1) is the mean over the Gaussians.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from gaussian import LAM, MU, PATHS, VE, VP, numbers
from inkwash.bound import Variance, decoder_term, interpolated_variance, log_variance, prior_term, step_term
from inkwash.paths import CosineBetas, Linear, LinearBetas, Table
from inkwash.types import Coeffs, Denoised, Path

SIGNS = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)


def row(value: float) -> Tensor:
    return torch.full((4,), value, dtype=torch.float64)


def denoiser(alpha: float, sigma: float, mu: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
    """Four points (x0, eps) and the best estimate of x0 from what they make (math.md, eq. 20)."""
    x0, eps = mu + SIGNS[:, :1] * lam.sqrt(), SIGNS[:, 1:].expand(4, len(mu))
    x = alpha * x0 + sigma * eps
    return x0, mu + alpha * lam * (x - alpha * mu) / (alpha**2 * lam + sigma**2)


def bound(path: Path, times: list[float], variance: Variance, mu: Tensor = MU, lam: Tensor = LAM) -> Tensor:
    """The expected bound of every coordinate, with the optimal mean; learned: with the optimal variance as well."""
    total = prior_term(denoiser(1.0, 0.0, mu, lam)[0], path(row(times[0]))).mean(0)
    before: Coeffs | None = None
    for t, s in pairwise(times):
        (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, s)
        x0, mean = denoiser(a_t, s_t, mu, lam)
        beta = s_t**2 - (a_t / a_s) ** 2 * s_s**2
        best = (a_s**2 * lam + s_s**2) * beta / (a_t**2 * lam + s_t**2)
        if s_s > 0:
            small = s_s**2 * beta / s_t**2
        elif before is None:
            small = beta / 2  # no step before: the small variance is the large one, and there is nothing between
        else:
            a_b, s_b = float(before.alpha[0]), float(before.sigma[0])
            small = s_t**2 * (s_b**2 - (a_b / a_t) ** 2 * s_t**2) / s_b**2
        mix = (best / small).log() / math.log(beta / small)
        pred = Denoised(mean, mean, mix.expand_as(x0) if variance == "learned" else None)
        now, nxt = path(row(t)), path(row(s))
        if s > 0:
            total = total + step_term(x0, pred, now, nxt, variance).mean(0)
        else:
            total = total + decoder_term(x0, pred, now, before, variance).mean(0)
        before = now
    return total


def excess(path: Path, times: list[float], variance: Variance, lam: Tensor = LAM) -> Tensor:
    """The bound less the exact negative log-likelihood and less KL(q(x_T) | prior), for every coordinate."""
    mu = MU[: len(lam)]
    a, s, *_ = numbers(path, times[0])
    spread = (a**2 * lam + s**2) / s**2
    mismatch = 0.5 * (spread + (a * mu / s) ** 2 - 1 - spread.log())
    return bound(path, times, variance, mu, lam) - 0.5 * (1 + (2 * math.pi * lam).log()) - mismatch


@pytest.mark.parametrize("steps", [2, 3, 10, 100])
@pytest.mark.parametrize("betas", [LinearBetas, CosineBetas])
def test_the_best_mean_and_variance_leave_only_the_priors_mismatch(betas: type, steps: int) -> None:
    made = betas(steps, scaled=True) if betas is LinearBetas and steps > 20 else betas(steps)
    times = [i / steps for i in range(steps, -1, -1)]
    gap = excess(Table(made), times, "learned")
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-10)


@pytest.mark.parametrize("path", PATHS)
def test_and_so_on_every_path_and_any_grid(path: str) -> None:
    gap = excess(PATHS[path], [0.98, 0.9, 0.5, 0.44, 0.02, 0.0], "learned")
    torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("betas", "price"), [("linear", 1.09), ("cosine", 0.611)])
def test_the_price_of_a_fixed_variance(betas: str, price: float) -> None:
    """The large one is right where lam = 1, on a path that preserves it, and costs about price/T nats elsewhere."""
    lam = torch.tensor([0.25, 1.0], dtype=torch.float64)
    for steps in (100, 200, 400):
        table = Table(LinearBetas(steps, scaled=True) if betas == "linear" else CosineBetas(steps))
        gap = excess(table, [i / steps for i in range(steps, -1, -1)], "large", lam)
        assert float(gap[0]) * steps == pytest.approx(price, rel=0.01)
        assert float(gap[1]) == pytest.approx(0, abs=1e-10)
