"""The simple loss: regress the network's output on the model's target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

from inkwash.losses import LOSSES, Loss
from inkwash.model import Model
from inkwash.noise import Stream
from inkwash.objectives.coupling import AnyCoupling, Independent, Requiring
from inkwash.objectives.weights import AnyWeight, Unweighted, Weight
from inkwash.targets import trained_times
from inkwash.times import AnyDensity, Density, Uniform, draw
from inkwash.types import Batch, Coeffs, Component, Noise, Path, like


class Noised(NamedTuple):
    """One draw of the forward process: x_t [B, ...] at t [B], its coefficients and the noise in it.

    worth [B], on the host: the factor that undoes how often the density, beyond its own law, draws t.
    """

    x: Tensor
    t: Tensor
    c: Coeffs
    eps: Tensor
    worth: Tensor


def noised(model: Model, batch: Batch, noise: Noise, density: Density, steps: int | None = None) -> Noised:
    """Draw times and noise for a batch and mix: x_t = alpha·x0 + sigma·eps (math.md, eq. 3).

    steps: of a chain whose entries, i/steps, the times are to be, the next above; None is any the path can have.
    """
    law = density.given(batch.memory)
    drawn = draw(law, batch, noise, model.path)
    t = model.path.snap(drawn)
    if steps is not None:
        t = (t * steps - 1e-9).ceil().clamp(1, steps) / steps  # rounding may put i/T·T above i
    c = model.path(t)
    eps = noise(batch.x0, 0, Stream.EPS) if batch.eps is None else batch.eps
    x = like(c.alpha, batch.x0) * batch.x0 + like(c.sigma, batch.x0) * eps
    return Noised(x, t, c, eps, law.weight(drawn))


class OverTimes(Component):
    """Base of objectives with a density of training times, `times`, that may learn from the losses."""

    times: AnyDensity
    learns_variance: ClassVar[bool] = False

    @property
    def coupled(self) -> bool:
        """Whether the noise it trains with depends on the data: then only deterministic samplers are right."""
        return False

    def asked(self, path: Path) -> Tensor:
        """Times [N] that stand for those it asks a model on `path` at: to check a target before it is trained."""
        return trained_times(path)

    def unlearned(self, t: Tensor, s: Tensor) -> str | None:
        """Why a model is never asked at times t [N] in training, and what to use; None: it is. s = t."""
        return self.times.never(t)

    def memory(self) -> dict[str, Tensor]:
        """What the density remembers before the first step; see `inkwash.types.Remembering`."""
        return self.times.memory()

    def remember(
        self, memory: Mapping[str, Tensor], model: Model, batch: Batch, noise: Noise, losses: Tensor
    ) -> dict[str, Tensor]:
        """The density's memory with these losses [B] of this batch in it; without the factor that undid its law."""
        law = self.times.given(batch.memory)
        t = draw(law, batch, noise, model.path)
        return self.times.remember(memory, t, losses.detach().cpu().double() / law.weight(t))


@dataclass(frozen=True)
class Regression(OverTimes):
    """Regress the network's output on the model's target: weight(t)·loss(y_theta(x_t, t), a·x0 + b·eps).

    loss: mse, l1, or huber (quadratic below 1); times: the density of training times; weight: of the squared error;
    coupling: which noise goes with which data.
    """

    loss: Loss = "mse"
    times: AnyDensity = field(default_factory=Uniform)
    weight: AnyWeight = field(default_factory=Unweighted)
    coupling: AnyCoupling = field(default_factory=Independent)
    kind: Literal["regression"] = field(default="regression", kw_only=True, repr=False)

    @property
    def coupled(self) -> bool:
        """Whether there is a coupling."""
        return not isinstance(self.coupling, Independent)

    def require(self) -> None:
        """Raise ValueError where the coupling needs what is not there."""
        if isinstance(self.coupling, Requiring):
            self.coupling.require()

    def elements(self, model: Model, batch: Batch, noise: Noise) -> Tensor:
        """The weighted loss of every element, of x0's shape, float32 (or x0's own float64).

        Raises ValueError for a coupling of data whose noise is given.
        """
        if self.coupled:
            if batch.eps is not None:
                raise ValueError(
                    f"The data come with the noise they belong to, so {self.coupling} has nothing to pair. "
                    "Leave the coupling out."
                )
            batch = batch._replace(eps=self.coupling(batch.x0, noise(batch.x0, 0, Stream.EPS), batch.cond))
        draw = noised(model, batch, noise, self.times)
        y = model.predict(draw.x, draw.t, draw.c, batch.cond)
        return errors(self.loss, self.weight, model, batch, draw, y)

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The mean over each example's elements, [B]."""
        return self.elements(model, batch, noise).flatten(1).mean(1)


def errors(loss: Loss, weight: Weight, model: Model, batch: Batch, draw: Noised, y: Tensor) -> Tensor:
    """weight·worth·loss(y, target) of every element, for a prediction y in draw.x: math.md, eq. 18."""
    a, b = model.target(draw.c)
    target = like(a, draw.x) * batch.x0 + like(b, draw.x) * draw.eps
    return like(weight(draw.c, model.target) * draw.worth, draw.x) * LOSSES[loss](y, target)
