"""Sampling by jumps: a two-time network goes from one time of the grid to the next in one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from inkwash.noise import Stream
from inkwash.paths import ratio
from inkwash.samplers.steps import Asking, along, ends, falling, held, rows, standing
from inkwash.types import Coeffs, Component, Noise, Path, Query


@dataclass(frozen=True)
class Jumps(Component):
    """One call a step: ask for the mean velocity from t to s and go there; exact where the network is.

    renoise: gamma in [0, 1]. Each jump goes further, to where sigma/alpha is sqrt(1 - gamma²) of that at s, and fresh
    noise leads back to s (Kim et al. 2024, CTM). 0 follows the flow; 1 goes to the data and back, as consistency models
    are sampled (Song et al. 2023, algorithm 1). The last step adds none.
    Raises ValueError for a gamma outside [0, 1].
    """

    renoise: float = 0.0
    kind: Literal["jumps"] = field(default="jumps", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.renoise <= 1:
            raise ValueError(
                f"renoise must lie in [0, 1], from none to consistency sampling, but it is {self.renoise}."
            )

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        if self.renoise:
            falling(times, self)
        return _jumping(path, x, times, self.ends(path, times), noise)

    def ends(self, path: Path, times: Tensor) -> Tensor:
        """Where the jump from each of a grid's times [N + 1, B] but the last leads, [N, B]."""
        if not self.renoise:
            return times[1:]
        return path.time(ratio(along(path, times[1:])) * (1 - self.renoise**2) ** 0.5)


def back(path: Path, times: Tensor, there: Tensor) -> tuple[Coeffs, Tensor, Tensor]:
    """From `there` [N, B] back to a grid's next times: the coefficients there, and grow and spread, [N, B] each.

    The next x is grow·x_there + spread·noise: the forward kernel. times: [N + 1, B].
    """
    at, (_, _, nxt) = along(path, there), ends(path, times)
    grow = nxt.alpha / at.alpha
    return at, grow, (nxt.sigma**2 - grow**2 * at.sigma**2).clamp(min=0).sqrt()


def _jumping(path: Path, x: Tensor, times: Tensor, there: Tensor, noise: Noise) -> Asking:
    """Jump from each time to `there` [N, B], and add noise up to the grid's next time."""
    at, grow, spread = back(path, times, there)
    noisy = (there < times[1:]).any(1).tolist()
    alpha, sigma, grow_, spread_ = (rows(c, x) for c in (at.alpha, at.sigma, grow, spread))
    still = standing(times)
    for i, t in enumerate(times[:-1].unbind()):
        pred = yield Query(x, t, there[i])
        new = alpha[i] * pred.x0 + sigma[i] * pred.eps
        if noisy[i]:
            new = grow_[i] * new + spread_[i] * noise(x, i, Stream.STEP)
        x = held(still[i], x, new)
    return x
