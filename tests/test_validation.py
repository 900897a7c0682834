"""The validation loss: what it asks, that it is right where the answer is known, and when it calls overfitting."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path as File
from typing import Any

import numpy as np
import pytest
import torch

from gaussian import LAM, MU, PAIRS, PATHS, TARGETS, model
from inkwash import gallery
from inkwash.codec import Standard
from inkwash.data import Dataset, DataSpec, load
from inkwash.modelfolder import Config
from inkwash.nets import MLP
from inkwash.noise import Philox, Stream
from inkwash.objectives import OptimalTransport, Regression
from inkwash.paths import VE, LinearBetas, Table
from inkwash.recipes import Evaluation, Recipe, Train, read_recipe
from inkwash.training import Progress, train
from inkwash.training import validate as module
from inkwash.training.run import read_metrics
from inkwash.training.setup import Setup, set_up
from inkwash.training.validate import EDGES, Grid, Losses, Lowest, Validation, overfitting, unseen

BANDS = [(low, high) for high, low in pairwise(EDGES)]


def points(n: int, seed: int = 0) -> np.ndarray:
    """Rows of N(MU, diag LAM), float32."""
    return (MU + LAM.sqrt() * torch.randn(n, 4, generator=torch.Generator().manual_seed(seed)).double()).float().numpy()


def dataset(images: np.ndarray, name: str = "gauss") -> Dataset:
    return Dataset(name, images, None, (), None, f"{name}{len(images)}" * 8, True)


def exact(path: Any, target: Any, n: int, **tables: Any) -> tuple[Setup, Dataset]:
    """A run on Gaussian data whose network is perfect."""
    data = dataset(points(n))
    recipe = Recipe(DataSpec("gauss"), evaluation=Evaluation(images=n), **tables)
    codec = Standard((0.0,) * 4, (1.0,) * 4)
    config = Config((4,), MLP(), path, target, recipe.inputs or model(path, target).inputs, codec)  # type: ignore[arg-type]
    return Setup(recipe, config, model(path, target), data, torch.device("cpu"), data, codec), data


def validation(setup: Setup, data: Dataset) -> Validation:
    rows = np.arange(len(data))
    return Validation(setup, (data, rows), (data, rows))


def lam(path: Any, t: torch.Tensor) -> torch.Tensor:
    c = path(t)
    return 2 * (c.alpha / c.sigma).log()


# ------------------------------------------------------------------------------------------------------ what is asked


@pytest.mark.parametrize("name", ["linear", "vp", "ve"])
def test_every_picture_is_asked_once_in_each_band_and_the_bands_are_covered_evenly(name: str) -> None:
    n, path = 24, PATHS[name]
    grid = Grid.of(path, n)
    assert grid.bands == (0, 1, 2, 3)
    for times, (low, high) in zip(grid.times, BANDS, strict=True):
        wanted = [low + (high - low) * (i + 0.5) / n for i in range(n)]
        assert lam(path, times).sort().values.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-9)
    ranks = grid.times.argsort(1).argsort(1).double()
    assert not torch.equal(ranks[0], torch.arange(n).double())  # in no order, and another one in each band
    assert (torch.corrcoef(ranks) - torch.eye(4)).abs().max() < 0.6


def test_a_table_is_asked_at_its_entries_and_only_where_it_has_some() -> None:
    table = Table(LinearBetas())
    grid = Grid.of(table, 50)
    assert grid.bands == (0, 1, 2, 3)
    assert torch.equal(grid.times * 1000, (grid.times * 1000).round())
    entry = grid.times - 1 / 1000  # the next entry is taken: the lambda wanted lies between it and the one before
    for now, before, (low, high) in zip(grid.times, entry, BANDS, strict=True):
        wanted = torch.tensor([low + (high - low) * (i + 0.5) / 50 for i in range(50)])
        assert (lam(table, now.sort(descending=True).values) <= wanted + 1e-6).all()
        assert (lam(table, before.sort(descending=True).values) > wanted - 1e-6).all()
    short = Table(LinearBetas(steps=100))  # alpha_T = 0.60: lambda from -0.57
    least = float(lam(short, torch.ones(1, dtype=torch.float64)))
    assert -3 < least < 0
    cut = Grid.of(short, 10)
    assert cut.bands == (0, 1, 2)
    assert float(lam(short, cut.times[2]).min()) >= least
    assert 0 > lam(short, cut.times[2]).mean() > least
    assert Grid.of(Table(LinearBetas(steps=40)), 10).bands == (0, 1)
    assert float(Grid.of(VE(top=math.exp(1.0)), 10).times.max()) <= 1.0
    assert Grid.of(VE(top=math.exp(1.0)), 10).bands == (0, 1, 2)  # lambda >= -2
    with pytest.raises(ValueError, match=r"noise levels of lambda .* only.*val_fraction = 0"):
        Grid.of(VE(top=math.exp(-3.5)), 10)


# ------------------------------------------------------------------------------------------------------ the right loss


@pytest.mark.parametrize(("path", "target"), PAIRS)
def test_the_loss_of_the_exact_denoiser_has_its_closed_form_in_every_band(path: str, target: str) -> None:
    """y - y_theta = (a - b·alpha/sigma)·(x0 - E[x0 | x]), whose variance is lam·sigma²/(alpha²·lam + sigma²)."""
    p, n = PATHS[path], 1200
    setup, data = exact(p, TARGETS[target], n)
    ask = validation(setup, data)
    found = ask(setup.model.net)
    assert np.array_equal(found.held_out, found.train)
    for i, times in enumerate(ask.grid.times):
        c = p(times)
        a, b = TARGETS[target](c)
        alpha, sigma = c.alpha[:, None], c.sigma[:, None]
        wanted = ((a * c.sigma - b * c.alpha) ** 2 * (LAM / (alpha**2 * LAM + sigma**2)).mean(1)).numpy()
        each = found.held_out[:, i]
        ratio = each / wanted  # of mean 1 for every picture, and of one spread
        error = ratio.std() / math.sqrt(n)
        assert error < 0.06
        assert abs(ratio.mean() - 1) < 3 * error
        assert np.corrcoef(each, wanted)[0, 1] > 0.1 or wanted.std() < 0.5 * wanted.mean()


def test_one_loss_written_out() -> None:
    """Picture 5 in band 2: its noise is that of its place, band and a stream of its own, whatever the run's seed."""
    for seed in (0, 7):
        setup, data = exact(PATHS["linear"], TARGETS["flow"], 40, train=Train(seed=seed))
        ask = validation(setup, data)
        found = ask(setup.model.net).held_out[5, 2]
        t = ask.grid.times[2, 5]
        x0 = torch.from_numpy(data.images[5])
        eps = Philox(0, torch.tensor([5]))(x0[None], 2, Stream.GRID)[0]
        x = (1 - t) * x0 + t * eps
        best = MU + (1 - t) * LAM * (x - (1 - t) * MU) / ((1 - t) ** 2 * LAM + t**2)
        y = (x - best) / t  # the velocity that belongs to this x0
        assert found == pytest.approx(float((y - (eps - x0)).square().mean()), rel=1e-4)


def test_the_value_does_not_depend_on_batches_precision_or_the_objectives_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, data = exact(PATHS["linear"], TARGETS["flow"], 70)
    first = validation(plain, data)(plain.model.net)
    other, _ = exact(
        PATHS["linear"], TARGETS["flow"], 70, train=Train(batch_size=8, accumulate=2), objective=Regression("l1")
    )
    other.model.autocast = torch.bfloat16
    assert np.array_equal(validation(other, data)(other.model.net).held_out, first.held_out)
    monkeypatch.setattr(module, "CHUNK", 9)
    assert np.allclose(validation(plain, data)(plain.model.net).held_out, first.held_out, rtol=1e-4)
    assert first.value == pytest.approx(float(first.held_out.mean(0).mean()))
    told = first.figures()
    assert [told[f"validation_band_{b}"] for b in range(4)] == pytest.approx(first.held_out.mean(0).tolist())
    assert [told[f"validation_train_band_{b}"] for b in range(4)] == pytest.approx(first.train.mean(0).tolist())
    assert told["validation_train"] == pytest.approx(float(first.train.mean()))


def test_as_many_training_pictures_are_asked_evenly_spread() -> None:
    setup, _ = exact(PATHS["linear"], TARGETS["flow"], 10)
    data = dataset(points(101))
    ask = Validation(setup, (data, np.arange(50)), (data, np.arange(50, 101)))
    (_, held), (_, seen) = ask.sets
    assert held.tolist() == [0, 5, 10, 16, 21, 27, 32, 38, 43, 49]
    assert len(seen) == 10
    assert (seen[0], seen[-1]) == (50, 100)
    few = Validation(setup, (data, np.arange(50)), (data, np.arange(50, 53)))
    assert few.count == 3
    assert few.key != ask.key


def test_coupled_noise_is_coupled_here_too() -> None:
    pytest.importorskip("scipy")
    objective = Regression(coupling=OptimalTransport())
    setup, data = exact(PATHS["linear"], TARGETS["flow"], 12, objective=objective, train=Train(batch_size=6))
    ask = validation(setup, data)
    batch = setup.batch(data.take(range(6)), torch.arange(6))
    own = Philox(0, torch.arange(6))(batch.x0, 1, Stream.GRID)
    paired = ask._noise(batch, 1)
    assert sorted(paired[:, 0].tolist()) == sorted(own[:, 0].tolist())
    assert (batch.x0 * paired).sum() > (batch.x0 * own).sum() + 0.1
    independent, _ = exact(PATHS["linear"], TARGETS["flow"], 12)
    a, b = ask(setup.model.net), validation(independent, data)(independent.model.net)
    assert not np.allclose(a.held_out, b.held_out)


# ------------------------------------------------------------------------------------------------------ which pictures


def test_validation_pictures_are_held_out_or_of_the_test_split() -> None:
    recipe = Recipe(DataSpec("moons", limit=90, val_fraction=0.2))
    data = load(recipe.data)
    found = unseen(recipe, data)
    assert found is not None
    assert found[0] is data
    assert 5 < len(found[1]) < 35
    assert unseen(Recipe(DataSpec("moons", limit=90)), data) is None
    test = unseen(replace(recipe, evaluation=Evaluation(split="test")), data)
    assert test is not None
    assert test[0].fingerprint == load(DataSpec("moons", split="test")).fingerprint != data.fingerprint
    assert len(test[1]) == len(test[0]) > 90  # the limit is of training
    with pytest.raises(ValueError, match=r"moons is trained on its test split.*val_fraction"):
        unseen(Recipe(DataSpec("moons", split="test"), evaluation=Evaluation(split="test")), data)
    with pytest.raises(ValueError, match=r"x\.npy is one array, without a test split"):
        unseen(Recipe(DataSpec("x.npy"), evaluation=Evaluation(split="test")), data)
    with pytest.raises(ValueError, match=r"examples of shape \(2,\) in 2 classes.* of shape \(4,\)"):
        unseen(Recipe(DataSpec("moons"), evaluation=Evaluation(split="test")), dataset(points(3)))


@pytest.mark.parametrize("wrong", [{"images": 0}, {"every": 0}, {"measure_every": 0}, {"measure_n": 1}])
def test_numbers_of_an_evaluation_are_at_least_one(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} = . must be at least"):
        Evaluation(**wrong)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------- overfitting


def losses(held_out: np.ndarray, train: np.ndarray | float) -> Losses:
    """Of one band; a number is that of every training picture, but for what tells them apart."""
    seen = train if isinstance(train, np.ndarray) else train + 1e-3 * np.linspace(-1, 1, len(held_out))
    return Losses((0,), held_out[:, None], seen[:, None])


NOISE = np.random.default_rng(0).normal(size=100)
LEVEL = np.linspace(0.5, 1.5, 100)
"""Pictures differ by much more than the loss changes: only in pairs can that be seen."""


def test_a_rise_beyond_two_errors_is_called_with_since_when_and_by_how_much() -> None:
    lowest, rise = overfitting(None, 100, losses(LEVEL, 0.9), "a")
    assert rise is None
    assert (lowest.step, lowest.risen) == (100, False)
    assert lowest.train.mean() == pytest.approx(0.9)
    change = 0.02 + 0.1 * (NOISE - NOISE.mean()) / NOISE.std(ddof=1)  # mean 0.02, error 0.01
    now, rise = overfitting(lowest, 200, losses(LEVEL + 0.999 * change + 0.001 * 0.02, 0.8), "a")
    assert rise is not None
    assert rise.by == pytest.approx(0.02)
    assert rise.error == pytest.approx(0.00999)
    assert rise.since == 100
    assert rise.train == pytest.approx((0.9, 0.8))
    assert (now.step, now.risen) == (100, True)
    assert now.held_out is lowest.held_out
    assert "since step 100" in str(rise)
    assert "risen by 0.02 ± 0.01 (+2.0%) from 1.0000" in str(rise)
    assert "fell from 0.9000 to 0.8000" in str(rise)
    just_not = losses(LEVEL + 1.001 * change - 0.001 * 0.02, 0.8)
    assert overfitting(lowest, 200, just_not, "a")[1] is None
    worse = losses(LEVEL + 0.5, 0.9001)  # both are: that is no overfitting
    assert overfitting(now, 200, worse, "a")[1] is None
    assert overfitting(now, 200, worse, "a")[0] is now  # what was said stays said
    # The fall on training pictures must exceed 2 errors as well.
    assert overfitting(lowest, 200, losses(LEVEL + 0.5, lowest.train - change + 0.0001), "a")[1] is None
    assert overfitting(lowest, 200, losses(LEVEL + 0.5, lowest.train - change - 0.0001), "a")[1] is not None
    down, _ = overfitting(now, 300, losses(LEVEL - 0.01, 0.7), "a")
    assert (down.step, down.risen) == (300, False)
    other, none = overfitting(lowest, 200, losses(LEVEL + 0.5, 0.8), "b")  # another question
    assert (other.step, other.key, none) == (200, "b", None)
    single = Lowest("a", 1, np.ones(1), np.ones(1))
    assert overfitting(single, 2, losses(np.array([9.0]), 0.5), "a")[1] is None  # one picture says nothing


def test_a_loss_that_wanders_is_not_called_overfitting() -> None:
    lowest: Lowest | None = None
    generator = np.random.default_rng(1)
    for step in range(1, 40):
        each, seen = (LEVEL + 0.05 * generator.normal(size=100) for _ in range(2))
        lowest, rise = overfitting(lowest, step, losses(each, seen), "a")
        assert rise is None


# ---------------------------------------------------------------------------------------------------------- in a run

TINY: dict[str, Any] = {
    "data": {"val_fraction": 0.5},
    "net": {"kind": "mlp", "width": 128, "depth": 1},
    "optim": {"kind": "adamw", "lr": 0.005, "weight_decay": 0.0, "schedule": {"warmup": 1, "decay": 0.0}},
    "train": {
        "steps": 105,
        "batch_size": 64,
        "ema": 0.05,
        "sample_every": 1000,
        "checkpoint_every": 50,
        "snapshots": 0,
    },
    "evaluation": {"every": 15, "images": 40},
}


@pytest.fixture
def file(tmp_path: File) -> str:
    """Thirty points of noise in 16 dimensions, of which nothing is to be learned but where they are, and as many."""
    np.save(tmp_path / "noise.npy", np.random.default_rng(0).normal(size=(60, 16)).astype("float32"))
    return str(tmp_path / "noise.npy")


def recipe(file: str, **tables: dict[str, Any]) -> Recipe:
    return read_recipe({k: {**TINY[k], **tables.get(k, {})} for k in TINY} | {"data": {**TINY["data"], "source": file}})


def finish(r: Recipe | None = None, out: File | None = None, **options: Any) -> list[Progress]:
    return list(train(r, out, **options))


def lines(run: File) -> list[dict[str, float]]:
    """What was measured, without what clocks say."""
    kept = ("step", "validation", "overfitting")
    return [
        {k: v for k, v in m.items() if k in kept or k.startswith("validation")}
        for m in read_metrics(run / "metrics.jsonl")
        if "validation" in m
    ]


def test_a_run_that_learns_its_few_points_by_heart_is_told_so_once_also_when_resumed(tmp_path: File, file: str) -> None:
    told = [n for p in finish(recipe(file), tmp_path / "whole") for n in p.notes if "Overfitting" in n]
    assert len(told) == 1
    measured = lines(tmp_path / "whole")
    assert [m["step"] for m in measured] == list(range(15, 106, 15))
    best = min(measured, key=lambda m: m["validation"])
    assert f"since step {best['step']}" in told[0]
    flagged = [m for m in measured if "overfitting" in m]
    assert flagged
    for m in flagged:
        assert m["overfitting"] == pytest.approx(m["validation"] - best["validation"], rel=1e-5)
        assert m["validation_train"] < best["validation_train"]
        bands = [m[f"validation_band_{b}"] for b in range(4)]
        assert m["validation"] == pytest.approx(sum(bands) / 4, rel=1e-6)
    asked = iter([False] * int(flagged[0]["step"]) + [True])
    again = finish(recipe(file), tmp_path / "parts", stop=lambda: next(asked))
    again += finish(resume=tmp_path / "parts")
    assert lines(tmp_path / "parts") == measured
    assert [n for p in again for n in p.notes if "Overfitting" in n] == told
    states = [
        json.loads((tmp_path / n / "checkpoints/step-105/state.json").read_text())["lowest"] for n in ("whole", "parts")
    ]
    assert states[0] == states[1]
    assert states[0]["step"] == best["step"]


def test_another_grid_is_another_question(tmp_path: File, file: str) -> None:
    """What was the lowest loss and the best checkpoint on other pictures says nothing of these."""
    r = recipe(file, train={"steps": 30})
    finish(r, tmp_path / "run")
    more = replace(r, train=replace(r.train, steps=60), evaluation=replace(r.evaluation, images=7))
    finish(more, resume=tmp_path / "run")
    after = json.loads((tmp_path / "run/checkpoints/step-60/state.json").read_text())
    assert after["best"]["step"] > 30
    assert after["lowest"]["step"] > 30
    assert ", 7 pictures" in after["best"]["measure"] == after["lowest"]["key"]


def test_a_picture_net_is_validated_with_its_labels(tmp_path: File) -> None:
    tables = {"data": {"source": "shapes", "limit": 30, "val_fraction": 0.3}, "net": {"kind": "unet", "preset": "tiny"}}
    r = read_recipe(tables)
    data = load(r.data)
    setup = set_up(r, data)
    setup.model.autocast = None
    rows = np.arange(6)
    found = Validation(setup, (data, rows), (data, rows))(setup.model.net)
    unlabelled = replace(data, labels=np.full(len(data), -1))
    with torch.no_grad():
        for p in setup.model.net.parameters():
            p.add_(0.02 * torch.sin(torch.arange(p.numel()).reshape(p.shape) + 1.0))
    one, other = (Validation(setup, (d, rows), (d, rows))(setup.model.net) for d in (data, unlabelled))
    setup.model.autocast = torch.bfloat16  # of training, not of this
    again = Validation(setup, (data, rows), (data, rows))(setup.model.net)
    assert np.array_equal(again.held_out, one.held_out)
    assert found.held_out.shape == (6, 4)
    assert not np.allclose(one.held_out, other.held_out)


def test_the_bands_are_named_in_the_plot_as_they_are() -> None:
    levels = [math.exp(-edge / 2) for edge in EDGES]
    told = [f"{a:.2g} to {b:.2g}" for a, b in pairwise(levels)]
    assert list(gallery.BANDS) == told
    assert gallery.band_plot([{"step": 1, "loss": 2.0}]) is None
    measured = [{"step": s, "validation_band_1": 1.0, "validation_train_band_1": 0.5} for s in (1, 2)]
    image = gallery.band_plot(measured)
    assert image is not None
    alone = gallery.band_plot([{k: v for k, v in m.items() if "train" not in k} for m in measured])
    assert alone is not None
    assert np.asarray(image).mean() != np.asarray(alone).mean()  # the faint line is there
