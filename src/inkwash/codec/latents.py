"""Latents: pictures through an autoencoder, each channel brought to mean 0 and deviation 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from inkwash.codec.direct import Pixels
from inkwash.nets import AnyAutoencoder, Autoencoder
from inkwash.types import Component

CHUNK_PIXELS = 1 << 21
"""At most so many pixels go through an autoencoder at a time on a GPU, where there is more than one picture."""

CPU_PIXELS = 1 << 15
"""The same on a CPU, of many pictures: 32 of 32x32 then take half the time; from 128x128 on nothing is gained."""


@dataclass(frozen=True)
class Latents(Component):
    """Latents x = (z - mean)/std of an autoencoder's latents z, channel by channel.

    mean and std are those of z over the data (`LatentCodec.measured`), or a published codec's own. This is the one
    place where they are: encoding and decoding both read them here, and a model carries them in its config.
    sha256: of the autoencoder's weights, so that two codecs of one configuration are told apart; "" until it is saved.
    Raises ValueError where mean and std are not finite numbers, std above 0, one for each channel of a latent.
    """

    autoencoder: AnyAutoencoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str = ""
    kind: Literal["latents"] = field(default="latents", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        channels = self.autoencoder.latent_channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(math.isfinite(v) for v in values):
                raise ValueError(f"Latents {name} = {values} must be {channels} finite numbers, one for each channel.")
        if min(self.std) <= 0:
            raise ValueError(
                f"Latents std = {self.std} must be above 0: a channel that never varies says nothing of a picture. "
                "Train the autoencoder longer, or with fewer latent channels."
            )

    def diffused(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (c, h, w) of x for pictures of shape (C, H, W). Raises ValueError for data it cannot encode."""
        channels, factor = self.autoencoder.channels, self.autoencoder.factor
        if len(shape) != 3:
            raise ValueError(f"This codec is for pictures, not for vectors of {shape[0]} numbers. Train without it.")
        if shape[0] != channels:
            raise ValueError(
                f"This codec is for pictures of {channels} channels, and these have {shape[0]}: "
                f"set data.channels = {channels}."
            )
        if shape[1] % factor or shape[2] % factor:
            raise ValueError(
                f"Pictures of {shape[1]}x{shape[2]} have no latents {factor} times smaller: {factor} must divide both "
                "sides. Set data.size."
            )
        return self.autoencoder.latent_channels, shape[1] // factor, shape[2] // factor

    def pictured(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (C, H, W) of the pictures for x of shape (c, h, w)."""
        factor = self.autoencoder.factor
        return self.autoencoder.channels, shape[1] * factor, shape[2] * factor

    def bind(self, weights: Mapping[str, Tensor] | None = None) -> LatentCodec:
        """The codec with these weights of its autoencoder. Raises ValueError where there are none, or others."""
        if weights is None:
            raise ValueError("A codec of latents needs the weights of its autoencoder, and there are none here.")
        with torch.device("meta"):
            net = self.autoencoder.build()
        try:
            net.load_state_dict({k: v.detach().to(torch.float32, copy=True) for k, v in weights.items()}, assign=True)
        except RuntimeError as error:  # what torch raises for names and shapes that differ
            first = "".join(str(error).split("\n\t")[1:2])
            raise ValueError(f"These weights do not fit {self.autoencoder}: {first or error}") from error
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
        return LatentCodec(self, net.eval().requires_grad_(False))


@dataclass(frozen=True, eq=False)
class LatentCodec:
    """`Latents` with its weights: 8-bit pictures [B, H, W, C] to standardised latents x [B, c, h, w] and back.

    In float32 throughout. Pictures go through the autoencoder in chunks of a fixed number, so that memory is bounded
    and no bit depends on what else is in the batch; on a CPU one at a time. preset: whether mean and std are what a
    published codec states, and were not measured over data here.
    """

    config: Latents
    net: Autoencoder
    preset: bool = False

    def encode(self, u: Tensor, *, many: bool = False) -> Tensor:
        """[B, H, W, C] uint8 to x [B, c, h, w]: the posterior's mean.

        many: in larger chunks on a CPU too, which is faster where there are many pictures, and may change last bits.
        Not a sample of it: one picture has one latent, for caches, edits and measures alike, and the posterior of a
        trained codec is narrow beside the latents' own spread.
        """
        return self._standard(self._latents(u, many))

    def decode(self, x: Tensor) -> Tensor:
        """x [B, c, h, w] to pictures [B, H, W, C] uint8: rounded to the nearest, clipped to 0..255."""
        pixels = math.prod(self.config.pictured(x.shape[1:])[1:])
        return self._chunked(lambda part: Pixels().decode(self.net.decode(self._raw(part))), x, pixels)

    def picture(self, u: Tensor) -> Tensor:
        """The pixels themselves."""
        return u

    @property
    def bin(self) -> None:
        """None: latents are floats, and have no bins."""
        return

    def log_scale(self, shape: tuple[int, ...]) -> float:
        """Always raises ValueError: pictures with one latent are many, so a density of latents is none of pictures."""
        raise ValueError(
            "A model of latents has no density of pictures: its decoder is not invertible. Measure the likelihood of a "
            "model of pixels."
        )

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The autoencoder's weights."""
        return self.net.state_dict()

    def to(self, device: torch.device) -> LatentCodec:
        """The same codec, its weights moved to a device."""
        return replace(self, net=self.net.to(device))

    def measured(self, blocks: Iterable[Tensor]) -> LatentCodec:
        """The same codec with the mean and std of the latents of these pictures, blocks of [n, H, W, C] uint8."""
        mean, std = channel_statistics(self._latents(u, True) for u in blocks)
        return replace(self, config=replace(self.config, mean=mean, std=std), preset=False)

    def _latents(self, u: Tensor, many: bool) -> Tensor:
        """The posterior's mean, not standardised."""
        pixels = u.shape[1] * u.shape[2]
        return self._chunked(lambda part: self.net.encode(Pixels().encode(part)).mean, u, pixels, many)

    def _standard(self, z: Tensor) -> Tensor:
        return (z - self._row(z, self.config.mean)) / self._row(z, self.config.std)

    def _raw(self, x: Tensor) -> Tensor:
        return x.float() * self._row(x, self.config.std) + self._row(x, self.config.mean)

    def _row(self, x: Tensor, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=x.device)[:, None, None]

    @torch.no_grad()
    def _chunked(self, f: Callable[[Tensor], Tensor], rows: Tensor, pixels: int, many: bool = False) -> Tensor:
        """f of the rows, always of equally many: the last chunk is filled up with copies of its first row.

        pixels: of one picture.
        """
        size = chunk_of(rows.device, pixels, many=many)
        pieces = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])])
            pieces.append(f(filled)[: len(part)])
        return torch.cat(pieces)


def chunk_of(device: torch.device, pixels: int, *, many: bool = False) -> int:
    """How many pictures of so many pixels go through an autoencoder at a time: one on a CPU, elsewhere 1 to 64.

    many: there are more than a few, so that on a CPU, too, it is 1 to 32. A power of two, so that it divides the
    pipeline's chunk, and the cache's, and a picture keeps its place in it.
    """
    if device.type == "cpu":
        return 1 << max(0, min(5, (CPU_PIXELS // pixels).bit_length() - 1)) if many else 1
    return 1 << max(0, min(6, (CHUNK_PIXELS // pixels).bit_length() - 1))


def channel_statistics(blocks: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel over blocks [n, c, ...], in one pass, in float64 (Chan et al. 1979).

    The deviation is that of the population: the sum of squares is divided by the count. Raises ValueError where there
    are no blocks.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for block in blocks:
        values = block.detach().to("cpu", torch.float64).transpose(0, 1).flatten(1)  # [c, n·...]
        n = values.shape[1]
        if n == 0:
            continue
        here = values.mean(1)
        apart = here - mean
        spread = (values - here[:, None]).square().sum(1)
        squares = squares + spread + apart.square() * (count * n / (count + n))
        mean = mean + apart * (n / (count + n))
        count += n
    if count == 0:
        raise ValueError("There is nothing to measure: give at least one picture.")
    return tuple(mean.tolist()), tuple((squares / count).sqrt().tolist())
