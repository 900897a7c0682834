"""Recipes so small that they are trained at once, of pictures and of points, and what to look at in their runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from inkwash import checkpoint
from inkwash.recipes import Recipe, read_recipe
from inkwash.training import Progress, train
from inkwash.training.run import read_metrics

TINY: dict[str, Any] = {
    "data": {"source": "shapes", "limit": 40},
    "net": {"kind": "unet", "preset": "tiny", "widths": [16], "patch": 2, "depth": 1, "dropout": 0.1},
    "optim": {"kind": "muon", "lr": 0.01, "schedule": {"warmup": 2}},
    "train": {"steps": 6, "batch_size": 8, "samples": 2, "sample_every": 1000, "precision": "fp32"},
    "sampler": {"steps": 2},
}


def recipe(**tables: dict[str, Any]) -> Recipe:
    return read_recipe({k: {**TINY.get(k, {}), **tables.get(k, {})} for k in {**TINY, **tables}})


def finish(r: Recipe | None, out: Path | None = None, **options: Any) -> list[Progress]:
    return list(train(r or recipe(), out, **options))


def state(folder: Path) -> dict[str, torch.Tensor]:
    saved = checkpoint.load(folder)
    counters = json.loads(saved.texts["state.json"])
    return {f"{g}.{n}": t for g, group in saved.tensors.items() for n, t in group.items()} | {
        "step": torch.tensor(counters["step"]),
        "skipped": torch.tensor(counters["skipped"]),
    }


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def losses(run: Path) -> list[tuple[int, float]]:
    return [(int(m["step"]), m["loss"]) for m in read_metrics(run / "metrics.jsonl") if "loss" in m]


IMPORTANCE = {"kind": "importance", "bins": 4, "history": 3}
HYBRID = {"kind": "hybrid", "steps": 20, "times": IMPORTANCE}
PLANE: dict[str, Any] = {
    "data": {"source": "swiss-roll", "limit": 60},
    "net": {"kind": "mlp", "width": 16, "depth": 1},
    "objective": HYBRID,
    "optim": {"kind": "adamw", "lr": 0.01},
    "train": {"steps": 8, "batch_size": 8, "checkpoint_every": 4, "samples": 2, "sample_every": 1000},
    "sampler": {"steps": 2},
}


def plane(**tables: dict[str, Any]) -> Recipe:
    return read_recipe({k: {**PLANE[k], **tables.get(k, {})} for k in PLANE})


MOONS: dict[str, Any] = {
    "data": {"source": "moons", "limit": 96},
    "net": {"kind": "mlp", "width": 16, "depth": 1},
    "train": {"steps": 3, "batch_size": 16, "samples": 4, "checkpoint_every": 2, "snapshots": 0},
    "sampler": {"method": "heun", "steps": 3},
}


def moons(**tables: Any) -> Recipe:
    """Two moons, labelled, by a tiny net: a teacher."""
    base = dict(MOONS)
    for name, table in tables.items():
        base[name] = {**base.get(name, {}), **table} if isinstance(table, dict) else table
    return read_recipe(base)


def trained(folder: Path, **tables: Any) -> Path:
    """The folder of a finished run of moons."""
    finish(moons(**tables), folder)
    return folder
