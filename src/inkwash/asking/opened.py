"""The pictures people show a model, in whatever form they have them: files, folders, arrays, another model's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from inkwash.conditions.tasks import check_bytes, framed

if TYPE_CHECKING:
    from inkwash.data.dataset import Dataset
    from inkwash.data.decode import Blob

MAX_PIXELS = 100_000_000
"""A picture with more is refused before it is decoded."""


class Pictures(Sequence[np.ndarray]):
    """Pictures uint8 [h, w, c], each in its own size; of files one at a time, decoded whenever it is looked at."""

    def __init__(self, each: Sequence[np.ndarray | File]) -> None:
        self._each = each

    def __len__(self) -> int:
        return len(self._each)

    def __getitem__(self, i: Any) -> Any:
        one = self._each[i]
        if isinstance(i, slice):
            return Pictures(one)
        return _decoded(one) if isinstance(one, File) else one


class Opened(NamedTuple):
    """Pictures, and whether they were given as several, one for each sample."""

    pictures: Pictures
    many: bool

    def round(self, count: int) -> Opened:
        """So many of several, from the first again after the last."""
        each = self.pictures._each
        return Opened(Pictures([each[i % len(each)] for i in range(count)]), True) if self.many else self


def opened(what: Any, name: str = "image") -> Opened:
    """Pictures from what a user gives, with 1 to 4 channels: grey, grey and alpha, RGB, RGBA.

    A picture file, SOURCE:INDEX of a data set, one of Pillow's, and uint8 [h, w] or [h, w, c] are one; uint8
    [n, h, w, c], an .npy file of those, a folder of picture files (by name), what a pipeline drew, and a sequence of
    pictures are several. name: what to call it in errors. Files are decoded when they are looked at. Raises ValueError
    for anything else, and then for a file that is no whole picture.
    """
    from PIL.Image import Image

    if isinstance(what, Opened):
        return what
    if hasattr(what, "pictures"):  # Samples
        what = what.pictures()
    if isinstance(what, Image):
        return Opened(Pictures([_of_pillow(what)]), False)
    if isinstance(what, str | File):
        if (found := of_data(str(what))) is not None:
            return opened(np.array(found[0].images[found[1]]), name)
        return _of_path(File(what).expanduser(), name)
    if isinstance(what, Sequence):
        each = [opened(one, name) for one in what]
        if not each or any(one.many for one in each):
            raise ValueError(f"{name} = a list must hold pictures, one for each sample, and no folders or stacks.")
        return Opened(Pictures([one.pictures._each[0] for one in each]), True)
    pixels = np.asarray(what)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"{name} = an array {list(pixels.shape)} of {pixels.dtype} is no picture. Give uint8 [h, w, c], or "
            "[n, h, w, c] for several, with values from 0 to 255."
        )
    several = list(pixels) if pixels.ndim == 4 else [pixels if pixels.ndim == 3 else pixels[..., None]]
    for one in several[:1]:
        check_bytes(one)
    return Opened(Pictures(several), pixels.ndim == 4)


def of_data(source: str, split: Literal["train", "test"] = "train") -> tuple[Dataset, int] | None:
    """The data set and the number of the picture that SOURCE:INDEX names ("fashion-mnist:7"); None for a file's name.

    Raises ValueError where there is no such picture.
    """
    match = re.fullmatch(r"(.+):(\d+)", source)
    if match is None or File(source).expanduser().exists():
        return None
    from inkwash.data import DataSpec, load

    data, number = load(DataSpec(match[1], split=split)), int(match[2])
    if data.images.ndim != 4:
        raise ValueError(f"{match[1]} holds points, and not pictures.")
    if number >= len(data):
        raise ValueError(f"{source} is not there: the pictures of {data.name} are 0 to {len(data) - 1}.")
    return data, number


def painted(mask: Any, height: int, width: int, name: str = "mask") -> np.ndarray:
    """Masks as whiteness uint8 [k, height, width], brought to this size. ValueError for one without any white."""
    found = np.stack([framed(one, (1, height, width))[..., 0] for one in opened(mask, name).pictures])
    if empty := [i for i, one in enumerate(found) if not one.any()]:
        which = f" number {empty[0]}" if len(found) > 1 else f" {mask}" if isinstance(mask, str | File) else ""
        raise ValueError(f"The mask{which} has no white in it, and what is white is drawn anew. Paint a part white.")
    return found


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise ValueError, naming the file, for whatever Pillow raises of one that is no whole picture."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not a picture that can be read. Give a PNG or a JPEG.") from error
    except Exception as error:
        why = str(error).strip().rstrip(".") or type(error).__name__
        raise ValueError(f"{name} cannot be read as a picture: {why}. Save it anew as a PNG or a JPEG.") from error


def sha256_of(pixels: np.ndarray) -> str:
    """Of the bytes of an array and its shape: by which settings name pictures."""
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _of_path(path: File, name: str) -> Opened:
    from inkwash.data.decode import SUFFIXES

    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
        if not files:
            raise ValueError(f"{name} = {path} has no pictures in it. Give a folder of PNG or JPEG files, or a file.")
        return Opened(Pictures(files), True)
    if not path.is_file():
        raise ValueError(
            f"{name} = {path} is not there. Give a picture file, a folder of them, an .npy array, or a picture "
            "of a data set, as in fashion-mnist:7."
        )
    if path.suffix != ".npy":
        return Opened(Pictures([path]), False)
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{name} = {path} cannot be read as an array: {error}") from error
    return opened(array, name)


def _decoded(blob: Blob) -> np.ndarray:
    """A picture file in its own size, in RGB, or RGBA where something in it is transparent."""
    from inkwash.data.decode import Framing, decode, probe

    with readable("The picture" if isinstance(blob, bytes) else str(blob)):
        found = probe(blob, MAX_PIXELS)
        frame = Framing(found.height, found.width, 4, "crop", (255, 255, 255), MAX_PIXELS)
        pixels = np.array(decode(blob, frame)[0])
    return pixels if (pixels[..., 3] < 255).any() else np.ascontiguousarray(pixels[..., :3])


def _of_pillow(image: Any) -> np.ndarray:
    """As the same picture in a file."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    storable = upright if upright.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else upright.convert("RGB")
    held = BytesIO()
    storable.save(held, "PNG", compress_level=0)
    return _decoded(held.getvalue())
