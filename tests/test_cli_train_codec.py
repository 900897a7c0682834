"""`inkwash train-codec` and `inkwash train --codec`, as people use them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from inkwash.autoencoding import Loss
from inkwash.autoencoding.folder import CodecRun
from inkwash.cli import main
from inkwash.codecfolder import read_codec
from inkwash.data.mix import uniform

torch.set_num_threads(1)

SMALL = ["--batch-size", "4", "--precision", "fp32", "--val-fraction", "0.2"]


@dataclass
class Said:
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/: 30 pictures of 16 x 24 pixels."""
    here = tmp_path_factory.mktemp("codec")
    (here / "photos").mkdir()
    for i in range(30):
        colours = uniform(range(4 * 6 * 3), 1, i).reshape(4, 6, 3)
        Image.fromarray((255 * colours).astype(np.uint8).repeat(4, 0).repeat(4, 1)).save(here / f"photos/{i:02}.png")
    return here


@pytest.fixture(autouse=True)
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))


def run(capsys: pytest.CaptureFixture[str], *args: str) -> Said:
    with pytest.raises(SystemExit) as left:
        main(list(args))
    said = capsys.readouterr()
    return Said(int(left.value.code or 0), said.out, said.err)


def test_from_pictures_to_a_codec_to_a_model_in_its_latents(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "train-codec", "photos", "--steps", "2", "--channels", "5", "--kl", "1e-5", *SMALL)
    assert said.status == 0, said.err
    assert "Trained for 2 steps in" in said.out
    assert "held-out pictures" in said.out
    assert "inkwash train photos --codec runs/photos-codec" in said.out
    about = read_codec("runs/photos-codec")
    assert about["codec"].autoencoder.latent_channels == 5
    assert about["codec"].autoencoder.factor == 4
    assert about["data"] == "photos"
    assert about["trained"]["images"] == 8
    assert about["measured"].keys() == {"psnr", "ssim", "l1", "n"}
    for folder in ("runs/photos-codec", "runs/photos-codec/codec"):
        told = " ".join(run(capsys, "info", folder).out.split())
        assert "data photos pictures of 3 channels, to latents of 5, 4 times smaller net kl, " in told
        assert f"PSNR {about['measured']['psnr']:.4g} dB, SSIM {about['measured']['ssim']:.4g}" in told
        assert "std " + " ".join(f"{v:.4g}" for v in about["codec"].std) in told
        assert f"SHA-256 {about['codec'].sha256}" in told
        assert "trained 2 steps, 8 pictures" in told
        assert "files whole (SHA-256 checked)" in told
    recipe = CodecRun.at("runs/photos-codec").recipe()
    assert (recipe.loss.kl, recipe.adversary, recipe.data.flip) == (1e-5, None, True)

    more = ["--steps", "2", "--batch-size", "4", "--preset", "tiny", "--set", "train.samples=2", "--out", "runs/latent"]
    said = run(capsys, "train", "photos", "--codec", "runs/photos-codec", *more, "--set", "net.widths=[16]")
    assert said.status == 0, said.err
    pipe = inkwash.load("runs/latent")
    assert (pipe.config.shape, pipe.config.pictures) == ((5, 4, 6), (3, 16, 24))
    with Image.open(place / "runs/latent/samples/step-0000002.png") as sheet:
        assert sheet.width > 48

    again = run(capsys, "train-codec", "photos", "--steps", "1", "--factor", "8", "--adversarial", *SMALL)
    assert again.status == 0, again.err
    assert read_codec("runs/photos-codec-2")["codec"].autoencoder.factor == 8
    assert CodecRun.at("runs/photos-codec-2").recipe().adversary is not None


def test_all_that_is_wrong_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "train-codec", "photos", "--factor", "3", "--size", "big", "--steps", "0", "--stps", "3")
    assert said.status == 2
    for mistake in ("factor = 3 must be 4 or 8", "--size big is not", "steps = 0 must be", "Did you mean --steps"):
        assert mistake in said.err
    both = run(capsys, "train-codec", "photos", "--resume", "runs/none", "--kl", "1", "--adversarial", "--out", "x")
    for mistake in ("both say what to train", "both say where", "--kl, --adversarial cannot change", "No training of"):
        assert mistake in both.err
    assert "Give something to train on" in run(capsys, "train-codec").err
    wrong = run(capsys, "train-codec", "photos", "--size", "18", "--steps", "1", *SMALL)
    assert (wrong.status, "18x18 have no latents 4 times smaller" in wrong.err) == (2, True)
    nothing = run(capsys, "train", "photos", "--codec", "photos", "--steps", "1")
    assert (nothing.status, "No codec in photos" in nothing.err) == (2, True)


def test_a_recipe_is_trained_again_with_changes(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    (place / "small.toml").write_text(
        '[data]\nsource = "photos"\nval_fraction = 0.2\n[autoencoder]\nwidths = [8, 16]\ngroups = 4\n'
        '[train]\nminutes = 9\nbatch_size = 4\nprecision = "fp32"\n'
    )
    sets = ["--set", "loss.kl=1e-3", "--set", "train.steps=1", "--set", "optim.schedule.warmup=3"]
    said = run(capsys, "train-codec", "small.toml", "--channels", "3", "--out", "runs/small", *sets)
    assert said.status == 0, said.err
    first = CodecRun.at("runs/small").recipe()
    assert (first.autoencoder.widths, first.autoencoder.latent_channels, first.loss.kl) == ((8, 16), 3, 1e-3)
    assert (first.train.steps, first.train.minutes, first.optim.schedule.warmup) == (1, None, 3)
    said = run(capsys, "train-codec", "runs/small/codec.toml", "--out", "runs/again", "--lr", "0.01")
    assert said.status == 0, said.err
    assert CodecRun.at("runs/again").recipe() == replace(first, optim=replace(first.optim, lr=0.01))
    wrong = ["--set", "loss.kll=1", "--set", "train.steps=many", "--set", "nonsense", "--factor", "8"]
    said = run(capsys, "train-codec", "small.toml", *wrong)
    assert said.status == 2
    for mistake in ("loss.kll is unknown. Did you mean loss.kl?", "train.steps = 'many' should be", "not of the form",
                    "autoencoder.factor = 8 and widths = [8, 16] both say"):  # fmt: skip
        assert mistake in said.err


def test_what_the_guide_shows_is_run() -> None:
    guide = (Path(__file__).parents[1] / "docs/latents.md").read_text(encoding="utf-8")
    (code,) = [b for b in re.findall(r"```python\n(.*?)```", guide, re.DOTALL) if "train_codec" in b]
    exec(code, {})
    about = read_codec("runs/shapes-codec")
    assert (about["codec"].autoencoder.latent_channels, about["trained"]["images"]) == (8, 16)
    assert re.findall(r'\[codec\]\nfolder = "(.*)"', guide) == ["runs/photos-codec"]
    assert "with weights 1, 0.1 and 1e-6." in guide
    assert Loss() == Loss(l1=1, structure=0.1, kl=1e-6)


def test_ctrl_c_saves_and_the_run_goes_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = "import sys, torch; torch.set_num_threads(1); from inkwash.cli import main; main(sys.argv[1:])"
    options = ["--steps", "100000", "--out", "runs/stopped", *SMALL]
    command = [sys.executable, "-c", code, "train-codec", "photos", *options]
    environment = os.environ | {"INKWASH_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, cwd=place, env=environment, stdout=subprocess.PIPE, text=True)
    metrics = place / "runs/stopped/metrics.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and not (metrics.exists() and metrics.read_text()):
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert running.returncode == 0
    assert "Stopped after" in out
    assert "inkwash train-codec --resume runs/stopped" in out
    done = int(next((place / "runs/stopped/checkpoints").glob("step-*")).name.removeprefix("step-"))
    assert f"inkwash train-codec --resume runs/stopped --steps {done}" in out
    said = run(capsys, "train-codec", "--resume", "runs/stopped", "--steps", str(done))
    assert said.status == 0, said.err
    assert read_codec(place / "runs/stopped")["trained"]["steps"] == done
