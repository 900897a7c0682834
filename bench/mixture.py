"""How far from the truth every sampler ends after so many calls: W2 on a mixture whose best denoiser is known.

    python bench/mixture.py        # the tables, docs/images/samplers-w2-even.png and -quadratic.png: two minutes
    python bench/mixture.py --no-plot --paths linear --grids even,karras

The data are a mixture of four Gaussians on the line, of different widths. In place of a network stands the exact
E[x0 | x_t], so that all the error is the sampler's. In one dimension the Wasserstein-2 distance is that of the
quantiles: W2² = integral of (Q(u) - Q'(u))² du. A deterministic sampler takes 2048 quantiles of the noise to those of
its result; a stochastic one draws 4 times 32,768 samples, and the distance that as many exact samples have is taken off
(in squares). "calls" is how often an example asks the network.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from itertools import product
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from inkwash.drive import drive
from inkwash.grids import AnyGrid, Grid, spread
from inkwash.kinds import from_text, split_texts
from inkwash.noise import Philox, Stream
from inkwash.paths import AnyPath
from inkwash.pictures import line_plot, save_png
from inkwash.samplers import AnySampler
from inkwash.types import Condition, Denoised, Path, Query, Sampler, like

WEIGHT = torch.tensor([0.3, 0.3, 0.25, 0.15], dtype=torch.float64)
MEAN = torch.tensor([-0.9, -0.2, 0.5, 0.9], dtype=torch.float64)
STD = torch.tensor([0.05, 0.2, 0.1, 0.03], dtype=torch.float64)

DETERMINISTIC = (
    "ddim",
    "euler",
    "heun",
    "dpm++",
    "dpm++(order=3)",
    "unipc",
    "unipc(order=3)",
    "deis(order=2)",
    "deis",
    "ipndm",
    "adams(order=2)",
    "adams",
)
STOCHASTIC = ("ancestral", "ddim(eta=0.5)", "heun(churn=10, churn_min=0.05, churn_max=50)", "dpm++(sde=true)")
PATHS = ("linear", "vp")
GRIDS = ("even", "quadratic", "karras", "log-snr", "log-snr(low=0.01, high=100)")
NOISY = ("even", "quadratic", "log-snr")  # the grids on which stochastic samplers, which take their time, are measured
CALLS = (5, 6, 8, 10, 13, 16, 20, 25, 32, 40, 50)
SHOWN = (5, 8, 10, 20, 50)
TOLERANCES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
QUANTILES, SAMPLES, SEEDS = 2048, 32768, 4
DRAWN = ("linear", "even"), ("linear", "quadratic")
LINES = ("ddim", "heun", "dpm++", "unipc(order=3)", "deis", "ipndm", "adams", "rk45", "ancestral", "dpm++(sde=true)")


def best(path: Path, query: Query) -> Denoised:
    """E[x0 | x_t] and E[eps | x_t] of the mixture, for x [B]."""
    c = path(query.t).like(query.x)
    away, variance = query.x[:, None] - c.alpha[:, None] * MEAN, (c.alpha[:, None] * STD) ** 2 + c.sigma[:, None] ** 2
    share = (WEIGHT.log() - variance.log() / 2 - away**2 / (2 * variance)).softmax(-1)
    x0 = (share * (MEAN + c.alpha[:, None] * STD**2 / variance * away)).sum(-1)
    return Denoised(x0, (share * c.sigma[:, None] / variance * away).sum(-1))


def quantiles(count: int) -> Tensor:
    """The mixture's quantiles in the middle of `count` equal shares, by bisection."""
    u = middles(count)
    low, high = torch.full_like(u, -3.0), torch.full_like(u, 3.0)
    for _ in range(54):
        middle = (low + high) / 2
        below = (WEIGHT * torch.special.ndtr((middle[:, None] - MEAN) / STD)).sum(-1) < u
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def middles(count: int) -> Tensor:
    """(i + 1/2)/count."""
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def samples(count: int, seed: int) -> Tensor:
    """Exact samples of the mixture."""
    pick, z = Philox(seed, torch.arange(2 * count))(torch.empty(2 * count, dtype=torch.float64), 0, Stream.START).chunk(
        2
    )
    which = torch.bucketize(torch.special.ndtr(pick), WEIGHT.cumsum(0)[:-1])
    return MEAN[which] + STD[which] * z


def squared(x: Tensor, truth: Tensor) -> float:
    """W2² between the values x and the truth's quantiles."""
    return float((x.sort().values - truth).square().mean())


def draw(sampler: Sampler, path: Path, times: Tensor, z: Tensor, seed: int = 0) -> tuple[Tensor, int]:
    """What a sampler makes of standard normals z, and its calls."""
    calls = 0

    def answer(query: Query, cond: Condition) -> Denoised:
        nonlocal calls
        calls += 1
        return best(path, query)

    noise = Philox(seed, torch.arange(len(z)))
    x = like(path(times[:1]).sigma, z) * z
    return drive(sampler(path, x, spread(times, len(z)), noise), answer, Condition()), calls


class Bench:
    """The truth, and the starts."""

    def __init__(self) -> None:
        self.truth, self.z = quantiles(QUANTILES), torch.special.ndtri(middles(QUANTILES))
        self.many = quantiles(SAMPLES)
        self.floor = [squared(samples(SAMPLES, seed), self.many) for seed in range(100, 116)]
        self.base, self.noise = statistics.fmean(self.floor), statistics.stdev(self.floor)

    def w2(self, text: str, path: Path, times: Tensor) -> tuple[float, float, int]:
        """W2, its standard error (0 if it is exact), and the calls; for W2 lost in noise NaN, and a bound on it."""
        sampler: Any = from_text(AnySampler, text, "sampler")
        if text not in STOCHASTIC:
            x, calls = draw(sampler, path, times, self.z)
            return squared(x, self.truth) ** 0.5, 0.0, calls
        squares = []
        for seed in range(SEEDS):
            z = Philox(seed, torch.arange(SAMPLES))(torch.empty(SAMPLES, dtype=torch.float64), 0, Stream.START)
            x, calls = draw(sampler, path, times, z, seed)
            squares.append(squared(x, self.many) - self.base)
        found = torch.tensor(squares)
        mean, error = float(found.mean()), max(float(found.std()), self.noise) / SEEDS**0.5
        if mean < 2 * error:  # as near as so many exact samples
            return math.nan, (max(mean, 0.0) + 2 * error) ** 0.5, calls
        return mean**0.5, error / (2 * mean**0.5), calls

    def adaptive(self, path: Path) -> list[tuple[float, float]]:
        """(mean calls of an example, W2) of rk45 for each tolerance."""
        points = []
        times = torch.tensor([1.0, 0.0], dtype=torch.float64)
        for tolerance in TOLERANCES:
            sampler = from_text(AnySampler, f"rk45(rtol={tolerance}, atol={tolerance})", "sampler")
            x, _ = draw(sampler, path, times, self.z)
            alone = [draw(sampler, path, times, z[None])[1] for z in self.z[QUANTILES // 32 :: QUANTILES // 16]]
            points.append((sum(alone) / len(alone), squared(x, self.truth) ** 0.5))
        return points


def curve(bench: Bench, text: str, path: Path, grid: Grid) -> list[tuple[int, float, float]]:
    """(calls, W2, error) for the most steps that make no more than each number of calls."""
    points: list[tuple[int, float, float]] = []
    for calls in SHOWN if text in STOCHASTIC else CALLS:
        steps = (calls + 1) // 2 if text.startswith("heun") else calls
        w2, error, made = bench.w2(text, path, grid(path, steps))
        if made <= calls and (not points or made > points[-1][0]):
            points.append((made, w2, error))
    return points


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", default=", ".join(PATHS))
    parser.add_argument("--grids", default=", ".join(GRIDS))
    parser.add_argument("--samplers", default=", ".join((*DETERMINISTIC, *STOCHASTIC)))
    parser.add_argument("--no-plot", action="store_true")
    args = parser.parse_args()
    began, bench = time.process_time(), Bench()
    print(f"W2² of {SAMPLES:,} exact samples: {bench.base:.1e} ± {bench.noise:.0e}\n")
    found: dict[tuple[str, str], dict[str, list[tuple[Any, ...]]]] = {}
    chosen: dict[str, list[tuple[float, float]]] = {}
    for where, spacing in product(split_texts(args.paths), split_texts(args.grids)):
        path: Path = from_text(AnyPath, where, "path")
        grid: Grid = from_text(AnyGrid, spacing, "grid")
        rows: dict[str, list[tuple[Any, ...]]] = {}
        refused = {}
        for text in split_texts(args.samplers):
            if text in STOCHASTIC and spacing not in NOISY:
                continue
            try:
                rows[text] = list(curve(bench, text, path, grid))
            except ValueError as error:
                refused[text] = str(error)
        found[where, spacing] = rows
        print(f"### {where}, {spacing}\n\n| sampler | {' | '.join(f'{n} calls' for n in SHOWN)} |")
        print("|---" * (len(SHOWN) + 1) + "|")
        least = {n: min(w2 for points in rows.values() if (w2 := at(points, n)[0]) > 0) for n in SHOWN}
        for text, points in rows.items():
            cells = []
            for n in SHOWN:
                w2, error = at(points, n)
                figure = "-" if w2 == math.inf else f"< {error:.3f}" if math.isnan(w2) else f"{w2:.4f}"
                figure += f" ± {error:.4f}" if error and w2 > 0 else ""
                cells.append(f"**{figure}**" if w2 <= least[n] * 1.001 else figure)
            print(f"| {text} | {' | '.join(cells)} |")
        for text, why in refused.items():
            print(f"\n{text} is refused: {why}")
        if where not in chosen:  # which grid does not matter: it looks at its ends only
            chosen[where] = bench.adaptive(path)
            told = ", ".join(f"{calls:.0f} calls {w2:.4f}" for calls, w2 in chosen[where])
            print(f"\nrk45 by tolerance: {told}")
        rows["rk45"] = [(calls, w2, 0.0) for calls, w2 in chosen[where]]
        print(flush=True)
    print(f"{time.process_time() - began:.0f} s of processor time")
    if not args.no_plot:
        for where, spacing in DRAWN:
            if (where, spacing) not in found:
                continue
            lines = {
                text: ([p[0] for p in found[where, spacing][text]], [p[1] for p in found[where, spacing][text]])
                for text in LINES
                if text in found[where, spacing]
            }
            image = line_plot(
                lines,
                title=f"How far from the truth after so many calls: {where} path, {spacing} grid",
                xlabel="network calls",
                ylabel="W2",
                log="xy",
                size=(900, 560),
            )
            file = File(__file__).parents[1] / f"docs/images/samplers-w2-{spacing}.png"
            save_png(image, file, {"command": " ".join(sys.argv)})
            print(file)


def at(points: list[tuple[Any, ...]], calls: int) -> tuple[float, float]:
    """W2 and its error with the most calls up to a number; infinite where there is none near it."""
    near = [p for p in points if 0.75 * calls <= p[0] <= calls]
    return (float(near[-1][1]), float(near[-1][2])) if near else (math.inf, 0.0)


if __name__ == "__main__":
    main()
