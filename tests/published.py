"""Every sampler once more, as its paper prints it: slow, in numpy, one picture's grid, and in other forms than ours.

Weights come from Lagrange polynomials, integrals from Gauss and Legendre's rule with 60 nodes, UniPC's from its linear
system, DPM-Solver++(2M) and EDM's churn as published, posterior variances as sums of precisions. A run is
`published(sampler)(path, times, x, denoise, z)`: denoise(x, t) answers (x0, eps, mix), z(i) is the noise of step i.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.polynomial import Polynomial
from numpy.polynomial.legendre import leggauss

import gaussian
from inkwash.paths import Linear, Table
from inkwash.samplers import Adams, Ancestral, Ddim, Deis, DpmSolver, Euler, Heun, Ipndm, UniPC
from inkwash.types import Path

Array = np.ndarray[Any, Any]
Denoise = Callable[[Array, float], tuple[Array, Array, Any]]
Drawn = Callable[[int], Array]
numbers = lru_cache(maxsize=None)(gaussian.numbers)


def published(sampler: object) -> Callable[[Path, list[float], Array, Denoise, Drawn], Array]:
    method = {
        Ddim: ddim,
        Ancestral: ancestral,
        Euler: euler,
        Heun: edm,
        DpmSolver: dpm_solver,
        UniPC: unipc,
        Deis: deis,
        Ipndm: ipndm,
        Adams: adams,
    }[type(sampler)]
    return lambda *run: method(sampler, *run)


def ratio(path: Path, t: float) -> float:
    alpha, sigma, *_ = numbers(path, t)
    return sigma / alpha if alpha > 0 else math.inf


def level(path: Path, t: float) -> float:
    """lambda = ln(alpha/sigma)."""
    r = ratio(path, t)
    return math.inf if r == 0 else -math.log(r)


def ddim(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Song et al. 2021, eq. 12, and Nichol and Dhariwal 2021, eq. 15; the posterior is a product of two Gaussians."""
    eta = m.eta if isinstance(m, Ddim) else 1.0
    for i, (t, s) in enumerate(pairwise(times)):
        (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, s)
        x0, eps, mix = denoise(x, t)
        small = 0.0
        if eta > 0 and s_s > 0:
            beta = s_t**2 - (a_t / a_s * s_s) ** 2
            small = 1 / (1 / s_s**2 + (a_t / a_s) ** 2 / beta)
        x = a_s * x0 + math.sqrt(max(s_s**2 - eta**2 * small, 0.0)) * eps
        if eta > 0 and s_s > 0:
            share = {"small": 0.0, "large": 1.0, "learned": mix}[m.added]
            x = x + eta * np.exp((share * np.log(beta) + (1 - share) * np.log(small)) / 2) * z(i)
    return x


def ancestral(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Ho et al. 2020, algorithm 2: the mean of the posterior, eq. 7, as the mean of two Gaussians' product."""
    for i, (t, s) in enumerate(pairwise(times)):
        (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, s)
        x0, _, mix = denoise(x, t)
        if s_s == 0:
            x = a_s * x0
            continue
        rho, beta = a_t / a_s, s_t**2 - (a_t / a_s * s_s) ** 2
        small = 1 / (1 / s_s**2 + rho**2 / beta)
        share = {"small": 0.0, "large": 1.0, "learned": mix}[m.added]
        added = np.exp(share * np.log(beta) + (1 - share) * np.log(small))
        x = small * (a_s * x0 / s_s**2 + rho * x / beta) + np.sqrt(added) * z(i)
    return x


def euler(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    for t, s in pairwise(times):
        _, _, da, ds = numbers(path, t)
        x0, eps, _ = denoise(x, t)
        x = x + (s - t) * (da * x0 + ds * eps)
    return x


def edm(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Karras et al. 2022, algorithm 2, the noise added in units of x/alpha; the slopes are the path's, in t.

    Theirs starts at the most noise there is, and may exceed it. A grid that starts below is not left: our own rule.
    """
    N = len(times) - 1
    for i, (t, s) in enumerate(pairwise(times)):
        r, gamma = ratio(path, t), 0.0
        if m.churn_min <= r <= (math.inf if m.churn_max is None else m.churn_max) and r < math.inf:
            gamma = min(m.churn / N, math.sqrt(2) - 1)
        t_hat = t
        if gamma > 0:
            t_hat = find(path, r + gamma * r) if times[0] == 1 else min(find(path, r + gamma * r), times[0])
            (a, *_), (a_hat, *_), r_hat = numbers(path, t), numbers(path, t_hat), ratio(path, t_hat)
            x = a_hat * (x / a + math.sqrt(r_hat**2 - r**2) * m.churn_noise * z(i))

        def slope(x: Array, t: float) -> Array:
            _, _, da, ds = numbers(path, t)
            x0, eps, _ = denoise(x, t)
            return da * x0 + ds * eps

        d = slope(x, t_hat)
        x_next = x + (s - t_hat) * d
        if ratio(path, s) != 0:
            x_next = x + (s - t_hat) * (0.5 * d + 0.5 * slope(x_next, s))
        x = x_next
    return x


def find(path: Path, r: float) -> float:
    """The time at which sigma/alpha is r, by bisection; a table ends at t = 1, VP and VE go on."""
    low, high = 0.0, 1.0 if isinstance(path, Table | Linear) else 2.0
    for _ in range(70):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(path, middle) < r else (low, middle)
    return (low + high) / 2


def lagrange(nodes: list[float]) -> list[Polynomial]:
    """The polynomials that are 1 at one node and 0 at the others."""
    made = []
    for j, node in enumerate(nodes):
        others = [n for k, n in enumerate(nodes) if k != j]
        poly = Polynomial.fromroots(others) if others else Polynomial([1.0])
        made.append(poly / math.prod(node - n for n in others))
    return made


def drop(order: int, i: int, steps: int) -> int:
    """How many answers step i of `steps`, counted from 0, uses: the rule of the package, for every multistep method."""
    return min(order, i + 1, steps - i)


def multistep(
    order: int, at: list[float], fs: list[Array], integral: Callable[[Polynomial, float, float], float]
) -> Array:
    """The integral of the polynomial through the newest answers over the newest step; at[-1] is where it ends."""
    i, used = len(fs) - 1, [k for k in range(len(fs) - order, len(fs)) if math.isfinite(at[k])]
    centre = at[i]  # shifted, so that no digits are lost
    basis = lagrange([at[k] - centre for k in used])
    return sum(integral(p, 0.0, at[i + 1] - centre) * fs[k] for p, k in zip(basis, used, strict=True))


def plain(p: Polynomial, a: float, b: float) -> float:
    whole = p.integ()
    return float(whole(b) - whole(a))


def adams(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Adams and Bashforth in t."""
    fs: list[Array] = []
    for i, t in enumerate(times[:-1]):
        _, _, da, ds = numbers(path, t)
        x0, eps, _ = denoise(x, t)
        fs.append(da * x0 + ds * eps)
        x = x + multistep(drop(m.order, i, len(times) - 1), times[: i + 2], fs, plain)
    return x


def deis(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Zhang and Chen 2023, rho-AB."""
    at, fs = [ratio(path, t) for t in times], []
    for i, (t, s) in enumerate(pairwise(times)):
        a_s, s_s, *_ = numbers(path, s)
        x0, eps, _ = denoise(x, t)
        fs.append(eps)
        if math.isinf(at[i]) or math.isinf(at[i + 1]):
            x = a_s * x0 + s_s * eps
        else:
            x = a_s * (x / numbers(path, t)[0] + multistep(drop(m.order, i, len(times) - 1), at[: i + 2], fs, plain))
    return x


def ipndm(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """The Adams-Bashforth weights of even steps."""
    table = {1: (1,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
    fs: list[Array] = []
    for i, (t, s) in enumerate(pairwise(times)):
        a_s, s_s, *_ = numbers(path, s)
        x0, eps, _ = denoise(x, t)
        fs.insert(0, eps)
        if math.isinf(ratio(path, t)) or math.isinf(ratio(path, s)):
            x = a_s * x0 + s_s * eps
            continue
        mean = sum(w * f for w, f in zip(table[drop(m.order, i, len(times) - 1)], fs, strict=False))
        x = a_s * (x / numbers(path, t)[0] + (ratio(path, s) - ratio(path, t)) * mean)
    return x


def dpm_solver(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Lu et al. 2022: 2M in its r-form (algorithm 2, and its SDE form), 3M by the polynomial it approximates."""
    at, fs, speed = [level(path, t) for t in times], [], 2 if m.sde else 1

    def integral(p: Polynomial, a: float, b: float) -> float:
        nodes, weights = leggauss(60)
        tau = (a + b) / 2 + (b - a) / 2 * nodes
        return float((b - a) / 2 * (weights * speed * np.exp(speed * (tau - b)) * p(tau)).sum())

    for i, (t, s) in enumerate(pairwise(times)):
        (_, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, s)
        x0, eps, _ = denoise(x, t)
        fs.append(x0)
        h, order = at[i + 1] - at[i], drop(m.order, i, len(times) - 1)
        if math.isinf(h):  # the limits: without noise before, DDIM; without data, too, and all noise is fresh
            x = a_s * x0 + (s_s * z(i) if m.sde and s_s > 0 else s_s * eps)
            continue
        if m.order == 2:
            r = (at[i] - at[i - 1]) / h if order == 2 else math.inf
            total = (1 - math.exp(-speed * h)) * ((1 + 1 / (2 * r)) * fs[-1] - (1 / (2 * r)) * fs[max(i - 1, 0)])
        else:
            total = multistep(order, at[: i + 2], fs, integral)
        x = s_s / s_t * math.exp(-(speed - 1) * h) * x + a_s * total
        if m.sde:
            x = x + s_s * math.sqrt(1 - math.exp(-2 * h)) * z(i)
    return x


def unipc(m: Any, path: Path, times: list[float], x: Array, denoise: Denoise, z: Drawn) -> Array:
    """Zhao et al. 2023, algorithms 1 and 2, predicting data: R·rho·B = b; one difference has rho = 1/2."""
    at = [level(path, t) for t in times]
    fs: list[Array] = []

    def step(i: int, x: Array, ahead: Array | None) -> Array:
        """From times[i] on, by the answers up to i, and for the corrector by that at the end."""
        (_, s_t, *_), (a_s, s_s, *_) = numbers(path, times[i]), numbers(path, times[i + 1])
        order, hh = drop(m.order, i, len(times) - 1), -(at[i + 1] - at[i])
        B = hh if m.variant == "bh1" else math.expm1(hh)
        past = [k for k in range(1, order) if math.isfinite(at[i - k])]
        rs = [(at[i - k] - at[i]) / -hh for k in past]
        ds = [(fs[i - k] - fs[i]) / r for k, r in zip(past, rs, strict=True)]
        if ahead is not None:
            rs, ds = [*rs, 1.0], [*ds, ahead - fs[i]]
        rho = np.zeros(0)
        if ds:
            R = np.array([[r**n for r in rs] for n in range(len(rs))])
            b, h_phi = [], math.expm1(hh) / hh - 1
            for n in range(1, len(rs) + 1):
                b.append(h_phi * math.factorial(n) / B)
                h_phi = h_phi / hh - 1 / math.factorial(n + 1)
            # One difference is one half, as published; but not where the second is only out of reach.
            alone = order + (ahead is not None) == 2
            rho = np.array([0.5]) if alone else np.linalg.solve(R, np.array(b))
        base = s_s / s_t * x - a_s * math.expm1(hh) * fs[i]
        return base - a_s * B * sum(w * d for w, d in zip(rho, ds, strict=True))

    start = x
    for i, t in enumerate(times[:-1]):
        x0, eps, _ = denoise(x, t)
        if i > 0 and math.isfinite(at[i] - at[i - 1]):
            x = step(i - 1, start, x0)  # corrected, with the answer that is used again
        fs.append(x0)
        start = x
        if math.isfinite(at[i + 1] - at[i]):
            x = step(i, x, None)
        else:
            (a_t, s_t, *_), (a_s, s_s, *_) = numbers(path, t), numbers(path, times[i + 1])
            # DDIM; after the corrector eps is that of the corrected x.
            x = a_s * x0 + s_s * (eps if s_t == 0 else (x - a_t * x0) / s_t)
    return x
