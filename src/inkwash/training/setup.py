"""From a recipe and its data to a model: what the recipe leaves open is decided here, once, and written down."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.codec import Codec, LatentCodec, Latents, Pixels, Scaled, Standard, codec_for
from inkwash.data import Dataset, split
from inkwash.device import autocast_dtype, keep_memory, pick_device
from inkwash.features.weights import tensors_hash
from inkwash.kinds import from_table
from inkwash.model import AnyInputs, EdmInputs, Indexed, Model, UnitVariance
from inkwash.modelfolder import CODEC, Config, find_model
from inkwash.nets import MLP, UNet
from inkwash.nets.layers import recompute
from inkwash.paths import Table, is_noise_level
from inkwash.recipes import Recipe
from inkwash.targets import Edm
from inkwash.training.compiling import pays
from inkwash.training.encoding import Told, few, find_codec, identity, in_latents, measured, misfit
from inkwash.types import Batch, Condition

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
        return in_latents(self.codec, data, progress) if isinstance(self.codec, LatentCodec) else data


def set_up(
    recipe: Recipe, dataset: Dataset, *, resumed: bool = False, dry: bool = False, progress: Told | None = None
) -> Setup:
    """Decide what the recipe leaves open and build the model, its weights a function of the seed.

    resumed: the weights will come from a checkpoint, so a model to start from is not looked for. dry: of a data set to
    be encoded only the first pictures are, and nothing is written. progress: told (what, done, total) while data are
    encoded, where a codec is asked for and their latents are not in the cache.
    All that can be found out without encoding is told before it. Raises ValueError for a network that does not fit the
    data's shape or has no blocks to compute again where that is asked for, a model to start from that does not fit it
    or is of other latents, and a codec that does not, or is another than the run was begun with.
    """
    device, pictures = pick_device(recipe.train.device), dataset
    codec: Bound
    if recipe.codec is None:
        codec, stated = codec_for(dataset.images), None
    else:
        codec, stated = find_codec(recipe.codec, device)
    description = codec.config if isinstance(codec, LatentCodec) else codec
    shape = description.diffused(dataset.shape)
    net = recipe.net or (UNet() if len(shape) == 3 else MLP())
    if isinstance(net, Resolving):
        net = net.resolve(shape)
    if isinstance(description, Latents) and (why := misfit(net, description, dataset.shape)):
        raise ValueError(why)
    points = len(shape) == 1 and recipe.train.precision == "auto"  # layers too small to gain from bf16
    autocast = None if points else autocast_dtype(recipe.train.precision, device)
    train = recipe.train
    trained_on, _ = split(dataset, recipe.data.val_fraction, train.seed)
    steps = train.steps if train.epochs is None else math.ceil(train.epochs * len(trained_on) / train.batch_size)
    compiled = pays(device, train.minutes, steps) if train.compile == "auto" else train.compile
    train = replace(train, precision="fp32" if autocast is None else "bf16", compile=compiled)
    data = replace(recipe.data, flip=dataset.flip)
    config = Config(
        shape=shape,
        net=net,
        path=recipe.path,
        target=recipe.target,
        inputs=recipe.inputs or UnitVariance(),  # until the data are looked at
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
        _start_from(model, description, recipe.train.init_from)
    if train.grad_checkpoint and not recompute(model.net):
        raise ValueError(
            f"train.grad_checkpoint = true computes a network's blocks again, and {type(net).__name__} has none that "
            "can be. Leave it out."
        )
    if isinstance(codec, LatentCodec) and recipe.codec is not None and stated is not None:
        new = recipe.codec.sha256 is None and recipe.train.init_from is None
        if codec.preset and new and not dry:  # a model to start from, or to go on with, has its own
            codec, stated = measured(codec, stated, pictures, trained_on, progress)
        dataset = few(codec, pictures) if dry else in_latents(codec, pictures, progress)
        description = codec.config
    inputs = recipe.inputs or _inputs(recipe, dataset, codec)
    recipe = replace(recipe, data=data, net=net, inputs=inputs, train=train, codec=stated)
    config, model.inputs = replace(config, inputs=inputs, codec=description), inputs
    if device.type == "cpu":
        keep_memory()
    model.net.to(device)
    model.autocast = autocast
    return Setup(recipe, config, model, dataset, device, pictures, codec, steps)


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


def _start_from(model: Model, codec: Any, source: str) -> None:
    """Take over the weights of another model of the same latents; no code its config may name is run."""
    try:
        saved = checkpoint.load(find_model(source), ["model.safetensors", "config.json"], also=[f"{CODEC}.safetensors"])
    except checkpoint.CheckpointError as error:
        raise ValueError(f"init_from = {source} cannot be loaded: {error}") from error
    theirs, table = saved.tensors["model"], json.loads(saved.texts["config.json"]).get("codec", {})
    of_latents = table.get("kind") == "latents"
    if of_latents != isinstance(codec, Latents):
        what = ["is not of latents, and this run is", "is of latents, and this run is not"][of_latents]
        raise ValueError(f"init_from = {source} {what}. {f'Add --codec {source}' if of_latents else 'Use no codec'}.")
    if isinstance(codec, Latents):
        other = replace(from_table(Latents, table), sha256=tensors_hash(saved.tensors.get(CODEC, {})))
        if identity(other) != identity(codec):
            raise ValueError(
                f"init_from = {source} is a model of the latents of another codec, or of other statistics: its weights "
                f"mean nothing in these. Train in its own with --codec {source}."
            )
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
