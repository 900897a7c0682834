"""Philox against its published vectors and a second implementation; normals and uniforms against their laws."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from inkwash.noise import Philox, Stream, philox4x32

# Random123's kat_vectors, lines "philox4x32 10": counter, key, result.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(w, 16) for w in text.split()]


def philox(counter: list[int], seed: int) -> list[int]:
    """Philox4x32-10 in Python's integers."""
    c, k = list(counter), [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [b >> 32 ^ c[1] ^ k[0], b & 0xFFFFFFFF, a >> 32 ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_known_answers(counter: str, key: str, result: str) -> None:
    low, high = words(key)
    out = philox4x32(tuple(torch.tensor([w]) for w in words(counter)), high << 32 | low)
    assert [int(w) for w in out] == words(result) == philox(words(counter), high << 32 | low)


def test_normals_are_box_muller_of_the_documented_counter() -> None:
    """Value 4·block + j of sample `index` comes from the counter (block, index, index >> 32, step·256 + stream)."""
    seed, index, step, stream = 0x0123456789ABCDEF, 5 << 32 | 77, 300, Stream.START
    z = Philox(seed, torch.tensor([index]))(torch.empty(1, 3, 7), step, stream).flatten()
    for n in range(21):
        w = philox([n // 4, 77, 5, step << 8 | stream], seed)
        u = w[n % 4 // 2 * 2]
        v = w[n % 4 // 2 * 2 + 1]
        radius = math.sqrt(-2 * math.log((u + 0.5) / 2**32))
        # The angle: the top two bits are the quadrant, the others turn from -45 to 45 degrees within it.
        angle = (v >> 30) * math.pi / 2 + ((v % 2**30 - 2**29) + 0.5) / 2**30 * math.pi / 2
        exact = radius * (math.cos(angle), math.sin(angle))[n % 2]
        assert float(z[n]) == pytest.approx(exact, abs=2e-6), n


def test_normals_match_double_precision() -> None:
    """The float32 logarithm, sine and cosine are good to 1e-6, tails included."""
    noise = Philox(1, torch.arange(1000))
    z = noise(torch.empty(1000, 400), 0, Stream.EPS).double()
    block, index = torch.arange(100)[None], torch.arange(1000)[:, None]
    w = philox4x32((block, index, torch.zeros_like(index), torch.tensor([Stream.EPS])), 1)
    for k in (0, 1):
        u = ((w[2 * k].float() + 0.5) * 2.0**-32).double()  # the same float32 uniform, then all in float64
        angle = (w[2 * k + 1].double() + 0.5 - 2.0**29) * (2 * math.pi * 2.0**-32)
        radius = (-2 * u.log()).sqrt()
        exact = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        torch.testing.assert_close(z.reshape(1000, 100, 4)[..., 2 * k : 2 * k + 2], exact, atol=1e-6, rtol=0)


def test_normals_are_normal() -> None:
    z = Philox(3, torch.arange(2000))(torch.empty(2000, 250), 4, Stream.STEP).double().flatten()
    n = len(z)
    assert stats.kstest(z.numpy(), "norm").pvalue > 0.01
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = math.sqrt((math.prod(range(1, 2 * power, 2)) - moment**2) / n)  # var z^p = E z^2p - (E z^p)²
        assert float((z**power).mean()) == pytest.approx(moment, abs=4 * spread)


def test_uniforms_are_uniform() -> None:
    u = Philox(5, torch.arange(200_000)).uniform(0, Stream.TIME)
    assert u.dtype == torch.float64
    assert float(u.min()) > 0
    assert float(u.max()) < 1
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    first = philox([0, 3, 0, Stream.TIME], 5)
    assert float(u[3]) == ((first[0] << 21 | first[1] >> 11) + 0.5) * 2.0**-53
    assert (u * 2**32 % 1).unique().numel() > 190_000  # the bits below the 32nd are random too


def test_neighbours_are_uncorrelated() -> None:
    """Samples, elements, steps, streams and seeds next to each other share nothing."""
    like = torch.empty(500, 100)
    z = Philox(0, torch.arange(500))(like, 0, Stream.EPS).double()
    others = {
        "sample": z.roll(1, 0),
        "element": z.roll(1, 1),
        "step": Philox(0, torch.arange(500))(like, 1, Stream.EPS).double(),
        "stream": Philox(0, torch.arange(500))(like, 0, Stream.STEP).double(),
        "seed": Philox(1, torch.arange(500))(like, 0, Stream.EPS).double(),
        "high seed": Philox(1 << 32, torch.arange(500))(like, 0, Stream.EPS).double(),
        "high index": Philox(0, torch.arange(500) + (1 << 32))(like, 0, Stream.EPS).double(),
    }
    for name, other in others.items():
        correlation = float((z * other).mean())
        assert abs(correlation) < 4 / math.sqrt(z.numel()), name
        assert abs(float((z.square() * other.square()).mean()) - 1) < 4 * math.sqrt(8 / z.numel()), name


def test_noise_does_not_depend_on_the_batch() -> None:
    """Bit for bit: alone, in a batch, at another position, and whatever was drawn before."""
    index = torch.tensor([7, 123456789012, 0, 3])
    whole = Philox(9, index)(torch.empty(4, 3, 5, 5), 2, Stream.STEP)
    for i, n in enumerate(index):
        alone = Philox(9, torch.zeros(1, dtype=torch.int64)).at(n.reshape(1))(torch.empty(1, 3, 5, 5), 2, Stream.STEP)
        assert torch.equal(alone[0], whole[i])
    flipped = Philox(9, index.flip(0))(torch.empty(4, 3, 5, 5), 2, Stream.STEP)
    assert torch.equal(flipped, whole.flip(0))
    # A larger picture begins with the numbers of a smaller one.
    assert torch.equal(Philox(9, index)(torch.empty(4, 80), 2, Stream.STEP)[:, :75], whole.flatten(1))


def test_global_generator_is_left_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    Philox(0, torch.arange(3))(torch.empty(3, 4), 0, Stream.EPS)
    Philox(0, torch.arange(3)).uniform(0, Stream.TIME)
    assert torch.equal(torch.get_rng_state(), before)


def test_golden_values() -> None:
    """These bits must never change: runs are resumed, and pictures reproduced, by later versions."""
    z = Philox(0, torch.arange(2))(torch.empty(2, 3), 0, Stream.EPS)
    golden = [0.04700498282909393, -1.35467529296875, -0.7775894999504089]
    golden += [0.32561156153678894, -1.2814544439315796, 1.0358003377914429]
    assert z.flatten().tolist() == golden
    u = Philox(0, torch.arange(2)).uniform(0, Stream.TIME)
    assert u.tolist() == [0.17893146841678093, 0.30871764545087704]
    # Streams are numbers in every stored run: they are never dealt out again.
    older = {"EPS": 0, "TIME": 1, "DROP": 2, "STEP": 3, "START": 4}
    newer = {"RENOISE": 5, "PROBE": 6, "BIN": 7, "BOUND": 8, "CHOICE": 9, "GRID": 10, "SHOWN": 11, "MASK": 12}
    newer |= {"SCALE": 13}
    assert {s.name: int(s) for s in Stream} == older | newer


@pytest.mark.gpu
def test_same_bits_on_cpu_and_gpu() -> None:
    index = torch.arange(1000)
    on_cpu = Philox(0, index)(torch.empty(1000, 1000), 0, Stream.EPS)
    on_gpu = Philox(0, index)(torch.empty(1000, 1000, device="cuda"), 0, Stream.EPS)
    assert torch.equal(on_cpu, on_gpu.cpu())
