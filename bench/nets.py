"""How fast the presets of inkwash's U-Nets are, beside diffusers' `UNet2DModel`, on the CPU.

    python bench/nets.py [--presets tiny small base ddpm-cifar wide64] [--dtypes fp32 bf16] [--compile] [--threads 2]

Beside ddpm-cifar and wide64 stands the same net with the same weights' shapes; beside our own presets one of like
parameters and FLOPs, with its attention at the same sizes. A training step is forward, loss, backward and AdamW; a
sampling step is the forward pass alone. All contestants and a big convolution (the machine's own peak) take turns
within every round, so that whatever else the machine is doing falls on all; a ratio is the median over the rounds.
FLOPs are counted by torch.utils.flop_counter, of each net as it runs. diffusers has no patchified door, so it is handed
the pixels already folded (28x28x1 as 14x14x4), which is what makes it comparable.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from inkwash.exchange.unet_names import UNetLayout, diffusers_config
from inkwash.nets import ClassicUNet, UNet
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


class Preset(NamedTuple):
    """A preset with its data, the batches of a training and a sampling step, and what stands beside it."""

    net: UNet | ClassicUNet
    shape: tuple[int, int, int]
    batches: tuple[int, int]
    peer: Peer | None = None  # None: the same net
    patch: int = 1


PRESETS = {
    "tiny": Preset(UNet("tiny"), (1, 28, 28), (128, 32), Peer((24, 40), 1, 8, attention=False), 2),
    "small": Preset(UNet("small"), (1, 28, 28), (128, 32), Peer((64, 96), 1, 32, attention=True), 2),
    "base": Preset(UNet("base"), (3, 32, 32), (4, 16), Peer((128, 192, 256), 1, 32, attention=True)),
    "ddpm-cifar": Preset(ClassicUNet("ddpm-cifar"), (3, 32, 32), (16, 16)),
    "wide64": Preset(ClassicUNet("wide64"), (3, 64, 64), (2, 4)),
}


def ours(preset: Preset) -> Contestant:
    """The preset, and random pictures."""
    net = preset.net.build(preset.shape, Given(CLASSES))
    x, t, label = inputs(preset, preset.shape)
    return Contestant(net, lambda n: net(x[:n], t[:n], t[:n], Condition(label[:n])), preset.shape)


def theirs(preset: Preset, channels_last: bool) -> Contestant:
    """Its peer, and random pictures of the same number of pixels."""
    (C, H, W), patch = preset.shape, preset.patch
    shape = (C * patch**2, H // patch, W // patch)
    settings = like(preset.peer, shape) if preset.peer else same(preset)
    net = UNet2DModel(**settings)
    x, t, label = inputs(preset, shape)
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    return Contestant(net, lambda n: net(x[:n], t[:n], class_labels=label[:n]).sample, shape)


def same(preset: Preset) -> dict[str, Any]:
    """The settings of diffusers' net that computes what a ClassicUNet computes."""
    assert isinstance(preset.net, ClassicUNet)
    return diffusers_config(UNetLayout(preset.net, preset.shape, Given(CLASSES), 1))


def like(peer: Peer, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The settings of diffusers' net of a peer's size."""
    plain = len(peer.widths) - 1
    lowest = "Attn" if peer.attention else ""
    return {
        "sample_size": shape[1],
        "in_channels": shape[0],
        "out_channels": shape[0],
        "layers_per_block": peer.layers,
        "block_out_channels": peer.widths,
        "norm_num_groups": peer.groups,
        "num_class_embeds": CLASSES + 1,
        "attention_head_dim": 64 if peer.attention else 8,
        "add_attention": peer.attention,
        "down_block_types": ("DownBlock2D",) * plain + (f"{lowest}DownBlock2D",),
        "up_block_types": (f"{lowest}UpBlock2D",) + ("UpBlock2D",) * plain,
    }


def inputs(preset: Preset, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Random pictures, times and labels, enough for either step."""
    B = max(preset.batches)
    return torch.randn(B, *shape), 1000 * torch.rand(B), torch.randint(0, CLASSES, (B,))


def compiled(contestant: Contestant) -> Contestant:
    """The same net, compiled; its weights are shared."""
    return contestant._replace(forward=torch.compile(contestant.forward))


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


class Job(NamedTuple):
    """One kind of step of one preset in one precision."""

    preset: str
    step: str
    dtype: str


def compare(job: Job, us: Contestant, peer: Contestant, args: argparse.Namespace) -> list[str]:
    """Rows of the table: eager, and compiled where asked for. Every contestant takes its turn in every round."""
    preset, dtype, learns = PRESETS[job.preset], DTYPES[job.dtype], job.step == "train"
    make, passes, batch = (training, 3, preset.batches[0]) if learns else (sampling, 1, preset.batches[1])
    work, sizes = [flops(c) for c in (us, peer)], [sum(p.numel() for p in c.net.parameters()) / 1e6 for c in (us, peer)]
    modes = {"eager": (us, peer)} | ({"compiled": (compiled(us), compiled(peer))} if args.compile else {})
    peak, peak_flops = big_convolution(dtype)
    runs = [*(make(c, batch, dtype) for pair in modes.values() for c in pair), peak]
    for run in runs * 2:
        run()
    rounds = torch.tensor([[seconds(run) for run in runs] for _ in range(args.rounds)], dtype=torch.float64)
    peaks = peak_flops / rounds[:, -1]
    rows = []
    for i, mode in enumerate(modes):
        took = rounds[:, 2 * i : 2 * i + 2]
        rates = (batch / took).quantile(0.5, dim=0).tolist()
        did = passes * batch * torch.tensor(work, dtype=torch.float64) / took
        speed = (did / 1e9).quantile(0.5, dim=0).tolist()
        share = (did / peaks[:, None]).quantile(0.5, dim=0).tolist()
        ratio = (took[:, 1] / took[:, 0]).quantile(0.5).item()
        digits = 0 if rates[0] > 50 else 2
        SPEED[job.preset, job.step, job.dtype, mode] = (rates[0], rates[1])
        rows.append(
            f"| {job.preset} | {sizes[0]:.2f}M / {sizes[1]:.2f}M | {work[0] / 1e9:.3f} / {work[1] / 1e9:.3f} "
            f"| {job.step} | {job.dtype} | {mode} | {batch} | {rates[0]:.{digits}f} / {rates[1]:.{digits}f} "
            f"| {ratio:.2f} | {speed[0]:.0f} / {speed[1]:.0f} | {share[0]:.0%} / {share[1]:.0%} |"
        )
    return rows


SPEED: dict[tuple[str, str, str, str], tuple[float, float]] = {}
"""Pictures per second, ours and theirs, of each row."""


def main() -> None:
    """Run the comparison and print a table."""
    parser = argparse.ArgumentParser(description="inkwash's U-Net presets beside diffusers' UNet2DModel, on the CPU")
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "base"], choices=list(PRESETS))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--steps", nargs="+", default=["train", "sample"], choices=["train", "sample"])
    parser.add_argument("--compile", action="store_true", help="compiled nets too; a minute more for each")
    parser.add_argument("--rounds", type=int, default=5, help="timings of each, in turn (default 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(default: all cores)")
    parser.add_argument("--peer-channels-last", action="store_true", help="give the peer the layout it does not choose")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {args.threads} threads, {platform.machine()}; ours / diffusers\n")
    columns = ["preset", "parameters", "GFLOP/picture", "step", "type", "mode", "batch", "pictures/s", "ratio"]
    columns += ["GFLOP/s", "of the peak"]
    print(f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", sep="\n")
    for name in args.presets:
        us, peer = ours(PRESETS[name]), theirs(PRESETS[name], args.peer_channels_last)
        for dtype in args.dtypes:
            for step in args.steps:
                print(*compare(Job(name, step, dtype), us, peer, args), sep="\n", flush=True)
    print()
    for (name, step, dtype, mode), rate in SPEED.items():
        if dtype == "bf16" and (plain := SPEED.get((name, step, "fp32", mode))):
            print(
                f"{name}, {step}, {mode}: bf16 is {rate[0] / plain[0]:.2f} times fp32, and {rate[0] / plain[1]:.2f} "
                f"times diffusers' fp32."
            )


if __name__ == "__main__":
    main()
