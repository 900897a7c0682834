"""Reading off pictures what was asked of them: probes, retrieval, numbers and partners, where all is known exactly."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from inkwash.data import order
from inkwash.data.mix import normal, uniform
from inkwash.evaluation.answers import reads
from inkwash.evaluation.interval import Middle, quotient
from inkwash.evaluation.partner import psnr, squared, structure
from inkwash.evaluation.retrieval import ranks, retrieve, sentences
from inkwash.features import Extractor, extractor, load_judge, probe_file
from inkwash.features.judge import HELD
from inkwash.features.probe import LAMBDAS, AboutProbe, Probe, fit, read_probe, write_probe

RAW = extractor("raw")


def draws(n: int, d: int, key: int) -> np.ndarray:
    """Standard normals [n, d]."""
    return normal(np.arange(n * d), key).reshape(n, d)


# Probes.


def test_what_is_linear_is_read_exactly() -> None:
    """y = f·A + b without noise: the least ridge wins, and what it shrinks is of its own size."""
    f, a, b = 3.0 + 2.0 * draws(400, 6, 1), draws(6, 3, 2), np.array([1.0, -2.0, 0.5])
    probe = fit(f, f @ a + b)
    assert probe.lam == LAMBDAS[0] and probe.missed < 1e-6 and probe.n == 400
    fresh = draws(50, 6, 3)
    np.testing.assert_allclose(probe(fresh), fresh @ a + b, atol=3e-3)


@pytest.mark.parametrize("lam", [0.01, 1.0, 30.0])
def test_the_ridge_is_where_its_gradient_is_zero(lam: float) -> None:
    """Ft(F·W - Y)/n + lam·W = 0, F standardised, Y centred, over all rows."""
    f = draws(80, 5, 4) * np.array([1.0, 3.0, 0.1, 1.0, 50.0]) + 7
    f[:, 3] = 4.0  # tells nothing, and divides by nothing
    y = f[:, :1] + draws(80, 2, 5)
    probe = fit(f, y, lambdas=(lam,))
    x = (f - f.mean(0)) / np.where(f.std(0) > 0, f.std(0), 1.0)
    gradient = x.T @ (x @ probe.weight - (y - y.mean(0))) / 80 + lam * probe.weight
    np.testing.assert_allclose(gradient, 0, atol=1e-12)
    assert probe.weight[3] == pytest.approx(0, abs=1e-12) and probe.offset == pytest.approx(y.mean(0))
    np.testing.assert_allclose(probe(f), x @ probe.weight + y.mean(0), atol=1e-10)


def test_held_out_rows_choose_the_ridge() -> None:
    """Sixty rows of fifty features, of which one matters: little ridge fits the noise; and the choice is the least."""
    f = draws(60, 50, 6)
    y = f[:, :1] + draws(60, 1, 7)
    probe = fit(f, y)
    shuffled = order(0, 0, 60)
    out, mine = shuffled[:6], shuffled[6:]

    def missed(lam: float) -> float:
        x = (f[mine] - f[mine].mean(0)) / f[mine].std(0)
        w = np.linalg.solve(x.T @ x / 54 + lam * np.eye(50), x.T @ (y[mine] - y[mine].mean(0)) / 54)
        shown = (f[out] - f[mine].mean(0)) / f[mine].std(0) @ w + y[mine].mean(0)
        return float(np.square(shown - y[out]).mean() / np.square(y[out] - y[mine].mean(0)).mean())

    errors = {lam: missed(lam) for lam in LAMBDAS}
    assert probe.lam == min(errors, key=errors.get)  # type: ignore[arg-type]
    assert probe.missed == pytest.approx(errors[probe.lam], rel=1e-9) and probe.lam > 0.01


def test_unfit_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 20"):
        fit(draws(19, 2, 1), draws(19, 1, 1))
    y = draws(30, 1, 1)
    y[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit(draws(30, 2, 1), y)
    with pytest.raises(ValueError, match=r"\[n, 2\]"):
        fit(draws(30, 2, 1), draws(30, 1, 1))(draws(5, 3, 1))


def test_a_probe_is_kept_as_it_is(tmp_path: Path) -> None:
    probe = fit(draws(40, 4, 1), draws(40, 2, 2))
    about = AboutProbe("d", "print", ("a", "b"), RAW.identity, probe.lam, probe.n, 0.75)
    write_probe(tmp_path / "p", about, probe)
    held = read_probe(tmp_path / "p")
    assert held is not None and held[0] == about
    f = draws(9, 4, 3)
    assert (held[1](f) == probe(f)).all()
    (tmp_path / "other").write_bytes(b"nothing of the kind")
    assert read_probe(tmp_path / "other") is None and read_probe(tmp_path / "missing") is None


def test_a_probe_is_a_judge(tmp_path: Path) -> None:
    """Dark and bright pictures are told apart; by features and by pictures alike; one without a label is left out."""
    n = 200
    labels = np.arange(n) % 2
    pictures = (100 * uniform(np.arange(n * 16), 1)).astype(np.uint8).reshape(n, 4, 4, 1)
    pictures += (150 * labels)[:, None, None, None].astype(np.uint8)
    features = RAW(pictures).numpy()
    given = labels.copy()
    given[:20] = -1
    file = probe_file(features, given, ("dark", "bright"), RAW, "blots", "print", tmp_path)
    assert file is not None and file.is_relative_to(tmp_path)
    judge = load_judge(file)
    assert judge.classes == ("dark", "bright") and judge.accuracy == 1.0
    assert (judge.read(features, RAW) == labels).all() and (judge(pictures).numpy() == labels).all()
    about = read_probe(file)
    assert about is not None and about[0].n == 180 and "18 held-out" in about[0].measured and HELD == 0.1
    other = Extractor("raw", 0, "other", "none", RAW.device, RAW.net)
    assert judge.read(features, other) is None
    assert probe_file(features, labels, ("dark", "bright"), RAW, "blots", "print", tmp_path) != file
    assert probe_file(features, np.zeros(n, int), ("dark", "bright"), RAW, "blots", "x", tmp_path) is None
    assert probe_file(features, np.full(n, -1), ("dark", "bright"), RAW, "blots", "x", tmp_path) is None


# Captions.


def test_ranks_by_the_cosine() -> None:
    """Of (1, 0), (0, 1), (-1, 0): the length of what is read says nothing; equally near ones share their places."""
    among = np.array([[2.0, 0.0], [0.0, 0.1], [-1.0, 0.0]])
    read = np.array([[5.0, 1.0], [5.0, 1.0], [5.0, 1.0], [0.0, 3.0], [0.0, 0.0]])
    assert ranks(read, among, np.array([0, 1, 2, 0, 1])).tolist() == [1, 2, 3, 2.5, 2]


def test_a_probe_of_exact_captions_finds_them_all() -> None:
    """Features that are the embeddings turned round: every caption is the first."""
    texts = draws(300, 8, 1)
    turned = np.linalg.qr(draws(8, 8, 2))[0]
    probe = fit(texts[:200] @ turned, texts[:200])
    found = retrieve(probe(texts[200:] @ turned), texts[200:], np.arange(100))
    assert (found.first.mean, found.five.mean, found.rank.value, found.candidates) == (1, 1, 1, 100)


def test_two_captions_in_noise() -> None:
    """Of e and -e with noise s along e the right one is nearer with probability Phi(1/s)."""
    n, s = 4000, 0.8
    own = np.arange(n) % 2
    noise = s * normal(np.arange(n), 1)
    read = np.zeros((n, 3))
    read[:, 0] = np.where(own == 0, 1.0, -1.0) + noise
    found = retrieve(read, np.array([[1.0, 0, 0], [-1.0, 0, 0]]), own)
    expected = 0.5 * (1 + math.erf(1 / s / math.sqrt(2)))
    assert found.first.mean == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))
    assert found.first.low < expected < found.first.high


def test_chance() -> None:
    """What says nothing of a caption finds it as chance does, exactly where it says the same of all."""
    n, among = 3000, draws(50, 6, 1)
    own = np.arange(n) % 50
    blind = retrieve(draws(n, 6, 2), among, own)
    first, five, rank = blind.by_chance
    assert (first, five, rank) == (0.02, 0.1, 25.5)
    assert blind.first.low < first < blind.first.high and blind.five.low < five < blind.five.high
    assert blind.rank.low <= rank <= blind.rank.high
    same = retrieve(np.zeros((7, 6)), among, own[:7])
    assert same.rank.value == 25.5 and same.first.mean == 0
    assert retrieve(draws(4, 6, 1), among[:3], own[:4] % 3).by_chance == (1 / 3, 1, 2)


def test_a_sentence_is_the_mean_of_its_own_tokens() -> None:
    tokens = np.zeros((3, 4, 2), np.float16)
    tokens[0, :2] = [[6, 0], [0, 8]]
    tokens[0, 2:] = 9  # not its own
    tokens[1, :1] = [[0, -2]]
    np.testing.assert_allclose(sentences(tokens, np.array([2, 1, 0])), [[0.6, 0.8], [0, -1], [0, 0]])


# Numbers.


def test_what_is_read_against_what_was_asked() -> None:
    """read = 0.5·asked + 3 leaves 1 - R² = mean((0.5 a - 3)²)/var(a); a slope of 0.5 without an error."""
    asked = draws(500, 1, 1)
    r2, slope = reads(asked, 0.5 * asked + 3)
    assert slope.mean == pytest.approx(0.5) and slope.half == pytest.approx(0, abs=1e-12)
    assert r2.mean == pytest.approx(1 - np.square(0.5 * asked - 3).mean() / asked.var())
    same, one = reads(asked, asked)
    assert (same.mean, one.mean) == (1, pytest.approx(1))
    mean, flat = reads(asked, np.full_like(asked, asked.mean()))
    assert mean.mean == pytest.approx(0, abs=1e-12) and flat.mean == pytest.approx(0, abs=1e-12)


def test_intervals_of_r2_and_slope_hold_as_often_as_they_say() -> None:
    """read = 0.8·asked + noise 0.5: R² = 1 - (0.04 + 0.25), slope 0.8, in 19 of 20 intervals."""
    held = [0, 0]
    for k in range(400):
        asked = draws(200, 1, 100 + k)
        found = reads(asked, 0.8 * asked + 0.5 * draws(200, 1, 900 + k))
        for i, (one, true) in enumerate(zip(found, (0.71, 0.8), strict=True)):
            held[i] += one.low < true < one.high
    assert 365 <= held[0] <= 395 and 365 <= held[1] <= 395


def test_a_quotient_of_sums() -> None:
    """Over a constant it is a mean, with the mean's own interval."""
    x = draws(50, 1, 1)[:, 0]
    value, half = quotient(x, np.full(50, 2.0))
    assert value == pytest.approx(x.mean() / 2)
    assert half == pytest.approx(1.959964 * x.std(ddof=1) / 2 / math.sqrt(50))
    assert quotient(3 * x, x)[1] == pytest.approx(0, abs=1e-12) and quotient(x[:1], x[:1]) == (1, None)


def test_a_medians_interval_is_of_its_neighbours_in_order() -> None:
    """Of 1 to 101: 50.5 ∓ 9.85, so the 41st and the 62nd, counted from one."""
    middle = Middle.of(np.arange(101.0, 0.0, -1))
    assert (middle.value, middle.low, middle.high) == (51, 41, 62)
    assert Middle.of(np.array([4.0])) == Middle(4, 4, 4)
    held = sum((m := Middle.of(draws(60, 1, k)[:, 0])).low < 0 < m.high for k in range(500))
    assert 460 <= held <= 495


# Pictures.


def test_a_difference_in_decibels() -> None:
    a = np.full((3, 12, 12, 3), 100, np.uint8)
    b = a.copy()
    b[1] += 10
    b[2, :6] -= 20
    assert squared(a, b).tolist() == [0, 100, 200]
    assert psnr(a, b) == pytest.approx(
        [10 * math.log10(255**2 * 12), 10 * math.log10(650.25), 10 * math.log10(65025 / 200)]
    )
    half = np.zeros((3, 12, 12), bool)
    half[:, 6:] = True
    half[0] = False
    found = squared(a, b, half)
    assert np.isnan(found[0]) and found[1:].tolist() == [100, 0]
    same = structure(a, b)
    assert same is not None and same[0] == pytest.approx(1)
    # Flat pictures: only the light differs, (2·mn + c)/(m² + n² + c) in [-1, 1].
    m, n, c = 100 / 127.5 - 1, 110 / 127.5 - 1, 0.02**2
    assert same[1] == pytest.approx((2 * m * n + c) / (m * m + n * n + c), rel=1e-3)
    assert structure(a[:, :8], b[:, :8]) is None
    with pytest.raises(ValueError, match="held against each other"):
        psnr(a, b[:2])


def test_probe_of_one_value_reads_it() -> None:
    """Targets that never change: nothing is missed, and their value is read."""
    probe = fit(draws(30, 3, 1), np.full((30, 1), 4.0))
    assert isinstance(probe, Probe) and probe.missed == 0
    np.testing.assert_allclose(probe(draws(5, 3, 2)), 4.0)
