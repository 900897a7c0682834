from __future__ import annotations

import hashlib
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from inkwash.kinds import from_table, to_table
from inkwash.model import Model
from inkwash.nets import MLP, AnyNet, UNet
from inkwash.nets.attention import SelfAttention
from inkwash.nets.layers import ResBlock, attention, sinusoids
from inkwash.paths import Linear
from inkwash.targets import V
from inkwash.types import Condition, Given, Query

SMALL_BUT_WHOLE = UNet(patch=2, widths=(16, 32, 48), depth=1, attention=(1, 2), head_dim=16)


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with its zero-initialised layers given numbers, so that everything in it matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
    return net


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def times(B: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.linspace(3, 990, B, dtype=dtype)


# ---------------------------------------------------------------------------------------------------- the pieces


def test_sinusoids_are_the_closed_form() -> None:
    t = torch.tensor([0.0, 0.5, 7.0, 999.0], dtype=torch.float64)
    got = sinusoids(t, 8)
    for b, time in enumerate(t.tolist()):
        for i in range(8):
            angle = time * 10_000 ** (-i / 8)
            assert got[b, i].item() == pytest.approx(math.cos(angle), abs=1e-12)
            assert got[b, 8 + i].item() == pytest.approx(math.sin(angle), abs=1e-12)


@pytest.mark.parametrize("tokens", [1, 49, 300])  # below and above where the plain product gives way to the fused one
def test_attention_is_softmax_of_the_scores(tokens: int) -> None:
    q, k, v = (draw(2, 3, tokens, 8, seed=s) for s in (1, 2, 3))
    want = torch.empty_like(q)
    for b in range(2):
        for h in range(3):
            scores = (torch.einsum("id,jd->ij", q[b, h], k[b, h]) / math.sqrt(8)).exp()
            want[b, h] = torch.einsum("ij,jd->id", scores / scores.sum(1, keepdim=True), v[b, h])
    assert torch.allclose(attention(q, k, v), want, rtol=0, atol=1e-12)


def test_both_forms_of_attention_agree_on_gradients() -> None:
    q, k, v = (draw(2, 2, 20, 8, seed=s).requires_grad_() for s in (1, 2, 3))
    ours = torch.autograd.grad(attention(q, k, v).square().sum(), (q, k, v))
    fused = torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).square().sum(), (q, k, v))
    for a, b in zip(ours, fused, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12)


def _normed(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    """Mean 0 and variance 1 over each 16 channels of each picture, then a weight and a bias per channel."""
    parts = x.unflatten(1, (-1, 16))
    mean = parts.mean(dim=(2, 3, 4), keepdim=True)
    var = (parts - mean).square().mean(dim=(2, 3, 4), keepdim=True)
    return ((parts - mean) / (var + 1e-5).sqrt()).flatten(1, 2) * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


def test_residual_block_is_its_formula() -> None:
    block = awake(ResBlock(32)).double()
    x, scale, shift = draw(2, 32, 5, 3), draw(2, 32, 1, 1, seed=2), draw(2, 32, 1, 1, seed=3)
    h = _normed(x, block.norm1)
    h = F.conv2d(h / (1 + (-h).exp()), block.conv1.weight, block.conv1.bias, padding=1)
    h = _normed(h, block.norm2) * (1 + scale) + shift
    h = F.conv2d(h / (1 + (-h).exp()), block.conv2.weight, block.conv2.bias, padding=1)
    assert torch.allclose(block(x, scale, shift), x + h, rtol=0, atol=1e-12)


def test_self_attention_commutes_with_any_permutation_of_the_positions() -> None:
    layer = awake(SelfAttention(32, 16)).double()
    x, order = draw(2, 32, 4, 6), torch.randperm(24, generator=torch.Generator().manual_seed(0))

    def shuffle(y: Tensor) -> Tensor:
        return y.flatten(2)[:, :, order].unflatten(2, (4, 6))

    assert not torch.allclose(layer(x), x)
    assert torch.allclose(layer(shuffle(x)), shuffle(layer(x)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("channels", "heads"), [(32, 1), (64, 1), (96, 1), (128, 2), (160, 2), (192, 3)])
def test_heads_divide_the_channels_and_have_at_least_head_dim(channels: int, heads: int) -> None:
    assert SelfAttention(channels, 64).heads == heads


# ------------------------------------------------------------------------------------------------ the whole U-Net


@pytest.mark.parametrize("net", [UNet("tiny"), SMALL_BUT_WHOLE, UNet("tiny", patch=1)])
def test_a_new_net_answers_exactly_zero(net: UNet) -> None:
    module = net.build((3, 16, 24), Given(5))
    y = module(draw(2, 3, 16, 24, dtype=torch.float32), times(2), times(2), Condition(torch.tensor([-1, 4])))
    assert y.shape == (2, 3, 16, 24)
    assert not y.any()


@pytest.mark.parametrize("net", [SMALL_BUT_WHOLE, MLP(width=16, depth=2)])
def test_the_second_output_is_a_second_head_that_leaves_the_first_as_it_was(net: UNet | MLP) -> None:
    """The target is the first half of the channels, the variance's mix (v + 1)/2 is of the second: 1/2 at first."""
    shape, head = ((3, 8, 16), "head") if isinstance(net, UNet) else ((4,), "last")
    one, two = awake(net.build(shape)).double(), net.build(shape, Given(), 2).double()
    x, t = draw(3, *shape), times(3) / 1000
    learned = Model(two, Linear(), V(), learned_variance=True)
    new = learned(Query(x, t, t), Condition()).var_mix
    assert new is not None
    assert torch.equal(new, torch.full_like(x, 0.5))
    weights = one.state_dict()
    second = {n: draw(*weights[n].shape, seed=8) for n in (f"{head}.weight", f"{head}.bias")}
    two.load_state_dict(weights | {n: torch.cat([weights[n], w]) for n, w in second.items()})
    c = Linear()(t)
    y, mix = learned.predict_all(x, t, c, Condition())
    assert torch.allclose(y, one(x, t.float() * 1000, t.float(), Condition()), rtol=0, atol=1e-12)
    assert torch.equal(learned.predict(x, t, c, Condition()), y)
    one.load_state_dict(weights | second)
    v = one(x, t.float() * 1000, t.float(), Condition())
    assert torch.allclose(mix, (v + 1) / 2, rtol=0, atol=1e-12)
    answer = learned(Query(x, t, t), Condition())
    assert torch.equal(answer.var_mix, mix)
    plain = Model(one, Linear(), V())
    assert plain(Query(x, t, t), Condition()).var_mix is None
    assert plain.predict_all(x, t, c, Condition())[1] is None
    channels = shape[0]
    with pytest.raises(ValueError, match=rf"with {2 * channels} output channels.* of {channels}, .* gives {channels}"):
        Model(one, Linear(), V(), learned_variance=True)(Query(x, t, t), Condition())


def _symmetrised(module: nn.Module, patch: int, channels: int, axis: int) -> nn.Module:
    """Every kernel averaged with its mirror image along axis; at the door and the exit the patch's pixels swap too."""
    pixels = (
        torch.arange(channels * patch**2).view(channels, patch, patch).flip(axis + 3 if axis < 0 else axis).flatten()
    )
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.ndim == 4:
                mirror = p.flip(axis)
                mirror = mirror[:, pixels] if name == "stem.weight" else mirror
                mirror = mirror[pixels] if name == "head.weight" else mirror
                p.copy_((p + mirror) / 2)
            elif name == "head.bias":
                p.copy_((p + p[pixels]) / 2)
    return module


@pytest.mark.parametrize("axis", [-1, -2])
def test_with_mirror_symmetric_kernels_a_mirrored_picture_gives_the_mirrored_answer(axis: int) -> None:
    """Finds any row, column or sub-pixel that is in the wrong place anywhere in the net."""
    net = _symmetrised(awake(SMALL_BUT_WHOLE.build((3, 16, 24))).double(), 2, 3, axis)
    x, t = draw(2, 3, 16, 24), times(2)
    y = net(x, t, t, Condition())
    assert torch.allclose(net(x.flip(axis), t, t, Condition()), y.flip(axis), rtol=0, atol=1e-11)
    assert not torch.allclose(y, y.flip(axis), atol=1e-2)


def test_with_transpose_symmetric_kernels_a_transposed_picture_gives_the_transposed_answer() -> None:
    """Finds height taken for width."""
    net = awake(UNet(patch=1, widths=(16, 32), depth=1, attention=(1,), head_dim=16).build((2, 8, 12))).double()
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 4:
                p.copy_((p + p.transpose(2, 3)) / 2)
    x, t = draw(2, 2, 8, 12), times(2)
    want = net(x, t, t, Condition()).transpose(2, 3)
    assert torch.allclose(net(x.transpose(2, 3), t, t, Condition()), want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("net", [SMALL_BUT_WHOLE, MLP(width=16, depth=2)])
def test_a_row_depends_on_nothing_but_itself(net: UNet | MLP) -> None:
    shape = (3, 8, 16) if isinstance(net, UNet) else (5,)
    module = awake(net.build(shape, Given(4))).double()
    x, t, label = draw(5, *shape), times(5), torch.tensor([-1, 0, 3, 1, 2])
    together = module(x, t, t, Condition(label))
    for i in range(5):
        alone = module(x[i : i + 1], t[i : i + 1], t[i : i + 1], Condition(label[i : i + 1]))
        assert torch.allclose(alone[0], together[i], rtol=0, atol=1e-12)
        for other, what in ((x.roll(1, 0), "x"), (t.roll(1, 0), "t"), (label.roll(1, 0), "label")):
            args = {"x": x, "t": t, "label": label} | {what: other}
            changed = module(args["x"], args["t"], t, Condition(args["label"]))
            assert not torch.allclose(changed[i], together[i], atol=1e-6), what


@pytest.mark.parametrize("net", [SMALL_BUT_WHOLE, MLP(width=16, depth=2)])
def test_the_null_label_is_row_zero_of_the_table_and_label_n_is_row_n_plus_one(net: UNet | MLP) -> None:
    """A net without classes, whose time bias is given a table row, is the same function as the net with that label."""
    shape = (1, 8, 8) if isinstance(net, UNet) else (2,)
    labelled, plain = awake(net.build(shape, Given(3))).double(), net.build(shape).double()
    table = labelled.embed.label.weight.detach()
    x, t = draw(2, *shape), times(2)
    assert table.shape[0] == 4
    for label in (-1, 0, 2):
        weights = {k: v.clone() for k, v in labelled.state_dict().items() if k != "embed.label.weight"}
        weights["embed.time_out.bias"] += table[label + 1]
        plain.load_state_dict(weights)
        got = labelled(x, t, t, Condition(torch.full((2,), label)))
        assert torch.allclose(got, plain(x, t, t, Condition()), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("net", "shape"), [(UNet("tiny"), (1, 8, 8)), (MLP(16, 2), (3,))])
def test_a_jump_is_a_second_time(net: UNet | MLP, shape: tuple[int, ...]) -> None:
    """It counts by its length t - s; until its layer is trained, the network is the one that knows of no jumps."""
    torch.manual_seed(0)
    module = awake(net.build(shape, Given(jumps=True))).double()
    x, t = torch.randn(4, *shape, dtype=torch.float64), torch.tensor([900.0, 900.0, 500.0, 500.0]).double()
    assert torch.equal(module(x, t, t, Condition()), module(x, t, t * 0.5, Condition())) is False
    plain = net.build(shape).double()
    plain.load_state_dict({k: v for k, v in module.state_dict().items() if "jump" not in k})
    torch.nn.init.zeros_(module.embed.jump_out.weight)
    torch.nn.init.zeros_(module.embed.jump_out.bias)
    assert torch.equal(module(x, t, t - 300, Condition()), plain(x, t, t, Condition()))


def test_a_condition_without_text_is_the_null_text() -> None:
    some = Condition(torch.tensor([1, 2]), torch.ones(2, 3, 4), torch.tensor([[True, True, False], [True, True, True]]))
    assert not some.null().present.any() and some.null().label.tolist() == [-1, -1]
    mask = torch.tensor([False, True])
    dropped = some.hide({"label": mask, "text": mask})
    assert dropped.present.tolist() == [[True, True, False], [False] * 3] and dropped.label.tolist() == [1, -1]
    assert dropped.tokens is some.tokens
    with pytest.raises(ValueError, match="both tokens"):
        Condition(tokens=torch.ones(2, 3, 4))


def test_bit_equal_in_float32_whatever_the_slot_and_the_neighbours() -> None:
    """What a sampler that pads to a fixed chunk relies on."""
    net = awake(UNet("tiny").build((1, 28, 28), Given(10))).eval()
    row = draw(1, 1, 28, 28, dtype=torch.float32)
    for chunk in (1, 4, 8):
        answers = []
        for slot in range(chunk):
            x, t = draw(chunk, 1, 28, 28, seed=slot + 2, dtype=torch.float32), times(chunk, torch.float32).roll(slot)
            label = torch.arange(chunk) % 10
            x[slot], t[slot], label[slot] = row[0], 400.0, 3
            with torch.no_grad():
                answers.append(net(x, t, t, Condition(label))[slot])
        assert all(torch.equal(a, answers[0]) for a in answers)


@pytest.mark.parametrize("net", [SMALL_BUT_WHOLE, MLP(width=16, depth=2)])
def test_gradients_reach_every_parameter(net: UNet | MLP) -> None:
    shape = (3, 16, 16) if isinstance(net, UNet) else (2,)
    module = awake(net.build(shape, Given(2)))
    x, t = draw(3, *shape, dtype=torch.float32), times(3, torch.float32)
    module(x, t, t, Condition(torch.tensor([-1, 0, 1]))).square().mean().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_bf16_autocast_stays_close_to_float32() -> None:
    net = awake(UNet("tiny", depth=2, attention=(1,)).build((1, 28, 28), Given(10)))
    x, t, cond = draw(4, 1, 28, 28, dtype=torch.float32), times(4, torch.float32), Condition(torch.arange(4))
    with torch.no_grad():
        full = net(x, t, t, cond)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(x, t, t, cond).float()
    assert (half - full).norm() < 0.03 * full.norm()  # 8 bits of mantissa through some 25 layers


def test_every_convolution_sees_channels_last() -> None:
    """One layer that loses the layout makes all that follow copy their input: half of the speed, silently."""
    net = UNet("tiny", depth=2, attention=(0, 1)).build((1, 28, 28), Given(10))
    seen = []

    def look(module: nn.Module, args: tuple[Tensor]) -> None:
        seen.append(args[0].is_contiguous(memory_format=torch.channels_last))

    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(look)
            assert module.weight.is_contiguous(memory_format=torch.channels_last)
    x, t = draw(2, 1, 28, 28, dtype=torch.float32), times(2, torch.float32)
    net(x, t, t, Condition(torch.tensor([0, 1])))
    assert len(seen) > 20
    assert all(seen)


def test_dropout_acts_in_training_alone() -> None:
    net = awake(UNet("tiny", dropout=0.5).build((1, 8, 8)))
    x, t = draw(2, 1, 8, 8, dtype=torch.float32), times(2, torch.float32)
    assert not torch.equal(net(x, t, t, Condition()), net(x, t, t, Condition()))
    net.eval()
    assert torch.equal(net(x, t, t, Condition()), net(x, t, t, Condition()))


# -------------------------------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(("preset", "shape", "millions"), [("tiny", 1, 0.28), ("small", 1, 2.03), ("base", 3, 14.8)])
def test_presets_have_the_parameters_their_documentation_states(preset: str, shape: int, millions: float) -> None:
    net = UNet(preset).build((shape, 32, 32), Given(10))  # type: ignore[arg-type]
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.02)
    stated = {"tiny": "0.3M", "small": "2M", "base": "15M"}[preset]
    assert f"{preset} ({stated}" in (UNet.__doc__ or "")


def test_resolve_states_everything_and_builds_the_same_net() -> None:
    for net in (UNet("tiny"), UNet("base", depth=1), UNet(widths=(32, 64, 64))):
        full = net.resolve((3, 64, 48))
        assert None not in vars(full).values()
        assert full.resolve((3, 64, 48)) == full
        a, b = net.build((3, 64, 48), Given(2)).state_dict(), full.build((3, 64, 48), Given(2)).state_dict()
        assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    assert [UNet("small").resolve((1, s, s)).patch for s in (28, 40, 64, 128)] == [2, 2, 4, 8]


@pytest.mark.parametrize(
    ("net", "shape", "weights", "digest"),
    [
        (UNet("tiny"), (1, 28, 28), 51, "a8fc1dabd1f62e19"),
        (UNet("small"), (3, 32, 32), 107, "8d5aa848cffefba6"),
        (MLP(), (2,), 23, "819cc749898cf1c8"),
    ],
)
def test_weights_keep_the_names_and_shapes_that_models_have_been_saved_with(
    net: UNet | MLP, shape: tuple[int, ...], weights: int, digest: str
) -> None:
    """As of the first version: models on people's disks are read by these."""
    state = net.build(shape, Given(2)).state_dict()
    assert len(state) == weights
    listed = "\n".join(sorted(f"{name} {list(w.shape)}" for name, w in state.items()))
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == digest


@pytest.mark.parametrize("net", [UNet(), UNet("base", widths=(64, 96), dropout=0.1).resolve((1, 28, 28)), MLP(depth=2)])
def test_a_recipe_tells_the_nets_apart(net: UNet | MLP) -> None:
    assert from_table(AnyNet, to_table(net)) == net


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: UNet("huge"), ["'huge'", "tiny, small, base"]),
        (lambda: UNet(patch=0), ["patch is 0", "1 or more"]),
        (lambda: UNet(widths=()), ["widths is ()"]),
        (lambda: UNet(dropout=1.0), ["dropout is 1.0", "[0, 1)"]),
        (lambda: UNet(attention=(2,)).build((1, 28, 28)), ["level 2", "0 to 1"]),
        (lambda: UNet(head_dim=0), ["head_dim is 0"]),
        (lambda: UNet().build((1, 30, 28)), ["30x28", "multiples of 4", "28x28", "32x28"]),
        (lambda: UNet().build((1, 2, 28)), ["2x28", "4x28"]),
        (lambda: UNet().build((2,)), ["(2,)", "MLP"]),
        (lambda: MLP().build((1, 28, 28)), ["(1, 28, 28)", "UNet"]),
        (lambda: MLP(width=0), ["width is 0"]),
    ],
)
def test_mistakes_in_a_configuration_name_the_value_and_the_fix(make, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("classes", "shape", "cond", "words"),
    [
        (10, (1, 8, 8), Condition(), ["10 classes", "0 to 9", "-1"]),
        (10, (1, 8, 8), Condition(torch.tensor([3])), ["10 classes", "[1]", "2 rows"]),
        (10, (1, 8, 8), Condition(torch.tensor([9, 10])), ["10 classes", "label 10:", "0 to 9"]),
        (10, (1, 8, 8), Condition(torch.tensor([-1, -2])), ["10 classes", "label -2:", "-1 for any"]),
        (0, (1, 8, 8), Condition(torch.zeros(2, dtype=torch.long)), ["no label"]),
        (0, (3, 8, 8), Condition(), ["[B, 1, H, W]", "[2, 3, 8, 8]"]),
        (0, (1, 8, 10), Condition(), ["8x10", "8x8", "8x12"]),
    ],
)
def test_mistakes_in_a_call_name_the_value_and_the_fix(classes: int, shape, cond: Condition, words: list[str]) -> None:
    net = UNet("tiny").build((1, 8, 8), Given(classes))
    with pytest.raises(ValueError) as error:
        net(torch.zeros(2, *shape), torch.zeros(2), torch.zeros(2), cond)
    assert all(word in str(error.value) for word in words), error.value


def test_each_level_halves_the_sides_and_patches_fold_pixels_into_channels() -> None:
    net = SMALL_BUT_WHOLE.build((3, 16, 24))
    sizes: list[tuple[int, ...]] = []
    for conv in (net.stem, *net.shrink):
        conv.register_forward_hook(lambda module, args, y: sizes.append(tuple(y.shape[1:])))
    net(torch.zeros(1, 3, 16, 24), torch.zeros(1), torch.zeros(1), Condition())
    assert sizes == [(16, 8, 12), (32, 4, 6), (48, 2, 3)]
    assert all(a[1] == 2 * b[1] for a, b in pairwise(sizes))
