"""One picture file to one array of bytes: orientation, transparency, depth, size."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from inkwash.data.dataset import Array
from inkwash.data.spec import Resize

if TYPE_CHECKING:
    from PIL import Image

Blob = Path | bytes | Exception
"""A picture file: where it lies, its contents, or why it could not be had."""

_WEB = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".avif")
_OTHER = (".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2")
SUFFIXES = frozenset((*_WEB, *_OTHER))

# The formats behind these suffixes. Others are never tried: some of Pillow's readers start programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_GREY = frozenset(("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"))
_ORIENTATION = 0x0112  # the EXIF tag; 5 to 8 swap the sides


class Probe(NamedTuple):
    """What a picture's header says: displayed width and height in pixels, and Pillow's name of the pixel format."""

    width: int
    height: int
    mode: str

    @property
    def grey(self) -> bool:
        """Whether it has no colours."""
        return self.mode in _GREY


@dataclass(frozen=True)
class Framing:
    """How every picture of a pack is brought to one shape: see `DataSpec`. background: RGB, 0 to 255."""

    height: int
    width: int
    channels: int
    resize: Resize
    background: tuple[int, int, int]
    max_pixels: int


def colour(name: str) -> tuple[int, int, int]:
    """RGB of a CSS colour; ValueError if there is no such colour."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise ValueError(f"background = {name!r} is not a colour. Try 'white', 'black' or '#8fa3bf'.") from error


def prepare() -> None:
    """Load Pillow's readers; to be called once before threads decode."""
    from PIL import Image

    Image.init()


def probe(blob: Blob, max_pixels: int) -> Probe:
    """Read a picture's header; nothing is decoded. Raises whatever Pillow raises for a file it cannot read."""
    with _open(blob, max_pixels) as image:
        w, h = image.size
        if image.format == "JPEG" and _orientation(image) >= 5:
            w, h = h, w
        return Probe(w, h, image.mode)


def decode(blob: Blob, framing: Framing) -> tuple[Array, Probe]:
    """A picture as uint8 [H, W, C], and what it was before. Raises whatever Pillow raises for a file it cannot read.

    Of an animation, the first frame. 16-bit grey is scaled, 65535 to 255. Colours are taken as sRGB, and resized
    as they are stored (not in linear light), as nearly all published sets are.
    """
    from PIL import ImageOps

    with _open(blob, framing.max_pixels) as image:
        mode, (w, h) = image.mode, image.size
        # A JPEG can be decoded at 1/2, 1/4 or 1/8: as small as leaves twice the pixels that are needed. Which side
        # is which is not yet known (orientation), so the larger demand counts.
        scale = 2.0 * max(_scale(w, h, framing), _scale(h, w, framing))
        if scale < 1.0:
            image.draft(None, (int(w * scale) + 1, int(h * scale) + 1))
        image.load()
        turned = _orientation(image)
        upright: Image.Image = image if turned == 1 else ImageOps.exif_transpose(image)
        if turned in (5, 6, 7, 8):
            w, h = h, w
        flat = _plain(upright, framing)
        frame = _frame(flat, framing)
    return _bytes(frame, framing.channels), Probe(w, h, mode)


def framed_image(image: Image.Image, framing: Framing, *, by_area: bool = False) -> Array:
    """An opened picture as uint8 [H, W, C] of the framing: as a file of it would be decoded.

    by_area: each pixel is the mean over the area it covers, and nothing rings.
    """
    from PIL import Image

    flat = _plain(image, framing)
    if not by_area:
        return _bytes(_frame(flat, framing), framing.channels)
    frame = flat.resize((framing.width, framing.height), Image.Resampling.BOX, _box(*flat.size, framing))
    return _bytes(frame, framing.channels)


def _bytes(frame: Image.Image, channels: int) -> Array:
    # Only 16-bit grey is "F" here; clipped because resampling overshoots at edges.
    pixels = np.asarray(frame) if frame.mode != "F" else np.asarray(frame).round().clip(0, 255).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] < channels:
        pixels = np.repeat(pixels, 3, axis=2)
        if channels == 4:
            pixels = np.concatenate([pixels, np.full_like(pixels[..., :1], 255)], axis=2)
    return pixels


def fit(pixels: Array, framing: Framing) -> Array:
    """An array [H, W, C] of bytes or float32 brought to the framing's shape, channel by channel.

    1 to 3 channels repeats, 3 to 1 takes the luma of ITU-R BT.601; other changes of channels raise ValueError.
    """
    from PIL import Image

    have, want = pixels.shape[2], framing.channels
    if (have, want) == (3, 1):
        grey = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        pixels = (grey.round() if pixels.dtype == np.uint8 else grey).astype(pixels.dtype)[..., None]
    elif have != want and have != 1:
        raise ValueError(
            f"Arrays of {have} channels cannot be made {want}. Leave channels out, or convert them before."
        )
    if pixels.shape[:2] != (framing.height, framing.width):
        kind = "L" if pixels.dtype == np.uint8 else "F"
        back = (
            framing.background
            if have == 3 and want == 3
            else (round(float(np.mean(framing.background))),) * pixels.shape[2]
        )
        planes = [
            np.asarray(
                _frame(Image.fromarray(np.ascontiguousarray(pixels[..., c])).convert(kind), framing, back[c % 3])
            )
            for c in range(pixels.shape[2])
        ]
        pixels = np.stack(planes, axis=2)
    return pixels if pixels.shape[2] == want else np.repeat(pixels, want, axis=2)


def _open(blob: Blob, max_pixels: int) -> Image.Image:
    from PIL import Image

    if isinstance(blob, Exception):
        raise blob
    formats = [f for f in _FORMATS if f in Image.OPEN or f not in ("AVIF", "WEBP", "JPEG2000")]
    image = Image.open(BytesIO(blob) if isinstance(blob, bytes) else blob, formats=formats)
    w, h = image.size
    if w * h > max_pixels:  # the header alone has been read: whatever is behind it stays packed
        image.close()
        raise ValueError(f"{w}x{h} is more than max_pixels = {max_pixels:,}")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 is upright. Without the short cut it costs a third of decoding a small JPEG."""
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1
    return int(image.getexif().get(_ORIENTATION, 1))


def _scale(w: int, h: int, framing: Framing) -> float:
    pick = min if framing.resize == "pad" else max
    return pick(framing.width / w, framing.height / h)


def _plain(image: Image.Image, framing: Framing) -> Image.Image:
    """The picture in mode L, RGB, RGBA, or F with values 0 to 255 for deep greys."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pictures have no agreed range; save them as an .npy array")
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError(f"32-bit grey values from {deep.min()} to {deep.max()} do not fit in 16 bits")
        return Image.fromarray(deep.astype(np.float32) / 257.0)
    if framing.channels == 4:
        return image.convert("RGBA")
    if image.has_transparency_data:
        under = Image.new("RGBA", image.size, (*framing.background, 255))
        under.alpha_composite(image.convert("RGBA"))
        image = under
    mode = "RGB" if framing.channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def _frame(image: Image.Image, framing: Framing, background: Any = None) -> Image.Image:
    """The picture at the framing's height and width."""
    from PIL import Image

    size = (framing.width, framing.height)
    if image.size == size:
        return image
    (w, h), scale = image.size, _scale(*image.size, framing)
    # Lanczos halves sharply without aliasing, but rings where it enlarges.
    kernel = Image.Resampling.LANCZOS if scale < 1.0 else Image.Resampling.BICUBIC
    if framing.resize == "pad":
        inner = (max(1, min(size[0], round(w * scale))), max(1, min(size[1], round(h * scale))))
        out = Image.new(image.mode, size, _fill(image.mode, framing.background) if background is None else background)
        out.paste(image.resize(inner, kernel, reducing_gap=3.0), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
        return out
    return image.resize(size, kernel, _box(w, h, framing), reducing_gap=3.0)


def _box(w: int, h: int, framing: Framing) -> tuple[float, float, float, float]:
    """The part of a picture that fills the frame: its middle, or all of it where it is stretched."""
    scale = _scale(w, h, framing)
    bw, bh = (framing.width / scale, framing.height / scale) if framing.resize == "crop" else (float(w), float(h))
    x, y = (w - bw) / 2, (h - bh) / 2
    # Rounding may put the box a hair outside of the picture, which Pillow refuses.
    return (max(0.0, x), max(0.0, y), min(float(w), x + bw), min(float(h), y + bh))


def _fill(mode: str, rgb: tuple[int, int, int]) -> Any:
    luma = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    return {"RGB": rgb, "RGBA": (*rgb, 0), "F": luma}.get(mode, round(luma))
