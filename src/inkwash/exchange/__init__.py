"""Models to and from the rest of the field: diffusers' folders, ONNX and torch.export graphs, and a hub."""

from inkwash.exchange.comparing import Compared
from inkwash.exchange.exporting import to_diffusers
from inkwash.exchange.graphs import to_onnx, to_torch_export
from inkwash.exchange.hub import pull, push
from inkwash.exchange.importing import Imported, from_diffusers
from inkwash.exchange.official import from_dit

__all__ = [
    "Compared",
    "Imported",
    "from_diffusers",
    "from_dit",
    "pull",
    "push",
    "to_diffusers",
    "to_onnx",
    "to_torch_export",
]
