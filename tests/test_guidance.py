"""Wrappers of denoisers: guidance against its closed form, clipping against DDPM's own mean, chunks against none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from affine import EVERY
from gaussian import PATHS
from inkwash.drive import drive
from inkwash.grids import grid
from inkwash.guidance import Chunked, Clipped, Guided
from inkwash.noise import Philox
from inkwash.paths import Linear, LinearBetas, Table
from inkwash.samplers import Ancestral, Ddim, Heun
from inkwash.types import Condition, Denoised, Denoiser, Path, Query

MEANS = torch.tensor([-1.5, 0.5, 2.0], dtype=torch.float64)
SHARE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
LAM = 0.3


@dataclass
class Mixture:
    """The exact denoiser of a mixture of Gaussians N(MEANS[label], LAM); the null label sees the whole mixture."""

    path: Path
    calls: list[tuple[Query, Condition]] = field(default_factory=list)

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        self.calls.append((query, cond))
        assert cond.label is not None
        c = self.path(query.t)
        alpha, sigma = c.alpha[:, None], c.sigma[:, None]
        S2 = alpha**2 * LAM + sigma**2
        each = MEANS + alpha * LAM / S2 * (query.x - alpha * MEANS)  # [B, 3]: the denoiser of each component
        posterior = torch.softmax(SHARE.log() - (query.x - alpha * MEANS) ** 2 / (2 * S2), dim=1)
        weights = torch.nn.functional.one_hot(cond.label.clamp(min=0), 3).double()
        weights = torch.where(cond.label[:, None] < 0, posterior, weights)
        x0 = (weights * each).sum(1, keepdim=True)
        return Denoised(x0, (query.x - alpha * x0) / sigma, weights[:, :1])


def log_density(x: Tensor, alpha: Tensor, sigma: Tensor, label: int) -> Tensor:
    """ln p_t(x | label) by hand, [B]."""
    S2 = alpha**2 * LAM + sigma**2
    each = -((x - alpha[:, None] * MEANS) ** 2) / (2 * S2[:, None]) - 0.5 * S2.log()[:, None]
    return torch.logsumexp(each + SHARE.log(), dim=1) if label < 0 else each[:, label]


def query(n: int = 6) -> Query:
    t = torch.linspace(0.1, 0.95, n, dtype=torch.float64)
    return Query(torch.linspace(-2, 3, n, dtype=torch.float64)[:, None], t, t)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_guidance_is_the_mixed_score(path: str, scale: float) -> None:
    """eps = -sigma·grad of (1 - w)·ln p(x) + w·ln p(x | c): autograd on the exact densities (math.md, eq. 10, 22)."""
    q, c = query(), PATHS[path](query().t)
    answer = Guided(Mixture(PATHS[path]), scale)(q, Condition(torch.full((6,), 2)))
    x = q.x.clone().requires_grad_()
    mixed = (1 - scale) * log_density(x, c.alpha, c.sigma, -1) + scale * log_density(x, c.alpha, c.sigma, 2)
    (score,) = torch.autograd.grad(mixed.sum(), x)
    torch.testing.assert_close(answer.eps, -c.sigma[:, None] * score, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(c.alpha[:, None] * answer.x0 + c.sigma[:, None] * answer.eps, q.x, rtol=1e-9, atol=1e-9)


def test_scale_one_is_the_conditional_model_and_costs_nothing() -> None:
    mixture, cond = Mixture(Linear()), Condition(torch.tensor([0, 1, 2, -1, 0, 1]))
    plain = mixture(query(), cond)
    for scale in (1, 1.0, torch.ones(6)):
        mixture.calls.clear()
        guided = Guided(mixture, scale)(query(), cond)
        assert [len(q.x) for q, _ in mixture.calls] == [6]
        assert all(torch.equal(a, b) for a, b in zip(guided, plain, strict=True))


def test_scale_zero_is_the_unconditional_model() -> None:
    mixture = Mixture(Linear())
    guided = Guided(mixture, 0.0)(query(), Condition(torch.tensor([0, 1, 2, 0, 1, 2])))
    null = mixture(query(), Condition(torch.full((6,), -1)))
    torch.testing.assert_close(guided[:2], null[:2], rtol=1e-14, atol=1e-14)


def test_every_row_has_its_own_scale_and_pays_for_itself() -> None:
    """Rows of scale 1 get no second half; the others are as if alone, their null rows in the same one call."""
    scale, label = torch.tensor([1.0, 3.0, 0.0, 1.0, -0.5, 3.0]), torch.tensor([2, 1, 0, 0, 1, 2])
    mixture, q = Mixture(Linear()), query()
    guided = Guided(mixture, scale)(q, Condition(label))
    ((asked, cond),) = mixture.calls
    assert torch.equal(asked.x, q.x[[0, 1, 2, 3, 4, 5, 1, 2, 4, 5]])
    assert torch.equal(asked.t, q.t[[0, 1, 2, 3, 4, 5, 1, 2, 4, 5]])
    assert torch.equal(asked.s, asked.t)
    assert cond.label is not None
    assert cond.label.tolist() == [2, 1, 0, 0, 1, 2, -1, -1, -1, -1]
    for i in range(6):
        row = Query(q.x[i : i + 1], q.t[i : i + 1], q.s[i : i + 1])
        alone = Guided(mixture, float(scale[i]))(row, Condition(label[i : i + 1]))
        torch.testing.assert_close(alone.x0[0], guided.x0[i], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(alone.eps[0], guided.eps[i], rtol=1e-13, atol=1e-13)
        assert alone.var_mix is not None
        assert guided.var_mix is not None
        torch.testing.assert_close(alone.var_mix[0], guided.var_mix[i])  # the conditional one, untouched
    answer = mixture(q, Condition(label))
    assert torch.equal(guided.x0[[0, 3]], answer.x0[[0, 3]])


def test_guidance_keeps_the_answers_it_was_given() -> None:
    """The conditional answer may be aliased by a sampler's history: it is not written to."""
    given = Denoised(torch.ones(4, 1), torch.ones(4, 1))
    Guided(lambda q, c: given, 3.0)(Query(torch.zeros(2, 1), torch.ones(2), torch.ones(2)), Condition())
    assert torch.equal(given.x0, torch.ones(4, 1))
    assert torch.equal(given.eps, torch.ones(4, 1))


def test_guided_samples_follow_the_guided_gaussian_field() -> None:
    """Two classes of one width: the guided field is that of a Gaussian, whose flow is known (math.md, eq. 21).

    Conditional N(m, LAM), unconditional N(0, LAM): u + w·(c - u) is the field of N(w·m, LAM).
    """

    def denoiser(q: Query, cond: Condition) -> Denoised:
        assert cond.label is not None
        mean = torch.where(cond.label < 0, 0.0, 1.2).double()[:, None]
        alpha, sigma = (1 - q.t)[:, None], q.t[:, None]
        z = (q.x - alpha * mean) / (alpha**2 * LAM + sigma**2)
        return Denoised(mean + alpha * LAM * z, sigma * z)

    w = torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=torch.float64)
    x = torch.full((4, 1), 0.4, dtype=torch.float64)
    coroutine = Heun()(Linear(), x, grid(400, 4), Philox(0, torch.arange(4)))
    out = drive(coroutine, Guided(denoiser, w), Condition(torch.zeros(4, dtype=torch.int64)))
    torch.testing.assert_close(out.flatten(), 1.2 * w + LAM**0.5 * 0.4, rtol=1e-4, atol=1e-4)


@dataclass(frozen=True)
class Classes:
    """Exact denoisers of N(mu, lam) for every label; label -1 is the null."""

    path: Path
    mu: Tensor
    lam: Tensor

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        assert cond.label is not None
        c, label = self.path(query.t), cond.label
        alpha, sigma, mu, lam = c.alpha[:, None], c.sigma[:, None], self.mu[label], self.lam[label]
        z = (query.x - alpha * mu) / (alpha**2 * lam + sigma**2)
        return Denoised(mu + alpha * lam * z, sigma * z, torch.full_like(z, 0.25) * (2 + label[:, None]))


@pytest.mark.parametrize("path", ["linear", "vp"])
@pytest.mark.parametrize("name", EVERY)
def test_every_sampler_follows_the_guided_field(name: str, path: str) -> None:
    """Gaussian classes of different widths: w·D_c + (1 - w)·D_null, linear in x (math.md, the example after eq. 22).

    The sampler on two answers and the sampler on the closed form make the same, row by row, each with its own scale.
    """
    p, labels = PATHS[path], torch.tensor([0, 1, 1, 0])
    mu = torch.tensor([[0.7, -1.3], [2.0, 0.4], [0.1, -0.2]], dtype=torch.float64)  # the last is the null's
    lam = torch.tensor([[0.25, 1.0], [0.04, 2.5], [1.7, 0.6]], dtype=torch.float64)
    w = torch.tensor([1.0, 3.0, 0.0, -0.5], dtype=torch.float64)[:, None]

    def closed(query: Query, cond: Condition) -> Denoised:
        alpha, sigma = (v[:, None] for v in p(query.t)[:2])
        s_c, s_n = alpha**2 * lam[labels] + sigma**2, alpha**2 * lam[2] + sigma**2
        of_class = mu[labels] + alpha * lam[labels] / s_c * (query.x - alpha * mu[labels])
        of_null = mu[2] + alpha * lam[2] / s_n * (query.x - alpha * mu[2])
        x0 = w * of_class + (1 - w) * of_null
        eps = sigma * (w * (query.x - alpha * mu[labels]) / s_c + (1 - w) * (query.x - alpha * mu[2]) / s_n)
        return Denoised(x0, eps, torch.full_like(x0, 0.25) * (2 + labels[:, None]))

    x = torch.tensor([[0.3, -1.0], [1.1, 0.4], [-0.6, 2.0], [-1.7, 0.1]], dtype=torch.float64)
    times = grid([1.0, 0.8, 0.55, 0.3, 0.12, 0.0], 4)

    def run(denoiser: Denoiser) -> Tensor:
        coroutine = EVERY[name](p, x, times, Philox(0, torch.arange(4)))
        return drive(coroutine, denoiser, Condition(labels))

    found, wanted = run(Guided(Classes(p, mu, lam), w[:, 0])), run(closed)
    assert torch.allclose(found, wanted, rtol=1e-10, atol=1e-10)
    plain = run(Classes(p, mu, lam))
    assert torch.allclose(found[0], plain[0], rtol=1e-12)
    assert float((found - plain)[1:].abs().amin(1).max()) > 0.1  # guidance is not for nothing


@pytest.mark.parametrize("scale", [[1.0, 2.0, 1.0], [0.0, 1.0, 1.0], [2.0, 3.0, 1.5], [1.0, 1.0, 1.0]])
def test_a_learned_variance_is_that_of_the_rows_asked_for(scale: list[float]) -> None:
    """As many rows as were asked for, of the labelled answers alone, however many null rows were asked beside them."""
    label = torch.tensor([1, 0, 1])
    classes = Classes(Linear(), torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64))
    answer = Guided(classes, torch.tensor(scale))(
        Query(torch.ones(3, 2, dtype=torch.float64), *2 * [torch.full((3,), 0.5, dtype=torch.float64)]),
        Condition(label),
    )
    assert answer.var_mix is not None
    assert answer.x0.shape == answer.eps.shape == answer.var_mix.shape == (3, 2)
    assert answer.var_mix.tolist() == [[0.75] * 2, [0.5] * 2, [0.75] * 2]


def wild(path: Path) -> Callable[[Query, Condition], Denoised]:
    """A denoiser whose x0 leaves [-1, 1], consistent with x."""

    def denoiser(q: Query, cond: Condition) -> Denoised:
        c = path(q.t)
        x0 = 3 * torch.sin(5 * q.x)
        return Denoised(x0, (q.x - c.alpha[:, None] * x0) / c.sigma[:, None])

    return denoiser


def test_clipping_gives_ddpms_clipped_posterior_mean() -> None:
    """mean = coef1·clip(x0) + coef2·x, with DDPM's coefficients, at every step of the table (math.md, eq. 8)."""
    steps = 20
    betas = torch.linspace(1e-3, 0.3, steps, dtype=torch.float64)
    table, bar = Table(betas.tolist()), torch.cumprod(1 - betas, 0)
    x = torch.linspace(-2, 2, 11, dtype=torch.float64)[:, None]
    for i in range(steps):
        before = bar[i - 1] if i > 0 else torch.ones(())
        coef1 = betas[i] * before.sqrt() / (1 - bar[i])
        coef2 = (1 - betas[i]).sqrt() * (1 - before) / (1 - bar[i])
        times = torch.tensor([(i + 1) / steps, i / steps], dtype=torch.float64)[:, None].expand(2, 11)
        coroutine = Ancestral()(table, x, times, lambda like, step, stream: torch.zeros_like(like))  # type: ignore
        mean = drive(coroutine, Clipped(wild(table), table), Condition())
        want = coef1 * (3 * torch.sin(5 * x)).clamp(-1, 1) + coef2 * x
        torch.testing.assert_close(mean, want, rtol=1e-10, atol=1e-10)


def test_clipping_keeps_x_and_its_bounds() -> None:
    for path in PATHS.values():
        q = query(40)
        answer, c = Clipped(wild(path), path, -0.5, 2.0)(q, Condition()), path(q.t)
        torch.testing.assert_close(answer.x0, (3 * torch.sin(5 * q.x)).clamp(-0.5, 2.0), rtol=0, atol=0)
        back = c.alpha[:, None] * answer.x0 + c.sigma[:, None] * answer.eps
        torch.testing.assert_close(back, q.x, rtol=1e-12, atol=1e-12)


def test_clipping_what_is_inside_changes_no_bit() -> None:
    path = Linear()
    inside = Denoised(torch.tensor([[0.5], [-1.0]]), torch.tensor([[3.0], [4.0]]), torch.tensor([[0.1], [0.2]]))
    t = torch.tensor([0.5, 0.0], dtype=torch.float64)
    answer = Clipped(lambda q, c: inside, path)(Query(torch.zeros(2, 1), t, t), Condition())
    assert all(torch.equal(a, b) for a, b in zip(answer, inside, strict=True))


def test_clipping_at_sigma_zero_leaves_the_noise() -> None:
    t = torch.tensor([0.0], dtype=torch.float64)
    given = Denoised(torch.tensor([[5.0]]), torch.tensor([[0.25]]))
    answer = Clipped(lambda q, c: given, Linear())(Query(torch.tensor([[5.0]]), t, t), Condition())
    assert (float(answer.x0), float(answer.eps)) == (1.0, 0.25)


@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 9])
def test_chunks_answer_the_same_in_calls_of_one_size(n: int) -> None:
    mixture, q = Mixture(Linear()), query(n)
    q = q._replace(s=q.s.clone())
    cond = Condition(torch.arange(n) % 4 - 1)
    want = mixture(q, cond)
    mixture.calls.clear()
    answer = Chunked(mixture, 4)(q, cond)
    torch.testing.assert_close(answer, want, rtol=1e-15, atol=1e-15)
    assert [len(asked.x) for asked, _ in mixture.calls] == [4] * -(-n // 4)
    for asked, _ in mixture.calls:
        assert torch.equal(asked.t, asked.s)
        assert torch.isin(asked.x, q.x).all()  # filled up with copies of rows, not with numbers never seen


def test_jumps_pass_through_every_wrapper() -> None:
    """A few-step query has s < t: t and s reach the network each in its own place, row by row; clipping is at t."""
    seen: list[Query] = []

    def jumper(q: Query, cond: Condition) -> Denoised:
        seen.append(q)
        x0 = 3 * q.t[:, None] + q.s[:, None]
        return Denoised(x0, (q.x - (1 - q.t[:, None]) * x0) / q.t[:, None])

    t = torch.tensor([0.9, 0.5, 0.7], dtype=torch.float64)
    q = Query(torch.ones(3, 1, dtype=torch.float64), t, t / 2)
    label = Condition(torch.tensor([0, 1, 2]))
    Guided(jumper, torch.tensor([2.0, 1.0, 3.0]))(q, label)
    assert seen[0].t.tolist() == [0.9, 0.5, 0.7, 0.9, 0.7]
    assert seen[0].s.tolist() == [0.45, 0.25, 0.35, 0.45, 0.35]
    seen.clear()
    Chunked(jumper, 2)(q, label)
    assert [s.t.tolist() for s in seen] == [[0.9, 0.5], [0.7, 0.7]]
    assert [s.s.tolist() for s in seen] == [[0.45, 0.25], [0.35, 0.35]]
    clipped = Clipped(jumper, Linear())(q, label)
    assert clipped.x0.flatten().tolist() == [1, 1, 1]
    torch.testing.assert_close((1 - t[:, None]) * clipped.x0 + t[:, None] * clipped.eps, q.x)


def test_chunks_without_learned_variance_have_none() -> None:
    denoiser = lambda q, c: Mixture(Linear())(q, c)._replace(var_mix=None)  # noqa: E731
    answer = Chunked(denoiser, 4)(query(6), Condition(torch.zeros(6, dtype=torch.int64)))
    assert answer.var_mix is None
    assert len(answer.x0) == len(answer.eps) == 6


def test_pictures_have_the_same_bits_in_any_batch() -> None:
    """A network of matrix products, whose kernels differ with the batch: under chunks and guidance it makes no odds."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(50, 300), torch.nn.SiLU(), torch.nn.Linear(300, 50))
    table = Table(LinearBetas(50))

    def denoiser(q: Query, cond: Condition) -> Denoised:
        assert cond.label is not None
        c = table(q.t)
        eps = net(q.x + cond.label[:, None])
        return Denoised(((q.x - c.sigma.float()[:, None] * eps) / c.alpha.float()[:, None]).clamp(-3, 3), eps)

    def run(index: Tensor, sampler: Ddim | Ancestral) -> Tensor:
        noise = Philox(0, index)
        x = noise(torch.empty(len(index), 50), 0, 0)
        guided = Guided(Chunked(Clipped(denoiser, table), 16), 2.0)
        return drive(sampler(table, x, grid(5, len(index)), noise), guided, Condition(index % 3))

    for sampler in (Ddim(), Ancestral()):
        whole = run(torch.arange(40), sampler)
        for rows in ([3], [39, 0], list(range(7)), list(range(5, 34))):
            assert torch.equal(run(torch.tensor(rows), sampler), whole[rows])


def test_conditions() -> None:
    cond = Condition(torch.tensor([4, 5, 6]))
    assert cond.label is not None
    assert replace(cond).null().label.tolist() == [-1, -1, -1]  # type: ignore[union-attr]
    assert cond.hide({"label": torch.tensor([True, False, True])}).label.tolist() == [-1, 5, -1]  # type: ignore[union-attr]
    assert cond.label.tolist() == [4, 5, 6]
    assert cond.cat(Condition(torch.tensor([7]))).label.tolist() == [4, 5, 6, 7]  # type: ignore[union-attr]
    assert cond.map(lambda v: v[1:]).label.tolist() == [5, 6]  # type: ignore[union-attr]
    nothing = Condition()
    assert nothing.null() == nothing.hide({"label": torch.tensor([True])}) == nothing.cat(nothing) == nothing
    assert nothing.map(abs) == nothing
