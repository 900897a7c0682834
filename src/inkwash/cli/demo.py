"""`inkwash demo`: the whole way through once, in some minutes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inkwash.cli.terminal import bar, counted
from inkwash.cli.train import finish, run_training
from inkwash.cli.words import free_name, say, some, table

if TYPE_CHECKING:
    from inkwash.data import Dataset
    from inkwash.recipes import Recipe

RECIPE = "fashion-mnist"
FALLBACK = "shapes"
"""The source that stands in where the recipe's cannot be had."""

ROWS = 10
TIMES = (0.0, 0.25, 0.5, 0.75, 1.0)


def demo(
    minutes: Annotated[float, typer.Option(help="How long to train.")] = 4.0,
    out: Annotated[Path, typer.Option(help="The run's folder; with a number where it is taken.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
) -> None:
    """All of it at once: train on Fashion-MNIST for some minutes, and draw.

    The recipe is built in: `inkwash train fashion-mnist` trains the same for longer.
    """
    folder = free_name(out)
    if folder != out:
        say(f"{out} is there already; this one goes to {folder}.")
    from inkwash.data import load_or_generated
    from inkwash.recipes import read_recipe

    recipe = read_recipe(RECIPE, {"train.minutes": minutes, "train.seed": seed})
    with bar("Getting Fashion-MNIST") as told:
        data, reason = load_or_generated(recipe.data, progress=counted(told))
    if reason:
        say(f"{reason}\n")
        recipe = read_recipe(RECIPE, {"train.minutes": minutes, "train.seed": seed, "data.source": FALLBACK})
    say(
        f"Training on {data.name} ({some(len(data), 'picture')}, {len(data.classes)} classes) for {minutes:g} min. "
        "Ctrl-C stops early."
    )
    last = run_training(recipe, folder)
    if last is None or not (folder / "model").exists():
        finish(folder, last, recipe)
        return
    written = leave_pictures(folder, recipe, data)
    say(f"{some(last.step, 'step')}, {last.step * recipe.train.batch_size:,} pictures seen. Look at")
    say(table(written))
    quoted, first = shlex.quote(str(folder)), shlex.quote(data.classes[0]) if data.classes else ""
    say("Try next:")
    say(f"  inkwash sample {quoted} -n 16{f' --label {first}' if first else ''} --guidance 2 --gif one.gif")
    say(f"  inkwash train --resume {quoted} --minutes {2 * minutes:g}   # train it longer")
    say("  inkwash train photos/                          # your own pictures")


def leave_pictures(folder: Path, recipe: Recipe, data: Dataset) -> dict[str, str]:
    """Draw what a run has learned and how: the files written, by what they show."""
    from inkwash.gallery import Trace, forward_strip, loss_plot, sheet
    from inkwash.pictures import save_gif, save_png
    from inkwash.pipeline import load
    from inkwash.training.run import read_metrics

    pipe = load(folder)
    trace = Trace(limit=4 * max(len(data.classes), ROWS))  # enough to see, and a GIF that can be sent
    with bar("Sampling") as told:
        samples = pipe(ROWS * (len(data.classes) or ROWS), watch=told, trace=trace)
    save_png(sheet(samples), folder / "samples.png", samples.settings)
    save_gif(trace.frames(samples), folder / "denoising.gif")
    captions = [f"t = {t:g}" for t in TIMES]
    strip = forward_strip(data.images[0], pipe.codec, recipe.path, TIMES, captions)
    save_png(strip, folder / "forward.png", {"data": data.name, "at": list(TIMES)})
    save_png(loss_plot(read_metrics(folder / "metrics.jsonl")), folder / "loss.png", {"run": str(folder)})
    return {
        "samples": f"{folder / 'samples.png'}   one column a class",
        "how they appear": str(folder / "denoising.gif"),
        "how data become noise": str(folder / "forward.png"),
        "the loss": f"{folder / 'loss.png'}, {folder / 'metrics.jsonl'}",
        "the model": str(folder / "model"),
    }
