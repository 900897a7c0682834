"""DiT's weights by the names others have for them: the official layout, diffusers', and ours. No number is changed.

The official layout is the middle one: diffusers' is translated to it, and it to ours. Null labels are the last row of
a label table there, and the first here.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.exchange.schedules import INSTEAD
from inkwash.exchange.unet_names import beyond_labels
from inkwash.nets import DiT
from inkwash.nets.transformer import SIZES, sincos, sizes_of
from inkwash.types import Given

Weights = Mapping[str, Tensor]
"""A state dict."""


class Layout(NamedTuple):
    """All that a DiT's module is built of: `net.build(shape, given, outputs)`."""

    net: DiT
    shape: tuple[int, int, int]
    given: Given
    outputs: int


_WHOLE = {
    "door": "x_embedder.proj",
    "embed.time_in": "t_embedder.mlp.0",
    "embed.time_out": "t_embedder.mlp.2",
    "head": "final_layer.linear",
}
_BLOCK = {
    "attention.qkv": "attn.qkv",
    "attention.out": "attn.proj",
    "mlp.into": "mlp.fc1",
    "mlp.back": "mlp.fc2",
}
_LABEL = "y_embedder.embedding_table.weight"

_TOLD = {  # what each block of diffusers' has a copy of
    "t_embedder.mlp.0.weight": "norm1.emb.timestep_embedder.linear_1.weight",
    "t_embedder.mlp.0.bias": "norm1.emb.timestep_embedder.linear_1.bias",
    "t_embedder.mlp.2.weight": "norm1.emb.timestep_embedder.linear_2.weight",
    "t_embedder.mlp.2.bias": "norm1.emb.timestep_embedder.linear_2.bias",
    _LABEL: "norm1.emb.class_embedder.embedding_table.weight",
}
_WHOLE_THERE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
_BLOCK_THERE = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
_QKV_THERE = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
_PARTS = ("weight", "bias")


class _Taken:
    """Weights that are taken out one by one, so that a missing one is named, and one that is left."""

    def __init__(self, weights: Weights, layout: str) -> None:
        self.weights, self.layout = dict(weights), layout

    def __call__(self, name: str) -> Tensor:
        if name not in self.weights:
            raise ValueError(f"{name} is missing: these are not the weights of a DiT in {self.layout} layout.")
        return self.weights.pop(name)

    def finished(self, why: str = "") -> None:
        if self.weights:
            raise ValueError(f"{next(iter(self.weights))} has no place in a DiT in {self.layout} layout. {why}".strip())


def _blocks(weights: Weights, prefix: str) -> range:
    indices = [int(name.removeprefix(prefix).split(".")[0]) for name in weights if name.startswith(prefix)]
    return range(1 + max(indices, default=-1))


# ---------------------------------------------------------------------------------------------------- the official


def from_official(weights: Weights) -> dict[str, Tensor]:
    """Our state dict, from one in the layout of the published DiT-XL/2.

    Raises ValueError for weights that are missing or too many, and for positions that are not the table of sines.
    """
    take, blocks = _Taken(weights, "the official"), _blocks(weights, "blocks.")
    if "pos_embed" in take.weights:
        _check_positions(take("pos_embed"))
    ours = {f"{mine}.{part}": take(f"{other}.{part}") for mine, other in _WHOLE.items() for part in _PARTS}
    ours["door.weight"] = ours["door.weight"].flatten(1)
    ours["embed.label.weight"] = take(_LABEL).roll(1, 0)
    for i in blocks:
        for mine, other in _BLOCK.items():
            ours |= {f"blocks.{i}.{mine}.{part}": take(f"blocks.{i}.{other}.{part}") for part in _PARTS}
    told = [*(f"blocks.{i}" for i in blocks), "final_layer"]
    ours |= {f"modulation.{p}": torch.cat([take(f"{b}.adaLN_modulation.1.{p}") for b in told]) for p in _PARTS}
    take.finished()
    return ours


def to_official(weights: Weights, shape: tuple[int, ...], patch: int) -> dict[str, Tensor]:
    """The official layout, from our state dict of a DiT built for pictures of shape (C, H, W); positions and all.

    A DiT without classes becomes one with a single class, whose rows are zero.
    Raises ValueError for one that is told of anything but a label, which this layout has no place for.
    """
    theirs = _to_official(weights, shape[0], patch)
    like = theirs["x_embedder.proj.bias"]
    return theirs | {"pos_embed": sincos(shape[1] // patch, shape[2] // patch, len(like), like)[None]}


def _to_official(weights: Weights, channels: int, patch: int) -> dict[str, Tensor]:
    take, blocks = _Taken(weights, "our"), _blocks(weights, "blocks.")
    theirs = {f"{other}.{part}": take(f"{mine}.{part}") for mine, other in _WHOLE.items() for part in _PARTS}
    theirs["x_embedder.proj.weight"] = theirs["x_embedder.proj.weight"].reshape(-1, channels, patch, patch)
    width = len(theirs["x_embedder.proj.bias"])
    label = take("embed.label.weight") if "embed.label.weight" in weights else None
    theirs[_LABEL] = theirs["x_embedder.proj.bias"].new_zeros(2, width) if label is None else label.roll(-1, 0)
    for i in blocks:
        for mine, other in _BLOCK.items():
            theirs |= {f"blocks.{i}.{other}.{part}": take(f"blocks.{i}.{mine}.{part}") for part in _PARTS}
    for part in _PARTS:
        *own, last = torch.split(take(f"modulation.{part}"), [6 * width] * len(blocks) + [2 * width])
        theirs |= {f"blocks.{i}.adaLN_modulation.1.{part}": m for i, m in enumerate(own)}
        theirs[f"final_layer.adaLN_modulation.1.{part}"] = last
    take.finished("The layouts of others have none for text, numbers, pictures beside x or jumps: a DiT without fits.")
    return theirs


def official_layout(weights: Weights, heads: int | None = None) -> Layout:
    """What a state dict in the official layout is the state of.

    heads: their number, which no weight tells; None: that of the paper's preset of this width.
    Raises ValueError where the width is no preset's and heads are not given.
    """
    door, positions = weights["x_embedder.proj.weight"], weights["pos_embed"]
    width, channels, patch = door.shape[:3]
    side = isqrt(positions.shape[1]) * patch
    known = {sizes.width: sizes.heads for sizes in SIZES.values()}
    if heads is None and width not in known:
        raise ValueError(f"The weights do not say how many heads a DiT of width {width} has: give their number.")
    depth = len(_blocks(weights, "blocks."))
    net = DiT(patch=patch, depth=depth, width=width, heads=heads or known[width], freq_shift=0.0)
    outputs = len(weights["final_layer.linear.bias"]) // (patch**2 * channels)
    return Layout(net, (channels, side, side), Given(classes=len(weights[_LABEL]) - 1), outputs)


def _check_positions(table: Tensor) -> None:
    side = isqrt(table.shape[1])
    if side**2 != table.shape[1] or not torch.allclose(
        table[0].double(), sincos(side, side, table.shape[2], table.new_zeros((), dtype=torch.float64)), atol=1e-3
    ):
        raise ValueError(
            f"pos_embed {tuple(table.shape)} is not the table of sines of a square grid, which DiT computes: positions "
            "that were learned, or made otherwise, cannot be taken over."
        )


# ---------------------------------------------------------------------------------------------------------- diffusers


def from_diffusers(weights: Weights) -> dict[str, Tensor]:
    """Our state dict, from that of diffusers' `DiTTransformer2DModel`.

    Raises ValueError for weights that are missing or too many, and where the embeddings of time and label, of which
    each block there has its own, are not the same in all blocks.
    """
    take, blocks = _Taken(weights, "diffusers'"), _blocks(weights, "transformer_blocks.")
    official = {f"{o}.{part}": take(f"{there}.{part}") for o, there in _WHOLE_THERE.items() for part in _PARTS}
    for i in blocks:
        at = f"transformer_blocks.{i}"
        for o, there in _TOLD.items():
            if not torch.equal(own := take(f"{at}.{there}"), official.setdefault(o, own)):
                raise ValueError(
                    f"{at}.{there} is not that of block 0. A DiT has one embedding of time and label for all blocks, "
                    "as in Peebles & Xie (2022), and a model that has others cannot be taken over."
                )
        for o, there in _BLOCK_THERE.items():
            official |= {f"blocks.{i}.{o}.{part}": take(f"{at}.{there}.{part}") for part in _PARTS}
        for part in _PARTS:
            official[f"blocks.{i}.attn.qkv.{part}"] = torch.cat([take(f"{at}.{n}.{part}") for n in _QKV_THERE])
    take.finished()
    return from_official(official)


def to_diffusers(weights: Weights, channels: int, patch: int) -> dict[str, Tensor]:
    """The state dict of diffusers' `DiTTransformer2DModel`, from ours; each block gets a copy of the embeddings.

    channels: of the pictures the net takes. Otherwise as `to_official`.
    """
    official = _to_official(weights, channels, patch)
    theirs = {f"{there}.{part}": official[f"{o}.{part}"] for o, there in _WHOLE_THERE.items() for part in _PARTS}
    for i in _blocks(official, "blocks."):
        at = f"transformer_blocks.{i}"
        theirs |= {f"{at}.{there}": official[o].clone() for o, there in _TOLD.items()}
        for o, there in _BLOCK_THERE.items():
            theirs |= {f"{at}.{there}.{part}": official[f"blocks.{i}.{o}.{part}"] for part in _PARTS}
        for part in _PARTS:
            qkv = official[f"blocks.{i}.attn.qkv.{part}"].chunk(3)
            theirs |= {f"{at}.{name}.{part}": w.clone() for name, w in zip(_QKV_THERE, qkv, strict=True)}
    return {name: w.contiguous() for name, w in theirs.items()}


def diffusers_layout(config: Mapping[str, Any]) -> Layout:
    """What the `config.json` of diffusers' `DiTTransformer2DModel` describes.

    Raises ValueError for what its class can be and DiT is not.
    """
    needed = {
        "norm_type": "ada_norm_zero",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
        "cross_attention_dim": None,
    }
    for key, value in needed.items():
        if config.get(key, value) != value:
            raise ValueError(f"{key} is {config[key]!r} in this model's config, and a DiT's is {value!r}.")
    get = {"attention_head_dim": 72, "num_attention_heads": 16, "in_channels": 4, "num_layers": 28, "sample_size": 32}
    get |= {"patch_size": 2, "num_embeds_ada_norm": 1000, "norm_eps": 1e-5, "out_channels": None} | dict(config)
    channels, side, heads = get["in_channels"], get["sample_size"], get["num_attention_heads"]
    outputs, rest = divmod(get["out_channels"] or channels, channels)
    if rest or outputs not in (1, 2):
        raise ValueError(
            f"This model gives {get['out_channels']} channels for {channels}: as many, or twice as many with a learned "
            "variance, can be taken over."
        )
    net = DiT(
        patch=get["patch_size"],
        depth=get["num_layers"],
        width=heads * get["attention_head_dim"],
        heads=heads,
        mlp_eps=get["norm_eps"],
    )
    return Layout(net, (channels, side, side), Given(classes=get["num_embeds_ada_norm"]), outputs)


def diffusers_config(layout: Layout) -> dict[str, Any]:
    """The settings of the `DiTTransformer2DModel` that answers as the layout's net does; classes become at least 1.

    Raises ValueError where there is none: for sides that differ, other frequencies of the time, and more than a label.
    """
    net, (channels, height, width), given, outputs = layout
    if height != width:
        raise ValueError(f"diffusers' DiT takes square pictures, and this one is built for {height}x{width}.")
    if net.freq_shift != 1:
        raise ValueError(
            f"diffusers' DiT has freq_shift = 1, and this one {net.freq_shift:g}: with other frequencies it "
            "would answer other than here. (Those who trained DiT-XL/2 used 0; diffusers runs it with 1 all the same.)"
        )
    if more := beyond_labels(given):
        raise ValueError(f"diffusers' DiT is told a time and a label, and this one of {more} too. {INSTEAD}")
    sizes = sizes_of("DiT", SIZES, net)
    return {
        "num_attention_heads": sizes.heads,
        "attention_head_dim": sizes.width // sizes.heads,
        "in_channels": channels,
        "out_channels": outputs * channels,
        "num_layers": sizes.depth,
        "sample_size": height,
        "patch_size": net.patch,
        "num_embeds_ada_norm": max(1, given.classes),
        "norm_eps": net.mlp_eps,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_type": "ada_norm_zero",
        "norm_elementwise_affine": False,
    }
