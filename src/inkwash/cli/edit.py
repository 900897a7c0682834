"""`inkwash edit`: one picture varied, filled in, inverted, or restored by any model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from inkwash.cli.command import refuse
from inkwash.cli.wishes import SWEEP, wishes
from inkwash.cli.words import check_ending, free_name, say, some

if TYPE_CHECKING:
    from torch import Tensor

    from inkwash.edit import Edit
    from inkwash.pipeline import Pipeline

_which, _how, _where = (partial(typer.Option, rich_help_panel=name) for name in ("Which edit", "How", "Where to"))

STRENGTH = 0.6
NOISE = 0.05
"""Of a measurement, where none is given: what rounding, JPEG and resizing leave."""


def edit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a model's.")],
    picture: Annotated[str, typer.Argument(metavar="PICTURE", help="A picture file, or SOURCE:INDEX of a data set.")],
    strength: Annotated[
        float | None, _which(help=f"Vary it: noise up to this time in (0, 1], then sample (default: {STRENGTH}).")
    ] = None,
    mask: Annotated[Path | None, _which(help="Fill it in: a picture, white where to draw anew.")] = None,
    invert: Annotated[
        bool, _which("--invert", help="Encode it, and decode it as each --label, --prompt or --vector.")
    ] = False,
    deblur: Annotated[float | None, _which(help="Sharpen it: blurred with this deviation, in pixels.")] = None,
    enlarge: Annotated[int | None, _which(help="Enlarge it by this factor to the model's size.")] = None,
    label: Annotated[
        list[str] | None, _how(help="What to draw: a class by name or index, repeatable (default: any class).")
    ] = None,
    prompt: Annotated[list[str] | None, _how(help="What to draw, as a text, repeatable (default: no text).")] = None,
    negative: Annotated[str | None, _how(help="A text to keep away from, by guidance.")] = None,
    vector: Annotated[list[str] | None, _how(help="A number by name, repeatable: angle=30, or a sweep.")] = None,
    image: Annotated[
        str | None, _how(help="What the model is shown, where it takes a picture (with --mask: PICTURE itself).")
    ] = None,
    n: Annotated[int | None, _how("--n", "-n", help="How many (default: 4).", min=1)] = None,
    resample: Annotated[
        int | None, _how(help="With --mask: walk each step this often, so that the parts agree (default: 1).")
    ] = None,
    from_label: Annotated[str | None, _how(help="With --invert: what the picture shows (default: any class).")] = None,
    from_prompt: Annotated[str | None, _how(help="With --invert: what it shows, as a text (default: no text).")] = None,
    from_vector: Annotated[
        list[str] | None, _how(help="With --invert: a number of what it shows, repeatable (default: none is known).")
    ] = None,
    noise: Annotated[
        float | None, _how(help=f"With --deblur, --enlarge: the noise in PICTURE, of [-1, 1] (default: {NOISE}).")
    ] = None,
    degrade: Annotated[
        bool, _how("--degrade", help="With --deblur, --enlarge: PICTURE is sharp; blur or shrink it first.")
    ] = False,
    guidance: Annotated[
        float | None,
        _how(help="How strictly to follow what is asked for; 1 is off (default: the model's; with --invert 1)."),
    ] = None,
    seed: Annotated[int, _how(help="Other seeds, other pictures.")] = 0,
    sampler: Annotated[
        str | None, _how(help="As for `inkwash sample` (default: the model's; ancestral to fill in or restore).")
    ] = None,
    steps: Annotated[
        int | None, _how(help="Steps of the sampler (default: the model's; 50 to fill in or restore).", min=1)
    ] = None,
    split: Annotated[Literal["train", "test"], _how(help="Of data that come in two parts.")] = "train",
    device: Annotated[str, _how(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    trust: Annotated[bool, _how("--trust", help="Run code from outside inkwash that the model names.")] = False,
    out: Annotated[Path | None, _where(help="The sheet (default: edit.png, or edit-2.png ... in this folder).")] = None,
) -> None:
    """Change a picture with a model: vary it, fill in a part, redraw it as another class, sharpen or enlarge it.

    One of --strength, --mask, --invert, --deblur and --enlarge says which. What was given is shown beside the results,
    and the settings are written into the PNG.

    inkwash edit runs/demo fashion-mnist:7 --strength 0.6 --label Bag
    """
    given: dict[str, Any] = {
        "--strength": strength, "--mask": mask, "--invert": invert or None, "--deblur": deblur, "--enlarge": enlarge
    }  # fmt: skip
    modes = [name for name, value in given.items() if value is not None]
    mode = "--invert" if invert else modes[0] if modes else "--strength"
    extras = {
        "--resample": (resample, ["--mask"]),
        "--from-label": (from_label, ["--invert"]),
        "--from-prompt": (from_prompt, ["--invert"]),
        "--from-vector": (from_vector, ["--invert"]),
        "--noise": (noise, ["--deblur", "--enlarge"]),
        "--degrade": (degrade or None, ["--deblur", "--enlarge"]),
    }
    mistakes = check_ending(out, ".png", "--out")
    if len(modes) > 1 and set(modes) != {"--strength", "--invert"}:
        mistakes.append(f"{' and '.join(modes)} are different edits. Ask for one at a time.")
    for name, (value, owners) in extras.items():
        if value is not None and not set(owners) & set(modes):
            mistakes.append(f"{name} belongs to {' and '.join(owners)}. Drop it, or add one of those.")
    if invert and n is not None:
        mistakes.append(
            "-n has no meaning with --invert: it draws one picture for each --label or --prompt, or a sweep. Drop it."
        )
    bounds: list[tuple[str, float | None, bool, str]] = [
        ("--strength", strength, strength is None or 0 < strength <= 1, "lie in (0, 1]; try 0.6"),
        ("--resample", resample, resample is None or resample >= 1, "be at least 1; try 5"),
        ("--deblur", deblur, deblur is None or deblur > 0, "be above 0, in pixels; try 1.5"),
        ("--enlarge", enlarge, enlarge is None or enlarge >= 2, "be at least 2"),
        ("--noise", noise, noise is None or noise >= 0, "be 0 or more; try 0.05"),
    ]
    mistakes += [f"{name} {value} must {rule}." for name, value, fine, rule in bounds if not fine]
    said = wishes(mistakes, prompt=prompt, negative=negative, vector=vector, image=image)
    was = wishes(mistakes, vector=from_vector)
    if was.swept:
        mistakes.append("--from-vector says what PICTURE shows: give one number of each name, and no sweep.")
    refuse(mistakes)

    from inkwash.cli.terminal import bar
    from inkwash.codec import Pixels
    from inkwash.conditions import Masked
    from inkwash.editing import as_kept, beside, encoded, read_mask, read_picture
    from inkwash.pictures import save_png
    from inkwash.pipeline import load

    pipe = load(run, device=device, trust=trust)
    if (deblur is not None or enlarge is not None) and pipe.config.pictures != pipe.config.shape:
        raise ValueError(
            f"{mode} compares pictures with what a blurred or smaller one says of them, step by step, which needs a "
            "model of pixels; this one is of latents. Use --strength."
        )
    labels: list[str | int] = [*label] if label else [-1]
    different = max(len(labels), len(said.prompts))
    if said.swept and n is None:
        different = max(different, SWEEP)
    count = different if invert else n or max(4, different)
    wanted = said.each(count)
    shrink = enlarge if enlarge is not None and not degrade else 1
    x0 = read_picture(picture, pipe.config, shrink=shrink, split=split)
    known = as_kept(pipe, read_mask(mask, pipe.config)) if mask is not None else None
    shown: list[tuple[str, Tensor]] = [("original", x0)]
    job: Edit
    if known is not None or deblur is not None or enlarge is not None:  # fresh noise mends what the guiding breaks
        sampler, steps = sampler or "ancestral", steps or 50
    with bar("Editing") as told:
        if known is not None:
            from inkwash.edit import Fill

            job = Fill(encoded(pipe, x0), known[0].to(pipe.device), resamplings=resample or 1)
            shown.append(("what is kept", known[1] * x0))
            if image is None and (way := pipe.config.conditions.image) and isinstance(way.task, Masked):
                wanted |= {"image": Pixels().decode(x0)[0].numpy(), "mask": str(mask)}  # it has learned to fill in
        elif invert:
            from inkwash.edit import Decode

            time = 1.0 if strength is None else strength
            source = -1 if from_label is None else from_label
            numbers = pipe.config.conditions.vector
            if numbers and "vector" in pipe.config.needed and not was.ranges:
                raise ValueError(
                    "This model was never trained without its numbers: say those of the picture with --from-vector "
                    f"{numbers.names[0]}=..."
                )
            shows = was.each(1) | {name: value for name, value in wanted.items() if name == "image"}
            latent = pipe.encode(
                encoded(pipe, x0), label=source, prompt=from_prompt, **shows, steps=steps, sampler=sampler, time=time
            )
            job = Decode(latent, time)
            guidance = pipe.unguided if guidance is None else guidance
        elif deblur is not None or enlarge is not None:
            job, shown = _restore(pipe, x0, deblur, enlarge, NOISE if noise is None else noise, degrade, seed)
        else:
            from inkwash.edit import Vary

            job = Vary(encoded(pipe, x0), STRENGTH if strength is None else strength)
        asked = [labels[i % len(labels)] for i in range(count)]
        samples = pipe(
            count,
            label=asked if pipe.config.classes or label else None,
            **wanted,
            sampler=sampler,
            steps=steps,
            guidance=guidance,
            seed=seed,
            edit=job,
            watch=told,
        )
    out = out or free_name(Path("edit.png"))
    details = (
        {"from_label": from_label, "from_prompt": from_prompt, "from_vector": from_vector}
        if invert
        else {"mask": str(mask)}
        if mask is not None
        else {}
    )
    settings = {**samples.settings, "picture": picture, "split": split, "degrade": degrade, **details}
    save_png(
        beside(shown, samples, _captions(samples.captions if label or prompt or vector else (), count)), out, settings
    )
    say(f"{some(count, 'picture')} by {mode} of {picture} in {out}")


def _captions(words: tuple[str, ...], count: int) -> list[str]:
    """What was asked for, or numbers."""
    return list(words) if words else [f"result {i + 1}" if count > 1 else "result" for i in range(count)]


def _restore(
    pipe: Pipeline, x0: Tensor, deblur: float | None, enlarge: int | None, noise_std: float, degrade: bool, seed: int
) -> tuple[Edit, list[tuple[str, Tensor]]]:
    """The job, and what is shown as given: the measurement, and before it the picture that was degraded."""
    import torch

    from inkwash.edit import Blur, Downsample, Restore
    from inkwash.edit.posterior import Measure
    from inkwash.noise import Philox, Stream

    measure: Measure = Blur(deblur) if deblur is not None else Downsample(enlarge or 1)
    y = x0
    if degrade:
        y = measure(x0)
        y = y + noise_std * Philox(seed, torch.zeros(1, dtype=torch.int64))(y, 0, Stream.EPS)
    data_std = getattr(pipe.model.inputs, "data_std", 0.5)
    name = "blurred" if deblur is not None else "small"
    return Restore(measure, y, noise_std, data_std), [*([("original", x0)] if degrade else []), (name, y)]
