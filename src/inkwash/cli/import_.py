"""`inkwash import`: a model of diffusers' as one of ours."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.words import say, table

_what, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "Where to"))


def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A diffusers pipeline's folder, or its network's.")],
    scheduler: Annotated[
        Path | None, _what(help="The folder of its scheduler, where there is none in DIR or beside it.")
    ] = None,
    out: Annotated[Path | None, _where(help="The run to make (default: runs/NAME, by the folder).")] = None,
) -> None:
    """Make a model of a diffusers folder: a UNet2DModel or a DiTTransformer2DModel, with its scheduler and autoencoder.

    It is published only if it draws the same as in diffusers: by how much it differs is said. Every sampler, measure
    and edit here can then be used with it.

    inkwash import ddpm-cat-256
    """
    from inkwash.exchange import from_diffusers

    place = out or Path("runs") / folder.resolve().name
    say("Reading, and drawing with both to compare ...")
    config, found = from_diffusers(folder, place, scheduler=scheduler)
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
    say(f"The same. The model is in {place}.")
    say(f"Next:\n  inkwash sample {shlex.quote(str(place))}")
