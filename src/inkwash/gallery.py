"""Pictures of what models do: sheets of samples, GIFs of denoising, the forward process, the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from inkwash import pictures
from inkwash.codec import Codec
from inkwash.noise import Philox, Stream
from inkwash.samples import Samples
from inkwash.types import Denoised, Path, Query, like

if TYPE_CHECKING:
    from PIL.Image import Image

CAPTIONED = 64
"""Up to so many pictures have each its own caption."""

WORDS = 90
"""The least width of a column with words above it."""

FRAMES = 60
"""A GIF has no more frames than this; longer runs are thinned out evenly."""


def sheet(
    samples: Samples,
    columns: int | None = None,
    *,
    captions: Sequence[str] = (),
    shown: np.ndarray | None = None,
) -> Image:
    """All samples in one picture: a grid, or for points in the plane a scatter.

    Where what was asked for goes round, such as the classes, each has a column with its words above; of up to 64 that
    were asked for other things than classes, each has its words below, or all together a title. captions: others, one
    for each sample, written under it; shown: the picture that each was made from, uint8 [n, H, W, C], set on its left;
    both by default the samples' own. Raises ValueError for vectors of other than 2 numbers.
    """
    if samples.array.ndim == 2:
        return _scatter(samples.array, samples.labels)
    array, title, scale = samples.pictures(), None, None
    shown = samples.shown if shown is None else shown
    words = () if captions else samples.captions or samples.labels
    if shown is not None and columns is None:  # a pair is twice as wide
        columns = max(1, math.ceil(math.sqrt(len(array) / 2)))
    said = tuple(words) != samples.labels  # more than classes: each in a cell wide enough for words
    if said and len(set(words)) == len(array):
        columns = columns or math.ceil(math.sqrt(len(array)))
    columns, header = _layout(len(array), words, columns)
    if header is not None and said:
        scale = max(1, -(-WORDS // array.shape[2]))
    if header is None and any(words) and said:
        if len(set(words)) == 1:
            title = words[0]
        elif len(array) <= CAPTIONED:
            captions = words
    if shown is not None:
        return pictures.grid(_pairs(shown, array), columns, labels=header, captions=captions, gap=8, title=title)
    return pictures.grid(array, columns, labels=header, captions=captions, scale=scale, title=title)


def _pairs(shown: np.ndarray, array: np.ndarray) -> np.ndarray:
    """What was shown beside what was drawn, in the channels of both."""
    most = max(shown.shape[3], array.shape[3])
    both = (x if x.shape[3] == most else x[..., :1].repeat(most, 3) for x in (shown, array))
    return np.concatenate(list(both), axis=2)


@dataclass
class Trace:
    """Collects what happens in sampling, for a GIF: give it to a pipeline as `trace`.

    limit: the number of pictures shown; points are all shown.
    """

    limit: int = 100
    x: list[Tensor] = field(default_factory=list)
    x0: list[Tensor] = field(default_factory=list)
    t: list[float] = field(default_factory=list)

    def __call__(self, query: Query, answer: Denoised) -> None:
        """Note one query and its answer."""
        shown = slice(self.limit if query.x.ndim > 2 else None)
        self.x.append(query.x[shown].float().cpu())
        self.x0.append(answer.x0[shown].float().cpu())
        self.t.append(float(query.t[0]))

    def frames(self, samples: Samples) -> list[Image]:
        """One frame a step, x_t on the left and the predicted x0 on the right, and the samples at the end."""
        keep = sorted({round(i) for i in np.linspace(0, len(self.t) - 1, min(len(self.t), FRAMES))})
        decode = samples.codec.decode
        last = samples.array[: len(self.x[-1])]
        pairs = [(decode(self.x[i]).numpy(), decode(self.x0[i]).numpy(), self.t[i]) for i in keep] + [(last, last, 0.0)]
        labels = (samples.captions or samples.labels)[: len(last)]
        if last.ndim == 2:
            reach = 1.1 * float(np.abs(last).max())
            start = 1.1 * float(np.abs(pairs[0][0]).max())
            bounds = (-max(reach, start), max(reach, start))
            return [_scatter(x, labels, f"t = {t:.2f}", bounds) for x, _, t in pairs]
        columns, header = _layout(len(last), labels, None)
        return [
            _beside(
                *(
                    pictures.grid(replace(samples, array=array).pictures(), columns, labels=header, title=title)
                    for array, title in ((x, f"x at t = {t:.2f}"), (x0, "predicted x0"))
                )
            )
            for x, x0, t in pairs
        ]


def forward_strip(
    picture: np.ndarray, codec: Codec, path: Path, times: Sequence[float], captions: Sequence[str], seed: int = 0
) -> Image:
    """One picture [H, W, C] (or points [N, 2]) noised at each time, with one and the same noise, side by side."""
    points = picture.ndim == 2
    x0 = codec.encode(torch.from_numpy(np.array(picture if points else picture[None])))
    eps = Philox(seed, torch.arange(len(x0)))(x0, 0, Stream.EPS)
    c = path(torch.tensor(times, dtype=torch.float64))
    noised = [
        codec.decode(like(c.alpha[i : i + 1], x0) * x0 + like(c.sigma[i : i + 1], x0) * eps).numpy()
        for i in range(len(times))
    ]
    if points:
        reach = 1.1 * max(float(np.abs(x).max()) for x in noised)
        shown = [_scatter(x, (), title, (-reach, reach)) for x, title in zip(noised, captions, strict=True)]
        image = shown[0]
        for other in shown[1:]:
            image = _beside(image, other)
        return image
    return pictures.strip(Samples(np.concatenate(noised), (), {}, codec).pictures(), captions)


BANDS = ("0.05 to 0.22", "0.22 to 1", "1 to 4.5", "4.5 to 20")
"""The noise levels sigma/alpha of validation_band_0 to 3 in metrics.jsonl."""


def loss_plot(metrics: Sequence[Mapping[str, Any]]) -> Image:
    """The training loss over the steps, and the validation loss where there is one, faintly that of training pictures.

    Training minimises a weighted loss at times of its own, so the two need not be on one level.
    """
    names = {"training": "loss", "validation": "validation"}
    series = {name: _curve(metrics, key) for name, key in names.items() if any(key in m for m in metrics)}
    faint = {"validation": _curve(metrics, "validation_train")} if "validation" in series else {}
    return pictures.line_plot(series, title="Loss", xlabel="step", ylabel="loss", faint=faint)


def band_plot(metrics: Sequence[Mapping[str, Any]]) -> Image | None:
    """The validation loss in each band of noise, faintly that of training pictures; None where none was measured."""
    keys = {name: f"band_{i}" for i, name in enumerate(BANDS) if any(f"validation_band_{i}" in m for m in metrics)}
    if not keys:
        return None
    return pictures.line_plot(
        {name: _curve(metrics, f"validation_{key}") for name, key in keys.items()},
        title="Validation loss by noise level sigma/alpha",
        xlabel="step",
        ylabel="squared error; faint: on training pictures",
        smooth=False,
        log="y",
        faint={name: _curve(metrics, f"validation_train_{key}") for name, key in keys.items()},
    )


def _curve(metrics: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    points = [(m["step"], m[key]) for m in metrics if key in m]
    return [x for x, _ in points], [y for _, y in points]


def _layout(n: int, labels: Sequence[str], columns: int | None) -> tuple[int, list[str] | None]:
    """Columns, and their headings: the classes where the labels go round them."""
    around = list(dict.fromkeys(labels))
    cyclic = len(around) > 1 and all(labels[i] == around[i % len(around)] for i in range(n))
    if columns is None:
        columns = len(around) if cyclic and len(around) <= 20 else math.ceil(math.sqrt(n))
    return columns, around if cyclic and columns == len(around) else None


def _scatter(
    points: np.ndarray, labels: Sequence[str], title: str = "", bounds: tuple[float, float] | None = None
) -> Image:
    if points.shape[1] != 2:
        raise ValueError(f"Vectors of {points.shape[1]} numbers have no picture. Save them as an array, with --npy.")
    names = list(dict.fromkeys(labels))
    index = np.array([names.index(label) for label in labels]) if len(names) > 1 else None
    return pictures.scatter(points, labels=index, limits=bounds and (*bounds, *bounds), title=title or None)


def _beside(left: Image, right: Image) -> Image:
    from PIL.Image import new

    image = new("RGB", (left.width + right.width + 8, max(left.height, right.height)), "white")
    image.paste(left, (0, 0))
    image.paste(right, (left.width + 8, 0))
    return image
