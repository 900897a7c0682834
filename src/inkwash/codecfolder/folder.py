"""Saving a codec, and loading one from wherever it lies."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from inkwash import checkpoint
from inkwash._version import __version__
from inkwash.codec import AnyCodec, LatentCodec, Latents
from inkwash.codecfolder.theirs import CLASSES, from_diffusers, read_json, read_weights
from inkwash.features.weights import tensors_hash
from inkwash.kinds import from_table, to_table
from inkwash.modelfolder import CODEC

FORMAT = 1
"""The version of codec.json: another is refused."""

OWN = "codec.json"


def save_codec(
    codec: LatentCodec,
    folder: str | File,
    *,
    data: str = "",
    trained: Mapping[str, float] | None = None,
    measured: Mapping[str, float] | None = None,
) -> LatentCodec:
    """Write a codec's folder atomically, in place of one that may be there; the codec, its weights' SHA-256 in it.

    data: what it was trained on; trained: for how many steps, images and seconds; measured: what its reconstructions
    are like (psnr, ssim, ...), of which a NaN or an infinity is left out. Raises as `checkpoint.publish` does.
    """
    weights = codec.weights
    codec = replace(codec, config=replace(codec.config, sha256=tensors_hash(weights)))
    table = to_table(codec.config)
    figures = {name: value for name, value in (measured or {}).items() if math.isfinite(value)}  # JSON has no others
    about = {"data": data, "trained": dict(trained or {}), "measured": figures}
    text = json.dumps({"format": FORMAT, "inkwash": __version__, **about, "codec": table}, indent=2) + "\n"
    texts = {OWN: text, "README.md": _card(codec.config, about)}
    checkpoint.publish(File(folder), {"codec": weights}, texts)
    return codec


def load_codec(folder: str | File) -> LatentCodec:
    """A codec, ready for use: of our own folder, of a run or model that has one, or of diffusers' `AutoencoderKL`.

    Also their `AutoencoderTiny`, and a pipeline's folder with either in vae/. A codec of theirs has the scaling that
    its config.json states as its statistics: std = 1/scaling_factor, mean = shift_factor. Those of given pictures are
    measured with `LatentCodec.measured`. Raises ValueError where there is no codec, or one of another kind, and
    checkpoint.CheckpointError where it is damaged.
    """
    place = codec_place(folder)
    if (place / OWN).is_file():
        saved = checkpoint.load(place, [OWN, "codec.safetensors"])  # both of one version: it may be replaced
        codec, weights = _config(_table(saved.texts[OWN], place), place), saved.tensors["codec"]
    elif "_class_name" in read_json(place / "config.json"):
        codec, weights = from_diffusers(read_json(place / "config.json"), read_weights(place))
        bound = codec.bind(weights)
        return replace(bound, config=replace(codec, sha256=tensors_hash(bound.weights)), preset=True)
    else:
        saved = checkpoint.load(place, ["config.json"], also=[f"{CODEC}.safetensors"])
        codec, weights = _of_model(saved.texts["config.json"], place), saved.tensors.get(CODEC, {})
    try:
        return codec.bind(weights)
    except ValueError as error:
        raise checkpoint.CheckpointError(f"The codec in {place} is damaged: {error}") from error


def read_codec(folder: str | File) -> dict[str, Any]:
    """What a codec's own folder says of it besides its weights: codec (`Latents`), data, trained, measured.

    Raises ValueError where there is none.
    """
    place = codec_place(folder)
    if not (place / OWN).is_file():
        raise ValueError(f"{place} has no {OWN}: only codecs trained here say how they were trained.")
    table = _table(checkpoint.load_text(place, OWN), place)
    return {"codec": _config(table, place), **{name: table[name] for name in ("data", "trained", "measured")}}


def codec_place(folder: str | File) -> File:
    """The folder a codec is in: the given one, or the first of codec/, model/ and vae/ in it. ValueError for none.

    A run that trained a codec and a model as well thus lends what is in codec/.
    """
    folder = File(folder)
    places = (folder, folder / "codec", folder / "model", folder / "vae")
    for place in places:
        if (place / OWN).is_file():
            return place
        if (place / "config.json").is_file():
            return place
    why = "there is no such folder" if not folder.is_dir() else f"neither {OWN} nor config.json is in it"
    raise ValueError(
        f"No codec in {folder}: {why}. Train one with `inkwash train-codec SOURCE`, or give a folder of diffusers' "
        f"{' or '.join(CLASSES)}."
    )


def _table(text: str, place: File) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(text)
    if table.get("format") != FORMAT:
        raise ValueError(
            f"{place / OWN} has format {table.get('format')!r}, and this inkwash ({__version__}) reads format "
            f"{FORMAT}. It was written by inkwash {table.get('inkwash', 'unknown')}: use that one, or train again."
        )
    return table


def _config(table: Mapping[str, Any], place: File) -> Latents:
    """The codec of codec.json, or of a model's config.json."""
    codec = from_table(AnyCodec, table["codec"])
    if not isinstance(codec, Latents):
        raise ValueError(
            f"The model in {place} is of pixels ({codec}), not of latents: it has no codec to train others in. Give a "
            "codec's folder, or train without one."
        )
    return codec


def _of_model(text: str, place: File) -> Latents:
    table = json.loads(text)
    if not isinstance(table, dict) or "codec" not in table:
        raise ValueError(f"{place / 'config.json'} is neither a model's nor an autoencoder's.")
    return _config(table, place)


def _card(codec: Latents, about: Mapping[str, Any]) -> str:
    """The codec's card: what it is, what it was trained on, how good it is, and how to use it."""
    net, trained = codec.autoencoder, about["trained"]
    lines = [
        "# A codec for latent diffusion, made with inkwash",
        "",
        f"- Pictures of {net.channels} channels to latents of {net.latent_channels}, {net.factor} times smaller.",
        f"- Data: {about['data'] or 'not stated'}.",
        f"- Trained for {trained.get('steps', 0):,.0f} steps on {trained.get('images', 0):,.0f} images, "
        f"{trained.get('seconds', 0) / 60:,.1f} minutes.",
        *(f"- {name.upper()}: {value:.4g}." for name, value in about["measured"].items()),
        f"- {net}.",
        "",
        "```sh",
        "inkwash train SOURCE --codec path/to/this/folder",
        "```",
    ]
    return "\n".join(lines) + "\n"
