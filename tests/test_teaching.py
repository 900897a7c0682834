"""Learning from a trained model: its pairs, its velocities, and the students that one command makes of it."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import inkwash
from inkwash.data import load as load_data
from inkwash.data import order
from inkwash.distilling import Reflow, student
from inkwash.distilling.straightness import straightness
from inkwash.fewstep import Consistency, MeanFlow, Shortcut, SoFlow
from inkwash.model import CarriedInputs, Model
from inkwash.noise import Philox, Stream
from inkwash.objectives import Regression
from inkwash.paths import VP, Linear, Table
from inkwash.pipeline import Pipeline, load
from inkwash.ranks import Ranks
from inkwash.recipes import RecipeError, Teacher, read_recipe
from inkwash.samplers import Heun, Jumps
from inkwash.sampling import Sampling
from inkwash.targets import Carried, Eps, Flow, V
from inkwash.teaching import Bound, pairs
from inkwash.times import UShaped, Visited
from inkwash.training import train
from inkwash.training.run import continued, resume_recipe
from inkwash.training.setup import set_up
from inkwash.types import Condition, Query
from tinyruns import assert_same, finish, moons, state, trained


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


class Counting(Pipeline):
    """A pipeline that notes which samples it was asked for, and can break."""

    asked: list[int]
    breaks_after: int

    @classmethod
    def of(cls, run: Path, breaks_after: int = 10**9) -> Counting:
        pipe = load(run, chunk=64)
        made = cls(pipe.config, pipe.model, pipe.device, 64, pipe.codec)
        made.asked, made.breaks_after = [], breaks_after
        return made

    def ends(self, rows: Tensor, cond: Condition, own: Sampling, seed: int) -> Tensor:
        if len(self.asked) >= self.breaks_after:
            raise RuntimeError("the power went off")
        self.asked += rows.tolist()
        return super().ends(rows, cond, own, seed)


def test_a_pair_is_its_noise_and_where_the_teachers_flow_ends(tmp_path: Path) -> None:
    pipe, data = load(trained(tmp_path / "run"), chunk=64), load_data(moons().data)
    own = pipe.settings()
    found = pairs(pipe, "sha", data, own, 20, seed=3, among=np.arange(10, 40))
    assert found.noise == 3
    assert found.labels is not None
    rows = found.take([7, 2])
    assert rows.noise is not None
    assert rows.noise[0] == 3
    assert rows.noise[1].tolist() == [7, 2]
    # The same samples from the pipeline itself, in one batch, asked for the same labels.
    drawn = pipe(20, label=found.labels.tolist(), seed=3).array
    np.testing.assert_allclose(pipe.codec.decode(torch.from_numpy(np.array(found.images)).float()), drawn, atol=4e-3)
    # Its labels are those of rows 10 to 39, none twice before all have been.
    wanted = pairs(pipe, "sha", data, own, 30, seed=3, among=np.arange(10, 40))
    assert wanted.labels is not None
    assert data.labels is not None
    assert sorted(wanted.labels.tolist()) == sorted(data.labels[10:40].tolist())
    again = pairs(pipe, "sha", data, own, 20, seed=4, among=np.arange(10, 40))
    assert again.fingerprint != found.fingerprint
    with pytest.raises(ValueError, match="deterministic"):
        pairs(pipe, "sha", data, own.changed(sampler="ancestral"), 20)


def test_pairs_that_were_killed_go_on_at_their_shard_and_are_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inkwash.teaching.pairing.SHARD", 8)
    monkeypatch.setattr("inkwash.teaching.pairing.BLOCK", 4)
    run, data = trained(tmp_path / "run"), load_data(moons().data)
    whole = pairs(Counting.of(run), "sha", data, Sampling(), 30, cache=tmp_path / "one")
    pipe = Counting.of(run, breaks_after=20)  # in the middle of the third shard
    with pytest.raises(RuntimeError, match="power"):
        pairs(pipe, "sha", data, Sampling(), 30, cache=tmp_path / "two")
    assert not list((tmp_path / "two").rglob("pairs.json"))
    pipe = Counting.of(run)
    found = pairs(pipe, "sha", data, Sampling(), 30, cache=tmp_path / "two")
    assert pipe.asked == list(range(16, 30))
    assert np.array_equal(found.images, whole.images)
    pipe = Counting.of(run)
    assert np.array_equal(pairs(pipe, "sha", data, Sampling(), 30, cache=tmp_path / "two").images, whole.images)
    assert pipe.asked == []


class Meeting(Ranks):
    """Ranks that are threads of this process."""

    door: threading.Barrier

    def barrier(self) -> None:
        self.door.wait(30)


def test_ranks_share_the_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkwash.teaching.pairing.SHARD", 8)
    run, data = trained(tmp_path / "run"), load_data(moons().data)
    alone = pairs(Counting.of(run), "sha", data, Sampling(), 30, cache=tmp_path / "one")
    door, pipes, found = threading.Barrier(2), [Counting.of(run) for _ in range(2)], {}

    def draw(rank: int) -> None:
        ranks = Meeting(rank, 2)
        object.__setattr__(ranks, "door", door)
        found[rank] = pairs(pipes[rank], "sha", data, Sampling(), 30, ranks=ranks, cache=tmp_path / "two")

    threads = [threading.Thread(target=draw, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [pipe.asked for pipe in pipes] == [[*range(8), *range(16, 24)], [*range(8, 16), *range(24, 30)]]
    for rank in range(2):
        assert np.array_equal(found[rank].images, alone.images)


def test_a_batch_of_pairs_has_the_noise_they_came_from(tmp_path: Path) -> None:
    """On them every time's velocity is eps - x0 of the pair: the loss of the right answer is zero."""
    run = trained(tmp_path / "run")
    recipe = student(run, Reflow(pairs=24), minutes=1)
    setup = set_up(recipe, load_data(recipe.data))
    assert len(setup.trained_on) == 24
    number = torch.tensor([40, 41, 42])
    batch = setup.batch(setup.dataset.take([5, 0, 9]), number)
    assert batch.eps is not None
    assert torch.equal(batch.eps, Philox(0, torch.tensor([5, 0, 9]))(batch.x0, 0, Stream.START))

    class Right(nn.Module):
        def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Condition) -> Tensor:
            assert batch.eps is not None
            return batch.eps - batch.x0

    model = Model(Right(), Linear(), Flow())
    assert float(setup.objective(model, batch, Philox(0, number), 0.5).abs().max()) < 1e-12
    assert isinstance(recipe.objective, Regression)
    assert recipe.objective.times == UShaped()
    assert recipe.train.label_dropout == 0


def test_u_shaped_times_have_their_law() -> None:
    """F(t) = (e^at - 1 + e^a - e^(a(1-t)))/(2(e^a - 1)) of the quantile is the number it was made of."""
    u = torch.linspace(0.001, 0.999, 41, dtype=torch.float64)
    t = UShaped(3.0)(u, Linear())
    a = torch.tensor(3.0, dtype=torch.float64)
    law = (torch.exp(a * t) - 1 + torch.exp(a) - torch.exp(a * (1 - t))) / (2 * torch.expm1(a))
    torch.testing.assert_close(law, u, rtol=0, atol=1e-12)


def exact_teacher(path: Any, lam: float = 0.3) -> Model:
    """The best denoiser of N(0, lam) on a path, as a network that predicts v and is told t exactly."""

    class Best(nn.Module):
        def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
            c = path(t_emb.double() / 1000).like(x)
            x0 = c.alpha * lam / (c.alpha**2 * lam + c.sigma**2) * x
            return c.alpha * (x - c.alpha * x0) / c.sigma - c.sigma * x0

    return Model(Best(), path, V())


@pytest.mark.parametrize("path", [VP(), Table()], ids=["vp", "table"])
def test_a_teachers_velocity_is_that_of_the_straight_path_beyond_its_end_too(path: Any, tmp_path: Path) -> None:
    """v = x·((t - (1 - t)·lam)/S²), S² = (1 - t)²·lam + t²; above the end x0 is as at the end, and v = (x - x0)/t."""
    pipe = load(trained(tmp_path / "run"), chunk=64)
    pipe.model = exact_teacher(path)
    bound = Bound(pipe, Sampling(), Teacher("run"))
    x = torch.tensor([[1.3, -0.4], [0.2, 2.0], [-0.7, 0.1]], dtype=torch.float64)
    t = torch.tensor([0.25, 0.5, 0.875], dtype=torch.float64)
    s2 = (1 - t) ** 2 * 0.3 + t**2
    expected = x * ((t - (1 - t) * 0.3) / s2)[:, None]
    torch.testing.assert_close(bound.velocity(x, t, Condition()), expected, rtol=2e-5, atol=2e-5)
    end = torch.full((3,), 1 - 1e-4, dtype=torch.float64)  # sigma/alpha = 10^4: more than either has
    found = bound.velocity(x, end, Condition())
    torch.testing.assert_close(found, x / end[:, None], rtol=0, atol=0.02)  # x0 there is nearly the mean, 0
    assert float((found - x / end[:, None]).abs().max()) > 0


def test_a_student_begins_as_its_teacher_bit_for_bit_and_jumps_by_its_velocity(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    recipe = student(run, SoFlow(), minutes=1)
    setup, teacher = set_up(recipe, load_data(recipe.data)), load(run, chunk=64).model
    assert recipe.net == load(run).config.net
    x, label = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, -1, 0, 1])
    t, s = torch.full((5,), 0.75, dtype=torch.float64), torch.full((5,), 0.25, dtype=torch.float64)
    for until in (t, s):
        mine, theirs = setup.model(Query(x, t, until), Condition(label)), teacher(Query(x, t, t), Condition(label))
        assert torch.equal(mine.x0, theirs.x0)
        assert torch.equal(mine.eps, theirs.eps)
    assert setup.config.jumps
    assert setup.teacher is not None
    assert setup.recipe.teacher is not None
    assert setup.recipe.teacher.sha256 == setup.teacher.stated.sha256


@pytest.mark.parametrize(
    ("tables", "target", "begin"),
    [
        ({"path": {"kind": "vp"}, "target": "v"}, Carried(V(), VP()), 0.0),
        ({"path": {"kind": "table"}, "target": "eps"}, Flow(), 0.3),
    ],
)
def test_students_of_other_paths_are_carried_over(tables: Any, target: Any, begin: float, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", **tables)
    recipe = student(run, SoFlow(), minutes=1)
    assert (recipe.path, recipe.target) == (Linear(), target)
    assert isinstance(recipe.inputs, CarriedInputs)
    assert isinstance(recipe.objective, SoFlow)
    assert recipe.objective.begin == begin
    last = finish(replace(recipe, train=replace(recipe.train, minutes=None, steps=2)), tmp_path / "student")[-1]
    assert last.step == 2
    drawn = load(tmp_path / "student")(3, steps=1)
    assert drawn.settings["sampler"]["kind"] == "jumps"


@pytest.mark.parametrize("method", [SoFlow(), Consistency(), Shortcut(), MeanFlow(), Reflow(pairs=40)])
def test_a_students_run_that_was_stopped_is_the_run_that_was_not(method: Any, tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    recipe = student(run, method, minutes=1)
    recipe = replace(recipe, train=replace(recipe.train, minutes=None, steps=4))
    finish(recipe, tmp_path / "whole")
    count = iter(range(100))
    finish(recipe, tmp_path / "parts", stop=lambda: next(count) >= 2)
    list(train(resume=tmp_path / "parts"))
    at = "checkpoints/step-4"
    assert_same(state(tmp_path / "whole" / at), state(tmp_path / "parts" / at))


def test_a_run_goes_on_with_its_own_teacher_alone(tmp_path: Path) -> None:
    run, other = trained(tmp_path / "run"), trained(tmp_path / "other", train={"seed": 1})
    recipe = student(run, SoFlow(), minutes=1)
    recipe = replace(recipe, train=replace(recipe.train, minutes=None, steps=4))
    count = iter(range(100))
    finish(recipe, tmp_path / "student", stop=lambda: next(count) >= 2)
    (run / "model").rename(tmp_path / "moved")
    (other / "model").rename(run / "model")
    with pytest.raises(ValueError, match="not the one this run was begun with"):
        list(train(resume=tmp_path / "student"))


def test_what_cannot_be_distilled_is_refused(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    with pytest.raises(RecipeError, match="objectives of two times"):
        moons(teacher={"run": str(run)})
    with pytest.raises(RecipeError, match="linear path"):
        moons(objective={"kind": "soflow"}, path={"kind": "vp"}, target="v")
    with pytest.raises(RecipeError, match="model of two times"):
        moons(sampler={"method": "jumps"})
    (tmp_path / "alone").mkdir()
    (run / "model").rename(tmp_path / "alone" / "model")
    with pytest.raises(ValueError, match="--data"):
        student(tmp_path / "alone", SoFlow())
    recipe = student(tmp_path / "alone", SoFlow(), data="moons")
    assert recipe.data.source == "moons"
    plain = trained(tmp_path / "plain", train={"label_dropout": 1.0})
    with pytest.raises(ValueError, match="guidance"):
        student(plain, SoFlow(), guidance=2.0)
    labelled = student(tmp_path / "alone", SoFlow(), data="moons")
    wrong = replace(labelled, teacher=Teacher(str(plain)))
    with pytest.raises(ValueError, match="does not fit its student"):
        set_up(wrong, load_data(moons().data))


def test_guidance_becomes_part_of_the_student(tmp_path: Path) -> None:
    """The velocity it learns from is u + w·(c - u) of the teacher's."""
    run = trained(tmp_path / "run")
    setup = set_up(student(run, SoFlow(), guidance=3.0), load_data(moons().data))
    assert setup.teacher is not None
    x, label = torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    t = torch.full((5,), 0.5, dtype=torch.float64)
    teacher = load(run, chunk=64).model
    both = [teacher(Query(x, t, t), c) for c in (Condition(label), Condition(label).null())]
    c, u = (answer.eps - answer.x0 for answer in both)
    with torch.no_grad():
        torch.testing.assert_close(
            setup.teacher.velocity(x, t, Condition(label)), u + 3 * (c - u), rtol=1e-5, atol=1e-5
        )
    assert setup.config.sampling.guidance == 1
    assert setup.recipe.train.label_dropout == 0


def test_public_names() -> None:
    assert inkwash.Jumps is Jumps
    assert inkwash.SoFlow is SoFlow
    assert Heun() != Jumps()


def test_other_rows_are_other_pairs(tmp_path: Path) -> None:
    """Two runs that hold out other rows, as many: each has the labels its pictures were asked for."""
    pipe, data = load(trained(tmp_path / "run"), chunk=64), load_data(moons().data)
    one, other = (pairs(pipe, "sha", data, Sampling(), 12, among=np.arange(k, k + 20)) for k in (0, 20))
    assert one.fingerprint != other.fingerprint
    for found in (one, other):
        assert found.labels is not None
        drawn = pipe(12, label=found.labels.tolist(), steps=20, sampler="heun").array
        np.testing.assert_allclose(
            pipe.codec.decode(torch.from_numpy(np.array(found.images)).float()), drawn, atol=4e-3
        )


def test_a_pair_keeps_what_it_was_shown(tmp_path: Path) -> None:
    """A model that is shown edges: pairs are of its answers, and are shown the edges of the data's pictures."""
    tables: dict[str, Any] = {
        "data": {"source": "shapes", "limit": 12},
        "net": {"kind": "unet", "preset": "tiny", "widths": [16], "patch": 2, "depth": 1},
        "conditions": {"image": {"task": "edges"}},
        "sampler": {"method": "heun", "steps": 2},
        "train": {"steps": 2, "batch_size": 8, "samples": 2},
    }
    run = tmp_path / "run"
    finish(read_recipe(tables), run)
    recipe = student(run, Reflow(pairs=20), minutes=1)
    data = load_data(recipe.data)
    setup = set_up(recipe, data)
    number = torch.arange(5)
    rows = setup.dataset.take(number.numpy())
    batch = setup.batch(rows, number)
    assert setup.dataset.labels is not None
    wanted = setup.pictures.take(np.resize(order(0, 0, 12), 20)[:5])
    assert recipe.conditions is not None
    assert recipe.conditions.image is not None
    shown = setup.codec.encode(torch.from_numpy(recipe.conditions.image.task.show(wanted.images)))
    assert batch.cond.image is not None
    assert torch.equal(batch.cond.image, shown)
    assert not torch.equal(setup.codec.encode(torch.from_numpy(wanted.images)), batch.x0)


def test_a_resumed_student_keeps_how_its_teacher_is_followed(tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    recipe = student(run, Reflow(pairs=20), minutes=1)
    recipe = replace(recipe, train=replace(recipe.train, minutes=None, steps=4))
    count = iter(range(100))
    finish(recipe, tmp_path / "student", stop=lambda: next(count) >= 2)
    for change in ("teacher.pairs=7", "teacher.sampler.guidance=3.0"):
        with pytest.raises(RecipeError, match=change.split("=")[0].replace(".", r"\.")):
            resume_recipe(tmp_path / "student", {}, [change])
    assert recipe.teacher is not None
    again = replace(recipe, teacher=replace(recipe.teacher, sha256=None))
    kept, _ = continued(read_recipe(tmp_path / "student" / "recipe.toml"), again, "run")
    assert kept.teacher is not None
    assert kept.teacher.sha256 is not None


def test_a_teacher_of_noise_is_asked_no_nearer_to_the_end_than_it_can_say(tmp_path: Path) -> None:
    """Its error of 2 % in the noise would be one of 2 % of sigma/alpha in the data: at t = 1, without bound."""

    class Off(nn.Module):
        def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Condition) -> Tensor:
            return 0.98 * x

    pipe = load(trained(tmp_path / "run"), chunk=64)
    pipe.model = Model(Off(), Linear(), Eps())
    x, one = torch.ones(2, 2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
    found = Bound(pipe, Sampling(), Teacher("run")).velocity(x, one, Condition())
    at = 157 / 158  # sigma/alpha = 157
    torch.testing.assert_close(found, x - (x - at * 0.98 * x) / (1 - at), rtol=1e-6, atol=1e-6)


def test_visited_times_are_those_of_samplers_with_their_shares() -> None:
    """Of steps 1 and 4: t = 1 with 1/2 + 1/8, the quarters below with 1/8 each."""
    u = (torch.arange(8000, dtype=torch.float64) + 0.5) / 8000
    t = Visited((1, 4))(u, Linear())
    shares = {v: int((t == v).sum()) / 8000 for v in t.unique().tolist()}
    assert shares == pytest.approx({0.25: 0.125, 0.5: 0.125, 0.75: 0.125, 1.0: 0.625}, abs=1e-3)
    assert bool((t.diff() >= 0).all())
    with pytest.raises(ValueError, match="from 1 on"):
        Visited((0,))


def test_jumps_take_no_times_that_learn() -> None:
    with pytest.raises(RecipeError, match="single times"):
        moons(objective={"kind": "soflow", "times": "importance"})


def test_straightness_has_its_closed_form() -> None:
    """Of N(0, lam): x_t = S_t·x_1, so it is the integral of (1 - sqrt(lam) - S_t')², for noise of mean square 1."""
    lam = 0.09
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    s = ((1 - t) ** 2 * lam + t**2).sqrt()
    slope = (t - (1 - t) * lam) / s
    expected = float(torch.trapezoid((1 - lam**0.5 - slope) ** 2, t))

    def velocity(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        return x * ((t - (1 - t) * lam) / ((1 - t) ** 2 * lam + t**2))[:, None]

    x = torch.empty(4000, 4, dtype=torch.float64)
    noise = Philox(0, torch.arange(4000))(x, 0, Stream.START)
    found = straightness(velocity, Condition(), x, steps=256)
    assert found == pytest.approx(expected * float(noise.square().mean()), rel=2e-3)
    # A flow that goes straight to each point's own end is straight.
    ends = 0.3 * noise
    assert straightness(lambda x, t, cond: noise - ends, Condition(), x, steps=4) == pytest.approx(0, abs=1e-20)
