"""Training times: their law, exactly, and stratified alike on any number of ranks. Sampling grids."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from inkwash.noise import Philox
from inkwash.paths import Linear
from inkwash.times import LogitNormal, Uniform, draw, grid
from inkwash.types import Batch, Condition


def batch(number: torch.Tensor, size: int) -> Batch:
    return Batch(torch.zeros(len(number), 1), Condition(), number, size)


def drawn(density: Uniform | LogitNormal, number: torch.Tensor, size: int, seed: int = 0) -> torch.Tensor:
    return draw(density, batch(number, size), Philox(seed, number), Linear())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-0.4, 1.3), (1.0, 0.2)])
def test_logit_normal_quantiles(mean: float, std: float) -> None:
    u = torch.linspace(1e-6, 1 - 1e-6, 501, dtype=torch.float64)
    t = LogitNormal(mean, std)(u, Linear())
    law = stats.norm(mean, std)
    want = 1 / (1 + torch.exp(-torch.from_numpy(law.ppf(u.numpy()))))
    torch.testing.assert_close(t, want, rtol=1e-12, atol=0)
    # and back: the law of logit t is the normal
    torch.testing.assert_close(torch.from_numpy(law.cdf(torch.logit(t).numpy())), u, rtol=1e-9, atol=1e-12)


def test_uniform_quantiles() -> None:
    u = torch.rand(9, dtype=torch.float64)
    assert torch.equal(Uniform()(u, Linear()), u)


@pytest.mark.parametrize("size", [1, 2, 7, 128, 1000])
def test_every_stratum_is_hit_once(size: int) -> None:
    for step in (0, 1, 12345):
        t = drawn(Uniform(), step * size + torch.arange(size), size).sort().values
        assert (t * size).floor().long().tolist() == list(range(size))
        torch.testing.assert_close(t.diff(), torch.full((size - 1,), 1 / size, dtype=torch.float64), atol=1e-12, rtol=0)


def test_strata_are_shuffled_and_shifted_anew_every_step() -> None:
    a, b = (drawn(Uniform(), step * 64 + torch.arange(64), 64) for step in (0, 1))
    assert not torch.equal((a * 64).floor(), (b * 64).floor())
    assert abs(float(a.min() - b.min())) > 1e-4
    assert (a.argsort() != torch.arange(64)).any()
    assert (a != drawn(Uniform(), torch.arange(64), 64, seed=1)).all()


def test_strata_are_the_same_on_any_number_of_ranks() -> None:
    """Parts of a batch, in any order, and parts of several batches at once, get the times of the whole, bit for bit."""
    size, step = 27, 5
    number = step * size + torch.arange(size)
    for density in (Uniform(), LogitNormal(), Uniform(stratified=False)):
        whole = drawn(density, number, size)
        for parts in (1, 2, 3, 27):
            assert torch.equal(torch.cat([drawn(density, part, size) for part in number.chunk(parts)]), whole)
        strided = [drawn(density, number[rank::3], size) for rank in range(3)]
        assert torch.equal(torch.stack(strided, dim=1).flatten(), whole)
        mixed = torch.cat([number[:5], number[:5] + size])
        assert torch.equal(drawn(density, mixed, size), torch.cat([whole[:5], drawn(density, number[:5] + size, size)]))


@pytest.mark.parametrize("stratified", [True, False])
@pytest.mark.parametrize("density", ["uniform", "logit-normal"])
def test_draws_follow_the_density(density: str, stratified: bool) -> None:
    """Each position of a batch by itself, over many steps: stratified times are still distributed as stated."""
    made = Uniform(stratified) if density == "uniform" else LogitNormal(0.5, 0.8, stratified)
    t = torch.stack([drawn(made, step * 4 + torch.arange(4), 4) for step in range(600)])
    law = stats.uniform().cdf if density == "uniform" else stats.norm(0.5, 0.8).cdf
    z = t if density == "uniform" else torch.logit(t)
    for position in range(4):
        assert stats.kstest(z[:, position].numpy(), law).pvalue > 0.005
    if not stratified:
        assert stats.kstest(z.flatten().numpy(), law).pvalue > 0.005
        assert abs(float(torch.corrcoef(z.T)[0, 1])) < 4 / 600**0.5
    # Positions are exchangeable: the first example of a batch is in each stratum equally often.
    if stratified:
        assert stats.chisquare(torch.bincount((made_u(made, t)[:, 0] * 4).long(), minlength=4).numpy()).pvalue > 0.005


def made_u(density: Uniform | LogitNormal, t: torch.Tensor) -> torch.Tensor:
    return t if isinstance(density, Uniform) else torch.from_numpy(stats.norm(0.5, 0.8).cdf(torch.logit(t).numpy()))


def test_stratified_times_have_less_variance() -> None:
    """The mean of t² over a batch of 64: the strata leave under a hundredth of the variance of independent draws."""
    means = {}
    for stratified in (True, False):
        draws = [drawn(Uniform(stratified), step * 64 + torch.arange(64), 64) for step in range(300)]
        means[stratified] = torch.stack([(t**2).mean() for t in draws])
        assert float(means[stratified].mean()) == pytest.approx(1 / 3, abs=0.01)
    independent = (1 / 5 - 1 / 9) / 64
    assert float(means[False].var()) == pytest.approx(independent, rel=0.35)
    # Stratified: mean of t² is 1/3 + (f - 1/2)/64 + O(1/64²) for a shift f uniform in (0, 1).
    assert float(means[True].var()) == pytest.approx(1 / 12 / 64**2, rel=0.25)


def test_grids() -> None:
    assert grid(4, 2).T.tolist() == [[1, 0.75, 0.5, 0.25, 0]] * 2
    assert grid([0.9, 0.5, 0.1], 3).T.tolist() == [[0.9, 0.5, 0.1]] * 3
    assert grid(1, 1).flatten().tolist() == [1, 0]
    assert grid(10, 5).dtype == torch.float64
    assert grid(10, 5).is_contiguous()


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (0, "at least 1 step, not 0"),
        (-3, "at least 1 step, not -3"),
        ([0.5], r"\[0.5\]"),
        ([0.1, 0.5], "must decrease"),
        ([1.0, 0.5, 0.5, 0.0], "must decrease"),
        ([1.1, 0.5], r"within \[0, 1\]"),
        ([0.5, -0.1], "For example"),
        ([1.0, float("nan"), 0.0], "must decrease"),
    ],
)
def test_impossible_grids_are_refused(steps: int | list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        grid(steps, 1)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (0.0, float("nan")), (float("inf"), 1.0)])
def test_a_density_without_width_is_refused(mean: float, std: float) -> None:
    with pytest.raises(ValueError, match="a finite mean and a std more than 0"):
        LogitNormal(mean, std)
