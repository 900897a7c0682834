"""Autoencoders: pictures to latents of fewer numbers and back; here the one with a Kullback-Leibler term (LDM's)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nets.layers import attention, zeroed
from inkwash.types import Component

EPS = 1e-6
"""Of all group norms here, as in LDM: torch's own default would be 1e-5."""

LOGVAR = (-30.0, 20.0)
"""The logarithm of a posterior's variance is kept within these, as in LDM."""


class Posterior(NamedTuple):
    """What an encoder says of latents [B, c, h, w]: their mean and the logarithm of their variance, element by element.

    logvar is None where the encoder gives a point, not a distribution.
    """

    mean: Tensor
    logvar: Tensor | None

    def sample(self, eps: Tensor) -> Tensor:
        """mean + exp(logvar/2)·eps, for standard normals eps of the same shape."""
        return self.mean if self.logvar is None else torch.addcmul(self.mean, (0.5 * self.logvar).exp(), eps)

    def kl(self) -> Tensor:
        """The divergence from a standard normal, [B] in nats: the sum of (mean² + exp(logvar) - 1 - logvar)/2.

        Kingma and Welling (2014), appendix B. 0 for points.
        """
        if self.logvar is None:
            return self.mean.new_zeros(len(self.mean))
        return 0.5 * (self.mean.square() + self.logvar.exp() - 1 - self.logvar).flatten(1).sum(1)


class Autoencoder(nn.Module, ABC):
    """Base of autoencoders' modules. Pictures are [B, C, H, W] in [-1, 1], latents [B, c, H/factor, W/factor]."""

    encoder: nn.Module
    decoder: nn.Module

    @abstractmethod
    def encode(self, x: Tensor) -> Posterior:
        """The posterior of the latents of pictures x."""

    @abstractmethod
    def decode(self, z: Tensor) -> Tensor:
        """The pictures of latents z, in about [-1, 1]."""


def check_counts(config: Component, *names: str) -> None:
    """Raise ValueError where one of these fields is below 1."""
    for name in names:
        if (value := getattr(config, name)) < 1:
            raise ValueError(f"{type(config).__name__} {name} is {value}: it must be 1 or more.")


@dataclass(frozen=True)
class KLAutoencoder(Component):
    """The configuration of LDM's autoencoder (Rombach et al. 2022), in the layout of diffusers' `AutoencoderKL`.

    channels: of a picture; latent_channels: of a latent. widths: channels at each level, each of half the former's
    side, so that a latent's side is 2^(levels - 1) times smaller. depth: residual blocks of a level on the way down;
    on the way up there is one more. groups: of every group norm; at least 16 channels in a group are fast on a CPU.
    attention: over all positions in the middle. quant: with 1x1 convolutions on both sides of the latents.
    Raises ValueError for values that make no network.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (32, 64, 128)
    depth: int = 1
    groups: int = 2
    attention: bool = True
    quant: bool = True
    kind: Literal["kl"] = field(default="kl", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        check_counts(self, "channels", "latent_channels", "depth", "groups")
        if not self.widths or any(w < 1 or w % self.groups for w in self.widths):
            raise ValueError(
                f"KLAutoencoder widths are {self.widths}: there must be at least one, each a multiple of groups = "
                f"{self.groups}."
            )

    @property
    def factor(self) -> int:
        """How many times smaller a latent's side is than its picture's."""
        return 1 << (len(self.widths) - 1)

    def build(self) -> Autoencoder:
        """The module, for pictures of any size that the factor divides."""
        net = _KL(self)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
        return net


PRESETS = {
    "f4": KLAutoencoder(),
    "f8": KLAutoencoder(widths=(32, 64, 128, 128)),
}
"""Small autoencoders that a CPU can train, by how many times smaller a latent's side is; 4 to 16 channels are usual."""


class _KL(Autoencoder):
    def __init__(self, config: KLAutoencoder) -> None:
        super().__init__()
        c = config.latent_channels
        self.factor = config.factor
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)
        self.quant = nn.Conv2d(2 * c, 2 * c, 1) if config.quant else nn.Identity()
        self.unquant = nn.Conv2d(c, c, 1) if config.quant else nn.Identity()

    def encode(self, x: Tensor) -> Posterior:
        check_size(x, self.factor)
        mean, logvar = self.quant(self.encoder(x)).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR))

    def decode(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(self.unquant(z))
        return x


def check_size(x: Tensor, factor: int) -> None:
    """Raise ValueError where the factor does not divide both sides of pictures x [B, C, H, W]."""
    height, width = x.shape[-2:]
    if height % factor or width % factor:
        raise ValueError(
            f"Pictures of {height}x{width} have no latents {factor} times smaller: {factor} must divide both sides. "
            "Choose another size."
        )


class _Encoder(nn.Module):
    def __init__(self, config: KLAutoencoder) -> None:
        super().__init__()
        widths, groups = config.widths, config.groups
        self.first = nn.Conv2d(config.channels, widths[0], 3, padding=1)
        pairs = [(widths[0], widths[0]), *pairwise(widths)]
        self.levels = nn.ModuleList(
            _Level(into, out, config.depth, groups, down=out if i + 1 < len(widths) else None)
            for i, (into, out) in enumerate(pairs)
        )
        self.middle = _Middle(widths[-1], groups, config.attention)
        self.norm = nn.GroupNorm(groups, widths[-1], EPS)
        self.last = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        for level in self.levels:
            h = level(h)
        out: Tensor = self.last(F.silu(self.norm(self.middle(h))))
        return out


class _Decoder(nn.Module):
    def __init__(self, config: KLAutoencoder) -> None:
        super().__init__()
        widths, groups = config.widths[::-1], config.groups
        self.first = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.middle = _Middle(widths[0], groups, config.attention)
        pairs = [(widths[0], widths[0]), *pairwise(widths)]
        self.levels = nn.ModuleList(
            _Level(into, out, config.depth + 1, groups, up=out if i + 1 < len(widths) else None)
            for i, (into, out) in enumerate(pairs)
        )
        self.norm = nn.GroupNorm(groups, widths[-1], EPS)
        self.last = nn.Conv2d(widths[-1], config.channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.middle(self.first(z))
        for level in self.levels:
            h = level(h)
        out: Tensor = self.last(F.silu(self.norm(h)))
        return out


class _Level(nn.Module):
    """Residual blocks at one size, and then half of it (down) or twice (up), where a number of channels is given."""

    def __init__(
        self, into: int, out: int, depth: int, groups: int, down: int | None = None, up: int | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(_Block(into if j == 0 else out, out, groups) for j in range(depth))
        self.shrink = None if down is None else nn.Conv2d(down, down, 3, stride=2)
        self.grow = None if up is None else nn.Conv2d(up, up, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        for block in self.blocks:
            h = block(h)
        if self.shrink is not None:
            h = self.shrink(F.pad(h, (0, 1, 0, 1)))  # zeros on the right and below only
        if self.grow is not None:
            h = self.grow(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return h


class _Block(nn.Module):
    """skip(x) + conv(silu(norm(conv(silu(norm(x)))))); the second convolution starts at zero."""

    def __init__(self, into: int, out: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, into, EPS)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out, EPS)
        self.conv2 = zeroed(nn.Conv2d(out, out, 3, padding=1))
        self.skip = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        out: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(h)))
        return out


class _Middle(nn.Module):
    """A residual block, attention over all positions where it is asked for, and another block."""

    def __init__(self, width: int, groups: int, attends: bool) -> None:
        super().__init__()
        self.before = _Block(width, width, groups)
        self.attend = _Attention(width, groups) if attends else nn.Identity()
        self.after = _Block(width, width, groups)

    def forward(self, h: Tensor) -> Tensor:
        out: Tensor = self.after(self.attend(self.before(h)))
        return out


class _Attention(nn.Module):
    """x + attention over all positions, in one head. The output projection starts at zero."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)[:, None]  # [B, 1, HW, C]
        h = self.out(attention(self.q(tokens), self.k(tokens), self.v(tokens)))
        out: Tensor = x + h[:, 0].transpose(1, 2).unflatten(2, x.shape[2:])
        return out
