"""The loss on held-out pictures: always the same pictures, times and noise, so that two values can be compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from inkwash.data import Stream as Examples
from inkwash.noise import Philox
from inkwash.training.setup import Setup


class Validation:
    """Called with a network, gives the mean of the objective over up to `evaluation.images` held-out examples."""

    def __init__(self, setup: Setup, rows: np.ndarray) -> None:
        self.setup = setup
        self.count = min(len(rows), setup.recipe.evaluation.images)
        rows = rows[np.linspace(0, len(rows) - 1, self.count).astype(np.int64)]  # evenly: sorted sets have all classes
        self.examples = Examples(replace(setup.dataset, flip=False), 0, rows)

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> float:
        """The mean loss, labels shown."""
        setup, size = self.setup, self.setup.recipe.train.batch_size
        model = replace(setup.model, net=net)
        total = 0.0
        for start in range(0, self.count, size):
            position = np.arange(start, min(self.count, start + size))
            rows = self.examples.rows(position)
            # Strata over the whole held-out set, not one batch: the times cover (0, 1) evenly.
            batch = setup.batch(rows.images, rows.labels, torch.from_numpy(position))._replace(size=self.count)
            noise = Philox(~setup.recipe.train.seed, batch.number)  # no random number is shared with training
            total += float(setup.recipe.objective(model, batch, noise, 1.0).cpu().double().sum())
        return total / self.count
