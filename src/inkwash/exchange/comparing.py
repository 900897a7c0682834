"""Whether two models are the same: their pictures from the same noise, and by how much they differ at most."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.guidance import Clipped, Guided
from inkwash.model import Model
from inkwash.modelfolder import Config
from inkwash.noise import Philox
from inkwash.paths import Table
from inkwash.samplers import Ddim
from inkwash.types import Condition, Denoiser

STEPS = 10
"""Steps of the sampling runs that are compared, at most."""

TOLERANCE = 1e-3
"""The largest difference allowed after sampling, as a share of the largest value: an eighth of a grey level."""

ONE_CALL = 1e-4
"""The largest difference allowed after one call of a network, as a share of the largest value."""

CAUSES = (
    "A small difference is most likely rounding, which grows from step to step where weights are very large, as in a "
    "model that diverged or was hardly trained. A large one is most likely another version of the other program, which "
    "understands a setting otherwise: use one that inkwash's extras install. If it is neither, report it with both "
    "config files."
)
"""What a user may do about a comparison that failed."""


@dataclass(frozen=True)
class Compared:
    """By how much two results differ: what was compared, the largest difference, the largest value (1 at least)."""

    what: str
    difference: float
    largest: float
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether the difference is within tolerance; no NaN is."""
        return self.difference <= self.tolerance * self.largest

    def __str__(self) -> str:
        limit = self.tolerance * self.largest
        return f"{self.what}: they differ by at most {self.difference:.2g} (up to {limit:.2g} is allowed)"


def compared(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> Compared:
    """Compare two tensors of one shape. Raises ValueError, saying by how much, where they are not the same."""
    if ours.shape != theirs.shape:
        raise ValueError(f"{what}: the shapes differ, {list(ours.shape)} here and {list(theirs.shape)} there.")
    difference = float((ours.double() - theirs.double()).abs().max())
    found = Compared(what, difference, max(1.0, float(ours.abs().max())), tolerance)
    if not found.same:
        raise ValueError(f"{found}. Nothing was written. {CAUSES}")
    return found


def asked_of(config: Config, n: int) -> Condition:
    """What a model of this config can be asked for: nothing in row 0, some of it in row 1, all in the others."""
    given, row = config.given, torch.arange(n)
    source = torch.Generator().manual_seed(n)

    def told(*shape: int) -> Tensor:
        """Numbers, those of odd places not known in row 1."""
        v = torch.randn(n, *shape, generator=source)
        odd = torch.arange(shape[-1]) % 2 == 1
        unknown = (row == 0)[:, None] | ((row == 1)[:, None] & odd)
        return v.masked_fill(unknown.view(n, *(1,) * (len(shape) - 1), -1), torch.nan)

    words = n + 2
    return Condition(
        label=row % (given.classes + 1) - 1 if given.classes else None,
        tokens=torch.randn(n, words, given.tokens, generator=source) if given.tokens else None,
        present=torch.arange(words) < 2 * row[:, None] if given.tokens else None,
        vector=told(given.vector) if given.vector else None,
        image=told(given.image, *config.shape[1:]) if given.image else None,
    )


def starting_noise(shape: tuple[int, ...], n: int = 2) -> Tensor:
    """Noise [n, *shape] as a diffusers pipeline draws it with `torch.Generator().manual_seed(0)`."""
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def drawn(
    model: Model, x: Tensor, times: list[float], label: Tensor | None, *, clip: bool = False, guidance: float = 1.0
) -> Tensor:
    """x [n, ...] brought from noise to data by our DDIM without noise, at these times."""
    denoiser: Denoiser = Guided(model, guidance)
    if clip:
        denoiser = Clipped(denoiser, model.path)
    grid = torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, len(x))
    noise = Philox(0, torch.arange(len(x)))
    return drive(Ddim()(model.path, x, grid, noise), denoiser, Condition(label))


def default_steps(config: Config, most: int = STEPS) -> int:
    """At most so many steps for a model: of a table a divisor of its entries, which diffusers' DDIM needs."""
    if not isinstance(config.path, Table):
        return most
    entries = config.path.steps
    return next(n for n in range(min(most, entries), 0, -1) if entries % n == 0)


def even_times(steps: int) -> list[float]:
    """The times they visit in so many steps, when "trailing", or for sigmas that fall evenly; with 0 at the end."""
    return [*(1 - i / steps for i in range(steps)), 0.0]


@contextmanager
def calm() -> Iterator[None]:
    """Without the deprecation and progress notes of other libraries, about which a user here can do nothing."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # for all: a library that is imported in here sets its own level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
