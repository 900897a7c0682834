"""What `--dry-run` says a run costs, against what is known of the parts."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from inkwash.data import load
from inkwash.recipes import Recipe, read_recipe
from inkwash.training.plan import _cost, plan
from inkwash.training.setup import set_up


def recipe(optim: str = "muon", **train: Any) -> Recipe:
    return read_recipe(
        {
            "data": {"source": "shapes", "limit": 40},
            "net": {"kind": "unet", "preset": "tiny"},
            "optim": {"kind": optim},
            "train": {"steps": 6, "batch_size": 8, "precision": "fp32"} | train,
        }
    )


def test_memory_grows_with_the_examples_and_with_what_the_optimiser_keeps() -> None:
    muon, adamw = plan(recipe()), plan(recipe("adamw"))
    setup = set_up(recipe(), load(recipe().data))
    wide = [p for p in setup.model.net.parameters() if p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= 16]
    tables = [m.weight for m in setup.model.net.modules() if isinstance(m, nn.Embedding)]
    orthogonalised = sum(p.nbytes for p in wide if not any(p is t for t in tables))
    counters = 4 * sum(not any(p is t for t in tables) for p in wide)  # AdamW counts its steps for every parameter
    assert adamw.memory - muon.memory == orthogonalised + counters  # two moments to one momentum
    _, _, activations = _cost(setup)
    assert plan(recipe(batch_size=16)).memory - muon.memory == 8 * activations
    assert plan(recipe(batch_size=16, accumulate=2)).memory == muon.memory


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_copies_of_the_weights_are_no_examples_activations(precision: str) -> None:
    r = recipe(precision=precision)
    setup = set_up(r, load(r.data))
    matrices = [m.weight for m in setup.model.net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    copies = sum(2 * w.numel() for w in matrices) if precision == "bf16" else 0
    _, fixed, _ = _cost(setup)
    assert copies * 0.9 <= fixed <= copies * 1.05 + 4096


def test_what_will_be_compiled_is_timed_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda net, **how: calls.append("compile"))
    clock = SimpleNamespace(perf_counter=lambda: calls.append("clock") or float(len(calls)))
    monkeypatch.setattr(sys.modules["inkwash.training.plan"], "time", clock)
    plan(recipe())
    assert "compile" not in calls
    calls.clear()
    plan(recipe(compile=True))
    assert calls[0] == "compile" and calls.count("compile") == 1
