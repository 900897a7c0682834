"""Finding named sets: the order of the ways, checksums, a web server, Debian's tools, and the one error."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import threading
from dataclasses import replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from inkwash.data import DatasetUnavailableError, DataSpec, load, load_or_generated
from inkwash.data import fetch as fetch_module
from inkwash.data.fetch import fetch, first, ways
from inkwash.data.known import CIFAR10, FASHION, KNOWN, MNIST, parse, read_cifar, read_idx

IMAGES = (np.arange(5 * 28 * 28) * 7 % 251).astype(np.uint8).reshape(5, 28, 28)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


CONTENTS = {
    "train-images-idx3-ubyte": idx(IMAGES),
    "train-labels-idx1-ubyte": idx(LABELS),
    "t10k-images-idx3-ubyte": idx(IMAGES[::-1].copy()),
    "t10k-labels-idx1-ubyte": idx(LABELS[::-1].copy()),
}


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A Fashion-MNIST of five pictures, with nothing on the system, on the web, or in apt."""
    files = {s: {n: sha256(CONTENTS[n]).hexdigest() for n in names} for s, names in FASHION.files.items()}
    known = replace(FASHION, files=files, urls=("http://127.0.0.1:9",))
    monkeypatch.setitem(KNOWN, "fashion-mnist", known)
    monkeypatch.setattr(fetch_module, "_SYSTEM", tmp_path / "system")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return known


def put(folder, compress=True, names=CONTENTS):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        data = CONTENTS[name]
        (folder / (name + ".gz" if compress else name)).write_bytes(gzip.compress(data) if compress else data)


def is_right(data):
    return np.array_equal(data.images[..., 0], IMAGES) and data.labels.tolist() == LABELS.tolist()


def test_idx_files():
    assert np.array_equal(read_idx(idx(IMAGES)), IMAGES)
    assert np.array_equal(read_idx(gzip.compress(idx(LABELS))), LABELS)
    with pytest.raises(ValueError, match="cut short"):
        read_idx(idx(IMAGES)[:-1])
    with pytest.raises(ValueError, match="Not an idx file"):
        read_idx(b"\x89PNG....")


def test_the_binary_cifar():
    rows = (np.arange(3 * 3073) * 11 % 253).astype(np.uint8).reshape(3, 3073)
    rows[:, 0] = (7, 0, 9)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            data = (rows[:1] if name.startswith("test") else rows).tobytes()
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    images, labels = read_cifar(file.getvalue(), "train")
    assert images.shape == (15, 32, 32, 3) and labels.tolist() == [7, 0, 9] * 5
    # Red, green and blue planes follow the label, row by row.
    assert images[1, 2, 5].tolist() == [rows[1, 1 + 1024 * c + 2 * 32 + 5] for c in range(3)]
    assert parse(CIFAR10, "test", {"x": file.getvalue()})[1].tolist() == [7]


def test_the_order_of_the_ways(tmp_path):
    names = [name for name, _ in ways(FASHION, "train", tmp_path)]
    assert names == [
        f"the cache folder {tmp_path / 'downloads' / 'fashion-mnist'}",
        "Debian's installed files /usr/share/datasets/fashion-mnist",
        "download from http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "apt-get download dataset-fashion-mnist",
    ]
    assert not any("apt" in name for name, _ in ways(MNIST, "train", tmp_path))


def test_the_first_way_that_works_is_taken(tmp_path):
    calls = []

    def fail(why):
        def way():
            calls.append(why)
            raise OSError(why)

        return way

    found = first(FASHION, [("a", fail("x")), ("b", lambda: {"f": b"1"}), ("c", fail("never"))], tmp_path)
    assert found == {"f": b"1"} and calls == ["x"]


@pytest.mark.parametrize("compress", [True, False])
def test_files_put_into_the_cache_by_hand(small, tmp_path, compress):
    put(tmp_path / "c" / "downloads" / "fashion-mnist", compress)
    data = load("fashion-mnist", cache=tmp_path / "c")
    assert is_right(data) and data.classes[9] == "Ankle boot" and data.flip and not data.generated
    test = load(DataSpec("fashion-mnist", split="test", flip=False), cache=tmp_path / "c")
    assert np.array_equal(test.images[..., 0], IMAGES[::-1]) and not test.flip


def test_the_pack_is_looked_at_first(small, tmp_path):
    folder = tmp_path / "c" / "downloads" / "fashion-mnist"
    put(folder)
    first_time = load("fashion-mnist", cache=tmp_path / "c")
    for path in folder.iterdir():
        path.unlink()
    assert load("fashion-mnist", cache=tmp_path / "c").fingerprint == first_time.fingerprint


def test_the_systems_files_and_another_size(small, tmp_path):
    put(tmp_path / "system" / "fashion-mnist")
    assert is_right(load("fashion-mnist", cache=tmp_path / "c"))
    big = load(DataSpec("fashion-mnist", size=32, resize="pad", channels=3, background="black"), cache=tmp_path / "c")
    assert big.shape == (3, 32, 32) and big.classes == FASHION.classes and big.flip
    # 28 grows to 32: bicubic keeps the mean of the whole picture.
    assert abs(big.images.mean() - IMAGES.mean()) < 2
    few = load(DataSpec("fashion-mnist", limit=2), cache=tmp_path / "c")
    assert len(few) == 2 and set(few.labels.tolist()) <= set(LABELS.tolist())


def test_altered_files_are_refused_and_everything_tried_is_listed(small, tmp_path):
    put(tmp_path / "c" / "downloads" / "fashion-mnist", names=["train-images-idx3-ubyte"])
    put(tmp_path / "system" / "fashion-mnist", compress=False)
    path = tmp_path / "system" / "fashion-mnist" / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(DatasetUnavailableError) as caught:
        load("fashion-mnist", cache=tmp_path / "c")
    error = caught.value
    assert [why for _, why in error.tried][::3] == [
        "train-labels-idx1-ubyte is not in it",
        "this system has no apt-get and dpkg-deb",
    ]
    assert "train-images-idx3-ubyte has SHA-256" in error.tried[1][1]
    assert "refused" in error.tried[2][1]
    lines = str(error).splitlines()
    assert lines[0] == "fashion-mnist could not be found or fetched. Tried, in this order:"
    assert [line.startswith("  - ") for line in lines[1:5]] == [True] * 4
    folder = tmp_path / "c" / "downloads" / "fashion-mnist"
    assert lines[5].startswith(f"To fix it: curl -fL --create-dirs --output-dir '{folder}' --remote-name-all 'http")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_the_stand_in_is_named_and_explained(small, tmp_path):
    data, message = load_or_generated(DataSpec("fashion-mnist", limit=50), cache=tmp_path / "c")
    assert data.name == "shapes (generated)" and data.generated and len(data) == 50
    assert (
        "could not be found or fetched" in message and "To fix it" in message and "in place of fashion-mnist" in message
    )
    put(tmp_path / "system" / "fashion-mnist")
    data, message = load_or_generated("fashion-mnist", cache=tmp_path / "c")
    assert data.name == "fashion-mnist" and message == "" and is_right(data)
    with pytest.raises(ValueError, match="no data set or folder"):  # a user's mistake is never papered over
        load_or_generated("nothing-of-the-kind", cache=tmp_path / "c")


@pytest.fixture
def web():
    """A web server on this machine that serves what is put into the dictionary it yields."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data = files.get(self.path)
            self.send_response(404 if data is None else 200)
            self.send_header("Content-Length", str(len(data or b"")))
            self.end_headers()
            self.wfile.write((data or b"")[: files.get("cut", 1 << 30)])

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


def test_download_is_verified_and_reported(small, tmp_path, web, monkeypatch):
    url, files = web
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    known = replace(small, urls=(f"{url}/gone", url))
    monkeypatch.setitem(KNOWN, "fashion-mnist", known)
    files |= {f"/{n}.gz": gzip.compress(data) for n, data in CONTENTS.items()}
    seen = []
    data = load("fashion-mnist", cache=tmp_path / "c", progress=lambda *a: seen.append(a))
    assert is_right(data)
    sizes = [len(files[f"/{n}.gz"]) for n in list(CONTENTS)[:2]]
    assert ("Downloading", sizes[0], sizes[0]) in seen and ("Downloading", sizes[1], sizes[1]) in seen
    files["/train-images-idx3-ubyte.gz"] = gzip.compress(CONTENTS["t10k-images-idx3-ubyte"])
    with pytest.raises(DatasetUnavailableError, match="altered or cut short"):
        fetch(known, "train", tmp_path / "other")
    files["cut"] = 100
    with pytest.raises(DatasetUnavailableError, match=r"the connection ended after 100 of|Incomplete"):
        fetch(known, "train", tmp_path / "other")
    with pytest.raises(DatasetUnavailableError, match="Not Found"):
        fetch(replace(known, urls=(f"{url}/gone",)), "train", tmp_path / "other")


def test_a_file_of_both_splits_is_fetched_once(tmp_path, web, monkeypatch):
    url, files = web
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    files["/both.tar.gz"] = b"the archive"
    both = {"both.tar.gz": sha256(b"the archive").hexdigest()}
    known = replace(CIFAR10, files={"train": both, "test": both}, urls=(url,))
    assert fetch(known, "train", tmp_path) == {"both.tar.gz": b"the archive"}
    del files["/both.tar.gz"]
    assert fetch(known, "test", tmp_path) == {"both.tar.gz": b"the archive"}


APT = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  *" update") echo fresh > "{log}.lists" ;;
  *download*) [ -e "{log}.lists" ] || {{ echo "E: Unable to locate package" >&2; exit 100; }}; echo deb > set.deb ;;
esac
"""

DPKG = """#!/bin/sh
[ "$1" = -x ] && [ "$(/bin/cat "$2")" = deb ] || exit 2
/bin/mkdir -p "$3{system}" && /bin/cp -r "{files}" "$3{system}/fashion-mnist"
"""


def test_debians_package_without_root(small, tmp_path, monkeypatch):
    bin_folder, log = tmp_path / "bin", tmp_path / "log"
    put(tmp_path / "package")
    bin_folder.mkdir()
    for name, script in (
        ("apt-get", APT.format(log=log)),
        ("dpkg-deb", DPKG.format(files=tmp_path / "package", system=tmp_path / "system")),
    ):
        (bin_folder / name).write_text(script)
        (bin_folder / name).chmod(0o755)
    cache = tmp_path / "c"
    assert is_right(load("fashion-mnist", cache=cache))
    calls = log.read_text().splitlines()
    assert [c.split()[-2:] for c in calls] == [
        ["download", "dataset-fashion-mnist"],
        [calls[1].split()[-2], "update"],
        ["download", "dataset-fashion-mnist"],
    ]
    # Fresh lists go into a folder of the cache, which is gone afterwards; nothing of the system is touched.
    assert all(f"Dir::State::Lists={cache}" in c for c in calls[1:])
    assert sorted(p.name for p in cache.iterdir()) == ["downloads", "packs"]
    # The other split comes out of the same package.
    assert np.array_equal(load(DataSpec("fashion-mnist", split="test"), cache=cache).images[..., 0], IMAGES[::-1])
    assert len(log.read_text().splitlines()) == 3


def test_apts_own_words_are_passed_on(small, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (tmp_path / "bin" / name).write_text(
            '#!/bin/sh\necho "W: no" >&2; echo "E: The network is down" >&2; exit 100\n'
        )
        (tmp_path / "bin" / name).chmod(0o755)
    with pytest.raises(DatasetUnavailableError) as caught:
        load("fashion-mnist", cache=tmp_path / "c")
    assert caught.value.tried[-1][1] == "E: The network is down"
    assert caught.value.fix == "sudo apt-get update && sudo apt-get install dataset-fashion-mnist"


def test_a_folder_of_idx_files_is_a_source(small, tmp_path):
    put(tmp_path / "mine")
    data = load(str(tmp_path / "mine"), cache=tmp_path / "c")
    assert is_right(data) and data.name == "fashion-mnist" and data.classes[0] == "T-shirt/top" and data.flip
    other = tmp_path / "digits"
    other.mkdir()
    (other / "train-images.idx3-ubyte").write_bytes(idx(IMAGES[:3].copy()))
    (other / "train-labels.idx1-ubyte").write_bytes(idx(LABELS[:3].copy()))
    data = load(str(other), cache=tmp_path / "c")
    assert (data.name, data.classes, data.flip) == ("digits", ("0", "1", "2", "3", "4"), False)
    with tarfile.open(tmp_path / "digits.tgz", "w:gz") as tar:
        tar.add(other, "package/data")
    packed = load(str(tmp_path / "digits.tgz"), cache=tmp_path / "c")
    assert packed.fingerprint == data.fingerprint
    with pytest.raises(ValueError, match="no file t10k-images"):
        load(DataSpec(str(other), split="test"), cache=tmp_path / "c")


@pytest.mark.net
def test_the_real_fashion_mnist():
    data = load("fashion-mnist")
    assert data.shape == (1, 28, 28) and np.bincount(data.labels).tolist() == [6000] * 10
    assert abs(data.images.mean() / 255 - 0.2860) < 1e-4  # the published mean
    test = load(DataSpec("fashion-mnist", split="test"))
    assert len(test) == 10_000 and Path(str(test.folder)).is_dir()
