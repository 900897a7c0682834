"""Autoencoders against diffusers' of the same weights, in both directions, and what a posterior says against torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from inkwash.codec import LatentCodec
from inkwash.codecfolder import from_diffusers, load_codec, to_diffusers
from inkwash.features.weights import tensors_hash
from inkwash.nets import PRESETS, KLAutoencoder, Posterior, TinyAutoencoder

KL: list[dict[str, Any]] = [
    {"latent_channels": 3, "norm_num_groups": 4},
    {
        "layers_per_block": 2,
        "in_channels": 1,
        "out_channels": 1,
        "norm_num_groups": 2,
        "mid_block_add_attention": False,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.36,
        "shift_factor": 0.12,
    },
    {"norm_num_groups": 8, "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.0, 2.0, 3.0, 4.0]},
]


def their_kl(**settings: Any) -> Any:
    """diffusers' autoencoder of three levels with random weights."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 24),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        **settings,
    )
    return randomised(net)


def their_tiny(**settings: Any) -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    blocks = {"num_encoder_blocks": (1, 0, 2), "num_decoder_blocks": (2, 1, 1)}
    widths = {"encoder_block_out_channels": (8, 8, 8), "decoder_block_out_channels": (8, 8, 8)}
    return randomised(diffusers.AutoencoderTiny(**blocks, **widths, **settings))


def randomised(net: Any) -> Any:
    with torch.no_grad():
        for name, p in net.named_parameters():
            p.normal_(float(p.ndim == 1 and name.endswith("weight")), 0.15)  # no norm's weight is the 1 it starts at
    return net.eval()


def pictures(channels: int) -> torch.Tensor:
    return torch.rand(2, channels, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    assert float(b.abs().max()) > 0.1
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", KL)
@torch.no_grad()
def test_their_kl_autoencoder_is_ours_by_other_names(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = their_kl(**settings)
    theirs.save_pretrained(tmp_path / "vae")
    codec = load_codec(tmp_path)
    x = pictures(theirs.config.in_channels)
    want, got = theirs.encode(x).latent_dist, codec.net.encode(x)
    close(got.mean, want.mean)
    assert got.logvar is not None
    close(got.logvar, want.logvar)
    eps = torch.randn(got.mean.shape, generator=torch.Generator().manual_seed(2))
    close(got.sample(eps), want.mean + want.std * eps)
    close(got.kl(), want.kl())
    z = torch.randn(2, codec.config.autoencoder.latent_channels, 4, 6)
    close(codec.net.decode(z), theirs.decode(z).sample)


def test_a_posteriors_spread_is_kept_within_the_bounds_of_theirs() -> None:
    theirs = their_kl(**KL[0])
    with torch.no_grad():
        theirs.quant_conv.bias[3:] = torch.tensor([-100.0, 0.0, 100.0])
        config, state = dict(theirs.config) | {"_class_name": "AutoencoderKL"}, theirs.state_dict()
        codec, weights = from_diffusers(config, state)
        x = pictures(3)
        got = codec.bind(weights).net.encode(x).logvar
        assert got is not None
        close(got, theirs.encode(x).latent_dist.logvar)
        assert float(got.min()) == -30 and float(got.max()) == 20


@torch.no_grad()
def test_their_tiny_autoencoder_is_ours_by_other_names(tmp_path: Path) -> None:
    theirs = their_tiny()
    theirs.save_pretrained(tmp_path)
    codec = load_codec(tmp_path)
    x = pictures(3)
    got = codec.net.encode(x)
    close(got.mean, theirs.encode(x).latents)
    assert got.logvar is None and torch.equal(got.sample(torch.ones(1)), got.mean) and got.kl().tolist() == [0.0, 0.0]
    z = 4 * torch.randn(2, 4, 4, 6)  # beyond 3, where the decoder squashes
    close(codec.net.decode(z), theirs.decode(z).sample)


def test_scaling_of_theirs_is_statistics_of_ours(tmp_path: Path) -> None:
    """Their pipelines diffuse (z - shift_factor)·scaling_factor, or (z - latents_mean)·scaling_factor/latents_std."""
    found = []
    for i, settings in enumerate(KL):
        their_kl(**settings).save_pretrained(tmp_path / str(i))
        config = load_codec(tmp_path / str(i)).config
        assert config.sha256 == tensors_hash(load_codec(tmp_path / str(i)).weights)
        found.append((config.mean, config.std))
    assert found[0] == ((0.0,) * 3, (1 / 0.18215,) * 3)
    assert found[1] == ((0.12,) * 4, (1 / 0.36,) * 4)
    assert found[2] == ((0.1, -0.2, 0.3, 0.0), tuple(s / 0.18215 for s in (1.0, 2.0, 3.0, 4.0)))
    bare = {"_class_name": "AutoencoderKL", "latent_channels": 2}  # of before it was stated
    assert from_diffusers(bare | {"norm_num_groups": 8}, {})[0].std == (1 / 0.18215,) * 2
    their_tiny(scaling_factor=0.5, shift_factor=0.1).save_pretrained(tmp_path / "tiny")
    tiny = load_codec(tmp_path / "tiny").config
    assert (tiny.mean, tiny.std) == ((0.1,) * 4, (2.0,) * 4)


def test_folders_from_before_2023_name_attention_otherwise() -> None:
    theirs = their_kl(**KL[0])
    now = theirs.state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    then = {}
    for name, value in now.items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        then[name] = value
    assert then.keys() != now.keys()
    config = dict(theirs.config) | {"_class_name": "AutoencoderKL"}
    a, b = (from_diffusers(config, state)[1] for state in (now, then))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("quant", [True, False])
@torch.no_grad()
def test_ours_becomes_theirs_with_the_statistics_inside(quant: bool) -> None:
    """diffusers' autoencoder, whose scaling factor is 1, encodes to our standardised latents and decodes them."""
    diffusers = pytest.importorskip("diffusers")
    ours = codec(KLAutoencoder(1, 3, (8, 16), groups=4, quant=quant), (0.5, -1.0, 2.0), (0.3, 1.5, 4.0))
    config, state = to_diffusers(ours)
    theirs = diffusers.AutoencoderKL.from_config(config)
    theirs.load_state_dict(state)
    u = torch.randint(0, 256, (3, 8, 12, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    x = u.permute(0, 3, 1, 2) / 127.5 - 1
    posterior = theirs.eval().encode(x).latent_dist
    std = torch.tensor(ours.config.std)[:, None, None]
    mean, deviation = ours.encode(u), (ours.net.encode(x).logvar / 2).exp() / std
    close(posterior.mean * theirs.config.scaling_factor, mean)
    close(posterior.std, deviation)
    want = ((theirs.decode(mean).sample + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)
    assert (ours.decode(mean).int() - want.int()).abs().max() <= 1 and want.std() > 10


@torch.no_grad()
def test_a_tiny_autoencoder_goes_back_with_one_scale_for_all_channels() -> None:
    diffusers = pytest.importorskip("diffusers")
    tiny = TinyAutoencoder(3, 2, 8, (1, 2), (1, 1))
    config, state = to_diffusers(codec(tiny, (0.5, 0.5), (0.25, 0.25)))
    theirs = diffusers.AutoencoderTiny.from_config(config)
    theirs.load_state_dict(state)
    assert theirs.config.scaling_factor == 4.0 and theirs.config.shift_factor == 0.5
    again, weights = from_diffusers(dict(theirs.config) | {"_class_name": "AutoencoderTiny"}, state)
    assert again == codec(tiny, (0.5, 0.5), (0.25, 0.25)).config
    assert weights.keys() == tiny.build().state_dict().keys()
    with pytest.raises(ValueError, match="a mean and a deviation for each channel"):
        to_diffusers(codec(tiny, (0.5, 0.5), (0.25, 0.3)))


def codec(net: KLAutoencoder | TinyAutoencoder, mean: tuple[float, ...], std: tuple[float, ...]) -> LatentCodec:
    from inkwash.codec import Latents

    torch.manual_seed(0)
    return Latents(net, mean, std).bind(randomised(net.build()).state_dict())


def test_the_divergence_is_that_of_two_normals() -> None:
    g = torch.Generator().manual_seed(0)
    mean, logvar = (torch.randn(2, 3, 4, 5, generator=g) for _ in range(2))
    want = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(Posterior(mean, logvar).kl(), want)


def test_presets_halve_the_sides_as_often_as_their_names_say() -> None:
    for name, factor in (("f4", 4), ("f8", 8)):
        net = PRESETS[name]
        assert net.factor == factor
        z = net.build().encode(torch.zeros(1, 3, 16, 8)).mean
        assert z.shape == (1, 4, 16 // factor, 8 // factor)


def test_residual_blocks_and_attention_begin_as_nothing() -> None:
    """An untrained autoencoder passes on what its other convolutions make: no activation of depth can blow up."""
    torch.manual_seed(0)
    net = KLAutoencoder(3, 4, (8, 8), depth=3, groups=2, quant=False).build()
    z = torch.randn(2, 4, 4, 4)
    decoder: Any = net.decoder
    h = decoder.first(z)
    h = torch.nn.functional.interpolate(h, scale_factor=2.0)
    h = decoder.last(torch.nn.functional.silu(decoder.norm(decoder.levels[0].grow(h))))
    torch.testing.assert_close(net.decode(z), h)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KLAutoencoder(latent_channels=0), "KLAutoencoder latent_channels is 0"),
        (lambda: KLAutoencoder(widths=(32, 33)), r"widths are \(32, 33\): .* a multiple of groups = 2"),
        (lambda: KLAutoencoder(widths=()), "at least one"),
        (lambda: TinyAutoencoder(width=0), "TinyAutoencoder width is 0"),
        (lambda: TinyAutoencoder(down=(1, 2), up=(1,)), "as many numbers in one as in the other"),
        (lambda: KLAutoencoder().build().encode(torch.zeros(1, 3, 10, 8)), "10x8 have no latents 4 times smaller"),
        (lambda: TinyAutoencoder().build().encode(torch.zeros(1, 3, 8, 12)), "8x12 have no latents 8 times smaller"),
    ],
)
def test_what_makes_no_autoencoder_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "VQModel"}, "VQModel is no autoencoder that can be loaded"),
        ({}, "None is no autoencoder"),
        ({"_class_name": "AutoencoderKL", "act_fn": "relu"}, "with act_fn = 'relu' cannot be loaded, only 'silu'"),
        ({"_class_name": "AutoencoderKL", "use_quant_conv": False}, "use_post_quant_conv"),
        ({"_class_name": "AutoencoderKL", "out_channels": 4}, "out_channels = 4 cannot be loaded, only 3"),
        ({"_class_name": "AutoencoderKL", "up_block_types": ["AttnUpDecoderBlock2D"]}, "AttnUpDecoderBlock2D cannot"),
        ({"_class_name": "AutoencoderTiny", "decoder_block_out_channels": [64, 32]}, r"several widths \(\[32, 64\]\)"),
        ({"_class_name": "AutoencoderTiny", "upsample_fn": "bilinear"}, "upsample_fn = 'bilinear'"),
    ],
)
def test_what_has_no_like_here_is_refused(config: dict[str, Any], message: str) -> None:
    config = {"use_post_quant_conv": True} | config
    with pytest.raises(ValueError, match=message):
        from_diffusers(config, {})
