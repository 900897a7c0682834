"""Pairs of noise and the picture a teacher's flow makes of it, drawn once and kept packed (reflow: Liu et al. 2023).

The noise of pair i is a function of the seed and i, so only the picture is stored: as it is diffused, before a codec
decodes it, float16. Pairs are drawn in shards, which are the unit of resuming, and of sharing the work among ranks.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as File
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inkwash.asking import condition_of
from inkwash.conditions import ByGuidance, ByImage
from inkwash.data import Dataset, order
from inkwash.data.cache import cache_dir, published
from inkwash.data.dataset import Array, Texts
from inkwash.edit import check_deterministic
from inkwash.grids import Listed
from inkwash.kinds import to_table
from inkwash.noise import Philox
from inkwash.pipeline import Pipeline
from inkwash.ranks import Ranks
from inkwash.sampling import Sampling
from inkwash.types import Steered

SHARD = 512
"""Pairs between two marks of how far it is: what is lost when the process is killed."""

BLOCK = 128
"""Pairs in flight at once: memory only."""

REHEARSED = 4
"""Steps in which pairs are drawn to find out what all steps take."""

FORMAT = 1
"""The version of the layout: x0.bin, a mark of every shard with its seconds, and pairs.json when it is whole."""

Told = Callable[[str, int, int], None]
"""Told what is being done, and how much of how much of it is done."""


def pairs(
    pipe: Pipeline,
    teacher: str,
    data: Dataset,
    own: Sampling,
    n: int,
    *,
    among: Array | None = None,
    told: ByGuidance | None = None,
    seed: int = 0,
    ranks: Ranks | None = None,
    progress: Told | None = None,
    cache: File | None = None,
) -> Dataset:
    """`data` with n pictures of the teacher's in place of its own, and in `Dataset.noise` the seed of their noise.

    pipe, teacher: the model and a SHA-256 of all it is; data: as it is trained on, with its conditions: pair i is
    asked for what row i of them shows, in a fixed random order and as often round as it takes; among: the rows that
    count (None: all); own: how pairs are drawn; told: each with a scale of guidance of its own, a function of i, in
    place of own's.
    Found again in the cache by all of these; a build that was killed goes on at its shard, and of several ranks each
    draws its share. progress: told (what, done, total). Raises ValueError for a sampler that adds noise: what it draws
    does not belong to where it began.
    """
    ranks = ranks or Ranks()
    check_deterministic(own.method, own.path or pipe.model.path, own.times(pipe.model.path))
    own = own if told is None else replace(own, guidance=1.0)  # nobody's: with another they are the same pairs
    among = np.arange(len(data)) if among is None else among
    rows = np.resize(among[order(seed, 0, len(among))], n)
    asked = hashlib.sha256(np.ascontiguousarray(rows, "<i8").data).hexdigest()
    ingredients = [FORMAT, teacher, data.fingerprint, asked, n, seed]
    ingredients += [to_table(own), pipe.chunk, str(pipe.model.autocast)]
    ingredients += [] if told is None else [to_table(told)]
    key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", data.name).lstrip(".")[:48]
    folder = (cache or cache_dir()) / "pairs" / f"{name}-{key[:16]}"
    shape = pipe.config.shape
    stored = (n, *shape[1:], shape[0])  # channels last; of points [n, D]
    ends = partial(_ends, pipe, data, own, rows, seed, told)
    _draw(folder, stored, ends, ranks, progress)
    x0 = np.memmap(folder / "x0.bin", np.float16, "r", shape=stored).view(np.ndarray)
    return replace(
        data,
        name=f"pairs of {data.name}",
        images=x0,
        labels=None if data.labels is None else data.labels[rows],
        captions=None if data.captions is None else tuple(data.captions[i] for i in rows),
        fingerprint=key,
        generated=True,
        flip=False,
        folder=folder,
        mirrored=None,
        vectors=None if data.vectors is None else data.vectors[rows],
        shown=_shown(pipe.config.conditions.image, data, rows),
        shown_mirrored=None,
        tokens=None if data.tokens is None else _Picked(data.tokens, rows),
        lengths=None if data.lengths is None else data.lengths[rows],
        noise=seed,
    )


def rehearsed(pipe: Pipeline, data: Dataset, own: Sampling, n: int, *, told: ByGuidance | None = None) -> float:
    """About how many seconds n `pairs` take to draw, by a few of them in a few steps. Nothing is written."""
    few = own if isinstance(own.grid, Listed) else replace(own, steps=min(own.steps, REHEARSED))
    calls, once = (how.rehearse(pipe.model.path, pipe.model.target) for how in (own, few))
    numbers = np.arange(min(pipe.chunk, BLOCK))
    began = time.perf_counter()
    _drawn(pipe, data, few, numbers % len(data), 0, told, numbers)
    return (time.perf_counter() - began) * calls / once * math.ceil(n / len(numbers))


def drawn_in(found: Dataset) -> float | None:
    """The seconds that drawing these pairs took, in all sessions; None where they were not written down."""
    assert found.folder is not None
    about = json.loads((found.folder / "pairs.json").read_text(encoding="utf-8"))
    return float(about["seconds"]) if "seconds" in about else None


@dataclass(frozen=True)
class _Picked:
    """The texts `rows` of others, as `data.dataset.Texts`."""

    texts: Texts
    rows: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.rows), *self.texts.shape[1:]

    def __getitem__(self, index: Array) -> Array:
        return self.texts[self.rows[index]]


@dataclass(frozen=True)
class _Shown:
    """What a task shows of the rows `rows` of pictures, made as it is asked for; read as an array is."""

    source: Array
    rows: Array
    show: Callable[[Array], Array]

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.source.shape[1:]

    def __getitem__(self, index: Array) -> Array:
        return self.show(self.source[self.rows[index]])


def _shown(image: ByImage | None, data: Dataset, rows: Array) -> Any:
    """What each pair was shown: that of its row, and not of the teacher's picture."""
    if image is None:
        return None
    if data.shown is not None:  # partners, or what was shown, in latents
        return _Shown(data.shown, rows, lambda u: u)
    latents = data.images.dtype == np.float16  # encoded already, where what is shown is the picture itself
    return _Shown(data.images, rows, (lambda u: u) if latents else image.task.show)


def _draw(
    folder: File,
    stored: tuple[int, ...],
    ends: Callable[[Array], Array],
    ranks: Ranks,
    progress: Told | None,
) -> None:
    """Draw the shards that have no mark, this rank its share of them, and publish the folder when all have one.

    ends: what pairs of some numbers end in. Other processes that want the same pairs wait, and find them.
    """
    n, there = stored[0], partial(_whole, stored=stored)
    whole = there(folder)
    ranks.barrier()  # all have looked before one builds
    if whole:
        return

    def build(staged: File) -> None:
        size = int(np.prod(stored, dtype=np.int64)) * 2
        if (free := shutil.disk_usage(staged).free) < size:
            need, left = size / 2**20, free / 2**20
            raise OSError(f"{n:,} pairs need {need:,.0f} MiB in {staged.parent}, where {left:,.0f} are free.")
        with (staged / "x0.bin").open("ab") as file:
            file.truncate(size)
        share(staged)
        seconds = sum(float(mark.read_text() or 0) for mark in staged.glob("shard-*.done"))
        about = {"format": FORMAT, "shape": stored, "seconds": round(seconds, 3)}
        (staged / "pairs.json").write_text(json.dumps(about), encoding="utf-8")

    def share(staged: File) -> None:
        """Draw this rank's shards of those that are missing; all begin and end together."""
        ranks.barrier()
        missing = [k for k in range(-(-n // SHARD)) if not _mark(staged, k).exists()]
        ranks.barrier()  # all have seen what is missing before a mark is made
        out = np.memmap(staged / "x0.bin", np.float16, "r+", shape=stored)
        told = n - sum(min(SHARD, n - k * SHARD) for k in missing)
        for k in missing[ranks.rank :: ranks.world]:
            began = time.perf_counter()
            for start in range(k * SHARD, min((k + 1) * SHARD, n), BLOCK):
                numbers = np.arange(start, min(start + BLOCK, (k + 1) * SHARD, n))
                out[numbers] = ends(numbers)
                told += len(numbers) * ranks.world
                if progress is not None:
                    progress("Drawing pairs", min(told, n), n)
            out.flush()
            _mark(staged, k).write_text(str((time.perf_counter() - began) / ranks.world))
        ranks.barrier()

    if ranks.first:
        published(folder, there, build, resumable=True)
    else:
        share(folder.with_name(f".partial-{folder.name}"))
    ranks.barrier()


def _ends(
    pipe: Pipeline, data: Dataset, own: Sampling, rows: Array, seed: int, told: ByGuidance | None, numbers: Array
) -> Array:
    """What pairs of these numbers end in, as it is stored."""
    x = _drawn(pipe, data, own, rows, seed, told, numbers)
    stored: Array = (x.movedim(1, -1) if x.ndim == 4 else x).numpy().astype(np.float16)
    if not np.isfinite(stored).all():
        raise ValueError(f"Pairs {numbers[0]} to {numbers[-1]} are not finite in float16: the teacher fails on them.")
    return stored


def _drawn(
    pipe: Pipeline, data: Dataset, own: Sampling, rows: Array, seed: int, told: ByGuidance | None, numbers: Array
) -> Tensor:
    """What pairs of these numbers end in, on the host."""
    index = torch.from_numpy(numbers)
    noise = Philox(seed, index)
    scale = None if told is None else told.drawn(noise)
    asked = data.take(rows[numbers])
    if pipe.config.conditions.guidance is not None:
        cond = condition_of(pipe.config, pipe.codec, asked, noise, pipe.device, scale)
    else:
        cond = Steered(**vars(condition_of(pipe.config, pipe.codec, asked, noise, pipe.device)), scale=scale)
    return pipe.ends(index, cond, own, seed).cpu()


def _mark(staged: File, shard: int) -> File:
    """Says that a shard is drawn, and in how many seconds; of ranks that drew at once, in its share of them."""
    return staged / f"shard-{shard:06d}.done"


def _whole(folder: File, stored: tuple[int, ...]) -> bool:
    try:
        table = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
        size = (folder / "x0.bin").stat().st_size
    except (OSError, ValueError):
        return False
    return bool(table.get("format") == FORMAT and tuple(table["shape"]) == stored and size == 2 * np.prod(stored))
