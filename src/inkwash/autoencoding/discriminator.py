"""A critic of reconstructions, patch by patch: what it can still tell from real pictures the autoencoder must mend."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.types import Component


@dataclass(frozen=True)
class Adversary(Component):
    """The patch discriminator of an autoencoder (Isola et al. 2017, sec. 3.2.2), and how much it is heard.

    weight: of its verdict, beside the reconstruction, after both have been given equal say (`fair_weight`); start: the
    share of the run after which it begins, when reconstructions are worth judging; width: channels of its first layer;
    layers: how often it halves the picture, so that a verdict is on patches of 16, 34 or 70 pixels with 1, 2 or 3;
    lr: of its AdamW.
    Raises ValueError for values out of range.
    """

    weight: float = 0.5
    start: float = 0.5
    width: int = 32
    layers: int = 2
    lr: float = 2e-4

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"adversary.weight = {self.weight} must be more than 0. Usual values are 0.1 to 1.")
        if not 0 <= self.start < 1:
            raise ValueError(f"adversary.start = {self.start} is a share of the run and must lie in [0, 1). Try 0.5.")
        if self.width < 8 or self.width % 8 or self.layers < 1:
            raise ValueError(
                f"adversary.width = {self.width} must be a multiple of 8 and adversary.layers = {self.layers} "
                "at least 1. Usual are 32 to 64, and 2."
            )

    def build(self, channels: int) -> Patches:
        """The network for pictures of so many channels."""
        net = Patches(channels, self.width, self.layers)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
        return net


class Patches(nn.Module):
    """Pictures [B, C, H, W] to logits [B, 1, h, w], above 0 for real; each sees one patch.

    Convolutions of 4 x 4, all but the last two halving the picture. Groups are normalised, not batches: a verdict does
    not depend on the other pictures.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        strides = [2] * (layers - 1) + [1]
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=s, padding=1, bias=False)
            for a, b, s in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in widths[1:])
        self.last = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Judge."""
        x = F.leaky_relu(self.first(x), 0.2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.leaky_relu(norm(conv(x)), 0.2)
        out: Tensor = self.last(x)
        return out


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """The hinge loss of the discriminator: (mean max(0, 1 - real) + mean max(0, 1 + fake))/2 (Lim and Ye 2017)."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """What the autoencoder makes small: -mean of the verdicts on its pictures."""
    return -fake.float().mean()


def fair_weight(reconstruction: Tensor, adversarial: Tensor, layer: Tensor) -> Tensor:
    """The weight that gives both losses gradients of one size at the decoder's last layer, 0-d, detached, at most 1e4.

    |d reconstruction/d layer| / (|d adversarial/d layer| + 1e-4): Esser et al. (2021), eq. 7, as latent diffusion uses.
    """
    (a,) = torch.autograd.grad(reconstruction, layer, retain_graph=True)
    (b,) = torch.autograd.grad(adversarial, layer, retain_graph=True)
    ratio: Tensor = a.float().norm() / (b.float().norm() + 1e-4)
    return ratio.clamp(max=1e4).detach()
