"""The classic U-Net by the names diffusers' `UNet2DModel` has for its weights and settings. No number is changed.

Labels are the one difference: our table begins with the null label's row, and theirs, where it has one, ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.exchange.schedules import INSTEAD
from inkwash.nets import ClassicUNet
from inkwash.types import Given


class UNetLayout(NamedTuple):
    """All that a ClassicUNet's module is built of: `net.build(shape, given, outputs)`."""

    net: ClassicUNet
    shape: tuple[int, int, int]
    given: Given
    outputs: int


# Ours and theirs; {} is a number, the same in both.
_NAMES = (
    ("embed.time_in", "time_embedding.linear_1"),
    ("embed.time_out", "time_embedding.linear_2"),
    ("stem", "conv_in"),
    ("norm", "conv_norm_out"),
    ("head", "conv_out"),
    ("shrink.{}.conv", "down_blocks.{}.downsamplers.0.conv"),
    ("grow.{}.conv", "up_blocks.{}.upsamplers.0.conv"),
)
_STEPS = (("down.{}.{}", "down_blocks.{}", "{}"), ("up.{}.{}", "up_blocks.{}", "{}"), ("middle.{}", "mid_block", "{}"))
_BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "told.layer": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "short": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # what files before 2023 say
_LABEL = ("embed.label.weight", "class_embedding.weight")


def _rules(mine: int) -> list[tuple[re.Pattern[str], str]]:
    """Patterns of the names on one side (0: ours, 1: theirs), and what to put on the other."""
    pairs = list(_NAMES)
    for ours, room, j in _STEPS:
        pairs += [(f"{ours}.block.{a}", f"{room}.resnets.{j}.{b}") for a, b in _BLOCK.items()]
        pairs += [(f"{ours}.attention.{a}", f"{room}.attentions.{j}.{b}") for a, b in _ATTENTION.items()]
    patterns = [re.escape(pair[mine]).replace(r"\{\}", r"(\d+)") for pair in pairs]
    return [
        (re.compile(p + r"\.(weight|bias)"), pair[1 - mine] + ".{}") for p, pair in zip(patterns, pairs, strict=True)
    ]


def _renamed(weights: Mapping[str, Tensor], mine: int, why: str) -> dict[str, Tensor]:
    rules, renamed = _rules(mine), {}
    for name, w in weights.items():
        found = next(((m, to) for pattern, to in rules if (m := pattern.fullmatch(name))), None)
        if found is None:
            raise ValueError(f"{name} has no place in {('diffusers', 'a ClassicUNet')[mine]}: {why}")
        renamed[found[1].format(*found[0].groups())] = w
    return renamed


def from_diffusers(weights: Mapping[str, Tensor], *, null: bool = False) -> dict[str, Tensor]:
    """Our state dict, from that of diffusers' `UNet2DModel`.

    null: the last row of its table of labels is the null label. Where it is not, ours becomes zero: a label that adds
    nothing, and was not trained. Raises ValueError for a weight that has no place here.
    """
    rest = {re.sub(r"(?<=attentions\.\d\.)(query|key|value|proj_attn)(?=\.)", _new, n): w for n, w in weights.items()}
    label = rest.pop(_LABEL[1], None)
    ours = _renamed(rest, 1, "only the parts that ClassicUNet's documentation names can be taken over.")
    if label is not None:
        ours[_LABEL[0]] = label.roll(1, 0) if null else torch.cat([label.new_zeros(1, label.shape[1]), label])
    return ours


def _new(old: re.Match[str]) -> str:
    return _OLD[old.group(0)]


def to_diffusers(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of diffusers' `UNet2DModel`, from ours; the null label's row is the last of its table.

    Raises ValueError for a network with parts it does not have: text, numbers, pictures beside x, jumps, linear
    attention, ConvNeXt blocks.
    """
    rest = dict(weights)
    label = rest.pop(_LABEL[0], None)
    theirs = _renamed(rest, 0, "it has none for text, numbers, jumps, linear attention or ConvNeXt blocks.")
    return theirs if label is None else theirs | {_LABEL[1]: label.roll(-1, 0)}


# What a UNet2DModel's settings are when they are not stated.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "num_class_embeds": None,
}
# Where they have a choice and ours have none.
_NEEDED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "mid_block_type": ("UNetMidBlock2D",),
    "mid_block_scale_factor": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "act_fn": ("silu", "swish"),
    "class_embed_type": (None,),
    "downsample_padding": (0, 1),
    "resnet_time_scale_shift": ("default", "scale_shift"),
}


def diffusers_layout(config: Mapping[str, Any], *, null: bool = False) -> UNetLayout:
    """What the `config.json` of diffusers' `UNet2DModel` describes. null: as `from_diffusers`.

    Raises ValueError, naming the setting, for what its class can be and ClassicUNet is not.
    """
    get = _DEFAULTS | dict(config)
    widths = tuple(get["block_out_channels"])
    down, levels = tuple(get["down_block_types"]), range(len(widths))
    attention = tuple(i for i in levels if down[i : i + 1] == ("AttnDownBlock2D",))
    stays = {
        **_NEEDED,
        "time_embedding_dim": (None, 4 * widths[0]),
        "down_block_types": (tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels),),
        "up_block_types": (tuple("AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)),),
    }
    if get["add_attention"]:  # without a number of groups, scale_shift leaves the norm in the middle out
        plain = get["resnet_time_scale_shift"] == "default"
        stays["attn_norm_num_groups"] = (get["norm_num_groups"], *((None,) if plain else ()))
    head_dim = get["attention_head_dim"] or 0
    if bad := _undivided(widths, attention, get["add_attention"], head_dim):
        raise ValueError(f"attention_head_dim is {head_dim} in this model's config, which does not divide {bad[0]}.")
    for key, values in stays.items():
        value = get.get(key, values[0])
        if (tuple(value) if isinstance(value, list) else value) not in values:
            told = " or ".join(repr(v) for v in values)
            raise ValueError(f"{key} is {value!r} in this model's config, and a ClassicUNet takes {told} alone.")
    channels, side = get["in_channels"], get["sample_size"] or 2 ** (len(widths) + 2)
    outputs, rest = divmod(get["out_channels"], channels)
    if rest or outputs not in (1, 2):
        raise ValueError(
            f"This model gives {get['out_channels']} channels for {channels}: as many, or twice as many with a learned "
            "variance, can be taken over."
        )
    net = ClassicUNet(
        widths=widths,
        depth=get["layers_per_block"],
        attention=attention,
        linear=(),
        middle=get["add_attention"],
        block="resnet",
        head_dim=head_dim,
        groups=get["norm_num_groups"],
        eps=get["norm_eps"],
        activation="silu",
        scale_shift=get["resnet_time_scale_shift"] == "scale_shift",
        dropout=get["dropout"],
        sine_first=not get["flip_sin_to_cos"],
        freq_shift=float(get["freq_shift"]),
        shrink_padding=get["downsample_padding"],
    )
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    given = Given(classes=(get["num_class_embeds"] or 0) - (1 if null else 0))
    return UNetLayout(net, (channels, height, width), given, outputs)


def beyond_labels(given: Given) -> str:
    """What a network is told besides a time and a label, in words; "" for nothing."""
    told = {
        "text tokens": given.tokens,
        "jumps": given.jumps,
        "a vector of numbers": given.vector,
        "a picture beside x": given.image,
    }
    return " and ".join(name for name, there in told.items() if there)


def _undivided(widths: tuple[int, ...], attention: tuple[int, ...], middle: bool, head_dim: int) -> list[int]:
    """The widths with attention that heads of head_dim channels do not divide; theirs would leave channels over."""
    attended = [widths[i] for i in attention] + ([widths[-1]] if middle else [])
    return [w for w in attended if head_dim and w % head_dim]


def diffusers_config(layout: UNetLayout) -> dict[str, Any]:
    """The settings of the `UNet2DModel` that answers as the layout's net does; its last label is the null label.

    Raises ValueError where there is none: for text, numbers, pictures beside x, jumps, linear attention, ConvNeXt
    blocks, other activations.
    """
    (channels, height, width), given, outputs = layout.shape, layout.given, layout.outputs
    net = layout.net.resolve(layout.shape)
    widths, attention, head_dim = net.widths or (), net.attention or (), net.head_dim or 0
    levels = range(len(widths))
    if more := beyond_labels(given):
        raise ValueError(f"diffusers' UNet2DModel is told a time and a label, and this net of {more} too. {INSTEAD}")
    if net.linear or net.block != "resnet" or net.activation != "silu":
        raise ValueError(
            "diffusers' UNet2DModel has no linear attention, no ConvNeXt blocks and no GELU; this net has linear = "
            f"{net.linear}, block = {net.block}, activation = {net.activation}."
        )
    if bad := _undivided(widths, attention, bool(net.middle), head_dim):
        raise ValueError(f"diffusers' UNet2DModel cuts heads of {head_dim} channels, which do not divide {bad[0]}.")
    return {
        "sample_size": height if height == width else (height, width),
        "in_channels": channels,
        "out_channels": outputs * channels,
        "freq_shift": net.freq_shift,
        "flip_sin_to_cos": not net.sine_first,
        "down_block_types": tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels),
        "up_block_types": tuple("AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)),
        "block_out_channels": widths,
        "layers_per_block": net.depth,
        "downsample_padding": net.shrink_padding,
        "dropout": net.dropout,
        "attention_head_dim": head_dim or None,
        "norm_num_groups": net.groups,
        "attn_norm_num_groups": net.groups if net.scale_shift else None,
        "norm_eps": net.eps,
        "resnet_time_scale_shift": "scale_shift" if net.scale_shift else "default",
        "add_attention": net.middle,
        "num_class_embeds": given.classes + 1 if given.classes else None,
    }
