"""The pieces networks are made of: time and label embedding, attention, normalisation, the residual block."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.types import Condition, Given

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
"""What `zeroed` takes, and gives back as the same type."""

GROUP = 16
"""Channels per normalisation group. Below 16, the CPU's group norm leaves its vector path: 7 times slower in bf16."""


def sinusoids(t: Tensor, n: int, max_period: float = 10_000.0) -> Tensor:
    """Cosines and sines of t [B] at n frequencies max_period^(-i/n), i = 0 .. n-1: [B, 2n], in t's precision.

    The fastest turns by one radian per unit of t (of about 1000), the slowest hardly at all (Vaswani et al. 2017).
    """
    i = torch.arange(n, device=t.device, dtype=t.dtype)
    angles = t[:, None] * torch.exp(i * (-math.log(max_period) / n))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Embedding(nn.Module):
    """What every block is told as one vector [B, width]: the time and, where given, the jump's length and the label.

    frequencies: of the sinusoids of t_emb, which reach down to about 1/max_period. With classes, the label table has
    classes + 1 rows, of which row 0 is the null label -1. With jumps, t_emb - s_emb is embedded too, through a layer
    that starts at zero: before it is trained, and for s = t with any training that leaves it there, the network is the
    one without.
    """

    def __init__(self, width: int, given: Given, frequencies: int = 64, max_period: float = 10_000.0) -> None:
        super().__init__()
        self.frequencies, self.max_period = frequencies, max_period
        self.classes = classes = given.classes
        self.time_in = nn.Linear(2 * frequencies, width)
        self.time_out = nn.Linear(width, width)
        # Rows of deviation 1, torch's own start. A start at 0.02 was given up together with three other settings of the
        # demo's recipe, after which samples hit the asked class far more often; its own share was not measured.
        self.label = nn.Embedding(classes + 1, width) if classes > 0 else None
        self.jump_in = nn.Linear(2 * frequencies, width) if given.jumps else None
        self.jump_out = zeroed(nn.Linear(width, width)) if given.jumps else None

    def forward(self, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Embed t_emb [B], s_emb [B] and cond. ValueError where a label is missing, or given to a model without."""
        waves = sinusoids(t_emb, self.frequencies, self.max_period).to(self.time_in.weight.dtype)
        e: Tensor = self.time_out(F.silu(self.time_in(waves)))
        if self.jump_in is not None and self.jump_out is not None:
            waves = sinusoids(t_emb - s_emb, self.frequencies, self.max_period).to(self.time_in.weight.dtype)
            e = e + self.jump_out(F.silu(self.jump_in(waves)))
        if self.label is None:
            if cond.label is not None:
                raise ValueError("This model was built without classes and takes no label: pass Condition().")
            return F.silu(e)
        if cond.label is None:
            raise ValueError(
                f"This model was built for {self.classes} classes and needs a label for every row: pass "
                f"Condition(label=...), 0 to {self.classes - 1}, or -1 for any class."
            )
        return F.silu(e + self.label(cond.label.to(e.device) + 1))


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v over tokens; q, k, v and the result are [B, heads, tokens, d].

    mask: bool, broadcast to [B, heads, tokens of q, tokens of k]: where it is false, the token of k is not looked at.
    Every token of q must have one to look at.

    Through `scaled_dot_product_attention`, except for the few tokens of a small picture on a CPU, where two plain
    matrix products and a softmax take a third of the fused kernel's time (measured, forward and backward).
    """
    few = 256 if q.dtype == torch.bfloat16 else 128
    if q.device.type != "cpu" or k.shape[-2] > few:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    out: Tensor = weights.softmax(dim=-1) @ v
    return out


def norm(channels: int) -> nn.GroupNorm:
    """Group norm with groups of 16 channels, or one group where 16 does not divide them."""
    return nn.GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


def zeroed(layer: Layer) -> Layer:
    """The layer with weights and bias zero, so that what it ends contributes nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class ResBlock(nn.Module):
    """x + conv(silu(norm(h)·(1 + scale) + shift)) with h = conv(silu(norm(x))): two 3x3 convolutions, told the time.

    Scale and shift [B, C, 1, 1] come from the embedding (Dhariwal & Nichol 2021). The last convolution starts at zero.
    """

    def __init__(self, channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = norm(channels)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(torch.addcmul(shift, self.norm2(h), scale + 1))
        if self.dropout > 0:
            h = F.dropout(h, self.dropout, self.training)
        out: Tensor = x + self.conv2(h)
        return out


class SelfAttention(nn.Module):
    """x + attention over all positions of x [B, C, H, W]. The output projection starts at zero.

    As many heads as divide the channels with at least head_dim each; one head where there are fewer channels.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        self.heads = next(n for n in range(max(1, channels // head_dim), 0, -1) if channels % n == 0)
        self.norm = norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape."""
        tokens = self.norm(x).permute(0, 2, 3, 1).flatten(1, 2)  # [B, HW, C], a view of channels-last memory
        q, k, v = (z.unflatten(2, (self.heads, -1)).transpose(1, 2) for z in self.qkv(tokens).chunk(3, dim=2))
        h = self.out(attention(q, k, v).transpose(1, 2).flatten(2))
        out: Tensor = x + h.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return out
