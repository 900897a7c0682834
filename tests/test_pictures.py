"""Pictures: pixels read back, settings read back, animations read back, ticks against known answers."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image, ImageSequence

from inkwash import pictures
from inkwash.pictures import chart, files, grid, line_plot, read_settings, save_gif, save_png, scatter, strip, ticks
from inkwash.pictures.text import width, wrap

RNG = np.random.default_rng(0)


def noise(n, h, w, c):
    """Pixels that are never white or near it, so that they stand out from the page."""
    return RNG.integers(0, 200, (n, h, w, c), dtype=np.uint8)


def enlarged(image, scale):
    return np.kron(image, np.ones((scale, scale, 1), dtype=np.uint8))


def occurrences(page, picture):
    """The corners (y, x) at which a picture [h, w, 3] stands in a page."""
    page, (h, w, _) = np.asarray(page), picture.shape
    candidates = np.argwhere((page[: page.shape[0] - h + 1, : page.shape[1] - w + 1] == picture[0, 0]).all(-1))
    return [(int(y), int(x)) for y, x in candidates if (page[y : y + h, x : x + w] == picture).all()]


# Sheets


@pytest.mark.parametrize("labels", [None, ["a", "T-shirt/top", "an extraordinarily long name"]], ids=["bare", "labels"])
@pytest.mark.parametrize(
    ("h", "w", "scale", "found"), [(28, 28, None, 2), (6, 9, None, 7), (100, 80, None, 1), (5, 4, 3, 3)]
)
def test_a_grid_holds_every_image_exactly_in_its_place(h, w, scale, found, labels):
    images, gap = noise(8, h, w, 3), 2
    page = grid(images, 3, labels=labels, scale=scale, gap=gap, title="A title")
    corners = [occurrences(page, enlarged(image, found)) for image in images]
    assert [len(c) for c in corners] == [1] * 8
    (y0, x0), places = corners[0][0], [c[0] for c in corners]
    assert places == [(y0 + i // 3 * (h * found + gap), x0 + i % 3 * (w * found + gap)) for i in range(8)]
    without = np.array(page)
    for y, x in places:
        without[y : y + h * found, x : x + w * found] = 255
    assert (without[y0:] == 255).all()  # the gaps, the empty ninth cell and the margin are white
    border = np.concatenate([without[:4].ravel(), without[:, :4].ravel(), without[:, -4:].ravel()])
    assert (border == 255).all()  # and no text is cut off at the edge


def test_channels():
    a = noise(1, 8, 8, 6)
    opaque = np.concatenate([a[..., :3], np.full_like(a[..., :1], 255)], 3)
    half = np.concatenate([a[..., :3], np.full_like(a[..., :1], 128)], 3)
    expected = {
        "grey": (a[..., :1], a[..., :1].repeat(3, 3)),
        "two": (a[..., :2], np.concatenate([a[..., :2], 0 * a[..., :1]], 3)),
        "rgb": (a[..., :3], a[..., :3]),
        "opaque": (opaque, a[..., :3]),
        "half": (half, np.rint(a[..., :3] * (128 / 255) + 255 * (127 / 255)).astype(np.uint8)),
        "clear": (np.concatenate([a[..., :3], 0 * a[..., :1]], 3), np.full((1, 8, 8, 3), 255, np.uint8)),
        "six": (a, a[..., :3]),
    }
    for name, (given, shown) in expected.items():
        assert occurrences(grid(given, 1, scale=1), shown[0]), name


def test_a_strip_has_captions_below():
    images = noise(3, 5, 7, 1)
    page = strip(images, ["t = 0", "t = 50", "t = 100"], scale=10)
    corners = [occurrences(page, enlarged(image.repeat(3, 2), 10)) for image in images]
    assert all(len(found) == 1 for found in corners)
    below = corners[0][0][0] + 50
    columns = [found[0][1] for found in corners]
    ink = (np.asarray(page)[below:] < 128).all(-1).any(0)
    for x in columns:  # each caption is centred under its image
        at = x + np.flatnonzero(ink[x : x + 70])
        assert abs((at.min() + at.max()) / 2 - (x + 35)) <= 1.5
    usual = strip(images, ["a", "b", "c"])  # cells of about 140 pixels
    assert len(occurrences(usual, enlarged(images[0].repeat(3, 2), 20))) == 1


def test_captions_of_a_grid_stand_under_their_own_images_in_rows_of_one_height():
    images = noise(5, 32, 30, 3)
    captions = ["a", "a red apple on a very long wooden table of many words", "", "b c", "d"]
    page = grid(images, 2, captions=captions)
    corners = [occurrences(page, enlarged(image, 3)) for image in images]  # cells of 90 pixels
    assert [len(c) for c in corners] == [1] * 5
    places = [c[0] for c in corners]
    x0, x1, step = places[0][1], places[1][1], places[2][0] - places[0][0]
    assert places == [(places[0][0] + i // 2 * step, (x0, x1)[i % 2]) for i in range(5)] and x1 - x0 == 92
    ink = (np.asarray(page) < 128).all(-1)
    for (y, x), caption in zip(places, captions, strict=True):
        below = ink[y + 96 : y + step, x : x + 90]
        assert below.any() == bool(caption), caption
        if caption:
            at = np.flatnonzero(below.any(0))
            assert abs((at.min() + at.max()) / 2 - 45) <= 2.5
    assert not ink[:, x0 + 90 : x1].any()  # none runs into its neighbour
    with pytest.raises(ValueError, match="1 captions for 5 images"):
        grid(images, 2, captions=["a"])


def test_mistakes_are_explained():
    images = noise(4, 5, 5, 1)
    with pytest.raises(ValueError, match="3 labels for 2 columns"):
        grid(images, 2, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"\[N, H, W, C\] of uint8, not \[4, 5, 5, 1\] of float64"):
        grid(images / 255, 2)
    with pytest.raises(ValueError, match=r"not \[0, 5, 5, 1\]"):
        grid(images[:0], 2)
    with pytest.raises(ValueError, match="columns = 0"):
        grid(images, 0)
    with pytest.raises(ValueError, match="2 captions for 4 images"):
        strip(images, ["a", "b"])
    with pytest.raises(ValueError, match=r"points \[N, 2\]"):
        scatter(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="Series 'a' has"):
        line_plot({"a": ([1, 2], [1])}, title="", xlabel="", ylabel="")


def test_text_fits_its_room():
    assert wrap("T-shirt/top", 56, largest=13, smallest=9) == (["T-shirt/", "top"], 13)
    assert wrap("Bag", 56, largest=13, smallest=9) == (["Bag"], 13)
    for name in ("Incomprehensibilities", "a very long caption of many words that cannot fit anywhere", "x" * 200):
        lines, size = wrap(name, 56, largest=13, smallest=9)
        assert len(lines) <= 3
        assert all(width(line, size) <= 56 for line in lines)


def test_letters_that_no_font_has_become_the_nearest_plain_ones(monkeypatch):
    monkeypatch.setattr("inkwash.pictures.text._SYSTEM_FONTS", ())
    pictures.text._fit_font.cache_clear()
    try:
        assert pictures.text._fit_font("Über 5×5 中", 13)[1] == "Uber 5?5 ?"
    finally:
        pictures.text._fit_font.cache_clear()


# Files


def test_settings_come_back(tmp_path):
    settings = {"seed": 0, "label": "中 é", "steps": [1, 2.5], "nested": {"none": None, "yes": True}}
    path = save_png(grid(noise(2, 8, 8, 3), 2), tmp_path / "new" / "a.png", settings)
    assert read_settings(path) == settings
    with Image.open(path) as image:
        image.load()
        assert json.loads(image.text["inkwash"]) == settings
    save_png(grid(noise(2, 8, 8, 3), 2), path)
    with pytest.raises(ValueError, match=r"a\.png holds no settings"):
        read_settings(path)


def test_a_png_is_the_image(tmp_path):
    page = grid(noise(2, 8, 8, 3), 2)
    with Image.open(save_png(page, tmp_path / "a.png", {})) as found:
        assert (np.asarray(found) == np.asarray(page)).all()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = save_png(Image.new("L", (4, 4), 7), tmp_path / "a.png", {"n": 1})
    before = path.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (files.Path, "replace")), interrupt)
    for save in (lambda: save_png(Image.new("L", (9, 9)), path), lambda: save_gif([Image.new("L", (9, 9))], path)):
        with pytest.raises(KeyboardInterrupt):
            save()
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert path.read_bytes() == before


def read_gif(path):
    with Image.open(path) as gif:
        assert gif.info["loop"] == 0
        return zip(
            *[(np.asarray(f.convert("RGB")), f.info["duration"]) for f in ImageSequence.Iterator(gif)], strict=True
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_an_animation_comes_back(tmp_path, channels):
    still = noise(1, 40, 40, channels)[0]
    still[:, :20] = still[0, 0]  # parts that do not change between frames
    given = [
        grid(np.where(RNG.random(still.shape) < i / 6, noise(1, 40, 40, 1)[0, :, :, :1], still)[None], 1)
        for i in range(7)
    ]
    if channels == 3:  # at most 256 colours: a palette of its own for each frame
        given = [Image.fromarray(np.asarray(g) // 64 * 64 + i) for i, g in enumerate(given)]
    frames, durations = read_gif(save_gif(given, tmp_path / "a.gif", seconds=1.0, hold_last=1.5))
    assert len(frames) == 7
    assert all((a == np.asarray(b)).all() for a, b in zip(frames, given, strict=True))  # exact, the last one too
    assert sum(durations[:-1]) == 1000
    assert max(durations[:-1]) - min(durations[:-1]) <= 10
    assert durations[-1] == 1500


def test_many_colours_are_reduced_with_care(tmp_path):
    x, y = np.meshgrid(np.arange(0, 256, 4), np.arange(0, 256, 4))
    smooth = np.stack([x, y, 255 - (x + y) // 2], -1).astype(np.uint8)
    (found,), _ = read_gif(save_gif([Image.fromarray(smooth)], tmp_path / "a.gif"))
    error = found.astype(float) - smooth
    assert np.sqrt((error**2).mean()) < 8  # 256 even cells over this plane of 4096 colours are 16 wide: about 4.6


def test_animations_of_few_or_unequal_frames(tmp_path):
    _, durations = read_gif(save_gif([Image.new("L", (4, 4))], tmp_path / "a.gif", hold_last=0.5))
    assert durations == (500,)
    fast = [Image.new("L", (4, 4), i) for i in range(101)]
    _, durations = read_gif(save_gif(fast, tmp_path / "b.gif", seconds=0.1))
    assert set(durations[:-1]) == {20}
    with pytest.raises(ValueError, match="at least one frame"):
        save_gif([], tmp_path / "c.gif")
    with pytest.raises(ValueError, match=r"one size: \(4, 4\), not \(5, 4\)"):
        save_gif([fast[0], Image.new("L", (5, 4))], tmp_path / "c.gif")


# Charts


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 10, 5, [0, 2, 4, 6, 8, 10]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0.13, 0.87, 4, [0.2, 0.4, 0.6, 0.8]),
        (0, 3000, 6, [0, 500, 1000, 1500, 2000, 2500, 3000]),
        (-0.05, 1.3, 6, [0, 0.2, 0.4, 0.6, 0.8, 1, 1.2]),
        (1e6, 1.5e6, 5, [1e6, 1.1e6, 1.2e6, 1.3e6, 1.4e6, 1.5e6]),
        (0, 3e-4, 3, [0, 1e-4, 2e-4, 3e-4]),
    ],
)
def test_ticks(low, high, count, expected):
    assert ticks(low, high, count) == expected


def test_ticks_are_round_numbers_in_range_and_about_as_many_as_asked():
    for _ in range(500):
        low, count = RNG.normal() * 10.0 ** RNG.integers(-4, 6), int(RNG.integers(3, 9))
        high = low + 10 ** RNG.uniform(-3, 5)
        found = ticks(low, high, count)
        step = (high - low) / count
        assert all(low - 1e-6 * step <= t <= high + 1e-6 * step for t in found)
        assert count / 1.6 - 1 <= len(found) <= count * 1.5 + 1
        assert all(len(f"{t:.9g}".replace("-", "").replace(".", "").strip("0")) <= 9 for t in found)


def test_tick_labels():
    assert [t for _, t in chart._labelled([0.0, 500.0, 1000.0])] == ["0", "500", "1,000"]
    assert [t for _, t in chart._labelled([0.0, 0.25, 0.5])] == ["0.00", "0.25", "0.50"]
    assert [t for _, t in chart._labelled([0.0, 1e7])] == ["0", "1e+07"]


def coloured(page, colour):
    """The pixels [n, 2] (x, y) of exactly this colour."""
    return np.argwhere((np.asarray(page) == colour).all(-1))[:, ::-1]


def test_a_line_goes_through_its_points():
    """y = x² on [0, 10]: a pixel's column and row are linear in x and in y, so row = a + b·(column - c)²."""
    x = np.linspace(0, 10, 40)
    page = line_plot({"square": (x, x**2)}, title="", xlabel="", ylabel="")
    at = coloured(page, chart.COLOURS[0]).astype(float)
    c = at[:, 0].min()
    fit = np.polyfit(at[:, 0] - c, at[:, 1], 2)
    assert np.abs(np.polyval(fit, at[:, 0] - c) - at[:, 1]).max() < 2.5  # the line is 2.2 pixels wide
    assert abs(fit[1]) < 0.05 * abs(fit[0]) * (at[:, 0].max() - c)


def test_a_line_drops_what_is_not_finite():
    x = np.arange(40.0)
    y = 3 - x / 4
    y[[7, 20, 30]] = np.nan, np.inf, -np.inf
    page = line_plot({"loss": (x, y)}, title="", xlabel="", ylabel="")
    at = coloured(page, chart.COLOURS[0]).astype(float)
    assert np.abs(np.polyval(np.polyfit(*at.T, 1), at[:, 0]) - at[:, 1]).max() < 2.5


@pytest.mark.parametrize(("log", "straight"), [("xy", lambda x: x**-2.0), ("x", np.log), ("y", np.exp)])
def test_logarithmic_axes(log, straight):
    """What is a line on the axes asked for is drawn as a line; what has no logarithm is left out."""
    x = np.linspace(1, 10, 300) if log == "y" else np.geomspace(1, 100, 40)
    at = coloured(
        line_plot({"a": (x, straight(x))}, title="", xlabel="", ylabel="", log=log, smooth=False), chart.COLOURS[0]
    )
    assert np.abs(np.polyval(np.polyfit(*at.T, 1), at[:, 0]) - at[:, 1]).max() < 2.5 and np.ptp(at[:, 0]) > 700
    lacking = (np.array([-1.0, 0.0, *x]), np.array([-1.0, 0.0, *straight(x)]))
    if log != "xy":  # of the other axis these are values
        return
    same = coloured(line_plot({"a": lacking}, title="", xlabel="", ylabel="", log=log), chart.COLOURS[0])
    np.testing.assert_array_equal(same, at)


def test_logarithmic_ticks():
    def labels(low, high):
        marks = chart._log_ticks(np.log10(low), np.log10(high))
        assert [10**at for at, _ in marks] == pytest.approx([float(label) for _, label in marks])
        return [label for _, label in marks]

    assert labels(5, 50) == ["5", "6", "7", "8", "9", "10", "20", "30", "40", "50"]
    assert labels(0.004, 0.3) == ["0.005", "0.01", "0.02", "0.05", "0.1", "0.2"]
    assert labels(1e-4, 1) == ["0.0001", "0.001", "0.01", "0.1", "1"]


def test_many_lines_are_named_at_their_ends(monkeypatch):
    """Each name in its line's colour, at its end or pushed apart, in the order of the ends, and within the plot."""
    said = {}
    monkeypatch.setattr(chart.text, "write", lambda _, at, words, *how: said.update({words: (*at, *how)}))
    ends = {"a": 1.0, "b": 0.0, "c": 0.01, "d": 0.02, "e": 0.5}
    line_plot({n: ([0.0, 1.0], [0.3, y]) for n, y in ends.items()}, title="", xlabel="", ylabel="")
    assert [said[n][3] for n in ends] == list(chart.COLOURS[:5])
    assert {said[n][0] for n in ends} == {3 * (900 - 28.0 - max(chart.text.width(n, 13) for n in ends))}
    heights = [said[n][1] / 3 for n in ("a", "e", "d", "c", "b")]
    assert np.diff(heights)[2:] == pytest.approx([17, 17]) and (np.diff(heights) > 17 - 1e-9).all()
    assert (heights[0] + heights[-1]) / 2 == pytest.approx(heights[1], abs=12)
    assert heights[-1] <= 500 - 54


def test_a_scatter_without_axes_fills_its_picture():
    page = np.asarray(scatter(np.array([[1.0, 1.0], [-1.0, -1.0]]), limits=(-1, 1, -1, 1), axes=False, size=(80, 80)))
    dark = np.argwhere((page < 200).any(-1))
    assert dark.min() <= 1 and dark.max() >= 78
    assert (page[10:70, 20:30] == 255).all()  # no lines inside


def test_smoothing_is_the_mean_and_keeps_a_line_a_line():
    y = np.arange(400.0)
    smooth = chart._running_mean(y)
    assert np.allclose(smooth[:395], y[:395])
    assert np.allclose(chart._running_mean(np.full(400, 2.5)), 2.5)
    jagged = y + np.where(np.arange(400) % 2, 1.0, -1.0)
    assert np.abs(chart._running_mean(jagged)[5:395] - y[5:395]).max() <= 1 / 11 + 1e-9  # windows of 11 values


def test_the_envelope_keeps_the_extremes():
    y = RNG.normal(size=10_000)
    y[1234], y[8765] = 50.0, -50.0
    x, thin = chart._envelope(np.arange(10_000.0), y, 300)
    assert len(thin) == 600
    assert (thin.max(), thin.min()) == (50.0, -50.0)
    assert abs(x[thin.argmax()] - 1234) < 34


def test_plots_of_nothing_and_of_one_value():
    line_plot({}, title="t", xlabel="x", ylabel="y")
    page = line_plot({"a": ([5], [3.0]), "b": ([], []), "c": ([5], [float("nan")])}, title="t", xlabel="x", ylabel="y")
    x, y = coloured(page, chart.COLOURS[0]).T
    dot = y > 80  # the rest is the legend
    assert abs((x[dot].min() + x[dot].max()) / 2 - page.width / 2) < 40
    scatter(np.zeros((0, 2)))


def test_a_scatter_puts_points_where_they_are():
    corners = np.array([[-2.0, -1.0], [2.0, -1.0], [-2.0, 1.0], [2.0, 1.0], [0.0, 0.0]])
    page = scatter(corners, labels=np.arange(5), limits=(-3, 3, -3, 3))
    picture = np.asarray(page).astype(float)
    at = []
    for colour in chart.COLOURS[:5]:  # the darkest place of each hue is the middle of its disc
        shade = np.array(colour) * 0.85 + 255 * 0.15
        at.append(np.argwhere(np.abs(picture - shade).max(-1) < 3).mean(0)[::-1])
    a, b, c, d, middle = at
    unit = (b - a)[0] / 4
    assert np.allclose([b - a, d - c], [unit * 4, 0], atol=0.7)
    assert np.allclose([c - a, d - b], [0, -unit * 2], atol=0.7)  # y goes up, in the same unit
    assert np.allclose(middle, (a + d) / 2, atol=0.7)


def test_a_scatter_leaves_out_what_is_outside_or_not_finite():
    inside = np.array([[0.5, 0.5], [0.2, 0.9]])
    more = np.concatenate([inside, [[9.0, 0.5], [0.5, -9.0], [np.nan, 0.5], [np.inf, 0.1]]])
    page, clean = (scatter(points, limits=(0, 1, 0, 1)) for points in (more, inside))
    assert (np.asarray(page) == np.asarray(clean)).all()
