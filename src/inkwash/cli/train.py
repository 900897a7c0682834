"""`inkwash train`: from pictures to a model."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.costs import costs
from inkwash.cli.terminal import Stopper, bar, counted, live
from inkwash.cli.told import sampling_line, told
from inkwash.cli.words import duration, frame_of, say, some, table

if TYPE_CHECKING:
    from inkwash.recipes import Recipe
    from inkwash.training import Progress

_length, _data, _model, _run = (
    partial(typer.Option, rich_help_panel=name)
    for name in ("How long and how fast", "Data", "Model and learning", "The run")
)

# Not `recipes.builtin_names`, for which help would have to import torch.
_SHIPPED = files("inkwash").joinpath("recipes").iterdir()
_RECIPES = sorted(f.name.removesuffix(".toml") for f in _SHIPPED if f.name.endswith(".toml"))


def train(
    ctx: typer.Context,
    source: Annotated[
        str | None,
        typer.Argument(metavar="SOURCE|RECIPE", help="A folder, archive, array, name of data, or a recipe."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE.toml", help=f"Train on SOURCE as this recipe does: a file, or {', '.join(_RECIPES)}."
        ),
    ] = None,
    steps: Annotated[int | None, _length(help="Train for so many steps.")] = None,
    minutes: Annotated[
        float | None,
        _length(help="Train for so many minutes (default: 30, unless --steps or --epochs)."),
    ] = None,
    epochs: Annotated[float | None, _length(help="Train for so many times through the data.")] = None,
    batch_size: Annotated[int | None, _length(help="Examples in a step (default: 128).")] = None,
    device: Annotated[str | None, _length(help="auto, cpu, cuda, cuda:1, mps (default: auto).")] = None,
    precision: Annotated[
        Literal["auto", "fp32", "bf16"] | None,
        _length(help="auto takes bf16 where it is faster (default: auto)."),
    ] = None,
    compile: Annotated[
        bool | None,
        _length("--compile/--no-compile", help="torch.compile the network (default: in long runs on a GPU)."),
    ] = None,
    grad_checkpoint: Annotated[
        bool | None,
        _length("--grad-checkpoint", help="Keep less in memory, compute it again: the same results, more time."),
    ] = None,
    frame: Annotated[
        str | None,
        _data("--size", help="Pixels: 32, or HEIGHTxWIDTH as in 48x64 (default: the data's)."),
    ] = None,
    resize: Annotated[
        Literal["crop", "pad", "stretch"] | None,
        _data(help="How pictures are brought to that size (default: crop)."),
    ] = None,
    flip: Annotated[bool | None, _data("--flip/--no-flip", help="Mirror half of the pictures.")] = None,
    val_fraction: Annotated[
        float | None,
        _data(help="Share of pictures held out, to measure on (default: 0)."),
    ] = None,
    text: Annotated[
        str | None,
        _data(
            metavar="ENCODER",
            help="Learn from captions, read by minilm, clip or t5; or none (default: minilm, if there are captions).",
        ),
    ] = None,
    vector: Annotated[
        str | None,
        _data(metavar="NAME,...", help="Learn these numbers of every picture, as in angle,size; or none."),
    ] = None,
    image: Annotated[
        str | None,
        _data(
            metavar="TASK|FOLDER",
            help="Learn to make pictures from pictures: lowres, grey, edges, masked, or those of the same names in a "
            "FOLDER.",
        ),
    ] = None,
    codec: Annotated[
        str | None,
        _model(metavar="FOLDER", help="Diffuse latents of this codec: of `inkwash train-codec`, or of diffusers."),
    ] = None,
    net: Annotated[
        str | None,
        _model(
            metavar="KIND",
            help="The network: unet, classic-unet, dit, modern-dit, or mlp for points (default: what has the preset).",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        _model(
            help="Size of the network. unet: tiny, small, base; classic-unet: ddpm-cifar, annotated, wide64; "
            "dit: S, B, L, XL; modern-dit: XS, S, B, L, XL (default: small)."
        ),
    ] = None,
    lr: Annotated[float | None, _model(help="Learning rate (default: 2e-3).")] = None,
    guidance: Annotated[
        float | None,
        _model(help="Guidance of the samples drawn on the way (default: 1)."),
    ] = None,
    init_from: Annotated[str | None, _model(metavar="MODEL", help="Start from a trained model.")] = None,
    sets: Annotated[
        list[str] | None,
        _model("--set", metavar="KEY=VALUE", help="Any value of the recipe; repeatable."),
    ] = None,
    out: Annotated[Path | None, _run(help="The run's folder (default: runs/NAME).")] = None,
    resume: Annotated[
        Path | None,
        _run(metavar="RUN", help="Go on with a run, or from one of its checkpoints."),
    ] = None,
    seed: Annotated[int | None, _run(help="Of all randomness (default: 0).")] = None,
    dry_run: Annotated[bool, _run("--dry-run", help="Only say what it would cost.")] = False,
) -> None:
    """Train a model on pictures, or on points.

    The run's folder can be sampled from while it grows.

    inkwash train photos/ --size 64 --minutes 60

    inkwash train photos/ --size 128 --codec runs/photos-codec

    inkwash train photos/ --image "lowres(factor=4)"

    inkwash train ddpm-cifar10

    inkwash train photos/ --recipe ddpm-cifar10 --size 32

    inkwash train --resume runs/photos --minutes 120
    """
    mistakes = mistakes_so_far(ctx)
    overrides = {
        "codec.folder": codec,
        "net.kind": net,
        "net.preset": preset,
        "data.size": frame_of(frame, mistakes),
        "data.resize": resize,
        "data.flip": flip,
        "data.val_fraction": val_fraction,
        "optim.lr": lr,
        "sampler.guidance": guidance,
        "train.steps": steps,
        "train.minutes": minutes,
        "train.epochs": epochs,
        "train.batch_size": batch_size,
        "train.seed": seed,
        "train.device": device,
        "train.precision": precision,
        "train.compile": compile,
        "train.grad_checkpoint": grad_checkpoint,
        "train.init_from": init_from,
        **told(text, vector, image, mistakes),
    }
    if resume is not None:
        if source is not None:
            mistakes.append(f"{source} and --resume {resume} both say what to train. A resumed run has its own data.")
        if recipe is not None:
            mistakes.append(f"--recipe {recipe} and --resume {resume} both say how. A resumed run has its own recipe.")
        if out is not None:
            mistakes.append(f"--out {out} and --resume {resume} both say where. A resumed run stays in its folder.")
        whole, folder = _resumed(resume, overrides, sets or (), mistakes)
    elif source is None and recipe is None:
        what = f"a folder of pictures, or for a first try `fashion-mnist`. Recipes with data: {', '.join(_RECIPES)}."
        refuse([*mistakes, f"Give something to train on: {what}"])
        return
    else:
        whole, folder = _fresh(source, recipe, overrides, sets or (), out, mistakes)
    if dry_run:
        rehearse(whole)
        return
    finish(folder, run_training(whole, folder, resume=resume), whole)


def rehearse(recipe: Recipe) -> None:
    """Say what a run would cost, without it."""
    from inkwash.training import plan

    with bar("Preparing data") as shown:
        figures = plan(recipe, counted(shown))
    say(costs(figures))


def run_training(recipe: Recipe, folder: Path, *, resume: Path | None = None) -> Progress | None:
    """Train, showing it on the terminal; the last progress. Exits with 130 on a second Ctrl-C."""
    from inkwash.training import train as training

    return watched(
        lambda stop, told: training(recipe, folder, resume=resume, stop=stop, data_progress=told),
        folder,
        recipe.train.checkpoint_every,
        again(folder),
    )


def watched(
    training: Callable[[Callable[[], bool], Callable[[str, int, int], None]], Iterator[Progress]],
    folder: Path,
    checkpoint_every: int,
    again: str,
) -> Progress | None:
    """Show a training on the terminal; its last progress. Exits with 130 on a second Ctrl-C.

    training: begins it, given what to ask whether to stop, and whom to tell of the data; again: what goes on with it.
    """
    last: Progress | None = None
    with live(str(folder), checkpoint_every) as shown, Stopper(shown.asked_to_stop) as stopper:
        stopped = False
        try:
            for progress in training(stopper, shown.preparing):
                if last is None:
                    stopper.gentle = True
                shown.report(progress)
                last = progress
        except KeyboardInterrupt:
            stopped = True
    if stopped:
        resumable = any((folder / "checkpoints").glob("step-*"))
        say(f"Stopped at once. {'Go on from the last checkpoint with' if resumable else 'Nothing was saved yet.'}")
        if resumable:
            say(f"  {again}")
        raise typer.Exit(130)
    return last


def finish(folder: Path, last: Progress | None, recipe: Recipe) -> None:
    """Say where a run ended, and what one can do now."""
    if last is None:
        return
    spent = f"{some(last.step, 'step')} in {duration(last.seconds)}"
    if last.fraction < 1:
        stopped(folder, spent, again(folder))
        return
    if last.saved is None:  # resumed at its end
        train = recipe.train
        length = f"--epochs {2 * train.epochs:g}" if train.epochs else f"--minutes {2 * (train.minutes or 0):g}"
        more = f"--steps {2 * last.step}" if train.steps else length
        say(f"{folder} is trained to its end: {spent}. To train it longer:\n  {again(folder)} {more}")
        return
    say(f"Trained for {spent}.")
    say(
        table(
            {
                "samples": str(last.sampled or ""),
                "model": str(folder / "model"),
                "metrics": str(folder / "metrics.jsonl"),
            }
        )
    )
    say(f"Next:\n  {sampling_line(folder)} --gif denoising.gif\n  inkwash info {shlex.quote(str(folder))}")


def stopped(folder: Path, spent: str, again: str) -> bool:
    """Say how to go on with a run that was stopped before its end; whether there is anything to go on from."""
    if not any((folder / "checkpoints").glob("step-*")):
        say(f"Stopped before the first step: there is nothing to go on from. {folder} can be deleted.")
        return False
    say(f"Stopped after {spent}; saved. Go on with\n  {again}")
    return True


def again(folder: Path) -> str:
    """The command that goes on with a run."""
    return f"inkwash train --resume {shlex.quote(str(folder))}"


def _fresh(
    source: str | None,
    named: str | None,
    overrides: Mapping[str, Any],
    sets: Sequence[str],
    out: Path | None,
    mistakes: list[str],
) -> tuple[Recipe, Path]:
    """The recipe of a new run and its folder; all mistakes told. source: data or a recipe; named: a recipe."""
    from inkwash.data import NAMES
    from inkwash.recipes import builtin, read_recipe
    from inkwash.training.run import Run

    def read() -> Recipe:
        if named is None:
            return read_recipe(source or "", overrides, sets)
        if source is not None and (source.endswith(".toml") or (source in _RECIPES and source not in NAMES)):
            raise ValueError(f"{source} and --recipe {named} are two recipes. Give data and one of them.")
        tables = named if named.endswith(".toml") else builtin(named)
        return read_recipe(tables, {**overrides, "data.source": source}, sets)

    recipe = _try(read, mistakes)
    run: Any = _try(lambda: Run.new(out, recipe), mistakes) if out is not None or recipe is not None else None
    _check_machine(overrides, recipe, mistakes)
    refuse(mistakes)
    return recipe, run.folder


def _resumed(
    resume: Path, overrides: Mapping[str, Any], sets: Sequence[str], mistakes: list[str]
) -> tuple[Recipe, Path]:
    """The recipe of a run to go on with, and its folder; differences are said, mistakes told."""
    from inkwash.training import resume_recipe
    from inkwash.training.run import Run

    found = _try(lambda: resume_recipe(resume, overrides, sets), mistakes)
    _check_machine(overrides, found and found[0], mistakes)
    refuse(mistakes)
    recipe, differences = found
    for line in differences:
        say(f"Changed: {line}")
    return recipe, Run.at(resume).folder


def _check_machine(overrides: Mapping[str, Any], recipe: Recipe | None, mistakes: list[str]) -> None:
    """What is missing here of what a recipe, or else the options, ask for: data, device, the model to start from."""
    from inkwash.data import NAMES
    from inkwash.data.find import find_source
    from inkwash.device import pick_device
    from inkwash.earlier import split_step
    from inkwash.modelfolder import find_model

    device = recipe.train.device if recipe else overrides["train.device"]
    start = recipe.train.init_from if recipe else overrides["train.init_from"]
    codec = overrides["codec.folder"] if recipe is None else recipe.codec and recipe.codec.folder
    if recipe is not None and (source := recipe.data.source) not in NAMES:
        _try(lambda: find_source(source), mistakes)
    if device:
        _try(lambda: pick_device(device), mistakes)
    if start:
        _try(lambda: find_model(split_step(start)[0]), mistakes)
    if codec and not (recipe and recipe.codec and recipe.codec.sha256):  # one of a resumed run is judged later
        from inkwash.codecfolder import codec_place, load_codec

        if _try(lambda: load_codec(codec), mistakes) and (place := codec_place(codec)) != Path(codec):
            say(f"The codec is the one in {place}.")


def _try(what: Callable[[], Any], mistakes: list[str]) -> Any:
    """What a call returns, or None with what it says noted."""
    try:
        return what()
    except ValueError as error:
        said = getattr(error, "mistakes", [str(error)])
        preset = "net.preset (--preset) is for other nets than this recipe's; --net names one."
        mistakes += [m.replace("net.preset is unknown.", preset) for m in said]
        return None
