"""How fast the presets of inkwash's U-Net are, beside diffusers' `UNet2DModel` of like parameters and FLOPs.

    python bench/nets.py [--presets tiny small base] [--dtypes fp32 bf16] [--threads 2] [--rounds 5]

A training step is forward, loss, backward and AdamW; a sampling step is the forward pass alone. Both nets and a big
convolution (the machine's own peak) take turns within every round, so that whatever else the machine is doing falls on
all three; the ratio is the median over the rounds. FLOPs are counted by torch.utils.flop_counter. diffusers has no
patchified door, so it is handed the pixels already folded (28x28x1 as 14x14x4), which is what makes it comparable.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from inkwash.nets import UNet
from inkwash.types import Condition, Given

CLASSES = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Contestant(NamedTuple):
    """A net with the data it is fed: `forward(rows)` runs it on the first rows."""

    net: nn.Module
    forward: Callable[[int], Tensor]
    shape: tuple[int, int, int]


class Peer(NamedTuple):
    """The size of a UNet2DModel that is like a preset: found by trying, printed by the program."""

    widths: tuple[int, ...]
    layers: int
    groups: int
    attention: bool


PRESETS: dict[str, tuple[tuple[int, int, int], int, Peer]] = {  # data, patch, peer
    "tiny": ((1, 28, 28), 2, Peer((24, 40), 1, 8, attention=False)),
    "small": ((1, 28, 28), 2, Peer((64, 96), 1, 32, attention=True)),
    "base": ((3, 32, 32), 1, Peer((128, 192, 256), 1, 32, attention=True)),
}


def ours(preset: str, batch: int) -> Contestant:
    """The preset, and random pictures."""
    shape = PRESETS[preset][0]
    net = UNet(preset).build(shape, Given(CLASSES))  # type: ignore[arg-type]
    x, t, label = torch.randn(batch, *shape), 1000 * torch.rand(batch), torch.randint(0, CLASSES, (batch,))
    return Contestant(net, lambda n: net(x[:n], t[:n], t[:n], Condition(label[:n])), shape)


def theirs(preset: str, batch: int, channels_last: bool) -> Contestant:
    """Its peer, and random pictures of the same number of pixels."""
    (C, H, W), patch, peer = PRESETS[preset]
    shape = (C * patch**2, H // patch, W // patch)
    plain = len(peer.widths) - 1
    lowest = "Attn" if peer.attention else ""
    net = UNet2DModel(
        sample_size=shape[1],
        in_channels=shape[0],
        out_channels=shape[0],
        layers_per_block=peer.layers,
        block_out_channels=peer.widths,
        norm_num_groups=peer.groups,
        num_class_embeds=CLASSES + 1,
        attention_head_dim=64 if peer.attention else 8,
        add_attention=peer.attention,
        down_block_types=("DownBlock2D",) * plain + (f"{lowest}DownBlock2D",),
        up_block_types=(f"{lowest}UpBlock2D",) + ("UpBlock2D",) * plain,
    )
    x, t, label = torch.randn(batch, *shape), 1000 * torch.rand(batch), torch.randint(0, CLASSES, (batch,))
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return Contestant(net, lambda n: net(x[:n], t[:n], class_labels=label[:n]).sample, shape)


def flops(contestant: Contestant) -> int:
    """Of one picture's forward pass; the fused attention would not be counted, so the plain one runs."""
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        contestant.forward(1)
    return counter.get_total_flops()


def training(contestant: Contestant, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """A training step as a function of nothing."""
    optimizer = torch.optim.AdamW(contestant.net.parameters(), 1e-4, fused=True)

    def step() -> None:
        contestant.net.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = contestant.forward(batch)
        (y.float() - 1).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling(contestant: Contestant, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """A sampler's call of the net as a function of nothing."""

    def step() -> None:
        contestant.net.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            contestant.forward(batch)

    return step


def big_convolution(dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """A convolution that runs at the machine's peak, and its FLOPs."""
    x = torch.randn(32, 256, 16, 16).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3).to(dtype).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.no_grad():
            F.conv2d(x, w, padding=1)

    return run, 2 * 32 * 16 * 16 * 256 * 256 * 9


def seconds(run: Callable[[], None]) -> float:
    """Of one call. With one thread it is the processor's time, which other programs on a busy machine do not spoil."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    run()
    return clock() - start


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description="inkwash's U-Net presets beside diffusers' UNet2DModel, on the CPU")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=list(PRESETS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--rounds", type=int, default=5, help="timings of each, in turn (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all cores)")
    parser.add_argument("--batch", type=int, default=128, help="most pictures in a training step (default 128)")
    parser.add_argument("--sample-batch", type=int, default=32, help="most pictures in a sampling step (default 32)")
    parser.add_argument("--peer-channels-last", action="store_true", help="give the peer the layout it does not choose")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} threads, {platform.machine()}; ours / diffusers, pictures/s\n")
    print("| preset | parameters | GFLOP/picture | step | type | batch | pictures/s | ratio | GFLOP/s | of the peak |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    speed: dict[tuple[str, str, str], float] = {}
    for preset in args.presets:
        us, peer = ours(preset, args.batch), theirs(preset, args.batch, args.peer_channels_last)
        work = (flops(us), flops(peer))
        sizes = [sum(p.numel() for p in c.net.parameters()) / 1e6 for c in (us, peer)]
        for dtype in args.dtypes:
            for job, make, passes in (("train", training, 3), ("sample", sampling, 1)):
                batch = args.batch if job == "train" else args.sample_batch
                while batch > 1 and passes * batch * work[0] > 120e9:  # half a second or so each
                    batch //= 2
                peak, peak_flops = big_convolution(DTYPES[dtype])
                runs = [make(us, batch, DTYPES[dtype]), make(peer, batch, DTYPES[dtype]), peak]
                for run in runs:
                    run()
                    run()
                rounds = [[seconds(run) for run in runs] for _ in range(args.rounds)]
                rate = [[batch / took[i] for took in rounds] for i in (0, 1)]
                flop_rate = [[passes * batch * work[i] / took[i] / 1e9 for took in rounds] for i in (0, 1)]
                ratio = statistics.median(a / b for a, b in zip(*rate, strict=True))
                a, b = (statistics.median(f) for f in flop_rate)
                per_flop = statistics.median(x / y for x, y in zip(*flop_rate, strict=True))
                share = [statistics.median(f * t[2] * 1e9 / peak_flops for f, t in zip(fs, rounds, strict=True))
                         for fs in flop_rate]  # fmt: skip
                speed[preset, job, dtype] = statistics.median(rate[0])
                print(
                    f"| {preset} | {sizes[0]:.2f}M / {sizes[1]:.2f}M | {work[0] / 1e9:.3f} / {work[1] / 1e9:.3f} "
                    f"| {job} | {dtype} | {batch} "
                    f"| {statistics.median(rate[0]):.0f} / {statistics.median(rate[1]):.0f} | {ratio:.2f} "
                    f"| {a:.0f} / {b:.0f} ({per_flop:.2f}) | {share[0]:.0%} / {share[1]:.0%} |",
                    flush=True,
                )
    for preset in args.presets:
        if len(args.dtypes) == 2:
            gains = (speed[preset, job, "bf16"] / speed[preset, job, "fp32"] for job in ("train", "sample"))
            print(f"\n{preset}: bf16 is {' and '.join(f'{g:.2f}' for g in gains)} times fp32 (train, sample).", end="")
    print()


if __name__ == "__main__":
    main()
