"""The Inception network of 2015-12-05 that the Fréchet Inception Distance is defined with (Heusel et al. 2017).

It is TensorFlow's graph, not a torchvision Inception v3: it resizes in TensorFlow 1's way, its average pools leave the
padding out of the mean, and its last block pools by maximum. Its weights in torch's form are pytorch-fid's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.data.cache import cache_dir
from inkwash.features.extract import Extractor
from inkwash.features.folded import Pair, folded
from inkwash.features.resize import bilinear_tf1
from inkwash.features.weights import Published, fetch, file_hash, read_state, tensors_hash
from inkwash.types import Component

SIDE = 299

PUBLISHED = Published(
    name="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    size=95_628_359,
)


@dataclass(frozen=True)
class Inception(Component):
    """2048 features of the last pool ("pool3"); the only net whose Fréchet distance is called FID.

    Pictures are resized to 299x299 by the graph itself and shown as (u - 128)/128. weights: a file with its state dict;
    "" takes the published one from inkwash's cache, from torch.hub's, or from the web, its SHA-256 checked. With any
    other file the net is named "other-inception", so that nothing it measures is taken for an FID: also with the same
    tensors in another file, as .safetensors, because the published one is known by the SHA-256 of its file alone.
    """

    weights: str = ""
    kind: Literal["inception"] = field(default="inception", kw_only=True, repr=False)

    def load(self, device: torch.device) -> Extractor:
        """The net on a device. Raises ValueError where the weights cannot be had, or are another net's."""
        instead = 'Or name a file that you have: inception(weights="FILE").'
        file = Path(self.weights).expanduser() if self.weights else fetch(PUBLISHED, cache_dir(), instead)
        state = read_state(file)
        if wrong := _unfit(state):
            raise ValueError(f"{file} does not fit the FID Inception net: {wrong}.")
        return Extractor(
            name=self.kind if file_hash(file) == PUBLISHED.sha256 else f"other-{self.kind}",
            num_features=2048,
            weights=tensors_hash(state),
            resize=f"TensorFlow 1's bilinear (corners at 0, not antialiased, in floats) to {SIDE}x{SIDE}",
            device=device,
            net=Net(state, device),
            chunk=8 if device.type == "cpu" else 64,
        )


def _layout() -> dict[str, tuple[int, int, Pair, int, Pair]]:
    """Every convolution by name: (in, out, kernel, stride, padding). No biases; each is followed by a batch norm."""
    rows: dict[str, tuple[int, int, Pair, int, Pair]] = {}

    def add(name: str, into: int, out: int, kernel: Pair = (1, 1), stride: int = 1, *, padded: bool = True) -> None:
        padding = (kernel[0] // 2, kernel[1] // 2) if padded else (0, 0)
        rows[name] = (into, out, kernel, stride, padding)

    add("Conv2d_1a_3x3", 3, 32, (3, 3), 2, padded=False)
    add("Conv2d_2a_3x3", 32, 32, (3, 3), padded=False)
    add("Conv2d_2b_3x3", 32, 64, (3, 3))
    add("Conv2d_3b_1x1", 64, 80)
    add("Conv2d_4a_3x3", 80, 192, (3, 3), padded=False)
    for name, into, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
        add(f"{name}.branch1x1", into, 64)
        add(f"{name}.branch5x5_1", into, 48)
        add(f"{name}.branch5x5_2", 48, 64, (5, 5))
        add(f"{name}.branch3x3dbl_1", into, 64)
        add(f"{name}.branch3x3dbl_2", 64, 96, (3, 3))
        add(f"{name}.branch3x3dbl_3", 96, 96, (3, 3))
        add(f"{name}.branch_pool", into, pooled)
    add("Mixed_6a.branch3x3", 288, 384, (3, 3), 2, padded=False)
    add("Mixed_6a.branch3x3dbl_1", 288, 64)
    add("Mixed_6a.branch3x3dbl_2", 64, 96, (3, 3))
    add("Mixed_6a.branch3x3dbl_3", 96, 96, (3, 3), 2, padded=False)
    for name, c in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
        add(f"{name}.branch1x1", 768, 192)
        add(f"{name}.branch7x7_1", 768, c)
        add(f"{name}.branch7x7_2", c, c, (1, 7))
        add(f"{name}.branch7x7_3", c, 192, (7, 1))
        add(f"{name}.branch7x7dbl_1", 768, c)
        add(f"{name}.branch7x7dbl_2", c, c, (7, 1))
        add(f"{name}.branch7x7dbl_3", c, c, (1, 7))
        add(f"{name}.branch7x7dbl_4", c, c, (7, 1))
        add(f"{name}.branch7x7dbl_5", c, 192, (1, 7))
        add(f"{name}.branch_pool", 768, 192)
    add("Mixed_7a.branch3x3_1", 768, 192)
    add("Mixed_7a.branch3x3_2", 192, 320, (3, 3), 2, padded=False)
    add("Mixed_7a.branch7x7x3_1", 768, 192)
    add("Mixed_7a.branch7x7x3_2", 192, 192, (1, 7))
    add("Mixed_7a.branch7x7x3_3", 192, 192, (7, 1))
    add("Mixed_7a.branch7x7x3_4", 192, 192, (3, 3), 2, padded=False)
    for name, into in (("Mixed_7b", 1280), ("Mixed_7c", 2048)):
        add(f"{name}.branch1x1", into, 320)
        add(f"{name}.branch3x3_1", into, 384)
        add(f"{name}.branch3x3_2a", 384, 384, (1, 3))
        add(f"{name}.branch3x3_2b", 384, 384, (3, 1))
        add(f"{name}.branch3x3dbl_1", into, 448)
        add(f"{name}.branch3x3dbl_2", 448, 384, (3, 3))
        add(f"{name}.branch3x3dbl_3a", 384, 384, (1, 3))
        add(f"{name}.branch3x3dbl_3b", 384, 384, (3, 1))
        add(f"{name}.branch_pool", into, 192)
    return rows


LAYOUT = _layout()


class Net:
    """Planes [B, 3, H, W] in 0..255 to features [B, 2048]."""

    def __init__(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.convs = {
            name: folded(state, f"{name}.conv", f"{name}.bn", device, stride, padding)
            for name, (_, _, _, stride, padding) in LAYOUT.items()
        }

    def __call__(self, x: Tensor) -> Tensor:
        """The mean over the last 8x8 positions."""
        x = ((bilinear_tf1(x, SIDE) - 128.0) / 128.0).contiguous(memory_format=torch.channels_last)
        x = self._through(x, "Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3")
        x = self._through(F.max_pool2d(x, 3, 2), "Conv2d_3b_1x1", "Conv2d_4a_3x3")
        x = F.max_pool2d(x, 3, 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.a(name, x)
        x = self.b("Mixed_6a", x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.c(name, x)
        x = self.d("Mixed_7a", x)
        x = self.e("Mixed_7b", x, _mean3(x))
        x = self.e("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
        return x.mean((2, 3))

    def a(self, name: str, x: Tensor) -> Tensor:
        """35x35: 1x1, 5x5, twice 3x3, and a pool."""
        return self._joined(
            self._branch(name, x, "1x1"),
            self._branch(name, x, "5x5_1", "5x5_2"),
            self._branch(name, x, "3x3dbl_1", "3x3dbl_2", "3x3dbl_3"),
            self._branch(name, _mean3(x), "_pool"),
        )

    def b(self, name: str, x: Tensor) -> Tensor:
        """From 35x35 to 17x17."""
        return self._joined(
            self._branch(name, x, "3x3"),
            self._branch(name, x, "3x3dbl_1", "3x3dbl_2", "3x3dbl_3"),
            F.max_pool2d(x, 3, 2),
        )

    def c(self, name: str, x: Tensor) -> Tensor:
        """17x17: 7x7 as 1x7 and 7x1, once and twice."""
        return self._joined(
            self._branch(name, x, "1x1"),
            self._branch(name, x, "7x7_1", "7x7_2", "7x7_3"),
            self._branch(name, x, *(f"7x7dbl_{i}" for i in range(1, 6))),
            self._branch(name, _mean3(x), "_pool"),
        )

    def d(self, name: str, x: Tensor) -> Tensor:
        """From 17x17 to 8x8."""
        return self._joined(
            self._branch(name, x, "3x3_1", "3x3_2"),
            self._branch(name, x, *(f"7x7x3_{i}" for i in range(1, 5))),
            F.max_pool2d(x, 3, 2),
        )

    def e(self, name: str, x: Tensor, pooled: Tensor) -> Tensor:
        """8x8: 3x3 as 1x3 beside 3x1. pooled: x, pooled by the mean in the first such block, by maximum in the last."""
        once = self._branch(name, x, "3x3_1")
        twice = self._branch(name, x, "3x3dbl_1", "3x3dbl_2")
        return self._joined(
            self._branch(name, x, "1x1"),
            self._branch(name, once, "3x3_2a"),
            self._branch(name, once, "3x3_2b"),
            self._branch(name, twice, "3x3dbl_3a"),
            self._branch(name, twice, "3x3dbl_3b"),
            self._branch(name, pooled, "_pool"),
        )

    def _branch(self, name: str, x: Tensor, *convs: str) -> Tensor:
        return self._through(x, *(f"{name}.branch{conv}" for conv in convs))

    def _through(self, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self.convs[name](x).relu_()
        return x

    @staticmethod
    def _joined(*branches: Tensor) -> Tensor:
        return torch.cat(branches, 1)


def _mean3(x: Tensor) -> Tensor:
    """The mean over 3x3 neighbours that are inside the picture."""
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _unfit(state: Mapping[str, Tensor]) -> str:
    """What is missing in a state dict, or of another shape; "" if it fits."""
    for name, (into, out, kernel, _, _) in LAYOUT.items():
        shapes: dict[str, tuple[int, ...]] = {f"{name}.conv.weight": (out, into, *kernel)}
        shapes |= {f"{name}.bn.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")}
        for key, shape in shapes.items():
            if key not in state:
                return f"it has no {key}"
            if state[key].shape != shape:
                return f"{key} has shape {list(state[key].shape)}, not {list(shape)}"
    return ""
