"""From a recipe and its data to a model: what the recipe leaves open is decided here, once, and written down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from inkwash.asking import hideable
from inkwash.asking.rows import condition_of, encoded, with_conditions
from inkwash.codec import Codec, LatentCodec, Latents, Pixels, Scaled, Standard, codec_for
from inkwash.data import Dataset, Rows, split
from inkwash.device import autocast_dtype, keep_memory, pick_device
from inkwash.fewstep import FlowMap
from inkwash.kinds import foreign, to_table
from inkwash.model import AnyInputs, EdmInputs, Indexed, Model, UnitVariance
from inkwash.modelfolder import Config
from inkwash.nets import MLP, UNet
from inkwash.nets.layers import recompute
from inkwash.noise import Philox, Stream
from inkwash.paths import Table, is_noise_level
from inkwash.recipes import Recipe
from inkwash.targets import Edm
from inkwash.teaching import Bound as Teaching
from inkwash.teaching import drawn_in, find_teacher
from inkwash.training.compiling import pays
from inkwash.training.conditioning import notes, settled
from inkwash.training.encoding import Told, few, find_codec, in_latents, measured, misfit
from inkwash.training.starting import Start
from inkwash.types import Batch, Objective

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
    steps: the length of the run, None where it is in minutes; notes: what a user should know of what was decided;
    pairs_seconds: what the teacher's pairs took to draw, None without pairs, or where it was not written down.
    """

    recipe: Recipe
    config: Config
    model: Model
    dataset: Dataset
    device: torch.device
    pictures: Dataset
    codec: Codec
    steps: int | None = None
    notes: tuple[str, ...] = ()
    teacher: Teaching | None = None
    pairs_seconds: float | None = None

    @property
    def objective(self) -> Objective:
        """The recipe's, with the teacher's velocity in it where there is one to learn from."""
        loss = self.recipe.objective
        if self.teacher is None or self.teacher.stated.pairs or not isinstance(loss, FlowMap):
            return loss
        return loss.taught(self.teacher.velocity)

    @property
    def trained_on(self) -> np.ndarray:
        """The rows of `dataset` that are trained on: those that are not held out, or all pairs of a teacher."""
        return self.seen_rows if self.dataset.noise is None else np.arange(len(self.dataset))

    @property
    def seen_rows(self) -> np.ndarray:
        """The rows of `pictures` that are not held out."""
        return split(self.pictures, self.recipe.data.val_fraction, self.recipe.train.seed)[0]

    @property
    def rates(self) -> dict[str, float]:
        """How often each of the model's conditions is hidden in training."""
        told = self.config.conditions
        parts = {"text": told.text, "vector": told.vector, "image": told.image}
        rates = {name: part.dropout for name, part in parts.items() if part is not None}
        return ({"label": self.recipe.train.label_dropout} if self.config.classes else {}) | rates

    def batch(self, rows: Rows, number: Tensor, seed: int | None = None) -> Batch:
        """Encode rows of `dataset` for the objective, on the run's device, with all their conditions shown.

        number: see `Batch`; seed: of what a condition draws, the run's own by default, a scale of guidance too.
        """
        x0, eps = encoded(self.codec, rows.images, self.device), None
        noise = Philox(self.recipe.train.seed if seed is None else seed, number)
        if rows.noise is not None:  # what a condition draws was drawn with the pair, too
            noise = Philox(rows.noise[0], torch.from_numpy(rows.noise[1]))
            eps = noise(x0, 0, Stream.START)
        told = self.config.conditions.guidance
        scale = None if told is None else told.drawn(noise)
        cond = condition_of(self.config, self.codec, rows, noise, self.device, scale)
        return Batch(x0, cond, number, self.recipe.train.batch_size, eps=eps, bin=self.codec.bin)

    def seen(self, data: Dataset, progress: Told | None = None) -> Dataset:
        """A data set like `pictures` in the form of `dataset`. progress: told (what, done, total) while it encodes."""
        if isinstance(self.codec, LatentCodec):
            image = self.config.conditions.image
            data = in_latents(self.codec, data, progress, image.task if image else None)
        return with_conditions(self.config, self.codec, data, progress)


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
    start = Start.of(train.init_from, recipe.conditions) if train.init_from and not resumed else None
    told = settled(recipe, dataset, trained_on, device, start.conditions if start else None)
    examples = recipe.teacher.pairs if recipe.teacher and recipe.teacher.pairs else len(trained_on)
    steps = train.steps if train.epochs is None else math.ceil(train.epochs * examples / train.batch_size)
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
        conditions=told,
        sampling=recipe.sampler,
        data=dataset.name,
        learned_variance=recipe.learns_variance,
        objective=None if any(foreign({"objective": to_table(recipe.objective)})) else recipe.objective,
        jumps=recipe.jumps,
        label_dropout=train.label_dropout,
    )
    if recipe.sampler.guidance != 1 and told.guidance is None and not hideable(config):
        raise ValueError(
            f"sampler.guidance = {recipe.sampler.guidance} needs classes, or another condition, hidden now and "
            f"then; {dataset.name} has none. Use guidance = 1."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.train.seed)
        try:
            model = config.build()
        except ValueError as error:
            if recipe.conditions is not None or not told.names:
                raise
            without = ", ".join(f"--{name} none" for name in told.names)
            raise ValueError(f"{error} What the data have besides is left out with {without}.") from error
    said = list(notes(recipe, told, dataset))
    if start is not None:
        start.check_codec(description)
        said += start.give(model, config)
    if train.grad_checkpoint and not recompute(model.net):
        raise ValueError(
            f"train.grad_checkpoint = true computes a network's blocks again, and {type(net).__name__} has none that "
            "can be. Leave it out."
        )
    if isinstance(codec, LatentCodec) and recipe.codec is not None and stated is not None:
        new = recipe.codec.sha256 is None and recipe.train.init_from is None
        if codec.preset and new and not dry:  # a model to start from, or to go on with, has its own
            codec, stated = measured(codec, stated, pictures, trained_on, progress)
        description = codec.config
    config = replace(config, codec=description)
    recipe = replace(recipe, data=data, net=net, train=train, codec=stated, conditions=told)
    setup = Setup(recipe, config, model, pictures, device, pictures, codec, steps, tuple(said))
    setup.dataset = few(config, codec, pictures) if dry else setup.seen(pictures, progress)
    if recipe.teacher is not None:
        setup.teacher = find_teacher(recipe.teacher, config, device, autocast)
        recipe = replace(recipe, teacher=setup.teacher.stated)
        if setup.teacher.stated.pairs and not dry:
            setup.dataset = setup.teacher.pairs(setup.dataset, trained_on, progress)
            setup.pairs_seconds = drawn_in(setup.dataset)
            if setup.pairs_seconds is not None:
                took = f"{len(setup.dataset):,} pairs took {setup.pairs_seconds / 60:,.1f} minutes to draw"
                setup.notes += (f"Its {took}, which the length of the run does not count.",)
    inputs = recipe.inputs or _inputs(recipe, setup.dataset, codec)
    setup.recipe = replace(recipe, inputs=inputs)
    setup.config, model.inputs = replace(config, inputs=inputs), inputs
    if device.type == "cpu":
        keep_memory()
    model.net.to(device)
    model.autocast = autocast
    return setup


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
    return round(max(float(encoded(codec, np.asarray(dataset.images[rows]), "cpu").std()), 1e-3), 3)
