"""DINOv2 through transformers, with a tiny random model."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from inkwash.features import DinoV2, extractor, tensors_hash
from inkwash.features.resize import bicubic

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    path = tmp_path_factory.mktemp("dino")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        transformers.Dinov2Model(config).save_pretrained(path)
    return path


def test_the_class_token_of_normalised_pictures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import transformers

    u = ((np.arange(2 * 20 * 30 * 3) ** 2) % 253).astype(np.uint8).reshape(2, 20, 30, 3)
    capsys.readouterr()
    seen = extractor(f'dinov2(weights="{folder}")')
    said = capsys.readouterr()
    assert said.out + said.err == ""
    model = transformers.Dinov2Model.from_pretrained(folder).eval()
    x = bicubic(torch.from_numpy(u).permute(0, 3, 1, 2).float(), 224) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    with torch.no_grad():
        expected = model(x).pooler_output
    assert torch.allclose(seen(u), expected, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    assert (seen.name, seen.num_features) == ("dinov2", 24)
    assert seen.weights == tensors_hash(model.state_dict())
    assert "torchvision" not in sys.modules


def test_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"DINOv2's weights '.*' cannot be had: .*hf download facebook/dinov2-small"):
        DinoV2(str(tmp_path)).load(CPU)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'pip install "inkwash\[dinov2\]"'):
        DinoV2().load(CPU)
