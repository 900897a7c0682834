"""From a recipe and its data to a model: what the recipe leaves open is decided here, once, and written down."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from inkwash import checkpoint
from inkwash.codec import Codec, codec_for
from inkwash.data import Dataset
from inkwash.device import autocast_dtype, keep_memory, pick_device
from inkwash.model import AnyInputs, EdmInputs, Indexed, Model, UnitVariance
from inkwash.modelfolder import Config, find_model
from inkwash.nets import MLP, UNet
from inkwash.paths import Table, is_noise_level
from inkwash.recipes import Recipe
from inkwash.targets import Edm
from inkwash.types import Batch, Condition


@dataclass
class Setup:
    """Everything a run needs besides its state: the recipe with nothing left open, the model, and where it runs."""

    recipe: Recipe
    config: Config
    model: Model
    dataset: Dataset
    device: torch.device

    def batch(self, images: np.ndarray, labels: np.ndarray | None, number: torch.Tensor) -> Batch:
        """Encode rows of the data set for the objective, on the run's device. number: see `Batch`."""
        x0 = self.config.codec.encode(torch.from_numpy(images).to(self.device))
        label = torch.from_numpy(labels).to(self.device) if self.config.classes and labels is not None else None
        bin = self.config.codec.bin
        return Batch(x0, Condition(label), number, self.recipe.train.batch_size, bin=bin)


def set_up(recipe: Recipe, dataset: Dataset, *, resumed: bool = False) -> Setup:
    """Decide what the recipe leaves open and build the model, its weights a function of the seed.

    resumed: the weights will come from a checkpoint, so a model to start from is not looked for.
    Raises ValueError for a network that does not fit the data's shape, or a model to start from that does not fit it.
    """
    device = pick_device(recipe.train.device)
    codec = codec_for(dataset.images)
    net = recipe.net or (UNet() if len(dataset.shape) == 3 else MLP())
    if isinstance(net, UNet):
        net = net.resolve(dataset.shape)
    inputs = recipe.inputs or _inputs(recipe, dataset, codec)
    points = len(dataset.shape) == 1 and recipe.train.precision == "auto"  # layers too small to gain from bf16
    autocast = None if points else autocast_dtype(recipe.train.precision, device)
    train = replace(recipe.train, precision="fp32" if autocast is None else "bf16")
    recipe = replace(recipe, data=replace(recipe.data, flip=dataset.flip), net=net, inputs=inputs, train=train)
    config = Config(
        shape=dataset.shape,
        net=net,
        path=recipe.path,
        target=recipe.target,
        inputs=inputs,
        codec=codec,
        classes=dataset.classes if dataset.labels is not None else (),
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
    if device.type == "cpu":
        keep_memory()
    model.net.to(device)
    model.autocast = autocast
    return Setup(recipe, config, model, dataset, device)


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
    return round(max(float(codec.encode(torch.from_numpy(np.asarray(dataset.images[rows]))).std()), 1e-3), 3)


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
