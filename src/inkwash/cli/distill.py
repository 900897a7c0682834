"""`inkwash distill`: from a trained model to one of a few steps."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.words import say

_what, _how, _run = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Run"))


def distill(
    ctx: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="The teacher: a run's folder, a model's, or RUN@STEP as it was then.")
    ],
    method: Annotated[
        str,
        _how(
            help="soflow, consistency, shortcut, meanflow or reflow; settings in brackets: 'soflow(gap=0.05)', "
            "'reflow(pairs=20000)'."
        ),
    ] = "soflow",
    steps: Annotated[
        str | None,
        _what(
            help="In how many it is to draw, and soflow learns just these; in the most of them unless others are asked "
            "for (default: 1,2,4)."
        ),
    ] = None,
    minutes: Annotated[float, _run(help="Of training alone: what drawing pairs takes comes on top.")] = 10.0,
    guidance: Annotated[
        str | None,
        _what(
            metavar="SCALE|LOW:HIGH",
            help="Of the teacher; one becomes part of the student, which then needs none; of 1:4 the student is told "
            "which, and --guidance asks it for any (default: the teacher's own).",
        ),
    ] = None,
    pairs: Annotated[
        int | None, _how(help="Learn from so many pictures of the teacher's, without its data.", min=1)
    ] = None,
    data: Annotated[str | None, _how(help="The teacher's data, where its run does not say.")] = None,
    sets: Annotated[
        list[str] | None, _run("--set", metavar="KEY=VALUE", help="Any setting of the recipe: train.seed=1.")
    ] = None,
    out: Annotated[Path | None, _run(help="The student's folder (default: RUN-METHOD beside it).")] = None,
    dry_run: Annotated[bool, _run("--dry-run", help="Only say what it would cost.")] = False,
    trust: Annotated[bool, _run("--trust", help="Run code from outside inkwash that the teacher names.")] = False,
) -> None:
    """Distil a trained model into one that draws in one to four steps.

    The student begins as its teacher and is an ordinary model: sample, eval, edit and export take it. A run that was
    stopped goes on with `inkwash train --resume`.
    """
    mistakes = mistakes_so_far(ctx)
    if not minutes > 0:
        mistakes.append(f"--minutes {minutes:g} must be more than 0.")
    counts = [] if steps is None else [part.strip() for part in steps.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in counts):
        mistakes.append(f"--steps {steps} must be whole numbers from 1 on, as in 4 or 1,2,4.")
    scale = _scale(guidance, mistakes)
    refuse(mistakes)
    from inkwash.cli.train import finish, rehearse, run_training
    from inkwash.distilling import AnyMethod, student
    from inkwash.earlier import split_step
    from inkwash.kinds import from_text, to_table
    from inkwash.recipes import read_recipe
    from inkwash.training.run import Run

    chosen = from_text(AnyMethod, method, "method")
    wanted = [int(part) for part in counts] or None
    recipe = student(run, chosen, steps=wanted, minutes=minutes, guidance=scale, pairs=pairs, data=data, trust=trust)
    recipe = read_recipe(to_table(recipe), {}, sets or [])
    whole, step = split_step(run)
    folder = Path(whole).resolve().parent if Path(whole).name == "model" else Path(whole).resolve()
    name = folder.name if step is None else f"{folder.name}@{step}"
    place = Run.new(out or folder.with_name(f"{name}-{chosen.kind}"), recipe).folder
    if recipe.conditions is not None and (told := recipe.conditions.guidance) is not None:
        usual = f"{recipe.sampler.guidance:g} unless another is asked for"
        say(f"The student is told the scale of guidance, from {told.low:g} to {told.high:g}: {usual}.")
    elif recipe.teacher and recipe.teacher.sampler and recipe.teacher.sampler.guidance != 1:
        say(f"The teacher's guidance {recipe.teacher.sampler.guidance:g} becomes part of the student.")
    if dry_run:
        rehearse(recipe)
        return
    last = run_training(recipe, place)
    finish(place, last, recipe)
    if last is not None and last.fraction >= 1:
        say(f"  inkwash few-steps {shlex.quote(str(place))}")


def _scale(text: str | None, mistakes: list[str]) -> float | tuple[float, float] | None:
    """A scale of guidance, or the lowest and the highest of many; what cannot be read is noted."""
    if text is None:
        return None
    try:
        one, *more = (float(part) for part in text.split(":"))
        if len(more) < 2:
            return (one, more[0]) if more else one
    except ValueError:
        pass
    mistakes.append(f"--guidance {text} must be a scale, as in 2, or a range of them, as in 1:4.")
    return None
