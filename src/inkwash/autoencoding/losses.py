"""What an autoencoder is trained to make small: the difference of pictures, and the latents' distance from a normal.

loss = l1·|x - y| + structure·(1 - MS-SSIM(x, y)) + kl·KL/(C·H·W), for pictures x [B, C, H, W] in [-1, 1] and their
reconstructions y. KL, in nats, is summed over all values of the latents and divided by the values of the *picture*: so
a weight means what it does where both are summed (Rombach et al. 2022 use 1e-6), whatever the size of the picture or of
its latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from inkwash.features.similarity import WINDOW, ms_ssim
from inkwash.nets.autoencoder import Posterior
from inkwash.types import Component


class Parts(NamedTuple):
    """The parts of the loss, unweighted: the batch's means, 0-d. kl: nats per value of the picture."""

    l1: Tensor
    structure: Tensor
    kl: Tensor


@dataclass(frozen=True)
class Loss(Component):
    """The weights of the parts. Raises ValueError for a negative one, or where no part compares pictures."""

    l1: float = 1.0
    structure: float = 0.1
    kl: float = 1e-6

    def __post_init__(self) -> None:
        for name in ("l1", "structure", "kl"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"loss.{name} = {getattr(self, name)} must be 0 or more, and finite.")
        if self.l1 == self.structure == 0:
            raise ValueError("loss.l1 and loss.structure are both 0: nothing says what a good reconstruction is.")

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError for pictures [C, H, W] in which no structure can be compared, where it is to be."""
        if self.structure and min(shape[1:]) < WINDOW:
            raise ValueError(
                f"Pictures of {shape[2]}x{shape[1]} are smaller than the {WINDOW} pixels a side in which structure is "
                "compared. Choose a larger --size."
            )

    def parts(self, x: Tensor, y: Tensor, posterior: Posterior) -> Parts:
        """The parts for pictures x, their reconstructions y, and the posterior of the latents; all in float32."""
        alike = ms_ssim(x, y).mean() if self.structure else x.new_ones(())
        return Parts((x - y).abs().mean(), 1 - alike, posterior.kl().sum() / x.numel())

    def reconstruction(self, parts: Parts) -> Tensor:
        """l1 and structure, weighted."""
        return self.l1 * parts.l1 + self.structure * parts.structure

    def __call__(self, parts: Parts) -> Tensor:
        """All of them, weighted."""
        return self.reconstruction(parts) + self.kl * parts.kl
