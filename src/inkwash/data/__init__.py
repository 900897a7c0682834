"""The data room: from a folder, an archive, an array or a name to packed examples in a reproducible order."""

from __future__ import annotations

from inkwash.data.cache import cache_dir
from inkwash.data.check import Report, check, contact_sheet
from inkwash.data.dataset import Dataset, Rows
from inkwash.data.fetch import DatasetUnavailableError, Progress
from inkwash.data.find import NAMES
from inkwash.data.load import load, load_or_generated
from inkwash.data.spec import DataSpec
from inkwash.data.stream import Stream, flips, order, split

__all__ = [
    "NAMES",
    "DataSpec",
    "Dataset",
    "DatasetUnavailableError",
    "Progress",
    "Report",
    "Rows",
    "Stream",
    "cache_dir",
    "check",
    "contact_sheet",
    "flips",
    "load",
    "load_or_generated",
    "order",
    "split",
]
