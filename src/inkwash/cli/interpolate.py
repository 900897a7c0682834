"""`inkwash interpolate`: the way from one picture to another, through a model's latents."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from inkwash.cli.command import refuse
from inkwash.cli.wishes import wishes
from inkwash.cli.words import check_ending, free_name, say, some

_what, _how, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "How", "Where to"))


def interpolate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PICTURE_A PICTURE_B]", help="Picture files, or SOURCE:INDEX of a data set."),
    ] = None,
    seeds: Annotated[str | None, _what(help="From one seed's picture to another's (default: 0,1).")] = None,
    n: Annotated[int, _what("--n", "-n", help="How many, with both ends.", min=2)] = 9,
    label: Annotated[str | None, _what(help="A class by name or index (default: any class).")] = None,
    prompt: Annotated[str | None, _what(help="A text (default: no text).")] = None,
    vector: Annotated[
        list[str] | None, _what(help="A number by name, repeatable: angle=30, or a sweep: angle=0:90.")
    ] = None,
    image: Annotated[str | None, _what(help="What the model is shown, where it takes a picture: a file.")] = None,
    guidance: Annotated[
        float | None,
        _how(help="How strictly to follow what is asked for; 1 is off (default: the model's; of pictures 1)."),
    ] = None,
    sampler: Annotated[str | None, _how(help="A deterministic one (default: the model's).")] = None,
    steps: Annotated[int | None, _how(help="Steps of the sampler (default: the model's).", min=1)] = None,
    split: Annotated[Literal["train", "test"], _how(help="Of data that come in two parts.")] = "train",
    device: Annotated[str, _how(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the model names.")] = False,
    out: Annotated[
        Path | None, _where(help="The strip (default: strip.png, or strip-2.png ... in this folder).")
    ] = None,
) -> None:
    """Draw the pictures between two: of two seeds, or of two pictures, which are encoded first.

    The latents lie on the arc between those of the two ends. The settings are written into the PNG.

    inkwash interpolate runs/demo --seeds 3,8 --label Sneaker
    """
    ends = pictures or []
    mistakes = check_ending(out, ".png", "--out")
    if len(ends) not in (0, 2):
        mistakes.append(f"Interpolation is between two pictures, and {len(ends)} were given. Give two, or --seeds.")
    if ends and seeds is not None:
        mistakes.append("--seeds and pictures are two kinds of ends. Give one of them.")
    chosen = _seeds(seeds or "0,1", mistakes)
    said = wishes(mistakes, prompt=[] if prompt is None else [prompt], vector=vector, image=image)
    refuse(mistakes)

    from inkwash.cli.terminal import bar
    from inkwash.editing import beside, between, encoded, read_picture, seed_latent
    from inkwash.pictures import save_png
    from inkwash.pipeline import load

    pipe = load(run, device=device, trust=trust)
    if len(pipe.config.shape) != 3:
        raise ValueError("Interpolation is for models of pictures, and this one draws vectors.")
    what = -1 if label is None else label
    with bar("Sampling") as told:
        shown = []
        if ends:
            import torch

            shown = [read_picture(end, pipe.config, split=split) for end in ends]
            ends_told = said.each(2)
            a, b = pipe.encode(encoded(pipe, torch.cat(shown)), label=what, steps=steps, sampler=sampler, **ends_told)
            guidance = pipe.unguided if guidance is None else guidance
        else:
            a, b = (seed_latent(pipe, seed, sampler=sampler, steps=steps) for seed in chosen)
        how = {"sampler": sampler, "steps": steps, "guidance": guidance, "watch": told}
        samples = between(pipe, (a, b), n, label=what, told=said.each(n), **how)
    captions = [f"{i / (n - 1):.2f}".rstrip("0").rstrip(".") for i in range(n)]
    if ends:
        given = [("first", shown[0]), ("second", shown[1])]
        settings = {**samples.settings, "between": ends, "split": split}
    else:
        given = []
        captions = [f"seed {chosen[0]}", *captions[1:-1], f"seed {chosen[1]}"]
        settings = {**samples.settings, "between": chosen}
    out = out or free_name(Path("strip.png"))
    save_png(beside(given, samples, captions), out, settings)
    say(f"{some(n, 'picture')} from {' to '.join(ends or [f'seed {s}' for s in chosen])} in {out}")


def _seeds(text: str, mistakes: list[str]) -> list[int]:
    """Two seeds, as in 0,1."""
    parts = text.split(",")
    if len(parts) == 2 and all(p.strip().isdecimal() for p in parts):
        return [int(p) for p in parts]
    mistakes.append(f"--seeds {text} must be two whole numbers with a comma, as in 0,1.")
    return [0, 1]
