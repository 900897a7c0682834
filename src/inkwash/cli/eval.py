"""`inkwash eval`: how good a model's pictures are, in numbers that say what they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.swept import read_sweep, swept
from inkwash.cli.terminal import stages
from inkwash.cli.words import columns, say

if TYPE_CHECKING:
    from inkwash.evaluation import Evaluation, RealSide, Record
    from inkwash.pipeline import Pipeline

_what, _how, _where, _sweep = (
    partial(typer.Option, rich_help_panel=name) for name in ("What", "How the pictures are drawn", "Where to", "Sweep")
)

CHUNK = 64
"""Pictures in a forward pass on a CPU: thousands are drawn, and nobody waits for the first. Of points more."""

LEAST = 16
"""Pictures on either side, as `evaluation` wants them: told before anything is measured."""


def eval(
    ctx: typer.Context,
    source: Annotated[  # a text: as a path, `./cifar10` would become the name `cifar10`
        str,
        typer.Argument(metavar="RUN|PICTURES", help="A run's folder, a model's, or pictures, as for `inkwash train`."),
    ],
    split: Annotated[
        Literal["test", "val", "train"] | None,
        _what(help="Of the real pictures: the data's test split, what the run held out, or what it saw. Required."),
    ] = None,
    data: Annotated[
        str | None, _what(metavar="SOURCE", help="Real pictures, as for `inkwash train` (default: the run's own).")
    ] = None,
    n: Annotated[int, _what("--n", "-n", help="How many pictures.", min=LEAST)] = 10_000,
    against: Annotated[
        int | None, _what(help="How many real ones (default: as many as --n, or all there are).", min=LEAST)
    ] = None,
    measures: Annotated[
        str | None,
        _what(
            help="With commas: fd, kid, precision-recall, density-coverage, classes, spectrum, text, vector, image, "
            "nearest (default: all; of a --sweep only --by)."
        ),
    ] = None,
    features: Annotated[
        str | None,
        _what(
            help="lite0, classifier, inception, dinov2, raw; settings in brackets: 'inception(weights=\"FILE\")' "
            "(default: lite0, or the reference's)."
        ),
    ] = None,
    judge: Annotated[
        Literal["classifier", "probe"] | None,
        _what(help="What sees classes: a small net of the data's own (the default), or a linear probe of --features."),
    ] = None,
    bits: Annotated[int, _what(help="Also bits/dim of so many real pictures: see `inkwash likelihood`.", min=0)] = 0,
    reference: Annotated[
        Path | None, _what(metavar="FOLDER", help="Real side from a folder that --save-reference wrote.")
    ] = None,
    seed: Annotated[int, _how(help="Other seeds, other pictures.")] = 0,
    sampler: Annotated[str | None, _how(help="As for `inkwash sample` (default: the model's).")] = None,
    steps: Annotated[int | None, _how(help="Steps of the sampler (default: the model's).")] = None,
    grid: Annotated[str | None, _how(help="Which times (default: the model's).")] = None,
    path: Annotated[str | None, _how(help="Sample along another path (default: the model's).")] = None,
    guidance: Annotated[float | None, _how(help="How strictly to follow what is asked for; 1 is off.")] = None,
    rule: Annotated[str | None, _how(help="How guidance is done: cfg, rescaled, apg, cfg-zero.")] = None,
    interval: Annotated[
        str | None, _how(metavar="LOW,HIGH", help="Guide only between these values of sigma/alpha.")
    ] = None,
    weak: Annotated[
        str | None, _how(metavar="RUN|RUN@STEP", help="Push away from a weaker model, asked for the same.")
    ] = None,
    batch_size: Annotated[int, _how(help="How many at once: memory, not results.", min=1)] = 256,
    device: Annotated[str, _how(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], _how(help="What the network computes in.")] = "fp32",
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the model names.")] = False,
    sweep: Annotated[
        list[str] | None,
        _sweep(
            metavar="NAME=A,B",
            help="Measure every combination: steps=5,10,20, guidance=1,2,4, sampler=..., rule=..., "
            "interval=(0.3,5),(0,inf), grid=...",
        ),
    ] = None,
    by: Annotated[Literal["fd", "kid"] | None, _sweep(help="The measure of the sweep (default: fd).")] = None,
    skip: Annotated[bool, _sweep("--skip", help="Leave out combinations that the model refuses.")] = False,
    adopt: Annotated[
        str | None,
        _sweep(metavar="best|NUMBER", help="Make a point of the sweep the model's own settings."),
    ] = None,
    out: Annotated[Path | None, _where(help="A folder for records and plots (default: RUN/evaluation).")] = None,
    keep_reference: Annotated[
        Path | None,
        _where(
            "--save-reference", metavar="FOLDER", help="Write the real side for others: they measure against the same."
        ),
    ] = None,
) -> None:
    """Measure a model's pictures against real ones.

    Every number is kept with what it belongs to: feature net and weights, resize, data, split, n, seed, sampler, code.
    Stopped, it goes on where it was. Under torchrun all processes draw.

    inkwash eval runs/photos --split val -n 2000

    inkwash eval runs/photos --split val --sweep steps=5,10,20 --sweep guidance=1,2 --adopt best
    """
    mistakes = mistakes_so_far(ctx)
    if split is None and reference is None:
        mistakes.append(
            "Against which real pictures? --split test (the data's own test split), val (what the run held out) or "
            "train (what it saw): numbers against different ones are not comparable, so none is guessed."
        )
    if reference is not None:
        also = {"--split": split, "--data": data, "--against": against, "--bits": bits or None}
        mistakes += [
            f"{name} and --reference {reference} both say what is real. Drop one."
            for name, value in also.items()
            if value is not None
        ]
    for name, value in {"--bits": bits, "--save-reference": keep_reference}.items():
        if sweep and value:
            mistakes.append(f"{name} goes with one way to draw, and a --sweep measures many. Drop one.")

    from inkwash.data import NAMES
    from inkwash.data.find import find_source
    from inkwash.evaluation import check_measures
    from inkwash.kinds import split_texts
    from inkwash.modelfolder import find_model, is_model, read_config

    how: dict[str, Any] = {"sampler": sampler, "steps": steps, "grid": grid, "path": path, "guidance": guidance}
    how |= {"rule": rule, "interval": interval}
    wanted = split_texts(measures) if measures is not None else None
    mistakes += _said(lambda: check_measures(wanted or ()))
    many = read_sweep(sweep, how, by, skip, adopt, mistakes, wanted or ())
    run, drawn_here = Path(source), is_model(source)
    if not drawn_here:
        missing = _said(lambda: source in NAMES or find_source(source))
        of_models = [] if missing else _given(ctx, *how, "weak", "seed", "precision", "bits", "sweep")
        mistakes += missing or [f"{source} holds no model, which {name} says what to do with." for name in of_models]
    refuse(mistakes)

    from inkwash.asking import check_alike
    from inkwash.evaluation import (
        ALL,
        about_model,
        append,
        check_asked,
        evaluate,
        evaluation_folder,
        from_folder,
        given,
        real_side,
        save_plots,
        save_reference,
        score,
        write_card,
    )
    from inkwash.pipeline import load
    from inkwash.ranks import ranks

    with ranks() as here, stages() as shown:
        told = shown if here.first else (lambda what, fraction: None)
        where = here.device(device)
        pipe: Pipeline | None = None
        if drawn_here:
            chunk = CHUNK if len(read_config(find_model(run), trust=trust).shape) == 3 else None
            pipe = load(run, device=str(where), precision=precision, trust=trust, chunk=chunk)
            if bits:
                pipe.codec.log_scale(pipe.config.shape)  # of latents there is none, and that is said now
            refuse(check_asked(wanted or (), pipe.config.conditions.names))
            if weak is not None:
                how["weak"] = load(weak, device=str(where), precision=precision, trust=trust, chunk=pipe.chunk)
                check_alike(pipe.config, how["weak"].config)
            if many is None:  # all that can be refused is refused now: the real side may take minutes
                own = pipe.settings(**how | {"weak": weak is not None})
                pipe.config.rehearse(own)
            for line in () if many is None else many.check(pipe, how.get("weak")):
                if here.first:
                    say(line)
        names, count = (wanted or ALL) if many is None else many.measures, against or n
        of, part = (None if pipe is None else run), split or "test"
        side = (
            real_side(
                of,
                part,
                data,
                features or "lite0",
                count,
                measures=names,
                judge=judge,
                device=where,
                ranks=here,
                watch=told,
            )
            if reference is None
            else from_folder(reference, where, features)
        )
        folder = out or (evaluation_folder(run) if pipe is not None else Path(f"{_place(source)}-evaluation"))
        about = {} if pipe is None else about_model(run, pipe)
        if pipe is not None and many is not None:
            more = {"batch_size": batch_size, "watch": told, **({"weak": how["weak"]} if weak else {})}
            swept(many, run, pipe, side, n, seed, folder, about, here, trust, more)
            return
        asked = names if here.first else ()  # the other ranks only draw
        same: dict[str, Any] = {
            "measures": asked,
            "judge": side.judge,
            "train": side.train,
            "model": about,
            "net": side.net,
        }
        if pipe is not None:
            drawn = folder / "generated"
            found = evaluate(
                pipe,
                side.reference,
                n,
                seed=seed,
                folder=drawn,
                batch_size=batch_size,
                ranks=here,
                watch=told,
                **same,
                **how,
            )
        else:
            found = score(given(source, side.reference, n), side.reference, watch=told, **same)
        if not here.first:
            return
        records = list(found.records)
        if bits and pipe is not None:
            records += _bits(pipe, side, part, bits, seed, about, told)
        append(folder, records)
        written = save_plots(found, folder)
        if keep_reference is not None:  # now, so that the floors travel too
            save_reference(side.reference, keep_reference)
        notes = [*side.notes, *found.notes, write_card(run, trust=trust) if pipe is not None and out is None else ""]
    say(_told(records, found))
    for note in filter(None, notes):
        say(note)
    if keep_reference is not None:
        say(f"The real side is in {keep_reference}: others measure against it with --reference {keep_reference}.")
    say(f"Records in {folder / 'records.jsonl'}{''.join(f', {file.name}' for file in written)}")


def _bits(
    pipe: Pipeline,
    side: RealSide,
    part: str,
    n: int,
    seed: int,
    model: dict[str, Any],
    told: Callable[[str, float], None],
) -> list[Record]:
    """Bits/dim by both likelihoods, as `inkwash likelihood` has it by default."""
    from inkwash.evaluation import BoundSettings, FlowSettings, likelihood_records, measure, trace_for

    if side.data is None:
        raise ValueError("Bits/dim need the pictures themselves: give --split instead of --reference.")
    flow = FlowSettings(trace=trace_for(pipe.config.shape, None))
    watch = partial(told, "Likelihood")
    found = measure(pipe, side.data, n, rows=side.rows, bound=BoundSettings(), flow=flow, seed=seed, watch=watch)
    return likelihood_records(found, part, model, pipe.device)


def _told(records: Sequence[Record], found: Evaluation) -> str:
    """The numbers in columns, and what they belong to."""
    from inkwash.evaluation.card import provenance, row_of

    head = ["measure", "value", "95 %", "floor", "n", "against", "drawn with"]
    lines = [columns([head, *map(row_of, records)])]
    for r in records:
        if r.measure.name == "fd" and r.bias is not None and r.floor_n is not None:
            of_halves = r.bias * (2 / r.floor_n) / (1 / r.measure.n + 1 / r.measure.reference)
            lines.append(
                f"{r.measure.title}: of two sets of these sizes from one distribution about {r.bias:.4g} is expected, "
                f"of the floor's halves {of_halves:.4g} (for Gaussian features): fewer pictures, higher numbers."
            )
    return "\n".join([*lines, *(f"  {line}" for line in provenance(records))])


def _given(ctx: typer.Context, *names: str) -> list[str]:
    """Which of the options stand on the command line, as they are written there."""
    there = [
        p for p in ctx.command.params if getattr(ctx.get_parameter_source(p.name or ""), "name", "") == "COMMANDLINE"
    ]
    return [p.opts[0] for p in there if p.name in names]


def _place(source: str) -> str:
    """A name for a source that no other has: its path from here, or from the root where it lies elsewhere."""
    place, here = Path(source).resolve(), Path.cwd()
    inside = place != here and place.is_relative_to(here)
    return "-".join(place.relative_to(here if inside else place.anchor).parts)


def _said(check: Callable[[], object]) -> list[str]:
    """What is wrong, one by one."""
    try:
        check()
    except ValueError as error:
        return list(getattr(error, "mistakes", [str(error)]))
    return []
