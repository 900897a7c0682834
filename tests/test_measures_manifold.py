"""Precision, recall, density, coverage, nearest neighbours and memorisation on sets whose answers are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from inkwash.evaluation import manifold, rows
from inkwash.evaluation.interval import Share
from inkwash.evaluation.manifold import density_coverage, memorised, nearest, precision_recall
from inkwash.noise import Philox, Stream


def normals(seed: int, n: int, *shape: int) -> np.ndarray:
    """[n, ...] float64, the same ever after."""
    return Philox(seed, torch.arange(n))(torch.empty(n, *shape, dtype=torch.float64), 0, Stream.EPS).numpy()


def line(*at: float) -> np.ndarray:
    return np.array(at, dtype=np.float64)[:, None]


def plainly(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density, coverage as the papers write them, from whole matrices of distances."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.norm(a[:, None] - b, axis=2)

    of_real, of_fake = (np.sort(distances(s, s), axis=1)[:, k] for s in (real, fake))  # [:, 0] is the point itself
    between = distances(real, fake)
    in_real, in_fake = between <= of_real[:, None], between <= of_fake
    return in_real.any(0).mean(), in_fake.any(1).mean(), in_real.sum() / (k * len(fake)), in_real.any(1).mean()


def test_on_the_line() -> None:
    """Radii of the reals at k = 1: 1, 1, 2, 3, 4; of the fakes: 1, 1, 2.5, 1, 1."""
    real, fake = line(0, 1, 3, 6, 10), line(0.5, 1.5, 4, 20, 21)
    assert precision_recall(real, fake, 1) == (3 / 5, 4 / 5)
    assert density_coverage(real, fake, 1) == (6 / 5, 4 / 5)
    # At k = 2 the reals' radii are 3, 2, 3, 4, 7 (the fakes': 3.5, 2.5, 3.5, 16, 17), and half as much is dense.
    assert precision_recall(real, fake, 2) == (3 / 5, 1.0)
    assert density_coverage(real, fake, 2) == ((3 + 3 + 3) / (2 * 5), 1.0)


def test_a_point_on_the_sphere_is_inside() -> None:
    """And one a hair farther is not."""
    assert precision_recall(line(0, 1, 10, 11), line(2, 30, 50, 60), 1)[0] == 1 / 4
    assert precision_recall(line(2, 30, 50, 60), line(0, 1, 10, 11), 1)[1] == 1 / 4
    assert density_coverage(line(0, 1, 10, 11), line(2, 30, 50, 60), 1) == (1 / 4, 1 / 4)
    assert precision_recall(line(0, 1, 10, 11), line(2 + 1e-10, -1 - 1e-10, 50, 60), 1)[0] == 0


def test_a_dropped_mode_costs_recall_and_coverage_alone() -> None:
    """Two rows of points far apart; the fakes lie between those of the first one."""
    real = np.concatenate([line(*range(20)), line(*range(1000, 1020))])
    fake = line(*(np.arange(40) / 2 + 0.25))
    assert precision_recall(real, fake) == (1.0, 0.5)
    assert density_coverage(real, fake)[1] == 0.5


def test_bad_fakes_cost_precision_and_density() -> None:
    real, fake = line(*range(20)), np.concatenate([line(*(np.arange(10) + 5.5)), line(*range(100, 200, 10))])
    precision, _ = precision_recall(real, fake)
    assert precision == 0.5
    density, _ = density_coverage(real, fake, 2)
    assert density == pytest.approx(0.5)  # k = 2 on a lattice: radius 1, and two lattice points within 1 of x.5


def test_outliers_fool_precision_and_recall_but_not_density_and_coverage() -> None:
    """One real far from all has a ball that holds nearly everything, and so has one such fake."""
    near, far = line(*range(9)), line(*range(500, 509))
    real = np.concatenate([near, line(1000)])
    assert precision_recall(real, np.concatenate([far, line(509)]))[0] == 1.0
    assert density_coverage(real, np.concatenate([far, line(509)])) == (pytest.approx(1 / 5), pytest.approx(1 / 10))
    fake = np.concatenate([far, line(-1000)])
    assert precision_recall(near, fake[1:])[1] == 1.0
    assert density_coverage(near, fake[1:]) == (0.0, 0.0)


def test_fakes_in_one_spot_are_dense_and_cover_little() -> None:
    """All in the middle: each is near the 2k + 1 reals whose balls reach it."""
    real = line(*range(21))
    density, coverage = density_coverage(real, np.full((21, 1), 10.0), 4)
    assert density == 5 / 4  # radius 2: the reals from 8 to 12
    assert coverage == 5 / 21


@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_copies_of_the_reals_are_inside_whatever_rounding_does(offset: float) -> None:
    """Each ball holds its centre and, on its sphere or nearer, k others: a density of (k + 1)/k to the last point."""
    x = (normals(1, 60, 400) + offset).astype(np.float32)
    y = x[np.random.default_rng(0).permutation(60)]
    assert precision_recall(x, y) == (1.0, 1.0)
    for k in (1, 5):
        assert density_coverage(x, y, k) == (pytest.approx((k + 1) / k, rel=1e-14), 1.0)


def test_a_copy_within_a_set_is_a_neighbour_but_a_picture_is_not_its_own() -> None:
    """Every real twice: radius 0 at k = 1, and the next picture's distance at k = 2."""
    real = line(0, 0, 1, 1, 3, 3)
    assert precision_recall(real, line(0.1, 1.1, 3.1, 0, 3, 7), 1)[0] == 2 / 6
    assert precision_recall(real, line(-0.9, -1.1, 4.9, 5.1, 9, 10), 2)[0] == 2 / 6


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_as_the_papers_write_them_in_any_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Sets of different sizes count with the first of each, and no more than MOST."""
    monkeypatch.setattr(rows, "BLOCK", size)
    x, y = normals(1, 50, 3), 1.3 * normals(2, 40, 3) + 1.0
    for k in (1, 3, 5):
        precision, recall, density, coverage = plainly(x[:40], y, k)
        assert 0.2 < min(precision, recall) < max(precision, recall) < 1
        assert precision_recall(x, y, k) == (precision, recall)
        assert density_coverage(x, y, k) == (pytest.approx(density), coverage)
    monkeypatch.setattr(manifold, "MOST", 25)
    assert precision_recall(x, y) == plainly(x[:25], y[:25], 3)[:2]
    assert density_coverage(x, y) == pytest.approx(plainly(x[:25], y[:25], 5)[2:])


def test_density_and_coverage_of_one_distribution() -> None:
    """On average 1, and 1 - (N - 1)...(N - k)/((2N - 1)...(2N - k)) for N a side, near 1 - 2^-k (Naeem et al.)."""
    repeats, n, k = 1000, 15, 3
    found = np.array([density_coverage(z[:n], z[n:], k) for z in normals(3, repeats, 2 * n, 2)])
    covered = 1 - math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    error = found.std(0) / math.sqrt(repeats)
    assert (error < 0.008).all()
    assert (np.abs(found.mean(0) - [1.0, covered]) < 3 * error).all()


def test_the_nearest_in_any_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    x, y = normals(1, 23, 4), normals(2, 31, 4).astype(np.float32)
    y.tofile(tmp_path / "y.bin")
    mapped = np.memmap(tmp_path / "y.bin", dtype=np.float32, mode="r", shape=y.shape)
    whole = np.linalg.norm(x[:, None] - y, axis=2)
    for size in (1, 8, 100):
        monkeypatch.setattr(rows, "BLOCK", size)
        distance, index = nearest(x, mapped)
        np.testing.assert_array_equal(index, whole.argmin(1))
        np.testing.assert_allclose(distance, whole.min(1), rtol=1e-14)
    assert (distance.dtype, index.dtype) == (np.float64, np.int64)


def test_the_distance_of_a_copy_is_nothing_and_of_a_near_copy_exact() -> None:
    """Far from the origin, where |q|² + |a|² - 2 q·a has no digit left."""
    among = normals(1, 40, 50) + 1000
    queries = among[::-1].copy()
    queries[5, 7] += 1e-4
    distance, index = nearest(queries, among)
    np.testing.assert_array_equal(index, np.arange(40)[::-1])
    expected = np.where(np.arange(40) == 5, queries[5, 7] - among[34, 7], 0.0)
    np.testing.assert_allclose(distance, expected, rtol=1e-12)


def test_memorised_by_hand() -> None:
    """199 held-out pictures at 1, 2, ... 199: all but 1 % (2 of them) are at 2 or more; what is nearer is copied."""
    real = np.arange(199, 0, -1)
    assert memorised([0, 1, 1.99, 2, 3, 50], real) == Share(3, 6)
    assert memorised([9.9, 10, 10.1], real, 0.05) == Share(1, 3)
    assert memorised([0, 1], np.arange(1, 100)) == Share(1, 2)
    assert memorised([28, 29], np.arange(1, 100), 0.29) == Share(1, 2)  # 0.29·100 is just below 29 in floats


def test_who_does_not_copy_has_the_share_expected() -> None:
    """Fakes and held-out reals of one distribution: 1 % exactly, on average over both."""
    shares = np.array([memorised(z[:50, 0], z[50:, 0], 0.02).mean for z in normals(4, 1000, 149, 1)])
    error = shares.std() / math.sqrt(1000)
    assert error < 0.001
    assert abs(shares.mean() - 0.02) < 3 * error


def test_who_copies_is_seen() -> None:
    """A third of the fakes are training pictures, told from their neighbours in spite of a little noise."""
    train, held_out = normals(1, 300, 20), normals(2, 199, 20)
    fake = np.concatenate([normals(3, 200, 20), train[:100] + 0.01 * normals(4, 100, 20)])
    share = memorised(nearest(fake, train)[0], nearest(held_out, train)[0])
    assert share.of == 300
    assert 100 <= share.count <= 108
    assert 0.01 < share.low < 1 / 3 < share.high


def test_what_cannot_be_measured() -> None:
    x = normals(1, 4, 2)
    with pytest.raises(ValueError, match="more than k pictures a side, not 3"):
        precision_recall(x, x[:3])
    with pytest.raises(ValueError, match="more than k pictures a side, not 4"):
        density_coverage(x, x)
    with pytest.raises(ValueError, match="0 nearest others"):
        precision_recall(x, x, 0)
    with pytest.raises(ValueError, match="Use the same net"):
        nearest(x, x[:, :1])
    with pytest.raises(ValueError, match="nothing to be near to"):
        nearest(x, x[:0])
    with pytest.raises(ValueError, match=r"nearest 0\.01 of 98 held-out pictures are none"):
        memorised([1.0], np.arange(98))
    with pytest.raises(ValueError, match="Give a share between 0 and 1"):
        memorised([1.0], np.arange(98), 1.0)
