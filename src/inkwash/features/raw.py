"""The numbers themselves: for points in the plane, and as a baseline for pictures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.features.extract import Extractor
from inkwash.features.weights import tensors_hash
from inkwash.types import Component


@dataclass(frozen=True)
class Raw(Component):
    """Vectors as they are; 8-bit pictures as H·W·C numbers u/255; pictures of floats as they are, flattened."""

    kind: Literal["raw"] = field(default="raw", kw_only=True, repr=False)

    def load(self, device: torch.device) -> Extractor:
        """As many features as an example has numbers: `num_features` is 0, and `width` tells."""
        return Extractor(
            name=self.kind,
            num_features=0,
            weights=tensors_hash({}),
            resize="none",
            device=device,
            net=lambda x: x,
            prepare=_flat,
            chunk=1024,
        )


def _flat(u: Tensor) -> Tensor:
    return u.flatten(1).float() / (255.0 if u.dtype == torch.uint8 else 1.0)
