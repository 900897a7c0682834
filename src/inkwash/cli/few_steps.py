"""`inkwash few-steps`: a student beside its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.words import say

_what, _how, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Where to"))


def few_steps(
    ctx: typer.Context,
    students: Annotated[
        list[Path], typer.Argument(metavar="STUDENT...", help="Runs that `inkwash distill` made, or RUN@STEP.")
    ],
    teacher: Annotated[Path | None, _what(help="Their teacher (default: what the first one's recipe says).")] = None,
    n: Annotated[int, _what("--n", "-n", help="Pictures from each, for a distance.", min=2)] = 2000,
    split: Annotated[Literal["val", "test", "train"], _what(help="Real pictures to compare with.")] = "test",
    features: Annotated[str, _what(help="The net that compares: lite0, classifier, dinov2, inception.")] = "lite0",
    seed: Annotated[int, _what(help="Of the pictures.")] = 0,
    sampler: Annotated[str, _how(help="The teacher's, with commas: heun,dpm++,euler.")] = "dpm++",
    precision: Annotated[Literal["fp32", "bf16"], _how(help="What the networks compute in.")] = "fp32",
    device: Annotated[str, _how(help="auto, cpu, cuda, mps.")] = "auto",
    out: Annotated[Path | None, _where(help="A folder (default: few-steps in the first student's).")] = None,
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the models name.")] = False,
) -> None:
    """Compare students with their teacher: quality, calls and seconds as a table and a plot, and the same seeds drawn.

    The teacher is drawn in 50, 20, 10, 5, 2 and 1 calls of its network, or just fewer, by each sampler that can, and
    students in those of 4, 2 and 1 steps that they have learned. The sheet has the teacher by the sampler that is best
    at 50. Every point is kept: asked again, or for one student or sampler more, only what is new is measured.
    """
    refuse(mistakes_so_far(ctx))
    from inkwash.cli.terminal import stages
    from inkwash.distilling.report import (
        Contestant,
        at_its_best,
        in_calls,
        in_steps,
        measured,
        plot,
        sheet,
        straight_line,
        straightened,
        table,
    )
    from inkwash.earlier import split_step
    from inkwash.evaluation import about_model, evaluation_folder, real_side
    from inkwash.kinds import split_texts
    from inkwash.pictures import save_png
    from inkwash.pipeline import load
    from inkwash.recipes import read_recipe

    first = Path(split_step(students[0])[0])
    if teacher is None:
        written = first / "recipe.toml"
        stated = read_recipe(written).teacher if written.is_file() else None
        if stated is None:
            raise ValueError(f"{first} names no teacher in its recipe.toml. Name it with --teacher RUN.")
        teacher = Path(stated.run)
    folder = out or first / "few-steps"
    names = ["teacher", *(run.name for run in students)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Two would be called {', '.join(twice)} in the report. Name each once, or rename its folder.")
    if not (samplers := split_texts(sampler)):
        raise ValueError("--sampler names none. Give at least one, as in heun,dpm++.")

    def contestant(name: str, run: Path, samplers: Sequence[str] = ()) -> Contestant:
        pipe = load(run, device=device, precision=precision, chunk=64, trust=trust)
        place, step = split_step(run)
        own = in_calls(pipe, samplers) if samplers else in_steps(pipe)
        about = about_model(place, pipe) | ({} if step is None else {"weights_sha256": None})  # not the last step's
        return Contestant(name, pipe, about, evaluation_folder(place), own)

    models = [contestant("teacher", teacher, samplers), *(contestant(run.name, run) for run in students)]
    with stages() as told:
        side = real_side(first, split, None, features, n, measures=("fd",), device=models[0].pipe.device, watch=told)
        found = measured(models, side, n, seed=seed, watch=told)
        examples = None if side.data is None or side.rows is None else (side.data, side.rows)
        straight = {} if examples is None else straightened(models, examples, seed=seed, watch=told)
    text = table(found) + ("\n" + straight_line(straight) if straight else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    say(text)
    about = {"n": n, "seed": seed, "split": split, "features": features}
    drawn = [save_png(plot(found), folder / "quality.png", about)]
    models[0] = at_its_best(models[0], found["teacher"])
    drawn.append(save_png(sheet(models, seed=seed, examples=examples), folder / "sheet.png", about))
    say(f"In {folder}: table.md, {', '.join(file.name for file in drawn)}")
