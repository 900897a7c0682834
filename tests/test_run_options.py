"""Options of a run, which must change nothing but what the run costs: blocks computed again, and compilation."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inkwash.data import load, split
from inkwash.nets import ClassicUNet, DiT, ModernDiT, UNet
from inkwash.nets.layers import recompute
from inkwash.recipes import RecipeError, read_recipe
from inkwash.training import resume_recipe
from inkwash.training.compiling import Compiled, pays
from inkwash.training.plan import _cost
from inkwash.training.setup import set_up
from inkwash.types import Condition, Given
from tinyruns import assert_same, finish, plane, recipe, state

torch.set_num_threads(1)

NETS: list[Any] = [
    UNet("tiny", widths=(16, 32), attention=(1,), dropout=0.3),
    ClassicUNet(widths=(16, 32), groups=2, attention=(1,), dropout=0.3),
    ClassicUNet("annotated", widths=(16, 32), dropout=0.3),
    DiT(depth=2, width=32, heads=2),
    ModernDiT(depth=2, width=32, heads=2, patch=2),
]
names = [f"{net.kind} {net.preset}" for net in NETS]


def built(config: Any, given: Given) -> nn.Module:
    """A network none of whose weights are zero, so that every gradient goes everywhere."""
    torch.manual_seed(0)
    net = config.build((2, 8, 8), given)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return net.train()


def learned(net: nn.Module, cond: Condition, dtype: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor], int]:
    """The answer, all gradients, and the bytes that were kept for them without those of the weights."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, 8, 8, generator=generator)
    t = torch.tensor([5.0, 500.0, 900.0])
    torch.manual_seed(7)  # dropout's masks
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", dtype or torch.float32, enabled=dtype is not None),
    ):
        y = net(x, t, t - 3, cond)
    size = sum(kept.values())
    after = torch.rand(4)  # the random state goes on from where it would have
    (y.float() - x).square().mean().backward()
    gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return torch.cat([y.detach().float().flatten(), after]), gradients, size


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("config", NETS, ids=names)
def test_blocks_computed_again_learn_the_same_bits_and_keep_less(config: Any, dtype: torch.dtype | None) -> None:
    given = Given(classes=3, tokens=4, jumps=True)
    net = built(config, given)
    cond = Condition(
        torch.tensor([0, -1, 2]), torch.randn(3, 2, 4), torch.tensor([[True, True], [False] * 2, [True, False]])
    )
    keys = list(net.state_dict())
    answer, gradients, kept = learned(net, cond, dtype)
    assert recompute(net) >= 2
    again, regained, less = learned(net, cond, dtype)
    assert list(net.state_dict()) == keys
    assert torch.equal(answer, again)
    assert gradients.keys() == regained.keys() == dict(net.named_parameters()).keys()
    for name in gradients:
        assert torch.equal(gradients[name], regained[name]), name
    assert less < 0.6 * kept


def test_a_run_that_computes_again_ends_where_it_would_have(tmp_path: Path) -> None:
    finish(recipe(train={"grad_checkpoint": True}), tmp_path / "again")
    finish(recipe(), tmp_path / "plain")
    assert_same(state(tmp_path / "again/checkpoints/step-6"), state(tmp_path / "plain/checkpoints/step-6"))
    assert read_recipe(tmp_path / "again/recipe.toml").train.grad_checkpoint
    with pytest.raises(ValueError, match="computes a network's blocks again, and MLP has none"):
        finish(plane(train={"grad_checkpoint": True}), tmp_path / "points")


def test_the_plan_counts_the_fullest_block_and_what_all_are_given() -> None:
    def kept(depth: int, again: bool) -> int:
        net = {"kind": "dit", "depth": depth, "width": 32, "heads": 2, "patch": 2}
        tables = {"data": {"source": "shapes", "limit": 8}, "net": net}
        r = read_recipe(tables | {"train": {"precision": "fp32", "grad_checkpoint": again}})
        return _cost(set_up(r, load(r.data)))[2]

    tokens = 28 * 28 // 4
    told = 6 * 32 * 4  # its modulation, in float32, for a block's six vectors
    given = tokens * 32 * 4  # a block's input
    assert kept(3, True) - kept(2, True) == given + told
    assert kept(1, True) == kept(1, False)  # of a single block, all of it at once
    assert kept(2, False) - kept(1, False) > 5 * given


# Compilation


class Stub:
    """What stands for a compiled network: eager, after `good` calls an error."""

    def __init__(self, net: nn.Module, good: int, error: Exception) -> None:
        self.net, self.good, self.error = net, good, error

    def __call__(self, *args: Any) -> Any:
        self.good -= 1
        if self.good < 0:
            raise self.error
        return self.net._call_impl(*args)


def stub(monkeypatch: pytest.MonkeyPatch, good: int, error: Exception) -> list[dict[str, Any]]:
    """Have `compile` make a Stub; how it was called."""
    asked: list[dict[str, Any]] = []

    def compile(net: nn.Module, **how: Any) -> None:
        asked.append(how)
        net._compiled_call_impl = Stub(net, good, error)

    monkeypatch.setattr(nn.Module, "compile", compile)
    return asked


@pytest.mark.parametrize("good", [0, 1, 4])
def test_a_compilation_that_fails_is_told_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    """At the first step, between the two parts of a batch, or later: the run is the one without it."""
    parts = {"accumulate": 2}
    finish(plane(train=parts), tmp_path / "eager")
    asked = stub(
        monkeypatch, good, RuntimeError("backend='inductor' raised:\nNoCompiler: g++ is missing.\n\nSet TRACE=1")
    )
    told = finish(plane(train=parts | {"compile": True}), tmp_path / "run")
    assert len(asked) == 1
    notes = [note for p in told for note in p.notes]
    assert len(notes) == 1
    assert notes[0].startswith("torch.compile does not work here: NoCompiler: g++ is missing. The run goes on without")
    assert_same(state(tmp_path / "run/checkpoints/step-8"), state(tmp_path / "eager/checkpoints/step-8"))


def test_errors_that_are_not_of_the_compilation_come_through() -> None:
    net = nn.Linear(1, 1)
    compiled, tried = Compiled(net, wanted=False), []

    def wrong() -> None:
        tried.append(net._compiled_call_impl)
        raise KeyError("mine")

    for on, tries in ((False, 1), (True, 2)):
        tried.clear()
        compiled.on = on
        net._compiled_call_impl = object()
        with pytest.raises(KeyError, match="mine"):
            compiled(wrong, lambda: tried.append("undone"))
        assert len(tried) == (tries if not on else 3) and (not on or tried[1:] == ["undone", None])

    def full() -> None:
        raise torch.OutOfMemoryError("no room")

    compiled.on, net._compiled_call_impl = True, object()
    with pytest.raises(torch.OutOfMemoryError):
        compiled(full, lambda: None)
    assert compiled.on and net._compiled_call_impl is not None  # smaller parts may fit, compiled


def test_where_nothing_can_be_compiled_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(net: nn.Module, **how: Any) -> None:
        raise RuntimeError("torch.compile is not supported on Python 9.9+")

    monkeypatch.setattr(nn.Module, "compile", compile)
    compiled = Compiled(nn.Linear(1, 1), wanted=True)
    assert not compiled.on and "not supported on Python 9.9+. The run" in compiled.notes[0]
    assert compiled(lambda: 3, lambda: None) == 3


def test_a_compiled_run_saves_the_same_names_and_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch's own compiler front and run by its plainest back, whose arithmetic is that of no compilation."""

    def compile(net: nn.Module, **how: Any) -> None:
        net._compiled_call_impl = torch.compile(net._call_impl, backend="eager", **how)

    still = {"precision": "fp32", "steps": 2}
    finish(recipe(net={"dropout": 0.0}, train=still), tmp_path / "eager")
    monkeypatch.setattr(nn.Module, "compile", compile)
    r = recipe(net={"dropout": 0.0}, train=still | {"compile": True, "grad_checkpoint": True})
    told = finish(r, tmp_path / "run")
    assert not [note for p in told for note in p.notes]
    assert_same(state(tmp_path / "run/checkpoints/step-2"), state(tmp_path / "eager/checkpoints/step-2"))


def test_only_long_runs_on_a_gpu_are_compiled_by_themselves(tmp_path: Path) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert not pays(cpu, 600.0, None) and not pays(cpu, None, 10**6) and not pays(torch.device("mps"), 600.0, None)
    assert [pays(gpu, m, None) for m in (4.0, 9.9, 10.0)] == [False, False, True]
    assert [pays(gpu, None, s) for s in (1999, 2000)] == [False, True]
    r = recipe(train={"steps": 1})
    assert r.train.compile == "auto"
    finish(r, tmp_path / "run")
    assert read_recipe(tmp_path / "run/recipe.toml").train.compile is False  # what was decided is written down
    # asked again with "auto", a run goes on as it began
    assert resume_recipe(tmp_path / "run", {"train.compile": "auto"})[1] == []
    assert resume_recipe(tmp_path / "run", {"train.compile": True})[1] == ["train.compile: False -> True"]
    with pytest.raises(RecipeError, match=r"train.compile = 'often' should be 'auto', True or False\."):
        recipe(train={"compile": "often"})


# What a recipe leaves open


def test_epochs_are_a_length_in_pictures_trained_on(tmp_path: Path) -> None:
    r = recipe(data={"val_fraction": 0.3}, train={"steps": None, "epochs": 1.5})
    mine, held_out = split(load(r.data), 0.3, 0)
    assert len(held_out) > 5
    end = finish(replace(r, evaluation=replace(r.evaluation, images=2)), tmp_path / "run")[-1]
    assert end.step == math.ceil(1.5 * len(mine) / 8) and end.fraction == 1
    whole = read_recipe(tmp_path / "run/recipe.toml").train
    assert (whole.epochs, whole.steps, whole.minutes) == (1.5, None, None)
    longer, told = resume_recipe(tmp_path / "run", {"train.steps": 20})
    assert (longer.train.steps, longer.train.epochs) == (20, None)
    assert told == ["train.epochs: 1.5 -> not set", "train.steps: not set -> 20"]
    with pytest.raises(RecipeError, match=r"steps = 6 and epochs = 2.0 both say how long"):
        recipe(train={"epochs": 2})


def test_with_all_labels_hidden_a_model_has_no_classes(tmp_path: Path) -> None:
    r = recipe(train={"label_dropout": 1.0, "steps": 1})
    assert load(r.data).labels is not None
    setup = set_up(r, load(r.data))
    assert setup.config.classes == ()
    assert not any("label" in name for name, _ in setup.model.net.named_parameters())
    finish(r, tmp_path / "run")
    with pytest.raises(RecipeError, match=r"train.label_dropout: 1.0 -> 0.1"):
        resume_recipe(tmp_path / "run", {"train.label_dropout": 0.1})
    with pytest.raises(RecipeError, match=r"never learns that to a label with train.label_dropout = 1"):
        read_recipe({"data": {"source": "x"}, "train": {"label_dropout": 1.0}, "sampler": {"guidance": 2.0}})
