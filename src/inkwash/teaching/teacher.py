"""A trained model as a recipe names it, and what another model learns from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from inkwash.asking import differing, hideable
from inkwash.data import Dataset
from inkwash.data.dataset import Array
from inkwash.fewstep import Velocity
from inkwash.guidance import Along, highest
from inkwash.model import Model
from inkwash.modelfolder import Config, model_hash
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import Teacher
from inkwash.sampling import Sampling
from inkwash.teaching.pairing import Told, pairs
from inkwash.types import Condition, Denoiser, Query, like


@dataclass(frozen=True)
class Bound:
    """A teacher with its weights: its pipeline, how it is followed, and what the recipe then says of it."""

    pipe: Pipeline
    own: Sampling
    stated: Teacher

    @property
    def velocity(self) -> Velocity:
        """Its velocity eps - x0 on the linear path, guided as it is followed.

        Where that path has more noise than the model knows, or where what it says leaves the data open, it is asked for
        the data at the last time before.
        """
        model = self.pipe.model
        denoiser: Denoiser = model
        if model.path != Linear():
            denoiser = Along(model, model.path, Linear())
        denoiser = self.own.guided(denoiser, hideable(self.pipe.config), model.path)
        top = _sound(model)

        def velocity(x: Tensor, t: Tensor, cond: Condition) -> Tensor:
            at = t.clamp(max=top)
            answer = denoiser(Query(x, at, at), cond)
            if bool((t <= top).all()):
                return answer.eps - answer.x0
            beyond = like((t > top).double(), x).bool()
            return torch.where(beyond, (x - answer.x0) / like(t, x), answer.eps - answer.x0)

        return velocity

    def pairs(self, data: Dataset, among: Array, progress: Told | None = None) -> Dataset:
        """As many of its pictures as the recipe asks for, with the noise they are of: see `pairs`."""
        sha256, count = str(self.stated.sha256), self.stated.pairs
        return pairs(self.pipe, sha256, data, self.own, count, among=among, progress=progress)


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

    Raises ValueError for a model of other pictures or conditions than the student's, for other weights than the recipe
    says, and for guidance of a model with nothing to push away from.
    """
    precision: Literal["fp32", "bf16"] = "fp32" if autocast is None else "bf16"
    pipe = load(wanted.run, device=str(device), precision=precision, chunk=64)
    found = model_hash(pipe.config, pipe.model)
    if wanted.sha256 not in (None, found):
        raise ValueError(
            f"The teacher in {wanted.run} is not the one this run was begun with: its SHA-256 is {found[:12]}, then "
            f"{str(wanted.sha256)[:12]}. Give that one back, or start a new run."
        )
    if (wrong := differing(student, pipe.config)) is not None:
        raise ValueError(
            f"The teacher {wanted.run} does not fit its student: it differs in its {wrong}. Both must draw the same "
            "kind of pictures, and be told of them in the same way."
        )
    own = wanted.sampler or replace(pipe.config.sampling, guidance=1.0)
    changes: dict[str, Any] = {"guidance": own.guidance}
    pipe.settings(**changes)  # refuses guidance of what cannot be guided
    return Bound(pipe, own, replace(wanted, sha256=found, sampler=own))
