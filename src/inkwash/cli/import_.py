"""`inkwash import`: a model from elsewhere as one of ours."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.command import refuse
from inkwash.cli.words import say, table

_what, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "Where to"))


def import_(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A diffusers pipeline's folder, its network's, or a DiT in the official layout (a file).",
        ),
    ],
    scheduler: Annotated[
        Path | None, _what(help="The folder of its scheduler, where there is none in DIR or beside it.")
    ] = None,
    vae: Annotated[Path | None, _what(help="The folder of its autoencoder, where there is none in DIR.")] = None,
    out: Annotated[Path | None, _where(help="The run to make (default: runs/NAME, by the folder).")] = None,
) -> None:
    """Make a model of a diffusers folder: a UNet2DModel or a DiTTransformer2DModel, with its scheduler and autoencoder.

    It is published only if it draws the same as in diffusers: by how much it differs is said. Every sampler, measure
    and edit here can then be used with it.

    inkwash import ddpm-cat-256

    inkwash import DiT-XL-2-256x256.safetensors --vae sd-vae-ft-ema
    """
    from inkwash.exchange import from_diffusers, from_dit

    if source.is_file():
        refuse(
            ["--scheduler is for folders of diffusers': a file is taken to be a DiT as published."] if scheduler else []
        )
        place = out or Path("runs") / source.stem
        say("Reading ...")
        config, found, notes = from_dit(source, place, vae=vae)
    else:
        place = out or Path("runs") / source.resolve().name
        say("Reading, and drawing with both to compare ...")
        config, found, notes = from_diffusers(source, place, scheduler=scheduler, vae=vae)
    for line in found:
        say(f"  {line}")
    told = {
        "pictures": " x ".join(map(str, config.pictures)),
        "net": str(config.net),
        "path": str(config.path),
        "target": str(config.target),
        "classes": f"{len(config.classes)}: {', '.join(config.classes[:10])}" if config.classes else "none",
        "sampling": str(config.sampling),
    }
    say(table(told))
    for note in notes:
        say(note)
    say(f"{'The same. ' if found else ''}The model is in {place}.")
    again = f"inkwash sample {shlex.quote(str(place))}"
    calls = config.sampling.steps
    say(f"Next:\n  {again}" + (f"  ({calls:,} steps; faster: --sampler ddim --steps 50)" if calls > 50 else ""))
