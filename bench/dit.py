"""How fast inkwash's transformers are on the CPU, beside diffusers' `DiTTransformer2DModel` of DiT's size.

    python bench/dit.py [--preset S] [--patch 2] [--channels 4] [--dtypes fp32 bf16] [--threads 2] [--rounds 5]

Steps, FLOPs and the ratios of alternating rounds as in bench/nets.py. DiT and the peer are the same arithmetic; a
ModernDiT of the same preset and patch has as much of it within 3 %, and four tokens more.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics

import torch
from diffusers import DiTTransformer2DModel
from torch import nn

from inkwash.nets import DiT, ModernDiT
from inkwash.types import Condition, Given
from nets import CLASSES, DTYPES, Contestant, flops, sampling, seconds, training


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description="inkwash's transformers beside diffusers' DiT, on the CPU")
    parser.add_argument("--preset", default="S", choices=["S", "B", "L", "XL"])
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5, help="timings of each, in turn (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all cores)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    shape = (args.channels, args.side, args.side)
    x, t, label = torch.randn(args.batch, *shape), 1000 * torch.rand(args.batch), torch.arange(args.batch) % CLASSES

    def ours(net: DiT | ModernDiT) -> Contestant:
        module = net.build(shape, Given(CLASSES))
        return Contestant(module, lambda n: module(x[:n], t[:n], t[:n], Condition(label[:n])), shape)

    dit = DiT(args.preset, patch=args.patch)
    full = dit.resolve(shape)
    theirs: nn.Module = DiTTransformer2DModel(
        num_attention_heads=full.heads,
        attention_head_dim=full.width // full.heads,
        in_channels=args.channels,
        num_layers=full.depth,
        sample_size=args.side,
        patch_size=args.patch,
        num_embeds_ada_norm=CLASSES,
    )
    contestants = {
        "DiT": ours(dit),
        "ModernDiT": ours(ModernDiT(args.preset, patch=args.patch)),
        "diffusers": Contestant(theirs, lambda n: theirs(x[:n], t[:n], label[:n]).sample, shape),
    }
    for contestant in contestants.values():  # no layer is left at zero: zeros are no faster, but let no doubt be
        for p in contestant.net.parameters():
            nn.init.normal_(p, std=0.02)
    print(
        f"torch {torch.__version__}, {args.threads} threads, {platform.machine()}; {args.preset}/{args.patch}", end=""
    )
    print(f" at {args.channels}x{args.side}x{args.side}, batch {args.batch}; pictures/s and ratio to diffusers\n")
    print("| net | parameters | GFLOP/picture | step | type | pictures/s | ratio | GFLOP/s |")
    print("|---|---|---|---|---|---|---|---|")
    work = {name: flops(c) for name, c in contestants.items()}
    for dtype in args.dtypes:
        for job, make, passes in (("train", training, 3), ("sample", sampling, 1)):
            runs = {name: make(c, args.batch, DTYPES[dtype]) for name, c in contestants.items()}
            for run in runs.values():
                run()
            took = [{name: seconds(run) for name, run in runs.items()} for _ in range(args.rounds)]
            for name, contestant in contestants.items():
                second = statistics.median(r[name] for r in took)
                ratio = statistics.median(r["diffusers"] / r[name] for r in took)
                millions = sum(p.numel() for p in contestant.net.parameters()) / 1e6
                rate, one = args.batch / second, work[name] / 1e9
                print(
                    f"| {name} | {millions:.1f}M | {one:.2f} | {job} | {dtype} "
                    f"| {rate:.2f} | {ratio:.2f} | {passes * one * rate:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
