"""Students told the scale of their teacher's guidance: taught by it row by row, and asked for it by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inkwash.cli.app import run as main
from inkwash.conditions import ByGuidance, ByVector, Conditions
from inkwash.data import load as load_data
from inkwash.distilling import Reflow, student
from inkwash.drive import drive
from inkwash.edit import Decode
from inkwash.evaluation.sweep import adopt
from inkwash.exchange.graphs import _modules
from inkwash.exchange.loops import about
from inkwash.fewstep import SoFlow
from inkwash.guidance import Chunked, Guided
from inkwash.model import Model
from inkwash.modelfolder import load_model, read_config, save_model
from inkwash.noise import Philox, Stream
from inkwash.paths import VP, Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import Recipe, RecipeError, Teacher, read_recipe
from inkwash.sampling import Sampling
from inkwash.targets import V
from inkwash.teaching import Bound
from inkwash.training import train
from inkwash.training.run import resume_recipe
from inkwash.training.setup import set_up
from inkwash.types import Condition, Query, Steered
from tinyruns import assert_same, finish, state, trained

MEANS = torch.tensor([[1.0, -0.5], [-2.0, 0.75]], dtype=torch.float64)
LAM, EVERY = 0.3, 2.0
STEPS = ["--set", "train.steps=2"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of two classes that nobody changes."""
    return trained(tmp_path_factory.mktemp("teacher") / "run")


def short(recipe: Recipe, steps: int = 2) -> Recipe:
    return replace(recipe, train=replace(recipe.train, minutes=None, steps=steps))


def gaussian_teacher(path: Any) -> Model:
    """The best denoiser of N(mean of the label, LAM), of N(0, EVERY) for any label: a network that predicts v."""

    class Best(nn.Module):
        def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
            assert cond.label is not None
            assert cond.vector is None
            c = path(t_emb.double() / 1000).like(x)
            some = (cond.label >= 0)[:, None]
            mean = torch.where(some, MEANS[cond.label.clamp(min=0)], 0.0)
            lam = torch.where(some, LAM, EVERY)
            x0 = mean + c.alpha * lam / (c.alpha**2 * lam + c.sigma**2) * (x - c.alpha * mean)
            return c.alpha * (x - c.alpha * x0) / c.sigma - c.sigma * x0

    return Model(Best(), path, V())


def straight(x: Tensor, t: Tensor, mean: Tensor | float, lam: float) -> Tensor:
    """The velocity of N(mean, lam) on the linear path: S'/S of what is left of x, and the mean's own, -mean."""
    t = t[:, None]
    left = x - (1 - t) * mean
    return (t - (1 - t) * lam) / ((1 - t) ** 2 * lam + t**2) * left - mean


@pytest.mark.parametrize("path", [Linear(), VP()], ids=["linear", "vp"])
def test_every_row_is_taught_the_closed_form_at_its_own_scale(path: Any, run: Path) -> None:
    """u + w·(c - u) with the exact velocities of two Gaussians, w that of the row; half of them out of the interval."""
    pipe = load(run, chunk=64)
    pipe.model = gaussian_teacher(path)
    told = ByGuidance(-1.0, 4.0)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.2, 0.3, 0.45, 0.6, 0.7, 0.8], dtype=torch.float64)
    label, w = torch.tensor([0, 1, 0, 1, 1, 0]), torch.tensor([1.0, 4.0, -1.0, 0.0, 2.5, 3.0], dtype=torch.float64)
    cond = Condition(label, vector=((w - told.mean) / told.std)[:, None])
    both = straight(x, t, MEANS[label], LAM), straight(x, t, 0.0, EVERY)
    guided = both[1] + w[:, None] * (both[0] - both[1])
    found = Bound(pipe, Sampling(guidance=7.0), Teacher("run"), told).velocity(x, t, cond)
    torch.testing.assert_close(found, guided, rtol=2e-5, atol=2e-5)
    # An interval is of sigma/alpha = t/(1 - t), whichever path the teacher is of: here from t = 0.4 to 0.75.
    own = Sampling(interval=(0.4 / 0.6, 3.0))
    found = Bound(pipe, own, Teacher("run"), told).velocity(x, t, cond)
    inside = ((t > 0.4) & (t <= 0.75))[:, None]
    torch.testing.assert_close(found, torch.where(inside, guided, both[0]), rtol=2e-5, atol=2e-5)


def test_a_scale_of_each_row_is_its_guidance_in_chunks_too() -> None:
    model = gaussian_teacher(Linear())
    x = torch.randn(5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.linspace(0.2, 0.9, 5, dtype=torch.float64)
    label, w = torch.tensor([0, 1, 1, 0, 1]), torch.tensor([1.0, 2.0, 0.5, 3.0, -1.0], dtype=torch.float64)
    asked = Steered(label, scale=w)
    expected = Guided(model, w)(Query(x, t, t), Condition(label))
    for guided in (Guided(model, 9.0), Chunked(Guided(model, 9.0), 2)):
        found = guided(Query(x, t, t), asked)
        torch.testing.assert_close(found.x0, expected.x0, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(found.eps, expected.eps, rtol=1e-12, atol=1e-12)


def test_scales_are_uniform_between_their_ends_and_told_standardised() -> None:
    told = ByGuidance(1.0, 4.0)
    number = torch.arange(40_000)
    w = told.drawn(Philox(3, number))
    assert 1 < float(w.min()) < 1.001
    assert 3.999 < float(w.max()) < 4
    shares = torch.histc(w, 6, 1.0, 4.0) / len(w)
    assert float((shares - 1 / 6).abs().max()) < 0.008
    assert torch.equal(told.drawn(Philox(3, number[[7, 100]])), w[[7, 100]])
    z = (w - 2.5) * 12**0.5 / 3
    assert float(z.mean()) == pytest.approx(0, abs=0.02)
    assert float(z.std()) == pytest.approx(1, abs=0.01)
    assert told.standard(4.0) == pytest.approx(3**0.5)
    numbers = Conditions(vector=ByVector(("angle",), (2.0,), (0.5,)), guidance=told).numbers
    assert numbers is not None
    assert numbers.names == ("angle", "guidance")
    torch.testing.assert_close(
        numbers.standard(torch.tensor([[3.0, 4.0]])), torch.tensor([[2.0, 3**0.5]]), rtol=0, atol=1e-6
    )
    for low, high in ((2.0, 2.0), (3.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="no range"):
            ByGuidance(low, high)
    with pytest.raises(ValueError, match="Rename it"):
        Conditions(vector=ByVector(("guidance",)), guidance=told)


def test_a_batch_tells_each_example_its_scale_whatever_stands_beside_it(run: Path) -> None:
    recipe = student(run, SoFlow(), guidance=(1.0, 4.0), minutes=1)
    assert recipe.conditions == Conditions(guidance=ByGuidance(1.0, 4.0))
    assert recipe.train.label_dropout == 0
    setup = set_up(recipe, load_data(recipe.data))
    rows = setup.dataset.take(np.array([3, 1, 0]))
    number = torch.tensor([40, 7, 12])
    vector = setup.batch(rows, number).cond.vector
    assert vector is not None
    u = Philox(0, number).uniform(0, Stream.SCALE)
    torch.testing.assert_close(vector, ((u - 0.5) * 12**0.5).float()[:, None], rtol=0, atol=1e-6)
    # At first it answers as its teacher does, without guidance, whatever it is told.
    x, t = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)), torch.full((3,), 0.6, dtype=torch.float64)
    label = torch.tensor([0, 1, 1])
    theirs = load(run).model(Query(x, t, t), Condition(label))
    assert torch.equal(setup.model(Query(x, t, t), Condition(label, vector=vector)).x0, theirs.x0)


def test_numbers_of_the_data_come_before_the_scale(tmp_path: Path) -> None:
    """A teacher told two numbers: its student begins as it does, and is told three."""
    rng = np.random.default_rng(0)
    found = {"x": rng.normal(size=(64, 2)).astype(np.float32), "vectors": rng.normal(3, 2, (64, 2)).astype(np.float32)}
    np.savez(tmp_path / "set.npz", images=found["x"], vectors=found["vectors"], vector_names=np.array(["a", "b"]))
    run = trained(tmp_path / "run", data={"source": str(tmp_path / "set.npz"), "vector": ["a", "b"]})
    recipe = short(student(run, SoFlow(), guidance=(1.0, 3.0)))
    setup = set_up(recipe, load_data(recipe.data))
    assert setup.config.given.vector == 3
    batch = setup.batch(setup.dataset.take(np.arange(5)), torch.arange(5))
    assert batch.cond.vector is not None
    assert setup.teacher is not None
    asked = setup.teacher.asked(batch.cond)
    assert isinstance(asked, Steered)
    assert asked.vector is not None
    assert asked.scale is not None
    assert torch.equal(asked.vector, batch.cond.vector[:, :2])
    told = ByGuidance(1.0, 3.0).drawn(Philox(0, torch.arange(5)))
    torch.testing.assert_close(asked.scale.double(), told, rtol=0, atol=1e-6)
    t = torch.full((5,), 0.5, dtype=torch.float64)
    theirs = load(run).model(Query(batch.x0, t, t), Condition(vector=asked.vector))
    assert torch.equal(setup.model(Query(batch.x0, t, t), batch.cond).x0, theirs.x0)
    finish(recipe, tmp_path / "student")
    pipe = load(tmp_path / "student")
    with pytest.raises(ValueError, match="vector="):
        pipe(2)
    drawn = pipe(2, vector={"a": 3.0, "b": 2.0}, guidance=2.5)
    same = pipe(2, vector=[3.0, 2.0, 2.5])
    assert (drawn.array == same.array).all()
    assert same.captions == ("a 3, b 2, guidance 2.5",) * 2


@pytest.fixture
def taught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """A student by the command line, of a teacher drawn with guidance 2, whose answers its numbers move."""
    monkeypatch.chdir(tmp_path)
    trained(Path("teacher"), sampler={"guidance": 2.0})
    assert main(["distill", "teacher", "--guidance", "1.5:4", *STEPS]) == 0
    config, model = load_model("teacher-soflow")
    with torch.no_grad():  # as if it had learned much
        source = torch.Generator().manual_seed(0)
        for name, weights in model.net.named_parameters():
            most = 1.0 if "numbers" in name else 0.15
            weights.add_(most * torch.randn(weights.shape, generator=source))
    save_model(config, model.net.state_dict(), "teacher-soflow/model")
    return load("teacher-soflow")


def test_a_student_is_asked_for_a_scale_by_name(taught: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    stated = read_recipe("teacher-soflow/recipe.toml")
    assert stated.conditions is not None
    assert stated.conditions.guidance == ByGuidance(1.5, 4.0)
    assert taught.config.sampling.guidance == 2  # as its teacher is drawn
    usual = taught(2, label=1, seed=3)
    assert usual.settings["guidance"] == 2
    assert (taught(2, label=1, seed=3, vector={"guidance": 2.0}).array == usual.array).all()
    strong = taught(2, label=1, seed=3, guidance=4.0)
    assert (abs(strong.array - usual.array) > 0.01).all()
    each = taught(2, label=1, seed=3, vector={"guidance": [2.0, 4.0]})
    assert (each.array[0] == usual.array[0]).all()
    assert (each.array[1] == strong.array[1]).all()
    # By hand: the network itself, told the scale less 2.75 over 2.5/sqrt(12), and one jump to the data.
    _, model = load_model("teacher-soflow")
    model.net.eval()
    x = Philox(3, torch.arange(2))(torch.empty(2, 2), 0, Stream.START)
    one, none = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    cond = Condition(torch.tensor([1, 1]), vector=torch.full((2, 1), (4 - 2.75) / (2.5 / 12**0.5)))
    with torch.no_grad():
        jump = x - model.mean_velocity(x, one, none, cond)
    once = taught(2, label=1, seed=3, guidance=4.0, steps=1)
    np.testing.assert_allclose(taught.codec.decode(jump), once.array, atol=1e-5)
    # Every class in turn, and it is never guided besides.
    assert taught(2).labels == taught.config.classes
    for wrong, match in (
        ({"guidance": 1.0}, "from 1.5 to 4"),
        ({"vector": {"guidance": 5.0}, "label": 0}, "guidance = 5 is not among"),
        ({"guidance": 2.0, "vector": {"guidance": 3.0}, "label": 0}, "both say the scale"),
        ({"weak": load("teacher")}, "The weak model differs in its conditions"),
        ({"weak": taught}, "weak is for"),
        ({"interval": (0.3, 5.0)}, "interval is for"),
        ({"rule": "apg"}, "rule is for"),
    ):
        with pytest.raises(ValueError, match=match):
            taught(2, **wrong)  # type: ignore[arg-type]
    capsys.readouterr()
    assert main(["sample", "teacher-soflow", "--label", "1", "--vector", "guidance=1.5:4", "-n", "6"]) == 0
    assert main(["info", "teacher-soflow"]) == 0
    assert "told, from 1.5 to 4" in capsys.readouterr().out
    assert "`pipe(4, guidance=2)`" in Path("teacher-soflow/model/README.md").read_text()


def test_what_is_done_with_a_student_knows_its_scale(taught: Pipeline) -> None:
    """Inversion with the least it learned; a scale adopted; a graph that fills it in; a run taken up; no likelihood."""
    drawn = taught(3, label=0, seed=1, guidance=1.5, sampler="heun", steps=40)
    x0 = taught.codec.encode(torch.from_numpy(drawn.array))
    latents = taught.encode(x0, label=0, sampler="heun", steps=40)
    again = taught(3, label=0, guidance=1.5, sampler="heun", steps=40, edit=Decode(latents, 1.0))
    np.testing.assert_allclose(again.array, drawn.array, atol=0.01)
    other = taught(3, label=0, guidance=4.0, sampler="heun", steps=40, edit=Decode(latents, 1.0))
    assert abs(other.array - drawn.array).max() > 0.05
    # So does inversion with a scale that is told; one that was not learned is refused, as in a call.
    high = taught.encode(x0, label=0, vector={"guidance": 4.0}, sampler="heun", steps=40)
    assert abs(high - latents).max() > 0.05
    again = taught(3, label=0, guidance=4.0, sampler="heun", steps=40, edit=Decode(high, 1.0))
    np.testing.assert_allclose(again.array, drawn.array, atol=0.01)
    for wrong in (
        {"label": 0, "vector": {"guidance": 99}},
        {"cond": Condition(torch.zeros(3).long(), vector=torch.full((3, 1), 9.0))},
    ):
        with pytest.raises(ValueError, match=r"is not among what this model has learned.*from 1\.5 to 4"):
            taught.encode(x0, **wrong)  # type: ignore[arg-type]
    adopt("teacher-soflow", replace(taught.config.sampling, guidance=3.0))
    assert read_config(Path("teacher-soflow/model")).sampling.guidance == 3
    with pytest.raises(ValueError, match=r"from 1\.5 to 4"):
        adopt("teacher-soflow", replace(taught.config.sampling, guidance=1.0))
    assert main(["likelihood", "teacher-soflow", "-n", "4"]) != 0
    with pytest.raises(RecipeError, match=r"conditions\.guidance\.high"):
        resume_recipe("teacher-soflow", {}, ["conditions.guidance.high=5.0"])


def test_a_graph_fills_in_the_models_own_scale(taught: Pipeline) -> None:
    known = about(taught.config)
    assert known["hidden"] == ["vector"]
    assert {step["guidance"] for step in known["steps"]} == {1.0}
    graph = _modules(taught)[0][1]
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    t, label = torch.full((2,), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    own, most = (torch.tensor([(w - 2.75) / (2.5 / 12**0.5)]) for w in (2.0, 4.0))
    found = graph(x, t, t, label, torch.stack([torch.full((1,), torch.nan), most]))
    expected = taught.model(Query(x, t, t), Condition(label, vector=torch.stack([own, most])))
    torch.testing.assert_close(found[0], expected.x0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [SoFlow(), Reflow(pairs=40)])
def test_a_run_that_was_stopped_is_the_run_that_was_not(method: Any, run: Path, tmp_path: Path) -> None:
    recipe = short(student(run, method, guidance=(1.0, 4.0)), 4)
    finish(recipe, tmp_path / "whole")
    count = iter(range(100))
    finish(recipe, tmp_path / "parts", stop=lambda: next(count) >= 2)
    list(train(resume=tmp_path / "parts"))
    assert_same(state(tmp_path / "whole/checkpoints/step-4"), state(tmp_path / "parts/checkpoints/step-4"))


def test_each_pair_is_drawn_with_the_scale_that_it_is_trained_with(run: Path) -> None:
    """The teacher, guided row by row with what the batch says, ends where the pair does."""
    recipe = student(run, Reflow(pairs=24), guidance=(1.0, 4.0))
    setup = set_up(recipe, load_data(recipe.data))
    batch = setup.batch(setup.dataset.take(np.array([5, 0, 9])), torch.tensor([40, 41, 42]))
    assert batch.eps is not None
    assert setup.teacher is not None
    asked = setup.teacher.asked(batch.cond)
    assert isinstance(asked, Steered)
    expected = ByGuidance(1.0, 4.0).drawn(Philox(0, torch.tensor([5, 0, 9])))
    assert asked.scale is not None
    torch.testing.assert_close(asked.scale.double(), expected, rtol=0, atol=1e-6)
    teacher, own = load(run, chunk=64).model, setup.teacher.own
    times = own.times(teacher.path).expand(-1, 3)
    end = drive(
        own.method(Linear(), batch.eps, times, Philox(0, torch.arange(3))),
        Guided(teacher, expected),
        Condition(batch.cond.label),
    )
    torch.testing.assert_close(batch.x0, end, rtol=0, atol=2e-3)  # float16
    other = set_up(student(run, Reflow(pairs=24), guidance=(1.0, 3.0)), load_data(recipe.data))
    assert other.dataset.fingerprint != setup.dataset.fingerprint
    # What scale the teacher is drawn with when none is asked for says nothing of them.
    assert recipe.teacher is not None
    assert recipe.teacher.sampler is not None
    adopted = replace(recipe.teacher, sampler=recipe.teacher.sampler.changed(guidance=2.5))
    again = set_up(replace(recipe, teacher=adopted), load_data(recipe.data))
    assert again.dataset.fingerprint == setup.dataset.fingerprint
    assert again.teacher is not None
    assert again.teacher.own.guidance == 2.5


@pytest.mark.parametrize("count", [None, 12])
def test_a_student_of_a_student_is_told_what_its_teacher_is(count: int | None, taught: Pipeline) -> None:
    recipe = short(student("teacher-soflow", SoFlow(), pairs=count))
    assert recipe.conditions == taught.config.conditions
    assert recipe.sampler.guidance == 2
    setup = set_up(recipe, load_data(recipe.data))
    assert setup.teacher is not None
    batch = setup.batch(setup.dataset.take(np.arange(4)), torch.arange(4))
    t = torch.full((4,), 0.5, dtype=torch.float64)
    theirs = taught.model(Query(batch.x0, t, t), batch.cond)
    torch.testing.assert_close(
        setup.teacher.velocity(batch.x0, t, batch.cond), theirs.eps - theirs.x0, rtol=0, atol=1e-6
    )
    if batch.eps is not None:
        own, noise = setup.teacher.own, Philox(0, torch.arange(4))
        times = own.times(Linear()).expand(-1, 4)
        end = drive(own.method(Linear(), batch.eps, times, noise), taught.model, batch.cond)
        torch.testing.assert_close(batch.x0, end, rtol=0, atol=3e-3)
    finish(recipe, Path("second"))
    assert load("second")(2, guidance=3.0).settings["guidance"] == 3
    with pytest.raises(ValueError, match="Leave guidance out"):
        student("teacher-soflow", SoFlow(), guidance=2.0)


def test_what_cannot_be_taught_is_refused(run: Path, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", train={"label_dropout": 1.0})
    with pytest.raises(ValueError, match="something to push away from"):
        student(plain, SoFlow(), guidance=(1.0, 4.0))
    recipe = student(run, SoFlow(), guidance=(2.0, 4.0))
    assert recipe.sampler.guidance == 2  # the nearest to the teacher's own, 1
    for change, match in (
        ({"teacher": None, "objective": SoFlow()}, "no \\[teacher\\]"),
        ({"train": replace(recipe.train, label_dropout=0.1)}, "no condition hidden"),
        ({"sampler": replace(recipe.sampler, guidance=1.0)}, r"sampler\.guidance = 1 is not among"),
    ):
        with pytest.raises(ValueError, match=match):
            replace(recipe, **change)  # type: ignore[arg-type]
