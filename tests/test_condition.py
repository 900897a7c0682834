"""Conditions: what hiding, the null, joining and picking rows do to each of their parts."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch import Tensor

from inkwash.types import CONDITIONS, Condition, Steered

NAN = math.nan
PARTS = ("label", "tokens", "present", "vector", "image")


def whole(n: int = 3, tokens: int = 2) -> Condition:
    """A condition of n rows that has everything, each number telling its row."""
    row = torch.arange(1.0, n + 1)
    return Condition(
        torch.arange(n),
        row[:, None, None].expand(n, tokens, 2) + torch.tensor([0.0, 0.5]),
        torch.ones(n, tokens, dtype=torch.bool),
        torch.stack([row, -row], 1),
        row[:, None, None, None].expand(n, 1, 2, 2).clone(),
    )


def same(a: Condition, b: Condition) -> bool:
    """Bit for bit, with NaN equal to NaN."""
    pairs = [(getattr(a, p), getattr(b, p)) for p in PARTS]
    return all(
        x is y is None
        or (
            isinstance(x, Tensor)
            and isinstance(y, Tensor)
            and x.shape == y.shape
            and bool(((x == y) | (x != x) & (y != y)).all())
        )
        for x, y in pairs
    )


@pytest.mark.parametrize("name", CONDITIONS)
def test_hiding_replaces_the_rows_of_one_condition_by_its_null(name: str) -> None:
    cond, mask = whole(), torch.tensor([True, False, True])
    hidden = cond.hide({name: mask})
    part = "present" if name == "text" else name
    null = {"label": -1, "present": False, "vector": NAN, "image": NAN}[part]
    for other in set(PARTS) - {part}:
        assert getattr(hidden, other) is getattr(cond, other)
    found, given = getattr(hidden, part), getattr(cond, part)
    assert torch.equal(found[1], given[1])
    for row in (0, 2):
        assert torch.equal(found[row], torch.full_like(given[row], null)) or bool(found[row].isnan().all())
        assert bool(found[row].isnan().all()) == (part in ("vector", "image"))
    assert same(cond, whole())  # what was given is as it was


def test_each_condition_is_hidden_by_its_own_mask() -> None:
    cond = whole(2)
    hidden = cond.hide({"label": torch.tensor([True, False]), "vector": torch.tensor([False, True])})
    assert hidden.label is not None
    assert hidden.vector is not None
    assert hidden.label.tolist() == [-1, 1]
    assert hidden.vector[0].tolist() == [1, -1]
    assert hidden.vector[1].isnan().all()


def test_the_null_is_of_the_names_given() -> None:
    """A picture that training never hides stays in what guidance pushes away from."""
    cond = whole()
    every = torch.ones(3, dtype=torch.bool)
    assert same(cond.null(), cond.hide(dict.fromkeys(CONDITIONS, every)))
    assert same(cond.null(("label", "text")), cond.hide({"label": every, "text": every}))
    some = cond.null(("label", "text"))
    assert some.image is cond.image
    assert some.vector is cond.vector
    assert some.tokens is cond.tokens  # present alone says that there is no text
    assert some.present is not None
    assert not some.present.any()
    assert same(cond.null(()), cond)
    assert Condition().null() == Condition()


def test_what_a_model_does_not_take_stays_absent() -> None:
    bare = Condition(label=torch.tensor([4, 5]))
    assert [getattr(bare.null(), p) for p in PARTS[1:]] == [None] * 4
    assert bare.null(("text", "image")).label is bare.label
    assert bare.hide(dict.fromkeys(CONDITIONS, torch.tensor([False, True]))).label.tolist() == [4, -1]  # type: ignore[union-attr]


def test_rows_are_joined_and_texts_filled_up_with_absent_tokens() -> None:
    a, b, c = whole(2, 1), whole(1, 3), whole(1, 2)
    joined = a.cat(b, c)
    assert joined.label is not None
    assert joined.tokens is not None
    assert joined.present is not None
    assert joined.label.tolist() == [0, 1, 0, 0]
    assert joined.tokens[:, :, 0].tolist() == [[1, 0, 0], [2, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert joined.present.tolist() == [[True, False, False]] * 2 + [[True] * 3] + [[True, True, False]]
    back = [joined.map(lambda v, r=r: v[r]) for r in (slice(0, 2), slice(2, 3))]  # type: ignore[misc]
    assert same(back[1], b)
    assert torch.equal(back[0].tokens[:, :1], a.tokens)  # type: ignore[index, arg-type]
    assert same(a.cat(), a)
    assert Condition().cat(Condition()) == Condition()


@pytest.mark.parametrize("name", ["labels", "tokens", "present"])
def test_a_name_that_is_no_conditions_is_refused(name: str) -> None:
    for hide in (lambda: whole().hide({name: torch.ones(3, dtype=torch.bool)}), lambda: whole().null((name,))):
        with pytest.raises(ValueError, match=f"'{name}' is no condition: they are label, text, vector, image"):
            hide()


def test_conditions_that_hold_different_things_are_not_joined() -> None:
    """Neither way round: nothing that one of them says is left out."""
    bare = Condition(label=torch.tensor([1]))
    for pair in ((bare, whole()), (whole(), bare)):
        with pytest.raises(ValueError, match=r"one has (no|a) tokens, another (no|a) tokens"):
            pair[0].cat(pair[0], pair[1])


def steered() -> Steered:
    return Steered(
        **vars(whole()), base=whole().null(), others=(whole(3, 1), whole(3, 4)), weights=torch.tensor([[2.0, 3.0]] * 3)
    )


def test_rows_are_picked_of_all_that_steers() -> None:
    rows = torch.tensor([2, 0])
    picked = steered().map(lambda v: v[rows])
    assert isinstance(picked, Steered)
    assert picked.label is not None
    assert picked.label.tolist() == [2, 0]
    assert picked.base is not None
    assert same(picked.base, whole().null().map(lambda v: v[rows]))
    assert [same(o, w.map(lambda v: v[rows])) for o, w in zip(picked.others, steered().others, strict=True)] == [
        True
    ] * 2
    assert picked.weights is not None
    assert picked.weights.tolist() == [[2, 3], [2, 3]]
    plain = Steered(**vars(whole())).map(lambda v: v[:1])
    assert (plain.base, plain.others, plain.weights) == (None, (), None)


def test_the_null_of_a_steered_condition_and_its_rows_joined_are_of_the_condition_alone() -> None:
    assert same(steered().null(), whole().null())
    assert type(steered().cat(whole())) is Condition
    assert same(steered().cat(whole()), whole().cat(whole()))
    assert same(whole().cat(steered()), whole().cat(whole()))


def test_parts_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"both tokens .* and present"):
        Condition(tokens=torch.zeros(1, 2, 3))
    with pytest.raises(ValueError, match=r"both tokens .* and present"):
        Condition(present=torch.zeros(1, 2, dtype=torch.bool))
    for others, weights in (((), torch.ones(3, 1)), ((whole(),), None), ((whole(),) * 2, torch.ones(3, 1))):
        count = 0 if weights is None else 1
        with pytest.raises(ValueError, match=re.escape(f"{len(others)} further conditions have {count} weights")):
            Steered(**vars(whole()), others=others, weights=weights)
    for weights in (torch.ones(3), torch.ones(3, 1, 1)):
        with pytest.raises(ValueError, match=r"weights of shape .* must be \[B, K\]"):
            Steered(**vars(whole()), others=(whole(),), weights=weights)
