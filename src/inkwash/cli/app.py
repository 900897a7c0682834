"""The command's root: its help, its subcommands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from inkwash._version import __version__
from inkwash.cli import (
    compare,
    data,
    demo,
    distill,
    doctor,
    edit,
    ema,
    export,
    few_steps,
    hub,
    import_,
    info,
    interpolate,
    likelihood,
    noise,
    records,
    report,
    sample,
    train,
    train_codec,
)
from inkwash.cli import eval as evaluation
from inkwash.cli.command import Command, Patient

EXAMPLES = """
Examples:

\N{NO-BREAK SPACE} inkwash train photos/                   a model of the pictures in a folder

\N{NO-BREAK SPACE} inkwash train fashion-mnist --minutes 10

\N{NO-BREAK SPACE} inkwash sample runs/photos -n 16        new pictures from it, in samples.png

\N{NO-BREAK SPACE} inkwash demo                            all of it at once, in some minutes

Data can be a folder, a .zip or .tar, an .npy or .npz, or a name: fashion-mnist, mnist, cifar10, swiss-roll, moons,
checkerboard, gaussians.
"""

app = typer.Typer(
    name="inkwash",
    help="From a folder of pictures to a trained diffusion model to new pictures.",
    epilog=EXAMPLES,
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("train", cls=Patient)(train.train)
app.command("train-codec", cls=Patient)(train_codec.train_codec)
app.command("distill", cls=Patient)(distill.distill)
app.command("few-steps", cls=Patient)(few_steps.few_steps)
app.command("sample", cls=Command)(sample.sample)
app.command("compare", cls=Patient)(compare.compare)
app.command("edit", cls=Command)(edit.edit)
app.command("interpolate", cls=Command)(interpolate.interpolate)
app.command("likelihood", cls=Command)(likelihood.likelihood)
app.command("eval", cls=Patient)(evaluation.eval)
app.command("records", cls=Command)(records.records)
app.command("report", cls=Command)(report.report)
app.command("ema", cls=Patient)(ema.ema)
app.command("export", cls=Patient)(export.export)
app.command("import", cls=Command)(import_.import_)
app.command("push", cls=Command)(hub.push)
app.command("pull", cls=Command)(hub.pull)
app.command("info", cls=Command)(info.info)
app.command("noise", cls=Command)(noise.noise)
app.add_typer(data.app, name="data")
app.command("demo", cls=Command)(demo.demo)
app.command("doctor", cls=Command)(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"inkwash {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where errors come from (or INKWASH_DEBUG=1).")] = False,
) -> None:
    """From a folder of pictures to a trained diffusion model to new pictures."""
    if debug:
        os.environ["INKWASH_DEBUG"] = "1"
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def run(args: Sequence[str] | None = None) -> int:
    """Run a command line; its exit status: 0, 2 for a mistake (said on stderr), 130 when it was interrupted.

    What is not the user's mistake propagates, and so does everything with INKWASH_DEBUG=1 or --debug.
    """
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that a user's `kind = "mine:Sampler"` is found and nothing is hidden by it
    # OpenMP's threads wait for each other in a loop, by default for about a millisecond, which on a machine that has
    # other work to do takes the core from the very thread that is waited for. a tenth of that bridges what lies between
    # two operations, and is as fast or faster on a machine with nothing else to do.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    try:
        return int(app(args if args is None else list(args), prog_name="inkwash", standalone_mode=False) or 0)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("Stopped.", err=True)
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's own
            message = error.format_message()
        elif os.environ.get("INKWASH_DEBUG") not in (None, "", "0") or (message := _mistake(error)) is None:
            raise
        typer.echo(f"Error: {message}", err=True)
        return 2


def _mistake(error: Exception) -> str | None:
    """What to tell the user of an error that is theirs to mend; None for a bug of ours.

    inkwash raises ValueError for a user's mistake. One that torch or numpy raises beneath it was not foreseen: a bug.
    """
    if isinstance(error, OSError):
        reason = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        return f"{reason}."
    if isinstance(error, ValueError):
        return str(error) if _origin(error) in ("inkwash", "pydantic", "typer") else None
    if not isinstance(error, (RuntimeError, MemoryError)):
        return None
    from inkwash.data import DatasetUnavailableError

    if isinstance(error, DatasetUnavailableError):
        return str(error)
    if "torch" not in sys.modules:  # then nothing of what follows can have been raised
        return None
    from inkwash.checkpoint import CheckpointError
    from inkwash.device import out_of_memory
    from inkwash.ranks import RankLostError
    from inkwash.training import TrainingError

    if out_of_memory(error):
        return f"Out of memory: {str(error).rstrip('. ')}. A smaller --batch-size helps."
    return str(error) if isinstance(error, (CheckpointError, RankLostError, TrainingError)) else None


def _origin(error: Exception) -> str:
    """The package whose code raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0] if trace is not None else ""
