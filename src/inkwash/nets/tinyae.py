"""A tiny autoencoder of plain convolutions, in the layout of diffusers' `AutoencoderTiny` (TAESD)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from inkwash.nets.autoencoder import Autoencoder, Posterior, check_counts, check_size
from inkwash.types import Component


@dataclass(frozen=True)
class TinyAutoencoder(Component):
    """A tiny autoencoder's configuration: it gives a point for a latent, not a distribution.

    channels: of a picture; latent_channels: of a latent; width: channels everywhere between. down: residual blocks at
    each size on the way down, the whole picture's first; up: on the way up, the whole picture's last. There are as many
    of one as of the other, and a latent's side is 2^(sizes - 1) times smaller.
    Raises ValueError for values that make no network.
    """

    channels: int = 3
    latent_channels: int = 4
    width: int = 64
    down: tuple[int, ...] = (1, 3, 3, 3)
    up: tuple[int, ...] = (3, 3, 3, 1)
    kind: Literal["tiny-ae"] = field(default="tiny-ae", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        check_counts(self, "channels", "latent_channels", "width")
        if not self.down or len(self.down) != len(self.up) or min(*self.down, *self.up) < 0:
            raise ValueError(
                f"TinyAutoencoder has down = {self.down} and up = {self.up} blocks: give as many numbers in one as in "
                "the other, one for each size, 0 or more."
            )

    @property
    def factor(self) -> int:
        """How many times smaller a latent's side is than its picture's."""
        return 1 << (len(self.down) - 1)

    def build(self) -> Autoencoder:
        """The module, for pictures of any size that the factor divides."""
        net = _Tiny(self)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
        return net


class _Tiny(Autoencoder):
    def __init__(self, config: TinyAutoencoder) -> None:
        super().__init__()
        width, channels, latent = config.width, config.channels, config.latent_channels
        self.factor = config.factor
        layers: list[nn.Module] = []
        for i, depth in enumerate(config.down):
            first = nn.Conv2d(channels, width, 3, padding=1)
            layers.append(first if i == 0 else nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
            layers += [_Block(width) for _ in range(depth)]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(width, latent, 3, padding=1))
        layers = [nn.Conv2d(latent, width, 3, padding=1), nn.ReLU()]
        for i, depth in enumerate(config.up):
            layers += [_Block(width) for _ in range(depth)]
            if i + 1 < len(config.up):
                layers += [nn.Upsample(scale_factor=2.0), nn.Conv2d(width, width, 3, padding=1, bias=False)]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(width, channels, 3, padding=1))

    def encode(self, x: Tensor) -> Posterior:
        check_size(x, self.factor)
        return Posterior(self.encoder((x + 1) / 2), None)

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(3 * torch.tanh(z / 3))  # no latent is farther out than 3
        return 2 * x - 1


class _Block(nn.Module):
    """relu(x + three convolutions of x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        convs = [nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
        self.body = nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), convs[2])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))
