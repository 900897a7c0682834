"""Finding the files of a named data set: the cache, the system, the web, then Debian's package without root."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path

from inkwash.data.known import Known
from inkwash.data.spec import Split

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is in all; 0 if unknown)."""

Way = tuple[str, Callable[[], dict[str, bytes]]]

_TIMEOUT = 5.0  # seconds without an answer or a byte; a machine without a network should learn so at once
_SYSTEM = Path("/usr/share/datasets")
_LIMIT = 1 << 28  # bytes: no file of a known set is larger, compressed or not


class DatasetUnavailableError(RuntimeError):
    """A named data set could not be found or fetched. `tried`: (way, why it failed); `fix`: one command."""

    def __init__(self, name: str, tried: list[tuple[str, str]], fix: str) -> None:
        self.name, self.tried, self.fix = name, tuple(tried), fix
        listed = "\n".join(f"  - {way}: {why}" for way, why in tried)
        super().__init__(f"{name} could not be found or fetched. Tried, in this order:\n{listed}\nTo fix it: {fix}")

    def __reduce__(self) -> tuple[type, tuple[str, list[tuple[str, str]], str]]:
        return type(self), (self.name, list(self.tried), self.fix)


def fetch(known: Known, split: Split, cache: Path, progress: Progress | None = None) -> dict[str, bytes]:
    """The verified contents of a split's files, by name; DatasetUnavailableError if nothing works."""
    return first(known, ways(known, split, cache, progress), cache)


def ways(known: Known, split: Split, cache: Path, progress: Progress | None = None) -> list[Way]:
    """Where to look, in order: (a description for people, a function that finds the files or raises)."""
    by_hand = cache / "downloads" / known.name
    found: list[Way] = [(f"the cache folder {by_hand}", partial(from_folder, known, split, by_hand))]
    if known.package:
        system = _SYSTEM / known.name
        found.append((f"Debian's installed files {system}", partial(from_folder, known, split, system)))
    found += [(f"download from {url}", partial(_from_web, known, split, url, cache, progress)) for url in known.urls]
    if known.package:
        found.append(
            (f"apt-get download {known.package}", partial(_from_apt, known, split, cache, progress)),
        )
    return found


def first(known: Known, candidates: list[Way], cache: Path) -> dict[str, bytes]:
    """The files from the first way that works; DatasetUnavailableError with every reason if none does."""
    tried: list[tuple[str, str]] = []
    for name, way in candidates:
        try:
            return way()
        except (OSError, ValueError, EOFError, HTTPException, subprocess.SubprocessError) as error:
            tried.append((name, _reason(error)))
    raise DatasetUnavailableError(known.name, tried, _fix(known, cache))


def from_folder(known: Known, split: Split, folder: Path) -> dict[str, bytes]:
    """A split's files out of a folder, compressed or not, verified; OSError or ValueError if they are not there."""
    if not folder.is_dir():
        raise FileNotFoundError("no such folder")
    files: dict[str, bytes] = {}
    for name in known.files[split]:
        path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(f"{name} is not in it")
        files[name] = path.read_bytes()
    return _verified(known, split, files)


def _verified(known: Known, split: Split, files: dict[str, bytes]) -> dict[str, bytes]:
    out: dict[str, bytes] = {}
    for name, expected in known.files[split].items():
        raw = files[name]
        if known.gzipped and raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        if (actual := hashlib.sha256(raw).hexdigest()) != expected:
            raise ValueError(
                f"{name} has SHA-256 {actual[:12]}…, expected {expected[:12]}…: it was altered or cut short"
            )
        out[name] = raw
    return out


def _from_web(known: Known, split: Split, url: str, cache: Path, progress: Progress | None) -> dict[str, bytes]:
    suffix = ".gz" if known.gzipped else ""
    files = _verified(known, split, {n: _download(f"{url}/{n}{suffix}", progress) for n in known.files[split]})
    for name in set(known.files["train"]) & set(known.files["test"]):
        _keep(cache / "downloads" / known.name / name, files[name])
    return files


def _keep(path: Path, data: bytes) -> None:
    """Leave what was fetched where the other split will look for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, part = tempfile.mkstemp(prefix=".part-", dir=path.parent)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    Path(part).replace(path)


def _download(url: str, progress: Progress | None) -> bytes:
    # url comes from known.py, hence is always http or https
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as reply:
        total = int(reply.headers.get("Content-Length") or 0)
        data = bytearray()
        while block := reply.read(1 << 18):
            data += block
            if len(data) > _LIMIT:
                raise ValueError(f"{url} sends more than {_LIMIT >> 20} MiB")
            if progress is not None:
                progress("Downloading", len(data), total)
    if total and len(data) != total:
        raise ValueError(f"the connection ended after {len(data)} of {total} bytes")
    return bytes(data)


def _from_apt(known: Known, split: Split, cache: Path, progress: Progress | None) -> dict[str, bytes]:
    """Fetch Debian's package into a temporary folder of the cache and unpack it there; nothing is installed."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise FileNotFoundError("this system has no apt-get and dpkg-deb")
    if progress is not None:
        progress(f"Fetching {known.package}", 0, 0)
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=cache) as name:
        folder = Path(name)
        # As root, apt would hand the download to a user who may not enter this folder, and warn.
        apt = ["apt-get", "-q", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=1"]
        apt += [arg for kind in ("http", "https") for arg in ("-o", f"Acquire::{kind}::Timeout=10")]
        try:
            _run([*apt, "download", known.package], folder)
        except subprocess.CalledProcessError:
            # No package lists, or stale ones. Fresh ones go into this folder, which needs no root.
            lists = ["-o", f"Dir::State::Lists={folder / 'lists'}", "-o", f"Dir::Cache={folder / 'cache'}"]
            (folder / "lists" / "partial").mkdir(parents=True)
            (folder / "cache" / "archives" / "partial").mkdir(parents=True)
            _run([*apt, *lists, "update"], folder)
            _run([*apt, *lists, "download", known.package], folder)
        deb = next(folder.glob("*.deb"))
        _run(["dpkg-deb", "-x", str(deb), "unpacked"], folder)
        unpacked = folder / "unpacked" / _SYSTEM.relative_to("/") / known.name
        files = from_folder(known, split, unpacked)
        for path in unpacked.iterdir():
            _keep(cache / "downloads" / known.name / path.name, path.read_bytes())
        return files


def _run(command: list[str], folder: Path) -> None:
    subprocess.run(
        command,
        cwd=folder,
        check=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=300,
        env=os.environ | {"LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [x for x in str(error.stderr).splitlines() if x.startswith(("E:", "dpkg", "Err"))]
        return "; ".join(lines)[:300] or f"{error.cmd[0]} failed with status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} did not finish in {error.timeout:.0f} s"
    return str(getattr(error, "reason", None) or error) or type(error).__name__


def _fix(known: Known, cache: Path) -> str:
    if known.package and shutil.which("apt-get"):
        return f"sudo apt-get update && sudo apt-get install {known.package}"
    files = sorted({n for split in known.files.values() for n in split})
    suffix = ".gz" if known.gzipped else ""
    names = files[0] if len(files) == 1 else "{" + ",".join(files) + "}"
    folder = cache / "downloads" / known.name
    return f"curl -fL --create-dirs --output-dir '{folder}' --remote-name-all '{known.urls[0]}/{names}{suffix}'"
