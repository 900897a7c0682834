"""What networks are told besides x, the time and a label: numbers, a picture beside x, and all conditions together."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from inkwash.nets import MLP, AnyNet, ClassicUNet, DiT, ModernDiT, UNet
from inkwash.nets.given import FEW, Numbers, beside, waves
from inkwash.nets.layers import recompute
from inkwash.types import Condition, Given
from test_nets import awake, draw, times

NETS: dict[str, Any] = {
    "unet": UNet(patch=2, widths=(16, 32), depth=1, attention=(1,), head_dim=16),
    "classic": ClassicUNet(widths=(16, 32), depth=1, attention=(1,), head_dim=16, groups=8),
    "annotated": ClassicUNet("annotated", widths=(16, 32), depth=1, head_dim=16),
    "dit": DiT(depth=2, width=16, heads=2),
    "modern": ModernDiT(patch=2, depth=2, width=16, heads=2, registers=2),
}
EVERY = pytest.mark.parametrize("net", NETS.values(), ids=NETS)
ALL = Given(classes=3, tokens=6, jumps=True, vector=4, image=2)
NAN = math.nan


def asked(B: int = 3, H: int = 8, W: int = 8, dtype: torch.dtype = torch.float64) -> Condition:
    """Everything there is to ask for; of the second row only some, and of the third nothing."""
    vector, image = draw(B, 4, seed=4, dtype=dtype), draw(B, 2, H, W, seed=5, dtype=dtype)
    vector[1, ::2] = NAN
    image[1, :, :, W // 2 :] = NAN
    vector[2:], image[2:] = NAN, NAN
    present = torch.zeros(B, 5, dtype=torch.bool)
    present[0], present[1, 1:3] = True, True
    label = torch.full((B,), -1)
    label[0], label[1] = 2, 0
    return Condition(label, draw(B, 5, 6, seed=3, dtype=dtype), present, vector, image)


def ask(net: nn.Module, cond: Condition, dtype: torch.dtype = torch.float64) -> Tensor:
    B = 3 if cond.label is None else len(cond.label)
    x, t = draw(B, 3, 8, 8, dtype=dtype), times(B, dtype)
    y: Tensor = net(x, t, t / 2, cond)
    return y


# ------------------------------------------------------------------------------------------------------------ numbers


def told_by_hand(layer: Numbers, v: np.ndarray) -> np.ndarray:
    """docs/networks.md, "Conditions", number by number."""
    weight, unknown = (p.detach().numpy() for p in (layer.out.weight, layer.unknown))
    e = np.zeros((len(v), len(weight)))
    for b, row in enumerate(v):
        for j, number in enumerate(row):
            if layer.count > 32:
                told = unknown[j : j + 1] if np.isnan(number) else np.array([number])
            elif np.isnan(number):
                told = unknown[12 * j : 12 * j + 12]
            else:
                angles = number * np.pi / 32 * 2.0 ** np.arange(6)
                told = np.concatenate([np.cos(angles), np.sin(angles)])
            e[b] += weight[:, len(told) * j : len(told) * (j + 1)] @ told
    return e


@pytest.mark.parametrize("count", [1, 3, 32, 33])
def test_numbers_are_told_by_their_closed_form_or_by_what_stands_for_an_unknown_one(count: int) -> None:
    layer = awake(Numbers(count, 5)).double()
    v = 3 * draw(4, count, seed=2)
    v[1, ::2], v[2] = NAN, NAN
    got = layer(Condition(vector=v), draw(4, 5))
    np.testing.assert_allclose(got.detach().numpy(), told_by_hand(layer, v.numpy()), rtol=0, atol=1e-12)
    assert layer.each == (12 if count <= FEW else 1)
    nothing = layer.out.weight @ layer.unknown
    torch.testing.assert_close(got[2], nothing, rtol=0, atol=1e-12)
    assert not torch.allclose(layer(Condition(vector=torch.zeros_like(v)), draw(4, 5))[2], nothing, atol=1e-3)


def test_numbers_a_hundredth_apart_differ_and_none_within_sixteen_deviations_are_the_same() -> None:
    near = torch.linspace(-4, 4, 801, dtype=torch.float64)  # as far as nearly all of them lie
    steps = (waves(near[1:]) - waves(near[:-1])).norm(dim=1)
    one = 2 * math.sqrt(sum(math.sin(0.005 * math.pi / 32 * 2**k) ** 2 for k in range(6)))
    assert steps == pytest.approx(np.full(800, one), rel=1e-9)  # the same step wherever it is taken
    assert one == pytest.approx(0.01 * math.pi * math.sqrt(4 / 3), rel=1e-3)
    seen = waves(near.float()).bfloat16().float()  # what is left of it in 8 bits
    assert (seen[1:] - seen[:-1]).norm(dim=1).min() > one / 2
    far = torch.linspace(-16, 16, 321, dtype=torch.float64)
    first = waves(far)[:, 6]
    assert (first.diff() > 0).all()  # the slowest sine rises all the way: what lies beyond goes on as what lay before
    assert (torch.cdist(waves(far), waves(far)) + 9 * torch.eye(321)).min() > 0.3


def test_an_untrained_layer_of_numbers_tells_nothing_of_unknown_ones_and_is_no_wider_for_more() -> None:
    torch.manual_seed(0)
    for count in (1, 8, 32):
        layer = Numbers(count, 4096)
        known = layer(Condition(vector=draw(1, count, dtype=torch.float32)), torch.zeros(1))
        assert known.std().item() == pytest.approx(math.sqrt(1 / 6), rel=0.15)
        assert not layer(Condition(vector=torch.full((1, count), NAN)), torch.zeros(1)).any()


# ----------------------------------------------------------------------------------------------- a picture beside x


def test_the_picture_beside_x_says_where_it_is_known() -> None:
    image = draw(2, 3, 4, 5)
    image[0, :, 1], image[0, 1, 2, 3], image[1] = NAN, NAN, NAN
    shown = beside(3, Condition(image=image), torch.zeros(2, 1, 4, 5))
    assert shown is not None
    assert shown.dtype == torch.float32
    for b in range(2):
        for i in range(4):
            for j in range(5):
                there = [not math.isnan(c) for c in image[b, :, i, j].tolist()]
                want = [c if k else 0.0 for c, k in zip(image[b, :, i, j].tolist(), there, strict=True)]
                assert shown[b, :, i, j].tolist() == pytest.approx([*want, sum(there) / 3], abs=1e-6)
    zeros = beside(3, Condition(image=torch.zeros(2, 3, 4, 5)), torch.zeros(2, 1, 4, 5))
    assert zeros is not None
    assert zeros[:, 3].all()


@EVERY
def test_a_picture_is_seen_where_it_lies(net: AnyNet) -> None:
    """Its layer at the door sees each pixel, and what is known of it, in the same place as x's."""
    module = awake(net.build((3, 8, 8), Given(image=3))).double()
    door = module.door if hasattr(module, "door") else module.stem
    with torch.no_grad():  # what x goes through, for the picture as well; nothing for where it is known
        n = door.weight.shape[1] * 4 // 3
        module.beside.weight.zero_()
        if n == module.beside.weight.shape[1]:
            module.beside.weight[:, : door.weight.shape[1]] = door.weight
    x, image, t = draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=2), times(2)
    got = module(x, t, t, Condition(image=image))
    plain = net.build((3, 8, 8)).double()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if "beside" not in k})
    assert torch.allclose(got, plain(x + image, t, t, Condition()), rtol=0, atol=1e-11)
    with torch.no_grad():
        module.beside.weight.zero_()
        module.beside.weight[:, door.weight.shape[1] :] = draw(*module.beside.weight[:, door.weight.shape[1] :].shape)
    known = module(x, t, t, Condition(image=image))
    assert torch.equal(known, module(x, t, t, Condition(image=torch.zeros_like(image))))
    half = image.clone()
    half[:, :, :, :4] = NAN
    assert not torch.allclose(module(x, t, t, Condition(image=half)), known, atol=1e-3)


# ----------------------------------------------------------------------------------------------------- all of them


@EVERY
def test_a_net_whose_conditions_are_zero_is_the_net_without_bit_for_bit(net: AnyNet) -> None:
    told = awake(net.build((3, 8, 8), Given(vector=4, image=2), 2))
    plain = net.build((3, 8, 8), None, 2)
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if k in plain.state_dict()})
    with torch.no_grad():
        for name, p in told.named_parameters():
            if name not in plain.state_dict():
                p.zero_()
    cond = replace(asked(dtype=torch.float32), label=None, tokens=None, present=None)
    y = ask(told, cond, torch.float32)
    x, t = draw(3, 3, 8, 8, dtype=torch.float32), times(3, torch.float32)
    assert y.any()
    assert torch.equal(y, plain(x, t, t, Condition()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(told(x, t, t, cond), plain(x, t, t, Condition()))


@EVERY
def test_a_new_net_says_the_same_whatever_picture_it_is_shown_until_it_learns_to(net: AnyNet) -> None:
    torch.manual_seed(0)
    module = net.build((3, 8, 8), Given(image=2))
    assert not module.beside.weight.any()
    x, t, image = draw(2, 3, 8, 8, dtype=torch.float32), times(2, torch.float32), draw(2, 2, 8, 8, dtype=torch.float32)
    for name, p in module.named_parameters():  # but its layer learns from the first step on in which the head is not 0
        if name != "beside.weight" and not p.any():
            nn.init.normal_(p, std=0.1)
    y = module(x, t, t, Condition(image=image))
    assert torch.equal(y, module(x, t, t, Condition(image=torch.full_like(image, NAN))))
    y.square().sum().backward()
    assert module.beside.weight.grad.abs().sum() > 0


@EVERY
@pytest.mark.parametrize("how", ["float32", "autocast", "bfloat16"])
def test_what_stands_under_a_null_changes_no_bit_of_answers_or_gradients(net: AnyNet, how: str) -> None:
    """Row 2 is told nothing, row 1 a half: NaN may be any NaN, absent tokens anything, and none of it spreads."""
    module, dtype = awake(net.build((3, 8, 8), ALL)), torch.float32
    if how == "bfloat16":
        module, dtype = module.bfloat16(), torch.bfloat16
    cond = asked(dtype=dtype)
    other = replace(cond, tokens=cond.tokens.masked_fill(~cond.present[:, :, None], NAN))
    answers = []
    for told in (cond, other):
        module.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            y = ask(module, told, dtype)
        y.float().square().sum().backward()
        answers.append([y.detach(), *(p.grad.clone() for p in module.parameters())])
        assert all(v.isfinite().all() for v in answers[-1])
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    null = ask(module, cond.null(), dtype)
    assert torch.equal(null[2], ask(module, cond, dtype)[2])
    assert (null[:2] - ask(module, cond, dtype)[:2]).flatten(1).abs().amax(1).min() > 0


@EVERY
def test_every_condition_of_a_row_counts_for_it_and_for_no_other(net: AnyNet) -> None:
    module, cond = awake(net.build((3, 8, 8), ALL)).double(), asked()
    y = ask(module, cond)
    for name in ("label", "text", "vector", "image"):
        for row in (0, 1):
            mask = torch.arange(3) == row
            changed = (ask(module, cond.hide({name: mask})) - y).flatten(1).abs().amax(1)
            assert changed[row] > 1e-5, name
            assert changed[~mask].max() < 1e-12, name
    order = torch.tensor([2, 0, 1])
    x, t = draw(3, 3, 8, 8), times(3)
    assert torch.allclose(module(x[order], t[order], t[order] / 2, cond.map(lambda v: v[order])), y[order], atol=1e-11)
    for i in range(3):
        one = slice(i, i + 1)
        alone = module(x[one], t[one], t[one] / 2, cond.map(lambda v, one=one: v[one]))
        assert torch.allclose(alone[0], y[i], rtol=0, atol=1e-11)


@EVERY
def test_texts_of_different_lengths_share_a_batch_and_one_may_have_no_tokens(net: AnyNet) -> None:
    module = awake(net.build((3, 8, 8), Given(tokens=6))).double()
    texts = [Condition(None, draw(1, n, 6, seed=n + 1), torch.ones(1, n, dtype=torch.bool)) for n in (4, 1, 0)]
    together = ask(module, texts[0].cat(*texts[1:]))
    x, t = draw(3, 3, 8, 8), times(3)
    for i, cond in enumerate(texts):
        alone = module(x[i : i + 1], t[i : i + 1], t[i : i + 1] / 2, cond)
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-11)


@EVERY
def test_gradients_reach_every_weight_and_are_the_same_when_recomputed(net: AnyNet) -> None:
    module, cond = awake(net.build((3, 8, 8), ALL)), asked(dtype=torch.float32)
    grads = []
    for again in (False, True):
        if again:
            assert recompute(module) > 0
        module.zero_grad()
        ask(module, cond, torch.float32).square().mean().backward()
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name
        grads.append([p.grad.clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("net", [pytest.param(NETS["unet"], marks=pytest.mark.slow), NETS["modern"]])
def test_a_net_is_one_graph_to_the_compiler_with_every_condition(net: AnyNet) -> None:
    module, cond = awake(net.build((3, 8, 8), ALL)), asked(dtype=torch.float32)
    torch.compiler.reset()
    graph = torch.compile(module, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(ask(graph, cond, torch.float32), ask(module, cond, torch.float32))


@EVERY
def test_a_net_can_be_differentiated_forwards_with_every_condition(net: AnyNet) -> None:
    """As mean flows are trained: against a difference of two answers, in float64."""
    module, cond = awake(net.build((3, 8, 8), ALL)).double(), asked()
    x, t, v, h = draw(3, 3, 8, 8), times(3), draw(3, 3, 8, 8, seed=8), 1e-5

    def f(x: Tensor, t: Tensor) -> Tensor:
        y: Tensor = module(x, t, t / 2, cond)
        return y

    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        _, along = torch.func.jvp(f, (x, t), (v, torch.ones_like(t)))
        difference = (f(x + h * v, t + h) - f(x - h * v, t - h)) / (2 * h)
        module, cond = module.float(), cond.map(lambda v: v.float() if v.is_floating_point() else v)
        single = torch.func.jvp(f, (x.float(), t.float()), (v.float(), torch.ones(3)))[1]
    assert torch.allclose(along, difference, rtol=1e-5, atol=1e-6)
    assert single.dtype == torch.float32
    assert (single - along).norm() < 1e-3 * along.norm()
    assert along.abs().max() > 1e-2


def test_points_are_told_labels_and_numbers() -> None:
    module = awake(MLP(16, 2).build((2,), Given(classes=2, vector=3))).double()
    x, t, v = draw(4, 2), times(4), draw(4, 3, seed=2)
    v[1, 0], v[3] = NAN, NAN
    y = module(x, t, t, Condition(torch.tensor([0, 1, -1, -1]), vector=v))
    assert y.isfinite().all()
    w = v.clone()
    w[0, 1] += 0.01
    moved = (module(x, t, t, Condition(torch.tensor([0, 1, -1, -1]), vector=w)) - y).abs().amax(1)
    assert moved[0] > 1e-5
    assert not moved[1:].any()


@pytest.mark.parametrize(
    ("net", "given", "cond", "words"),
    [
        (UNet("tiny"), Given(), Condition(vector=torch.zeros(2, 3)), ["without a vector", "pass no vector"]),
        (UNet("tiny"), Given(vector=3), Condition(), ["3 numbers", "[2, 3]", "given none", "NaN"]),
        (DiT(depth=1, width=16), Given(vector=3), Condition(vector=torch.zeros(2, 4)), ["[2, 3]", "[2, 4]"]),
        (DiT(depth=1, width=16), Given(vector=3), Condition(vector=torch.zeros(1, 3)), ["[2, 3]", "[1, 3]"]),
        *(
            (
                net,
                Given(tokens=3),
                Condition(tokens=torch.zeros(of), present=torch.ones(there, dtype=torch.bool)),
                words,
            )
            for net in NETS.values()
            for of, there, words in (
                ((1, 4, 3), (1, 4), ["width 3", "[2, N, 3]", "[1, 4, 3]"]),
                ((2, 4, 5), (2, 4), ["width 3", "[2, N, 3]", "[2, 4, 5]"]),
                ((2, 4, 3), (2, 5), ["[2, N] are present", "[2, 4, 3] and [2, 5]"]),
                ((2, 3), (2, 3), ["[2, N, 3]", "[2, 3] and [2, 3]"]),
            )
        ),
        *(
            (net, given, Condition(image=image), words)
            for net in NETS.values()
            for given, image, words in (
                (Given(), torch.zeros(2, 3, 8, 8), ["without a picture", "pass no image"]),
                (Given(image=3), None, ["3 channels", "[2, 3, 8, 8]", "given none", "NaN"]),
                (Given(image=3), torch.zeros(2, 1, 8, 8), ["[2, 3, 8, 8]", "[2, 1, 8, 8]"]),
                (Given(image=3), torch.zeros(2, 3, 4, 4), ["[2, 3, 8, 8]", "[2, 3, 4, 4]"]),
                (Given(image=3), torch.zeros(1, 3, 8, 8), ["[2, 3, 8, 8]", "[1, 3, 8, 8]"]),
            )
        ),
    ],
)
def test_a_wrong_or_missing_condition_is_named(net: Any, given: Given, cond: Condition, words: list[str]) -> None:
    module = net.build((1, 8, 8), given)
    with pytest.raises(ValueError) as error:
        module(torch.zeros(2, 1, 8, 8), torch.zeros(2), torch.zeros(2), cond)
    assert all(word in str(error.value) for word in words), error.value


def test_points_have_no_place_for_a_picture() -> None:
    with pytest.raises(ValueError, match="no picture beside x"):
        MLP().build((2,), Given(image=1))


def test_weights_that_read_conditions_have_the_names_that_models_are_saved_with() -> None:
    for net in NETS.values():
        plain, told = net.build((3, 8, 8)).state_dict(), net.build((3, 8, 8), Given(vector=3, image=1)).state_dict()
        assert told.keys() - plain.keys() == {"beside.weight", "embed.numbers.out.weight", "embed.numbers.unknown"}
        assert all(told[k].shape == w.shape for k, w in plain.items())
        assert told["embed.numbers.unknown"].shape == (36,)
