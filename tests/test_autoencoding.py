"""Training autoencoders: how pictures are compared, what the critic says, and that a stopped run goes on unchanged."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from inkwash import checkpoint
from inkwash.autoencoding import CodecRecipe, train_codec
from inkwash.autoencoding.discriminator import Adversary, critic_loss, fair_weight, generator_loss
from inkwash.autoencoding.folder import CodecRun
from inkwash.autoencoding.look import look
from inkwash.autoencoding.losses import Loss
from inkwash.autoencoding.recipe import read_codec_recipe, write_codec_recipe
from inkwash.autoencoding.state import State
from inkwash.autoencoding.step import Step, last_layer
from inkwash.codec import LatentCodec, Latents
from inkwash.codecfolder import load_codec, read_codec
from inkwash.data import Dataset, Stream, load, split
from inkwash.data.mix import normal, uniform
from inkwash.features.similarity import C1, C2, SCALES, ms_ssim, scales_for, ssim
from inkwash.nets.autoencoder import Autoencoder, KLAutoencoder, Posterior
from inkwash.optim import Schedule
from inkwash.training import TrainingError
from inkwash.training.run import read_metrics
from tinyruns import assert_same, state

torch.set_num_threads(1)


def pictures(n: int, side: int, seed: int = 0, channels: int = 3) -> Tensor:
    """Smooth pictures in about [-1, 1], with detail at several sizes."""
    places = torch.arange(side) / side
    waves = [torch.sin(2 * math.pi * (k * places[:, None] + (k + 1) * places + k * k)) / k for k in (1, 2, 5, 9)]
    shifts = torch.from_numpy(normal(range(n * channels), seed)).float().reshape(n, channels, 1, 1)
    return (0.4 * sum(waves) * shifts.cos() + 0.2 * shifts).clamp(-1, 1)


def noisy(x: Tensor, amount: float, seed: int = 1) -> Tensor:
    return x + amount * torch.from_numpy(normal(range(x.numel()), seed)).float().reshape(x.shape)


# How alike pictures are


def test_ssim_of_flat_pictures_compares_their_luminance_alone() -> None:
    a, b = 0.3, 0.5
    x, y = torch.full((1, 1, 24, 24), a), torch.full((1, 1, 24, 24), b)
    light = (2 * a * b + C1) / (a * a + b * b + C1)
    assert float(ssim(x, y)) == pytest.approx(light, rel=1e-4)
    assert float(ssim(x, -y)) == pytest.approx((-2 * a * b + C1) / (a * a + b * b + C1), rel=1e-4)
    # The structure is 1 at both scales, and the luminance counts at the coarser alone.
    assert float(ms_ssim(x, y, (0.25, 0.75))) == pytest.approx(light**0.75, rel=1e-4)


def test_ssim_of_a_picture_and_a_paler_one_has_a_closed_form_at_every_window() -> None:
    """y = k·x around mean 0: structure (2k·v + C2)/((1 + k²)v + C2) wherever the variance is v."""
    stripes = torch.ones(1, 1, 12, 12)
    stripes[..., ::2] = -1
    x, y = stripes, 0.5 * stripes
    # The window's weights on even and odd columns are almost equal: mean 0, variance 1.
    assert float(ssim(x, y)) == pytest.approx((2 * 0.5 + C2) / (1 + 0.25 + C2), rel=1e-3)


def test_the_opposite_of_a_picture_is_as_unlike_as_can_be_and_training_survives_it() -> None:
    x = torch.ones(1, 3, 22, 22)
    x[..., ::2] = -1
    y = (-x).requires_grad_()
    assert float(ssim(x, y.detach())) == pytest.approx((C2 - 2) / (C2 + 2), rel=1e-3)
    similarity = ms_ssim(x, y, (0.5,))
    assert float(similarity.detach()) == pytest.approx(1e-2)  # the root of 1e-4, where a negative number has none
    similarity.sum().backward()
    assert y.grad is not None
    assert y.grad.isfinite().all()


def test_both_agree_with_torchmetrics_where_the_window_lies_within_the_picture() -> None:
    """Its own average counts the borders as well, where the window sees the picture reflected."""
    theirs = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    x = pictures(3, 64)
    y = noisy(x, 0.15)
    wide = {"data_range": 2.0, "reduction": "none", "kernel_size": 11, "sigma": 1.5}

    def inner(x: Tensor, y: Tensor) -> Tensor:
        return theirs(x, y, return_full_image=True, **wide)[1][..., 5:-5, 5:-5].flatten(1).mean(1)

    torch.testing.assert_close(ssim(x, y), inner(x, y), atol=2e-5, rtol=0.0)
    fine, middle, coarse = scales_for((64, 64))
    expected = theirs(x, y, return_contrast_sensitivity=True, **wide)[1] ** fine
    x2, y2 = (torch.nn.functional.avg_pool2d(p, 2) for p in (x, y))
    expected = expected * theirs(x2, y2, return_contrast_sensitivity=True, **wide)[1] ** middle
    x3, y3 = (torch.nn.functional.avg_pool2d(p, 2) for p in (x2, y2))
    torch.testing.assert_close(ms_ssim(x, y), expected * inner(x3, y3) ** coarse, atol=2e-5, rtol=0.0)


def test_the_exponents_are_those_published() -> None:
    assert SCALES == (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang, Simoncelli and Bovik 2003, sec. 3.2
    image = pytest.importorskip("torchmetrics.functional.image")
    theirs = image.multiscale_structural_similarity_index_measure
    assert inspect.signature(theirs).parameters["betas"].default == SCALES


@pytest.mark.parametrize(("side", "count"), [(11, 1), (21, 1), (22, 2), (43, 2), (44, 3), (88, 4), (176, 5), (999, 5)])
def test_there_are_as_many_scales_as_the_window_fits_into(side: int, count: int) -> None:
    chosen = scales_for((2 * side, side))
    assert sum(chosen) == pytest.approx(1.0)
    assert chosen == tuple(s / sum(SCALES[:count]) for s in SCALES[:count])


def test_pictures_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(ValueError, match="11 x 11 pixels, and these pictures are 16 x 10"):
        ssim(torch.zeros(1, 1, 10, 16), torch.zeros(1, 1, 10, 16))


# The loss


def test_the_loss_is_the_weighted_sum_of_its_parts() -> None:
    x = pictures(2, 16)
    y = x + 0.1
    posterior = Posterior(torch.full((2, 4, 4, 4), 2.0), torch.full((2, 4, 4, 4), math.log(0.25)))
    loss = Loss(l1=2.0, structure=3.0, kl=0.5)
    parts = loss.parts(x, y, posterior)
    assert float(parts.l1) == pytest.approx(0.1, rel=1e-5)
    assert float(parts.structure) == pytest.approx(1 - float(ms_ssim(x, y).mean()))
    # 64 latent values for 768 of a picture, each (4 + 1/4 - 1 + ln 4)/2 nats away from a standard normal.
    assert float(parts.kl) == pytest.approx(64 / 768 * (4 + 0.25 - 1 + math.log(4)) / 2, rel=1e-5)
    together = 2 * float(parts.l1) + 3 * float(parts.structure) + 0.5 * float(parts.kl)
    assert float(loss(parts)) == pytest.approx(together, rel=1e-6)
    assert float(loss.reconstruction(parts)) == pytest.approx(together - 0.5 * float(parts.kl), rel=1e-6)


@pytest.mark.parametrize("bad", [{"l1": -1.0}, {"kl": math.inf}, {"l1": 0.0, "structure": 0.0}])
def test_losses_that_teach_nothing_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"loss\."):
        Loss(**bad)


# The critic


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, -0.25, 1.0])
    assert float(critic_loss(real, fake)) == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 0.75 + 2) / 3) / 2)
    assert float(generator_loss(fake)) == pytest.approx(2.25 / 3)


def test_the_fair_weight_is_the_ratio_of_the_gradients_at_the_layer() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    reconstruction, adversarial = (torch.tensor([3.0, 4.0]) * w).sum(), (torch.tensor([0.6, 0.8]) * w).sum()
    weight = fair_weight(reconstruction, adversarial, w)
    assert float(weight) == pytest.approx(5 / (1 + 1e-4), rel=1e-6)
    assert not weight.requires_grad
    assert float(fair_weight((w * w).sum() * 1e6, 0 * w.sum(), w)) == 1e4
    (reconstruction + adversarial).backward()  # both graphs are still there
    assert w.grad is not None


@pytest.mark.parametrize(("layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_verdict_is_on_a_patch_of_the_stated_size(layers: int, patch: int) -> None:
    net = Adversary(width=8, layers=layers).build(1)
    for norm in net.norms:  # which look at the whole picture
        norm.forward = lambda x: x
    x = torch.zeros(1, 1, 128, 128, requires_grad=True)
    verdict = net(x)
    verdict[0, 0, verdict.shape[2] // 2, verdict.shape[3] // 2].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].abs().sum(0).nonzero().flatten()
    assert int(seen[-1] - seen[0]) + 1 == patch


def test_a_verdict_does_not_depend_on_the_other_pictures() -> None:
    net = Adversary(width=8).build(3)
    x = pictures(3, 16)
    torch.testing.assert_close(net(x)[:1], net(x[:1]), atol=1e-5, rtol=1e-4)


# Training


def blocks(folder: Path, n: int = 64, side: int = 16) -> Path:
    """Pictures of squares of 4 x 4 pixels, each of a colour of its own, in an array."""
    colours = uniform(range(n * (side // 4) ** 2 * 3), 7).reshape(n, side // 4, side // 4, 3)
    np.save(folder / "blocks.npy", (255 * colours).astype(np.uint8).repeat(4, 1).repeat(4, 2))
    return folder / "blocks.npy"


def tiny(source: Path, **tables: dict[str, Any]) -> CodecRecipe:
    given: dict[str, dict[str, Any]] = {
        "data": {"source": str(source), "val_fraction": 0.2},
        "autoencoder": {"widths": (8, 16), "groups": 1, "attention": False},
        "optim": {"lr": 0.01},
        "train": {"steps": 6, "batch_size": 8, "checkpoint_every": 3, "look_every": 1000, "precision": "fp32"},
    }
    return CodecRecipe.of({name: given.get(name, {}) | tables.get(name, {}) for name in {**given, **tables}})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


def test_an_autoencoder_learns_to_rebuild_colours(tmp_path: Path) -> None:
    r = tiny(
        blocks(tmp_path, n=100),
        autoencoder={"widths": (16, 16)},
        loss={"structure": 0.0},
        optim={"lr": 0.02, "schedule": Schedule(warmup=5)},
        train={"steps": 90, "look_every": 30},
    )
    *_, last = list(train_codec(r, tmp_path / "run"))
    seen = [m for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if "psnr" in m]
    assert [m["step"] for m in seen] == [30, 60, 90]
    assert seen[-1]["psnr"] > max(20, seen[0]["psnr"] + 5)  # 10.8 dB is a picture's mean
    assert last.done
    # The codec that is published is what was measured, and its latents are standard over the pictures trained on.
    codec = load_codec(tmp_path / "run")
    assert read_codec(tmp_path / "run")["measured"]["psnr"] == pytest.approx(seen[-1]["psnr"], abs=1e-6)
    data = load(r.data)
    mine, held_out = split(data, 0.2, 0)
    found = look(codec, data, held_out)
    assert (found.n, found.psnr) == (len(held_out), pytest.approx(seen[-1]["psnr"], abs=1e-6))
    x = codec.encode(torch.from_numpy(np.array(data.images[mine])))
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(4), atol=1e-4, rtol=0.0)
    with Image.open(last.sampled) as sheet:
        assert sheet.width > sheet.height > 100


def test_a_look_compares_as_people_do(tmp_path: Path) -> None:
    """PSNR of all values together, SSIM of each picture, both of what is rounded to 8 bits."""

    class Brighter(Autoencoder):
        def __init__(self) -> None:
            super().__init__()
            self.by = torch.nn.Parameter(torch.zeros(()))

        def encode(self, x: Tensor) -> Posterior:
            return Posterior(x, None)

        def decode(self, z: Tensor) -> Tensor:
            return z + (4 / 127.5 if float(z.max()) < 0 else 0.0) + 0.3 / 127.5  # of grey levels: 4, and a third

    codec = LatentCodec(
        Latents(KLAutoencoder(widths=(8,), groups=1, latent_channels=3), (0.0,) * 3, (1.0,) * 3), Brighter()
    )
    images = np.full((2, 16, 16, 3), 100, np.uint8)
    images[1] = 200
    data = Dataset("flat", images, None, (), None, "", True)
    found = look(codec, data, np.arange(2))
    assert found.psnr == pytest.approx(10 * math.log10(255**2 / (16 / 2)))  # one is 4 levels off, the other 0
    a, b = 100 / 127.5 - 1, 104 / 127.5 - 1
    assert found.ssim == pytest.approx(((2 * a * b + C1) / (a * a + b * b + C1) + 1) / 2, rel=1e-4)
    assert found.l1 == pytest.approx(4 / 127.5 / 2)
    np.testing.assert_array_equal(found.shown[1][:, 0, 0, 0], [104, 200])


@pytest.mark.parametrize("adversarial", [False, True])
def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path: Path, adversarial: bool) -> None:
    more = {"adversary": {"start": 0.3, "width": 8, "layers": 1}} if adversarial else {}
    r = tiny(blocks(tmp_path), **more)
    list(train_codec(r, tmp_path / "whole"))
    asked = iter([False] * 4 + [True])
    *_, stopped = train_codec(r, tmp_path / "parts", stop=lambda: next(asked))
    assert (stopped.step, stopped.done, stopped.saved) == (4, True, tmp_path / "parts/checkpoints/step-4")
    assert not (tmp_path / "parts" / "codec").exists()
    *_, last = train_codec(resume=tmp_path / "parts")
    assert last.step == 6
    assert_same(state(tmp_path / "whole/checkpoints/step-6"), state(tmp_path / "parts/checkpoints/step-6"))
    assert_same(dict(load_codec(tmp_path / "whole").weights), dict(load_codec(tmp_path / "parts").weights))
    assert ("critic.last.weight" in state(tmp_path / "whole/checkpoints/step-6")) == adversarial


def test_a_critic_that_has_begun_is_heard_on_where_the_run_is_made_longer(tmp_path: Path) -> None:
    """Four of six steps are after its start; of sixty the next ones would be before it."""
    r = tiny(blocks(tmp_path), adversary={"start": 0.5, "width": 8, "layers": 1})
    list(train_codec(r, tmp_path / "run"))
    critic = state(tmp_path / "run/checkpoints/step-6")["critic.last.weight"]
    asked = iter([False, True])
    *_, last = train_codec(r.lengthened(steps=60), resume=tmp_path / "run", stop=lambda: next(asked))
    assert last.step == 7
    assert not torch.equal(state(tmp_path / "run/checkpoints/step-7")["critic.last.weight"], critic)


def test_latents_that_are_all_the_same_are_told_at_every_look_and_make_no_codec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = tiny(blocks(tmp_path), train={"steps": 4, "look_every": 2})
    module = type(r.autoencoder.build())
    encode = module.encode

    def without(self: Autoencoder, x: Tensor) -> Posterior:
        posterior = encode(self, x)
        mean = posterior.mean.clone()
        mean[:, 1] = 0.25
        return posterior._replace(mean=mean)

    monkeypatch.setattr(module, "encode", without)
    said: list[str] = []
    with pytest.raises(
        TrainingError, match=r"no codec: In channel 2 of 4 the .* --resume .*run --steps 8\), begin anew"
    ):
        for progress in train_codec(r, tmp_path / "run"):
            said += progress.notes
    assert [note.startswith("In channel 2 of 4") for note in said] == [False, True]
    assert not (tmp_path / "run" / "codec").exists()
    monkeypatch.setattr(module, "encode", encode)
    *_, last = train_codec(r.lengthened(steps=8), resume=tmp_path / "run")
    assert min(load_codec(tmp_path / "run").config.std) > 0
    assert last.step == 8


def test_the_critic_is_heard_from_its_start_on(tmp_path: Path) -> None:
    source = blocks(tmp_path)
    for name, tables in (("alone", {}), ("judged", {"adversary": {"start": 0.5, "width": 8, "layers": 1}})):
        r = tiny(source, **tables, train={"checkpoint_every": 1, "keep": 9})
        list(train_codec(r, tmp_path / name))
    same = [
        torch.equal(
            *(
                state(tmp_path / name / f"checkpoints/step-{n}")["net.decoder.last.weight"]
                for name in ("alone", "judged")
            )
        )
        for n in (2, 3, 4)
    ]
    assert same == [True, True, False]  # step 4 is taken with half of the run done


def test_the_adversarial_step_adds_the_fair_share_of_the_verdict(tmp_path: Path) -> None:
    """One step of plain descent moves the last layer by both gradients, which are of one size."""
    r = tiny(blocks(tmp_path), adversary={"start": 0.0, "width": 8, "layers": 1, "weight": 0.5}, loss={"kl": 0.0})
    r = replace(r, train=replace(r.train, clip=1e9))
    data = load(r.data)
    step = Step(r, Stream(data, 0), torch.device("cpu"), None)
    taken, plain = (State.fresh(r, torch.device("cpu")) for _ in range(2))
    plain.rival = None
    moved = []
    for s in (plain, taken):
        layer = last_layer(s.net)
        before = layer.detach().clone()
        s.optims = [Descent(s.net.parameters())]
        step(s, 0.5)
        moved.append((before - layer.detach()) / r.optim.lr / r.optim.schedule(0, 0.5))
    added = moved[1] - moved[0]
    assert float(added.norm()) == pytest.approx(0.5 * float(moved[0].norm()), rel=1e-2)


class Descent(torch.optim.SGD):
    found_inf: Any = None

    def step(self, closure: Any = None) -> None:
        self.found_inf = None
        super().step()


def test_a_step_that_is_not_finite_changes_nothing_and_too_many_end_the_run(tmp_path: Path) -> None:
    r = tiny(blocks(tmp_path), optim={"lr": 1e30}, train={"steps": 60, "patience": 12})
    with pytest.raises(TrainingError, match=r"not finite in the last \d+ steps"):
        list(train_codec(r, tmp_path / "run"))
    for name, tensor in state(checkpoint.newest_good(tmp_path / "run" / "checkpoints")[0]).items():
        assert tensor.isfinite().all(), name


def test_what_no_codec_can_be_made_of_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    few, odd, small = tmp_path / "few.npy", tmp_path / "odd.npy", tmp_path / "small.npy"
    np.save(few, np.zeros((12, 16, 16, 3), np.uint8))
    np.save(odd, np.zeros((40, 18, 15, 3), np.uint8))
    np.save(small, np.zeros((40, 8, 8, 1), np.uint8))
    floats, vectors = tmp_path / "floats.npy", tmp_path / "vectors.npy"
    np.save(floats, np.zeros((40, 16, 16, 3), np.float32))
    np.save(vectors, np.zeros((40, 5), np.float32))
    for source, why in [
        (few, r"pictures to train on \(\d are held out\): an autoencoder needs at least 16"),
        (odd, "18x15 have no latents 2 times smaller"),
        (small, "8x8 are smaller than the 11 pixels"),
        (floats, "holds pictures of float32"),
        (vectors, "holds vectors of 5 numbers"),
    ]:
        with pytest.raises(ValueError, match=why):
            list(train_codec(tiny(source), tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="holds no pictures out"):
        tiny(few, data={"val_fraction": 0.0})


def test_a_run_goes_on_only_as_it_began(tmp_path: Path) -> None:
    r = tiny(blocks(tmp_path), train={"steps": 2})
    list(train_codec(r, tmp_path / "run"))
    assert CodecRun.at(tmp_path / "run").recipe() == CodecRun.at(tmp_path / "run/checkpoints/step-2").recipe()
    with pytest.raises(ValueError, match=r"loss: .*\n.*Start a new run"):
        list(train_codec(tiny(blocks(tmp_path), loss={"kl": 0.1}), resume=tmp_path / "run"))
    with pytest.raises(ValueError, match=r"holds a run already. Continue it with `inkwash train-codec --resume"):
        list(train_codec(r, tmp_path / "run"))
    with pytest.raises(ValueError, match=r"No training of a codec to resume in .*cache: it has no codec.toml"):
        list(train_codec(resume=tmp_path / "cache"))
    *_, same = train_codec(r, resume=tmp_path / "run")  # what it left open, such as mirroring, was decided then
    assert same.step == 2
    *_, last = train_codec(CodecRun.at(tmp_path / "run").recipe().lengthened(steps=4), resume=tmp_path / "run")
    assert last.step == 4
    assert read_codec(tmp_path / "run")["trained"]["steps"] == 4
    blocks(tmp_path, n=40)
    with pytest.raises(ValueError, match="The data have changed since"):
        list(train_codec(resume=tmp_path / "run"))


def test_kept_recipes_come_back_as_they_were() -> None:
    r = tiny(Path("x"), adversary={"start": 0.25}, data={"size": (16, 24)}, loss={"kl": 1e-3})
    assert read_codec_recipe(write_codec_recipe(r)) == r
