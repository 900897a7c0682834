"""A model on disk: a folder with `config.json`, `model.safetensors` (the EMA weights), a card, and a manifest.

A model of latents has the weights of its codec there too, in codec/, so that the folder is all it needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import Any, NamedTuple

from torch import Tensor, nn

from inkwash import checkpoint
from inkwash._version import __version__
from inkwash.codec import AnyCodec, Codec, LatentCodec, Latents
from inkwash.conditions import Conditions
from inkwash.features.weights import tensors_hash
from inkwash.grids import Listed
from inkwash.kinds import from_table, in_text, to_table
from inkwash.model import AnyInputs, Model
from inkwash.nets import AnyNet
from inkwash.objectives import AnyObjective
from inkwash.paths import AnyPath
from inkwash.samplers import Euler
from inkwash.sampling import Sampling
from inkwash.targets import AnyTarget
from inkwash.types import Component, Given

FORMAT = 1
"""The version of config.json: another is refused."""

CODEC = "codec/codec"
"""The weights of a codec in a model's folder, without .safetensors."""


@dataclass(frozen=True)
class Config(Component):
    """All that a model is besides its weights; the content of `config.json`.

    shape: of one example as it is diffused, (C, H, W) or (D,), for latents (c, h, w); classes: their names in order;
    conditions: what it can be told besides a class; sampling: the settings used unless others are asked for; data: the
    data set's name; trained: steps, images and seconds of training so far, and pairs_seconds of drawing a teacher's
    pairs before; learned_variance: see `Model`; ema: the length of the average the weights are, a share of the run
    (sigma_rel), None where unknown; objective: what it learned by, which may leave out what some samplers ask, None
    where unknown; jumps: it knows mean velocities between two times (`Model`); label_dropout: the share of labels that
    training hid, 0.1 in older models.
    Raises ValueError for latents that sampling clips, and for sampling with a guidance that it is told and has not
    learned.
    """

    shape: tuple[int, ...]
    net: AnyNet
    path: AnyPath
    target: AnyTarget
    inputs: AnyInputs
    codec: AnyCodec
    classes: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    data: str = ""
    trained: dict[str, float] = field(default_factory=dict)
    learned_variance: bool = False
    ema: float | None = None
    objective: AnyObjective | None = None
    conditions: Conditions = field(default_factory=Conditions)
    jumps: bool = False
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.codec, Latents) and self.sampling.clip:
            raise ValueError(
                "sampling.clip keeps x0 within [-1, 1], the range of pixels, and this model's x0 are latents of "
                "deviation 1, which are often beyond. Use clip = false."
            )
        if self.conditions.guidance is not None:
            self.conditions.guidance.check(self.sampling.guidance)

    @property
    def pictures(self) -> tuple[int, ...]:
        """The shape of an example as it is seen, (C, H, W) or (D,): of what the codec decodes."""
        return self.codec.pictured(self.shape)

    @property
    def given(self) -> Given:
        """What its network is told besides x and t."""
        told = self.conditions
        return Given(
            classes=len(self.classes),
            tokens=told.text.encoder.width if told.text else 0,
            jumps=self.jumps,
            vector=len(told.numbers.names) if told.numbers else 0,
            image=self.shape[0] if told.image else 0,
        )

    @property
    def needed(self) -> tuple[str, ...]:
        """The arguments of a call (prompt, vector, image) without which it draws nothing: what was never hidden."""
        ways = {"prompt": self.conditions.text, "vector": self.conditions.vector, "image": self.conditions.image}
        return tuple(name for name, way in ways.items() if way and not way.dropout)

    @property
    def flows(self) -> bool:
        """Whether it learned the flow's velocity at all times, and not at those of a few steps alone."""
        return self.unlearned(Sampling(method=Euler(), steps=97)) is None  # a prime: not theirs

    def calls(self, own: Sampling) -> int:
        """How often it would be asked when drawn with these settings: `Sampling.rehearse`."""
        return own.rehearse(self.path, self.target, learned_variance=self.learned_variance)

    def own_steps(self, own: Sampling) -> bool:
        """Whether the number of steps is nothing that one can ask for: a list, or the sampler, has its own."""
        return isinstance(own.grid, Listed) or len({self.calls(own.changed(steps=n)) for n in (1, 2, 3, 6)}) == 1

    def unlearned(self, own: Sampling, times: Tensor | None = None) -> str | None:
        """Why these settings ask it for what it never learned: `Sampling.unlearned`; None: they do not."""
        return own.unlearned(self.objective, self.path, times)

    def refuse(self, own: Sampling, times: Tensor | None = None) -> None:
        """Raise ValueError where these settings ask it for what it never learned: `unlearned`."""
        if (why := self.unlearned(own, times)) is not None:
            raise ValueError(why)

    def rehearse(self, own: Sampling) -> int:
        """`calls`, once it is known that nothing asked for was never learned. Raises ValueError as both do."""
        calls = self.calls(own)
        self.refuse(own)
        return calls

    def build(self) -> Model:
        """The model with freshly initialised weights."""
        parts = self.network(), self.path, self.target, self.inputs
        return Model(*parts, learned_variance=self.learned_variance, jumps=self.jumps)

    def network(self) -> nn.Module:
        """Its network alone."""
        double = {"outputs": 2} if self.learned_variance else {}  # a user's net need not know of it
        net: nn.Module = self.net.build(self.shape, self.given, **double)
        return net


class Loaded(NamedTuple):
    """All that is in a model's folder."""

    config: Config
    model: Model
    codec: Codec


_NOT_ANSWERED = ("sampling", "trained", "ema", "objective")
"""What of a config changes no answer of the model."""


def model_hash(config: Config, model: Model) -> str:
    """SHA-256 (hex) of what a model answers: of its weights and its config, but for its settings and its training."""
    told = {name: value for name, value in to_table(config).items() if name not in _NOT_ANSWERED}
    whole = json.dumps([told, tensors_hash(model.net.state_dict())], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()


def save_model(
    config: Config,
    weights: Mapping[str, Tensor],
    folder: str | File,
    measured: str = "",
    *,
    codec: Codec | None = None,
) -> File:
    """Write a model's folder atomically, in place of one that may be there.

    measured: more of its card, in Markdown; codec: the config's with its weights, which a model of latents is saved
    with. Raises ValueError where it is missing, or another than the config's.
    """
    codec = config.codec.bind() if codec is None else codec
    if isinstance(codec, LatentCodec) and codec.config != config.codec:
        raise ValueError(f"The model was trained in latents of {config.codec}, and is to be saved with {codec.config}.")
    tensors = {"model": weights} | ({} if codec.weights is None else {CODEC: codec.weights})
    table = {"format": FORMAT, "inkwash": __version__} | to_table(config)
    texts = {"config.json": json.dumps(table, indent=2) + "\n", "README.md": _card(config) + measured}
    return checkpoint.publish(File(folder), tensors, texts)


def load_model(run: str | File, *, trust: bool = False) -> tuple[Config, Model]:
    """A model without its codec: see `load_whole`."""
    config, model, _ = load_whole(run, trust=trust)
    return config, model


def load_whole(run: str | File, *, trust: bool = False) -> Loaded:
    """Read a model and its codec from its own folder, or from the run's folder it is in.

    trust: whether classes from outside the package, named in the config, may be imported. Raises ValueError naming
    what is missing where there is no model, and checkpoint.CheckpointError where it is damaged.
    """
    folder = find_model(run)
    # All of one version: it may be replaced meanwhile.
    saved = checkpoint.load(folder, ["config.json", "model.safetensors"], also=[f"{CODEC}.safetensors"])
    config = _config(saved.texts["config.json"], folder, trust)
    model = config.build()
    try:
        model.net.load_state_dict(saved.tensors["model"])
    except RuntimeError as error:  # what torch raises for names and shapes that differ
        first = "".join(str(error).split("\n\t")[1:2])
        raise checkpoint.CheckpointError(
            f"The weights in {folder} do not fit its config.json: {first or error} "
            f"Another version of inkwash may have written them; this is {__version__}."
        ) from error
    return Loaded(config, model, _bound(config, saved, folder))


def load_own_codec(folder: File, config: Config) -> Codec:
    """The codec of the model in a folder, without the model; raises as `load_whole` does."""
    return _bound(config, checkpoint.load(folder, ["config.json"], also=[f"{CODEC}.safetensors"]), folder)


def read_config(folder: File, *, trust: bool = False) -> Config:
    """A model's config, without its weights."""
    return _config(checkpoint.load_text(folder, "config.json"), folder, trust)


def _bound(config: Config, saved: checkpoint.Checkpoint, folder: File) -> Codec:
    try:
        return config.codec.bind(saved.tensors.get(CODEC))
    except ValueError as error:
        raise checkpoint.CheckpointError(f"The model in {folder} is damaged: {error}") from error


def _config(text: str, folder: File, trust: bool) -> Config:
    table: dict[str, Any] = json.loads(text)
    found = table.pop("format", None)
    if found != FORMAT:
        raise ValueError(
            f"{folder / 'config.json'} has format {found!r}, and this inkwash ({__version__}) reads format {FORMAT}. "
            f"It was written by inkwash {table.get('inkwash', 'unknown')}: use that one, or train again."
        )
    table.pop("inkwash", None)
    objective = None
    with suppress(ValueError):  # of another version: it answers nothing, and then nothing is known of it
        objective = from_table(AnyObjective, table.get("objective"))
    table["objective"] = objective
    config: Config = from_table(Config, table, trust=trust)
    return config


def find_model(run: str | File) -> File:
    """The model's folder, given it or the run's folder. Raises ValueError with the nearest runs where there is none."""
    folder = File(run)
    if (found := _model_in(folder)) is not None:
        return found
    runs = sorted(p.parent.parent for p in File("runs").glob("*/model/config.json"))
    known = f"Models found here: {', '.join(map(str, runs[:5]))}." if runs else "Train one with `inkwash train SOURCE`."
    why = "neither config.json nor model/config.json is in it" if folder.exists() else "there is no such folder"
    raise ValueError(f"No model in {folder}: {why}. {known}")


def is_model(run: str | File) -> bool:
    """Whether a folder is a model's, or a run's that has one."""
    return _model_in(File(run)) is not None


def _model_in(folder: File) -> File | None:
    return next((f for f in (folder, folder / "model") if (f / "config.json").is_file()), None)


def _card(config: Config) -> str:
    """The model's card: what it is, what it was trained on, and how to use it."""
    trained = config.trained
    pairs = f", and {trained['pairs_seconds'] / 60:,.1f} of drawing its pairs" if "pairs_seconds" in trained else ""
    lines = [
        "# A diffusion model made with inkwash",
        "",
        f"- Data: {config.data or 'not stated'}; examples of shape {' x '.join(map(str, config.pictures))}.",
        *([f"- Latents of shape {' x '.join(map(str, config.shape))}."] if config.pictures != config.shape else []),
        f"- Classes: {', '.join(config.classes) if config.classes else 'none'}.",
        f"- Trained for {trained.get('steps', 0):,.0f} steps on {trained.get('images', 0):,.0f} images, "
        f"{trained.get('seconds', 0) / 60:,.1f} minutes{pairs}.",
        f"- Path {config.path}, target {config.target}, net {config.net}.",
        f"- Sampling: {config.sampling}.",
        "",
        "```python",
        "import inkwash",
        "",
        'pipe = inkwash.load("path/to/this/folder")',
        f"images = pipe(16, {needed_code(config)}seed=0)",
        "```",
        *_asked(config),
    ]
    return "\n".join(lines) + "\n"


def _asked(config: Config) -> list[str]:
    """What the model can be asked for, with a line of code each."""
    told, ways = config.conditions, {"label": "A class, by name or number"} if config.classes else {}
    ways |= {"prompt": "A text"} if told.text else {}
    ways |= {"vector": "Numbers, any of them"} if told.vector else {}
    ways |= {"image": f"A picture ({in_text(told.image.task)})"} if told.image else {}
    if (scale := told.guidance) is not None:
        ways["guidance"] = f"The scale of guidance it was taught with, {scale.low:g} to {scale.high:g}"
    if not ways:
        return []
    listed = [
        f"- {what}: `pipe(4, {needed_code(config, name)}{_example(config, name)})`" for name, what in ways.items()
    ]
    return ["", "It can be asked for the following, alone or together:", "", *listed]


def needed_code(config: Config, but: str = "") -> str:
    """The arguments without which it draws nothing, as code; but: one that is given besides."""
    return "".join(f"{_example(config, name)}, " for name in config.needed if name != but)


def _example(config: Config, name: str) -> str:
    """An argument of a call with a value, as code."""
    vector = config.conditions.vector
    means = zip(vector.names, vector.mean or (), strict=True) if vector and vector.mean else ()
    values = {
        "label": json.dumps(next(iter(config.classes), "")),
        "prompt": '"what the picture shows"',
        "vector": json.dumps({name: round(mean, 3) for name, mean in means}),
        "image": '"picture.png"',
        "guidance": f"{config.sampling.guidance:g}",
    }
    return f"{name}={values[name]}"
