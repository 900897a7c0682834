"""Options of a run, which must change nothing but what the run costs: blocks computed again, and compilation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inkwash.nets import ClassicUNet, DiT, ModernDiT, UNet
from inkwash.nets.layers import recompute
from inkwash.types import Condition, Given

NETS: list[Any] = [
    UNet("tiny", widths=(16, 32), attention=(1,), dropout=0.3),
    ClassicUNet(widths=(16, 32), groups=2, attention=(1,), dropout=0.3),
    ClassicUNet("annotated", widths=(16, 32), dropout=0.3),
    DiT(depth=2, width=32, heads=2),
    ModernDiT(depth=2, width=32, heads=2, patch=2),
]
names = [f"{net.kind} {net.preset}" for net in NETS]


def built(config: Any, given: Given) -> nn.Module:
    """A network none of whose weights are zero, so that every gradient goes everywhere."""
    torch.manual_seed(0)
    net = config.build((2, 8, 8), given)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return net.train()


def learned(net: nn.Module, cond: Condition, dtype: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor], int]:
    """The answer, all gradients, and the bytes that were kept for them without those of the weights."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in net.parameters()}

    def keep(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return t

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 2, 8, 8, generator=generator)
    t = torch.tensor([5.0, 500.0, 900.0])
    torch.manual_seed(7)  # dropout's masks
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
        torch.autocast("cpu", dtype or torch.float32, enabled=dtype is not None),
    ):
        y = net(x, t, t - 3, cond)
    size = sum(kept.values())
    after = torch.rand(4)  # the random state goes on from where it would have
    (y.float() - x).square().mean().backward()
    gradients = {n: p.grad for n, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    return torch.cat([y.detach().float().flatten(), after]), gradients, size


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("config", NETS, ids=names)
def test_blocks_computed_again_learn_the_same_bits_and_keep_less(config: Any, dtype: torch.dtype | None) -> None:
    given = Given(classes=3, tokens=4, jumps=True)
    net = built(config, given)
    cond = Condition(
        torch.tensor([0, -1, 2]), torch.randn(3, 2, 4), torch.tensor([[True, True], [False] * 2, [True, False]])
    )
    keys = list(net.state_dict())
    answer, gradients, kept = learned(net, cond, dtype)
    assert recompute(net) >= 2
    again, regained, less = learned(net, cond, dtype)
    assert list(net.state_dict()) == keys
    assert torch.equal(answer, again)
    assert gradients.keys() == regained.keys() == dict(net.named_parameters()).keys()
    for name in gradients:
        assert torch.equal(gradients[name], regained[name]), name
    print(config.kind, less / kept)
    assert less < 0.6 * kept
