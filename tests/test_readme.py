"""What the README shows is run, in both languages."""

from __future__ import annotations

import math
import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

import inkwash
from inkwash import Condition, Denoised, Linear, Philox, Query, read_recipe
from inkwash.drive import drive

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.zh-CN.md")


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / readme).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("readme", READMES)
def test_the_python_example_trains_and_draws(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = [b for b in blocks(readme, "python") if "inkwash.train" in b]
    names: dict[str, Any] = {}
    exec(code.replace('"steps": 500', '"steps": 20'), names)  # the README's own words, fewer steps
    assert names["points"].shape == (1000, 2)
    assert capsys.readouterr().out.splitlines()[-1].startswith("20 ")


@pytest.mark.parametrize("readme", READMES)
def test_the_recipe_is_ddpm(readme: str) -> None:
    (recipe,) = (read_recipe(tomllib.loads(b)) for b in blocks(readme, "toml"))
    assert recipe.path == inkwash.Table(inkwash.LinearBetas(1000))
    assert recipe.target == inkwash.Eps()
    assert (recipe.sampler.method, recipe.sampler.steps) == (inkwash.Ancestral(), 1000)


@pytest.mark.parametrize("readme", READMES)
def test_the_users_own_sampler_is_of_order_2(readme: str) -> None:
    (code,) = [b for b in blocks(readme, "python") if "class Midpoint" in b]
    names: dict[str, Any] = {"__name__": "mine"}
    exec(code, names)
    path = Linear()

    def denoise(query: Query, cond: Condition) -> Denoised:  # data -1 or 1, evenly: the exact denoiser
        c = path(query.t).like(query.x)
        x0 = torch.tanh(c.alpha * query.x / c.sigma**2)
        return Denoised(x0, (query.x - c.alpha * x0) / c.sigma)

    def end(sampler: Any, n: int) -> float:
        times = torch.linspace(0.9, 0.3, n + 1, dtype=torch.float64)[:, None]
        start = torch.full((1, 1), 0.3, dtype=torch.float64)
        return float(drive(sampler(path, start, times, Philox(0, torch.zeros(1))), denoise, Condition()))

    exact = end(inkwash.Heun(), 4000)
    errors = [abs(end(names["Midpoint"](), n) - exact) for n in (100, 200, 400)]
    orders = [math.log2(a / b) for a, b in pairwise(errors)]
    assert orders == pytest.approx([2, 2], abs=0.2)


@pytest.mark.parametrize("readme", READMES)
def test_files_and_commands_named_exist(readme: str) -> None:
    text = (ROOT / readme).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
    from typer.main import get_command

    from inkwash.cli.app import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    for command in re.findall(r"^\$ inkwash ([\w-]+)", text, re.MULTILINE):
        assert command in known, command
