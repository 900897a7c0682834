"""The generated sets against the distributions they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.spatial import KDTree

from inkwash.data import DataSpec, load
from inkwash.data.generated import POINTS, points
from inkwash.data.shapes import CLASSES, draw


def test_the_roll_lies_on_its_spiral():
    xy = points("swiss-roll").images[:5000].astype(np.float64)
    a = np.linspace(1.5 * np.pi, 4.5 * np.pi, 20_001)
    spiral = np.stack([a * np.cos(a), a * np.sin(a)], 1) / 10
    nearest = KDTree(spiral).query(xy)[1]
    inside = (nearest > 500) & (nearest < 19_500)  # away from the ends the offset is the noise along the normal
    tangent = np.gradient(spiral, axis=0)[nearest]
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], 1) / np.linalg.norm(tangent, axis=1, keepdims=True)
    offset = ((xy - spiral[nearest]) * normal).sum(1)[inside]
    assert stats.kstest(offset / 0.05, "norm").pvalue > 1e-3
    assert stats.kstest(nearest[inside] / 20_000, stats.uniform(0.025, 0.95).cdf).pvalue > 1e-3


def test_moons_are_half_circles():
    data = points("moons")
    raw = data.images.astype(np.float64) / 1.25 + (0.5, 0.25)
    for label, centre, sign in ((0, (0, 0), 1), (1, (1, 0.5), -1)):
        p = raw[data.labels == label] - centre
        assert abs(len(p) - 25_000) < 5 * np.sqrt(50_000 / 4)
        r, a = np.hypot(*p.T), np.arctan2(sign * p[:, 1], sign * p[:, 0])
        assert abs((r**2).mean() - (1 + 2 * 0.08**2)) < 0.01
        # Away from the ends, the angle is uniform.
        assert stats.kstest(a[(a > 0.5) & (a < 2.6)], stats.uniform(0.5, 2.1).cdf).pvalue > 1e-3


def test_the_checkerboard_is_uniform_on_its_dark_fields():
    xy = points("checkerboard").images.astype(np.float64)
    board = xy * (2 / np.sqrt(3)) + 2
    field = np.floor(board).astype(int)
    assert (field >= 0).all() and (field <= 3).all()
    assert ((field.sum(1) % 2) == 0).all()
    counts = np.bincount(field[:, 0] * 4 + field[:, 1], minlength=16)
    assert stats.chisquare(counts[counts > 0]).pvalue > 1e-3 and (counts > 0).sum() == 8
    for axis in (0, 1):
        assert stats.kstest(board[:, axis] - field[:, axis], "uniform").pvalue > 1e-3
    assert np.allclose(xy.std(0), 1, atol=0.01)


def test_eight_gaussians():
    data = points("gaussians")
    assert data.classes[2] == "N"
    for k in range(8):
        p = data.images[data.labels == k] - np.sqrt(2) * np.array([np.cos(k * np.pi / 4), np.sin(k * np.pi / 4)])
        assert abs(len(p) - 6250) < 5 * np.sqrt(50_000 * 7 / 64)
        for axis in (0, 1):
            assert stats.kstest(p[:, axis] / 0.1, "norm").pvalue > 1e-4
        assert abs(np.corrcoef(p.T)[0, 1]) < 5 / np.sqrt(len(p))


@pytest.mark.parametrize("name", POINTS)
def test_points_are_always_the_same_and_a_limit_takes_the_first(name):
    train, again = load(name), load(name)
    assert train.fingerprint == again.fingerprint and train.generated and not train.flip
    few = load(DataSpec(name, limit=100))
    assert np.array_equal(few.images, train.images[:100])
    test = load(DataSpec(name, split="test"))
    assert not set(map(bytes, test.images)) & set(map(bytes, train.images))
    with pytest.raises(ValueError, match="size and channels do not apply"):
        load(DataSpec(name, size=32))


def test_shapes_have_the_areas_they_should():
    images, labels = draw("train", 4000)
    # Area over the outer radius squared, from geometry; light and radius vary, hence both are measured per picture:
    # light as the brightest pixel, the area as the sum of coverage.
    light = images.reshape(len(images), -1).max(1) / 255.0
    area = images.reshape(len(images), -1).sum(1) / 255.0 / light
    mean_r2 = (11**3 - 7**3) / 3 / 4  # of a radius uniform in [7, 11]
    tip, notch = 1.0, 0.45
    expected = {
        "circle": np.pi * 0.9**2,
        "ring": np.pi * (0.95**2 - 0.55**2),
        "half moon": np.pi * 0.95**2 / 2,
        "bar": 2 * 0.5,
        "square": 1.5**2,
        "triangle": 3 * np.sqrt(3) / 4,
        "cross": 2 * (2 * 0.54) - 0.54**2,
        "star": 5 * tip * notch * np.sin(np.pi / 5),
    }
    for name, value in expected.items():
        mine = labels == CLASSES.index(name)
        assert abs(mine.sum() - 400) < 5 * 19
        got = area[mine].mean() / mean_r2
        assert abs(got / value - 1) < 0.05, (name, got, value)


def test_shapes_are_antialiased_alike_every_time_and_named(tmp_path):
    images, labels = draw("train", 300)
    more = draw("train", 5000)
    assert np.array_equal(images, more[0][:300]) and np.array_equal(labels, more[1][:300])
    assert not np.array_equal(images, draw("test", 300)[0])
    edges = [len(np.unique(x)) for x in images]
    assert min(edges) > 10  # grey levels along the edge, not black and white alone
    data = load(DataSpec("shapes", limit=200), cache=tmp_path)
    assert data.name == "shapes (generated)" and data.generated and data.shape == (1, 28, 28)
    assert data.classes == CLASSES and len(data) == 200
