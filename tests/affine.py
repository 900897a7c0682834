"""Every sampler on Gaussian data is an affine map, and this reads it off: by unit impulses in place of noise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gaussian import LAM, MU, TARGETS, model, numbers
from inkwash.drive import drive
from inkwash.noise import Stream
from inkwash.samplers import (
    Adams,
    Ancestral,
    Ddim,
    Deis,
    DpmSolver,
    Euler,
    Heun,
    Ipndm,
    RungeKutta,
    UniPC,
)
from inkwash.types import Condition, Denoised, Path, Query, Sampler

DETERMINISTIC: dict[str, Sampler] = {
    "ddim": Ddim(),
    "euler": Euler(),
    "heun": Heun(),
    **{f"dpm++ {k}": DpmSolver(k) for k in (1, 2, 3)},
    **{f"unipc {k} {b}": UniPC(k, b) for k in (1, 2, 3) for b in ("bh1", "bh2")},
    **{f"deis {k}": Deis(k) for k in (1, 2, 3, 4)},
    **{f"ipndm {k}": Ipndm(k) for k in (1, 2, 3, 4)},
    **{f"adams {k}": Adams(k) for k in (1, 2, 3, 4)},
}
STOCHASTIC: dict[str, Sampler] = {
    "ddim 0.3": Ddim(0.3),
    "ddim 0.7 large": Ddim(0.7, "large"),
    "ddim 0.6 learned": Ddim(0.6, "learned"),
    "ddim 1": Ddim(1.0),
    "ancestral": Ancestral(),
    "ancestral large": Ancestral("large"),
    "ancestral learned": Ancestral("learned"),
    "heun churn": Heun(churn=2.0),
    "heun churn between": Heun(churn=40.0, churn_min=0.2, churn_max=5.0, churn_noise=1.1),
    **{f"dpm++ {k} sde": DpmSolver(k, sde=True) for k in (1, 2, 3)},
}
SAMPLERS = {**DETERMINISTIC, **STOCHASTIC}  # all that follow their grid
EVERY = {**SAMPLERS, "rk45": RungeKutta()}

MIX = torch.tensor([0.0, 0.3, 1.0, -0.2], dtype=torch.float64)  # a learned variance, each coordinate's own


@dataclass
class Impulses:
    """In place of noise: row 2 + i gets a unit impulse at step i, and nothing else."""

    steps: list[int]

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        assert stream == Stream.STEP
        self.steps.append(step)
        z = torch.zeros_like(like)
        z[2 + step] = 1.0
        return z


@dataclass
class Affine:
    """out = gain·x + offset + sum_i noise[i]·z_i, each [D]."""

    gain: Tensor
    offset: Tensor
    noise: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Where x goes without noise."""
        return self.gain * x + self.offset

    def moments(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and variance of the output for an input of these."""
        return self(mean), self.gain**2 * variance + self.noise.square().sum(0)


def impulses(steps: int, size: int) -> Tensor:
    """The rows that show an affine map: 0, 1, and one for each step's noise."""
    x = torch.zeros(2 + steps, size, dtype=torch.float64)
    x[1] = 1.0
    return x


def affine(
    sampler: Sampler, path: Path, times: list[float] | Tensor, target: str = "v", lam: Tensor = LAM, mu: Tensor = MU
) -> Affine:
    """Run the sampler through a real model on impulses, and read off its map."""
    times = torch.as_tensor(times, dtype=torch.float64)
    steps, exact, noise = len(times) - 1, model(path, TARGETS[target], mu, lam), Impulses([])
    x = impulses(steps, len(lam))

    def denoiser(query: Query, cond: Condition) -> Denoised:
        return exact(query, cond)._replace(var_mix=MIX.expand_as(query.x))

    out = drive(sampler(path, x, times[:, None].expand(-1, len(x)), noise), denoiser, Condition())  # type: ignore[arg-type]
    if not isinstance(sampler, Heun):  # which churns only where it is told to
        random = isinstance(sampler, Ancestral) or getattr(sampler, "eta", 0) > 0 or getattr(sampler, "sde", False)
        last = steps - 1 if times[-1] == 0 else steps
        assert noise.steps == (list(range(last)) if random else [])  # fresh noise at every step that adds some, once
    return Affine(out[1] - out[0], out[0], out[2:] - out[0])


def prior(path: Path, t: float, lam: Tensor = LAM, mu: Tensor = MU) -> tuple[Tensor, Tensor]:
    """The mean and variance of x_t itself: what a sampler that starts at t should be given."""
    alpha, sigma, *_ = numbers(path, t)
    return alpha * mu, alpha**2 * lam + sigma**2


def spaced(start: float, end: float, steps: int) -> list[float]:
    return torch.linspace(start, end, steps + 1, dtype=torch.float64).tolist()


def graded(start: float, end: float, steps: int) -> list[float]:
    """Steps that grow smoothly from length ~h² at both ends, where methods are of lower order, to 1.5·h between."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    return (start + (end - start) * u * u * (3 - 2 * u)).tolist()
