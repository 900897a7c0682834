"""How the positions of a picture look at one another and at a text's tokens: the attention layers of the U-Nets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from inkwash.nets.layers import Recomputed, attention, linear_attention, norm, zeroed
from inkwash.types import Condition


def heads_of(channels: int, head_dim: int) -> int:
    """As many heads as divide the channels with at least head_dim each; one where there are fewer channels.

    head_dim = 0 is one head of all channels.
    """
    most = max(1, channels // head_dim) if head_dim else 1
    return next(n for n in range(most, 0, -1) if channels % n == 0)


def _tokens(x: Tensor) -> Tensor:
    # [B, HW, C], a view of channels-last memory; any other is copied, once and not by each layer that reads it.
    return x.flatten(2).transpose(1, 2).contiguous()


def _added(x: Tensor, h: Tensor) -> Tensor:
    """x [B, C, H, W] and what its positions were told, h [B, HW, C]."""
    return x + h.transpose(1, 2).reshape(x.shape)


class SelfAttention(Recomputed):
    """x + attention over all positions of x [B, C, H, W], `heads_of` them. The output projection starts at zero."""

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_dim)
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        projected = self.qkv(_tokens(self.norm(x))).chunk(3, dim=2)
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in projected)
        return _added(x, self.out(attention(q, k, v).transpose(1, 2).flatten(2)))


class SplitAttention(nn.Module):
    """As `SelfAttention`, with q, k and v from three layers after a norm of the caller's: the literature's layout."""

    def __init__(self, channels: int, head_dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_dim)
        self.norm = norm
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        tokens = _tokens(self.norm(x))
        q, k, v = (f(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return _added(x, self.out(attention(q, k, v).transpose(1, 2).flatten(2)))


class LinearAttention(nn.Module):
    """x + last(`linear_attention` of norm(x)): its work grows with the number of positions, not with their square.

    4 heads of 32 numbers each, whatever the channels, as in diffusion's tutorials. norm, last: of all channels, the
    caller's; last starts with weights of zero, so that the whole is the identity.
    """

    HEADS, DIM = 4, 32

    def __init__(self, channels: int, norm: nn.Module, last: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm
        self.qkv = nn.Linear(channels, 3 * self.HEADS * self.DIM, bias=False)
        self.out = nn.Linear(self.HEADS * self.DIM, channels)
        self.last = last
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        q, k, v = self.qkv(_tokens(self.norm(x))).unflatten(2, (3, self.HEADS, self.DIM)).permute(2, 0, 3, 1, 4)
        h = self.out(linear_attention(q, k, v).transpose(1, 2).flatten(2))
        told: Tensor = x + self.last(h.transpose(1, 2).reshape(x.shape))
        return told


class CrossAttention(Recomputed):
    """x + attention of its positions [B, C, H, W] to a text's tokens. The output projection starts at zero.

    width: of the tokens; see `Words` for what they are.
    """

    def __init__(self, channels: int, head_dim: int, width: int, norm: nn.Module) -> None:
        super().__init__()
        self.heads = heads_of(channels, head_dim)
        self.norm = norm
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(width, 2 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, words: Words) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        projected = (self.q(_tokens(self.norm(x))), *words.through(self.kv).chunk(2, dim=2))
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in projected)
        return _added(x, self.out(attention(q, k, v, words.mask).transpose(1, 2).flatten(2)))


class Words(NamedTuple):
    """A text as networks read it: null [width], which is learned and stands in front, and tokens [B, N, width].

    mask [B, 1, 1, 1 + N]: which of them there are; the null always is.
    """

    null: Tensor
    tokens: Tensor
    mask: Tensor

    def through(self, layer: nn.Linear) -> Tensor:
        """What a layer makes of all of them, [B, 1 + N, its width].

        The null by itself: the tokens are data, and with it among them each layer would work out a gradient for all,
        which took a sixth of the time of a `CrossAttention` in training.
        """
        tokens = layer(self.tokens)
        return torch.cat([layer(self.null).to(tokens.dtype).expand(tokens.shape[0], 1, -1), tokens], dim=1)


class Text(nn.Module):
    """A condition's text tokens with a learned one in front, which is always there: the null text is it alone.

    width: of a token; 0 is a network without text, for which a call gives None.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.null = nn.Parameter(torch.zeros(width)) if width else None  # a vector: not decayed

    def forward(self, cond: Condition, x: Tensor) -> Words | None:
        """The text of cond for x [B, ...]; absent tokens are zero and masked.

        Raises ValueError where tokens are missing, of another shape, or given to a network without.
        """
        if self.null is None:
            if cond.tokens is not None:
                raise ValueError("This model was built without text tokens and takes none: pass no tokens.")
            return None
        rows, width = x.shape[0], len(self.null)
        if (
            cond.tokens is None
            or cond.present is None
            or cond.tokens.ndim != 3
            or cond.tokens.shape[::2] != (rows, width)
            or cond.tokens.shape[:2] != cond.present.shape
        ):
            shapes = [list(part.shape) for part in (cond.tokens, cond.present) if part is not None]
            got = " and ".join(map(str, shapes)) or "none"
            raise ValueError(
                f"This model was built for text tokens of width {width}, [{rows}, N, {width}], of which [{rows}, N] "
                f"are present, and was given {got}: pass Condition(tokens=..., present=...); a row without any present "
                "is the null text."
            )
        present = cond.present.to(x.device)
        kind, dtype = x.device.type, self.null.dtype
        if torch.is_autocast_enabled(kind):  # cast once, and not by each layer that reads them
            dtype = torch.get_autocast_dtype(kind)
        tokens = cond.tokens.to(x.device, dtype).masked_fill(~present[:, :, None], 0)  # they may hold NaN
        mask = torch.cat([present.new_ones(present.shape[0], 1), present], dim=1)[:, None, None]
        return Words(self.null, tokens, mask)
