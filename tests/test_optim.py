"""Optimisers and averages against their formulas."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from inkwash import AdamW, Muon, Schedule
from inkwash.nets import ClassicUNet
from inkwash.optim import orthogonalise
from inkwash.training.ema import Ema
from inkwash.training.profiles import power_beta, power_gamma
from inkwash.types import Given


def test_schedule_warms_up_holds_and_decays_to_zero() -> None:
    schedule = Schedule(warmup=3, decay=0.25)
    assert [schedule(step, 0.0) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [schedule(99, p) for p in (0.5, 0.75, 0.875, 1.0)] == [1.0, 1.0, 0.5, 0.0]
    assert Schedule(warmup=0, decay=0.0)(0, 1.0) == 1.0
    with pytest.raises(ValueError, match="decay within"):
        Schedule(decay=1.5)


@pytest.mark.parametrize("shape", [(32, 48), (48, 32), (3, 24, 40)])
def test_orthogonalise_keeps_the_singular_vectors_and_evens_out_the_values(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    m = torch.randn(shape)
    out = orthogonalise(m)
    u, _, vh = torch.linalg.svd(m, full_matrices=False)
    values = (u.mT @ out @ vh.mT).diagonal(dim1=-2, dim2=-1)
    assert float(values.min()) > 0.5
    assert float(values.max()) < 1.3
    off = u.mT @ out @ vh.mT - torch.diag_embed(values)
    assert float(off.abs().max()) < 0.05  # bfloat16


def test_muon_steps_have_the_size_of_adams() -> None:
    torch.manual_seed(0)
    net = nn.Linear(64, 32, bias=False)
    before = net.weight.detach().clone()
    (optim, *_) = Muon(lr=0.01, weight_decay=0.0).build(net)
    net.weight.grad = torch.randn_like(net.weight)
    optim.step()
    moved = (net.weight.detach() - before).pow(2).mean().sqrt()
    assert float(moved) == pytest.approx(0.01 * 0.2, rel=0.2)  # Adam's own updates have RMS 0.2 to 0.4


def test_muon_serves_convolutions_and_leaves_the_rest_to_adamw() -> None:
    net = nn.Sequential(nn.Conv2d(1, 32, 3), nn.Conv2d(32, 32, 3), nn.GroupNorm(2, 32), nn.Embedding(11, 32))
    muon, adamw = Muon().build(net)
    own = [p.shape for g in muon.param_groups for p in g["params"]]
    assert own == [torch.Size([32, 32, 3, 3])]  # 32 x 9 is too thin, tables and norms are no matrices
    decayed = [g["weight_decay"] for g in adamw.param_groups for _ in g["params"]]
    assert sum(p.numel() for o in (muon, adamw) for g in o.param_groups for p in g["params"]) == sum(
        p.numel() for p in net.parameters()
    )
    assert sorted(decayed) == [0.0] * 5 + [0.01]


def test_muon_leaves_depthwise_kernels_and_the_null_text_to_adamw() -> None:
    net = ClassicUNet("annotated", widths=(16, 32), depth=1).build((1, 8, 8), Given(tokens=24))
    named = {id(p): name for name, p in net.named_parameters()}
    muon, adamw = Muon().build(net)
    (own,) = ({named[id(p)] for p in g["params"]} for g in muon.param_groups)
    decayed, rest = ({named[id(p)] for p in g["params"]} for g in adamw.param_groups)
    depthwise = {name for name in named.values() if name.endswith("depthwise.weight")}
    assert len(depthwise) == 8
    assert depthwise <= decayed  # a kernel [C, 1, 7, 7] is C filters, each of one channel
    assert {name for name in named.values() if name.endswith("conv1.weight")} <= own
    assert "text.null" in rest  # as a row of a table of tokens would be
    assert own | decayed | rest == set(named.values())
    (plain,) = AdamW().build(net)
    assert "text.null" in {named[id(p)] for g in plain.param_groups if not g["weight_decay"] for p in g["params"]}


def test_nesterov_momentum_by_hand() -> None:
    net = nn.Linear(16, 16, bias=False)
    (optim, *_) = Muon(momentum=0.5, weight_decay=0.0).build(net)
    grads = [torch.randn(16, 16) for _ in range(2)]
    buffer = torch.zeros(16, 16)
    for g in grads:
        before = net.weight.detach().clone()
        net.weight.grad = g.clone()
        optim.step()
        buffer = 0.5 * buffer + 0.5 * g
        expected = before - 2e-3 * 0.2 * 4 * orthogonalise(0.5 * g + 0.5 * buffer)
        assert torch.allclose(net.weight, expected, atol=1e-4)
    assert torch.allclose(optim.state[net.weight]["momentum"], buffer, atol=1e-6)


@pytest.mark.parametrize("fused", [("cpu",), ()])
@pytest.mark.parametrize("kind", [AdamW(lr=0.1), Muon(lr=0.1)])
def test_a_closed_gate_changes_nothing(
    kind: AdamW | Muon, fused: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inkwash.optim.FUSED", fused)
    net = nn.Linear(32, 32)
    for optim in kind.build(net):
        for gate in (0.0, 1.0):
            before = [p.detach().clone() for p in net.parameters()]
            for p in net.parameters():
                p.grad = torch.full_like(p, torch.nan if gate else 1.0)
            optim.found_inf = torch.tensor(gate)  # type: ignore[attr-defined]
            moments = {k: v.clone() for s in optim.state.values() for k, v in s.items()}
            optim.step()
            mine = {id(p) for g in optim.param_groups for p in g["params"]}
            for p, old in zip(net.parameters(), before, strict=True):
                assert torch.equal(p, old) == bool(gate or id(p) not in mine)
            if gate:
                after = {k: v for s in optim.state.values() for k, v in s.items()}
                assert all(torch.equal(moments[k], after[k]) for k in moments)


def test_a_state_goes_on_where_no_fused_kernel_is(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    here = nn.Linear(8, 8)
    (fused,) = AdamW(lr=0.1).build(here)
    monkeypatch.setattr("inkwash.optim.FUSED", ())
    there = nn.Linear(8, 8)
    (plain,) = AdamW(lr=0.1).build(there)
    assert [fused.defaults["fused"], plain.defaults["fused"]] == [True, False]

    def step(gate: float) -> None:
        x = torch.randn(4, 8)
        for net, optim in ((here, fused), (there, plain)):
            optim.zero_grad()
            (net(x).pow(2).mean() * (torch.nan if gate else 1.0)).backward()
            optim.found_inf = torch.tensor(gate)  # type: ignore[attr-defined]
            optim.step()

    step(0.0)
    for source, target in ((fused, plain), (plain, fused)):
        there.load_state_dict(here.state_dict())
        target.load_state_dict(deepcopy(source.state_dict()))
        assert {g["fused"] for g in target.param_groups} == {target is fused}
        for gate in (0.0, 1.0, 0.0):
            step(gate)
        assert torch.allclose(here.weight, there.weight, atol=1e-6)
        assert torch.equal(fused.state[here.weight]["step"], plain.state[there.weight]["step"])


@pytest.mark.parametrize("kind", [AdamW, Muon])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr = 0.0 must be more than 0"),
        ({"lr": float("inf")}, "lr = inf must be"),
        ({"lr": float("nan")}, "lr = nan must be"),
        ({"betas": (0.9, 1.0)}, r"betas: 1.0 must lie in \[0, 1\)"),
        ({"betas": (-0.1, 0.9)}, r"betas: -0.1 must lie in \[0, 1\)"),
        ({"weight_decay": -0.01}, "weight_decay = -0.01 must be 0 or more"),
    ],
)
def test_settings_with_which_nothing_is_learned_are_refused(
    kind: type[AdamW | Muon], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_momentum_lies_below_1() -> None:
    with pytest.raises(ValueError, match=r"momentum: 1.0 must lie in \[0, 1\)"):
        Muon(momentum=1.0)


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.2])
def test_the_average_has_the_power_profile_and_its_width(sigma_rel: float) -> None:
    gamma = power_gamma(sigma_rel)
    assert (gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)) == pytest.approx(sigma_rel**2, rel=1e-10)
    n = 4000
    betas = [power_beta(i, sigma_rel) for i in range(1, n + 1)]
    assert betas[0] == 0.0  # the first step replaces the initial weights
    weights = np.array([(1 - b) * np.prod(betas[i + 1 :]) for i, b in enumerate(betas)])
    t = np.arange(1, n + 1) / n
    assert weights.sum() == pytest.approx(1.0, rel=1e-12)
    mean = (weights * t).sum()
    assert np.sqrt((weights * (t - mean) ** 2).sum()) == pytest.approx(sigma_rel, rel=2e-3)
    assert weights[n // 2] / weights[-1] == pytest.approx(0.5**gamma, rel=1e-2)


def test_ema_follows_the_weights_and_skips_what_does_not_count() -> None:
    net = nn.Linear(2, 1, bias=False).double()
    ema = Ema(net, 0.1)
    expected = net.weight.detach().clone()
    for n in range(1, 6):
        net.weight.data.fill_(float(n))
        ok = n != 3
        ema.update(net, n, torch.tensor(ok))
        if ok:
            beta = power_beta(n, 0.1)
            expected = beta * expected + (1 - beta) * n
        assert torch.allclose(ema.net.weight, expected, rtol=1e-14)
    with pytest.raises(ValueError, match="must lie between 0 and"):
        power_gamma(0.5)
