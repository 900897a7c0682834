"""What a run is: one frozen dataclass whose fields are the tables of a recipe file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from inkwash.conditions import ByGuidance, Conditions, Paired
from inkwash.data import DataSpec
from inkwash.edit import check_deterministic
from inkwash.features import AnyFeatures, Lite0
from inkwash.fewstep import FlowMap
from inkwash.grids import Even, Quadratic
from inkwash.model import AnyInputs, Indexed
from inkwash.nets import AnyNet, UNet
from inkwash.objectives import AnyObjective, Regression
from inkwash.optim import AnyOptim, Muon
from inkwash.paths import AnyPath, Linear, Table, is_noise_level
from inkwash.samplers import Jumps
from inkwash.sampling import Sampling
from inkwash.targets import AnyTarget, Flow, check, trained_times
from inkwash.times import LogitNormal, Uniform
from inkwash.types import Component


class RecipeError(ValueError):
    """A recipe that cannot be run; the message lists everything that is wrong with it, `mistakes` has it one by one."""

    def __init__(self, message: str, mistakes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.mistakes = tuple(mistakes) or (message,)


LENGTHS = ("steps", "minutes", "epochs")
"""The names of one fact: how long a run is."""


@dataclass(frozen=True)
class Train(Component):
    """The length of a run and what happens along it.

    steps, minutes or epochs: how long (30 minutes unless one is given). accumulate: parts a batch is computed in.
    precision: auto is bf16 where the machine gains from it. compile: auto compiles where the run is long enough to gain
    from it. grad_checkpoint: the network's blocks keep what they are given and are computed again backwards: less
    memory, a third more time, the same results. label_dropout: the share of labels hidden, for guidance; 1 trains a
    model without classes. clip: the largest gradient norm. ema: the averaging window of the weights as a share of the
    run so far (sigma_rel).
    snapshots: at most so many snapshots of two averages are kept, from which any other length is rebuilt after training
    (`inkwash ema`); 0 keeps none. *_every: in steps. keep: checkpoints kept besides the best. patience: steps in a row
    with a non-finite loss or gradient after which the run stops. init_from: a model to start from. tensorboard: also
    log for TensorBoard, which the extra `inkwash[track]` installs.
    """

    steps: int | None = None
    minutes: float | None = None
    epochs: float | None = None
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", True, False] = "auto"
    grad_checkpoint: bool = False
    label_dropout: float = 0.1
    clip: float = 1.0
    ema: float = 0.1
    snapshots: int = 32
    checkpoint_every: int = 1000
    keep: int = 3
    sample_every: int = 500
    samples: int = 64
    patience: int = 20
    init_from: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        said = [f"{name} = {getattr(self, name)}" for name in LENGTHS if getattr(self, name) is not None]
        if len(said) > 1:
            raise ValueError(f"{' and '.join(said)} {['both', 'all'][len(said) - 2]} say how long. Give one of them.")
        if not said:
            object.__setattr__(self, "minutes", 30.0)
        positive = (*LENGTHS, "batch_size", "accumulate", "checkpoint_every", "sample_every", "keep")
        for name in (*positive, "samples", "patience", "clip", "ema"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value} must be more than 0.")
        if self.ema >= 12**-0.5:
            raise ValueError(f"ema = {self.ema} must lie between 0 and 0.28. Usual values are 0.05 to 0.15.")
        if self.snapshots != 0 and self.snapshots < 2:
            raise ValueError(f"snapshots = {self.snapshots} must be at least 2, or 0 for none. The usual value is 32.")
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout = {self.label_dropout} must lie within [0, 1].")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size = {self.batch_size} does not divide into accumulate = {self.accumulate} parts."
            )


@dataclass(frozen=True)
class InLatents(Component):
    """Diffuse latents instead of pixels.

    folder: of a codec, or of a run that trained one, of a model of latents, or of an autoencoder of diffusers. sha256:
    of the codec, its weights and statistics; written down when a run begins, and no other is taken to go on with it.
    mean, std: of each channel, as measured over the run's data where the codec came with a published preset; None where
    it has its own.
    """

    folder: str
    sha256: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Teacher(Component):
    """A trained model to learn from, besides the data or in their place.

    run: its folder, or the run's. sha256: of all that it is; written down when a run begins, and no other is taken to
    go on with it. sampler: how it is followed: its guidance, rule and interval become part of what is learned, and the
    rest is how pairs are drawn; None: as the model says, without guidance. With conditions.guidance each example, or
    pair, is taught with a scale of its own, in place of the one here. pairs: so many pictures of the teacher's,
    each with the noise it was drawn from, are trained on in place of the data; 0 trains on the data, with the teacher's
    velocities (an objective of `inkwash.fewstep`).
    """

    run: str
    sha256: str | None = None
    sampler: Sampling | None = None
    pairs: int = 0

    def __post_init__(self) -> None:
        if self.pairs < 0:
            raise ValueError(f"pairs = {self.pairs} must be at least 0. Usual are 10,000 to 100,000.")


@dataclass(frozen=True)
class Evaluation(Component):
    """What is measured while a run goes on, with the averaged weights, where there are pictures it does not train on.

    split: these are what data.val_fraction holds out ("val"), or the data's own test split. images, every: the
    validation loss is measured on up to so many of them, and on as many training pictures, every so many steps.
    measure: also draw measure_n pictures every measure_every steps, and compare them with these, by the Fréchet
    distance ("fd") or the kernel distance ("kid") of `features`; checkpoints are then kept by it, not by the loss.
    """

    images: int = 256
    every: int = 500
    split: Literal["val", "test"] = "val"
    measure: Literal["fd", "kid"] | None = None
    measure_every: int = 5000
    measure_n: int = 1000
    features: AnyFeatures = field(default_factory=Lite0)

    def __post_init__(self) -> None:
        for name, least in (("images", 1), ("every", 1), ("measure_every", 1), ("measure_n", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least {least}.")


@dataclass(frozen=True)
class Recipe(Component):
    """A whole run. `net` and `inputs` left out are chosen by the data and the path when the run is set up.

    codec: None diffuses the data themselves: pixels, or points. conditions: what the model is told besides labels, and
    nothing else; None: what the data have, captions, numbers (data.vector) and pairs (data.pairs). teacher: a model to
    learn from.

    Raises ValueError for parts that do not fit each other.
    """

    data: DataSpec
    path: AnyPath = field(default_factory=Linear)
    target: AnyTarget = field(default_factory=Flow)
    net: AnyNet | None = None
    inputs: AnyInputs | None = None
    objective: AnyObjective = field(default_factory=Regression)
    optim: AnyOptim = field(default_factory=Muon)
    train: Train = field(default_factory=Train)
    sampler: Sampling = field(default_factory=Sampling)
    evaluation: Evaluation = field(default_factory=Evaluation)
    codec: InLatents | None = None
    conditions: Conditions | None = None
    teacher: Teacher | None = None

    def __post_init__(self) -> None:
        mistakes = list(self._misfits())
        if mistakes:
            raise ValueError(" Also: ".join(mistakes))

    @property
    def learns_variance(self) -> bool:
        """Whether the network is to have outputs for the variance; a user's objective need not say."""
        return bool(getattr(self.objective, "learns_variance", False))

    @property
    def jumps(self) -> bool:
        """Whether the network is to have a second time; a user's objective need not say."""
        return bool(getattr(self.objective, "jumps", False))

    def _misfits(self) -> Iterator[str]:
        """What cannot work together, found without the data: it must be told before anything heavy is done."""
        objective = self.objective  # a user's own need not say anything of itself
        try:
            check(self.path, self.target, getattr(objective, "asked", trained_times)(self.path))
            self.sampler.rehearse(self.path, self.target, learned_variance=self.learns_variance)
        except ValueError as error:
            yield str(error)
        else:
            yield from self._coupled()
            if (why := self.sampler.unlearned(self.objective, self.path)) is not None:
                yield why
        if self.jumps and not isinstance(self.path, Linear):
            yield f"{self.objective} learns mean velocities, steps on the linear path alone. Use path = linear."
        if isinstance(self.sampler.method, Jumps) and not self.jumps:
            yield (
                "sampler = jumps takes a model of two times, and this objective trains one of one. Use another "
                'sampler, or [objective] kind = "soflow".'
            )
        if self.teacher is not None and not self.teacher.pairs and not isinstance(self.objective, FlowMap):
            yield (
                f"A teacher's velocities are learned by objectives of two times (soflow, consistency, shortcut, "
                f"meanflow), and {type(self.objective).__name__} is none. Train on its pictures with teacher.pairs."
            )
        yield from self._levels()
        if self.codec is not None and self.codec.sha256 is None:  # else it was set up, with what was measured
            yield from self._of_latents()
        if self.data.size is not None and self.codec is None:
            try:
                with torch.device("meta"):  # no memory, no arithmetic: only the shapes
                    (self.net or UNet()).build((self.data.channels or 1, *self.data.frame))
            except ValueError as error:
                yield str(error)
        if isinstance(self.inputs, Indexed) and isinstance(self.path, Table) and self.inputs.steps != self.path.steps:
            yield f"inputs counts {self.inputs.steps} steps and the table has {self.path.steps}. Leave inputs out."
        if self.evaluation.measure and self.evaluation.split == "val" and not self.data.val_fraction:
            yield (
                f'evaluation.measure = "{self.evaluation.measure}" compares with pictures that are not trained on, and '
                'none are held out. Use data.val_fraction = 0.05, or evaluation.split = "test".'
            )
        hidden = self.conditions is not None and self.conditions.dropped
        told = None if self.conditions is None else self.conditions.guidance
        if told is not None:
            yield from self._taught(told, bool(hidden))
        elif self.sampler.guidance != 1 and self.train.label_dropout in (0, 1) and not hidden:
            other = "no label" if self.train.label_dropout == 0 else "a label"
            yield (
                f"sampler.guidance = {self.sampler.guidance} compares the model's answers to a label and to none, and "
                f"it never learns that to {other} with train.label_dropout = {self.train.label_dropout:g}. Use 0.1, or "
                "guidance = 1, or state another condition, as in conditions.text = {}."
            )
        if self.conditions is not None:
            yield from self._unused(self.conditions)

    def _taught(self, told: ByGuidance, hidden: bool) -> Iterator[str]:
        """What cannot be with a model that is told the scale of its teacher's guidance."""
        if self.teacher is None:
            yield "conditions.guidance is the scale of a teacher's guidance, and there is no [teacher]. Leave it out."
        if hidden or 0 < self.train.label_dropout < 1:
            yield (
                "conditions.guidance makes guidance part of the model, which then needs no condition hidden. Use "
                "train.label_dropout = 0, and dropout = 0 in [conditions]."
            )
        try:
            told.check(self.sampler.guidance)
        except ValueError as error:
            yield f"sampler.{error}"

    def _unused(self, told: Conditions) -> Iterator[str]:
        """What the data are to have, and a model that is told just these conditions would not look at."""
        if self.data.vector and told.vector is None:
            names = ", ".join(self.data.vector)
            yield f"data.vector asks for {names}, and [conditions] has no vector. Add conditions.vector = {{}}."
        paired = told.image is not None and isinstance(told.image.task, Paired)
        if self.data.pairs is not None and not paired:
            yield f'data.pairs = {self.data.pairs!r} is not looked at. Add conditions.image = {{ task = "paired" }}.'
        if self.data.pairs is None and paired:
            yield "conditions.image is of pairs, and data.pairs does not say where their other halves are."

    def _of_latents(self) -> Iterator[str]:
        """Settings that are right for pixels, of range [-1, 1] and deviation 0.5, and wrong for latents."""
        if self.sampler.clip:
            yield "sampler.clip keeps x0 in [-1, 1], the range of pixels; latents are often beyond. Use clip = false."
        weight = getattr(self.objective, "weight", None)
        for name, part in (("target", self.target), ("inputs", self.inputs), ("objective.weight", weight)):
            std = getattr(part, "data_std", 1.0)
            if not 0.5 < std < 2:
                yield f"{name}.data_std = {std:g}, and latents have deviation 1 in every channel. Use data_std = 1.0."

    def _coupled(self) -> Iterator[str]:
        """A sampler that is not right for noise that depends on the data."""
        if getattr(self.objective, "coupled", False):
            try:
                method, path = self.sampler.method, self.sampler.path or self.path
                check_deterministic(method, path, self.sampler.times(self.path))
            except ValueError as error:
                yield f"objective.coupling pairs noise with data, and then only the flow between them is right. {error}"

    def _levels(self) -> Iterator[str]:
        """What is laid out evenly in t where t is the noise level itself, of which almost all is far above the data."""
        better = []
        if is_noise_level(self.path):
            if isinstance(self.target, Flow):
                better.append('target = "edm" (flow is the noise times the highest level there)')
            if isinstance(getattr(self.objective, "times", None), Uniform | LogitNormal):
                better.append('[objective] times = "log-normal-noise"')
        path = self.sampler.path or self.path
        if is_noise_level(path) and isinstance(self.sampler.grid, Even | Quadratic):
            better.append('[sampler] grid = "karras"')
        if better:
            where = path if is_noise_level(path) else self.path
            yield (
                f"On {where} t is the noise level itself, and only its lowest few hundredths are near the data's: "
                f"use {', '.join(better)}."
            )
