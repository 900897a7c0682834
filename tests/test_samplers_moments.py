"""Every sampler is what its paper says (closed form 2): the same affine map on Gaussian data, to 1e-10 in float64.

`affine` reads the sampler's map off by impulses; `published` has the same methods in other forms. So gain, offset and
the share of every step's noise are compared for each eigenvalue: the exact first two moments of what is sampled.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from affine import DETERMINISTIC, MIX, SAMPLERS, Affine, affine, impulses
from gaussian import LAM, MU, PATHS, flow_map, numbers
from inkwash.samplers import RungeKutta
from inkwash.types import Path, Sampler
from published import Array, published

DOWN = [0.98, 0.9, 0.71, 0.7, 0.4, 0.22, 0.05, 0.0]
GRIDS: dict[str, tuple[str, list[float]]] = {  # with targets that are not singular there
    "to 0": ("eps", DOWN),
    "above 0": ("x0", [0.97, 0.86, 0.72, 0.66, 0.41, 0.25, 0.13]),
    "from 1": ("v", [1.0, 0.9, 0.8, 0.6, 0.43, 0.2, 0.1, 0.0]),
}
SHORT = {"one step": [0.9, 0.3], "one step to 0": [0.9, 0.0], "two steps": [0.9, 0.5, 0.2], "three": DOWN[-4:]}


def wanted(sampler: Sampler, path: Path, times: list[float]) -> Affine:
    mu, lam, mix = MU.numpy(), LAM.numpy(), MIX.numpy()
    x = impulses(len(times) - 1, len(mu)).numpy()

    def denoise(x: Array, t: float) -> tuple[Array, Array, Array]:
        alpha, sigma, *_ = numbers(path, t)
        z = (x - alpha * mu) / (alpha**2 * lam + sigma**2)
        return mu + alpha * lam * z, sigma * z, mix

    def z(i: int) -> Array:
        row = np.zeros_like(x)
        row[2 + i] = 1.0
        return row

    out = torch.from_numpy(published(sampler)(path, times, x, denoise, z))
    return Affine(out[1] - out[0], out[0], out[2:] - out[0])


def assert_same(found: Affine, want: Affine) -> None:
    for a, b in ((found.gain, want.gain), (found.offset, want.offset), (found.noise, want.noise)):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("path", "grid"), [(p, g) for p in PATHS for g in GRIDS if p != "cosine50" or g == "from 1"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_is_the_published_one(name: str, path: str, grid: str) -> None:
    """On uneven grids: that end at the data or before, that start at pure noise or after."""
    sampler, (target, times) = SAMPLERS[name], GRIDS[grid]
    assert_same(affine(sampler, PATHS[path], times, target), wanted(sampler, PATHS[path], times))


@pytest.mark.parametrize("grid", SHORT)
@pytest.mark.parametrize("name", SAMPLERS)
def test_orders_drop_on_short_grids(name: str, grid: str) -> None:
    """Step i of N uses min(order, i + 1, N - i) answers, also where there are fewer steps than the order."""
    assert_same(
        affine(SAMPLERS[name], PATHS["table"], SHORT[grid]), wanted(SAMPLERS[name], PATHS["table"], SHORT[grid])
    )


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("path", ["linear", "cosine50"])
def test_upwards(path: str, name: str) -> None:
    """A deterministic sampler encodes, too: from the data on, which have no noise to divide by, up to pure noise."""
    times = GRIDS["from 1"][1][::-1]
    assert_same(affine(DETERMINISTIC[name], PATHS[path], times), wanted(DETERMINISTIC[name], PATHS[path], times))


@pytest.mark.parametrize("path", ["linear", "vp", "ve"])
def test_adaptive_runge_kutta_follows_the_flow(path: str) -> None:
    """To where it jumps, the flow itself within its tolerance; then one step, DDIM's."""
    sampler, (target, times) = RungeKutta(rtol=1e-10, atol=1e-10, last=0.1), GRIDS["above 0"]
    exact = flow_map(PATHS[path], times[0], times[-1], torch.stack([torch.zeros_like(MU), torch.ones_like(MU)]))
    found = affine(sampler, PATHS[path], times, target)
    torch.testing.assert_close(torch.stack([found.offset, found(torch.ones_like(MU))]), exact, rtol=1e-8, atol=1e-8)
    jump = float(PATHS[path].time(torch.tensor([0.1], dtype=torch.float64)))
    middle = flow_map(PATHS[path], DOWN[0], jump, torch.ones_like(MU))
    alpha, sigma, *_ = numbers(PATHS[path], jump)
    clean = MU + alpha * LAM / (alpha**2 * LAM + sigma**2) * (middle - alpha * MU)
    torch.testing.assert_close(affine(sampler, PATHS[path], DOWN)(torch.ones_like(MU)), clean, rtol=1e-8, atol=1e-8)
