"""A trained model as a recipe names it, and what another model learns from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash.asking import check_guidance, differing
from inkwash.conditions import ByGuidance
from inkwash.data import Dataset
from inkwash.data.dataset import Array
from inkwash.earlier import split_step
from inkwash.fewstep import Velocity
from inkwash.guidance import Along, highest
from inkwash.kinds import foreign, to_table
from inkwash.model import Model
from inkwash.modelfolder import Config, find_model, model_hash
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import Teacher
from inkwash.sampling import Sampling
from inkwash.teaching.pairing import Told, pairs, rehearsed
from inkwash.types import Condition, Denoiser, Query, Steered, like


@dataclass(frozen=True)
class Bound:
    """A teacher with its weights: its pipeline, how it is followed, and what the recipe then says of it.

    told: the scale of its guidance, where its student is told it; None: that of `own`.
    """

    pipe: Pipeline
    own: Sampling
    stated: Teacher
    told: ByGuidance | None = None

    @property
    def velocity(self) -> Velocity:
        """Its velocity eps - x0 on the linear path, of what its student is asked for, guided as it is followed.

        Where that path has more noise than the model knows, or where what it says leaves the data open, it is asked for
        the data at the last time before.
        """
        model = self.pipe.model
        denoiser: Denoiser = model
        if model.path != Linear():
            denoiser = Along(model, model.path, Linear())
        denoiser = self.pipe.guided(replace(self.own, path=None), Linear(), denoiser)
        top = _sound(model)

        def velocity(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            at = t.clamp(max=top)
            answer = denoiser(Query(x, at, at), self.asked(cond))
            if bool((t <= top).all()):
                return answer.eps - answer.x0
            beyond = like((t > top).double(), x).bool()
            return torch.where(beyond, (x - answer.x0) / like(t, x), answer.eps - answer.x0)

        return velocity

    def asked(self, cond: Condition) -> Condition:
        """What it is asked for where its student is asked for `cond`, whose scale is that of its guidance."""
        if self.told is None or self.pipe.config.conditions.guidance is not None:
            return cond
        rest, scale = self.told.taken_from(cond)
        return Steered(**vars(rest), scale=scale)

    def pairs(self, data: Dataset, among: Array, progress: Told | None = None) -> Dataset:
        """As many of its pictures as the recipe asks for, with the noise they are of: see `pairs`."""
        sha256, count = str(self.stated.sha256), self.stated.pairs
        return pairs(self.pipe, sha256, data, self.own, count, among=among, told=self.told, progress=progress)

    def rehearsed(self, data: Dataset) -> float:
        """About how many seconds its pairs take to draw: see `rehearsed`."""
        return rehearsed(self.pipe, data, self.own, self.stated.pairs, told=self.told)


def _sound(model: Model) -> float:
    """The highest time of the linear path at which what the model says determines the data, as it has been trained.

    Of noise, in which an error of the network is one of sigma/alpha in the data, DDPM's end, 157, is the most that
    anybody has trained.
    """
    last = model.path(torch.ones(1, dtype=torch.float64))
    a, b = model.target(last)
    known = highest(model.path, Linear())
    if float((last.alpha * b - last.sigma * a).abs()) > 1e-3:
        return known
    return min(known, float(Linear().time(torch.tensor(157.0, dtype=torch.float64))))


def find_teacher(wanted: Teacher, student: Config, device: torch.device, autocast: torch.dtype | None) -> Bound:
    """Load the teacher that a recipe names, to compute as its student does.

    Code from outside the package is run where the student's recipe names it as well. Raises ValueError for a model of
    other pictures or conditions than the student's, for other weights than the recipe says, and for guidance of a model
    with nothing to push away from.
    """
    precision: Literal["fp32", "bf16"] = "fp32" if autocast is None else "bf16"
    named = json.loads(checkpoint.load_text(find_model(split_step(wanted.run)[0]), "config.json"))
    known = {*foreign(to_table(student)), *foreign(to_table(wanted))}  # code that the recipe itself names
    pipe = load(wanted.run, device=str(device), precision=precision, chunk=64, trust=known.issuperset(foreign(named)))
    found = model_hash(pipe.config, pipe.model)
    if wanted.sha256 not in (None, found):
        raise ValueError(
            f"The teacher in {wanted.run} is not the one this run was begun with: its SHA-256 is {found[:12]}, then "
            f"{str(wanted.sha256)[:12]}. Give that one back, or start a new run."
        )
    told = student.conditions.guidance
    same = student  # a teacher that is told the scale of guidance has a student that is told the same
    if pipe.config.conditions.guidance is None:
        same = replace(student, conditions=replace(student.conditions, guidance=None))
    if (wrong := differing(same, pipe.config)) is not None:
        raise ValueError(
            f"The teacher {wanted.run} does not fit its student: it differs in its {wrong}. Both must draw the same "
            "kind of pictures, and be told of them in the same way."
        )
    own = wanted.sampler or replace(pipe.config.sampling, guidance=pipe.unguided)
    for scale in (own.guidance,) if told is None else (told.low, told.high):
        check_guidance(pipe.config, replace(own, guidance=scale))
    return Bound(pipe, own, replace(wanted, sha256=found, sampler=own), told)
