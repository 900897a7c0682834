"""What it costs a network to be told something: time and FLOPs beside those of the net that is told nothing.

    python bench/conditions.py [--nets unet-small modern-XS ...] [--told text image] [--dtypes bf16] [--rounds 9]

Steps and FLOPs as in bench/nets.py; a text has 16 tokens of 384 numbers, a vector 4 numbers, a picture x's channels.
All variants of a net take turns within every round; a ratio is the median over the rounds. The last column is the one
that matters: how many times more a variant costs than its FLOPs say. A net's own time beside itself shows the noise.
"""

from __future__ import annotations

import argparse
import os
import platform
from typing import Any

import torch

from inkwash.nets import ClassicUNet, DiT, ModernDiT, UNet
from inkwash.types import Condition, Given
from nets import DTYPES, Contestant, flops, sampling, seconds, training

NETS: dict[str, tuple[Any, tuple[int, int, int], tuple[int, int]]] = {  # shape; batches of training and of sampling
    "unet-tiny": (UNet("tiny"), (1, 28, 28), (64, 32)),
    "unet-small": (UNet("small"), (3, 32, 32), (32, 16)),
    "unet-base": (UNet("base"), (3, 32, 32), (4, 8)),
    "ddpm-cifar": (ClassicUNet("ddpm-cifar"), (3, 32, 32), (2, 4)),
    "annotated": (ClassicUNet("annotated"), (1, 28, 28), (8, 8)),
    "modern-XS": (ModernDiT("XS"), (3, 32, 32), (8, 8)),
    "modern-S": (ModernDiT("S"), (3, 32, 32), (4, 4)),
    "dit-S": (DiT("S"), (4, 32, 32), (4, 4)),
}
GIVEN = {
    "nothing": Given(),
    "itself": Given(),
    "label": Given(classes=10),
    "text": Given(tokens=384),
    "vector": Given(vector=4),
    "image": Given(image=3),
}


def contestant(name: str, told: str, rows: int) -> Contestant:
    """A net with random numbers for everything that is zero at first, told something random."""
    config, shape, _ = NETS[name]
    given = GIVEN[told]
    net = config.build(shape, given)
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(0, 0.02)
    x, t = torch.randn(rows, *shape), 1000 * torch.rand(rows)
    cond = Condition(
        label=torch.arange(rows) % 10 if given.classes else None,
        tokens=torch.randn(rows, 16, given.tokens) if given.tokens else None,
        present=torch.rand(rows, 16) < 0.7 if given.tokens else None,
        vector=torch.randn(rows, given.vector) if given.vector else None,
        image=torch.randn(rows, given.image, *shape[1:]) if given.image else None,
    )
    return Contestant(net, lambda n: net(x[:n], t[:n], t[:n], cond.map(lambda v: v[:n])), shape)


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description="what conditions cost inkwash's networks, on the CPU")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--told", nargs="+", default=[*GIVEN][1:], choices=[*GIVEN][1:])
    parser.add_argument("--dtypes", nargs="+", default=["bf16"], choices=list(DTYPES))
    parser.add_argument("--steps", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    parser.add_argument("--rounds", type=int, default=9, help="timings of each, in turn (default 9)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all cores)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} threads, {platform.machine()}\n")
    print("| net | told | step | type | batch | ms | FLOPs | time | time / FLOPs |", "|---" * 9 + "|", sep="\n")
    for name in args.nets:
        batches = NETS[name][2]
        all_told = ["nothing", *args.told]
        contestants = {told: contestant(name, told, max(batches)) for told in all_told}
        work = {told: flops(c) for told, c in contestants.items()}
        for dtype in args.dtypes:
            for step, make, batch in (("train", training, batches[0]), ("sample", sampling, batches[1])):
                if step not in args.steps:
                    continue
                runs = {told: make(c, batch, DTYPES[dtype]) for told, c in contestants.items()}
                for run in runs.values():
                    run()
                rounds = [[seconds(run) for run in runs.values()] for _ in range(args.rounds)]
                took = torch.tensor(rounds, dtype=torch.float64)
                ratios = (took / took[:, :1]).quantile(0.5, dim=0).tolist()
                for told, ratio, second in zip(all_told, ratios, took.quantile(0.5, dim=0).tolist(), strict=True):
                    more = work[told] / work["nothing"]
                    print(
                        f"| {name} | {told} | {step} | {dtype} | {batch} | {1000 * second:.1f} | {more:.3f} "
                        f"| {ratio:.3f} | {ratio / more:.2f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
