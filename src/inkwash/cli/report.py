"""`inkwash report`: a run on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.command import refuse
from inkwash.cli.words import check_ending, say, size


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    out: Annotated[Path | None, typer.Option(help="The page (default: RUN/report.html, or MODEL-report.html).")] = None,
    device: Annotated[str, typer.Option(help="What draws samples: auto, cpu, cuda, cuda:1, mps.")] = "auto",
    trust: Annotated[bool, typer.Option("--trust", help="Run code from outside inkwash that the model names.")] = False,
) -> None:
    """Write a run's report: one HTML page that needs no network.

    Recipe, curves, samples over time, a denoising strip, new samples, measures and where they come from. What a run
    does not have yet is left out, with the command that makes it.
    """
    refuse(check_ending(out, ".html", "--out"))
    from inkwash.cli.terminal import bar
    from inkwash.report import report as write

    with bar("Drawing") as told:
        done = write(run, out, device=device, trust=trust, watch=told)
    for problem in done.problems:
        say(f"Left out: {problem}")
    say(f"The report is {done.file} ({size(done.file.stat().st_size)}): open it in a browser.")
