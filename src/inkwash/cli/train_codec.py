"""`inkwash train-codec`: from pictures to a codec, in whose latents models can be trained."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.train import stopped, watched
from inkwash.cli.words import duration, frame_of, say, some, table

if TYPE_CHECKING:
    from inkwash.autoencoding import CodecRecipe
    from inkwash.training import Progress

_length, _data, _model, _run = (
    partial(typer.Option, rich_help_panel=name)
    for name in ("How long and how fast", "Data", "The autoencoder", "The run")
)


def train_codec(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE|RECIPE", help="A folder, archive, array, name of data, or a codec.toml."),
    ] = None,
    steps: Annotated[int | None, _length(help="Train for so many steps.")] = None,
    minutes: Annotated[float | None, _length(help="Train for so many minutes (default: 10, unless --steps).")] = None,
    batch_size: Annotated[int | None, _length(help="Pictures in a step (default: 32).")] = None,
    device: Annotated[str | None, _length(help="auto, cpu, cuda, cuda:1, mps (default: auto).")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None, _length(help="auto takes bf16 where it is faster (default: auto).")
    ] = None,
    frame: Annotated[
        str | None, _data("--size", help="Pixels: 64, or HEIGHTxWIDTH as in 48x64 (default: the data's).")
    ] = None,
    val_fraction: Annotated[
        float | None, _data(help="Share of pictures held out, to judge reconstructions by (default: 0.05).")
    ] = None,
    factor: Annotated[
        int | None, _model(help="How many times smaller a latent's sides are: 4 or 8 (default: 4).")
    ] = None,
    channels: Annotated[int | None, _model(help="Channels of a latent, usually 4 to 16 (default: 4).")] = None,
    adversarial: Annotated[
        bool, _model("--adversarial", help="With a patch discriminator in the second half.")
    ] = False,
    kl: Annotated[float | None, _model(help="Weight of the latents' divergence from a normal (default: 1e-6).")] = None,
    lr: Annotated[float | None, _model(help="Learning rate (default: 2e-3).")] = None,
    sets: Annotated[
        list[str] | None, _model("--set", metavar="KEY=VALUE", help="Any value of the recipe; repeatable.")
    ] = None,
    out: Annotated[Path | None, _run(help="The run's folder (default: runs/NAME-codec).")] = None,
    resume: Annotated[
        Path | None, _run(metavar="RUN", help="Go on with a run, or from one of its checkpoints.")
    ] = None,
    seed: Annotated[int | None, _run(help="Of all randomness (default: 0).")] = None,
) -> None:
    """Train an autoencoder on pictures: the codec of latent diffusion.

    The codec lies in the run's folder in the end, with the statistics of its latents and what its reconstructions are
    worth. Models are trained in its latents with `inkwash train SOURCE --codec RUN`.

    inkwash train-codec photos/ --size 128 --factor 8 --minutes 60

    inkwash train-codec runs/photos-codec/codec.toml --set loss.structure=0.5

    inkwash train-codec --resume runs/photos-codec --minutes 120
    """
    mistakes = mistakes_so_far(ctx)
    train = {"steps": steps, "minutes": minutes, "device": device, "precision": precision}
    made: tuple[CodecRecipe, Path] | None = None
    if resume is not None:
        if source is not None:
            mistakes.append(f"{source} and --resume {resume} both say what to train. A resumed run has its own data.")
        if out is not None:
            mistakes.append(f"--out {out} and --resume {resume} both say where. A resumed run stays in its folder.")
        options = {"--batch-size": batch_size, "--seed": seed, "--size": frame, "--val-fraction": val_fraction}
        options |= {"--factor": factor, "--channels": channels, "--kl": kl, "--lr": lr}
        if fixed := [*_given(options), *(["--adversarial"] if adversarial else []), *(["--set"] if sets else [])]:
            mistakes.append(f"{', '.join(fixed)} cannot change in a resumed run. Leave it out, or begin a new one.")
        made = _try(lambda: _resumed(resume, train), mistakes)
    elif source is None:
        mistakes.append("Give something to train on: a folder of pictures, or for a first try `fashion-mnist`.")
    else:
        size: Any = frame_of(frame, mistakes)
        named = source.endswith(".toml")
        data = {
            "source": None if named else source,
            "size": tuple(size) if isinstance(size, list) else size,
            "val_fraction": val_fraction,
        }
        tables = {
            "data": data,
            "autoencoder": {"factor": factor, "latent_channels": channels},
            "loss": {"kl": kl},
            "adversary": {} if adversarial else None,
            "optim": {"lr": lr},
            "train": {**train, "batch_size": batch_size, "seed": seed},
        }
        made = _try(lambda: _fresh(tables, source if named else "", sets or (), out), mistakes)
    if device:
        from inkwash.device import pick_device

        _try(lambda: pick_device(device), mistakes)
    refuse(mistakes)
    if made is not None:
        recipe, folder = made
        finish(folder, run_training(recipe, folder, resume), recipe)


def run_training(recipe: CodecRecipe, folder: Path, resume: Path | None = None) -> Progress | None:
    """Train, showing it on the terminal; the last progress. Exits with 130 on a second Ctrl-C."""
    from inkwash.autoencoding import train_codec as training

    return watched(
        lambda stop, told: training(recipe, folder, resume=resume, stop=stop, data_progress=told),
        folder,
        recipe.train.checkpoint_every,
        again(folder),
    )


def finish(folder: Path, last: Progress | None, recipe: CodecRecipe) -> None:
    """Say where a run ended, and what one can do now."""
    if last is None:
        return
    spent = f"{some(last.step, 'step')} in {duration(last.seconds)}"
    if last.fraction < 1:
        if stopped(folder, spent, again(folder)):
            say(f"or end it here, for a codec of what it has learned, with\n  {again(folder)} --steps {last.step}")
        return
    say(f"Trained for {spent}.")
    rows = {"codec": folder / "codec", "pictures": last.sampled, "metrics": folder / "metrics.jsonl"}
    say(table({name: str(path) for name, path in rows.items()}))
    size = "" if recipe.data.size is None else f" --size {'x'.join(map(str, recipe.data.frame))}"
    say("Next, a model in its latents:")
    say(f"  inkwash train {shlex.quote(recipe.data.source)}{size} --codec {shlex.quote(str(folder))}")


def again(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"inkwash train-codec --resume {shlex.quote(str(folder))}"


def _fresh(tables: Mapping[str, Any], file: str, sets: Sequence[str], out: Path | None) -> tuple[CodecRecipe, Path]:
    """The recipe of a new run, its tables without what is None, and its folder."""
    from inkwash.autoencoding import CodecRecipe
    from inkwash.autoencoding.folder import CodecRun

    given = {name: None if t is None else _given(t) for name, t in tables.items()}
    recipe = CodecRecipe.of(given, file=file, sets=sets)
    return recipe, CodecRun.new(out, recipe).folder


def _resumed(resume: Path, train: Mapping[str, Any]) -> tuple[CodecRecipe, Path]:
    """The recipe of a run to go on with, changed in length and machine, and its folder."""
    from inkwash.autoencoding.folder import CodecRun

    run = CodecRun.at(resume)
    return run.recipe().lengthened(**_given(train)), run.folder


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _try(what: Callable[[], Any], mistakes: list[str]) -> Any:
    """What a call returns, or None with what it says noted."""
    try:
        return what()
    except ValueError as error:
        mistakes += getattr(error, "mistakes", [str(error)])
        return None
