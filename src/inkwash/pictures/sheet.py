"""Sheets of images: grids with a heading per column, strips with a caption under each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from inkwash.pictures import text

if TYPE_CHECKING:
    from PIL.Image import Image

_MARGIN = 10
_CELL = 60  # a side of about this many pixels is large enough to recognise and small enough for a hundred on a screen
_STRIP_CELL = 140
_CAPTIONED = 90  # a width in which a line has some 15 letters


def grid(
    images: npt.NDArray[np.uint8],
    columns: int,
    *,
    labels: Sequence[str] | None = None,
    captions: Sequence[str] = (),
    scale: int | None = None,
    gap: int = 2,
    margin: int = _MARGIN,
    title: str | None = None,
) -> Image:
    """Images [N, H, W, C] in rows of `columns` on white, in RGB.

    labels: a heading for each column; captions: a text under each image, cut where it is too long for three lines; then
    cells are of 90 pixels at least. scale: each pixel becomes a square of this side (default: cells of about 60
    pixels, or the images as they are where they are larger). gap: pixels between cells; margin: around them all.
    C: 1 is grey, 2 red and green, 3 RGB, 4 RGB and opacity (on white); of more, the first three are shown.
    Raises ValueError for other arrays, and where labels and columns, or captions and images, differ in number.
    """
    pixels = _rgb(images)
    if captions and len(pixels) != len(captions):
        raise ValueError(f"{len(captions)} captions for {len(pixels)} images: give one for each, or none.")
    if columns < 1:
        raise ValueError(f"columns = {columns}, but a grid needs at least 1.")
    if labels is not None and len(labels) != columns:
        raise ValueError(f"{len(labels)} labels for {columns} columns: give one for each column, or None.")
    columns = min(columns, len(pixels)) if labels is None else columns
    rows = -(-len(pixels) // columns)
    if captions and scale is None:
        scale = max(1, -(-_CAPTIONED // pixels.shape[2]))
    cells = [pixels[i * columns : (i + 1) * columns] for i in range(rows)]
    return _sheet(cells, columns, labels, captions, scale, gap, title, margin)


def strip(
    images: npt.NDArray[np.uint8],
    captions: Sequence[str],
    *,
    scale: int | None = None,
    gap: int = 6,
    title: str | None = None,
) -> Image:
    """Images [N, H, W, C] side by side with a caption under each.

    scale and the meaning of C: as in `grid`, with cells of about 140 pixels. Raises ValueError as `grid` does.
    """
    pixels = _rgb(images)
    if len(pixels) != len(captions):
        raise ValueError(f"{len(captions)} captions for {len(pixels)} images: give one for each.")
    scale = scale or max(1, round(_STRIP_CELL / max(pixels.shape[1:3])))
    return _sheet([pixels], len(captions), None, captions, scale, gap, title)


def _sheet(
    rows: Sequence[npt.NDArray[np.uint8]],
    columns: int,
    labels: Sequence[str] | None,
    captions: Sequence[str],
    scale: int | None,
    gap: int,
    title: str | None,
    margin: int = _MARGIN,
) -> Image:
    from PIL import Image, ImageDraw

    h, w = rows[0].shape[1:3]
    scale = max(1, round(_CELL / max(h, w))) if scale is None else scale
    if scale < 1:
        raise ValueError(f"scale = {scale}, but a pixel becomes a square of side 1 or more.")
    h, w = h * scale, w * scale
    inner = columns * (w + gap) - gap
    above, above_size = _headings(labels or (), w)
    below, below_size = _headings(captions, w)
    title_lines, title_size = text.wrap(title, max(inner, 60), largest=16, smallest=9) if title else ([], 16)
    top = margin + len(title_lines) * round(title_size * 1.4) + 3 * bool(title_lines)
    top += _height(above, above_size) + 3 * bool(above)
    step = h + gap + _height(below, below_size) + 3 * bool(below)
    page = Image.new("RGB", (max(inner, 60) + 2 * margin, top + len(rows) * step - gap + margin), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    left = (page.width - inner) // 2
    for i, line in enumerate(title_lines):
        at = (page.width / 2, margin + round(title_size * 1.4) * i)
        text.write(draw, at, line, title_size, anchor="ma")
    for j, lines in enumerate(above):  # they stand on the images
        for i, line in enumerate(reversed(lines)):
            at = (left + j * (w + gap) + w / 2, top - 5 - i * round(above_size * 1.2))
            text.write(draw, at, line, above_size, anchor="ms")
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            big = cell.repeat(scale, 0).repeat(scale, 1)
            page.paste(Image.fromarray(big), (left + j * (w + gap), top + i * step))
    for number, lines in enumerate(below):
        across, j = divmod(number, columns)
        for i, line in enumerate(lines):
            at = (left + j * (w + gap) + w / 2, top + across * step + h + 4 + i * round(below_size * 1.2))
            text.write(draw, at, line, below_size, anchor="ma")
    return page


def _headings(names: Sequence[str], room: int) -> tuple[list[list[str]], int]:
    """Each name broken to fit its column, all in one size: the largest that suits the longest."""
    if not names:
        return [], 0
    size = min(text.wrap(name, room, largest=13, smallest=9)[1] for name in names)
    return [text.wrap(name, room, largest=size, smallest=size)[0] for name in names], size


def _height(names: list[list[str]], size: int) -> int:
    return max((len(lines) for lines in names), default=0) * round(size * 1.2) + 2 * bool(names)


def _rgb(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[N, H, W, C] with any number of channels as [N, H, W, 3]; `grid` says how."""
    if images.ndim != 4 or images.dtype != np.uint8 or 0 in images.shape:
        raise ValueError(
            f"Pictures must be a filled array [N, H, W, C] of uint8, not {list(images.shape)} of {images.dtype}."
        )
    channels = images.shape[3]
    if channels == 1:
        return images.repeat(3, 3)
    if channels == 2:
        return np.concatenate([images, np.zeros_like(images[..., :1])], 3)
    if channels == 4:
        opacity = images[..., 3:].astype(np.float32) / 255
        return np.rint(images[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return images[..., :3]
