"""`inkwash sample`: new pictures from a model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkwash.cli.command import refuse
from inkwash.cli.wishes import Wishes, wishes
from inkwash.cli.words import check_ending, frame_of, free_name, say, some

if TYPE_CHECKING:
    from inkwash.pipeline import Pipeline
    from inkwash.samples import Samples

_what, _how, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Where to"))


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    n: Annotated[
        int | None,
        _what("--n", "-n", help="How many (default: 4 of each class, or 16; 2000 points).", min=1),
    ] = None,
    label: Annotated[
        list[str] | None,
        _what(help="A class by name or index, repeatable, or all (default: all in turn)."),
    ] = None,
    prompt: Annotated[list[str] | None, _what(help="A text, repeatable: they go round (default: no text).")] = None,
    prompts: Annotated[Path | None, _what(help="A file with a prompt on each line.")] = None,
    negative: Annotated[str | None, _what(help="A text to keep away from, by guidance.")] = None,
    also: Annotated[
        list[str] | None, _what(help="A further text and its weight, repeatable: 'snow=2'; below 0 keeps away.")
    ] = None,
    vector: Annotated[
        list[str] | None, _what(help="A number by name, repeatable: angle=30, or a sweep: angle=0:90.")
    ] = None,
    image: Annotated[
        str | None, _what(help="What the model is shown: a picture, a folder of them, an .npy array, or SOURCE:INDEX.")
    ] = None,
    mask: Annotated[Path | None, _what(help="With --image, to fill it in: a picture, white where to paint.")] = None,
    base: Annotated[
        Path | None, _what("--from", help="Another model, which draws what this one is shown: a cascade.")
    ] = None,
    guidance: Annotated[
        float | None,
        _what(help="How strictly to follow what is asked for; 1 is off (default: the model's)."),
    ] = None,
    rule: Annotated[
        str | None, _how(help="How guidance is done: cfg, rescaled, apg or cfg-zero; 'apg(eta=0.2)' (default: cfg).")
    ] = None,
    interval: Annotated[
        str | None, _how(help="LOW,HIGH of sigma/alpha, outside of which guidance is off (default: always on).")
    ] = None,
    weak: Annotated[
        str | None, _how(help="A weaker model to push away from: a run, or RUN@STEP for an earlier step of one.")
    ] = None,
    frame: Annotated[
        str | None,
        _what("--size", help="Pixels: 32, or HEIGHTxWIDTH as in 48x64 (default: the size of training)."),
    ] = None,
    seed: Annotated[int, _what(help="Other seeds, other pictures.")] = 0,
    sampler: Annotated[
        str | None,
        _how(
            help="heun, dpm++, unipc, ddim, ancestral, deis, ipndm, euler, adams or rk45; settings in brackets: "
            "'dpm++(order=3)' (default: the model's)."
        ),
    ] = None,
    steps: Annotated[int | None, _how(help="Steps of the sampler (default: the model's).")] = None,
    grid: Annotated[
        str | None,
        _how(
            help="Which times: even, karras, log-snr, quadratic, leading, trailing, linspace, or "
            "'listed(times=[1,0.5,0])' (default: the model's)."
        ),
    ] = None,
    path: Annotated[
        str | None, _how(help="Sample along another path: linear, vp, 've(top=80)' ... (default: the model's).")
    ] = None,
    eta: Annotated[float | None, _how(help="Fresh noise of ddim, from 0 (none) to 1 (ancestral).")] = None,
    batch_size: Annotated[int, _how(help="How many at once: memory, not results.", min=1)] = 128,
    device: Annotated[str, _how(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], _how(help="What the network computes in.")] = "fp32",
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the model names.")] = False,
    out: Annotated[
        Path | None,
        _where(help="The picture (default: samples.png, or samples-2.png ... in this folder)."),
    ] = None,
    columns: Annotated[
        int | None,
        _where(help="Pictures in a row (default: the classes, or a square).", min=1),
    ] = None,
    gif: Annotated[
        Path | None,
        _where(help="The denoising: what is seen, and what is expected of it."),
    ] = None,
    npy: Annotated[Path | None, _where(help="The samples as an array.")] = None,
) -> None:
    """Draw new pictures from a model.

    A picture depends on the model, the seed, its number and the settings; not on how many are drawn, nor in which
    batches. The settings are written into the PNG.
    """
    mistakes: list[str] = []
    size = frame_of(frame, mistakes)
    said = wishes(
        mistakes, label=label, prompt=prompt, prompts=prompts, negative=negative, also=also, vector=vector, image=image,
        mask=mask,
    )  # fmt: skip
    if base is not None and image is not None:
        mistakes.append("--from draws what the model is shown, and --image gives it. Give one of them.")
    refuse(
        [
            *mistakes,
            *check_ending(out, ".png", "--out"),
            *check_ending(gif, ".gif", "--gif"),
            *check_ending(npy, ".npy", "--npy"),
        ]
    )
    from inkwash.pipeline import load

    pipe = load(run, device=device, precision=precision, trust=trust)
    shape = pipe.config.shape
    if len(shape) == 1 and shape[0] != 2 and (npy is None or out is not None or gif is not None):
        raise ValueError(f"Vectors of {shape[0]} numbers have no picture. Save them with --npy FILE.npy alone.")
    first = None if base is None else load(base, device=device, precision=precision, trust=trust)
    said = replace(said, labels=_labels(first or pipe, label or []))
    count = n if n is not None else _count(first or pipe, said)
    from inkwash.cli.terminal import bar
    from inkwash.gallery import Trace, sheet

    trace = Trace() if gif is not None else None
    with bar("Sampling") as told:
        told_each, coarse = said.each(count), None
        if first is not None:
            told_each, coarse = _drawn_from(base, first, pipe, told_each, count, seed, batch_size)
        samples = pipe(
            count,
            **told_each,
            steps=steps,
            sampler=sampler,
            eta=eta,
            guidance=guidance,
            rule=rule,
            interval=interval,
            weak=weak,
            grid=grid,
            path=path,
            size=size,
            seed=seed,
            batch_size=batch_size,
            watch=told,
            trace=trace,
        )
    settings = samples.settings if coarse is None else samples.settings | {"from": {"run": str(base), **coarse}}
    written = []
    if len(shape) == 3 or shape[0] == 2:
        from inkwash.pictures import save_png

        out = out or free_name(Path("samples.png"))
        save_png(sheet(samples, columns), out, settings)
        written.append(out)
    if gif is not None and trace is not None:
        from inkwash.pictures import save_gif

        save_gif(trace.frames(samples), gif)
        written.append(gif)
    if npy is not None:
        import numpy as np

        npy.parent.mkdir(parents=True, exist_ok=True)
        np.save(npy, samples.array)
        written.append(npy)
    what = "picture" if len(shape) == 3 else "point"
    say(f"{some(count, what)} in {', '.join(map(str, written))}")


def _labels(pipe: Pipeline, asked: list[str]) -> list[str]:
    """The labels to go round; none for every class in turn."""
    is_class = any(c.casefold() == "all" for c in pipe.config.classes)
    return [] if len(asked) == 1 and asked[0].casefold() == "all" and not is_class else asked


def _count(pipe: Pipeline, said: Wishes) -> int:
    """How many samples make a good picture."""
    return 2000 if len(pipe.config.shape) == 1 else said.count(len(pipe.config.classes))


def _drawn_from(
    base: Path | None,
    first: Pipeline,
    pipe: Pipeline,
    told: dict[str, Any],
    count: int,
    seed: int,
    batch_size: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What to ask the second model of a cascade, once the first has drawn; and the first one's settings.

    Each is asked what it takes, and the second for the classes that the first drew; what neither takes, it refuses.
    """
    from inkwash.asking import taken

    known = taken(first.config, told)
    try:
        drawn: Samples = first(count, **known, seed=seed, batch_size=batch_size)
    except ValueError as error:  # with its own settings: --guidance and the like are the other's
        raise ValueError(f"{base}, which --from names, is asked first, with its own settings: {error}") from error
    rest = taken(pipe.config, told) | {name: value for name, value in told.items() if name not in known}
    if pipe.config.classes and drawn.labels and "label" not in rest:
        rest["label"] = [-1 if name == "any" else name for name in drawn.labels]
    return rest | {"image": drawn.pictures()}, drawn.settings
