"""What diffusing latents saves: one network on pictures of 256x256, and on their latents, in FLOPs and in seconds.

    python bench/latents.py            # one thread, the processor's own time: about a minute

The claim is 64 times less work at f8 (256x256 to 32x32 positions). It is one of the network alone: the codec is run
once a picture, the network at every step. The network is the same, but for the channels of its first and last layer.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from inkwash.nets import UNet
from inkwash.nets.autoencoder import PRESETS
from inkwash.types import Condition

SIDE = 256


def gflop(run: Callable[[], object]) -> float:
    """Of one call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


def main() -> None:
    """Measure and print a table in Markdown."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--threads", type=int, default=1)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    net = UNet(patch=1, widths=(64, 128, 256), depth=2, attention=(2,))
    shapes = {
        "pixels, 3x256x256": (3, SIDE, SIDE),
        "latents f4, 4x64x64": (4, SIDE // 4, SIDE // 4),
        "latents f8, 4x32x32": (4, SIDE // 8, SIDE // 8),
    }
    runs: dict[str, Callable[[], object]] = {}
    for name, shape in shapes.items():
        module = net.build(shape).eval()
        runs[name] = _asked(module, torch.randn(1, *shape))
    for name, config in PRESETS.items():
        codec, side = config.build().eval(), SIDE // config.factor
        z = torch.randn(1, config.latent_channels, side, side)
        runs[f"decoding {name}, once a picture"] = partial(codec.decode, z)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        work = {name: gflop(run) for name, run in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for round_ in range(chosen.rounds + 1):
            for name, run in runs.items():
                began = time.process_time()
                for _ in range(repeats := 1 if work[name] > 50 else 8):
                    run()
                if round_:  # the first is warm-up
                    seconds[name].append((time.process_time() - began) / repeats)
    first = next(iter(runs))
    print(f"torch {torch.__version__}, {chosen.threads} thread, bf16, batch 1, processor time\n")
    print("| | GFLOP | less | seconds | less |\n|---|---|---|---|---|")
    for name in runs:
        spent = median(seconds[name])
        less = "" if name.startswith("decoding") else f"{work[first] / work[name]:.1f}"
        faster = "" if name.startswith("decoding") else f"{median(seconds[first]) / spent:.1f}"
        print(f"| {name} | {work[name]:.2f} | {less} | {spent:.4f} | {faster} |")


def _asked(module: torch.nn.Module, x: Tensor) -> Callable[[], object]:
    t = torch.full((1,), 500.0)
    return lambda: module(x, t, t, Condition())


if __name__ == "__main__":
    main()
