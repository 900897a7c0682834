"""DiT: the diffusion transformer of Peebles & Xie (2022), and nothing that is not in their paper or its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor, nn

from inkwash.nets.layers import Embedding, zeroed
from inkwash.nets.transformer import (
    SIZES,
    Attention,
    Block,
    Front,
    GeluMlp,
    Sizes,
    Transformer,
    check_shape,
    sincos,
    sizes_of,
)
from inkwash.types import Component, Given


@dataclass(frozen=True)
class DiT(Component):
    """A diffusion transformer's configuration: a preset, and what to change in it. None is the preset's.

    preset: S (33M parameters), B (130M), L (458M), XL (675M), counted as in the paper: patches of 2, latents of 4
    channels, 1000 classes, a learned variance. patch: side of the squares a token stands for; the paper has 2, 4 and 8.
    depth, width, heads: blocks, numbers per token, attention heads. freq_shift: the frequencies of t are
    10000^(-i/(128 - freq_shift)), i = 0 .. 127, which the paper leaves open; 1 is what diffusers' DiT has, 0 what
    DiT-XL/2 was trained with. mlp_eps: in the norm before each MLP, 1e-5 in most of diffusers' folders.
    A text's tokens stand before the patches, as the paper's in-context conditioning does it. Positions are a fixed
    table of sines by the patch's index, for any size.
    Raises ValueError for values that make no network.
    """

    preset: Literal["S", "B", "L", "XL"] = "S"
    patch: int = 2
    depth: int | None = None
    width: int | None = None
    heads: int | None = None
    freq_shift: float = 1.0
    mlp_eps: float = 1e-6
    kind: Literal["dit"] = field(default="dit", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        sizes_of("DiT", SIZES, self)
        if not 0 <= self.freq_shift <= 1:
            raise ValueError(
                f"DiT freq_shift is {self.freq_shift}: it must lie in [0, 1]. diffusers' is 1, DiT-XL/2's 0."
            )
        if not 0 < self.mlp_eps < 1:
            raise ValueError(f"DiT mlp_eps is {self.mlp_eps}: it must lie in (0, 1), and be small. Take 1e-6.")

    def resolve(self, shape: tuple[int, ...]) -> DiT:
        """The same network with every field stated, whatever presets become later."""
        return replace(self, **vars(sizes_of("DiT", SIZES, self)))

    def build(self, shape: tuple[int, ...], given: Given | None = None, outputs: int = 1) -> nn.Module:
        """The module for pictures of shape (C, H, W), told what `given` says (None: nothing but the time).

        It takes pictures of other sizes too, and does not depend on H and W. Its answers have outputs·C channels.
        Raises ValueError where the picture is not made of whole patches.
        """
        check_shape("DiT", shape, self.patch)
        return _Module(self, sizes_of("DiT", SIZES, self), shape[0], given or Given(), outputs)


class _Module(Transformer):
    def __init__(self, config: DiT, sizes: Sizes, channels: int, given: Given, outputs: int) -> None:
        width, depth = sizes.width, sizes.depth

        def norm(eps: float = 1e-6) -> nn.LayerNorm:
            return nn.LayerNorm(width, eps, elementwise_affine=False)

        super().__init__(
            channels,
            given,
            config.patch,
            outputs,
            Embedding(width, given, frequencies=128, shift=config.freq_shift),
            Front(width, 0, given.tokens, bias=True),
            [Block(Attention(width, sizes.heads), norm(), GeluMlp(width), norm(config.mlp_eps)) for _ in range(depth)],
            norm(),
            bias=True,
        )
        self.start()
        # One linear layer speaks to all blocks at once, 6 vectors each, and to the last norm, 2.
        self.modulation = zeroed(nn.Linear(width, (6 * depth + 2) * width))

    def placed(self, h: Tensor, rows: int, cols: int) -> Tensor:
        """The patches' tokens with their table of positions added."""
        return h + sincos(rows, cols, h.shape[2], h)

    def told(self, e: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """A matrix of its own for each block."""
        blocks, last = self.modulation(e).tensor_split([-2 * e.shape[1]], dim=1)
        return blocks.chunk(len(self.blocks), dim=1), last
