"""diffusers' schedulers in float64, each run with the same function as our samplers."""

from __future__ import annotations

import importlib
import types
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.noise import Philox, Stream
from inkwash.types import Condition, Denoised, Path, Query, Sampler

X = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Wide(types.ModuleType):
    """A module whose float32 is float64: theirs compute tables, and cast samples, in torch.float32 and np.float32."""

    def __init__(self, module: Any, float32: Any) -> None:
        super().__init__(module.__name__)
        self.module, self.float32 = module, float32

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@contextmanager
def wide(file: str, noise: Callable[[], Tensor] | None = None) -> Iterator[Any]:
    """Their module `scheduling_{file}` in float64; with `noise` in place of their generator."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore")  # its own and its dependencies' deprecations
        module = pytest.importorskip(f"diffusers.schedulers.scheduling_{file}")
        importlib.import_module("diffusers.utils.logging").set_verbosity_error()
        patch.setattr(module, "torch", Wide(torch, torch.float64))
        patch.setattr(module, "np", Wide(np, np.float64), raising=False)
        if noise is not None:
            patch.setattr(module, "randn_tensor", lambda *_, **__: noise())
        yield module


def answer(x: Tensor, alpha: Tensor, sigma: Tensor) -> Denoised:
    """An arbitrary smooth function of x and of the noise level, as an estimate of the data."""
    a, s = (c.reshape(-1, *(1,) * (x.ndim - 1)) for c in (alpha, sigma))
    x0 = torch.sin(1.3 * x / (a**2 + s**2).sqrt() + 2 * torch.atan2(s, a)) + 0.2 * x.flip(-1) / (1 + s)
    return Denoised(x0, (x - a * x0) / s)


def ours(sampler: Sampler, path: Path, times: Tensor, x: Tensor) -> list[Tensor]:
    """Every x our sampler asks about, and the last."""
    seen: list[Tensor] = []

    def denoiser(query: Query, cond: Condition) -> Denoised:
        seen.append(query.x)
        c = path(query.t)
        return answer(query.x, c.alpha, c.sigma)

    grid = times[:, None].expand(-1, len(x))
    last = drive(sampler(path, x, grid, Philox(0, torch.arange(len(x)))), denoiser, Condition())
    return [*seen, last]


def theirs(
    made: Any, x: Tensor, scale: Callable[[Tensor], tuple[Tensor, Tensor]], predict: Any, **step: Any
) -> list[Tensor]:
    """Every x their scheduler asks about, and the last; scale: their sigma to (alpha, sigma)."""
    seen = [x]
    for i, t in enumerate(made.timesteps):
        alpha, sigma = scale(made.sigmas[i])
        y = predict(seen[-1], alpha, sigma)
        options = {k: v(i) for k, v in step.items()}
        seen.append(made.step(y, t, seen[-1], **options)[0])
    return seen


def counted(i: int) -> Tensor:
    """The noise our samplers add at step i."""
    return Philox(0, torch.arange(len(X)))(X, i, Stream.STEP)


def vp(sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Theirs is sigma/alpha on a path that preserves the variance."""
    alpha = 1 / (1 + sigma**2).sqrt()
    return alpha, sigma * alpha


def ve(sigma: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(sigma), sigma


def flow(sigma: Tensor) -> tuple[Tensor, Tensor]:
    return 1 - sigma, sigma


def epsilon(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return answer(x, alpha, sigma).eps


def sample(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    return answer(x, alpha, sigma).x0


def v_prediction(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    x0, eps, _ = answer(x, alpha, sigma)
    return alpha * eps - sigma * x0


def velocity(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    x0, eps, _ = answer(x, alpha, sigma)
    return eps - x0


def edm_output(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """EDM's raw network F: x0 = c_skip·x + c_out·F with a data deviation of 0.5."""
    skip, out = 0.25 / (sigma**2 + 0.25), sigma * 0.5 / (sigma**2 + 0.25).sqrt()
    return (answer(x, alpha, sigma).x0 - skip * x) / out


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)
