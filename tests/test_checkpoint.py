"""Checkpoints under fire: kills at random instants and at every single step, a full disk, bytes that changed.

Run as a program, this file is the harness that forks writers and kills them: forking is only safe (and fast) from a
process in which torch never started threads, so not from pytest's own.
"""

from __future__ import annotations

import errno
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch

from inkwash import checkpoint
from inkwash.checkpoint import CheckpointError, DiskFull, NonFinite, atomic, flatten, unflatten

NUMBERS = 20_000  # per file: large enough that kills land inside a write


def content(step):
    tensors = {
        "model": {"w": torch.full((NUMBERS,), float(step)), "b": torch.tensor(step)},
        "ema": {"w": torch.full((NUMBERS,), -float(step))},
    }
    return tensors, {"state.json": json.dumps({"step": step}), "recipe.toml": f"steps = {step}\n"}


def step_of(folder):
    """The step whose content a folder holds; AssertionError if it is a mixture."""
    found = checkpoint.load(folder)
    step = json.loads(found.texts["state.json"])["step"]
    tensors, texts = content(step)
    assert found.texts == texts
    assert found.tensors.keys() == tensors.keys()
    for group, expected in tensors.items():
        assert all(found.tensors[group][name].equal(x) for name, x in expected.items()), (step, group)
    return step


def stored(folder, name):
    return checkpoint.load(folder, [f"{name}.safetensors"]).tensors[name]


def leftovers(folder):
    return [p.name for p in folder.rglob(".inkwash-*")]


# The harness


def write_for_ever(run, start, report):
    """What a trainer does: a new step, the same model/, old steps pruned. Reports each step that is promised."""
    for step in range(start, 1_000_000):
        checkpoint.publish(run / "checkpoints" / f"step-{step}", *content(step))
        checkpoint.publish(run / "model", *content(step))
        checkpoint.prune(run / "checkpoints", keep_last=2)
        os.write(report, f"{step}\n".encode())


def forked(work):
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a fork must never return to its parent's code
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
    return child


def kill_at_random(run, kills, seed):
    """Kill -9 a writer `kills` times, each time at another instant, and look at what it left.

    And on until a tenth of these have come in the middle of a step: where a writer waits for a busy disk, few do.
    """
    rng = random.Random(seed)
    last, torn, killed = -1, 0, 0
    while killed < kills or (torn < kills // 10 and killed < 20 * kills):
        killed += 1
        reader, writer = os.pipe()
        child = forked(lambda start=last + 1, writer=writer: write_for_ever(run, start, writer))
        os.close(writer)
        promised = int(os.read(reader, 100).split()[0])  # it is under way
        time.sleep(rng.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        while chunk := os.read(reader, 65536):
            promised = int(chunk.split()[-1])
        os.close(reader)
        torn += any(".inkwash-staging-step" in name for name in leftovers(run))
        newest, problems = checkpoint.newest_good(run / "checkpoints")
        assert problems == []  # not even a damaged one to skip
        last = step_of(newest)
        assert newest.name == f"step-{last}"
        assert promised <= last <= promised + 1
        assert promised <= step_of(run / "model") <= last
    checkpoint.publish(run / "checkpoints" / f"step-{last + 1}", *content(last + 1))
    checkpoint.publish(run / "model", *content(last + 1))
    assert leftovers(run) == []  # what the killed ones left is gone
    assert torn >= kills // 10, f"only {torn} of {killed} kills came in the middle of a step"


def kill_at_every_step(run):
    """Kill a writer before the 1st, 2nd, ... operation on files of a republication, until one gets through."""
    folder = run / "model"
    checkpoint.publish(folder, *content(0))
    deaths = 0
    for n in range(10_000):

        def work(n=n):
            left = [n]

            def hook(event, arguments):
                if event.startswith(("os.", "shutil.", "ctypes.dlsym")) or event == "open":
                    left[0] -= 1
                    if left[0] == -1:  # once: os.kill is such an event too
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            checkpoint.publish(folder, *content(n + 1))

        before = step_of(folder)
        _, status = os.waitpid(forked(work), 0)
        assert step_of(folder) in (before, n + 1), n
        if status == 0:
            assert step_of(folder) == n + 1
            assert leftovers(run) == []
            break
        assert status == signal.SIGKILL
        deaths += 1
    assert deaths > 20


def read_while_written(run, versions):
    """Load model/ again and again while it is replaced: each time all of it is of one version, never an older one."""
    reader, writer = os.pipe()
    child = forked(lambda: write_for_ever(run, 0, writer))
    os.read(reader, 100)
    try:
        seen = [0]
        while len(seen) < versions:
            step = step_of(run / "model")
            assert step >= seen[-1]
            seen += [step] * (step > seen[-1])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def never_without(run, swaps):
    """For programs that know nothing of us: where names can be exchanged, `model/` is there at every instant."""
    reader, writer = os.pipe()
    child = forked(lambda: write_for_ever(run, 0, writer))
    os.read(reader, 100)
    try:
        seen = [(run / "model").stat().st_ino]
        while len(seen) <= swaps:  # thousands of looks at each
            inode = (run / "model").stat().st_ino
            seen += [inode] * (inode != seen[-1])
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def small_limit(run):
    """The system's own refusal to write further: a limit on the size of files."""
    checkpoint.publish(run / "model", *content(1))

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (NUMBERS, NUMBERS))
        try:
            checkpoint.publish(run / "model", *content(2))
        except DiskFull as error:
            assert "No space left" in str(error)
        else:
            raise AssertionError("it was written")

    assert os.waitpid(forked(work), 0)[1] == 0
    assert step_of(run / "model") == 1
    assert leftovers(run) == []


JOBS = {
    job.__name__: job for job in (kill_at_random, kill_at_every_step, read_while_written, never_without, small_limit)
}


def main(run, can_exchange, *jobs):
    """Run jobs, each in a folder of its own; print what became of each."""
    torch.set_num_threads(1)
    if can_exchange == "no":
        atomic.exchange = lambda a, b: False
    results = {}
    for job in jobs:
        name, *numbers = job.split()
        try:
            JOBS[name](Path(run) / name, *map(int, numbers))
            results[name] = "passed"
        except Exception:  # noqa: BLE001 - it is for the parent to judge
            results[name] = traceback.format_exc()
    print(json.dumps(results))


def harness(folder, exchange, *jobs):
    words = [sys.executable, __file__, str(folder), "yes" if exchange else "no", *jobs]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    return json.loads(done.stdout), done.stderr


# Under fire


@pytest.fixture(scope="module", params=[True, False], ids=["exchange", "two-renames"])
def fire(request, tmp_path_factory):
    jobs = ["kill_at_random 20 0", "kill_at_every_step", "read_while_written 15", "small_limit", "never_without 20"]
    return harness(tmp_path_factory.mktemp("fire"), request.param, *jobs[: 5 if request.param else 4])


@pytest.mark.parametrize("job", ["kill_at_random", "kill_at_every_step", "read_while_written", "small_limit"])
def test_under_fire(fire, job):
    results, log = fire
    assert results[job] == "passed", log


def test_where_names_can_be_exchanged_the_folder_is_always_there(fire, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    results, log = fire
    if "never_without" not in results or not atomic.exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("names are not exchanged here")
    assert results["never_without"] == "passed", log


@pytest.mark.slow
@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "two-renames"])
def test_many_kills_at_random_instants(tmp_path, exchange):
    results, log = harness(tmp_path, exchange, "kill_at_random 300 1")
    assert results["kill_at_random"] == "passed", log


@pytest.mark.parametrize("full_at", range(7))
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, full_at):
    checkpoint.publish(tmp_path / "model", *content(1))
    calls = []

    def fsync(fd):
        calls.append(fd)
        if len(calls) > full_at:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(DiskFull, match=r"No space left to write .*model"):
        checkpoint.publish(tmp_path / "model", *content(2))
    # the last flush, of the parent, comes when the new one is already in place
    assert step_of(tmp_path / "model") == (1 if full_at < 6 else 2)
    assert leftovers(tmp_path) == []


def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, checkpoint.folder.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append(os.fstat(fd).st_ino), fsync(fd)))

    def recorded(staged, target):
        files = [p for p in staged.rglob("*") if p.is_file()]
        assert {p.stat().st_ino for p in [staged, *files]} <= set(events)
        assert events[-2:] == [(staged / "manifest.json").stat().st_ino, staged.stat().st_ino]
        events.append("named")
        replace(staged, target)

    monkeypatch.setattr(checkpoint.folder, "replace", recorded)
    checkpoint.publish(tmp_path / "runs" / "model", *content(1))
    named = events.index("named")
    assert (tmp_path / "runs").stat().st_ino in events[named:]
    assert tmp_path.stat().st_ino in events[:named]  # the new parent's own name


def test_a_live_writers_staging_is_left_alone(tmp_path):
    alive, dead = tmp_path / ".inkwash-staging-step-1-01234567", tmp_path / ".inkwash-staging-step-2-01234567"
    alive.mkdir()
    dead.mkdir()
    with atomic.held(alive):
        checkpoint.publish(tmp_path / "step-3", *content(3))
        assert alive.exists()
        assert not dead.exists()


# What is wrong, by name


@pytest.fixture
def steps(tmp_path):
    for step in (9, 10, 100):
        checkpoint.publish(tmp_path / f"step-{step}", *content(step))
    return tmp_path


def alter(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: alter(d / "model.safetensors"), r"model\.safetensors was altered: SHA-256 is \w{16}…, expected \w"),
        (lambda d: alter(d / "state.json"), r"state\.json was altered"),
        (lambda d: os.truncate(d / "ema.safetensors", 100), r"ema\.safetensors has 100 bytes, expected 80,\d+"),
        (lambda d: (d / "recipe.toml").unlink(), r"recipe\.toml is missing"),
        (lambda d: (d / "manifest.json").unlink(), r"has no manifest\.json"),
        (lambda d: os.truncate(d / "manifest.json", 50), r"manifest\.json is damaged"),
        (lambda d: (d / "manifest.json").write_text("[]"), r"manifest\.json is damaged"),
        (shutil.rmtree, r"no checkpoint"),
    ],
    ids=["altered", "altered-text", "truncated", "missing", "no-manifest", "cut-manifest", "other-manifest", "gone"],
)
def test_damage_is_named_and_skipped(steps, damage, message):
    newest = steps / "step-100"
    damage(newest)
    for look in (checkpoint.verify, checkpoint.load):
        with pytest.raises(CheckpointError, match=message) as caught:
            look(newest)
        assert "step-100" in str(caught.value)
    good, problems = checkpoint.newest_good(steps)
    assert good == steps / "step-10"
    assert [bool(re.search(message, p)) for p in problems] == ([True] if newest.exists() else [])


def test_all_damage_is_told_at_once(steps):
    for name in ("model.safetensors", "ema.safetensors"):
        alter(steps / "step-9" / name)
    (steps / "step-9" / "state.json").unlink()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.verify(steps / "step-9")
    assert all(name in str(caught.value) for name in ("model.safetensors", "ema.safetensors", "state.json"))


def test_a_manifest_cannot_point_outside(steps):
    manifest = steps / "step-9" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("recipe.toml", "../step-10/recipe.toml"))
    with pytest.raises(CheckpointError, match=r"manifest\.json is damaged"):
        checkpoint.load(steps / "step-9")


def test_a_newer_format_is_refused(steps):
    manifest = steps / "step-9" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match=r"format version 2; this inkwash reads 1"):
        checkpoint.verify(steps / "step-9")


def test_none_good_names_every_problem(steps):
    for step in (9, 10, 100):
        alter(steps / f"step-{step}" / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.newest_good(steps)
    assert [re.search(r"step-\d+", line)[0] for line in str(caught.value).splitlines()[1:]] == [
        "step-100",
        "step-10",
        "step-9",
    ]
    assert checkpoint.prune(steps, keep_last=1) == []


def test_one_file_and_names_that_are_not_there(steps):
    assert checkpoint.load_text(steps / "step-9", "recipe.toml") == "steps = 9\n"
    assert stored(steps / "step-9", "model")["b"].item() == 9
    with pytest.raises(CheckpointError, match=r"no optim\.safetensors. It has ema\.safetensors, model\.safetensors"):
        stored(steps / "step-9", "optim")


# Pruning


def test_prune_keeps_the_last_the_best_and_the_newest_good(tmp_path):
    for step in range(1, 9):
        checkpoint.publish(tmp_path / f"step-{step}", {"m": {"x": torch.tensor(step)}}, {})
    (tmp_path / "step-notes").mkdir()
    alter(tmp_path / "step-8" / "m.safetensors")
    (tmp_path / "step-6" / "m.safetensors").unlink()
    deleted = checkpoint.prune(tmp_path, keep_last=2, keep=[tmp_path / "step-2"])
    # 8 is damaged but newer than the newest good, 7; 6 is visibly incomplete, so 5 is the second to last
    assert {p.name for p in tmp_path.iterdir()} == {"step-8", "step-7", "step-5", "step-2", "step-notes"}
    assert [p.name for p in deleted] == ["step-1", "step-3", "step-4", "step-6"]
    with pytest.raises(ValueError, match="keep_last = 0"):
        checkpoint.prune(tmp_path, keep_last=0)


def test_prune_never_deletes_what_is_to_be_kept_whatever_its_number(tmp_path):
    """A run resumed from an early step publishes below the numbers of the run it departs from."""
    for step in (5, 100, 110, 120, 6):
        checkpoint.publish(tmp_path / f"step-{step}", {"m": {"x": torch.tensor(step)}}, {})
    assert checkpoint.prune(tmp_path, keep_last=1, keep=[tmp_path / "x" / ".." / "step-6"]) == [
        tmp_path / f"step-{step}" for step in (5, 100, 110)
    ]
    assert {p.name for p in tmp_path.iterdir()} == {"step-120", "step-6"}
    checkpoint.verify(tmp_path / "step-6")


# What may be stored


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e5m2], ids=str
)
def test_no_nan_is_ever_stored(tmp_path, value, dtype):
    bad = torch.ones(3, 4)
    bad[1, 2] = value
    with pytest.raises(NonFinite, match=r"'block\.w' of model\.safetensors"):
        checkpoint.publish(tmp_path / "model", {"model": {"ok": torch.ones(2), "block.w": bad.to(dtype)}}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "manifest.json", "C:x", "", ".", "a\\b"])
def test_names_stay_inside(tmp_path, name):
    with pytest.raises(ValueError, match="cannot hold a file named"):
        checkpoint.publish(tmp_path / "model", {}, {name: ""})


def test_subfolders(tmp_path):
    checkpoint.publish(tmp_path / "model", {"codec/model": {"x": torch.arange(3)}}, {"codec/config.json": "{}"})
    assert stored(tmp_path / "model", "codec/model")["x"].tolist() == [0, 1, 2]
    assert checkpoint.load_text(tmp_path / "model", "codec/config.json") == "{}"


def test_somebody_elses_folder_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"holds files that are no checkpoint's \(a\.jpg\)"):
        checkpoint.publish(tmp_path / "photos", *content(1))
    assert [p.name for p in tmp_path.rglob("*")] == ["photos", "a.jpg"]


def test_a_link_to_a_folder_elsewhere_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    for step in (1, 2):
        checkpoint.publish(tmp_path / "model", *content(step))
        assert step_of(tmp_path / "model") == step == step_of(tmp_path / "disk" / "model")
    assert (tmp_path / "model").is_symlink()


def test_loaded_tensors_are_the_readers_own(tmp_path):
    checkpoint.publish(tmp_path / "model", *content(1))
    loaded = stored(tmp_path / "model", "model")
    kept = stored(tmp_path / "model", "model")
    loaded["w"].zero_()
    checkpoint.verify(tmp_path / "model")
    checkpoint.publish(tmp_path / "model", *content(2))  # deletes the file that `kept` is mapped from
    assert kept["w"].eq(1).all()


# State


def through_disk(state, folder):
    tensors, tree = flatten(state)
    checkpoint.publish(folder, {"state": tensors}, {"state.json": json.dumps(tree, allow_nan=False)})
    found = checkpoint.load(folder)
    return unflatten(found.tensors["state"], json.loads(found.texts["state.json"]))


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert (a.dtype, a.shape, a.stride()) == (b.dtype, b.shape, b.stride())
        assert a.equal(b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        assert [type(key) for key in a] == [type(key) for key in b]
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert repr(a) == repr(b)  # -0.0 is not 0.0


def test_state_round_trip(tmp_path):
    g = torch.Generator().manual_seed(0)
    state = {
        "numbers": [0, -1, 2**70, True, False, 0.1, 1e-320, -0.0, 1.0, float("inf"), -float("inf"), None],
        "strings": ["", "é中\n\x00", "$tensor"],
        "keys": {0: "int", "0": "str", True: "no: equals 1", None: 1, 0.5: 2},
        "dollar": {"$tensor": "x", "$dict": []},
        "nested": ((), ((1,), [2, (3,)]), {}, []),
        "dtypes": [torch.arange(3).to(t) for t in (torch.bool, torch.uint8, torch.int16, torch.float64, torch.half)],
        "bf16": torch.randn(5, generator=g).bfloat16(),
        "zero-dim": (torch.tensor(3), torch.tensor(0.5), torch.tensor(True)),
        "empty": [torch.zeros(0), torch.zeros(3, 0)],
        "rng": g.get_state(),
        "a": {"b": torch.ones(1)},
        "a.b": torch.zeros(1),
        "complex": torch.tensor([1 + 2j]).conj(),
    }
    found = through_disk(state, tmp_path / "s")
    state["complex"] = state["complex"].resolve_conj()
    assert_same(found, state)
    assert_same(through_disk(torch.ones(2), tmp_path / "t"), torch.ones(2))
    assert_same(through_disk(3, tmp_path / "u"), 3)


def test_strides_of_dense_tensors_survive(tmp_path):
    x = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    state = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "transposed": x.permute(3, 1, 0, 2),
        "one_by_one": torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
    }
    found = through_disk(state, tmp_path / "s")
    assert_same(found, state)
    assert found["channels_last"].is_contiguous(memory_format=torch.channels_last)


def test_views_keep_their_values(tmp_path):
    x = torch.arange(12.0).reshape(3, 4)
    state = {"slice": x[:, 1:3], "step": x[::2], "expanded": torch.ones(1).expand(5), "row": x[1], "whole": x}
    found = through_disk(state, tmp_path / "s")
    assert all(found[name].equal(value) for name, value in state.items())
    found["row"].zero_()
    assert found["whole"].equal(x)  # not entangled


def test_a_tensor_that_occurs_twice_is_stored_once_and_stays_one(tmp_path):
    w = torch.randn(3)
    tensors, _ = flatten({"a": w, "b": [w.view(3)], "c": w.clone()})
    assert list(tensors) == ["a", "c"]
    found = through_disk({"a": w, "b": [w.view(3)], "c": w.clone()}, tmp_path / "s")
    assert found["a"] is found["b"][0]
    assert found["a"] is not found["c"]


def test_shared_tensors_of_a_plain_dict_can_be_published(tmp_path):
    w = torch.randn(4, 4)
    checkpoint.publish(tmp_path / "m", {"m": {"w": w, "tied": w, "t": w.t(), "row": w[0]}}, {})
    found = stored(tmp_path / "m", "m")
    assert found["w"].equal(w)
    assert found["tied"].equal(w)
    assert found["t"].equal(w.t())
    assert found["row"].equal(w[0])


def test_a_run_continues_bit_for_bit(tmp_path):
    """Two channels-last layers under AdamW: 4 steps are 2 steps, a checkpoint, and 2 steps."""

    def build():
        torch.manual_seed(0)
        layers = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 1)
        net = torch.nn.Sequential(*layers).to(memory_format=torch.channels_last)
        return net, torch.optim.AdamW(net.parameters(), 1e-2, amsgrad=True)

    def train(net, optim, steps):
        for step in steps:
            x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
            loss = net(x.to(memory_format=torch.channels_last)).square().mean()
            optim.zero_grad()
            loss.backward()
            optim.step()

    whole = build()
    train(*whole, range(4))
    first, second = build(), build()
    train(*first, range(2))
    state = through_disk({"net": first[0].state_dict(), "optim": first[1].state_dict()}, tmp_path / "s")
    assert_same(state["optim"], first[1].state_dict())
    second[0].load_state_dict(state["net"])
    second[1].load_state_dict(state["optim"])
    train(*second, range(2, 4))
    assert_same(dict(second[0].state_dict()), dict(whole[0].state_dict()))
    assert_same(second[1].state_dict(), whole[1].state_dict())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"optim": {"lr": [float("nan")]}}, r"optim\.lr\.0 is NaN"),
        ({"a": {3: object()}}, r"a\.3 is a object"),
        ({"a": {1, 2}}, r"a is a set"),
    ],
)
def test_what_cannot_be_stored_is_named(state, message):
    with pytest.raises(ValueError, match=message):
        flatten(state)


def test_a_missing_tensor_is_named():
    _, tree = flatten({"a": {"b": torch.ones(1)}})
    with pytest.raises(CheckpointError, match=r"'a\.b'"):
        unflatten({}, tree)


@pytest.mark.parametrize("dtype", [torch.complex128, torch.float8_e8m0fnu], ids=str)
def test_what_safetensors_cannot_hold_is_named(tmp_path, dtype):
    with pytest.raises(ValueError, match=r"'x' of m\.safetensors is torch\.\w+"):
        checkpoint.publish(tmp_path / "m", {"m": {"x": torch.ones(2).to(dtype)}}, {})


if __name__ == "__main__":
    main(*sys.argv[1:])
