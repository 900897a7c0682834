"""DDIM and ancestral sampling: one formula, with no fresh noise or with some."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.noise import Stream
from inkwash.paths import forward_variance, posterior_variance
from inkwash.samplers.steps import Asking, ends, falling, rows, walk
from inkwash.types import Component, Denoised, Noise, Path

Added = Literal["small", "large", "learned"]
"""The variance of the noise that is added: of the posterior, of the forward step, or between, as the model says."""


@dataclass(frozen=True)
class Ddim(Component):
    """DDIM (Song et al. 2021, eq. 12) with `eta` from 0 (deterministic) to 1 (ancestral): math.md, eq. 7-8.

    x_s = alpha_s·x0 + sqrt(sigma_s² - eta²·small)·eps + eta·sqrt(added)·z. The mean always uses the small variance,
    that of the posterior; the noise that is `added` may be the large one, beta, or the model's own. On the way to
    sigma_s = 0 none is. With eta = 0 it is Euler's method for x/alpha in sigma/alpha: order 1.
    Raises ValueError for an eta outside [0, 1], and for a learned variance the model does not have.
    """

    eta: float = 0.0
    added: Added = "small"
    kind: Literal["ddim"] = field(default="ddim", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], from deterministic to ancestral, but it is {self.eta}.")

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        if self.eta == 0:
            return _deterministic(path, x, times)
        falling(times, self)
        return _ancestral(self.eta, self.added, path, x, times, noise)


@dataclass(frozen=True)
class Ancestral(Component):
    """DDPM's own sampler (Ho et al. 2020, algorithm 2) on any grid: `Ddim(eta=1)`.

    added: the variance of its noise, fixed small or large, or learned (Nichol and Dhariwal 2021, eq. 15).
    """

    added: Added = "small"
    kind: Literal["ancestral"] = field(default="ancestral", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        falling(times, self)
        return _ancestral(1.0, self.added, path, x, times, noise)


def _deterministic(path: Path, x: Tensor, times: Tensor) -> Asking:
    _, _, nxt = ends(path, times)
    alpha, sigma = rows(nxt.alpha, x), rows(nxt.sigma, x)
    return walk(x, times, lambda i, x, pred: alpha[i] * pred.x0 + sigma[i] * pred.eps)


def _ancestral(eta: float, added: Added, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
    _, now, nxt = ends(path, times)
    small, large = posterior_variance(now, nxt), forward_variance(now, nxt)
    extra = (small if added == "small" else large) * (nxt.sigma > 0)
    alpha = rows(nxt.alpha, x)
    direction = rows((nxt.sigma**2 - eta**2 * small).clamp(min=0).sqrt(), x)
    spread = rows(eta * extra.clamp(min=0).sqrt(), x)
    # With mix 0 the small deviation and with 1 the large one: the logarithm of their ratio, halved for deviations.
    shrink = rows(torch.where(extra > 0, (small / large).log() / 2, 0.0), x)
    random = (extra > 0).any(dim=1).tolist()

    def step(i: int, x: Tensor, pred: Denoised) -> Tensor:
        x = alpha[i] * pred.x0 + direction[i] * pred.eps
        if not random[i]:
            return x
        if added != "learned":
            return x + spread[i] * noise(x, i, Stream.STEP)
        if pred.var_mix is None:
            raise ValueError('added = "learned" needs a model that learned its variance. Use "small" or "large".')
        return x + spread[i] * ((1 - pred.var_mix) * shrink[i]).exp() * noise(x, i, Stream.STEP)

    return walk(x, times, step)
