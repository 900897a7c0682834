"""Editing as people use it: through a pipeline, from the command line, and as docs/editing.md shows it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import inkwash
from inkwash.asking import opened
from inkwash.cli import main
from inkwash.codec import Pixels, Scaled, Standard
from inkwash.edit import Decode, Downsample, Fill, Restore, Vary, slerp
from inkwash.editing import beside, between, read_mask, read_picture, seed_latent
from inkwash.grids import Karras, LogSnr
from inkwash.model import Plain, UnitVariance
from inkwash.modelfolder import Config, Sampling, save_model
from inkwash.nets import MLP, UNet
from inkwash.paths import VE, VP, Linear, LinearBetas, Table
from inkwash.pictures import read_settings
from inkwash.pipeline import Pipeline, load
from inkwash.samplers import Ancestral, Ddim, Heun
from inkwash.targets import Flow, V

ROOT = Path(__file__).parent.parent
CONFIG = Config(
    (1, 8, 8), UNet(preset="tiny"), Linear(), Flow(), UnitVariance(0.6), Pixels(), ("cat", "dog"), Sampling(Heun(), 3)
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of 8x8 pictures, its weights random, and pictures: some.npy, photo.png, mask.png."""
    here = tmp_path_factory.mktemp("edit")
    torch.manual_seed(1)
    model = CONFIG.build()
    for p in model.net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    save_model(CONFIG, model.net.state_dict(), here / "model")
    rng = np.random.default_rng(0)
    np.save(here / "some.npy", rng.integers(0, 256, (3, 8, 8, 1), dtype=np.uint8))
    Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(here / "photo.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(here / "mask.png")
    return here


@pytest.fixture
def pipe(place: Path) -> Pipeline:
    return load(place / "model", device="cpu")


@pytest.fixture
def x0() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (2, 1, 8, 8))).float()


@pytest.fixture
def run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line in a fresh folder: (status, out, err)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*args: Any) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in args])
        said = capsys.readouterr()
        return left.value.code, said.out, said.err

    return command


# Through a pipeline


def test_strength_1_is_ordinary_sampling(pipe: Pipeline, x0: torch.Tensor) -> None:
    assert np.array_equal(pipe(2, edit=Vary(x0, 1.0)).array, pipe(2).array)
    nearly = pipe(2, edit=Vary(x0, 0.001), steps=2)
    assert np.abs(nearly.array.astype(int) - pipe.config.codec.decode(x0).numpy()).max() <= 2
    assert nearly.settings["edit"] == "vary" and nearly.settings["strength"] == 0.001


def test_an_edit_does_not_depend_on_the_batch(pipe: Pipeline) -> None:
    x0 = torch.rand(3, 1, 8, 8) * 2 - 1
    mask = (torch.rand(3, 1, 8, 8) > 0.5).float()
    for edit in (Vary(x0, 0.5), Fill(x0, mask, 2), Restore(Downsample(2), Downsample(2)(x0)), Decode(x0)):
        together, apart = (pipe(3, edit=edit, sampler="ancestral", steps=2, batch_size=b).array for b in (3, 2))
        assert np.array_equal(together, apart)


def test_filling_keeps_what_is_known_and_its_progress_goes_forward(pipe: Pipeline, x0: torch.Tensor) -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    told: list[float] = []
    got = pipe(2, edit=Fill(x0, mask, 3), steps=5, watch=told.append).array
    want = pipe.config.codec.decode(x0).numpy()
    assert np.array_equal(got[:, :, :4], want[:, :, :4]) and not np.array_equal(got[:, :, 4:], want[:, :, 4:])
    assert told == sorted(told) and told[-1] == 1 and max(told[:-1]) < 1 and told[1] > 0


def test_encoding_and_decoding_give_the_picture_back(pipe: Pipeline, x0: torch.Tensor) -> None:
    """To the solver's order on top of what inversion leaves out at its clean end, 0.002."""
    for time in (1.0, 0.5):
        for label in (-1, "dog"):
            far = []
            for steps in (8, 24):
                z = pipe.encode(x0, label=label, steps=steps, time=time)
                edit = Decode(z, time)
                back: list[torch.Tensor] = []
                pipe(2, label=label, steps=steps, edit=edit, trace=lambda q, a, back=back: back.append(a.x0))
                far.append(float((back[-1] - x0).abs().max()))
            assert far[1] < 0.02 and far[1] < far[0] + 1e-3, far
    latent = pipe.encode(x0, steps=2)
    assert not torch.allclose(latent, pipe.encode(x0, steps=2, label="dog"))
    assert torch.equal(latent, pipe.encode(x0, steps=2, sampler=Heun()))
    assert not torch.equal(latent, pipe.encode(x0, steps=2, sampler="ddim"))
    with pytest.raises(ValueError, match="deterministic"):
        pipe.encode(x0, sampler="ancestral")
    for bad in (0.001, 1.1):
        with pytest.raises(ValueError, match=rf"time = {bad} must lie between 0.002, .* and 1"):
            pipe.encode(x0, time=bad)


@pytest.mark.parametrize(
    "along",
    [{"path": VE(), "grid": Karras()}, {"path": VP(), "grid": LogSnr()}, {"path": Linear()}, {"grid": Karras()}],
)
def test_encoding_is_along_the_path_and_the_grid_that_decoding_takes(
    pipe: Pipeline, x0: torch.Tensor, along: dict[str, Any]
) -> None:
    """From the model's own settings or as in a call: with the same times, what is decoded is the picture."""
    config = replace(pipe.config, sampling=replace(pipe.config.sampling, steps=40, **along))
    own = Pipeline(config, pipe.model, pipe.device)
    z = own.encode(x0, label="dog")
    back: list[torch.Tensor] = []
    own(len(z), label="dog", edit=Decode(z), trace=lambda q, a: back.append(a.x0))
    assert float((back[-1] - x0).abs().max()) < 0.03
    assert torch.equal(pipe.encode(x0, label="dog", steps=40, **along), z)
    with pytest.raises(ValueError, match="deterministic"):
        own.encode(x0, sampler="ancestral")


def test_latents_of_seeds_are_where_sampling_begins(pipe: Pipeline) -> None:
    """Along ve that is noise of deviation 80, and on a table's leading entries short of the end."""
    for settings in (
        {"path": VE(), "grid": Karras(), "steps": 4},
        {"path": "linear", "grid": "leading(entries=100)", "steps": 4},
    ):
        ends = (seed_latent(pipe, 3, **settings), seed_latent(pipe, 8, **settings))
        got = between(pipe, ends, 2, label="dog", **settings)
        for i, seed in ((0, 3), (1, 8)):
            assert np.array_equal(got.array[i], pipe(1, label="dog", seed=seed, **settings).array[0])
        with pytest.raises(ValueError, match="deterministic"):
            between(pipe, ends, 2, **settings, sampler=Ancestral())


def test_models_without_classes_encode_too(x0: torch.Tensor) -> None:
    config = Config((1, 8, 8), UNet(preset="tiny"), Table(LinearBetas(50)), V(), Plain(), Pixels())
    plain = Pipeline(config, config.build(), torch.device("cpu"))
    assert plain.encode(x0, steps=2, sampler=Ddim()).shape == x0.shape
    with pytest.raises(ValueError, match="without classes"):
        plain.encode(x0, label="cat")


def test_interpolation_starts_and_ends_at_the_seeds_own_pictures(pipe: Pipeline) -> None:
    ends = (seed_latent(pipe, 3), seed_latent(pipe, 8))
    got = between(pipe, ends, 3, label="dog", steps=4)
    for i, seed in ((0, 3), (2, 8)):
        assert np.array_equal(got.array[i], pipe(1, label="dog", seed=seed, steps=4).array[0])
    middle = pipe(1, label="dog", steps=4, edit=Decode(slerp(*ends, 0.5)[None]))
    assert np.abs(got.array[1].astype(int) - middle.array[0]).max() <= 1
    assert got.labels == ("dog",) * 3 and between(pipe, ends, 2, steps=1).labels == ("any",) * 2
    with pytest.raises(ValueError, match="n = 1 pictures cannot include both ends"):
        between(pipe, ends, 1)
    with pytest.raises(ValueError, match="deterministic"):
        between(pipe, ends, 2, sampler=Ancestral())


# Pictures in and out


def test_pictures_come_at_the_models_size(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))
    some = np.load(place / "some.npy")
    for i in (0, 2):
        got = read_picture(f"{place / 'some.npy'}:{i}", CONFIG)
        assert np.array_equal(Pixels().decode(got).numpy()[0], some[i])
    with Image.open(place / "photo.png") as image:
        photo = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.LANCZOS, (4, 0, 28, 24)))
    got = Pixels().decode(read_picture(str(place / "photo.png"), CONFIG)).numpy()[0, ..., 0]
    assert np.abs(got.astype(int) - photo).max() <= 1  # the middle square of it
    assert read_picture(str(place / "photo.png"), CONFIG, shrink=4).shape == (1, 1, 2, 2)
    shown, many = opened(f"{place / 'some.npy'}:2")  # as a model is shown it by --image
    assert np.array_equal(shown[0], some[2]) and not many
    known = read_mask(place / "mask.png", CONFIG)
    assert known.shape == (1, 1, 8, 8) and known[..., :4].eq(1).all() and known[..., 4:].eq(0).all()
    np.save(place / "floats.npy", np.linspace(0, 3, 128, dtype=np.float32).reshape(2, 8, 8, 1))
    floats = Config((1, 8, 8), UNet(preset="tiny"), Linear(), Flow(), Plain(), Scaled(0.0, 4.0))
    assert float(read_picture(f"{place / 'floats.npy'}:1", floats)[0, 0, -1, -1]) == pytest.approx(0.5)
    assert float(read_picture(f"{place / 'floats.npy'}:1", CONFIG)[0, 0, -1, -1]) == pytest.approx(1.0)


def test_what_is_no_picture_for_the_model_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))
    points = Config((2,), MLP(), Linear(), Flow(), Plain(), Standard((0.0, 0.0), (1.0, 1.0)))
    odd = Config((2, 8, 8), UNet(preset="tiny"), Linear(), Flow(), Plain(), Pixels())
    (place / "notes.png").write_text("no picture")
    Image.new("L", (8, 8)).save(place / "black.png")
    wrong: list[tuple[Any, str]] = [
        (lambda: read_picture("x.png", points), "vectors of 2 numbers; editing is for models of pictures"),
        (lambda: read_picture("photo.png", CONFIG, shrink=3), "8x8, cannot be 3 times smaller"),
        (lambda: read_picture("swiss-roll:0", CONFIG), "swiss-roll holds points"),
        (lambda: read_picture(f"{place}/some.npy:3", CONFIG), "the pictures of some are 0 to 2"),
        (lambda: read_picture(f"{place}/some.npy", CONFIG), "some.npy holds several pictures. Name one of them"),
        (lambda: opened(f"{place}/some.npy:3"), "the pictures of some are 0 to 2"),
        (lambda: read_picture("nothing.png", CONFIG), "nothing.png is not there. Give a picture file"),
        (lambda: read_picture(str(place), CONFIG), "is a folder"),
        (lambda: read_picture(f"{place}/notes.png", CONFIG), "notes.png is not a picture that can be read"),
        (lambda: read_picture(f"{place}/photo.png", odd), "2 channels, which no picture file has"),
        (lambda: read_mask(place / "black.png", CONFIG), "has no white in it"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def test_sheets_show_measurements_as_large_as_pictures(pipe: Pipeline, x0: torch.Tensor) -> None:
    samples = pipe(2, steps=1)
    sheet = np.asarray(beside([("given", x0[:1]), ("small", Downsample(2)(x0[:1]))], samples, ["a", "b"]))
    cells = [sheet[10:106, left : left + 96] for left in (10, 112, 214, 316)]  # 8 pixels of 12, 6 apart
    small = Pixels().decode(Downsample(2)(x0[:1])).numpy()[0].repeat(2, 0).repeat(2, 1)
    pictures = [Pixels().decode(x0[:1]).numpy()[0], small, *samples.array]
    for cell, picture in zip(cells, pictures, strict=True):
        assert np.array_equal(cell, picture.repeat(12, 0).repeat(12, 1).repeat(3, 2))


# From the command line


def width(file: str) -> int:
    with Image.open(file) as image:
        return image.width


JOBS = {
    "vary": (["--strength", 0.3, "--label", "dog"], {"edit": "vary", "strength": 0.3, "n": 4, "steps": 2}),
    "default": ([], {"edit": "vary", "strength": 0.6, "label": [-1] * 4}),
    "fill": (["--mask", "mask.png", "--resample", 2, "-n", 1], {"edit": "fill", "resamplings": 2, "n": 1}),
    "invert": (
        ["--invert", "--from-label", "cat", "--label", "cat", "--label", "dog"],
        {"edit": "decode", "time": 1.0, "from_label": "cat", "label": ["cat", "dog"], "guidance": 1.0},
    ),
    "partly": (["--invert", "--strength", 0.5, "--guidance", 2], {"time": 0.5, "guidance": 2.0, "from_label": None}),
    "deblur": (
        ["--deblur", 1.2, "--noise", 0.1, "--degrade", "-n", 5],
        {"edit": "restore", "measure": "blur", "std": 1.2, "noise_std": 0.1, "data_std": 0.6, "degrade": True, "n": 5},
    ),
    "enlarge": (["--enlarge", 2], {"measure": "downsample", "factor": 2, "noise_std": 0.05, "degrade": False}),
}


@pytest.mark.parametrize("job", JOBS)
def test_edit(job: str, run: Any, place: Path) -> None:
    options, settings = JOBS[job]
    options = [place / o if o == "mask.png" else o for o in options]
    status, out, err = run("edit", place / "model", f"{place}/some.npy:1", "--steps", 2, *options)
    assert (status, err) == (0, "") and re.fullmatch(r"\d pictures? by --\w+ of .*some.npy:1 in edit.png\n", out)
    noted = read_settings("edit.png")
    assert settings.items() <= noted.items() and noted["picture"].endswith("some.npy:1") and noted["steps"] == 2
    filled = job in ("fill", "deblur", "enlarge")
    assert noted["sampler"]["kind"] == ("ancestral" if filled else "heun")
    shown = {"fill": 2, "deblur": 2}.get(job, 1)
    assert width("edit.png") == (shown + noted["n"]) * 102 + 14


def test_filling_and_restoring_take_50_ancestral_steps_by_themselves(run: Any, place: Path) -> None:
    for options in (["--mask", place / "mask.png"], ["--deblur", 1]):
        assert run("edit", place / "model", place / "photo.png", "-n", 1, "--out", "a.png", *options)[0] == 0
        noted = read_settings("a.png")
        assert noted["steps"] == 50 and noted["sampler"]["kind"] == "ancestral"
    run(
        "edit",
        place / "model",
        place / "photo.png",
        "--deblur",
        1,
        "-n",
        1,
        "--sampler",
        "euler",
        "--steps",
        1,
        "--out",
        "a.png",
    )
    assert read_settings("a.png")["sampler"]["kind"] == "euler"
    run("edit", place / "model", place / "photo.png", "-n", 1, "--out", "a.png")
    assert read_settings("a.png")["steps"] == 3


def test_contradictory_options_are_all_told_at_once(run: Any, place: Path) -> None:
    asked = ["--strength", 1.5, "--mask", "m.png", "--deblur", 0, "--enlarge", 1, "--noise", -1, "--out", "a.jpg"]
    status, _, err = run("edit", "nowhere", "x.png", *asked, "--resample", 0, "--from-label", "cat")
    expected = [
        "--out a.jpg must end in .png",
        "--strength and --mask and --deblur and --enlarge are different edits",
        "--from-label belongs to --invert",
        "--strength 1.5 must lie in (0, 1]",
        "--resample 0 must be at least 1",
        "--deblur 0.0 must be above 0",
        "--enlarge 1 must be at least 2",
        "--noise -1.0 must be 0 or more",
    ]
    assert status == 2 and f"There are {len(expected)} mistakes" in err
    for line, message in zip(err.split("\n  - ")[1:], expected, strict=True):
        assert line.startswith(message)
    for options, message in (
        (["--invert", "-n", 3], "-n has no meaning with --invert"),
        (["--resample", 2], "--resample belongs to --mask"),
        (["--degrade"], "--degrade belongs to --deblur and --enlarge"),
        (["--noise", 0.1, "--invert"], "--noise belongs to --deblur and --enlarge"),
        (["--invert", "--mask", "m.png"], "--mask and --invert are different edits"),
        (["--strength", 0], "--strength 0.0 must lie"),
    ):
        status, _, err = run("edit", place / "model", "x.png", *options)
        assert status == 2 and err.startswith(f"Error: {message}"), err


def test_interpolate(run: Any, place: Path) -> None:
    status, out, _ = run("interpolate", place / "model", "--seeds", "3, 8", "-n", 3, "--label", "dog", "--steps", 2)
    assert (status, out) == (0, "3 pictures from seed 3 to seed 8 in strip.png\n")
    noted = read_settings("strip.png")
    assert (noted["between"], noted["label"], noted["steps"], noted["edit"]) == ([3, 8], "dog", 2, "decode")
    ends = [f"{place}/some.npy:0", str(place / "photo.png")]
    status, out, _ = run("interpolate", place / "model", *ends, "--steps", 2)
    assert status == 0 and out.endswith("photo.png in strip-2.png\n")
    noted = read_settings("strip-2.png")
    assert (noted["between"], noted["n"], noted["guidance"], noted["label"]) == (ends, 9, 1.0, -1)
    assert width("strip-2.png") == 11 * 102 + 14
    assert run("interpolate", place / "model", "--steps", 1)[0] == 0 and read_settings("strip-3.png")["between"] == [
        0,
        1,
    ]
    status, _, err = run("interpolate", place / "model", "a.png", "--seeds", "1", "--out", "a.gif")
    assert status == 2 and [m[:20] for m in err.split("\n  - ")[1:]] == [
        "--out a.gif must end",
        "Interpolation is bet",
        "--seeds and pictures",
        "--seeds 1 must be tw",
    ]
    assert "deterministic" in run("interpolate", place / "model", "--sampler", "ancestral")[2]


# docs/editing.md

PAGE = (ROOT / "docs" / "editing.md").read_text(encoding="utf-8")


def test_the_pages_snippets_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the page's order, on a model and pictures that take no time."""
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) >= 4
    for code in blocks:
        code = code.replace('"runs/demo"', repr(str(place / "model"))).replace("steps=50", "steps=2")
        code = re.sub(r'"fashion-mnist:\d+"', repr(f"{place}/some.npy:1"), code).replace(
            'split="test"', 'split="train"'
        )
        code = re.sub(r'"(Sneaker|Shirt|Coat|Ankle boot)"', '"dog"', code).replace("Downsample(4)", "Downsample(2)")
        exec(code, names)
    assert (tmp_path / "varied.png").exists()


def test_the_pages_commands_are_those_of_its_pictures(place: Path) -> None:
    """Every command shown that writes a picture has left its settings in it."""
    commands = re.findall(r"^\$ inkwash (edit|interpolate) runs/demo (.*)$", PAGE, re.MULTILINE)
    assert len(commands) >= 6
    for _, line in commands:
        out = re.search(r"--out (\S+)", line)
        assert out is not None
        noted = read_settings(ROOT / "docs" / "images" / out[1])
        for option, key in (
            ("strength", "strength"),
            ("deblur", "std"),
            ("enlarge", "factor"),
            ("resample", "resamplings"),
        ):
            if match := re.search(rf"--{option} (\S+)", line):
                assert float(noted[key]) == float(match[1]), line
        picture = noted.get("picture") or " ".join(map(str, noted["between"])).replace(
            " ", "," if "--seeds" in line else " "
        )
        assert picture in line and noted["data"] == "fashion-mnist"
        assert (ROOT / "docs" / "images" / out[1]).stat().st_size < 150_000
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
    assert inkwash.__version__
