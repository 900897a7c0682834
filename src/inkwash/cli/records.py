"""`inkwash records`: the numbers that are kept beside runs, and whether they may be compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inkwash.cli.words import columns, say, some

if TYPE_CHECKING:
    from inkwash.evaluation import Record


def records(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, models, or folders with records.jsonl.")],
    measure: Annotated[str | None, typer.Option(help="Only this one: fd, kid, precision ...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Older numbers too, not only the newest of each.")] = False,
) -> None:
    """Show the numbers of runs side by side, with what they belong to.

    Of several runs, those numbers that measure the same thing in each: feature net, weights, resize, data, split and n.
    Where there are none, what differs is said. Models, samplers, steps and guidance may differ.

    inkwash records runs/a runs/b --measure fd
    """
    from inkwash.evaluation import evaluation_folder, newest, read_records
    from inkwash.evaluation.card import provenance, row_of
    from inkwash.evaluation.record import shared

    kept: dict[str, list[Record]] = {}
    for run in runs:
        folder = run if (run / "records.jsonl").is_file() else evaluation_folder(run)
        found = read_records(folder)
        found = [r for r in (found if everything else newest(found)) if measure in (None, r.measure.name)]
        if not found:
            what = f"no {measure}" if measure else "nothing"
            raise ValueError(
                f"There is {what} measured in {folder}. Measure it with `inkwash eval {run} --split test`."
            )
        kept[str(run)] = found
    several = len(kept) > 1
    shown = shared(kept) if several else [(run, record) for run, found in kept.items() for record in found]
    head = [*(["run"] if several else []), "measure", "value", "95 %", "floor", "n", "against", "drawn with"]
    say(columns([head, *([*([run] if several else []), *row_of(record)] for run, record in shown)]))
    for line in provenance([record for _, record in shown]):
        say(f"  {line}")
    if more := sum(map(len, kept.values())) - len(shown):
        say(f"Not shown: {some(more, 'number')} of what not every one of these has measured.")
