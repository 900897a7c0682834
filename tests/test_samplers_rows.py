"""One flow on all paths (closed form 9), and every picture on a grid of its own, as if it were alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from affine import DETERMINISTIC, EVERY, MIX, SAMPLERS, STOCHASTIC
from gaussian import LAM, MU, PATHS, model
from inkwash.drive import drive
from inkwash.guidance import Along, highest
from inkwash.noise import Philox, Stream
from inkwash.paths import VP, Linear, SigmoidSchedule
from inkwash.samplers import Adams, Euler, Heun
from inkwash.samplers.steps import ends, slopes
from inkwash.targets import V
from inkwash.types import Condition, Denoised, Noise, Path, Query, Sampler

SAME_FLOW = [
    n for n in EVERY if not n.startswith(("euler", "heun", "adams")) and "large" not in n and "learned" not in n
]


def sampled(sampler: Sampler, path: Path, x: Tensor, times: Tensor, noise: Noise, seen: list[Query]) -> Tensor:
    exact = model(path, V(), MU.to(x.dtype), LAM.to(x.dtype))

    def denoiser(query: Query, cond: Condition) -> Denoised:
        assert query.x.dtype == x.dtype
        seen.append(query)
        return exact(query, cond)._replace(var_mix=MIX.to(x.dtype).expand_as(query.x))

    return drive(sampler(path, x, times, noise), denoiser, Condition())


@pytest.mark.parametrize(
    ("name", "path"), [*((n, p) for n in SAME_FLOW for p in ("vp", "ve")), ("ddim", "table"), ("dpm++ 2", "table")]
)
def test_one_flow_on_all_paths(name: str, path: str) -> None:
    """At equal r = sigma/alpha every x/alpha is the same, whatever the path: solvers in r, lambda or the angle.

    Not those in t, and of the stochastic ones those with the small variance: the large one in these units,
    (alpha_t/alpha_s)²·(r_t² - r_s²), depends on the path.
    """
    ratios = torch.tensor([20.0, 9.0, 8.5, 3.0, 1.0, 0.3, 0.05], dtype=torch.float64)
    start = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler = EVERY[name]
    trajectories = []
    for p in (PATHS["linear"], PATHS[path]):
        times, seen = p.time(ratios)[:, None].expand(-1, 3), list[Query]()
        noise, x = Philox(0, torch.arange(3)), start * p(times[0]).alpha[:, None]
        out = sampled(sampler, p, x, times, noise, seen)
        trajectories.append(
            torch.stack([*(q.x / p(q.t).alpha[:, None] for q in seen), out / p(times[-1]).alpha[:, None]])
        )
    assert len(trajectories[0]) >= len(ratios)
    torch.testing.assert_close(trajectories[0], trajectories[1], rtol=1e-9, atol=1e-9)


@dataclass
class Late:
    """Another's noise, its first `skip` steps left out."""

    noise: Noise
    skip: int

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        return self.noise(like, step + self.skip, stream)


SILENT = Philox(0, torch.arange(2))  # of which no deterministic sampler takes any

GRIDS = [  # each row's own; of different lengths, some end at the data
    [0.95, 0.5, 0.4, 0.3, 0.2, 0.0],
    [0.8, 0.7, 0.6, 0.5],
    [0.9, 0.31, 0.0],
    [0.97, 0.02],
    [0.93, 0.9, 0.85, 0.7, 0.41, 0.33],
]


@pytest.mark.parametrize("where", ["end", "start"])
@pytest.mark.parametrize(("name", "path"), [*((n, "linear") for n in EVERY), *((n, "vp") for n in SAMPLERS)])
def test_rows_of_a_batch_may_be_on_different_grids(name: str, path: str, where: str) -> None:
    """Each row alone, on its own grid without the padding, gives the same bits, and stays still while it waits.

    So it is in float64 (on linear) and in float32 (on VP). Padded at the start, the noise of a row's first own
    step is that of the step's number in the batch.
    """
    sampler, p = EVERY[name], PATHS[path]
    longest = max(len(g) for g in GRIDS)
    pads = [longest - len(g) for g in GRIDS]
    padded = [g + [g[-1]] * n if where == "end" else [g[0]] * n + g for g, n in zip(GRIDS, pads, strict=True)]
    noise = Philox(1, torch.tensor([5, 0, 900, 7, 8]))
    dtype = torch.float32 if path == "vp" else torch.float64
    x = noise(torch.empty(len(GRIDS), 4, dtype=dtype), 0, Stream.EPS)
    whole = sampled(sampler, p, x, torch.tensor(padded, dtype=torch.float64).T, noise, [])
    assert bool(whole.isfinite().all())
    for i, own in enumerate(GRIDS):
        late = Late(Philox(1, noise.index[i : i + 1]), pads[i] if where == "start" else 0)
        alone = sampled(sampler, p, x[i : i + 1], torch.tensor(own, dtype=torch.float64)[:, None], late, [])  # type: ignore[arg-type]
        assert torch.equal(alone[0], whole[i])


@dataclass
class Picked:
    """Another's noise of these steps, in this order."""

    noise: Noise
    steps: list[int]

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        return self.noise(like, self.steps[step], stream)


PAUSED = [  # every row pauses at other places, for other times: none, one, two, at both ends
    [0.95, 0.8, 0.7, 0.6, 0.55, 0.5, 0.3, 0.2, 0.1, 0.05],
    [0.9, 0.7, 0.5, 0.5, 0.3, 0.3, 0.3, 0.2, 0.1, 0.0],
    [0.9, 0.9, 0.7, 0.5, 0.5, 0.5, 0.3, 0.1, 0.0, 0.0],
    [0.97, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.4, 0.22],
]


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [1, 1], [2]], ids=str)
@pytest.mark.parametrize(("name", "path"), [*((n, "linear") for n in EVERY), *((n, "vp") for n in SAMPLERS)])
def test_a_row_may_pause(name: str, path: str, rows: list[int]) -> None:
    """It goes on as if nothing had been: with what it remembers from before, and the noise of the batch's steps."""
    sampler, p = EVERY[name], PATHS[path]
    dtype = torch.float32 if path == "vp" else torch.float64
    index = torch.tensor([5, 0, 900, 7])[: len(rows)]
    x = Philox(1, index)(torch.empty(len(rows), 4, dtype=dtype), 0, Stream.EPS)
    times = torch.tensor([PAUSED[row] for row in rows], dtype=torch.float64)
    whole = sampled(sampler, p, x, times.T, Philox(1, index), [])
    for i, padded in enumerate(times.tolist()):
        steps = [k for k, (t, s) in enumerate(pairwise(padded)) if t != s]
        own = torch.tensor([*(padded[k] for k in steps), padded[-1]], dtype=torch.float64)
        alone = sampled(sampler, p, x[i : i + 1], own[:, None], Picked(Philox(1, index[i : i + 1]), steps), [])  # type: ignore[arg-type]
        assert torch.equal(alone[0], whole[i])


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_pauses_on_the_way_up(name: str) -> None:
    up = [0.0, 0.0, 0.1, 0.3, 0.3, 0.5, 0.7, 0.7, 0.9]
    own = sorted(set(up))
    x = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = (
        sampled(
            DETERMINISTIC[name], PATHS["linear"], x, torch.tensor(t, dtype=torch.float64)[:, None], Late(None, 0), []
        )  # type: ignore[arg-type]
        for t in (up, own)
    )
    assert torch.equal(a, b)


def test_what_a_sampler_remembers_is_not_for_grids_that_turn() -> None:
    """Down, up and down again: those with a memory say so, and the others follow; one row that turns is enough."""
    turning = torch.tensor([[0.8, 0.8], [0.5, 0.6], [0.8, 0.5], [0.5, 0.4], [0.2, 0.1]], dtype=torch.float64)
    x = torch.ones(2, 4, dtype=torch.float64)
    for name, sampler in DETERMINISTIC.items():
        for times in (turning, turning.flip(1), 1 - turning, turning[[0, 1, 1, 2]]):
            if name in ("ddim", "euler", "heun"):
                assert bool(sampled(sampler, PATHS["linear"], x, times, SILENT, []).isfinite().all())
            else:
                with pytest.raises(ValueError, match=r"remembers its answers .* cannot follow times that turn") as said:
                    sampled(sampler, PATHS["linear"], x, times, SILENT, [])
                assert str(said.value).startswith(repr(sampler))
        # Rows of a batch may go opposite ways.
        ways = torch.tensor([[0.8, 0.1], [0.5, 0.3], [0.2, 0.6]], dtype=torch.float64)
        both = sampled(sampler, PATHS["linear"], x, ways, SILENT, [])
        for row in (0, 1):
            alone = sampled(sampler, PATHS["linear"], x[:1], ways[:, row : row + 1], SILENT, [])
            assert torch.equal(both[row], alone[0])


@pytest.mark.parametrize("name", EVERY)
def test_pure_noise_and_data_may_be_repeated(name: str) -> None:
    """At alpha = 0 and sigma = 0, where ratios are infinite or 0, a row waits as well."""
    short, long = [1.0, 0.6, 0.3, 0.1, 0.0], [1.0, 0.9, 0.8, 0.6, 0.3, 0.1, 0.0]
    grids = [[1.0, 1.0, *short], [*short, 0.0, 0.0], long]
    x, sampler = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), EVERY[name]
    silent = Philox(0, torch.tensor([0, 0, 0]))
    out = sampled(sampler, PATHS["linear"], x.expand(3, -1), torch.tensor(grids, dtype=torch.float64).T, silent, [])
    for row, grid in enumerate((short, short, long)):
        noise, times = Late(Philox(0, torch.tensor([0])), 2 if row == 0 else 0), torch.tensor(grid, dtype=torch.float64)
        alone = sampled(sampler, PATHS["linear"], x, times[:, None], noise, [])  # type: ignore[arg-type]
        assert torch.equal(out[row], alone[0])


@pytest.mark.parametrize("name", EVERY)
def test_a_row_that_stands_still_is_returned_as_it_was(name: str) -> None:
    times = torch.tensor([[0.5, 0.8], [0.5, 0.4], [0.5, 0.2]], dtype=torch.float64)
    x = torch.full((2, 4), 0.3, dtype=torch.float64)
    out = sampled(EVERY[name], PATHS["linear"], x, times, Philox(0, torch.arange(2)), [])
    if name == "rk45":  # through x/sqrt(alpha² + sigma²) and back
        torch.testing.assert_close(out[0], x[0], rtol=1e-15, atol=0)
    else:
        assert torch.equal(out[0], x[0])
    assert bool((out[1] != x[1]).all())


@pytest.mark.parametrize("name", [n for n in SAMPLERS if "heun" not in n])
def test_what_is_asked(name: str) -> None:
    """One question a step, at its start, about that time: t = s."""
    times, seen = torch.tensor([1.0, 0.6, 0.3, 0.0], dtype=torch.float64), list[Query]()
    x = torch.ones(2, 4, dtype=torch.float64)
    sampled(SAMPLERS[name], PATHS["linear"], x, times[:, None].expand(-1, 2), Philox(0, torch.arange(2)), seen)
    assert torch.equal(torch.stack([q.t for q in seen]), times[:-1, None].expand(-1, 2))
    assert torch.equal(torch.stack([q.s for q in seen]), times[:-1, None].expand(-1, 2))
    assert torch.equal(seen[0].x, x)


def test_what_heun_asks() -> None:
    """Twice a step, but once where it ends without noise; a row that has arrived is asked where it still can answer."""
    times = torch.tensor([[1.0, 0.9], [0.6, 0.5], [0.0, 0.3], [0.0, 0.0]], dtype=torch.float64)
    seen: list[Query] = []
    x = torch.ones(2, 4, dtype=torch.float64)
    sampled(Heun(), PATHS["linear"], x, times, Philox(0, torch.arange(2)), seen)
    asked = [[1.0, 0.9], [0.6, 0.5], [0.6, 0.5], [0.6, 0.3], [0.0, 0.3]]
    assert torch.stack([q.t for q in seen]).tolist() == asked
    assert all(torch.equal(q.t, q.s) for q in seen)
    assert torch.equal(seen[3].x[0], seen[2].x[0])  # about its start again


def test_churn_starts_from_more_noise() -> None:
    """From r·(1 + min(churn/N, sqrt(2) - 1)), within the limits alone; all noise is not raised."""
    times = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0], dtype=torch.float64)[:, None]

    def started(sampler: Heun) -> list[float]:
        seen: list[Query] = []
        sampled(
            sampler,
            PATHS["linear"],
            torch.ones(1, 4, dtype=torch.float64),
            times,
            Philox(0, torch.zeros(1).long()),
            seen,
        )
        return [round(float(q.t / (1 - q.t)), 9) for q in seen[2::2]]

    assert started(Heun()) == [4.0, 1.0, 0.25]
    assert started(Heun(churn=0.4)) == [4.4, 1.1, 0.275]
    assert started(Heun(churn=4.0)) == [round(r * 2**0.5, 9) for r in (4.0, 1.0, 0.25)]
    assert started(Heun(churn=0.4, churn_min=1.0)) == [4.4, 1.1, 0.25]
    assert started(Heun(churn=0.4, churn_max=1.0)) == [4.0, 1.1, 0.275]
    assert started(Heun(churn=0.4, churn_min=1.01, churn_max=3.9)) == [4.0, 1.0, 0.25]


def test_churn_does_not_leave_a_grid_that_starts_below_the_end() -> None:
    """A row that starts below t = 1 is raised to its first time at most; one that starts there may go beyond."""
    times = torch.tensor([[0.8, 0.9, 1.0], [0.75, 0.5, 0.9], [0.5, 0.4, 0.5], [0.0, 0.0, 0.0]], dtype=torch.float64)
    seen: list[Query] = []
    x = torch.ones(3, 4, dtype=torch.float64)
    sampled(Heun(churn=30.0), PATHS["ve"], x, times, Philox(0, torch.arange(3)), seen)
    up = 2**0.5
    want = torch.tensor([[0.8, 0.9, up], [0.8, 0.5 * up, 0.9 * up], [0.5 * up, 0.4 * up, 0.5 * up]]).double()
    torch.testing.assert_close(torch.stack([q.t for q in seen[::2]]), want, rtol=1e-7, atol=0)
    assert seen[0].x[:2].tolist() == x[:2].tolist()  # no noise of none
    assert bool((seen[0].x[2] != x[2]).all())


def test_churn_along_another_path_stays_within_what_the_model_has_seen() -> None:
    """A model of VE sampled on the straight path from its highest time: EDM's first step would raise it above."""
    path, trained = PATHS["linear"], PATHS["ve"]
    start = highest(trained, path)
    times = torch.linspace(start, 0, 6, dtype=torch.float64)[:, None].expand(-1, 2)
    along, x = Along(model(trained, V(), MU, LAM), trained, path), torch.ones(2, 4, dtype=torch.float64)
    out = drive(Heun(churn=10.0)(path, x, times, Philox(0, torch.arange(2))), along, Condition())
    truth = sampled(Heun(churn=10.0), path, x, times, Philox(0, torch.arange(2)), [])
    torch.testing.assert_close(out, truth, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 8, 17])
def test_coefficients_do_not_depend_on_the_size_of_a_batch(size: int) -> None:
    """Bit for bit, also where a vectorised function is another than the one for what is left over."""
    path = VP(SigmoidSchedule())
    times = torch.linspace(0.99, 0.0, 8, dtype=torch.float64)[:, None]
    for one, many in zip(ends(path, times), ends(path, times.expand(-1, size)), strict=True):
        for a, b in zip(one, many, strict=True):
            assert torch.equal(a.expand(-1, size), b)
    moved = torch.ones(7, 1, dtype=torch.bool)
    for a, b in zip(slopes(path, times[:-1], moved), slopes(path, times[:-1].expand(-1, size), moved), strict=True):
        assert torch.equal(a.expand(-1, size), b)

    def starts(size: int) -> Tensor:
        seen: list[Query] = []
        x = torch.ones(size, 4, dtype=torch.float64)
        sampled(Heun(churn=1.0), path, x, times.expand(-1, size), Philox(0, torch.arange(size)), seen)
        return torch.stack([q.t for q in seen])

    assert torch.equal(starts(1).expand(-1, size), starts(size))
    apart = times - torch.arange(size) / 1000  # rows of their own times have their own
    assert not torch.equal(ends(Linear(), apart)[0].alpha, 1 - times.expand(-1, size))
    assert torch.equal(ends(Linear(), apart)[0].alpha, 1 - apart)


def test_equal_methods() -> None:
    """Of order 1 all are DDIM or Euler's method, and DPM-Solver++'s SDE is ancestral sampling."""
    times = torch.tensor([0.97, 0.9, 0.7, 0.5, 0.2, 0.0], dtype=torch.float64)[:, None].expand(-1, 2)
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for path in (PATHS["linear"], PATHS["table"]):
        outs = {n: sampled(s, path, x, times, Philox(3, torch.arange(2)), []) for n, s in EVERY.items()}
        for a, b in [
            ("ddim", "dpm++ 1"),
            ("ddim", "deis 1"),
            ("ddim", "ipndm 1"),
            ("euler", "adams 1"),
            ("dpm++ 1 sde", "ancestral"),
            ("ddim 1", "ancestral"),
        ]:
            torch.testing.assert_close(outs[a], outs[b], rtol=1e-11, atol=1e-12)


def test_even_ratios_make_ipndm_deis() -> None:
    ratios = torch.linspace(8.0, 0.5, 9, dtype=torch.float64)
    x = torch.ones(2, 4, dtype=torch.float64)
    for path in PATHS.values():
        times = path.time(ratios)[:, None].expand(-1, 2)
        for order in (2, 3, 4):
            a, b = (
                sampled(EVERY[f"{name} {order}"], path, x, times, Philox(0, torch.arange(2)), [])
                for name in ("deis", "ipndm")
            )
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-11)


def test_on_the_straight_path_adams_is_not_deis_but_euler_is_ddim() -> None:
    """On VE t is sigma/alpha but for a factor, and Adams is DEIS."""
    times = torch.tensor([0.97, 0.9, 0.7, 0.5, 0.2, 0.0], dtype=torch.float64)[:, None].expand(-1, 2)
    x, noise = torch.ones(2, 4, dtype=torch.float64), Philox(0, torch.arange(2))
    linear, ve = PATHS["linear"], PATHS["ve"]
    a, b = (sampled(s, linear, x, times, noise, []) for s in (Euler(), EVERY["ddim"]))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)
    for order in (2, 3, 4):
        a, b = (sampled(s, ve, x, times, noise, []) for s in (Adams(order), EVERY[f"deis {order}"]))  # type: ignore[arg-type]
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_stochastic_samplers_differ_between_samples_and_not_between_runs() -> None:
    times = torch.tensor([0.97, 0.5, 0.2, 0.0], dtype=torch.float64)[:, None].expand(-1, 2)
    x = torch.ones(2, 4, dtype=torch.float64)
    for sampler in STOCHASTIC.values():
        once, again = (sampled(sampler, PATHS["linear"], x, times, Philox(0, torch.arange(2)), []) for _ in range(2))
        assert torch.equal(once, again)
        assert bool((once[0] != once[1]).all())
