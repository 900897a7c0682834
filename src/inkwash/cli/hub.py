"""`inkwash push` and `inkwash pull`: models to and from a hub."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from inkwash.cli.told import sampling_line
from inkwash.cli.words import say

_what, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "Where to"))


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="What it is to be called on the hub.")],
    licence: Annotated[
        str | None, _what(help="Of the data: required, unless the authors of a named set state one.")
    ] = None,
    private: Annotated[bool, _where("--private", help="For you alone, where the repository is new.")] = False,
    trust: Annotated[bool, _what("--trust", help="Run code from outside inkwash that the model names.")] = False,
) -> None:
    """Upload a model to the Hugging Face hub, with a card written from its run.

    The card has samples, the recipe, what was measured and with what, and the licence of the data. Log in first with
    `hf auth login`.

    inkwash push runs/photos me/photos --licence "my own, CC BY 4.0"
    """
    from inkwash.cli.terminal import bar
    from inkwash.exchange import push

    with bar("Drawing samples") as told:
        address = push(run, name, licence=licence, private=private, trust=trust, watch=told)
    say(f"Uploaded: {address}")
    say(f"Others get it with:\n  inkwash pull {name}")


def pull(
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="Of a model that was pushed.")],
    revision: Annotated[str | None, _what(help="A branch, tag or commit (default: the newest).")] = None,
    trust: Annotated[bool, _what("--trust", help="Take a model that names code from outside inkwash.")] = False,
    out: Annotated[Path | None, _where(help="The folder to make (default: runs/NAME).")] = None,
) -> None:
    """Bring a model from the Hugging Face hub, checked against its manifest.

    A model that names code from outside inkwash is refused without --trust.

    inkwash pull me/photos
    """
    from inkwash.exchange import pull

    folder = pull(name, out, revision=revision, trust=trust)
    say(f"The model is in {folder}.")
    say(f"Next:\n  {sampling_line(folder)}")
