"""What any path's coefficients say of two of its times: the noise-to-signal ratio, and the kernels' variances."""

from __future__ import annotations

import torch
from torch import Tensor

from inkwash.types import Coeffs, Path


def ratio(c: Coeffs) -> Tensor:
    """The noise-to-signal ratio sigma/alpha, infinite at alpha = 0: what `Path.time` inverts."""
    return c.sigma / c.alpha


def least_ratio(path: Path) -> float:
    """sigma/alpha at the first time the path is trained at: 0 in continuous time, a table's first entry's (about 0.01).

    Below it a table's network was never asked.
    """
    return float(ratio(path(path.snap(torch.zeros(1, dtype=torch.float64)))))


def is_noise_level(path: Path) -> bool:
    """Whether t is the noise level itself and the data are never shrunk, as on `VE`: alpha = 1, sigma = top·t."""
    c = path(torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64))
    return bool((c.alpha - 1).abs().max() < 1e-6) and bool((4 * c.sigma[1] / c.sigma[2] - 1).abs() < 1e-6)


def posterior_variance(now: Coeffs, nxt: Coeffs) -> Tensor:
    """Variance of q(x_s | x_t, x0) for s < t, now = path(t), nxt = path(s): sigma_s²·beta/sigma_t² (math.md, eq. 6).

    On a table with s = t - 1/T it is DDPM's posterior variance, "fixed small".
    """
    return nxt.sigma**2 * forward_variance(now, nxt) / now.sigma**2


def forward_variance(now: Coeffs, nxt: Coeffs) -> Tensor:
    """Variance of q(x_t | x_s), s < t: beta = sigma_t² - (alpha_t/alpha_s)²·sigma_s² (math.md, eq. 4), "large"."""
    return now.sigma**2 - (now.alpha / nxt.alpha) ** 2 * nxt.sigma**2
