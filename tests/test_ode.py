"""Runge-Kutta methods: their tables by Butcher's conditions, their steps against a plain reimplementation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations_with_replacement

import pytest
import torch
from torch import Tensor

from inkwash.ode import DORMAND_PRINCE, HEUN, RK4, Solving, State, Tableau, adaptive, fixed

Tree = tuple  # a rooted tree is the tuple of the trees that hang from its root


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def run(solving: Solving, f: Callable[[Tensor, State], State], times: list[Tensor] | None = None) -> State:
    try:
        t, state = next(solving)
        while True:
            if times is not None:
                times.append(t)
            t, state = solving.send(f(t, state))
    except StopIteration as stop:
        return stop.value


def trees(order: int) -> Iterator[Tree]:
    """All rooted trees with `order` vertices."""

    def forests(vertices: int, most: int) -> Iterator[Tree]:
        if vertices == 0:
            yield ()
            return
        for size in range(1, min(most, vertices) + 1):
            for count in range(1, vertices // size + 1):
                for chosen in combinations_with_replacement(sorted(trees(size)), count):
                    for rest in forests(vertices - size * count, size - 1):
                        yield (*chosen, *rest)

    yield from forests(order - 1, order - 1)


def size(tree: Tree) -> int:
    return 1 + sum(map(size, tree))


def gamma(tree: Tree) -> int:
    return size(tree) * math.prod(map(gamma, tree))


def exactly(values: tuple[float, ...]) -> list[Fraction]:
    return [Fraction(v).limit_denominator(10**6) for v in values]


def defects(tableau: Tableau, weights: list[Fraction], order: int) -> list[Fraction]:
    """sum_i b_i·Phi_i(tree) - 1/gamma(tree) of every tree of an order (Hairer et al. 1993, theorem II.2.13)."""
    rows = [exactly(row) for row in tableau.rows]

    def phi(tree: Tree, i: int) -> Fraction:
        return math.prod(
            (sum((a * phi(child, j) for j, a in enumerate(rows[i])), Fraction(0)) for child in tree), start=Fraction(1)
        )

    return [sum(b * phi(tree, i) for i, b in enumerate(weights)) - Fraction(1, gamma(tree)) for tree in trees(order)]


def test_all_trees_are_there() -> None:
    assert [len(list(trees(n))) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("tableau", [HEUN, RK4, DORMAND_PRINCE], ids=["heun", "rk4", "dormand-prince"])
def test_the_order_is_what_it_claims(tableau: Tableau) -> None:
    """Exactly, in fractions; and no more."""
    for node, row in zip(exactly(tableau.nodes), tableau.rows, strict=True):
        assert node == sum(exactly(row))
    assert [len(row) for row in tableau.rows] == list(range(len(tableau.weights)))
    weights = exactly(tableau.weights)
    for order in range(1, tableau.order + 1):
        assert not any(defects(tableau, weights, order)), order
    assert any(defects(tableau, weights, tableau.order + 1))


def test_the_error_is_the_difference_to_a_method_of_order_4() -> None:
    embedded = [b + e for b, e in zip(exactly(DORMAND_PRINCE.weights), exactly(DORMAND_PRINCE.error), strict=True)]
    for order in range(1, 5):
        assert not any(defects(DORMAND_PRINCE, embedded, order)), order
    assert any(defects(DORMAND_PRINCE, embedded, 5))
    assert DORMAND_PRINCE.rows[-1] == DORMAND_PRINCE.weights[:-1]  # its last stage is the next step's first
    # Dormand and Prince's, not another of the one-parameter family of such pairs.
    assert Fraction(1, 40) == embedded[-1]
    assert (exactly(DORMAND_PRINCE.nodes)[1:6], HEUN.error, RK4.error) == (
        [Fraction(1, 5), Fraction(3, 10), Fraction(4, 5), Fraction(8, 9), 1],
        (),
        (),
    )
    assert exactly(HEUN.nodes) == [0, 1]
    assert exactly(RK4.weights) == [Fraction(1, 6), Fraction(1, 3), Fraction(1, 3), Fraction(1, 6)]


@pytest.mark.parametrize(
    ("tableau", "growth"),
    [
        (HEUN, [1, 1, 1 / 2]),
        (RK4, [1, 1, 1 / 2, 1 / 6, 1 / 24]),
        (DORMAND_PRINCE, [1, 1, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 600]),
    ],
    ids=["heun", "rk4", "dormand-prince"],
)
def test_fixed_steps_on_a_linear_equation(tableau: Tableau, growth: list[float]) -> None:
    """y' = r·y: a step multiplies by the stability polynomial. Each row on a grid of its own, rising or falling."""
    times = torch.stack([tensor(0.0, 0.3, 0.5), tensor(2.0, 1.9, 1.0)], dim=1)
    rate = tensor(-1.5, 0.7)
    asked: list[Tensor] = []

    def f(t: Tensor, state: State) -> State:
        return rate[:, None] * state[0], t  # the second tensor's derivative is the time itself

    start = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64), tensor(0.5, 0.25)
    y, half_square = run(fixed(tableau, start, times), f, asked)
    for row in range(2):
        factor = 1.0
        for h in times[:, row].diff().tolist():
            factor *= sum(c * (float(rate[row]) * h) ** k for k, c in enumerate(growth))
        assert torch.allclose(y[row], factor * start[0][row], rtol=1e-14, atol=0)
    exact = start[1] + (times[-1] ** 2 - times[0] ** 2) / 2  # every method of order 2 integrates t exactly
    assert torch.allclose(half_square, exact, rtol=1e-14, atol=1e-15)
    nodes = torch.tensor(tableau.nodes, dtype=torch.float64)[:, None]
    expected = torch.cat([times[i] + nodes * (times[i + 1] - times[i]) for i in range(2)])
    assert torch.allclose(torch.stack(asked), expected, rtol=0, atol=1e-15)
    assert len(asked) == 2 * len(tableau.nodes)


Vector = list[list[float]]


def plain(
    f: Callable[[float, Vector], Vector], y: Vector, start: float, end: float, rtol: float, atol: float
) -> list[float]:
    """The times at which one row is asked, in plain Python, written from the papers: tensors are lists of numbers."""
    tab, asked = DORMAND_PRINCE, [start]

    def rms(v: list[float]) -> float:
        return math.sqrt(sum(a * a for a in v) / len(v))

    k0, t = f(start, y), start
    guesses = []
    for part, slope in zip(y, k0, strict=True):
        d0 = rms([a / (atol + rtol * abs(a)) for a in part])
        d1 = rms([b / (atol + rtol * abs(a)) for a, b in zip(part, slope, strict=True)])
        guesses.append(1e-3 if d0 < 1e-5 or d1 < 1e-5 else 0.01 * d0 / d1)
    h = math.copysign(min(max(min(guesses), 1e-6 * abs(end - start)), abs(end - start)), end - start)
    while t != end:
        left = end - t
        if abs(h) >= abs(left):
            h = left
        elif abs(h) > abs(left) / 2:
            h = left / 2
        k = [k0]
        for node, row in zip(tab.nodes[1:], tab.rows[1:], strict=True):
            new = [
                [a + h * sum(w * s[p][i] for w, s in zip(row, k, strict=True)) for i, a in enumerate(part)]
                for p, part in enumerate(y)
            ]
            asked.append(t + node * h)
            k.append(f(t + node * h, new))
        error = max(
            rms(
                [
                    h
                    * sum(e * s[p][i] for e, s in zip(tab.error, k, strict=True))
                    / (atol + rtol * max(abs(a), abs(b)))
                    for i, (a, b) in enumerate(zip(part, new[p], strict=True))
                ]
            )
            for p, part in enumerate(y)
        )
        factor = 5.0 if error == 0 else min(max(0.9 * error ** (-1 / 5), 0.2), 5.0)
        if error <= 1:
            t, y, k0 = (end if h == left else t + h), new, k[-1]
        else:
            factor = min(factor, 0.9)
        h *= factor
    return asked


def pulse(t: Tensor, state: State) -> State:
    """An equation with a sudden stretch, so that steps grow, shrink and are refused; and a second tensor."""
    speed = 1 + 30 * torch.exp(-200 * (t - 0.6) ** 2)
    return torch.stack([speed * state[0][:, 1], -speed * state[0][:, 0]], 1), t * state[0][:, 0] * 3


def plain_pulse(t: float, y: Vector) -> Vector:
    speed = 1 + 30 * math.exp(-200 * (t - 0.6) ** 2)
    return [[speed * y[0][1], -speed * y[0][0]], [t * y[0][0] * 3]]


ROWS = [
    ((1.0, 0.0), 0.2, 0.0, 1.0),
    ((0.5, 0.5), 0.0, 1.0, 0.1),
    ((0.0, 2.0), 30.0, 0.2, 0.3),
    ((1.0, 1.0), 1.0, 0.5, 0.5),
    ((1.0, 1.0), 1e-9, 1.0, 0.5),
]
"""Starts of both tensors, and the times from and to. One has nothing to do, the last starts almost at 0."""


def test_adaptive_steps_are_those_of_a_plain_reimplementation() -> None:
    """Alone and together: every time at which each row is asked, and then the same bits."""
    together: list[Tensor] = []
    first = torch.tensor([r[0] for r in ROWS], dtype=torch.float64), tensor(*(r[1] for r in ROWS))
    start, end = tensor(*(r[2] for r in ROWS)), tensor(*(r[3] for r in ROWS))
    result = run(adaptive(DORMAND_PRINCE, first, start, end, 1e-4, 1e-6), pulse, together)
    for i, (y, z, begin, stop) in enumerate(ROWS):
        alone: list[Tensor] = []
        row = run(
            adaptive(DORMAND_PRINCE, (first[0][[i]], first[1][[i]]), start[[i]], end[[i]], 1e-4, 1e-6), pulse, alone
        )
        asked = torch.cat(alone)
        expected = plain(plain_pulse, [list(y), [z]], begin, stop, 1e-4, 1e-6)
        assert torch.allclose(asked, tensor(*expected), rtol=0, atol=1e-9)
        here = torch.stack(together)[:, i]
        assert torch.equal(here[: len(asked)], asked)
        assert bool((here[len(asked) :] == stop).all())  # a row that has arrived stays where it is
        assert torch.equal(result[0][[i]], row[0]) and torch.equal(result[1][[i]], row[1])
    refused = [t for t in range(7, len(together), 6) if together[t][0] < together[t - 1][0]]
    assert refused, "no step was refused: the test is too easy"


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_the_tolerance_is_met(tolerance: float) -> None:
    """The angle turned by the pulse is known: the error per unit is of the tolerance's order, and follows it."""
    angle = 1 + 30 * math.sqrt(math.pi / 200) * (math.erf(0.4 * 200**0.5) + math.erf(0.6 * 200**0.5)) / 2
    first = torch.tensor([[1.0, 0.0]], dtype=torch.float64), tensor(0.0)
    y, _ = run(adaptive(DORMAND_PRINCE, first, tensor(0.0), tensor(1.0), tolerance, tolerance), pulse)
    error = float((y[0] - tensor(math.cos(angle), -math.sin(angle))).norm())
    assert 1e-3 * tolerance < error < 30 * tolerance


def test_what_does_not_move_takes_the_default_first_step() -> None:
    asked: list[Tensor] = []
    run(adaptive(DORMAND_PRINCE, (tensor(0.0),), tensor(0.0), tensor(-1.0), 1e-3, 1e-3), lambda t, s: (t,), asked)
    assert float(asked[1]) == pytest.approx(-1e-3 / 5, rel=1e-12)


@pytest.mark.parametrize("nan_from", [-1.0, 0.3])
def test_what_is_not_finite_is_refused(nan_from: float) -> None:
    def f(t: Tensor, state: State) -> State:
        return (torch.where(t > nan_from, torch.nan, 1.0),)

    with pytest.raises(ValueError, match=r"step shrank to .* not smooth to rtol = 0.001, or not finite"):
        run(adaptive(DORMAND_PRINCE, (tensor(0.0, 0.0),), tensor(0.0, 0.0), tensor(1.0, 0.2), 1e-3, 1e-3), f)


def test_the_size_of_a_step_is_bounded() -> None:
    """A step that fails by far is tried at exactly a fifth; a first step of the whole way is taken whole."""
    solving = adaptive(DORMAND_PRINCE, (tensor(1.0),), tensor(0.0), tensor(1.0), 1e-6, 1e-6)
    next(solving)
    first = float(solving.send((tensor(1.0),))[0]) * 5
    assert first == pytest.approx(0.01, rel=1e-5)
    for k in range(5):
        solving.send((tensor(1e9 * (-1) ** k),))
    assert float(solving.send((tensor(1e9),))[0]) * 5 == pytest.approx(0.2 * first, rel=1e-12)
    asked: list[Tensor] = []
    run(
        adaptive(DORMAND_PRINCE, (tensor(1e3),), tensor(0.0), tensor(0.5), 0.0, 1.0),
        lambda t, s: (s[0] * 0 + 1,),
        asked,
    )
    assert [float(t) for t in asked] == [0.0, *(0.5 * node for node in DORMAND_PRINCE.nodes[1:])]


@pytest.mark.parametrize("still", ["state", "slope"])
def test_the_edge_of_the_default_first_step(still: str) -> None:
    """A size of 1e-5 of the tolerance is still one: only below it is the first step the default."""
    for size, step in ((1e-5, 1e-7 if still == "state" else 1e3), (0.99e-5, 1e-3)):
        y, k = (size, 1.0) if still == "state" else (1.0, size)
        solving = adaptive(DORMAND_PRINCE, (tensor(y),), tensor(0.0), tensor(0.05), 0.0, 1.0)
        next(solving)
        assert float(solving.send((tensor(k),))[0]) * 5 == pytest.approx(min(max(step, 5e-8), 0.05), rel=1e-6)


def test_states_derivatives_and_tables_belong_together() -> None:
    start, end = tensor(0.0), tensor(1.0)
    with pytest.raises(ValueError, match="zip"):
        run(adaptive(DORMAND_PRINCE, (tensor(1.0), tensor(1.0)), start, end, 1e-3, 1e-3), lambda t, s: (s[0],))
    short = Tableau(2, (0.0, 1.0, 1.0), ((), (1.0,)), (0.5, 0.5), (0.1, -0.1))
    for solving in (
        adaptive(short, (tensor(1.0),), start, end, 1e-3, 1e-3),
        fixed(short, (tensor(1.0),), torch.stack([start, end])),
    ):
        with pytest.raises(ValueError, match="zip"):
            run(solving, lambda t, s: (s[0],))


def test_the_first_row_that_is_stuck_is_named() -> None:
    starts = tensor(0.25, 0.5, 0.75)
    with pytest.raises(ValueError, match=r"shrank to nan at 0\.5:"):
        run(
            adaptive(DORMAND_PRINCE, (tensor(1.0, 1.0, 1.0),), starts, starts + 1, 1e-3, 1e-3),
            lambda t, s: (torch.where(t > 0.4, torch.nan, 1.0),),
        )


def test_a_row_that_cannot_go_on_is_named() -> None:
    """y' = y² from 1 is infinite at t = 1; the first row, which stops before, is not to blame."""
    with pytest.raises(ValueError, match=r"shrank to \S+ at (0\.99999\d*|1): .* Use larger tolerances"):
        run(
            adaptive(DORMAND_PRINCE, (tensor(1.0, 1.0),), tensor(0.0, 0.0), tensor(0.5, 2.0), 1e-6, 1e-6),
            lambda t, s: (s[0] ** 2,),
        )
