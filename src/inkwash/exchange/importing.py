"""A folder of diffusers' as a model of ours, published only if it draws the same pictures here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inkwash.codec import Codec, LatentCodec, Pixels
from inkwash.codecfolder import load_codec
from inkwash.codecfolder.theirs import read_json, read_weights
from inkwash.exchange.comparing import (
    ONE_CALL,
    TOLERANCE,
    Compared,
    calm,
    compared,
    default_steps,
    drawn,
    even_times,
    starting_noise,
)
from inkwash.exchange.schedules import FLOW, Trained, from_scheduler
from inkwash.exchange.staging import needs
from inkwash.exchange.theirs import NAMES, ROOMS, Ours, from_theirs
from inkwash.modelfolder import Config, is_model, save_model
from inkwash.types import Condition


class Imported(NamedTuple):
    """A model that was brought here: its config, what was compared and by how much it differs, and what to know of it.

    notes: what was said of its sampling elsewhere that is not kept here, in sentences.
    """

    config: Config
    compared: list[Compared]
    notes: tuple[str, ...]


def from_diffusers(
    folder: str | File, out: str | File, *, scheduler: str | File | None = None, vae: str | File | None = None
) -> Imported:
    """Make a model of a folder of diffusers': a pipeline's, or that of its UNet2DModel or DiTTransformer2DModel alone.

    scheduler, vae: the folders of its scheduler and of its autoencoder, where they are not in scheduler/ and vae/
    beside the network. The path, the target and
    the way of sampling are taken from its scheduler; an autoencoder becomes the codec; class names are id2label's, or
    numbers. The model is published as out/model, and can be used as one that was trained here.

    What is compared with diffusers' own: one call of the network, and sampling from the same noise. Needs the extra
    `inkwash[hf]`. Raises ValueError for a network, a scheduler or settings that we do not have, naming them, where
    anything is missing, and where the two do not draw the same.
    """
    needs("hf", "diffusers")
    folder, out = File(folder), File(out)
    if is_model(out):
        raise ValueError(f"There is a model in {out} already. Choose another place with --out.")
    room, settings = _network(folder)
    kind = str(settings["_class_name"])
    if kind == "Transformer2DModel" and settings.get("norm_type") == "ada_norm_zero":
        kind = "DiTTransformer2DModel"  # as DiT-XL/2 was published, before it had a class of its own
    names = _names(folder if room != folder else folder.parent)
    plan = _scheduler(File(scheduler) if scheduler is not None else room.parent / "scheduler", folder)
    state = {name: w.float() for name, w in read_weights(room).items()}
    ours = from_theirs(kind, settings, state, len(names) if names else None)
    channels = ours.shape[0]
    trained = from_scheduler(str(plan["_class_name"]), plan, in_channels=channels, out_channels=ours.outputs * channels)
    codec = _codec(room.parent, channels) if vae is None else of_latents(vae, channels)
    config = _config(ours, trained, codec, names)
    with calm():
        found = _compared(config, ours, room, kind, plan)
    save_model(config, ours.weights, out / "model", _told(folder, kind, plan, found), codec=codec)
    return Imported(config, found, trained.notes)


def _network(folder: File) -> tuple[File, dict[str, Any]]:
    """The folder of the network and its config.json."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}. Download a model with `hf download USER/NAME --local-dir DIR`.")
    for room in (folder, *(folder / name for name in ROOMS.values())):
        config = read_json(room / "config.json")
        if "_class_name" in config:
            return room, config
    raise ValueError(
        f"{folder} is no folder of diffusers' that can be imported: it has no config.json with a _class_name, and none "
        f"in {' or '.join(f'{name}/' for name in ROOMS.values())}."
    )


def _scheduler(place: File, folder: File) -> dict[str, Any]:
    file = place if place.is_file() else place / "scheduler_config.json"
    plan = read_json(file)
    if "_class_name" not in plan:
        raise ValueError(
            f"{file} is not there, so nothing says what path {folder} was trained on. Give the folder of its scheduler "
            "with --scheduler."
        )
    return plan


def _names(pipeline: File) -> tuple[str, ...]:
    """The names of the classes in the order of their numbers; () where there are none."""
    known = read_json(pipeline / "model_index.json").get("id2label") or read_json(pipeline / NAMES)
    numbered = {int(k): str(v) for k, v in known.items()}
    return tuple(numbered.get(i, str(i)) for i in range(max(numbered, default=-1) + 1))


def _codec(pipeline: File, channels: int) -> Codec:
    """What decodes: the autoencoder beside the network, or pixels."""
    for name in ("vae", "vqvae"):
        if (pipeline / name / "config.json").is_file():
            return of_latents(pipeline / name, channels)
    return Pixels()


def of_latents(folder: str | File, channels: int) -> LatentCodec:
    """The codec in a folder. Raises ValueError where its latents have another number of channels."""
    codec = load_codec(folder)
    if (found := codec.config.autoencoder.latent_channels) != channels:
        raise ValueError(f"The network has {channels} channels, and the latents of {folder} have {found}.")
    return codec


def _config(ours: Ours, trained: Trained, codec: Codec, names: tuple[str, ...]) -> Config:
    sampling = trained.sampling
    if isinstance(codec, LatentCodec) and sampling.clip:
        sampling = replace(sampling, clip=False)  # the default of their class, made for pixels
    return Config(
        shape=ours.shape,
        net=ours.net,
        path=trained.path,
        target=trained.target,
        inputs=trained.inputs,
        codec=codec.config if isinstance(codec, LatentCodec) else Pixels(),
        classes=(*names[: ours.classes], *map(str, range(len(names), ours.classes))),
        sampling=sampling,
        learned_variance=trained.learned_variance,
    )


def _compared(config: Config, ours: Ours, room: File, kind: str, plan: Mapping[str, Any]) -> list[Compared]:
    """The network alone, and sampled, against diffusers' own, loaded from the folder."""
    import diffusers

    theirs = getattr(diffusers, kind).from_pretrained(room)
    model = config.build()
    model.net.load_state_dict(ours.weights)
    model.net.eval()
    x, steps = starting_noise(config.shape), default_steps(config)
    label = torch.tensor([0, len(config.classes) - 1]) if config.classes else None
    told = torch.zeros(2, dtype=torch.int64) if label is None and kind != "UNet2DModel" else label

    @torch.no_grad()
    def ask(x: Tensor, t: Tensor) -> Tensor:
        y: Tensor = theirs(x, t.expand(len(x)), told).sample
        return y

    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    t = config.path.snap(t)
    clock = model.inputs.clock(t, config.path(t)).float()
    with torch.no_grad():
        mine = model.net(x, clock, clock, Condition(label))
    found = [compared(f"{kind}, one call", mine, ask(x, clock), ONE_CALL)]

    walker: Any
    ddim: Any = diffusers.DDIMScheduler
    if plan["_class_name"] == FLOW:
        walker = getattr(diffusers, FLOW)(num_train_timesteps=1000, shift=1.0)
        walker.set_timesteps(sigmas=even_times(steps)[:-1])
    else:
        changes = {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True, "steps_offset": 0}
        walker = ddim.from_config({**plan, "_class_name": "DDIMScheduler"}, **changes)
        walker.set_timesteps(steps)
    there = x
    for now in walker.timesteps:
        there = walker.step(ask(there, now)[:, : len(x[0])], now, there).prev_sample
    here = drawn(model, x, even_times(steps), label)
    what = f"{type(walker).__name__}, {steps} steps from the same noise, without clipping"
    return [*found, compared(what, here, there, TOLERANCE)]


def _told(folder: File, kind: str, plan: Mapping[str, Any], found: list[Compared]) -> str:
    """What the model's card says of where it is from."""
    lines = [
        "",
        "## Imported",
        "",
        f"From a {kind} of diffusers' with {plan['_class_name']}, {folder.resolve().name}. Compared on importing:",
        "",
        *(f"- {c}" for c in found),
        "",
    ]
    return "\n".join(lines)
