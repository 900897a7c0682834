"""From sources to packs: folders, archives, arrays, labels, captions, bad files, messages."""

from __future__ import annotations

import json
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash.data import DataSpec, load
from inkwash.data.dataset import fingerprint

COLOURS = {"cat": (200, 10, 10), "dog": (10, 200, 10), "eel": (10, 10, 200)}


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def png(colour, size=(16, 16)):
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def write(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def classes():
    """Three classes of four pictures, each of its class's colour plus its number."""
    return {f"{c}/{i}.png": png((r + i, g + i, b + i)) for c, (r, g, b) in COLOURS.items() for i in range(4)}


JUNK = {
    ".hidden.png": b"x",
    "__MACOSX/cat/._0.png": b"x",
    "cat/.DS_Store": b"x",
    ".git/a.png": b"x",
    "notes.txt": b"x",
}


def test_class_folders(tmp_path, cache):
    data = load(str(write(tmp_path / "pets", classes() | JUNK)), cache=cache)
    assert (data.name, data.classes, data.shape) == ("pets", ("cat", "dog", "eel"), (3, 16, 16))
    assert data.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    expected = [(r + i, g + i, b + i) for r, g, b in COLOURS.values() for i in range(4)]
    assert (data.images == np.array(expected)[:, None, None]).all()
    assert data.flip and not data.generated and data.captions is None and data.notes == ()
    assert data.fingerprint == fingerprint(data.images, data.labels, data.classes, None)


def archives(folder, files):
    """The files as a zip and as tars, inside of a top folder, in an order that is not sorted."""
    names = sorted(files, reverse=True)
    with zipfile.ZipFile(folder / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(f"top/{name}", files[name])
    for suffix, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tgz", "w:gz"), (".tar.xz", "w:xz")):
        with tarfile.open(folder / f"pets{suffix}", mode) as archive:
            for name in names:
                info = tarfile.TarInfo(f"./top/{name}")
                info.size = len(files[name])
                archive.addfile(info, BytesIO(files[name]))
            link = tarfile.TarInfo("./top/cat/link.png")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)
    return [folder / f"pets{s}" for s in (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz")]


def test_folder_zip_and_tars_give_the_same_pack(tmp_path, cache, monkeypatch):
    files = classes() | JUNK
    want = load(str(write(tmp_path / "pets", files)), cache=cache)
    sources = archives(tmp_path, files)
    for held in (1 << 28, 100):  # contents of a tar kept in memory, and read a second time
        monkeypatch.setattr("inkwash.data.sources._HOLD", held)
        for path in sources:
            got = load(str(path), cache=cache / str(held))
            assert got.fingerprint == want.fingerprint
            assert (got.name, got.classes, got.labels.tolist()) == ("pets", want.classes, want.labels.tolist())
            assert np.array_equal(got.images, want.images)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["cache", "pets", *(p.name for p in sources)])


def test_a_flat_folder_and_a_single_class_have_no_classes(tmp_path, cache):
    flat = {f"{i}.png": png((i, 0, 0)) for i in range(3)}
    data = load(str(write(tmp_path / "flat", flat)), cache=cache)
    assert data.labels is None and data.classes == ()
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    nested = load(str(write(tmp_path / "one", {f"a/b/{n}": d for n, d in flat.items()})), cache=cache)
    assert nested.labels is None and nested.fingerprint == data.fingerprint
    mixed = load(str(write(tmp_path / "mixed", flat | {"a/x.png": png((9, 9, 9))})), cache=cache)
    assert mixed.labels is None and "3 pictures lie beside the folders" in mixed.notes[0]


def test_train_and_test_folders(tmp_path, cache):
    files = {f"train/{n}": d for n, d in classes().items()} | {
        "test/cat/9.png": png((1, 1, 1)),
        "test/dog/9.png": png(0),
    }
    root = str(write(tmp_path / "both", files))
    train, test = load(root, cache=cache), load(DataSpec(root, split="test"), cache=cache)
    assert len(train) == 12 and train.classes == ("cat", "dog", "eel")
    assert test.images[:, 0, 0, 0].tolist() == [1, 0] and test.classes == ("cat", "dog")
    with pytest.raises(ValueError, match=r"has no test split.*val_fraction"):
        load(DataSpec(str(write(tmp_path / "plain", classes())), split="test"), cache=cache)
    with pytest.raises(ValueError, match="has no test split, but train, validation"):
        files = {"train/0.png": png(0), "validation/0.png": png(0)}
        load(DataSpec(str(write(tmp_path / "val", files)), split="test"), cache=cache)


def lines(*rows):
    return "\n".join(json.dumps(r) for r in rows) + "\n\n"


def test_metadata_gives_captions_and_labels(tmp_path, cache):
    files = {f"images/{i}.png": png((i, 0, 0)) for i in range(5)}
    files["metadata.jsonl"] = lines(
        {"file_name": "images/2.png", "text": "zwei", "label": "b"},
        {"file_name": "images/0.png", "text": "", "label": "a", "tags": ["x"]},
        {"file_name": "images/1.png", "text": "un", "label": None},
        {"file_name": "images/7.png", "text": "gone", "label": "a"},
    )
    with pytest.raises(ValueError, match=r"1 of 4 pictures .* cannot be read(.|\n)*listed in metadata.jsonl"):
        load(str(write(tmp_path / "m", files)), cache=cache)
    files["metadata.jsonl"] = "\n".join(files["metadata.jsonl"].splitlines()[:3])
    data = load(str(write(tmp_path / "m", files)), cache=cache)
    assert data.images[:, 0, 0, 0].tolist() == [0, 1, 2]
    assert data.captions == ("", "un", "zwei")
    assert data.classes == ("a", "b") and data.labels.tolist() == [0, -1, 1]
    assert data.notes == (
        "2 pictures that metadata.jsonl does not list are left out.",
        "1 pictures have no label; they count as of any class.",
    )


def test_whole_number_labels_are_sorted_by_value(tmp_path, cache):
    files = {f"{i}.png": png((i, 0, 0)) for i in range(3)}
    rows = [{"file_name": f"{i}.png", "label": label} for i, label in enumerate((10, 9, 2))]
    data = load(str(write(tmp_path / "n", files | {"metadata.jsonl": lines(*rows)})), cache=cache)
    assert data.classes == ("2", "9", "10") and data.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{not json}", "line 1 is not JSON"),
        ('{"name": "0.png"}', 'line 1 has no "file_name"'),
        ('{"file_name": "0.png"}\n{"file_name": "./0.png"}', "line 2 names ./0.png a second time"),
        ('{"file_name": "0.png", "label": [1]}', "label must be a string or a whole number"),
        (
            '{"file_name": "9.png"}\n{"file_name": "0.png", "text": ["a", "b"]}',
            r"line 2: text must be a string.*\['a', 'b'\]",
        ),
        ('{"file_name": "../../etc/passwd"}', "lists no picture that is there"),
    ],
)
def test_mistakes_in_metadata(tmp_path, cache, text, message):
    with pytest.raises(ValueError, match=message):
        load(str(write(tmp_path / "m", {"0.png": png(0), "metadata.jsonl": text})), cache=cache)


def test_few_bad_files_are_left_out_and_listed(tmp_path, cache):
    files = {f"{i:02}.png": png((i, 0, 0)) for i in range(40)}
    files["07.png"] = files["07.png"][:40]
    files["21.jpg"] = b"junk"
    data = load(str(write(tmp_path / "few", files)), cache=cache)
    assert data.images[:, 0, 0, 0].tolist() == [i for i in range(40) if i != 7]
    listed = (data.folder / "bad-files.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in listed] == ["07.png", "21.jpg"]
    assert listed[1].split("\t")[1] == "not a picture in a known format"
    assert data.notes[0].startswith("2 of 41 pictures cannot be read")


def test_many_bad_files_stop_every_time(tmp_path, cache):
    files = {f"{i:02}.png": png((i, 0, 0)) for i in range(20)} | {"a.png": b"", "b.png": b"x"}
    root = str(write(tmp_path / "many", files))
    for _ in range(2):  # the second time from the pack
        with pytest.raises(ValueError, match=r"2 of 22 pictures .* more than 5%(.|\n)*a.png(.|\n)*bad-files.txt"):
            load(root, cache=cache)
    with pytest.raises(ValueError, match=r"None of the 2 pictures(.|\n)*a.png: "):
        load(str(write(tmp_path / "all", {"a.png": b"", "b.png": b"x"})), cache=cache)


def test_oversized_and_damaged_members_are_bad_files(tmp_path, cache):
    files = {f"{i:02}.png": png((i, 0, 0)) for i in range(40)}
    with zipfile.ZipFile(tmp_path / "big.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr("zz.png", b"\0" * 3_000_000)
    data = load(DataSpec(str(tmp_path / "big.zip"), max_pixels=200_000), cache=cache)
    assert len(data) == 40 and "larger than any picture" in (data.folder / "bad-files.txt").read_text()
    raw = bytearray((tmp_path / "big.zip").read_bytes())
    place = raw.index(files["05.png"][16:30]) if files["05.png"][16:30] in raw else 40 + raw.index(b"05.png")
    raw[place + 4] ^= 0xFF
    (tmp_path / "hurt.zip").write_bytes(raw)
    hurt = load(DataSpec(str(tmp_path / "hurt.zip"), max_pixels=200_000), cache=cache)
    assert 5 not in hurt.images[:, 0, 0, 0] and len(hurt) == 39


def tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return str(path)


@pytest.mark.parametrize("held", [1 << 28, 100])  # bytes kept in memory: the tar is read once, or again
def test_empty_and_repeated_members_of_a_tar(tmp_path, cache, monkeypatch, held):
    monkeypatch.setattr("inkwash.data.sources._HOLD", held)
    members = [(f"{i:02}.png", png((i, 0, 0))) for i in range(40)]
    data = load(tar(tmp_path / "a.tar", [*members, ("zz.png", b"")]), cache=cache)
    assert len(data) == 40
    assert (data.folder / "bad-files.txt").read_text().startswith("zz.png\t")
    assert data.notes[0].startswith("1 of 41 pictures cannot be read")
    # Of several members of one name, the last counts, as in the folder that unpacking makes.
    repeated = tar(tmp_path / "b.tar", [("03.png", b""), *members, ("./03.png", png((200, 0, 0)))])
    with tarfile.open(repeated) as archive:
        if hasattr(tarfile, "data_filter"):  # the first releases of Python 3.11 have none
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(tmp_path / "unpacked")
    data, folder = load(repeated, cache=cache), load(str(tmp_path / "unpacked"), cache=cache)
    assert data.images[:, 0, 0, 0].tolist() == [200 if i == 3 else i for i in range(40)]
    assert data.fingerprint == folder.fingerprint and data.notes == ()


def test_a_cut_archive_is_named(tmp_path, cache):
    for path in archives(tmp_path, classes()):
        path.write_bytes(
            path.read_bytes()[:-200] if ".xz" in path.name else path.read_bytes()[: path.stat().st_size // 2]
        )
        with pytest.raises(ValueError, match=r"is not a whole (zip|tar) file.*again"):
            load(str(path), cache=cache)


def test_a_changed_folder_is_packed_anew_and_an_unchanged_one_is_not(tmp_path, cache):
    root = write(tmp_path / "f", {"a.png": png((1, 1, 1)), "b.png": png((2, 2, 2))})
    first = load(str(root), cache=cache)
    work = []
    again = load(str(root), cache=cache, progress=lambda *a: work.append(a))
    assert again.folder == first.folder and work == []
    write(root, {"b.png": png((3, 3, 3), (16, 16))})
    assert load(str(root), cache=cache).images[:, 0, 0, 0].tolist() == [1, 3]
    assert first.images[:, 0, 0, 0].tolist() == [1, 2]  # a run that still reads the old pack is not disturbed


def test_progress_counts_every_picture(tmp_path, cache):
    seen = []
    load(str(write(tmp_path / "f", classes())), cache=cache, progress=lambda *a: seen.append(a))
    assert seen[0] == ("Listing", 0, 0)
    assert seen[1:] == [("Decoding", i, 12) for i in range(1, 13)]


def test_size_is_chosen_and_said(tmp_path, cache):
    def chosen(sizes):
        root = tmp_path / "-".join(f"{w}x{h}" for w, h in sizes)
        data = load(str(write(root, {f"{i}.png": png(0, s) for i, s in enumerate(sizes)})), cache=cache)
        return data.images.shape[1:3], data.notes

    assert chosen([(20, 12)] * 3) == ((12, 20), ())
    assert chosen([(128, 96)]) == ((96, 128), ())
    size, notes = chosen([(300, 200)] * 2)
    assert size == (64, 64)
    assert notes == ("The pictures are 300x200 pixels; they are brought to 64x64. Another size: --size.",)
    size, notes = chosen([(50, 40), (90, 45), (40, 80)])
    assert size == (32, 32) and "50x40 to 90x45" in notes[0]
    assert chosen([(20, 19), (31, 17)])[0] == (16, 16)
    assert chosen([(7, 6), (5, 9)])[0] == (4, 4)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((s, s) for s in ((28, 28), (32, 32), (64, 64), (40, 48), (96, 96), (128, 128))),
        ((50, 50), (48, 48)),
        ((33, 33), (32, 32)),
        ((44, 44), (40, 40)),  # beyond 40 pixels a network's patches are twice as large
        ((100, 90), (96, 80)),
        ((30, 17), (28, 16)),
        ((3, 9), (4, 8)),
    ],
)
def test_pictures_of_one_size_get_sides_that_every_preset_takes(tmp_path, cache, given, kept):
    from inkwash.nets import UNet

    root = str(write(tmp_path / "f", {f"{i}.png": png((i, 0, 0), given) for i in range(2)}))
    data = load(root, cache=cache)
    assert data.shape == (3, kept[1], kept[0])
    said = f"The pictures are {given[0]}x{given[1]} pixels; they are brought to {kept[0]}x{kept[1]}, because"
    assert [n.startswith(said) for n in data.notes] == ([] if given == kept else [True])
    for preset in ("tiny", "small", "base"):
        with torch.device("meta"):
            UNet(preset).build(data.shape)  # raises for a size that does not fit
    array = np.zeros((2, given[1], given[0], 3), np.uint8)
    np.save(tmp_path / "a.npy", array)
    assert load(str(tmp_path / "a.npy"), cache=cache).shape == (3, given[1], given[0])


def test_rounding_the_size_crops_or_scales_as_the_specification_says(tmp_path, cache):
    stripes = np.zeros((30, 34, 3), np.uint8)
    stripes[:, :17] = 255
    file = BytesIO()
    Image.fromarray(stripes).save(file, "PNG")
    root = str(write(tmp_path / "f", {"0.png": file.getvalue()}))
    for resize in ("crop", "stretch", "pad"):
        data = load(DataSpec(root, resize=resize), cache=cache)
        want = load(DataSpec(root, resize=resize, size=(28, 32)), cache=cache)
        assert np.array_equal(data.images, want.images), resize


def test_size_channels_and_limit_as_asked(tmp_path, cache):
    root = str(write(tmp_path / "f", classes()))
    assert load(DataSpec(root, size=8, channels=1), cache=cache).shape == (1, 8, 8)
    assert load(DataSpec(root, size=(8, 12), resize="pad"), cache=cache).shape == (3, 8, 12)
    few = load(DataSpec(root, limit=5), cache=cache)
    whole = load(root, cache=cache)
    assert len(few) == 5 and few.classes == whole.classes and len(set(few.labels.tolist())) > 1
    rows = {x.tobytes(): i for i, x in enumerate(whole.images)}
    assert [whole.labels[rows[x.tobytes()]] for x in few.images] == few.labels.tolist()
    assert load(DataSpec(root, flip=False), cache=cache).flip is False
    greys = {f"{i}.png": BytesIO() for i in range(2)}
    for file in greys.values():
        Image.new("L", (8, 8)).save(file, "PNG")
    assert load(str(write(tmp_path / "g", {n: f.getvalue() for n, f in greys.items()})), cache=cache).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="channels = 5 fits no picture file"):
        load(DataSpec(root, channels=5), cache=cache)


def test_arrays(tmp_path, cache):
    rng = np.random.default_rng(0)
    six = rng.integers(0, 256, (10, 8, 8, 6), dtype=np.uint8)
    labels = np.array([0, 1, 2, 0, -1, 1, 2, 2, 1, 0])
    np.save(tmp_path / "six.npy", six)
    data = load(str(tmp_path / "six.npy"), cache=cache)
    assert data.shape == (6, 8, 8) and np.array_equal(data.images, six) and data.labels is None
    np.savez(tmp_path / "l.npz", images=six.transpose(0, 3, 1, 2)[:, :3], labels=labels, classes=["x", "y", "z"])
    data = load(str(tmp_path / "l.npz"), cache=cache)
    assert np.array_equal(data.images, six[..., :3])
    assert data.classes == ("x", "y", "z") and data.labels.tolist() == labels.tolist()
    floats = rng.normal(size=(7, 8, 8)).astype(np.float64)
    np.save(tmp_path / "f.npy", floats)
    data = load(str(tmp_path / "f.npy"), cache=cache)
    assert data.images.dtype == np.float32 and np.array_equal(data.images[..., 0], floats.astype(np.float32))
    points = rng.normal(size=(50, 5)).astype(np.float32)
    np.save(tmp_path / "p.npy", points)
    data = load(str(tmp_path / "p.npy"), cache=cache)
    assert data.shape == (5,) and np.array_equal(data.images, points) and not data.flip
    np.save(tmp_path / "b.npy", floats > 0)
    assert np.array_equal(load(str(tmp_path / "b.npy"), cache=cache).images[..., 0], 255 * (floats > 0))
    half = load(DataSpec(str(tmp_path / "six.npy"), size=4, limit=3), cache=cache)
    assert half.images.shape == (3, 4, 4, 6)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[1.0, np.nan]]), "not finite"),
        (np.full((2, 4, 4), 300), "do not fit in a byte"),
        (np.zeros((2, 4), np.uint8), "points are"),
        (np.zeros((0, 4, 4), np.uint8), "is empty"),
        (np.array([{"a": 1}]), "not a whole file of plain arrays"),
    ],
)
def test_unfit_arrays(tmp_path, cache, array, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "x.npy"), cache=cache)


def test_damaged_npz(tmp_path, cache):
    good = tmp_path / "good.npz"
    np.savez(good, images=np.arange(128, dtype=np.uint8).reshape(2, 8, 8), classes=np.array([b"\xc3\xa9"]))
    whole = good.read_bytes()
    assert load(str(good), cache=cache).classes == ("é",)
    place = whole.index(bytes(range(128)))
    altered = whole[: place + 5] + b"x" + whole[place + 6 :]
    for data, message in (
        (whole[: len(whole) // 2], "is not a whole file of plain arrays"),
        (whole[:20], "is not a whole file of plain arrays"),
        (b"", "is not a whole file of plain arrays"),
        (altered, r"images cannot be read \(Bad CRC-32.*Save the file again"),
    ):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path / "x.npz"), cache=cache)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images", b"no array")
    with pytest.raises(ValueError, match="images is a plain file"):
        load(str(tmp_path / "x.npz"), cache=cache)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (np.array(["a", "b"], object), r"classes cannot be read.*dtype=str"),
        (np.array("a"), r"classes has shape \[\]; expected a list"),
        (np.array([b"\xff"]), "classes is not UTF-8"),
    ],
)
def test_unfit_class_names(tmp_path, cache, classes, message):
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=np.array([0, 0]), classes=classes)
    with pytest.raises(ValueError, match=message):
        load(str(tmp_path / "x.npz"), cache=cache)


def test_unfit_labels(tmp_path, cache):
    for labels, message in ((np.zeros(3, int), "expected 2 whole numbers"), (np.array([0, 5]), "label 5 has no name")):
        np.savez(tmp_path / "x.npz", images=np.zeros((2, 4, 4), np.uint8), labels=labels, classes=["a"])
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path / "x.npz"), cache=cache)


def test_missing_sources_get_the_nearest_name(tmp_path, cache, monkeypatch):
    write(tmp_path / "photos", classes())
    (tmp_path / "phone").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^No images in ./photo. Did you mean ./photos \(12 images\)\?$"):
        load("./photo", cache=cache)
    with pytest.raises(ValueError, match=r"Did you mean fashion-mnist\?"):
        load("FashionMNIST", cache=cache)
    with pytest.raises(ValueError, match=r"Did you mean photos \(12 images\)\?"):
        load("fotos", cache=cache)
    with pytest.raises(ValueError, match=r"Built-in names: fashion-mnist, mnist"):
        load("qqq", cache=cache)
    write(tmp_path / "texts", {"a.txt": "", "b.txt": "", "c.csv": ""})
    with pytest.raises(ValueError, match=r"No images in texts. It holds 2 .txt, 1 .csv."):
        load("texts", cache=cache)
    write(tmp_path, {"one.png": png(0)})
    with pytest.raises(ValueError, match=r"one.png is one file. Give a folder"):
        load("one.png", cache=cache)


def test_folders_that_link_in_a_circle_end(tmp_path, cache):
    root = write(tmp_path / "f", classes())
    (root / "cat" / "loop").symlink_to(root, target_is_directory=True)
    (root / "cat" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    assert len(load(str(root), cache=cache)) == 12


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": " "}, "source is empty"),
        ({"size": 0}, "size = 0"),
        ({"size": (64, -1)}, r"size = \(64, -1\)"),
        ({"resize": "squash"}, "'squash' is not one of"),
        ({"split": "val"}, "'val' is not one of"),
        ({"channels": 0}, "channels = 0"),
        ({"val_fraction": 1.0}, "val_fraction = 1.0"),
        ({"limit": 0}, "limit = 0"),
        ({"max_pixels": 0}, "max_pixels = 0"),
    ],
)
def test_mistakes_in_a_specification(settings, message):
    with pytest.raises(ValueError, match=message):
        DataSpec(**{"source": "x"} | settings)


def test_a_specification_survives_a_recipe():
    from inkwash.kinds import from_table, to_table

    spec = DataSpec("photos", size=(32, 48), resize="pad", flip=False, limit=7)
    assert from_table(DataSpec, to_table(spec)) == spec
    with pytest.raises(ValueError, match="sise"):
        from_table(DataSpec, {"source": "x", "sise": 3})
