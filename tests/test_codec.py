"""Codecs against closed forms: densities, statistics, standardised latents; and their folders."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash import checkpoint
from inkwash.cli.app import run as main
from inkwash.codec import LatentCodec, Latents, Pixels, Scaled, Standard, channel_statistics
from inkwash.codec.latents import chunk_of
from inkwash.codecfolder import codec_place, load_codec, read_codec, save_codec
from inkwash.model import Plain
from inkwash.modelfolder import Config, save_model
from inkwash.nets import Autoencoder, KLAutoencoder, Posterior, TinyAutoencoder, UNet
from inkwash.paths import Linear
from inkwash.targets import Flow


def test_the_scale_is_the_logarithm_of_the_encoding_s_determinant() -> None:
    torch.manual_seed(0)
    for codec, shape, u in (
        (Scaled(-1.5, 3.0), (2, 3, 4), torch.rand(1, 3, 4, 2)),
        (Standard((0.5, -1.0, 2.0), (0.25, 3.0, 1.0)), (3,), torch.rand(1, 3)),
    ):
        jacobian = torch.autograd.functional.jacobian(lambda u, codec=codec: codec.encode(u).flatten(), u)
        exact = torch.linalg.slogdet(jacobian.reshape(math.prod(shape), -1).double()).logabsdet
        assert codec.log_scale(shape) == pytest.approx(float(exact), abs=1e-5)
        assert codec.bin is None


def test_a_bin_is_the_distance_of_two_levels() -> None:
    levels = Pixels().encode(torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)).flatten().double()
    assert levels.diff().tolist() == pytest.approx([Pixels().bin] * 255, abs=1e-6)
    assert Pixels().bin == 2 / 255
    assert Pixels().log_scale((3, 5, 7)) == pytest.approx(105 * math.log(2 / 255), rel=1e-15)


def test_statistics_in_one_pass_are_those_of_all_values() -> None:
    """Blocks of unlike sizes, one of them empty, far from 0: a sum of squares in float32 would have no digits left."""
    rng = np.random.default_rng(0)
    values = 1000 + rng.normal(size=(57, 3, 4, 2)) * np.array([0.01, 1.0, 7.0])[:, None, None]
    for cuts in ([], [1], [20, 20, 41], list(range(1, 57))):
        blocks = [torch.from_numpy(b) for b in np.split(values, cuts)]
        mean, std = channel_statistics(iter(blocks))
        np.testing.assert_allclose(mean, values.mean((0, 2, 3)), rtol=1e-14)
        np.testing.assert_allclose(std, values.std((0, 2, 3)), rtol=1e-10)
    assert channel_statistics([torch.tensor([[1.0], [3.0]], dtype=torch.float16)]) == ((2.0,), (1.0,))
    with pytest.raises(ValueError, match="at least one picture"):
        channel_statistics([])


class Squares(Autoencoder):
    """Pixels of a 2x2 square as the channels of a latent: an encoder whose every number is known, and its inverse."""

    def encode(self, x: Tensor) -> Posterior:
        z = F.pixel_unshuffle(x, 2)
        return Posterior(z, z - 1)

    def decode(self, z: Tensor) -> Tensor:
        return F.pixel_shuffle(z, 2)


def squares(mean: tuple[float, ...] = (0.5, -0.25, 0.0, 3.0), std: tuple[float, ...] = (0.5, 2.0, 1.0, 9.0)) -> Any:
    return LatentCodec(Latents(KLAutoencoder(1, 4, (4, 4)), mean, std), Squares())


def some(n: int = 5, height: int = 4, width: int = 6, channels: int = 1) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, height, width, channels), dtype=torch.uint8, generator=g)


def test_latents_are_standardised_by_the_statistics_and_decoding_inverts_them() -> None:
    codec, u = squares(), some()
    x = codec.encode(u)
    assert x.shape[1:] == codec.config.diffused((1, 4, 6))
    for channel, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        pixel = u[:, row::2, column::2, 0] / 127.5 - 1
        want = (pixel - codec.config.mean[channel]) / codec.config.std[channel]
        torch.testing.assert_close(x[:, channel], want)
    assert torch.equal(codec.decode(x), u)
    other = replace(codec, config=replace(codec.config, mean=(1.0,) * 4, std=(0.01, 0.1, 10.0, 30.0)))
    assert not torch.equal(other.encode(u), x)
    assert torch.equal(other.decode(other.encode(u)), u)  # whatever they are: both ends read the one place


def test_measured_latents_have_mean_0_and_deviation_1_over_the_data() -> None:
    """A real encoder, its data in blocks; each channel on its own."""
    codec = small()
    u = some(64, 8, 8, 3)
    measured = codec.measured(u.split(24))
    assert measured.config.mean != codec.config.mean
    again = replace(codec, config=measured.config).measured(u.split(7))  # what was standardised before is no matter
    np.testing.assert_allclose(again.config.mean, measured.config.mean, rtol=1e-6)
    np.testing.assert_allclose(again.config.std, measured.config.std, rtol=1e-6)
    x = measured.encode(u).double()
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(4).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(4).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(measured.decode(measured.encode(u)), codec.decode(codec.encode(u)), atol=1, rtol=0)


def small(net: Any = KLAutoencoder(3, 4, (8, 8, 16), groups=2), scale: float = 0.5) -> LatentCodec:  # noqa: B008
    torch.manual_seed(0)
    module = net.build()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    channels = net.latent_channels
    return Latents(net, (0.25,) * channels, (scale,) * channels).bind(module.state_dict())


def test_no_bit_depends_on_the_rest_of_the_batch() -> None:
    codec, u = small(), some(5, 8, 12, 3)
    x = codec.encode(u)
    rebuilt = codec.decode(x)
    for rows in (slice(0, 1), slice(3, 5), slice(1, 4)):
        assert torch.equal(codec.encode(u[rows]), x[rows])
        assert torch.equal(codec.decode(x[rows]), rebuilt[rows])
    assert not x.requires_grad and len(np.unique(rebuilt)) > 20


def test_a_codec_is_its_own_and_takes_no_gradients() -> None:
    """Bound to the weights as they are; or around a net that is still being trained, without touching that."""
    net = KLAutoencoder(3, 4, (8, 8, 16), groups=2)
    module, u = net.build(), some(1, 8, 8, 3)
    codec, around = (f(Latents(net, (0.0,) * 4, (1.0,) * 4)) for f in (
        lambda latents: latents.bind(module.state_dict()), lambda latents: LatentCodec(latents, module)
    ))  # fmt: skip
    before = codec.encode(u)
    assert not around.encode(u).requires_grad and torch.equal(around.encode(u), before)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1)
    assert torch.equal(codec.encode(u), before) and not torch.equal(around.encode(u), before)
    assert all(p.requires_grad for p in module.parameters())


def test_elsewhere_than_on_a_cpu_chunks_have_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    assert [chunk_of(cuda, side * side) for side in (32, 181, 182, 512, 700, 1024, 2048)] == [64, 64, 32, 8, 4, 2, 1]
    assert chunk_of(torch.device("cpu"), 1024) == 1
    many = [chunk_of(torch.device("cpu"), side * side, many=True) for side in (16, 32, 33, 64, 128, 256, 2048)]
    assert many == [32, 32, 16, 8, 2, 1, 1]
    codec, u = small(), some(5, 8, 12, 3)
    x, seen, encode = codec.encode(u), [], codec.net.encode
    monkeypatch.setattr("inkwash.codec.latents.chunk_of", lambda device, pixels, many: 4 if pixels == 96 else 0)
    monkeypatch.setattr(codec.net, "encode", lambda part: seen.append(len(part)) or encode(part))
    torch.testing.assert_close(codec.encode(u), x, rtol=1e-5, atol=1e-5)
    assert seen == [4, 4]
    assert (codec.decode(x).int() - torch.cat([codec.decode(x[i : i + 1]) for i in range(5)]).int()).abs().max() <= 1


def test_many_pictures_are_encoded_together_on_a_cpu_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, u = small(), some(40, 8, 12, 3)
    x, seen, encode = codec.encode(u), [], codec.net.encode
    monkeypatch.setattr(codec.net, "encode", lambda part: seen.append(len(part)) or encode(part))
    torch.testing.assert_close(codec.encode(u, many=True), x, rtol=1e-5, atol=1e-5)
    assert seen == [32, 32]  # the last chunk is filled up: no bit depends on how many there are
    assert torch.equal(codec.encode(u, many=True)[32:], codec.encode(u[32:], many=True))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Latents(TinyAutoencoder(), (0.0,) * 3, (1.0,) * 4), "mean = .* must be 4 finite numbers"),
        (lambda: Latents(TinyAutoencoder(), (0.0,) * 4, (1.0, 1.0, math.nan, 1.0)), "std = .* must be 4 finite"),
        (lambda: Latents(TinyAutoencoder(), (0.0,) * 4, (1.0, 0.0, 1.0, 1.0)), "a channel that never varies"),
        (lambda: squares().config.diffused((3, 4, 6)), "of 1 channels, and these have 3: set data.channels = 1"),
        (lambda: squares().config.diffused((1, 5, 6)), "5x6 have no latents 2 times smaller"),
        (lambda: squares().config.diffused((7,)), "not for vectors of 7 numbers"),
        (lambda: squares().config.bind(), "needs the weights of its autoencoder, and there are none"),
        (lambda: squares().config.bind({"x": torch.zeros(1)}), r"do not fit KLAutoencoder.*Missing key"),
        (lambda: squares().log_scale((4, 2, 3)), "has no density of pictures: its decoder is not invertible"),
    ],
)
def test_what_is_no_codec_of_latents_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_shapes_go_there_and_back() -> None:
    codec = small().config
    assert codec.diffused((3, 8, 12)) == (4, 2, 3) and codec.pictured((4, 2, 3)) == (3, 8, 12)
    assert Pixels().diffused((1, 5, 7)) == Pixels().pictured((1, 5, 7)) == (1, 5, 7)


def test_a_codec_comes_back_from_its_folder_and_says_how_it_was_trained(tmp_path: Path) -> None:
    codec, u = small(), some(2, 8, 8, 3)
    saved = save_codec(
        codec,
        tmp_path / "run" / "codec",
        data="photos",
        trained={"steps": 7.0, "images": 70.0, "seconds": 90.0},
        measured={"psnr": 31.25, "ssim": 0.875, "none": float("nan"), "all": float("inf")},  # JSON has none of those
    )
    assert re.fullmatch("[0-9a-f]{64}", saved.config.sha256)
    for place in (tmp_path / "run" / "codec", tmp_path / "run"):  # its own folder, or the run's that has it
        again = load_codec(place)
        assert again.config == saved.config == replace(codec.config, sha256=saved.config.sha256)
        assert torch.equal(again.encode(u), codec.encode(u))
    assert not any(p.requires_grad for p in again.net.parameters())
    about = read_codec(tmp_path / "run")
    assert about["codec"] == saved.config and about["data"] == "photos"
    assert about["measured"] == {"psnr": 31.25, "ssim": 0.875} and about["trained"]["steps"] == 7
    card = (tmp_path / "run" / "codec" / "README.md").read_text()
    assert "PSNR: 31.25." in card and "1.5 minutes" in card
    with torch.no_grad():
        next(iter(codec.net.parameters()))[0] += 1.0
    assert save_codec(codec, tmp_path / "other").config.sha256 != saved.config.sha256  # the weights tell them apart


def test_a_model_of_latents_lends_its_codec(tmp_path: Path) -> None:
    codec = save_codec(small(), tmp_path / "codec")
    config = Config((4, 2, 2), UNet("tiny", patch=1), Linear(), Flow(), Plain(), codec.config)
    save_model(config, config.network().state_dict(), tmp_path / "run" / "model", codec=codec)
    for place in (tmp_path / "run", tmp_path / "run" / "model"):
        again, u = load_codec(place), some(1, 8, 8, 3)
        assert again.config == codec.config
        assert torch.equal(again.encode(u), codec.encode(u))
    pixels = replace(config, codec=Pixels())
    save_model(pixels, config.network().state_dict(), tmp_path / "pixels")
    with pytest.raises(ValueError, match=r"of pixels \(Pixels\(\)\), not of latents"):
        load_codec(tmp_path / "pixels")
    with pytest.raises(ValueError, match="only codecs trained here say"):
        read_codec(tmp_path / "run" / "model")


def test_a_run_with_a_model_as_well_lends_the_codec_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = Config((1, 8, 8), UNet("tiny", patch=1), Linear(), Flow(), Plain(), Pixels())
    save_model(pixels, pixels.network().state_dict(), tmp_path / "run/model")
    assert codec_place(tmp_path / "run") == tmp_path / "run/model"
    saved = save_codec(small(), tmp_path / "run/codec")
    assert codec_place(tmp_path / "run") == tmp_path / "run/codec"
    assert load_codec(tmp_path / "run").config == saved.config
    assert main(["train", str(tmp_path / "none"), "--codec", str(tmp_path / "run")]) == 2
    assert f"The codec is the one in {tmp_path / 'run/codec'}." in capsys.readouterr().out


def test_what_holds_no_codec_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{")
    for place, message in (
        ("nothing", "No codec in .*nothing: there is no such folder"),
        ("empty", "neither codec.json nor config.json is in it"),
        ("theirs", "no diffusion_pytorch_model.safetensors, only config.json"),
        ("odd", "is no JSON"),
    ):
        with pytest.raises(ValueError, match=message):
            load_codec(tmp_path / place)
    (theirs / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r", diffusion_pytorch_model\.bin\. .*pickled"):
        load_codec(theirs)


def test_a_damaged_codec_is_not_loaded(tmp_path: Path) -> None:
    save_codec(small(), tmp_path / "codec")
    file = tmp_path / "codec" / "codec.json"
    text = file.read_text()
    file.write_text(text.replace("0.25", "0.35"))  # a statistic changed by hand would belong to other weights
    with pytest.raises(checkpoint.CheckpointError, match=r"codec\.json was altered"):
        load_codec(tmp_path / "codec")
    table = json.loads(text)
    narrow = table | {"codec": table["codec"] | {"autoencoder": table["codec"]["autoencoder"] | {"depth": 2}}}
    weights = dict(small().weights)
    checkpoint.publish(tmp_path / "misfit", {"codec": weights}, {"codec.json": json.dumps(narrow)})
    with pytest.raises(checkpoint.CheckpointError, match="is damaged: These weights do not fit KLAutoencoder"):
        load_codec(tmp_path / "misfit")
    checkpoint.publish(tmp_path / "later", {"codec": weights}, {"codec.json": json.dumps(table | {"format": 2})})
    with pytest.raises(ValueError, match="has format 2, and this inkwash"):
        load_codec(tmp_path / "later")
