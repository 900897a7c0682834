"""What changes from step to step while an autoencoder is trained, and its checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path as File

import torch
from torch import Tensor, nn

from inkwash import checkpoint
from inkwash.autoencoding.discriminator import Adversary, Patches
from inkwash.autoencoding.recipe import FILE, CodecRecipe, write_codec_recipe
from inkwash.data import Dataset
from inkwash.nets.autoencoder import Autoencoder
from inkwash.optim import AdamW
from inkwash.training.ema import Ema


@dataclass
class Rival:
    """The critic, its optimisers, and its settings."""

    settings: Adversary
    net: Patches
    optims: list[torch.optim.Optimizer]

    @classmethod
    def fresh(cls, settings: Adversary, channels: int, device: torch.device) -> Rival:
        """As it is before the first step, for pictures of so many channels."""
        net = settings.build(channels).to(device)
        return cls(settings, net, AdamW(lr=settings.lr, betas=(0.5, 0.9), weight_decay=0.0).build(net))


@dataclass
class State:
    """The autoencoder and its average, its optimisers, the critic where there is one, and the counters.

    judged: whether the critic has begun; step: finished steps; seconds: spent training, over all sessions; skipped,
    streak: steps with a non-finite loss or gradient, and how many of them in a row at the end.
    """

    net: Autoencoder
    average: Ema
    optims: list[torch.optim.Optimizer]
    rival: Rival | None
    judged: bool = False
    step: int = 0
    seconds: float = 0.0
    skipped: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))
    streak: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.int64))

    @classmethod
    def fresh(cls, recipe: CodecRecipe, device: torch.device) -> State:
        """The state before the first step, its weights a function of the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.train.seed)
            net = recipe.autoencoder.build().to(device)
            channels, adversary = recipe.autoencoder.channels, recipe.adversary
            rival = None if adversary is None else Rival.fresh(adversary, channels, device)
        state = cls(net, Ema(net, recipe.train.ema), recipe.optim.build(net), rival)
        state.skipped, state.streak = state.skipped.to(device), state.streak.to(device)
        return state

    def save(self, recipe: CodecRecipe, data: Dataset, run: File) -> File:
        """Publish checkpoints/step-N atomically and drop old ones. Returns its folder.

        Raises checkpoint.DiskFull with everything that was there still there.
        """
        optims, layout = checkpoint.flatten([o.state_dict() for o in self._optims()])
        counters = {
            "judged": self.judged,
            "step": self.step,
            "seconds": self.seconds,
            "skipped": int(self.skipped),
            "streak": int(self.streak),
            "data": data.fingerprint,
            "optim": layout,
        }
        folder = checkpoint.publish(
            run / "checkpoints" / f"step-{self.step}",
            {**{name: net.state_dict() for name, net in self._nets().items()}, "optim": optims},
            {"state.json": json.dumps(counters), FILE: write_codec_recipe(recipe)},
        )
        checkpoint.prune(run / "checkpoints", recipe.train.keep, {folder})
        return folder

    def restore(self, folder: File, data: Dataset) -> None:
        """Take over the state of a checkpoint. Raises checkpoint.CheckpointError where it is damaged."""
        saved = checkpoint.load(folder)
        counters = json.loads(saved.texts["state.json"])
        if counters["data"] != data.fingerprint:
            raise ValueError(
                f"The data have changed since {folder} was written: {data.name} has fingerprint "
                f"{data.fingerprint[:12]}, then {counters['data'][:12]}. Train a new codec on these."
            )
        for name, net in self._nets().items():
            net.load_state_dict(saved.tensors[name])
        states = checkpoint.unflatten(saved.tensors["optim"], counters["optim"])
        for optim, state in zip(self._optims(), states, strict=True):
            optim.load_state_dict(state)
        self.judged, self.step, self.seconds = counters["judged"], counters["step"], counters["seconds"]
        self.skipped.fill_(counters["skipped"])
        self.streak.fill_(counters["streak"])

    def _nets(self) -> dict[str, nn.Module]:
        """Every network, by the name of its file."""
        nets: dict[str, nn.Module] = {"net": self.net, "ema": self.average.net}
        return nets if self.rival is None else {**nets, "critic": self.rival.net}

    def _optims(self) -> list[torch.optim.Optimizer]:
        return self.optims if self.rival is None else [*self.optims, *self.rival.optims]
