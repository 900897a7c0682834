"""`inkwash compare`: samplers and guidance side by side, at several numbers of steps."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.wishes import wishes
from inkwash.cli.words import check_ending, free_name, say, some

if TYPE_CHECKING:
    from inkwash.compare import Drawn

_what, _how, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Where to"))


def compare(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    n: Annotated[int | None, _what("--n", "-n", help="How many in each cell (default: 6; 2000 points).", min=1)] = None,
    label: Annotated[
        list[str] | None, _what(help="A class by name or index, repeatable (default: all in turn).")
    ] = None,
    prompt: Annotated[list[str] | None, _what(help="A text, repeatable: they go round (default: no text).")] = None,
    negative: Annotated[str | None, _what(help="A text to keep away from, by guidance.")] = None,
    also: Annotated[
        list[str] | None, _what(help="A further text and its weight, repeatable: 'snow=2'; below 0 keeps away.")
    ] = None,
    vector: Annotated[
        list[str] | None, _what(help="A number by name, repeatable: angle=30, or a sweep: angle=0:90.")
    ] = None,
    image: Annotated[
        str | None, _what(help="What the model is shown: a picture, a folder of them, or an .npy array.")
    ] = None,
    mask: Annotated[Path | None, _what(help="With --image, to fill it in: a picture, white where to paint.")] = None,
    guidance: Annotated[
        str | None,
        _what(
            help="How strictly to follow what is asked for; 1 is off; with commas a row each (default: the model's)."
        ),
    ] = None,
    rule: Annotated[
        str | None,
        _how(help="How guidance is done: cfg, rescaled, apg, cfg-zero; with commas a row for each (default: cfg)."),
    ] = None,
    interval: Annotated[
        str | None, _how(help="LOW,HIGH of sigma/alpha, outside of which guidance is off (default: always on).")
    ] = None,
    weak: Annotated[
        str | None, _how(help="A weaker model to push away from: a run, or RUN@STEP for an earlier step of one.")
    ] = None,
    seed: Annotated[int, _what(help="Other seeds, other pictures.")] = 0,
    sampler: Annotated[
        str,
        _how(
            help="With commas: heun, dpm++, unipc, ddim, ancestral, deis, ipndm, euler, adams, rk45; settings in "
            "brackets: 'heun,dpm++(order=3),ddim(eta=0.5)'."
        ),
    ] = "heun,dpm++,ddim",
    steps: Annotated[str | None, _how(help="Numbers of steps, with commas (default: 5,10,20).")] = None,
    calls: Annotated[
        str | None,
        _how(help="Numbers of network calls instead: each sampler takes the steps that make as many, or just fewer."),
    ] = None,
    grid: Annotated[
        str | None,
        _how(help="Which times: even, karras, log-snr ...; with commas a row for each (default: the model's)."),
    ] = None,
    device: Annotated[str, _how(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], _how(help="What the network computes in.")] = "fp32",
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the model names.")] = False,
    out: Annotated[
        Path | None, _where(help="The sheet (default: compare.png, or compare-2.png ... in this folder).")
    ] = None,
) -> None:
    """Draw the same pictures with several samplers, numbers of steps and scales of guidance, side by side.

    All start from the same noise, with the same labels. Under each stand the network's calls for a picture and the
    seconds for all of the cell. The settings are written into the PNG.

    inkwash compare runs/demo --sampler heun,dpm++,'ddim(eta=0.5)' --calls 5,10,20

    inkwash compare runs/demo --sampler heun --steps 20 --guidance 1,2,4,7.5
    """
    mistakes = [*mistakes_so_far(ctx), *check_ending(out, ".png", "--out")]
    if steps is not None and calls is not None:
        mistakes.append(f"--steps {steps} and --calls {calls} both say how many. Give one of them.")
    by: Literal["steps", "calls"] = "steps" if calls is None else "calls"
    counts = _numbers(calls or steps or "5,10,20", f"--{by}", mistakes)
    scales = _scales(guidance, mistakes)
    said = wishes(
        mistakes, label=label, prompt=prompt, negative=negative, also=also, vector=vector, image=image, mask=mask
    )

    from inkwash.asking import Ask, find_class
    from inkwash.cli.terminal import bar
    from inkwash.compare import ComparisonError, comparison, draw, settings_of, ways
    from inkwash.kinds import split_texts
    from inkwash.pictures import save_png
    from inkwash.pipeline import load

    samplers, grids = split_texts(sampler), split_texts(grid or "")
    if not samplers:
        mistakes.append("--sampler names none. Give at least one, as in heun,ddim.")
    these = []
    try:
        pipe = load(run, device=device, precision=precision, trust=trust)
    except ValueError as error:
        refuse([*mistakes, str(error)])
        raise
    how = {"interval": interval, "weak": weak is not None, "negative": negative is not None, "also": bool(said.also)}
    try:
        these = ways(pipe, samplers, counts, by=by, grids=grids, guidance=scales, rules=split_texts(rule or ""), **how)
    except ComparisonError as error:
        mistakes += error.mistakes
    classes, count = pipe.config.classes, n or (2000 if len(pipe.config.shape) == 1 else 6)
    asked: dict[str, Any] = {}
    try:
        asked = said.each(count)
        Ask(**asked).check(pipe.config)
    except ValueError as error:
        mistakes.append(str(error))
    for one in (label or []) if classes else []:
        try:
            find_class(classes, one)
        except ValueError as error:
            mistakes.append(str(error))
    points = len(pipe.config.shape) == 1
    if points and pipe.config.shape != (2,):
        mistakes.append(f"Vectors of {pipe.config.shape[0]} numbers have no picture to compare.")
    refuse(mistakes)
    if weak is not None:
        asked["weak"] = load(weak, device=device, precision=precision, trust=trust, chunk=pipe.chunk)

    with bar("Sampling") as told:
        found = draw(pipe, these, count, seed=seed, watch=told, **asked)
    settings = settings_of(found)
    what = some(count, "point" if points else "picture")
    scale = settings.get("guidance")
    within = (
        "" if settings.get("interval") is None else " for sigma/alpha from {:g} to {:g}".format(*settings["interval"])
    )
    what_scale = "guidance" if scale is None else f"guidance {scale:g}"
    guided = (
        ""
        if scale == 1 or pipe.config.conditions.guidance
        else f"{what_scale}: a call{within} runs the network twice · "
    )
    note = f"{guided}seconds for the {what} of a cell on {settings['device']}, {precision} · seed {seed}"
    out = out or free_name(Path("compare.png"))
    save_png(comparison(found, by, title=run.resolve().name, note=note), out, settings)
    say(_table(found, count))
    say(f"{what} in each of {some(len(found), 'cell')} in {out}")


def _numbers(text: str, option: str, mistakes: list[str]) -> list[int]:
    """Whole numbers above 0, as in 5,10,20; in order, each once."""
    parts = [part.strip() for part in text.split(",")]
    if all(part.isdecimal() and int(part) > 0 for part in parts):
        return sorted(set(map(int, parts)))
    mistakes.append(f"{option} {text} must be whole numbers from 1 on, with commas, as in 5,10,20.")
    return []


def _scales(text: str | None, mistakes: list[str]) -> list[float] | None:
    """Scales of guidance, as in 1,2,4; None for the model's."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        mistakes.append(f"--guidance {text} must be a number, or several with commas, as in 1,2,4.")
        return None


def _table(found: list[Drawn], n: int) -> str:
    """What was measured, in aligned columns."""
    head = ("sampler", "steps", "calls", "seconds", "a second")
    rows = [
        (
            one.way.row,
            "own" if one.way.column is None else str(one.way.settings.steps),
            str(one.calls),
            f"{one.seconds:.2f}",
            f"{n / one.seconds:.3g}" if n / one.seconds < 1000 else f"{n / one.seconds:,.0f}",
        )
        for one in found
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(wide) if i == 0 else word.rjust(wide)
            for i, (word, wide) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )
