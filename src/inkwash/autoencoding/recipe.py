"""What the training of an autoencoder is: one frozen dataclass, kept as codec.toml in the run's folder."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import Any, Literal

from inkwash.autoencoding.discriminator import Adversary
from inkwash.autoencoding.losses import Loss
from inkwash.data import DataSpec
from inkwash.kinds import from_table, to_table
from inkwash.nets import KLAutoencoder
from inkwash.nets.autoencoder import PRESETS
from inkwash.optim import AnyOptim, Muon
from inkwash.recipes.read import checked, read_tables
from inkwash.types import Component

FILE = "codec.toml"
"""The recipe's name in a run's folder."""

FIXED = ("data", "autoencoder", "loss", "adversary", "optim.kind", "train.seed", "train.batch_size", "train.ema")
"""What a resumed run cannot change: its state would mean something else."""


@dataclass(frozen=True)
class CodecTrain(Component):
    """The length of a run and what happens along it; each as in a diffusion run's `Train`.

    steps or minutes: how long (10 minutes unless one is given). look_every: steps between two looks at held-out
    pictures, of which a sheet is drawn.
    """

    steps: int | None = None
    minutes: float | None = None
    batch_size: int = 32
    seed: int = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    clip: float = 1.0
    ema: float = 0.1
    checkpoint_every: int = 500
    keep: int = 2
    look_every: int = 250
    patience: int = 20

    def __post_init__(self) -> None:
        if self.steps is not None and self.minutes is not None:
            raise ValueError(f"steps = {self.steps} and minutes = {self.minutes} both say how long. Give one of them.")
        if self.steps is None and self.minutes is None:
            object.__setattr__(self, "minutes", 10.0)
        for name in ("steps", "minutes", "batch_size", "clip", "ema", "checkpoint_every", "keep", "look_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} = {value} must be more than 0.")
        if self.ema >= 12**-0.5:
            raise ValueError(f"ema = {self.ema} must lie between 0 and 0.28. Usual values are 0.05 to 0.15.")


@dataclass(frozen=True)
class CodecRecipe(Component):
    """A whole run. autoencoder: its `channels` become the data's; data.val_fraction: of the pictures by which the
    reconstructions are judged, of which there must be some.
    """

    data: DataSpec
    autoencoder: KLAutoencoder
    loss: Loss = field(default_factory=Loss)
    adversary: Adversary | None = None
    optim: AnyOptim = field(default_factory=Muon)
    train: CodecTrain = field(default_factory=CodecTrain)

    def __post_init__(self) -> None:
        if not self.data.val_fraction:
            raise ValueError("data.val_fraction = 0 holds no pictures out to judge reconstructions by. Try 0.05.")

    @classmethod
    def of(
        cls, tables: Mapping[str, Mapping[str, Any] | None], *, file: str | File = "", sets: Sequence[str] = ()
    ) -> CodecRecipe:
        """A recipe from its tables, what they leave out as usual. autoencoder.factor: 4 or 8, of the small presets.

        file: a .toml file whose tables these are to change; sets: "key=value" in TOML, which change both. Raises
        RecipeError with all that is wrong with it.
        """
        mistakes: list[str] = []
        plain = {name: dict(table) for name, table in tables.items() if table is not None}
        whole = read_tables(file, plain, sets, mistakes)
        data, net = whole.get("data", {}), whole.get("autoencoder", {})
        whole["data"] = {"val_fraction": 0.05} | data if isinstance(data, dict) else data
        try:
            whole["autoencoder"] = _preset(**net) if isinstance(net, dict) else net
        except ValueError as error:
            mistakes.append(str(error))
            whole["autoencoder"] = to_table(PRESETS["f4"])
        recipe: CodecRecipe = checked(cls, whole, mistakes)
        return recipe

    def lengthened(self, **changes: Any) -> CodecRecipe:
        """The same with changes to `train`; of steps and minutes, the one given replaces the other."""
        length = {"steps": None, "minutes": None} if changes.keys() & {"steps", "minutes"} else {}
        return replace(self, train=replace(self.train, **length | changes))


def _preset(factor: int | None = None, **changes: Any) -> dict[str, Any]:
    """The table of an autoencoder from what is said of it."""
    if factor is not None and "widths" in changes:
        raise ValueError(
            f"autoencoder.factor = {factor} and widths = {changes['widths']} both say how many times smaller."
        )
    factor = 4 if factor is None else factor
    if f"f{factor}" not in PRESETS:
        sizes = " or ".join(name.removeprefix("f") for name in PRESETS)
        raise ValueError(f"factor = {factor} must be {sizes}: how many times smaller a latent's sides are.")
    return to_table(PRESETS[f"f{factor}"]) | changes


def write_codec_recipe(recipe: CodecRecipe) -> str:
    """A recipe as TOML, every value spelled out."""
    import tomli_w

    return tomli_w.dumps(to_table(recipe))


def read_codec_recipe(text: str) -> CodecRecipe:
    """A recipe that `write_codec_recipe` wrote. Raises ValueError for what it never writes."""
    recipe: CodecRecipe = from_table(CodecRecipe, tomllib.loads(text))
    return recipe


def continued(old: CodecRecipe, new: CodecRecipe) -> CodecRecipe:
    """The new recipe for a run begun with the old one, what it leaves open taken from there.

    Raises ValueError for a change to what cannot change.
    """
    flip = old.data.flip if new.data.flip is None else new.data.flip
    precision = old.train.precision if new.train.precision == "auto" else new.train.precision
    new = replace(
        new,
        data=replace(new.data, flip=flip),
        autoencoder=replace(new.autoencoder, channels=old.autoencoder.channels),  # the data's, whatever is said
        train=replace(new.train, precision=precision),
    )
    was, now = (json.loads(json.dumps(to_table(r))) for r in (old, new))
    refused = [key for key in FIXED if _at(was, key) != _at(now, key)]
    if refused:
        listed = "\n  - ".join(f"{key}: {_at(was, key)!r} -> {_at(now, key)!r}" for key in refused)
        raise ValueError(f"A resumed run cannot change these:\n  - {listed}\nStart a new run instead.")
    return new


def _at(table: object, key: str) -> object:
    for name in key.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table
