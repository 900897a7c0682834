"""Which device to compute on, and whether it gains from bfloat16."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; auto is CUDA where there is one, else MPS, else the CPU.

    Raises ValueError for one that is unknown or not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(n for n, ok in there.items() if ok))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"There is no device {name!r}. Choose auto, {', '.join(there)}.") from error
    if not there.get(device.type, False):
        found = ", ".join(n for n, ok in there.items() if ok)
        raise ValueError(f"device = {name} is not available here; this torch ({torch.__version__}) sees {found}.")
    return device


@cache
def bf16_gain(device: torch.device) -> float:
    """How many times faster a convolution runs in bfloat16 than in float32 on this device, measured in about 0.2 s.

    0 where bfloat16 does not run at all.
    """
    x = torch.randn(32, 64, 14, 14, device=device).to(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, device=device).to(memory_format=torch.channels_last)

    def seconds(x: Tensor, w: Tensor) -> float:
        best = float("inf")
        for _ in range(4):
            start = time.perf_counter()
            for _ in range(5):
                y = torch.nn.functional.conv2d(x, w, padding=1)
            float(y[0, 0, 0, 0])  # waits for the device
            best = min(best, time.perf_counter() - start)
        return best

    with torch.no_grad():
        try:
            return seconds(x, w) / seconds(x.bfloat16(), w.bfloat16())
        except RuntimeError:  # what torch raises for a dtype the device lacks
            return 0.0


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to run a network in: bf16, fp32 (None), or auto: bf16 where it is at least 1.2 times as fast."""
    if precision == "auto":
        precision = "bf16" if bf16_gain(device) >= 1.2 else "fp32"
    return torch.bfloat16 if precision == "bf16" else None
