"""What a run would cost, in words: `inkwash train --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from inkwash.cli.told import in_words
from inkwash.cli.words import duration, number, size, some, table

if TYPE_CHECKING:
    from inkwash.recipes import Teacher
    from inkwash.training import Plan


def costs(plan: Plan) -> str:
    """The figures of a dry run."""
    train = plan.recipe.train
    images = "picture" if len(plan.shape) == 3 else "point"
    precision = train.precision
    return "\n".join(
        [
            table(
                {
                    "data": f"{plan.name}, {some(plan.images, images)} of shape {' x '.join(map(str, plan.shape))}"
                    + (f", and {plan.held_out:,} held out" if plan.held_out else ""),
                    **({"latents": " x ".join(map(str, plan.latent))} if plan.latent else {}),
                    "classes": _listed(plan.classes),
                    **in_words(plan.recipe.conditions),
                    **({"teacher": _followed(teacher)} if (teacher := plan.recipe.teacher) else {}),
                    "parameters": number(plan.parameters),
                    "FLOPs": f"{_flops(plan.flops)} for one {images} forward"
                    + ", and what it learns from" * plan.recipe.jumps,
                    "memory": f"about {size(plan.memory)}",
                    "device": f"{plan.device}, {precision}{', compiled' if train.compile else ''}",
                    "step": f"{_milliseconds(plan.step_seconds)} of {train.batch_size} {images}s, measured: "
                    f"{train.batch_size / plan.step_seconds:,.0f} {images}s/s",
                    "length": f"{some(plan.steps, 'step')}, {plan.epochs:,.1f} times through the data",
                    **({"pairs": _drawn(plan)} if teacher and teacher.pairs else {}),
                    "time": f"about {duration(plan.seconds)}",
                }
            ),
            *plan.notes,
            "Nothing was written: this was a dry run.",
        ]
    )


def _followed(teacher: Teacher) -> str:
    """Which model is learned from, and what of it."""
    if teacher.pairs:
        return f"{teacher.run}: {teacher.pairs:,} of its pictures, which are drawn before"
    return f"{teacher.run}: its velocities"


def _drawn(plan: Plan) -> str:
    """What pairs take besides the training."""
    return f"about {duration(plan.pairs_seconds)} to draw, unless they are there from before"


def _listed(classes: Sequence[str]) -> str:
    if not classes:
        return "none"
    return f"{len(classes)}: {', '.join(classes[:10])}{' …' if len(classes) > 10 else ''}"


def _flops(count: float) -> str:
    scale, unit = next((s, u) for s, u in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")) if count >= s)
    return f"{count / scale:.3g}{unit}"


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms" if seconds < 1 else f"{seconds:,.2f} s"
