"""The U-Net of the literature: DDPM's, the annotated one, and wider ones for 64x64, as settings of one network."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nets.attention import CrossAttention, LinearAttention, SplitAttention, Text, Words
from inkwash.nets.blocks import ConvNextBlock, Grow, ResNetBlock, Shrink
from inkwash.nets.given import beside
from inkwash.nets.layers import GROUP, Embedding, GroupNorm, Recomputed, zeroed
from inkwash.types import Component, Condition, Given

Preset = Literal["ddpm-cifar", "annotated", "wide64"]
"""The U-Nets of the literature that have a name; `ClassicUNet` says what each is."""


@dataclass(frozen=True)
class ClassicUNet(Component):
    """The U-Net of Ho et al. (2020): a preset, and what to change in it. A field that is None is the preset's.

    preset: ddpm-cifar, DDPM's for CIFAR-10 (35.7M parameters; attention at 16x16); annotated, for 28x28: ConvNeXt
    blocks, linear attention at each level and full attention in the middle, GELU in the time's perceptron (7.0M);
    wide64, for 64x64: widths 128, 256, 512, 1024, attention at 16x16 (231.4M).
    What annotated has otherwise than the tutorial it is named after: widths 32, 64, 128 for 28, 56, 112; a first
    convolution of 3x3 for 7x7; halving by 3x3 for 4x4 and doubling by copies for a transposed convolution; a skip for
    each block and halving for one at each level, and so three blocks for two on each level up; a norm before the head
    for a block; and parts that end in zeros at the start.

    widths: channels at each level, each of half the former's side; the first must be even. depth: blocks on the way
    down, and one fewer than on the way up, at each level. attention: the levels, counted from 0, with self-attention
    after each block; linear: those with linear attention, 4 heads of 32 and a norm after it, after their last block;
    middle: self-attention between the two blocks in the middle. block: resnet (two 3x3 convolutions) or convnext (a 7x7
    convolution of each channel alone, then two of 3x3 through twice the width; Liu et al. 2022). head_dim: the least
    number of channels per attention head; 0 is one head of all. groups, eps: of the group norms. activation: of the
    time's perceptron, silu or gelu. scale_shift: the time gives a scale and a shift after a norm (Dhariwal & Nichol
    2021), and not only a shift before it. dropout: in [0, 1), inside the blocks. sine_first, freq_shift: the order of
    the time's sinusoids, and 1 where the slowest turns at exactly 1/10000. shrink_padding: 1 where the convolution of
    stride 2 sees a row of zeros on each side; 0 where it sees them below and at the right alone.
    Text tokens, where they are given, are looked at after every self-attention, and in the middle always.
    Raises ValueError for values that make no network.
    """

    preset: Preset = "ddpm-cifar"
    widths: tuple[int, ...] | None = None
    depth: int | None = None
    attention: tuple[int, ...] | None = None
    linear: tuple[int, ...] | None = None
    middle: bool | None = None
    block: Literal["resnet", "convnext"] | None = None
    head_dim: int | None = None
    groups: int | None = None
    eps: float | None = None
    activation: Literal["silu", "gelu"] | None = None
    scale_shift: bool | None = None
    dropout: float = 0.0
    sine_first: bool | None = None
    freq_shift: float | None = None
    shrink_padding: Literal[0, 1] | None = None
    kind: Literal["classic-unet"] = field(default="classic-unet", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        if self.preset not in _PRESETS:
            raise ValueError(f"ClassicUNet preset {self.preset!r} does not exist: choose one of {', '.join(_PRESETS)}.")
        for name, known in (("block", ("resnet", "convnext")), ("activation", ("silu", "gelu"))):
            if getattr(self, name) not in (None, *known):
                raise ValueError(f"ClassicUNet {name} is {getattr(self, name)!r}: choose one of {', '.join(known)}.")
        s = self._stated()
        for name, least, values in (
            ("widths", 1, s.widths),
            ("depth", 1, (s.depth,)),
            ("groups", 1, (s.groups,)),
            ("head_dim", 0, (s.head_dim,)),
        ):
            if not values or min(values) < least:
                raise ValueError(f"ClassicUNet {name} is {getattr(self, name)}: it must be {least} or more.")
        if bad := [w for w in s.widths if w % s.groups]:
            raise ValueError(f"ClassicUNet groups is {s.groups}, which does not divide the width {bad[0]}.")
        if s.widths[0] % 2 or s.widths[0] // 2 <= s.freq_shift:
            raise ValueError(
                f"ClassicUNet widths begin with {s.widths[0]}: the first is the number of the time's sines and "
                f"cosines too, so it must be even, and more than twice freq_shift = {s.freq_shift}."
            )
        for name in ("attention", "linear"):
            if bad := [level for level in getattr(s, name) if not 0 <= level < len(s.widths)]:
                raise ValueError(
                    f"ClassicUNet {name} names level {bad[0]}, but widths has the levels 0 to {len(s.widths) - 1}."
                )
        if not s.eps > 0:
            raise ValueError(f"ClassicUNet eps is {s.eps}: it must be more than 0, such as 1e-5.")
        if s.shrink_padding not in (0, 1):
            raise ValueError(f"ClassicUNet shrink_padding is {s.shrink_padding}: choose 0 or 1.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"ClassicUNet dropout is {self.dropout}: it must lie in [0, 1).")

    def resolve(self, shape: tuple[int, ...]) -> ClassicUNet:
        """The same network with every field stated, whatever presets become later; pictures of any shape have one."""
        return replace(self, **vars(self._stated()))

    def build(self, shape: tuple[int, ...], given: Given | None = None, outputs: int = 1) -> nn.Module:
        """The module for pictures of shape (C, H, W), told what `given` says (None: nothing but the time).

        Its answers have outputs·C channels. Raises ValueError where a side of the picture cannot be halved as often as
        the network does.
        """
        if len(shape) != 3:
            raise ValueError(
                f"A ClassicUNet takes pictures (channels, height, width), not data of shape {shape}: use an MLP."
            )
        net = _Module(self._stated(), self.dropout, shape[0], given or Given(), outputs)
        check_sides(shape[1], shape[2], net.factor)
        net.to(memory_format=net.layout)  # type: ignore[call-overload]  # missing from torch's annotations
        return net

    def _stated(self) -> _Stated:
        preset = _PRESETS[self.preset]
        said = {n: v for n in vars(preset) if (v := getattr(self, n)) is not None}
        if self.widths is not None:  # the presets' levels, as far as there are such
            levels = range(len(self.widths))
            attention = tuple(i for i in preset.attention if i in levels)
            linear = tuple(levels) if preset.linear else ()
            said = {"attention": attention, "linear": linear} | said
        return replace(preset, **said)


@dataclass(frozen=True)
class _Stated:
    widths: tuple[int, ...]
    depth: int = 2
    attention: tuple[int, ...] = ()
    linear: tuple[int, ...] = ()
    middle: bool = True
    block: Literal["resnet", "convnext"] = "resnet"
    head_dim: int = 64
    groups: int = 32
    eps: float = 1e-5
    activation: Literal["silu", "gelu"] = "silu"
    scale_shift: bool = False
    sine_first: bool = False
    freq_shift: float = 0.0
    shrink_padding: Literal[0, 1] = 1


_PRESETS: dict[str, _Stated] = {
    "ddpm-cifar": _Stated(
        (128, 256, 256, 256),
        attention=(1,),
        head_dim=0,
        eps=1e-6,
        sine_first=True,
        freq_shift=1.0,
        shrink_padding=0,
    ),
    "annotated": _Stated(
        (32, 64, 128),
        linear=(0, 1, 2),
        block="convnext",
        head_dim=32,
        groups=1,
        activation="gelu",
        sine_first=True,
        freq_shift=1.0,
    ),
    "wide64": _Stated((128, 256, 512, 1024), attention=(2,)),
}


def check_sides(height: int, width: int, factor: int) -> None:
    """Raise ValueError, with the nearest sizes that fit, where a side is not a multiple of factor."""
    if height % factor == 0 and width % factor == 0:
        return
    down, up = ([max(f(side / factor), 1) * factor for side in (height, width)] for f in (math.floor, math.ceil))
    raise ValueError(
        f"Pictures of {height}x{width} (height x width) do not fit this ClassicUNet: both sides must be multiples of "
        f"{factor} (2 for each level below the first). The nearest sizes that fit are {down[0]}x{down[1]} and "
        f"{up[0]}x{up[1]}; resize to one of them, or choose fewer levels."
    )


class _Step(Recomputed):
    """One block of a level, and the attention that follows it."""

    def __init__(
        self, s: _Stated, inputs: int, outputs: int, dropout: float, *, attends: bool, tokens: int, linear: bool
    ) -> None:
        super().__init__()

        def norm() -> GroupNorm:
            return GroupNorm(s.groups, outputs, s.eps)

        block = ResNetBlock if s.block == "resnet" else ConvNextBlock
        self.block = block(inputs, outputs, 4 * s.widths[0], s.groups, s.eps, dropout, scale_shift=s.scale_shift)
        self.attention = SplitAttention(outputs, s.head_dim, norm()) if attends else None
        self.text = CrossAttention(outputs, s.head_dim, tokens, norm()) if tokens else None
        self.linear = LinearAttention(outputs, norm(), norm()) if linear else None

    def forward(self, x: Tensor, emb: Tensor, text: Words | None) -> Tensor:
        x = self.block(x, emb)
        if self.attention is not None:
            x = self.attention(x)
        if self.text is not None and text is not None:
            x = self.text(x, text)
        return x if self.linear is None else self.linear(x)


class _Module(nn.Module):
    """The network of a stated configuration. See `ClassicUNet`; signature as `inkwash.types.Net`.

    The way up joins what the way down left after its first layer, each block, and each halving, last left first.

    layout: of the pictures' memory on a CPU. Channels-last convolutions are a little faster there, but with fewer than
    16 channels a group the gradient of a channels-last group norm takes ten times as long. Elsewhere channels last.
    """

    def __init__(self, s: _Stated, dropout: float, channels: int, given: Given, outputs: int) -> None:
        super().__init__()
        widths, depth = s.widths, s.depth
        self.channels, self.places = channels, 1
        self.factor = 2 ** (len(widths) - 1)
        wide = min(widths) // s.groups >= GROUP
        self.layout = torch.channels_last if wide else torch.contiguous_format

        def level(i: int, inputs: list[int]) -> nn.ModuleList:
            attends = i in s.attention
            last = len(inputs) - 1
            return nn.ModuleList(
                _Step(
                    s, c, widths[i], dropout, attends=attends, tokens=given.tokens if attends else 0,
                    linear=i in s.linear and j == last,
                )
                for j, c in enumerate(inputs)
            )  # fmt: skip

        self.embed = Embedding(
            4 * widths[0],
            given,
            widths[0] // 2,
            shift=s.freq_shift,
            sine_first=s.sine_first,
            activation=F.silu if s.activation == "silu" else F.gelu,
        )
        self.text = Text(given.tokens)
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.image, shown = given.image, given.image + 1
        self.beside = zeroed(nn.Conv2d(shown, widths[0], 3, padding=1, bias=False)) if given.image else None
        left, c = [widths[0]], widths[0]  # channels of what the way down leaves, and of what is on its way
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            self.down.append(level(i, [c] + [width] * (depth - 1)))
            left += [width] * depth
            c = width
            if i < len(widths) - 1:
                self.shrink.append(Shrink(width, s.shrink_padding))
                left.append(width)
        self.middle = nn.ModuleList(
            _Step(s, c, c, dropout, attends=s.middle and first, tokens=given.tokens if first else 0, linear=False)
            for first in (True, False)
        )
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            joined = [a + left.pop() for a in [c] + [width] * depth]
            self.up.append(level(i, joined))
            c = width
            if i:
                self.grow.append(Grow(width))
        self.norm = GroupNorm(s.groups, c, s.eps)
        self.head = zeroed(nn.Conv2d(c, outputs * channels, 3, padding=1))

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Predict the target for x [B, C, H, W] at t_emb [B], for a jump to s_emb [B]."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"This ClassicUNet takes pictures [B, {self.channels}, H, W], not {list(x.shape)}.")
        check_sides(x.shape[2], x.shape[3], self.factor)
        emb, text, shown = self.embed(t_emb, s_emb, cond), self.text(cond, x), beside(self.image, cond, x)
        layout = self.layout if x.device.type == "cpu" else torch.channels_last
        h = self.stem(x.contiguous(memory_format=layout))
        if self.beside is not None and shown is not None:
            h = h + self.beside(shown.contiguous(memory_format=layout))
        left = [h]
        for i, level in enumerate(self.down):
            for step in level.children():
                h = step(h, emb, text)
                left.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
                left.append(h)
        for step in self.middle:
            h = step(h, emb, text)
        for i, level in enumerate(self.up):
            for step in level.children():
                h = step(torch.cat([h, left.pop()], dim=1), emb, text)
            if i < len(self.grow):
                h = self.grow[i](h)
        out: Tensor = self.head(F.silu(self.norm(h)))
        return out
