"""The literature's U-Net: equal to diffusers' by renaming alone, and its own parts equal to their formulas."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from inkwash.exchange.unet_names import UNetLayout, diffusers_config, diffusers_layout, from_diffusers, to_diffusers
from inkwash.kinds import from_table, to_table
from inkwash.nets import AnyNet, ClassicUNet, UNet
from inkwash.nets.attention import CrossAttention, LinearAttention, SplitAttention, Words, heads_of
from inkwash.nets.blocks import ConvNextBlock, Grow, ResNetBlock, Shrink
from inkwash.nets.layers import attention, linear_attention
from inkwash.types import Condition, Given
from test_nets import awake, draw, times

SMALL = ClassicUNet(widths=(16, 32), depth=1, attention=(1,), head_dim=16, groups=8)
ANNOTATED = ClassicUNet("annotated", widths=(16, 32), depth=1, head_dim=16)
SCALED = ClassicUNet("wide64", widths=(16, 32, 32), depth=2, attention=(0, 2), head_dim=8, groups=4, scale_shift=True)


def numbers(*shape: int, seed: int = 1) -> Tensor:
    return draw(*shape, seed=seed, dtype=torch.float32)


def normed(x: Tensor, norm: nn.GroupNorm) -> Tensor:
    parts = x.unflatten(1, (norm.num_groups, -1))
    mean = parts.mean(dim=(2, 3, 4), keepdim=True)
    var = (parts - mean).square().mean(dim=(2, 3, 4), keepdim=True)
    y = ((parts - mean) / (var + norm.eps).sqrt()).flatten(1, 2)
    return y * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1)


# --------------------------------------------------------------------------------------------------- diffusers' net

CONFIGS: dict[str, dict[str, object]] = {
    "ddpm": {"attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1},
    "defaults": {"attention_head_dim": 8, "num_class_embeds": 4},
    "scaled": {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 4, "layers_per_block": 1},
    "plain": {"add_attention": False, "out_channels": 6, "norm_eps": 1e-2},
}


def peer(**settings: object) -> nn.Module:
    """diffusers' own model, small, and with every weight random."""
    diffusers = pytest.importorskip("diffusers")
    attended = settings.get("add_attention", True)
    common = {
        "sample_size": 32,
        "block_out_channels": (16, 32, 24),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D" if attended else "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D" if attended else "UpBlock2D", "UpBlock2D"),
    }
    net = diffusers.UNet2DModel(**common | settings)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * (0.5 if p.ndim < 2 else p[0].numel() ** -0.5))
    return net.eval()


def asked(theirs: nn.Module, x: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
    with torch.no_grad():
        return theirs(x, t, class_labels=label).sample


@pytest.mark.parametrize("name", CONFIGS)
def test_a_net_of_diffusers_is_ours_by_renaming_alone_in_both_directions(name: str) -> None:
    theirs = peer(**CONFIGS[name])
    net, shape, given, outputs = layout = diffusers_layout(theirs.config)
    ours = net.build(shape, given, outputs).eval()
    ours.load_state_dict(from_diffusers(theirs.state_dict()))
    x, t = numbers(3, 3, 32, 32), torch.tensor([0.0, 17.5, 999.0])
    label = torch.tensor([0, 3, 1]) if given.classes else None
    want = asked(theirs, x, t, label)
    with torch.no_grad():
        got = ours(x, t, t, Condition(label))
    assert want.std() > 0.1
    assert (got - want).abs().max() < 1e-5 * max(1.0, want.abs().max().item())

    again = type(theirs)(**diffusers_config(layout)).eval()  # with one label more, the null label
    again.load_state_dict(to_diffusers(ours.state_dict()))
    assert torch.equal(asked(again, x, t, label), want)
    if given.classes:
        null = asked(again, x, t, torch.full((3,), given.classes))
        with torch.no_grad():
            got = ours(x, t, t, Condition(torch.full((3,), -1)))
        assert (got - null).abs().max() < 1e-5 * max(1.0, null.abs().max().item())
        assert (null - want).abs().max() > 0.01
    back = from_diffusers(to_diffusers(ours.state_dict()), null=True)
    assert back.keys() == ours.state_dict().keys()
    assert all(torch.equal(back[k], w) for k, w in ours.state_dict().items())
    assert diffusers_layout(again.config, null=bool(given.classes)) == layout


def test_ddpm_cifar_has_exactly_the_weights_of_the_published_net() -> None:
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        ours = ClassicUNet("ddpm-cifar").build((3, 32, 32))
        config = diffusers_config(UNetLayout(ClassicUNet("ddpm-cifar"), (3, 32, 32), Given(), 1))
        theirs = diffusers.UNet2DModel(**config)
    published = {  # google/ddpm-cifar10-32, config.json
        "attention_head_dim": None,
        "block_out_channels": (128, 256, 256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "layers_per_block": 2,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "sample_size": 32,
    }
    assert {k: config[k] for k in published} == published
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters()) == 35_746_307
    named = to_diffusers(ours.state_dict())
    assert {k: w.shape for k, w in named.items()} == {k: w.shape for k, w in theirs.state_dict().items()}


def test_files_with_the_old_names_of_attention_are_read() -> None:
    state = to_diffusers(SMALL.build((3, 8, 8)).state_dict())
    old = {
        n.replace("to_q", "query").replace("to_k", "key").replace("to_v", "value").replace("to_out.0", "proj_attn"): w
        for n, w in state.items()
    }
    assert old.keys() != state.keys()
    assert from_diffusers(old).keys() == SMALL.build((3, 8, 8)).state_dict().keys()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("center_input_sample", True),
        ("time_embedding_type", "fourier"),
        ("time_embedding_dim", 100),
        ("mid_block_type", None),
        ("mid_block_scale_factor", 2),
        ("downsample_type", "resnet"),
        ("upsample_type", "resnet"),
        ("downsample_padding", 2),
        ("act_fn", "gelu"),
        ("class_embed_type", "timestep"),
        ("resnet_time_scale_shift", "spatial"),
        ("attn_norm_num_groups", 16),
        ("attention_head_dim", 100),
        ("down_block_types", ["SkipDownBlock2D"] * 4),
        ("up_block_types", ["UpBlock2D"] * 4),
        ("out_channels", 4),
    ],
)
def test_settings_that_have_no_place_here_are_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"^This model gives 4" if setting == "out_channels" else f"^{setting} is"):
        diffusers_layout({setting: value})


@pytest.mark.parametrize(
    ("net", "given", "word"),
    [
        (SMALL, Given(tokens=4), "text"),
        (SMALL, Given(jumps=True), "jumps"),
        (ANNOTATED, Given(), "linear attention"),
    ],
)
def test_nets_that_diffusers_does_not_have_are_refused(net: ClassicUNet, given: Given, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        diffusers_config(UNetLayout(net, (1, 8, 8), given, 1))
    with pytest.raises(ValueError, match="has no place in diffusers"):
        to_diffusers(net.build((1, 8, 8), given).state_dict())
    with pytest.raises(ValueError, match=r"^down_blocks\.0\.oops has no place in a ClassicUNet"):
        from_diffusers({"down_blocks.0.oops": torch.zeros(1)})


# ------------------------------------------------------------------------------------------------------- the blocks


@pytest.mark.parametrize("scale_shift", [False, True])
@pytest.mark.parametrize("kind", [ResNetBlock, ConvNextBlock])
def test_blocks_are_their_formulas(kind: type[ResNetBlock | ConvNextBlock], scale_shift: bool) -> None:
    block = awake(kind(8, 12, 6, 4, 1e-3, 0.0, scale_shift=scale_shift)).double()
    x, emb = draw(2, 8, 5, 7), draw(2, 6, seed=2)
    told = (emb @ block.told.layer.weight.T + block.told.layer.bias)[:, :, None, None]

    def conv(h: Tensor, layer: nn.Conv2d) -> Tensor:
        return F.conv2d(h, layer.weight, layer.bias, padding=layer.weight.shape[2] // 2, groups=layer.groups)

    def time(h: Tensor, norm: nn.GroupNorm) -> Tensor:
        n = h.shape[1]
        return normed(h, norm) * (1 + told[:, :n]) + told[:, n:] if scale_shift else normed(h + told, norm)

    if isinstance(block, ResNetBlock):
        h = normed(x, block.norm1)
        h = time(conv(h / (1 + (-h).exp()), block.conv1), block.norm2)
        h = conv(h / (1 + (-h).exp()), block.conv2)
    else:
        assert block.depthwise.weight.shape == (8, 1, 7, 7)
        h = conv(time(conv(x, block.depthwise), block.norm1), block.conv1)
        assert h.shape[1] == 24
        h = conv(normed(h * 0.5 * (1 + torch.erf(h / math.sqrt(2))), block.norm2), block.conv2)
    assert torch.allclose(block(x, emb), conv(x, block.short) + h, rtol=0, atol=1e-10)
    same = kind(8, 8, 6, 4, 1e-3, 0.0, scale_shift=scale_shift).double()
    assert torch.equal(same(x, emb), x)  # nothing in the way, and a last convolution of zeros


@pytest.mark.parametrize("side", [4, 16])  # by doubling and convolving, and by one transposed convolution
def test_growing_is_doubling_and_convolving(side: int) -> None:
    layer = Grow(3).double()
    x = draw(2, 3, side, side + 2).requires_grad_()
    doubled = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    want = F.conv2d(doubled, layer.conv.weight, layer.conv.bias, padding=1)
    got = layer(x)
    assert torch.allclose(got, want, rtol=0, atol=1e-12)
    weights = draw(*want.shape, seed=5)
    inputs = (x, layer.conv.weight, layer.conv.bias)
    ours, theirs = (torch.autograd.grad((y * weights).sum(), inputs) for y in (got, want))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-10)


def test_growing_costs_less_than_half_where_it_is_one_convolution() -> None:
    def flops(side: int) -> float:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            Grow(8)(torch.zeros(1, 8, side, side))
        return counter.get_total_flops() / side**2

    assert flops(16) / flops(8) == pytest.approx(16 / 36)


@pytest.mark.parametrize("padding", [0, 1])
def test_shrinking_is_a_strided_convolution_with_its_zeros_where_they_are_said_to_be(padding: int) -> None:
    layer, x = Shrink(2, padding).double(), draw(1, 2, 6, 8)
    framed = torch.zeros(1, 2, 8, 10, dtype=torch.float64)
    framed[:, :, 1:7, 1:9] = x
    if not padding:
        framed = framed[:, :, 1:, 1:]
    y = layer(x)
    assert y.shape == (1, 2, 3, 4)
    for i in range(3):
        for j in range(4):
            square = framed[0, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            want = (layer.conv.weight * square).sum(dim=(1, 2, 3)) + layer.conv.bias
            assert torch.allclose(y[0, :, i, j], want, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------- attention


def test_linear_attention_is_its_closed_form_and_another_function_than_attention() -> None:
    q, k, v = (draw(2, 3, 7, 4, seed=s) for s in (1, 2, 3))
    want = torch.zeros_like(v)
    for b in range(2):
        for h in range(3):
            over_tokens = k[b, h].exp() / k[b, h].exp().sum(0)  # each feature is a distribution over tokens
            for n in range(7):
                over_features = q[b, h, n].exp() / q[b, h, n].exp().sum()
                for d in range(4):
                    mixture = sum(over_tokens[m, d] * v[b, h, m] for m in range(7))
                    want[b, h, n] += over_features[d] / 2 * mixture
    assert torch.allclose(linear_attention(q, k, v), want, rtol=0, atol=1e-12)
    assert (attention(q, k, v) / 2 - want).abs().max() > 0.05


def test_linear_attention_grows_with_the_tokens_and_not_with_their_square() -> None:
    def flops(f, tokens: int) -> int:
        q = torch.zeros(1, 2, tokens, 8, dtype=torch.bfloat16)
        with FlopCounterMode(display=False) as counter:
            f(q, q, q)
        return counter.get_total_flops()

    assert flops(linear_attention, 32) == 2 * flops(linear_attention, 16) == 2 * (2 * 2 * 2 * 16 * 8 * 8)
    assert flops(attention, 32) == 4 * flops(attention, 16)


def test_split_attention_is_its_formula_position_by_position() -> None:
    layer = awake(SplitAttention(8, 4, nn.GroupNorm(2, 8))).double()
    x = draw(2, 8, 3, 2)
    tokens = normed(x, layer.norm).flatten(2).mT
    q, k, v = (torch.stack((tokens @ f.weight.T + f.bias).split(4, dim=2), dim=1) for f in (layer.q, layer.k, layer.v))
    h = torch.cat(attention(q, k, v).unbind(1), dim=2)
    want = x + (h @ layer.out.weight.T + layer.out.bias).mT.reshape(2, 8, 3, 2)
    assert torch.allclose(layer(x), want, rtol=0, atol=1e-12)
    assert [heads_of(48, d) for d in (0, 16, 20, 64)] == [1, 3, 2, 1]


def test_a_layer_of_linear_attention_has_4_heads_of_32_and_a_norm_after_them() -> None:
    new = LinearAttention(8, nn.GroupNorm(2, 8), nn.GroupNorm(4, 8))
    x = draw(2, 8, 3, 2)
    assert torch.equal(new.double()(x), x)
    layer = awake(new).double()
    tokens = normed(x, layer.norm).flatten(2).mT
    q, k, v = (torch.stack((tokens @ w.T).split(32, dim=2), dim=1) for w in layer.qkv.weight.split(128))
    assert q.shape == (2, 4, 6, 32)
    h = torch.cat(linear_attention(q, k, v).unbind(1), dim=2) @ layer.out.weight.T + layer.out.bias
    want = x + normed(h.mT.reshape(2, 8, 3, 2), layer.last)
    assert torch.allclose(layer(x), want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])  # through either kernel
def test_hidden_tokens_weigh_exactly_nothing(dtype: torch.dtype) -> None:
    q, k, v = (draw(2, 2, 6, 8, seed=s).to(dtype) for s in (1, 2, 3))
    seen = torch.tensor([[True, False, True, True, False, True], [True, True, True, False, False, False]])
    got = attention(q, k, v, seen[:, None, None])
    for b in range(2):
        want = attention(q[b : b + 1].double(), *(z[b : b + 1, :, seen[b]].double() for z in (k, v)))
        assert (got[b].double() - want[0]).norm() < (1e-6 if dtype == torch.float32 else 0.01) * want.norm()
    other = v.masked_fill(~seen[:, None, :, None], 1e6)
    assert torch.equal(attention(q, k, other, seen[:, None, None]), got)


@pytest.mark.parametrize(("tokens", "d", "learning"), [(64, 8, True), (20, 8, False), (40, 8, False), (20, 8, True)])
def test_attention_in_bf16_is_that_in_float32(tokens: int, d: int, learning: bool) -> None:
    exact = [draw(2, 2, tokens, d, seed=s, dtype=torch.float32).requires_grad_(learning) for s in (1, 2, 3)]
    half = [z.detach().bfloat16().requires_grad_(learning) for z in exact]
    want, got = attention(*exact), attention(*half)
    assert (got.float() - want).norm() < 0.01 * want.norm()
    if learning:
        for a, b in zip(torch.autograd.grad(want.sum(), exact), torch.autograd.grad(got.sum(), half), strict=True):
            assert (a - b.float()).norm() < 0.03 * a.norm() + 0.03


# ----------------------------------------------------------------------------------------------------- text and jumps

READERS = [SMALL, ANNOTATED, SCALED, UNet("tiny"), UNet("tiny", attention=(0,)), UNet("tiny", attention=(0, 1))]


def text(present: list[list[bool]], seed: int = 3) -> Condition:
    seen = torch.tensor(present)
    return Condition(None, draw(*seen.shape, 6, seed=seed), seen)


@pytest.mark.parametrize("net", READERS)
def test_a_text_is_read_where_it_is_present_and_nowhere_else(net: ClassicUNet | UNet) -> None:
    module = awake(net.build((1, 8, 8), Given(tokens=6))).double()
    x, t = draw(3, 1, 8, 8), times(3)
    cond = text([[True, True, False], [False, True, False], [False, False, False]])
    with torch.no_grad():
        y = module(x, t, t, cond)
        assert cond.tokens is not None
        assert cond.present is not None
        for b, n in ((0, 0), (0, 1), (1, 1)):
            other = cond.tokens.clone()
            other[b, n] += 1
            changed = (module(x, t, t, Condition(None, other, cond.present)) - y).flatten(1).abs().amax(dim=1)
            assert changed[b] > 1e-6
            assert not changed[torch.arange(3) != b].any()
        garbage = cond.tokens.masked_fill(~cond.present[:, :, None], torch.nan)
        assert torch.equal(module(x, t, t, Condition(None, garbage, cond.present)), y)
        null = module(x, t, t, cond.null())
        assert torch.equal(null[2], y[2])
        assert (null[:2] - y[:2]).abs().amax() > 1e-6
        none = module(x, t, t, Condition(None, torch.zeros(3, 0, 6), torch.zeros(3, 0, dtype=torch.bool)))
        assert torch.allclose(none, null, rtol=0, atol=1e-10)
        module.text.null.add_(0.5)
        assert (module(x, t, t, cond)[2] - y[2]).abs().amax() > 1e-6  # the null text is learned


@pytest.mark.parametrize("net", READERS)
def test_untrained_text_and_jumps_leave_the_net_as_it_is(net: ClassicUNet | UNet) -> None:
    plain = awake(net.build((1, 8, 8)))
    told = net.build((1, 8, 8), Given(tokens=6, jumps=True))
    missing, extra = told.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert not extra
    x, t = numbers(2, 1, 8, 8), times(2, torch.float32)
    y = told(x, t, t / 3, text([[True, True], [False, True]]))
    assert torch.allclose(y, plain(x, t, t, Condition()), rtol=0, atol=1e-6)
    awake(told)
    cond = text([[True, True], [False, True]])
    assert (told(x, t, t / 3, cond) - told(x, t, t / 2, cond)).abs().amax() > 1e-6


def test_cross_attention_is_its_formula() -> None:
    layer = awake(CrossAttention(8, 4, 6, nn.GroupNorm(2, 8))).double()
    x, tokens = draw(2, 8, 3, 2), draw(2, 5, 6, seed=2)
    seen = torch.tensor([[True, True, False, True, False], [True, False, False, False, False]])
    null = draw(6, seed=4)
    at = normed(x, layer.norm).flatten(2).mT
    q = at @ layer.q.weight.T + layer.q.bias
    text = torch.cat([null.expand(2, 1, 6), tokens], dim=1)
    k, v = (text @ layer.kv.weight.T + layer.kv.bias).split(8, dim=2)
    seen = torch.cat([torch.ones(2, 1, dtype=torch.bool), seen], dim=1)
    h = torch.zeros_like(q)
    for b in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            scores = (q[b, :, head] @ k[b, seen[b], head].T / 2).exp()
            h[b, :, head] = scores / scores.sum(1, keepdim=True) @ v[b, seen[b], head]
    want = x + (h @ layer.out.weight.T + layer.out.bias).mT.reshape(2, 8, 3, 2)
    assert torch.allclose(layer(x, Words(null, tokens, seen[:, None, None])), want, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------------------------- the whole net


@pytest.mark.parametrize("net", [SMALL, ANNOTATED, SCALED])
def test_a_new_net_answers_exactly_zero_and_an_awake_one_uses_every_weight(net: ClassicUNet) -> None:
    module = net.build((3, 16, 8), Given(5, 6, jumps=True), outputs=2)
    x, t, cond = numbers(2, 3, 16, 8), times(2, torch.float32), text([[True, False], [False, False]])
    cond = Condition(torch.tensor([-1, 4]), cond.tokens, cond.present)
    y = module(x, t, t / 2, cond)
    assert y.shape == (2, 6, 16, 8)
    assert not y.any()
    awake(module)(x, t, t / 2, cond).square().mean().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("net", [SMALL, ANNOTATED, SCALED])
def test_rows_of_a_batch_do_not_see_each_other(net: ClassicUNet) -> None:
    module = awake(net.build((1, 8, 8))).double()
    x, t = draw(3, 1, 8, 8), times(3)
    y = module(x, t, t, Condition())
    for b in range(3):
        assert torch.allclose(module(x[b : b + 1], t[b : b + 1], t[b : b + 1], Condition()), y[b : b + 1], atol=1e-12)
    assert (module(x, t + 1, t, Condition()) - y).abs().amax(dim=(1, 2, 3)).min() > 1e-9


def test_annotated_has_what_it_is_said_to_have() -> None:
    module = ClassicUNet("annotated").build((1, 28, 28))
    linear = [m for m in module.modules() if isinstance(m, LinearAttention)]
    full = [m for m in module.modules() if isinstance(m, SplitAttention)]
    assert len(linear) == 6  # each of three levels, down and up
    assert len(full) == 1
    assert (full[0].heads, full[0].q.out_features) == (4, 4 * 32)
    assert module.middle[0].attention is full[0]
    assert all(isinstance(step.block, ConvNextBlock) for level in module.down for step in level)
    waves = module.embed._waves(torch.tensor([2.0], dtype=torch.float64))
    i = torch.arange(16)
    want = torch.cat([(2 * 1e4 ** (-i / 15)).sin(), (2 * 1e4 ** (-i / 15)).cos()])
    assert torch.allclose(waves[0], want.to(waves), atol=1e-6)
    e = module.embed.time_out(F.gelu(module.embed.time_in(waves.float())))
    t = torch.tensor([2.0])
    assert torch.allclose(module.embed(t, t, Condition()), F.gelu(e), atol=1e-6)


@pytest.mark.parametrize("net", [SMALL, ANNOTATED])
def test_every_convolution_sees_the_layout_that_was_chosen(net: ClassicUNet) -> None:
    module = net.build((1, 16, 16))
    last = module.layout == torch.channels_last
    assert last == (net is ANNOTATED)
    seen: list[bool] = []

    def look(module: nn.Module, args: tuple[Tensor]) -> None:
        seen.append(args[0].is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format))

    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            conv.register_forward_pre_hook(look)
    module(numbers(2, 1, 16, 16), times(2), times(2), Condition())
    assert len(seen) > 10
    assert all(seen)


@pytest.mark.parametrize(
    ("preset", "shape", "millions"),
    [("ddpm-cifar", (3, 32, 32), "35.7M"), ("annotated", (1, 28, 28), "7.0M"), ("wide64", (3, 64, 64), "231.4M")],
)
def test_presets_have_the_parameters_their_documentation_states(preset, shape, millions: str) -> None:
    with torch.device("meta"):
        module = ClassicUNet(preset).build(shape)
    assert f"{sum(p.numel() for p in module.parameters()) / 1e6:.1f}M" == millions
    doc = " ".join((ClassicUNet.__doc__ or "").split())
    assert millions in doc.partition(f"{preset}, ")[2].partition(";")[0]


def test_resolve_states_everything_and_a_recipe_tells_the_nets_apart() -> None:
    for net in (SMALL, ANNOTATED, SCALED, ClassicUNet("annotated", block="resnet", groups=8)):
        full = net.resolve((1, 16, 16))
        assert None not in vars(full).values()
        assert full.resolve((1, 8, 8)) == full
        shapes = [{k: w.shape for k, w in n.build((1, 8, 8)).state_dict().items()} for n in (net, full)]
        assert shapes[0] == shapes[1]
        for n in (net, full):
            assert from_table(AnyNet, to_table(n)) == n


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassicUNet("huge"), ["'huge'", "ddpm-cifar, annotated, wide64"]),
        (lambda: ClassicUNet(block="dense"), ["'dense'", "resnet, convnext"]),
        (lambda: ClassicUNet(activation="relu"), ["'relu'", "silu, gelu"]),
        (lambda: ClassicUNet(widths=()), ["widths is ()"]),
        (lambda: ClassicUNet(depth=0), ["depth is 0", "1 or more"]),
        (lambda: ClassicUNet(head_dim=-1), ["head_dim is -1", "0 or more"]),
        (lambda: ClassicUNet(groups=24), ["groups is 24", "width 128"]),
        (lambda: ClassicUNet(widths=(15, 30), groups=5), ["begin with 15", "even"]),
        (lambda: ClassicUNet(widths=(2, 4), groups=1), ["begin with 2", "freq_shift = 1.0"]),
        (lambda: ClassicUNet(attention=(4,)), ["attention names level 4", "0 to 3"]),
        (lambda: ClassicUNet(linear=(-1,)), ["linear names level -1"]),
        (lambda: ClassicUNet(eps=0.0), ["eps is 0.0"]),
        (lambda: ClassicUNet(dropout=1.0), ["dropout is 1.0", "[0, 1)"]),
        (lambda: ClassicUNet(shrink_padding=2), ["shrink_padding is 2", "0 or 1"]),
        (lambda: ClassicUNet().build((3, 30, 32)), ["30x32", "multiples of 8", "24x32", "32x32"]),
        (lambda: ClassicUNet().build((3, 4, 32)), ["4x32", "8x32"]),
        (lambda: ClassicUNet().build((2,)), ["(2,)", "MLP"]),
        (lambda: SMALL.build((1, 8, 8))(torch.zeros(1, 3, 8, 8), *[times(1)] * 2, Condition()), ["[B, 1, H, W]"]),
        (lambda: SMALL.build((1, 8, 8))(torch.zeros(1, 1, 8, 8), *[times(1)] * 2, text([[True]])), ["without text"]),
        (lambda: UNet("tiny").build((1, 8, 8))(torch.zeros(1, 1, 8, 8), *[times(1)] * 2, text([[True]])), ["without"]),
        (
            lambda: SMALL.build((1, 8, 8), Given(tokens=5))(torch.zeros(1, 1, 8, 8), *[times(1)] * 2, text([[True]])),
            ["width 5", "[1, 1, 6]"],
        ),
        (
            lambda: SMALL.build((1, 8, 8), Given(tokens=5))(torch.zeros(1, 1, 8, 8), *[times(1)] * 2, Condition()),
            ["width 5", "none", "null text"],
        ),
    ],
)
def test_mistakes_name_the_value_and_the_fix(make, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value
