"""Models of latents: all that is done with a model of pixels is done with one of latents, in pixels."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import inkwash
from inkwash import checkpoint
from inkwash.cli import main
from inkwash.cli.info import _codec
from inkwash.codec import LatentCodec, Latents, Pixels
from inkwash.edit import Fill, Vary
from inkwash.editing import as_kept, encoded, read_mask, read_picture
from inkwash.evaluation import measure, read_records
from inkwash.evaluation.card import write_card
from inkwash.evaluation.sweep import adopt
from inkwash.gallery import Trace, forward_strip
from inkwash.model import Plain
from inkwash.modelfolder import Config, load_model, load_own_codec, load_whole, read_config, save_model
from inkwash.nets import PRESETS, KLAutoencoder, UNet
from inkwash.noise import Philox, Stream
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline
from inkwash.samplers import Ddim, Heun
from inkwash.sampling import Sampling
from inkwash.targets import Flow

SIDE, FACTOR = 32, 4


def codec() -> LatentCodec:
    """An f4 codec with random weights whose pictures have many colours."""
    torch.manual_seed(0)
    net = KLAutoencoder(3, 4, (8, 8, 16), groups=2)
    module = net.build()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape))
        module.decoder.last.weight.mul_(3)  # type: ignore[union-attr,operator]
    u = torch.from_numpy(photos(8))
    return Latents(net, (0.0,) * 4, (1.0,) * 4, "f" * 64).bind(module.state_dict()).measured([u])


def photos(n: int, side: int = SIDE) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, side // 4, side // 4, 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)


def made(bound: LatentCodec, **changes: Any) -> tuple[Config, Any]:
    settings: dict[str, Any] = {
        "shape": (4, SIDE // FACTOR, SIDE // FACTOR),
        "net": UNet("tiny", patch=1, widths=(16, 16), depth=1),
        "path": Linear(),
        "target": Flow(),
        "inputs": Plain(),
        "codec": bound.config,
        "classes": ("cat", "dog"),
        "sampling": Sampling(Heun(), steps=3),
        "data": "photos",
    }
    config = Config(**settings | changes)
    torch.manual_seed(1)
    model = config.build()
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return config, model


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """runs/photos/model, of 8x8 latents of 32x32 pictures; photos.npy, photo.png, mask.png."""
    here = tmp_path_factory.mktemp("latents")
    bound = codec()
    config, model = made(bound)
    save_model(config, model.net.state_dict(), here / "runs/photos/model", codec=bound)
    (here / "runs/photos/recipe.toml").write_text('[data]\nsource = "photos.npy"\nval_fraction = 0.5\n')
    np.save(here / "photos.npy", photos(32))
    Image.fromarray(photos(2)[1]).save(here / "photo.png")
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, 17:] = 255
    Image.fromarray(mask).save(here / "mask.png")
    return here


@pytest.fixture
def pipe(place: Path) -> Pipeline:
    return inkwash.load(place / "runs/photos", device="cpu")


def test_pictures_of_another_size_come_from_latents_of_another_size(pipe: Pipeline) -> None:
    seen: list[torch.Tensor] = []
    drawn = pipe(2, size=(24, 48), seed=3, trace=lambda q, a: seen.append(q.x))
    assert (drawn.array.shape, drawn.settings["size"]) == ((2, 24, 48, 3), [24, 48])
    assert torch.equal(seen[0], Philox(3, torch.arange(2))(torch.empty(2, 4, 6, 12), 0, Stream.START))
    assert "size" not in pipe(1, size=SIDE).settings
    with pytest.raises(ValueError, match=r"multiples of 8, for example \(32, 24\)"):  # 4 of the codec, 2 of the net
        pipe(1, size=(36, 24))


def test_the_folder_is_all_a_model_needs(place: Path, pipe: Pipeline, tmp_path: Path) -> None:
    folder = place / "runs/photos/model"
    manifest = json.loads((folder / checkpoint.MANIFEST).read_text())
    assert {"config.json", "model.safetensors", "codec/codec.safetensors"} <= manifest["files"].keys()
    config, model, bound = load_whole(folder)
    assert config == pipe.config and config.codec == codec().config and config.pictures == (3, SIDE, SIDE)
    u = torch.from_numpy(photos(2))
    assert torch.equal(bound.encode(u), codec().encode(u))
    with pytest.raises(ValueError, match="needs the weights of its autoencoder"):
        Pipeline(config, model, torch.device("cpu"))
    with pytest.raises(ValueError, match="needs the weights"):
        save_model(config, model.net.state_dict(), tmp_path / "bare")
    strange = replace(codec(), config=replace(codec().config, std=(2.0,) * 4))
    with pytest.raises(ValueError, match="is to be saved with Latents"):
        save_model(config, model.net.state_dict(), tmp_path / "strange", codec=strange)
    assert not list(tmp_path.iterdir())
    card = (folder / "README.md").read_text()
    assert "examples of shape 3 x 32 x 32" in card and "Latents of shape 4 x 8 x 8" in card


def test_a_model_without_its_codec_s_weights_is_damaged(place: Path, tmp_path: Path) -> None:
    saved = checkpoint.load(place / "runs/photos/model")
    model = {"model": saved.tensors["model"]}
    checkpoint.publish(tmp_path / "bare", model, saved.texts)
    with pytest.raises(checkpoint.CheckpointError, match="is damaged: A codec of latents needs the weights"):
        load_model(tmp_path / "bare")
    checkpoint.publish(tmp_path / "cut", model | {"codec/codec": saved.tensors["codec/codec"]}, saved.texts)
    file = tmp_path / "cut/codec/codec.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    with pytest.raises(checkpoint.CheckpointError, match=r"codec/codec\.safetensors was altered"):
        inkwash.load(tmp_path / "cut")


def test_latents_beyond_1_are_not_clipped(place: Path) -> None:
    with pytest.raises(ValueError, match=r"sampling\.clip keeps x0 within \[-1, 1\], the range of pixels"):
        made(codec(), sampling=Sampling(clip=True))
    table = json.loads((place / "runs/photos/model/config.json").read_text())
    assert table["format"] == 1 and table["codec"]["kind"] == "latents"


def test_pictures_are_what_the_codec_decodes_and_depend_on_nothing_else(pipe: Pipeline) -> None:
    last: list[Tensor] = []
    drawn = pipe(5, seed=3, sampler=Ddim(), steps=2, trace=lambda q, a: last.append(a.x0))
    assert drawn.array.shape == (5, SIDE, SIDE, 3) and drawn.array.dtype == np.uint8 and drawn.array.std() > 5
    assert last[0].shape == (5, 4, 8, 8)
    assert np.array_equal(drawn.array, pipe.codec.decode(last[-1]).numpy())  # ddim's last step goes to x0 itself
    assert np.array_equal(drawn.pictures(), drawn.array) and drawn[0].size == (SIDE, SIDE)
    for n, first, batch in ((1, 0, 128), (2, 3, 128), (5, 0, 2), (3, 1, 1)):
        some = pipe(n, label=[("cat", "dog")[(first + i) % 2] for i in range(n)], seed=3, sampler=Ddim(), steps=2,
                    first=first, batch_size=batch)  # fmt: skip
        assert np.array_equal(some.array, drawn.array[first : first + n]), (n, first, batch)


def test_what_is_seen_on_the_way_is_decoded(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = Trace(limit=2)
    samples = pipe(2, trace=trace)
    frames = trace.frames(samples)
    assert len(frames) == len(trace.t) + 1
    shown: list[np.ndarray] = []
    monkeypatch.setattr("inkwash.gallery.pictures.strip", lambda array, captions: shown.append(array))
    forward_strip(photos(1)[0], pipe.codec, pipe.model.path, [0.0, 1.0], ["t = 0", "t = 1"])
    clean = pipe.codec.decode(pipe.codec.encode(torch.from_numpy(photos(1))))
    noise = Philox(0, torch.zeros(1, dtype=torch.int64))(torch.empty(1, 4, 8, 8), 0, Stream.EPS)
    assert np.array_equal(shown[0], torch.cat([clean, pipe.codec.decode(noise)]).numpy())


def test_image_to_image_starts_from_the_picture_s_latent(pipe: Pipeline, place: Path) -> None:
    x0 = read_picture(str(place / "photo.png"), pipe.config)
    assert x0.shape == (1, 3, SIDE, SIDE)
    u = Pixels().decode(x0)
    assert np.array_equal(u[0].numpy(), photos(2)[1])
    z = encoded(pipe, x0)
    assert torch.equal(z, pipe.codec.encode(u))
    rebuilt = pipe.codec.decode(z).numpy().astype(int)
    nearly = pipe(1, edit=Vary(z, 0.002), label="cat").array
    assert np.abs(nearly - rebuilt).mean() < 2 < np.abs(pipe(1, label="cat").array - rebuilt).mean()
    pixels = Pipeline(*made_of_pixels(), torch.device("cpu"))
    assert encoded(pixels, x0) is x0


def test_a_picture_in_place_of_its_latent_is_refused(pipe: Pipeline) -> None:
    x0 = torch.zeros(1, 3, SIDE, SIDE)
    for edit in (Vary(x0), Fill(x0, torch.ones(1, 1, 1, 1))):
        with pytest.raises(
            ValueError, match=r"x0 is a picture \[3, 32, 32\], and this model diffuses latents \[4, 8, 8\]"
        ):
            pipe(1, edit=edit)


def test_what_the_guide_shows_is_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    guide = (Path(__file__).parents[1] / "docs/latents.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", guide, re.DOTALL)[:3]:
        exec(code, names)
    assert names["back"].shape == (2, SIDE, SIDE, 3) and names["varied"].array.shape == (4, SIDE, SIDE, 3)
    assert inkwash.load_codec("my-codec").config.mean == names["codec"].config.mean
    counts = {f: sum(p.numel() for p in PRESETS[f].build().parameters()) / 1e6 for f in PRESETS}
    assert {f: round(n, 1) for f, n in counts.items()} == {"f4": 2.7, "f8": 3.9}  # the guide's table


def made_of_pixels() -> tuple[Config, Any]:
    return made(codec(), shape=(3, SIDE, SIDE), codec=Pixels())


def test_a_latent_is_kept_where_all_its_pixels_are_known(pipe: Pipeline, place: Path) -> None:
    known = read_mask(place / "mask.png", pipe.config)
    assert known.shape == (1, 1, SIDE, SIDE) and float(known.mean()) == 17 / 32
    kept, shown = as_kept(pipe, known)
    assert kept.shape == (1, 1, 8, 8) and kept[0, 0, 0].tolist() == [1.0] * 4 + [0.0] * 4  # 17 = 4 squares and a bit
    assert shown.shape == known.shape and shown[0, 0, 5].tolist() == [1.0] * 16 + [0.0] * 16
    partial = torch.ones(1, 1, SIDE, SIDE)
    partial[0, 0, 9, 22] = 0.25
    kept, _ = as_kept(pipe, partial)
    assert float(kept[0, 0, 2, 5]) == 0.25 and float(kept.sum()) == 64 - 0.75
    pixels = Pipeline(*made_of_pixels(), torch.device("cpu"))
    assert all(m is partial for m in as_kept(pixels, partial))
    z = encoded(pipe, read_picture(str(place / "photo.png"), pipe.config))
    ends: list[Tensor] = []
    pipe(1, edit=Fill(z, as_kept(pipe, known)[0]), sampler=Ddim(), steps=3, trace=lambda q, a: ends.append(a.x0))
    torch.testing.assert_close(ends[-1][..., :4], z[..., :4])
    assert float((ends[-1] - z)[..., 4:].abs().min()) > 0


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run a command line beside the model: (status, out and err)."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("INKWASH_CACHE", str(place / "cache"))
    monkeypatch.setenv("INKWASH_DEBUG", "")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def command(*args: Any) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in args])
        said = capsys.readouterr()
        return int(left.value.code or 0), said.out + said.err

    return command


@pytest.mark.parametrize(
    "line",
    [
        "sample {run} -n 3 --out a/s.png --gif a/s.gif --npy a/s.npy",
        "compare {run} --sampler heun,ddim --steps 1,2 -n 2 --out a/c.png",
        "edit {run} photo.png --strength 0.4 -n 2 --out a/v.png",
        "edit {run} photo.png --mask mask.png -n 1 --steps 2 --out a/m.png",
        "edit {run} photos.npy:3 --invert --label cat --steps 2 --out a/i.png",
        "interpolate {run} photo.png photos.npy:1 -n 3 --steps 2 --out a/p.png",
        "info {run}",
    ],
)
def test_commands_take_a_model_of_latents(run: Any, line: str) -> None:
    status, said = run(*line.format(run="runs/photos").split())
    assert status == 0, said
    if line.startswith("sample"):
        assert np.load("a/s.npy").shape == (3, SIDE, SIDE, 3)
    if line.startswith("info"):
        assert "3 x 32 x 32 (channels x height x width)" in said and "latents of 4 x 8 x 8, each" in said
    if "--out" in line:
        with Image.open(re.search(r"--out (\S+)", line)[1]) as drawn:  # type: ignore[index]
            assert drawn.width > 2 * SIDE


def test_a_scaling_that_is_the_same_for_all_channels_is_not_called_standardised() -> None:
    bound = codec()
    assert "4 x 8 x 8, each channel standardised" in _codec(made(bound)[0])
    preset = replace(bound.config, mean=(0.5,) * 4, std=(4.0,) * 4)
    assert "all channels shifted by 0.5 and divided by 4:" in _codec(made(bound, codec=preset)[0])


def test_measurements_in_pixels_and_densities_are_refused(run: Any, pipe: Pipeline) -> None:
    for edit in ("--deblur=1.5", "--enlarge=2"):
        status, said = run("edit", "runs/photos", "photo.png", edit)
        assert status != 0 and "needs a model of pixels; this one is of latents" in " ".join(said.split())
    from inkwash.data import DataSpec, load

    with pytest.raises(ValueError, match="A model of latents has no density of pictures"):
        measure(pipe, load(DataSpec("photos.npy")), 2)
    status, said = run("likelihood", "runs/photos", "-n", "2", "--split", "val")
    assert status != 0 and "has no density of pictures" in " ".join(said.split())
    status, said = run("eval", "runs/photos", "--features", "raw", "-n", "16", "--split", "val", "--bits", "2")
    assert status != 0 and "has no density of pictures" in " ".join(said.split())
    assert not Path("runs/photos/evaluation").exists()  # told before anything is drawn


def test_pictures_are_measured_in_pixels_and_the_card_is_written_with_the_codec_in_place(run: Any, place: Path) -> None:
    before = load_own_codec(place / "runs/photos/model", read_config(place / "runs/photos/model")).weights
    status, said = run("eval", "runs/photos", "--features", "raw", "-n", "16", "--split", "val", "--steps", "1",
                       "--measures", "kid,spectrum")  # fmt: skip
    assert status == 0, said
    assert [r.measure.name for r in read_records(Path("runs/photos/evaluation"))] == ["kid", "spectrum"]
    drawn = next(Path("runs/photos/evaluation").rglob("pictures.bin"))
    assert drawn.stat().st_size == 16 * SIDE * SIDE * 3  # 8-bit pictures, not latents
    folder = place / "runs/photos/model"
    assert "| spectrum |" in (folder / "README.md").read_text()
    config = read_config(folder)
    assert {k: v.tolist() for k, v in load_own_codec(folder, config).weights.items()} == {
        k: v.tolist() for k, v in before.items()
    }
    adopt("runs/photos", Sampling(Ddim(), steps=2))
    assert write_card("runs/photos") == ""
    assert inkwash.load("runs/photos", device="cpu")(1, label="cat").settings["sampler"]["kind"] == "ddim"
