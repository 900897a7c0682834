"""Errors and orders of samplers on Gaussian data, whose flow and moments are known at every time (closed form 3).

Used by test_samplers_orders, which holds the samplers to their orders, and by bench/orders.py, which prints them.
"""

from __future__ import annotations

import math

import torch

from affine import affine, prior
from gaussian import LAM, PATHS, TARGETS, flow_map, model
from inkwash.drive import drive
from inkwash.noise import Philox
from inkwash.types import Condition, Sampler

OWN = {  # the order of the method itself
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    **{f"dpm++ {k}": k for k in (1, 2, 3)},
    **{f"unipc {k} {b}": k + 1 for k in (1, 2, 3) for b in ("bh1", "bh2")},
    **{f"deis {k}": k for k in (1, 2, 3, 4)},
    **{f"ipndm {k}": min(k, 2) for k in (1, 2, 3, 4)},  # the weights of even steps on uneven ones
    **{f"adams {k}": k for k in (1, 2, 3, 4)},
}
LAMS = torch.logspace(-2, 0.5, 9, dtype=torch.float64)  # eigenvalues over 2.5 decades


def wider(path: str) -> float:
    """On VE, whose noise goes to 80, the data are wider: the factor of their variance."""
    return 400.0 if path == "ve" else 1.0


def errors(sampler: Sampler, path: str, grids: list[list[float]]) -> list[float]:
    """For each grid the distance to the exact flow's map, in its gain and its offset over all eigenvalues.

    All in one batch: the shorter grids wait at their ends.
    """
    lam, longest = LAMS * wider(path), max(map(len, grids))
    mu, points = torch.ones_like(lam), torch.stack([torch.zeros_like(lam), torch.ones_like(lam)])
    times = torch.tensor([g + g[-1:] * (longest - len(g)) for g in grids], dtype=torch.float64).T
    x = points.repeat(len(grids), 1)
    coroutine = sampler(PATHS[path], x, times.repeat_interleave(2, 1), Philox(0, torch.arange(len(x))))
    outs = drive(coroutine, model(PATHS[path], TARGETS["v"], mu, lam), Condition()).split(2)
    wants = (flow_map(PATHS[path], g[0], g[-1], points, mu, lam) for g in grids)
    return [float((out - want).norm()) for out, want in zip(outs, wants, strict=True)]


def orders(errors: list[float]) -> list[float]:
    """log2 of the ratios of the errors with so many steps and with twice as many, which are next to each other."""
    return [math.log2(coarse / fine) for coarse, fine in zip(errors[::2], errors[1::2], strict=True)]


def weak_errors(sampler: Sampler, path: str, times: list[float]) -> tuple[float, float]:
    """The distances of the mean and of the variance of what is sampled from those of x_t, from which it starts."""
    lam = LAM * wider(path)
    found = affine(sampler, PATHS[path], times, lam=lam)
    mean, variance = found.moments(*prior(PATHS[path], times[0], lam))
    want_mean, want = prior(PATHS[path], times[-1], lam)
    return float((mean - want_mean).norm()), float((variance - want).norm())
