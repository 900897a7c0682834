"""MeanFlow's derivative beside a compiled network: the same numbers, and the network stays compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inkwash.fewstep import MeanFlow
from inkwash.fewstep.flowmap import Jump
from inkwash.model import Model
from inkwash.nets import UNet
from inkwash.noise import Philox, Stream
from inkwash.paths import Linear
from inkwash.targets import Flow
from inkwash.types import Condition, Given


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in its compiler
@pytest.mark.parametrize("backend", ["counted", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_and_eager_tangents_agree_and_the_network_stays_compiled(backend: str) -> None:
    """torch gives a compiled network up in silence when it meets a forward-mode derivative: it must meet none."""
    shape = (1, 8, 8)
    torch.manual_seed(0)
    net = UNet("tiny", widths=(8,), depth=1, patch=2).resolve(shape).build(shape, Given(classes=3, jumps=True))
    for weight in net.parameters():  # a head and a second clock that are not zero
        torch.nn.init.normal_(weight, 0, 0.2)
    model = Model(net, Linear(), Flow(), jumps=True)
    noise = Philox(0, torch.arange(4))
    x, v = (noise(torch.empty(4, *shape), i, Stream.EPS) for i in (0, 1))
    t, s = torch.tensor([[0.9, 0.7, 0.5, 0.3], [0.1, 0.2, 0.3, 0.1]], dtype=torch.float64)
    jump = Jump(x, t, s, v, Condition(torch.tensor([0, 1, 2, -1])))
    losses = [MeanFlow(derivative="exact"), MeanFlow("example", "exact"), MeanFlow("example", "differences")]

    def goals() -> list[torch.Tensor]:
        with torch.no_grad():
            return [loss.goal(model, jump, 0.0) for loss in losses]

    eager = goals()
    assert float((eager[0] - eager[1]).abs().max()) > 0.03  # the tangents matter
    runs: list[int] = []

    def counted(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            runs.append(1)
            return graph(*given)

        return run

    torch.compiler.reset()
    net.compile(dynamic=False, backend=counted if backend == "counted" else backend)
    compiled = goals()
    for one, other in zip(compiled, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    if backend == "counted":
        assert len(runs) == 3  # the network's own velocity, and two for a difference
        model.mean_velocity(x, t, s, jump.cond).sum().backward()
        assert len(runs) == 4
