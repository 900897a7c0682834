"""The examples: what they measure is what is drawn, and what they write is what inkwash reads."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from inkwash.data import DataSpec, load

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attributes_example", ROOT / "examples" / "attributes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def ellipse(a: float, b: float, degrees: float, bright: int = 255, at: tuple[float, float] = (0, 0)) -> np.ndarray:
    """Half axes a, b in pixels, a turned from the right towards the top; each pixel by how much of it is covered."""
    fine = (np.arange(96 * 8) + 0.5) / 8 - 48
    x, y = fine[None] - at[0], -(fine[:, None] - at[1])  # y upwards
    t = math.radians(degrees)
    along, across = x * math.cos(t) + y * math.sin(t), y * math.cos(t) - x * math.sin(t)
    inside = (along / a) ** 2 + (across / b) ** 2 <= 1
    covered = inside.reshape(96, 8, 96, 8).mean((1, 3))
    return np.rint(bright * covered).astype(np.uint8)[..., None]


@pytest.mark.parametrize("at", [(0.0, 0.0), (7.3, -4.6)])
@pytest.mark.parametrize(("a", "b", "degrees"), [(30, 10, 30), (30, 10, 120), (25, 15, 90), (25, 15, 0), (32, 8, -50)])
def test_an_ellipse_leans_as_it_was_drawn(
    example: ModuleType, a: float, b: float, degrees: float, at: tuple[float, float]
) -> None:
    slant, ink, tall = example.attributes(ellipse(a, b, degrees, 200, at)[None])[0]
    s, c = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    high, wide = a * a * s * s + b * b * c * c, a * a * c * c + b * b * s * s
    assert slant == pytest.approx(math.degrees(math.atan((a * a - b * b) * s * c / high)), abs=0.1)
    assert tall == pytest.approx(math.sqrt(high / wide), rel=2e-3)
    assert ink == pytest.approx(math.pi * a * b * 200 / 255 / 96**2, rel=2e-3)


def test_a_bar_that_leans_to_the_right_has_a_slant_above_0(example: ModuleType) -> None:
    """Row by row one pixel to the left downwards: 45 degrees. Without ink nothing is known, and in any channels."""
    bar = np.zeros((2, 20, 20, 3), np.uint8)
    bar[0, np.arange(20), 19 - np.arange(20)] = 255
    found = example.attributes(bar)
    assert found[0] == pytest.approx([45, 20 / 400, 1], abs=1e-4)
    assert np.isnan(found[1, [0, 2]]).all() and found[1, 1] == 0


def test_what_is_written_is_read(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    pictures = np.stack([ellipse(20, 10, d)[::4, ::4] for d in (10, 80, 60)])
    np.savez(tmp_path / "some.npz", images=pictures, labels=np.array([0, 1, 0]), classes=np.array(["flat", "steep"]))
    example.measured(str(tmp_path / "some.npz"), "train", tmp_path / "with.npz")
    data = load(DataSpec(str(tmp_path / "with.npz")))
    assert data.vector_names == example.NAMES and data.classes == ("flat", "steep")
    assert data.vectors is not None and (data.vectors == example.attributes(pictures)).all()
