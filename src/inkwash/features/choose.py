"""The feature nets by name."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import nn

from inkwash.features.classifier import Classifier
from inkwash.features.dinov2 import DinoV2
from inkwash.features.extract import Extractor, wrapped
from inkwash.features.inception import Inception
from inkwash.features.lite0 import Lite0
from inkwash.features.raw import Raw
from inkwash.kinds import OneOf, from_text

AnyFeatures = Annotated[Lite0 | Inception | Classifier | DinoV2 | Raw, OneOf()]
"""A feature net as a recipe or a command line names it."""


def extractor(features: Any, device: torch.device | str = "cpu") -> Extractor:
    """A feature net, ready to be used on a device.

    features: its text form, "lite0" or "inception(weights=…)"; a component, also one's own ("mine:Net": a frozen
    dataclass whose load(device) gives an `Extractor`); or an nn.Module by torchmetrics' convention (`num_features`, and
    uint8 [B, 3, H, W] to [B, num_features]). Raises ValueError for others, and where weights or packages are missing.
    """
    device = torch.device(device)
    if isinstance(features, nn.Module):
        return wrapped(features, device)
    chosen = from_text(AnyFeatures, features, "feature net") if isinstance(features, str) else features
    loaded = chosen.load(device) if hasattr(chosen, "load") else None
    if not isinstance(loaded, Extractor):
        raise ValueError(
            f"{chosen!r} is no feature net: it needs a method load(device) that gives an inkwash.features.Extractor."
        )
    return loaded
