"""What `--dry-run` says a run costs, against what is known of the parts."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from inkwash.data import load
from inkwash.modelfolder import load_model
from inkwash.pipeline import Pipeline
from inkwash.recipes import Recipe, read_recipe
from inkwash.sampling import Sampling
from inkwash.training import train
from inkwash.training.plan import _cost, plan
from inkwash.training.setup import set_up
from inkwash.types import Condition


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


def jumping(run: Path | None = None, pairs: int = 0, **objective: Any) -> Recipe:
    """Of points, in batches of 8."""
    tables: dict[str, Any] = {
        "data": {"source": "moons", "limit": 96},
        "net": {"kind": "mlp", "width": 16, "depth": 1},
        "objective": objective,
        "train": {"steps": 100, "batch_size": 8, "snapshots": 0, "samples": 1},
        "sampler": {"method": "heun", "steps": 20},
    }
    return read_recipe(tables | ({} if run is None else {"teacher": {"run": str(run), "pairs": pairs}}))


def test_jumps_are_counted_wherever_in_the_run_they_begin() -> None:
    """The network is asked for u of every row, and once more for what u should be at a jump."""
    half = plan(jumping(kind="soflow", same=0.5)).flops
    whole = plan(jumping(kind="soflow", same=0.0)).flops
    assert 4 * half == 3 * whole
    assert plan(jumping(kind="soflow", same=0.0, begin=0.5)).flops == whole
    assert plan(jumping(kind="meanflow", same=0.0, begin=0.5)).flops > whole


def test_a_teacher_takes_part_where_its_velocities_are_learned_and_its_pairs_take_time_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(train(replace(jumping(kind="regression"), train=replace(recipe().train, steps=1, samples=1)), tmp_path))
    alone, taught = plan(jumping(kind="soflow")), plan(jumping(tmp_path, kind="soflow"))
    theirs = sum(p.nbytes for p in load_model(tmp_path)[1].net.parameters())
    assert taught.memory - alone.memory == theirs
    assert (alone.pairs_seconds, taught.pairs_seconds) == (0.0, 0.0)
    assert taught.flops - alone.flops == plan(jumping(kind="regression")).flops  # the teacher's, once a row
    # A call of 64 rows takes one second.
    now, rows, ends = 0.0, set[int](), Pipeline.ends
    monkeypatch.setattr("inkwash.teaching.pairing.time", SimpleNamespace(perf_counter=lambda: now))

    def slow(pipe: Pipeline, index: Tensor, cond: Condition, own: Sampling, seed: int) -> Tensor:
        nonlocal now
        now += own.rehearse(pipe.model.path, pipe.model.target)
        rows.add(len(index))
        return ends(pipe, index, cond, own, seed)

    monkeypatch.setattr(Pipeline, "ends", slow)
    plain, paired = plan(jumping(kind="regression")), plan(jumping(tmp_path, pairs=500, kind="regression"))
    assert rows == {64}
    assert now == 7  # four steps of Heun's
    assert paired.pairs_seconds == 8 * 39  # 500 pairs, 64 at a time, in twenty
    assert paired.flops == plain.flops
    assert paired.memory - plain.memory == theirs
    assert paired.epochs == 100 * 8 / 500


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
