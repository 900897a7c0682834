"""Averages rebuilt after training: the algebra in closed form, the snapshots' schedule, and averages truly tracked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import inkwash
from inkwash import checkpoint
from inkwash.recipes import Recipe, read_recipe
from inkwash.training import Progress, snapshots, train
from inkwash.training.ema import SERIES, Ema, group
from inkwash.training.posthoc import assemble, kept
from inkwash.training.profiles import LONGEST, TOLERANCE, Profile, fit, power_beta, power_gamma, products, within

# ---------------------------------------------------------------------------------------------------------- profiles

PARTS = [Profile(step, length) for step in range(64, 1025, 64) for length in SERIES]


def sampled(p: Profile, t: np.ndarray) -> np.ndarray:
    """The profile (gamma + 1)·t^gamma/step^(gamma + 1) where t <= step."""
    gamma = power_gamma(p.sigma_rel)
    return np.where(t <= p.step, (gamma + 1) / p.step * (t / p.step) ** gamma, 0.0)


T = (np.arange(40_000) + 0.5) * (1024 / 40_000)


def test_the_steps_of_an_average_weigh_the_integrals_of_its_profile() -> None:
    n, length = 50, 0.07
    gamma = power_gamma(length)
    betas = np.array([power_beta(k, length) for k in range(1, n + 1)])
    weights = np.array([(1 - betas[k]) * np.prod(betas[k + 1 :]) for k in range(n)])
    integrals = [((k + 1) ** (gamma + 1) - k ** (gamma + 1)) / n ** (gamma + 1) for k in range(n)]
    assert weights == pytest.approx(integrals, rel=1e-12, abs=1e-300)


def test_products_are_integrals() -> None:
    profiles = [Profile(1024, 0.05), Profile(512, 0.1), Profile(700, 0.2), Profile(512, 0.03)]
    grid = np.stack([sampled(p, T) for p in profiles])
    assert products(profiles, profiles) == pytest.approx(grid @ grid.T * (1024 / len(T)), rel=1e-3)
    gamma = power_gamma(0.05)
    assert products([Profile(9, 0.05)], [Profile(9, 0.05)])[0, 0] == pytest.approx(
        (gamma + 1) ** 2 / (2 * gamma + 1) / 9
    )


@pytest.mark.parametrize("length", [0.03, 0.08, 0.2])
def test_the_combination_is_that_of_least_squares_among_those_that_sum_to_one(length: float) -> None:
    found = fit(Profile(1024, length), PARTS)
    assert sum(found.weights) == pytest.approx(1.0, abs=1e-12)
    grid = np.stack([sampled(p, T) for p in found.parts])
    wanted = sampled(Profile(1024, length), T)
    free, *_ = np.linalg.lstsq((grid[:-1] - grid[-1]).T, wanted - grid[-1], rcond=None)
    assert found.weights[:-1] == pytest.approx(free.tolist(), abs=2e-3 * max(map(abs, found.weights)))
    missed = np.linalg.norm(np.array(found.weights) @ grid - wanted) / np.linalg.norm(wanted)
    assert found.residual == pytest.approx(missed, rel=2e-2)
    assert found.gain == pytest.approx(float(np.sqrt(np.square(found.weights).sum())))


@pytest.mark.parametrize("part", [Profile(1024, 0.05), Profile(640, 0.1)])
def test_what_was_kept_is_itself(part: Profile) -> None:
    found = fit(part, [p for p in PARTS if p.step <= part.step])
    assert (found.parts, found.weights) == ((part,), (1.0,))
    assert found.residual < 1e-6


def test_more_snapshots_reach_further_and_the_range_is_where_they_do() -> None:
    few, many = ([Profile(step, s) for step in range(1024 // n, 1025, 1024 // n) for s in SERIES] for n in (16, 32))
    low, high = within(1024, few)
    assert 0.02 < low < 0.03  # about a snapshot's distance
    assert 0.24 < high < 0.28
    assert within(1024, many)[0] < low
    assert fit(Profile(1024, low), few).residual <= TOLERANCE < fit(Profile(1024, low - 0.001), few).residual
    assert fit(Profile(1024, high), few).residual <= TOLERANCE < fit(Profile(1024, high + 0.001), few).residual
    assert max(fit(Profile(1024, s), few).residual for s in (0.04, 0.05, 0.08, 0.12, 0.15)) < 0.0105


# ---------------------------------------------------------------------------------------------------------- schedule


def test_between_half_and_all_of_the_snapshots_are_there_evenly_however_long_the_run() -> None:
    there: set[int] = set()
    for step in range(1, 4000):
        width = snapshots.spacing(step, 32)
        if snapshots.due(step, 32):
            there = {s for s in there | {step} if s % width == 0}
        now = sorted(s for s in there if s % width == 0)
        assert now == list(range(width, step + 1, width))  # none is missing that was never taken
        if step >= 256:
            assert 16 <= len(now) <= 32
    assert [snapshots.spacing(n, 32) for n in (1, 512, 527, 528, 1055, 1056)] == [16, 16, 16, 32, 32, 64]
    assert not snapshots.due(0, 32)
    assert not snapshots.due(64, 0)


def test_snapshots_are_thinned_after_the_new_one_is_safe_and_large_numbers_stay_whole(tmp_path: Path) -> None:
    def weights(x: float) -> dict[str, dict[str, Tensor]]:
        return {"ema-0.05": {"w": torch.tensor([x, 1 / 3]), "n": torch.tensor([7])}}

    lengths = {"ema-0.05": 0.05}
    for step in (16, 32, 48):
        assert snapshots.take(tmp_path, step, weights(2.0), lengths, {"steps": float(step)}, 3) == []
    notes = snapshots.take(tmp_path, 64, weights(70_000.0), lengths, {"steps": 64.0}, 3)
    assert list(snapshots.steps(tmp_path / "snapshots")) == [32, 64]
    assert notes == ["Snapshots hold ema-0.05: w in float32: the numbers are too large for float16."]
    small, large = (checkpoint.load(tmp_path / f"snapshots/step-{n}").tensors["ema-0.05"] for n in (32, 64))
    assert (small["w"].dtype, large["w"].dtype, small["n"].dtype) == (torch.float16, torch.float32, torch.int64)
    assert large["w"].tolist() == pytest.approx([70_000.0, 1 / 3], rel=1e-7)
    assert small["w"].tolist() == pytest.approx([2.0, 1 / 3], rel=1e-3)
    about = snapshots.about(tmp_path / "snapshots/step-64")
    snapshots.cut(tmp_path, 64)  # a run goes on from 64: its own snapshot stays
    assert list(snapshots.steps(tmp_path / "snapshots")) == [32, 64]
    snapshots.cut(tmp_path, 63)
    assert list(snapshots.steps(tmp_path / "snapshots")) == [32]
    assert about == {"step": 64, "lengths": lengths, "trained": {"steps": 64.0}, "float32": ["ema-0.05: w"]}


# -------------------------------------------------------------------------------------------------------------- runs

STEPS = 272
TINY: dict[str, Any] = {
    "data": {"source": "moons", "limit": 60},
    "net": {"kind": "mlp", "width": 8, "depth": 1},
    "optim": {"kind": "adamw", "lr": 0.02},
    "train": {"steps": STEPS, "batch_size": 4, "samples": 2, "sample_every": 10_000, "checkpoint_every": 100},
    "sampler": {"steps": 2},
}


def recipe(**tables: dict[str, Any]) -> Recipe:
    return read_recipe({k: {**TINY[k], **tables.get(k, {})} for k in TINY})


def finish(r: Recipe | None = None, out: Path | None = None, **options: Any) -> list[Progress]:
    return list(train(r, out, **options))


LENGTHS = (0.03, 0.04, 0.08, 0.15, 0.2)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[float, nn.Module], nn.Module]]:
    """A run, with the averages of `LENGTHS` truly tracked beside it, and the weights it ended with."""
    tracked: dict[float, Ema] = {}
    ended: list[nn.Module] = []
    update = Ema.update

    def watched(self: Ema, net: nn.Module, n: int, ok: Tensor) -> None:
        update(self, net, n, ok)
        if self.sigma_rel == 0.05:
            for length in LENGTHS:
                update(tracked.setdefault(length, Ema(net, length)), net, n, ok)
            ended[:] = [net]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ema, "update", watched)
        out = tmp_path_factory.mktemp("posthoc") / "run"
        finish(recipe(), out)
    yield out, {length: ema.net for length, ema in tracked.items()}, ended[0]


def flat(weights: dict[str, Tensor]) -> Tensor:
    return torch.cat([weights[k].detach().double().flatten() for k in sorted(weights)])


@pytest.mark.parametrize("length", LENGTHS)
def test_a_rebuilt_average_is_the_one_that_was_tracked(whole: Any, length: float) -> None:
    """To within some hundredths of how far the average is from the weights themselves."""
    run, tracked, net = whole
    found = inkwash.rebuild(run, length)
    truth, made, last = flat(tracked[length].state_dict()), flat(found.weights), flat(net.state_dict())
    error = float((made - truth).norm() / (truth - last).norm())
    assert error < {0.03: 0.12, 0.04: 0.03}.get(length, 0.015)
    assert float((made - truth).norm() / truth.norm()) < 2e-3
    nearest = min((0.05, 0.1), key=lambda s: abs(s - length))  # no mere copy of a kept one
    other = flat(checkpoint.load(run / f"checkpoints/step-{STEPS}").tensors["ema" if nearest == 0.1 else "ema-0.05"])
    assert (made - truth).norm() < 0.2 * (other - truth).norm()


def test_one_of_the_kept_lengths_is_what_was_kept(whole: Any) -> None:
    run = whole[0]
    end = checkpoint.load(run / f"checkpoints/step-{STEPS}").tensors
    for length, name in ((0.05, "ema-0.05"), (0.1, "ema")):
        found = inkwash.rebuild(run, length)
        assert found.fit.weights == (1.0,)
        assert all(torch.equal(found.weights[k], end[name][k]) for k in end[name])
        early = inkwash.rebuild(run, length, step=96).weights
        shot = checkpoint.load(run / "snapshots/step-96").tensors[group(length)]
        assert all(torch.equal(early[k], shot[k].float()) for k in shot)
        assert shot["last.weight"].dtype == torch.float16


def test_a_rebuilt_model_says_its_length_and_draws(whole: Any, tmp_path: Path) -> None:
    run = whole[0]
    found = inkwash.rebuild(run, 0.08, step=160)
    found.save(tmp_path / "model")
    pipe = inkwash.load(tmp_path / "model", device="cpu")
    assert pipe.config.ema == 0.08
    assert pipe.config.trained["steps"] == 160
    assert pipe.config.trained["images"] == 160 * 4
    assert inkwash.load(run, device="cpu").config.ema == 0.1
    a, b = pipe(3), found.pipeline(device="cpu")(3)
    assert np.array_equal(a.array, b.array)
    assert found.fit.wanted == Profile(160, 0.08)
    assert max(p.step for p in found.fit.parts) == 160  # nothing after it


def test_what_cannot_be_rebuilt_is_refused_with_the_range_and_why(whole: Any) -> None:
    run = whole[0]
    low, high = within(STEPS, list(kept(run).parts))
    with pytest.raises(
        ValueError, match=rf"steps are too far apart for a window that short\. From {low:g} to {high:g} can"
    ):
        inkwash.rebuild(run, 0.01)
    with pytest.raises(ValueError, match=r"sigma = 0\.285 cannot be rebuilt.*see too little of the beginning\. From"):
        inkwash.rebuild(run, 0.285)
    for wrong in (0.0, -0.1, LONGEST, float("nan")):
        with pytest.raises(ValueError, match="is no length of an average"):
            inkwash.rebuild(run, wrong)
    with pytest.raises(ValueError, match=r"Nothing was kept at step 97.*The nearest: 96 and 100\."):
        inkwash.rebuild(run, 0.1, step=97)
    with pytest.raises(ValueError, match=r"^No run in .*nowhere: there is no such folder"):
        inkwash.rebuild(run / "nowhere", 0.1)


def test_a_damaged_snapshot_is_named_and_a_missing_one_costs_little(whole: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    file = run / "snapshots/step-128/ema-0.05.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match=r"ema-0\.05\.safetensors was altered.*Delete .*step-128 to"):
        inkwash.rebuild(run, 0.15)
    (run / "snapshots/step-144/snapshot.json").unlink()
    with pytest.raises(checkpoint.CheckpointError, match=r"snapshot\.json.*Delete .*step-144 to do"):
        kept(run)
    shutil.rmtree(run / "snapshots/step-128")
    shutil.rmtree(run / "snapshots/step-144")
    assert inkwash.rebuild(run, 0.15).fit.residual < 0.05


def test_a_run_of_which_only_snapshots_are_left_ends_at_the_newest(whole: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    for folder in (run / "checkpoints").iterdir():
        (folder / "manifest.json").unlink()
    have = kept(run)
    assert have.step == max(snapshots.steps(run / "snapshots")) == STEPS
    assert assemble(run, have, 0.05).config.trained["steps"] == STEPS


def state(run: Path, step: int) -> dict[str, Tensor]:
    saved = checkpoint.load(run / f"checkpoints/step-{step}")
    return {f"{g}.{n}": t for g, tensors in saved.tensors.items() for n, t in tensors.items()}


def taken(run: Path) -> dict[str, bytes]:
    """Every tensor file of every snapshot."""
    return {str(f.relative_to(run)): f.read_bytes() for f in sorted(run.glob("snapshots/*/*.safetensors"))}


def test_a_run_resumed_from_an_earlier_step_drops_later_snapshots_and_rewrites_them_equally(
    whole: Any, tmp_path: Path
) -> None:
    before, end = taken(whole[0]), state(whole[0], STEPS)
    assert len(before) == 2 * 17
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    marks = {n: (run / f"snapshots/step-{n}").stat().st_ino for n in (96, 112)}
    resumed = train(resume=run / "checkpoints/step-100")
    next(resumed)
    assert max(snapshots.steps(run / "snapshots")) < 112
    list(resumed)
    assert taken(run) == before
    assert (run / "snapshots/step-96").stat().st_ino == marks[96]
    after = state(run, STEPS)
    assert after.keys() == end.keys()
    assert all(torch.equal(after[n], end[n]) for n in end)
    assert not torch.equal(end["ema.last.weight"], end["ema-0.05.last.weight"])


def test_equal_lengths_are_computed_once(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 16, "ema": 0.05}), tmp_path / "run")
    counters = json.loads((tmp_path / "run/checkpoints/step-16/state.json").read_text())
    assert counters["lengths"] == {"ema": 0.05, "ema-0.1": 0.1}
    shot = checkpoint.load(tmp_path / "run/snapshots/step-16").tensors
    own = checkpoint.load(tmp_path / "run/checkpoints/step-16").tensors["ema"]
    assert shot.keys() == {"ema-0.05", "ema-0.1"}
    assert all(torch.equal(shot["ema-0.05"][k], own[k].half()) for k in own)


def test_without_snapshots_there_is_nothing_to_rebuild(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 20, "snapshots": 0}), tmp_path / "run")
    assert not (tmp_path / "run/snapshots").exists()
    assert set(checkpoint.load(tmp_path / "run/checkpoints/step-20").tensors) == {"net", "ema", "optim"}
    with pytest.raises(ValueError, match=r"has no snapshots: .*train\.snapshots = 0.*Only its own average exists"):
        inkwash.rebuild(tmp_path / "run", 0.08)
    more = recipe(train={"steps": 40})
    told = [n for p in finish(more, resume=tmp_path / "run") for n in p.notes]
    assert any("No snapshots are taken" in n for n in told)  # the averages have missed the beginning
    assert not (tmp_path / "run/snapshots").exists()
    for wrong in (1, -3):
        with pytest.raises(ValueError, match=f"snapshots = {wrong} must be at least 2, or 0"):
            recipe(train={"snapshots": wrong})


def test_a_full_disk_costs_a_snapshot_and_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.publish

    def publish(folder: Path, *args: Any) -> Path:
        if folder.parent.name == "snapshots" and folder.name == "step-32":
            raise checkpoint.DiskFull("No space left.")
        return real(folder, *args)

    monkeypatch.setattr(checkpoint, "publish", publish)
    progress = finish(recipe(train={"steps": 48}), tmp_path / "run")
    assert any("No space left. Training goes on without this snapshot." in n for p in progress for n in p.notes)
    assert list(snapshots.steps(tmp_path / "run/snapshots")) == [16, 48]
    assert progress[-1].done
