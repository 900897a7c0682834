"""Which device to compute on, whether it gains from bfloat16, and when its memory has run out."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from functools import cache

import torch


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; auto is CUDA where there is one, else MPS, else the CPU.

    Raises ValueError for one that is unknown or not there.
    """
    count = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
        "cpu": 1,
    }
    if name == "auto":
        return torch.device(next(kind for kind, n in count.items() if n))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"There is no device {name!r}. Choose auto, {', '.join(count)}.") from error
    if (device.index or 0) >= count.get(device.type, 0):
        numbered = [f"{kind}:{i}" for kind, n in count.items() if n > 1 for i in range(n)]
        found = ", ".join([*numbered, *(kind for kind, n in count.items() if n == 1)])
        raise ValueError(f"device = {name} is not available here; this torch ({torch.__version__}) sees {found}.")
    return device


def gains_from_bf16(device: torch.device) -> bool:
    """Whether networks run faster in bfloat16 than in float32 on this device.

    A GPU's units for it are known from its generation (a small network on a large GPU would measure only how fast it is
    launched); of a CPU it is measured, and it must be at least 1.2 times as fast.
    """
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bf16_gain() >= 1.2


@cache
def bf16_gain() -> float:
    """How many times faster the CPU runs a convolution in bfloat16 than in float32, measured in about 0.1 s.

    0 where bfloat16 does not run at all.
    """
    x = torch.linspace(-1, 1, 8 * 64 * 14 * 14).reshape(8, 64, 14, 14).to(memory_format=torch.channels_last)
    w = torch.linspace(-1, 1, 64 * 64 * 3 * 3).reshape(64, 64, 3, 3).to(memory_format=torch.channels_last)
    inputs = {dtype: (x.to(dtype), w.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}
    best = dict.fromkeys(inputs, math.inf)
    threads = torch.get_num_threads()
    # One thread, a millisecond at a time, in turn: on a busy machine too, some repeat of each is undisturbed.
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(20):
                for dtype, (shown, weight) in inputs.items():
                    start = time.perf_counter()
                    torch.nn.functional.conv2d(shown, weight, padding=1)
                    best[dtype] = min(best[dtype], time.perf_counter() - start)
    except RuntimeError:  # what torch raises for a dtype the CPU lacks
        return 0.0
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The dtype to run a network in: bf16, fp32 (None), or auto: bf16 where the device gains from it."""
    if precision == "auto":
        precision = "bf16" if gains_from_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def keep_memory() -> None:
    """Have glibc keep freed memory for the next step instead of handing it back: 7 % of a training step on two cores.

    Every step allocates and frees the same activations; each return to the system is paid for by fresh page faults.
    Nothing happens with other C libraries. The process holds on to its peak until it ends.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 256 << 20)
        mallopt(mmap_threshold, 32 << 20)  # the largest it takes


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device: only CUDA's allocator has a class for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    told = (
        "can't allocate memory",  # the CPU's allocator
        "MPS backend out of memory",
        "CUDA error: out of memory",  # past the allocator: a context, a graph
        "CUDNN_STATUS_ALLOC_FAILED",
        "CUBLAS_STATUS_ALLOC_FAILED",
    )
    return isinstance(error, RuntimeError) and any(what in str(error) for what in told)
