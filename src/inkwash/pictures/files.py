"""Pictures as files: written whole or not at all, PNGs with the settings that made them inside."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_KEY = "inkwash"


def save_png(image: Image, path: str | Path, settings: Mapping[str, object] | None = None) -> Path:
    """Write a PNG in place of what has that name, at once; an interrupted save leaves the old file.

    settings: kept as JSON in a text chunk named "inkwash", for `read_settings`; values that JSON does not have
    become their text. Folders above are made. Returns the path.
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    if settings is not None:
        info.add_text(_KEY, json.dumps(dict(settings), ensure_ascii=False, default=str))
    data = io.BytesIO()
    image.save(data, "PNG", pnginfo=info)
    return _write(Path(path), data.getvalue())


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that `save_png` put into a file. Raises ValueError where there are none."""
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        text = getattr(image, "text", {}).get(_KEY)
    if text is None:
        raise ValueError(f"{path} holds no settings: it was not made by inkwash, or a program saved it again without.")
    settings: dict[str, Any] = json.loads(text)
    return settings


def save_gif(frames: Sequence[Image], path: str | Path, *, seconds: float = 4.0, hold_last: float = 1.5) -> Path:
    """Write an animation that repeats for ever, at once; an interrupted save leaves the old file. Returns the path.

    seconds: from the first frame to the last, at most 50 frames a second (browsers slow down what is faster);
    hold_last: how long the last stays, in seconds. Frames of at most 256 colours, and so all grey ones, are kept
    exactly; others are reduced to the 256 that suit each frame. Frames must have one size.
    """
    if not frames:
        raise ValueError("An animation needs at least one frame, and there are none.")
    if sizes := {frame.size for frame in frames[1:]} - {frames[0].size}:
        raise ValueError(f"The frames of an animation must have one size: {frames[0].size}, not {sizes.pop()} too.")
    steps = len(frames) - 1
    hundredths = max(100 * seconds, 2 * steps)  # a GIF counts in hundredths of a second
    edges = [round(hundredths * i / max(steps, 1)) for i in range(steps + 1)]
    durations = [10 * (b - a) for a, b in pairwise(edges)] + [max(20, round(hold_last * 100) * 10)]
    first, *others = [_with_palette(frame) for frame in frames]
    data = io.BytesIO()
    first.save(data, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
    return _write(Path(path), data.getvalue())


def _with_palette(frame: Image) -> Image:
    """The frame with a palette of its own: exact up to 256 colours, else the best 256."""
    from PIL import Image

    rgb = frame.convert("RGB")
    colours = rgb.getcolors(256)
    if colours is None:
        # The first is better for charts (a title's rare ink survives), the second for photographs. Not dithered: in
        # enlarged pixels that shows, and files grow. Pillow's third, median cut, loses to one of them on both.
        tries = [rgb.quantize(256, method=m) for m in (Image.Quantize.MAXCOVERAGE, Image.Quantize.FASTOCTREE)]
        wanted = np.asarray(rgb, dtype=np.float32)
        return min(tries, key=lambda t: float(np.square(np.asarray(t.convert("RGB"), dtype=np.float32) - wanted).sum()))
    pixels = np.asarray(rgb, dtype=np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    found, index = np.unique(pixels, return_inverse=True)
    exact = Image.fromarray(index.reshape(pixels.shape).astype(np.uint8)).convert("L")
    exact.putpalette([channel for c in found.tolist() for channel in (c >> 16, c >> 8 & 255, c & 255)])
    return exact


def _write(path: Path, data: bytes) -> Path:
    """Write beside the path, have it on the disk, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path
