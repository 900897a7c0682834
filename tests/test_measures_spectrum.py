"""The radial power spectrum of pictures whose spectrum is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inkwash.evaluation.spectrum import FLOOR, spectrum, spectrum_error
from inkwash.noise import Philox, Stream


def noise(seed: int, n: int, *shape: int) -> np.ndarray:
    """[n, ...] float64, the same ever after."""
    return Philox(seed, torch.arange(n))(torch.empty(n, *shape, dtype=torch.float64), 0, Stream.EPS).numpy()


def wave(height: int, width: int, up: int, across: int, phase: float = 0.3) -> np.ndarray:
    """One picture [1, H, W, 1]: a cosine of so many cycles in the height and in the width."""
    y, x = np.mgrid[:height, :width]
    return np.cos(2 * math.pi * (up * y / height + across * x / width) + phase)[None, ..., None]


def ring(height: int, width: int, r: int) -> list[tuple[int, int]]:
    """The frequencies of a ring, in whole cycles in the height and in the width, one by one."""
    side = min(height, width)
    every = [(u, v) for u in range(-(height // 2), (height + 1) // 2) for v in range(-(width // 2), (width + 1) // 2)]
    return [(u, v) for u, v in every if r - 0.5 <= side * math.hypot(u / height, v / width) < r + 0.5]


@pytest.mark.parametrize(("height", "width"), [(16, 16), (12, 20), (9, 9)])
def test_white_noise_is_flat(height: int, width: int) -> None:
    """Its level is its variance (Parseval), each ring's within 4 standard errors: half its frequencies are its own."""
    n, s = 300, 0.25
    found = spectrum(s * noise(1, n, height, width, 3))
    assert len(found) == min(height, width) // 2
    for r, power in enumerate(found, start=1):
        error = s**2 * math.sqrt(2 / (3 * n * len(ring(height, width, r))))
        assert abs(power - s**2) < 4 * error


@pytest.mark.parametrize(
    ("height", "width", "up", "across", "r"),
    [
        (16, 16, 0, 1, 1),
        (16, 16, 3, 4, 5),
        (16, 16, -2, 2, 3),  # 2.83
        (16, 16, 1, 2, 2),  # 2.24
        (16, 16, 8, 0, 8),  # Nyquist
        (16, 32, 0, 8, 4),  # 8 cycles in twice the side
        (32, 16, 0, 8, 8),
        (15, 15, 0, 7, 7),
    ],
)
def test_a_wave_has_all_its_power_in_its_ring(height: int, width: int, up: int, across: int, r: int) -> None:
    """A cosine of amplitude A is two frequencies of (A/2)² H W each; at Nyquist the two are one."""
    found = spectrum(0.5 * wave(height, width, up, across))
    total = 0.25**2 * height * width * 2
    if 2 * up == height or 2 * across == width:
        total = (0.5 * math.cos(0.3)) ** 2 * height * width
    expected = np.zeros(min(height, width) // 2)
    expected[r - 1] = total / len(ring(height, width, r))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


def test_corners_and_brightness_are_left_out() -> None:
    corner = spectrum(wave(16, 16, 7, 7) + 0.4)
    np.testing.assert_allclose(corner, 0, atol=1e-25)


def test_pictures_of_bytes_are_brought_to_one() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(spectrum(pictures), spectrum(pictures / 127.5 - 1), rtol=1e-12)


def test_the_mean_over_pictures_and_channels_in_any_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = noise(2, 7, 8, 8, 2)
    each = [spectrum(x[i : i + 1, :, :, c : c + 1]) for i in range(7) for c in range(2)]
    for numbers in (1, 300, 1 << 21):
        monkeypatch.setitem(spectrum.__globals__, "_NUMBERS", numbers)
        np.testing.assert_allclose(spectrum(x), np.mean(each, 0), rtol=1e-12)


def test_less_contrast_is_so_many_decibels() -> None:
    """A factor a shifts all rings by 20 log10 a, up or down."""
    x = noise(3, 10, 16, 16, 1)
    for a in (0.5, 3.0):
        assert spectrum_error(spectrum(a * x), spectrum(x)) == pytest.approx(abs(20 * math.log10(a)), rel=1e-12)
    assert spectrum_error(spectrum(x), spectrum(x)) == 0


def test_one_ring_alone() -> None:
    """Of 4 rings one is 100 times too strong, 20 dB: 10 in the root of the mean square, either way round."""
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 300.0, 4.0])
    assert spectrum_error(a, b) == pytest.approx(10)
    assert spectrum_error(b, a) == pytest.approx(10)


def test_a_box_blur_has_the_transfer_function_known() -> None:
    """A single bright pixel has all frequencies alike; three pixels' mean, wrapped round, multiplies them by
    (1 + 2 cos 2 pi f)/3."""
    x = np.zeros((1, 16, 16, 1))
    x[0, 5, 9, 0] = 8.0
    blurred = (np.roll(x, 1, 2) + x + np.roll(x, -1, 2)) / 3
    np.testing.assert_allclose(spectrum(x), 64 / 256, rtol=1e-12)
    across = np.square([(1 + 2 * math.cos(2 * math.pi * v / 16)) / 3 for v in range(9)])
    transfer = [np.mean([across[abs(v)] for _, v in ring(16, 16, r)]) for r in range(1, 9)]
    np.testing.assert_allclose(spectrum(blurred), np.array(transfer) * 64 / 256, rtol=1e-12)
    decibels = [10 * math.log10(t) for t in transfer]
    error = math.sqrt(sum(d * d for d in decibels) / 8)
    assert spectrum_error(spectrum(blurred), spectrum(x)) == pytest.approx(error, rel=1e-12)


def test_pictures_of_one_grey_count_as_the_rounding_to_bytes() -> None:
    """Its power: a bin of 2/255 holds a variance of its square over 12."""
    flat = spectrum(np.full((2, 8, 8, 1), 77, dtype=np.uint8))
    assert pytest.approx(5.126e-6, rel=1e-3) == FLOOR
    assert spectrum_error(flat, np.full(4, 100 * FLOOR)) == pytest.approx(20)
    assert spectrum_error(flat, np.zeros(4)) == 0


def test_the_smallest_picture() -> None:
    """Of 2 pixels a side: three frequencies, all in ring 1, also the corner at a length of 1.41."""
    stripes, checks = np.array([[1.0, -1.0], [1.0, -1.0]]), np.array([[1.0, -1.0], [-1.0, 1.0]])
    np.testing.assert_allclose(spectrum(stripes[None, ..., None]), [4 / 3])
    np.testing.assert_allclose(spectrum(checks[None, ..., None]), [4 / 3])


def test_what_has_no_spectrum() -> None:
    for shape in ((3, 8), (0, 8, 8, 1), (1, 1, 8, 1)):
        with pytest.raises(ValueError, match="A spectrum is of pictures"):
            spectrum(np.zeros(shape))
    with pytest.raises(ValueError, match="different sizes"):
        spectrum_error(np.ones(3), np.ones(4))
