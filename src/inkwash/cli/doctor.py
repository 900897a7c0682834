"""`inkwash doctor`: what this machine offers, what is wrong with it, and what to do."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from inkwash._version import __version__
from inkwash.cli.words import say, size

PACKAGES = ("numpy", "pillow", "safetensors", "pydantic", "typer", "rich", "tomli-w")
LOW_DISK = 2e9
"""Bytes: a run of a small model with its checkpoints and its data fits in it."""


class Finding(NamedTuple):
    """One thing looked at: its name, what was found, and what to do about it ("" where all is well)."""

    name: str
    found: str
    advice: str = ""


def doctor() -> None:
    """Say what this machine offers, and what to do about what is wrong.

    torch, devices and their speed, packages, the cache and the disk.
    """
    advice = []
    for finding in examine():
        say(f"{'!!' if finding.advice else 'ok'}  {finding.name:<13} {finding.found}")
        if finding.advice:
            say(f"{'':<17} -> {finding.advice}")
            advice.append(finding.name)
    say(f"\n{'Look at: ' + ', '.join(advice) if advice else 'All is well.'}")


def examine() -> Iterator[Finding]:
    """All findings, each as soon as it is known."""
    yield Finding("inkwash", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}")
    yield _packages()
    yield from _torch()
    yield torchvision()
    yield from _cache()


def _packages() -> Finding:
    found, missing = [], []
    for name in PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    fix = f"{', '.join(missing)} missing: pip install {' '.join(missing)}" if missing else ""
    return Finding("packages", ", ".join(found), fix)


def _torch() -> Iterator[Finding]:
    try:
        import torch

        from inkwash.device import bf16_gain, gains_from_bf16, pick_device
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        yield Finding("torch", f"does not import: {error}", "pip install --force-reinstall 'torch>=2.11'")
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built for the CPU"
    if hip := getattr(torch.version, "hip", None):
        build = f"ROCm {hip}"
    yield Finding("torch", f"{torch.__version__}, {build}", _unused_gpu(torch.cuda.is_available()))
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        yield Finding(f"cuda:{i}", f"{card.name}, {size(card.total_memory)}")
    if torch.backends.mps.is_available():
        yield Finding("mps", "Apple's GPU")
    yield _threads(torch.get_num_threads())
    yield Finding("cpu", f"{_model_name()}; torch uses {torch.backends.cpu.get_cpu_capability()}{_bf16_units()}")
    device = pick_device("auto")
    for where in dict.fromkeys([device, torch.device("cpu")]):
        use = "bf16" if gains_from_bf16(where) else "fp32"
        what = f"{'has' if use == 'bf16' else 'has no'} units for it" if where.type != "cpu" else _speed(bf16_gain())
        yield Finding("bf16", f"{where} {what}, so --precision auto trains in {use}")


def _speed(gain: float) -> str:
    return f"runs it at {gain:.1f} times the speed of fp32" if gain else "does not run it"


def _unused_gpu(used: bool) -> str:
    if used or not shutil.which("nvidia-smi"):
        return ""
    try:
        seen = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    if "GPU" not in seen:
        return ""
    return f"this torch does not use {seen.splitlines()[0].split(' (')[0]}: install its CUDA build, see pytorch.org"


def _threads(threads: int) -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS")
    found = f"{threads} of {usable} cores" + (f", OMP_NUM_THREADS={asked}" if asked else "")
    if threads > usable:
        return Finding("threads", found, f"more threads than cores slow each other down: OMP_NUM_THREADS={usable}")
    if asked and threads < usable // 2:
        return Finding("threads", found, "most cores are idle: unset OMP_NUM_THREADS to use them")
    return Finding("threads", found)


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _model_name() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _bf16_units() -> str:
    flags = _cpuinfo("flags").split()
    units = [name for flag, name in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if flag in flags]
    return f", with {' and '.join(units)} for bf16" if units else ""


def torchvision() -> Finding:
    """Whether a torchvision is installed, and does import beside this torch."""
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return Finding("torchvision", "not installed, and not needed")
    tried = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, timeout=120, check=False
    )
    if tried.returncode == 0:
        return Finding("torchvision", f"{version}, imports; inkwash does not use it")
    why = (tried.stderr.strip().splitlines() or ["it died"])[-1]
    return Finding(
        "torchvision",
        f"{version} does not import: {why}",
        "it breaks diffusers, transformers and torchmetrics too, and nothing here needs it: pip uninstall torchvision",
    )


def _cache() -> Iterator[Finding]:
    from inkwash.data import cache_dir

    cache = cache_dir()
    used = sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) if cache.is_dir() else 0
    place = next(p for p in (cache, *cache.parents) if p.is_dir())
    writable = "" if os.access(place, os.W_OK) else f"{place} cannot be written: set INKWASH_CACHE to a folder that can"
    yield Finding("cache", f"{cache}, {size(used) if used else 'empty'}", writable)
    for name, where in (("disk, cache", place), ("disk, here", Path.cwd())):
        free = shutil.disk_usage(where).free
        yield Finding(name, f"{size(free)} free", "make room, or work on another disk" if free < LOW_DISK else "")
    yield _fashion_mnist(cache)


def _fashion_mnist(cache: Path) -> Finding:
    from inkwash.data.dataset import read_pack

    name = "fashion-mnist"
    if read_pack(cache / "packs" / f"{name}-train") is not None:
        return Finding(name, "ready, in the cache")
    for folder in (cache / "downloads" / name, Path("/usr/share/datasets") / name):
        if folder.is_dir():
            return Finding(name, f"its files are in {folder}")
    return Finding(name, "not here yet; it is fetched when it is first used")
