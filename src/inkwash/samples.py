"""What a pipeline draws, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inkwash.codec import Codec, Pixels

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Samples:
    """What a pipeline drew: `array` [n, H, W, C] uint8 (floats for models of floats, [n, D] for vectors) and how.

    labels: the class name of each, or () without classes; settings: everything needed to draw them again, but for
    pictures, of which it has the SHA-256; captions: what was asked of each in words, or () where nothing was; shown:
    the pictures uint8 [n, H, W, C] that the model was shown, or None.
    """

    array: np.ndarray
    labels: tuple[str, ...]
    settings: dict[str, Any]
    codec: Codec = field(default_factory=Pixels)
    captions: tuple[str, ...] = ()
    shown: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int) -> Image:
        """Sample i as a picture."""
        from PIL.Image import fromarray

        picture = replace(self, array=self.array[[i]]).pictures()[0]
        return fromarray(picture[..., 0] if picture.shape[-1] < 3 else picture[..., :3])

    def pictures(self) -> np.ndarray:
        """All samples as 8-bit pictures [n, H, W, C]."""
        shown: np.ndarray = self.codec.picture(torch.from_numpy(self.array)).numpy()
        return shown
