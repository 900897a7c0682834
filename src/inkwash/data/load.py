"""From a specification to a data set."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from inkwash.data.arrays import Arrays, read_idx_files, read_numpy
from inkwash.data.builtin import known_set
from inkwash.data.cache import cache_dir, published
from inkwash.data.dataset import FORMAT, MAX_BAD, Dataset, open_pack, read_pack
from inkwash.data.decode import colour
from inkwash.data.fetch import DatasetUnavailableError, Progress
from inkwash.data.find import NAMES, find_source, no_images
from inkwash.data.generated import POINTS, points
from inkwash.data.known import KNOWN
from inkwash.data.labels import arrange
from inkwash.data.pack import pack_arrays, pack_pictures
from inkwash.data.pairs import match, pairs_source
from inkwash.data.shapes import CLASSES, SHAPES, draw
from inkwash.data.sources import Source
from inkwash.data.spec import DataSpec

GENERATED = f"{SHAPES} (generated)"
"""What the generated pictures are called wherever they are named, so that nobody takes them for a real set."""


def load(spec: DataSpec | str, *, progress: Progress | None = None, cache: Path | None = None) -> Dataset:
    """The data set that `spec` (or a source alone) describes, from its pack in the cache, made there if need be.

    Pictures of one size, at most 128 pixels a side, keep it unless `spec.size` says otherwise, with sides rounded down
    to what a U-Net can halve: a multiple of 4, of 8 where the longer is above 40, of 16 above 80. Others are brought to
    squares of at most 64. The data set's notes say what was changed; arrays keep their size. A pack is found again by
    the source (a folder: the names, sizes and times of change of all files; an archive: its own) and the settings, and
    is made anew when they change.

    progress: called with (what, done, total) while a pack is made; cache: instead of `cache_dir()`.

    ValueError: the source is not there (with the nearest name), holds no pictures, contradicts the settings, or more
    than 5 % of its files cannot be read. DatasetUnavailableError: a named set could not be fetched.
    """
    spec = DataSpec(spec) if isinstance(spec, str) else spec
    data = prepared(spec, progress=progress, cache=cache)
    pack = read_pack(data.folder) if data.folder is not None else None
    if data.folder is not None and pack is not None and pack.bad:
        total, listed = pack.rows + pack.bad, data.folder / "bad-files.txt"
        if pack.bad > MAX_BAD * total:
            first = "".join(f"\n  {line}" for line in listed.read_text(encoding="utf-8").splitlines()[:3])
            raise ValueError(
                f"{pack.bad:,} of {total:,} pictures in {spec.source} cannot be read, more than {MAX_BAD:.0%}:{first}\n"
                f"All are listed in {listed}. Remove or repair them."
            )
        note = f"{pack.bad:,} of {total:,} pictures cannot be read and are left out; they are listed in {listed}."
        data = replace(data, notes=(*data.notes, note))
    return data


def load_or_generated(
    spec: DataSpec | str, *, progress: Progress | None = None, cache: Path | None = None
) -> tuple[Dataset, str]:
    """`load`, or, where a named set cannot be had, the generated `shapes` instead and the reason to show; "" if none.

    The stand-in is named "shapes (generated)": whoever calls this must say so.
    """
    spec = DataSpec(spec) if isinstance(spec, str) else spec
    try:
        return load(spec, progress=progress, cache=cache), ""
    except DatasetUnavailableError as error:
        stand_in = load(replace(spec, source=SHAPES), progress=progress, cache=cache)
        return stand_in, f"{error}\nUntil then: {GENERATED}, pictures drawn by a formula, in place of {spec.source}."


def prepared(spec: DataSpec, *, progress: Progress | None = None, cache: Path | None = None) -> Dataset:
    """`load` without its limit on files that cannot be read: for looking at a source that may be in a bad way."""
    cache = cache or cache_dir()
    colour(spec.background)  # a mistake here is told before anything is fetched or decoded
    if spec.source in NAMES:
        _refuse_more(spec, spec.source)
    if spec.source in POINTS:
        if spec.size is not None or spec.channels is not None:
            raise ValueError(f"{spec.source} holds points of 2 numbers: size and channels do not apply.")
        return points(spec.source, spec.split, spec.limit)
    if spec.source in KNOWN:
        data = known_set(spec.source, spec.split, cache, progress)
        if spec.size is None and spec.channels is None and spec.limit is None:
            return replace(data, flip=_flip(spec, data.flip))
        arrays = Arrays(data.images, data.labels, data.classes)
        return _packed(spec, spec.source, data.fingerprint, lambda: arrays, data.flip, cache, progress)
    if spec.source == SHAPES:
        return replace(
            _packed(spec, SHAPES, "1", lambda: Arrays(*draw(spec.split), CLASSES), False, cache, progress),
            name=GENERATED,
            generated=True,
        )
    source = find_source(spec.source)
    if isinstance(source, Path):
        arrays = read_numpy(source, spec.vector)
        _refuse_more(replace(spec, vector=()), str(source))
        status = source.stat()
        key = [str(source.resolve()), status.st_size, status.st_mtime_ns]
        key += ["vectors"] if arrays.vectors is not None else []  # apart from packs made before they were read
        return _packed(spec, source.stem, repr(tuple(key)), lambda: arrays, arrays.images.ndim == 4, cache, progress)
    return _from_files(spec, source, cache, progress)


def _refuse_more(spec: DataSpec, where: str) -> None:
    if spec.vector:
        raise ValueError(f"{where} has no numbers beside its pictures: leave data.vector = {list(spec.vector)} out.")
    if spec.pairs is not None:
        raise ValueError(f"{where} holds no picture files, and data.pairs names partners by theirs. Leave it out.")


def _from_files(spec: DataSpec, source: Source, cache: Path, progress: Progress | None) -> Dataset:
    name = re.sub(r"(\.tar)?\.\w+$", "", source.path.name) if source.path.is_file() else source.path.resolve().name
    theirs = None if spec.pairs is None else pairs_source(spec.pairs)
    folder = _place(spec, name, source.key(), cache, theirs)
    if read_pack(folder) is not None:  # so that a packed archive need not be listed again
        return _opened(folder, name, spec, True)
    if progress is not None:
        progress("Listing", 0, 0)
    listing = source.listing()
    if not listing.images:
        if not listing.idx:
            raise ValueError(no_images(source))
        _refuse_more(spec, str(source.path))
        known, arrays = read_idx_files(source, listing, spec.split)
        # Not under the folder's own key: whether to mirror depends on the contents, which only reading tells.
        key = f"idx {source.key()}"
        return _packed(spec, known or name, key, lambda: arrays, arrays.flip, cache, progress)
    chosen = arrange(listing, spec.split, str(source.path), spec.vector)
    pairs = None if theirs is None else match(chosen.names, listing.images, source.path, theirs)
    published(folder, _whole, lambda staged: pack_pictures(staged, source, chosen, spec, progress, pairs))
    return _opened(folder, name, spec, True)


def _packed(
    spec: DataSpec,
    name: str,
    key: str,
    arrays: Callable[[], Arrays],
    flip: bool,
    cache: Path,
    progress: Progress | None,
) -> Dataset:
    folder = published(
        _place(spec, name, key, cache), _whole, lambda staged: pack_arrays(staged, arrays(), spec, progress)
    )
    return _opened(folder, name, spec, flip)


def _opened(folder: Path, name: str, spec: DataSpec, flip: bool) -> Dataset:
    """A pack; pictures with numbers beside them are not mirrored unless asked to be: a mirror may change a number."""
    data = open_pack(folder, name, flip=flip)
    return replace(data, flip=_flip(spec, flip and data.vectors is None))


def _place(spec: DataSpec, name: str, key: str, cache: Path, pairs: Source | None = None) -> Path:
    """Where the pack of a source lies: its name, and a hash of its state and of every setting that shapes the pack."""
    settings = [spec.frame, spec.resize, spec.channels, colour(spec.background), spec.split, spec.limit]
    # Only where there are any: packs without them stay where they are.
    more = [["vector", *spec.vector]] if spec.vector else []
    more += [["pairs", pairs.key()]] if pairs is not None else []
    digest = hashlib.sha256(json.dumps([FORMAT, key, *settings, spec.max_pixels, *more]).encode()).hexdigest()
    return cache / "packs" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', name).lstrip('.')[:48]}-{digest[:16]}"


def _whole(folder: Path) -> bool:
    return read_pack(folder) is not None


def _flip(spec: DataSpec, usual: bool) -> bool:
    return usual if spec.flip is None else spec.flip
