"""What the sheets of a run and its report show: the same conditions always, of pictures held out where any were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from inkwash.asking import condition_of, with_conditions
from inkwash.codec import Codec
from inkwash.data import Dataset
from inkwash.grids import Listed
from inkwash.modelfolder import Config
from inkwash.noise import Philox
from inkwash.training.setup import Setup
from inkwash.types import Condition

if TYPE_CHECKING:
    from PIL.Image import Image

    from inkwash.samples import Samples

SEED = 0
"""Of what a condition draws, such as where a picture is hidden: the same in every run."""

PREVIEW_STEPS = 50
"""At most so many sampler steps: DDPM's thousand would take longer than the training between two previews."""


def preview_steps(config: Config) -> int | None:
    """In how many steps samples are drawn while somebody waits: `PREVIEW_STEPS`, or its own: fewer, or all it learned.

    None: as a list of times says.
    """
    own = config.sampling
    if isinstance(own.grid, Listed):
        return None
    few = replace(own, steps=min(own.steps, PREVIEW_STEPS))
    return few.steps if config.unlearned(few) is None else own.steps


@dataclass(frozen=True)
class Asked:
    """The conditions of `count` samples, on the run's device; captions: in words, () where there are none."""

    cond: Condition
    captions: tuple[str, ...]
    count: int

    @classmethod
    def of(cls, setup: Setup, examples: tuple[Dataset, np.ndarray]) -> Asked | None:
        """Those of as many of these rows of a data set as `train.samples` says, evenly spread.

        None for a model told of classes alone or of nothing, which is asked for every class in turn.
        """
        if not setup.config.conditions.names:
            return None
        data, rows = examples
        return cls.told(setup.config, setup.codec, (setup.seen(data), rows), setup.recipe.train.samples, setup.device)

    @classmethod
    def told(
        cls, config: Config, codec: Codec, examples: tuple[Dataset, np.ndarray], count: int, device: torch.device
    ) -> Asked:
        """Those of `count` of these rows, or of all there are, evenly spread, for a model that is told of something."""
        told, (data, rows) = config.conditions, examples
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), count)).astype(np.int64)]
        noise = Philox(SEED, torch.arange(len(rows)))
        cond = condition_of(config, codec, with_conditions(config, codec, data).take(rows), noise, device)
        captions = tuple(data.captions[i] for i in rows) if told.text and data.captions else ()
        if told.vector and data.vectors is not None and not captions:
            captions = tuple(_numbers(told.vector.names, data.vectors[i]) for i in rows)
        return cls(cond, captions, len(rows))

    def sheet(self, samples: Samples) -> Image:
        """The samples with what they were asked for: captions under them, and pictures on their left."""
        from inkwash.gallery import sheet

        image = self.cond.image
        shown = None
        if image is not None:
            # What is hidden of it is grey: 0 in x.
            decoded = samples.codec.decode(image.nan_to_num()).cpu()
            shown = samples.codec.picture(decoded).numpy()
        return sheet(samples, captions=self.captions, shown=shown)


def _numbers(names: tuple[str, ...], values: np.ndarray) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in zip(names, values, strict=True) if not np.isnan(value))
