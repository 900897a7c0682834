"""`inkwash distill`: from a trained model to one of a few steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.command import refuse

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
    steps: Annotated[int, _what(help="As how many it is sampled unless others are asked for.", min=1)] = 4,
    minutes: Annotated[float, _run(help="Of training; pairs are drawn before.")] = 10.0,
    guidance: Annotated[
        float, _what(help="Of the teacher; it becomes part of the student, which then needs none.")
    ] = 1.0,
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
    refuse(mistakes)
    from inkwash.cli.train import finish, run_training
    from inkwash.distilling import AnyMethod, student
    from inkwash.kinds import from_text, to_table
    from inkwash.recipes import read_recipe
    from inkwash.training.run import Run

    chosen = from_text(AnyMethod, method, "method")
    recipe = student(run, chosen, steps=steps, minutes=minutes, guidance=guidance, pairs=pairs, data=data)
    recipe = read_recipe(to_table(recipe), {}, sets or [])
    folder = run.parent if run.name == "model" else run
    place = Run.new(out or folder.with_name(f"{folder.name}-{chosen.kind}"), recipe).folder
    finish(place, run_training(recipe, place), recipe)
