"""What can go wrong with a checkpoint."""

from __future__ import annotations


class CheckpointError(RuntimeError):
    """A checkpoint is missing, half-written or altered, or could not be written."""


class DiskFull(CheckpointError):  # noqa: N818
    """A checkpoint did not fit on the disk; nothing of it is left, and what was published before is untouched."""


class NonFinite(CheckpointError):  # noqa: N818
    """A tensor to be stored holds NaN or infinity; nothing was written."""
