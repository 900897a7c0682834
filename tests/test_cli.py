"""The command, as people use it: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from inkwash.cli import demo as demo_command
from inkwash.cli import main
from inkwash.cli.doctor import torchvision
from inkwash.cli.terminal import Panel, Stopper
from inkwash.cli.train import train
from inkwash.cli.words import duration, frame_of, free_name, size
from inkwash.data import load
from inkwash.kinds import members_of
from inkwash.modelfolder import load_model, save_model
from inkwash.nets import AnyNet
from inkwash.pictures import read_settings
from inkwash.types import Given

SMALL = ["--preset", "tiny", "--batch-size", "4", "--set", "train.samples=4", "--set", "sampler.steps=2"]
"""Options of a run that takes a second."""


@dataclass
class Said:
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A folder with photos/ (18 pictures, 8x8, of two classes, one of them twice) and runs/photos, 4 steps long."""
    here = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    for i in range(18):
        file = here / "photos" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(file)
    shutil.copy(here / "photos/cat/00.png", here / "photos/cat/16.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setenv("INKWASH_CACHE", str(here / "cache"))
        with pytest.raises(SystemExit) as left:
            main(["train", "photos", *SMALL, "--steps", "4", "--val-fraction", "0.2"])
        assert left.value.code == 0
    return here


@pytest.fixture
def inkwash_(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line in that folder."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))
    monkeypatch.setenv("INKWASH_DEBUG", "")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*args: str) -> Said:
        with pytest.raises(SystemExit) as left:
            main(args)
        said = capsys.readouterr()
        return Said(left.value.code, said.out, said.err)

    return run


def mistakes(said: Said) -> list[str]:
    assert said.status == 2 and said.out == "" and said.err.startswith("Error: ") and "Traceback" not in said.err
    head, *listed = said.err.removeprefix("Error: ").rstrip("\n").split("\n  - ")
    assert not listed or head == f"There are {len(listed)} mistakes:"
    return listed or [head]


# Training


def test_train_leaves_a_run_that_can_be_sampled_from(place: Path):
    run = place / "runs/photos"
    assert {p.name for p in run.iterdir()} == {"checkpoints", "metrics.jsonl", "model", "recipe.toml", "samples"}
    assert [p.name for p in run.glob("checkpoints/*")] == ["step-4"]
    assert sorted(p.name for p in run.glob("samples/*")) == ["step-0000000.png", "step-0000004.png"]
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [4]
    recipe = inkwash.read_recipe(run / "recipe.toml")
    assert (recipe.train.steps, recipe.train.minutes, recipe.train.batch_size) == (4, None, 4)
    assert (recipe.data.source, recipe.data.val_fraction) == ("photos", 0.2)
    pipe = inkwash.load(run)
    assert pipe.config.classes == ("cat", "dog") and pipe.config.trained["images"] == 16


def test_train_tells_all_mistakes_at_once_and_writes_nothing(inkwash_, place: Path):
    (place / "taken").touch()
    asked = ["phots", "--stpes", "9", "--lr=fast", "--size", "3q", "--device", "tpu", "--init-from", "nobody"]
    told = mistakes(inkwash_("train", *asked, "--set", "traim.seed=1", "--preset", "huge", "--out", "taken"))
    expected = [
        r"There is no option --stpes. Did you mean --steps\?",
        r"--lr=fast should be a valid number.*",
        r"--size 3q is not a size.*HEIGHTxWIDTH.*",
        r"traim is unknown. Did you mean train\?",
        r".*preset.*huge.*tiny.*small.*base.*",
        r"taken is a file.*",
        r"There is no device 'tpu'.*cpu.*",
        r"No model in nobody.*runs/photos.*",
    ]
    assert len(told) == len(expected)
    for said, pattern in zip(told, expected, strict=True):
        assert re.fullmatch(pattern, said, re.DOTALL), said
    assert not (place / "runs/phots").exists()
    assert "Did you mean photos (18 images)?" in mistakes(inkwash_("train", "phots"))[0]


def test_train_refuses_a_folder_that_holds_a_run_and_takes_the_next_by_itself(inkwash_, place: Path):
    assert "--resume runs/photos" in mistakes(inkwash_("train", "photos", "--out", "runs/photos"))[0]
    said = inkwash_("train", "photos", *SMALL, "--steps", "1")
    assert said.status == 0 and "runs/photos-2/model" in said.out
    shutil.rmtree(place / "runs/photos-2")


def test_train_wants_one_source(inkwash_):
    assert "fashion-mnist" in mistakes(inkwash_("train"))[0]
    told = mistakes(inkwash_("train", "photos", "--resume", "runs/photos", "--out", "x"))
    assert len(told) == 2 and "photos and --resume" in told[0] and "--out x and --resume" in told[1]


def test_dry_run_says_the_cost_and_writes_nothing(inkwash_, place: Path):
    before = sorted(p.name for p in (place / "runs").iterdir())
    said = inkwash_("train", "photos", *SMALL, "--steps", "8", "--size", "12x16", "--dry-run")
    assert said.status == 0 and sorted(p.name for p in (place / "runs").iterdir()) == before
    net = inkwash.UNet("tiny").build((1, 12, 16), Given(2))
    assert f"{sum(p.numel() for p in net.parameters()):,}" in said.out
    assert "photos, 18 pictures of shape 1 x 12 x 16" in said.out and "2: cat, dog" in said.out
    assert "8 steps, 1.8 times through the data" in said.out  # 8 x 4 / 18


def test_a_preset_replaces_nothing_else_of_the_network(inkwash_, place: Path):
    (place / "wide.toml").write_text(
        'data.source = "photos"\nnet = { kind = "unet", preset = "small", dropout = 0.25, widths = [16] }\n'
        "train = { steps = 1, batch_size = 4, samples = 2 }\nsampler = { steps = 2 }\n"
    )
    assert inkwash_("train", "wide.toml", "--preset", "tiny", "--out", "runs/wide").status == 0
    net = inkwash.read_recipe(place / "runs/wide/recipe.toml").net
    assert (net.preset, net.dropout, net.widths) == ("tiny", 0.25, (16,))
    (place / "mlp.toml").write_text('data.source = "moons"\nnet = { kind = "mlp", width = 8 }\n')
    told = mistakes(inkwash_("train", "mlp.toml", "--preset", "tiny", "--dry-run"))
    assert told == [
        "net.preset (--preset) is for other nets than this recipe's; --net names one. There are width, depth."
    ]


def test_a_recipe_by_name_trains_on_what_is_given(inkwash_, place: Path):
    short = ["--steps", "1", "--batch-size", "4", "--set", "train.samples=2", "--set", "sampler.steps=2"]
    said = inkwash_("train", "photos", "--recipe", "fashion-mnist", *short, "--preset", "tiny", "--out", "runs/named")
    assert said.status == 0
    recipe = inkwash.read_recipe(place / "runs/named/recipe.toml")
    assert (recipe.data.source, recipe.sampler.guidance, recipe.optim.lr) == ("photos", 1.5, 3e-3)
    (place / "mine.toml").write_text('data.source = "moons"\noptim = { kind = "adamw", lr = 0.25 }\n')
    said = inkwash_("train", "photos", "--recipe", "mine.toml", *short, "--grad-checkpoint", "--out", "runs/mine")
    assert said.status == 0
    recipe = inkwash.read_recipe(place / "runs/mine/recipe.toml")
    assert (recipe.data.source, recipe.optim.lr, recipe.train.grad_checkpoint) == ("photos", 0.25, True)
    assert inkwash_("train", "--recipe", "swiss-roll", "--dry-run", "--steps", "1").out.startswith(
        "  data        swiss-roll"
    )
    assert "Did you mean fashion-mnist?" in mistakes(inkwash_("train", "photos", "--recipe", "fashion-mnits"))[0]
    assert "are two recipes" in mistakes(inkwash_("train", "mine.toml", "--recipe", "fashion-mnist"))[0]
    assert "are two recipes" in mistakes(inkwash_("train", "cosine-64", "--recipe", "fashion-mnist"))[0]
    told = mistakes(inkwash_("train", "--resume", "runs/photos", "--recipe", "fashion-mnist"))
    assert told == ["--recipe fashion-mnist and --resume runs/photos both say how. A resumed run has its own recipe."]


def test_a_run_in_epochs_is_made_longer_in_epochs(inkwash_, place: Path):
    asked = ["--epochs", "1", "--set", "train.steps=3", "--out", "runs/once"]
    assert "steps = 3 and epochs = 1.0 both say how long" in mistakes(inkwash_("train", "photos", *SMALL, *asked))[0]
    assert inkwash_("train", "photos", *SMALL, "--epochs", "0.5", "--out", "runs/once").status == 0
    assert [p.name for p in (place / "runs/once/checkpoints").glob("*")] == ["step-3"]  # 18 pictures, 4 in a step
    assert "inkwash train --resume runs/once --epochs 1\n" in inkwash_("train", "--resume", "runs/once").out
    said = inkwash_("train", "--resume", "runs/once", "--epochs", "1")
    assert "Changed: train.epochs: 0.5 -> 1.0\n" in said.out and "Trained for 5 steps" in said.out


def test_a_preset_or_net_chooses_another_network_than_the_recipes(inkwash_, place: Path):
    (place / "own.toml").write_text(
        'data.source = "photos"\nnet = { kind = "unet", preset = "small", widths = [16] }\n'
        "train = { steps = 1, batch_size = 2, samples = 2 }\nsampler = { steps = 1 }\n"
    )
    small = ["--set", "net.depth=1", "--set", "net.width=32", "--set", "net.heads=2"]
    for asked, net in (
        (["own.toml", "--preset", "S"], inkwash.DiT("S", depth=1, width=32, heads=2)),
        (["own.toml", "--preset", "S", "--net", "modern-dit"], inkwash.ModernDiT("S", depth=1, width=32, heads=2)),
    ):
        out = f"runs/{net.kind}"
        assert inkwash_("train", *asked, *small, "--out", out).status == 0
        run = inkwash.read_recipe(place / out / "recipe.toml")
        assert run.net == net.resolve((1, 8, 8))
    told = mistakes(inkwash_("train", "own.toml", "--net", "dti", "--preset", "huge", "--size", "3q"))
    assert len(told) == 3 and "Did you mean dit?" in told[1] and "dit: S, B, L, XL" in told[2]


def test_help_names_all_kinds_of_nets_and_presets():
    options = get_type_hints(train, include_extras=True)
    kinds = members_of(AnyNet)
    assert set(re.findall(r"[\w-]+", options["net"].__metadata__[0].help)) >= kinds.keys()
    listed = dict(part.split(": ") for part in options["preset"].__metadata__[0].help[21:-18].split("; "))
    presets = {k: ", ".join(get_args(get_type_hints(c)["preset"])) for k, c in kinds.items() if k != "mlp"}
    assert listed == presets


def test_running_out_of_memory_is_told_in_one_line(inkwash_, monkeypatch: pytest.MonkeyPatch):
    def exhausted(*_: object, **__: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("inkwash.pipeline.load", exhausted)
    monkeypatch.setattr("inkwash.training.plan", exhausted)
    for command in (["sample", "runs/photos"], ["train", "photos", "--dry-run"]):
        (told,) = mistakes(inkwash_(*command))
        assert told.startswith("Out of memory: ") and told.endswith("A smaller --batch-size helps.")


def test_resume_goes_on_and_says_what_changed(inkwash_, place: Path):
    shutil.copytree(place / "runs/photos", place / "runs/longer")
    assert "--resume runs/longer --steps 8" in inkwash_("train", "--resume", "runs/longer").out
    said = inkwash_("train", "--resume", "runs/longer", "--steps", "6", "--lr", "5e-4")
    assert said.status == 0 and "Changed: train.steps: 4 -> 6\n" in said.out
    assert "Changed: optim.lr: 0.002 -> 0.0005\n" in said.out
    assert {p.name for p in (place / "runs/longer/checkpoints").iterdir()} == {"step-4", "step-6"}
    told = inkwash_("train", "--resume", "runs/longer/checkpoints/step-4", "--seed", "3", "--bacth-size", "8")
    assert told.status == 2 and "train.seed: 0 -> 3" in told.err and "Did you mean --batch-size?" in told.err


def test_resume_names_a_damaged_checkpoint_and_the_good_one_before_it(inkwash_, place: Path):
    run = place / "runs/damaged"
    shutil.copytree(place / "runs/photos", run)
    shutil.copytree(run / "checkpoints/step-4", run / "checkpoints/step-5")
    weights = run / "checkpoints/step-5/net.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    told = inkwash_("train", "--resume", "runs/damaged", "--steps", "9")
    assert told.status == 2 and "step-5 is damaged: net.safetensors was altered" in told.err
    assert "--resume runs/damaged/checkpoints/step-4" in told.err
    said = inkwash_("info", "runs/damaged")
    assert "step-4: whole" in said.out and "step-5: DAMAGED" in said.out


# Sampling


def test_sample_writes_what_the_pipeline_draws_and_how_to_draw_it_again(inkwash_, place: Path):
    said = inkwash_(
        "sample", "runs/photos", "-n6", "--steps", "3", "--guidance", "2", "--seed", "5", "--npy", "a/b.npy"
    )
    assert said.status == 0 and said.out == "6 pictures in samples.png, a/b.npy\n"
    again = inkwash_("sample", "runs/photos", "-n", "6", "--steps", "3", "--guidance", "2", "--seed", "5")
    assert again.out == "6 pictures in samples-2.png\n"  # the first is not overwritten
    assert (place / "samples.png").read_bytes() == (place / "samples-2.png").read_bytes()
    drawn = inkwash.load(place / "runs/photos")(6, steps=3, guidance=2.0, seed=5)
    assert (np.load(place / "a/b.npy") == drawn.array).all()
    settings = read_settings(place / "samples.png")
    assert settings == json.loads(json.dumps(drawn.settings)) and settings["guidance"] == 2.0


def test_sample_draws_another_size(inkwash_, place: Path):
    draw = ["sample", "runs/photos", "-n", "2", "--out", "wide.png", "--npy", "wide.npy"]
    assert inkwash_(*draw, "--size", "12x16").status == 0
    drawn = inkwash.load(place / "runs/photos")(2, size=(12, 16))
    assert (np.load(place / "wide.npy") == drawn.array).all() and drawn.array.shape == (2, 12, 16, 1)
    assert read_settings(place / "wide.png")["size"] == [12, 16]
    assert "multiples of 4, for example (12, 12)" in mistakes(inkwash_(*draw, "--size", "13"))[0]
    told = mistakes(inkwash_(*draw, "--size", "3q", "--gif", "x.png"))
    assert len(told) == 2 and told[0].startswith("--size 3q is not a size.")


def test_sample_takes_labels_by_name_and_index_in_turn(inkwash_, place: Path):
    # After four steps labels hardly matter yet: guidance makes much of little.
    draw = ["sample", "runs/photos", "-n", "3", "--guidance", "1e6"]
    inkwash_(*draw, "--label", "DOG", "--npy", "dog.npy", "--out", "dog.png")
    inkwash_(*draw, "--label", "1", "--label", "cat", "--npy", "two.npy", "--out", "two.png")
    dog, two = np.load(place / "dog.npy"), np.load(place / "two.npy")
    assert (dog[[0, 2]] == two[[0, 2]]).all() and (dog[1] != two[1]).any()
    inkwash_("sample", "runs/photos", "--label", "all", "--npy", "all.npy")
    assert len(np.load(place / "all.npy")) == 8  # 4 of each class


def test_sample_makes_a_gif_of_every_step(inkwash_, place: Path):
    assert (
        inkwash_("sample", "runs/photos", "-n", "4", "--sampler", "ddim", "--steps", "5", "--gif", "x.gif").status == 0
    )
    with Image.open(place / "x.gif") as gif, Image.open(sorted(place.glob("samples*.png"))[-1]) as sheet:
        assert gif.n_frames == 5 + 1 and gif.width > 2 * sheet.width  # x_t and the predicted x0, side by side


def test_sample_runs_a_sampler_from_the_current_folder(inkwash_, place: Path):
    (place / "single.py").write_text(
        "from dataclasses import dataclass\n"
        "from inkwash.types import Query\n"
        "@dataclass(frozen=True)\n"
        "class Once:\n"
        "    def __call__(self, path, x, times, noise):\n"
        "        return (yield Query(x, times[0], times[0])).x0\n"
    )
    one = ["sample", "runs/photos", "-n", "2", "--out", "one.png"]
    assert inkwash_(*one, "--sampler", "single:Once", "--steps", "9", "--npy", "once.npy").status == 0
    assert inkwash_(*one, "--sampler", "euler", "--steps", "1", "--npy", "euler.npy").status == 0
    assert (np.load(place / "once.npy") == np.load(place / "euler.npy")).all()  # Euler's one step, on a line


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["runs/photos", "--label", "cta"], "This model has no class 'cta'. Did you mean cat?"),
        (["runs/photos", "--label", "2"], "indices go from 0 to 1"),
        (["runs/photos", "--sampler", "huen"], "There is no sampler 'huen'. Did you mean heun?"),
        (["runs/photos", "--eta", "1", "--sampler", "heun"], "eta = 1.0 belongs to the ddim sampler"),
        (["runs/photos", "--steps", "0"], "at least 1 step, not 0"),
        (["runs/photo"], "No model in runs/photo: there is no such folder. Models found here:"),
        (["runs/photos", "-n", "0"], "-n 0 should be greater than or equal to 1"),
        (["runs/photos", "--out", "x.jpg"], "--out x.jpg must end in .png, for example x.png."),
        (["runs/photos", "--gif", "photos"], "--gif photos must end in .gif"),
        (["runs/photos", "--gif", "mine.txt/x.gif"], "mine.txt is a file, not a folder"),
        ([], "Missing argument 'RUN'."),
        (["runs/photos", "--seeed", "-1"], "There is no option --seeed. Did you mean --seed?"),
    ],
)
def test_sample_says_what_is_wrong(inkwash_, place: Path, args: list[str], told: str):
    (place / "mine.txt").touch()
    assert told in mistakes(inkwash_("sample", *args))[0]


def test_points_are_drawn_as_points(inkwash_, place: Path):
    assert inkwash_("train", "moons", "--steps", "2", "--batch-size", "8", "--set", "train.samples=20").status == 0
    said = inkwash_(
        "sample", "runs/moons", "-n", "50", "--steps", "2", "--npy", "m.npy", "--gif", "m.gif", "--out", "m.png"
    )
    assert said.out == "50 points in m.png, m.gif, m.npy\n"
    assert np.load(place / "m.npy").shape == (50, 2)
    with Image.open(place / "m.png") as image:
        assert image.width == image.height  # a scatter with equal axes


# Looking


def test_info_says_what_a_model_is_without_its_weights(inkwash_, place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("inkwash.checkpoint.folder.load_file", None)
    said = inkwash_("info", "runs/photos")
    parameters = sum(p.numel() for p in inkwash.UNet("tiny").build((1, 8, 8), Given(2)).parameters())
    assert said.status == 0
    for fact in ("1 x 8 x 8", "2: cat, dog", f"{parameters:,} parameters", "Linear()", "4 steps, 16 examples"):
        assert fact in said.out
    assert said.out.count("whole (SHA-256 checked)") == 2


def test_data_check_counts_and_finds_duplicates_and_bad_files(inkwash_, place: Path):
    said = inkwash_("data", "check", "photos", "--out", "sheet.png")
    assert said.status == 0 and "photos: 18 examples of shape 1x8x8" in said.out
    assert "cat 9, dog 9" in said.out and "exact duplicates: 1, such as cat/00.png = cat/16.png" in said.out
    with Image.open(place / "sheet.png") as sheet:
        assert sheet.width > 9 * 8 and sheet.height > 2 * 8
    shutil.copytree(place / "photos/cat", place / "spoilt")
    (place / "spoilt/02.png").write_bytes(b"no picture")
    said = inkwash_("data", "check", "spoilt")
    assert said.status == 1 and "cannot be read: 1 (02.png" in said.out and "Training refuses" in said.out


def test_noise_shows_the_entries_of_the_table(inkwash_, place: Path):
    said = inkwash_("noise", "photos", "--at", "0,50,199", "--out", "noise.png", "--index", "3")
    assert said.status == 0 and "t = 0.005, 0.255, 1 in noise.png" in said.out  # (i + 1)/T
    assert read_settings(place / "noise.png")["at"] == ["step 0", "step 50", "step 199"]
    for steps, entries in ((["--steps", "200"], (0, 50, 100, 150, 199)), (["--steps", "3"], (0, 1, 2))):
        betas = ["--betas", "cosine", "--out", "spread.png"]
        assert inkwash_("noise", "photos", *steps, *betas).status == 0
        assert read_settings(place / "spread.png")["at"] == [f"step {i}" for i in entries]
    assert inkwash_("noise", "photos", "--path", "vp", "--out", "vp.png").status == 0
    assert "schedule=CosineSchedule()" in read_settings(place / "vp.png")["path"]
    assert read_settings(place / "vp.png")["at"] == ["t = 0", "t = 0.25", "t = 0.5", "t = 0.75", "t = 1"]
    inkwash_("noise", "photos", "--path", "linear", "--at", "0", "--out", "clean.png", "--index", "3")
    picture = load("photos").images[3, ..., 0]
    with Image.open(place / "clean.png") as clean:
        shown = np.asarray(clean.convert("L"))
    # At t = 0 nothing is added: the picture itself is somewhere in the sheet, each pixel so many times larger.
    found = [
        shown[y : y + 8 * k : k, x : x + 8 * k : k]
        for k in range(1, 33)
        for y, x in np.ndindex(40, 40)
        if y + 8 * k <= shown.shape[0] and x + 8 * k <= shown.shape[1]
    ]
    assert any((window == picture).all() for window in found)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--at", "0,200"], "--at 200 is not in the table: its entries are 0 to 199"),
        (["--at", "0.5"], "--at 0.5 is not in the table"),
        (["--at", "2", "--path", "linear"], "--at 2 is not a time"),
        (["--at", "1;2"], "is not a list of numbers"),
        (["--betas", "cosine", "--scaled"], "--scaled has no meaning for cosine"),
        (["--index", "18"], "--index 18 is not in photos: its pictures are 0 to 17"),
        (["--betas", "linear", "--steps", "20", "--scaled"], "beta_20 = 1"),
    ],
)
def test_noise_says_what_is_wrong(inkwash_, args: list[str], told: str):
    assert told in mistakes(inkwash_("noise", "photos", *args))[0]


def test_demo_leaves_its_pictures_and_never_overwrites(inkwash_, place: Path, monkeypatch: pytest.MonkeyPatch):
    (place / "tiny.toml").write_text(
        'data.source = "fashion-mnist"\nnet = { kind = "unet", preset = "tiny" }\n'
        "train = { batch_size = 4, samples = 2 }\nsampler = { steps = 2 }\n"
    )
    monkeypatch.setattr(demo_command, "RECIPE", "tiny.toml")
    monkeypatch.setattr(demo_command, "FALLBACK", "photos")
    photos = load("photos")
    monkeypatch.setattr("inkwash.data.load_or_generated", lambda *_, **__: (photos, "fashion-mnist: no network."))
    first = inkwash_("demo", "--minutes", "0.01")
    assert first.status == 0 and "fashion-mnist: no network." in first.out and "Training on photos" in first.out
    left = {p.name for p in (place / "runs/demo").iterdir()}
    assert {"samples.png", "denoising.gif", "forward.png", "loss.png", "model", "metrics.jsonl"} <= left
    assert read_settings(place / "runs/demo/samples.png")["n"] == 20  # ten of each class
    assert read_settings(place / "runs/demo/forward.png")["at"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    second = inkwash_("demo", "--minutes", "0.01")
    assert "runs/demo is there already; this one goes to runs/demo-2." in second.out
    assert (place / "runs/demo-2/samples.png").exists()


def test_doctor_finds_a_torchvision_that_does_not_import(inkwash_, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert torchvision().advice == ""  # it is not installed here
    info = tmp_path / "torchvision-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 9.9\n")
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = inkwash_("doctor")
    assert said.status == 0 and "!!  torchvision   9.9 does not import: RuntimeError: operator" in said.out
    assert "pip uninstall torchvision" in said.out and "Look at: " in said.out
    for name in ("torch ", "threads", "bf16", "cache", "disk, here", "fashion-mnist"):
        assert f"  {name}" in said.out


# The command itself


def test_a_bug_keeps_its_traceback_and_debug_shows_every_one(inkwash_, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="No model in nowhere"):
        main(["--debug", "info", "nowhere"])
    monkeypatch.setenv("INKWASH_DEBUG", "0")
    monkeypatch.setattr("inkwash.pipeline.load", lambda *_, **__: np.zeros(2).reshape(3))  # numpy's own ValueError
    with pytest.raises(ValueError, match="reshape"):
        main(["sample", "runs/photos"])


def test_errors_of_the_system_are_told_in_one_line(inkwash_, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "samples.png")

    monkeypatch.setattr("inkwash.pictures.save_png", refuse)
    assert mistakes(inkwash_("sample", "runs/photos", "-n", "1")) == ["samples.png: Permission denied."]


def test_an_interrupted_command_exits_with_130(inkwash_, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("inkwash.pipeline.load", interrupted)
    assert inkwash_("sample", "runs/photos").status == 130
    monkeypatch.setattr("inkwash.training.train", interrupted)
    said = inkwash_("train", "--resume", "runs/photos", "--steps", "9")
    assert said.status == 130 and "inkwash train --resume runs/photos\n" in said.out


def test_the_bare_command_shows_examples(inkwash_):
    said = inkwash_()
    assert said.status == 0 and "inkwash train photos/" in said.out
    assert inkwash_("--version").out == f"inkwash {inkwash.__version__}\n"
    assert "Did you mean 'train'?" in mistakes(inkwash_("trian"))[0]


def test_ctrl_c_asks_once_and_stops_the_second_time():
    confirmed = []
    with Stopper(lambda: confirmed.append(True)) as stopper:
        stopper.gentle = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stopper() and confirmed == [True]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with Stopper(lambda: None), pytest.raises(KeyboardInterrupt):  # before the first step there is nothing to save
        os.kill(os.getpid(), signal.SIGINT)


def test_the_panel_shows_where_training_is():
    panel = Panel("runs/x", checkpoint_every=100)
    from rich.console import Console

    console = Console(width=120, file=open(os.devnull, "w"), record=True)  # noqa: SIM115, PTH123
    with console.file:
        now = inkwash.Progress(240, 0.6, 0.5, 1.0, 1e-3, 321.4, 75.0, 110.0, 1_500_000_000, 0)
        panel.report(now)
        console.print(panel)
        panel.asked_to_stop()
        console.print(panel)
    shown = console.export_text()
    assert "runs/x  step 240 / 400" in shown
    assert "60% · loss 0.5000 · 321 images/s · 1 min 15 s left · 1.5 GB · checkpoint in 60 steps" in shown
    assert "Ctrl-C again stops at once" in shown


def test_words():
    assert [duration(s) for s in (0.04, 9.96, 61, 7500, float("nan"))] == [
        "0.0 s",
        "10 s",
        "1 min 1 s",
        "2 h 5 min",
        "",
    ]
    assert [size(n) for n in (12, 8.1e8, 1.25e9)] == ["12 B", "810 MB", "1.2 GB"]
    wrong: list[str] = []
    assert [frame_of(t, wrong) for t in ("28", "48x64", "48×64")] == [28, [48, 64], [48, 64]] and not wrong


def test_free_name_counts_up(tmp_path: Path):
    for expected in ("s.png", "s-2.png", "s-3.png"):
        name = free_name(tmp_path / "s.png")
        assert name.name == expected
        name.touch()


def test_weights_that_do_not_fit_their_config_are_a_mistake_not_a_bug(inkwash_, place: Path):
    config, model = load_model(place / "runs/photos")
    wider = replace(config, net=replace(config.net, widths=(48, 64)))
    save_model(wider, model.net.state_dict(), place / "misfit")
    told = mistakes(inkwash_("sample", "misfit"))[0]
    assert "The weights in misfit do not fit its config.json" in told and "size mismatch" in told


@pytest.mark.parametrize("command", ["sample", "compare", "likelihood", "edit", "interpolate"])
def test_how_many_is_said_with_one_dash_or_two(inkwash_, command: str) -> None:
    for name in ("-n", "--n"):
        said = inkwash_(command, "nowhere", name, "none")
        assert said.status == 2 and "n none should be a valid integer" in said.err
        assert "o such option" not in said.err
