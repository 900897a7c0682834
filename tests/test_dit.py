"""The transformers: each piece against its formula, and the whole against a restatement that shares no code with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from inkwash.exchange.dit_names import (
    Layout,
    diffusers_config,
    diffusers_layout,
    from_diffusers,
    from_official,
    official_layout,
    to_diffusers,
    to_official,
)
from inkwash.kinds import from_table, to_table
from inkwash.nets import AnyNet, DiT, ModernDiT
from inkwash.nets.transformer import Attention, Block, GeluMlp, SwiGlu, patches, picture, rotary, rotate, sincos
from inkwash.types import Condition, Given

SMALL = DiT(depth=2, width=16, heads=2)
MODERN = ModernDiT(patch=2, depth=2, width=16, heads=2, registers=3)
BOTH = pytest.mark.parametrize("net", [SMALL, MODERN], ids=["dit", "modern"])
SIX = ("shift1", "scale1", "gate1", "shift2", "scale2", "gate2")


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def awake(net: nn.Module, size: float = 0.3) -> Any:
    """The net in float64 with a number in every place, norms' scales too, so that everything in it matters."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in net.double().parameters():
            p.copy_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype) + (p.ndim == 1) * (p == 1))
    return net


def times(B: int) -> Tensor:
    return torch.linspace(3, 990, B, dtype=torch.float64)


def close(a: Tensor, b: Tensor, atol: float = 1e-11) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=atol)


def ln(x: Tensor, eps: float = 1e-6) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def rms(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


# ---------------------------------------------------------------------------------------------------- the pieces


def test_patches_are_squares_row_by_row_and_pictures_are_put_together_of_them() -> None:
    x = draw(2, 3, 4, 6)
    tokens = patches(x, 2)
    assert tokens.shape == (2, 6, 12)
    for token in range(6):
        i, j = 2 * (token // 3), 2 * (token % 3)
        assert torch.equal(tokens[:, token].reshape(2, 3, 2, 2), x[:, :, i : i + 2, j : j + 2])
    out_order = tokens.reshape(2, 6, 3, 4).transpose(2, 3).flatten(2)  # the channel counts fastest on the way out
    assert torch.equal(picture(out_order, 2, 2), x)


def test_the_table_of_positions_is_its_closed_form() -> None:
    table = sincos(3, 5, 16, draw(1))
    for row in range(3):
        for col in range(5):
            for i in range(4):
                w = 10_000 ** (-i / 4)
                got = table[row * 5 + col, i::4].tolist()
                want = [math.sin(col * w), math.cos(col * w), math.sin(row * w), math.cos(row * w)]
                assert got == pytest.approx(want, abs=1e-12)


def test_rotary_turns_pairs_by_row_and_column() -> None:
    x = draw(15 + 2, 16)
    y = rotate(x, rotary(3, 5, 16, x, front=2))
    assert torch.equal(y[:2], x[:2])
    for row in range(3):
        for col in range(5):
            token = 2 + row * 5 + col
            for j in range(8):
                angle = (row if j < 4 else col) * 100 ** (-(j % 4) / 4)
                a, b = x[token, j].item(), x[token, j + 8].item()
                assert y[token, j].item() == pytest.approx(a * math.cos(angle) - b * math.sin(angle), abs=1e-12)
                assert y[token, j + 8].item() == pytest.approx(a * math.sin(angle) + b * math.cos(angle), abs=1e-12)


def test_what_is_turned_in_bf16_is_rounded_once() -> None:
    x = draw(16 * 16, 32).bfloat16()
    got = rotate(x, rotary(16, 16, 32, x))
    want = rotate(x.double(), rotary(16, 16, 32, x.double()))
    assert got.dtype == torch.bfloat16
    assert ((got.double() - want).abs() <= 2**-8 * want.abs() + 1e-5).all()


def test_turned_scores_depend_on_the_offset_alone() -> None:
    """One query and one key put everywhere: all pairs of patches that lie alike to one another score alike."""
    q, k = draw(16, seed=2).expand(20, -1), draw(16, seed=3).expand(20, -1)
    turn = rotary(4, 5, 16, q)
    scores = (rotate(q, turn) @ rotate(k, turn).T).view(4, 5, 4, 5)
    found: dict[tuple[int, int], float] = {}
    for r1, c1, r2, c2 in torch.cartesian_prod(*map(torch.arange, (4, 5, 4, 5))).tolist():
        score = scores[r1, c1, r2, c2].item()
        assert found.setdefault((r2 - r1, c2 - c1), score) == pytest.approx(score, abs=1e-12)
    assert found[0, 0] == pytest.approx((q[0] @ k[0]).item(), abs=1e-12)
    assert len({round(score, 9) for score in found.values()}) == 7 * 9  # each offset has a score of its own


@pytest.mark.parametrize("normed", [False, True])
def test_attention_is_its_formula(normed: bool) -> None:
    layer = awake(Attention(16, 2, normed=normed))
    x, turn = draw(3, 6, 16), rotary(2, 3, 8, draw(1))
    mask = torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    mask |= torch.eye(6, dtype=torch.bool)
    qkv = x @ layer.qkv.weight.T + layer.qkv.bias
    heads = []
    for h in range(2):
        q, k, v = (qkv[..., 16 * i + 8 * h : 16 * i + 8 * h + 8] for i in range(3))
        if normed:
            q, k = rms(q) * layer.q_scale, rms(k) * layer.k_scale
        q, k = rotate(q, turn), rotate(k, turn)
        weights = (torch.einsum("bid,bjd->bij", q, k) / math.sqrt(8)).exp() * mask[:, 0]
        heads.append(torch.einsum("bij,bjd->bid", weights / weights.sum(2, keepdim=True), v))
    want = torch.cat(heads, 2) @ layer.out.weight.T + layer.out.bias
    assert close(layer(x, turn, mask), want)


def test_normed_scores_are_bounded_and_blind_to_the_size_of_queries_and_keys() -> None:
    layer = awake(Attention(16, 2, bias=False, normed=True))
    x = draw(2, 5, 16)
    before = layer(x)
    with torch.no_grad():
        layer.qkv.weight[:32] *= 1e4  # queries and keys, not values
    assert close(layer(x), before, 1e-4)  # but for the norm's 1e-6
    plain = awake(Attention(16, 2, bias=False))
    before = plain(x)
    with torch.no_grad():
        plain.qkv.weight[:32] *= 2
    assert not close(plain(x), before, 1e-2)
    # With scales of 1 no score exceeds sqrt(d), so that no token's weight is more than e^(2 sqrt d) of another's.
    with torch.no_grad():
        layer.q_scale.fill_(1), layer.k_scale.fill_(1)
        layer.out.weight.copy_(torch.eye(16))
        layer.qkv.weight[:16], layer.qkv.weight[32:] = layer.qkv.weight[16:32].clone(), 0
        layer.qkv.weight[32] = 1.0
    values = torch.zeros(1, 2, 16, dtype=torch.float64)
    values[0, 0], values[0, 1] = draw(16, seed=5), 0
    values[0, 1] = -values[0, 0]  # the other key points exactly away: the most that scores can differ
    got = layer(values)[0, 0, 0] / values[0, 0].sum()
    weight = 1 / (1 + math.exp(-2 * math.sqrt(8)))
    assert got.item() == pytest.approx(2 * weight - 1, abs=1e-5)


def test_the_perceptrons_are_their_formulas() -> None:
    mlp, glu, x = awake(GeluMlp(16)), awake(SwiGlu(24)), draw(2, 5, 24)
    want = gelu(x[..., :16] @ mlp.into.weight.T + mlp.into.bias) @ mlp.back.weight.T + mlp.back.bias
    assert close(mlp(x[..., :16]), want)
    w1, w2 = glu.into.weight[:64], glu.into.weight[64:]
    assert close(glu(x), (silu(x @ w1.T) * (x @ w2.T)) @ glu.back.weight.T)
    assert mlp.into.weight.shape == (64, 16)
    assert [SwiGlu(w).back.in_features for w in (256, 384, 768, 1152)] == [704, 1024, 2048, 3072]


def test_a_block_is_its_formula_and_the_identity_at_modulation_0() -> None:
    block = awake(Block(Attention(16, 2), nn.LayerNorm(16, 1e-6, False), GeluMlp(16), nn.LayerNorm(16, 0.1, False)))
    x, m = draw(3, 5, 16), draw(3, 96, seed=2)
    told = {name: m[:, None, 16 * i : 16 * i + 16] for i, name in enumerate(SIX)}
    h = x + told["gate1"] * block.attention(ln(x) * (1 + told["scale1"]) + told["shift1"])
    want = h + told["gate2"] * block.mlp(ln(h, 0.1) * (1 + told["scale2"]) + told["shift2"])
    assert close(block(x, m, None, None), want)
    assert torch.equal(block(x, torch.zeros_like(m), None, None), x)


# --------------------------------------------------------------------------------- the whole, against restatements


def embedded(w: dict[str, Tensor], t: Tensor, label: Tensor, shift: float, names: tuple[str, str, str]) -> Tensor:
    angles = t[:, None] * torch.tensor([10_000 ** (-i / (128 - shift)) for i in range(128)], dtype=torch.float64)
    e = torch.cat([angles.cos(), angles.sin()], 1)
    first, second, table = names
    e = silu(e @ w[f"{first}.weight"].T + w[f"{first}.bias"]) @ w[f"{second}.weight"].T + w[f"{second}.bias"]
    return silu(e + w[f"{table}.weight"][label])


def official(w: dict[str, Tensor], x: Tensor, t: Tensor, label: Tensor, heads: int, patch: int) -> Tensor:
    """DiT of the paper, written down from it with the names of its checkpoints."""

    def linear(name: str, y: Tensor) -> Tensor:
        return y @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    B, _, H, W = x.shape
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch)
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    e = embedded(w, t, label, 0, ("t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.embedding_table"))
    for i in range(2):
        m = dict(zip(SIX, linear(f"blocks.{i}.adaLN_modulation.1", e)[:, None].chunk(6, 2), strict=True))
        y = linear(f"blocks.{i}.attn.qkv", ln(h) * (1 + m["scale1"]) + m["shift1"])
        q, k, v = y.reshape(B, -1, 3, heads, h.shape[2] // heads).unbind(2)
        scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(h.shape[2] // heads)
        y = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v).flatten(2)
        h = h + m["gate1"] * linear(f"blocks.{i}.attn.proj", y)
        y = gelu(linear(f"blocks.{i}.mlp.fc1", ln(h) * (1 + m["scale2"]) + m["shift2"]))
        h = h + m["gate2"] * linear(f"blocks.{i}.mlp.fc2", y)
    shift, scale = linear("final_layer.adaLN_modulation.1", e)[:, None].chunk(2, 2)
    y = linear("final_layer.linear", ln(h) * (1 + scale) + shift)
    out = torch.empty(B, y.shape[2] // patch**2, H, W, dtype=x.dtype)
    for token in range(y.shape[1]):
        i, j = patch * (token // (W // patch)), patch * (token % (W // patch))
        square = y[:, token].reshape(B, patch, patch, -1)  # rows, columns, channels
        out[:, :, i : i + patch, j : j + patch] = square.permute(0, 3, 1, 2)
    return out


def positions(rows: int, cols: int, width: int) -> Tensor:
    table = torch.empty(1, rows * cols, width, dtype=torch.float64)
    for token in range(rows * cols):
        for i in range(width // 4):
            f = 10_000 ** (-4 * i / width)
            row, col = f * (token // cols), f * (token % cols)
            quarters = [math.sin(col), math.cos(col), math.sin(row), math.cos(row)]
            table[0, token, i :: width // 4] = torch.tensor(quarters, dtype=torch.float64)
    return table


def official_weights(width: int = 16, channels: int = 3, patch: int = 2, classes: int = 5) -> dict[str, Tensor]:
    """Random ones in the official layout, 2 blocks, for pictures of 8x8, a learned variance."""
    linears = {
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (patch**2 * 2 * channels, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for i in range(2):
        linears |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (4 * width, width),
            f"blocks.{i}.mlp.fc2": (width, 4 * width),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }
    linears |= {"x_embedder.proj": (width, channels, patch, patch)}
    w = {}
    for seed, (name, shape) in enumerate(linears.items()):
        w |= {f"{name}.weight": 0.2 * draw(*shape, seed=seed), f"{name}.bias": draw(shape[0], seed=99 + seed)}
    w["pos_embed"] = positions(8 // patch, 8 // patch, width)
    return w | {"y_embedder.embedding_table.weight": draw(classes + 1, width, seed=98)}


def test_the_official_layout_is_the_paper_with_its_null_label_last() -> None:
    theirs, x, t = official_weights(), draw(4, 3, 8, 8), times(4)
    layout = official_layout(theirs, heads=2)
    assert layout == Layout(DiT(depth=2, width=16, heads=2, freq_shift=0.0), (3, 8, 8), Given(classes=5), 2)
    net = layout.net.build(*layout[1:]).double()
    net.load_state_dict(from_official(theirs))
    label = torch.tensor([0, 3, 4, -1])
    got = net(x, t, t, Condition(label))
    assert close(got, official(theirs, x, t, torch.tensor([0, 3, 4, 5]), 2, 2))
    assert not close(got[:, :3], got[:, 3:], 0.1)
    wide, there = draw(4, 3, 6, 10), theirs | {"pos_embed": positions(3, 5, 16)}
    assert close(net(wide, t, t, Condition(label)), official(there, wide, t, label % 6, 2, 2))
    back = to_official(net.state_dict(), (3, 8, 8), 2)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[k], v) for k, v in theirs.items() if k != "pos_embed")
    assert close(back["pos_embed"], theirs["pos_embed"])


def modern(w: dict[str, Tensor], x: Tensor, t: Tensor, label: Tensor) -> Tensor:
    """ModernDiT written down once more: patches of 2, 2 blocks, 2 heads of 8, 3 registers."""
    B, _, H, W = x.shape
    h = F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2) @ w["door.weight"].T
    h = torch.cat([w["front.registers.weight"].expand(B, -1, -1), h], 1)
    e = embedded(w, t, label + 1, 0, ("embed.time_in", "embed.time_out", "embed.label"))
    shared, own = e @ w["modulation.weight"].T, w["offsets"]
    where = torch.arange(H * W // 4, dtype=torch.float64)
    row, col = (torch.cat([torch.zeros(3), p]) for p in (where // (W // 2), where % (W // 2)))
    angle = torch.stack([row, row / 10, col, col / 10], 1)  # 100^(-i/2) = 1, 1/10
    turn = torch.polar(torch.ones_like(angle), angle)
    for i in range(2):
        m = dict(zip(SIX, (shared[:, :96] + own[96 * i : 96 * i + 96])[:, None].chunk(6, 2), strict=True))
        y = (rms(h) * (1 + m["scale1"]) + m["shift1"]) @ w[f"blocks.{i}.attention.qkv.weight"].T
        q, k, v = y.reshape(B, -1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        q, k = rms(q) * w[f"blocks.{i}.attention.q_scale"], rms(k) * w[f"blocks.{i}.attention.k_scale"]
        q, k = (torch.complex(z[..., :4], z[..., 4:]) * turn for z in (q, k))
        scores = (q @ k.conj().transpose(2, 3)).real / math.sqrt(8)
        y = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        h = h + m["gate1"] * (y @ w[f"blocks.{i}.attention.out.weight"].T)
        y = (rms(h) * (1 + m["scale2"]) + m["shift2"]) @ w[f"blocks.{i}.mlp.into.weight"].T
        h = h + m["gate2"] * ((silu(y[..., :64]) * y[..., 64:]) @ w[f"blocks.{i}.mlp.back.weight"].T)
    shift, scale = (shared[:, 96:] + own[192:])[:, None].chunk(2, 2)
    y = (rms(h[:, 3:]) * (1 + scale) + shift) @ w["head.weight"].T
    y = y.unflatten(2, (4, -1)).transpose(2, 3).flatten(2)  # channels before the places in a patch
    return F.pixel_shuffle(y.transpose(1, 2).unflatten(2, (H // 2, W // 2)), 2)


def test_the_modern_one_is_its_description() -> None:
    net = awake(MODERN.build((3, 6, 10), Given(classes=5), 2))
    x, t, label = draw(4, 3, 6, 10), times(4), torch.tensor([0, 3, 4, -1])
    got = net(x, t, t, Condition(label))
    assert close(got, modern(net.state_dict(), x, t, label))
    assert got.std() > 0.3


# ---------------------------------------------------------------------------------------------------- diffusers


def peer(**settings: Any) -> Any:
    """A random DiTTransformer2DModel, with one embedding for all its blocks as in converted checkpoints."""
    diffusers = pytest.importorskip("diffusers")
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 4, "out_channels": 8, "num_layers": 2}
    model = diffusers.DiTTransformer2DModel(**small, sample_size=8, num_embeds_ada_norm=5, **settings).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator))
    blocks = model.transformer_blocks
    blocks[1].norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    return model


@pytest.mark.parametrize("settings", [{}, {"norm_eps": 1e-2, "patch_size": 4}])
def test_diffusers_weights_answer_here_as_there(settings: dict[str, Any]) -> None:
    model = peer(**settings)
    layout = diffusers_layout(model.config)
    assert layout.shape == (4, 8, 8)
    assert (layout.given, layout.outputs) == (Given(classes=5), 2)
    net = layout.net.build(*layout[1:])
    net.load_state_dict(from_diffusers(model.state_dict()))
    x, t, label = draw(4, 4, 8, 8).float(), torch.tensor([0, 13, 500, 999]), torch.tensor([0, 4, 2, 5])
    ours = net(x, t.float(), t.float(), Condition(torch.where(label == 5, -1, label)))
    with torch.no_grad():
        want = model(x, t, label).sample
    assert want.std() > 0.3
    assert close(ours, want, 1e-5)


@pytest.mark.parametrize("classes", [0, 5])
def test_our_weights_answer_in_diffusers_as_here(classes: int) -> None:
    layout = Layout(SMALL, (4, 8, 8), Given(classes=classes), 2)
    net = awake(SMALL.build(*layout[1:]), 0.2).float()
    model = type(peer())(**diffusers_config(layout)).eval()
    model.load_state_dict(to_diffusers(net.state_dict(), 4, 2))
    x, t, label = draw(3, 4, 8, 8).float(), torch.tensor([0, 500, 999]), torch.tensor([0, 4, -1])
    theirs = model(x, t, torch.where(label < 0, 5, label) if classes else torch.tensor([0, 1, 0])).sample
    assert theirs.std() > 0.3
    assert close(net(x, t.float(), t.float(), Condition(label if classes else None)), theirs, 1e-5)
    if classes:
        back = from_diffusers(model.state_dict())
        assert back.keys() == net.state_dict().keys()
        assert all(torch.equal(back[k], v) for k, v in net.state_dict().items())
        assert diffusers_layout(model.config) == layout


def test_every_block_must_hold_the_same_embedding() -> None:
    weights = peer().state_dict()
    for part in ("class_embedder.embedding_table.weight", "timestep_embedder.linear_2.bias"):
        name = f"transformer_blocks.1.norm1.emb.{part}"
        with pytest.raises(ValueError, match=rf"{name} is not that of block 0"):
            from_diffusers(weights | {name: weights[name] + 1e-3})


def test_what_cannot_be_taken_over_is_refused_by_name() -> None:
    theirs = official_weights()
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.qkv\.bias is missing"):
        from_official({k: v for k, v in theirs.items() if k != "blocks.1.attn.qkv.bias"})
    with pytest.raises(ValueError, match="extra has no place"):
        from_official(theirs | {"extra": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"pos_embed \(1, 16, 16\) is not the table of sines"):
        from_official(theirs | {"pos_embed": theirs["pos_embed"].flip(1)})
    with pytest.raises(ValueError, match="how many heads a DiT of width 16 has"):
        official_layout(theirs)
    for given, name in ((Given(jumps=True), "embed.jump_in.weight"), (Given(tokens=3), "front")):
        weights = SMALL.build((4, 8, 8), given).state_dict()
        with pytest.raises(ValueError, match=rf"{name}.* has no place .*text, numbers, pictures beside x or jumps"):
            to_official(weights, (4, 8, 8), 2)
        with pytest.raises(ValueError, match=r"text tokens too|jumps too"):
            diffusers_config(Layout(SMALL, (4, 8, 8), given, 1))
    with pytest.raises(ValueError, match="square pictures, and this one is built for 8x12"):
        diffusers_config(Layout(SMALL, (4, 8, 12), Given(), 1))
    with pytest.raises(ValueError, match="freq_shift = 1, and this one 0"):
        diffusers_config(Layout(DiT(freq_shift=0.0), (4, 8, 8), Given(), 1))
    for setting in ({"norm_type": "layer_norm"}, {"attention_bias": False}, {"out_channels": 6}):
        with pytest.raises(ValueError, match=str(*setting.values())):
            diffusers_layout(setting)
    assert diffusers_layout({}) == Layout(
        DiT(depth=28, width=1152, heads=16, mlp_eps=1e-5), (4, 32, 32), Given(classes=1000), 1
    )


# ----------------------------------------------------------------------------------------------- what must hold


@BOTH
def test_a_new_net_answers_zero_and_its_blocks_are_the_identity(net: DiT | ModernDiT) -> None:
    module = net.build((3, 8, 12), Given(classes=5))
    seen: list[bool] = []
    for block in module.blocks:
        block.register_forward_hook(lambda m, args, y: seen.append(torch.equal(y, args[0]) and bool(y.any())))
    x, t = draw(2, 3, 8, 12).float(), times(2).float()
    assert not module(x, t, t, Condition(torch.tensor([-1, 4]))).any()
    assert seen == [True, True]
    spread = math.sqrt(2 / (16 + 48))  # Glorot's deviation of the first block's queries, keys and values
    assert module.blocks[0].attention.qkv.weight.std().item() == pytest.approx(spread, rel=0.1)


@BOTH
@pytest.mark.parametrize("size", [(32, 48), (40, 24)])
def test_a_net_answers_for_other_sizes_as_one_that_is_built_for_them(net, size: tuple[int, int]) -> None:
    """And a position is where it is counted from the corner: a table for more rows holds that for fewer."""
    a, b = awake(net.build((3, 32, 32))), net.build((3, *size)).double()
    b.load_state_dict(a.state_dict())
    x, t = draw(2, 3, *size), times(2)
    y = a(x, t, t, Condition())
    assert y.shape == x.shape
    assert torch.equal(y, b(x, t, t, Condition()))
    whole, part = sincos(20, 24, 16, x), sincos(16, 16, 16, x)
    assert torch.equal(whole.view(20, 24, 16)[:16, :16].flatten(0, 1), part)


@BOTH
def test_without_positions_patches_may_change_places(net, monkeypatch: pytest.MonkeyPatch) -> None:
    module = awake(net.build((3, 8, 12)))
    x, t = draw(2, 3, 8, 12), times(2)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))

    def shuffle(x: Tensor) -> Tensor:
        return F.fold(F.unfold(x, 2, stride=2)[:, :, order], x.shape[2:], 2, stride=2)

    y = module(x, t, t, Condition())
    assert not close(module(shuffle(x), t, t, Condition()), shuffle(y), 1e-3)
    monkeypatch.setattr(type(module), "placed", lambda self, h, rows, cols: h)
    monkeypatch.setattr(type(module), "turned", lambda self, h, rows, cols: None)
    y = module(x, t, t, Condition())
    assert close(module(shuffle(x), t, t, Condition()), shuffle(y))


@BOTH
def test_absent_tokens_change_no_bit_and_present_ones_do(net: DiT | ModernDiT) -> None:
    module = awake(net.build((3, 8, 8), Given(tokens=6)))
    x, t, tokens = draw(3, 3, 8, 8), times(3), draw(3, 4, 6, seed=2)
    present = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool)
    y = module(x, t, t, Condition(None, tokens, present))
    others = torch.where(present[:, :, None], tokens, float("nan"))
    assert torch.equal(module(x, t, t, Condition(None, others, present)), y)
    changed = module(x, t, t, Condition(None, tokens.flip(1), present.flip(1)))
    assert close(changed, y)  # a text's tokens come with their order in them, if it matters
    moved = module(x, t, t, Condition(None, tokens + 0.1, present))
    assert (moved != y).flatten(1).any(1).tolist() == [True, True, False]
    fewer = module(x, t, t, Condition(None, tokens[:, :3], present[:, :3]))
    assert close(fewer, y)


@BOTH
@pytest.mark.parametrize(
    ("given", "cond", "words"),
    [
        (Given(), Condition(None, torch.zeros(2, 1, 6), torch.ones(2, 1, dtype=torch.bool)), "takes none"),
        (
            Given(tokens=4),
            Condition(None, torch.zeros(2, 1, 6), torch.ones(2, 1, dtype=torch.bool)),
            r"given \[2, 1, 6\]",
        ),
        (Given(tokens=4), Condition(), "tokens of width 4, .* and was given none"),
        (Given(classes=3), Condition(), "3 classes"),
        (Given(), Condition(torch.zeros(2, dtype=torch.long)), "no label"),
    ],
)
def test_conditions_that_do_not_fit_are_named(net, given: Given, cond: Condition, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        net.build((3, 8, 8), given)(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.zeros(2), cond)


@BOTH
def test_a_jump_is_told_by_its_length(net: DiT | ModernDiT) -> None:
    told = net.build((3, 8, 8), Given(jumps=True))
    deaf = net.build((3, 8, 8))
    told.double().load_state_dict(awake(deaf).state_dict(), strict=False)
    x, t, s = draw(2, 3, 8, 8), times(2), times(2) / 2
    assert torch.equal(told(x, t, s, Condition()), deaf(x, t, s, Condition()))  # untrained
    awake(told)
    w, length = told.state_dict(), t - s
    shift = getattr(net, "freq_shift", 0.0)
    angles = length[:, None] * torch.tensor([10_000 ** (-i / (128 - shift)) for i in range(128)], dtype=x.dtype)
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    e = silu(waves @ w["embed.jump_in.weight"].T + w["embed.jump_in.bias"])
    e = e @ w["embed.jump_out.weight"].T + w["embed.jump_out.bias"]
    deaf.load_state_dict({k: v for k, v in w.items() if "jump" not in k})
    deaf.embed.time_out.register_forward_hook(lambda module, args, y: y + e)
    y = told(x, t, s, Condition())
    assert close(y, deaf(x, t, t, Condition()))
    assert not close(y, told(x, t, t, Condition()), 1e-2)


@BOTH
def test_gradients_reach_every_weight(net: DiT | ModernDiT) -> None:
    module = awake(net.build((3, 8, 8), Given(classes=2, tokens=6, jumps=True), 2))
    x, t, tokens = draw(3, 3, 8, 8), times(3), draw(3, 4, 6)
    cond = Condition(torch.tensor([-1, 0, 1]), tokens, torch.ones(3, 4, dtype=torch.bool))
    module(x, t, t / 2, cond).square().mean().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


@BOTH
def test_bf16_autocast_stays_close_to_float32(net: DiT | ModernDiT) -> None:
    module = awake(net.build((3, 8, 8), Given(classes=2, tokens=6))).float()
    x, t, tokens = draw(4, 3, 8, 8).float(), times(4).float(), draw(4, 4, 6).float()
    cond = Condition(torch.tensor([-1, 0, 1, 1]), tokens, torch.eye(4, dtype=torch.bool))
    with torch.no_grad():
        full = module(x, t, t, cond)
        with torch.autocast("cpu", torch.bfloat16):
            half = module(x, t, t, cond).float()
    assert (half - full).norm() < 0.03 * full.norm()


class _Plain(nn.Module):
    """A net of tensors alone, as export wants them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        return self.net(x, t, t, Condition(None, tokens, present))


@BOTH
def test_an_exported_net_takes_any_batch(net: DiT | ModernDiT) -> None:
    plain = _Plain(awake(net.build((3, 4, 4), Given(tokens=6))))
    x, t, tokens = draw(4, 3, 4, 4), times(4), draw(4, 3, 6)
    inputs = (x, t, tokens, torch.eye(4, 3, dtype=torch.bool))
    batch = torch.export.Dim("batch", min=2, max=64)
    graph = torch.export.export(plain, tuple(z[:3] for z in inputs), dynamic_shapes=({0: batch},) * 4).module()
    assert close(graph(*inputs), plain(*inputs))


# ------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("net", "millions", "stated"),
    [
        (DiT("S"), 33, "S (33M"),
        (DiT("B"), 130, "B (130M"),
        (DiT("L"), 458, "L (458M"),
        (DiT("XL"), 675, "XL (675M"),
        (ModernDiT("XS"), 5.5, "XS (5M"),
        (ModernDiT("S"), 23, "S (23M"),
        (ModernDiT("B"), 91, "B (91M"),
        (ModernDiT("L"), 314, "L (314M"),
        (ModernDiT("XL"), 460, "XL (460M"),
    ],
    ids=lambda v: f"{v.kind}-{v.preset}" if isinstance(v, DiT | ModernDiT) else "",
)
def test_presets_have_the_parameters_their_papers_or_documentation_state(net, millions: float, stated: str) -> None:
    """As the paper counts them: patches of 2, latents of 4x32x32, 1000 classes, a learned variance."""
    with torch.device("meta"):
        module = net.build((4, 32, 32), Given(classes=1000), 2)
    count = sum(p.numel() for p in module.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.52)
    assert stated in net.__doc__


@pytest.mark.parametrize(
    ("preset", "patch", "gflops"), [("S", 2, 6.06), ("S", 8, 0.36), ("B", 4, 5.56), ("L", 2, 80.71), ("XL", 2, 118.64)]
)
def test_the_arithmetic_is_as_much_as_the_paper_counts(preset: Any, patch: int, gflops: float) -> None:
    """Multiplications of one picture's latent; attention's are counted where it is two plain products."""
    zeros = {"device": "meta", "dtype": torch.float32}
    with torch.device("meta"):
        net = DiT(preset, patch=patch).build((4, 32, 32), Given(classes=1000), 2)
    t, label = torch.zeros(1, **zeros), torch.zeros(1, device="meta", dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(torch.zeros(1, 4, 32, 32, **zeros), t, t, Condition(label))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gflops, abs=0.02)


@BOTH
def test_the_paper_tells_what_each_size_is(net: DiT | ModernDiT) -> None:
    sizes = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
    for preset, (depth, width, heads) in sizes.items():
        full = type(net)(preset).resolve((4, 32, 32))  # type: ignore[arg-type]
        assert (full.depth, full.width, full.heads, full.patch) == (depth, width, heads, 2)
        assert full.resolve((4, 32, 32)) == full
        assert from_table(AnyNet, to_table(full)) == full
    assert type(net)(width=192).resolve((4, 32, 32)).heads == 3
    assert type(net)(width=32).resolve((4, 32, 32)).heads == 1


def test_the_modern_one_chooses_patches_by_the_size_of_the_picture() -> None:
    sizes = [(1, 8, 8), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 32, 64), (3, 256, 256)]
    assert [ModernDiT("S").resolve(s).patch for s in sizes] == [1, 1, 2, 2, 4, 16]
    assert [ModernDiT("XS").resolve(s).patch for s in sizes] == [1, 2, 4, 4, 8, 32]
    assert ModernDiT("S", patch=8).resolve((3, 32, 32)).patch == 8
    assert ModernDiT().build((1, 28, 28)).door.in_features == 16


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DiT("M"), ["DiT preset 'M'", "S, B, L, XL"]),  # type: ignore[arg-type]
        (lambda: ModernDiT("M"), ["ModernDiT preset 'M'", "XS, S, B, L, XL"]),  # type: ignore[arg-type]
        (lambda: DiT(depth=0), ["depth is 0", "1 or more"]),
        (lambda: DiT(patch=-1), ["patch is -1"]),
        (lambda: DiT(width=100, heads=3), ["width 100", "3 heads", "multiple of 12"]),
        (lambda: DiT(freq_shift=2.0), ["freq_shift is 2.0", "[0, 1]"]),
        (lambda: DiT(mlp_eps=0.0), ["mlp_eps is 0.0"]),
        (lambda: ModernDiT(registers=-1), ["registers is -1"]),
        (lambda: DiT(patch=4).build((3, 30, 32)), ["30x32", "4x4", "28x32 and 32x32"]),
        (lambda: DiT(patch=8).build((3, 4, 32)), ["4x32", "8x32 and 8x32"]),
        (lambda: DiT().build((2,)), ["DiT takes pictures", "(2,)", "MLP"]),
        (lambda: SMALL.build((3, 8, 8))(torch.zeros(1, 3, 7, 8), *2 * [torch.zeros(1)], Condition()), ["7x8", "2x2"]),
        (lambda: SMALL.build((3, 8, 8))(torch.zeros(1, 1, 8, 8), *2 * [torch.zeros(1)], Condition()), ["[B, 3, H, W]"]),
    ],
)
def test_mistakes_name_the_value_and_the_fix(make, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        make()
    assert all(word in str(error.value) for word in words), error.value
