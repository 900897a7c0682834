"""`inkwash data`: a look at data before training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from inkwash.cli.command import Command, refuse
from inkwash.cli.terminal import bar, counted
from inkwash.cli.words import check_ending, frame_of, free_name, say

app = typer.Typer(
    help="Look at data before training on them.",
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(ctx: typer.Context) -> None:
    """Look at data before training on them."""
    if ctx.invoked_subcommand is None:
        say(ctx.get_help())


@app.command("check", cls=Command)
def check(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Data, as for `inkwash train`.")],
    frame: Annotated[
        str | None, typer.Option("--size", help="Pixels: 32, or HEIGHTxWIDTH as in 48x64 (default: the data's).")
    ] = None,
    resize: Annotated[
        Literal["crop", "pad", "stretch"], typer.Option(help="How pictures are brought to that size.")
    ] = "crop",
    channels: Annotated[
        int | None, typer.Option(help="1 (grey), 3 (RGB) or 4 (RGBA) (default: the data's).", min=1)
    ] = None,
    vector: Annotated[
        str | None,
        typer.Option(help="Numbers of each picture: columns of metadata.jsonl, as in angle,size."),
    ] = None,
    pairs: Annotated[
        str | None, typer.Option(help="A folder or an archive with a partner of each picture, under the same name.")
    ] = None,
    split: Annotated[Literal["train", "test"], typer.Option(help="Of data that come in two parts.")] = "train",
    out: Annotated[
        Path | None, typer.Option(help="The contact sheet (default: sheet.png, or sheet-2.png ... in this folder).")
    ] = None,
) -> None:
    """Say what is in data: counts, sizes, classes, captions, numbers, partners, bad files, duplicates.

    Reads everything once; training then uses what was read. Exits with 1 where so much is bad that training refuses.
    """
    mistakes = check_ending(out, ".png", "--out")
    size = frame_of(frame, mistakes)
    refuse(mistakes)
    from inkwash.data import DataSpec
    from inkwash.data import check as examine
    from inkwash.data.dataset import MAX_BAD

    side = (size[0], size[1]) if isinstance(size, list) else size
    with bar("Reading") as told:
        columns = tuple(name.strip() for name in vector.split(",")) if vector is not None else ()
        spec = DataSpec(source, size=side, resize=resize, channels=channels, split=split, vector=columns, pairs=pairs)
        report = examine(spec, progress=counted(told))
    for line in report.lines():
        say(line)
    if report.sheet is not None:
        from inkwash.pictures import save_png

        out = out or free_name(Path("sheet.png"))
        save_png(report.sheet, out, {"data": report.data.name})
        say(f"contact sheet: {out}")
    bad, total = len(report.bad), len(report.bad) + len(report.data)
    if bad and report.data.folder is not None:
        say(f"all bad files: {report.data.folder / 'bad-files.txt'}")
    if bad > MAX_BAD * total:
        say(f"Training refuses data of which more than {MAX_BAD:.0%} cannot be read, as {bad / total:.0%} of these.")
        raise typer.Exit(1)
