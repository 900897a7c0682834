"""Where sampling can start: a picture with some noise, the latent that the probability flow takes it to, or between."""

from __future__ import annotations

import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.types import Condition, Denoised, Denoiser, Noise, Path, Query, Sampler, like

CLEAN = 0.002
"""The noise-to-signal ratio at which a picture counts as clean (EDM's sigma_min, Karras et al. 2022)."""


def noised(path: Path, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """x_t = alpha·x0 + sigma·eps at t [B] (math.md, eq. 3); x0 broadcastable to eps [B, ...]."""
    c = path(t).like(eps)
    return c.alpha * x0.to(eps) + c.sigma * eps


def clean_time(path: Path) -> float:
    """The first time above 0 that a model of this path was trained at, with a noise-to-signal ratio of 0.002 or more.

    Where inversion starts: at t = 0 itself some targets are singular.
    """
    return float(path.snap(path.time(torch.tensor(CLEAN, dtype=torch.float64))))


def invert(method: Sampler, denoiser: Denoiser, path: Path, x0: Tensor, times: Tensor, cond: Condition) -> Tensor:
    """The latent at times[-1] from which the probability flow leads back to x0 [B, ...]: encoding, "DDIM inversion".

    Runs a deterministic sampler up the grid: times [N+1, B] increases from a small time above 0, at which x is taken
    to be alpha·x0, an error of order sigma² in x. Sampling from the latent down the same grid, with the same method,
    gives alpha·x0 back to the method's order in the step. Raises ValueError for a grid that does not rise from above
    0, and for a method that draws noise.
    """
    if len(times) < 2 or not bool((times.diff(dim=0) > 0).all()) or not bool((path(times[0]).sigma > 0).all()):
        raise ValueError(
            f"Inversion needs times that increase from above 0, but they are {times[:, 0].tolist()}. "
            f"Begin at {clean_time(path):.3g}, for example, where this path has next to no noise."
        )
    check_deterministic(method, path, times.flip(0))  # upwards it would have no noise to add, and be wrong
    start = like(path(times[0]).alpha, x0) * x0
    return drive(method(path, start, times, _Silence()), denoiser, cond)


def check_deterministic(method: Sampler, path: Path, times: Tensor) -> None:
    """Raise ValueError for a sampler that draws noise on this falling grid [N+1, B]: it is run once, on zeros."""
    drive(method(path, torch.zeros(1, 1), times[:, :1], _Silence()), _nothing, Condition())


def slerp(a: Tensor, b: Tensor, share: float | Tensor) -> Tensor:
    """The point at `share` (0: a, 1: b) of the arc from a to b: (sin((1-s)·w)·a + sin(s·w)·b)/sin(w), w their angle.

    a and b [...] are each one vector, and the result has their shape; for several shares [n] it is [n, ...]. Between
    independent normals a straight line would lose length: an arc keeps it (Shoemake 1985; White 2016). Vectors along
    one line have no arc and are joined by the line. Raises ValueError for opposite ones, between which no arc is
    nearest, and for two shapes.
    """
    if a.shape != b.shape:
        raise ValueError(f"slerp needs two tensors of one shape, not {list(a.shape)} and {list(b.shape)}.")
    s = torch.as_tensor(share, dtype=torch.float64)
    u, v = (x.double().flatten() / x.double().norm().clamp(min=1e-300) for x in (a, b))
    apart, together = float((u - v).norm()), float((u + v).norm())
    if together < 1e-7 < apart:
        raise ValueError("slerp of two opposite vectors: every arc between them is as near. Take other seeds.")
    # Kahan's formula keeps its digits where the arc cosine of the product loses half of them.
    w = 2 * torch.atan2(torch.tensor(apart, dtype=torch.float64), torch.tensor(together, dtype=torch.float64))
    near, far = (1 - s, s) if w < 1e-9 else (torch.sin((1 - s) * w) / torch.sin(w), torch.sin(s * w) / torch.sin(w))
    shape = (*s.shape, *(1,) * a.ndim)
    return near.reshape(shape).to(a) * a + far.reshape(shape).to(a) * b


class _Silence:
    """In place of noise where there must be none."""

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        raise ValueError(
            "This takes a deterministic sampler, and this one draws fresh noise: what it makes is not a function of "
            "where it starts. Take heun, euler, or ddim with eta = 0."
        )

    def uniform(self, step: int, stream: int) -> Tensor:
        return self(torch.empty(0), step, stream)

    def at(self, index: Tensor) -> Noise:
        return self


def _nothing(query: Query, cond: Condition) -> Denoised:
    return Denoised(torch.zeros_like(query.x), torch.zeros_like(query.x))
