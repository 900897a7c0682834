"""What samples are to show, understood: from it the condition of any of them is made when they are drawn."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inkwash.codec import Codec
from inkwash.modelfolder import Config
from inkwash.types import Condition, Noise, Steered


class Text(NamedTuple):
    """The tokens of a text for each of n samples: values [n, L, W], present [n, L]."""

    values: Tensor
    present: Tensor


@dataclass(frozen=True, eq=False)
class Asked:
    """What n samples are to show, on the host.

    told: the conditions but for a picture; labels: the class of each, () without classes; captions: what was asked of
    each in words, () where nothing was; settings: what was asked, to be noted. base: a text to push away from instead
    of the null; others, weights: texts that are followed besides, each on its own. shown: pictures uint8 [n, H, W, C]
    as the model's task shows them, hidden: [n, H, W] bool. names: of the conditions that guidance hides.
    """

    told: Condition
    labels: tuple[str, ...]
    captions: tuple[str, ...]
    settings: dict[str, Any]
    base: Text | None = None
    others: tuple[Text, ...] = ()
    weights: tuple[float, ...] = ()
    shown: np.ndarray | None = None
    hidden: np.ndarray | None = None
    names: tuple[str, ...] = ()

    def rows(
        self, at: Tensor, config: Config, codec: Codec, shape: tuple[int, ...], noise: Noise, device: torch.device
    ) -> Condition:
        """The condition of the samples at these places [B] of 0 .. n - 1, on a device.

        shape: of x; noise: of their numbers, for a task that draws some. A negative prompt, and each text that is
        followed besides, stand alone: what guidance hides is hidden beside them.
        """
        plain = self.told.map(lambda v: v[at.to(v.device)].to(device))
        task = config.conditions.image
        if task is not None and plain.image is None:
            if self.shown is None:
                image = torch.full((len(at), *shape), torch.nan, device=device)
            else:
                u = torch.from_numpy(np.ascontiguousarray(self.shown[at.numpy()]))
                gone = None if self.hidden is None else torch.from_numpy(self.hidden[at.numpy()])
                image = task.task.seen(codec.encode(u.to(device)), noise, gone)
            plain = replace(plain, image=image)
        if self.base is None and not self.others:
            return plain
        null = plain.null(self.names)

        def alone(text: Text) -> Condition:
            here = text.values[at].to(device), text.present[at].to(device)
            return replace(null, tokens=here[0], present=here[1])

        return Steered(
            **{f.name: getattr(plain, f.name) for f in fields(Condition)},
            base=None if self.base is None else alone(self.base),
            others=tuple(alone(other) for other in self.others),
            weights=torch.tensor(self.weights, dtype=torch.float64).expand(len(at), -1) if self.others else None,
        )
