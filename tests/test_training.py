"""A run that is stopped, killed, starved of memory or disk, or fed with nonsense ends where it would have ended."""

from __future__ import annotations

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
from inkwash.kinds import from_table
from inkwash.objectives import Regression
from inkwash.recipes import Recipe, RecipeError, read_recipe
from inkwash.training import TrainingError, resume_recipe, train
from inkwash.training.run import Run
from tinyruns import assert_same, finish, losses, recipe, state


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
