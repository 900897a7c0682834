"""Starting from a trained model: whose weights they are, what they mean, and what is new beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash import checkpoint
from inkwash.codec import Latents
from inkwash.conditions import Conditions
from inkwash.earlier import kept_at, split_step
from inkwash.features.weights import tensors_hash
from inkwash.kinds import foreign, from_table, in_text, to_table
from inkwash.model import Model
from inkwash.modelfolder import CODEC, Config, find_model
from inkwash.training.encoding import identity

_SUMMED = ("embed.label.weight", "embed.numbers.out.weight")
"""Weights that, as they are made, move what a network says at once: new beside trained ones they begin at zero."""

_NUMBERS = ("embed.numbers.unknown", "embed.numbers.out.weight")
"""Weights that read the numbers a network is told, in their order."""


@dataclass(frozen=True)
class Start:
    """A model to start from: its weights, its config.json as a table, its codec's weights, and its conditions.

    source: its folder, its run's, or RUN@STEP for the weights of an earlier step.
    """

    source: str
    weights: Mapping[str, Tensor]
    table: Mapping[str, Any]
    codec: Mapping[str, Tensor]
    conditions: Conditions

    @classmethod
    def of(cls, source: str, told: Conditions | None = None) -> Start:
        """Read it; no code its config may name is run but what a recipe's own conditions name.

        Raises ValueError where it cannot be loaded.
        """
        files = ["model.safetensors", "config.json"]
        run, step = split_step(source)
        try:
            saved = checkpoint.load(find_model(run), files, also=[f"{CODEC}.safetensors"])
        except checkpoint.CheckpointError as error:
            raise ValueError(f"init_from = {source} cannot be loaded: {error}") from error
        table = json.loads(saved.texts["config.json"])
        weights = saved.tensors["model"] if step is None else kept_at(run, step, table.get("ema")).weights
        stated = table.get("conditions", {})
        known = set() if told is None else set(foreign(to_table(told)))
        conditions: Conditions = from_table(Conditions, stated, trust=known.issuperset(foreign(stated)))
        return cls(source, weights, table, saved.tensors.get(CODEC, {}), conditions)

    def check_codec(self, codec: Any) -> None:
        """Raise ValueError where it is not of what this codec makes."""
        table = self.table.get("codec", {})
        of_latents = table.get("kind") == "latents"
        if of_latents != isinstance(codec, Latents):
            what = ["is not of latents, and this run is", "is of latents, and this run is not"][of_latents]
            fix = f"Add --codec {self.source}" if of_latents else "Use no codec"
            raise ValueError(f"init_from = {self.source} {what}. {fix}.")
        if isinstance(codec, Latents):
            other = replace(from_table(Latents, table), sha256=tensors_hash(self.codec))
            if identity(other) != identity(codec):
                raise ValueError(
                    f"init_from = {self.source} is a model of the latents of another codec, or of other statistics: "
                    f"its weights mean nothing in these. Train in its own with --codec {self.source}."
                )

    def give(self, model: Model, config: Config) -> list[str]:
        """Load its weights into a model; what a user should know of what is new in it.

        The model may have conditions that this one has not. What reads them is made anew, so that at first the network
        answers as before, where texts are read by cross-attention. A variance that is learned no more is left out.
        Raises ValueError for other networks, and where a condition that both have means something else.
        """
        self._check_meaning(config)
        mine = model.net.state_dict()
        before = replace(
            config,
            classes=tuple(self.table.get("classes", ())),
            conditions=self.conditions,
            jumps=bool(self.table.get("jumps", False)),
            learned_variance=bool(self.table.get("learned_variance", False)),
        )
        with torch.device("meta"):
            wanted = before.network().state_dict()
        wrong = [k for k in {**wanted, **self.weights} if _shape(wanted, k) != _shape(self.weights, k)]
        theirs = {k: _with_one_number_more(v, mine.get(k)) if k in _NUMBERS else v for k, v in self.weights.items()}
        places = getattr(model.net, "places", None)
        if before.learned_variance and not config.learned_variance and places:
            theirs = {k: _without_variance(v, mine.get(k), places) for k, v in theirs.items()}
        wrong = wrong or [k for k in theirs if _shape(mine, k) != _shape(theirs, k)]
        if wrong:
            k = wrong[0]
            raise ValueError(
                f"init_from = {self.source} does not fit this run: {len(wrong)} weights differ in name or shape, the "
                f"first {k}: {_shape(mine, k)} here, {_shape(theirs, k)} there. Net, shape and number of classes must "
                "be the same, and what it is told by must be among what this run's model is."
            )
        new = {k: torch.zeros_like(v) if k in _SUMMED else v for k, v in mine.items() if k not in theirs}
        model.net.load_state_dict({**theirs, **new})
        names = [n for n in config.conditions.names if n not in self.conditions.names]
        names = (["label"] if config.classes and not before.classes else []) + names
        names += ["guidance"] if config.conditions.guidance and not self.conditions.guidance else []
        said = []
        if names:
            new_to = " and ".join(names)
            said.append(f"{self.source} knows nothing of {new_to}: what reads that is new, and has all to learn.")
        if config.classes and before.classes and (other := _renamed(before.classes, config.classes)):
            said.append(
                f"{self.source} knows other classes, or in another order: what it has learned of {other[0]} is where "
                f"{other[1]} begins."
            )
        return said

    def _check_meaning(self, config: Config) -> None:
        """Raise ValueError where a text, numbers or a picture would be told otherwise than it has learned them."""
        ours, here = self.conditions, config.conditions
        if ours.text and here.text and ours.text.sha256 != here.text.sha256:
            raise ValueError(
                f"init_from = {self.source} reads texts by another encoder, {ours.text.encoder}: the tokens of "
                f"{here.text.encoder} mean nothing to it. Set conditions.text.encoder to its own."
            )
        if ours.vector and here.vector and ours.vector != replace(here.vector, dropout=ours.vector.dropout):
            raise ValueError(
                f"init_from = {self.source} knows the numbers {', '.join(ours.vector.names)}, of its own mean and "
                f"deviation, and this run has {', '.join(here.vector.names)}, or other ones. They must be the same."
            )
        if ours.guidance and ours.guidance != here.guidance:
            raise ValueError(
                f"init_from = {self.source} is told the scale of guidance, from {ours.guidance.low:g} to "
                f"{ours.guidance.high:g}: a run that starts from it has the same conditions.guidance."
            )
        if ours.image and here.image and ours.image.task != here.image.task:
            raise ValueError(
                f"init_from = {self.source} has learned {in_text(ours.image.task)}, and this run is to learn "
                f"{in_text(here.image.task)}: it would take one picture for the other. Set conditions.image.task to "
                "its own, or start anew."
            )


def _with_one_number_more(theirs: Tensor, mine: Tensor | None) -> Tensor:
    """Weights that read numbers, with zeros for one that comes after them: at first it says nothing."""
    more = 0 if mine is None else mine.shape[-1] - theirs.shape[-1]
    return F.pad(theirs, (0, more)) if more > 0 else theirs


def _without_variance(theirs: Tensor, mine: Tensor | None, places: int) -> Tensor:
    """The half of a last layer that answers; the other says how wide the posterior is, and is left out.

    places: how many a network's last layer answers for side by side, all channels of one and then those of the next.
    """
    if mine is None or theirs.shape != (2 * mine.shape[0], *mine.shape[1:]):
        return theirs
    return theirs.reshape(places, 2, -1, *mine.shape[1:])[:, 0].reshape(mine.shape)


def _renamed(theirs: Sequence[str], ours: Sequence[str]) -> tuple[str, str] | None:
    """The first class of another name at its place."""
    return next((pair for pair in zip(theirs, ours, strict=True) if pair[0] != pair[1]), None)


def _shape(weights: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(weights[name].shape)) if name in weights else "missing"
