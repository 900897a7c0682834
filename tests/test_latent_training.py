"""Training in latents: they are encoded once, as the codec encodes them, and a run in them is like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import inkwash
from inkwash import checkpoint
from inkwash.codec import LatentCodec, Latents, Pixels
from inkwash.codecfolder import load_codec, save_codec, to_diffusers
from inkwash.conditions import LowResolution
from inkwash.data import Dataset, DataSpec, Stream, flips, load, order, split
from inkwash.data.latents import latents
from inkwash.data.mix import mix
from inkwash.evaluation.frechet import frechet, moments
from inkwash.kinds import from_table
from inkwash.nets import AnyNet
from inkwash.nets.autoencoder import KLAutoencoder
from inkwash.recipes import InLatents, Recipe, RecipeError, read_recipe, write_recipe
from inkwash.sampling import Sampling
from inkwash.training import plan
from inkwash.training.run import read_metrics
from inkwash.training.setup import set_up
from tinyruns import assert_same, finish, losses, recipe, state

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pictures(n: int = 70, *, flip: bool = True, side: int = 8) -> Dataset:
    images = (mix(np.arange(n * side * side * 3), 3) >> np.uint64(56)).astype(np.uint8).reshape(n, side, side, 3)
    return Dataset("some/pictures", images, np.arange(n) % 2, ("a", "b"), None, "f" * 64, True, flip)


def corner(u: np.ndarray) -> np.ndarray:
    """Not symmetric: what is left of a pair counts double."""
    x = u.astype(np.float32) / 255
    return 2 * x[:, ::2, ::2, :2] + x[:, ::2, 1::2, :2]


# The cache


def test_what_is_cached_is_what_the_codec_gives_for_both_orientations(own_cache: Path) -> None:
    data = pictures()
    told: list[tuple[str, int, int]] = []
    found = latents(data, corner, "k", progress=lambda *said: told.append(said))
    np.testing.assert_array_equal(found.images, corner(data.images).astype(np.float16))
    assert found.mirrored is not None
    np.testing.assert_array_equal(found.mirrored, corner(data.images[:, :, ::-1]).astype(np.float16))
    assert (found.mirrored != found.images[:, :, ::-1]).any()
    assert found.shape == (2, 4, 4)
    assert (found.name, found.classes, found.flip) == (data.name, data.classes, True)
    assert told[-1] == ("Encoding", 140, 140)
    assert [done for _, done, _ in told] == [32, 64, 70, 102, 134, 140]
    assert [p.name for p in (own_cache / "latents").iterdir() if not p.name.startswith(".lock")] == [found.folder.name]


def test_a_stream_of_latents_takes_the_mirrored_ones_where_pictures_are_mirrored() -> None:
    data = pictures()
    found = latents(data, corner, "k")
    k = np.arange(140)
    rows, same = Stream(found, seed=5).rows(k), Stream(data, seed=5).rows(k)
    np.testing.assert_array_equal(rows.images, corner(same.images).astype(np.float16))
    np.testing.assert_array_equal(rows.labels, same.labels)
    index = np.concatenate([order(5, e, 70) for e in (0, 1)])
    mirrored = np.concatenate([flips(5, e, order(5, e, 70)) for e in (0, 1)])
    assert 40 < mirrored.sum() < 100
    np.testing.assert_array_equal(rows.images[mirrored], found.mirrored[index[mirrored]])


def test_the_cache_is_found_again_by_data_key_and_flips_alone() -> None:
    data, calls = pictures(), []

    def counting(u: np.ndarray) -> np.ndarray:
        calls.append(len(u))
        return corner(u)

    first = latents(data, counting, "k")
    made = len(calls)
    again = latents(replace(data, images=data.images[:, ::-1], notes=("other",)), counting, "k")
    assert len(calls) == made
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.images, first.images)
    plain = latents(replace(data, flip=False), counting, "k")
    assert plain.mirrored is None
    moved = latents(data, counting, "k", layout="other")
    others = [latents(data, counting, "other"), latents(replace(data, fingerprint="0" * 64), counting, "k")]
    assert len({f.folder for f in (first, plain, moved, *others)}) == 5
    assert {plain.fingerprint, moved.fingerprint} == {first.fingerprint}  # how they are kept is not what they are
    assert len({first.fingerprint, *(o.fingerprint for o in others)}) == 3


def test_a_later_layout_of_the_cache_makes_no_run_unresumable(monkeypatch: pytest.MonkeyPatch) -> None:
    first = latents(pictures(), corner, "k")
    monkeypatch.setattr("inkwash.data.latents.FORMAT", 2)
    monkeypatch.setattr("inkwash.data.latents.CHUNK", 16)
    later = latents(pictures(), corner, "k")
    assert later.folder != first.folder
    assert later.fingerprint == first.fingerprint


def test_where_locks_fail_no_two_builds_share_a_folder(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def unlocked(path: Path) -> Iterator[bool]:
        yield False

    monkeypatch.setattr("inkwash.data.cache._locked", unlocked)
    data = pictures()

    def interrupted(u: np.ndarray) -> np.ndarray:
        if len(list((own_cache / "latents").iterdir())) == 1:  # another process begins, and ends, in the middle
            latents(data, corner, "k")
        return corner(u)

    found = latents(data, interrupted, "k")
    np.testing.assert_array_equal(found.images, corner(data.images).astype(np.float16))
    assert [p.name for p in (own_cache / "latents").iterdir()] == [found.folder.name]


def test_a_build_that_was_killed_goes_on_where_it_was(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkwash.data.latents._SYNC_EVERY", 1)
    data = pictures()
    seen: list[int] = []

    def killed_at(chunk: int) -> Callable[[np.ndarray], np.ndarray]:
        def encode(u: np.ndarray) -> np.ndarray:
            seen.append(len(u))
            if len(seen) == chunk:
                raise KeyboardInterrupt
            return corner(u)

        return encode

    with pytest.raises(KeyboardInterrupt):
        latents(data, killed_at(6), "k")  # in the last chunk of the mirrored ones
    seen.clear()
    found = latents(data, killed_at(0), "k")
    np.testing.assert_array_equal(found.images, corner(data.images).astype(np.float16))
    np.testing.assert_array_equal(found.mirrored, corner(data.images[:, :, ::-1]).astype(np.float16))
    assert seen == [32, 32, 6]  # one of each orientation for the shape, and what was missing
    assert not list((own_cache / "latents").glob(".partial-*"))
    (found.folder / "latents.bin").write_bytes(b"cut short")
    np.testing.assert_array_equal(latents(data, corner, "k").images, corner(data.images).astype(np.float16))


def test_latents_that_float16_cannot_hold_and_data_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Latents of pictures 0 to 31 of some/pictures are not finite in float16"):
        latents(pictures(), lambda u: corner(u) * 1e5, "k")
    with pytest.raises(ValueError, match="holds vectors"):
        latents(replace(pictures(), images=np.zeros((4, 3), np.float32)), corner, "k")
    with pytest.raises(ValueError, match="holds pictures of float32"):
        latents(replace(pictures(), images=np.zeros((4, 3, 3, 1), np.float32)), corner, "k")


# A run


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """A codec of untrained weights, of statistics that are not 0 and 1, in a run's folder."""
    torch.manual_seed(0)
    net = KLAutoencoder(widths=(8, 16), groups=1, attention=False, channels=1)
    bound = Latents(net, (0.1, -0.2, 0.3, 0.0), (0.5, 0.25, 1.0, 2.0)).bind(net.build().state_dict())
    save_codec(bound, tmp_path / "codec-run" / "codec", data="shapes")
    return tmp_path / "codec-run"


def latent_recipe(codec: Path, **tables: dict[str, Any]) -> Recipe:
    data = {"source": "shapes", "limit": 40, "size": 16, "channels": 1, "flip": True}
    return recipe(
        codec={"folder": str(codec)},
        data=data | tables.pop("data", {}),
        net={"kind": "unet", "preset": "tiny", "widths": [16], "patch": 1, "depth": 1, "dropout": 0.1},
        **tables,
    )


def test_a_run_s_model_draws_pictures_with_a_codec_of_its_own(tmp_path: Path, codec: Path) -> None:
    finish(latent_recipe(codec), tmp_path / "run")
    bound = load_codec(codec)
    shutil.rmtree(codec)
    pipe = inkwash.load(tmp_path / "run")
    assert (pipe.config.shape, pipe.config.pictures) == ((4, 8, 8), (1, 16, 16))
    assert_same(dict(pipe.codec.weights), dict(bound.weights))
    assert pipe.config.codec.std == (0.5, 0.25, 1.0, 2.0)
    assert pipe(3, steps=2).array.shape == (3, 16, 16, 1)


def test_batches_are_the_standardised_latents_of_the_stream_s_pictures(codec: Path) -> None:
    r = latent_recipe(codec)
    setup = set_up(r, load(r.data))
    k = np.arange(24)
    rows, plain = Stream(setup.dataset, 0).rows(k), Stream(setup.pictures, 0).rows(k)
    batch = setup.batch(rows, torch.arange(24))
    expected = load_codec(codec).encode(torch.from_numpy(plain.images))
    torch.testing.assert_close(batch.x0, expected, atol=2e-3, rtol=1e-3)  # float16
    assert batch.bin is None
    of_all = np.asarray(setup.dataset.images, np.float32).std()
    assert setup.config.inputs.data_std == pytest.approx(of_all, abs=1e-3)


@pytest.mark.parametrize("task", ["lowres", "masked", "paired"])
def test_a_picture_that_is_shown_goes_through_the_same_codec(codec: Path, task: str) -> None:
    """Mirrored where its picture is, from the cache, and the same where a dry run encodes it at once."""
    tables = {"conditions": {"image": {"task": task}}}
    pairs = {"pairs": "elsewhere"} if task == "paired" else {}
    r = latent_recipe(codec, data=pairs, **tables)
    data = load(replace(r.data, pairs=None))
    data = replace(data, shown=255 - data.images)  # partners are for models that translate
    setup, dry = set_up(r, data), set_up(r, data, dry=True)
    k = np.arange(48)
    rows, plain = Stream(setup.dataset, 0).rows(k), Stream(setup.pictures, 0).rows(k)
    cond = setup.batch(rows, torch.arange(48)).cond
    shown = {"lowres": LowResolution().show(plain.images), "masked": plain.images, "paired": plain.shown}[task]
    want = load_codec(codec).encode(torch.from_numpy(np.ascontiguousarray(shown)))
    assert cond.image is not None and (task == "masked") == bool(cond.image.isnan().any())
    close = {"atol": 2e-3, "rtol": 1e-3}  # float16
    torch.testing.assert_close(cond.image.nan_to_num(), want.masked_fill(cond.image.isnan(), 0), **close)
    here, there = (s.batch(s.dataset.take(np.arange(8)), torch.arange(8)).cond.image for s in (setup, dry))
    torch.testing.assert_close(here, there, equal_nan=True, **close)


def test_a_resumed_latent_run_is_the_run_that_was_never_stopped(tmp_path: Path, codec: Path) -> None:
    r = latent_recipe(codec, train={"steps": 6, "checkpoint_every": 3}, data={"val_fraction": 0.3})
    finish(r, tmp_path / "whole")
    asked = iter([False, False, False, True])
    finish(r, tmp_path / "parts", stop=lambda: next(asked))
    assert checkpoint.newest_good(tmp_path / "parts" / "checkpoints")[0].name == "step-3"
    finish(r, resume=tmp_path / "parts")
    assert_same(state(tmp_path / "whole/checkpoints/step-6"), state(tmp_path / "parts/checkpoints/step-6"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert_same(*(dict(load_codec(tmp_path / run).weights) for run in ("whole", "parts")))


def test_a_run_never_encodes_a_picture_again(tmp_path: Path, codec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    r = latent_recipe(codec, data={"val_fraction": 0.3})
    set_up(r, load(r.data))

    def refuse(self: LatentCodec, u: torch.Tensor) -> torch.Tensor:
        raise AssertionError("encoded again")

    monkeypatch.setattr(LatentCodec, "encode", refuse)
    assert finish(r, tmp_path / "run")[-1].done
    seen = [m for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if "validation" in m]
    assert len(seen) == 1


def test_another_codec_is_refused_on_resume_and_the_same_one_elsewhere_is_not(tmp_path: Path, codec: Path) -> None:
    r = latent_recipe(codec, train={"steps": 2})
    finish(r, tmp_path / "run")
    stated = read_recipe(tmp_path / "run" / "recipe.toml").codec
    assert stated is not None
    assert stated.folder == str(codec)
    longer = replace(r, train=replace(r.train, steps=3))
    elsewhere = replace(longer, codec=replace(r.codec, folder=str(tmp_path / "run" / "model")))
    assert finish(elsewhere, resume=tmp_path / "run")[-1].step == 3
    assert read_recipe(tmp_path / "run" / "recipe.toml").codec.sha256 == stated.sha256
    # Other statistics alone make another codec; so does one weight.
    bound = load_codec(codec)
    weights = {name: value.clone() for name, value in bound.weights.items()}
    weights["encoder.first.bias"][0] += 1
    others = {
        "statistics": replace(bound, config=replace(bound.config, mean=(0.0, 0.0, 0.0, 0.0))),
        "weight": replace(bound.config, sha256="").bind(weights),
    }
    for name, other in others.items():
        save_codec(other, tmp_path / name)
        with pytest.raises(ValueError, match="is not the one this run was begun with"):
            finish(replace(longer, codec=replace(r.codec, folder=str(tmp_path / name))), resume=tmp_path / "run")
    shutil.rmtree(codec)
    with pytest.raises(ValueError, match=r"No codec in .*there is no such folder\. .* go on with --codec RUN/model"):
        finish(resume=tmp_path / "run", r=replace(longer, codec=r.codec))
    plain = recipe(train={"steps": 1})
    finish(plain, tmp_path / "pixels")
    with pytest.raises(RecipeError, match=r"codec.folder: None -> '.*codec-run'"):
        finish(replace(plain, codec=r.codec), resume=tmp_path / "pixels")


def test_a_codec_that_does_not_fit_is_told_before_anything_is_encoded(
    codec: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(LatentCodec, "_latents", lambda *_: pytest.fail("encoded"))
    deep = {"kind": "unet", "widths": (16, 16), "patch": 8}
    finish(recipe(train={"steps": 1}), tmp_path / "pixels")
    guided = {"method": "heun", "steps": 2, "guidance": 2.0}
    plain = latent_recipe(codec)
    for r, why in [
        (latent_recipe(codec, data={"channels": 3}), "set data.channels = 1"),
        (latent_recipe(codec, data={"size": 15}), "15x15 have no latents 2 times smaller"),
        (replace(latent_recipe(codec), data=DataSpec("swiss-roll")), "for pictures, not for vectors of 2"),
        (
            replace(plain, net=from_table(AnyNet, deep)),
            "Pictures of 16x16 have latents of 8x8, and these .* data.size = 32 gives latents of 16x16, which do",
        ),
        (latent_recipe(codec, train={"init_from": str(tmp_path / "pixels")}), "pixels is not of latents, and this run"),
        (latent_recipe(codec, train={"init_from": str(tmp_path / "x")}), "No model in .*x: there is no such folder"),
        (latent_recipe(tmp_path / "nowhere"), "No codec in .*nowhere"),
    ]:
        with pytest.raises(ValueError, match=why):
            set_up(r, load(r.data))
    unnamed = replace(load(plain.data), labels=None, classes=())
    with pytest.raises(ValueError, match=r"sampler\.guidance = 2.0 needs classes"):
        set_up(replace(plain, sampler=from_table(Sampling, guided)), unnamed)


def test_settings_of_pixels_are_refused_for_latents() -> None:
    tables = {"data": {"source": "x"}, "codec": {"folder": "c"}, "path": "ve"}
    for more, why in [
        ({"target": "edm"}, r"target.data_std = 0.5, and latents have deviation 1 in every channel. Use data_std = 1"),
        ({"inputs": "unit-variance"}, r"inputs.data_std = 0.5"),
        ({"objective": {"weight": "edm", "times": "log-normal-noise"}}, r"objective.weight.data_std = 0.5"),
        ({"sampler": {"clip": True}}, r"sampler.clip keeps x0 in"),
    ]:
        more = {"target": {"kind": "edm", "data_std": 1.0}, "sampler": {"grid": "karras"}} | more
        more.setdefault("objective", {"times": "log-normal-noise"})
        more["sampler"] = {"grid": "karras"} | more["sampler"]
        with pytest.raises(RecipeError, match=why):
            read_recipe(tables | more)
        read_recipe({k: v for k, v in (tables | more).items() if k != "codec"})
    said = {"target": {"kind": "edm", "data_std": 1.0}, "objective": {"times": "log-normal-noise"}}
    assert read_recipe(tables | said | {"sampler": {"grid": "karras"}}).target.data_std == 1


def test_a_model_to_start_from_is_of_the_same_latents(tmp_path: Path, codec: Path) -> None:
    finish(latent_recipe(codec, train={"steps": 1}), tmp_path / "first")
    start = {"init_from": str(tmp_path / "first"), "steps": 1}
    assert finish(latent_recipe(codec, train=start), tmp_path / "second")[-1].done
    bound = load_codec(codec)
    weights = {name: value.clone() for name, value in bound.weights.items()}
    weights["encoder.first.bias"][0] += 1
    save_codec(replace(bound, config=replace(bound.config, std=(0.5, 0.25, 1.0, 2.5))), tmp_path / "statistics")
    save_codec(replace(bound.config, sha256="").bind(weights), tmp_path / "weight")
    for other in ("statistics", "weight"):
        r = latent_recipe(tmp_path / other, train=start)
        with pytest.raises(ValueError, match=r"first is a model of the latents of another codec.*--codec .*first\."):
            set_up(r, load(r.data))
    pixels = replace(latent_recipe(codec, train=start), codec=None)
    with pytest.raises(ValueError, match=r"is of latents, and this run is not\. Add --codec .*first\."):
        set_up(pixels, load(pixels.data))


def test_a_codec_of_published_statistics_is_measured_on_the_data_once(
    tmp_path: Path, codec: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of diffusers' is loaded: one scale for all channels, of other people's pictures."""
    config, weights = to_diffusers_plain(load_codec(codec))
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    r = latent_recipe(folder, data={"val_fraction": 0.3}, train={"steps": 3})
    assert plan(r).latent == (4, 8, 8)
    assert not (tmp_path / "cache" / "latents").exists()
    finish(r, tmp_path / "run")
    found = load_codec(tmp_path / "run").config
    data = load(r.data)
    mine, _ = split(data, 0.3, 0)
    z = load_codec(folder).net.encode(Pixels().encode(torch.from_numpy(data.images[mine]))).mean.double()
    np.testing.assert_allclose(found.mean, z.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(found.std, z.std((0, 2, 3), correction=0), rtol=1e-3)
    assert inkwash.load(tmp_path / "run").config.inputs.data_std == pytest.approx(1.0, abs=0.1)
    stated = read_recipe(tmp_path / "run" / "recipe.toml").codec
    assert (stated.mean, stated.std) == (found.mean, found.std)
    # Going on measures nothing, wherever the codec is; nor does a run that starts from this one.
    monkeypatch.setattr(LatentCodec, "measured", lambda *_: pytest.fail("measured again"))
    longer = replace(r, train=replace(r.train, steps=4))
    assert finish(longer, resume=tmp_path / "run")[-1].step == 4
    assert load_codec(tmp_path / "run").config == found
    elsewhere = replace(longer, codec=InLatents(str(tmp_path / "run")), train=replace(r.train, steps=5))
    assert finish(elsewhere, resume=tmp_path / "run")[-1].step == 5
    start = replace(r, train=replace(r.train, init_from=str(tmp_path / "run")))
    assert set_up(replace(start, codec=InLatents(str(tmp_path / "run"))), data).config.codec == found
    with pytest.raises(ValueError, match="of another codec, or of other statistics"):
        set_up(start, data)


def to_diffusers_plain(codec: LatentCodec) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Theirs of the same autoencoder, with their usual scaling in place of what was measured."""
    bare = replace(codec, config=replace(codec.config, mean=(0.0,) * 4, std=(1.0,) * 4))
    config, weights = to_diffusers(bare)
    return config | {"scaling_factor": 0.18215}, {k: v.contiguous() for k, v in weights.items()}


def test_a_run_goes_on_from_another_folder(tmp_path: Path, codec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(codec.parent)
    finish(latent_recipe(Path(codec.name), train={"steps": 1}), tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    old = read_recipe(tmp_path / "run" / "recipe.toml")
    assert finish(replace(old, train=replace(old.train, steps=2)), resume=tmp_path / "run")[-1].step == 2


def test_pictures_of_a_latent_run_are_compared_with_pictures(tmp_path: Path, codec: Path) -> None:
    compare = {"measure": "fd", "measure_every": 3, "measure_n": 16, "features": "raw"}
    r = latent_recipe(codec, data={"val_fraction": 0.5}, evaluation=compare, train={"steps": 3})
    last = finish(r, tmp_path / "run")[-1]
    data = load(r.data)
    held_out = split(data, 0.5, 0)[1]
    real = data.images[held_out[np.linspace(0, len(held_out) - 1, 16).astype(int)]]
    drawn = inkwash.load(tmp_path / "run", chunk=64)(16, seed=0, steps=2).array
    a, b = (moments(x.reshape(16, -1) / np.float32(255)) for x in (drawn, real))
    assert last.figures["fd"] == pytest.approx(frechet(a, b), rel=0.2)  # which of those held out is up to it


def test_what_a_run_in_latents_costs_is_told_without_training_or_writing(codec: Path, own_cache: Path) -> None:
    r = latent_recipe(codec, train={"steps": 5})
    found = plan(r)
    assert (found.shape, found.latent, found.images) == ((1, 16, 16), (4, 8, 8), 40)
    assert not (own_cache / "latents").exists()
    assert plan(replace(r, codec=None)).latent is None
    # A quarter of the places, all of the same work but for the first and the last layer.
    assert found.flops == pytest.approx(plan(replace(r, codec=None)).flops / 4, rel=0.2)


def test_a_recipe_keeps_its_codec() -> None:
    r = read_recipe({"data": {"source": "x", "size": 30}, "codec": {"folder": "c"}})  # 30 is not halved, a latent may
    assert read_recipe({"data": {"source": "x"}}).codec is None
    assert '[codec]\nfolder = "c"\n' in write_recipe(r)
    with pytest.raises(RecipeError, match=r"codec\.foldr is unknown. Did you mean codec.folder"):
        read_recipe({"data": {"source": "x"}, "codec": {"foldr": "c"}})
