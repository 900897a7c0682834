"""What codecs say for likelihoods, against the derivative of `encode` itself."""

from __future__ import annotations

import math

import pytest
import torch

from inkwash.codec import Pixels, Scaled, Standard


def test_the_scale_is_the_logarithm_of_the_encoding_s_determinant() -> None:
    torch.manual_seed(0)
    for codec, shape, u in (
        (Scaled(-1.5, 3.0), (2, 3, 4), torch.rand(1, 3, 4, 2)),
        (Standard((0.5, -1.0, 2.0), (0.25, 3.0, 1.0)), (3,), torch.rand(1, 3)),
    ):
        jacobian = torch.autograd.functional.jacobian(lambda u, codec=codec: codec.encode(u).flatten(), u)
        exact = torch.linalg.slogdet(jacobian.reshape(math.prod(shape), -1).double()).logabsdet
        assert codec.log_scale(shape) == pytest.approx(float(exact), abs=1e-5)
        assert codec.bin is None


def test_a_bin_is_the_distance_of_two_levels() -> None:
    levels = Pixels().encode(torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)).flatten().double()
    assert levels.diff().tolist() == pytest.approx([Pixels().bin] * 255, abs=1e-6)
    assert Pixels().bin == 2 / 255
    assert Pixels().log_scale((3, 5, 7)) == pytest.approx(105 * math.log(2 / 255), rel=1e-15)
