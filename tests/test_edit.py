"""Editing on Gaussian data with any covariance, where what each method does is known to the last digit.

A sampler with a linear denoiser is an affine map of its start and its noise; `Pulses` reads the map off, and its mean
and covariance are compared with recursions written in matrices (math.md, eq. 42 and 43).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gaussian import LAM, PATHS, TARGETS, VE, VP, flow_map, model, numbers
from gaussian import MU as CENTRE
from inkwash.drive import drive
from inkwash.edit import (
    Blur,
    Decode,
    Downsample,
    Edit,
    Fill,
    Inpainted,
    Posterior,
    Resampled,
    Restore,
    Vary,
    check_deterministic,
    clean_time,
    invert,
    noised,
    repaint,
    slerp,
)
from inkwash.model import Model, UnitVariance
from inkwash.nets import UNet
from inkwash.noise import Philox, Stream
from inkwash.paths import CosineBetas, Linear, LinearBetas, Table
from inkwash.samplers import Ancestral, Ddim, Euler, Heun
from inkwash.targets import Flow
from inkwash.types import Condition, Denoised, Path, Query, Sampler, like

NONE = Condition()
EYE = torch.eye(3, dtype=torch.float64)
MU = torch.tensor([0.4, -1.1, 0.7], dtype=torch.float64)
COV = torch.tensor([[1.0, 0.7, 0.2], [0.7, 0.8, -0.1], [0.2, -0.1, 0.5]], dtype=torch.float64)


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def column(times: Any, batch: int = 1) -> Tensor:
    return f64(times)[:, None].expand(-1, batch)


@dataclass(frozen=True)
class Gaussian:
    """The perfect denoiser for data N(mu, cov), at any times; it notes the times it is asked about."""

    path: Path
    mu: Tensor = field(default_factory=lambda: MU)
    cov: Tensor = field(default_factory=lambda: COV)
    asked: list[float] = field(default_factory=list)

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        self.asked.append(float(query.t[0]))
        c = self.path(query.t)
        a, s = c.alpha[:, None, None], c.sigma[:, None, None]
        d = query.x - c.alpha[:, None] * self.mu
        back = torch.linalg.solve(a**2 * self.cov + s**2 * torch.eye(len(self.mu)), d[..., None])[..., 0]
        return Denoised(self.mu + c.alpha[:, None] * back @ self.cov, c.sigma[:, None] * back, query.x * 0 + 0.25)


@dataclass
class Pulses:
    """In place of noise: the k-th draw gives unit pulses to rows of its own, one for each coordinate."""

    draws: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        dim, z = like.shape[1], torch.zeros_like(like)
        first = 1 + dim * (1 + len(self.draws))
        self.draws.append((step, stream))
        z[first : first + dim] = torch.eye(dim, dtype=z.dtype)[: len(z[first : first + dim])]
        return z


def spread(sampler: Sampler, path: Path, times: Any, denoiser: Any, dim: int) -> tuple[Tensor, Tensor, list[Any]]:
    """(offset, map [dim, inputs], draws) of x = offset + map·(start, noise...), all inputs standard normals."""
    t = f64(times)
    rows = 1 + dim * (2 + len(t))
    x = torch.zeros(rows, dim, dtype=torch.float64)
    x[1 : 1 + dim] = torch.eye(dim)
    x = x * float(path(t[:1]).sigma)
    pulses = Pulses()
    out = drive(sampler(path, x, column(times, rows), pulses), denoiser, NONE)  # type: ignore[arg-type]
    assert len(set(pulses.draws)) == len(pulses.draws)  # no two draws share their numbers
    return out[0], (out[1:] - out[0]).T, pulses.draws


# Replacement


def test_inpainting_replaces_data_and_moves_the_noise() -> None:
    path = VP()
    x = f64([[0.3, -0.2, 1.0], [0.1, 0.9, -2.0]])
    query = Query(x, f64([0.3, 0.8]), f64([0.3, 0.8]))
    plain = Gaussian(path)(query, NONE)
    known, mask = f64([[2.0, -1.0, 5.0]]), f64([[1.0, 0.25, 0.0]])
    got = Inpainted(Gaussian(path), path, known, mask)(query, NONE)
    torch.testing.assert_close(got.x0, mask * known + (1 - mask) * plain.x0)
    c = path(query.t).like(x)
    torch.testing.assert_close(c.alpha * got.x0 + c.sigma * got.eps, x)
    assert torch.equal(got.var_mix, plain.var_mix)  # type: ignore[arg-type]
    assert not torch.allclose(got.eps[:, 0], plain.eps[:, 0])
    torch.testing.assert_close(got.eps[:, 2], plain.eps[:, 2])
    # At sigma = 0 there is no noise to move.
    clean = Query(x[:1], f64([0.0]), f64([0.0]))
    still = Inpainted(lambda q, c: Denoised(q.x, q.x + 1), path, known, mask)(clean, NONE)
    assert torch.equal(still.eps, x[:1] + 1)
    assert torch.equal(still.x0, mask * known + (1 - mask) * x[:1])


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "cosine50"])
def test_the_known_part_is_an_exact_draw_of_the_forward_process_at_all_times_together(name: str) -> None:
    path = PATHS[name]
    known, mask = f64([[1.7, 0.0, -0.6]]), f64([[1.0, 0.0, 1.0]])
    times = [1.0, 0.82, 0.5, 0.3, 0.08, 0.0]
    denoiser = Inpainted(Gaussian(path), path, known, mask)
    ends = {}
    for n in range(2, len(times) + 1):
        _, part, draws = spread(Ancestral(), path, times[:n], denoiser, 3)
        assert draws == [(i, Stream.STEP) for i in range(n - 1 if times[n - 1] > 0 else n - 2)]
        x = torch.zeros(1, 3, dtype=torch.float64)
        x = noised(path, mask * known, f64([1.0]), x)
        mean = drive(Ancestral()(path, x, column(times[:n]), lambda like, *_: 0 * like), denoiser, NONE)[0]  # type: ignore[arg-type]
        ends[times[n - 1]] = (mean, part)
    for s, (mean, part) in ends.items():
        a_s, s_s, *_ = numbers(path, s)
        for t, (_, other) in ends.items():
            if t < s:
                continue
            a_t = numbers(path, t)[0]
            width = min(part.shape[1], other.shape[1])
            together = (part[:, :width] @ other[:, :width].T)[0::2, 0::2]
            torch.testing.assert_close(together, a_t / a_s * s_s**2 * torch.eye(2).double(), atol=1e-12, rtol=1e-10)
        torch.testing.assert_close(mean[0::2], a_s * known[0, 0::2], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(ends[0.0][0][0::2], known[0, 0::2])


def walk(last: int, jump: int, resamplings: int) -> list[int]:
    """RePaint's order of visits as its authors describe it: noise levels from `last` down to 0, in single steps."""
    left = {level: resamplings - 1 for level in range(1, last, jump) if level + jump <= last}
    level, visits = last, [last]
    while level:
        level -= 1
        visits.append(level)
        if left.get(level):
            left[level] -= 1
            visits.extend(range(level + 1, level + jump + 1))
            level += jump
    return visits


def recursion(path: Path, visits: list[float], known: Tensor, mask: Tensor, mean: Tensor, cov: Tensor) -> Any:
    """Mean and covariance of replacement under ancestral steps down and the forward kernel up, in matrices."""
    keep = torch.diag(1 - mask)
    eye = torch.eye(len(mean), dtype=torch.float64)
    for t, s in pairwise(visits):
        (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, s)
        if s > t:
            ratio = a_s / a_t
            mean, cov = ratio * mean, ratio**2 * cov + (s_s**2 - ratio**2 * s_t**2) * eye
            continue
        gain = a_t * COV2 @ torch.linalg.inv(a_t**2 * COV2 + s_t**2 * eye)
        ratio = a_t / a_s
        beta = s_t**2 - ratio**2 * s_s**2
        to_x, to_x0 = ratio * s_s**2 / s_t**2, a_s * beta / s_t**2
        step = to_x * eye + to_x0 * keep @ gain
        mean = step @ mean + to_x0 * mask * known
        cov = step @ cov @ step.T + s_s**2 * beta / s_t**2 * eye
    return mean, cov


COV2 = f64([[1.0, 0.8], [0.8, 1.0]])


def test_resampling_brings_replacement_nearer_to_the_conditional() -> None:
    """x1 is known to be 1.5, so x2 is N(1.2, 0.36). All moments are exact; there is no Monte Carlo error in them."""
    path, known, mask = Linear(), f64([1.5, 0.0]), f64([1.0, 0.0])
    times = torch.linspace(1, 0, 21, dtype=torch.float64)
    denoiser = Inpainted(Gaussian(path, torch.zeros(2, dtype=torch.float64), COV2), path, known[None], mask[None])
    far = {}
    for resamplings in (1, 2, 5, 20):
        grid = repaint(times, 2, resamplings)
        mean, part, _ = spread(Resampled(Ancestral()), path, grid.tolist(), denoiser, 2)
        cov = part @ part.T
        visits = [level / 20 for level in walk(20, 2, resamplings)]
        m, c = recursion(path, visits, known, mask, torch.zeros(2, dtype=torch.float64), torch.eye(2).double())
        torch.testing.assert_close(mean, m, atol=1e-10, rtol=0)
        torch.testing.assert_close(cov, c, atol=1e-10, rtol=0)
        assert float(mean[0]) == pytest.approx(1.5, abs=1e-12) and float(cov[0, 0]) == pytest.approx(0, abs=1e-12)
        far[resamplings] = math.hypot(float(mean[1]) - 1.2, float(cov[1, 1]) ** 0.5 - 0.6)
    assert far[1] > far[2] > far[5] > far[20]  # W2 from N(1.2, 0.36)
    assert list(far.values()) == pytest.approx([0.503, 0.300, 0.148, 0.109], abs=5e-4)


def test_of_independent_parts_replacement_is_exact() -> None:
    path, times = VP(), torch.linspace(1, 0, 12).tolist()
    apart = torch.diag(f64([0.5, 1.5, 0.3]))
    plain = Gaussian(path, MU, apart)
    there = Inpainted(plain, path, f64([[9.0, 0, 0]]), f64([[1.0, 0, 0]]))
    (m1, p1, _), (m2, p2, _) = (spread(Ancestral(), path, times, d, 3) for d in (plain, there))
    torch.testing.assert_close(m2[1:], m1[1:])
    torch.testing.assert_close((p2 @ p2.T)[1:, 1:], (p1 @ p1.T)[1:, 1:])
    assert float(m2[0]) == pytest.approx(9.0)


# Walking up and down


def test_repaint_visits_what_its_authors_say() -> None:
    t = torch.arange(6)
    assert repaint(t[:5], 1, 2).tolist() == [0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert repaint(t, 2, 2).tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 2, 3, 4, 5]
    assert repaint(t, 3, 3).tolist() == [0, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 5]
    assert repaint(t, 4, 2).tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5]
    assert repaint(t, 5, 9).tolist() == repaint(t, 1, 1).tolist() == t.tolist()
    for jump, resamplings in ((1, 3), (2, 4), (3, 2)):
        falling = [a for a, b in pairwise(walk(13, jump, resamplings)) if b < a]
        got = repaint(13 - torch.arange(14), jump, resamplings)
        assert [int(a) for a, b in pairwise(got.tolist()) if b < a] == falling
    rows = torch.rand(4, 2)
    assert torch.equal(repaint(rows, 1, 2), rows[[0, 1, 0, 1, 2, 1, 2, 3]])
    # The paper's numbers are the defaults: 10 steps back, 10 times.
    assert len(repaint(torch.arange(12))) == 12 + 9 * 11
    for jump, resamplings in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f"jump = {jump} and resamplings = {resamplings} must be at least 1"):
            repaint(t, jump, resamplings)


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "table"])
def test_going_up_is_one_draw_of_the_forward_kernel(name: str) -> None:
    path, x = PATHS[name], f64([[1.0, -2.0], [0.5, 3.0]])
    times = f64([[0.2, 0.1], [0.4, 0.1], [0.9, 0.8]])  # a row may wait while others rise
    draws, z = [], f64([[0.3, 1.1], [-0.7, 2.0]])

    def noise(like: Tensor, step: int, stream: int) -> Tensor:
        draws.append((step, stream))
        return z

    def never(query: Query, cond: Condition) -> Denoised:
        raise AssertionError("going up asks nothing")

    got = drive(Resampled(Heun())(path, x, times, noise), never, NONE)  # type: ignore[arg-type]
    assert draws == [(0, Stream.RENOISE)]
    for row, (s, t) in enumerate(((0.2, 0.9), (0.1, 0.8))):
        (a_s, s_s, *_), (a_t, s_t, *_) = numbers(path, s), numbers(path, t)
        spread = math.sqrt(s_t**2 - (a_t / a_s) ** 2 * s_s**2)
        torch.testing.assert_close(got[row], a_t / a_s * x[row] + spread * z[row], rtol=1e-12, atol=1e-12)


def test_every_stretch_has_fresh_noise_and_its_own_times() -> None:
    path = Linear()
    x = f64([[0.4, -1.0, 0.2]])
    for method in (Ancestral(), Heun()):
        times = column(torch.linspace(0.9, 0, 8).tolist())
        runs = [
            drive(m(path, x, times, Philox(3, torch.arange(1))), Gaussian(path), NONE)
            for m in (method, Resampled(method))
        ]
        assert torch.equal(*runs)
    denoiser = Gaussian(path)
    *_, draws = spread(Resampled(Ancestral()), path, [0.9, 0.6, 0.3, 0.5, 0.7, 0.4, 0.0], denoiser, 3)
    assert draws == [(0, 3), (1, 3), (2, Stream.RENOISE), (4, 3)]
    assert denoiser.asked == [0.9, 0.6, 0.7, 0.4]
    # What else a sampler may ask of its noise comes from its own place in the grid and from its own rows.
    told = []

    class Curious:
        def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Any) -> Any:
            told.append((noise.uniform(1, 7), noise.at(torch.tensor([5]))(x, 2, 8)))
            yield Query(x, times[0], times[0])
            return x

    source = Philox(0, torch.arange(1))
    times = column([0.5, 0.6, 0.4, 0.7, 0.2])
    drive(Resampled(Curious())(path, x, times, source), Gaussian(path), NONE)
    for (u, z), first in zip(told, (1, 3), strict=True):
        assert torch.equal(u, source.uniform(first + 1, 7))
        assert torch.equal(z, Philox(0, torch.tensor([5]))(x, first + 2, 8))


def test_rows_that_turn_at_different_steps_are_refused() -> None:
    x = torch.zeros(2, 1)
    with pytest.raises(ValueError, match="In step 1 of the grid some rows go up and others down"):
        Resampled(Heun())(Linear(), x, f64([[0.5, 0.6], [0.4, 0.5], [0.3, 0.7]]), Philox(0, torch.arange(2)))
    waiting = f64([[0.5, 0.6], [0.4, 0.6], [0.5, 0.6]])
    still = Gaussian(Linear(), MU[:1], COV[:1, :1])
    assert (
        drive(Resampled(Ddim())(Linear(), x.double(), waiting, Philox(0, torch.arange(2))), still, NONE)
        .isfinite()
        .all()
    )


# Latents


@pytest.mark.parametrize("name", list(PATHS))
def test_noised(name: str) -> None:
    x0, eps = f64([[1.0, 2.0]]), f64([[0.5, -1.0], [3.0, 0.1]])
    got = noised(PATHS[name], x0, f64([0.3, 0.9]), eps)
    for row, t in enumerate((0.3, 0.9)):
        alpha, sigma, *_ = numbers(PATHS[name], t)
        torch.testing.assert_close(got[row], alpha * x0[0] + sigma * eps[row])
    assert noised(PATHS[name], x0, f64([0.3, 0.9]), eps.float()).dtype == torch.float32


def test_clean_times() -> None:
    assert clean_time(Linear()) == pytest.approx(0.002 / 1.002, rel=1e-12)
    assert clean_time(VE()) == pytest.approx(0.002 / 80, rel=1e-12)
    assert clean_time(Table(LinearBetas())) == pytest.approx(1 / 1000)  # the first entry, where the model was trained


def mixture(path: Path) -> Any:
    """The perfect denoiser for an even mixture of N(-1, 0.09) and N(1, 0.09)."""

    def denoise(query: Query, cond: Condition) -> Denoised:
        c = path(query.t).like(query.x)
        S2 = 0.09 * c.alpha**2 + c.sigma**2
        sign = torch.tanh(c.alpha * query.x / S2)
        x0 = sign + 0.09 * c.alpha / S2 * (query.x - c.alpha * sign)
        return Denoised(x0, (query.x - c.alpha * x0) / c.sigma)

    return denoise


@pytest.mark.parametrize("name", ["linear", "vp", "table"])
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
@pytest.mark.parametrize(("method", "order"), [(Ddim(), 1), (Euler(), 1), (Heun(), 3)], ids=["ddim", "euler", "heun"])
def test_decoding_gives_back_what_was_encoded(name: str, data: str, method: Sampler, order: int) -> None:
    """The error of the round trip falls with the method's order, and of Heun one faster.

    A step there and back leaves c·h^(p+1) + c·(-h)^(p+1) to leading order: twice the error for odd p, none for even.
    """
    path = PATHS[name]
    denoiser = Gaussian(path) if data == "gaussian" else mixture(path)
    x0 = f64([[0.9, -1.3, 0.4], [-0.6, 1.1, 0.2]])
    alpha = numbers(path, 0.1)[0]
    errors, latents = [], []
    for n in (20, 40, 80):
        times = column(torch.linspace(0.1, 0.9, n + 1, dtype=torch.float64).tolist(), 2)
        z = invert(method, denoiser, path, x0, times, NONE)
        back = drive(method(path, z, times.flip(0), None), denoiser, NONE) / alpha  # type: ignore[arg-type]
        errors.append(float((back - x0).norm()))
        latents.append(z)
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(orders) > order - 0.3 and (order == 3 or max(orders) < order + 0.4), orders
    if data == "gaussian" and order == 3:  # and the latent is where the flow leads
        lam, basis = torch.linalg.eigh(COV)
        true = flow_map(path, 0.1, 0.9, alpha * x0 @ basis, MU @ basis, lam) @ basis.T
        far = [float((z - true).norm()) for z in latents]
        assert far[-1] < 8e-3 and 3 < far[0] / far[1] < 5.2 and 3 < far[1] / far[2] < 5.2


def test_what_cannot_be_inverted_is_refused() -> None:
    path, x0, up = Linear(), torch.zeros(1, 2), column([0.1, 0.5, 0.9])
    asked = Gaussian(path, MU[:2], COV[:2, :2])
    late = f64([[0.1, 0.0], [0.5, 0.5]])  # of two rows one begins at 0
    for bad in (up.flip(0), column([0.1, 0.1, 0.2]), column([0.0, 0.5]), column([0.5]), late):
        with pytest.raises(ValueError, match=r"increase from above 0, but they are .*Begin at 0.002"):
            invert(Heun(), asked, path, x0, bad, NONE)
    for random in (Ancestral(), Ddim(eta=0.5)):
        with pytest.raises(ValueError, match=r"takes a deterministic sampler.*heun, euler"):
            invert(random, asked, path, x0, up, NONE)
        with pytest.raises(ValueError, match="deterministic"):
            check_deterministic(random, path, up.flip(0))

    class Uniform:
        def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Any) -> Any:
            yield Query(x, times[0], times[0])
            return x + noise.at(torch.arange(1)).uniform(0, 0)

    with pytest.raises(ValueError, match="deterministic"):
        check_deterministic(Uniform(), path, up.flip(0))
    check_deterministic(Heun(), path, up.flip(0))
    # One step is enough: x0 = (0, 0), x = 0 at t = 0.1, and Euler's velocity there is that of the denoiser.
    one = invert(Euler(), asked, path, x0.double(), up[:2], NONE)
    answer = asked(Query(x0.double(), up[0], up[0]), NONE)
    torch.testing.assert_close(one, 0.4 * (answer.eps - answer.x0))


def test_slerp() -> None:
    a, b = f64([[3.0, 0.0], [0.0, 0.0]]), f64([[0.0, 0.0], [0.0, 3.0]])
    for share in (0.0, 0.1, 0.5, 0.8, 1.0):
        got = slerp(a, b, share)
        assert float(got.norm()) == pytest.approx(3.0, rel=1e-14)
        angle = math.pi / 2 * share
        torch.testing.assert_close(got, math.cos(angle) * a + math.sin(angle) * b, atol=1e-15, rtol=0)
    # At 60 degrees, of two lengths: the sine law.
    a, b = f64([2.0, 0.0]), f64([2.5, 2.5 * math.sqrt(3)])
    got = slerp(a, b, f64([0.0, 0.25, 1.0]))
    assert torch.equal(got[0], a) and torch.equal(got[2], b)  # both ends to the bit
    w = math.sin(math.pi / 3)
    torch.testing.assert_close(got[1], (math.sin(math.pi / 4) * a + math.sin(math.pi / 12) * b) / w)
    # Vectors along one line, and nothing at all, have no arc.
    torch.testing.assert_close(slerp(a, 3 * a, 0.25), 1.5 * a)
    assert torch.equal(slerp(0 * a, a, 0.5), slerp(a, 0 * a, 0.5)) and slerp(0 * a, 0 * a, 0.3).eq(0).all()
    # Nearly along one line: the arc and the line agree.
    near = a + f64([0.0, 1e-7])
    torch.testing.assert_close(slerp(a, near, 0.3), a + f64([0.0, 0.3e-7]), atol=1e-14, rtol=0)
    assert slerp(a.float(), b.float(), 0.5).dtype == torch.float32
    assert slerp(torch.ones(2, 3), torch.zeros(2, 3), torch.rand(4)).shape == (4, 2, 3)
    with pytest.raises(ValueError, match="two opposite vectors"):
        slerp(a, -2 * a, 0.5)
    with pytest.raises(ValueError, match=r"one shape, not \[2\] and \[2, 1\]"):
        slerp(a, b[:, None], 0.5)


# Posterior sampling

A = f64([[1.0, 0.5, -0.2], [0.0, 2.0, 1.0]])


def see(x: Tensor) -> Tensor:
    return x @ A.T


@pytest.mark.parametrize("name", ["linear", "vp", "ve", "table"])
def test_posterior_sampling_is_exact_for_isotropic_gaussians(name: str) -> None:
    """At every t, also at alpha = 0: the denoiser of N(m, P), with m and P of the textbook."""
    path, std, noise = PATHS[name], 0.7, 0.3
    y = f64([[1.3, -0.4]])
    P = torch.linalg.inv(EYE / std**2 + A.T @ A / noise**2)
    m = P @ (MU / std**2 + A.T @ y[0] / noise**2)
    t = f64([1.0, 0.99, 0.97, 0.9, 0.5, 0.1, 0.01])
    x = f64([[0.3, -0.8, 1.2]]) * path(t).sigma[:, None] + path(t).alpha[:, None]
    prior = Gaussian(path, MU, std**2 * EYE)
    with torch.no_grad():
        got = Posterior(prior, path, see, y, noise, std, 3)(Query(x, t, t), NONE)
    true = Gaussian(path, m, P)(Query(x, t, t), NONE)
    torch.testing.assert_close(got.x0, true.x0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(got.eps, true.eps, atol=1e-9, rtol=1e-9)
    assert not got.x0.requires_grad and not got.eps.requires_grad
    assert torch.equal(got.var_mix, prior(Query(x, t, t), NONE).var_mix)  # type: ignore[arg-type]


def test_posterior_samples_have_the_posteriors_moments() -> None:
    path, std, noise, y = Linear(), 0.7, 0.3, f64([[1.3, -0.4]])
    P = torch.linalg.inv(EYE / std**2 + A.T @ A / noise**2)
    m = P @ (MU / std**2 + A.T @ y[0] / noise**2)
    denoiser = Posterior(Gaussian(path, MU, std**2 * EYE), path, see, y, noise, std)
    errors = []
    for n in (20, 40, 80):
        mean, part, draws = spread(Heun(), path, torch.linspace(1, 0, n + 1).tolist(), denoiser, 3)
        assert not draws
        errors.append(float((mean - m).norm() + (part @ part.T - P).norm()))
    assert errors[-1] < 5e-3 and all(a / b > 1.8 for a, b in pairwise(errors)), errors


@pytest.mark.parametrize(("t", "faint"), [(0.9228, False), (0.9234, True), (0.5, False), (1.0, True)])
def test_posterior_of_other_data_is_the_formula(t: float, faint: bool) -> None:
    """math.md, eq. 43, in matrices; where alpha is next to nothing, (sigma²/alpha)·J gives way to r²."""
    path, std, noise, y = Linear(), 0.6, 0.2, f64([[1.3, -0.4], [0.2, 0.1]])
    x = f64([[0.3, -0.8, 1.2], [1.0, 1.0, -0.5]])
    now = f64([t, t])
    alpha, sigma = 1 - t, t
    plain = Gaussian(path)(Query(x, now, now), NONE)
    r2 = std**2 * sigma**2 / (alpha**2 * std**2 + sigma**2)
    pull = (A.T @ torch.linalg.inv(r2 * A @ A.T + noise**2 * torch.eye(2).double()) @ (y - see(plain.x0)).T).T
    covariance = sigma**2 * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * EYE)  # (sigma²/alpha)·J, Tweedie
    assert faint == (alpha * std <= 0.05 * sigma)
    move = r2 * pull if faint else pull @ covariance
    got = Posterior(Gaussian(path), path, see, y, noise, std)(Query(x, now, now), NONE)
    torch.testing.assert_close(got.x0, plain.x0 + move, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(got.eps, plain.eps - alpha / sigma * move, atol=1e-10, rtol=1e-10)


def test_conjugate_gradients_solve_each_row_for_itself() -> None:
    path, y = Linear(), f64([[1.3, -0.4], [5.0, 3.0]])
    x, t = f64([[0.3, -0.8, 1.2], [0.1, 0.2, 0.4]]), f64([0.5, 0.7])
    prior = Gaussian(path)
    both = Posterior(prior, path, see, y, 0.2, iterations=2)(Query(x, t, t), NONE)
    for i in (0, 1):
        one = Posterior(prior, path, see, y[i : i + 1], 0.2, iterations=2)(
            Query(x[i : i + 1], t[i : i + 1], t[i : i + 1]), NONE
        )
        torch.testing.assert_close(both.x0[i : i + 1], one.x0, atol=1e-13, rtol=0)
    # One iteration is one step of steepest descent, w = b·(b·b)/(b·Sb).
    plain = prior(Query(x, t, t), NONE)
    b = y - see(plain.x0)
    move = []
    for i in (0, 1):
        alpha, sigma = 1 - float(t[i]), float(t[i])
        r2 = 0.25 * sigma**2 / (0.25 * alpha**2 + sigma**2)  # data_std is 0.5 unless said otherwise
        system = r2 * A @ A.T + 0.04 * torch.eye(2).double()
        w = b[i] * (b[i] @ b[i]) / (b[i] @ system @ b[i])
        move.append(sigma**2 * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * EYE) @ A.T @ w)
    got = Posterior(prior, path, see, y, 0.2, iterations=1)(Query(x, t, t), NONE)
    torch.testing.assert_close(got.x0, plain.x0 + torch.stack(move))
    # Nothing left to solve: an exact fit stays as it is, without noise and with a singular system.
    fit = Posterior(prior, path, lambda x: see(x)[:, [0, 0]], see(plain.x0)[:, [0, 0]], 0.0)(Query(x, t, t), NONE)
    torch.testing.assert_close(fit.x0, plain.x0, atol=1e-12, rtol=0)
    assert Posterior(prior, path, see, y, 0.2).iterations == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_std": -0.1}, "noise_std = -0.1 must be 0 or more"),
        ({"noise_std": math.inf}, "noise_std = inf"),
        ({"data_std": 0.0}, "data_std = 0.0 must be above 0"),
        ({"data_std": math.nan}, "data_std = nan"),
        ({"iterations": 0}, "iterations = 0 must be at least 1"),
    ],
)
def test_posterior_refuses_bad_numbers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(Posterior(Gaussian(Linear()), Linear(), see, f64([[0.0, 0.0]]), 0.0), **change)


def test_posterior_refuses_measurements_that_do_not_fit() -> None:
    query = Query(torch.zeros(2, 3).double(), f64([0.5, 0.5]), f64([0.5, 0.5]))
    prior = Gaussian(Linear())
    with pytest.raises(ValueError, match="measurement of nothing is not 0"):
        Posterior(prior, Linear(), lambda x: see(x) + f64([0, 1]), f64([[0.0, 0.0]]), 0.1)(query, NONE)
    with pytest.raises(ValueError, match=r"y is \[2, 3, 1\]"):
        Posterior(prior, Linear(), see, torch.zeros(2, 3, 1), 0.1)(query, NONE)


def test_posterior_sampling_goes_through_a_real_network() -> None:
    """The gradient is the network's: against differences of its answers."""
    torch.manual_seed(0)
    net = UNet(preset="tiny").build((1, 8, 8)).double().eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    real = Model(net, Linear(), Flow(), UnitVariance(0.5))
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    t = f64([0.4, 0.6])
    y = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    measure = Downsample(2)
    with torch.no_grad():
        plain = real(Query(x, t, t), NONE)
        got = Posterior(real, Linear(), measure, y, 0.1)(Query(x, t, t), NONE)
        r2 = like(0.25 * t**2 / (0.25 * (1 - t) ** 2 + t**2), x)
        # A·A^T of averaging over 4 pixels is 1/4: the system is a number.
        w = (y - measure(plain.x0)) / (r2 / 4 + 0.01)
        pull = w.repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
        u = torch.randn_like(x)
        ahead, behind = (real(Query(x + h * u, t, t), NONE).x0 for h in (1e-5, -1e-5))
        slope = ((ahead - behind) / 2e-5 * pull).sum((1, 2, 3))
    moved = ((got.x0 - plain.x0) * u).sum((1, 2, 3))
    assert float(slope.abs().min()) > 1e-4
    torch.testing.assert_close(moved, t**2 / (1 - t) * slope, rtol=1e-4, atol=0)  # time is shown in float32


# Measurements


def test_blur_is_a_gaussian_with_reflecting_borders() -> None:
    x = torch.rand(2, 3, 9, 7, dtype=torch.float64)
    for std in (0.4, 1.3, 3.0):  # the last reaches beyond the whole picture
        reach = math.ceil(4 * std)
        weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / std) ** 2)
        kernel = weights / weights.sum()
        wide = np.pad(x.numpy(), ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="symmetric")
        true = np.apply_along_axis(np.convolve, 2, wide, kernel, "valid")
        true = np.apply_along_axis(np.convolve, 3, true, kernel, "valid")
        torch.testing.assert_close(Blur(std)(x), torch.from_numpy(true))
    for bad in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match=f"std = {bad} of a blur must be above 0"):
            Blur(bad)


def test_downsampling_takes_means() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert Downsample(2)(x).tolist() == [[[[3.5, 5.5, 7.5], [15.5, 17.5, 19.5]]]]
    assert torch.equal(Downsample(1)(x), x)
    with pytest.raises(ValueError, match="4x6 cannot be made 3 times smaller"):
        Downsample(3)(x)
    with pytest.raises(ValueError, match="6x4 cannot be made 3 times smaller"):
        Downsample(3)(x.transpose(2, 3))
    with pytest.raises(ValueError, match="factor = 0 must be at least 1"):
        Downsample(0)


# Jobs


def test_an_edit_of_nothing_is_ordinary_sampling() -> None:
    edit, path = Edit(), Table(CosineBetas(50))
    times, eps = torch.rand(3, 1), torch.randn(2, 4, dtype=torch.float64)
    assert edit.time == 1 and edit.times(times) is times and edit.method(Heun()) == Heun() and edit.settings() == {}
    assert edit.denoiser(mixture, path, torch.arange(2)) is mixture  # type: ignore[arg-type]
    t = f64([1.0, 1.0])
    torch.testing.assert_close(edit.start(path, t, eps, torch.arange(2)), float(path(t[:1]).sigma) * eps)


def test_vary() -> None:
    path, eps, rows = Table(LinearBetas(200)), torch.randn(2, 3, dtype=torch.float64), torch.tensor([1, 2])
    x0 = torch.randn(3, 3, dtype=torch.float64)
    t = f64([0.4, 0.4])
    job = Vary(x0, 0.4)
    assert job.time == 0.4 and job.settings() == {"edit": "vary", "strength": 0.4}
    torch.testing.assert_close(job.start(path, t, eps, rows), noised(path, x0[1:], t, eps))
    torch.testing.assert_close(Vary(x0[:1]).start(path, t, eps, rows), noised(path, x0[:1], t, eps))
    assert Vary(x0).strength == 0.6
    # This table keeps a third of the data at t = 1; strength 1 must not.
    end = f64([1.0, 1.0])
    assert torch.equal(Vary(x0, 1.0).start(path, end, eps, rows), Edit().start(path, end, eps, rows))
    for bad in (0.0, -0.1, 1.01):
        with pytest.raises(ValueError, match=rf"strength = {bad} must lie in \(0, 1\]"):
            Vary(x0, bad)


def test_little_strength_gives_the_picture_back() -> None:
    path, x0, eps = Linear(), f64([[0.9, -0.3, 0.5]]), f64([[0.3, -1.2, 0.8]])
    errors = []
    for strength in (0.2, 0.02, 0.002):
        t = f64([strength])
        x = Vary(x0, strength).start(path, t, eps, torch.arange(1))
        times = column(torch.linspace(strength, 0, 201, dtype=torch.float64).tolist())
        out = drive(Heun()(path, x, times, None), Gaussian(path), NONE)  # type: ignore[arg-type]
        lam, basis = torch.linalg.eigh(COV)
        true = flow_map(path, strength, 0, x @ basis, MU @ basis, lam) @ basis.T
        torch.testing.assert_close(out, true, atol=1e-4, rtol=0)
        errors.append(float((out - x0).norm()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.01


def test_churn_is_refused_on_a_grid_that_turns() -> None:
    """It is of a whole run; a plain grid under `Resampled` is one."""
    x, path = torch.zeros(1, 2, dtype=torch.float64), Linear()
    runs = Philox(0, torch.arange(1))
    with pytest.raises(ValueError, match=r"churn = 2.0 is shared out over the steps of a run"):
        Resampled(Heun(churn=2.0))(path, x, f64([[0.8], [0.4], [0.6], [0.1]]), runs)
    down, exact = f64([[0.8], [0.4], [0.1]]), Gaussian(path, MU[:2], COV[:2, :2])
    outs = [drive(method(path, x, down, runs), exact, NONE) for method in (Resampled(Heun(churn=2.0)), Heun(churn=2.0))]
    assert torch.equal(*outs)


def test_fill() -> None:
    path, rows, eps = VP(), torch.tensor([0, 2]), torch.randn(2, 2, dtype=torch.float64)
    x0, mask = f64([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), f64([[1.0, 0.0]])
    job, t = Fill(x0, mask, 3, 2), f64([1.0, 1.0])
    times = torch.linspace(1, 0, 8)[:, None]
    assert torch.equal(job.times(times), repaint(times, 2, 3)) and torch.equal(Fill(x0, mask).times(times), times)
    assert job.method(Heun()) == Resampled(Heun())
    assert torch.equal(Fill(x0, mask, 3).times(times), repaint(times, 1, 3))
    torch.testing.assert_close(job.start(path, t, eps, rows), noised(path, f64([[1.0, 0], [5.0, 0]]), t, eps))
    got = job.denoiser(Gaussian(path, MU[:2], COV[:2, :2]), path, rows)(Query(eps, t / 2, t / 2), NONE)
    assert got.x0[:, 0].tolist() == [1.0, 5.0] and not set(got.x0[:, 1].tolist()) & {2.0, 6.0}
    assert job.settings() == {"edit": "fill", "resamplings": 3, "jump": 2}
    for bad in (-0.1, 0.1):
        with pytest.raises(ValueError, match=r"A mask must lie in \[0, 1\]"):
            Fill(x0, mask + bad)
    with pytest.raises(ValueError, match="resamplings = 0"):
        Fill(x0, mask, 0)


def test_restore() -> None:
    y, rows = f64([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1])
    got = Restore(see, y, 0.1, 0.7, 4).denoiser(Gaussian(Linear()), Linear(), rows)
    assert isinstance(got, Posterior) and got.y.tolist() == [[3.0, 4.0]]
    assert (got.measure, got.noise_std, got.data_std, got.iterations) == (see, 0.1, 0.7, 4)
    plain = Restore(Blur(1.5), y)
    assert (plain.noise_std, plain.data_std, plain.iterations) == (0.05, 0.5, 10)
    told = {"edit": "restore", "measure": "blur", "std": 1.5, "noise_std": 0.05, "data_std": 0.5, "iterations": 10}
    assert plain.settings() == told and replace(plain, iterations=3).settings() == told | {"iterations": 3}
    assert "see" in Restore(see, y).settings()["measure"]


def test_decode() -> None:
    x, eps, rows = torch.randn(3, 2), torch.randn(2, 2, dtype=torch.float64), torch.tensor([2, 0])
    job = Decode(x, 0.7)
    assert job.time == 0.7 and Decode(x).time == 1 and job.settings() == {"edit": "decode", "time": 0.7}
    assert torch.equal(job.start(Linear(), f64([0.7]), eps, rows), x[[2, 0]].double())
    assert torch.equal(Decode(x[:1]).start(Linear(), f64([1.0]), eps, rows), x[[0, 0]].double())
    with pytest.raises(ValueError, match=r"time = 0 must lie in \(0, 1\]"):
        Decode(x, 0)


def test_the_gaussian_of_these_tests_is_that_of_the_others() -> None:
    path, x, t = VP(), f64([[0.3, 0.2, -0.4, 1.0]]), f64([0.3])
    a = Gaussian(path, CENTRE, torch.diag(LAM))(Query(x, t, t), NONE)
    b = model(path, TARGETS["v"])(Query(x, t, t), NONE)
    torch.testing.assert_close(a.x0, b.x0)
    torch.testing.assert_close(a.eps, b.eps)
