"""A look at a source before training on it: what is in it, what is wrong with it, and a sheet of samples."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inkwash.data.dataset import Array, Dataset, read_pack
from inkwash.data.fetch import Progress
from inkwash.data.load import prepared
from inkwash.data.mix import Use, mix
from inkwash.data.spec import DataSpec

if TYPE_CHECKING:
    from PIL import Image

_PER_CLASS = 10
_CLASSES_SHOWN = 24
_TILE = 64  # pixels a side, about


@dataclass(frozen=True)
class Report:
    """What `check` found.

    classes: pictures of each class, "" for those without a label. captioned: how many have a caption, None where the
    source has none. sizes, modes: how many originals had each "WxH" and pixel format, the most frequent first.
    bad: files that cannot be read, and why. duplicates: groups of examples that are equal, bit by bit, once decoded
    and resized, named by their files where they have names, else by their rows. sheet: samples, one row a class.
    numbers: what is known of each number that goes with the pictures.
    """

    data: Dataset
    classes: dict[str, int]
    captioned: int | None
    sizes: dict[str, int]
    modes: dict[str, int]
    bad: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    sheet: Image.Image | None
    numbers: dict[str, Known] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """The report in plain words, one fact a line."""
        n, shape = len(self.data), "x".join(map(str, self.data.shape))
        what = "examples" if self.data.images.ndim == 4 else "points"
        out = [
            f"{self.data.name}: {n:,} {what} of shape {shape}{' (made by a formula)' if self.data.generated else ''}"
        ]
        if self.data.classes:
            out.append(f"classes: {len(self.data.classes):,} ({_some(self.classes)})")
        if self.captioned is not None:
            longest = max(self.data.captions or ("",), key=lambda c: len(c.split()))
            out.append(f"captions: {self.captioned:,} of {n:,} ({self.captioned / n:.0%})")
            out.append(f"longest caption: {len(longest.split()):,} words ({_cut(longest)})")
        for name, known in self.numbers.items():
            out.append(f"number {name}: {known}")
        if self.data.shown is not None:
            out.append(f"partners: {n:,} of {n:,}, in the sheet to the right of their pictures")
        if self.sizes:
            out.append(f"original sizes: {_some(self.sizes)}")
        if self.modes:
            out.append(f"original formats: {_some(self.modes)}")
        if self.bad:
            out.append(f"cannot be read: {len(self.bad):,} ({'; '.join(f'{f}: {why}' for f, why in self.bad[:3])})")
        if self.duplicates:
            extra = sum(len(g) - 1 for g in self.duplicates)
            out.append(f"exact duplicates: {extra:,}, such as {' = '.join(self.duplicates[0][:3])}")
        return [*out, *self.data.notes]


@dataclass(frozen=True)
class Known:
    """One of the numbers that go with pictures: over those of which it is known, its mean and range."""

    mean: float
    least: float
    most: float
    unknown: int

    def __str__(self) -> str:
        """In words."""
        missing = f", not known of {self.unknown:,}" if self.unknown else ""
        return f"mean {self.mean:.4g}, from {self.least:.4g} to {self.most:.4g}{missing}"


def check(spec: DataSpec | str, *, progress: Progress | None = None, cache: Path | None = None) -> Report:
    """Read everything a specification (or a source alone) names, and report on it.

    Unreadable files are reported, however many; other mistakes raise as `inkwash.data.load` does. The pack it makes
    is the one training will use.
    """
    spec = DataSpec(spec) if isinstance(spec, str) else spec
    data = prepared(spec, progress=progress, cache=cache)
    pack = read_pack(data.folder) if data.folder is not None else None
    counts: dict[str, int] = {}
    if data.labels is not None:
        counts = {c: int((data.labels == i).sum()) for i, c in enumerate(data.classes)}
        if none := int((data.labels == -1).sum()):
            counts[""] = none
    return Report(
        data=data,
        classes=counts,
        captioned=None if data.captions is None else data.captioned,
        sizes=(pack.sizes or {}) if pack is not None else {},
        modes=(pack.modes or {}) if pack is not None else {},
        bad=_bad(data.folder),
        duplicates=_duplicates(data, progress),
        sheet=contact_sheet(data),
        numbers={} if data.vectors is None else dict(zip(data.vector_names, map(_known, data.vectors.T), strict=True)),
    )


def contact_sheet(data: Dataset) -> Image.Image | None:
    """Samples of a set: ten of each class (24 classes at most), or a hundred; for 2-D points, where they lie.

    None for points of other dimensions.
    """
    if data.images.ndim == 2:
        return _density(data.images) if data.images.shape[1] == 2 else None
    from PIL import Image, ImageDraw, ImageFont

    rows = _sampled(data)
    first = _picture(data, int(rows[0][1][0]))  # with its partner, where it has one
    times = max(1, round(_TILE / max(data.shape[1:])))
    w, h = first.width * times, first.height * times
    font = ImageFont.load_default(14)
    names = [name for name, _ in rows]
    margin = 12 + int(max(font.getlength(name) for name in names)) if any(names) else 0
    sheet = Image.new("RGB", (margin + (w + 2) * _PER_CLASS, (h + 2) * len(rows)), "white")
    pen = ImageDraw.Draw(sheet)
    for y, (name, chosen) in enumerate(rows):
        pen.text((6, y * (h + 2) + h // 2), name, "black", font, anchor="lm")
        for x, i in enumerate(chosen.tolist()):
            tile = _picture(data, i).resize((w, h), Image.Resampling.NEAREST)
            sheet.paste(tile, (margin + x * (w + 2), y * (h + 2)))
    return sheet


def _sampled(data: Dataset) -> list[tuple[str, Array]]:
    """Rows of the sheet: (name, examples), evenly at random and always the same."""
    draw = np.argsort(mix(np.arange(len(data)), Use.LIMIT, 1), kind="stable")
    if data.labels is None or not data.classes:
        return [("", draw[i : i + _PER_CLASS]) for i in range(0, min(len(draw), 10 * _PER_CLASS), _PER_CLASS)]
    drawn = data.labels[draw]
    rows = [(c, draw[drawn == i][:_PER_CLASS]) for i, c in enumerate(data.classes[:_CLASSES_SHOWN])]
    return [r for r in rows if len(r[1])] or [("", draw[:_PER_CLASS])]


def _picture(data: Dataset, i: int) -> Image.Image:
    from PIL import Image

    x = data.images[i] if data.shown is None else np.concatenate([data.images[i], data.shown[i]], axis=1)
    if x.dtype != np.uint8:
        low, high = float(x.min()), float(x.max())
        x = ((x - low) * (255.0 / max(high - low, 1e-12))).round().astype(np.uint8)
    x = x[..., 0] if x.shape[2] in (1, 2) else x[..., :4] if x.shape[2] == 4 else x[..., :3]
    image = Image.fromarray(np.ascontiguousarray(x))
    if image.mode == "RGBA":
        under = Image.new("RGBA", image.size, "white")
        under.alpha_composite(image)
        image = under
    return image.convert("RGB")


def _density(points: Array, side: int = 512) -> Image.Image:
    from PIL import Image

    low, high = points.min(0).astype(np.float64), points.max(0).astype(np.float64)
    middle, half = (low + high) / 2, max(float((high - low).max()) * 0.525, 1e-12)
    edges = [(float(m - half), float(m + half)) for m in middle]
    counts, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=side // 4, range=edges)
    shade = 255.0 * (1.0 - np.sqrt(counts / max(counts.max(), 1.0)))
    # Axis 0 of the histogram is x; a picture's rows go down.
    grey = np.flipud(shade.T).round().astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(grey)).resize((side, side), Image.Resampling.NEAREST).convert("RGB")


def _duplicates(data: Dataset, progress: Progress | None) -> tuple[tuple[str, ...], ...]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, x in enumerate(data.images):
        groups[blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()].append(i)
        if progress is not None and (i + 1) % 4096 == 0:
            progress("Comparing", i + 1, len(data))
    found = [g for g in groups.values() if len(g) > 1]
    names = _names(data.folder) if found else None
    return tuple(tuple(names[i] if names else f"#{i}" for i in g) for g in found)


def _names(folder: Path | None) -> Any:
    path = folder / "names.json" if folder is not None else None
    return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.exists() else None


def _bad(folder: Path | None) -> tuple[tuple[str, str], ...]:
    path = folder / "bad-files.txt" if folder is not None else None
    if path is None or not path.exists():
        return ()
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple((name, why) for name, _, why in (line.partition("\t") for line in lines))


def _known(values: Array) -> Known:
    there = values[~np.isnan(values)].astype(np.float64)
    mean, least, most = (there.mean(), there.min(), there.max()) if len(there) else (np.nan,) * 3
    return Known(float(mean), float(least), float(most), len(values) - len(there))


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _some(counts: dict[str, int], most: int = 5) -> str:
    shown = ", ".join(f"{k or 'no label'} {v:,}" for k, v in list(counts.items())[:most])
    return shown + (f", and {len(counts) - most:,} more" if len(counts) > most else "")
