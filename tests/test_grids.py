"""Grids of times: their formulas, diffusers' index conventions at both ends, and what is refused."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch

import gaussian
from inkwash.grids import (
    AnyGrid,
    Cut,
    Even,
    Karras,
    Leading,
    Linspace,
    Listed,
    LogSnr,
    Quadratic,
    Trailing,
    grid,
    spread,
)
from inkwash.kinds import from_table, members_of
from inkwash.paths import VE, VP, CosineSchedule, Linear, LinearBetas, Shifted, SigmoidSchedule, Table, ratio
from inkwash.types import Path

PATHS: dict[str, Path] = {
    "linear": Linear(),
    "ve": VE(),
    "vp": VP(),
    "vp cosine": VP(CosineSchedule()),
    "vp sigmoid": VP(SigmoidSchedule()),
    "table": Table(),
    "zero snr": Table(zero_snr=True),
    "shifted": Shifted(Linear(), 3.0),
    "theirs": gaussian.VP(),
}
GRIDS: list[Any] = [Even(), Leading(), Linspace(), Trailing(), Quadratic(), Karras(), LogSnr()]
IN_RATIOS: list[Any] = [Karras(), Karras(0.05, 10.0, 3.0), LogSnr(), LogSnr(0.05, 10.0)]


def test_every_grid_is_here() -> None:
    assert set(members_of(AnyGrid).values()) == {type(g) for g in [*GRIDS, Cut(), Listed([1, 0])]}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: g.kind)
def test_every_grid_falls_to_0_on_every_path(grid: Any, name: str) -> None:
    for start in (1.0, 0.6):
        for steps in (1, 2, 7, 100):
            times = grid(PATHS[name], steps, start)
            assert times.dtype == torch.float64
            assert times.shape == (steps + 1,)
            assert bool((times.diff() < 0).all())
            assert 0 < float(times[0]) <= start
            assert float(times[-1]) == 0.0
    assert torch.equal(grid(PATHS[name], 7), grid(PATHS[name], 7, 1.0))  # pure noise unless told otherwise


def test_even_and_quadratic() -> None:
    for steps, start in ((1, 1.0), (5, 1.0), (8, 0.3)):
        left = [1 - i / steps for i in range(steps + 1)]
        assert Even()(Linear(), steps, start).tolist() == pytest.approx([start * v for v in left], rel=1e-14)
        assert Quadratic()(Linear(), steps, start).tolist() == pytest.approx([start * v**2 for v in left], rel=1e-13)
        assert float(Even()(Linear(), steps, start)[0]) == float(Quadratic()(Linear(), steps, start)[0]) == start


# On every path the table's own convention counts: our t = (index + 1)/T, index counted from 0.
BY_HAND = [
    (Leading, 10, 1, [0]),
    (Leading, 10, 3, [6, 3, 0]),  # 10 // 3 = 3
    (Leading, 10, 4, [6, 4, 2, 0]),
    (Leading, 10, 10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    (Linspace, 10, 1, [0]),
    (Linspace, 10, 2, [9, 0]),
    (Linspace, 10, 3, [9, 4, 0]),  # 4.5 is rounded to even
    (Linspace, 10, 4, [9, 6, 3, 0]),
    (Linspace, 10, 10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
    (Trailing, 10, 1, [9]),
    (Trailing, 10, 3, [9, 6, 2]),  # 10, 6.67, 3.33
    (Trailing, 10, 4, [9, 7, 4, 1]),  # 10, 7.5, 5, 2.5: halves are rounded to even
    (Trailing, 10, 10, [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]),
]


@pytest.mark.parametrize(("cls", "entries", "steps", "index"), BY_HAND)
def test_entries_by_hand(cls: Any, entries: int, steps: int, index: list[int]) -> None:
    wanted = [*((i + 1) / entries for i in index), 0.0]
    assert cls(entries)(Table(LinearBetas(entries)), steps).tolist() == pytest.approx(wanted, rel=1e-15)
    assert cls(entries)(Linear(), steps).tolist() == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize(
    ("cls", "start", "steps", "index"),
    [
        (Leading, 0.5, 2, [2, 0]),
        (Linspace, 0.5, 3, [4, 2, 0]),
        (Trailing, 0.5, 2, [4, 1]),  # 5, 2.5
        (Trailing, 0.5, 5, [4, 3, 2, 1, 0]),
        (Trailing, 0.68, 1, [6]),  # the 7 nearest to 6.8 entries
        (Trailing, 0.01, 1, [0]),  # at least one
    ],
)
def test_a_start_leaves_the_first_entries(cls: Any, start: float, steps: int, index: list[int]) -> None:
    found = cls(10)(Linear(), steps, start).tolist()
    assert found == pytest.approx([*((i + 1) / 10 for i in index), 0.0], rel=1e-15)


def test_trailing_is_even_on_a_table_it_divides() -> None:
    table = Table()
    for steps in (1, 10, 50, 1000):
        torch.testing.assert_close(Trailing()(table, steps), Even()(table, steps), rtol=1e-14, atol=1e-15)


SPACINGS = {"leading": Leading, "linspace": Linspace, "trailing": Trailing}


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("entries", [1000, 200, 37])
def test_entries_are_those_of_diffusers(spacing: str, entries: int) -> None:
    """For every number of steps from 1 to T, but where theirs is at fault:

    - An exact half is rounded to even here. Theirs multiplies by a step that was itself rounded, and a half may fall
      on either side: one entry earlier or later. Never at the ends.
    - "trailing" gives them one time too many for 62 of the numbers up to T = 1000, 61 being the first, and that is
      entry -1: the end of `arange` is missed by rounding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")
    theirs = ddim.DDIMScheduler(num_train_timesteps=entries, timestep_spacing=spacing, steps_offset=0)
    too_long = []
    for steps in range(1, entries + 1):
        theirs.set_timesteps(steps)
        index = theirs.timesteps.double()
        if len(index) > steps:
            too_long.append(steps)
            assert int(index[-1]) == -1
            index = index[:-1]
        ours = SPACINGS[spacing](entries)(Linear(), steps)[:-1] * entries - 1
        off = (ours - index).abs()
        exact = _exact(spacing, entries, steps)
        half = torch.tensor([abs(v % 1 - 0.5) < 1e-12 for v in exact])
        assert float(off[~half].max() if bool((~half).any()) else 0.0) < 1e-9
        assert float(off.max()) < 1 + 1e-9
        assert max(float(off[0]), float(off[-1])) < 1e-9
        if entries % steps == 0:
            assert float(off.max()) < 1e-9  # the usual numbers of steps: equal, all of them
    assert len(too_long) == {("trailing", 1000): 62, ("trailing", 200): 12}.get((spacing, entries), 0)
    assert too_long[:1] in ([], [61], [29])


def _exact(spacing: str, entries: int, steps: int) -> list[float]:
    """What is rounded to the entries, before it is."""
    if spacing == "trailing":
        return [(entries * (steps - i)) / steps for i in range(steps)]
    if spacing == "linspace" and steps > 1:
        return [i * (entries - 1) / (steps - 1) for i in reversed(range(steps))]
    return [0.0] * steps


@pytest.mark.parametrize("cls", SPACINGS.values())
def test_entries_belong_to_a_table(cls: Any) -> None:
    assert cls().entries == 1000
    with pytest.raises(ValueError, match=r"1000 entries, and the table has 200\. Use entries = 200"):
        cls()(Table(LinearBetas(200)), 10)
    with pytest.raises(ValueError, match=r"10 entries up to start = 1, too few for 11 steps\. Use at most 10"):
        cls(10)(Linear(), 11)
    with pytest.raises(ValueError, match=r"5 entries up to start = 0\.5, too few for 6 steps"):
        cls(10)(Linear(), 6, 0.5)
    with pytest.raises(ValueError, match="entries = 0 must be at least 1"):
        cls(0)
    assert cls(1)(Linear(), 1).tolist() == [1.0, 0.0]


def karras(steps: int, low: float, high: float, rho: float) -> list[float]:
    """Karras et al. (2022), eq. 5, in numpy."""
    i = np.arange(steps) / max(steps - 1, 1)
    return list((high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho)


def first_ratio(path: Path) -> float:
    """The noise of a table's first entry: below it no network was trained."""
    if not isinstance(path, Table):
        return 0.0
    return float(ratio(path(torch.tensor([1 / path.steps], dtype=torch.float64))))


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_karras_visits_the_same_noise_on_every_path(name: str, steps: int) -> None:
    """sigma/alpha is EDM's sigma, as far as the path goes."""
    path = PATHS[name]
    for rule, start in ((Karras(), 1.0), (Karras(0.05, 10.0, 3.0), 1.0), (Karras(), 0.7)):
        times = rule(path, steps, start)
        (end,) = ratio(path(torch.tensor([start], dtype=torch.float64))).tolist()
        wanted = karras(steps, max(rule.low, first_ratio(path)), min(rule.high, end), rule.rho)
        assert ratio(path(times[:-1])).tolist() == pytest.approx(wanted, rel=1e-9)
        assert (float(times[0]) == start) == (end <= rule.high)  # to the last bit


@pytest.mark.parametrize("name", PATHS)
def test_log_snr_is_even_in_log_snr(name: str) -> None:
    path = PATHS[name]
    for rule, start in ((LogSnr(), 1.0), (LogSnr(0.05, 10.0), 1.0), (LogSnr(0.02), 0.7)):
        times = rule(path, 9, start)
        log_snr = -2 * ratio(path(times[:-1])).log()
        (end,) = ratio(path(torch.tensor([start], dtype=torch.float64))).tolist()
        low = max(rule.low, first_ratio(path))
        wanted = np.linspace(-2 * math.log(min(rule.high, end)), -2 * math.log(low), 9)
        np.testing.assert_allclose(log_snr, wanted, rtol=1e-9, atol=1e-9)
        assert (float(times[0]) == start) == (end <= rule.high)


def test_edms_grid_on_its_own_path() -> None:
    """sigma from 80 to 0.002 in 18 steps, as EDM samples CIFAR-10; the defaults are EDM's."""
    times = Karras()(VE(), 18)
    assert (80 * times[:-1]).tolist() == pytest.approx(karras(18, 0.002, 80.0, 7.0), rel=1e-12)
    assert (80 * times).tolist()[:3] == pytest.approx([80.0, 57.586, 40.786], rel=1e-4)  # as EDM's own code gives
    assert Karras() == Karras(low=0.002, high=80.0, rho=7.0)
    assert LogSnr() == LogSnr(0.002, 80.0)


@pytest.mark.parametrize("cls", [Karras, LogSnr])
def test_noise_ratios_that_make_no_grid(cls: Any) -> None:
    for low, high in ((0.0, 80.0), (-1.0, 1.0), (1.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=f"0 < low < high, both finite, not low = {low} and high = {high}"):
            cls(low=low, high=high)
    with pytest.raises(ValueError, match=r"At start = 0\.2 sigma/alpha is 0\.25, which is not above the lowest, 0\.3"):
        cls(low=0.3)(Linear(), 5, 0.2)
    with pytest.raises(ValueError, match=r"which is not above the lowest, 0\.25"):
        cls(low=0.25)(Linear(), 5, 0.2)
    with pytest.raises(ValueError, match=r"not above the lowest, 0\.01"):  # the first entry's
        cls()(Table(), 5, 0.001)
    assert len(cls(low=0.2)(Linear(), 5, 0.2)) == 6


@pytest.mark.parametrize("rho", [0.0, -7.0, math.inf, math.nan])
def test_rho_is_more_than_0(rho: float) -> None:
    with pytest.raises(ValueError, match=f"rho = {rho} must be more than 0 and finite"):
        Karras(rho=rho)


def test_a_list_is_itself() -> None:
    times = [0.98, 0.5, 0.25, 0.1]
    grid = Listed(times)
    assert grid == Listed(tuple(times)) == Listed(torch.tensor(times, dtype=torch.float64))
    assert hash(grid) == hash(Listed(tuple(times)))
    for path in PATHS.values():
        assert grid(path, 3).tolist() == times
    assert grid(Linear(), 3, 0.98).tolist() == times
    assert Listed([1, 0])(Linear(), 1).tolist() == [1.0, 0.0]
    assert from_table(AnyGrid, {"kind": "listed", "times": [1, 0.5, 0]}) == Listed((1.0, 0.5, 0.0))


@pytest.mark.parametrize("times", [[], [0.5], [0.2, 0.9], [1.1, 0.5], [0.5, -0.1], [math.nan, 0.0], [1.0, math.nan]])
def test_what_is_no_list_of_times(times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least 2, decreasing within \[0, 1\].*For example \[1, 0\.6, 0\.3, 0\]"):
        Listed(times)


@pytest.mark.parametrize("times", [[0.3, 0.3], [0.9, 0.3, 0.3, 0.0], [0.9, 0.3, 0.4, 0.0], [0.9, math.nan, 0.0]])
def test_a_list_falls(times: list[float]) -> None:
    with pytest.raises(ValueError, match=r"does not decrease: t = (0\.3|0\.9) is followed by (0\.3|0\.4|nan)\. Use"):
        Listed(times)


@pytest.mark.parametrize(
    ("start", "times"),
    [
        (1.0, [1.0, 0.75, 0.5, 0.25, 0.0]),
        (1 - 1e-9, [1 - 1e-9, 0.75, 0.5, 0.25, 0.0]),  # where a path ends just below 1
        (0.6, [0.6, 0.5, 0.25, 0.0]),
        (0.5, [0.5, 0.25, 0.0]),
        (0.1, [0.1, 0.0]),
    ],
)
def test_a_cut_goes_on_at_the_times_from_1(start: float, times: list[float]) -> None:
    assert Cut()(Linear(), 4, start).tolist() == times


def test_a_list_has_its_own_length_and_start() -> None:
    for steps in (2, 4):
        with pytest.raises(ValueError, match=f"4 times, which make 3 steps, not {steps}. Ask for 3 steps"):
            Listed([1.0, 0.5, 0.2, 0.0])(Linear(), steps)
    with pytest.raises(ValueError, match=r"begins at t = 0\.9, above 0\.8"):
        Listed([0.9, 0.5])(Linear(), 1, 0.8)


@pytest.mark.parametrize("grid", [*GRIDS, Cut(), Listed([1, 0])], ids=lambda g: g.kind)
def test_steps_and_start_are_checked(grid: Any) -> None:
    for steps in (0, -3):
        with pytest.raises(ValueError, match=f"at least 1 step, not {steps}"):
            grid(Linear(), steps)
    for start in (0.0, -0.5, 1.0001, math.nan):
        with pytest.raises(ValueError, match=f"start = {start} must be a time above 0 and at most 1"):
            grid(Linear(), 1, start)


def test_a_grid_that_does_not_fall_is_refused() -> None:
    """So many steps that neighbouring times round to the same number."""
    with pytest.raises(
        ValueError, match=r"LogSnr\(low=0\.9999999999999999, high=1\.0\) does not decrease: t = 0\.5 is"
    ):
        LogSnr(1 - 1e-16, 1.0)(Linear(), 10)


def test_spread() -> None:
    times = torch.tensor([1.0, 0.4, 0.0], dtype=torch.float64)
    assert spread(times, 2).tolist() == [[1.0, 1.0], [0.4, 0.4], [0.0, 0.0]]
    assert spread(times, 2).is_contiguous()


def test_grids_by_hand() -> None:
    assert grid(4, 2).T.tolist() == [[1, 0.75, 0.5, 0.25, 0]] * 2
    assert grid([0.9, 0.5, 0.1], 3).T.tolist() == [[0.9, 0.5, 0.1]] * 3
    assert grid(1, 1).flatten().tolist() == [1, 0]
    assert grid(10, 5).dtype == torch.float64
    assert grid(10, 5).is_contiguous()


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        (0, "at least 1 step, not 0"),
        (-3, "at least 1 step, not -3"),
        ([0.5], r"\[0.5\]"),
        ([0.1, 0.5], "decreasing within"),
        ([1.0, 0.5, 0.5, 0.0], "does not decrease: t = 0.5 is followed by 0.5"),
        ([1.1, 0.5], r"within \[0, 1\]"),
        ([0.5, -0.1], "For example"),
        ([1.0, float("nan"), 0.0], "does not decrease"),
    ],
)
def test_impossible_grids_are_refused(steps: int | list[float], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        grid(steps, 1)


def test_rho_may_be_any_positive_number() -> None:
    """rho = 1 is even in sigma; below it, steps grow towards the data."""
    even = 80 * Karras(rho=1.0)(VE(), 5)[:-1]
    torch.testing.assert_close(even, torch.linspace(80.0, 0.002, 5, dtype=torch.float64), rtol=1e-12, atol=0)
    assert bool((Karras(rho=0.5)(VE(), 5)[:-1].diff().diff() < 0).all())
