"""`inkwash records`: the numbers that are kept beside runs, and whether they may be compared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inkwash.cli.words import columns, say

if TYPE_CHECKING:
    from inkwash.evaluation import Record


def records(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs, models, or folders with records.jsonl.")],
    measure: Annotated[str | None, typer.Option(help="Only this one: fd, kid, precision ...")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Older numbers too, not only the newest of each.")] = False,
) -> None:
    """Show the numbers of runs side by side, with what they belong to.

    Of several runs, numbers are compared: those that do not measure the same thing, because feature net, weights,
    resize, data, split or n differ, are refused with what differs. Models, samplers, steps and guidance may differ.

    inkwash records runs/a runs/b --measure fd
    """
    from inkwash.evaluation import comparable, evaluation_folder, newest, read_records
    from inkwash.evaluation.card import provenance, row_of

    found: list[tuple[Path, Record]] = []
    for run in runs:
        folder = run if (run / "records.jsonl").is_file() else evaluation_folder(run)
        kept = read_records(folder)
        kept = [r for r in (kept if everything else newest(kept)) if measure in (None, r.measure.name)]
        if not kept:
            what = f"no {measure}" if measure else "nothing"
            raise ValueError(
                f"There is {what} measured in {folder}. Measure it with `inkwash eval {run} --split test`."
            )
        found += [(run, record) for record in kept]
    if len(runs) > 1:
        mistakes: dict[str, None] = {}
        first: dict[str, tuple[Path, Record]] = {}
        for run, record in found:
            known, one = first.setdefault(record.measure.name, (run, record))
            try:
                comparable(one, record)
            except ValueError as error:
                mistakes[f"{known} and {run}: {error}"] = None
        if mistakes:
            raise ValueError("\n".join(mistakes))
    several = len(runs) > 1
    head = [*(["run"] if several else []), "measure", "value", "95 %", "floor", "n", "against", "drawn with"]
    order = {name: i for i, name in enumerate(dict.fromkeys(r.measure.name for _, r in found))}
    ranked = sorted(found, key=lambda each: order[each[1].measure.name]) if several else found
    say(columns([head, *([*([str(run)] if several else []), *row_of(record)] for run, record in ranked)]))
    for line in provenance([record for _, record in ranked]):
        say(f"  {line}")
