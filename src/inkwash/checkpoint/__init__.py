"""Checkpoints: folders that are either whole or not there, whatever kills the process or fills the disk.

Writing. Everything is written to a hidden sibling, `.inkwash-staging-*`, each file is flushed to the disk, the
manifest (sizes and SHA-256) comes last, and one rename gives the folder its name. A folder without a manifest is
therefore half-written, and one with a manifest can be checked. Weights are safetensors, the rest is text: no pickle.

Replacing. A folder that has files cannot be renamed over, so a published folder is replaced in one of two ways.
Linux and macOS can *exchange* two names in one step: then there is no instant without a whole folder under the name,
for any program that looks. Where the system or the file system cannot (Windows, some network disks), the old folder
is renamed to `.inkwash-old-*` and the new one takes its place; between those two renames the readers below find the
old one under its hidden name, and the next writer puts it back if the process died right there. A symbolic link to
the newest version would be simpler and as atomic, but `model/` is a folder that people copy, zip and upload.

Reading. Opening a folder's files one by one while it is replaced could mix two versions. So a reader looks at the
manifest, reads, and looks at the manifest again: if it changed, it starts over (a sequence lock).

Left-overs. A writer holds a lock on its staging folder, which the system releases when the process dies, however it
dies. The next `publish` into the same parent deletes the staging folders that nobody holds.
"""

from inkwash.checkpoint.errors import CheckpointError, DiskFull, NonFinite
from inkwash.checkpoint.folder import (
    MANIFEST,
    VERSION,
    Checkpoint,
    load,
    load_text,
    newest_good,
    prune,
    publish,
    verify,
)
from inkwash.checkpoint.state import flatten, unflatten

__all__ = [
    "MANIFEST",
    "VERSION",
    "Checkpoint",
    "CheckpointError",
    "DiskFull",
    "NonFinite",
    "flatten",
    "load",
    "load_text",
    "newest_good",
    "prune",
    "publish",
    "unflatten",
    "verify",
]
