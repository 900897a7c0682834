"""How far what a network says is from what it should say, element by element."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Loss = Literal["mse", "l1", "huber"]
"""Squared error, its root, or squared below 1 and linear above.

The squared error is least at the mean of all that may be right, the others nearer to its median. So l1 is sharper, and
right where one answer is: where a teacher gives it. Data alone give many, of which the mean is wanted.
"""

LOSSES: dict[Loss, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": lambda y, target: F.mse_loss(y, target, reduction="none"),
    "l1": lambda y, target: F.l1_loss(y, target, reduction="none"),
    "huber": lambda y, target: F.smooth_l1_loss(y, target, reduction="none"),
}
"""Of y and its target, of one shape, to the loss of each element."""
