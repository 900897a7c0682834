"""What an evaluation looks like: the closest training pictures, the spectra, the classes that are seen."""

from __future__ import annotations

from pathlib import Path as File
from typing import TYPE_CHECKING

import numpy as np

from inkwash import pictures
from inkwash.evaluation.classes import class_histogram
from inkwash.evaluation.evaluate import Evaluation

if TYPE_CHECKING:
    from PIL.Image import Image

PAIRS = 24
COLUMNS = 12


def save_plots(found: Evaluation, folder: File) -> list[File]:
    """Write what can be drawn as nearest.png, spectrum.png and classes.png; the files written."""
    drawn = {"nearest": closest_pairs(found), "spectrum": spectrum_plot(found), "classes": class_plot(found)}
    about = {"sampling": found.pictures.about, "measured": {r.measure.name: r.value for r in found.records}}
    return [pictures.save_png(image, folder / f"{name}.png", about) for name, image in drawn.items() if image]


def closest_pairs(found: Evaluation) -> Image | None:
    """The pictures that are nearest to a training picture, in rows, each above that picture; None without any."""
    near, train = found.neighbours, found.train
    if near is None or train is None or found.pictures.array.ndim != 4:
        return None
    rows: list[np.ndarray] = []
    chosen = near.closest(PAIRS)
    for start in range(0, len(chosen), COLUMNS):
        mine = chosen[start : start + COLUMNS]
        blank = np.full((COLUMNS - len(mine), *found.pictures.array.shape[1:]), 255, np.uint8)
        rows += [found.pictures.array[mine], blank, train.array[near.index[mine]], blank]
    share = (
        "" if near.share is None else f"; {100 * near.share.value:.1f} % are nearer than 99 % of held-out pictures are"
    )
    title = f"Each picture above its nearest training picture, the nearest of all first{share}"
    return pictures.grid(np.concatenate(rows), COLUMNS, title=title)


def spectrum_plot(found: Evaluation) -> Image | None:
    """The two radial power spectra on logarithmic axes; None for what are no pictures."""
    a, b = found.fake.spectrum, found.real.spectrum
    if a is None or b is None:
        return None
    x = list(range(1, len(a) + 1))
    return pictures.line_plot(
        {"generated": (x, a.tolist()), "real": (x, b.tolist())},
        title="Radial power spectrum",
        xlabel="cycles in the shorter side",
        ylabel="power",
        smooth=False,
        log="xy",
    )


def class_plot(found: Evaluation) -> Image | None:
    """How often a classifier sees each class in either set; None without one."""
    mine, theirs, classes = found.fake.predicted, found.real.predicted, found.classes
    if mine is None or theirs is None or not classes:
        return None
    return pictures.bars(
        {name: class_histogram(seen, len(classes)).tolist() for name, seen in (("generated", mine), ("real", theirs))},
        classes,
        title="Classes that a classifier sees",
        ylabel="share of the pictures",
    )
