"""A text encoder so small that it is nothing: each word has 8 numbers, a function of its letters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from zlib import crc32

import torch
from torch import Tensor

from inkwash.text import Encoder
from inkwash.types import Component

WIDTH = 8


@dataclass(frozen=True)
class Words(Component):
    """salt: another has other weights, and says so by its SHA-256."""

    salt: int = 0
    max_tokens: int = 4
    kind: Literal["tinytext:Words"] = field(default="tinytext:Words", kw_only=True, repr=False)
    width: ClassVar[int] = WIDTH

    def bind(self, device: torch.device | str = "cpu") -> Encoder:
        def read(text: str) -> list[int]:
            return [crc32(word.encode()) % 1009 for word in text.split()]

        def net(ids: Tensor) -> Tensor:
            place = torch.arange(WIDTH, device=ids.device) + 1
            return torch.sin((ids[..., None] + 0.37 * self.salt) * place * 0.7)

        bound: Any = Encoder
        sha256 = f"{self.salt:064x}"
        return bound(
            WIDTH, self.max_tokens, sha256, torch.device(device), read, lambda t: read(t)[: self.max_tokens], net
        )
