"""The loss on pictures held out of training: always the same pictures, noise levels and noise.

Every picture is seen once in each of four bands of lambda = 2 ln(alpha/sigma), its lambda stratified over the pictures
within the band. The loss is the plain squared error of the model's own target, whatever training minimises: runs with
other loss weights or densities of times can be compared by it, runs with other targets cannot. Networks compute in
float32 here. The same grid on as many training pictures says how much of what is learned is those pictures alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from inkwash.data import Dataset, load, order, split
from inkwash.data import Progress as DataProgress
from inkwash.noise import Philox, Stream
from inkwash.paths import ratio
from inkwash.recipes import Recipe
from inkwash.training.setup import Setup
from inkwash.types import Batch, Coeffs, Path, like

EDGES = (6.0, 3.0, 0.0, -3.0, -6.0)
"""Where the bands of lambda end, from little noise to much: sigma/alpha = 0.05, 0.22, 1, 4.5 and 20.

Data in [-1, 1] has a deviation near 0.5, so they go from a tenth of that to forty times it: detail, texture, shape, and
which picture it is at all. Beyond them nothing is to be learned but the noise itself, or the data's mean. They are the
same for all paths, of which DDPM's table, cosine, VE and the straight line reach all four.
"""

CHUNK = 32
"""Pictures in a forward pass: not the batch's size, on which the last bits would depend."""

SEED = 0
"""Not the run's: what is asked is the same in every run."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """What is asked of every picture: bands, the number of each band the path reaches; times [bands, n] float64."""

    bands: tuple[int, ...]
    times: Tensor

    @classmethod
    def of(cls, path: Path, n: int) -> Grid:
        """The grid for n pictures. A band the path reaches in part is cut, one it does not reach is left out."""
        least, most = reach(path)
        bands, times = [], []
        for band, (high, low) in enumerate(pairwise(EDGES)):
            low, high = max(low, least), min(high, most)
            if low < high:
                middle = (torch.from_numpy(order(SEED, band, n).copy()).double() + 0.5) / n
                lam = low + (high - low) * middle
                bands.append(band)
                times.append(path.snap(path.time((-lam / 2).exp()).clamp(max=1.0)))
        if not bands:
            raise ValueError(
                f"{path} has noise levels of lambda = 2 ln(alpha/sigma) from {least:.3g} to {most:.3g} only, and the "
                f"validation loss is measured from {EDGES[-1]:g} to {EDGES[0]:g}. Use data.val_fraction = 0."
            )
        return cls(tuple(bands), torch.stack(times))


def reach(path: Path) -> tuple[float, float]:
    """The least and the largest lambda = 2 ln(alpha/sigma) a path is trained at; an end may be infinite."""
    c = path(path.snap(torch.tensor([1 - 1e-6, 1e-6], dtype=torch.float64)))
    least, most = (-2 * ratio(c).log()).tolist()
    return least, most


@dataclass(frozen=True)
class Losses:
    """What was found: the squared error of each picture in each band, [n, bands], held out and in training."""

    bands: tuple[int, ...]
    held_out: Floats
    train: Floats

    @property
    def value(self) -> float:
        """The validation loss: the mean over pictures and bands."""
        return float(self.held_out.mean())

    def figures(self) -> dict[str, float]:
        """What metrics.jsonl says: validation_train, and validation_band_0 (the least noise) to 3 of both."""
        found = {"validation_train": float(self.train.mean())}
        for name, part in (("validation", self.held_out), ("validation_train", self.train)):
            found |= {f"{name}_band_{band}": float(part[:, i].mean()) for i, band in enumerate(self.bands)}
        return found


def unseen(recipe: Recipe, dataset: Dataset, progress: DataProgress | None = None) -> tuple[Dataset, np.ndarray] | None:
    """The data set and those of its rows that a run is validated on, as `evaluation.split` says; None where none are.

    Raises ValueError where there is no such split, or its examples are not like those trained on.
    """
    spec, where = recipe.data, recipe.evaluation
    if where.split == "val":
        rows = split(dataset, spec.val_fraction, recipe.train.seed)[1]
        return (dataset, rows) if len(rows) else None
    if spec.split == "test" or spec.source.endswith((".npy", ".npz")):
        what = "is trained on its test split" if spec.split == "test" else "is one array, without a test split"
        raise ValueError(
            f'evaluation.split = "test", and {spec.source} {what}. Use "val", with data.val_fraction = 0.05.'
        )
    test = load(replace(spec, split="test", limit=None, flip=False), progress=progress)
    if test.shape != dataset.shape or test.classes != dataset.classes:
        raise ValueError(
            f'evaluation.split = "test", and the test split of {spec.source} has examples of shape {test.shape} in '
            f"{len(test.classes)} classes, the training split of shape {dataset.shape} in {len(dataset.classes)}. "
            'Set data.size, or use "val", with data.val_fraction = 0.05.'
        )
    return test, np.arange(len(test))


class Validation:
    """Called with a network, gives its `Losses` on up to `evaluation.images` held-out pictures and as many others.

    held_out, train: data sets, and which of their rows; the pictures are taken evenly from these. Where noise is
    coupled to the data it is coupled here, among as many rows as in training.
    """

    def __init__(self, setup: Setup, held_out: tuple[Dataset, np.ndarray], train: tuple[Dataset, np.ndarray]) -> None:
        self.setup = setup
        self.count = min(setup.recipe.evaluation.images, len(held_out[1]), len(train[1]))
        # Evenly, not the first: sorted sets have all classes.
        evenly = [rows[np.linspace(0, len(rows) - 1, self.count).astype(np.int64)] for _, rows in (held_out, train)]
        self.sets = [(setup.seen(held_out[0]), evenly[0]), (train[0], evenly[1])]
        self.grid = Grid.of(setup.config.path, self.count)
        self.key = f"validation, {setup.recipe.evaluation.split} {held_out[0].fingerprint[:12]}, {self.count} pictures"
        objective: Any = setup.recipe.objective  # a user's own need not say anything of itself
        self.coupling = objective.coupling if getattr(objective, "coupled", False) else None

    def __call__(self, net: nn.Module) -> Losses:
        """Ask; all conditions are shown."""
        held_out, train = (self._losses(net, data, rows) for data, rows in self.sets)
        return Losses(self.grid.bands, held_out, train)

    @torch.no_grad()
    def _losses(self, net: nn.Module, data: Dataset, rows: np.ndarray) -> Floats:
        setup = self.setup
        model = replace(setup.model, net=net, autocast=None)
        size = CHUNK if self.coupling is None else setup.recipe.train.batch_size // setup.recipe.train.accumulate
        found = np.empty((self.count, len(self.grid.bands)))
        for start in range(0, self.count, size):
            place = slice(start, min(start + size, self.count))
            batch = setup.batch(data.take(rows[place]), torch.arange(self.count)[place], SEED)
            for i, band in enumerate(self.grid.bands):
                t = self.grid.times[i, place]
                c = model.path(t)
                eps = self._noise(batch, band)
                x = like(c.alpha, batch.x0) * batch.x0 + like(c.sigma, batch.x0) * eps
                y = model.predict(x, t, c, batch.cond)
                found[place, i] = squared_error(y, batch.x0, eps, c, model.target(c)).cpu().numpy()
        return found

    def _noise(self, batch: Batch, band: int) -> Tensor:
        """Standard normals for the places in the grid, of a stream that training has no number of."""
        eps = Philox(SEED, batch.number)(batch.x0, band, Stream.GRID)
        return eps if self.coupling is None else self.coupling(batch.x0, eps, batch.cond)


def squared_error(y: Tensor, x0: Tensor, eps: Tensor, c: Coeffs, ab: tuple[Tensor, Tensor]) -> Tensor:
    """The mean over the elements of (y - (a·x0 + b·eps))², [B] float64: the error of a prediction y of the target."""
    a, b = ab
    error = y - (like(a, x0) * x0 + like(b, x0) * eps)
    return error.square().flatten(1).double().mean(1)


@dataclass(frozen=True)
class Lowest:
    """The lowest validation loss so far: at which step, each held-out picture's loss then, each training picture's [n].

    key: which grid it was; risen: whether overfitting has been called since.
    """

    key: str
    step: int
    held_out: Floats
    train: Floats
    risen: bool = False


@dataclass(frozen=True)
class Rise:
    """A rise of the validation loss that chance does not explain, while that on training pictures went on falling.

    since, lowest: the step of the lowest, and its value; by, error: the mean difference of the pictures' losses and its
    standard error; train: the loss on training pictures then and now.
    """

    since: int
    lowest: float
    by: float
    error: float
    train: tuple[float, float]

    def __str__(self) -> str:
        before, now = self.train
        return (
            f"Overfitting since step {self.since:,}: the loss on held-out pictures has risen by {self.by:.2g} ± "
            f"{self.error:.1g} ({self.by / self.lowest:+.1%}) from {self.lowest:.4f}, while on training pictures it "
            f"fell from {before:.4f} to {now:.4f}. More pictures, data.flip, net.dropout or a smaller net help, or "
            f"training for about {self.since:,} steps."
        )


def overfitting(before: Lowest | None, step: int, now: Losses, key: str) -> tuple[Lowest, Rise | None]:
    """The lowest loss including this one, and the rise above it where there is one.

    The same pictures with the same noise are compared, one by one, so that what varies between pictures cancels. Both
    the rise and the fall on training pictures must exceed two standard errors of their mean differences: of many losses
    that only wander, each is above the lowest, but those on training pictures wander as well.
    """
    held_out, train = now.held_out.mean(1), now.train.mean(1)
    if before is None or before.key != key or held_out.mean() < before.held_out.mean():
        return Lowest(key, step, held_out, train), None
    by, error = _mean_change(before.held_out, held_out)
    fall, wander = _mean_change(before.train, train)
    if not (by > 2 * error and fall < -2 * wander):
        return before, None
    means = (float(before.train.mean()), float(train.mean()))
    return replace(before, risen=True), Rise(before.step, float(before.held_out.mean()), by, error, means)


def _mean_change(before: Floats, now: Floats) -> tuple[float, float]:
    """The mean of the differences, and its standard error: infinite for a single one."""
    change = now - before
    return float(change.mean()), float(change.std(ddof=1)) / math.sqrt(len(change)) if len(change) > 1 else math.inf
