"""A residual multilayer perceptron, for points in the plane and other plain vectors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.nets.layers import Embedding, zeroed
from inkwash.types import Component, Condition, Given


@dataclass(frozen=True)
class MLP(Component):
    """A perceptron's configuration: `depth` residual blocks of `width` units, each told the time, numbers, a label.

    Raises ValueError for sizes below 1.
    """

    width: int = 128
    depth: int = 3
    kind: Literal["mlp"] = field(default="mlp", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"MLP {name} is {getattr(self, name)}: it must be 1 or more.")

    def build(self, shape: tuple[int, ...], given: Given | None = None, outputs: int = 1) -> nn.Module:
        """The module for vectors of shape (D,), told what `given` says (None: nothing but the time).

        Its answers have outputs·D numbers.
        """
        if len(shape) != 1:
            raise ValueError(f"An MLP takes vectors (D,), not data of shape {shape}: use a UNet for pictures.")
        if given is not None and given.tokens:
            raise ValueError("An MLP takes no text tokens: it has no attention. Use a label.")
        if given is not None and given.image:
            raise ValueError("An MLP is shown no picture beside x: it has no places. Use a vector.")
        return _Module(self, shape[0], given or Given(), outputs)


class _Module(nn.Module):
    """x + W2 silu((1 + scale)·W1 x + shift), `depth` times, between two linear layers; the last starts at zero."""

    def __init__(self, config: MLP, features: int, given: Given, outputs: int) -> None:
        super().__init__()
        width, depth = config.width, config.depth
        self.features, self.places = features, 1
        self.embed = Embedding(width, given)
        self.modulation = nn.Linear(width, 2 * width * depth)
        self.first = nn.Linear(features, width)
        self.into = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.last = zeroed(nn.Linear(width, outputs * features))

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Predict the target for x [B, D] at t_emb [B], for a jump to s_emb [B]."""
        if x.ndim != 2 or x.shape[1] != self.features:
            raise ValueError(f"This MLP takes vectors [B, {self.features}], not {list(x.shape)}.")
        modulation = self.modulation(self.embed(t_emb, s_emb, cond)).chunk(2 * len(self.into), dim=1)
        h = self.first(x)
        for i, (into, back) in enumerate(zip(self.into, self.back, strict=True)):
            scale, shift = modulation[2 * i], modulation[2 * i + 1]
            h = h + back(F.silu(torch.addcmul(shift, into(h), scale + 1)))
        out: Tensor = self.last(F.silu(h))
        return out
