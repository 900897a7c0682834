"""The data's estimate changed, and the noise's with it: so that x stays what it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.types import Coeffs, Condition, Denoised, Denoiser, Path, Query, like


@dataclass(frozen=True)
class Clipped:
    """The estimate of the data kept within [low, high], and the noise recomputed to match it.

    With the noise recomputed, an ancestral step has exactly DDPM's posterior mean with the clipped x0 (math.md, eq. 8).
    At sigma = 0 there is no noise to recompute and it is left as it is.
    """

    denoiser: Denoiser
    path: Path
    low: float = -1.0
    high: float = 1.0

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The clipped estimates."""
        answer = self.denoiser(query, cond)
        return revised(answer, answer.x0.clamp(self.low, self.high), self.path(query.t))


def revised(answer: Denoised, x0: Tensor, c: Coeffs) -> Denoised:
    """The answer with another x0, and the noise moved so that alpha·x0 + sigma·eps is what it was; c = path(t).

    At sigma = 0 there is no noise to move, and it is left as it is.
    """
    inverse = torch.where(c.sigma > 0, 1 / c.sigma, 0.0)
    return answer._replace(x0=x0, eps=answer.eps + like(c.alpha * inverse, x0) * (answer.x0 - x0))
