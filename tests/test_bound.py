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
from inkwash.bound import Variance, decoder_term, log_variance, prior_term, step_term
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


COEFFS = [
    (Linear(), 0.7, 0.4),
    (VP(), 0.35, 0.3),
    (VE(), 0.4, 0.01),
    (Table(LinearBetas(10)), 0.3, 0.2),
]
PRED = Denoised(
    torch.tensor([[0.5, -2.0], [0.1, 1.0], [0.0, 0.3], [-0.4, 0.8]], dtype=torch.float64),
    torch.zeros(4, 2),  # not looked at, not even for its dtype
    torch.tensor([[0.3, 0.9], [0.0, 1.0], [-0.4, 1.7], [0.5, 0.5]], dtype=torch.float64),
)
X0 = torch.tensor([[0.2, 1.0], [-0.7, 0.4], [0.0, -1.0], [0.9, 0.1]], dtype=torch.float64)


def kernels(path: Path, t: float, s: float) -> tuple[float, float, float, float]:
    """How much of x_t and of x0 the posterior's mean has, its variance, and the forward kernel's (math.md, 4-6)."""
    (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, s)
    rho = a_t / a_s
    beta = s_t**2 - rho**2 * s_s**2
    return rho * s_s**2 / s_t**2, a_s * beta / s_t**2, s_s**2 * beta / s_t**2, beta


@pytest.mark.parametrize(("path", "t", "s"), COEFFS)
@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_a_step_is_a_divergence_of_gaussians(path: Path, t: float, s: float, variance: Variance) -> None:
    of_x, of_x0, small, large = kernels(path, t, s)
    mix = {"small": torch.zeros(4, 2), "large": torch.ones(4, 2), "learned": PRED.var_mix}[variance].double()
    v = large**mix * small ** (1 - mix)
    x_t = torch.tensor([[3.0, -1.0], [0.2, 0.0], [0.7, 0.1], [-2.0, 1.0]], dtype=torch.float64)
    q = torch.distributions.Normal(of_x * x_t + of_x0 * X0, small**0.5)
    p = torch.distributions.Normal(of_x * x_t + of_x0 * PRED.x0, v.sqrt())
    want = torch.distributions.kl_divergence(q, p)
    got = step_term(X0, PRED, path(row(t)), path(row(s)), variance)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(
        log_variance(variance, path(row(t)), path(row(s)), PRED).expand(4, 2), v.log(), rtol=1e-11, atol=1e-11
    )
    if variance == "learned":
        assert torch.equal(got, step_term(X0, PRED, path(row(t)), path(row(s))))


def test_rows_of_a_batch_take_steps_of_their_own() -> None:
    t, s = (torch.tensor(v, dtype=torch.float64) for v in ([0.9, 0.5, 0.3, 0.2], [0.5, 0.45, 0.1, 0.15]))
    now, nxt = Linear()(t), Linear()(s)
    whole = step_term(X0, PRED, now, nxt)
    for i in range(4):
        one = Denoised(*(v[i : i + 1] for v in PRED))  # type: ignore[index]
        alone = step_term(X0[i : i + 1], one, now.at(slice(i, i + 1)), nxt.at(slice(i, i + 1)))
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-13, atol=0)
    single = Denoised(*(v.float() for v in PRED))  # type: ignore[union-attr]
    got = step_term(X0.float(), single, now, nxt)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), whole, rtol=1e-5, atol=1e-6)


def test_the_prior_is_where_a_pipeline_starts_unless_told() -> None:
    last = Linear()(torch.tensor([0.8, 0.8, 0.6, 0.9], dtype=torch.float64))
    q = torch.distributions.Normal(last.alpha[:, None] * X0, last.sigma[:, None])
    for std in (None, row(1.0), torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)):
        p = torch.distributions.Normal(0.0, (last.sigma if std is None else std)[:, None])
        want = torch.distributions.kl_divergence(q, p)
        torch.testing.assert_close(prior_term(X0, last, std), want, rtol=1e-12, atol=1e-14)


def test_the_last_small_variance_is_the_one_before() -> None:
    """DDPM's log-variance at its first entry: posterior_variance[1] (from 0) for small; betas[0] is the large one."""
    betas = torch.linspace(1e-4, 0.02, 10, dtype=torch.float64)
    bar = torch.cumprod(1 - betas, 0)
    second = float(betas[1] * (1 - bar[0]) / (1 - bar[1]))
    table = Table(LinearBetas(10))
    now, clean, before = table(row(0.1)), table(row(0.0)), table(row(0.2))
    want = {"small": math.log(second), "large": math.log(1e-4)}
    for variance, log_v in want.items():
        got = log_variance(variance, now, clean, PRED, before)  # type: ignore[arg-type]
        torch.testing.assert_close(got.flatten(), torch.full_like(got.flatten(), log_v), rtol=1e-9, atol=0)
    mix = PRED.var_mix
    assert mix is not None
    between = mix * want["large"] + (1 - mix) * want["small"]
    torch.testing.assert_close(log_variance("learned", now, clean, PRED, before), between, rtol=1e-9, atol=0)
    alone = log_variance("small", now, clean, PRED)  # a chain of one step: large
    torch.testing.assert_close(alone.flatten(), row(math.log(1e-4)), rtol=1e-9, atol=0)
    # Away from the data the step before is not looked at, and derivatives never are.
    bare = now._replace(dalpha=row(math.nan), dsigma=row(math.nan))
    torch.testing.assert_close(
        log_variance("small", before, bare, PRED, table(row(0.3))), log_variance("small", before, now, PRED)
    )


def test_a_decoder_without_bins_is_a_density() -> None:
    now, before = Linear()(row(0.3)), Linear()(row(0.5))
    small = 0.3**2 * (0.5**2 - (0.5 / 0.7) ** 2 * 0.3**2) / 0.5**2
    mix = PRED.var_mix
    assert mix is not None
    for variance, v in (
        ("small", small + 0 * mix),
        ("large", 0.09 + 0 * mix),
        ("learned", 0.09**mix * small ** (1 - mix)),
    ):
        want = -torch.distributions.Normal(PRED.x0, v.sqrt()).log_prob(X0)
        got = decoder_term(X0, PRED, now, before, variance)  # type: ignore[arg-type]
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)
    assert torch.equal(decoder_term(X0, PRED, now, before), decoder_term(X0, PRED, now, before, "learned"))


def bins(mean: float, sigma: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """-L_0 of every one of 256 pixel values, with a decoder N(mean, sigma²)."""
    x0 = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).to(dtype)[:, None]
    now = VE(1.0)(torch.full((256,), sigma, dtype=torch.float64))
    pred = Denoised(torch.full_like(x0, mean), torch.zeros_like(x0))
    return -decoder_term(x0, pred, now, None, "large", 2 / 255)[:, 0]


@pytest.mark.parametrize("sigma", [0.002, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("mean", [-1.0, 0.003, 0.71, 1.5])
def test_a_decoder_with_bins_is_the_mass_in_them(mean: float, sigma: float) -> None:
    log_p = bins(mean, sigma)
    torch.testing.assert_close(torch.logsumexp(log_p, 0), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)
    edges = torch.arange(1, 256, dtype=torch.float64) / 127.5 - 1 - 1 / 255
    cdf = torch.cat([torch.zeros(1), torch.from_numpy(stats.norm(mean, sigma).cdf(edges.numpy())), torch.ones(1)])
    torch.testing.assert_close(log_p.exp(), cdf.diff(), rtol=1e-8, atol=1e-14)
    torch.testing.assert_close(bins(mean, sigma, torch.float32).double(), log_p, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("mean", [-30.0, -1.4, 1.3, 40.0])
def test_bins_far_from_the_mean_keep_their_digits(mean: float) -> None:
    """ln of the integral of exp(-z²/2)/sqrt(2·pi) over a bin that begins at z > 0, its first factor taken out."""
    sigma = 0.01
    log_p, single = bins(mean, sigma), bins(mean, sigma, torch.float32)
    assert single.isfinite().all()
    torch.testing.assert_close(single.double(), log_p, rtol=1e-4, atol=1e-30)
    for u in (1, 100, 128, 254):
        x = u / 127.5 - 1
        z, width = (abs(x - mean) - 1 / 255) / sigma, 2 / 255 / sigma
        inner = integrate.quad(lambda d, z=z: math.exp(-d * d / 2 - z * d), 0, width, epsabs=0, epsrel=1e-12)[0]
        want = -z * z / 2 + math.log(inner / math.sqrt(2 * math.pi))
        assert float(log_p[u]) == pytest.approx(want, rel=1e-10)
    for u, sign in ((0, 1), (255, -1)):
        x = u / 127.5 - 1
        want = stats.norm.logcdf((sign * (x - mean) + 1 / 255) / sigma)
        assert float(log_p[u]) == pytest.approx(want, rel=1e-10, abs=1e-300)


def test_the_outer_bins_end_half_a_width_within() -> None:
    """Data need not be in the middle of a bin: of width 1/2 the second begins at -0.75, and all below is the first."""
    mean, now = 0.1, VE(1.0)(torch.full((4,), 0.4, dtype=torch.float64))
    x0 = torch.tensor([[-0.75], [-0.78], [0.75], [0.78]], dtype=torch.float64)
    pred = Denoised(torch.full_like(x0, mean), x0)
    law = stats.norm(mean, 0.4)
    want = [law.cdf(-0.5) - law.cdf(-1), law.cdf(-0.53), law.cdf(1) - law.cdf(0.5), law.sf(0.53)]
    got = (-decoder_term(x0, pred, now, None, "large", 0.5)).exp()
    torch.testing.assert_close(got.flatten(), torch.tensor(want, dtype=torch.float64), rtol=1e-12, atol=0)


def test_bins_too_narrow_for_the_dtype_have_a_finite_logarithm() -> None:
    log_p = bins(0.3, 1e9, torch.float32)
    assert log_p.isfinite().all()
    assert log_p[1:-1].max() < -15


def test_a_decoders_gradients_are_finite_and_right() -> None:
    x0 = torch.tensor([[-1.0, -0.5 / 127.5, 1.0, 0.5 / 127.5]], dtype=torch.float64).repeat(3, 1)
    now, before = Linear()(torch.full((3,), 0.01).double()), Linear()(torch.full((3,), 0.02).double())
    mean = (x0 + torch.tensor([[0.004], [-0.3], [5.0]])).requires_grad_()
    mix = torch.full_like(x0, 0.4).requires_grad_()

    def of(m: Tensor, k: Tensor) -> Tensor:
        return decoder_term(x0, Denoised(m, m, k), now, before, "learned", 2 / 255)

    assert torch.autograd.gradcheck(of, (mean, mix), rtol=1e-4, atol=1e-6)
    single = Denoised(mean.detach().float().requires_grad_(), mean.detach().float(), mix.detach().float())
    loss = decoder_term(x0.float(), single, now, before, "learned", 2 / 255)
    (slope,) = torch.autograd.grad(loss.sum(), single.x0)
    assert slope.isfinite().all()


def test_a_model_without_a_learned_variance_cannot_be_asked_for_it() -> None:
    now, nxt = Linear()(row(0.5)), Linear()(row(0.4))
    with pytest.raises(ValueError, match=r"no learned variance.*small or large"):
        step_term(X0, PRED._replace(var_mix=None), now, nxt)
    for variance in ("small", "large"):
        with_none = step_term(X0, PRED._replace(var_mix=None), now, nxt, variance)  # type: ignore[arg-type]
        assert torch.equal(with_none, step_term(X0, PRED, now, nxt, variance))  # type: ignore[arg-type]


def test_a_decoder_from_pure_noise_has_its_variance() -> None:
    """A chain of one step from alpha = 0: beta is sigma_t², whatever alpha was."""
    now = Linear()(row(1.0))
    want = 0.5 * ((X0 - PRED.x0) ** 2 + math.log(2 * math.pi))
    torch.testing.assert_close(decoder_term(X0, PRED, now, None, "large"), want, rtol=1e-12, atol=0)
