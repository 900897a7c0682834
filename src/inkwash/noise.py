"""Counter-based randomness: every number is a pure function of (seed, sample index, step, stream).

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer
tensor arithmetic; normals come from it by Box and Muller's transform. Logarithm, sine and cosine are written out
here in additions, multiplications, divisions and square roots, which IEEE 754 rounds correctly: a device's own
transcendental functions differ in the last bit, even between the body and the tail of one vectorised loop. So a
picture's noise has the same bits in any batch, at any position in it, on any number of ranks, on CPU and on GPU.

The global generator is never touched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


class Stream(IntEnum):
    """What a random number is for; numbers of different streams are independent."""

    EPS = 0  # the noise of training
    TIME = 1  # training times
    DROP = 2  # dropping conditions
    STEP = 3  # noise added by a sampler's steps
    START = 4  # the starting point of sampling: apart from EPS, so that equal seeds share no number
    RENOISE = 5  # noise added on the way back up a grid (RePaint's resampling)
    PROBE = 6  # the probes of a trace
    BIN = 7  # where in its bin a dequantised number lies
    BOUND = 8  # the noise in which the bound's terms are evaluated
    CHOICE = 9  # which of the bound's terms are evaluated
    GRID = 10  # the noise of the validation loss
    SHOWN = 11  # noise on a picture that a model is shown
    MASK = 12  # which part of it is hidden
    SCALE = 13  # the scale of guidance that an example is taught with


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10: four broadcastable int64 tensors of 32-bit words and a 64-bit key in, four such words out."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _MASK, (seed >> 32) & _MASK
    for _ in range(10):
        # The product of two 32-bit words overflows int64's sign but not its 64 bits: masking recovers both halves.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        hi0, lo0 = (p0 >> 32) & _MASK, p0 & _MASK
        hi1, lo1 = (p1 >> 32) & _MASK, p1 & _MASK
        c0, c1, c2, c3 = hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0
        k0, k1 = (k0 + 0x9E3779B9) & _MASK, (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Philox:
    """Noise for the samples `index` [B] (int64, 0 and up) under one seed. Implements `inkwash.types.Noise`."""

    seed: int
    index: Tensor

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        """Standard normals of like's shape [B, ...], dtype and device; row i depends on index[i] alone.

        step: 0 to 2^24 - 1; stream: a `Stream`. Computed in float32: within 1e-6 of Box and Muller's transform of a
        float32 uniform (which has 2^-24 steps near 1, so the smallest radii are coarse), and at most 6.77 in size.
        """
        numbers = math.prod(like.shape[1:])
        blocks = -(-numbers // 4)
        block = torch.arange(blocks, device=like.device)
        words = self._words(block[None, :], self.index.to(like.device)[:, None], step, stream)
        z = torch.stack([*_normal_pair(words[0], words[1]), *_normal_pair(words[2], words[3])], dim=-1)
        return z.reshape(len(self.index), 4 * blocks)[:, :numbers].reshape(like.shape).to(like.dtype)

    def uniform(self, step: int, stream: int) -> Tensor:
        """One number in (0, 1) per sample: [B] float64 on the host, with 53 random bits."""
        w = self._words(torch.zeros(1, dtype=torch.int64), self.index.cpu(), step, stream)
        return (((w[0] << 21) | (w[1] >> 11)).double() + 0.5) * 2.0**-53

    def at(self, index: Tensor) -> Philox:
        """The same seed for other samples."""
        return Philox(self.seed, index)

    def _words(self, block: Tensor, index: Tensor, step: int, stream: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tag = torch.full((1,), step << 8 | stream, dtype=torch.int64, device=index.device)
        return philox4x32((block, index & _MASK, index >> 32, tag), self.seed)


def _normal_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two standard normals from two 32-bit words (Box and Muller 1958), float32."""
    radius = (-2.0 * _log((a.float() + 0.5) * 2.0**-32)).sqrt()
    # The top two bits of b choose the quadrant, the rest an angle in (-pi/4, pi/4) within it.
    angle = (((b & 0x3FFFFFFF) - 0x20000000).float() + 0.5) * (math.pi / 2 * 2.0**-30)
    quadrant = b >> 30
    cos, sin = _cos_sin(angle)
    swap, flip_x, flip_y = (quadrant & 1).bool(), (quadrant == 1) | (quadrant == 2), quadrant >= 2
    x, y = torch.where(swap, sin, cos), torch.where(swap, cos, sin)
    return radius * torch.where(flip_x, -x, x), radius * torch.where(flip_y, -y, y)


def _log(u: Tensor) -> Tensor:
    """ln u for normal float32 u > 0, by u = m·2^e and ln m = 2 artanh((m - 1)/(m + 1)), m in [sqrt(1/2), sqrt(2))."""
    bits = u.view(torch.int32)
    shifted = bits - 0x3F3504F3  # float bits of sqrt(1/2): the exponent now counts from there
    e = shifted >> 23
    m = (bits - (e << 23)).view(torch.float32)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = (((z * (1 / 9) + 1 / 7) * z + 1 / 5) * z + 1 / 3) * z
    return (s * series + s) * 2.0 + e.float() * math.log(2)


def _cos_sin(x: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine for |x| <= pi/4 by their Taylor series: the first dropped terms are below 3e-8."""
    z = x * x
    cos = (((z * (1 / 40320) - 1 / 720) * z + 1 / 24) * z - 1 / 2) * z + 1.0
    sin = ((((z * (1 / 362880) - 1 / 5040) * z + 1 / 120) * z - 1 / 6) * z) * x + x
    return cos, sin
