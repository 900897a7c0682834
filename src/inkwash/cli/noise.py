"""`inkwash noise`: the forward process as a picture."""

from __future__ import annotations

from pathlib import Path as File
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inkwash.cli.command import refuse
from inkwash.cli.terminal import bar, counted
from inkwash.cli.words import check_ending, frame_of, say

if TYPE_CHECKING:
    from inkwash.types import Path

POINTS = 2000
"""Of data sets of points, so many are shown."""


def noise(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Data, as for `inkwash train`.")],
    at: Annotated[
        str | None,
        typer.Option(help="Entries of the table, 0 to steps - 1; times in [0, 1] with the other paths."),
    ] = None,
    out: Annotated[File, typer.Option(help="The picture.")] = File("noise.png"),
    path: Annotated[
        Literal["table", "linear", "vp"],
        typer.Option(help="DDPM's table, flow matching's line, or the quarter circle of vp with a cosine schedule."),
    ] = "table",
    steps: Annotated[int, typer.Option(help="Length of the table.", min=1)] = 200,
    betas: Annotated[
        Literal["linear", "cosine", "quadratic", "sigmoid"], typer.Option(help="How the table's betas grow.")
    ] = "linear",
    scaled: Annotated[
        bool, typer.Option("--scaled", help="Betas times 1000/steps, so that all signal is gone at the end.")
    ] = False,
    index: Annotated[int, typer.Option(help="Which picture of the data.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    frame: Annotated[
        str | None, typer.Option("--size", help="Pixels: 32, or HEIGHTxWIDTH as in 48x64 (default: the data's).")
    ] = None,
) -> None:
    """Show one picture under more and more noise.

    x_t = alpha(t) x0 + sigma(t) eps, with one and the same eps. Entry i of a table is at t = (i + 1)/steps.

    inkwash noise fashion-mnist --at 0,50,100,150,199 --out noise.png
    """
    mistakes = check_ending(out, ".png", "--out")
    if betas == "cosine" and scaled:
        mistakes.append("--scaled has no meaning for cosine betas: they depend on t alone. Drop one of the two.")
    times, captions = _times(at, steps if path == "table" else None, mistakes)
    size = frame_of(frame, mistakes)
    refuse(mistakes)

    from inkwash.codec import codec_for
    from inkwash.data import DataSpec, load
    from inkwash.gallery import forward_strip
    from inkwash.pictures import save_png

    chosen = _path(path, steps, betas, scaled)
    with bar("Preparing data") as told:
        data = load(
            DataSpec(source, size=(size[0], size[1]) if isinstance(size, list) else size), progress=counted(told)
        )
    points = data.images.ndim == 2
    if not points and index >= len(data):
        raise ValueError(f"--index {index} is not in {data.name}: its pictures are 0 to {len(data) - 1}.")
    x0 = data.images[:POINTS] if points else data.images[index]
    picture = forward_strip(x0, codec_for(data.images), chosen, times, captions, seed)
    shown = {"data": data.name, "path": repr(chosen), "at": captions, "seed": seed}
    save_png(picture, out, shown if points else shown | {"index": index})
    alphas = ", ".join(f"{t:.3g}" for t in times)
    say(f"{data.name} noised at t = {alphas} in {out}")


def _times(text: str | None, steps: int | None, mistakes: list[str]) -> tuple[list[float], list[str]]:
    """Times in [0, 1] and what to write above them, for entries of a table of `steps`, or times off it (None)."""
    if steps is None:
        numbers = _numbers(text or "0,0.25,0.5,0.75,1", mistakes)
        if bad := [v for v in numbers if not 0 <= v <= 1]:
            mistakes.append(f"--at {bad[0]:g} is not a time: off the table they go from 0 (data) to 1 (noise).")
        return numbers, [f"t = {v:g}" for v in numbers]
    spread = ",".join(dict.fromkeys(str(min(i * steps // 4, steps - 1)) for i in range(5)))
    numbers = _numbers(text or spread, mistakes)
    if bad := [v for v in numbers if v != int(v) or not 0 <= v < steps]:
        mistakes.append(f"--at {bad[0]:g} is not in the table: its entries are 0 to {steps - 1} (--steps {steps}).")
    return [(v + 1) / steps for v in numbers], [f"step {v:g}" for v in numbers]


def _numbers(text: str, mistakes: list[str]) -> list[float]:
    try:
        return [float(v) for v in text.split(",")]
    except ValueError:
        mistakes.append(f"--at {text!r} is not a list of numbers. Write them with commas, as in 0,50,100.")
        return []


def _path(kind: str, steps: int, betas: str, scaled: bool) -> Path:
    from inkwash.paths import VP, CosineBetas, CosineSchedule, Linear, LinearBetas, QuadraticBetas, SigmoidBetas, Table

    if kind != "table":
        return Linear() if kind == "linear" else VP(CosineSchedule())
    if betas == "cosine":
        return Table(CosineBetas(steps))
    schedule = {"linear": LinearBetas, "quadratic": QuadraticBetas, "sigmoid": SigmoidBetas}[betas]
    return Table(schedule(steps, scaled=scaled))
