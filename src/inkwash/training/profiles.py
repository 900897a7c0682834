"""Which steps an average of the weights is made of, and how other averages are made of those that were kept.

An average of length sigma_rel over the first t steps has the power profile p(tau) = (gamma + 1)·tau^gamma/t^(gamma + 1)
on [0, t] (Karras et al. 2024, "EDM2", sec. 3.1 and appendix C). Averages are linear in their profiles: a combination of
profiles that is near the wanted profile gives the combination of averages that is near the wanted average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LONGEST = 12**-0.5
"""The sigma_rel of the plain mean, gamma = 0: 0.2887."""

TOLERANCE = 0.1
"""A combination whose profile misses the wanted one by more than this share of its norm is refused."""


class Profile(NamedTuple):
    """An average of length sigma_rel over the first `step` steps."""

    step: int
    sigma_rel: float


@cache
def power_gamma(sigma_rel: float) -> float:
    """The exponent gamma of the profile whose width is sigma_rel, a share of the run: EDM2, eq. 126.

    sigma_rel² = (gamma + 1)/((gamma + 2)²(gamma + 3)). Raises ValueError outside (0, 0.28), where there is none.
    """
    if not 0 < sigma_rel < LONGEST:
        raise ValueError(f"ema = {sigma_rel} must lie between 0 and 0.28. Usual values are 0.05 to 0.15.")
    inverse = sigma_rel**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def power_beta(n: int, sigma_rel: float) -> float:
    """How much of the average is kept at the n-th step, n = 1, 2, ...: (1 - 1/n)^(gamma + 1); nothing at the first.

    The weights of the steps that follow are the integrals of the profile over them (math.md, eq. 54).
    """
    return float((1 - 1 / n) ** (power_gamma(sigma_rel) + 1))


def products(a: Sequence[Profile], b: Sequence[Profile]) -> Floats:
    """The inner products, the integrals of p_i·p_j over time, of two lists of profiles: [a, b] (math.md, eq. 55)."""
    t, g = _parameters(a)
    u, h = _parameters(b)
    t, g = t[:, None], g[:, None]
    later = np.where(t <= u, h, g)  # the exponent of the one that ends later
    found: Floats = (g + 1) * (h + 1) / (g + h + 1) * (np.minimum(t, u) / np.maximum(t, u)) ** later / np.maximum(t, u)
    return found


@dataclass(frozen=True)
class Fit:
    """A profile made of others: sum of weights[i]·parts[i], the weights adding up to 1.

    residual: the norm of what is missed, as a share of the wanted profile's norm; gain: the root of the sum of the
    squared weights, by which the rounding of the stored averages is multiplied.
    """

    wanted: Profile
    parts: tuple[Profile, ...]
    weights: tuple[float, ...]
    residual: float

    @property
    def gain(self) -> float:
        """By how much independent errors of the parts grow."""
        return float(np.linalg.norm(self.weights))


def fit(wanted: Profile, parts: Sequence[Profile]) -> Fit:
    """The combination of profiles nearest to the wanted one, in the mean square over time: math.md, eq. 56.

    The profiles must differ. Solved in float64 for profiles of norm 1, whose products have a condition number near
    10⁴ for 32 steps of two lengths; nothing is regularised. Parts whose weight is below 10⁻⁹ are left out.
    """
    size = np.sqrt(np.diag(products(parts, parts)))
    norm = float(np.sqrt(products([wanted], [wanted])[0, 0]))
    between = products(parts, parts) / np.outer(size, size)
    toward = products(parts, [wanted])[:, 0] / (size * norm)
    share = norm / size  # weights are counted in profiles of norm 1
    system = np.block([[between, share[:, None]], [share[None], np.zeros((1, 1))]])
    found = np.linalg.solve(system, np.append(toward, 1.0))[:-1]
    missed = float(found @ between @ found - 2 * found @ toward + 1)
    weights = found * share
    kept = np.abs(weights) > 1e-9
    weights = weights[kept] / weights[kept].sum()
    chosen = tuple(p for p, keep in zip(parts, kept.tolist(), strict=True) if keep)
    return Fit(wanted, chosen, tuple(weights.tolist()), max(missed, 0.0) ** 0.5)


def within(step: int, parts: Sequence[Profile]) -> tuple[float, float]:
    """The shortest and the longest sigma_rel that can be made at `step` within `TOLERANCE`, to three digits."""
    lengths = np.linspace(0.005, 0.285, 281).round(3)
    possible = [s for s in lengths.tolist() if fit(Profile(step, s), parts).residual <= TOLERANCE]
    return min(possible), max(possible)


def _parameters(profiles: Sequence[Profile]) -> tuple[Floats, Floats]:
    return (
        np.array([p.step for p in profiles], dtype=np.float64),
        np.array([power_gamma(p.sigma_rel) for p in profiles]),
    )
