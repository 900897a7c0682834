"""A model trained on one path and sampled along another draws the same pictures (REFERENCES' closed form 9)."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import gaussian
from affine import EVERY
from gaussian import flow_map, model
from inkwash.drive import drive
from inkwash.grids import Karras, spread
from inkwash.guidance import Along, highest, same_noise
from inkwash.noise import Philox
from inkwash.paths import VE, VP, CosineSchedule, Linear, Shifted, SigmoidSchedule, Table, ratio
from inkwash.samplers import Ancestral, Ddim, RungeKutta
from inkwash.targets import Edm, V
from inkwash.types import Condition, Denoised, Path, Query, Sampler

ROADS: dict[str, Path] = {
    "flow": Linear(),
    "edm": VE(),
    "vp": VP(),
    "vp cosine": VP(CosineSchedule()),
    "vp sigmoid": VP(SigmoidSchedule()),
    "table": Table(),
    "zero snr": Table(zero_snr=True),
    "shifted": Shifted(Linear(), 2.0),
    "theirs": gaussian.VP(),
}
PAIRS = [(a, b) for a in ROADS for b in ROADS if a != b]


def scale(path: Path, t: Tensor) -> Tensor:
    c = path(t)
    return (c.alpha**2 + c.sigma**2).sqrt()


def run(sampler: Sampler, path: Path, denoiser: object, x: Tensor, times: Tensor) -> list[Tensor]:
    """Every x of a run, the last one included, divided by the path's scale: what all paths agree on."""
    seen: list[Tensor] = []
    coroutine = sampler(path, x, spread(times, len(x)), Philox(0, torch.arange(len(x))))
    last = drive(coroutine, denoiser, Condition(), lambda q, _: seen.append(q.x))  # type: ignore[arg-type]
    return [v / s for v, s in zip([*seen, last], scale(path, times).tolist(), strict=True)]


@pytest.mark.parametrize("sampler", [Ddim(), Ancestral()])
@pytest.mark.parametrize(("trained", "path"), PAIRS)
def test_the_same_trajectory_after_the_change_of_variables(trained: str, path: str, sampler: Sampler) -> None:
    """Both samplers see ratios alone. At equal ratios the runs agree step by step, up to the scale of x."""
    here, there = ROADS[path], ROADS[trained]
    times = Karras(high=50.0)(here, 6)  # every path reaches this noise
    own = there.time(ratio(here(times)))
    z = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser = model(there, Edm())
    wanted = run(sampler, there, denoiser, z * scale(there, own[:1]), own)
    found = run(sampler, here, Along(denoiser, there, here), z * scale(here, times[:1]), times)
    assert len(found) == 7
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def moved(trained: str, path: str) -> tuple[Path, Path, Tensor, Tensor, Tensor]:
    """Both paths, times on the one sampled along, the same noise on the other, and standard normals to start from."""
    here, there = ROADS[path], ROADS[trained]
    times = Karras(low=0.05, high=50.0)(here, 7)
    z = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return here, there, times, there.time(ratio(here(times))), z


def end(sampler: Sampler, path: Path, denoiser: object, x: Tensor, times: Tensor) -> Tensor:
    """What a run makes, at t = 0."""
    coroutine = sampler(path, x, spread(times, len(x)), Philox(0, torch.arange(len(x))))
    return drive(coroutine, denoiser, Condition())  # type: ignore[arg-type]


EACH = EVERY | {"rk45": RungeKutta(last=0.02)}  # a table's first entry is above the usual `last`
SOME = [("edm", "flow"), ("flow", "edm"), ("vp", "flow"), ("edm", "vp cosine"), ("table", "theirs"), ("vp", "shifted")]
OF_RATIOS = ("ddim", "dpm++", "unipc", "deis", "ipndm", "rk45")  # the others' steps are in the path's own time


@pytest.mark.parametrize(
    "name", [n for n in EACH if n.startswith(OF_RATIOS) and "large" not in n and "learned" not in n]
)
@pytest.mark.parametrize(("trained", "path"), SOME)
def test_samplers_of_ratios_draw_the_same_on_every_path(trained: str, path: str, name: str) -> None:
    """At equal ratios x/alpha is the same for a model on its own path and along another; at the end it is x."""
    here, there, times, own, z = moved(trained, path)
    denoiser = model(there, Edm())
    wanted = end(EACH[name], there, denoiser, z * scale(there, own[:1]), own)
    found = end(EACH[name], here, Along(denoiser, there, here), z * scale(here, times[:1]), times)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [n for n in EACH if "learned" not in n])  # what a model of another path has not
@pytest.mark.parametrize(("trained", "path"), SOME)
def test_every_sampler_is_that_of_a_model_of_the_path(trained: str, path: str, name: str) -> None:
    """Along a path it draws what it draws with the exact model trained on it, with the same noise."""
    here, there, times, _, z = moved(trained, path)
    x = z * scale(here, times[:1])
    found = end(EACH[name], here, Along(model(there, Edm()), there, here), x, times)
    wanted = end(EACH[name], here, model(here, V()), x, times)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("trained", "path"), PAIRS)
def test_the_answers_are_those_of_a_model_of_the_path(trained: str, path: str) -> None:
    """The best denoiser of Gaussian data for one path, asked along another, is the best for that one."""
    here, there = ROADS[path], ROADS[trained]
    t = torch.tensor([0.02, 0.37, 0.61, 0.88], dtype=torch.float64)
    x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale(here, t)[:, None]
    found = Along(model(there, Edm()), there, here)(Query(x, t, t), Condition())
    wanted = model(here, V())(Query(x, t, t), Condition())
    torch.testing.assert_close(found.x0, wanted.x0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.eps, wanted.eps, rtol=1e-8, atol=1e-8)
    c = here(t)
    torch.testing.assert_close(c.alpha[:, None] * found.x0 + c.sigma[:, None] * found.eps, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", ROADS)
def test_the_flow_is_one_flow(path: str) -> None:
    """Eq. 21 on two paths, with clock and scale changed, is one map."""
    here, there = ROADS[path], VP(CosineSchedule())
    t, s = 0.8, 0.3
    own = there.time(ratio(here(torch.tensor([t, s], dtype=torch.float64))))
    k_t, k_s = (scale(there, own) / scale(here, torch.tensor([t, s], dtype=torch.float64))).tolist()
    x = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    wanted = flow_map(there, *own.tolist(), k_t * x) / k_s
    torch.testing.assert_close(flow_map(here, t, s, x), wanted, rtol=1e-9, atol=1e-10)


@dataclass
class Asked:
    """A denoiser that keeps its queries."""

    queries: list[Query] = field(default_factory=list)

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        self.queries.append(query)
        return Denoised(query.x, query.x, query.x)


def test_what_the_model_is_asked() -> None:
    """VE at sigma = 80t is the line at sigma/(1 + sigma), its x divided by 1 + sigma; jumps are carried over too."""
    asked = Asked()
    along = Along(asked, Linear(), VE())
    t, s = torch.tensor([0.05, 1.0], dtype=torch.float64), torch.tensor([0.0125, 0.0], dtype=torch.float64)
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    answer = along(Query(x, t, s), Condition())
    (query,) = asked.queries
    assert query.t.tolist() == pytest.approx([4 / 5, 80 / 81], rel=1e-14)
    assert query.s.tolist() == pytest.approx([1 / 2, 0.0], rel=1e-14)
    torch.testing.assert_close(query.x, x / torch.tensor([[5.0], [81.0]]))
    assert query.x.dtype == torch.float32
    assert answer.var_mix is None  # "large" is of the trained path alone
    along(Query(x, t, t), Condition())
    assert asked.queries[1].s is asked.queries[1].t


def test_the_end_of_a_path_without_signal() -> None:
    """At alpha = 0 on both there is nothing but the scale to change."""
    asked = Asked()
    one = torch.ones(1, dtype=torch.float64)
    for trained in (VP(CosineSchedule()), Table(zero_snr=True)):
        Along(asked, trained, Linear())(Query(torch.ones(1, 2), one, one), Condition())
        assert float(asked.queries[-1].t) == 1.0
        assert asked.queries[-1].x.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize(
    ("trained", "path", "limit"),
    [
        (VE(), Linear(), 80 / 81),
        (VE(), VE(100.0), 0.8),
        (VE(100.0), VE(), 1.0),
        (VE(), VE(), 1.0),
        (Linear(), VE(), 1.0),
        (Linear(), VP(CosineSchedule()), 1.0),
        (VE(1.0), VP(CosineSchedule()), 0.5),
        (VE(4.0), Table(zero_snr=True), None),
        (Table(), Linear(), None),
        (Table(), Shifted(Linear(), 3.0), None),
        (VP(), Table(zero_snr=True), None),
    ],
)
def test_highest_is_the_last_time_that_can_be_asked(trained: Path, path: Path, limit: float | None) -> None:
    top = highest(trained, path)
    assert 0 < top <= 1
    if limit is not None:
        assert top == pytest.approx(limit, rel=1e-12)
    along = Along(Asked(), trained, path)
    x, t = torch.ones(2, 1), torch.tensor([0.5 * top, top], dtype=torch.float64)
    along(Query(x, t, t), Condition())  # rounding is forgiven
    if top < 1:
        beyond = torch.tensor([0.5 * top, top + 1e-6], dtype=torch.float64)
        found = f"Start at t = {math.floor(top * 1e6) / 1e6:.6f} or below"
        with pytest.raises(ValueError, match="more noise than the model has ever seen") as error:
            along(Query(x, beyond, beyond), Condition())
        assert found in str(error.value)
        assert f"t = {top + 1e-6:.6g} of {path}" in str(error.value)
        with pytest.raises(ValueError, match="more noise"):  # the end of a jump is asked about as well
            along(Query(x, t, beyond), Condition())


@pytest.mark.parametrize(("trained", "path"), PAIRS)
def test_times_of_the_same_noise(trained: str, path: str) -> None:
    """At equal ratios; and at the end, where the trained path has no such noise."""
    here, there = ROADS[path], ROADS[trained]
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    found, end = ratio(there(same_noise(there, here, t))), ratio(there(torch.ones(3, dtype=torch.float64)))
    torch.testing.assert_close(found, ratio(here(t)).minimum(end), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ROADS)
def test_a_path_is_no_limit_to_itself(name: str) -> None:
    assert highest(ROADS[name], ROADS[name]) == 1.0


def test_only_rounding_is_forgiven() -> None:
    along = Along(Asked(), VE(), VE(100.0))
    for excess, refused in ((1e-10, False), (1e-8, True)):
        t = torch.tensor([0.8 * (1 + excess)], dtype=torch.float64)
        with pytest.raises(ValueError, match="more noise") if refused else nullcontext():
            along(Query(torch.ones(1, 1), t, t), Condition())


def test_the_refusal_says_how_much_noise_there_is() -> None:
    t = torch.tensor([0.2, 1.0, 0.9], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"t = 1 of Linear\(\) .*sigma/alpha = inf, and VE\(top=80.0\) ends at 80\."):
        Along(Asked(), VE(), Linear())(Query(torch.ones(3, 1), t, t), Condition())
