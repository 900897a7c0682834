"""The pieces networks are made of: time and label embedding, attention, normalisation, the residual block."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from inkwash.nets.given import Numbers
from inkwash.types import Condition, Given

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)
"""What `zeroed` takes, and gives back as the same type."""

GROUP = 16
"""Channels per normalisation group. Below 16, the CPU's group norm leaves its vector path: 7 times slower in bf16."""


def sinusoids(t: Tensor, n: int, max_period: float = 10_000.0, shift: float = 0.0) -> Tensor:
    """Cosines and sines of t [B] at n frequencies max_period^(-i/(n - shift)), i = 0 .. n-1: [B, 2n], in t's precision.

    The fastest turns by one radian per unit of t (of about 1000), the slowest hardly at all (Vaswani et al. 2017).
    shift: 1 has the last frequency be 1/max_period itself, as in DDPM's code.
    """
    i = torch.arange(n, device=t.device, dtype=t.dtype)
    # In the order of operations of others, whose checkpoints we read: another moves answers at t = 1000 by 1e-4.
    angles = t[:, None] * torch.exp(i * -math.log(max_period) / (n - shift))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class Embedding(nn.Module):
    """What every block is told as one vector [B, width]: the time and, where given, a jump's length, numbers, a label.

    frequencies: of the sinusoids of t_emb. With classes, the label table has classes + 1 rows, of which row 0 is the
    null label -1. With jumps, t_emb - s_emb is embedded too, through a layer that starts at zero: before it is
    trained, the network is the one without. A vector of numbers is told as `Numbers` says.

    shift: see `sinusoids`; sine_first: sines stand before cosines; activation: between the time's two layers, and last.
    """

    def __init__(
        self,
        width: int,
        given: Given,
        frequencies: int = 64,
        *,
        shift: float = 0.0,
        sine_first: bool = False,
        activation: Callable[[Tensor], Tensor] = F.silu,
    ) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.shift, self.sine_first, self.activation = shift, sine_first, activation
        self.classes = classes = given.classes
        self.time_in = nn.Linear(2 * frequencies, width)
        self.time_out = nn.Linear(width, width)
        # Rows of deviation 1, torch's own start. A start at 0.02 was given up together with three other settings of the
        # demo's recipe, after which samples hit the asked class far more often; its own share was not measured.
        self.label = nn.Embedding(classes + 1, width) if classes > 0 else None
        self.jump_in = nn.Linear(2 * frequencies, width) if given.jumps else None
        self.jump_out = zeroed(nn.Linear(width, width)) if given.jumps else None
        self.numbers = Numbers(given.vector, width)

    def forward(self, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Embed t_emb [B], s_emb [B] and cond [B, width].

        Raises ValueError where a label or a vector is missing, does not fit, or is given to a model without. Whether
        labels exist is looked at only where they are on the host: anywhere else that would wait for the device.
        """
        e: Tensor = self.time_out(self.activation(self.time_in(self._waves(t_emb))))
        if self.jump_in is not None and self.jump_out is not None:
            e = e + self.jump_out(self.activation(self.jump_in(self._waves(t_emb - s_emb))))
        if (numbers := self.numbers(cond, e)) is not None:
            e = e + numbers
        if self.label is None:
            if cond.label is not None:
                raise ValueError("This model was built without classes and takes no label: pass Condition().")
            return self.activation(e)
        label, got = cond.label, ""
        if label is None:
            got = "none"
        elif label.shape != e.shape[:1]:
            got = f"labels of shape {list(label.shape)} for {e.shape[0]} rows"
        elif label.device.type == "cpu" and not torch.compiler.is_compiling():  # there is nothing to see yet
            wrong = label[(label < -1) | (label >= self.classes)]
            got = f"label {int(wrong[0])}" if len(wrong) else ""
        if label is None or got:
            raise ValueError(
                f"This model was built for {self.classes} classes and needs a label for every row, and was given "
                f"{got}: pass Condition(label=...), 0 to {self.classes - 1}, or -1 for any class."
            )
        return self.activation(e + self.label(label.to(e.device) + 1))

    def _waves(self, t: Tensor) -> Tensor:
        waves = sinusoids(t, self.frequencies, shift=self.shift)
        if self.sine_first:
            waves = torch.cat(waves.chunk(2, dim=1)[::-1], dim=1)
        return waves.to(self.time_in.weight.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k' / sqrt(d)) v over tokens; q, k, v and the result are [B, heads, tokens, d].

    mask: bool, broadcast to [B, heads, tokens of q, tokens of k]: where it is false, the token of k is not looked at.
    Every token of q must have one to look at.

    Through `scaled_dot_product_attention`, except in bfloat16 on a CPU: two plain matrix products around a softmax took
    0.2 to 0.6 of the fused kernel's time there in training, up to some 512 tokens, and 0.6 to 0.9 without gradients, up
    to four times as many tokens as d. In float32 the fused kernel was never slower (docs/networks.md, "Attention").
    """
    d = q.shape[-1]
    learning = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    few = max(512, 4 * d) if learning else 4 * d
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or k.shape[-2] > few:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    B, H = q.shape[:2]
    flat_q, flat_k, hidden, beta = q.flatten(0, 1), k.flatten(0, 1), q.new_zeros(()), 0
    if mask is not None:  # added within the product, which takes less time than filling the scores, there and back
        hidden = q.new_zeros(mask.shape).masked_fill(~mask, -torch.inf).expand(B, H, -1, -1).flatten(0, 1)
        beta = 1
    scores = torch.baddbmm(hidden, flat_q, flat_k.transpose(1, 2), beta=beta, alpha=d**-0.5)
    out: Tensor = scores.softmax(dim=-1).view(B, H, -1, k.shape[2]) @ v
    return out


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax_d(q) / sqrt(d) · (softmax_n(k)' v), the first over features, the second over tokens (Shen et al. 2018).

    q, k, v and the result are [B, heads, tokens, d]. The tokens meet only in the d x d matrix in brackets, so the work
    grows with their number and not with its square. It is another function than `attention`: every token of q reads
    the same d mixtures of values, whatever its distance to the keys.
    """
    mixtures = k.softmax(dim=-2).transpose(-2, -1) @ v
    out: Tensor = (q.softmax(dim=-1) * q.shape[-1] ** -0.5) @ mixtures
    return out


class GroupNorm(nn.GroupNorm):
    """torch's, which can be differentiated forwards in channels-last memory too, where torch's own formula fails."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same shape and layout."""
        if x.is_contiguous() or forward_ad.unpack_dual(x).tangent is None:  # type: ignore[no-untyped-call]
            return super().forward(x)
        return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)


def norm(channels: int) -> GroupNorm:
    """Group norm with groups of 16 channels, or one group where 16 does not divide them."""
    return GroupNorm(channels // GROUP if channels % GROUP == 0 else 1, channels)


def zeroed(layer: Layer) -> Layer:
    """The layer with weights and bias zero, so that what it ends contributes nothing at first."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


class Recomputed(nn.Module):
    """A part of a network that can forget what it has computed, keep what it was given, and compute it again backwards.

    `recompute` has it do so. Its answers and all gradients have the same bits either way, dropout's masks included:
    the random state is put back for the second time. Its weights and their names do not change.
    """

    recomputes = False

    def __call__(self, *args: Any) -> Any:
        """As `forward`, remembering less where a gradient will be asked for."""
        if self.recomputes and torch.is_grad_enabled():
            return checkpoint(super().__call__, *args, use_reentrant=False)
        return super().__call__(*args)


def recompute(net: nn.Module) -> int:
    """Have all parts of a network that can compute themselves again do it (Chen et al. 2016); how many there are.

    Of parts within parts the outermost does.
    """
    if isinstance(net, Recomputed):
        net.recomputes = True
        return 1
    return sum(recompute(part) for part in net.children())


class ResBlock(Recomputed):
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
