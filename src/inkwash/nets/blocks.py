"""The blocks of the literature's U-Nets, and how they halve and double the side of a picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nets.layers import GroupNorm, zeroed


class _Told(nn.Module):
    """What a block is told by the embedding [B, emb]: a shift before its norm, or a scale and a shift after it."""

    def __init__(self, emb: int, channels: int, *, scale_shift: bool) -> None:
        super().__init__()
        self.scale_shift = scale_shift
        self.layer = nn.Linear(emb, channels * (2 if scale_shift else 1))

    def forward(self, h: Tensor, norm: nn.Module, emb: Tensor) -> Tensor:
        """norm(h + shift), or norm(h)·(1 + scale) + shift, for h [B, channels, H, W], which may be overwritten."""
        told = self.layer(emb)[:, :, None, None]
        if not self.scale_shift:
            shifted: Tensor = norm(h.add_(told))
            return shifted
        scale, shift = told.chunk(2, dim=1)
        return torch.addcmul(shift, norm(h), scale + 1)


class ResNetBlock(nn.Module):
    """short(x) + conv(silu(norm2(h))) with h = conv(silu(norm1(x))), told the time at norm2 (Ho et al. 2020).

    short is a 1x1 convolution where the channels change. emb: the width of the embedding; groups, eps: of the norms;
    scale_shift: how the time is told. The last convolution starts at zero.
    """

    def __init__(
        self, inputs: int, outputs: int, emb: int, groups: int, eps: float, dropout: float, *, scale_shift: bool
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.told = _Told(emb, outputs, scale_shift=scale_shift)
        self.norm2 = GroupNorm(groups, outputs, eps)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, inputs, H, W] to [B, outputs, H, W]; emb [B, emb] has been through its activation."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = F.silu(self.told(h, self.norm2, emb))
        if self.dropout > 0:
            h = F.dropout(h, self.dropout, self.training)
        out: Tensor = self.conv2(h).add_(x if self.short is None else self.short(x))
        return out


class ConvNextBlock(nn.Module):
    """short(x) + conv(norm2(gelu(conv(norm1(h))))) with h a 7x7 convolution of each channel of x alone, told the time.

    The blocks of Liu et al. (2022) as diffusion's tutorials use them: group norms, 3x3 convolutions through twice the
    channels, and the time at norm1. Settings as `ResNetBlock`'s. The last convolution starts at zero.
    """

    def __init__(
        self, inputs: int, outputs: int, emb: int, groups: int, eps: float, dropout: float, *, scale_shift: bool
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.depthwise = nn.Conv2d(inputs, inputs, 7, padding=3, groups=inputs)
        self.told = _Told(emb, inputs, scale_shift=scale_shift)
        self.norm1 = GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, 2 * outputs, 3, padding=1)
        self.norm2 = GroupNorm(groups, 2 * outputs, eps)
        self.conv2 = zeroed(nn.Conv2d(2 * outputs, outputs, 3, padding=1))
        self.short = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x [B, inputs, H, W] to [B, outputs, H, W]; emb [B, emb] has been through its activation."""
        h = F.gelu(self.conv1(self.told(self.depthwise(x), self.norm1, emb)))
        h = self.norm2(h)
        if self.dropout > 0:
            h = F.dropout(h, self.dropout, self.training)
        out: Tensor = self.conv2(h).add_(x if self.short is None else self.short(x))
        return out


class Shrink(nn.Module):
    """A 3x3 convolution of stride 2: half the side.

    padding: 1 puts zeros on all sides; 0 puts them below and at the right alone, as DDPM's first implementation did.
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, 2H, 2W] to [B, C, H, W]."""
        out: Tensor = self.conv(x if self.padding else F.pad(x, (0, 1, 0, 1)))
        return out


class Grow(nn.Module):
    """Every pixel four times, then a 3x3 convolution: twice the side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to [B, C, 2H, 2W].

        On a CPU, from 16x16 pixels on, through one transposed convolution, which is the same function for 16/36 of the
        arithmetic (docs/networks.md, "Doubling the side"); at smaller sizes its kernel was measured to be slower.
        """
        if x.device.type != "cpu" or x.shape[2] * x.shape[3] < 256:
            out: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
            return out
        return F.conv_transpose2d(x, spread(self.conv.weight), self.conv.bias, stride=2, padding=1)


def spread(weight: Tensor) -> Tensor:
    """The kernel [in, out, 4, 4] with which a transposed convolution of stride 2 doubles and convolves at once.

    weight [out, in, 3, 3]: of the convolution of doubled pixels. In one dimension its output 2i sees pixel i - 1
    through w_0 and pixel i through w_1 + w_2; its output 2i + 1 sees pixel i through w_0 + w_1 and i + 1 through w_2. A
    transposed convolution with padding 1 reads kernel rows 3 and 1 there, and 2 and 0.
    """
    for axis in (2, 3):
        a, b, c = weight.unbind(axis)
        weight = torch.stack([c, b + c, a + b, a], dim=axis)
    return weight.transpose(0, 1)
