"""Hiding conditions in training: each at exactly its own rate, together as often as its formula says, and for labels
alone by the very draws that runs of before were made with."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from inkwash.noise import Philox, Stream
from inkwash.training.dropping import hidden
from inkwash.types import CONDITIONS, Batch, Condition

ROWS = 20_000
RATES = {"label": 0.1, "text": 0.3, "vector": 0.15, "image": 0.6}


def batch(number: Tensor, names: tuple[str, ...] = CONDITIONS) -> Batch:
    n = len(number)
    whole = {
        "label": number % 7,
        "tokens": torch.ones(n, 2, 3),
        "present": torch.ones(n, 2, dtype=torch.bool),
        "vector": torch.stack([number.float(), -number.float()], 1),
        "image": number.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2),
    }
    fields = [f for name in names for f in (("tokens", "present") if name == "text" else (name,))]
    return Batch(torch.zeros(n, 2), Condition(**{f: whole[f] for f in fields}), number, n)


def masks(cond: Condition) -> dict[str, Tensor]:
    """Where each condition is its null, and a check that it is so as a whole or not at all."""
    found = {}
    if cond.label is not None:
        found["label"] = cond.label == -1
    if cond.present is not None:
        found["text"] = ~cond.present.any(1)
        assert torch.equal(found["text"], ~cond.present.all(1))
    for name in ("vector", "image"):
        if (value := getattr(cond, name)) is not None:
            gone = value.flatten(1).isnan()
            found[name] = gone.any(1)
            assert torch.equal(found[name], gone.all(1))
    return found


def within(count: int, p: float) -> bool:
    """Whether so many of ROWS are within 4 deviations of a binomial: one test in 16,000 is wrong by chance."""
    return abs(count - ROWS * p) <= 4 * math.sqrt(ROWS * p * (1 - p))


def test_each_is_hidden_at_its_own_rate_and_all_together_as_often_as_the_formula_says() -> None:
    number = torch.arange(ROWS) + 5_000_000_000
    given = batch(number)
    found = masks(hidden(given, Philox(3, number), RATES).cond)
    assert found.keys() == RATES.keys()
    for name, rate in RATES.items():
        assert within(int(found[name].sum()), rate), name
    # Half of the time one number, so that all below the least rate are hidden at once; else independently.
    together = torch.stack(list(found.values())).all(0)
    assert within(int(together.sum()), (min(RATES.values()) + math.prod(RATES.values())) / 2)
    for a, b in [("label", "text"), ("vector", "image"), ("text", "image"), ("label", "image")]:
        both = (min(RATES[a], RATES[b]) + RATES[a] * RATES[b]) / 2
        assert within(int((found[a] & found[b]).sum()), both), (a, b)
        alone = (max(RATES[b] - RATES[a], 0) + RATES[b] * (1 - RATES[a])) / 2
        assert within(int((found[b] & ~found[a]).sum()), alone), (a, b)


@pytest.mark.parametrize("share", [0.1, 0.35])
def test_labels_alone_are_hidden_by_the_draw_of_before(share: float) -> None:
    """Written out as it was when there were labels only: old runs go on bit for bit."""
    number = torch.arange(256) + 17 * 256
    given, noise = batch(number, ("label",)), Philox(11, number)
    assert given.cond.label is not None
    before = given.cond.label.masked_fill(noise.uniform(0, Stream.DROP) < share, -1)
    for rates in ({"label": share}, {"label": share, "image": 0.0}):
        got = hidden(given, noise, rates)
        assert got.cond.label is not None and torch.equal(got.cond.label, before)
    assert 0 < int((before == -1).sum()) < 256


def test_what_is_never_hidden_stays_and_nothing_to_hide_is_nothing_done() -> None:
    number = torch.arange(64)
    given = batch(number, ("label", "image"))
    got = hidden(given, Philox(0, number), {"label": 0.5, "image": 0.0})
    assert got.cond.image is given.cond.image
    assert hidden(given, Philox(0, number), {"label": 0.0, "image": 0.0}) is given
    assert int(masks(hidden(given, Philox(0, number), {"label": 1.0, "image": 0.99}).cond)["label"].sum()) == 64


def test_a_row_is_hidden_by_its_number_alone() -> None:
    """However a batch is cut into parts or over ranks, and whatever rows are beside it."""
    number = torch.arange(96) + 1000
    whole = masks(hidden(batch(number), Philox(5, number), RATES).cond)
    parts = [
        masks(hidden(batch(part), Philox(5, part), RATES).cond) for part in (number[:31], number[31:40], number[40:])
    ]
    ranks = [masks(hidden(batch(part), Philox(5, part), RATES).cond) for part in (number[0::2], number[1::2])]
    for name, mask in whole.items():
        assert torch.equal(torch.cat([p[name] for p in parts]), mask)
        assert torch.equal(torch.stack([p[name] for p in ranks], 1).flatten(), mask)
    other = masks(hidden(batch(number), Philox(6, number), RATES).cond)
    assert any(not torch.equal(other[name], whole[name]) for name in whole)


def test_a_third_condition_moves_no_draw_of_the_others() -> None:
    number = torch.arange(512)
    two = masks(hidden(batch(number), Philox(5, number), {"label": 0.3, "image": 0.4}).cond)
    three = masks(hidden(batch(number), Philox(5, number), {"label": 0.3, "text": 0.2, "image": 0.4}).cond)
    assert torch.equal(two["label"], three["label"]) and torch.equal(two["image"], three["image"])
    assert bool(three["text"].any()) and not bool(two["text"].any())
