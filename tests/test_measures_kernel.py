"""The kernel distance against hand computation, moments and torchmetrics; its interval against what samples show."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inkwash.evaluation import rows
from inkwash.evaluation.kernel import kid
from inkwash.noise import Philox, Stream

Z = 1.959964


def normals(seed: int, n: int, *shape: int) -> np.ndarray:
    """[n, ...] float64, the same ever after."""
    return Philox(seed, torch.arange(n))(torch.empty(n, *shape, dtype=torch.float64), 0, Stream.EPS).numpy()


def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x @ y.T / x.shape[1] + 1) ** 3


def test_by_hand_on_the_line() -> None:
    """Within {0, 1}: 1; within {2, 3}: 7³; between: 1, 1, 3³, 4³, of which twice the mean."""
    x, y = np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])
    assert kid(x, y).mean == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4, rel=1e-14)


def test_the_scalar_product_is_divided_by_the_number_of_features() -> None:
    """Points (2, 0), (2, 2) and (0, 2): products 4, 4, 0 are 2, 2, 0."""
    x, y = np.array([[2.0, 0.0], [2.0, 2.0]]), np.array([[0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    within_y = (1 + 27 + 1) / 3
    between = (1 + 27 + 1 + 27 + 27 + 27) / 6
    assert kid(x, y).mean == pytest.approx(27 + within_y - 2 * between, rel=1e-14)


def test_points_on_one_spot() -> None:
    p, q = np.array([1.0, -2.0, 0.5]), np.array([0.3, 0.3, 1.0])
    found = kid(np.tile(p, (5, 1)), np.tile(q, (4, 1)))
    expected = (p @ p / 3 + 1) ** 3 + (q @ q / 3 + 1) ** 3 - 2 * (p @ q / 3 + 1) ** 3
    assert found.mean == pytest.approx(expected, rel=1e-13)
    assert found.half == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("d", [5, 64])
def test_torchmetrics_agrees(d: int) -> None:
    """With one subset, which is all."""
    peer = pytest.importorskip("torchmetrics.image.kid")
    x, y = normals(1, 60, d), 1.1 * normals(2, 60, d) + 0.1
    expected = float(peer.poly_mmd(torch.from_numpy(x), torch.from_numpy(y)))
    assert kid(x, y).mean == pytest.approx(expected, rel=1e-10)
    assert kid(x.astype(np.float32), y.astype(np.float32)).mean == pytest.approx(expected, rel=1e-6)


def test_blocks_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normals(1, 31, 6), normals(2, 45, 6) + 0.2
    whole = kid(x, y)
    for size in (1, 7, 31):
        monkeypatch.setattr(rows, "BLOCK", size)
        found = kid(x[::-1], np.roll(y, 9, 0))
        assert found.mean == pytest.approx(whole.mean, rel=1e-11)
        assert found.half == pytest.approx(whole.half, rel=1e-11)
    swapped = kid(y, x)
    assert (swapped.mean, swapped.half) == (pytest.approx(whole.mean), pytest.approx(whole.half))


def test_the_interval_is_the_jackknifes() -> None:
    """Leave each example out in turn, compute all anew; both sets' variances add. Far sets: the floor is lower."""
    x, y = normals(1, 9, 4), normals(2, 14, 4) + 1.0
    without = (
        [kid(np.delete(x, i, 0), y).mean for i in range(9)],
        [kid(x, np.delete(y, j, 0)).mean for j in range(14)],
    )
    variance = sum((len(v) - 1) / len(v) * np.square(v - np.mean(v)).sum() for v in without)
    assert kid(x, y).half == pytest.approx(Z * math.sqrt(variance), rel=1e-10)


def test_the_interval_is_never_less_than_for_one_distribution() -> None:
    """sqrt(2)·(1/n + 1/m)·|C| with C's norm from the centred kernel of both; the jackknife finds nothing here."""
    x, y = np.array([[-1.0], [1.0]] * 8), np.array([[-1.0], [1.0]] * 6)
    centred = kernel(x, y)
    centred = centred - centred.mean(0) - centred.mean(1)[:, None] + centred.mean()
    floor = math.sqrt(2 * (1 / 16 + 1 / 12) ** 2 * np.square(centred).sum() / (15 * 11))
    assert kid(x, y).half == pytest.approx(Z * floor, rel=1e-10)
    assert floor > 0.5


def test_unbiased() -> None:
    """On the line the kernel is 1 + 3xy + 3x²y² + x³y³: of N(0, 1) and N(s, 1) the squares of differing moments."""
    for s, repeats in ((0.0, 1500), (0.4, 1500)):
        draws = normals(int(10 * s), repeats, 50, 1)
        found = np.array([kid(z[:20], z[20:] + s).mean for z in draws])
        expected = 3 * s**2 + 3 * (s**2) ** 2 + (s**3 + 3 * s) ** 2
        error = found.std() / math.sqrt(repeats)
        assert abs(found.mean() - expected) < 3 * error
        biased = 24 * (1 / 20 + 1 / 30)  # what pairs of a point with itself would add: E k(x, x) is 28, E k(x, x') is 4
        assert biased > 10 * error


@pytest.mark.parametrize(
    ("d", "shift", "offset", "least", "most"),
    [
        (16, 0.4, 0.0, 0.90, 0.98),  # two distributions: the jackknife's
        (16, 0.0, 0.0, 0.97, 1.00),  # one: its variance is twice the true one
        (1, 0.0, 3.0, 0.97, 1.00),  # one, in one direction: the jackknife alone holds 85 %
    ],
)
def test_the_interval_covers_the_truth(d: int, shift: float, offset: float, least: float, most: float) -> None:
    """Of 600 samples; the truth for a shift along one axis in d dimensions is the mean over all."""
    draws = normals(7, 600, 150, d) + offset
    found = [kid(z[:60], z[60:] + shift * np.eye(d)[0] * math.sqrt(d)) for z in draws]
    truth = np.mean([f.mean for f in found]) if shift else 0.0
    covered = np.mean([abs(f.mean - truth) <= f.half for f in found])
    assert least <= covered <= most


def test_too_few_and_different_features() -> None:
    x = normals(1, 3, 2)
    assert kid(x[:2], x).half is None
    assert kid(x[:2], x).low is None
    assert kid(x, x[:2]).half is None
    assert kid(x, x + 1).half is not None
    with pytest.raises(ValueError, match="not 1 and 3"):
        kid(x[:1], x)
    with pytest.raises(ValueError, match="Use the same net"):
        kid(x, x[:, :1])
    with pytest.raises(ValueError, match="hold NaN"):
        kid(x, x * np.nan)
