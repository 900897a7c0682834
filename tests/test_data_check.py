"""`check`: what it counts, and that the sheet shows the right pictures."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from inkwash.data import DataSpec, check, contact_sheet, load

COLOURS = {"cat": (200, 0, 0), "dog": (0, 200, 0)}


def pets(root):
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for i in range(3):
            size = (16, 16) if i else (24, 16)
            Image.new("RGB", size, tuple(c + i for c in colour)).save(root / name / f"{i}.png")
    Image.new("RGBA", (16, 16), (201, 1, 1, 255)).save(root / "dog" / "same.png")  # equal to cat/1 once decoded
    (root / "dog" / "bad.png").write_bytes(b"junk")
    return root


def test_everything_is_counted(tmp_path):
    report = check(DataSpec(str(pets(tmp_path / "pets")), size=16), cache=tmp_path / "cache")
    assert report.classes == {"cat": 3, "dog": 4}
    assert report.captioned is None
    assert report.sizes == {"16x16": 5, "24x16": 2}
    assert report.modes == {"RGB": 6, "RGBA": 1}
    assert report.bad == (("dog/bad.png", "not a picture in a known format"),)
    assert report.duplicates == (("cat/1.png", "dog/same.png"),)
    text = "\n".join(report.lines())
    for part in (
        "7 examples",
        "cat 3, dog 4",
        "24x16 2",
        "cannot be read: 1",
        "duplicates: 1",
        "cat/1.png = dog/same.png",
    ):
        assert part in text
    sheet = np.asarray(report.sheet)
    for colours in ((200, 0, 0), (202, 2, 2), (0, 200, 0), (2, 202, 2)):
        assert (sheet == colours).all(-1).sum() == 64 * 64


def test_captions_are_counted(tmp_path):
    rows = []
    for i in range(4):
        Image.new("L", (8, 8), i).save(tmp_path / f"{i}.png")
        rows.append(json.dumps({"file_name": f"{i}.png", "text": "a" * i}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    report = check(str(tmp_path), cache=tmp_path / ".cache")
    assert report.captioned == 3 and "captions: 3 of 4 (75%)" in report.lines()
    assert report.classes == {} and report.duplicates == ()


def test_points_are_drawn_where_they_lie(tmp_path):
    report = check("gaussians", cache=tmp_path)
    sheet = np.asarray(report.sheet.convert("L"))
    dark = np.argwhere(sheet < 128)
    angles = np.degrees(np.arctan2(255.5 - dark[:, 0], dark[:, 1] - 255.5)) % 45
    assert len(dark) > 100 and (np.minimum(angles, 45 - angles) < 15).all()
    assert report.data.generated and "made by a formula" in report.lines()[0]


def test_sheets_of_unusual_arrays(tmp_path):
    for shape in ((5, 8, 8, 6), (5, 8, 8, 2), (5, 200, 100, 4)):
        np.save(tmp_path / "x.npy", np.full(shape, 128, np.uint8))
        data = load(str(tmp_path / "x.npy"), cache=tmp_path)
        assert np.asarray(contact_sheet(data)).min() <= 192
    np.save(tmp_path / "x.npy", np.linspace(-3, 3, 5 * 64, dtype=np.float32).reshape(5, 8, 8))
    sheet = np.asarray(contact_sheet(load(str(tmp_path / "x.npy"), cache=tmp_path)))
    assert sheet.min() == 0 and sheet.max() == 255
    np.save(tmp_path / "p.npy", np.zeros((5, 3), np.float32))
    assert contact_sheet(load(str(tmp_path / "p.npy"), cache=tmp_path)) is None
