"""What the transformers are made of: patches, positions, attention, the adaLN-zero block, and the way through them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nets.attention import Text
from inkwash.nets.given import beside
from inkwash.nets.layers import Embedding, Recomputed, attention, zeroed
from inkwash.types import Condition, Given

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines [tokens, d] of the angles by which the pairs (j, j + d/2) of a head's d numbers are turned.

The sines are those of -angle for the first of a pair.
"""


@dataclass(frozen=True)
class Sizes:
    """How large a transformer is: blocks, numbers per token, and heads those are divided among."""

    depth: int
    width: int
    heads: int


SIZES = {
    "S": Sizes(depth=12, width=384, heads=6),
    "B": Sizes(depth=12, width=768, heads=12),
    "L": Sizes(depth=24, width=1024, heads=16),
    "XL": Sizes(depth=28, width=1152, heads=16),
}
"""The sizes of Peebles & Xie (2022), table 1."""


def sizes_of(name: str, presets: dict[str, Sizes], config: object) -> Sizes:
    """A preset's sizes with what the config's fields depth, width and heads state in their place.

    Heads that are not stated have 64 numbers each where the width is. ValueError for a preset or sizes that do not
    exist; name: of the network, for that error.
    """
    preset, depth, width, heads = (getattr(config, field) for field in ("preset", "depth", "width", "heads"))
    if preset not in presets:
        raise ValueError(f"{name} preset {preset!r} does not exist: choose one of {', '.join(presets)}.")
    for field in ("depth", "width", "heads", "patch"):
        if (value := getattr(config, field)) is not None and value < 1:
            raise ValueError(f"{name} {field} is {value}: it must be 1 or more.")
    sizes = presets[preset]
    if heads is None:
        heads = sizes.heads if width is None else max(1, width // 64)
    width, depth = width or sizes.width, depth or sizes.depth
    if width % (4 * heads):
        raise ValueError(
            f"{name} width {width} does not divide into {heads} heads of a multiple of 4 numbers, which its positions "
            f"need: choose a multiple of {4 * heads} for the width, or other heads."
        )
    return Sizes(depth, width, heads)


def check_shape(name: str, shape: tuple[int, ...], patch: int) -> None:
    """Raise a ValueError for data that are not pictures (C, H, W) of whole patches."""
    if len(shape) != 3:
        raise ValueError(f"A {name} takes pictures (channels, height, width), not data of shape {shape}: use an MLP.")
    _check_size(shape[1], shape[2], patch)


def _check_size(height: int, width: int, patch: int) -> None:
    if height % patch == 0 and width % patch == 0:
        return
    low, high = ([max(1, f(side / patch)) * patch for side in (height, width)] for f in (math.floor, math.ceil))
    raise ValueError(
        f"Pictures of {height}x{width} (height x width) are not made of whole patches of {patch}x{patch}. The nearest "
        f"sizes that are: {low[0]}x{low[1]} and {high[0]}x{high[1]}; resize to one of them, or choose another patch."
    )


def patches(x: Tensor, patch: int) -> Tensor:
    """Cut x [B, C, H, W] into tokens [B, (H/p)·(W/p), C·p·p], row by row; a token's numbers are a [C, p, p] square."""
    B, C, H, W = x.shape
    squares = x.reshape(B, C, H // patch, patch, W // patch, patch)
    return squares.permute(0, 2, 4, 1, 3, 5).reshape(B, -1, C * patch * patch)


def picture(tokens: Tensor, rows: int, patch: int) -> Tensor:
    """Put tokens [B, rows·cols, p·p·C] back in their places, [B, C, H, W]; here a token's numbers are [p, p, C]."""
    B, n = tokens.shape[:2]
    squares = tokens.reshape(B, rows, n // rows, patch, patch, -1)
    return squares.permute(0, 5, 1, 3, 2, 4).reshape(B, -1, rows * patch, n // rows * patch)


def _angles(length: int, n: int, period: float, like: Tensor) -> Tensor:
    """position·period^(-i/n), i = 0 .. n-1, for positions 0 .. length-1: [length, n], float32 or like's float64."""
    kind = {"device": like.device, "dtype": torch.promote_types(like.dtype, torch.float32)}
    position, i = torch.arange(length, **kind), torch.arange(n, **kind)  # type: ignore[call-overload]
    return torch.outer(position, torch.exp(i * (-math.log(period) / n)))


def _on_grid(row: Tensor, col: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of each row [h, n] and column [w, n], for each of the h·w patches: twice [h·w, n]."""
    h, w = len(row), len(col)
    return row[:, None].expand(h, w, -1).flatten(0, 1), col[None].expand(h, w, -1).flatten(0, 1)


def sincos(rows: int, cols: int, width: int, like: Tensor) -> Tensor:
    """A table of positions [rows·cols, width]: a quarter each of sin and cos of the column's angles, then the row's.

    The angles are index·10000^(-4i/width), i = 0 .. width/4 - 1, with the patch's index as it is: a larger picture has
    further positions, not finer ones, and a part of a picture has the positions of a picture of that size.
    """
    row, col = _on_grid(_angles(rows, width // 4, 1e4, like), _angles(cols, width // 4, 1e4, like))
    return torch.cat([col.sin(), col.cos(), row.sin(), row.cos()], dim=1).to(like.dtype)


def rotary(rows: int, cols: int, dim: int, like: Tensor, front: int = 0) -> Rotation:
    """The rotation of each patch's queries and keys, of dim numbers: half of the pairs by its row, half by its column.

    The angles are index·100^(-4i/dim), i = 0 .. dim/4 - 1 (Su et al. 2021; 100 instead of 10000, for tens of positions
    and not thousands: Heo et al. 2024). front: so many tokens before the patches are not turned. In float32, or like's
    float64. It is made anew in every call: to keep it saved at most 2 % of the time of two small pictures, as measured.
    """
    angles = torch.cat(_on_grid(_angles(rows, dim // 4, 100.0, like), _angles(cols, dim // 4, 100.0, like)), dim=1)
    angles = F.pad(torch.cat([-angles, angles], dim=1), (0, 0, front, 0))
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn the pairs of x [..., tokens, d] by their angles: (a·cos - b·sin, b·cos + a·sin).

    The product of a query and a key that are turned so depends on where they are through the difference alone. Of x in
    bfloat16 only the result is rounded, which takes no longer: cosines of 8 bits would move every patch a little.
    """
    cos, sin = rotation
    wide = x.to(torch.promote_types(x.dtype, cos.dtype))
    return torch.addcmul(wide * cos, wide.roll(x.shape[-1] // 2, -1), sin).to(x.dtype)


class Attention(nn.Module):
    """Every token of x [B, tokens, width] looks at all others; queries, keys and values from one matrix product.

    normed: queries and keys are divided by their root mean square and given a learned scale (Henry et al. 2020), so
    that scores are bounded whatever the weights grow to.
    """

    def __init__(self, width: int, heads: int, *, bias: bool = True, normed: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias)
        self.q_scale = nn.Parameter(torch.ones(width // heads)) if normed else None
        self.k_scale = nn.Parameter(torch.ones(width // heads)) if normed else None
        self.out = nn.Linear(width, width, bias)

    def forward(self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        """x to the same shape. rotation: see `rotate`; mask: bool, broadcast to [B, heads, tokens, tokens]."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        if self.q_scale is not None and self.k_scale is not None:
            q, k = _normed(q, self.q_scale), _normed(k, self.k_scale)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        out: Tensor = self.out(attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return out


def _normed(x: Tensor, scale: Tensor) -> Tensor:
    """x/rms(x)·scale over the last axis, in x's dtype."""
    return F.rms_norm(x, scale.shape, scale.to(x.dtype), 1e-6)


class GeluMlp(nn.Module):
    """W2 gelu(W1 x + b1) + b2 with four times the width between, gelu in its form with tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.into = nn.Linear(width, 4 * width)
        self.back = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] to the same shape."""
        out: Tensor = self.back(F.gelu(self.into(x), approximate="tanh"))
        return out


class SwiGlu(nn.Module):
    """W3 (silu(W1 x)·W2 x) (Shazeer 2020), of as many weights as a `GeluMlp`: 8/3 of the width between, in 64s."""

    def __init__(self, width: int) -> None:
        super().__init__()
        between = 64 * max(1, round(8 * width / 3 / 64))
        self.into = nn.Linear(width, 2 * between, bias=False)  # W1 above W2
        self.back = nn.Linear(between, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., width] to the same shape."""
        # Two products and not one cut in two: joining the halves again, backwards, took a fifth of the CPU's time here.
        gate, value = (F.linear(x, w) for w in self.into.weight.chunk(2))
        out: Tensor = self.back(F.silu(gate) * value)
        return out


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """x·(1 + scale) + shift, for x [B, tokens, width] and the others [B, 1, width]."""
    return torch.addcmul(shift, x, scale + 1)


class Block(Recomputed):
    """adaLN-zero (Peebles & Xie 2022, fig. 3): x + gate·f(norm(x)·(1 + scale) + shift), f attention, then the MLP.

    With modulation 0, as at the start, it is the identity. The norms have no weights: the modulation is theirs.
    """

    def __init__(self, attention: Attention, norm1: nn.Module, mlp: nn.Module, norm2: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention = norm1, attention
        self.norm2, self.mlp = norm2, mlp

    def forward(self, x: Tensor, modulation: Tensor, rotation: Rotation | None, mask: Tensor | None) -> Tensor:
        """x [B, tokens, width] to the same; modulation [B, 6·width]: shift, scale, gate of either."""
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation[:, None].chunk(6, dim=2)
        h = self.attention(modulate(self.norm1(x), shift1, scale1), rotation, mask)
        x = torch.addcmul(x, gate1, h)
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), shift2, scale2)))


class Front(nn.Module):
    """The tokens that stand before the patches: registers, which are learned, then a text's (`Text`), projected.

    An absent token of a text is hidden from all others, and what it holds is not read.
    """

    def __init__(self, width: int, registers: int, tokens: int, *, bias: bool) -> None:
        super().__init__()
        self.registers = nn.Embedding(registers, width) if registers else None
        self.text = Text(tokens)
        self.project = nn.Linear(tokens, width, bias) if tokens else None

    def forward(self, h: Tensor, cond: Condition) -> tuple[Tensor, Tensor | None]:
        """h [B, n, width] with them before it, and the mask of what may be looked at; None where all may be.

        Raises ValueError where tokens are missing, of another width, or given to a model without.
        """
        text, mask = self.text(cond, h), None
        if text is not None and self.project is not None:
            mask = F.pad(text.mask, (0, h.shape[1]), value=True)
            h = torch.cat([text.through(self.project).to(h.dtype), h], dim=1)
        if self.registers is not None:
            registers = self.registers.weight.to(h.dtype)
            mask = None if mask is None else F.pad(mask, (len(registers), 0), value=True)
            h = torch.cat([registers.expand(h.shape[0], -1, -1), h], dim=1)
        return h, mask


class Transformer(nn.Module, ABC):
    """The way through: patches in, tokens before them, blocks told time and label, patches out; a `inkwash.types.Net`.

    A network states how tokens know their positions (`placed`) and how blocks are told (`told`); its head starts at
    zero. embed gives what is told as one vector [B, width].
    """

    def __init__(
        self,
        channels: int,
        given: Given,
        patch: int,
        outputs: int,
        embed: Embedding,
        front: Front,
        blocks: Sequence[Block],
        norm: nn.Module,
        *,
        bias: bool,
    ) -> None:
        super().__init__()
        width = embed.time_out.out_features
        self.channels, self.patch, self.factor, self.places = channels, patch, patch, patch**2
        self.embed, self.front = embed, front
        self.door = nn.Linear(channels * patch**2, width, bias)
        self.image, shown = given.image, (given.image + 1) * patch**2
        self.beside = zeroed(nn.Linear(shown, width, bias=False)) if given.image else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = nn.Linear(width, patch**2 * outputs * channels, bias)

    def start(self) -> None:
        """ViT's initial weights, uniform after Glorot with biases at zero, and the head at zero."""
        for part in (self.door, self.front, self.blocks):
            for layer in part.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.xavier_uniform_(layer.weight)
                    if layer.bias is not None:
                        nn.init.zeros_(layer.bias)
        zeroed(self.head)

    def placed(self, h: Tensor, rows: int, cols: int) -> Tensor:
        """The patches' tokens h [B, rows·cols, width] with their positions added, if that is how they know them."""
        return h

    def turned(self, h: Tensor, rows: int, cols: int) -> Rotation | None:
        """The rotation of queries and keys of all tokens h [B, tokens, width], if that is how they know them."""
        return None

    @abstractmethod
    def told(self, e: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """What each block is told [B, 6·width], and the last norm [B, 2·width] (shift, scale), from e [B, width]."""

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Predict the target for x [B, C, H, W] at t_emb [B], for a jump to s_emb [B]."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(f"This transformer takes pictures [B, {self.channels}, H, W], not {list(x.shape)}.")
        _check_size(x.shape[2], x.shape[3], self.patch)
        rows, cols = x.shape[2] // self.patch, x.shape[3] // self.patch
        modulations, last = self.told(self.embed(t_emb, s_emb, cond))
        h, shown = self.door(patches(x, self.patch)), beside(self.image, cond, x)
        if self.beside is not None and shown is not None:
            h = h + self.beside(patches(shown, self.patch))
        h, mask = self.front(self.placed(h, rows, cols), cond)
        rotation = self.turned(h, rows, cols)
        for block, modulation in zip(self.blocks, modulations, strict=True):
            h = block(h, modulation, rotation, mask)
        shift, scale = last[:, None].chunk(2, dim=2)
        return picture(self.head(modulate(self.norm(h[:, -rows * cols :]), shift, scale)), rows, self.patch)
