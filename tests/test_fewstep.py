"""Two-time networks: every loss, and the sampler, against the exact flow map of Gaussian data."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inkwash.drive import drive
from inkwash.fewstep import Consistency, MeanFlow, Shortcut, SoFlow
from inkwash.fewstep.flowmap import FlowMap, Jump, velocity_of
from inkwash.guidance import Along
from inkwash.model import CarriedInputs, EdmInputs, Indexed, Model, Plain, Prepared, UnitVariance
from inkwash.noise import Philox, Stream
from inkwash.objectives import Regression
from inkwash.paths import VE, VP, CosineBetas, Linear, Table
from inkwash.samplers import Euler, Heun, Jumps
from inkwash.targets import X0, Carried, Edm, Eps, Flow, V
from inkwash.times import LogitNormal, Uniform, UShaped, draw
from inkwash.types import Batch, Condition, Path, Query

MU = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)
LAM = torch.tensor([0.3, 1.0, 0.05], dtype=torch.float64)
NOTHING = Condition()


def spread(t: Tensor) -> Tensor:
    """The deviation [B, 3] of x at t."""
    return ((1 - t[:, None]) ** 2 * LAM + t[:, None] ** 2).sqrt()


def flow_map(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Where the flow takes x from t to s (closed form 1)."""
    return (1 - s[:, None]) * MU + spread(s) / spread(t) * (x - (1 - t[:, None]) * MU)


def velocity(x: Tensor, t: Tensor, cond: Condition = NOTHING) -> Tensor:
    """The derivative of the flow map in s at s = t."""
    slope = (-(1 - t[:, None]) * LAM + t[:, None]) / spread(t) ** 2
    return -MU + slope * (x - (1 - t[:, None]) * MU)


def mean_velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    gap = (t - s)[:, None]
    return torch.where(gap > 0, (x - flow_map(x, t, s)) / gap.clamp(min=1e-300), velocity(x, t))


class Truth(nn.Module):
    """The exact mean velocity, as a network of the clocks 1000·t and 1000·s that says it of a target on `Linear`."""

    def __init__(self, target: object = None) -> None:
        super().__init__()
        self.target = target or Flow()

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        t, s = t_emb.double() / 1000, s_emb.double() / 1000
        u = mean_velocity(x, t, s)
        x0, eps = x - t[:, None] * u, x + (1 - t[:, None]) * u
        a, b = self.target(Linear()(t))  # type: ignore[operator]
        return a[:, None] * x0 + b[:, None] * eps


def truth(target: object = None) -> Model:
    return Model(Truth(target), Linear(), target or Flow(), jumps=True)  # type: ignore[arg-type]


def jump(n: int = 64, seed: int = 0, **changes: Tensor) -> Jump:
    noise = Philox(seed, torch.arange(n))
    two = torch.stack([noise.uniform(i, Stream.TIME) for i in (0, 1)]).mul(0.98).add(0.01)
    # Times that float32 clocks hold exactly: 1000·t is what a network sees.
    t, s = ((two.amax(0), two.amin(0))[i].mul(1024).round().div(1024) for i in (0, 1))
    x = noise(torch.empty(n, 3, dtype=torch.float64), 0, Stream.EPS)
    return Jump(x, t, s, velocity(x, t), NOTHING)._replace(**changes)


@pytest.mark.parametrize("target", [Flow(), V(), X0()])
def test_a_jump_ends_where_the_flow_does_for_every_target(target: object) -> None:
    noise = Philox(1, torch.arange(500))
    x = noise(torch.empty(500, 3, dtype=torch.float64), 0, Stream.START)
    grid = torch.tensor([1.0, 0.625, 0.25, 0.0], dtype=torch.float64)[:, None].expand(-1, 500)
    for times in (grid, grid[[0, -1]]):
        found = drive(Jumps()(Linear(), x, times, noise), truth(target), NOTHING)
        torch.testing.assert_close(found, flow_map(x, times[0], times[-1]), rtol=0, atol=1e-10)


def test_renoising_follows_its_recursion_and_ends_in_the_data() -> None:
    """With gamma the jump to s' = the time of sqrt(1 - gamma²)·s/(1 - s), then alpha_s/alpha_s'·x + sqrt(beta)·z."""
    n, gamma = 64, 0.6
    noise = Philox(2, torch.arange(n))
    x = noise(torch.empty(n, 3, dtype=torch.float64), 0, Stream.START)
    times = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)[:, None].expand(-1, n)
    r = 0.8 * 1.0  # sqrt(1 - 0.36)·0.5/0.5
    there = torch.full((n,), r / (1 + r), dtype=torch.float64)
    middle = flow_map(x, times[0], there)
    grow = 0.5 / (1 - there[0])
    beta = 0.25 - grow**2 * there[0] ** 2
    middle = grow * middle + beta.sqrt() * noise(x, 0, Stream.STEP)
    found = drive(Jumps(gamma)(Linear(), x, times, noise), truth(), NOTHING)
    # The network's clocks are float32, and `there` is no multiple of 1/1024.
    torch.testing.assert_close(found, flow_map(middle, times[1], times[2]), rtol=0, atol=1e-6)
    whole = drive(Jumps(1.0)(Linear(), x, times, noise), truth(), NOTHING)
    data = flow_map(x, times[0], times[2])
    again = 0.5 * data + 0.5 * noise(x, 0, Stream.STEP)
    torch.testing.assert_close(whole, flow_map(again, times[1], times[2]), rtol=0, atol=1e-10)


def test_an_ordinary_sampler_runs_a_model_of_jumps_and_a_jump_takes_one() -> None:
    noise = Philox(3, torch.arange(8))
    x = noise(torch.empty(8, 3, dtype=torch.float64), 0, Stream.START)
    times = torch.linspace(1, 0, 65, dtype=torch.float64)[:, None].expand(-1, 8)
    found = drive(Heun()(Linear(), x, times, noise), truth(), NOTHING)
    torch.testing.assert_close(found, flow_map(x, times[0], times[-1]), rtol=0, atol=2e-3)
    with pytest.raises(ValueError, match="mean velocity between two"):
        drive(Jumps()(Linear(), x, times[[0, -1]], noise), replace(truth(), jumps=False), NOTHING)
    with pytest.raises(ValueError, match="linear path"):
        Model(Truth(), VP(), V(), jumps=True)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Jumps(1.5)


def test_a_model_of_jumps_looks_no_time_up_again_where_there_is_no_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    times, x = torch.linspace(1, 0, 4, dtype=torch.float64), jump(6).x
    known, looked = Prepared(truth(), times, x), list[int]()
    monkeypatch.setattr(Plain, "clock", lambda self, t, c: looked.append(len(t)) or 1000 * t)
    t = times[[1, 1]]
    whole = known(Query(x[:2], t, t), NOTHING)
    # As a wrapper that cuts a batch into pieces, or joins two, leaves them: equal, and not one object.
    piece = known(Query(x[:2], t, t.clone()), NOTHING)
    assert torch.equal(piece.x0, whole.x0)
    assert not looked
    known(Query(x[:2], t, t - 0.25), NOTHING)
    assert looked == [2]


def test_meanflow_is_at_its_minimum_at_the_flow_map() -> None:
    """Its goal is u itself with the marginal velocity; it is affine in the example's, so its mean is u as well."""
    j = jump()
    u = mean_velocity(j.x, j.t, j.s)
    for tangent in ("own", "example"):
        torch.testing.assert_close(MeanFlow(tangent, "exact").goal(truth(), j, 0.0), u, rtol=0, atol=1e-9)
    off = torch.randn(j.x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for tangent in ("own", "example"):
        more, less = (MeanFlow(tangent, "exact").goal(truth(), j._replace(v=j.v + d), 0.0) for d in (off, -off))
        torch.testing.assert_close((more + less) / 2, u, rtol=0, atol=1e-9)
        assert float((more - u).abs().max()) > 0.1  # and is not blind to it


def test_meanflows_differences_agree_with_its_derivative() -> None:
    """Central differences are off by width² times a third derivative: an eighth of the width, a 64th of the error."""
    j = jump(s=torch.full((64,), 0.125, dtype=torch.float64))
    j = j._replace(t=j.t.clamp(0.25, 0.875), v=velocity(j.x, j.t.clamp(0.25, 0.875)))
    exact = MeanFlow("example", "exact").goal(truth(), j, 0.0)
    # Widths at which the clocks, in float32, are exact: powers of two.
    wide, narrow = (MeanFlow("example", "differences", w).goal(truth(), j, 0.0) - exact for w in (2**-5, 2**-8))
    assert 40 < float(wide.abs().max() / narrow.abs().max()) < 90  # 64
    assert float(narrow.abs().max()) < 2e-4


class NoForward(torch.autograd.Function):
    """The identity, of which only the backward derivative is known."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, change: Tensor) -> Tensor:
        return change


def test_meanflow_names_differences_to_a_network_without_a_forward_derivative_and_to_no_other() -> None:
    j = jump(s=torch.full((64,), 0.125, dtype=torch.float64))

    class Sealed(Truth):
        def forward(self, x: Tensor, *given: Any) -> Tensor:
            return super().forward(NoForward.apply(x), *given)

    def failing(error: Exception) -> Model:
        class Broken(nn.Module):
            def forward(self, *given: Any) -> Tensor:
                raise error

        return replace(truth(), net=Broken())

    sealed = replace(truth(), net=Sealed())
    with pytest.raises(ValueError, match=r"has none \((.|\n)*objective\.derivative=differences"):
        MeanFlow("example", "exact").goal(sealed, j, 0.0)
    way = MeanFlow("example", "differences")
    assert torch.equal(way.goal(sealed, j, 0.0), way.goal(truth(), j, 0.0))
    for error in (RuntimeError("of the network itself"), torch.OutOfMemoryError("full"), KeyError("label")):
        with pytest.raises(type(error)) as raised:
            MeanFlow("example", "exact").goal(failing(error), j, 0.0)
        assert raised.value is error


@pytest.mark.parametrize("end", [0.0, 0.25])
def test_a_composed_goal_is_wrong_by_a_multiple_of_its_first_step(end: float) -> None:
    """SoFlow and consistency: half the gap, half the residual for each of its steps; with a true step there is none."""
    s = torch.full((64,), end, dtype=torch.float64)
    t = jump().t.clamp(min=end + 0.25)
    j = jump(t=t, s=s, v=velocity(jump().x, t))
    u = mean_velocity(j.x, j.t, j.s)
    halves = [(SoFlow(gap=2.0**-k, last=2.0**-k).goal(truth(), j, 0.5) - u) * 2**k for k in (6, 7, 8)]
    for coarse, fine in pairwise(halves):
        assert float(coarse.norm() / fine.norm()) == pytest.approx(2, rel=0.03)
    straight = (j.x - flow_map(j.x, j.t, j.t - (j.t - j.s) / 64)) / ((j.t - j.s) / 64)[:, None]
    kept = SoFlow(gap=1 / 64, last=1 / 64).goal(truth(), j._replace(v=straight), 0.0)
    torch.testing.assert_close(kept, u, rtol=0, atol=1e-5)  # clocks in float32
    assert torch.equal(Consistency(gap=1 / 64, last=1 / 64).goal(truth(), j._replace(v=straight), 0.0), kept)


def test_the_gap_shrinks_geometrically() -> None:
    loss = SoFlow(gap=0.2, last=0.05)
    assert [loss.share(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.1, 0.05])


def test_two_halves_of_a_shortcut_are_the_whole() -> None:
    t = torch.tensor([1.0, 0.5, 0.75, 0.25], dtype=torch.float64)
    s = torch.tensor([0.0, 0.0, 0.5, 0.125], dtype=torch.float64)
    x = Philox(0, torch.arange(4))(torch.empty(4, 3, dtype=torch.float64), 0, Stream.EPS)
    found = Shortcut().goal(truth(), Jump(x, t, s, velocity(x, t), NOTHING), 0.0)
    torch.testing.assert_close(found, mean_velocity(x, t, s), rtol=0, atol=1e-10)
    # The finest halves are velocities: two Euler steps.
    t, s = t[:1], t[:1] - 0.25
    middle = x[:1] - 0.125 * velocity(x[:1], t)
    euler = (velocity(x[:1], t) + velocity(middle, t - 0.125)) / 2
    found = Shortcut(finest=8).goal(truth(), Jump(x[:1], t, s, velocity(x[:1], t), NOTHING), 0.0)
    torch.testing.assert_close(found, euler, rtol=0, atol=1e-12)


def batch_of(n: int, **changes: object) -> Batch:
    noise = Philox(5, torch.arange(n))
    x0 = MU + LAM.sqrt() * noise(torch.empty(n, 3, dtype=torch.float64), 1, Stream.EPS)
    return Batch(x0, NOTHING, torch.arange(n), n)._replace(**changes)


def test_times_are_pairs_of_independent_draws_with_their_share_equal() -> None:
    batch, noise = batch_of(1000), Philox(7, torch.arange(1000))
    t, s = SoFlow(times=Uniform()).pairs(batch, noise, truth())
    one, other = (draw(Uniform(), batch, noise, Linear(), which) for which in (0, 1))
    assert torch.equal(t, torch.maximum(one, other))
    assert torch.equal(s, torch.minimum(one, other))
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 0.1
    assert float(t.mean()) == pytest.approx(2 / 3, abs=0.02)  # the larger of two uniform numbers
    t, s = Consistency().pairs(batch, noise, truth())
    assert torch.equal(t, draw(LogitNormal(0.0, 1.2), batch, noise, Linear()))
    assert not s.any()
    t, s = SoFlow(times=Uniform(), steps=(1, 4)).pairs(batch, noise, truth())
    assert torch.equal(t, draw(Uniform(), batch, noise, Linear()))
    ends = torch.stack([torch.zeros_like(t), ((4 * t).ceil() - 1) / 4])
    assert bool((s == ends).any(0).all()) and bool((s < t).all())
    quarter = (s == ends[1]) & (t > 0.25)  # below 1/4 a whole and a fourth end alike
    assert int(quarter.sum()) == pytest.approx(0.75 * 500, abs=30)
    with pytest.raises(ValueError, match="whole numbers from 1"):
        SoFlow(steps=(4, 0))
    t, s = Shortcut(finest=8).pairs(batch, noise, truth())
    size = t - s
    assert set(size.tolist()) == {1.0, 0.5, 0.25}
    assert torch.equal((t / size).round(), t / size)
    assert [int((size == d).sum()) for d in (1.0, 0.5, 0.25)] == pytest.approx([333, 333, 334], abs=1)


@pytest.mark.parametrize("loss", [SoFlow(), MeanFlow(), Shortcut(), Consistency()])
def test_rows_with_equal_times_are_flow_matching_and_as_many_as_asked(loss: FlowMap) -> None:
    """Of a model that is zero the loss where s = t is the squared velocity of the example, or the teacher's."""

    class Zero(nn.Module):
        asked: list[tuple[Tensor, Tensor]]

        def forward(self, x: Tensor, t: Tensor, s: Tensor, cond: Condition) -> Tensor:
            if len(x) == 1000:
                self.asked = [(t, s)]
            return torch.zeros_like(x)

    model = Model(Zero(), Linear(), Flow(), jumps=True)
    loss = replace(loss, same=0.75, power=0.0)  # type: ignore[type-var]
    batch, noise = batch_of(1000), Philox(7, torch.arange(1000))
    found = loss(model, batch, noise, 0.5)
    t, s = model.net.asked[0]  # type: ignore[union-attr,index]
    equal = t == s
    assert int(equal.sum()) == pytest.approx(750, abs=1)
    eps = noise(batch.x0, 0, Stream.EPS)
    torch.testing.assert_close(found[equal], (eps - batch.x0).square().mean(1)[equal], rtol=1e-12, atol=0)
    taught = loss.taught(velocity)(model, batch, noise, 0.5)
    at = (t.double() / 1000)[:, None]
    x = (1 - at) * batch.x0 + at * eps
    expected = velocity(x, at[:, 0]).square().mean(1)
    torch.testing.assert_close(taught[equal], expected[equal], rtol=1e-4, atol=0)
    late = replace(loss, begin=0.6)  # type: ignore[type-var]
    late(model, batch, noise, 0.5)
    assert torch.equal(*model.net.asked[0])  # type: ignore[union-attr,index]
    weighed = replace(loss, power=0.5)(model, batch, noise, 0.5)  # type: ignore[type-var]
    torch.testing.assert_close(weighed, found / (found + 1e-3).sqrt(), rtol=1e-12, atol=0)
    # Of l1 and huber the same, with the size of each element, and its square below 1.
    error = (eps - batch.x0)[equal]
    for name, each in (("l1", error.abs()), ("huber", torch.where(error.abs() < 1, error**2 / 2, error.abs() - 0.5))):
        sharp = replace(loss, loss=name)(model, batch, noise, 0.5)  # type: ignore[type-var]
        torch.testing.assert_close(sharp[equal], each.mean(1), rtol=1e-12, atol=0)


class Affine(nn.Module):
    """u = a·x + b in three numbers, a and b learned functions of the two times."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 32), nn.Tanh(), nn.Linear(32, 6)).double()

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        t, s = t_emb.double() / 1000, s_emb.double() / 1000
        shown = torch.stack([t, s, t - s, t * t, (t - s) ** 2], 1)
        a, b = self.body(2 * shown - 1).chunk(2, 1)
        return a * x + b


@pytest.mark.parametrize(
    "loss",
    [
        SoFlow(gap=0.2, last=0.05, same=0.25, times=Uniform(), power=0.0),
        SoFlow(gap=0.2, last=0.01, steps=(1, 2), same=0.25, times=Uniform(), power=0.0),
        Consistency(gap=0.2, last=0.01, times=Uniform(), power=0.0),
        MeanFlow(derivative="exact", times=Uniform(), power=0.0),
        MeanFlow("example", "differences", 0.005, times=Uniform(), power=0.0),
        Shortcut(same=0.5),
        Regression(times=UShaped()),
    ],
    ids=["soflow", "soflow-steps", "consistency", "meanflow", "meanflow-differences", "shortcut", "reflow"],
)
def test_a_linear_network_learns_the_flow_map(loss: FlowMap | Regression) -> None:
    """Trained with the teacher's velocity, its one jump from noise to data is the flow map's: mean mu, deviations.

    Reflow's flow, of pairs of noise and where the teacher's leads, ends there in one step of Euler's and in eight.
    """
    torch.manual_seed(0)
    model = Model(Affine(), Linear(), Flow(), jumps=True)
    optim = torch.optim.Adam(model.net.parameters(), 2e-2)
    taught, steps, size = loss.taught(velocity_of(truth())) if isinstance(loss, FlowMap) else loss, 300, 128
    ones, zeros = torch.ones(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for step in range(steps):
        number = torch.arange(step * size, (step + 1) * size)
        noise = Philox(5, number)
        x0 = MU + LAM.sqrt() * noise(torch.empty(size, 3, dtype=torch.float64), 1, Stream.EPS)
        batch = Batch(x0, NOTHING, number, size)
        if isinstance(loss, Regression):
            start = noise(x0, 0, Stream.START)
            batch = batch._replace(x0=flow_map(start, ones, zeros), eps=start)
        value = taught(model, batch, noise, step / steps).mean()
        optim.zero_grad()
        value.backward()
        for group in optim.param_groups:
            group["lr"] = 2e-2 * min(1.0, 2 * (1 - step / steps))
        optim.step()
    x = torch.stack([torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)])
    sampler, counts = (Jumps(), [1]) if isinstance(loss, FlowMap) else (Euler(), [1, 8])
    for count in counts:
        times = torch.linspace(1, 0, count + 1, dtype=torch.float64)[:, None].expand(-1, 2)
        with torch.no_grad():
            mean, one = drive(sampler(Linear(), x, times, Philox(0, torch.arange(2))), model, NOTHING)
        assert float((mean - MU).abs().max()) < 0.1
        assert float((one - mean - LAM.sqrt()).abs().max()) < 0.1


@pytest.mark.parametrize(
    ("path", "target", "inputs"),
    [
        (VP(), V(), UnitVariance(0.6)),
        (VP(), X0(), Plain()),
        (Table(CosineBetas(steps=50)), V(), Indexed(50)),
        (VE(), Edm(0.6), EdmInputs(0.6)),
        (Linear(), Flow(), Plain()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_a_trained_network_carried_to_the_linear_path_answers_as_along_it(path: Path, target: Any, inputs: Any) -> None:
    """`Along` asks the model on its own path; carried inputs and target make it a model on the other."""

    class Odd(nn.Module):
        def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
            return torch.sin(3 * x) + x * (t_emb.double() / 700).cos()[:, None]

    teacher = Model(Odd(), path, target, inputs)
    student = Model(Odd(), Linear(), Carried(target, path), CarriedInputs(inputs, path), jumps=True)
    j = jump()
    t = j.t.clamp(max=0.9)
    expected = Along(teacher, path, Linear())(Query(j.x, t, t), NOTHING)
    found = student(Query(j.x, t, t), NOTHING)
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-6, atol=1e-6)  # clocks in float32
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="predicts the noise"):
        Carried(Eps(), path)  # type: ignore[arg-type]
