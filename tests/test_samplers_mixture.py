"""How far what is sampled lies from the data, a mixture of three Gaussians on a line: W2 at 10, 20 and 50 steps.

The best denoiser is known, and so are the quantiles of the noise to start from and of the data to end at. Through a
deterministic sampler 400 quantiles are pushed; the law of ancestral sampling is found by quadrature of its kernels;
samplers that remember, or take noise through the network, are run with counted noise, on 4000 quantiles. All of these
numbers are exact but for rounding: they are stated, and tests fail where they come out 2 % different.
"""

from __future__ import annotations

import pytest
import torch

from affine import DETERMINISTIC, STOCHASTIC
from gaussian import PATHS
from inkwash.grids import Even, Karras
from inkwash.noise import Philox
from inkwash.samplers import Ancestral, Ddim, DpmSolver, RungeKutta
from inkwash.types import Sampler
from mixture import Same, distance, law, law_distance, pushed, quantiles

GRIDS = {"linear": Even(), "vp": Even(), "ve": Karras()}
STEPS = (10, 20, 50)
W2 = {  # on linear, VP and VE, in STEPS
    "ddim": [(0.134, 0.0738, 0.0414), (0.161, 0.0818, 0.035), (0.283, 0.142, 0.0633)],
    "euler": [(0.134, 0.0738, 0.0414), (0.108, 0.0634, 0.0391), (0.283, 0.142, 0.0633)],
    "heun": [(0.0165, 0.00459, 0.000729), (0.0758, 0.0299, 0.0062), (0.169, 0.0509, 0.00504)],
    "dpm++ 2": [(0.0348, 0.0107, 0.00185), (0.098, 0.054, 0.0152), (0.225, 0.0539, 0.00686)],
    "dpm++ 3": [(0.0628, 0.0163, 0.00137), (0.128, 0.0565, 0.0146), (0.188, 0.07, 0.00242)],
    "unipc 1 bh1": [(0.0351, 0.0107, 0.00258), (0.102, 0.0462, 0.0154), (0.184, 0.0369, 0.00556)],
    "unipc 1 bh2": [(0.0503, 0.0151, 0.00339), (0.113, 0.0459, 0.0157), (0.222, 0.0641, 0.00979)],
    "unipc 2 bh1": [(0.0636, 0.0117, 0.0019), (0.138, 0.0621, 0.0144), (1.19, 0.0779, 0.00291)],
    "unipc 2 bh2": [(0.0489, 0.00878, 0.000873), (0.111, 0.0558, 0.0139), (0.224, 0.0525, 0.00253)],
    "unipc 3 bh1": [(0.0679, 0.0133, 0.000882), (0.147, 0.0586, 0.0139), (0.265, 0.0624, 0.0014)],
    "unipc 3 bh2": [(0.0606, 0.0114, 0.000604), (0.126, 0.0535, 0.0137), (0.188, 0.062, 0.0014)],
    "deis 2": [(0.0736, 0.0226, 0.00462), (0.109, 0.0446, 0.0144), (0.207, 0.0629, 0.0108)],
    "deis 3": [(0.062, 0.0166, 0.00246), (0.103, 0.0461, 0.0145), (0.183, 0.0344, 0.00393)],
    "deis 4": [(0.0573, 0.0156, 0.00202), (0.102, 0.0483, 0.0148), (0.174, 0.0253, 0.00233)],
    "ipndm 2": [(0.0303, 0.00944, 0.00186), (0.0966, 0.0455, 0.0142), (0.111, 0.0202, 0.00417)],
    "ipndm 3": [(0.0428, 0.00865, 0.00119), (0.0992, 0.0516, 0.0146), (0.058, 0.0369, 0.00255)],
    "ipndm 4": [(0.0471, 0.00925, 0.00122), (0.101, 0.0533, 0.0148), (0.0705, 0.0503, 0.00159)],
    "adams 2": [(0.0291, 0.00799, 0.00151), (0.0897, 0.043, 0.00996), (0.207, 0.0629, 0.0108)],
    "adams 3": [(0.0446, 0.00909, 0.00124), (0.106, 0.0491, 0.0103), (0.183, 0.0344, 0.00393)],
    "adams 4": [(0.0473, 0.0097, 0.00125), (0.111, 0.0486, 0.0105), (0.174, 0.0253, 0.00233)],
}


def times_of(path: str, steps: int) -> list[float]:
    return GRIDS[path](PATHS[path], steps).tolist()


@pytest.mark.parametrize("name", W2)
@pytest.mark.parametrize("path", GRIDS)
def test_deterministic_samplers(path: str, name: str) -> None:
    for steps, want in zip(STEPS, W2[name][list(GRIDS).index(path)], strict=True):
        times = times_of(path, steps)
        out = pushed(DETERMINISTIC[name], PATHS[path], times, quantiles(PATHS[path], times[0], 400)[None], Same(0.0))
        assert distance(PATHS[path], out) == pytest.approx(want, rel=0.02)


LAWS: dict[str, tuple[Sampler, list[tuple[float, float]]]] = {  # on linear and VP, in 10 and 20 steps
    "ddim 0.5": (Ddim(0.5), [(0.138, 0.0775), (0.170, 0.0884)]),
    "ancestral": (Ancestral(), [(0.163, 0.0901), (0.210, 0.112)]),
    "ancestral large": (Ancestral("large"), [(0.1145, 0.0740), (0.162, 0.0834)]),
    "dpm++ 1 sde": (DpmSolver(1, sde=True), [(0.163, 0.0901), (0.210, 0.112)]),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("path", ["linear", "vp"])
def test_ancestral_samplers(path: str, name: str) -> None:
    sampler, stated = LAWS[name]
    for steps, want in zip((10, 20), stated[list(GRIDS).index(path)], strict=True):
        points, mass = law(sampler, PATHS[path], times_of(path, steps), 6.0, 600)
        assert law_distance(PATHS[path], points, mass) == pytest.approx(want, rel=0.02)


@pytest.mark.parametrize("path", GRIDS)
def test_adaptive_runge_kutta(path: str) -> None:
    """No grid's steps: from pure noise to a noise of 0.002 within the tolerance, and on to the data by DDIM."""
    out = pushed(RungeKutta(), PATHS[path], [1.0, 0.0], quantiles(PATHS[path], 1.0, 400)[None], Same(0.0))
    assert distance(PATHS[path], out) < 0.00075


DRAWN = {  # on linear and VP, in STEPS
    "dpm++ 2 sde": [(0.112, 0.153, 0.0549), (0.161, 0.151, 0.0672)],
    "dpm++ 3 sde": [(0.142, 0.135, 0.046), (0.23, 0.156, 0.0674)],
    "heun churn": [(0.0308, 0.0671, 0.063), (0.142, 0.113, 0.0573)],
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("path", ["linear", "vp"])
def test_samplers_with_noise_and_a_memory(path: str, name: str) -> None:
    for steps, want in zip(STEPS, DRAWN[name][list(GRIDS).index(path)], strict=True):
        x = quantiles(PATHS[path], 1.0, 4000)[None]
        out = pushed(STOCHASTIC[name], PATHS[path], times_of(path, steps), x, Philox(0, torch.arange(1)))
        assert distance(PATHS[path], out) == pytest.approx(want, rel=0.02)
