"""What guidance costs: whole samplings with and without, taking turns in one run, and the rows the network saw.

    python bench/guidance.py [--chunks 2 32] [--pictures 32] [--rounds 7] [--threads 2]

A small U-Net with a text of 16 tokens, 28x28, random weights: what a row costs does not depend on what is in it. Every
way is asked through the same wrappers as a pipeline's, in chunks of so many pictures (2 is the CPU's default). A ratio
is the median over the rounds of its seconds beside those without guidance in the same round; the rows are counted.
With one thread the processor's own time is taken, which other programs do not spoil as much.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from inkwash.drive import drive
from inkwash.guidance import Chunked
from inkwash.model import Model, Prepared
from inkwash.nets import UNet
from inkwash.noise import Philox, Stream
from inkwash.paths import Linear
from inkwash.samplers import Ddim
from inkwash.sampling import Sampling
from inkwash.targets import Flow
from inkwash.types import Condition, Denoised, Denoiser, Given, Query, Steered

SHAPE, TOKENS, WIDTH = (1, 28, 28), 16, 384
STEPS = 20
MIDDLE = (1 / 3, 3.0)
"""Of sigma/alpha: 0.25 < t <= 0.75 on the straight path, half of the steps."""


class Way(NamedTuple):
    """One way to sample: its settings and its condition, and whether another network answers for the base."""

    sampling: Sampling
    cond: Condition
    weak: bool = False


class Counted:
    """A denoiser that counts the rows it is asked for."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.rows = 0

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The answers."""
        self.rows += len(query.x)
        return self.denoiser(query, cond)


def text(n: int, seed: int) -> Condition:
    """Random tokens for n pictures."""
    tokens = torch.randn(n, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Condition(tokens=tokens, present=torch.ones(n, TOKENS, dtype=torch.bool))


def ways(n: int) -> dict[str, Way]:
    """What is compared, the plain model first."""
    plain = Sampling(Ddim(), STEPS)
    guided, prompt = plain.changed(guidance=4.0), text(n, 0)
    negative = Steered(**vars(prompt), base=text(n, 1))
    three = Steered(**vars(prompt), others=(text(n, 2), text(n, 3)), weights=torch.tensor([[2.0, 2.0]]).expand(n, 2))
    return {
        "without guidance": Way(plain, prompt),
        "guided": Way(guided, prompt),
        "half of the steps": Way(guided.changed(interval=MIDDLE), prompt),
        "APG": Way(guided.changed(rule="apg(norm=0.1)"), prompt),
        "negative prompt": Way(guided, negative),
        "three prompts": Way(guided, three),
        "autoguidance": Way(guided, prompt, weak=True),
    }


def sampling(way: Way, model: Model, weak: Model, chunk: int) -> Callable[[], int]:
    """A whole sampling as a function of nothing, which returns the rows the networks saw."""
    assert way.cond.present is not None
    n, own = len(way.cond.present), way.sampling
    noise = Philox(0, torch.arange(n))
    x, times = noise(torch.empty(n, *SHAPE), 0, Stream.START), own.times(model.path)

    def run() -> int:
        net, worse = (Counted(Prepared(m, times[:, 0], x)) for m in (model, weak))
        guided = own.guided(net, ("text",), model.path, worse if way.weak else None)
        drive(own.method(model.path, x, times.expand(-1, n), noise), Chunked(guided, chunk), way.cond)
        return net.rows + worse.rows

    return run


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description="what guidance costs, on the CPU")
    parser.add_argument("--chunks", nargs="+", type=int, default=[2, 32], help="pictures in a call (default 2 32)")
    parser.add_argument("--pictures", type=int, default=32, help="in a sampling (default 32)")
    parser.add_argument("--rounds", type=int, default=7, help="timings of each, in turn (default 7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all cores)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    nets = [UNet("small").build(SHAPE, Given(tokens=WIDTH)).eval() for _ in range(2)]
    model, weak = (Model(net, Linear(), Flow()) for net in nets)
    print(f"torch {torch.__version__}, {args.threads} threads, {platform.machine()}; {STEPS} steps of ddim\n")
    columns = ["chunk", "way", "network rows", "pictures/s", "seconds beside without", "a row"]
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    for chunk in args.chunks:
        runs = {name: sampling(way, model, weak, chunk) for name, way in ways(args.pictures).items()}
        rows = [run() for run in runs.values()]
        took = torch.tensor([[seconds(run) for run in runs.values()] for _ in range(args.rounds)], dtype=torch.float64)
        ratios = (took / took[:, :1]).quantile(0.5, dim=0).tolist()
        rates = (args.pictures / took).quantile(0.5, dim=0).tolist()
        for name, count, rate, ratio in zip(runs, rows, rates, ratios, strict=True):
            times = count / rows[0]
            print(f"| {chunk} | {name} | {times:.2f}x | {rate:.1f} | {ratio:.2f}x | {ratio / times:.2f} |", flush=True)


if __name__ == "__main__":
    main()
