"""The weights of feature nets: where they are found, and the hash that tells two nets apart."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from inkwash.data.fetch import Progress

_TIMEOUT = 5.0  # seconds without a byte; a machine without a network should learn so at once


def tensors_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of a state dict: of every tensor's name, type, shape and bytes, in the order of the names.

    The same on every device and in every memory layout; one weight, name or type changed gives another.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        head = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(head).encode() + b"\n")
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


@dataclass(frozen=True)
class Published:
    """A file of weights that somebody publishes: its name, address, SHA-256 (hex) and size in bytes."""

    name: str
    url: str
    sha256: str
    size: int


def fetch(file: Published, cache: Path, fix: str, progress: Progress | None = None) -> Path:
    """Where the verified file lies: in the cache, where torch.hub keeps it, or, once downloaded, in the cache.

    fix: how else it can be given, for the ValueError that names every way that was tried.
    """
    kept = cache / "weights" / file.name
    tried: list[str] = []
    hub = Path(torch.hub.get_dir(), "checkpoints", file.name)
    for way, found in (("the cache", kept), ("torch.hub's folder", hub)):
        try:
            _verify(found, file)
        except (OSError, ValueError) as error:
            tried.append(f"{way}, {found}: {_reason(error)}")
        else:
            return found
    try:
        _download(file, kept, progress)
    except (OSError, ValueError, HTTPException) as error:
        tried.append(f"download from {file.url}: {_reason(error)}")
    else:
        return kept
    listed = "".join(f"\n  - {one}" for one in tried)
    raise ValueError(
        f"{file.name} could not be found or fetched. Tried, in this order:{listed}\n"
        f"To fix it: curl -fL --create-dirs -o '{kept}' {file.url}\n{fix}"
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a .safetensors or torch.save file, on the CPU, read without running code; ValueError if unfit."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        held = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ValueError(f"There is no file of weights {path}.") from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path} cannot be read as weights: {first}. Give a state dict, .safetensors or .pth."
        ) from error
    if not isinstance(held, dict) or not all(isinstance(v, Tensor) for v in held.values()):
        raise ValueError(f"{path} holds {type(held).__name__}, not named tensors. Save module.state_dict().")
    return held


def _verify(path: Path, file: Published) -> None:
    actual = file_hash(path)
    if actual != file.sha256:
        raise ValueError(
            f"its SHA-256 is {actual[:12]}…, expected {file.sha256[:12]}…: it was altered or cut short; delete it"
        )


def _download(file: Published, kept: Path, progress: Progress | None) -> None:
    """Into a file beside the final one, which it becomes when it is whole."""
    with urllib.request.urlopen(file.url, timeout=_TIMEOUT) as reply:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(prefix=".part-", dir=kept.parent)
        part = Path(name)
        try:
            with os.fdopen(fd, "wb") as out:
                done = 0
                while (block := reply.read(1 << 18)) and done <= file.size:
                    out.write(block)
                    done += len(block)
                    if progress is not None:
                        progress(f"Downloading {file.name}", done, file.size)
            _verify(part, file)
            part.chmod(0o644)  # mkstemp's is private; a cache may be shared
            part.replace(kept)
        finally:
            part.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    return str(getattr(error, "reason", None) or error) or type(error).__name__
