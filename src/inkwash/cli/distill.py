"""`inkwash distill`: from a trained model to one of a few steps."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.command import refuse
from inkwash.cli.words import say

_what, _how, _run = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Run"))


def distill(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The teacher: a run's folder, or a model's.")],
    method: Annotated[
        str,
        _how(
            help="soflow, consistency, shortcut, meanflow or reflow; settings in brackets: 'soflow(gap=0.05)', "
            "'reflow(pairs=20000)'."
        ),
    ] = "soflow",
    steps: Annotated[
        str, _what(help="In how many it is to draw: 4, or 1,2,4; in the most of them unless others are asked for.")
    ] = "4",
    minutes: Annotated[float, _run(help="Of training; pairs are drawn before.")] = 10.0,
    guidance: Annotated[
        float | None,
        _what(help="Of the teacher; it becomes part of the student, which then needs none (default: the teacher's)."),
    ] = None,
    pairs: Annotated[
        int | None, _how(help="Learn from so many pictures of the teacher's, without its data.", min=1)
    ] = None,
    data: Annotated[str | None, _how(help="The teacher's data, where its run does not say.")] = None,
    sets: Annotated[
        list[str] | None, _run("--set", metavar="KEY=VALUE", help="Any setting of the recipe: train.seed=1.")
    ] = None,
    out: Annotated[Path | None, _run(help="The student's folder (default: RUN-METHOD beside it).")] = None,
) -> None:
    """Distil a trained model into one that draws in one to four steps.

    The student begins as its teacher and is an ordinary model: sample, eval, edit and export take it. A run that was
    stopped goes on with `inkwash train --resume`.
    """
    mistakes: list[str] = []
    if not minutes > 0:
        mistakes.append(f"--minutes {minutes:g} must be more than 0.")
    counts = [part.strip() for part in steps.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in counts):
        mistakes.append(f"--steps {steps} must be whole numbers from 1 on, as in 4 or 1,2,4.")
    refuse(mistakes)
    from inkwash.cli.train import finish, run_training
    from inkwash.distilling import AnyMethod, student
    from inkwash.kinds import from_text, to_table
    from inkwash.recipes import read_recipe
    from inkwash.training.run import Run

    chosen = from_text(AnyMethod, method, "method")
    recipe = student(
        run, chosen, steps=max(map(int, counts)), minutes=minutes, guidance=guidance, pairs=pairs, data=data
    )
    recipe = read_recipe(to_table(recipe), {}, sets or [])
    folder = run.resolve().parent if run.name == "model" else run.resolve()
    place = Run.new(out or folder.with_name(f"{folder.name}-{chosen.kind}"), recipe).folder
    if recipe.teacher and recipe.teacher.sampler and recipe.teacher.sampler.guidance != 1:
        say(f"The teacher's guidance {recipe.teacher.sampler.guidance:g} becomes part of the student.")
    last = run_training(recipe, place)
    finish(place, last, recipe)
    if last is not None and last.fraction >= 1:
        say(f"  inkwash few-steps {shlex.quote(str(place))}")
