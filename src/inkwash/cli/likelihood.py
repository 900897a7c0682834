"""`inkwash likelihood`: how likely a model finds data it has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inkwash.cli.command import refuse
from inkwash.cli.terminal import bar, counted
from inkwash.cli.words import check_ending, free_name, say, some, table

if TYPE_CHECKING:
    from inkwash.evaluation import Interval, Measurement

_what, _how, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Where to"))


def likelihood(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    data: Annotated[
        str | None, _what(metavar="SOURCE", help="Data, as for `inkwash train` (default: the run's own).")
    ] = None,
    n: Annotated[int, _what("--n", "-n", help="How many examples, chosen at random.", min=1)] = 128,
    split: Annotated[
        Literal["test", "val", "train"],
        _what(help="The data's test split, what the run held out of training, or what it saw."),
    ] = "test",
    bound: Annotated[bool, _what("--bound", help="Only the variational bound.")] = False,
    flow: Annotated[bool, _what("--flow", help="Only the probability flow.")] = False,
    seed: Annotated[int, _what(help="Of the choice of examples and of all noise.")] = 0,
    steps: Annotated[
        int | None, _how(help="Steps of the bound's chain, and of --solver heun and rk4 (default: 100).", min=1)
    ] = None,
    grid: Annotated[
        str | None,
        _how(
            help="Which times the bound's chain has: even, karras, 'karras(low=0.008)' ..., as for `inkwash sample` "
            "(default: those the model samples on)."
        ),
    ] = None,
    variance: Annotated[
        Literal["small", "large", "learned"] | None,
        _how(help="Of the chain's steps (default: learned where there is one, else large)."),
    ] = None,
    terms: Annotated[
        int | None,
        _how(help="Compute only so many of the chain's steps for each example, at random (default: all).", min=1),
    ] = None,
    solver: Annotated[Literal["adaptive", "rk4", "heun"] | None, _how(help="Of the flow (default: adaptive).")] = None,
    rtol: Annotated[
        float | None, _how(help="The adaptive solver's tolerance (default: 1e-4; 1e-3 takes half as long).")
    ] = None,
    probes: Annotated[
        int | None,
        _how(help="Random probes of the flow's divergence (default: 1; the exact trace up to 64 numbers).", min=1),
    ] = None,
    batch_size: Annotated[int, _how(help="How many at once: memory, and the last digits.", min=1)] = 32,
    device: Annotated[str, _how(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], _how(help="What the network computes in.")] = "fp32",
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the model names.")] = False,
    out: Annotated[
        Path | None, _where(help="The figures (default: likelihood.json, or likelihood-2.json ... in this folder).")
    ] = None,
    plot: Annotated[
        Path | None, _where(help="The bound step by step (default: as --out, with the ending .png).")
    ] = None,
) -> None:
    """Measure how likely a model finds data it has not seen, in bits/dim.

    By the variational bound, term by term, and by the probability flow. Each example is shown with its own label,
    guidance is 1.

    inkwash likelihood runs/fashion-mnist -n 512
    """
    both = bound == flow
    mistakes = [*check_ending(out, ".json", "--out"), *check_ending(plot, ".png", "--plot")]
    if rtol is not None and (solver not in (None, "adaptive") or not 0 < rtol < 1):
        mistakes.append(f"--rtol {rtol:g} is the tolerance of --solver adaptive, above 0 and below 1.")
    of_flow = {"--solver": solver, "--rtol": rtol, "--probes": probes}
    of_bound = {"--grid": grid, "--variance": variance, "--terms": terms, "--plot": plot}
    if bound and not flow:
        mistakes += [
            f"{name} is of the flow, which --bound leaves out. Drop one of the two." for name in _given(of_flow)
        ]
    if flow and not bound:
        mistakes += [
            f"{name} is of the bound, which --flow leaves out. Drop one of the two." for name in _given(of_bound)
        ]
        if steps is not None and solver in (None, "adaptive"):
            mistakes.append("--steps is of the bound, which --flow leaves out, and of --solver heun and rk4. Drop it.")
    refuse(mistakes)

    import json

    from inkwash.evaluation import BoundSettings, FlowSettings, held_out, measure, trace_for, weights_hash
    from inkwash.grids import AnyGrid
    from inkwash.kinds import from_text
    from inkwash.likelihood import Adaptive, HeunSteps, Rk4Steps
    from inkwash.modelfolder import find_model
    from inkwash.pipeline import load

    count = 100 if steps is None else steps
    chain = BoundSettings(count, None if grid is None else from_text(AnyGrid, grid, "grid"), variance, terms)
    fixed = {"heun": HeunSteps, "rk4": Rk4Steps}
    how = fixed[solver](count) if solver in fixed else Adaptive(*((rtol, rtol) if rtol is not None else ()))
    pipe = load(run, device=device, precision=precision, trust=trust)
    with bar("Preparing data") as told:
        examples, rows = held_out(run, data, split, progress=counted(told))
    with bar("Measuring") as told:
        found = measure(
            pipe,
            examples,
            n,
            rows=rows,
            bound=chain if bound or both else None,
            flow=FlowSettings(how, trace_for(pipe.config.shape, probes)) if flow or both else None,
            seed=seed,
            batch_size=batch_size,
            watch=told,
        )
    say(_told(found, split))
    where = {"folder": str(find_model(run)), "weights_sha256": weights_hash(run)}
    written = [out or free_name(Path("likelihood.json"))]
    figures = found.table()
    figures["model"] = where | figures["model"]
    figures["data"] = {**figures["data"], "split": split}
    written[0].parent.mkdir(parents=True, exist_ok=True)
    written[0].write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if found.bound is not None:
        from inkwash.evaluation import bound_plot
        from inkwash.pictures import save_png

        written.append(plot or written[0].with_suffix(".png"))
        save_png(bound_plot(found), written[1], {"data": examples.name, "split": split, "n": found.settings["n"]})
    say(f"Figures in {written[0]}" + (f", the bound step by step in {written[1]}" if len(written) > 1 else ""))


def _given(options: Mapping[str, object]) -> list[str]:
    return [name for name, value in options.items() if value is not None]


def _told(found: Measurement, split: str) -> str:
    """The figures and what each is, for people."""
    binned, count = found.unit == "bits/dim", found.settings["n"]
    told = {"own": ["label"], "any class": [], "none": []}[found.settings["labels"]] + found.settings["conditions"]
    own = f", each with its own {' and '.join(told)}" if told else ""
    own += ", with the label of any class" if found.settings["labels"] == "any class" else ""
    lines = [
        f"{some(count, 'example')} of {found.settings['data']['name']} ({split}){own}; "
        f"{found.unit}, mean ± 95 % interval"
    ]
    rows: dict[str, str] = {}
    notes = []
    if (b := found.bound) is not None:
        steps = len(b.steps)
        rows["L_T"] = f"{_pm(b.prior)}  what the prior does not match"
        if steps > 1:
            rows[f"L_1 to L_{steps - 1}" if steps > 2 else "L_1"] = f"{_pm(b.middle)}  the steps"
        rows["L_0"] = f"{_pm(b.last)}  the data, seen in the least noise"
        rows["bound"] = f"{_pm(b.total)}  {some(b.calls, 'call')} each"
        of = "-log2 P of the 8-bit data" if binned else "-ln p of the data"
        notes.append(
            f"bound: an upper bound of {of} under the chain of {some(steps, 'step')} with {b.variance} variance, on "
            f"the grid {b.grid} down to sigma/alpha = {b.least:.2g}."
        )
    if (f := found.flow) is not None:
        rows["flow"] = f"{_pm(f.value)}  {f.calls:.0f} evaluations each"
        what = (
            "on average an upper bound of -log2 P of the 8-bit data, by uniform dequantisation,"
            if binned
            else "-ln p of the data"
        )
        exact = found.settings["flow_settings"]["trace"]["kind"] == "exact"
        errors = "the solver's error is no bound" if exact else "the solver's error and the probes' noise are no bounds"
        notes.append(f"flow: {what} under the flow down to sigma/alpha = {f.least:.2g}; {errors}.")
    return "\n".join([*lines, table(rows), *notes])


def _pm(value: Interval) -> str:
    return f"{value.mean:8.4f}" + ("         " if value.half is None else f" ± {value.half:.4f}")
