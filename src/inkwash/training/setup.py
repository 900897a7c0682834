"""From a recipe and its data to a model: what the recipe leaves open is decided here, once, and written down."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.codec import Codec, LatentCodec, Pixels, Scaled, Standard, codec_for
from inkwash.codecfolder import load_codec
from inkwash.data import Dataset, split
from inkwash.data.latents import latents
from inkwash.device import autocast_dtype, keep_memory, pick_device
from inkwash.features.weights import tensors_hash
from inkwash.kinds import to_table
from inkwash.model import AnyInputs, EdmInputs, Indexed, Model, UnitVariance
from inkwash.modelfolder import Config, find_model
from inkwash.nets import MLP, UNet
from inkwash.nets.layers import recompute
from inkwash.paths import Table, is_noise_level
from inkwash.recipes import InLatents, Recipe
from inkwash.targets import Edm
from inkwash.training.compiling import pays
from inkwash.types import Batch, Condition

Told = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""

Bound = Pixels | Scaled | Standard | LatentCodec


@runtime_checkable
class Resolving(Protocol):
    """A network's configuration that leaves things open until it knows the data."""

    def resolve(self, shape: tuple[int, ...]) -> Any:
        """The same network for data of this shape with every field stated."""
        ...


@dataclass
class Setup:
    """Everything a run needs besides its state: the recipe with nothing left open, the model, and where it runs.

    dataset: what is trained on, the data or their latents; pictures: the data; codec: the config's with its weights;
    steps: the length of the run, None where it is in minutes.
    """

    recipe: Recipe
    config: Config
    model: Model
    dataset: Dataset
    device: torch.device
    pictures: Dataset
    codec: Codec
    steps: int | None = None

    def batch(self, images: np.ndarray, labels: np.ndarray | None, number: torch.Tensor) -> Batch:
        """Encode rows of `dataset` for the objective, on the run's device. number: see `Batch`."""
        x0 = _encoded(self.codec, torch.from_numpy(images).to(self.device))
        label = torch.from_numpy(labels).to(self.device) if self.config.classes and labels is not None else None
        return Batch(x0, Condition(label), number, self.recipe.train.batch_size, bin=self.codec.bin)

    def seen(self, data: Dataset, progress: Told | None = None) -> Dataset:
        """A data set like `pictures` in the form of `dataset`. progress: told (what, done, total) while it encodes."""
        return _latents(self.codec, data, progress) if isinstance(self.codec, LatentCodec) else data


def set_up(recipe: Recipe, dataset: Dataset, *, resumed: bool = False, progress: Told | None = None) -> Setup:
    """Decide what the recipe leaves open and build the model, its weights a function of the seed.

    resumed: the weights will come from a checkpoint, so a model to start from is not looked for. progress: told (what,
    done, total) while data are encoded, where a codec is asked for and their latents are not in the cache.
    Raises ValueError for a network that does not fit the data's shape or has no blocks to compute again where that is
    asked for, a model to start from that does not fit it, and a codec that does not, or is another than the run was
    begun with.
    """
    device, pictures = pick_device(recipe.train.device), dataset
    codec: Bound
    if recipe.codec is None:
        codec, stated = codec_for(dataset.images), None
    else:
        codec, stated = _codec(recipe.codec, device)
    description = codec.config if isinstance(codec, LatentCodec) else codec
    shape = description.diffused(dataset.shape)
    net = recipe.net or (UNet() if len(shape) == 3 else MLP())
    if isinstance(net, Resolving):
        net = net.resolve(shape)
    if isinstance(codec, LatentCodec):
        with torch.device("meta"):  # a network that does not fit is told before anything is encoded
            net.build(shape)
        dataset = _latents(codec, dataset, progress)
    inputs = recipe.inputs or _inputs(recipe, dataset, codec)
    points = len(shape) == 1 and recipe.train.precision == "auto"  # layers too small to gain from bf16
    autocast = None if points else autocast_dtype(recipe.train.precision, device)
    train = recipe.train
    trained_on, _ = split(dataset, recipe.data.val_fraction, train.seed)
    steps = train.steps if train.epochs is None else math.ceil(train.epochs * len(trained_on) / train.batch_size)
    compiled = pays(device, train.minutes, steps) if train.compile == "auto" else train.compile
    train = replace(train, precision="fp32" if autocast is None else "bf16", compile=compiled)
    data = replace(recipe.data, flip=dataset.flip)
    recipe = replace(recipe, data=data, net=net, inputs=inputs, train=train, codec=stated)
    config = Config(
        shape=shape,
        net=net,
        path=recipe.path,
        target=recipe.target,
        inputs=inputs,
        codec=description,
        classes=dataset.classes if dataset.labels is not None and train.label_dropout < 1 else (),
        sampling=recipe.sampler,
        data=dataset.name,
        learned_variance=recipe.learns_variance,
    )
    if recipe.sampler.guidance != 1 and not config.classes:
        raise ValueError(
            f"sampler.guidance = {recipe.sampler.guidance} needs classes; {dataset.name} has none. Use guidance = 1."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        model = config.build()
    if recipe.train.init_from and not resumed:
        _start_from(model, recipe.train.init_from)
    if train.grad_checkpoint and not recompute(model.net):
        raise ValueError(
            f"train.grad_checkpoint = true computes a network's blocks again, and {type(net).__name__} has none that "
            "can be. Leave it out."
        )
    if device.type == "cpu":
        keep_memory()
    model.net.to(device)
    model.autocast = autocast
    return Setup(recipe, config, model, dataset, device, pictures, codec, steps)


def _codec(wanted: InLatents, device: torch.device) -> tuple[LatentCodec, InLatents]:
    """The codec that a recipe names, and what the recipe then says of it."""
    try:
        codec = load_codec(wanted.folder).to(device)
    except ValueError as error:
        if wanted.sha256 is None:
            raise
        raise ValueError(f"{error} The run's own model has its codec too: go on with --codec RUN/model.") from error
    codec = replace(codec, config=replace(codec.config, sha256=tensors_hash(codec.weights)))
    found = _sha256(codec)
    if wanted.sha256 not in (None, found):
        raise ValueError(
            f"The codec in {wanted.folder} is not the one this run was begun with: its SHA-256 is {found[:12]}, then "
            f"{wanted.sha256[:12]}. Latents of another mean nothing to the model. The run's own model has its codec "
            "too: go on with --codec RUN/model, or start a new run."
        )
    return codec, replace(wanted, sha256=found)


def _latents(codec: LatentCodec, data: Dataset, progress: Told | None) -> Dataset:
    """The data set as standardised latents, from the cache."""
    device = next(codec.net.parameters()).device

    def encode(u: np.ndarray) -> np.ndarray:
        return codec.encode(torch.from_numpy(u).to(device)).permute(0, 2, 3, 1).cpu().numpy()

    return latents(data, encode, _sha256(codec), progress=progress)


def _sha256(codec: LatentCodec) -> str:
    """Of all that latents depend on: the autoencoder and its weights, mean and std."""
    return hashlib.sha256(json.dumps(to_table(codec.config), sort_keys=True).encode()).hexdigest()


def _encoded(codec: Codec, rows: Tensor) -> Tensor:
    """Rows of what is trained on as x0: latents, float16 [B, h, w, c], are that already."""
    return rows.permute(0, 3, 1, 2).float() if isinstance(codec, LatentCodec) else codec.encode(rows)


def _inputs(recipe: Recipe, dataset: Dataset, codec: Codec) -> AnyInputs:
    """How the network is shown x and t, where the recipe does not say: as those who made the path or target do."""
    match recipe.path, recipe.target:
        case _, Edm(data_std=std):
            return EdmInputs(std)
        case path, _ if is_noise_level(path):
            return EdmInputs(_std(dataset, codec))
        case Table(steps=steps), _:
            return Indexed(steps)
        case _:
            return UnitVariance(_std(dataset, codec))


def _std(dataset: Dataset, codec: Codec) -> float:
    """The deviation of the encoded data, from up to 4096 examples spread over the set; three digits are enough."""
    rows = np.linspace(0, len(dataset) - 1, min(len(dataset), 4096)).astype(np.int64)
    return round(max(float(_encoded(codec, torch.from_numpy(np.asarray(dataset.images[rows]))).std()), 1e-3), 3)


def _start_from(model: Model, source: str) -> None:
    """Take over the weights of another model; its config is not read, so no code it may name is run."""
    try:
        theirs = checkpoint.load(find_model(source), ["model.safetensors"]).tensors["model"]
    except checkpoint.CheckpointError as error:
        raise ValueError(f"init_from = {source} cannot be loaded: {error}") from error
    mine = model.net.state_dict()
    wrong = [k for k in {**mine, **theirs} if k not in theirs or k not in mine or theirs[k].shape != mine[k].shape]
    if wrong:
        k = wrong[0]
        shapes = [str(tuple(w[k].shape)) if k in w else "missing" for w in (mine, theirs)]
        raise ValueError(
            f"init_from = {source} does not fit this run: {len(wrong)} weights differ in name or shape, the first "
            f"{k}: {shapes[0]} here, {shapes[1]} there. Net, shape and number of classes must be the same."
        )
    model.net.load_state_dict(theirs)
