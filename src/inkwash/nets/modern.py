"""ModernDiT: the diffusion transformer with what has been learned since, at the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor, nn

from inkwash.nets.layers import Embedding, zeroed
from inkwash.nets.transformer import (
    SIZES,
    Attention,
    Block,
    Front,
    Rotation,
    Sizes,
    SwiGlu,
    Transformer,
    check_shape,
    rotary,
    sizes_of,
)
from inkwash.types import Component, Given

_PRESETS = {"XS": Sizes(depth=6, width=256, heads=4), **SIZES}


@dataclass(frozen=True)
class ModernDiT(Component):
    """A modern diffusion transformer's configuration: a preset, and what to change in it. None is the preset's.

    preset: XS (5M parameters, for 28x28 to 32x32 pixels on a CPU), S (23M), B (91M), L (314M), XL (460M). patch: side
    of the squares a token stands for; unless stated, the least of 1, 2, 4, 8 .. with which the longer side has at most
    16 of them, 8 with XS. Where a patch has as many numbers as the width or more, predict x0: the data lie on few of
    those dimensions and noise does not (Li & He 2025). depth, width, heads: blocks, numbers per token, attention heads.
    registers: learned tokens that stand before the patches (Darcet et al. 2023).
    Blocks are adaLN-zero without biases: RMS norms, queries and keys normed, rotary positions by row and column, and
    SwiGLU. One matrix makes the modulation of all blocks, to which each adds a learned vector (Chen et al. 2023): a
    third of DiT's parameters less. A text's tokens stand with the registers.
    Raises ValueError for values that make no network.
    """

    preset: Literal["XS", "S", "B", "L", "XL"] = "XS"
    patch: int | None = None
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    registers: int = 4
    kind: Literal["modern-dit"] = field(default="modern-dit", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        sizes_of("ModernDiT", _PRESETS, self)
        if self.registers < 0:
            raise ValueError(f"ModernDiT registers is {self.registers}: it must be 0 or more.")

    def resolve(self, shape: tuple[int, ...]) -> ModernDiT:
        """The same network for pictures of shape (C, H, W) with every field stated, whatever presets become later."""
        sizes, patch = sizes_of("ModernDiT", _PRESETS, self), self.patch
        if patch is None:
            patch, most = 1, 8 if self.preset == "XS" else 16
            while max(shape[-2:]) > most * patch:
                patch *= 2
        return replace(self, patch=patch, **vars(sizes))

    def build(self, shape: tuple[int, ...], given: Given | None = None, outputs: int = 1) -> nn.Module:
        """The module for pictures of shape (C, H, W), told what `given` says (None: nothing but the time).

        It takes pictures of other sizes too; H and W decide the patch alone. Its answers have outputs·C channels.
        Raises ValueError where the picture is not made of whole patches.
        """
        patch = self.resolve(shape).patch or 1
        check_shape("ModernDiT", shape, patch)
        sizes = sizes_of("ModernDiT", _PRESETS, self)
        return _Module(sizes, patch, self.registers, shape[0], given or Given(), outputs)


class _Module(Transformer):
    def __init__(self, sizes: Sizes, patch: int, registers: int, channels: int, given: Given, outputs: int) -> None:
        width, depth = sizes.width, sizes.depth

        def norm() -> nn.RMSNorm:
            return nn.RMSNorm(width, 1e-6, elementwise_affine=False)

        def attention() -> Attention:
            return Attention(width, sizes.heads, bias=False, normed=True)

        super().__init__(
            channels,
            given,
            patch,
            outputs,
            Embedding(width, given, frequencies=128),
            Front(width, registers, given.tokens, bias=False),
            [Block(attention(), norm(), SwiGlu(width), norm()) for _ in range(depth)],
            norm(),
            bias=False,
        )
        self.start()
        self.head_dim = width // sizes.heads
        self.modulation = zeroed(nn.Linear(width, 8 * width, bias=False))  # 6 vectors for blocks, 2 for the last norm
        self.offsets = nn.Parameter(torch.zeros((6 * depth + 2) * width))

    def turned(self, h: Tensor, rows: int, cols: int) -> Rotation:
        """By row and column. What stands before the patches is not turned, as the patch of the first row and column.

        So a patch sees from it where in the picture it is itself, which no patch can tell it.
        """
        return rotary(rows, cols, self.head_dim, h, h.shape[1] - rows * cols)

    def told(self, e: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """The same for all blocks, and a learned vector of each."""
        width = e.shape[1]
        shared, last = self.modulation(e).tensor_split([6 * width], dim=1)
        own, of_last = self.offsets.to(e.dtype).tensor_split([-2 * width])
        return [shared + o for o in own.chunk(len(self.blocks))], last + of_last
