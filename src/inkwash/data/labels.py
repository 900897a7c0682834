"""From the names of files to classes, captions and numbers: class, train and test folders, metadata.jsonl."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from inkwash.data.numbers import Vectors, columns, offered, worded
from inkwash.data.sources import METADATA, Listing
from inkwash.data.spec import Split

_SPLITS: dict[str, str] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
}


@dataclass(frozen=True)
class Arranged:
    """The pictures of a set in their order (sorted by name), and what is known of each. See `Dataset`."""

    names: list[str]
    labels: npt.NDArray[np.int64] | None
    classes: tuple[str, ...]
    captions: list[str] | None
    missing: list[tuple[str, str]]
    notes: list[str]
    vectors: Vectors | None = None
    vector_names: tuple[str, ...] = ()

    def pick(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Arranged:
        """The same for some of the rows; classes stay."""
        return Arranged(
            [self.names[i] for i in rows],
            None if self.labels is None else self.labels[np.asarray(rows, np.int64)],
            self.classes,
            None if self.captions is None else [self.captions[i] for i in rows],
            self.missing,
            self.notes,
            None if self.vectors is None else self.vectors[np.asarray(rows, np.int64)],
            self.vector_names,
        )


def arrange(listing: Listing, split: Split, where: str, numbers: Sequence[str] = ()) -> Arranged:
    """Choose the split's pictures and find their classes, captions and numbers. ValueError where that makes no sense.

    - Folders around everything are passed through. If what is then at the top are folders named train, test or
      validation, those of `split` are taken.
    - With a metadata.jsonl, the pictures are those it lists (`file_name`, beside it or below), with the `text` and
      `label` (a string or a whole number) it gives, and the columns `numbers`. Without labels there, folders count.
    - Otherwise each folder at the top is a class, if every picture lies in one. A single folder is no class.
    """
    names, notes = _of_split(listing.images, split, where), list[str]()
    entries = _metadata({k: v for k, v in listing.metadata.items() if _beside(k, names)}, where)
    missing: list[tuple[str, str]] = []
    texts: list[str] | None = None
    given: list[Any] = []
    vectors: tuple[Vectors | None, tuple[str, ...]] = (None, ())
    if numbers and not entries:
        raise ValueError(
            f"data.vector = {list(numbers)} names columns of {METADATA}, and {where} has none: a file with a line for "
            f'each picture, such as {{"file_name": "a.png", "{numbers[0]}": 0.5}}.'
        )
    if entries:
        here, everything = set(names), set(listing.images)
        missing = [(n, f"listed in {METADATA}, but not there") for n in entries if n not in everything]
        if left_out := len(here - entries.keys()):
            notes.append(f"{left_out:,} pictures that {METADATA} does not list are left out.")
        names = [n for n in names if n in entries]
        if not names:
            raise ValueError(f"{METADATA} in {where} lists no picture that is there. Check its `file_name` column.")
        rows = [entries[n] for n in names]
        if any(r.get("text") for r in rows):
            texts = [r.get("text") or "" for r in rows]
        elif others := worded(rows):
            notes.append(f"{METADATA} has no captions: those are in a column text, and it has {', '.join(others)}.")
        if numbers:
            vectors = columns(rows, numbers, where)
        elif there := offered(rows):
            notes.append(f"{METADATA} also has numbers that can be learned from: {', '.join(there)} (data.vector).")
        given = [r.get("label") for r in rows]
        if not any(g not in (None, "") for g in given):
            given = []
    if given:
        classes, labels = _classes(given)
        if unlabelled := int((labels == -1).sum()):
            notes.append(f"{unlabelled:,} pictures have no label; they count as of any class.")
        return Arranged(names, labels, classes, texts, missing, notes, *vectors)
    return Arranged(names, *_from_folders(names, notes), texts, missing, notes, *vectors)


def _of_split(names: list[str], split: Split, where: str) -> list[str]:
    root = root_of(names)
    tops = {n[len(root) :].partition("/")[0] for n in names}
    if len(tops) > 1 and all(t.lower() in _SPLITS for t in tops):
        chosen = [n for n in names if _SPLITS[n[len(root) :].partition("/")[0].lower()] == split]
        if not chosen:
            raise ValueError(f"{where} has no {split} split, but {', '.join(sorted(tops))}. Choose one of them.")
        return chosen
    alone = {_SPLITS[p.lower()] for p in root.split("/") if p.lower() in _SPLITS}
    if split == "test" and "test" not in alone:
        raise ValueError(
            f"{where} has no test split. Put the pictures into folders train and test, "
            "or hold some out of training with val_fraction."
        )
    return names


def root_of(names: Sequence[str]) -> str:
    """The folders that all names share, with a "/" at the end, or ""."""
    folders = [posixpath.dirname(n).split("/") for n in (min(names), max(names))] if names else [[], []]
    shared: list[str] = []
    for a, b in zip(*folders, strict=False):
        if a != b or not a:
            break
        shared.append(a)
    return "".join(f"{s}/" for s in shared)


def _from_folders(names: list[str], notes: list[str]) -> tuple[npt.NDArray[np.int64] | None, tuple[str, ...]]:
    root = root_of(names)
    inside = [n[len(root) :] for n in names]
    nested = sum("/" in n for n in inside)
    if not nested:
        return None, ()
    if nested < len(inside):
        notes.append(
            f"{len(inside) - nested:,} pictures lie beside the folders, {nested:,} in them: "
            "folders are not taken as classes."
        )
        return None, ()
    classes, labels = _classes([n.partition("/")[0] for n in inside])
    return labels, classes


def _classes(given: Sequence[Any]) -> tuple[tuple[str, ...], npt.NDArray[np.int64]]:
    """Sorted class names, whole numbers by value; and each label's place among them, -1 for none."""
    values = [g for g in given if g not in (None, "")]
    numbers = all(isinstance(v, int) and not isinstance(v, bool) for v in values)
    order = sorted(set(values)) if numbers else sorted({str(v) for v in values})
    place = {str(v): i for i, v in enumerate(order)}
    labels = np.array([-1 if g in (None, "") else place[str(g)] for g in given], np.int64)
    return tuple(place), labels


def _beside(metadata: str, names: list[str]) -> bool:
    folder = posixpath.dirname(metadata)
    return not folder or any(n.startswith(f"{folder}/") for n in names)


def _metadata(files: dict[str, bytes], where: str) -> dict[str, dict[str, Any]]:
    """Every line of every metadata.jsonl, by the name of the picture it speaks of."""
    entries: dict[str, dict[str, Any]] = {}
    for name, raw in sorted(files.items()):
        for number, line in enumerate(raw.decode("utf-8-sig", errors="replace").splitlines(), 1):
            if not line.strip():
                continue
            at = f"{where}: {name}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{at} is not JSON ({error}). Each line must be one object.") from error
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                raise ValueError(f'{at} has no "file_name". Each line needs one, such as {{"file_name": "a.png"}}.')
            picture = posixpath.normpath(posixpath.join(posixpath.dirname(name), row["file_name"].replace("\\", "/")))
            if picture in entries:
                raise ValueError(f"{at} names {row['file_name']} a second time. Keep one of the lines.")
            if not isinstance(row.get("label"), (str, int, type(None))):
                raise ValueError(f"{at}: label must be a string or a whole number, not {row['label']!r}.")
            if not isinstance(row.get("text"), (str, type(None))):
                raise ValueError(f"{at}: text must be a string, one caption, not {row['text']!r:.80}.")
            entries[picture] = row
    return entries
