"""Training times: their law, exactly, and stratified alike on any number of ranks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats

from gaussian import VE, VP
from inkwash.noise import Philox, Stream
from inkwash.paths import CosineBetas, Linear, Table
from inkwash.times import Density, Importance, LogitNormal, LogNormalNoise, Uniform, draw
from inkwash.types import Batch, Condition, Path


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


@pytest.mark.parametrize(("mean", "std"), [(-1.2, 1.2), (0.4, 0.5)])
@pytest.mark.parametrize("path", [Linear(), VP(), Table(CosineBetas(50))])
def test_log_normal_noise_is_log_normal_on_any_path(path: Linear | VP | Table, mean: float, std: float) -> None:
    """ln(sigma/alpha) ~ N(mean, std²)."""
    u = torch.linspace(0.001, 0.999, 101, dtype=torch.float64)
    c = path(LogNormalNoise(mean, std)(u, path))
    want = torch.from_numpy(stats.norm(mean, std).ppf(u.numpy()))
    torch.testing.assert_close((c.sigma / c.alpha).log(), want, rtol=1e-9, atol=1e-9)


def test_noise_levels_beyond_the_end_are_the_end() -> None:
    u = torch.tensor([0.5, 0.999], dtype=torch.float64)
    t = LogNormalNoise(0.0, 2.0)(u, VE(top=5.0))
    assert t.tolist() == [pytest.approx(0.2, rel=1e-12), 1.0]
    assert LogNormalNoise() == LogNormalNoise(-1.2, 1.2, stratified=True)


# ------------------------------------------------------------------------------------------------ importance sampling

LOSSES = torch.tensor([[3.0, 4.0], [0.0, 0.0], [-5.0, 5.0]], dtype=torch.float64)  # roots of the means: 3.54, 0, 5


def remembered(density: Importance, losses: torch.Tensor = LOSSES) -> dict[str, torch.Tensor]:
    return {"losses": losses, "seen": torch.full((density.bins,), density.history)}


def shares(density: Importance, losses: torch.Tensor = LOSSES) -> list[float]:
    size = [math.sqrt(sum(v * v for v in row) / len(row)) for row in losses.tolist()]
    return [(1 - density.floor) * s / sum(size) + density.floor / len(size) for s in size]


@pytest.mark.parametrize("floor", [0.001, 0.3, 1.0])
def test_bins_are_drawn_by_their_share_and_weighed_by_its_inverse(floor: float) -> None:
    density = Importance(3, 2, floor)
    law = density.given(remembered(density))
    p = shares(density)
    edges = [0.0, p[0], p[0] + p[1], 1.0]
    for k in range(3):
        inside = torch.linspace(edges[k] + 1e-9, edges[k + 1] - 1e-9, 7, dtype=torch.float64)
        t = law(inside, Linear())
        want = (k + (inside - edges[k]) / p[k]) / 3
        torch.testing.assert_close(t, want, rtol=0, atol=1e-8)
        torch.testing.assert_close(law.weight(t), torch.full_like(t, 1 / (3 * p[k])), rtol=1e-12, atol=0)
    assert law.stratified


def test_a_bin_begins_where_the_last_one_ended_and_the_last_ends_before_one() -> None:
    law = Importance(2, 2, 1.0).given(remembered(Importance(2, 2, 1.0), torch.ones(2, 2, dtype=torch.float64)))
    t = law(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), Linear())
    assert t[:2].tolist() == [0.0, 0.5]
    assert 1 - 1e-8 < float(t[2]) < 1


@dataclass(frozen=True)
class Ends:
    """A noise whose uniform numbers are all the same one."""

    value: float
    rows: int = 1

    def __call__(self, like: torch.Tensor, step: int, stream: int) -> torch.Tensor:
        return torch.zeros_like(like)

    def uniform(self, step: int, stream: int) -> torch.Tensor:
        return torch.full((self.rows,), self.value, dtype=torch.float64)

    def at(self, index: torch.Tensor) -> Ends:
        return Ends(self.value, len(index))


def test_no_quantile_is_asked_for_at_the_ends() -> None:
    for value, want in ((0.0, 1e-12), (1.0, 1 - 1e-12)):
        t = draw(Uniform(stratified=False), batch(torch.arange(2), 2), Ends(value), Linear())
        assert t.tolist() == [want, want]


@dataclass(frozen=True)
class Plain(Density):
    def __call__(self, u: torch.Tensor, path: Path) -> torch.Tensor:
        return u


def test_strata_are_a_shift_of_the_step_and_an_order_of_the_examples() -> None:
    """Math.md, eq. 23, with the numbers 1 and 2 of the stream; a density that says nothing is stratified, too."""
    size, step = 6, 3
    number = step * size + torch.arange(size)
    noise = Philox(5, number)
    shift = Philox(5, torch.tensor([step])).uniform(1, Stream.TIME)
    order = noise.uniform(2, Stream.TIME).argsort()
    want = (shift + order.double() / size) % 1
    for density in (Uniform(), Plain()):
        assert torch.equal(draw(density, batch(number, size), noise, Linear()), want)
    assert LogitNormal() == LogitNormal(0.0, 1.0, stratified=True)
    assert Uniform() == Uniform(stratified=True)


def test_importance_sampling_is_unbiased() -> None:
    """The integral over u of weight·f(t(u)) is that of f, bin by bin; exactly, by Gauss's rule, for a polynomial."""
    g = torch.Generator().manual_seed(0)
    density = Importance(5, 4, 0.05)
    losses = torch.rand(5, 4, generator=g, dtype=torch.float64) ** 3
    law = density.given(remembered(density, losses))
    p = shares(density, losses)
    node = torch.tensor([0.5 - 12**-0.5, 0.5 + 12**-0.5], dtype=torch.float64)  # exact to the third degree
    total, start = 0.0, 0.0
    for share in p:
        t = law(start + share * node, Linear())
        total += share / 2 * float((law.weight(t) * (1 + t - 7 * t**2 + 4 * t**3)).sum())
        start += share
    assert total == pytest.approx(1 + 1 / 2 - 7 / 3 + 1, rel=1e-12)


def test_importance_is_uniform_until_every_bin_has_a_full_history() -> None:
    density = Importance(3, 2)
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    almost = remembered(density) | {"seen": torch.tensor([2, 1, 2])}
    silent = remembered(density, torch.zeros(3, 2, dtype=torch.float64))
    for memory in (None, density.memory(), almost, silent):
        law = density.given(memory)
        assert torch.equal(law(u, Linear()), u)
        assert torch.equal(law.weight(u), torch.ones_like(u))
    assert not torch.equal(density.given(remembered(density))(u, Linear()), u)
    assert density.memory()["losses"].shape == (3, 2)
    assert density.memory()["seen"].tolist() == [0, 0, 0]
    assert Importance() == Importance(100, 10, 0.001, stratified=True)
    assert not Importance(3, 2, stratified=False).given(remembered(density)).stratified


def test_a_ring_keeps_each_bins_newest_losses() -> None:
    density = Importance(4, 3)
    t = torch.tensor([0.1, 0.9, 0.05, 0.3, 0.2, 0.999999, 0.15, 0.01, 1.0], dtype=torch.float64)
    memory = density.remember(density.memory(), t, torch.arange(1, 10).double())
    # Bin 0 is given 1, 3, 5, 7, 8, of which 5, 7, 8 stay, in the places of their turn; bin 1 is given 4, bin 3 2, 6, 9.
    assert memory["losses"].tolist() == [[7, 8, 5], [4, 0, 0], [0, 0, 0], [2, 6, 9]]
    assert memory["seen"].tolist() == [5, 1, 0, 3]
    more = density.remember(
        memory, torch.tensor([0.3, 0.1, 0.26, 0.7]).double(), torch.tensor([10.0, 11, 12, 13]).double()
    )
    assert more["losses"].tolist() == [[7, 8, 11], [4, 10, 12], [13, 0, 0], [2, 6, 9]]
    assert more["seen"].tolist() == [6, 3, 1, 3]
    assert memory["seen"].tolist() == [5, 1, 0, 3]  # as it was
    assert memory["losses"][0].tolist() == [7, 8, 5]


def test_batches_are_remembered_alike_in_any_parts() -> None:
    g = torch.Generator().manual_seed(1)
    density = Importance(6, 4)
    t, losses = torch.rand(2, 60, generator=g, dtype=torch.float64)
    whole = density.remember(density.memory(), t, losses)
    for parts in (2, 7, 60):
        memory = density.memory()
        for a, b in zip(t.chunk(parts), losses.chunk(parts), strict=True):
            memory = density.remember(memory, a, b)
        assert torch.equal(memory["losses"], whole["losses"])
        assert torch.equal(memory["seen"], whole["seen"])


def test_losses_that_are_not_finite_are_not_remembered() -> None:
    density = Importance(2, 2)
    losses = torch.tensor([math.nan, 1.0, math.inf, 2.0, -math.inf]).double()
    memory = density.remember(density.memory(), torch.full((5,), 0.7).double(), losses)
    assert memory["losses"].tolist() == [[0, 0], [1, 2]]
    assert memory["seen"].tolist() == [0, 2]


def test_densities_without_memory_notice_nothing() -> None:
    u = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for density in (Uniform(), LogitNormal(), LogNormalNoise()):
        assert density.memory() == {}
        assert density.remember({}, u, u) == {}
        assert density.given({"losses": u}) is density
        assert density.weight(u).tolist() == [1.0, 1.0]


def test_every_density_is_drawn_stratified_by_its_own_law() -> None:
    """A third of a batch falls into a bin that has a third of the shares; the path is the model's."""
    number = torch.arange(300)
    density = Importance(3, 2, 0.3)
    law = density.given(remembered(density))
    t = draw(law, batch(number, 300), Philox(0, number), Linear())
    counts = torch.bincount((t * 3).long(), minlength=3).tolist()
    assert counts == [pytest.approx(300 * p, abs=1) for p in shares(density)]
    levels = draw(LogNormalNoise(), batch(number, 300), Philox(0, number), VE())
    assert float((levels * 80).log().mean()) == pytest.approx(-1.2, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"bins": 0}, "bins = 0 and history = 10 must be at least 1. Usual: 100 and 10"),
        ({"history": 0}, "bins = 100 and history = 0"),
        ({"floor": 0.0}, "floor = 0.0 must lie in"),
        ({"floor": 1.1}, "floor = 1.1 must lie in"),
    ],
)
def test_impossible_importance_is_refused(settings: dict[str, float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Importance(**settings)  # type: ignore[arg-type]
    Importance(1, 1, 1.0)


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


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.0), (0.0, -1.0), (0.0, float("nan")), (float("inf"), 1.0), (0.0, float("inf"))]
)
def test_a_density_without_width_is_refused(mean: float, std: float) -> None:
    with pytest.raises(
        ValueError, match=r"A logit-normal density needs a finite mean and a std more than 0.* 0 and 1[.]"
    ):
        LogitNormal(mean, std)
    with pytest.raises(ValueError, match=r"A log-normal-noise density needs .*The usual ones are -1.2 and 1.2"):
        LogNormalNoise(mean, std)
