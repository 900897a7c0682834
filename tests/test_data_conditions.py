"""What else a source says of its pictures: numbers, partners, captions as tokens, and what is shown in latents."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inkwash.cli import main
from inkwash.data import Dataset, DataSpec, Stream, check, flips, load, order, split
from inkwash.data.captions import with_tokens
from inkwash.data.latents import latents

N = 8


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(pixels: np.ndarray) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def picture(i: int, *, side: int = 8, style: int = 0) -> np.ndarray:
    """Not symmetric; what it shows tells its number and style."""
    u = np.full((side, side, 3), 10 * i, np.uint8)
    u[:, : side // 2, 1] = 100 * style + 7
    return u


def folder(root: Path, files: dict[str, bytes | str]) -> str:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(root)


def pictures(style: int = 0, prefix: str = "", side: int = 8) -> dict[str, bytes | str]:
    return {f"{prefix}{i}.png": png(picture(i, style=style, side=side)) for i in range(N)}


def metadata(*rows: dict[str, Any]) -> dict[str, bytes | str]:
    return {"metadata.jsonl": "\n".join(json.dumps({"file_name": f"{i}.png"} | r) for i, r in enumerate(rows))}


# Numbers

ROWS: tuple[dict[str, Any], ...] = (
    {"angle": 30, "where": [0.5, 1.5], "text": "a", "open": True},
    {"angle": -2.5, "where": [1.0, None]},
    {"angle": None, "where": [2.0, 3.0], "open": False},
    {"where": None},
    *({"angle": float(i), "where": [i, -i]} for i in range(4, N)),
)


def test_numbers_of_metadata_become_vectors(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "set", pictures() | metadata(*ROWS))
    data = load(DataSpec(source, vector=("where", "angle", "open")))
    assert data.vector_names == ("where.0", "where.1", "angle", "open")
    nan = np.nan
    assert data.vectors is not None and data.vectors.dtype == np.float32
    np.testing.assert_array_equal(
        data.vectors[:5],
        [[0.5, 1.5, 30, 1], [1, nan, -2.5, nan], [2, 3, nan, 0], [nan, nan, nan, nan], [4, -4, 4, nan]],
    )
    again = load(DataSpec(source, vector=("where", "angle", "open")))
    np.testing.assert_array_equal(again.vectors, data.vectors)  # from the pack
    plain = load(DataSpec(source))
    assert plain.vectors is None and plain.vector_names == ()
    assert plain.notes == (
        "metadata.jsonl also has numbers that can be learned from: angle, where, open (data.vector).",
    )
    assert not data.notes
    part = load(DataSpec(source, vector=("angle",), limit=3))
    numbers = (part.images[:, 0, 0, 0] // 10).tolist()  # which pictures were taken
    expected = {0: 30.0, 1: -2.5} | {i: float(i) for i in range(4, N)}
    assert part.vectors is not None and len(part) == 3
    np.testing.assert_array_equal(part.vectors[:, 0], [expected.get(i, nan) for i in numbers])
    prints = {d.fingerprint for d in (data, plain, part, load(DataSpec(source, vector=("angle",))))}
    assert len(prints) == 4


def test_an_unreadable_picture_takes_its_numbers_with_it(tmp_path: Path, cache: Path) -> None:
    rows = [{"angle": i} for i in range(40)]
    files = {f"{i}.png": png(picture(i % 8)) for i in range(40)} | {"7.png": b"no picture"} | metadata(*rows)
    data = load(DataSpec(folder(tmp_path / "set", files), vector=("angle",)))
    names = sorted(f"{i}.png" for i in range(40) if i != 7)
    assert data.vectors is not None
    assert data.vectors[:, 0].tolist() == [float(n[:-4]) for n in names]


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        (("angel",), ROWS, "No line of metadata.jsonl in .* has a column 'angel'. Did you mean angle?"),
        (("zzz",), ROWS, "Those with numbers: angle, where, open."),
        (("v", "v.1"), ({"v": [1, 2], "v.1": 3},), r"two numbers called v\.1: one of a list, and a column"),
        (("text",), ROWS, "text of 0.png is 'a', not a number"),
        (("v",), ({"v": [1, 2]}, {"v": [1]}), "v must be a number .* a list of 1 and a list of 2"),
        (("v",), ({"v": [1, 2]}, {"v": 3}), "a list of 2 and a number"),
        (("v",), ({"v": []}, {"v": []}), "a list of 0"),
        (("v",), ({"v": 1}, {"v": 1e39}), "v of 1.png is 1e\\+39"),
        (("v",), ({"v": 1}, {"v": [[1]]}), "a list of 1 and a number"),
    ],
)
def test_mistakes_in_numbers(
    columns: tuple[str, ...], rows: Sequence[dict[str, Any]], message: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        load(DataSpec(folder(tmp_path / "set", pictures() | metadata(*rows)), vector=columns))


def test_captions_are_strings_with_a_word_in_a_column_text(tmp_path: Path, cache: Path) -> None:
    rows = [{"caption": "a cat", "tags": ["x"], "n": 1, "text": None}, *[{"caption": "a dog"}] * (N - 1)]
    data = load(folder(tmp_path / "other", pictures() | metadata(*rows)))
    assert data.captions is None
    assert data.notes[0] == "metadata.jsonl has no captions: those are in a column text, and it has caption, tags."
    blank = folder(tmp_path / "blank", pictures() | metadata({"text": "one"}, *[{"text": " \t"}] * (N - 1)))
    assert check(blank).captioned == load(blank).captioned == 1


def test_numbers_need_somewhere_to_come_from(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match=r'names columns of metadata.jsonl, and .* has none.*"angle": 0.5'):
        load(DataSpec(folder(tmp_path / "set", pictures()), vector=("angle",)))
    with pytest.raises(ValueError, match="moons has no numbers beside its pictures"):
        load(DataSpec("moons", vector=("angle",)))
    with pytest.raises(ValueError, match="must name different columns"):
        DataSpec("moons", vector=("a", "a"))


def test_vectors_of_an_npz(tmp_path: Path, cache: Path) -> None:
    images = np.stack([picture(i) for i in range(N)])
    vectors = np.arange(2 * N, dtype=np.float64).reshape(N, 2)
    vectors[3, 1] = np.nan
    path = tmp_path / "a.npz"
    np.savez(path, images=images)
    before = load(str(path))
    np.savez(path, images=images, vectors=vectors, vector_names=np.array(["size", "angle"]))
    both, one = load(str(path)), load(DataSpec(str(path), vector=("angle",)))
    assert both.vectors is not None and one.vectors is not None
    np.testing.assert_array_equal(both.vectors, vectors)
    np.testing.assert_array_equal(one.vectors, vectors[:, 1:])
    assert both.vector_names == ("size", "angle") and one.vector_names == ("angle",)
    # A mirror would keep the angle's sign: it is for who asks for it.
    assert (before.flip, both.flip, one.flip, load(DataSpec(str(path), flip=True)).flip) == (True, False, False, True)
    assert len({before.fingerprint, both.fingerprint, one.fingerprint}) == 3
    np.savez(path, images=images, vectors=vectors[:, 0])
    assert load(str(path)).vector_names == ("0",)
    with pytest.raises(ValueError, match="has no numbers called angle, but 0"):
        load(DataSpec(str(path), vector=("angle",)))
    for bad, message in (
        ({"vectors": vectors[:-1]}, "expected 8 rows of numbers"),
        ({"vectors": vectors, "vector_names": np.array(["a"])}, "2 numbers need as many different vector_names"),
        ({"vectors": vectors * 1e40}, "infinite"),
    ):
        with np.errstate(all="ignore"):
            np.savez(path, images=images, **bad)
        with pytest.raises(ValueError, match=message):
            load(str(path))


def test_fingerprints_of_sets_without_more_are_as_they_were(tmp_path: Path, cache: Path) -> None:
    """Written out here as it was before there were vectors and partners: old runs go on."""
    source = folder(tmp_path / "set", pictures() | metadata(*({"text": f"t{i}", "label": i % 2} for i in range(N))))
    data = load(source)
    head = {"shape": [N, 8, 8, 3], "dtype": "|u1", "classes": ["0", "1"]}
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(np.stack([picture(i) for i in range(N)]).tobytes())
    digest.update((np.arange(N) % 2).astype("<i8").tobytes())
    digest.update(json.dumps([f"t{i}" for i in range(N)]).encode())
    assert data.fingerprint == digest.hexdigest()


# Partners


def test_partners_are_found_by_name_in_folders_and_archives(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "photos", pictures(prefix="deep/"))
    theirs = pictures(style=1, side=16) | {"more.png": png(picture(9))}  # another size, and one nobody asks for
    plain = folder(tmp_path / "flat", theirs)
    packed = tmp_path / "drawings.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(plain, "drawings")
    data = load(DataSpec(source, pairs=plain))
    assert data.images.shape == (N, 8, 8, 3)
    np.testing.assert_array_equal(data.images, [picture(i) for i in range(N)])
    assert data.shown is not None and data.shown.shape == data.images.shape
    assert data.shown[:, 0, 7].tolist() == [[10 * i, 10 * i, 10 * i] for i in range(N)]
    assert (data.shown[:, :, :2, 1] == 107).all()
    same = load(DataSpec(source, pairs=str(packed)))
    assert same.fingerprint == data.fingerprint != load(source).fingerprint
    np.testing.assert_array_equal(same.shown, data.shown)
    some = load(DataSpec(source, pairs=plain, limit=3, size=16, flip=False))
    assert some.shown is not None and some.shown.shape == (3, 16, 16, 3)
    assert (some.shown[:, 0, 15, 0] == some.images[:, 0, 15, 0]).all()
    Path(plain, "3.png").write_bytes(png(picture(3, style=0)))
    assert load(DataSpec(source, pairs=plain)).fingerprint != data.fingerprint  # made anew when partners change


def test_a_missing_partner_is_an_error_that_names_five(tmp_path: Path, cache: Path) -> None:
    source, theirs = folder(tmp_path / "a", pictures()), pictures(1)
    few = folder(tmp_path / "b", {name: theirs[name] for name in ("0.png", "7.png")})
    listed = "1.png, 2.png, 3.png, 4.png, 5.png, …"
    with pytest.raises(ValueError, match=rf"6 of 8 pictures in .*a have no partner in .*b: {listed}\. A partner has"):
        load(DataSpec(source, pairs=few))
    with pytest.raises(ValueError, match=r"data.pairs: No images in .*gone"):
        load(DataSpec(source, pairs=str(tmp_path / "gone")))
    with pytest.raises(ValueError, match=r"data.pairs = .* is an array"):
        np.save(tmp_path / "x.npy", np.zeros((N, 8, 8, 3), np.uint8))
        load(DataSpec(source, pairs=str(tmp_path / "x.npy")))
    with pytest.raises(ValueError, match="shapes holds no picture files"):
        load(DataSpec("shapes", pairs=few))
    with pytest.raises(ValueError, match="pairs is empty"):
        DataSpec(source, pairs=" ")


def test_a_picture_whose_partner_cannot_be_read_is_left_out(tmp_path: Path, cache: Path) -> None:
    files = {f"{i:02}.png": png(picture(i % 25)) for i in range(50)}
    theirs = {f"{i:02}.png": png(picture(i % 25, style=1)) for i in range(50)}
    source = folder(tmp_path / "a", files | {"04.png": b"broken"})
    pairs = folder(tmp_path / "b", theirs | {"04.png": b"broken too", "11.png": b"no"})
    data = load(DataSpec(source, pairs=pairs))
    kept = [i for i in range(50) if i not in (4, 11)]
    assert (data.images[:, 0, 7, 0] // 10).tolist() == [i % 25 for i in kept]
    assert data.shown is not None and (data.shown[:, 0, 7, 0] // 10).tolist() == [i % 25 for i in kept]
    assert data.notes[-1].startswith("2 of 50 pictures cannot be read")
    assert data.folder is not None
    assert [line.partition("\t")[0] for line in (data.folder / "bad-files.txt").read_text().splitlines()] == [
        "04.png",
        "b: 11.png",
    ]


def test_grey_pictures_with_coloured_partners_keep_the_colours(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "a", {f"{i}.png": png(picture(i)[..., 0]) for i in range(4)})
    assert load(source).shape == (1, 8, 8)
    data = load(DataSpec(source, pairs=folder(tmp_path / "b", pictures(1))))
    assert data.shape == (3, 8, 8) and data.shown is not None and (data.shown[:, 0, 0, 1] == 107).all()


def test_rows_carry_everything_and_mirror_what_is_shown(tmp_path: Path, cache: Path) -> None:
    source = folder(tmp_path / "a", pictures() | metadata(*({"angle": i, "label": i} for i in range(N))))
    data = load(DataSpec(source, pairs=folder(tmp_path / "b", pictures(1)), vector=("angle",), flip=True))
    train, held = split(data, 0.3, 0)
    stream = Stream(data, 3, train)
    rows = stream.rows(np.arange(2 * len(train)))
    index = np.concatenate([train[order(3, e, len(train))] for e in (0, 1)])
    turned = np.concatenate([flips(3, e, train[order(3, e, len(train))]) for e in (0, 1)])
    assert 0 < turned.sum() < len(turned) and not set(index) & set(held)
    assert rows.vectors is not None and rows.shown is not None and rows.tokens is None
    assert rows.vectors[:, 0].tolist() == index.tolist() and rows.labels is not None
    assert rows.labels.tolist() == index.tolist()
    for i, (row, shown, flip) in enumerate(zip(rows.images, rows.shown, turned, strict=True)):
        expected = [picture(index[i], style=s)[:, :: -1 if flip else 1] for s in (0, 1)]
        np.testing.assert_array_equal([row, shown], expected)
    assert data.shown is not None and not np.shares_memory(rows.shown, data.shown)
    taken = data.take([5, 5], [False, True])
    np.testing.assert_array_equal(taken.images[0], taken.images[1][:, ::-1])
    assert taken.vectors is not None and taken.vectors[:, 0].tolist() == [5, 5]


# What is shown, in latents


def half(u: np.ndarray) -> np.ndarray:
    """A codec that is not symmetric."""
    x = u.astype(np.float32) / 255
    return 2 * x[:, ::2, ::2, :2] + x[:, ::2, 1::2, :2]


def test_what_a_task_shows_is_encoded_beside_the_pictures(cache: Path) -> None:
    u = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    data = Dataset("some", u, None, (), None, "f" * 64, True, flip=True)
    calls = list[int]()

    def counted(pictures: np.ndarray) -> np.ndarray:
        calls.append(len(pictures))
        return half(pictures)

    plain = latents(data, counted, "k")
    made = len(calls)
    shown = latents(data, counted, "k", show=("inverse", lambda pictures: 255 - pictures))
    assert len(calls) == 2 * made  # the pictures themselves were encoded already
    np.testing.assert_array_equal(shown.images, plain.images)
    np.testing.assert_array_equal(shown.shown, half(255 - u).astype(np.float16))
    np.testing.assert_array_equal(shown.shown_mirrored, half(255 - u[:, :, ::-1]).astype(np.float16))
    rows = shown.take([3, 9], [False, True])
    np.testing.assert_array_equal(rows.shown, half(255 - np.stack([u[3], u[9][:, ::-1]])).astype(np.float16))
    assert plain.shown is None and plain.fingerprint != shown.fingerprint
    other = latents(data, counted, "k", show=("other", lambda pictures: pictures // 2))
    np.testing.assert_array_equal(other.shown, half(u // 2).astype(np.float16))
    assert other.fingerprint not in (plain.fingerprint, shown.fingerprint)
    paired = latents(replace(data, shown=u[::-1], fingerprint="e" * 64), half, "k")
    np.testing.assert_array_equal(paired.shown, half(u[::-1]).astype(np.float16))
    np.testing.assert_array_equal(paired.shown_mirrored, half(u[::-1, :, ::-1]).astype(np.float16))
    still = latents(replace(data, flip=False), half, "k", show=("inverse", lambda pictures: 255 - pictures))
    assert still.mirrored is None and still.shown_mirrored is None and still.shown is not None


# Captions


def words(texts: Sequence[str]) -> list[np.ndarray]:
    """A token for each word: its length, and its first letter's number."""
    return [np.array([[len(w), ord(w[0])] for w in t.split()], np.float32).reshape(-1, 2) for t in texts]


CAPTIONS = ("a red apple", "", "dog", "a red apple", " ", "a dog in a hat")


def captioned() -> Dataset:
    return Dataset("some/set", np.zeros((6, 2, 2, 1), np.uint8), None, (), CAPTIONS, "f" * 64, True)


def test_captions_become_tokens_once_for_each_that_differs(cache: Path) -> None:
    asked = list[str]()

    def encode(texts: Sequence[str]) -> list[np.ndarray]:
        asked.extend(texts)
        return words(texts)

    told = list[tuple[str, int, int]]()
    data = with_tokens(captioned(), encode, "k", progress=lambda *said: told.append(said))
    assert sorted(asked) == sorted(set(CAPTIONS)) and told[-1] == ("Reading captions", 5, 5)
    assert data.tokens is not None and data.lengths is not None
    assert data.tokens.shape == (6, 5, 2) and data.lengths.tolist() == [3, 0, 1, 3, 0, 5]
    rows = data.take([5, 0, 1, 3, 2])
    assert rows.tokens is not None and rows.present is not None and rows.tokens.dtype == np.float16
    assert rows.present.tolist() == [[i < n for i in range(5)] for n in (5, 3, 0, 3, 1)]
    for i, text in enumerate(("a dog in a hat", "a red apple", "", "a red apple", "dog")):
        np.testing.assert_array_equal(rows.tokens[i][rows.present[i]], words([text])[0])
        assert not rows.tokens[i][~rows.present[i]].any()
    assert data.fingerprint == captioned().fingerprint
    asked.clear()
    again = with_tokens(captioned(), encode, "k")
    np.testing.assert_array_equal(again.take(np.arange(6)).tokens, data.take(np.arange(6)).tokens)
    assert not asked
    with_tokens(captioned(), encode, "another encoder")
    assert sorted(asked) == sorted(set(CAPTIONS))


def test_reading_captions_goes_on_where_it_was_killed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkwash.data.captions.CHUNK", 2)
    calls = list[list[str]]()

    def killed(texts: Sequence[str]) -> list[np.ndarray]:
        calls.append(list(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return words(texts)

    with pytest.raises(KeyboardInterrupt):
        with_tokens(captioned(), killed, "k")
    partial = next((cache / "captions").glob(".partial-*"))
    for file in ("tokens.bin", "lengths.bin"):  # what was being written when the power went
        with (partial / file).open("ab") as out:
            out.write(b"junk")
    data = with_tokens(captioned(), killed, "k")
    assert [t for call in calls[3:] for t in call] == sorted(set(CAPTIONS))[4:]
    whole = with_tokens(captioned(), words, "other key")
    np.testing.assert_array_equal(data.take(np.arange(6)).tokens, whole.take(np.arange(6)).tokens)
    assert data.lengths is not None and whole.lengths is not None
    assert data.lengths.tolist() == whole.lengths.tolist()
    assert not list((cache / "captions").glob(".partial-*"))


def test_captions_that_cannot_be_kept(cache: Path) -> None:
    with pytest.raises(ValueError, match="some/set has no captions"):
        with_tokens(replace(captioned(), captions=None), words, "k")
    with pytest.raises(ValueError, match="some/set has no captions"):
        with_tokens(replace(captioned(), captions=("", " ") * 3), words, "k")
    with pytest.raises(ValueError, match="not finite in float16"):
        with_tokens(captioned(), lambda texts: [1e6 * w for w in words(texts)], "k")


# Looking


def test_check_says_which_conditions_a_source_declares(tmp_path: Path, cache: Path, capsys: Any) -> None:
    rows = [{"angle": i, "text": "one two" if i else "three little words"} for i in range(N - 1)] + [{"text": ""}]
    source = folder(tmp_path / "a", pictures() | metadata(*rows))
    theirs = folder(tmp_path / "b", pictures(1))
    report = check(DataSpec(source, vector=("angle",), pairs=theirs))
    lines = report.lines()
    assert "captions: 7 of 8 (88%)" in lines and "longest caption: 3 words (three little words)" in lines
    assert "number angle: mean 3, from 0 to 6, not known of 1" in lines
    assert "partners: 8 of 8, in the sheet to the right of their pictures" in lines
    assert report.sheet is not None
    sheet = np.asarray(report.sheet)
    line = sheet[32, :128]  # of a picture, and of its partner
    i = int(line[0, 0])
    assert line[::32].tolist() == [[i, 7, i], [i, i, i], [i, 107, i], [i, i, i]]
    out = ["--out", str(tmp_path / "s.png")]
    with pytest.raises(SystemExit, match="0"):
        main(["data", "check", source, "--vector", "angle", "--pairs", theirs, *out])
    said = capsys.readouterr().out
    assert "number angle: mean 3, from 0 to 6" in said and "partners: 8 of 8" in said
