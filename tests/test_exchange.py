"""To and from diffusers: schedulers that mean the same, folders that its own classes load, and pictures that agree."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import inkwash
from inkwash import checkpoint
from inkwash.codec import Latents, Pixels
from inkwash.codecfolder import save_codec
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Grey
from inkwash.exchange import Compared, comparing, dit_names, from_diffusers, from_dit, to_diffusers
from inkwash.exchange import theirs as theirs_module
from inkwash.exchange.schedules import from_scheduler, to_scheduler
from inkwash.model import EdmInputs, Indexed, Plain, UnitVariance
from inkwash.modelfolder import Config, save_model
from inkwash.nets import ClassicUNet, DiT, KLAutoencoder, TinyAutoencoder, UNet
from inkwash.noise import Philox, Stream
from inkwash.paths import (
    VE,
    CosineBetas,
    Linear,
    LinearBetas,
    QuadraticBetas,
    SigmoidBetas,
    Table,
    forward_variance,
    posterior_variance,
)
from inkwash.recipes import read_recipe
from inkwash.samplers import Ancestral, Ddim, Heun
from inkwash.sampling import Sampling
from inkwash.targets import X0, Edm, Eps, Flow, V
from inkwash.types import Given

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own and its dependencies' deprecations on import
    diffusers: Any = pytest.importorskip("diffusers")
    for name in ("DDIMPipeline", "DDPMPipeline", "DiTPipeline", "UNet2DModel", "DiTTransformer2DModel"):
        getattr(diffusers, name)  # lazily imported

SMALL = ClassicUNet(widths=(8, 16), depth=1, attention=(1,), groups=4, head_dim=8)
PLAIN = Config(
    shape=(1, 8, 8),
    net=SMALL,
    path=Table(LinearBetas(40, scaled=True)),
    target=Eps(),
    inputs=Indexed(40),
    codec=Pixels(),
    sampling=Sampling(Ddim(), steps=10, clip=True),
    data="blobs",
)
FLOW = replace(
    PLAIN,
    path=Linear(),
    target=Flow(),
    inputs=Plain(),
    classes=("cat", "dog", "owl"),
    sampling=Sampling(Heun(), steps=5, guidance=1.7),
)
CODEC = Latents(KLAutoencoder(widths=(8, 8), groups=4, latent_channels=2), (0.3, -0.2), (1.7, 0.6))
LATENT = replace(
    PLAIN,
    shape=(2, 4, 4),
    net=DiT(depth=2, width=16, heads=2),
    path=Table(CosineBetas(50)),
    target=V(),
    inputs=Indexed(50),
    codec=CODEC,
    classes=("cat", "dog"),
    sampling=Sampling(Ddim(), steps=10, guidance=2.5),
    learned_variance=True,
)


@pytest.fixture(autouse=True)
def calm() -> Iterator[None]:
    """Without diffusers' notes."""
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"diffusers|huggingface_hub|torch")
        yield
    log.setLevel(level)


def random(net: nn.Module, seed: int = 0) -> nn.Module:
    """Weights drawn anew, so that no layer is zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        fresh = torch.randn(p.shape, generator=generator)
        p.data = fresh / p[0].numel() ** 0.5 if p.ndim > 1 else p.data + 0.1 * fresh
    return net.eval()


def saved(config: Config, folder: Path) -> Path:
    """A model of this config."""
    codec = None
    if isinstance(config.codec, Latents):
        codec = config.codec.bind(random(config.codec.autoencoder.build(), 1).state_dict())
    save_model(config, random(config.network()).state_dict(), folder, codec=codec)
    return folder


# Schedulers

TABLES = [
    Table(LinearBetas()),
    Table(LinearBetas(200, scaled=True)),
    Table(QuadraticBetas(100, 0.00085, 0.012)),
    Table(CosineBetas(200)),
    Table(CosineBetas(60, s=0.02)),
    Table(SigmoidBetas(50)),
    Table((0.1, 0.2, 0.05)),
    Table(LinearBetas(50, scaled=True), zero_snr=True),
]


@pytest.mark.parametrize("path", TABLES, ids=str)
@pytest.mark.parametrize("method", [Ddim(), Ancestral()], ids=["ddim", "ancestral"])
def test_a_scheduler_of_theirs_has_the_paths_numbers(path: Table, method: Any) -> None:
    steps = path.steps
    sampling = Sampling(method, steps=1)
    config = replace(PLAIN, path=path, target=V(), inputs=Indexed(steps), sampling=sampling)
    kind, settings = to_scheduler(config)
    assert kind == {"ddim": "DDIMScheduler", "ancestral": "DDPMScheduler"}[method.kind]
    made = getattr(diffusers, kind).from_config(json.loads(json.dumps(settings)))
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    c = path(t)
    if not path.zero_snr:
        torch.testing.assert_close(made.betas.double(), path._betas, rtol=0, atol=1e-7)
    torch.testing.assert_close(made.alphas_cumprod.double(), c.alpha**2, rtol=0, atol=2e-6)
    # What they add noise with, and what they call v, at every entry.
    x0, eps = torch.full((steps, 1), 0.7), torch.full((steps, 1), -1.2)
    entry = torch.arange(steps)
    torch.testing.assert_close(
        made.add_noise(x0, eps, entry).double().flatten(), 0.7 * c.alpha - 1.2 * c.sigma, rtol=0, atol=1e-4
    )
    a, b = V()(c)
    torch.testing.assert_close(
        made.get_velocity(x0, eps, entry).double().flatten(), 0.7 * a - 1.2 * b, rtol=0, atol=1e-4
    )
    back = from_scheduler(kind, dict(made.config), in_channels=1, out_channels=1)
    assert back.target == V()
    assert back.inputs == Indexed(steps)
    assert back.path.zero_snr == path.zero_snr
    torch.testing.assert_close(back.path(t).alpha, c.alpha, rtol=0, atol=1e-7 if path.zero_snr else 1e-12)


@pytest.mark.parametrize(("target", "theirs"), [(Eps(), "epsilon"), (X0(), "sample"), (V(), "v_prediction")])
def test_predictions_have_their_names(target: Any, theirs: str) -> None:
    kind, settings = to_scheduler(replace(PLAIN, target=target))
    assert settings["prediction_type"] == theirs
    assert from_scheduler(kind, settings, in_channels=3, out_channels=3).target == target


@pytest.mark.parametrize(
    ("method", "kind", "variance"),
    [
        (Ancestral("small"), "DDPMScheduler", "fixed_small"),
        (Ancestral("large"), "DDPMScheduler", "fixed_large"),
        (Ddim(1.0), "DDPMScheduler", "fixed_small"),
        (Ddim(0.5), "DDIMScheduler", None),
        (Heun(), "DDIMScheduler", None),
    ],
)
def test_a_model_that_draws_noise_gets_their_ddpm(method: Any, kind: str, variance: str | None) -> None:
    config = replace(PLAIN, sampling=Sampling(method, steps=5))
    found, settings = to_scheduler(config)
    assert (found, settings.get("variance_type")) == (kind, variance)
    back = from_scheduler(kind, settings, in_channels=3, out_channels=3)
    assert back.notes == ()
    if variance is None:
        assert back.sampling.method == Ddim()
        return
    assert back.sampling.method == Ancestral("large" if variance == "fixed_large" else "small")
    assert back.sampling.steps == 40
    # Their variance at an entry, and that of the way on to the one before.
    theirs = getattr(diffusers, kind).from_config(settings)._get_variance(20)
    now, then = (PLAIN.path(torch.tensor([t / 40], dtype=torch.float64)) for t in (21, 20))
    ours = {"fixed_small": posterior_variance, "fixed_large": forward_variance}[variance](now, then)
    assert float(theirs) == pytest.approx(float(ours), rel=1e-4)
    assert to_scheduler(config, random=False)[0] == "DDIMScheduler"


def test_flow_matchings_sigma_is_t() -> None:
    kind, settings = to_scheduler(FLOW)
    made = getattr(diffusers, kind).from_config(settings)
    made.set_timesteps(sigmas=[1.0, 0.6, 0.25])
    c = Linear()(torch.tensor([1.0, 0.6, 0.25], dtype=torch.float64))
    assert made.timesteps.tolist() == pytest.approx([1000.0, 600.0, 250.0])
    x0, eps = torch.tensor([[0.7]]), torch.tensor([[-1.2]])
    for i, t in enumerate(made.timesteps):
        noised = made.scale_noise(x0, t[None], eps)
        assert float(noised) == pytest.approx(0.7 * float(c.alpha[i]) - 1.2 * float(c.sigma[i]), rel=1e-6)
    # A step along noise minus data leads to the noised data at the next time.
    x = made.scale_noise(x0, made.timesteps[:1], eps)
    assert float(made.step(eps - x0, made.timesteps[0], x).prev_sample) == pytest.approx(0.4 * 0.7 - 0.6 * 1.2)
    back = from_scheduler(kind, dict(made.config), in_channels=3, out_channels=3)
    assert (back.path, back.target, back.inputs) == (Linear(), Flow(), Plain())


def test_a_flow_that_was_sampled_at_shifted_times_still_is() -> None:
    settings = {"shift": 3.0}
    made = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
    made.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    found = from_scheduler("FlowMatchEulerDiscreteScheduler", settings, in_channels=3, out_channels=3)
    own = replace(found.sampling, steps=4)
    visited = own.asked(Linear(), own.times(Linear())).flatten()
    torch.testing.assert_close(visited, made.sigmas.double(), rtol=0, atol=1e-6)
    own.rehearse(found.path, found.target)
    assert found.notes == ()
    dynamic = settings | {"use_dynamic_shifting": True, "use_karras_sigmas": True}
    found = from_scheduler("FlowMatchEulerDiscreteScheduler", dynamic, in_channels=3, out_channels=3)
    assert found.sampling == Sampling()
    assert "use_dynamic_shifting, use_karras_sigmas is not kept" in found.notes[0]


@pytest.mark.parametrize(
    ("kind", "variance", "out", "method", "said"),
    [
        ("DDPMScheduler", "learned_range", 6, Ancestral("learned"), None),
        ("DDPMScheduler", "fixed_small_log", 3, Ancestral("small"), None),
        ("DDPMScheduler", "learned", 6, Ancestral("small"), "variance_type = learned is not kept"),
        ("DDPMScheduler", "learned_range", 3, Ancestral("small"), "variance_type = learned_range is not kept"),
        ("PNDMScheduler", None, 3, Ddim(), "PNDMScheduler is not kept as the sampler"),
    ],
)
def test_a_way_of_sampling_that_is_not_kept_is_told(
    kind: str, variance: str | None, out: int, method: Any, said: str | None
) -> None:
    found = from_scheduler(kind, {"variance_type": variance} if variance else {}, in_channels=3, out_channels=out)
    assert found.sampling.method == method
    assert len(found.notes) == (said is not None)
    assert said is None or said in found.notes[0]


def test_what_is_left_out_of_a_config_is_their_default() -> None:
    made = diffusers.DDPMScheduler()
    found = from_scheduler("DDPMScheduler", {}, in_channels=3, out_channels=6)
    assert (found.path, found.target, found.learned_variance) == (Table(), Eps(), True)
    assert found.sampling.clip is made.config.clip_sample is True
    assert found.sampling.grid == inkwash.Leading(1000)
    settings = {"clip_sample": False, "timestep_spacing": "trailing"}
    found = from_scheduler("DDIMScheduler", settings, in_channels=3, out_channels=3)
    assert (found.sampling.clip, found.sampling.grid) == (False, inkwash.Trailing(1000))


@pytest.mark.parametrize(
    ("kind", "settings", "out", "said"),
    [
        ("EulerDiscreteScheduler", {}, 3, "There is no path here for diffusers' EulerDiscreteScheduler"),
        ("DDIMScheduler", {"thresholding": True}, 3, "DDIMScheduler with thresholding = True cannot be imported"),
        ("DDPMScheduler", {"clip_sample_range": 2.0}, 3, r"clip_sample_range = 2\.0"),
        ("DDPMScheduler", {"beta_schedule": "exp"}, 3, "beta_schedule 'exp' cannot be imported"),
        ("DDPMScheduler", {"prediction_type": "noise"}, 3, "prediction_type 'noise' is unknown"),
        ("DDPMScheduler", {}, 4, "3 input and 4 output channels"),
        ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 10}, 3, "num_train_timesteps = 10"),
        ("FlowMatchEulerDiscreteScheduler", {}, 6, "has no variance to learn"),
    ],
)
def test_schedulers_we_do_not_have_are_refused(kind: str, settings: dict[str, Any], out: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        from_scheduler(kind, settings, in_channels=3, out_channels=out)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": Plain()},
        {"inputs": Indexed(1000)},
        {"path": Linear(), "target": V(), "inputs": Plain()},
        {"path": Linear(), "target": Flow(), "inputs": UnitVariance(0.5)},
        {"path": VE(), "target": Edm(), "inputs": EdmInputs()},
    ],
)
def test_paths_they_do_not_have_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"diffusers has no scheduler for path .* --to onnx or --to torch-export"):
        to_diffusers(saved(replace(PLAIN, **change), tmp_path / "model"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Out


def test_a_unet_draws_the_same_in_plain_diffusers(tmp_path: Path) -> None:
    run = saved(PLAIN, tmp_path / "model")
    found = to_diffusers(run, tmp_path / "out")
    assert [c.what.split(",")[0] for c in found] == ["draw.py with diffusers' classes", "DDIMPipeline"]
    assert all(c.difference < 1e-4 for c in found)
    whole = diffusers.DDIMPipeline.from_pretrained(tmp_path / "out")
    assert diffusers.DDPMPipeline.from_pretrained(tmp_path / "out").scheduler.config._class_name == "DDIMScheduler"
    # From the noise of our pipeline their loop, and from ours the picture.
    n = 3
    x = PLAIN.path(torch.ones(1)).sigma.float() * Philox(4, torch.arange(n))(torch.empty(n, 1, 8, 8), 0, Stream.START)
    whole.scheduler.set_timesteps(10)
    with torch.no_grad():
        for t in whole.scheduler.timesteps:
            x = whole.scheduler.step(whole.unet(x, t).sample, t, x, use_clipped_model_output=True).prev_sample
    there = ((x + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    here = inkwash.load(run, device="cpu")(n, seed=4).array
    assert here.std() > 20
    assert np.abs(there.numpy() - here).max() <= 1
    checkpoint.verify(tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert "pipe(num_inference_steps=40, use_clipped_model_output=True)" in text
    assert str(found[0]) in text


def test_a_model_that_samples_with_noise_becomes_their_ddpm(tmp_path: Path) -> None:
    sampling = Sampling(Ancestral("learned"), steps=40)
    run = saved(replace(PLAIN, sampling=sampling, learned_variance=True), tmp_path / "model")
    to_diffusers(run, tmp_path / "out")
    whole = diffusers.DDPMPipeline.from_pretrained(tmp_path / "out")
    assert whole.scheduler.config.variance_type == "learned_range"
    # The variance of one of their steps, and of ours.
    torch.manual_seed(0)
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([0.5], dtype=torch.float64)
    model = inkwash.load(run, device="cpu").model
    with torch.no_grad():
        y = whole.unet(x, 19).sample
        mix = model(inkwash.Query(x, t, t), inkwash.Condition()).var_mix
    assert mix is not None
    log_variance = whole.scheduler._get_variance(torch.tensor(19), predicted_variance=y[:, 1:])
    now, before = PLAIN.path(t), PLAIN.path(t - 1 / 40)
    large = 1 - (now.alpha / before.alpha) ** 2
    small = large * before.sigma**2 / now.sigma**2
    ours = mix * large.log() + (1 - mix) * small.log()
    torch.testing.assert_close(log_variance.double(), ours.double(), rtol=1e-4, atol=1e-4)
    whole.set_progress_bar_config(disable=True)
    assert whole(num_inference_steps=40, output_type="np").images.std() > 0.01


def test_a_flow_model_of_classes_comes_with_a_loop_and_goes_back(tmp_path: Path) -> None:
    run = saved(FLOW, tmp_path / "model")
    found = to_diffusers(run, tmp_path / "out")
    assert [c.what.split(",")[0] for c in found] == ["draw.py with diffusers' classes"]
    assert found[0].difference < 1e-4
    assert not (tmp_path / "out/model_index.json").exists()
    assert "no ready pipeline" in (tmp_path / "out/README.md").read_text()
    config, again, _ = from_diffusers(tmp_path / "out", tmp_path / "back")
    assert all(c.difference < 1e-4 for c in again)
    parts = ("shape", "path", "target", "inputs", "codec", "classes")
    assert [getattr(config, p) for p in parts] == [getattr(FLOW, p) for p in parts]
    assert same_weights(run, tmp_path / "back")
    here, there = (inkwash.load(r, device="cpu") for r in (run, tmp_path / "back"))
    assert np.array_equal(here(3, label="owl", steps=3).array, there(3, label="owl", steps=3, guidance=1.7).array)


def test_a_latent_dit_draws_the_same_in_their_pipeline_and_goes_back(tmp_path: Path) -> None:
    run = saved(LATENT, tmp_path / "model")
    found = to_diffusers(run, tmp_path / "out")
    assert [c.what.split(",")[0] for c in found] == ["draw.py with diffusers' classes", "DiTPipeline"]
    whole = diffusers.DiTPipeline.from_pretrained(tmp_path / "out")
    assert whole.labels == {"cat": 0, "dog": 1}
    whole.set_progress_bar_config(disable=True)
    # Their guidance counts on 1000 classes, and gets them.
    options: dict[str, Any] = {"num_inference_steps": 5, "output_type": "np"}
    seen = [
        whole([1], guidance_scale=w, generator=torch.Generator().manual_seed(0), **options).images for w in (1, 4.0)
    ]
    assert np.abs(seen[0] - seen[1]).max() > 1e-3
    config, _, _ = from_diffusers(tmp_path / "out", tmp_path / "back")
    assert (config.classes, config.learned_variance, config.sampling.clip) == (("cat", "dog"), True, False)
    assert same_weights(run, tmp_path / "back")
    here, there = (inkwash.load(r, device="cpu") for r in (run, tmp_path / "back"))
    a, b = (p(2, steps=5, sampler="ddim", guidance=2.0).array.astype(int) for p in (here, there))
    assert a.std() > 5
    assert np.abs(a - b).max() <= 1


def test_a_tiny_autoencoders_shift_is_in_the_loop(tmp_path: Path) -> None:
    codec = Latents(TinyAutoencoder(width=8, down=(1, 1), up=(1, 1), latent_channels=2), (0.5, 0.5), (1.4, 1.4))
    config = replace(PLAIN, shape=(2, 4, 4), codec=codec, sampling=Sampling(Ddim(), steps=10))
    run = saved(config, tmp_path / "model")
    to_diffusers(run, tmp_path / "out")
    import runpy

    names = runpy.run_path(str(tmp_path / "out/draw.py"))
    x = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(3))
    assert np.abs(names["decode"](x).astype(int) - inkwash.load(run, device="cpu").codec.decode(x).numpy()).max() <= 1


@pytest.mark.parametrize(("mean", "ready"), [(0.5, False), (0.0, True)])
def test_their_dit_pipeline_knows_of_no_shift(tmp_path: Path, mean: float, ready: bool) -> None:
    codec = Latents(TinyAutoencoder(width=8, down=(1, 1), up=(1, 1), latent_channels=2), (mean, mean), (1.4, 1.4))
    net = DiT(depth=1, width=16, heads=2)
    config = replace(PLAIN, shape=(2, 4, 4), net=net, codec=codec, sampling=Sampling(Ddim(), steps=10))
    to_diffusers(saved(config, tmp_path / "model"), tmp_path / "out")
    assert (tmp_path / "out/model_index.json").is_file() is ready


def test_a_dit_of_pixels_has_a_loop_and_no_classes_when_it_comes_back(tmp_path: Path) -> None:
    config = replace(PLAIN, net=DiT(depth=1, width=16, heads=2), target=X0())
    run = saved(config, tmp_path / "model")
    found = to_diffusers(run, tmp_path / "out")
    assert from_diffusers(tmp_path / "out", tmp_path / "back")[0].classes == ()
    assert same_weights(run, tmp_path / "back")
    assert [c.what.split(",")[0] for c in found] == ["draw.py with diffusers' classes"]
    assert found[0].difference < 1e-4


def test_what_draws_otherwise_is_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, right = saved(PLAIN, tmp_path / "model"), theirs_module.unet_names.to_diffusers

    def wrong(weights: Any) -> Any:
        found = right(weights)
        return found | {"conv_out.weight": 1.1 * found["conv_out.weight"]}

    monkeypatch.setattr(theirs_module.unet_names, "to_diffusers", wrong)
    with pytest.raises(ValueError, match=r"they differ by at most .* Nothing was written"):
        to_diffusers(run, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("net", [SMALL, DiT(depth=1, width=16, heads=2)])
@pytest.mark.parametrize(
    ("conditions", "words"),
    [
        (Conditions(text=ByText()), "text tokens too"),
        (Conditions(vector=ByVector(("angle",), (0.0,), (1.0,))), "a vector of numbers too"),
        (Conditions(image=ByImage(Grey())), "a picture beside x too"),
    ],
)
def test_a_model_told_more_than_labels_has_no_place_there(
    tmp_path: Path, net: ClassicUNet | DiT, conditions: Conditions, words: str
) -> None:
    config = replace(PLAIN, net=net, conditions=conditions)
    run = saved(config, tmp_path / "model")
    with pytest.raises(ValueError, match=rf"a time and a label.* of {words}\. .*--to onnx or --to torch-export"):
        to_diffusers(run, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_networks_they_do_not_have_are_refused(tmp_path: Path) -> None:
    run = saved(replace(PLAIN, net=UNet("tiny", widths=(16,), depth=1)), tmp_path / "model")
    with pytest.raises(ValueError, match=r"diffusers has no network like UNet.*--to onnx or --to torch-export") as told:
        to_diffusers(run, tmp_path / "out")
    # What it says to train with is all that is needed.
    words = re.search(r"`--net (\S+) --set inputs\.kind=(\S+)`", str(told.value))
    assert words is not None
    recipe = read_recipe("fashion-mnist", {"net.kind": words[1]}, [f"inputs.kind={words[2]}"])
    assert isinstance(recipe.net, ClassicUNet)
    assert recipe.inputs is not None
    config = replace(PLAIN, path=recipe.path, target=recipe.target, inputs=recipe.inputs)
    assert to_scheduler(config)[0] == "FlowMatchEulerDiscreteScheduler"


# In


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of theirs that never was ours."""
    net = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        freq_shift=1,
        downsample_padding=0,
        flip_sin_to_cos=False,
        norm_eps=1e-6,
    )
    scheduler = diffusers.DDPMScheduler(30, beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    folder = tmp_path_factory.mktemp("theirs") / "cats"
    diffusers.DDPMPipeline(random(net), scheduler).save_pretrained(folder)
    return folder


def test_a_pipeline_of_theirs_becomes_a_model_of_ours(pipeline: Path, tmp_path: Path) -> None:
    config, found, _ = from_diffusers(pipeline, tmp_path / "run")
    assert [c.what.split(",")[0] for c in found] == ["UNet2DModel", "DDIMScheduler"]
    assert all(c.difference < 1e-4 for c in found)
    assert (config.path, config.target, config.classes) == (Table(CosineBetas(30)), X0(), ())
    assert config.sampling.method == Ancestral("small")
    pipe = inkwash.load(tmp_path / "run", device="cpu")
    assert "## Imported" in (tmp_path / "run/model/README.md").read_text()
    # Their entry i is our (i + 1)/30.
    net = diffusers.UNet2DModel.from_pretrained(pipeline / "unet")
    x, i = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), 11
    t = torch.full((2,), (i + 1) / 30, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            pipe.model(inkwash.Query(x, t, t), inkwash.Condition()).x0, net(x, i).sample, rtol=1e-4, atol=1e-5
        )
    for sampler in ("ddim", "dpm++", "heun", "ancestral"):
        assert pipe(2, sampler=sampler, steps=3).array.std() > 0


def test_a_network_alone_needs_its_scheduler(pipeline: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    diffusers.UNet2DModel.from_pretrained(pipeline / "unet").save_pretrained(alone)
    with pytest.raises(ValueError, match=r"nothing says what path .*alone was trained on.*--scheduler"):
        from_diffusers(alone, tmp_path / "run")
    config, _, _ = from_diffusers(alone, tmp_path / "run", scheduler=pipeline / "scheduler")
    assert config.path == Table(CosineBetas(30))


def test_the_labels_of_a_unet_without_names_are_numbers(tmp_path: Path) -> None:
    net = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), layers_per_block=1, norm_num_groups=4, num_class_embeds=3,
    )  # fmt: skip
    random(net).save_pretrained(tmp_path / "net")
    diffusers.DDIMScheduler(20).save_pretrained(tmp_path / "net")
    config, _, _ = from_diffusers(tmp_path / "net", tmp_path / "run", scheduler=tmp_path / "net")
    assert config.classes == ("0", "1", "2")


def changed(pipeline: Path, folder: Path, file: str, **settings: Any) -> Path:
    """A copy of the pipeline with other settings in one file."""
    import shutil

    shutil.copytree(pipeline, folder)
    table = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(table | settings))
    return folder


@pytest.mark.parametrize(
    ("file", "settings", "said"),
    [
        ("unet/config.json", {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ("unet/config.json", {"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, "down_block_types is"),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel cannot be imported"),
        ("scheduler/scheduler_config.json", {"_class_name": "KDPM2DiscreteScheduler"}, "KDPM2DiscreteScheduler"),
        ("scheduler/scheduler_config.json", {"clip_sample_range": 3.0}, "clip_sample_range"),
    ],
)
def test_what_cannot_be_imported_is_named(
    pipeline: Path, tmp_path: Path, file: str, settings: dict[str, Any], said: str
) -> None:
    folder = changed(pipeline, tmp_path / "cats", file, **settings)
    with pytest.raises(ValueError, match=said):
        from_diffusers(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("read", [{"flip_sin_to_cos": True}, {"freq_shift": 0}, {"downsample_padding": 1}])
def test_a_network_that_is_read_wrongly_is_not_published(
    pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: dict[str, Any]
) -> None:
    right = theirs_module.unet_names.diffusers_layout
    monkeypatch.setattr(
        theirs_module.unet_names, "diffusers_layout", lambda settings, null: right({**settings, **read}, null=null)
    )
    with pytest.raises(ValueError, match="UNet2DModel, one call: they differ"):
        from_diffusers(pipeline, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folders_that_are_none_are_told(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no folder .*hf download"):
        from_diffusers(tmp_path / "nothing", tmp_path / "run")
    with pytest.raises(ValueError, match=r"no folder of diffusers' that can be imported"):
        from_diffusers(tmp_path, tmp_path / "run")
    folder = changed(pipeline, tmp_path / "cats", "unet/config.json")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"has no diffusion_pytorch_model\.safetensors, only config\.json, diff"):
        from_diffusers(folder, tmp_path / "run")
    saved(PLAIN, tmp_path / "mine/model")
    with pytest.raises(ValueError, match="There is a model in"):
        from_diffusers(pipeline, tmp_path / "mine")


def test_a_difference_is_not_the_same() -> None:
    assert Compared("a", 1e-4, 1.0, 1e-3).same
    assert Compared("a", 5e-3, 9.0, 1e-3).same
    assert not Compared("a", 2e-3, 1.0, 1e-3).same
    assert not Compared("a", float("nan"), 1.0, 1e-3).same


def official(folder: Path, net: DiT, outputs: int = 2) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """A file in the official layout, its autoencoder's folder, and our state dict of the same weights."""
    ours = random(net.build((2, 4, 4), Given(classes=3), outputs)).state_dict()
    save_file(dit_names.to_official(ours, (2, 4, 4), 2), folder / "DiT.safetensors")
    codec = CODEC.bind(random(CODEC.autoencoder.build(), 1).state_dict())
    save_codec(codec, folder / "vae")
    return folder / "DiT.safetensors", folder / "vae", ours


@pytest.mark.parametrize(("outputs", "added"), [(2, "learned"), (1, "small")])
def test_a_dit_in_the_official_layout_becomes_a_model_of_latents(tmp_path: Path, outputs: int, added: Any) -> None:
    file, vae, ours = official(tmp_path, DiT(depth=1, width=16, heads=2), outputs)
    config, found, notes = from_dit(file, tmp_path / "run", vae=vae, heads=2)
    assert found == []
    assert "are the DiT paper's" in notes[0]
    assert (config.shape, config.classes) == ((2, 4, 4), ("0", "1", "2"))
    assert (config.path, config.target, config.inputs) == (Table(LinearBetas(1000, 1e-4, 0.02)), Eps(), Indexed(1000))
    assert config.net == DiT(depth=1, width=16, heads=2, freq_shift=0.0)
    assert config.learned_variance is (outputs == 2)
    assert config.sampling == Sampling(Ancestral(added), steps=250)
    kept = checkpoint.load(tmp_path / "run/model").tensors["model"]
    assert kept.keys() == ours.keys()
    assert all(torch.equal(kept[name], ours[name]) for name in ours)
    assert inkwash.load(tmp_path / "run", device="cpu")(1, steps=2).array.shape == (1, 8, 8, 3)
    with pytest.raises(ValueError, match="There is a model in"):
        from_dit(file, tmp_path / "run", vae=vae, heads=2)


def test_what_is_no_official_dit_is_told(tmp_path: Path) -> None:
    file, vae, _ = official(tmp_path, DiT(depth=1, width=16, heads=2))
    with pytest.raises(ValueError, match="how many heads a DiT of width 16 has: give their number"):
        from_dit(file, tmp_path / "run", vae=vae)
    with pytest.raises(ValueError, match=r"is of latents \(2 channels\), and needs .* --vae .*sd-vae-ft-ema"):
        from_dit(file, tmp_path / "run", heads=2)
    wide = replace(CODEC.autoencoder, latent_channels=3)
    save_codec(replace(CODEC, autoencoder=wide, mean=(0.0,) * 3, std=(1.0,) * 3).bind(wide.build().state_dict()), vae)
    with pytest.raises(ValueError, match=r"The network has 2 channels, and the latents of .*vae have 3\."):
        from_dit(file, tmp_path / "run", vae=vae, heads=2)
    save_file({"x": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"no DiT in the official layout: it has no final_layer\.linear\.bias"):
        from_dit(file, tmp_path / "run", vae=vae)
    # A pickled file is not read, and what converts it is said.
    torch.save({"x": torch.arange(3.0)}, tmp_path / "DiT.pt")
    with pytest.raises(ValueError, match=r"DiT\.pt is no \.safetensors file") as error:
        from_dit(tmp_path / "DiT.pt", tmp_path / "run", vae=vae)
    program = str(error.value).partition('python -c "')[2].removesuffix('"')
    exec(program, {})
    assert load_file(file)["x"].tolist() == [0, 1, 2]
    assert not (tmp_path / "run").exists()


def test_a_library_that_is_first_imported_while_calm_is_silent_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "import logging, sys\nlog = logging.getLogger('loud')\nlog.setLevel(logging.INFO)\n"
    told += "log.addHandler(logging.StreamHandler(sys.stderr))\nlog.warning('careful')\n"
    (tmp_path / "loud.py").write_text(told)
    monkeypatch.syspath_prepend(tmp_path)
    with comparing.calm():
        import loud  # type: ignore[import-not-found]
    assert capsys.readouterr().err == ""
    loud.log.warning("again")
    assert capsys.readouterr().err == "again\n"


def same_weights(a: Path, b: Path) -> bool:
    first, second = (checkpoint.load(inkwash.modelfolder.find_model(r)).tensors["model"] for r in (a, b))
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)
