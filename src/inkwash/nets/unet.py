"""A U-Net for pictures of any size, built to be fast on a CPU in bf16 as well as on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nets.attention import CrossAttention, SelfAttention, Text, Words
from inkwash.nets.given import beside
from inkwash.nets.layers import Embedding, ResBlock, norm, zeroed
from inkwash.types import Component, Condition, Given

Preset = Literal["tiny", "small", "base"]
"""The sizes of U-Nets that have a name; `UNet` says what each is for."""


@dataclass(frozen=True)
class UNet(Component):
    """A U-Net's configuration: a preset, and what to change in it. A field that is None is the preset's.

    preset: tiny (0.3M parameters, for tests and first tries), small (2M, small pictures on a CPU), base (15M, a GPU).
    patch: side of the squares of pixels that are folded into channels at the door; doubled by the presets for each
    doubling of the longer side beyond 40 pixels. widths: channels at each level, each of half the former's side.
    depth: residual blocks on the way down and again on the way up, at each level. attention: the levels, counted from
    0, that have self-attention. head_dim: the least number of channels per attention head. dropout: in [0, 1), inside
    the residual blocks. Text tokens, where they are given, are looked at after every self-attention, and at the lowest
    level if there is none.
    Raises ValueError for values that make no network.
    """

    preset: Preset = "small"
    patch: int | None = None
    widths: tuple[int, ...] | None = None
    depth: int | None = None
    attention: tuple[int, ...] | None = None
    head_dim: int | None = None
    dropout: float = 0.0
    kind: Literal["unet"] = field(default="unet", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.preset not in _PRESETS:
            raise ValueError(f"UNet preset {self.preset!r} does not exist: choose one of {', '.join(_PRESETS)}.")
        for name, values in (
            ("patch", (self.patch,)),
            ("widths", self.widths),
            ("depth", (self.depth,)),
            ("head_dim", (self.head_dim,)),
        ):
            if values is not None and (not values or any(v is not None and v < 1 for v in values)):
                raise ValueError(f"UNet {name} is {getattr(self, name)}: it must be 1 or more.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"UNet dropout is {self.dropout}: it must lie in [0, 1).")

    def resolve(self, shape: tuple[int, ...]) -> UNet:
        """The same network for pictures of shape (C, H, W) with every field stated, whatever presets become later."""
        return replace(self, **vars(self._sizes(shape)))

    def build(self, shape: tuple[int, ...], given: Given | None = None, outputs: int = 1) -> nn.Module:
        """The module for pictures of shape (C, H, W), told what `given` says (None: nothing but the time).

        Its answers have outputs·C channels. Raises ValueError where a side of the picture cannot be halved as often as
        the network does.
        """
        if len(shape) != 3:
            raise ValueError(f"A UNet takes pictures (channels, height, width), not data of shape {shape}: use an MLP.")
        net = _Module(self._sizes(shape), self.dropout, shape[0], given or Given(), outputs)
        _check_size(shape[1], shape[2], net.factor)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations
        return net

    def _sizes(self, shape: tuple[int, ...]) -> _Sizes:
        preset = _PRESETS[self.preset]
        patch, longest = preset.patch, max(shape[-2:])
        while longest > 40:
            patch, longest = 2 * patch, -(-longest // 2)
        widths = preset.widths if self.widths is None else self.widths
        attention = preset.attention if self.attention is None else self.attention
        if self.attention is None and self.widths is not None:
            attention = (len(widths) - 1,) if preset.attention else ()  # the presets attend at the bottom
        if bad := [level for level in attention if not 0 <= level < len(widths)]:
            raise ValueError(f"UNet attention names level {bad[0]}, but widths has the levels 0 to {len(widths) - 1}.")
        return _Sizes(
            patch=patch if self.patch is None else self.patch,
            widths=widths,
            depth=preset.depth if self.depth is None else self.depth,
            attention=attention,
            head_dim=preset.head_dim if self.head_dim is None else self.head_dim,
        )


@dataclass(frozen=True)
class _Sizes:
    patch: int
    widths: tuple[int, ...]
    depth: int
    attention: tuple[int, ...]
    head_dim: int


_PRESETS: dict[str, _Sizes] = {
    "tiny": _Sizes(patch=2, widths=(32, 64), depth=1, attention=(), head_dim=64),
    "small": _Sizes(patch=2, widths=(64, 128), depth=2, attention=(1,), head_dim=64),
    "base": _Sizes(patch=1, widths=(128, 256, 256), depth=2, attention=(1, 2), head_dim=64),
}


def _check_size(height: int, width: int, factor: int) -> None:
    if height % factor == 0 and width % factor == 0:
        return

    def near(side: int) -> tuple[int, int]:
        return side // factor * factor or factor, -(-side // factor) * factor

    (h0, h1), (w0, w1) = near(height), near(width)
    raise ValueError(
        f"Pictures of {height}x{width} (height x width) do not fit this UNet: both sides must be multiples of {factor} "
        f"(patch, times 2 for each level below the first). The nearest sizes that fit are {h0}x{w0} and {h1}x{w1}; "
        f"resize to one of them, or choose fewer levels or a smaller patch."
    )


class _Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention, to itself and to a text, where asked for."""

    def __init__(self, channels: int, depth: int, dropout: float, head_dim: int, attends: bool, tokens: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(channels, dropout) for _ in range(depth))
        self.attention = nn.ModuleList(SelfAttention(channels, head_dim) for _ in range(depth) if attends)
        self.text = nn.ModuleList(
            CrossAttention(channels, head_dim, tokens, norm(channels)) for _ in range(depth) if tokens
        )

    def forward(self, x: Tensor, modulation: list[Tensor], text: Words | None) -> Tensor:
        for i, block in enumerate(self.blocks):
            scale, shift = modulation.pop(0).chunk(2, dim=1)
            x = block(x, scale, shift)
            if len(self.attention):
                x = self.attention[i](x)
            if len(self.text) and text is not None:
                x = self.text[i](x, text)
        return x


class _Module(nn.Module):
    """The network of a resolved configuration. See `UNet`; signature as `inkwash.types.Net`.

    Down: blocks, then a 2x2 convolution of stride 2, at each level. Up: a 1x1 convolution, then every pixel four times
    (the 3x3 convolutions of the blocks that follow smooth it), joined to what the way down left at this level.
    """

    def __init__(self, sizes: _Sizes, dropout: float, channels: int, given: Given, outputs: int) -> None:
        super().__init__()
        patch, widths, depth = sizes.patch, sizes.widths, sizes.depth
        self.channels, self.patch, self.places = channels, patch, 1
        self.factor = patch * 2 ** (len(widths) - 1)
        last = len(widths) - 1

        def level(i: int, depth: int) -> _Level:
            reads = i in (sizes.attention or (last,))
            return _Level(widths[i], depth, dropout, sizes.head_dim, i in sizes.attention, given.tokens if reads else 0)

        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        self.image, shown = given.image, (given.image + 1) * patch**2
        self.beside = zeroed(nn.Conv2d(shown, widths[0], 3, padding=1, bias=False)) if given.image else None
        self.down = nn.ModuleList(level(i, depth) for i in range(last))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.bottom = level(last, 2 * depth)
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.join = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in widths[:-1])
        self.up = nn.ModuleList(level(i, depth) for i in range(last))
        self.norm = norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], outputs * channels * patch**2, 3, padding=1))
        # One linear layer speaks to all blocks at once: many small ones would cost more in calls than in arithmetic.
        self.splits = [2 * w for w in widths[:-1] for _ in range(depth)]
        self.splits += [2 * widths[-1]] * (2 * depth)
        self.splits += [2 * w for w in reversed(widths[:-1]) for _ in range(depth)]
        self.embed = Embedding(max(128, 2 * widths[0]), given)
        self.text = Text(given.tokens)
        self.modulation = nn.Linear(self.embed.time_out.out_features, sum(self.splits))

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Predict the target for x [B, C, H, W] at t_emb [B], for a jump to s_emb [B]."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"This UNet takes pictures [B, {self.channels}, H, W], not {list(x.shape)}.")
        _check_size(x.shape[2], x.shape[3], self.factor)
        emb = self.modulation(self.embed(t_emb, s_emb, cond))
        modulation = [m[:, :, None, None] for m in emb.split(self.splits, dim=1)]
        text, shown = self.text(cond, x), beside(self.image, cond, x)
        h = self.stem(self._folded(x))
        if self.beside is not None and shown is not None:
            h = h + self.beside(self._folded(shown))
        skips = []
        for level, shrink in zip(self.down, self.shrink, strict=True):
            h = level(h, modulation, text)
            skips.append(h)
            h = shrink(h)
        h = self.bottom(h, modulation, text)
        for i in reversed(range(len(self.up))):
            h = F.interpolate(self.grow[i](h), scale_factor=2.0, mode="nearest")
            h = self.up[i](self.join[i](torch.cat([h, skips[i]], dim=1)), modulation, text)
        h = self.head(F.silu(self.norm(h)))
        return F.pixel_shuffle(h, self.patch) if self.patch > 1 else h

    def _folded(self, x: Tensor) -> Tensor:
        h = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        return h.contiguous(memory_format=torch.channels_last)
