"""The FID graph: against the same net written independently out of modules, and how its weights are found."""

from __future__ import annotations

import hashlib
import io
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.features import Inception, inception, tensors_hash
from inkwash.features.inception import LAYOUT, PUBLISHED, Net
from inkwash.features.weights import Published, fetch

CPU = torch.device("cpu")


class ConvNorm(nn.Module):
    def __init__(self, into: int, out: int, kernel: Any, stride: int = 1, padding: Any = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(into, out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    def __init__(self, **branches: Any) -> None:
        super().__init__()
        for name, conv in branches.items():
            self.add_module(name, conv)


def modules() -> nn.Module:
    """The net with torchvision's names, from the paper's figures (Szegedy et al. 2016, fig. 5, 6, 7 and 10)."""
    c = ConvNorm
    net = nn.Module()
    rows: dict[str, nn.Module] = {
        "Conv2d_1a_3x3": c(3, 32, 3, 2),
        "Conv2d_2a_3x3": c(32, 32, 3),
        "Conv2d_2b_3x3": c(32, 64, 3, 1, 1),
        "Conv2d_3b_1x1": c(64, 80, 1),
        "Conv2d_4a_3x3": c(80, 192, 3),
        "Mixed_6a": Block(
            branch3x3=c(288, 384, 3, 2),
            branch3x3dbl_1=c(288, 64, 1),
            branch3x3dbl_2=c(64, 96, 3, 1, 1),
            branch3x3dbl_3=c(96, 96, 3, 2),
        ),
        "Mixed_7a": Block(
            branch3x3_1=c(768, 192, 1),
            branch3x3_2=c(192, 320, 3, 2),
            branch7x7x3_1=c(768, 192, 1),
            branch7x7x3_2=c(192, 192, (1, 7), 1, (0, 3)),
            branch7x7x3_3=c(192, 192, (7, 1), 1, (3, 0)),
            branch7x7x3_4=c(192, 192, 3, 2),
        ),
    }
    for name, i, p in (("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)):
        rows[f"Mixed_{name}"] = Block(
            branch1x1=c(i, 64, 1),
            branch5x5_1=c(i, 48, 1),
            branch5x5_2=c(48, 64, 5, 1, 2),
            branch3x3dbl_1=c(i, 64, 1),
            branch3x3dbl_2=c(64, 96, 3, 1, 1),
            branch3x3dbl_3=c(96, 96, 3, 1, 1),
            branch_pool=c(i, p, 1),
        )
    for name, w in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
        wide, tall = ((1, 7), 1, (0, 3)), ((7, 1), 1, (3, 0))
        rows[f"Mixed_{name}"] = Block(
            branch1x1=c(768, 192, 1),
            branch7x7_1=c(768, w, 1),
            branch7x7_2=c(w, w, *wide),
            branch7x7_3=c(w, 192, *tall),
            branch7x7dbl_1=c(768, w, 1),
            branch7x7dbl_2=c(w, w, *tall),
            branch7x7dbl_3=c(w, w, *wide),
            branch7x7dbl_4=c(w, w, *tall),
            branch7x7dbl_5=c(w, 192, *wide),
            branch_pool=c(768, 192, 1),
        )
    for name, i in (("7b", 1280), ("7c", 2048)):
        wide, tall = ((1, 3), 1, (0, 1)), ((3, 1), 1, (1, 0))
        rows[f"Mixed_{name}"] = Block(
            branch1x1=c(i, 320, 1),
            branch3x3_1=c(i, 384, 1),
            branch3x3_2a=c(384, 384, *wide),
            branch3x3_2b=c(384, 384, *tall),
            branch3x3dbl_1=c(i, 448, 1),
            branch3x3dbl_2=c(448, 384, 3, 1, 1),
            branch3x3dbl_3a=c(384, 384, *wide),
            branch3x3dbl_3b=c(384, 384, *tall),
            branch_pool=c(i, 192, 1),
        )
    rows["fc"] = nn.Linear(2048, 1008)
    for name, module in rows.items():
        net.add_module(name, module)
    return net.eval()


def mean_inside(x: Tensor) -> Tensor:
    """The 3x3 mean over what is inside, as the sum divided by how many there are."""
    ones = torch.ones(x.shape[1], 1, 3, 3)
    count = F.conv2d(torch.ones_like(x[:1, :1]), ones[:1], padding=1)
    return F.conv2d(x, ones, padding=1, groups=x.shape[1]) / count


def chain(m: Any, name: str, x: Tensor, n: int) -> Tensor:
    for i in range(1, n + 1):
        x = getattr(m, f"branch{name}_{i}")(x)
    return x


def reference(net: Any, x: Tensor) -> Tensor:
    """From planes already resized and scaled to the 2048 features."""
    x = net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x)))
    x = net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
    x = F.max_pool2d(x, 3, 2)
    for m in (net.Mixed_5b, net.Mixed_5c, net.Mixed_5d):
        five, three = chain(m, "5x5", x, 2), chain(m, "3x3dbl", x, 3)
        x = torch.cat([m.branch1x1(x), five, three, m.branch_pool(mean_inside(x))], 1)
    m = net.Mixed_6a
    x = torch.cat([m.branch3x3(x), chain(m, "3x3dbl", x, 3), F.max_pool2d(x, 3, 2)], 1)
    for m in (net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e):
        seven, twice = chain(m, "7x7", x, 3), chain(m, "7x7dbl", x, 5)
        x = torch.cat([m.branch1x1(x), seven, twice, m.branch_pool(mean_inside(x))], 1)
    m = net.Mixed_7a
    x = torch.cat([chain(m, "3x3", x, 2), chain(m, "7x7x3", x, 4), F.max_pool2d(x, 3, 2)], 1)
    for m in (net.Mixed_7b, net.Mixed_7c):
        once, twice = m.branch3x3_1(x), chain(m, "3x3dbl", x, 2)
        pooled = mean_inside(x) if m is net.Mixed_7b else F.max_pool2d(x, 3, 1, 1)
        x = torch.cat(
            [
                *(m.branch1x1(x), m.branch3x3_2a(once), m.branch3x3_2b(once)),
                *(m.branch3x3dbl_3a(twice), m.branch3x3dbl_3b(twice), m.branch_pool(pooled)),
            ],
            1,
        )
    return F.adaptive_avg_pool2d(x, 1).flatten(1)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Random weights that keep the size of the signal, and norms that are no identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = modules()
        for m in made.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.data.normal_(0, (2 / m.weight[0].numel()) ** 0.5)
            if isinstance(m, nn.BatchNorm2d):
                assert m.running_mean is not None
                assert m.running_var is not None
                for tensor in (m.weight.data, m.running_var):
                    tensor.uniform_(0.7, 1.4)
                for tensor in (m.bias.data, m.running_mean):
                    tensor.normal_(0, 0.1)
    return made


@pytest.fixture(scope="module")
def file(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "pt_inception.pth"
    torch.save(net.state_dict(), path)
    return path


def test_the_layout_is_the_published_one(net: nn.Module) -> None:
    """94 convolutions; with their norms as many parameters as Inception v3 has before its classifier."""
    assert len(LAYOUT) == 94
    convs = sum(i * o * k[0] * k[1] for i, o, k, _, _ in LAYOUT.values())
    norms = sum(2 * o for _, o, *_ in LAYOUT.values())
    assert convs + norms == 21_785_568
    assert net.state_dict().keys() - {"fc.weight", "fc.bias"} == {
        f"{name}.{part}"
        for name in LAYOUT
        for part in (
            "conv.weight",
            *("bn.weight", "bn.bias", "bn.running_mean", "bn.running_var", "bn.num_batches_tracked"),
        )
    }
    for name, (into, out, kernel, stride, padding) in LAYOUT.items():
        conv = net.get_submodule(f"{name}.conv")
        assert isinstance(conv, nn.Conv2d)
        assert (conv.in_channels, conv.out_channels, conv.kernel_size) == (into, out, kernel)
        assert (conv.stride, conv.padding) == ((stride, stride), padding), name


def test_the_whole_net(net: nn.Module, file: Path) -> None:
    """From stored bytes to features, the resize included: a picture of 299x299 is its own."""
    u = (np.add.outer(np.arange(299) ** 2, np.arange(299) * 7)[..., None] % (251, 241, 256)).astype(np.uint8)[None]
    seen = Inception(str(file)).load(CPU)
    found = replace(seen, chunk=1)(u)
    with torch.no_grad():
        expected = reference(net, (torch.from_numpy(u).permute(0, 3, 1, 2).float() - 128) / 128)
    assert 0.1 < expected.std() < 1e3
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert (seen.name, seen.num_features) == ("other-inception", 2048)
    assert seen.weights == tensors_hash(net.state_dict())


def test_the_pools_of_the_graph(net: nn.Module) -> None:
    """On 3 x 3 ones the mean is one at the corner too; the last block's pool is a maximum."""
    mine = Net(net.state_dict(), CPU)
    assert torch.equal(inception._mean3(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 3, 3))
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert inception._mean3(x)[0, 0].tolist() == [[2, 2.5, 3], [3.5, 4, 4.5], [5, 5.5, 6]]
    maps = torch.rand(1, 2048, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = net.get_submodule("Mixed_7c.branch_pool")(F.max_pool2d(maps, 3, 1, 1))
    with torch.no_grad():
        last = mine.e("Mixed_7c", maps, F.max_pool2d(maps, 3, 1, 1))[:, -192:]
    assert torch.allclose(last, expected, atol=1e-4)


def test_only_the_published_weights_are_fid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are "other-inception", as in the test above."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setattr(inception, "PUBLISHED", Published("x.pth", "https://nowhere.invalid/x.pth", digest, 1))
    assert Inception(str(file)).load(CPU).name == "inception"


def test_weights_of_another_net(net: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in net.state_dict().items() if k.startswith(("Conv2d", "Mixed_5"))}
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(ValueError, match=r"half\.pth does not fit the FID Inception net: it has no Mixed_6a"):
        Inception(str(tmp_path / "half.pth")).load(CPU)
    state["Mixed_5b.branch_pool.conv.weight"] = torch.zeros(64, 192, 1, 1)
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(ValueError, match=r"branch_pool\.conv\.weight has shape \[64, 192, 1, 1\], not \[32, 192, 1, 1"):
        Inception(str(tmp_path / "wide.pth")).load(CPU)


def test_what_is_published() -> None:
    """The file's name carries the first digits of its hash."""
    assert PUBLISHED.name == f"pt_inception-2015-12-05-{PUBLISHED.sha256[:8]}.pth"
    assert PUBLISHED.url.endswith(PUBLISHED.name)


class Web:
    """Instead of the web: what is sent, in pieces."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.asked: list[str] = []

    def __call__(self, url: str, timeout: float) -> Any:
        self.asked.append(url)
        assert 0 < timeout <= 30
        return io.BytesIO(self.content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def test_weights_are_downloaded_once(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 2000
    web = Web(content)
    monkeypatch.setattr(urllib.request, "urlopen", web)
    published = Published("w.pth", "https://example.org/w.pth", hashlib.sha256(content).hexdigest(), len(content))
    told: list[tuple[str, int, int]] = []
    kept = fetch(published, tmp_path / "cache", "", lambda *a: told.append(a))
    assert kept == tmp_path / "cache" / "weights" / "w.pth"
    assert kept.read_bytes() == content
    assert told[-1] == ("Downloading w.pth", len(content), len(content))
    assert fetch(published, tmp_path / "cache", "") == kept
    assert web.asked == ["https://example.org/w.pth"]
    # what torch.hub has is taken as it is
    hub.mkdir(parents=True)
    kept.rename(hub / "w.pth")
    assert fetch(published, tmp_path / "cache", "") == hub / "w.pth"
    assert len(web.asked) == 1


def test_every_way_that_failed_is_told(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is altered is neither taken nor left behind."""
    altered = b"hello, this is longer"
    published = Published("w.pth", "https://example.org/w.pth", "0" * 64, 5)
    monkeypatch.setattr(urllib.request, "urlopen", Web(altered))
    hub.mkdir(parents=True)
    (hub / "w.pth").write_bytes(b"altered")
    with pytest.raises(ValueError, match="could not be found or fetched") as error:
        fetch(published, tmp_path / "cache", "Or do it by hand.")
    for words in (
        "the cache, " + str(tmp_path / "cache" / "weights" / "w.pth") + ": it is not there",
        "torch.hub's folder, " + str(hub / "w.pth") + ": its SHA-256 is",
        "download from https://example.org/w.pth: its SHA-256 is " + hashlib.sha256(altered).hexdigest()[:12],
        "curl -fL --create-dirs -o '" + str(tmp_path / "cache"),
        "Or do it by hand.",
    ):
        assert words in str(error.value)
    assert list((tmp_path / "cache" / "weights").iterdir()) == []

    def unreachable(url: str, timeout: float) -> Any:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"Name or service not known\n.*\n.*inception\(weights=\"FILE\"\)"):
        Inception().load(CPU)
    assert not (tmp_path / "none").exists()
