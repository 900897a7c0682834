"""What only a process of its own can show: what is imported, and what Ctrl-C does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inkwash.cli import main

MAIN = "from inkwash.cli import main; main()"


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["--version"], []])
def test_help_loads_nothing_heavy(args: list[str]):
    code = (
        "import sys\n"
        "import inkwash\n"
        "from inkwash.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    print(*sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "inkwash.cli.app" in loaded and "inkwash" in done.stdout
    heavy = {"torch", "numpy", "PIL", "safetensors"}
    assert not loaded & (heavy | {"pydantic"} if args == ["--help"] else heavy)  # typer itself reads options with it


def test_a_mistake_in_the_options_is_told_without_torch(tmp_path: Path):
    code = f"import sys; sys.modules['torch'] = None; {MAIN}"
    args = ["noise", "photos", "--at", "900", "--otu", "x.png"]
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Did you mean --out?" in done.stderr


def test_ctrl_c_saves_and_the_command_it_prints_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    options = ["--steps", "1000000", "--batch-size", "8", "--set", "train.samples=8", "--set", "sampler.steps=1"]
    env = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-c", MAIN, "train", "swiss-roll", *options]
    with subprocess.Popen(start, cwd=tmp_path, env=env, stdout=-1, stderr=-1, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        first = process.stdout.readline()
        assert "step 0: samples in" in first
        assert "step 10" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "Ctrl-C again stops at once" in err
    assert "inkwash train --resume runs/swiss-roll" in out
    run = tmp_path / "runs/swiss-roll"
    (checkpoint,) = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(["train", "--resume", "runs/swiss-roll", "--steps", str(step + 3)])
    assert left.value.code == 0
    assert (run / "checkpoints" / f"step-{step + 3}").is_dir()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == step + 3
