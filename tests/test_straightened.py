"""How straight flows are, in the report on students: closed forms, the same noise and conditions for all, kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from inkwash.data import load as load_data
from inkwash.distilling.report import STRAIGHT, Contestant, straight_line, straightened
from inkwash.distilling.straightness import straightness
from inkwash.grids import Karras
from inkwash.model import Model
from inkwash.noise import Philox, Stream
from inkwash.paths import VP, Linear
from inkwash.pipeline import load
from inkwash.recipes import read_recipe
from inkwash.samplers import DpmSolver
from inkwash.sampling import Sampling
from inkwash.targets import X0, Flow, V
from inkwash.types import Condition
from inkwash.types import Path as PathOf
from tinyruns import finish

LAM = 0.09


class Best(nn.Module):
    """The best x0 of N(0, LAM) on a path, as a target; of label 1, of N(0, 4·LAM). It notes the labels."""

    def __init__(self, path: Any, target: Any) -> None:
        super().__init__()
        self.path, self.target, self.labels = path, target, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        assert torch.equal(t_emb, s_emb)
        assert cond.label is not None
        self.labels.append(cond.label.tolist())
        lam = torch.where(cond.label == 1, 4 * LAM, LAM)[:, None].double()
        c = self.path(t_emb.double() / 1000).like(x.double())
        x0 = c.alpha * lam / (c.alpha**2 * lam + c.sigma**2) * x
        a, b = self.target(self.path(t_emb.double() / 1000).like(x.double()))
        eps = (x - c.alpha * x0) / c.sigma
        return (a * x0 + b * eps).to(x.dtype)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    small = {"width": 4, "depth": 1, "kind": "mlp"}
    tables = {"data": {"source": "moons", "limit": 96}, "net": small, "train": {"steps": 1, "batch_size": 8}}
    finish(read_recipe(tables), tmp_path / "run")
    return tmp_path / "run"


def contestant(run: Path, name: str, path: PathOf, target: Any) -> Contestant:
    pipe = load(run, chunk=64)
    pipe.model = Model(Best(path, target), path, target)
    return Contestant(name, pipe, {}, run.parent / name, {"euler": (1,)})


def closed_form(labels: Tensor, seed: int) -> float:
    """The mean over trajectories of the integral of (1 - sqrt(lam) - S_t')²·x_1² (math.md, eq. 67)."""
    t = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    noise = Philox(seed, torch.arange(64))(torch.empty(64, 2), 0, Stream.START)
    total = 0.0
    for label, lam in ((0, LAM), (1, 4 * LAM)):
        slope = (t - (1 - t) * lam) / ((1 - t) ** 2 * lam + t**2).sqrt()
        share = float(torch.trapezoid((1 - lam**0.5 - slope) ** 2, t))
        total += share * float(noise[labels == label].square().sum())
    return total / noise.numel()


def test_every_flow_is_measured_on_the_same_trajectories_as_its_closed_form_says_and_once(run: Path) -> None:
    data = load_data(read_recipe({"data": {"source": "moons", "limit": 96}}).data)
    rows = np.arange(10, 90)
    models = [
        contestant(run, "flow", Linear(), Flow()),
        contestant(run, "vp", VP(), V()),
        contestant(run, "x0", Linear(), X0()),  # which says no velocity at t = 0
    ]
    found = straightened(models, (data, rows), seed=3)
    picked = rows[np.linspace(0, 79, 64).astype(int)]
    assert data.labels is not None
    labels = torch.from_numpy(data.labels[picked])
    assert 0 < int(labels.sum()) < 64
    expected = closed_form(labels, 3)
    assert list(found) == ["flow", "vp", "x0"]
    for name, value in found.items():
        assert value == pytest.approx(expected, rel=0.01), name
    net: Any = models[1].pipe.model.net
    assert all(asked == labels.tolist() for asked in net.labels)
    calls = len(net.labels)
    assert calls == 63  # Heun's 32 steps ask twice, but for the last
    assert straightened(models, (data, rows), seed=3) == found
    assert len(net.labels) == calls
    # Other steps, samplers and grids are other ways along the same flow; other guidance is another flow.
    config = models[1].pipe.config
    other_way = Sampling(DpmSolver(), steps=7, grid=Karras(), clip=True)
    guided = replace(other_way, guidance=2.0), Sampling(guidance=2.0)
    for sampling, new in ((other_way, False), (guided[0], True), (guided[1], False)):
        before = len(net.labels)
        models[1].pipe.config = replace(config, sampling=sampling)
        straightened(models[1:2], (data, rows), seed=3)
        assert (len(net.labels) > before) == new
    models[1].pipe.config = config
    other = straightened(models[1:2], (data, rows), seed=4)["vp"]
    assert other == pytest.approx(closed_form(labels, 4), rel=0.01)
    assert other != found["vp"]
    lines = [json.loads(line)["straightness"] for line in (run.parent / "vp" / STRAIGHT).read_text().splitlines()]
    assert len(lines) == 3
    assert lines[::2] == [found["vp"], other]
    said = straight_line({"teacher": 0.25, "student": 0.00125})
    assert "(64 trajectories x 32 Heun steps): teacher 0.25, student 0.00125." in said


@pytest.mark.parametrize("steps", [0, 1])
def test_an_integral_takes_two_steps(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps = {steps} of Heun's method are too few"):
        straightness(lambda x, t, cond: x, Condition(), torch.empty(4, 2), steps=steps)


def test_a_guided_flow_is_measured_as_it_is_drawn(run: Path) -> None:
    """At scale 0 the answer is the unlabelled one, which here is that of label 0."""
    data, rows = load_data(read_recipe({"data": {"source": "moons", "limit": 96}}).data), np.arange(96)
    one = contestant(run, "guided", Linear(), Flow())
    pipe = one.pipe
    pipe.config = replace(pipe.config, sampling=replace(pipe.config.sampling, guidance=0.0))
    assert straightened([one], (data, rows))["guided"] == pytest.approx(closed_form(torch.zeros(64), 0), rel=0.01)
