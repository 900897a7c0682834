"""The Fréchet distance against closed forms, scipy and torchmetrics; its bias against what samples show."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from inkwash.evaluation import rows
from inkwash.evaluation.frechet import Moments, frechet, frechet_bias, moments
from inkwash.noise import Philox, Stream


def normals(seed: int, n: int, *shape: int) -> np.ndarray:
    """[n, ...] float64, the same ever after."""
    return Philox(seed, torch.arange(n))(torch.empty(n, *shape, dtype=torch.float64), 0, Stream.EPS).numpy()


def features(seed: int, n: int, d: int) -> np.ndarray:
    """Correlated, off zero, of very different scales, float32."""
    mix = normals(100 + seed, d, d) * np.geomspace(1.0, 0.01, d)
    return (normals(seed, n, d) @ mix + 2.0 * seed).astype(np.float32)


def gaussian(mean: list[float], cov: list[list[float]] | np.ndarray) -> Moments:
    return Moments(100, np.array(mean, dtype=np.float64), np.array(cov, dtype=np.float64))


def test_commuting_covariances() -> None:
    """|difference of means|² + the sum of (sqrt a - sqrt b)²: 25 + 1 + 4 + 0.25."""
    a = gaussian([0, 0, 1], np.diag([4.0, 9.0, 0.25]))
    b = gaussian([3, 4, 1], np.diag([1.0, 25.0, 1.0]))
    assert frechet(a, b) == pytest.approx(25 + 1 + 4 + 0.25, rel=1e-14)
    assert frechet(a, a) == pytest.approx(0, abs=1e-13)


def test_covariances_that_do_not_commute() -> None:
    """In two dimensions tr (AB)^1/2 = sqrt(tr AB + 2 sqrt(det A det B)), by Cayley and Hamilton."""
    A, B = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[1.0, -0.5], [-0.5, 3.0]])
    assert not np.allclose(A @ B, B @ A)
    root = math.sqrt(np.trace(A @ B) + 2 * math.sqrt(np.linalg.det(A) * np.linalg.det(B)))
    expected = 0.25 + np.trace(A) + np.trace(B) - 2 * root
    assert frechet(gaussian([0.5, 0], A), gaussian([0, 0], B)) == pytest.approx(expected, rel=1e-13)
    assert frechet(gaussian([0, 0], B), gaussian([0.5, 0], A)) == pytest.approx(expected, rel=1e-13)


def test_covariances_of_one_direction() -> None:
    """For u u^T and v v^T the trace of the root is |u·v|, and no rounding of the empty directions is seen."""
    u, v = normals(1, 2, 60)
    found = frechet(gaussian([0.0] * 60, np.outer(u, u)), gaussian([0.0] * 60, np.outer(v, v)))
    assert found == pytest.approx(u @ u + v @ v - 2 * abs(u @ v), rel=1e-12)


def test_fewer_pictures_than_features() -> None:
    """With X and Y the centred features: tr (AB)^1/2 is the sum of singular values of X Y^T/sqrt((n - 1)(m - 1))."""
    x, y = normals(2, 12, 50), 1.5 * normals(3, 20, 50) + 0.3
    x0, y0 = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.svd(x0 @ y0.T, compute_uv=False).sum() / math.sqrt(11 * 19)
    spread = np.square(x0).sum() / 11 + np.square(y0).sum() / 19
    expected = np.square(x.mean(0) - y.mean(0)).sum() + spread - 2 * cross
    assert frechet(moments(x), moments(y)) == pytest.approx(expected, rel=1e-11)


def test_no_spread_at_all() -> None:
    """Two points: the square of their distance; a point and a Gaussian: its trace as well."""
    a, b = moments(np.full((3, 2), 1.0)), moments(np.full((4, 2), 4.0))
    assert frechet(a, b) == pytest.approx(18.0)
    assert frechet(a, gaussian([1, 1], [[2, 0], [0, 5]])) == pytest.approx(7.0)


def test_equal_sets_are_at_no_distance_and_none_is_negative() -> None:
    x = features(1, 40, 30)
    for _ in range(5):
        a = moments(x)
        b = Moments(a.n, a.mean, a.cov * (1 + 1e-15))
        assert 0 <= frechet(a, b) < 1e-12 * np.trace(a.cov)
        x = x[1:]


@pytest.mark.parametrize(("n", "m", "d"), [(300, 200, 20), (500, 500, 64)])
def test_scipy_agrees(n: int, m: int, d: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    x, y = features(1, n, d).astype(np.float64), features(2, m, d).astype(np.float64)
    A, B = np.cov(x.T), np.cov(y.T)
    expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(A + B - 2 * linalg.sqrtm(A @ B).real)
    assert frechet(moments(x), moments(y)) == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_torchmetrics_agrees() -> None:
    """Its whole computation, from pictures through a net of one's own, with its own means and covariances."""
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Net(torch.nn.Module):
        num_features = 24

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x), -1)[:, :24].double()

    metric = fid.FrechetInceptionDistance(feature=Net(), normalize=False, input_img_size=(3, 4, 4))
    metric.set_dtype(torch.float64)
    sets = [torch.from_numpy(np.clip(127 + 40 * s * normals(s, 90, 3, 4, 4), 0, 255).astype(np.uint8)) for s in (1, 2)]
    for pictures, real in zip(sets, (True, False), strict=True):
        metric.update(pictures[:50], real=real)
        metric.update(pictures[50:], real=real)
    mine = [moments(Net()(pictures).numpy()) for pictures in sets]
    assert frechet(*mine) == pytest.approx(float(metric.compute()), rel=1e-6)
    direct = fid._compute_fid(*(torch.from_numpy(v) for m in mine for v in (m.mean, m.cov)))
    assert frechet(*mine) == pytest.approx(float(direct), rel=1e-9)


def test_rotating_and_moving_both_changes_nothing() -> None:
    x, y = features(1, 80, 16).astype(np.float64), features(2, 70, 16).astype(np.float64)
    turn, _ = np.linalg.qr(normals(9, 16, 16))
    before = frechet(moments(x), moments(y))
    assert frechet(moments(x @ turn + 7), moments(y @ turn + 7)) == pytest.approx(before, rel=1e-10)


def test_moments_are_numpys_in_any_blocks_and_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a memory-mapped array far from zero, where E x² - (E x)² would lose everything."""
    x = (features(1, 103, 7) + 3000).astype(np.float32)
    x.tofile(tmp_path / "x.bin")
    mapped = np.memmap(tmp_path / "x.bin", dtype=np.float32, mode="r", shape=x.shape)
    mean, cov = x.astype(np.float64).mean(0), np.cov(x.astype(np.float64).T)
    for size in (1, 10, 102, 103, 1000):
        monkeypatch.setattr(rows, "BLOCK", size)
        found = moments(mapped[::-1])
        assert found.n == 103
        np.testing.assert_allclose(found.mean, mean, rtol=1e-14)
        np.testing.assert_allclose(found.cov, cov, rtol=1e-12, atol=1e-14 * np.trace(cov))


def test_what_has_no_moments_or_no_distance() -> None:
    np.testing.assert_allclose(moments(np.array([[1.0], [4.0]])).cov, 4.5)
    with pytest.raises(ValueError, match="at least 2 pictures, not 1"):
        moments(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="0 to 4 hold NaN"):
        moments(np.array([[0.0, 1.0]] * 4 + [[0.0, np.inf]]))
    with pytest.raises(ValueError, match=r"not of shape \(3, 2, 2\)"):
        moments(np.zeros((3, 2, 2)))
    with pytest.raises(ValueError, match="1 and 2 features"):
        frechet(gaussian([0], [[1]]), gaussian([0, 0], [[1, 0], [0, 1]]))


def test_the_bias_for_whitened_features() -> None:
    """2d/n + d(d + 1)/2n: 1.70 for d = 128 and n = 5000."""
    for d, n in ((1, 10), (128, 5000)):
        assert frechet_bias(np.eye(d), n, n) == pytest.approx(2 * d / n + d * (d + 1) / (2 * n), rel=1e-13)
    assert frechet_bias(np.eye(128), 5000, 5000) == pytest.approx(1.70, abs=0.005)


def test_the_bias_in_one_dimension_and_with_empty_ones() -> None:
    """One variance v: the mean varies by v/n, the standard deviation by v/2n. Directions without spread add nothing."""
    assert frechet_bias(np.diag([3.0, 0.0, 0.0]), 10, 40) == pytest.approx(4.5 * (1 / 10 + 1 / 40))
    assert frechet_bias(np.zeros((2, 2)), 10, 10) == 0


@pytest.mark.parametrize(("spread", "n", "m"), [([1.0, 1.0, 1.0], 250, 250), ([2.0, 0.6, 0.1], 200, 500)])
def test_the_bias_is_what_samples_of_one_gaussian_show(spread: list[float], n: int, m: int) -> None:
    """2,000 pairs of samples: the mean within 3 of its standard errors, and so is the part of the covariances alone."""
    repeats, lam = 2000, np.array(spread)
    turn, _ = np.linalg.qr(normals(5, 3, 3))
    whole, shapes = [], []
    for x in normals(6, repeats, n + m, 3):
        a, b = (Moments(len(s), s.mean(0), np.cov(s.T)) for s in (x[:n] * lam**0.5 @ turn, x[n:] * lam**0.5 @ turn))
        whole.append(frechet(a, b))
        shapes.append(whole[-1] - np.square(a.mean - b.mean).sum())
    bias = frechet_bias(turn.T @ np.diag(lam) @ turn, n, m)
    for found, expected in ((whole, bias), (shapes, bias - lam.sum() * (1 / n + 1 / m))):
        error = np.std(found) / math.sqrt(repeats)
        assert error < 0.018 * expected
        assert abs(np.mean(found) - expected) < 3 * error
