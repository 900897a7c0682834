"""The variational bound of DDPM, term by term: -ln p(x0) <= L_T + sum of L_s over the steps + L_0 (math.md, eq. 13-17).

Every term is per element, in nats, on any path and for any step from t to s < t: a table's own, or one of a coarse
grid. Coefficients are [B], on the host: `now` = path(t), `nxt` = path(s), `before` = path of the step before t.

A step's variance lies between the two fixed ones, log v = mix·log(large) + (1 - mix)·log(small) (math.md, eq. 34), so
"small" is mix 0, "large" is mix 1, and a learned one has a mix of its own for every element.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from inkwash.paths import forward_variance, posterior_variance
from inkwash.types import Coeffs, Denoised, like

Variance = Literal["small", "large", "learned"]
"""Which variance the model's steps have: the posterior's (small), the forward kernel's (large), or between."""


def prior_term(x0: Tensor, last: Coeffs, std: Tensor | None = None) -> Tensor:
    """L_T = KL(q(x_T | x0) | N(0, std²)) of every element of x0 [B, ...]: math.md, eq. 14.

    last: the path at the grid's first, noisiest time; std: [B], the prior's deviation. By default it is sigma_T, that
    of the noise a pipeline starts from; on a variance-preserving path that is N(0, I) up to alpha_T²/2.
    """
    std = last.sigma if std is None else std
    spread = (last.sigma / std) ** 2
    return 0.5 * (like((last.alpha / std) ** 2, x0) * x0**2 + like(spread - 1 - spread.log(), x0))


def step_term(x0: Tensor, pred: Denoised, now: Coeffs, nxt: Coeffs, variance: Variance = "learned") -> Tensor:
    """L_s = KL(q(x_s | x_t, x0) | p(x_s | x_t)) of every element, for a step with sigma_s > 0: math.md, eq. 16.

    pred: the model's answer in x_t. With r = ln(small/v) it is (drop·e^r·(x0 - pred.x0)² + e^r - 1 - r)/2, where drop
    is by how much the signal-to-noise ratio falls from s to t.
    Raises ValueError for a learned variance the model does not have.
    """
    drop = nxt.alpha**2 * forward_variance(now, nxt) / (now.sigma * nxt.sigma) ** 2
    r = like((nxt.sigma / now.sigma).log() * 2, x0) * _mix(variance, pred)  # ln(small/large), of which v has its share
    return 0.5 * (like(drop, x0) * r.exp() * (x0 - pred.x0) ** 2 + torch.expm1(r) - r)


def decoder_term(
    x0: Tensor,
    pred: Denoised,
    now: Coeffs,
    before: Coeffs | None = None,
    variance: Variance = "learned",
    width: float | None = None,
) -> Tensor:
    """L_0 = -ln p(x0 | x_t) of every element, for the last step, from t to the data: math.md, eq. 17.

    pred: the model's answer in x_t, whose x0 is the mean; before, variance: as in `log_variance`; width: of the bins
    the data fall into, which then lie in [-1, 1] with the outermost reaching to infinity (2/255 for 8-bit pictures:
    256 bins); None for data without bins, where L_0 is of a density.
    """
    clean = now._replace(alpha=torch.ones_like(now.alpha), sigma=torch.zeros_like(now.sigma))
    log_v = log_variance(variance, now, clean, pred, before)
    if width is None:
        return 0.5 * ((x0 - pred.x0) ** 2 * (-log_v).exp() + log_v + math.log(2 * math.pi))
    return -_log_bin(x0, pred.x0, (-0.5 * log_v).exp(), width)


def log_variance(variance: Variance, now: Coeffs, nxt: Coeffs, pred: Denoised, before: Coeffs | None = None) -> Tensor:
    """The logarithm of the variance of a step from t to s, [B, ...] or [B, 1, ...]: math.md, eq. 34.

    At sigma_s = 0 the small variance is 0. As in DDPM's code it is there replaced by that of the step before, which
    led to t (on a table, the second posterior variance in place of the first); without a step before, by the large
    one. The large one is beta everywhere; DDPM's code has the replaced small one there, too, at the last step.
    Raises ValueError for a learned variance the model does not have.
    """
    x = pred.x0
    large = forward_variance(now, nxt)
    instead = large if before is None else posterior_variance(before, now)
    small = torch.where(nxt.sigma > 0, posterior_variance(now, nxt), instead)
    return like(small.log(), x) + like((large / small).log(), x) * _mix(variance, pred)


def _mix(variance: Variance, pred: Denoised) -> Tensor:
    """Where between small (0) and large (1) the logarithm of the variance lies."""
    if variance != "learned":
        return pred.x0.new_tensor(float(variance == "large"))
    if pred.var_mix is None:
        raise ValueError(
            "This model has no learned variance. Use variance = small or large, or train it with a hybrid objective."
        )
    return pred.var_mix


def _log_bin(x: Tensor, mean: Tensor, precision: Tensor, width: float) -> Tensor:
    """ln of N(mean, 1/precision²)'s mass in x's bin; the bins of -1 and 1 reach to infinity.

    A difference of cdfs that are both nearly 1 has no digits left, so bins above the mean are mirrored below it, and
    the difference is taken of logarithms: ln(F(b) - F(a)) = ln F(b) + ln(1 - exp(ln F(a) - ln F(b))).
    """
    low, high = (x - width / 2 - mean) * precision, (x + width / 2 - mean) * precision
    above = x > mean
    a, b = torch.where(above, -high, low), torch.where(above, -low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    tiny = torch.finfo(x.dtype).tiny  # bins too narrow for the dtype's digits, rather than log(0)
    inner = log_b + torch.log(-torch.expm1((log_a - log_b).clamp(max=-tiny)))
    first, last = x < -1 + width / 2, x > 1 - width / 2
    outer = torch.where(first, torch.special.log_ndtr(high), torch.special.log_ndtr(-low))
    return torch.where(first | last, outer, inner)
