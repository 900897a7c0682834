"""What a feature net is to those who measure with it: stored pictures in, one row of numbers for each out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.features.weights import tensors_hash


def rgb(u: Tensor) -> Tensor:
    """Pictures [B, H, W, C] uint8 as float32 planes [B, 3, H, W] in 0..255: grey repeated, RGBA over white, unrounded.

    Raises ValueError for what is not 8-bit pictures of 1, 3 or 4 channels.
    """
    if u.ndim != 4 or u.dtype != torch.uint8 or u.shape[3] not in (1, 3, 4):
        raise ValueError(
            f"This feature net takes 8-bit pictures [B, H, W, 1, 3 or 4], not {u.dtype} of shape {list(u.shape)}. "
            "For points and other arrays of numbers, take features = raw."
        )
    x = u.permute(0, 3, 1, 2).float()
    if u.shape[3] == 4:
        cover = x[:, 3:] / 255.0
        return x[:, :3] * cover + 255.0 * (1.0 - cover)
    return x.expand(-1, 3, -1, -1)


@dataclass(frozen=True, eq=False)
class Extractor:
    """A feature net ready to be used.

    name: its kind, "lite0"; only "inception" may print "FID", others "FD-<name>". Where the weights come from is no
        part of it: their hash says which they are.
    num_features: numbers for each picture; 0 where that is as many as the picture itself has (`width` tells).
    weights: SHA-256 (hex) of its weights, see `tensors_hash`.
    resize: what is done to a picture first, in words.
    device: where it computes.
    net: what is called, on the device: a chunk as `prepare` gives it to [chunk, num_features].
    prepare: pictures as they are stored, on the device, to what `net` takes; raises ValueError for others.
    version: of the code that computes them: raised where a change of it changes a number, so that no features are found
        that the code before has left.
    chunk: how many are computed at a time. The last chunk of a call is filled up with zeros, so that a picture's
        features have the same bits whatever the call it is in, with the same device, version and number of threads.
    """

    name: str
    num_features: int
    weights: str
    resize: str
    device: torch.device
    net: Callable[[Tensor], Tensor]
    prepare: Callable[[Tensor], Tensor] = rgb
    chunk: int = 32
    version: int = 1

    @property
    def identity(self) -> dict[str, Any]:
        """What features are kept and compared by, JSON-able: those of two nets are the same where this is."""
        return {"features": self.name, "weights": self.weights, "resize": self.resize, "version": self.version}

    def __call__(self, pictures: npt.NDArray[Any]) -> Tensor:
        """uint8 [B, H, W, C] (for `raw` also float [B, D]) to float32 [B, num_features], on the CPU.

        Computed in float32 on every device, whatever precision the process allows elsewhere, and without gradients.
        """
        out = torch.empty(len(pictures), self.width(pictures))
        with exact(self.device):
            for i in range(0, len(pictures), self.chunk):
                part = np.array(pictures[i : i + self.chunk])  # a copy: memory-mapped sets are read-only
                missing = self.chunk - len(part)
                u = F.pad(torch.from_numpy(part), (0, 0) * (part.ndim - 1) + (0, missing))
                out[i : i + len(part)] = self.net(self.prepare(u.to(self.device)))[: len(part)]
        return out

    def width(self, pictures: npt.NDArray[Any]) -> int:
        """How many numbers each of these pictures gets."""
        return self.num_features or math.prod(pictures.shape[1:])


def wrapped(module: nn.Module, device: torch.device) -> Extractor:
    """Somebody's own net by torchmetrics' convention: `num_features`, and uint8 [B, 3, H, W] to [B, num_features].

    The module is moved to the device and put in evaluation mode. Its name is its class's, and its weights are those in
    its state_dict. Raises ValueError where it has no `num_features`.
    """
    features = getattr(module, "num_features", None)
    if not isinstance(features, int) or features < 1:
        raise ValueError(
            f"{type(module).__qualname__} has num_features = {features!r}: a feature net says how many numbers it "
            "gives for a picture. Set self.num_features = 512, or whatever it is."
        )
    module.to(device).eval()
    return Extractor(
        name=type(module).__qualname__,
        num_features=features,
        weights=tensors_hash(module.state_dict()),
        resize="its own",
        device=device,
        net=lambda x: module(x).float().reshape(len(x), features),
        prepare=lambda u: rgb(u).round().to(torch.uint8),
    )


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Without gradients, and with float32 that is float32: no autocast, TF32 or bfloat16 inside, whatever is set.

    By default cuDNN's convolutions keep 10 of 23 bits (TF32), which alone moves a Fréchet distance.
    """
    backends: Any = torch.backends  # missing from torch's annotations
    spots = [backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul]
    before = [spot.fp32_precision for spot in spots]
    try:
        for spot in spots:
            spot.fp32_precision = "ieee"
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        for spot, precision in zip(spots, before, strict=True):
            spot.fp32_precision = precision
