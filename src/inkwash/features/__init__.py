"""Feature nets: what pictures are turned into before two sets of them are compared. Each is one small component."""

from inkwash.features.choose import AnyFeatures, extractor
from inkwash.features.classifier import Classifier
from inkwash.features.dinov2 import DinoV2
from inkwash.features.extract import Extractor
from inkwash.features.inception import Inception
from inkwash.features.judge import Judge, classifier_file, load_judge, probe_file
from inkwash.features.lite0 import Lite0
from inkwash.features.raw import Raw
from inkwash.features.weights import tensors_hash

__all__ = [
    "AnyFeatures",
    "Classifier",
    "DinoV2",
    "Extractor",
    "Inception",
    "Judge",
    "Lite0",
    "Raw",
    "classifier_file",
    "extractor",
    "load_judge",
    "probe_file",
    "tensors_hash",
]
