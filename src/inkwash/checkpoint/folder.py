"""Publishing, reading, checking and pruning checkpoint folders; the package says how and why."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from inkwash.checkpoint.atomic import flush, held, hidden, leftovers, make_parent, replace, sweep
from inkwash.checkpoint.errors import CheckpointError, DiskFull, NonFinite

MANIFEST = "manifest.json"
VERSION = 1

T = TypeVar("T")

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_STEP = re.compile(r"step-(\d+)")
_READ_SECONDS = 10.0  # so long a writer would have to publish again and again, each time during one read of ours
_DTYPES = (
    "bool uint8 int8 uint16 int16 uint32 int32 uint64 int64 float16 bfloat16 float32 float64 complex64 "
    "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz"
)


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds: tensors[file name without .safetensors][tensor name], and texts[file name]."""

    tensors: dict[str, dict[str, Tensor]]
    texts: dict[str, str]


def publish(
    folder: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, str],
    copies: Mapping[str, Path] | None = None,
) -> Path:
    """Write `<name>.safetensors` per entry of `tensors` and each text file, and give them the name `folder` at once.

    copies: files that go along byte for byte, safetensors or text, by the names they get.

    A published folder of that name is replaced, with all that is in it. Names may lie in subfolders ("codec/model").
    Tensors of any device, stride or sharing are stored as contiguous values. Only one process may publish to a
    folder at a time. Returns `folder`, which is on the disk, not only in a buffer, when this returns.

    Raises `NonFinite` before anything is written, `DiskFull` or `CheckpointError` with the previous folder intact,
    and `ValueError` for names or dtypes that cannot be stored and for a folder that holds somebody else's files.
    """
    groups = {f"{name}.safetensors": _packed(name, group) for name, group in tensors.items()}
    copies = copies or {}
    names = [*groups, *texts, *copies]
    for name in names:
        if not _plain(name) or name == MANIFEST or names.count(name) > 1:
            raise ValueError(f"A checkpoint cannot hold a file named {name!r}: it must be a relative path, given once.")
    target = folder.resolve()  # a link to a folder elsewhere stays a link
    staged = hidden("staging", target)
    try:
        make_parent(target)
        sweep(target.parent)
        _refuse_strangers(target, names)
        staged.mkdir()
        with held(staged):
            for name, group in groups.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                save_file(dict(group), staged / name)
                (staged / name).chmod(staged.stat().st_mode & 0o666)  # safetensors makes it readable by its owner only
            for name, text in texts.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_bytes(text.encode())
            for name, source in copies.items():
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, staged / name)
            files = {name: _describe(staged / name) for name in sorted(names)}
            for place in [staged / name for name in names] + [p for p in staged.rglob("*") if p.is_dir()]:
                flush(place)
            manifest = {"format": "inkwash-checkpoint", "version": VERSION, "files": files}
            (staged / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            flush(staged / MANIFEST)
            flush(staged)
            replace(staged, target)
    except (OSError, SafetensorError) as error:
        raise _explain(error, folder) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)  # half-written, or after an exchange the previous version
    return folder


def load(folder: Path, names: Collection[str] | None = None, also: Collection[str] = ()) -> Checkpoint:
    """Read the files of a published folder (or only `names`), checked against the manifest, all of one version.

    also: names that are read as well where the folder has them.

    Tensors are mapped from the file and read when first touched; changing them changes no file.
    Raises `CheckpointError` as `verify` does, and for names that the folder does not have.
    """

    def read(place: Path) -> Checkpoint:
        files = _manifest(place, folder)
        wanted = list(files) if names is None else [*names, *(name for name in also if name in files)]
        if missing := [name for name in wanted if name not in files]:
            raise CheckpointError(f"{folder} has no {', '.join(missing)}. It has {', '.join(sorted(files))}.")
        _check(place, folder, {name: files[name] for name in wanted})
        tensors, texts = {}, {}
        for name in wanted:
            if name.endswith(".safetensors"):
                tensors[name.removesuffix(".safetensors")] = load_file(place / name)
            else:
                texts[name] = (place / name).read_bytes().decode()
        return Checkpoint(tensors, texts)

    return _steady(folder, read)


def load_text(folder: Path, name: str) -> str:
    """Read the text file `name` of a published folder; see `load`."""
    return load(folder, [name]).texts[name]


def verify(folder: Path) -> None:
    """Compare every file with the manifest; `CheckpointError` names each that is missing, cut short or altered."""
    _steady(folder, lambda place: _check(place, folder, _manifest(place, folder)))


def newest_good(checkpoints: Path) -> tuple[Path, list[str]]:
    """The highest `step-N` in a folder that passes `verify`, and what is wrong with each higher one.

    Raises `CheckpointError` with all the problems when none is good.
    """
    problems: list[str] = []
    for _, folder in reversed(_steps(checkpoints)):
        try:
            verify(folder)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            return folder, problems
    raise CheckpointError("\n".join([f"There is no good checkpoint in {checkpoints}.", *problems]))


def prune(checkpoints: Path, keep_last: int, keep: Collection[Path] = ()) -> list[Path]:
    """Delete old `step-N` folders: all but the last `keep_last` >= 1 by number and those in `keep`.

    keep: the best, and the one just published, which is not the last where a run goes on from an early step.
    Folders that are visibly incomplete do not count among the last. The newest good one and whatever is newer
    (damaged, but evidence) always stay; if none is good, nothing is deleted. Returns what was deleted.
    """
    if keep_last < 1:
        raise ValueError(f"keep_last = {keep_last} would keep no checkpoint to resume from; give 1 or more.")
    steps = [folder for _, folder in _steps(checkpoints)]
    try:
        newest, _ = newest_good(checkpoints)
    except CheckpointError:
        return []
    older = steps[: steps.index(newest)]
    whole = [folder for folder in older if _looks_whole(folder)]
    kept = {folder.resolve() for folder in [*keep, *whole[len(whole) - min(keep_last - 1, len(whole)) :]]}
    deleted = [folder for folder in older if folder.resolve() not in kept]
    for folder in deleted:
        with suppress(OSError):  # another process pruned it, or it cannot be deleted now: the next call tries again
            trash = hidden("trash", folder)
            folder.rename(trash)  # at once, so that a kill leaves no half-deleted step
            shutil.rmtree(trash, ignore_errors=True)
    return deleted


# Writing


def _packed(group_name: str, group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as safetensors takes them: on the host, contiguous, none sharing memory with another."""
    packed: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in group.items():
        where = f"Tensor {name!r} of {group_name}.safetensors"
        x = tensor.detach()
        if x.layout != torch.strided or str(x.dtype).removeprefix("torch.") not in _DTYPES.split():
            raise ValueError(f"{where} is {x.dtype}, {x.layout}, which safetensors cannot hold: convert it first.")
        if x.numel() and (x.is_floating_point() or x.is_complex()):
            real = torch.view_as_real(x.resolve_conj()) if x.is_complex() else x
            low, high = torch.aminmax(real if real.element_size() > 1 else real.float())  # 1 pass, NaN propagates
            if not (torch.isfinite(low) and torch.isfinite(high)):
                raise NonFinite(f"{where} holds {float(low)}..{float(high)}. Nothing was written: save a good state.")
        x = x.cpu().resolve_conj().resolve_neg().contiguous()
        pointer = x.untyped_storage().data_ptr()
        packed[name] = x.clone() if pointer in seen else x
        seen.add(pointer)
    return packed


def _refuse_strangers(target: Path, names: Collection[str]) -> None:
    """Raise rather than replace a folder that was never a checkpoint."""
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file: a checkpoint is a folder. Choose another name.")
    if target.is_dir() and not (target / MANIFEST).exists():
        ours = {PurePosixPath(name).parts[0] for name in names}
        if strangers := sorted({p.name for p in target.iterdir()} - ours):
            raise ValueError(
                f"{target} holds files that are no checkpoint's ({', '.join(strangers[:3])}), and publishing would "
                "delete them. Choose another folder, or move them."
            )


def _explain(error: Exception, folder: Path) -> CheckpointError:
    """The error as a trainer wants it: is it the disk's size (it may go on), or something else?"""
    code = error.errno if isinstance(error, OSError) else None
    if found := re.search(r"\(os error (\d+)\)", str(error)):  # safetensors reports the system's number in words
        code = int(found[1])
    if code in _DISK_FULL:
        return DiskFull(f"No space left to write {folder} ({error}). What was there before is untouched; free some.")
    return CheckpointError(f"Could not write {folder}: {error}")


# Reading


def _steady(folder: Path, read: Callable[[Path], T]) -> T:
    """Read a folder that may be replaced meanwhile: again, until the manifest is the same before and after."""
    last = time.monotonic() + _READ_SECONDS
    while time.monotonic() < last:
        place = _locate(folder)
        before, failure = _stamp(place), None
        try:
            result = read(place)
        except (OSError, RuntimeError, SafetensorError, UnicodeDecodeError) as error:  # torch's mmap: RuntimeError
            failure = error
        if _stamp(_locate(folder)) != before:
            continue
        if failure is None:
            return result
        if isinstance(failure, CheckpointError):
            raise failure
        raise CheckpointError(f"{folder} cannot be read: {failure}") from failure
    raise CheckpointError(f"{folder} was replaced at every attempt to read it in {_READ_SECONDS:g} seconds. Try again.")


def _locate(folder: Path) -> Path:
    """Where the folder is now: under its name, or aside while (or since) its writer replaced it with two renames."""
    target = folder.resolve()
    for _ in range(3):  # the second rename may come between the two looks
        if target.is_dir():
            return target
        if aside := [p for kind, name, p in leftovers(target.parent) if kind == "old" and name == target.name]:
            return aside[-1]
    raise CheckpointError(f"There is no checkpoint {folder}.")


def _stamp(place: Path) -> tuple[Any, ...]:
    """What tells one publication of a folder from the next."""
    with suppress(OSError):
        status = (place / MANIFEST).stat()
        return status.st_dev, status.st_ino, status.st_mtime_ns, (place / MANIFEST).read_bytes()
    return (place,)


def _manifest(place: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """The files a manifest lists: name -> {"size", "sha256"}."""
    try:
        manifest = json.loads((place / MANIFEST).read_bytes())
        version, files = manifest["version"], manifest["files"]
        sound = manifest["format"] == "inkwash-checkpoint" and all(
            _plain(name) and isinstance(entry["size"], int) and isinstance(entry["sha256"], str)
            for name, entry in files.items()
        )
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no {MANIFEST}: it is half-written, or no checkpoint.") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}/{MANIFEST} is damaged: {type(error).__name__}: {error}.") from None
    if not sound:
        raise CheckpointError(f"{folder}/{MANIFEST} is damaged, or not an inkwash checkpoint's.")
    if version != VERSION:
        raise CheckpointError(f"{folder} has format version {version}; this inkwash reads {VERSION}. Update inkwash.")
    return dict(files)


def _check(place: Path, folder: Path, files: Mapping[str, Mapping[str, Any]], contents: bool = True) -> None:
    """Raise one error that says all that is wrong with the files."""
    problems = []
    for name, expected in files.items():
        file = place / name
        if not file.is_file():
            problems.append(f"{name} is missing")
        elif (size := file.stat().st_size) != expected["size"]:
            problems.append(f"{name} has {size:,} bytes, expected {expected['size']:,}")
        elif contents and (found := _describe(file)["sha256"]) != expected["sha256"]:
            problems.append(f"{name} was altered: SHA-256 is {found[:16]}…, expected {expected['sha256'][:16]}…")
    if problems:
        raise CheckpointError(f"{folder} is damaged: {'; '.join(problems)}.")


def _looks_whole(folder: Path) -> bool:
    """Whether all files are there in their full size; their bytes are not read."""
    try:
        _steady(folder, lambda place: _check(place, folder, _manifest(place, folder), contents=False))
    except CheckpointError:
        return False
    return True


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


# Names


def _plain(name: str) -> bool:
    """Whether a file's name stays inside its folder, on any system."""
    parts = PurePosixPath(name).parts
    tidy = str(PurePosixPath(name)) == name != "."
    return tidy and not {"..", "/"} & set(parts) and not re.search(r"[\\:\0]", name)


def _steps(checkpoints: Path) -> list[tuple[int, Path]]:
    """The step-N folders by number, with those that a killed writer left aside."""
    names = {p.name for p in checkpoints.iterdir() if p.is_dir()} if checkpoints.is_dir() else set()
    names |= {name for kind, name, _ in leftovers(checkpoints) if kind == "old"}
    return sorted((int(match[1]), checkpoints / name) for name in names if (match := _STEP.fullmatch(name)))
