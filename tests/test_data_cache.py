"""A pack appears whole or not at all: several builders, killed builders, damaged packs."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from inkwash.data import cache as cache_module
from inkwash.data.cache import cache_dir, published
from inkwash.data.dataset import finish_pack, open_pack, read_pack

BUILDER = """
import sys, time
from pathlib import Path
import numpy as np
from inkwash.data.cache import published
from inkwash.data.dataset import finish_pack, read_pack

final, log = Path(sys.argv[1]), Path(sys.argv[2])

def build(staged):
    with log.open("a") as file:
        file.write("built\\n")
    print("go", flush=True)
    images = np.full((64, 8, 8, 3), 7, np.uint8)
    with (staged / "images.bin").open("wb") as file:
        for row in images:
            file.write(row.tobytes())
            file.flush()
            time.sleep(0.0005)
    finish_pack(staged, images, np.zeros(64, np.int64), ("a",))

print("ready", flush=True)
sys.stdin.readline()
published(final, lambda f: read_pack(f) is not None, build)
"""


def start(final, log):
    command = [sys.executable, "-c", BUILDER, str(final), str(log)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def finish(process):
    process.communicate(timeout=60)
    return process.returncode


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
def test_builders_killed_at_any_instant_leave_nothing_half_done(tmp_path):
    final, log = tmp_path / "packs" / "x", tmp_path / "log"
    waits = random.Random(0)
    processes = [start(final, log) for _ in range(6)]
    for process in processes[:5]:
        go(process)
        line = process.stdout.readline()
        if line:  # it is building; a pack that is already there is not built again
            time.sleep(waits.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        finish(process)
        assert not final.exists() or read_pack(final) is not None
    go(processes[5])
    assert finish(processes[5]) == 0
    data = open_pack(final, "x", flip=True)
    assert (data.images == 7).all() and data.images.shape == (64, 8, 8, 3)
    assert not list(final.parent.glob(".staged-*"))  # what the killed ones left is gone


def test_of_many_builders_one_builds(tmp_path):
    final, log = tmp_path / "packs" / "x", tmp_path / "log"
    processes = [start(final, log) for _ in range(4)]
    for process in processes:
        go(process)
    assert [finish(p) for p in processes] == [0] * 4
    assert log.read_text() == "built\n"
    assert read_pack(final) is not None


def fill(staged, value=1, delay=0.0):
    images = np.full((4, 2, 2, 1), value, np.uint8)
    images.tofile(staged / "images.bin")
    time.sleep(delay)
    finish_pack(staged, images)


def whole(folder):
    return read_pack(folder) is not None


def test_without_locks_the_first_one_published_stays(tmp_path, monkeypatch):
    from contextlib import contextmanager

    @contextmanager
    def no_lock(path):
        yield False

    monkeypatch.setattr(cache_module, "_locked", no_lock)
    final = tmp_path / "x"
    built = []

    def build(value, delay):
        published(final, whole, lambda s: (built.append(value), fill(s, value, delay)))

    threads = [threading.Thread(target=build, args=(v, 0.1 * v)) for v in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(built) == [1, 2, 3]
    assert (open_pack(final, "x", flip=False).images == 1).all()
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_a_failed_build_leaves_nothing_and_the_next_one_works(tmp_path):
    def broken(staged):
        (staged / "images.bin").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    final = tmp_path / "x"
    with pytest.raises(OSError, match="No space left"):
        published(final, whole, broken)
    assert not final.exists() and not list(tmp_path.glob(".staged*"))
    assert published(final, whole, fill) == final and whole(final)


def cut(folder: Path) -> None:
    os.truncate(folder / "images.bin", 5)


def old(folder: Path) -> None:
    path = folder / "pack.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))


def garbled(folder: Path) -> None:
    (folder / "pack.json").write_text("{")


@pytest.mark.parametrize("damage", [cut, old, garbled])
def test_a_damaged_pack_is_made_again(tmp_path, damage):
    final = published(tmp_path / "x", whole, fill)
    damage(final)
    assert read_pack(final) is None
    with pytest.raises(ValueError, match="not a complete pack"):
        open_pack(final, "x", flip=False)
    published(final, whole, lambda s: fill(s, 9))
    assert (open_pack(final, "x", flip=False).images == 9).all()


def test_too_little_room_is_said_before_the_work(tmp_path, monkeypatch):
    import shutil

    from PIL import Image

    from inkwash.data import DataSpec, load

    (tmp_path / "f").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "f" / "a.png")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("inkwash.data.pack.shutil.disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(OSError, match=r"need 3 MiB in .*, where 1 are free\. .*INKWASH_CACHE"):
        load(DataSpec(str(tmp_path / "f"), size=1024), cache=tmp_path / "cache")


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "here"))
    assert cache_dir() == tmp_path / "here"
    monkeypatch.delenv("INKWASH_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "inkwash"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path.home() / ".cache" / "inkwash"
