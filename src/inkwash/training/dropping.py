"""Hiding conditions from a model in training, so that it also learns what guidance pushes away from."""

from __future__ import annotations

from collections.abc import Mapping

from inkwash.noise import Stream
from inkwash.types import CONDITIONS, Batch, Noise

TOGETHER = 0.5
"""How often one number decides for all conditions. Guidance compares with all of them hidden at once, which would be
rare if each were hidden for itself: a hundredth of the rows for two conditions at a tenth each."""


def hidden(batch: Batch, noise: Noise, rates: Mapping[str, float]) -> Batch:
    """The batch with each condition hidden in rows of its own, at exactly the rate [0, 1] given for its name.

    In half of the rows one uniform number decides for all of them, in the others each has its own. So all are hidden
    together with probability (min_i r_i + prod_i r_i)/2; for a single condition that is its rate. What is drawn is a
    function of the row's number, `noise`'s seed and the condition's place in `CONDITIONS`: a condition more or less in
    the model moves no other's draw, but for whether there is a second one at all.
    """
    rates = {name: rate for name, rate in rates.items() if rate > 0}
    if not rates:
        return batch
    shared = noise.uniform(0, Stream.DROP)
    if len(rates) == 1:
        masks = {name: shared < rate for name, rate in rates.items()}
    else:
        together = noise.uniform(1, Stream.DROP) < TOGETHER
        masks = {
            name: (noise.uniform(2 + CONDITIONS.index(name), Stream.DROP).where(~together, shared)) < rate
            for name, rate in rates.items()
        }
    return batch._replace(cond=batch.cond.hide(masks))
