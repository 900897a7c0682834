"""Asking on the command line: what it says is what a pipeline is asked, and what is drawn is shown with its words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash import Config, Flow, Heun, Karras, Linear, Sampling, UNet, load
from inkwash.cli import main
from inkwash.cli.wishes import Wishes, wishes
from inkwash.codec import Pixels
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, LowResolution, Masked
from inkwash.edit import Decode
from inkwash.editing import beside, read_picture
from inkwash.gallery import sheet
from inkwash.guidance import Apg
from inkwash.model import Plain
from inkwash.modelfolder import save_model
from inkwash.paths import VE
from inkwash.pictures import grid, read_settings
from inkwash.pipeline import Pipeline
from inkwash.samples import Samples
from letters import Letters

NET = UNet("tiny", widths=(16, 16), depth=1, attention=(1,))
ANGLE = ByVector(("angle", "size"), mean=(90.0, 2.0), std=(30.0, 0.5))


def model(folder: Path, size: int, classes: tuple[str, ...] = (), guidance: float = 1.0, **told: Any) -> Path:
    config = Config(
        (1, size, size), NET, Linear(), Flow(), Plain(), Pixels(), classes,
        conditions=Conditions(**told), sampling=Sampling(Heun(), 2, guidance),
    )  # fmt: skip
    torch.manual_seed(0)
    net = config.network()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return save_model(config, net.state_dict(), folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that are told everything ("all", of 8x8), shown coarse pictures ("fine", 16x16), and that fill in."""
    here = tmp_path_factory.mktemp("asking")
    text = ByText(Letters(), "letters")  # type: ignore[arg-type]
    model(here / "all", 8, ("cat", "dog"), 2.0, text=text, vector=ANGLE)
    model(here / "fine", 16, ("cat", "dog"), text=text, image=ByImage(LowResolution(2)))
    model(here / "plain", 8, text=text)
    model(here / "filling", 8, image=ByImage(Masked(), dropout=0.1))
    rng = np.random.default_rng(0)
    (here / "small").mkdir()
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(here / "small" / f"{i}.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(here / "mask.png")
    return here


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line in a fresh folder: what it says."""
    monkeypatch.chdir(tmp_path)

    def command(*args: Any, fails: bool = False) -> str:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in args])
        said = capsys.readouterr()
        assert bool(left.value.code) == fails, said
        return said.err if fails else said.out

    return command


def opened(folder: Path) -> Pipeline:
    return load(folder, device="cpu", trust=True)


def shown(file: str) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_prompts_go_round_with_their_words_above(run: Any, place: Path) -> None:
    Path("texts.txt").write_text("a longer one\n\n x \n", encoding="utf-8")
    run(
        "sample", place / "all", "--trust", "--device", "cpu", "--prompt", "two words", "--prompts", "texts.txt",
        "--negative", "grey", "--also", "snow=0.5", "--vector", "angle=100", "--npy", "all.npy",
        "--guidance", 3, "--rule", "rescaled(phi=0.5)", "--interval", "0.1,50", "--seed", 4,
    )  # fmt: skip
    prompts = ["two words", "a longer one", "x"] * 4
    want = opened(place / "all")(
        12, prompt=prompts, negative="grey", also={"snow": 0.5}, vector={"angle": 100}, guidance=3.0,
        rule="rescaled(phi=0.5)", interval=(0.1, 50), seed=4,
    )  # fmt: skip
    assert (np.load("all.npy") == want.array).all()
    words = [f"{prompt}, angle 100" for prompt in prompts[:3]]
    assert (shown("samples.png") == np.asarray(grid(want.pictures(), 3, labels=words, scale=12))).all()
    settings = read_settings(Path("samples.png"))
    assert settings["prompt"] == prompts
    assert settings["also"] == {"snow": 0.5}
    assert settings["vector"] == [100.0, None]
    assert settings["interval"] == [0.1, 50.0]


def test_a_sweep_goes_from_one_number_to_another(run: Any, place: Path) -> None:
    run("sample", place / "all", "--trust", "--label", "dog", "--vector", "angle=0:80", "--vector", "size=1.5")
    pipe = opened(place / "all")
    want = pipe(9, label="dog", vector={"angle": [10.0 * i for i in range(9)], "size": 1.5})
    assert want.captions[3] == "dog, angle 30, size 1.5"
    assert (shown("samples.png") == np.asarray(grid(want.pictures(), 3, captions=want.captions))).all()


def test_pictures_are_shown_beside_what_came_of_them(run: Any, place: Path) -> None:
    run("sample", place / "fine", "--trust", "--image", place / "small", "--npy", "a.npy", "--label", "cat")
    pipe = opened(place / "fine")
    small = np.stack([np.asarray(Image.open(place / "small" / f"{i}.png"))[..., None] for i in range(3)])
    want = pipe(3, image=small, label="cat")
    assert (np.load("a.npy") == want.array).all()
    pairs = np.concatenate([LowResolution(2).enlarged(small), want.array], 2)
    assert (shown("samples.png") == np.asarray(grid(pairs, 2, gap=8))).all()
    run("sample", place / "fine", "--trust", "--image", place / "small", "-n", 5, "--npy", "b.npy")
    again = pipe(5, image=small[[0, 1, 2, 0, 1]])
    assert (np.load("b.npy") == again.array).all()
    assert again.labels == ("any",) * 5


def test_a_cascade_from_the_command_line(run: Any, place: Path) -> None:
    """The base draws with its own settings; both are asked what they take; the classes drawn go on."""
    command = ["sample", place / "fine", "--trust", "--from", place / "all", "-n", 4, "--seed", 3]
    run(*command, "--npy", "a.npy")
    base, fine = opened(place / "all"), opened(place / "fine")
    coarse = base(4, seed=3)
    assert (np.load("a.npy") == fine(4, image=coarse, label=["cat", "dog"] * 2, seed=3).array).all()
    run(*command, "--npy", "b.npy", "--prompt", "cat", "--vector", "size=2", "--out", "b.png")
    coarse = base(4, seed=3, prompt="cat", vector={"size": 2.0})
    assert (np.load("b.npy") == fine(4, image=coarse.array, prompt="cat", seed=3).array).all()
    settings = read_settings(Path("b.png"))
    assert settings["from"]["run"] == str(place / "all")
    assert settings["from"]["guidance"] == 2.0
    run("sample", place / "all", "--trust", "-n", 4, "--seed", 3, "--npy", "small.npy")
    run("sample", place / "fine", "--trust", "--image", "small.npy", "--seed", 3, "--npy", "c.npy")
    assert (np.load("c.npy") == fine(4, image=base(4, seed=3), seed=3).array).all()


def test_editing_is_told_what_sampling_is(run: Any, place: Path) -> None:
    picture = place / "small" / "0.png"
    said = ["--trust", "--prompt", "two words", "--vector", "angle=60", "--label", "dog", "--device", "cpu"]
    run("edit", place / "all", picture, "--strength", 0.5, "-n", 2, *said, "--negative", "grey")
    settings = read_settings(Path("edit.png"))
    assert settings["prompt"] == "two words"
    assert settings["negative"] == "grey"
    assert settings["vector"] == [60.0, None]
    run("edit", place / "all", picture, "--invert", "--from-prompt", "x", "--prompt", "a", "--prompt", "b", "--trust")
    assert read_settings(Path("edit-2.png"))["prompt"] == ["a", "b"]
    sweep = ("--invert", "--vector", "angle=0:80", "--trust", "--out", "sweep.png")
    run("edit", place / "all", picture, *sweep, "--from-vector", "angle=20", "--from-label", "cat")
    settings = read_settings(Path("sweep.png"))
    assert settings["vector"] == [[10.0 * i, None] for i in range(9)] and settings["from_vector"] == ["angle=20"]
    # What it shows is decoded from what it shows: as itself, and it is no other number's picture.
    pipe = opened(place / "all")
    x0 = read_picture(str(picture), pipe.config)
    latent = pipe.encode(x0, label="cat", vector={"angle": 20.0})
    want = pipe(9, label=-1, vector={"angle": [10.0 * i for i in range(9)]}, edit=Decode(latent), guidance=1.0)
    assert (shown("sweep.png") == np.asarray(beside([("original", x0)], want, want.captions))).all()
    assert "and no sweep" in run("edit", place / "all", picture, *sweep, "--from-vector", "angle=1:2", fails=True)
    run("edit", place / "filling", picture, "--mask", place / "mask.png", "-n", 1, "--steps", 2)
    settings = read_settings(Path("edit-3.png"))
    pipe = opened(place / "filling")
    asked = pipe(1, image=picture, mask=place / "mask.png")
    assert settings["image"] == asked.settings["image"]  # the model was told what is around, and where to paint
    run("interpolate", place / "all", "--seeds", "1,1", "-n", 3, "--vector", "angle=60:120", "--trust")
    assert read_settings(Path("strip.png"))["vector"] == [[60.0, None], [90.0, None], [120.0, None]]
    run(
        "compare", place / "all", "--trust", "--prompt", "a", "--prompt", "b", "-n", 2, "--sampler", "heun",
        "--steps", "1,2",
    )  # fmt: skip
    assert read_settings(Path("compare.png"))["prompt"] == ["a", "b"]


def test_mistakes_are_told_together(run: Any, place: Path) -> None:
    said = run(
        "sample", place / "all", "--also", "snow", "--vector", "angle", "--prompts", "none.txt", "--image", "x.png",
        "--from", place / "all", fails=True,
    )  # fmt: skip
    for part in ("'snow=2'", "angle=0:90", "--prompts none.txt cannot be read", "Give one of them", "4 mistakes"):
        assert part in said
    assert "It takes label= (cat, dog), prompt= (a text), vector= (angle, size)." in run(
        "sample", place / "all", "--trust", "--image", place / "small", fails=True
    )
    cascade = ("sample", place / "fine", "--trust", "--from", place / "plain", "--guidance", 3)
    assert "plain, which --from names, is asked first, with its own settings: negative is what" in run(
        *cascade, "--negative", "grey", fails=True
    )
    assert "without texts" in run("compare", place / "filling", "--prompt", "x", fails=True)
    assert "Did you mean angle" in run("sample", place / "all", "--trust", "--vector", "angel=3", fails=True)


def test_how_many_pictures_make_a_sheet() -> None:
    for said, classes, want in (
        (Wishes(), 0, 16),
        (Wishes(), 10, 40),
        (Wishes(), 100, 16),
        (Wishes(prompts=["a"]), 10, 16),
        (Wishes(prompts=["a", "b", "c"]), 10, 12),
        (Wishes(prompts=["a"] * 30), 0, 30),
        (Wishes(labels=["a", "b"]), 10, 8),
        (Wishes(ranges={"angle": (0, 90)}), 10, 9),
        (Wishes(ranges={"angle": (9, 9)}), 10, 16),
    ):
        assert said.count(classes) == want, said
    mistakes: list[str] = []
    assert wishes(mistakes, vector=["a=1", "b=-2:3e1"], also=["x = y=-0.5"]) == Wishes(
        ranges={"a": (1.0, 1.0), "b": (-2.0, 30.0)}, also={"x = y": -0.5}
    )
    assert not mistakes
    unknown = wishes(mistakes, vector=["angle=nan"])
    assert not unknown.swept and unknown.count(0) == 16
    assert isinstance(unknown.each(16)["vector"]["angle"], float) and not mistakes
    wishes(mistakes, vector=["angle=nan:3"])
    assert len(mistakes) == 1 and "as in angle=0:90" in mistakes[0]


def test_all_of_a_models_own_sampling_is_told(run: Any, tmp_path: Path) -> None:
    plain = Config((1, 8, 8), NET, Linear(), Flow(), Plain(), Pixels(), ("cat", "dog"), sampling=Sampling(Heun(), 2))
    own = Sampling(Heun(), 2, 3.0, True, Karras(), VE(), Apg(), (0.3, 5.0))
    for name, sampling in (("plain", plain.sampling), ("own", own)):
        config = replace(plain, sampling=sampling)
        save_model(config, config.network().state_dict(), tmp_path / name)
    said = {
        name: next(x for x in run("info", name).splitlines() if x.split()[:1] == ["sampling"])
        for name in ("plain", "own")
    }
    assert said["plain"].endswith(f"{Heun()}, 2 steps, guidance 1")
    how = f"guidance 3, {Apg()}, guided for sigma/alpha from 0.3 to 5, {Karras()}, along {VE()}, clipped"
    assert said["own"].endswith(how)


def test_words_stand_where_they_belong() -> None:
    """Above columns where they go round, below each where they do not, once where all are one."""
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), dtype=np.uint8)
    plain = Samples(array, (), {})
    for words, want in (
        (("a b", "c d") * 3, grid(array, 2, labels=["a b", "c d"], scale=12)),
        (tuple("aabbcc"), grid(array, 3, captions=tuple("aabbcc"))),
        (tuple("abcdef"), grid(array, 3, captions=tuple("abcdef"))),
        (("the same",) * 6, grid(array, 3, title="the same")),
        ((), grid(array, 3)),
    ):
        assert (np.asarray(sheet(replace(plain, captions=words))) == np.asarray(want)).all()
    labelled = replace(plain, labels=("x",) * 6, captions=("x",) * 6)
    assert (np.asarray(sheet(labelled)) == np.asarray(grid(array, 3))).all()
