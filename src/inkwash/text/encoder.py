"""A frozen text encoder at work: texts in, the states of their tokens out.

Every text is read at its own length, together with texts of that length alone, in chunks of a fixed number, of which
the last is filled up with copies: nothing is padded, so nothing has to be masked, and no bit of a text's tokens depends
on what it is encoded with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 64
"""Texts of one length that are read together."""

CPU_CHUNK = 8
"""The same on a CPU: nearly four times as fast as one by one for captions of five tokens, and not slower than 32."""

Floats = npt.NDArray[np.float32]


class Tokens(NamedTuple):
    """The tokens of n texts: values [n, L, W] float32, zero where there is none; present [n, L] bool.

    cut: [n] bool, on the host, which of the texts were longer than the encoder reads.
    """

    values: Tensor
    present: Tensor
    cut: Tensor

    def padded(self, length: int) -> Tokens:
        """The same with so many tokens in every text, the further ones absent."""
        more = length - self.values.shape[1]
        if more < 0:
            raise ValueError(f"Texts of {self.values.shape[1]} tokens do not fit in {length}. Give them more room.")
        return Tokens(F.pad(self.values, (0, 0, 0, more)), F.pad(self.present, (0, more)), self.cut)


@dataclass(frozen=True, eq=False)
class Encoder:
    """A text encoder with its weights, on a device.

    width: numbers in a token; max_tokens: what is read of a text, special tokens (its beginning and end) among them;
    sha256: of the weights and the tokenizer, by which a model tells its own encoder from another. read: a text's token
    ids, special ones among them, however many; net: ids [B, L] to states [B, L, width]. fit: the first ids of too many.
    """

    width: int
    max_tokens: int
    sha256: str
    device: torch.device
    read: Callable[[str], list[int]]
    fit: Callable[[str], list[int]]
    net: Callable[[Tensor], Tensor]

    @property
    def key(self) -> str:
        """All that a text's tokens depend on, for a cache of them."""
        return f"{self.sha256} {self.max_tokens}"

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The tokens of texts, as many as the longest of them has; a text without a word has none: it is the null."""
        found, cut = self._states(texts)
        length = max((len(s) for s in found), default=0)
        values = torch.zeros(len(found), length, self.width, device=self.device)
        present = torch.zeros(len(found), length, dtype=torch.bool, device=self.device)
        for i, states in enumerate(found):
            values[i, : len(states)], present[i, : len(states)] = states, True
        return Tokens(values, present, torch.tensor(cut, dtype=torch.bool))

    def states(self, texts: Sequence[str]) -> list[Floats]:
        """The tokens of each text apart, [its number of tokens, width] float32: to be kept (`data.captions`)."""
        return [s.cpu().numpy() for s in self._states(texts)[0]]

    def count(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, also beyond those that are read."""
        return [len(self.read(t)) if t.strip() else 0 for t in texts]

    def _states(self, texts: Sequence[str]) -> tuple[list[Tensor], list[bool]]:
        ids = [self.read(t) if t.strip() else [] for t in texts]
        cut = [len(one) > self.max_tokens for one in ids]
        ids = [self.fit(t) if c else one for t, one, c in zip(texts, ids, cut, strict=True)]
        out = [torch.zeros(0, self.width, device=self.device)] * len(ids)
        for rows in self._chunks(ids):
            chunk = torch.tensor([ids[r] for r in rows], device=self.device)
            with torch.no_grad():
                for r, states in zip(rows, self.net(chunk), strict=False):  # the same row more than once, in the last
                    out[r] = states.float()
        return out, cut

    def _chunks(self, ids: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Rows to be read together: of one length, always equally many."""
        size = CPU_CHUNK if self.device.type == "cpu" else CHUNK
        rows = sorted((r for r in range(len(ids)) if ids[r]), key=lambda r: len(ids[r]))
        for _, same in groupby(rows, key=lambda r: len(ids[r])):
            group = list(same)
            for start in range(0, len(group), size):
                part = group[start : start + size]
                yield part + part[:1] * (size - len(part))
