"""The page's pictures: curves, thinned sample sheets, and what the model draws now."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from inkwash import gallery, pictures
from inkwash.pipeline import Pipeline
from inkwash.samples import Samples
from inkwash.training.previews import Asked, preview_steps

if TYPE_CHECKING:
    from PIL.Image import Image

SHEETS = 8
"""Of the sample sheets over time so many are shown, evenly chosen; all but the newest reduced."""

TIMES = 8
"""Moments of the denoising strip."""

ASKED = 16
"""Pictures of a model that is told more than a class, each asked for what an example has."""

POINTS = 2000
"""Of a model of points."""

_SIZE = (540, 340)  # of a curve: two side by side, or one on a telephone, can be read
_WIDE, _SMALL = 1000, 340  # pixels across, at most: of large pictures, of those of a row
_PIXELLED = 96  # pictures up to this side are shown with square pixels
_NO_CURVE = ("step", "fraction", "seconds", "eta", "memory", "skipped", "overfitting")

Kind = Literal["chart", "pixels", "picture"]


@dataclass(frozen=True)
class Shown:
    """A picture in the page. kind: charts change colours in the dark; pixels are enlarged as squares."""

    image: Image
    caption: str
    kind: Kind = "picture"

    @property
    def uri(self) -> str:
        """It as a PNG in a data: address."""
        data = io.BytesIO()
        self.image.save(data, "PNG", optimize=True)
        return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode("ascii")


@dataclass(frozen=True)
class Moment:
    """A column of the denoising strip: the time, what the sampler has, and what the model expects (None: the end)."""

    t: float
    x: Shown
    x0: Shown | None


@dataclass(frozen=True)
class Drawn:
    """What the model drew: pictures by class (or all together), the strip, and how."""

    samples: list[Shown]
    strip: list[Moment]
    how: str


def curves(metrics: Sequence[Mapping[str, Any]]) -> list[Shown]:
    """What was logged, over the steps, each with its unit; figures not known here come last, by their names."""
    drawn: dict[str, tuple[str, str, dict[str, str]]] = {
        "Training loss": ("objective", "The objective, averaged over the batches of 10 steps.", {"": "loss"}),
        "Validation loss": (
            "squared error of the target",
            "The averaged weights on pictures they were not trained on, and on as many that they were.",
            {"held out": "validation", "training": "validation_train"},
        ),
        "Gradient norm": (
            "before clipping, no unit",
            "The length of the gradient, before it is clipped.",
            {"": "grad_norm"},
        ),
        "Learning rate": ("a step, no unit", "How large a step is, as the schedule has it.", {"": "lr"}),
        "Speed": ("pictures a second", "Pictures trained on, a second.", {"": "images_per_second"}),
    }
    known = {key for _, _, keys in drawn.values() for key in keys.values()}
    for key in dict.fromkeys(key for m in metrics for key in m):
        if key not in known and key not in _NO_CURVE and not key.startswith("validation"):
            drawn[key] = ("measured during training", f"{key}, measured during training.", {"": key})
    shown = []
    for title, (unit, caption, keys) in drawn.items():
        lines = {name: points for name, key in keys.items() if len((points := _series(metrics, key))[0])}
        if lines:
            shown.append(Shown(_curve(title, unit, lines), caption, "chart"))
    return shown


def _curve(title: str, unit: str, lines: Mapping[str, tuple[list[float], list[float]]]) -> Image:
    """On a logarithmic axis where the values span more than a decade, but for the learning rate, which ends at 0."""
    values = [y for _, ys in lines.values() for y in ys]
    log: Literal["", "y"] = "y" if min(values) > 0 and max(values) > 10 * min(values) else ""
    return pictures.line_plot(lines, title=title, xlabel="step", ylabel=unit, log=log, size=_SIZE)


def _series(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """The steps and values of a figure that are finite numbers."""
    points = [(float(m["step"]), float(m[key])) for m in metrics if key in m]
    return [x for x, _ in points], [y for _, y in points]


def overfitting(metrics: Sequence[Mapping[str, Any]]) -> str:
    """What to say of a run that found, when it last validated, that its held-out loss had risen; "" of others."""
    validated = [m for m in metrics if "validation" in m]
    if not validated or "overfitting" not in validated[-1]:
        return ""
    low, last = min(validated, key=lambda m: m["validation"]), validated[-1]
    said = (
        f"Overfitting: the held-out loss was lowest at step {low['step']:,} ({low['validation']:.4g}) and is higher at "
        f"step {last['step']:,} ({last['validation']:.4g}), by more than two standard errors"
    )
    seen = low.get("validation_train"), last.get("validation_train")
    if None in seen:
        return said + "."
    return f"{said}, while the same loss on training pictures went from {seen[0]:.4g} to {seen[1]:.4g}."


def sheets(files: Sequence[tuple[int, File]], kind: Kind, problems: list[str]) -> list[Shown]:
    """At most `SHEETS` of the sample sheets, the newest first and largest; what cannot be opened is noted."""
    keep = sorted({round(i) for i in np.linspace(0, len(files) - 1, min(len(files), SHEETS))}, reverse=True)
    found: list[Shown] = []
    for step, file in (files[i] for i in keep):
        image = opened(file, _SMALL if found else _WIDE, problems)
        if image is not None:
            found.append(Shown(image, f"step {step:,}", kind))
    return found


def opened(file: File, wide: int, problems: list[str]) -> Image | None:
    """A picture from a file, at most so many pixels across; None, and a note, where it is damaged."""
    from PIL import Image as Images

    try:
        with Images.open(file) as image:
            image.load()
            plain = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Images.DecompressionBombError) as error:
        problems.append(f"{file} cannot be opened as a picture: {error}")
        return None
    if plain.width > wide:
        high = max(1, round(plain.height * wide / plain.width))
        plain = plain.resize((wide, high), Images.Resampling.LANCZOS)
    red, green, blue = plain.split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    return red if grey else plain


def draw(pipe: Pipeline, watch: Callable[[float], None] | None = None, asked: Asked | None = None) -> Drawn:
    """New samples of every class and the way some of them took, with seed 0 and the model's own settings.

    asked: what they are asked for instead, as many as that is of. Raises ValueError for vectors of other than two
    numbers, which have no picture.
    """
    shape, classes = pipe.config.pictures, pipe.config.classes
    if len(shape) == 1 and shape[0] != 2:
        raise ValueError(f"Vectors of {shape[0]} numbers have no picture.")
    points = len(shape) == 1
    by_class = 1 < len(classes) <= 20 and not points
    across = min(6, max(2, round(math.sqrt(40 / len(classes))))) if by_class else 6 if max(shape) > 96 else 8
    n = POINTS if points else across**2 * len(classes) if by_class else 24 if across == 6 else 48
    own = pipe.config.sampling
    steps = preview_steps(pipe.config)
    trace = gallery.Trace(limit=3)
    if asked is None:
        samples = pipe(n, steps=steps, seed=0, watch=watch, trace=trace)
    else:
        n = asked.count
        samples = pipe(n, cond=asked.cond, steps=steps, seed=0, watch=watch, trace=trace)
    told = samples.settings
    guided = f", guidance {told['guidance']:g}" if told["guidance"] != 1 else ""
    how = f"{told['sampler']['kind']}, {told['steps']} steps{guided}, seed 0"
    if steps is not None and steps < own.steps:
        how += f" (the model's own {own.steps} steps would take long)"
    if points:
        shown = [Shown(gallery.sheet(samples), f"{n:,} points", "chart")]
    elif asked is not None:
        shown = [Shown(asked.sheet(samples), f"{n} samples, each asked for what an example of the data has")]
    elif by_class:
        rows = np.arange(n).reshape(-1, len(classes))
        shown = [_tiled(samples, rows[:, i], across, name) for i, name in enumerate(samples.labels[: len(classes)])]
    else:
        shown = [_tiled(samples, np.arange(n), across, f"{n} samples")]
    return Drawn(shown, _strip(trace, samples), how)


def _strip(trace: gallery.Trace, samples: Samples) -> list[Moment]:
    """Evenly chosen queries, each later than those before, and the samples at the end."""
    later = [i for i, t in enumerate(trace.t) if t < min(trace.t[:i], default=math.inf)]
    chosen = sorted({later[round(k)] for k in np.linspace(0, len(later) - 1, min(len(later), TIMES))})
    decode = samples.codec.decode
    pairs = [(trace.t[i], decode(trace.x[i]).numpy(), decode(trace.x0[i]).numpy()) for i in chosen]
    last = samples.array[: len(trace.x[0])]
    if last.ndim == 2:
        names = list(dict.fromkeys(samples.labels))
        index = np.array([names.index(label) for label in samples.labels]) if len(names) > 1 else None
        every = np.concatenate([last, *(x for _, x, _ in pairs), *(x0 for _, _, x0 in pairs)])
        reach = 1.05 * float(np.abs(every[np.isfinite(every)]).max(initial=1e-3))
        limits = (-reach, reach, -reach, reach)

        def look(array: np.ndarray, caption: str) -> Shown:
            image = pictures.scatter(array, labels=index, limits=limits, axes=False, size=(180, 180))
            return Shown(image, caption, "chart")
    else:

        def look(array: np.ndarray, caption: str) -> Shown:
            few = Samples(array, (), {}, samples.codec)
            return _tiled(few, np.arange(len(array)), 1, caption)

    moments = [
        Moment(t, look(x, f"what the sampler has at t = {t:.2f}"), look(x0, f"what the model expects at t = {t:.2f}"))
        for t, x, x0 in pairs
    ]
    return [*moments, Moment(0.0, look(last, "the samples, t = 0"), None)]


def _tiled(samples: Samples, rows: np.ndarray, columns: int, caption: str) -> Shown:
    """Pictures in rows of `columns`, a transparent pixel between them; large ones are reduced."""
    from PIL import Image as Images

    few = Samples(samples.array[rows], (), {}, samples.codec).pictures()
    side = max(few.shape[1:3])
    most = max(_PIXELLED, 640 // columns)
    gap = 1 if side <= _PIXELLED else 4
    small = max(1, round(few.shape[1] * min(1, most / side))), max(1, round(few.shape[2] * min(1, most / side)))
    lines = -(-len(few) // columns)
    page = Images.new("RGBA", (columns * (small[1] + gap) - gap, lines * (small[0] + gap) - gap), (0, 0, 0, 0))
    for i, picture in enumerate(few):
        image = _image(picture)
        if small != few.shape[1:3]:
            image = image.resize((small[1], small[0]), Images.Resampling.LANCZOS)
        at = ((i % columns) * (small[1] + gap), (i // columns) * (small[0] + gap))
        page.paste(image.convert("RGBA"), at)
    kind: Kind = "pixels" if side <= _PIXELLED else "picture"
    return Shown(page.convert("LA") if few.shape[3] == 1 else page, caption, kind)


def _image(picture: np.ndarray) -> Image:
    """[H, W, C] as a picture: of one channel grey, of two red and green, of four with opacity, else the first three."""
    from PIL.Image import fromarray

    channels = picture.shape[2]
    if channels == 1:
        return fromarray(picture[..., 0])
    if channels == 2:
        return fromarray(np.concatenate([picture, np.zeros_like(picture[..., :1])], 2))
    return fromarray(np.ascontiguousarray(picture[..., : 4 if channels == 4 else 3]))


def parameters(config: Any) -> int:
    """Weights of a model's network, counted without making them."""
    with torch.device("meta"):
        return sum(p.numel() for p in config.network().parameters())
