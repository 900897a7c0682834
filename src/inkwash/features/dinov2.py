"""DINOv2 (Oquab et al. 2023), a self-supervised vision transformer: features that know no ImageNet classes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from inkwash.features.extract import Extractor
from inkwash.features.resize import bicubic
from inkwash.features.weights import tensors_hash
from inkwash.types import Component

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pixels in [0, 1], which DINOv2 was trained with."""


@dataclass(frozen=True)
class DinoV2(Component):
    """The class token after the last norm: as many features as the model is wide (384 for small, 1024 for large).

    Stein et al. 2023 ("Exposing flaws of generative model evaluation metrics") found distances in it to agree with
    people best; they used "facebook/dinov2-large", 14 times the work of the default. weights: a folder that
    transformers saved, or a model's name on the Hugging Face hub, fetched once; only .safetensors are read.
    """

    weights: str = "facebook/dinov2-small"
    kind: Literal["dinov2"] = field(default="dinov2", kw_only=True, repr=False)

    def load(self, device: torch.device) -> Extractor:
        """The net on a device. Raises ValueError where transformers is not installed, or the weights cannot be had."""
        try:
            from transformers import Dinov2Model
        except ImportError as error:
            raise ValueError(
                'dinov2 needs transformers, which is not installed. Install it: pip install "inkwash[dinov2]"'
            ) from error
        place = Path(self.weights).expanduser()
        try:
            source = str(place) if place.is_dir() else self.weights
            with _silent():
                model: nn.Module = Dinov2Model.from_pretrained(source, use_safetensors=True)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"DINOv2's weights {self.weights!r} cannot be had: {first} Without a network, fetch them where there "
                f'is one (`hf download {DinoV2.weights} --local-dir FOLDER`) and take dinov2(weights="FOLDER").'
            ) from error
        width = int(cast(Any, model).config.hidden_size)
        model.to(device, torch.float32).eval()
        mean, std = (torch.tensor(c, device=device).reshape(3, 1, 1) for c in (MEAN, STD))

        def net(x: Tensor) -> Tensor:
            tokens: Tensor = model((bicubic(x, SIDE) / 255.0 - mean) / std).last_hidden_state
            return tokens[:, 0]

        return Extractor(
            name=self.kind,
            num_features=width,
            weights=tensors_hash(model.state_dict()),
            resize=f"bicubic (a = -0.5, antialiased, in floats, clipped) to {SIDE}x{SIDE}",
            device=device,
            net=net,
            chunk=8 if device.type == "cpu" else 128,
        )


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' own progress bar for reading a file."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
