"""Guidance among the settings of sampling: from texts and tables, in old models, and what it makes of a denoiser."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from inkwash.guidance import Apg, Cfg, CfgZero, Guided, Rescaled, Terms
from inkwash.kinds import from_table, to_table
from inkwash.paths import VE, Linear
from inkwash.sampling import Sampling
from inkwash.types import Condition, Denoised, Query, Steered


def test_rule_and_interval_by_value_and_by_text() -> None:
    own = Sampling(guidance=4.0)
    assert (own.rule, own.interval) == (Cfg(), None)
    assert own.changed(rule="apg(eta=0.2, norm=0.1)", interval="0.3,5") == own.changed(
        rule=Apg(0.2, 0.1), interval=[0.3, 5]
    )
    changed = own.changed(rule=Rescaled(0.5), interval=(0.3, 5))
    assert (changed.rule, changed.interval, changed.guidance) == (Rescaled(0.5), (0.3, 5.0), 4.0)
    assert changed.changed(steps=7).rule == Rescaled(0.5)
    assert changed.changed(steps=7).interval == (0.3, 5.0)
    assert changed.changed(rule="cfg-zero").rule == CfgZero()
    assert changed.changed(rule="cfg", interval="(0, inf)").interval is None  # JSON has no infinity
    assert Sampling(interval=[0.3, 5]) == Sampling(interval=(0.3, 5.0))  # type: ignore[arg-type]
    assert hash(Sampling(interval=[0.3, 5])) == hash(Sampling(interval=(0.3, 5.0)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rule": "agp"}, "There is no rule 'agp'. Did you mean apg?"),
        ({"rule": "zzz"}, "Choose from cfg, rescaled, apg, cfg-zero."),
        ({"rule": "rescaled(phi=2)"}, "phi = 2.0 must lie in [0, 1]"),
        ({"interval": "0.3"}, "interval = (0.3,) must be two values of sigma/alpha"),
        ({"interval": "low,high"}, "interval = 'low,high' must be two values of sigma/alpha. Write it as in 0.3,5."),
        ({"interval": (5, 0.3)}, "interval = (5.0, 0.3) must be two values"),
        ({"interval": ()}, "interval = () must be two values"),
    ],
)
def test_what_does_not_exist_or_fit_is_named(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        Sampling().changed(**changes)


def test_models_saved_before_there_were_rules_load_as_they_were() -> None:
    table = {"method": {"kind": "heun"}, "steps": 20, "guidance": 2.5, "clip": False, "grid": {"kind": "even"}}
    assert from_table(Sampling, table) == Sampling(guidance=2.5)
    new = Sampling(guidance=2.5, rule=Apg(0.1), interval=(0.3, 5.0))
    back = from_table(Sampling, json.loads(json.dumps(to_table(new))))
    assert back == new
    assert isinstance(back.interval, tuple)
    with pytest.raises(ValueError, match="must be two values"):
        from_table(Sampling, table | {"interval": [5.0, 0.3]})


class Count:
    """The straight path's velocity field of labels' points, which counts its rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        self.rows.append(len(query.x))
        assert cond.label is not None
        x0 = torch.where(cond.label < 0, 0.1, cond.label + 1.0)[:, None].to(query.x)
        return Denoised(x0, query.x - x0)


def test_settings_make_the_guided_denoiser() -> None:
    """Everything that `Sampling` says of guidance, on the path that is sampled along."""
    own = Sampling(guidance=3.0, rule=Rescaled(0.4), interval=(0.5, 4.0), path=VE(20.0))
    count, weak = Count(), Count()
    made = own.guided(count, ("label",), Linear(), weak)
    assert made == Guided(count, 3.0, ("label",), Rescaled(0.4), (0.5, 4.0), weak, VE(20.0))
    assert Sampling().guided(count, ("label",), Linear()) == Guided(count, 1.0, ("label",), path=Linear())


def test_without_guidance_nothing_is_added_but_further_terms_are_followed() -> None:
    """At scale 1 the model's answer bit for bit; two prompts at once need no scale of their own."""
    count, t = Count(), torch.full((2,), 0.5, dtype=torch.float64)
    q, cond = Query(torch.ones(2, 1), t, t), Condition(torch.tensor([0, 1]))
    plain = count(q, cond)
    guided = Sampling().guided(count, ("label",), Linear())
    assert all(torch.equal(a, b) for a, b in zip(guided(q, cond)[:2], plain[:2], strict=True))
    assert count.rows == [2, 2]
    both = Steered(label=cond.label, others=(Condition(torch.tensor([2, 2])),), weights=torch.tensor([[1.0], [0.5]]))
    torch.testing.assert_close(guided(q, both).x0.flatten(), torch.tensor([1 + 2.9, 2 + 0.5 * 2.9]))
    assert count.rows == [2, 2, 6]


@dataclass(frozen=True)
class Halfway:
    """A user's rule: the mean of the two answers, times a number."""

    times: float = 1.0

    def __call__(self, terms: Terms) -> Denoised:
        given, base = terms.given, terms.base
        return Denoised(self.times * (given.x0 + base.x0) / 2, self.times * (given.eps + base.eps) / 2)


def test_a_rule_of_ones_own_is_named_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "somebodys", sys.modules[__name__])
    own = Sampling(guidance=2.0).changed(rule="somebodys:Halfway(times=3)")
    assert own.rule == Halfway(3.0)
    t = torch.full((1,), 0.5, dtype=torch.float64)
    guided = own.guided(Count(), ("label",), Linear())
    answer = guided(Query(torch.ones(1, 1), t, t), Condition(torch.tensor([1])))
    assert answer.x0.item() == pytest.approx(3 * (2.0 + 0.1) / 2)
