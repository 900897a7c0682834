"""In which latents a run trains: its codec, what its statistics are, and data encoded once with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inkwash.codec import Codec, LatentCodec, Latents
from inkwash.codecfolder import load_codec
from inkwash.conditions import Task
from inkwash.data import Dataset
from inkwash.data.latents import latents
from inkwash.features.weights import tensors_hash
from inkwash.kinds import in_text, to_table
from inkwash.modelfolder import Config
from inkwash.recipes import InLatents

Told = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""

MEASURED = 4096
"""Pictures, at most, over which the statistics of a codec are measured that comes without its own; four digits are kept
of them, so that another machine's last bits make no other codec."""

BLOCK = 256

FEW = 32
"""Pictures that are encoded to say what a run would cost."""


def find_codec(wanted: InLatents, device: torch.device) -> tuple[LatentCodec, InLatents]:
    """The codec that a recipe names, and what the recipe then says of it, wherever it is read."""
    try:
        codec = load_codec(wanted.folder).to(device)
    except ValueError as error:
        if wanted.sha256 is None:
            raise
        raise ValueError(f"{error} The run's own model has its codec too: go on with --codec RUN/model.") from error
    config = replace(codec.config, sha256=tensors_hash(codec.weights))
    if wanted.mean is not None and wanted.std is not None:  # measured when the run began
        codec, config = replace(codec, preset=False), replace(config, mean=wanted.mean, std=wanted.std)
    codec, found = replace(codec, config=config), identity(config)
    if wanted.sha256 not in (None, found):
        raise ValueError(
            f"The codec in {wanted.folder} is not the one this run was begun with: its SHA-256 is {found[:12]}, then "
            f"{wanted.sha256[:12]}. Latents of another mean nothing to the model. The run's own model has its codec "
            "too: go on with --codec RUN/model, or start a new run."
        )
    return codec, replace(wanted, folder=str(File(wanted.folder).absolute()), sha256=found)


def identity(codec: Latents) -> str:
    """SHA-256 of what latents mean: the autoencoder's weights, mean and std; not of how a codec is written down."""
    return hashlib.sha256(json.dumps([codec.sha256, codec.mean, codec.std]).encode()).hexdigest()


def measured(
    codec: LatentCodec, stated: InLatents, data: Dataset, rows: np.ndarray, told: Told | None
) -> tuple[LatentCodec, InLatents]:
    """The codec with the statistics of these rows of a data set, spread over them, and what a recipe says of it."""
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), MEASURED)).astype(np.int64)]

    def blocks() -> Iterator[Tensor]:
        for start in range(0, len(chosen), BLOCK):
            if told is not None:
                told("Measuring the latents", start, len(chosen))
            yield torch.from_numpy(np.array(data.images[chosen[start : start + BLOCK]])).to(_device(codec))

    codec = codec.measured(blocks())
    mean, std = (tuple(float(f"{v:.4g}") for v in values) for values in (codec.config.mean, codec.config.std))
    codec = replace(codec, config=replace(codec.config, mean=mean, std=std))
    return codec, replace(stated, mean=mean, std=std, sha256=identity(codec.config))


def in_latents(codec: LatentCodec, data: Dataset, told: Told | None, task: Task | None = None) -> Dataset:
    """The data set as standardised latents, from the cache, and what a task shows of its pictures as such."""
    layout = json.dumps(to_table(codec.config.autoencoder), sort_keys=True)
    show = None if task is None or task.paired or task.itself else (in_text(task), task.show)
    if task is None or not task.paired:
        data = replace(data, shown=None)  # partners that nobody is shown
    return latents(data, _encoder(codec), identity(codec.config), layout=layout, progress=told, show=show)


def few(config: Config, codec: Codec, data: Dataset) -> Dataset:
    """The first pictures of a data set as training would read them, and nothing written."""
    image, text = config.conditions.image, config.conditions.text
    if not isinstance(codec, LatentCodec) and text is None:
        return data
    cut = {n: getattr(data, n) for n in ("images", "labels", "captions", "vectors", "shown")}
    data = replace(data, **{n: v[:FEW] for n, v in cut.items() if v is not None}, flip=False)
    if isinstance(codec, LatentCodec):
        encode, x = _encoder(codec), np.array(data.images)
        if image is not None and not image.task.itself:
            shown = np.array(data.shown) if image.task.paired else image.task.show(x)
            data = replace(data, shown=encode(shown).astype(np.float16))
        data = replace(data, images=encode(x).astype(np.float16))
    if text is not None and data.captions is not None:
        tokens = text.encoder.bind().encode(data.captions)
        lengths = tokens.present.sum(1).cpu().numpy()
        data = replace(data, tokens=tokens.values.cpu().numpy().astype(np.float16), lengths=lengths)
    return data


def misfit(net: Any, codec: Latents, shape: tuple[int, ...]) -> str | None:
    """Why a network cannot be built for the latents of pictures (C, H, W), and the size that would fit; else None."""
    c, h, w = codec.diffused(shape)
    why = _refusal(net, (c, h, w))
    if why is None:
        return None
    text = f"Pictures of {shape[2]}x{shape[1]} have latents of {w}x{h}, and these do not fit the network."
    for n in range(2, 65):
        high, wide = -(-h // n) * n, -(-w // n) * n
        if _refusal(net, (c, high, wide)) is None:
            side, across = codec.pictured((c, high, wide))[1:]
            size = str(side) if side == across else f"[{side}, {across}]"
            return f"{text} data.size = {size} gives latents of {wide}x{high}, which do. Of the latents it says: {why}"
    return f"{text} Of the latents it says: {why}"


def _refusal(net: Any, shape: tuple[int, ...]) -> str | None:
    try:
        with torch.device("meta"):
            net.build(shape)
    except ValueError as error:
        return str(error)
    return None


def _encoder(codec: LatentCodec) -> Callable[[np.ndarray], np.ndarray]:
    device = _device(codec)

    def encode(u: np.ndarray) -> np.ndarray:
        return codec.encode(torch.from_numpy(u).to(device), many=True).permute(0, 2, 3, 1).cpu().numpy()

    return encode


def _device(codec: LatentCodec) -> torch.device:
    return next(codec.net.parameters()).device
