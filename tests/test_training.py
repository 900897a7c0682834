"""A run that is stopped, killed, starved of memory or disk, or fed with nonsense ends where it would have ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import inkwash
from inkwash import checkpoint
from inkwash.data import load
from inkwash.evaluation.record import Measure, Record
from inkwash.evaluation.record import read as read_records
from inkwash.kinds import from_table
from inkwash.objectives import AnyObjective, Bound, EdmWeight, Hybrid, MinSnr, OptimalTransport, Regression
from inkwash.pictures import read_settings
from inkwash.recipes import Recipe, RecipeError, read_recipe
from inkwash.times import Importance, LogNormalNoise
from inkwash.training import Progress, TrainingError, resume_recipe, train
from inkwash.training.run import Run, read_metrics
from inkwash.training.setup import set_up

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


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_resumed_run_is_the_run_that_was_never_stopped(tmp_path: Path, kind: str) -> None:
    r = (
        recipe(optim={"kind": kind}, train={"steps": 6, "checkpoint_every": 3})
        if kind == "muon"
        else recipe(optim={"kind": kind, "lr": 0.01}, train={"steps": 6, "checkpoint_every": 3})
    )
    finish(r, tmp_path / "whole")
    asked = iter([False, False, False, True])
    finish(r, tmp_path / "parts", stop=lambda: next(asked))
    assert checkpoint.newest_good(tmp_path / "parts" / "checkpoints")[0].name == "step-3"
    finish(r, resume=tmp_path / "parts")
    assert_same(state(tmp_path / "whole/checkpoints/step-6"), state(tmp_path / "parts/checkpoints/step-6"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    assert len(losses(tmp_path / "whole")) == 2


def test_a_run_killed_while_it_saves_goes_on_bit_for_bit(tmp_path: Path) -> None:
    steps = 12
    r = recipe(train={"steps": steps, "checkpoint_every": 1})
    finish(r, tmp_path / "whole")
    run = tmp_path / "killed"
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from inkwash.recipes import read_recipe\n"
        "from inkwash.training import train\n"
        f"resume = {str(run)!r} if sys.argv[1] == 'resume' else None\n"
        f"for p in train(read_recipe({str(tmp_path / 'r.toml')!r}), None if resume else {str(run)!r}, resume=resume):\n"
        "    print(p.step, flush=True)\n"
    )
    (tmp_path / "r.toml").write_text(inkwash.recipes.write_recipe(r))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    generator = torch.Generator().manual_seed(int.from_bytes(os.urandom(4), "big"))
    kills, saw = 0, 0
    for attempt in range(40):
        have = bool(list((run / "checkpoints").glob("step-*/manifest.json"))) if run.exists() else False
        process = subprocess.Popen(
            [sys.executable, "-c", code, "resume" if have else "start"], stdout=subprocess.PIPE, text=True, env=env
        )
        assert process.stdout is not None
        first = process.stdout.readline()  # it is training now; strike at a random instant of the next steps
        if first and attempt < 4:
            time.sleep(float(torch.rand((), generator=generator)) * 0.3)
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.stdout.read()
        process.wait()
        process.stdout.close()
        if any((run / "checkpoints").glob("step-*")):
            good = checkpoint.newest_good(run / "checkpoints")[0]
            now = int(good.name.removeprefix("step-"))
            assert now >= saw, "a finished checkpoint was lost"
            saw = now
        if process.returncode == 0:
            break
    assert kills >= 1
    assert saw == steps
    assert_same(state(tmp_path / "whole/checkpoints" / f"step-{steps}"), state(run / "checkpoints" / f"step-{steps}"))
    assert losses(tmp_path / "whole")[-1] == losses(run)[-1]


@dataclass(frozen=True)
class Spoilt(Regression):
    """The regression loss, NaN in the steps `bad`, and no more than `room` examples at once."""

    bad: tuple[int, ...] = ()
    room: int = 1000
    kind: Any = field(default="tests:Spoilt", kw_only=True, repr=False)

    def __call__(self, model: Any, batch: Any, noise: Any, progress: float) -> torch.Tensor:
        if len(batch.x0) > self.room:
            raise torch.OutOfMemoryError("out of memory, as asked")
        loss = super().__call__(model, batch, noise, progress)
        step = int(batch.number[0]) // batch.size
        return loss * (torch.nan if step in self.bad else 1.0)


def spoilt(r: Recipe, **kwargs: Any) -> Recipe:
    return replace(r, objective=Spoilt(**kwargs))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(tmp_path: Path) -> None:
    for kind in ("adamw", "muon"):
        r = recipe(optim={"kind": kind}, train={"steps": 4, "checkpoint_every": 1, "keep": 9})
        end = finish(spoilt(r, bad=(2,)), tmp_path / kind)[-1]
        assert end.skipped == 1
        before, after = (state(tmp_path / kind / f"checkpoints/step-{n}") for n in (2, 3))
        for name in before:
            if name not in ("step", "skipped"):
                assert torch.equal(before[name], after[name]), name
        moved = state(tmp_path / kind / "checkpoints/step-4")
        assert any(not torch.equal(moved[n], after[n]) for n in moved if n.startswith("net."))


def test_losses_that_stay_non_finite_stop_the_run_and_name_the_last_good_step(tmp_path: Path) -> None:
    r = recipe(train={"steps": 30, "checkpoint_every": 5, "patience": 4})
    with pytest.raises(TrainingError, match=r"last [4-9] steps.*last good checkpoint is .*step-5"):
        finish(spoilt(r, bad=tuple(range(6, 30))), tmp_path / "run")
    for folder in (tmp_path / "run/checkpoints").iterdir():
        assert all(t.isfinite().all() for t in state(folder).values() if t.is_floating_point())


def test_out_of_memory_halves_the_parts_and_learns_the_same(tmp_path: Path) -> None:
    whole = recipe(net={"dropout": 0.0})
    progress = finish(spoilt(whole, room=2), tmp_path / "starved")
    notes = [n for p in progress for n in p.notes]
    assert sum("Out of memory" in n for n in notes) == 2  # 8 -> 4 -> 2 examples at once
    finish(replace(whole, train=replace(whole.train, accumulate=4)), tmp_path / "parts")
    finish(whole, tmp_path / "whole")
    assert_same(state(tmp_path / "starved/checkpoints/step-6"), state(tmp_path / "parts/checkpoints/step-6"))
    # One part or four: the same examples, times and noise, summed in another order.
    assert losses(tmp_path / "parts")[0][1] == pytest.approx(losses(tmp_path / "whole")[0][1], rel=1e-3)


def test_a_full_disk_keeps_the_old_checkpoint_and_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full = checkpoint.publish, []

    def publish(folder: Path, tensors: Any, texts: Any) -> Path:
        if folder.name == "step-4":
            full.append(folder)
            raise checkpoint.DiskFull("No space left.")
        return real(folder, tensors, texts)

    monkeypatch.setattr(checkpoint, "publish", publish)
    progress = finish(recipe(train={"steps": 6, "checkpoint_every": 2}), tmp_path / "run")
    notes = [n for p in progress for n in p.notes]
    assert full
    assert any("No space left" in n and "step-2" in n for n in notes)
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"step-2", "step-6"}
    assert progress[-1].done


def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_offered(tmp_path: Path) -> None:
    r = recipe(train={"steps": 4, "checkpoint_every": 2})
    finish(r, tmp_path / "run")
    weights = tmp_path / "run/checkpoints/step-4/net.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError, match=r"net\.safetensors was altered.*\n.*--resume .*step-2"):
        finish(r, resume=tmp_path / "run")
    longer, _ = resume_recipe(tmp_path / "run/checkpoints/step-2")
    assert finish(longer, resume=tmp_path / "run/checkpoints/step-2")[-1].step == 4


def test_resuming_tells_differences_and_refuses_what_cannot_change(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 2}), tmp_path / "run")
    longer, told = resume_recipe(tmp_path / "run", {"train.steps": 3, "optim.lr": 0.02})
    assert told == ["optim.lr: 0.01 -> 0.02", "train.steps: 2 -> 3"]
    assert finish(longer, resume=tmp_path / "run")[-1].step == 3
    with pytest.raises(RecipeError, match=r"train\.seed: 0 -> 1(.|\n)*--init-from"):
        resume_recipe(tmp_path / "run", {"train.seed": 1, "train.steps": 9})
    with pytest.raises(ValueError, match=r"holds a run already.*--resume"):
        finish(recipe(), tmp_path / "run")


def test_a_run_is_a_function_of_its_seed(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finish(recipe(train={"steps": 2, "seed": seed}), tmp_path / name)
    a, b, c = (state(tmp_path / n / "checkpoints/step-2") for n in "abc")
    assert_same(a, b)
    assert not torch.equal(a["net.stem.weight"], c["net.stem.weight"])


def test_fine_tuning_starts_from_the_average_and_refuses_what_does_not_fit(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 2}), tmp_path / "base")
    frozen = recipe(train={"steps": 1, "init_from": str(tmp_path / "base")}, optim={"lr": 1e-12, "weight_decay": 0.0})
    finish(frozen, tmp_path / "tuned")
    base, tuned = (state(tmp_path / n) for n in ("base/checkpoints/step-2", "tuned/checkpoints/step-1"))
    for name in base:
        if name.startswith("ema."):
            assert torch.allclose(base[name], tuned["net." + name.removeprefix("ema.")], atol=1e-9)
    with pytest.raises(ValueError, match=r"does not fit this run: .* differ in name or shape"):
        finish(recipe(net={"widths": [32]}, train={"init_from": str(tmp_path / "base")}), tmp_path / "other")


def test_resuming_from_an_older_checkpoint_sets_the_later_ones_aside(tmp_path: Path) -> None:
    r = recipe(train={"steps": 6, "checkpoint_every": 2, "keep": 1})
    finish(replace(r, train=replace(r.train, keep=9)), tmp_path / "run")
    before = state(tmp_path / "run/checkpoints/step-6")
    progress = finish(r, resume=tmp_path / "run/checkpoints/step-2")
    assert any("Going on from step 2; the later step-4, step-6 went to" in n for p in progress for n in p.notes)
    assert {p.name for p in (tmp_path / "run/set-aside").iterdir()} == {"step-4", "step-6"}
    assert {p.name for p in (tmp_path / "run/checkpoints").glob("step-*")} == {"step-6"}
    assert_same(state(tmp_path / "run/checkpoints/step-6"), before)
    assert [step for step, _ in losses(tmp_path / "run")] == [2, 4, 6]


def test_the_same_parts_after_running_out_of_memory_and_resuming(tmp_path: Path) -> None:
    r = recipe(train={"steps": 6, "checkpoint_every": 3})
    finish(spoilt(r, room=4), tmp_path / "whole")
    asked = iter([False, False, False, True])
    finish(spoilt(r, room=4), tmp_path / "parts", stop=lambda: next(asked))
    finish(spoilt(r), resume=tmp_path / "parts")  # now there would be room for the whole batch
    assert_same(state(tmp_path / "whole/checkpoints/step-6"), state(tmp_path / "parts/checkpoints/step-6"))


def test_a_full_disk_keeps_the_metrics_for_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = Run.log, [True]

    def log(self: Run, lines: list[str]) -> None:
        if full:
            full.pop()
            raise OSError(28, "No space left on device")
        real(self, lines)

    monkeypatch.setattr(Run, "log", log)
    progress = finish(recipe(train={"steps": 6, "checkpoint_every": 2}), tmp_path / "run")
    assert any("No space left" in n for p in progress for n in p.notes)
    assert [step for step, _ in losses(tmp_path / "run")] == [2, 4, 6]


def test_train_itself_refuses_another_recipe_for_a_run_and_a_run_in_use(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 2}), tmp_path / "run")
    with pytest.raises(RecipeError, match=r"train\.batch_size: 8 -> 4"):
        finish(recipe(train={"steps": 4, "batch_size": 4}), resume=tmp_path / "run")
    assert list(train(resume=tmp_path / "run"))[-1].done
    running = train(recipe(train={"steps": 4}), tmp_path / "busy")
    next(running)
    with pytest.raises(ValueError, match="being trained by another process"):
        finish(recipe(train={"steps": 4}), tmp_path / "busy")
    running.close()


def test_vectors_of_any_length_train(tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 5)).astype("float32"))
    r = read_recipe({"data": {"source": str(tmp_path / "x.npy")}, "train": {"steps": 2, "batch_size": 8}})
    finish(r, tmp_path / "run")
    assert inkwash.load(tmp_path / "run", device="cpu")(3, steps=2).array.shape == (3, 5)


def test_validation_is_a_fixed_question_and_keeps_the_best(tmp_path: Path) -> None:
    r = recipe(
        data={"val_fraction": 0.2},
        train={"steps": 6, "checkpoint_every": 2, "keep": 1},
        evaluation={"every": 2, "images": 8},
    )
    progress = finish(r, tmp_path / "run")
    measured = {p.step: p.validation for p in progress if p.validation is not None}
    assert set(measured) == {2, 4, 6}
    best = min(measured, key=lambda s: measured[s])
    kept = {p.name for p in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {f"step-{best}", "step-6"}
    again = finish(replace(r, train=replace(r.train, keep=3)), tmp_path / "again")
    assert {p.step: p.validation for p in again if p.validation is not None} == measured


def test_the_model_of_a_running_run_can_be_sampled(tmp_path: Path) -> None:
    run = train(recipe(train={"steps": 4, "checkpoint_every": 2}), tmp_path / "run")
    next(p for p in run if p.saved)
    early = inkwash.load(tmp_path / "run", device="cpu")(2, seed=1)
    list(run)
    late = inkwash.load(tmp_path / "run", device="cpu")(2, seed=1)
    assert early.settings["trained"]["steps"] == 2
    assert late.settings["trained"]["steps"] == 4
    assert (early.array != late.array).any()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_tensorboard_is_told_what_the_metrics_say(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    finish(recipe(train={"steps": 4, "checkpoint_every": 2, "tensorboard": True}), tmp_path / "run")
    board = events.EventAccumulator(str(tmp_path / "run/tensorboard"))
    board.Reload()
    told = [(s.step, s.value) for s in board.Scalars("loss")]
    assert told == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in losses(tmp_path / "run")]


def test_a_users_own_class_trains_and_is_refused_from_a_model_without_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_targets.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass(frozen=True)\n"
        "class Half:\n"
        "    share: float = 0.5\n"
        "    def __call__(self, c):\n"
        "        return torch.full_like(c.alpha, -self.share), torch.full_like(c.alpha, 1 - self.share)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    mine = recipe(target={"kind": "my_targets:Half", "share": 0.25}, train={"steps": 1})
    finish(mine, tmp_path / "run")
    with pytest.raises(ValueError, match=r"my_targets:Half is code from outside inkwash.*--trust"):
        inkwash.load(tmp_path / "run")
    assert inkwash.load(tmp_path / "run", trust=True).model.target.share == 0.25


def test_recipes_survive_the_way_to_toml_and_back() -> None:
    r = recipe(path={"kind": "table", "betas": {"kind": "cosine", "steps": 50}}, target={"kind": "v"})
    import tomllib

    assert from_table(Recipe, tomllib.loads(inkwash.recipes.write_recipe(r)), trust=True) == r


# ------------------------------------------------------------------------- objectives that learn more than the mean

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


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("objective", [HYBRID, {"kind": "bound", "steps": 20, "times": IMPORTANCE}])
def test_what_an_objective_remembers_is_part_of_the_checkpoint(
    tmp_path: Path, objective: dict[str, Any], accumulate: int
) -> None:
    r = replace(plane(train={"accumulate": accumulate}), objective=from_table(AnyObjective, objective))
    finish(r, tmp_path / "whole")
    asked = iter([False, False, False, False, True])
    finish(r, tmp_path / "parts", stop=lambda: next(asked))
    early = state(tmp_path / "parts/checkpoints/step-4")
    assert early["memory.seen"].sum() == 4 * 8  # every example of every step
    assert early["memory.seen"].min() >= 3  # full: from here on times are drawn by it
    finish(r, resume=tmp_path / "parts")
    whole = state(tmp_path / "whole/checkpoints/step-8")
    assert whole["memory.seen"].sum() == 8 * 8
    assert whole["memory.losses"].shape == (4, 3)
    assert_same(whole, state(tmp_path / "parts/checkpoints/step-8"))
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_times_are_drawn_by_what_was_remembered_before_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of a batch are drawn with one memory, which holds what the steps before have lost."""
    given, kept = [], []
    call, remember = Hybrid.__call__, Hybrid.remember

    def watched(self: Hybrid, model: Any, batch: Any, noise: Any, progress: float) -> torch.Tensor:
        given.append({n: v.clone() for n, v in batch.memory.items()})
        return call(self, model, batch, noise, progress)

    def remembered(self: Hybrid, *args: Any) -> dict[str, torch.Tensor]:
        kept.append(remember(self, *args))
        return kept[-1]

    monkeypatch.setattr(Hybrid, "__call__", watched)
    monkeypatch.setattr(Hybrid, "remember", remembered)
    finish(plane(train={"accumulate": 2, "steps": 3}), tmp_path / "run")
    assert len(given) == len(kept) == 6
    for step in range(3):
        assert_same(given[2 * step], given[2 * step + 1])
        assert_same(given[2 * step], kept[2 * step - 1] if step else Importance(4, 3).memory())


def test_an_objective_without_memory_is_given_none_and_saves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Regression.__call__

    def watched(self: Regression, model: Any, batch: Any, noise: Any, progress: float) -> torch.Tensor:
        assert batch.memory is None
        return call(self, model, batch, noise, progress)

    monkeypatch.setattr(Regression, "__call__", watched)
    monkeypatch.setattr(Regression, "remember", None)
    finish(recipe(train={"steps": 2}), tmp_path / "run")
    assert not any(n.startswith("memory") for n in state(tmp_path / "run/checkpoints/step-2"))


def test_another_objective_begins_with_a_memory_of_its_own(tmp_path: Path) -> None:
    finish(plane(train={"steps": 4}), tmp_path / "run")
    other = plane(objective={"times": {"kind": "importance", "bins": 5, "history": 2}}, train={"steps": 5})
    finish(other, resume=tmp_path / "run")
    after = state(tmp_path / "run/checkpoints/step-5")
    assert after["memory.losses"].shape == (5, 2)
    assert after["memory.seen"].sum() == 8


def test_samples_of_a_run_take_fifty_steps_at_most_or_the_times_that_are_listed(tmp_path: Path) -> None:
    sixty = {"grid": {"kind": "listed", "times": [1 - i / 60 for i in range(61)]}, "steps": 60}
    for name, sampler, steps in (("a", sixty, 60), ("b", {"steps": 60}, 50), ("c", {"steps": 3}, 3)):
        finish(plane(train={"steps": 1}, sampler=sampler), tmp_path / name)
        noted = read_settings(tmp_path / name / "samples/step-0000001.png")
        assert noted["steps"] == steps


def test_a_memory_does_not_outlive_its_objective(tmp_path: Path) -> None:
    """A bound's losses are no hybrid's, though their tables are of one shape."""
    times = {"kind": "importance", "bins": 5, "history": 2}
    first, other = (
        replace(plane(train={"steps": n}), objective=from_table(AnyObjective, {"kind": k, "steps": 9, "times": times}))
        for n, k in ((4, "hybrid"), (5, "bound"))
    )
    finish(first, tmp_path / "run")
    kept = state(tmp_path / "run/checkpoints/step-4")["memory.seen"].sum()
    finish(replace(first, train=replace(first.train, steps=5)), resume=tmp_path / "run")
    assert state(tmp_path / "run/checkpoints/step-5")["memory.seen"].sum() == kept / 4 * 5
    finish(replace(other, train=replace(other.train, steps=6)), resume=tmp_path / "run")
    assert state(tmp_path / "run/checkpoints/step-6")["memory.seen"].sum() == kept / 4


def test_a_learned_variance_is_trained_saved_and_sampled_with(tmp_path: Path) -> None:
    finish(plane(train={"steps": 4}), tmp_path / "run")
    model = inkwash.load(tmp_path / "run", device="cpu").model
    assert model.learned_variance
    before, after = (state(tmp_path / "run/checkpoints/step-4")[n] for n in ("ema.last.weight", "net.last.weight"))
    assert before.shape == after.shape == (4, 16)
    assert after[2:].abs().min() > 0  # both halves have learned
    drawn = inkwash.load(tmp_path / "run", device="cpu")(3, sampler=inkwash.Ancestral("learned"), steps=4)
    small = inkwash.load(tmp_path / "run", device="cpu")(3, sampler=inkwash.Ancestral("small"), steps=4)
    assert (drawn.array != small.array).all()
    plain = {"kind": "regression"}
    with pytest.raises(RecipeError, match=r"objective\.kind: 'hybrid' -> 'regression'(.|\n)*--init-from"):
        finish(replace(plane(), objective=from_table(AnyObjective, plain)), resume=tmp_path / "run")


def test_a_config_that_says_nothing_of_the_variance_has_none(tmp_path: Path) -> None:
    finish(recipe(train={"steps": 1}), tmp_path / "run")
    table = json.loads((tmp_path / "run/model/config.json").read_text())
    assert table.pop("learned_variance") is False
    old = {k: v for k, v in table.items() if k not in ("format", "inkwash")}
    config = from_table(inkwash.Config, old)
    assert not config.learned_variance
    assert not config.build().learned_variance


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ('kind = "bound"\ntimes = "importance"', Bound(Importance())),
        (
            'kind = "hybrid"\nlam = 0.01\nsteps = 50\nloss = "huber"\nweight = {kind = "min-snr", gamma = 3}\n'
            'times = {kind = "importance", bins = 7, history = 2, floor = 0.1, stratified = false}',
            Hybrid(0.01, "huber", Importance(7, 2, 0.1, stratified=False), MinSnr(3.0), 50),
        ),
        (
            'kind = "regression"\ncoupling = "optimal-transport"\nweight = {kind = "edm", data_std = 0.4}\n'
            'times = {kind = "log-normal-noise", mean = -0.5}',
            Regression("mse", LogNormalNoise(-0.5), EdmWeight(0.4), OptimalTransport()),
        ),
    ],
)
def test_every_objective_can_be_written_in_a_recipe(tmp_path: Path, text: str, want: Any) -> None:
    file = tmp_path / "r.toml"
    file.write_text(f'[data]\nsource = "swiss-roll"\n[objective]\n{text}\n')
    r = read_recipe(file)
    assert r.objective == want
    file.write_text(inkwash.recipes.write_recipe(r))
    assert read_recipe(file) == r


def test_pixels_are_data_in_bins_and_points_are_not(tmp_path: Path) -> None:
    for r, width in ((recipe(), pytest.approx(2 / 255)), (plane(), None)):
        setup = set_up(r, load(r.data))
        images, labels = setup.dataset.images[:2].copy(), setup.dataset.labels
        batch = setup.batch(images, None if labels is None else labels[:2], torch.arange(2))
        assert batch.bin == width


def test_optimal_transport_trains_and_without_scipy_says_so_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    r = plane(train={"steps": 2})
    r = replace(r, objective=Regression(coupling=OptimalTransport()))
    assert finish(r, tmp_path / "run")[-1].step == 2
    monkeypatch.setattr("inkwash.objectives.coupling.find_spec", lambda name: None if name == "scipy" else object())
    with pytest.raises(ValueError, match=r'needs scipy: pip install "inkwash\[ot\]"'):
        finish(r, tmp_path / "other")
    assert not (tmp_path / "other").exists()


# ------------------------------------------------------------------------------------ small evaluations on a schedule

SCHEDULED: dict[str, Any] = {
    "data": {"val_fraction": 0.4},
    "evaluation": {"every": 4, "measure": "fd", "measure_every": 4, "measure_n": 30, "features": "raw"},
    "objective": {"kind": "regression"},
    "train": {"steps": 12, "checkpoint_every": 100, "keep": 1},
}


def scheduled(**tables: dict[str, Any]) -> Recipe:
    both = {k: {**SCHEDULED.get(k, {}), **tables.get(k, {})} for k in {**SCHEDULED, **tables}}
    merged = {k: {**PLANE.get(k, {}), **both.get(k, {})} for k in {**PLANE, **both}}
    return read_recipe(merged | {"objective": both["objective"]})


def fd(run: Path) -> dict[int, float]:
    return {int(m["step"]): m["fd"] for m in read_metrics(run / "metrics.jsonl") if "fd" in m}


def test_pictures_drawn_on_a_schedule_are_measured_recorded_and_told(tmp_path: Path) -> None:
    progress = finish(scheduled(), tmp_path / "whole")
    notes = [n for p in progress for n in p.notes]
    assert any(n.startswith("Every 4 steps 30 pictures are drawn and compared with") for n in notes)
    records = read_records(tmp_path / "whole/evaluation")
    assert [r.model["trained"]["steps"] for r in records] == [4, 8, 12]
    assert fd(tmp_path / "whole") == {4 * (i + 1): pytest.approx(r.value) for i, r in enumerate(records)}
    said = [f"step {4 * (i + 1)}: FD-raw {r.value:.4g}" for i, r in enumerate(records)]
    assert [n for n in notes if "FD-raw" in n] == said
    first = records[0]
    assert (first.measure.split, first.measure.n, first.measure.features) == ("val", 30, "raw")
    assert first.measure.reference < 30  # what was held out
    assert first.model["ema"] == 0.1
    assert first.sampling["steps"] == 2
    best = min(fd(tmp_path / "whole").items(), key=lambda item: item[1])[0]
    assert {p.name for p in (tmp_path / "whole/checkpoints").iterdir()} == {f"step-{best}", "step-12"}
    asked = iter([False] * 5 + [True])
    finish(scheduled(), tmp_path / "parts", stop=lambda: next(asked))
    finish(scheduled(), resume=tmp_path / "parts")
    assert fd(tmp_path / "parts") == fd(tmp_path / "whole")
    again = read_records(tmp_path / "parts/evaluation")
    assert [(r.measure, r.value) for r in again] == [(r.measure, r.value) for r in records]
    told = finish(scheduled(train={"steps": 4}, evaluation={"measure": "kid", "measure_n": 31}), tmp_path / "kid")[-1]
    assert set(told.figures) >= {"kid", "validation_train"}
    assert "fd" not in told.figures


def test_the_best_is_by_the_measure_that_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured 3, 1, 2: step 8 is kept, whatever the validation loss says; where it cannot be measured, none is."""
    values: list[float | Exception] = [3.0, 1.0, 2.0]

    def compare(pipe: Any, steps: Any, model: Any) -> Record:
        value = values.pop(0)
        if isinstance(value, Exception):
            raise value
        assert not any(p.requires_grad for p in pipe.model.net.parameters())  # the average
        return Record(Measure("fd", "points", "val", "hash", 30, 24, "raw"), value, model=dict(model))

    monkeypatch.setattr("inkwash.training.scheduled.against", lambda setup, data, rows: compare)
    finish(scheduled(), tmp_path / "run")
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"step-8", "step-12"}
    values[:] = [OSError(28, "No space left on device"), 5.0]
    longer = finish(scheduled(train={"steps": 20}), resume=tmp_path / "run")
    assert any("fd of step 16 was not measured" in n and "goes on" in n for p in longer for n in p.notes)
    assert {p.name for p in (tmp_path / "run/checkpoints").iterdir()} == {"step-8", "step-20"}
    values[:] = [ValueError("a mistake")]
    with pytest.raises(ValueError, match="a mistake"):
        finish(scheduled(train={"steps": 24}), resume=tmp_path / "run")


def test_what_a_schedule_needs_is_said_before_training(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none are held out\. Use data\.val_fraction = 0\.05, or evaluation\.split"):
        scheduled(data={"val_fraction": 0.0})
    assert scheduled(data={"val_fraction": 0.0}, evaluation={"split": "test"}).evaluation.split == "test"
    with pytest.raises(ValueError, match=r'features = "classifier" needs labelled pictures'):
        finish(scheduled(evaluation={"features": "classifier"}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"compares 15 drawn pictures .*: at least 16 of each"):
        finish(scheduled(evaluation={"measure_n": 15}), tmp_path / "run")
    with pytest.raises(ValueError, match=r"compares 30 drawn pictures .* with \d real ones"):
        finish(scheduled(data={"val_fraction": 0.05}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_run_may_be_validated_on_the_datas_own_test_split(tmp_path: Path) -> None:
    progress = finish(
        scheduled(data={"val_fraction": 0.0}, evaluation={"split": "test", "measure_n": 16}), tmp_path / "run"
    )
    assert [p.step for p in progress if p.validation is not None] == [4, 8, 12]
    assert {r.measure.split for r in read_records(tmp_path / "run/evaluation")} == {"test"}
