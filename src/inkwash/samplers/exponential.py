"""Exponential integrators in the half log-SNR lambda = ln(alpha/sigma): DPM-Solver++ and UniPC.

x/sigma moves with d(x/sigma) = x0·d(e^lambda), so a step of length h = lambda_s - lambda_t is
x_s = (sigma_s/sigma_t)·x_t + alpha_s·integral of e^(tau - h)·x0(tau) over tau from 0 to h (math.md, eq. 31), and what
is left to approximate is the network's x0 between its answers. At alpha = 0 and sigma = 0 lambda is infinite; the step
of order 1, which is DDIM's, is exact there in the limit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from inkwash.noise import Stream
from inkwash.samplers.multistep import at, corrections, moving, pasts, remembered, remembering, used
from inkwash.samplers.steps import Asking, ends, falling, held, rows, standing, walk
from inkwash.types import Component, Denoised, Noise, Path

Carried = Callable[[int, Tensor, Denoised], Tensor]
"""What a step, by its number, takes along of x."""


@dataclass(frozen=True)
class DpmSolver(Component):
    """DPM-Solver++ (Lu et al. 2022), multistep: 2M with order 2, 3M with order 3; with `sde`, its stochastic form.

    With order 2 the correction has the published weight, half the one-step method's; with order 3 the polynomial
    through the answers is integrated exactly. (The published 3M code gives the second difference half its weight and
    is of order 2: docs/samplers.md.) The stochastic form solves the reverse SDE of the same marginals; its order 1 is
    ancestral sampling, and its variance converges with order 2 at most. 3 is reached by the flow alone, on grids whose
    steps grow smoothly from short ones at both ends; on even ones the first step and the last keep it at 2.
    """

    order: Literal[1, 2, 3] = 2
    sde: bool = False
    kind: Literal["dpm++"] = field(default="dpm++", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        if self.sde:
            falling(times, self)
        own, number = moving(times, self)
        step = _Step.along(path, own, 2 if self.sde else 1)
        nodes = pasts(step.start, self.order)
        moments = step.moments(nodes)
        if self.order == 2:
            moments[0] = step.length * step.total / 2  # as published: the first moment to first order in h
        weights = at(number, step.weighted(corrections(nodes, moments, used(own, self.order))))
        added = at(number, step.spread)
        carried, spread, random = step.carried(x, number), rows(added, x), (added > 0).any(1).tolist()

        def base(i: int, x: Tensor, pred: Denoised) -> tuple[Tensor, Tensor]:
            x = carried(i, x, pred)
            return x + spread[i] * noise(x, i, Stream.STEP) if random[i] else x, pred.x0

        return remembering(x, times, weights, base)


@dataclass(frozen=True)
class UniPC(Component):
    """UniPC (Zhao et al. 2023): a multistep predictor, and a corrector that uses the next answer for free.

    order p: the predictor uses p answers, the corrector p + 1; one call a step. variant: the function B of the paper,
    which scales the weight of a correction made of one difference: bh1 is h, bh2 is e^h - 1 (of lambda downwards).
    From two differences on the polynomial is integrated exactly, and the variants agree.
    """

    order: Literal[1, 2, 3] = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    kind: Literal["unipc"] = field(default="unipc", kw_only=True, repr=False)

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Asking:
        """Start sampling."""
        own, number = moving(times, self)
        step, count = _Step.along(path, own, 1), used(own, self.order)
        simple = step.length * (step.length if self.variant == "bh1" else step.total) / 2
        old = pasts(step.start, self.order)
        ahead = [old[0], step.start + step.length, *old[1:]]  # the corrector knows the answer at the step's end, too
        predicting, correcting = step.moments(old), step.moments(ahead)
        predicting[0] = torch.where(count == 2, simple, predicting[0])
        correcting[0] = torch.where(count == 1, simple, correcting[0])
        correctable = (step.length.isfinite() & (step.length != 0))[:, None]
        predict = step.weighted(corrections(old, predicting, count))
        correct = step.weighted(torch.where(correctable, corrections(ahead, correcting, count + 1), 0.0))
        # At the start of a step the one before it is corrected; before the first there is none.
        correct = torch.cat([torch.zeros_like(correct[:1]), correct[:-1]])
        return self._walk(x, times, step.carried(x, number), at(number, predict), at(number, correct))

    def _walk(self, x: Tensor, times: Tensor, carried: Carried, predict: Tensor, correct: Tensor) -> Asking:
        p, c = [rows(w, x) for w in predict.unbind(1)], [rows(w, x) for w in correct.unbind(1)]
        history, base, still = list[Tensor](), x, standing(times)

        def advance(i: int, x: Tensor, pred: Denoised) -> Tensor:
            nonlocal base, history
            if i > 0:
                x = base
                for w, f in zip(c, [history[0], pred.x0, *history[1:]], strict=False):
                    x = x + w[i] * f
            history = remembered(still[i], history, pred.x0, self.order)
            x = carried(i, x, pred)
            base = held(still[i], base, x)
            for w, f in zip(p, history, strict=False):
                x = x + w[i] * f
            return x

        return walk(x, times, advance)


@dataclass(frozen=True)
class _Step:
    """The steps of a grid, each [N, B]: where lambda starts, its length h, and the factors of the step of order 1.

    With speed k the past is forgotten as e^(-k·h): 1 for the flow, 2 for the SDE, which adds noise of `spread`.
    `data` and `fresh` are the factors of x0 and eps, the latter only where a rising grid leaves sigma = 0, x/sigma is
    infinite and the step is DDIM's in its own form.
    """

    start: Tensor
    length: Tensor
    alpha: Tensor
    carry: Tensor
    data: Tensor
    fresh: Tensor
    spread: Tensor
    total: Tensor
    speed: int

    @classmethod
    def along(cls, path: Path, times: Tensor, speed: int) -> _Step:
        grid, now, nxt = ends(path, times)
        level = grid.alpha.log() - grid.sigma.log()
        h = level.diff(dim=0)
        forgotten = torch.exp(-(speed - 1) * h) if speed > 1 else torch.ones_like(h)
        spread = nxt.sigma * (-torch.expm1(-2 * h)).clamp(min=0).sqrt() if speed > 1 else torch.zeros_like(h)
        total, clean = -torch.expm1(-speed * h), now.sigma == 0
        carry = torch.where(clean, 0.0, nxt.sigma / now.sigma * forgotten)
        data = torch.where(clean, nxt.alpha, nxt.alpha * total)
        data = torch.where(nxt.alpha > 0, data, -now.alpha * nxt.sigma / now.sigma)  # where total is infinite
        fresh = torch.where(clean, nxt.sigma, 0.0)
        return cls(level[:-1], h, nxt.alpha, carry, data, fresh, spread, total, speed)

    def carried(self, x: Tensor, number: Tensor | None) -> Carried:
        """What a step keeps of x, and where it leaves clean data, the noise it takes up."""
        taken = at(number, self.fresh)
        carry, fresh = rows(at(number, self.carry), x), rows(taken, x)
        leaves = (taken > 0).any(1).tolist()
        return lambda i, x, pred: carry[i] * x + fresh[i] * pred.eps if leaves[i] else carry[i] * x

    def weighted(self, corrections: Tensor) -> Tensor:
        """The weights [N, K, B] of the answers, that of the step of order 1 included; the newest answer is first."""
        weights = self.alpha[:, None] * corrections
        weights[:, 0] += self.data
        return weights

    def moments(self, nodes: Sequence[Tensor]) -> list[Tensor]:
        """The integrals over a step of k·e^(k·(tau - h))·(tau - u_0)...(tau - u_{m-1}), m = 1, 2 ... (math.md, eq. 32).

        nodes: u_0 = lambda at the start, u_1, ..., [N, B] each. From those of powers of tau, by parts.
        """
        powers = [self.total]
        for p in range(1, len(nodes) + 1):
            powers.append(self.length**p - p / self.speed * powers[-1])
        zero = torch.zeros_like(self.length)
        polynomial, moments = [torch.ones_like(zero)], []
        for node in nodes:
            raised, lowered = [zero, *polynomial], [*((self.start - node) * q for q in polynomial), zero]
            polynomial = [a + b for a, b in zip(raised, lowered, strict=True)]
            moments.append(torch.stack([q * m for q, m in zip(polynomial, powers, strict=False)]).sum(0))
        return moments
