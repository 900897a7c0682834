"""Decoding against pictures whose pixels are known."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from inkwash.data.decode import Framing, colour, decode, fit, prepare, probe

prepare()


def framing(height, width, channels=3, resize="crop", background=(255, 255, 255), max_pixels=10**8):
    return Framing(height, width, channels, resize, background, max_pixels)


def encoded(image, kind="PNG", **options):
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image, frame, kind="PNG", **options):
    return decode(encoded(image, kind, **options), frame)[0]


def noise(h, w, c=3):
    i = np.arange(h * w * c).reshape(h, w, c)
    return ((i * 2654435761) >> 7).astype(np.uint8)


def test_plain_pictures_come_back_exactly():
    rgb = noise(9, 7)
    assert np.array_equal(pixels(Image.fromarray(rgb), framing(9, 7)), rgb)
    grey = rgb[..., 0]
    assert np.array_equal(pixels(Image.fromarray(grey), framing(9, 7, 1))[..., 0], grey)
    assert np.array_equal(pixels(Image.fromarray(grey), framing(9, 7, 3)), np.stack([grey] * 3, -1))


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert np.array_equal(pixels(Image.fromarray(ramp), framing(16, 16, 1))[..., 0].ravel(), np.arange(256))
    between = np.full((16, 16), 40000, np.uint16)  # 155.64 in bytes
    for kind in ("PNG", "TIFF"):
        assert (pixels(Image.fromarray(between), framing(8, 8, 3), kind) == 156).all()


def test_deep_greys_beyond_sixteen_bits_and_floats_are_refused():
    with pytest.raises(ValueError, match="do not fit in 16 bits"):
        pixels(Image.fromarray(np.full((4, 4), 70000, np.int32)), framing(4, 4, 1), "TIFF")
    with pytest.raises(ValueError, match="no agreed range"):
        pixels(Image.fromarray(np.zeros((4, 4), np.float32)), framing(4, 4, 1), "TIFF")


UPRIGHT = {  # the EXIF standard's eight orientations: stored to displayed
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_every_exif_orientation(orientation):
    stored = noise(6, 4)
    shown = UPRIGHT[orientation](stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    got, was = decode(encoded(Image.fromarray(stored), exif=exif), framing(*shown.shape[:2]))
    assert np.array_equal(got, shown)
    assert (was.height, was.width) == shown.shape[:2]


def test_a_rotated_jpeg_is_probed_and_decoded_as_it_is_shown():
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:, :40] = 255  # the left half is white: shown, after a quarter turn clockwise, at the top
    exif = Image.Exif()
    exif[0x0112] = 6
    raw = encoded(Image.fromarray(stored), "JPEG", exif=exif, quality=95)
    assert probe(raw, 10**8)[:2] == (40, 80)
    got, was = decode(raw, framing(80, 40))
    assert was[:2] == (40, 80)
    assert got[:36].min() > 240
    assert got[44:].max() < 15


def test_transparency_is_laid_on_the_background():
    half_red = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    on_blue = framing(4, 4, background=(0, 0, 255))
    # alpha = 128/255: 128 of red, 127 of the blue beneath
    assert np.abs(pixels(half_red, on_blue).astype(int) - (128, 0, 127)).max() <= 1
    clear = Image.new("LA", (4, 4), (90, 0))
    assert (pixels(clear, on_blue) == (0, 0, 255)).all()
    assert (pixels(clear, framing(4, 4, 1, background=(200, 200, 200))) == 200).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 40, 50, 60])
    assert (pixels(palette, on_blue) == (40, 50, 60)).all()
    assert (pixels(palette, on_blue, transparency=1) == (0, 0, 255)).all()
    keyed = Image.new("RGB", (4, 4), (1, 2, 3))
    assert (pixels(keyed, on_blue, transparency=(1, 2, 3)) == (0, 0, 255)).all()


def test_four_channels_keep_transparency_and_do_not_bleed():
    sprite = np.zeros((8, 8, 4), np.uint8)
    sprite[..., 1] = 255  # green everywhere, seen only in the left half
    sprite[:, :4] = (255, 0, 0, 255)
    small = pixels(Image.fromarray(sprite), framing(4, 4, 4)).astype(int)
    seen = small[..., 3] > 20
    assert seen.any() and not seen.all()
    assert (small[seen][:, 1] <= 12).all()  # hidden green would show at the edge if alpha were not weighed in
    opaque = pixels(Image.fromarray(np.full((4, 4), 77, np.uint8)), framing(4, 4, 4))
    assert (opaque == (77, 77, 77, 255)).all()


def test_other_modes():
    assert (pixels(Image.new("1", (4, 4), 1), framing(4, 4, 1)) == 255).all()
    cmyk = pixels(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), framing(8, 8), "TIFF")
    assert (cmyk == (255, 0, 0)).all()


def test_crop_takes_the_middle():
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = noise(4, 4)
    assert np.array_equal(pixels(Image.fromarray(wide), framing(4, 4)), wide[:, 2:6])
    tall = wide.swapaxes(0, 1)
    assert np.array_equal(pixels(Image.fromarray(tall), framing(4, 4)), tall[2:6])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_pad_fits_the_whole_and_fills_with_the_background(channels):
    wide = Image.new("RGB", (16, 8), (50, 50, 50))
    got = pixels(wide, framing(8, 8, channels, "pad", (200, 200, 200)))
    assert (got[2:6, :, 0] == 50).all()
    assert (got[:2, :, 0] == 200).all() and (got[6:, :, 0] == 200).all()
    if channels == 4:
        assert (got[:2, :, 3] == 0).all() and (got[2:6, :, 3] == 255).all()


def test_stretch_keeps_every_column():
    halves = np.zeros((4, 16, 3), np.uint8)
    halves[:, 8:] = 255
    got = pixels(Image.fromarray(halves), framing(8, 8, resize="stretch"))
    assert (got[:, :3] < 12).all() and (got[:, 5:] > 243).all()


def test_fine_stripes_become_grey_and_not_coarse_stripes():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(pixels(Image.fromarray(stripes), framing(8, 8)).astype(int) - 127.5).max() < 6


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_a_jpeg_decoded_at_a_fraction_is_as_good_as_one_decoded_whole(resize):
    y, x = np.mgrid[:512, :1024]
    smooth = np.stack([x / 4, y / 2, 128 + 100 * np.sin(x / 90) * np.cos(y / 70)], -1).astype(np.uint8)
    image = Image.fromarray(smooth)
    frame = framing(32, 32, 3, resize)
    jpeg = pixels(image, frame, "JPEG", quality=95, subsampling=0).astype(int)
    assert np.abs(jpeg - pixels(image, frame)).max() <= 3


def bomb(width, height):
    """A PNG whose header declares a size and that has next to nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rest = chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rest


def test_bombs_are_refused_by_their_header():
    with pytest.raises(ValueError, match=r"11000x8000 is more than max_pixels = 80,000,000"):
        decode(bomb(11_000, 8_000), framing(8, 8, max_pixels=80_000_000))
    with pytest.raises(Image.DecompressionBombError):
        decode(bomb(60_000, 60_000), framing(8, 8))


def test_truncated_and_foreign_files_raise():
    whole = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    with pytest.raises(OSError, match="truncated"):
        decode(whole[: len(whole) // 2], framing(64, 64))
    with pytest.raises(OSError, match="cannot identify"):
        decode(b"not a picture", framing(8, 8))
    # A format that makes Pillow start a program is not even tried.
    with pytest.raises(OSError, match="cannot identify"):
        decode(encoded(Image.new("RGB", (4, 4)), "EPS"), framing(4, 4))


def test_fit_of_arrays_agrees_with_pictures():
    rgb = noise(12, 20)
    for resize in ("crop", "pad", "stretch"):
        frame = framing(8, 8, 3, resize, (255, 0, 9))
        assert np.array_equal(fit(rgb, frame), pixels(Image.fromarray(rgb), frame))
    grey = pixels(Image.fromarray(rgb), framing(12, 20, 1))
    assert np.abs(fit(rgb, framing(12, 20, 1)).astype(int) - grey).max() <= 1
    six = np.concatenate([rgb, rgb[..., ::-1]], -1)
    assert np.array_equal(fit(six, framing(8, 8, 6))[..., :3], fit(rgb, framing(8, 8, 3)))
    y, x = np.mgrid[:12, :20]
    smooth = np.stack([70 + 5 * x, 70 + 8 * y, 100 + 2 * x + 2 * y], -1).astype(np.uint8)
    frame = framing(6, 10, 3, "stretch")
    floats = fit(smooth.astype(np.float32) / 255 - 0.5, frame)
    assert floats.dtype == np.float32
    assert np.abs((floats + 0.5) * 255 - fit(smooth, frame)).max() < 1.01  # bytes are rounded, floats are not
    with pytest.raises(ValueError, match="6 channels cannot be made 3"):
        fit(six, framing(12, 20, 3))


def test_colours():
    assert colour("white") == (255, 255, 255)
    assert colour("#8fa3bf") == (0x8F, 0xA3, 0xBF)
    with pytest.raises(ValueError, match="'wihte' is not a colour"):
        colour("wihte")
