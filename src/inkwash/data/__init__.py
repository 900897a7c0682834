"""The data room: from a folder, an archive, an array or a name to packed examples in a reproducible order."""

from __future__ import annotations

from inkwash.data.cache import cache_dir
from inkwash.data.dataset import Dataset
from inkwash.data.fetch import DatasetUnavailableError
from inkwash.data.load import load
from inkwash.data.spec import DataSpec
from inkwash.data.stream import Rows, Stream, order, split

__all__ = ["DataSpec", "Dataset", "DatasetUnavailableError", "Rows", "Stream", "cache_dir", "load", "order", "split"]
