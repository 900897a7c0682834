"""A model's network and scheduler as diffusers' classes, and a network of theirs as ours: the two kinds that both have.

`Theirs` is what stands in their folder; `unet_names` and `dit_names` say which weight is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.codec import Latents, Pixels
from inkwash.exchange import dit_names, unet_names
from inkwash.exchange.schedules import INSTEAD
from inkwash.modelfolder import Config
from inkwash.nets import ClassicUNet, DiT, KLAutoencoder

IMAGENET = 1000
"""The label that `DiTPipeline` takes to mean any class, whatever its network was built for."""

ROOMS = {"UNet2DModel": "unet", "DiTTransformer2DModel": "transformer"}
"""The classes of their networks, and the subfolders that pipelines have them in."""

NAMES = "classes.json"
"""The names of the classes by number, beside models without a pipeline, whose model_index.json would have them."""

_TABLE = "norm1.emb.class_embedder.embedding_table.weight"
_LABELS = "embed.label.weight"


class Theirs(NamedTuple):
    """A network as diffusers has it: its class, settings and weights, and how it is told of classes.

    null: the label that means any class; None for a network that takes no labels.
    """

    kind: str
    settings: dict[str, Any]
    weights: dict[str, Tensor]
    null: int | None


class Ours(NamedTuple):
    """A network of diffusers' as ours: configuration, shape, number of classes, outputs, weights."""

    net: ClassicUNet | DiT
    shape: tuple[int, int, int]
    classes: int
    outputs: int
    weights: dict[str, Tensor]


def to_theirs(config: Config, weights: Mapping[str, Tensor]) -> Theirs:
    """The network of a model as diffusers has it. Raises ValueError, naming what can be done, where it has none."""
    outputs = 2 if config.learned_variance else 1
    given, classes = config.given, len(config.classes)
    if len(config.shape) == 3 and isinstance(config.net, ClassicUNet):
        net, shape = config.net, config.shape
        settings = unet_names.diffusers_config(unet_names.UNetLayout(net, _three(shape), given, outputs))
        return Theirs("UNet2DModel", settings, unet_names.to_diffusers(weights), classes or None)
    if len(config.shape) == 3 and isinstance(config.net, DiT):
        settings = dit_names.diffusers_config(dit_names.Layout(config.net, _three(config.shape), given, outputs))
        theirs = dit_names.to_diffusers(weights, config.shape[0], config.net.patch)
        if classes > IMAGENET:
            return Theirs("DiTTransformer2DModel", settings, theirs, classes)
        # Filled up to the 1000 classes that `DiTPipeline` counts on, with the null label where it expects it.
        tables = {name: _filled(table) for name, table in theirs.items() if name.endswith(_TABLE)}
        return Theirs("DiTTransformer2DModel", settings | {"num_embeds_ada_norm": IMAGENET}, theirs | tables, IMAGENET)
    raise ValueError(
        f"diffusers has no network like {config.net}: it has classic-unet (UNet2DModel) and dit "
        f"(DiTTransformer2DModel). {INSTEAD}"
    )


def from_theirs(kind: str, settings: Mapping[str, Any], weights: Mapping[str, Tensor], classes: int | None) -> Ours:
    """A network of theirs as ours. classes: how many have names, if any have.

    A U-Net's table of labels with one more row than there are names has the null label last; without names all its
    labels are classes. A DiT whose table of labels is zero, without names, has no classes. Raises ValueError for
    settings that our networks do not have, naming them.
    """
    if kind == "UNet2DModel":
        rows = settings.get("num_class_embeds")
        null = rows is not None and classes is not None and rows == classes + 1
        layout = unet_names.diffusers_layout(settings, null=null)
        ours = unet_names.from_diffusers(weights, null=null)
        return Ours(layout.net, layout.shape, layout.given.classes, layout.outputs, ours)
    if kind == "DiTTransformer2DModel":
        found = dit_names.diffusers_layout(settings)
        ours, count = dit_names.from_diffusers(weights), found.given.classes
        if classes is None and not ours[_LABELS].any():  # as `dit_names.to_official` writes none
            del ours[_LABELS]
            count = 0
        elif classes is not None and classes < count:  # the rest was only filled up: see `to_theirs`
            ours[_LABELS] = ours[_LABELS][: classes + 1].clone()
            count = classes
        return Ours(found.net, found.shape, count, found.outputs, ours)
    raise ValueError(f"{kind} cannot be imported. Networks of diffusers' that can: {', '.join(ROOMS)}.")


def pipeline_of(config: Config, theirs: Theirs, scheduler: str) -> str | None:
    """The ready pipeline of diffusers' that draws with a model; None where it has none, and a loop is needed."""
    if theirs.kind == "DiTTransformer2DModel":
        # It divides latents by the scaling factor, and knows of no shift: that of a tiny autoencoder's mean.
        codec = config.codec
        plain = isinstance(codec, Latents) and (isinstance(codec.autoencoder, KLAutoencoder) or not any(codec.mean))
        known = plain and theirs.null == IMAGENET
        return "DiTPipeline" if known and scheduler == "DDIMScheduler" else None
    if not isinstance(config.codec, Pixels) or config.classes:
        return None
    return {"DDIMScheduler": "DDIMPipeline", "DDPMScheduler": "DDPMPipeline"}.get(scheduler)


def _filled(table: Tensor) -> Tensor:
    """A label table [K + 1, width], null last, with rows of zeros put before the null row, [1001, width]."""
    missing = IMAGENET + 1 - len(table)
    return torch.cat([table[:-1], table.new_zeros(missing, table.shape[1]), table[-1:]])


def _three(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape
    return channels, height, width
