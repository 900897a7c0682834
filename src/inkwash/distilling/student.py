"""The recipe of a student: what it takes over from its teacher, and what it learns by which method."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Annotated, Any, Literal

from inkwash.asking import hideable
from inkwash.codec import Latents
from inkwash.conditions import ByGuidance, Conditions
from inkwash.data import DataSpec
from inkwash.earlier import split_step
from inkwash.edit import check_deterministic
from inkwash.fewstep import Consistency, FlowMap, MeanFlow, Shortcut, SoFlow
from inkwash.grids import Cut, Even, Listed
from inkwash.kinds import OneOf
from inkwash.model import AnyInputs, CarriedInputs
from inkwash.modelfolder import Config, find_model, read_config
from inkwash.objectives import AnyObjective, Regression
from inkwash.optim import Muon
from inkwash.paths import Linear
from inkwash.recipes import InLatents, Recipe, Teacher, Train, read_recipe
from inkwash.samplers import AnySampler, Euler, Heun, Jumps
from inkwash.sampling import Sampling
from inkwash.targets import AnyTarget, Carried, Eps, Flow
from inkwash.times import AnyDensity, UShaped, Visited
from inkwash.training.encoding import identity
from inkwash.types import Component

USUAL = (1, 2, 4)
"""In how many steps a student draws unless others are named."""

FOLLOWED = 16
"""Heun's steps, at least, where a model's own sampler does not follow its flow. Custom: reflowed ones are straight."""


@dataclass(frozen=True)
class Reflow(Component):
    """Flow matching on pairs of noise and what the teacher makes of it: a nearly straight flow (Liu et al. 2023).

    pairs: how many are drawn, each a whole trajectory of the teacher's; times: the density of training times. steps:
    distil to so many: only the times that Euler's even steps visit, and the size of the error in place of its square,
    as a pair leaves nothing to chance where its flow is straight; (): a flow, of all times.
    """

    pairs: int = 10_000
    times: AnyDensity = field(default_factory=UShaped)
    steps: tuple[int, ...] = ()
    kind: Literal["reflow"] = field(default="reflow", kw_only=True, repr=False)

    @property
    def objective(self) -> AnyObjective:
        """Plain regression: the noise comes with the data."""
        return Regression(loss="l1", times=Visited(self.steps)) if self.steps else Regression(times=self.times)


AnyMethod = Annotated[SoFlow | Consistency | Shortcut | MeanFlow | Reflow, OneOf()]
"""How a student learns."""


def student(
    run: str | File,
    method: AnyMethod,
    *,
    steps: Sequence[int] | None = None,
    minutes: float = 10.0,
    guidance: float | tuple[float, float] | None = None,
    pairs: int | None = None,
    data: str | None = None,
    trust: bool = False,
) -> Recipe:
    """The recipe of a student of the model in a run's folder, begun with that model's weights; RUN@STEP as it was then.

    steps: in how many it is to be sampled, in the most of them unless others are asked for, and `SoFlow` learns the
    jumps of these alone (objective.steps = () is any); None: what the method says, or 1, 2 and 4; guidance: of the
    teacher's that becomes part of the student, which is then sampled without; None: as the teacher is drawn unless
    others are asked for; (low, high): the student is told the scale, and drawn as the teacher unless others are asked
    for; pairs: learn from so many pictures of the teacher's, and from no data; data: what the teacher was trained on,
    where its run's recipe does not say; trust: whether code from outside the package, which the teacher's config names,
    may be run.
    Raises ValueError where nothing says it, for guidance of a model with nothing to push away from, for another than
    that of a teacher which is told it itself, and for what `Recipe` refuses.
    """
    run, step = split_step(run)
    folder = find_model(run)
    config = read_config(folder, trust=trust)
    told = _told(folder, config, data)
    whole = str(folder.absolute())
    teacher = whole if step is None else f"{whole}@{step}"
    taught, scale = _guidance(config, guidance, folder)
    if isinstance(method, Reflow) and config.jumps:
        raise ValueError(
            f"{folder} is a network of two times, and reflow trains one of one, which cannot begin with its weights. "
            "Use reflow on its teacher, or --pairs with another method."
        )
    if not config.flows:
        raise ValueError(
            f"{folder} has no flow to learn from: {config.objective} is of a few times alone. Use the run that it was "
            "distilled from."
        )
    target, inputs = _carried(config)
    drawn = method.pairs if isinstance(method, Reflow) else 0
    objective = method.objective if isinstance(method, Reflow) else method
    own = method.steps if isinstance(method, SoFlow | Reflow) else ()
    counts = tuple(steps or own or USUAL)
    if isinstance(objective, SoFlow) and not own:
        objective = replace(objective, steps=counts)
    if isinstance(objective, FlowMap) and isinstance(config.target, Eps) and objective.begin == 0:
        objective = replace(objective, begin=0.3)  # what the network says has a new meaning: first it learns that
    baked = taught is not None or scale != 1 or drawn > 0 or pairs is not None
    # A consistency model has learned jumps to the data alone.
    jumps = Jumps(renoise=1.0 if isinstance(method, Consistency) else 0.0)
    sampler: AnySampler = Euler() if isinstance(method, Reflow) else jumps
    followed = replace(config.sampling, guidance=scale)
    if drawn or pairs is not None:
        followed = _followed(config, followed)
    return replace(
        told,
        path=Linear(),
        target=target,
        net=config.net,
        inputs=inputs,
        objective=objective,
        optim=Muon(lr=3e-3, weight_decay=0.0),
        train=replace(
            told.train,
            minutes=minutes,
            steps=None,
            epochs=None,
            init_from=teacher,
            # Guidance is part of it: what it would be without is learned no more.
            label_dropout=1.0 if not config.classes else 0.0 if baked else told.train.label_dropout,
        ),
        sampler=Sampling(method=sampler, steps=max(counts), guidance=1.0 if taught is None else scale, grid=Cut()),
        codec=InLatents(whole, identity(config.codec)) if isinstance(config.codec, Latents) else None,
        conditions=_always(config.conditions, taught) if baked else config.conditions,
        teacher=Teacher(teacher, sampler=followed, pairs=drawn if pairs is None else pairs),
    )


def _guidance(
    config: Config, wanted: float | tuple[float, float] | None, folder: File
) -> tuple[ByGuidance | None, float]:
    """The scales a student of this teacher is taught to be told, None for none; and the one it is drawn with."""
    own, taught = config.sampling.guidance, config.conditions.guidance
    if taught is not None:
        if wanted not in (None, (taught.low, taught.high)):
            raise ValueError(
                f"{folder} is told the scale of guidance, from {taught.low:g} to {taught.high:g}, and so is a student "
                "of it. Leave guidance out."
            )
        return taught, own
    if isinstance(wanted, tuple):
        taught = ByGuidance(*wanted)
        scale = taught.nearest(own)
    else:
        scale = own if wanted is None else wanted
    if (taught is not None or scale != 1) and not hideable(config):
        raise ValueError(
            f"guidance = {scale:g} needs a teacher with something to push away from: classes, or another condition "
            f"that training hid at times, and {folder} has neither. Use guidance = 1."
        )
    return taught, scale


def _always(told: Conditions, taught: ByGuidance | None) -> Conditions:
    """The same conditions, never hidden, and what is taught of guidance."""
    parts = {"text": told.text, "vector": told.vector, "image": told.image}
    shown: dict[str, Any] = {name: part and replace(part, dropout=0.0) for name, part in parts.items()}
    return replace(told, guidance=taught, **shown)


def _told(folder: File, config: Config, data: str | None) -> Recipe:
    """What the teacher's run says of its data and its training; of a model alone, only the data are known."""
    written = folder.parent / "recipe.toml"
    if written.is_file():
        recipe = read_recipe(written)
        return recipe if data is None else replace(recipe, data=replace(recipe.data, source=data))
    if data is None:
        raise ValueError(
            f"{folder} is a model without its run, and nothing says what it was trained on. Name the data with --data "
            "SOURCE."
        )
    spec = DataSpec(data)
    if len(config.pictures) == 3:
        spec = replace(spec, size=config.pictures[1:], channels=config.pictures[0])
    return Recipe(spec, train=Train(batch_size=64))


def _carried(config: Config) -> tuple[AnyTarget, AnyInputs]:
    """What the teacher's network predicts and is shown, on the linear path."""
    if config.path == Linear():
        return config.target, config.inputs
    told: Any = config.inputs
    inputs = told if isinstance(told, CarriedInputs) else CarriedInputs(told, config.path)
    if isinstance(config.target, Eps):
        return Flow(), inputs
    theirs: Any = config.target
    return Carried(theirs, config.path), inputs


def _followed(config: Config, own: Sampling) -> Sampling:
    """How pairs are drawn: by the teacher's own sampler if it adds no noise, else `FOLLOWED` steps of Heun's or more.

    A reflowed model is drawn in a few of Euler's, and its pairs are to be its flow's: they take Heun's, too. Those of a
    model of jumps are where its own lead.
    """
    few = own.steps < FOLLOWED
    if not (few and isinstance(own.method, Euler)):
        with suppress(ValueError):
            check_deterministic(own.method, own.path or config.path, own.times(config.path))
            return own
    grid = Even() if few and isinstance(own.grid, Listed) else own.grid  # a list has no more times than it has
    return replace(own, method=Heun(), steps=max(own.steps, FOLLOWED), grid=grid)
