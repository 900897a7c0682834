"""Couplings: the exact assignment against all permutations, within rows of one condition only."""

from __future__ import annotations

import sys
from itertools import permutations

import pytest
import torch
from torch import Tensor

from gaussian import model
from inkwash.noise import Philox, Stream
from inkwash.objectives import Independent, OptimalTransport, Regression
from inkwash.paths import Linear
from inkwash.targets import Flow
from inkwash.types import Batch, Condition


def points(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        3 * torch.randn(n, 2, 3, generator=g, dtype=torch.float64) + 1,
        torch.randn(n, 2, 3, generator=g, dtype=torch.float64),
    )


def cost(x0: Tensor, eps: Tensor) -> float:
    return float((x0 - eps).square().sum())


def best(x0: Tensor, eps: Tensor, label: list[int] | None = None) -> float:
    """The least cost of all pairings that keep the label."""
    n = len(x0)
    costs = (x0[:, None] - eps[None]).square().flatten(2).sum(2).tolist()
    allowed = (p for p in permutations(range(n)) if label is None or all(label[i] == label[p[i]] for i in range(n)))
    return min(sum(costs[i][p[i]] for i in range(n)) for p in allowed)


@pytest.mark.parametrize("seed", range(6))
def test_no_pairing_is_cheaper(seed: int) -> None:
    x0, eps = points(6, seed)
    paired = OptimalTransport()(x0, eps, Condition())
    assert sorted(map(tuple, paired.flatten(1).tolist())) == sorted(map(tuple, eps.flatten(1).tolist()))
    assert cost(x0, paired) == pytest.approx(best(x0, eps), rel=1e-12)
    assert cost(x0, paired) < cost(x0, eps)


@pytest.mark.parametrize("label", [[0, 1, 0, 1, 1, 0, -1], [3, 3, -1, -1, -1, 3, 3], [0, 1, 2, 3, 4, 5, 6]])
def test_noise_stays_with_its_condition(label: list[int]) -> None:
    """Otherwise the noise a picture is made from would tell its class, also to a model asked for no class (-1)."""
    x0, eps = points(7)
    paired = OptimalTransport()(x0, eps, Condition(torch.tensor(label)))
    came_from = [int((eps - row).abs().flatten(1).sum(1).argmin()) for row in paired]
    assert sorted(came_from) == list(range(7))
    assert [label[i] for i in came_from] == label
    assert cost(x0, paired) == pytest.approx(best(x0, eps, label), rel=1e-12)


def test_every_part_of_a_condition_counts() -> None:
    x0, eps = points(6)
    rows = torch.tensor([[0, 1], [1, 0], [0, 1], [1, 1], [1, 0], [0, 1]])
    paired = OptimalTransport()(x0, eps, Condition(rows))
    came_from = torch.tensor([int((eps - row).abs().flatten(1).sum(1).argmin()) for row in paired])
    assert torch.equal(rows[came_from], rows)
    assert cost(x0, paired) == pytest.approx(best(x0, eps, [0, 1, 0, 2, 1, 0]), rel=1e-12)


def test_what_is_not_known_is_one_condition() -> None:
    """NaN equals nothing, and what lies under an absent token is nothing: rows of the null would each be alone."""
    x0, eps = points(6)
    nan = float("nan")
    told: dict[str, Condition] = {
        "vector": Condition(
            vector=torch.tensor([[nan, 1.0], [0.0, 1.0], [nan, 1.0], [nan, nan], [0.0, 1.0], [nan, 1.0]])
        ),
        "image": Condition(image=torch.tensor([nan, 0.0, nan, 5.0, 0.0, nan]).reshape(6, 1, 1, 1)),
        "text": Condition(
            tokens=torch.tensor([3.0, 1.0, 4.0, 1.0, 1.0, nan]).reshape(6, 1, 1).repeat(1, 2, 1),
            present=torch.tensor([[0, 0], [0, 1], [0, 0], [1, 1], [0, 1], [0, 0]]).bool(),
        ),
    }
    for name, cond in told.items():
        paired = OptimalTransport()(x0, eps, cond)
        assert cost(x0, paired) == pytest.approx(best(x0, eps, [0, 1, 0, 2, 1, 0]), rel=1e-12), name


def test_independent_noise_is_left_alone() -> None:
    x0, eps = points(4)
    assert Independent()(x0, eps, Condition()) is eps


def test_a_regression_with_optimal_transport_is_the_regression_of_the_pairs() -> None:
    number = torch.arange(8)
    x0, cond, noise = points(8)[0][:, 0], Condition(torch.tensor([0, 1] * 4)), Philox(3, number)
    best_model = model(Linear(), Flow(), torch.zeros(3).double(), torch.ones(3).double())
    got = Regression(coupling=OptimalTransport())(best_model, Batch(x0, cond, number, 8), noise, 0.0)
    pairs = OptimalTransport()(x0, noise(x0, 0, Stream.EPS), cond)
    given = Batch(x0, cond, number, 8, eps=pairs)
    assert torch.equal(got, Regression()(best_model, given, noise, 0.0))
    assert not torch.equal(got, Regression()(best_model, Batch(x0, cond, number, 8), noise, 0.0))
    with pytest.raises(ValueError, match=r"come with the noise they belong to.*OptimalTransport\(\)"):
        Regression(coupling=OptimalTransport())(best_model, given, noise, 0.0)


def test_without_scipy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match=r'pip install "inkwash\[ot\]"'):
        OptimalTransport()(*points(2), Condition())


def test_what_the_coupling_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    OptimalTransport().require()  # scipy is installed here
    monkeypatch.setattr("inkwash.objectives.coupling.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs scipy: pip install .inkwash\[ot\]"):
        OptimalTransport().require()
