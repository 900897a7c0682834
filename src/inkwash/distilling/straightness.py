"""How straight a model's flow is: what reflow improves."""

from __future__ import annotations

import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.fewstep import Velocity
from inkwash.grids import spread
from inkwash.noise import Philox, Stream
from inkwash.paths import Linear
from inkwash.samplers import Heun
from inkwash.types import Condition, Denoised, Query, like


def straightness(velocity: Velocity, cond: Condition, like_x: Tensor, *, steps: int = 32, seed: int = 0) -> float:
    """The integral over t of the mean square of (x_1 - x_0) - v(x_t, t), along the flow's own trajectories (eq. 67).

    velocity: on the linear path; cond: what each of the n trajectories is asked for; like_x: [n, ...], for their shape,
    dtype and device; steps: of Heun's method from noise to data, two or more, over whose times the integral is taken
    (trapezoids; at t = 0, where not every network says a velocity, by the line through the last two).
    0 is a flow that one Euler step follows exactly. Raises ValueError for fewer than two steps.
    """
    if steps < 2:
        raise ValueError(
            f"steps = {steps} of Heun's method are too few for an integral over their times: take 2 or more."
        )
    times = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    noise = Philox(seed, torch.arange(len(like_x)))
    start = noise(like_x, 0, Stream.START)
    seen: dict[float, Tensor] = {}

    def denoiser(query: Query, cond: Condition) -> Denoised:
        v = velocity(query.x, query.t, cond)
        t = like(query.t, query.x)
        return Denoised(query.x - t * v, query.x + (1 - t) * v)

    def watch(query: Query, answer: Denoised) -> None:
        # Heun asks twice at a time; the later question is where its step has ended.
        seen[float(query.t[0])] = answer.eps - answer.x0

    end = drive(Heun()(Linear(), start, spread(times, len(like_x)), noise), denoiser, cond, watch)
    off = [float((start - end - seen[t]).square().double().mean()) for t in times[:-1].tolist()]
    off.append(2 * off[-1] - off[-2])
    return float(torch.trapezoid(torch.tensor(off, dtype=torch.float64), -times))
