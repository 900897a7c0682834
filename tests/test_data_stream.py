"""Order, held-out examples and mirroring: pure functions, pinned for ever."""

from __future__ import annotations

import numpy as np
import pytest

from inkwash.data import Dataset, Stream, flips, order, split
from inkwash.data.mix import mix, normal, uniform


def numbered(n, flip=True, width=4):
    """Picture i has i in its left column."""
    images = np.zeros((n, 2, width, 1), np.uint8)
    images[:, :, 0, 0] = np.arange(n)[:, None]
    return Dataset("numbered", images, np.arange(n) * 10, (), None, "", generated=True, flip=flip)


def test_mix_is_splitmix64():
    # The first outputs of the published generator for seed 0.
    assert [hex(z) for z in mix(np.arange(4)).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
        "0xf88bb8a8724c81ec",
    ]


def test_keys_of_every_kind_give_different_numbers():
    keys = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (-1,), (2**64 - 2,), (2**40, 3)]
    assert len({mix(np.arange(3), *k).tobytes() for k in keys}) == len(keys)


def test_uniform_and_normal_have_their_moments():
    n = 200_000
    u, z = uniform(np.arange(n), 7), normal(np.arange(n), 7)
    assert u.min() > 0 and u.max() < 1
    # Within five standard errors.
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / n)
    assert abs((u[:-1] * u[1:]).mean() - 0.25) < 5 * np.sqrt(7 / 144 / n)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * np.sqrt(variance / n)


def test_the_order_is_a_permutation_and_pinned():
    for n in (1, 2, 7, 1000):
        for epoch in range(3):
            assert sorted(order(5, epoch, n).tolist()) == list(range(n))
    assert order(0, 0, 10).tolist() == ORDER_0_0
    assert order(0, 1, 10).tolist() == ORDER_0_1
    assert order(1, 0, 10).tolist() == ORDER_1_0
    assert flips(0, 0, np.arange(16)).astype(int).tolist() == FLIPS_0_0
    held = split(numbered(40), 0.2, 3)[1]
    assert held.tolist() == HELD_3
    with pytest.raises(ValueError, match="read-only"):
        order(0, 0, 10)[0] = 3


def test_orders_are_evenly_random():
    n, trials = 6, 3000
    seen = np.zeros((n, n))
    for epoch in range(trials):
        seen[np.arange(n), order.__wrapped__(9, epoch, n)] += 1
    # Each example at each place equally often: chi-squared with 25 degrees of freedom.
    assert ((seen - trials / n) ** 2 / (trials / n)).sum() < 60


def test_example_k_is_epoch_k_div_n():
    data = numbered(10, flip=False)
    stream = Stream(data, seed=4)
    got = stream.rows(np.arange(25))
    want = np.concatenate([order(4, 0, 10), order(4, 1, 10), order(4, 2, 10)[:5]])
    assert got.images[:, 0, 0, 0].tolist() == want.tolist()
    assert got.labels.tolist() == (want * 10).tolist()


@pytest.mark.parametrize("flip", [True, False])
def test_rows_do_not_depend_on_how_they_are_batched(flip):
    stream = Stream(numbered(13), seed=1, flip=flip)
    whole = stream.rows(np.arange(40))
    for size in (1, 3, 7):
        parts = [stream.rows(np.arange(i, min(i + size, 40))) for i in range(0, 40, size)]
        assert np.array_equal(np.concatenate([p.images for p in parts]), whole.images)
    shuffled = np.random.default_rng(0).permutation(40)
    assert np.array_equal(stream.rows(shuffled).images, whole.images[shuffled])


def test_mirroring_is_left_to_right_in_half_of_the_epochs():
    data = numbered(7, width=5)
    stream = Stream(data, seed=2)
    got = stream.rows(np.arange(7 * 600))
    epoch = np.arange(7 * 600) // 7
    example = got.labels // 10
    want = np.array([flips(2, e, i) for e, i in zip(epoch.tolist(), example.tolist(), strict=True)])
    assert np.array_equal(got.images[:, 0, 4, 0] > 0, want & (example > 0))
    assert np.array_equal(np.where(want, got.images[:, 0, 4, 0], got.images[:, 0, 0, 0]), example)
    share = [want[example == i].mean() for i in range(7)]
    assert max(abs(s - 0.5) for s in share) < 5 * 0.5 / np.sqrt(600)
    assert data.images[:, 0, 0, 0].tolist() == list(range(7))  # the stored pictures are as they were


def test_a_part_of_the_set_and_points():
    data = numbered(20, flip=False)
    train, held = split(data, 0.3, seed=0)
    got = (Stream(data, 0, index=train).rows(np.arange(len(train))).labels // 10).tolist()
    assert sorted(got) == train.tolist()
    assert not set(got) & set(held.tolist())
    points = Dataset("p", np.arange(6, dtype=np.float32).reshape(3, 2), None, (), None, "", generated=True)
    rows = Stream(points, 0, flip=True).rows([0, 1, 2])
    assert np.array_equal(rows.images, points.images[order(0, 0, 3)]) and rows.labels is None
    with pytest.raises(ValueError, match="no examples"):
        Stream(data, 0, index=np.arange(0))


def test_split_is_of_index_and_seed_alone():
    small, large = split(numbered(100), 0.2, 5), split(numbered(3000), 0.2, 5)
    assert set(small[1]) == {i for i in large[1].tolist() if i < 100}
    assert sorted([*large[0], *large[1]]) == list(range(3000))
    assert abs(len(large[1]) - 600) < 5 * np.sqrt(3000 * 0.2 * 0.8)
    assert large[1].tolist() != split(numbered(3000), 0.2, 6)[1].tolist()
    assert len(split(numbered(9), 0.0, 0)[1]) == 0


def test_neither_side_of_a_split_is_empty():
    for seed in range(20):
        for fraction in (0.01, 0.99):
            train, held = split(numbered(3), fraction, seed)
            assert len(train) and len(held) and len(train) + len(held) == 3
    with pytest.raises(ValueError, match="none can be held out"):
        split(numbered(1), 0.5, 0)
    with pytest.raises(ValueError, match="val_fraction = 1"):
        split(numbered(5), 1, 0)


# Computed once with Python's whole numbers, apart from the package. They must never change: runs resume by them.
ORDER_0_0 = [6, 1, 7, 3, 4, 8, 2, 0, 5, 9]
ORDER_0_1 = [6, 2, 3, 1, 7, 0, 9, 5, 4, 8]
ORDER_1_0 = [8, 9, 6, 5, 3, 4, 7, 0, 1, 2]
FLIPS_0_0 = [1, 0, 0, 1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 1]
HELD_3 = [0, 9, 10, 14, 15, 20, 27]
