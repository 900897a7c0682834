"""Where picture files lie: a folder, a zip, a tar. Archives are read member by member and never extracted."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from inkwash.data.decode import SUFFIXES, Blob

METADATA = "metadata.jsonl"
_IDX = re.compile(r"(train|t10k)-(images|labels)[-.]idx[13]-ubyte(\.gz)?$")
_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_DAMAGE: tuple[type[Exception], ...] = (tarfile.TarError, EOFError, zlib.error, OSError)
with suppress(ImportError):  # Python can be built without it
    from lzma import LZMAError

    _DAMAGE = (*_DAMAGE, LZMAError)
_HOLD = 1 << 28  # bytes of a tar kept in memory between listing and decoding, rather than read twice


@dataclass
class Listing:
    """What a source holds: names relative to it, with "/" between their parts.

    images: sorted; metadata: the contents of each metadata.jsonl; idx: files in the format of MNIST;
    other: how many files of each suffix were passed over.
    """

    images: list[str] = field(default_factory=list)
    metadata: dict[str, bytes] = field(default_factory=dict)
    idx: list[str] = field(default_factory=list)
    other: Counter[str] = field(default_factory=Counter)

    def take(self, name: str) -> str:
        """Note a file; returns what it is: hidden, metadata, image, idx or other."""
        parts = name.split("/")
        if any(p.startswith(".") or p == "__MACOSX" for p in parts):
            return "hidden"
        suffix = posixpath.splitext(parts[-1])[1].lower()
        if parts[-1] == METADATA:
            return "metadata"
        if suffix in SUFFIXES:
            self.images.append(name)
            return "image"
        if _IDX.search(parts[-1]):
            self.idx.append(name)
            return "idx"
        self.other[suffix or parts[-1]] += 1
        return "other"


class Source(Protocol):
    """A place with picture files."""

    @property
    def path(self) -> Path:
        """Of the folder or the file."""
        ...

    def key(self) -> str:
        """Changes whenever the contents may have changed; cheap."""
        ...

    def listing(self) -> Listing:
        """Everything in it."""
        ...

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, Blob]]:
        """The files `names`, in whatever order is quickest; an exception stands for one that cannot be read."""
        ...


@dataclass(frozen=True)
class Folder:
    """A folder and all folders in it, links followed. Its key is of (name, size, time of change) of every file."""

    path: Path

    def key(self) -> str:
        """See `Source`."""
        stats = ((name, (self.path / name).stat()) for name in sorted(self._walk()))
        return repr([str(self.path.resolve()), *((n, s.st_size, s.st_mtime_ns) for n, s in stats)])

    def listing(self) -> Listing:
        """See `Source`."""
        found = Listing()
        for name in self._walk():
            if found.take(name) == "metadata":
                found.metadata[name] = (self.path / name).read_bytes()
        found.images.sort()
        return found

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, Blob]]:
        """See `Source`: paths, which the decoding threads open themselves."""
        for name in names:
            path = self.path / name
            size = path.stat().st_size if path.is_file() else 0
            yield name, path if size <= max_bytes else _too_large(size, max_bytes)

    def _walk(self) -> Iterator[str]:
        seen: set[tuple[int, int]] = set()
        for root, folders, files in os.walk(self.path, followlinks=True):
            status = Path(root).stat()
            if (status.st_dev, status.st_ino) in seen and status.st_ino:  # a link that leads back up
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = [f for f in folders if not f.startswith(".") and f != "__MACOSX"]
            inside = Path(root).relative_to(self.path).as_posix()
            prefix = "" if inside == "." else f"{inside}/"
            for name in files:
                if not name.startswith(".") and (Path(root) / name).is_file():  # not a dangling link, not a socket
                    yield prefix + name


@dataclass(frozen=True)
class Zip:
    """A .zip file. Its key is of its own size and time of change."""

    path: Path

    def key(self) -> str:
        """See `Source`."""
        return _file_key(self.path)

    def listing(self) -> Listing:
        """See `Source`."""
        found = Listing()
        with self._open() as archive:
            for info in archive.infolist():
                if not info.is_dir() and found.take(info.filename) == "metadata":
                    found.metadata[info.filename] = archive.read(info)
        found.images = sorted(set(found.images))
        return found

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, Blob]]:
        """See `Source`."""
        with self._open() as archive:
            for info in sorted((archive.getinfo(n) for n in names), key=lambda i: i.header_offset):
                try:
                    with archive.open(info) as member:
                        blob: Blob = _bounded(member, info.file_size, max_bytes)
                # RuntimeError: a password; NotImplementedError: an unknown compression.
                except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error, EOFError) as error:
                    blob = error
                yield info.filename, blob

    def _open(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.path} is not a whole zip file ({error}). Copy or download it again.") from error


class _Scan(NamedTuple):
    """A tar read once: its listing, where the last member of each name begins, and the contents where they are small.

    To find a member means to read all before it, so that what fits in memory is kept.
    """

    listing: Listing
    last: dict[str, int]
    held: dict[str, bytes] | None


@dataclass(frozen=True)
class Tar:
    """A .tar, plain or compressed, read from beginning to end. Its key is of its own size and time of change."""

    path: Path

    def key(self) -> str:
        """See `Source`."""
        return _file_key(self.path)

    def listing(self) -> Listing:
        """See `Source`."""
        return self._scan.listing

    def read(self, names: Collection[str], max_bytes: int) -> Iterator[tuple[str, Blob]]:
        """See `Source`. Of several members of one name, the last counts, as it does when a tar is unpacked."""
        wanted, scan = set(names), self._scan
        if scan.held is not None:
            for name in names:
                data = scan.held[name]
                yield name, data if len(data) <= max_bytes else _too_large(len(data), max_bytes)
            return
        with self._damage_named():
            for name, member, archive in self._members():
                if name in wanted and scan.last[name] == member.offset and (file := archive.extractfile(member)):
                    yield name, _bounded(file, member.size, max_bytes)

    @cached_property
    def _scan(self) -> _Scan:
        found, last, held, room = Listing(), dict[str, int](), dict[str, bytes](), _HOLD
        with self._damage_named():
            for name, member, archive in self._members():
                if (kind := found.take(name)) in ("hidden", "other"):
                    continue
                last[name] = member.offset
                room -= member.size
                if room < 0:
                    held.clear()
                if room >= 0 or kind == "metadata":
                    file = archive.extractfile(member)
                    held[name] = file.read() if file else b""
                if kind == "metadata":
                    found.metadata[name] = held[name]
        found.images = sorted(set(found.images))
        return _Scan(found, last, held if room >= 0 else None)

    def _members(self) -> Iterator[tuple[str, tarfile.TarInfo, tarfile.TarFile]]:
        with tarfile.open(self.path) as archive:
            for member in archive:
                if member.isreg():
                    yield posixpath.normpath(member.name).lstrip("/"), member, archive
            # A tar ends with a block of zeros, just read. One cut between two members lacks it, and reads as if it
            # were whole.
            if archive.fileobj is not None and archive.fileobj.tell() <= archive.offset:
                raise EOFError("its end is missing")

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise ValueError(f"{self.path} is not a whole tar file ({error}). Copy or download it again.") from error


def archive_or_folder(path: Path) -> Source | None:
    """The source at a path that exists, told by its name; None for a file that is neither."""
    if path.is_dir():
        return Folder(path)
    name = path.name.lower()
    if not name.endswith(_ARCHIVES):
        return None
    return Zip(path) if name.endswith(".zip") else Tar(path)


def _file_key(path: Path) -> str:
    status = path.stat()
    return repr((str(path.resolve()), status.st_size, status.st_mtime_ns))


def _bounded(file: IO[bytes], size: int, max_bytes: int) -> Blob:
    """A member's contents; a small archive can hold a file that would fill the memory."""
    if size > max_bytes:
        return _too_large(size, max_bytes)
    return file.read(size)


def _too_large(size: int, max_bytes: int) -> ValueError:
    return ValueError(f"a file of {size:,} bytes is larger than any picture within max_pixels ({max_bytes:,} bytes)")
