"""How far what is sampled lies from the data, a mixture of three Gaussians on a line: W2 at 10, 20 and 50 steps, or 3.

The best denoiser is known, and so are the quantiles of the noise to start from and of the data to end at. Numbers found
once are stated, and tests fail where others come out. What they are exact to:

- deterministic samplers push 400 quantiles of the noise: W2 of those, exact but for rounding, pinned to 2 %;
- ancestral samplers and ddim have no memory: the law of what they draw is found by quadrature of their kernels, on 700
  points, within 0.2 % of that on 1400 (1.8 % for ddim 0.5 in 50 steps), pinned to 2 %;
- samplers with noise and a memory, or that take noise through the network, in 3 steps: quadrature over all their noises
  together, within 0.5 % of that with more nodes, pinned to 1 %; by the same the law of ancestral steps is found again;
- the same in 10 and 20 steps draw 16,384 numbers: golden values, the mean of ten seeds, with the tolerance of four
  standard deviations of one seed. That they are the published methods is proved in test_samplers_moments.
"""

from __future__ import annotations

import pytest
import torch

from affine import DETERMINISTIC, STOCHASTIC
from gaussian import PATHS
from inkwash.grids import Even, Karras, LogSnr
from inkwash.noise import Philox
from inkwash.samplers import Ancestral, Ddim, DpmSolver, RungeKutta
from inkwash.types import Sampler
from mixture import Same, distance, joint_law, law, law_distance, pushed, quantiles

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


LAWS: dict[str, tuple[Sampler, list[tuple[float, ...]]]] = {  # on linear and VP in STEPS; on VE in the first of them
    "ddim 0.5": (Ddim(0.5), [(0.1381, 0.0776, 0.0370), (0.1702, 0.0884, 0.0415), (0.2290,)]),
    "ancestral": (Ancestral(), [(0.1632, 0.0902, 0.0411), (0.2103, 0.1124, 0.0542), (0.2856, 0.1508)]),
    "ancestral large": (Ancestral("large"), [(0.1146, 0.0740, 0.0402), (0.1620, 0.0835, 0.0471), (0.2998, 0.1725)]),
    "dpm++ 1 sde": (DpmSolver(1, sde=True), [(0.1632, 0.0902), (0.2103, 0.1124), (0.2856,)]),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("path", GRIDS)
def test_ancestral_samplers(path: str, name: str) -> None:
    """On VE along a grid in log-SNR that jumps from sigma = 0.05: kernels narrower than that need more points."""
    sampler, stated = LAWS[name]
    for steps, want in zip(STEPS, stated[list(GRIDS).index(path)], strict=False):
        if path == "ve":
            times, width = LogSnr(low=0.05, high=80.0)(PATHS[path], steps).tolist(), 400.0
        else:
            times, width = times_of(path, steps), 6.0
        points, mass = law(sampler, PATHS[path], times, width, 700)
        assert law_distance(PATHS[path], points, mass) == pytest.approx(want, rel=0.02)


THREE = {"linear": [0.98, 0.7, 0.3, 0.0], "vp": [0.98, 0.6, 0.3, 0.0], "ve": [0.2, 0.04, 0.01, 0.0]}
JOINT = {  # on linear, VP and VE in three steps; and the steps that take noise: churn none at the first, ends none
    "ancestral": ([0, 1], (0.5501, 0.5484, 0.4628)),
    "dpm++ 2 sde": ([0, 1], (0.4512, 0.5383, 0.4036)),
    "heun churn": ([1, 2], (0.2415, 0.3110, 0.2225)),
}


@pytest.mark.parametrize("name", JOINT)
@pytest.mark.parametrize("path", GRIDS)
def test_samplers_with_noise_and_a_memory(path: str, name: str) -> None:
    steps, wants = JOINT[name]
    points, mass = joint_law(STOCHASTIC[name], PATHS[path], THREE[path], steps, 200, 32)
    assert law_distance(PATHS[path], points, mass) == pytest.approx(wants[list(GRIDS).index(path)], rel=0.01)
    if name == "ancestral":
        again = law(STOCHASTIC[name], PATHS[path], THREE[path], 150.0 if path == "ve" else 6.0, 700)
        assert law_distance(PATHS[path], *again) == pytest.approx(wants[list(GRIDS).index(path)], rel=0.002)


@pytest.mark.parametrize("path", GRIDS)
def test_adaptive_runge_kutta(path: str) -> None:
    """No grid's steps: from pure noise to a noise of 0.002 within the tolerance, and on to the data by DDIM."""
    out = pushed(RungeKutta(), PATHS[path], [1.0, 0.0], quantiles(PATHS[path], 1.0, 400)[None], Same(0.0))
    assert distance(PATHS[path], out) < 0.00075


DRAWN = {  # on linear, VP and VE, in 10 and 20 steps: the mean of ten seeds, and four standard deviations of one
    "dpm++ 2 sde": [
        [(0.083, 0.037), (0.046, 0.056)],
        [(0.107, 0.038), (0.094, 0.057)],
        [(0.350, 0.024), (0.120, 0.045)],
    ],
    "dpm++ 3 sde": [
        [(0.118, 0.042), (0.058, 0.038)],
        [(0.180, 0.035), (0.105, 0.040)],
        [(1.637, 0.047), (0.208, 0.014)],
    ],
    "heun churn": [
        [(0.038, 0.052), (0.041, 0.070)],
        [(0.093, 0.016), (0.056, 0.075)],
        [(0.250, 0.034), (0.072, 0.041)],
    ],
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("path", GRIDS)
def test_golden_values(path: str, name: str) -> None:
    """Of one seed; on linear they are mostly the noise of so many samples, and say no more than that W2 is small."""
    for steps, (want, tolerance) in zip(STEPS, DRAWN[name][list(GRIDS).index(path)], strict=False):
        x = quantiles(PATHS[path], 1.0, 2**14)[None]
        out = pushed(STOCHASTIC[name], PATHS[path], times_of(path, steps), x, Philox(0, torch.arange(1)))
        assert distance(PATHS[path], out) == pytest.approx(want, abs=tolerance)
