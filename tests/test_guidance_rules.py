"""The rules of guidance, each against numpy's own computation of its paper's formula, example by example."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gaussian import PATHS
from inkwash.guidance import Along, Apg, Cfg, CfgZero, Guided, Rescaled
from inkwash.paths import VE, VP, Linear, ratio
from inkwash.types import Condition, Denoised, Path, Query, Steered

B, SHAPE = 5, (2, 3, 3)
ALL: list[Any] = [Cfg(), Rescaled(0.7), Apg(0.3, 0.5), CfgZero()]
W = torch.tensor([3.0, 0.0, -1.0, 7.5, 2.0], dtype=torch.float64)
MORE = torch.tensor([[0.5, -2.0], [1.0, 0.0], [3.0, 1.0], [0.2, 0.1], [-0.7, 1.5]], dtype=torch.float64)


def drawn(seed: int, spread: float = 1.0, shift: float = 0.3) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, spread, (B, *SHAPE)))


@dataclass
class Listed:
    """Answers x0 by label, row by row [B, ...], whatever x is; the noise follows."""

    path: Path
    x0: tuple[Tensor, ...]

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        assert cond.label is not None
        number = torch.arange(len(query.x)) % B
        x0 = torch.stack([self.x0[i][n] for i, n in zip(cond.label.tolist(), number.tolist(), strict=True)]).to(query.x)
        c = self.path(query.t).like(query.x)
        return Denoised(x0, (query.x - c.alpha * x0) / c.sigma)


def label(i: int) -> Condition:
    return Condition(torch.full((B,), i))


def run(
    rule: Any, answers: tuple[Tensor, ...], path: Path, t: Tensor, *, composed: bool = False, dtype: Any = torch.float64
) -> tuple[Query, Denoised]:
    """The guided answer: label 0 is the condition, 1 the base, 2 and 3 the others."""
    q = Query(drawn(99).to(dtype), t, t)
    others = {"others": (label(2), label(3)), "weights": MORE} if composed else {}
    cond = Steered(label=torch.zeros(B, dtype=torch.int64), base=label(1), **others)  # type: ignore[arg-type]
    return q, Guided(Listed(path, answers), W, rule=rule, path=path)(q, cond)


def by_hand(rule: Any, q: Query, answers: tuple[Tensor, ...], path: Path, composed: bool) -> np.ndarray:
    """x0 as the paper has it, in numpy, one example after the other."""
    c, x = [v.numpy() for v in path(q.t)[:2]], q.x.double().numpy()
    out = []
    for i in range(B):
        d = [a[i].numpy().astype(np.float64) for a in answers]
        w, more = float(W[i]), MORE[i].numpy() if composed else np.zeros(2)
        alpha, sigma = c[0][i], c[1][i]
        plain = w * d[0] + more[0] * d[2] + more[1] * d[3] + (1 - w - more.sum()) * d[1]
        if isinstance(rule, Cfg):
            out.append(plain)
        elif isinstance(rule, Rescaled):
            pos, cfg = d[0].std(ddof=1), plain.std(ddof=1)
            out.append(rule.phi * (plain * pos / cfg) + (1 - rule.phi) * plain)
        elif isinstance(rule, Apg):
            unit, x0 = d[0] / np.linalg.norm(d[0]), d[0].copy()
            for weight, term in ((w - 1, d[0]), (more[0], d[2]), (more[1], d[3])):
                push = term - d[1]
                if rule.norm is not None:
                    push = push * min(1.0, rule.norm * np.sqrt(push.size) / np.linalg.norm(push))
                parallel = (push * unit).sum() * unit
                x0 += weight * (push - parallel + rule.eta * parallel)
            out.append(x0)
        else:  # on the straight path through the same point: z = x/(alpha + sigma), at the time sigma/(alpha + sigma)
            z, t = x[i] / (alpha + sigma), sigma / (alpha + sigma)
            v = [(z - one) / t for one in d]  # x0 = z - t·v
            s = (v[0] * v[1]).sum() / (v[1] ** 2).sum()
            base = s * v[1]
            guided = base + w * (v[0] - base) + more[0] * (v[2] - base) + more[1] * (v[3] - base)
            out.append(z - t * guided)
    return np.stack(out)


ANSWERS = (drawn(1), drawn(2, 0.7), drawn(3, 1.4), drawn(4, 0.3))
TIMES = torch.tensor([0.15, 0.4, 0.6, 0.85, 0.97], dtype=torch.float64)


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rule", [*ALL, Rescaled(1.0), Rescaled(0.25), Apg(), Apg(norm=1.2), Apg(0.5)])
def test_rules_are_their_papers(rule: Any, path: str, composed: bool) -> None:
    p = PATHS[path]
    q, answer = run(rule, ANSWERS, p, TIMES, composed=composed)
    np.testing.assert_allclose(answer.x0.numpy(), by_hand(rule, q, ANSWERS, p, composed), rtol=1e-9, atol=1e-9)
    c = p(q.t).like(q.x)
    torch.testing.assert_close(c.alpha * answer.x0 + c.sigma * answer.eps, q.x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", ALL)
def test_in_float32_they_are_as_good_as_float32(rule: Any) -> None:
    q, answer = run(rule, ANSWERS, Linear(), TIMES, composed=True, dtype=torch.float32)
    want = by_hand(rule, q, ANSWERS, Linear(), True)
    assert answer.x0.dtype == answer.eps.dtype == torch.float32
    np.testing.assert_allclose(answer.x0.numpy(), want, rtol=1e-4, atol=1e-4)
    c = Linear()(q.t).like(q.x)
    torch.testing.assert_close(c.alpha * answer.x0 + c.sigma * answer.eps, q.x, rtol=1e-4, atol=1e-4)


def test_rules_that_change_nothing_are_plain_guidance() -> None:
    """phi = 0 bit for bit; eta = 1 without a limit, and with one that no push reaches, to rounding."""
    _, plain = run(Cfg(), ANSWERS, Linear(), TIMES, composed=True)
    _, none = run(Rescaled(0.0), ANSWERS, Linear(), TIMES, composed=True)
    assert all(torch.equal(a, b) for a, b in zip(none[:2], plain[:2], strict=True))
    for rule in (Apg(eta=1.0), Apg(eta=1.0, norm=5.0)):
        _, same = run(rule, ANSWERS, Linear(), TIMES, composed=True)
        torch.testing.assert_close(same.x0, plain.x0, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(same.eps, plain.eps, rtol=1e-12, atol=1e-12)


def test_rescaling_wholly_gives_the_conditional_deviation() -> None:
    _, answer = run(Rescaled(1.0), ANSWERS, Linear(), TIMES)
    torch.testing.assert_close(answer.x0.flatten(1).std(1), ANSWERS[0].flatten(1).std(1), rtol=1e-12, atol=0)
    _, plain = run(Cfg(), ANSWERS, Linear(), TIMES)
    assert float((plain.x0.flatten(1).std(1) / answer.x0.flatten(1).std(1))[3]) > 3  # 7.5 had made it so much larger


def test_projection_leaves_the_length_along_the_conditional_answer() -> None:
    """<x0 - D_c, D_c> = 0 for eta = 0, and the push is no longer than w - 1 times the limit."""
    _, answer = run(Apg(norm=0.4), ANSWERS, Linear(), TIMES)
    push = (answer.x0 - ANSWERS[0]).flatten(1)
    torch.testing.assert_close((push * ANSWERS[0].flatten(1)).sum(1), torch.zeros(B).double(), rtol=0, atol=1e-12)
    root = push.square().mean(1).sqrt() / (W - 1).abs()
    assert ((root < 0.4) & (root > 0.2)).all()


def test_velocities_that_are_parallel_are_not_guided_at_all() -> None:
    """v_c = 2·v_u: s = 2, so nothing is left to push away from, whatever the scale; v_c = v_u has s = 1."""
    t = TIMES.reshape(B, 1, 1, 1)
    x, v = drawn(99), drawn(7)
    answers = (x - t * 2 * v, x - t * v)
    _, answer = run(CfgZero(), answers, Linear(), TIMES)
    torch.testing.assert_close(answer.x0, answers[0], rtol=1e-11, atol=1e-11)
    _, plain = run(Cfg(), answers, Linear(), TIMES)
    assert not torch.allclose(plain.x0, answers[0], atol=0.1)
    _, answer = run(CfgZero(), (answers[0], answers[0]), Linear(), TIMES)
    torch.testing.assert_close(answer.x0, answers[0], rtol=1e-12, atol=1e-12)
    # orthogonal ones: s = 0, and the guided velocity is w·v_c
    u = drawn(8)
    u = u - ((u * v).flatten(1).sum(1) / (v * v).flatten(1).sum(1)).reshape(t.shape) * v
    _, answer = run(CfgZero(), (x - t * u, x - t * v), Linear(), TIMES)
    torch.testing.assert_close(answer.eps - answer.x0, W.reshape(t.shape) * u, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", ALL)
def test_guidance_is_the_same_along_every_path(rule: Any) -> None:
    """A model asked along another path is asked the same, and its answers are put together to the same."""
    linear, t = Listed(Linear(), ANSWERS), TIMES
    for path in (VE(20.0), VP()):
        there = path.time(ratio(Linear()(t)))
        a, b = Linear()(t), path(there)
        k = ((b.alpha**2 + b.sigma**2) / (a.alpha**2 + a.sigma**2)).sqrt().reshape(B, 1, 1, 1)
        cond = Steered(label=torch.zeros(B, dtype=torch.int64), base=label(1))
        here = Guided(linear, W, rule=rule, path=Linear())(Query(drawn(99), t, t), cond)
        along = Guided(Along(linear, Linear(), path), W, rule=rule, path=path)(Query(k * drawn(99), there, there), cond)
        torch.testing.assert_close(along.x0, here.x0, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(along.eps, here.eps, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("rule", ALL)
def test_scale_one_beside_other_rows_is_the_conditional_answer(rule: Any) -> None:
    """The rule itself gives it, where a row of scale 1 is carried along because there are others of weight 0."""
    cond = Steered(
        label=torch.zeros(B, dtype=torch.int64), others=(label(2),), weights=torch.zeros(B, 1), base=label(1)
    )
    q = Query(drawn(99), TIMES, TIMES)
    answer = Guided(Listed(Linear(), ANSWERS), 1.0, rule=rule, path=Linear())(q, cond)
    torch.testing.assert_close(answer.x0, ANSWERS[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", ALL)
def test_at_noise_alone_and_with_nothing_to_divide_by(rule: Any) -> None:
    """alpha = 0; answers that are 0, or constant; examples of a single number: finite, and x as it was."""
    one = torch.ones(B, dtype=torch.float64)
    zero, flat = torch.zeros(B, *SHAPE, dtype=torch.float64), torch.full((B, *SHAPE), 0.5, dtype=torch.float64)
    for answers in ((ANSWERS[0], zero), (zero, ANSWERS[1]), (zero, zero), (flat, flat), (drawn(99), drawn(99))):
        q, answer = run(rule, answers, Linear(), one)
        assert answer.x0.isfinite().all()
        torch.testing.assert_close(answer.eps, q.x, rtol=0, atol=1e-12)
    q, answer = run(rule, (flat, flat), Linear(), one / 2)
    torch.testing.assert_close(answer.x0, flat, rtol=1e-12, atol=1e-12)

    def numbers(q: Query, cond: Condition) -> Denoised:
        x0 = 0.5 - cond.label[:, None].double()  # type: ignore[index]
        return Denoised(x0, (q.x - 0.5 * x0) / 0.5)

    single = Query(torch.full((B, 1), 0.3, dtype=torch.float64), one / 2, one / 2)
    answer = Guided(numbers, W, rule=rule, path=Linear())(single, Condition(torch.zeros(B, dtype=torch.int64)))
    assert answer.x0.isfinite().all()
    torch.testing.assert_close(answer.x0 / 2 + answer.eps / 2, single.x, rtol=1e-12, atol=1e-12)


def test_at_sigma_zero_the_noise_is_left() -> None:
    """x is the data there; what the answers say of the noise stays."""
    t = torch.zeros(B, dtype=torch.float64)

    def denoiser(q: Query, cond: Condition) -> Denoised:
        return Denoised(q.x, torch.full_like(q.x, 0.25))

    for rule in ALL:
        answer = Guided(denoiser, 3.0, rule=rule, path=Linear())(Query(ANSWERS[0], t, t), label(0))
        assert answer.eps.isfinite().all()
    assert torch.equal(answer.eps, torch.full_like(answer.eps, 0.25))


@pytest.mark.parametrize("rule", ALL)
def test_what_was_answered_is_not_written_to(rule: Any) -> None:
    """A sampler's history may alias the answers."""
    kept: list[tuple[Denoised, Denoised]] = []
    inner = Listed(Linear(), ANSWERS)

    def denoiser(q: Query, cond: Condition) -> Denoised:
        answer = inner(q, cond)
        kept.append((answer, Denoised(answer.x0.clone(), answer.eps.clone())))
        return answer

    cond: Callable[[], Condition] = lambda: Steered(label=label(0).label, base=label(1))  # noqa: E731
    Guided(denoiser, 3.0, rule=rule, path=Linear())(Query(drawn(99), TIMES, TIMES), cond())
    ((now, before),) = kept
    assert torch.equal(now.x0, before.x0)
    assert torch.equal(now.eps, before.eps)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Rescaled(1.2), "phi = 1.2 must lie in [0, 1]"),
        (lambda: Rescaled(float("nan")), "phi = nan"),
        (lambda: Apg(-0.1), "eta = -0.1 must lie in [0, 1]"),
        (lambda: Apg(1.5), "eta = 1.5"),
        (lambda: Apg(norm=0.0), "norm = 0.0 must be more than 0"),
        (lambda: Apg(norm=float("nan")), "norm = nan"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        make()


@pytest.mark.parametrize("rule", [Cfg(), Rescaled(0.7), Apg(0.3), CfgZero()])
def test_rules_know_no_unit(rule: Any) -> None:
    """Data a million times smaller are guided to a result a million times smaller; no small number decides anything."""
    small = tuple(1e-6 * a for a in ANSWERS)
    _, answer = run(rule, ANSWERS, Linear(), TIMES, composed=True)
    q = Query(1e-6 * drawn(99), TIMES, TIMES)
    cond = Steered(label=label(0).label, base=label(1), others=(label(2), label(3)), weights=MORE)
    found = Guided(Listed(Linear(), small), W, rule=rule, path=Linear())(q, cond)
    torch.testing.assert_close(1e6 * found.x0, answer.x0, rtol=1e-9, atol=1e-9)
