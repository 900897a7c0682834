"""Codecs in diffusers' layout: their `AutoencoderKL` and `AutoencoderTiny` as ours, and ours as theirs.

Only names differ: each weight here is one of theirs. `read_json` and `read_weights` read any folder of one model of
theirs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from inkwash.codec import LatentCodec, Latents
from inkwash.features.weights import read_state
from inkwash.nets import KLAutoencoder, TinyAutoencoder

CLASSES = ("AutoencoderKL", "AutoencoderTiny")
WEIGHTS = "diffusion_pytorch_model.safetensors"

_KL_NAMES = (
    *((f".{half}.{ours}.", f".{half}.{theirs}.") for half in ("encoder", "decoder") for ours, theirs in (
        ("first", "conv_in"), ("norm", "conv_norm_out"), ("last", "conv_out"),
        ("middle.before", "mid_block.resnets.0"), ("middle.after", "mid_block.resnets.1"),
        ("middle.attend.norm", "mid_block.attentions.0.group_norm"),
        ("middle.attend.q", "mid_block.attentions.0.to_q"),
        ("middle.attend.k", "mid_block.attentions.0.to_k"),
        ("middle.attend.v", "mid_block.attentions.0.to_v"),
        ("middle.attend.out", "mid_block.attentions.0.to_out.0"),
    )),
    (".encoder.levels.", ".encoder.down_blocks."),
    (".decoder.levels.", ".decoder.up_blocks."),
    (".blocks.", ".resnets."),
    (".shrink.", ".downsamplers.0.conv."),
    (".grow.", ".upsamplers.0.conv."),
    (".skip.", ".conv_shortcut."),
    (".quant.", ".quant_conv."),
    (".unquant.", ".post_quant_conv."),
)  # fmt: skip
"""Ours and theirs, with the dots around them; what is longer comes first."""

_TINY_NAMES = ((".encoder.", ".encoder.layers."), (".decoder.", ".decoder.layers."), (".body.", ".conv."))

_OLD_NAMES = tuple(
    (f".mid_block.attentions.0.{new}.", f".mid_block.attentions.0.{old}.")
    for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn"))
)
"""What they call attention's projections now, and what files of before 2023 call them."""


def from_diffusers(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> tuple[Latents, dict[str, Tensor]]:
    """A codec and its weights from an autoencoder's config.json and state dict as diffusers has them.

    Its statistics are the scaling that the config states: x = (z - shift_factor)·scaling_factor, or with latents_mean
    and latents_std, x = (z - latents_mean)·scaling_factor/latents_std. Raises ValueError for another class, and for
    settings that no network here has.
    """
    match config.get("_class_name"):
        case "AutoencoderKL":
            _only(config, act_fn="silu", out_channels=config.get("in_channels", 3))
            for name, kind in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
                if other := set(config.get(name, [kind])) - {kind}:
                    raise ValueError(f"An AutoencoderKL with {name} {', '.join(sorted(other))} cannot be loaded.")
            quant = bool(config.get("use_quant_conv", True))
            _only(config, use_post_quant_conv=quant)
            kl = KLAutoencoder(
                channels=config.get("in_channels", 3),
                latent_channels=config.get("latent_channels", 4),
                widths=tuple(config.get("block_out_channels", (64,))),
                depth=config.get("layers_per_block", 1),
                groups=config.get("norm_num_groups", 32),
                attention=bool(config.get("mid_block_add_attention", True)),
                quant=quant,
            )
            now = {_renamed(k, _OLD_NAMES, back=True): v for k, v in state.items()}
            weights = {_renamed(k, _KL_NAMES, back=True): v for k, v in now.items()}
            return Latents(kl, *_statistics(config, kl.latent_channels, 0.18215)), weights
        case "AutoencoderTiny":
            widths = {*config.get("encoder_block_out_channels", (64,)), *config.get("decoder_block_out_channels", ())}
            if len(widths) > 1:
                raise ValueError(f"An AutoencoderTiny of several widths ({sorted(widths)}) cannot be loaded.")
            _only(
                config,
                act_fn="relu",
                upsample_fn="nearest",
                upsampling_scaling_factor=2,
                out_channels=config.get("in_channels", 3),
            )
            tiny = TinyAutoencoder(
                channels=config.get("in_channels", 3),
                latent_channels=config.get("latent_channels", 4),
                width=widths.pop(),
                down=tuple(config.get("num_encoder_blocks", (1, 3, 3, 3))),
                up=tuple(config.get("num_decoder_blocks", (3, 3, 3, 1))),
            )
            weights = {_renamed(k, _TINY_NAMES, back=True): v for k, v in state.items()}
            return Latents(tiny, *_statistics(config, tiny.latent_channels, 1.0)), weights
        case other:
            raise ValueError(f"{other} is no autoencoder that can be loaded: those are {' and '.join(CLASSES)}.")


def to_diffusers(codec: LatentCodec) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A codec as diffusers' config.json and state dict: their autoencoder gives our standardised latents.

    Pipelines of theirs know one scaling factor, not a mean and a deviation for each channel. So an `AutoencoderKL` gets
    these as part of its 1x1 convolutions around the latents, and the scaling factor 1. An `AutoencoderTiny`, which has
    none, keeps its own latents; its config can state statistics that are the same for all channels, and a ValueError
    is raised for others.
    """
    net, weights = codec.config.autoencoder, dict(codec.weights)
    if isinstance(net, KLAutoencoder):
        weights |= _folded(codec.config, weights)
        levels = len(net.widths)
        table = {
            "_class_name": "AutoencoderKL",
            "in_channels": net.channels,
            "out_channels": net.channels,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "block_out_channels": list(net.widths),
            "layers_per_block": net.depth,
            "latent_channels": net.latent_channels,
            "norm_num_groups": net.groups,
            "mid_block_add_attention": net.attention,
            "use_quant_conv": True,
            "use_post_quant_conv": True,
            "scaling_factor": 1.0,
            "force_upcast": True,
        }
        return table, {_renamed(k, _KL_NAMES): v for k, v in weights.items()}
    if len({*codec.config.mean}) > 1 or len({*codec.config.std}) > 1:
        raise ValueError(
            "diffusers' AutoencoderTiny cannot hold a mean and a deviation for each channel of a latent, and this "
            f"codec has mean {codec.config.mean} and std {codec.config.std}. Only a KLAutoencoder can be exported."
        )
    table = {
        "_class_name": "AutoencoderTiny",
        "in_channels": net.channels,
        "out_channels": net.channels,
        "encoder_block_out_channels": [net.width] * len(net.down),
        "decoder_block_out_channels": [net.width] * len(net.up),
        "latent_channels": net.latent_channels,
        "num_encoder_blocks": list(net.down),
        "num_decoder_blocks": list(net.up),
        "scaling_factor": 1 / codec.config.std[0],
        "shift_factor": codec.config.mean[0],
    }
    return table, {_renamed(k, _TINY_NAMES): v for k, v in weights.items()}


def read_json(file: File) -> dict[str, Any]:
    """The table in a JSON file of a folder of theirs; {} where there is none. Raises ValueError for a damaged one."""
    if not file.is_file():
        return {}
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: it is no JSON ({error}).") from error
    return table if isinstance(table, dict) else {}


def read_weights(folder: File) -> dict[str, Tensor]:
    """The weights beside a config.json of theirs. Raises ValueError, saying what is there instead, where none are."""
    if not (folder / WEIGHTS).is_file():
        others = sorted(f.name for f in folder.iterdir() if f.suffix in (".bin", ".safetensors", ".pt", ".json"))
        raise ValueError(
            f"{folder} has no {WEIGHTS}, only {', '.join(others) or 'nothing'}. Weights in several files, or pickled "
            "(.bin), are not read: load them with diffusers and save them with save_pretrained(folder)."
        )
    return read_state(folder / WEIGHTS)


def _folded(codec: Latents, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The 1x1 convolutions around the latents with x = (z - mean)/std in them, z being what they gave before.

    The mean's rows become (W·h + b - mean)/std and the log-variance's lose 2 ln std; what is decoded is x·std + mean.
    """
    c = codec.autoencoder.latent_channels
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (codec.mean, codec.std))
    into, back = (weights.get(f"{n}.weight") for n in ("quant", "unquant"))
    inner = torch.eye(2 * c).double() if into is None else into.cpu().double()[..., 0, 0]
    outer = torch.eye(c).double() if back is None else back.cpu().double()[..., 0, 0]
    b_in = torch.zeros(2 * c).double() if into is None else weights["quant.bias"].cpu().double()
    b_out = torch.zeros(c).double() if back is None else weights["unquant.bias"].cpu().double()
    scale = torch.cat([1 / std, torch.ones(c).double()])
    shift = torch.cat([-mean / std, -2 * std.log()])
    new = {
        "quant.weight": (scale[:, None] * inner)[..., None, None],
        "quant.bias": scale * b_in + shift,
        "unquant.weight": (outer * std)[..., None, None],
        "unquant.bias": b_out + outer @ mean,
    }
    return {name: value.float() for name, value in new.items()}


def _renamed(name: str, pairs: tuple[tuple[str, str], ...], *, back: bool = False) -> str:
    """A weight's name with what the pairs say replaced, from left to right or back."""
    dotted = f".{name}"
    for ours, theirs in pairs:
        dotted = dotted.replace(theirs, ours) if back else dotted.replace(ours, theirs)
    return dotted[1:]


def _statistics(config: Mapping[str, Any], channels: int, usual: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of each channel, from the scaling a config states."""
    scaling = float(config.get("scaling_factor") or usual)
    shift = float(config.get("shift_factor") or 0.0)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and std is not None:
        return tuple(map(float, mean)), tuple(float(s) / scaling for s in std)
    return (shift,) * channels, (1 / scaling,) * channels


def _only(config: Mapping[str, Any], **settings: Any) -> None:
    """Raise ValueError where a config has another value than the one that can be loaded."""
    for name, value in settings.items():
        if (found := config.get(name, value)) != value:
            raise ValueError(f"An {config['_class_name']} with {name} = {found!r} cannot be loaded, only {value!r}.")
