"""`inkwash export`: a model for other programs."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.words import say

_what, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "Where to"))

Format = Literal["diffusers", "onnx", "torch-export"]


def export(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    out: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="The folder to write (default: RUN/onnx, by the format).")
    ] = None,
    to: Annotated[
        Format | None, _what(help="diffusers' own classes, onnxruntime, or torch alone (.pt2). Required.")
    ] = None,
    trust: Annotated[bool, _what("--trust", help="Run code from outside inkwash that the model names.")] = False,
) -> None:
    """Write a model for another program, which then needs no inkwash.

    It is published only if the program draws the same: by how much it differs is said. Each folder has a draw.py that
    draws with it, and a README.

    Every model can become a graph (onnx, torch-export). diffusers has no place for what `inkwash train` makes by
    default: for it, train with `--net classic-unet --set inputs.kind=plain`.

    inkwash export runs/photos --to onnx

    inkwash export runs/photos --to diffusers photos-diffusers
    """
    mistakes = mistakes_so_far(ctx)
    if to is None:
        mistakes.append("To which program? --to diffusers, --to onnx or --to torch-export.")
    refuse(mistakes)
    from inkwash import exchange
    from inkwash.modelfolder import find_model

    writers = {
        "diffusers": exchange.to_diffusers,
        "onnx": exchange.to_onnx,
        "torch-export": exchange.to_torch_export,
    }
    format = str(to)
    model = find_model(run)
    folder = out or model.parent / (format if model.name == "model" else f"{model.resolve().name}-{format}")
    say("Writing, and drawing with both to compare ...")
    for line in writers[format](run, folder, trust=trust):
        say(f"  {line}")
    say(f"The same. Written to {folder}.")
    say(f"Next:\n  (cd {shlex.quote(str(folder))} && python draw.py)")
