"""From a specification to a data set."""

from __future__ import annotations

from pathlib import Path

from inkwash.data.builtin import known_set
from inkwash.data.cache import cache_dir
from inkwash.data.dataset import Dataset
from inkwash.data.fetch import Progress
from inkwash.data.generated import POINTS, points
from inkwash.data.known import KNOWN
from inkwash.data.spec import DataSpec


def load(spec: DataSpec | str, *, progress: Progress | None = None, cache: Path | None = None) -> Dataset:
    """The data set that `spec` (or a source alone) describes, from its pack in the cache, made there if need be."""
    spec = DataSpec(spec) if isinstance(spec, str) else spec
    cache = cache or cache_dir()
    if spec.source in POINTS:
        return points(spec.source, spec.split, spec.limit)
    if spec.source in KNOWN:
        return known_set(spec.source, spec.split, cache, progress)
    raise ValueError(f"{spec.source} is not known.")
