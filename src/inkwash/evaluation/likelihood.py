"""The likelihood of a data set under a model: both ways of `inkwash.likelihood`, in bits/dim, with intervals.

Pictures of 8 bits are measured in bits a number; floats have no bits: nats a number, in the data's own units.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from inkwash import checkpoint
from inkwash._version import __version__
from inkwash.bound import Variance
from inkwash.codec import Pixels
from inkwash.data import Dataset, DataSpec, Progress, load, order, split
from inkwash.evaluation.blocks import rows_hash
from inkwash.evaluation.interval import Interval
from inkwash.evaluation.requests import Requests, requests
from inkwash.grids import AnyGrid, Grid
from inkwash.guidance import Chunked
from inkwash.kinds import from_table, in_text, to_table
from inkwash.likelihood import (
    MOST_EXACT,
    SMALLEST_RATIO,
    Adaptive,
    AnySolver,
    AnyTrace,
    Exact,
    Hutchinson,
    angle,
    bits_per_dim,
    dequantised,
    discrete_bound,
    flow_start,
    log_likelihood,
)
from inkwash.modelfolder import find_model
from inkwash.noise import Philox
from inkwash.paths import ratio
from inkwash.pipeline import Pipeline
from inkwash.targets import check
from inkwash.types import Component, Condition, Denoised, Denoiser, Query

if TYPE_CHECKING:
    from PIL.Image import Image

Split = Literal["train", "val", "test"]

Watch = Callable[[float], None]
"""Told the fraction done."""


@dataclass(frozen=True)
class BoundSettings(Component):
    """The chain whose bound is computed.

    steps, grid: its times, on a table's entries where the model's path is a table; without a grid those the model
    samples on. The last one before 0 should have noise of about a bin's width: smaller noise no network sees.
    variance: of its steps; by default the learned one where there is one, else the large one, which had the tighter
    bound on every path once the grid reaches such noise (docs/likelihood.md). terms: evaluate so many of the steps,
    chosen at random for each example (None: all).
    """

    steps: int = 100
    grid: AnyGrid | None = None
    variance: Variance | None = None
    terms: int | None = None


@dataclass(frozen=True)
class FlowSettings(Component):
    """How the probability flow is integrated, and its divergence found; smallest: see `likelihood.SMALLEST_RATIO`."""

    solver: AnySolver = field(default_factory=Adaptive)
    trace: AnyTrace = field(default_factory=Hutchinson)
    smallest: float = SMALLEST_RATIO


@dataclass(frozen=True)
class BoundFigures:
    """The bound in its parts: L_T, the middle steps, L_0, and all; times [N+1], and the mean of each step [N].

    least: the noise-to-signal ratio of the last time before 0; grid: as text.
    """

    prior: Interval
    middle: Interval
    last: Interval
    total: Interval
    times: tuple[float, ...]
    steps: tuple[float, ...]
    variance: Variance
    grid: str
    least: float
    calls: int


@dataclass(frozen=True)
class FlowFigures:
    """The flow's negative log-likelihood.

    least: the noise-to-signal ratio at which the flow ends, near the data; calls: evaluations of the network for an
    example, on average over batches.
    """

    value: Interval
    least: float
    calls: float


@dataclass(frozen=True)
class Measurement:
    """What was measured, in `unit` ("bits/dim" or "nats/dim"), and everything needed to measure it again."""

    unit: str
    bound: BoundFigures | None
    flow: FlowFigures | None
    settings: dict[str, Any]

    def table(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"unit": self.unit, "bound": _plain(self.bound), "flow": _plain(self.flow)} | self.settings


def held_out(
    run: str | File, source: str | None = None, part: Split = "test", *, progress: Progress | None = None
) -> tuple[Dataset, np.ndarray]:
    """The data to measure a run's model on, prepared as its training data were, and which examples of it to use.

    source: other data than the run's own; an array is a test split as a whole. part: "test" is the data's own test
    split; "val" what the run held out of training, "train" what it saw. Raises ValueError where there are none.
    """
    model = find_model(run)
    recipe = model.parent / "recipe.toml"
    table: dict[str, Any] = tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    if part == "val" and not table:
        raise ValueError(f"{model} is not in a run's folder, whose recipe says what was held out. Use --split test.")
    own = table.get("data", {})
    if source is None and "source" not in own:
        own["source"] = json.loads(checkpoint.load_text(model, "config.json")).get("data") or ""
        if not own["source"]:
            raise ValueError(f"{model} does not say what it was trained on. Give --data SOURCE.")
    own |= {} if source is None else {"source": source, "val_fraction": 0.0}
    spec: DataSpec = from_table(DataSpec, own)
    if part == "test":
        if source is None and spec.source.endswith((".npy", ".npz")):
            raise ValueError(f"{spec.source} is one array, without a test split. Use --split val, or --data OTHER.npy.")
        data = load(replace(spec, split="test", limit=None), progress=progress)
        return data, np.arange(len(data))
    data = load(spec, progress=progress)
    mine, held = split(data, spec.val_fraction, int(table.get("train", {}).get("seed", 0)))
    rows = held if part == "val" else mine
    if not len(rows):
        raise ValueError(f"The run {model.parent} held nothing out of training (val_fraction = 0). Use --split test.")
    return data, rows


def measure(
    pipe: Pipeline,
    data: Dataset,
    n: int,
    *,
    rows: np.ndarray | None = None,
    bound: BoundSettings | None = None,
    flow: FlowSettings | None = None,
    seed: int = 0,
    batch_size: int = 32,
    watch: Watch | None = None,
) -> Measurement:
    """The likelihood of n examples of a data set, chosen at random by the seed from `rows` (all by default).

    bound, flow: what to measure, None for not. Each example is shown with its own conditions: its caption, numbers,
    what is shown of it, and its label where the data's classes are the model's, else the null label; guidance is 1 and
    nothing is clipped or mirrored. batch_size: examples in every pass; the last digits depend on it. Raises ValueError
    for data the model was not made for, and for what cannot be computed with it.
    """
    grid = bound.grid if bound is not None and bound.grid is not None else pipe.config.sampling.grid
    examples = _Examples.of(pipe, data, n, rows, seed, min(batch_size, n))
    jobs = sum(s is not None for s in (bound, flow))
    told = [(lambda share, k=k: watch((k + share) / jobs) if watch else None) for k in range(jobs)]
    found_bound = None if bound is None else _bound(examples, bound, grid, told.pop(0))
    found_flow = None if flow is None else _flow(examples, flow, told.pop(0))
    settings = {
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "of": len(data) if rows is None else len(rows),
            "rows": rows_hash(np.arange(len(data)) if rows is None else rows),
        },
        "n": len(examples.index),
        "seed": seed,
        "labels": examples.labels,
        "conditions": list(pipe.config.conditions.names),
        "guidance": 1.0,
        "bound_settings": None if bound is None else to_table(replace(bound, grid=grid)),
        "flow_settings": None if flow is None else to_table(flow),
        "dequantisation": "uniform in the bin" if flow is not None and examples.bin is not None else None,
        "batch_size": examples.size,
        "precision": "fp32" if pipe.model.autocast is None else "bf16",
        "device": pipe.device.type,
        "model": {"data": pipe.config.data, "trained": dict(pipe.config.trained)},
        "inkwash": __version__,
        "torch": torch.__version__,
    }
    return Measurement("nats/dim" if examples.bin is None else "bits/dim", found_bound, found_flow, settings)


def weights_hash(run: str | File) -> str | None:
    """SHA-256 of a model's weights, from its manifest; None where there is none."""
    file = find_model(run) / checkpoint.MANIFEST
    if not file.is_file():
        return None
    found: str | None = json.loads(file.read_text(encoding="utf-8"))["files"].get("model.safetensors", {}).get("sha256")
    return found


@dataclass(frozen=True)
class _Examples:
    """The chosen examples, in batches as the model takes them."""

    pipe: Pipeline
    data: Dataset
    index: np.ndarray
    labels: str
    asked: Requests | None
    seed: int
    size: int

    @classmethod
    def of(cls, pipe: Pipeline, data: Dataset, n: int, rows: np.ndarray | None, seed: int, size: int) -> _Examples:
        config = pipe.config
        if n < 1 or size < 1:
            raise ValueError(f"n and batch_size must be at least 1, not {n} and {size}.")
        if config.conditions.guidance is not None or not config.flows:
            raise ValueError(
                "The likelihood is that of a flow without guidance, at all its times, and this student has learned its "
                "teacher's guidance with the pictures, or a few times alone. Measure its teacher."
            )
        pipe.codec.log_scale(config.shape)  # of latents there is none, and that is said now
        if data.shape != config.shape or (data.images.dtype == np.uint8) != isinstance(config.codec, Pixels):
            raise ValueError(
                f"{data.name} has examples of shape {data.shape}, {data.images.dtype}, and the model was made for "
                f"{config.shape}, {'uint8' if isinstance(config.codec, Pixels) else 'float32'}. Use data like those it "
                f"was trained on{f' ({config.data})' if config.data else ''}."
            )
        rows = np.arange(len(data)) if rows is None else rows
        labels = "none"
        if config.classes:
            labels = "own" if data.labels is not None and data.classes == config.classes else "any class"
        index = rows[order(seed, 0, len(rows))[:n]]
        asked = requests(config, pipe.codec, data, index, pipe.device)
        return cls(pipe, data, index, labels, asked, seed, size)

    @property
    def bin(self) -> float | None:
        return self.pipe.codec.bin

    @property
    def dims(self) -> int:
        return math.prod(self.pipe.config.shape)

    def batches(self) -> Iterator[tuple[Tensor, Condition, Philox]]:
        """x [B, ...] on the device, its condition, and the noise of its examples' numbers in the data set."""
        device = self.pipe.device
        for start in range(0, len(self.index), self.size):
            index = self.index[start : start + self.size]
            x = self.pipe.codec.encode(torch.from_numpy(np.asarray(self.data.images[index])).to(device))
            noise = Philox(self.seed, torch.from_numpy(index.astype(np.int64)))
            if self.asked is not None:
                yield x, self.asked.of(index, index), noise
                continue
            label: Tensor | None = None
            if self.labels == "own" and self.data.labels is not None:
                label = torch.from_numpy(self.data.labels[index]).to(device)
            elif self.labels == "any class":
                label = torch.full((len(index),), -1, device=device)
            yield x, Condition(label), noise

    def told(self, watch: Watch, share: Callable[[Query], float]) -> _Told:
        return _Told(Chunked(self.pipe.model, self.size), watch, share, -(-len(self.index) // self.size))


@dataclass
class _Told:
    """A denoiser that counts, and says how far it is: share is of the work on one batch."""

    denoiser: Denoiser
    watch: Watch
    share: Callable[[Query], float]
    batches: int
    calls: int = 0
    batch: int = 0

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        self.calls += 1
        self.watch((self.batch + self.share(query)) / self.batches)
        return self.denoiser(query, cond)


def _bound(examples: _Examples, settings: BoundSettings, grid: Grid, watch: Watch) -> BoundFigures:
    model, codec = examples.pipe.model, examples.pipe.codec
    times = grid(model.path, settings.steps)
    times = torch.cat([torch.unique(model.path.snap(times[:-1])).flip(0), times[-1:]])  # in falling order, each once
    check(model.path, model.target, times[:-1])
    variance: Variance = settings.variance or ("learned" if model.learned_variance else "large")
    calls = 1 + (len(times) - 2 if settings.terms is None else settings.terms)
    denoiser = examples.told(watch, lambda query: (denoiser.calls - 1) % calls / calls)
    parts = []
    for x, cond, noise in examples.batches():
        found = discrete_bound(
            denoiser, model.path, times, x, cond, noise, variance=variance, bin=examples.bin, terms=settings.terms
        )
        parts.append(torch.cat([found.prior[None], found.steps]))
        denoiser.batch += 1
    watch(1.0)
    nats = torch.cat(parts, dim=1)
    if examples.bin is None:
        nats[-1] -= codec.log_scale(examples.pipe.config.shape)  # the last step's density, per unit of the data's own
    each = nats / (examples.dims * (1.0 if examples.bin is None else math.log(2)))
    return BoundFigures(
        prior=Interval.of(each[0]),
        middle=Interval.of(each[1:-1].sum(0)),
        last=Interval.of(each[-1]),
        total=Interval.of(each.sum(0)),
        times=tuple(times.tolist()),
        steps=tuple(each[1:].mean(1).tolist()),
        variance=variance,
        grid=in_text(grid),
        least=float(ratio(model.path(times[-2]))),
        calls=calls,
    )


def _flow(examples: _Examples, settings: FlowSettings, watch: Watch) -> FlowFigures:
    model, codec = examples.pipe.model, examples.pipe.codec
    end = torch.ones(1, dtype=torch.float64)
    check(model.path, model.target, end)
    least = flow_start(model.path, settings.smallest)
    low, high = math.atan(least), float(angle(model.path, end))

    def share(query: Query) -> float:
        here = float(angle(model.path, query.t).clamp(low, high).log().mean())
        return (here - math.log(low)) / math.log(high / low)

    denoiser = examples.told(watch, share)
    values = []
    for x, cond, noise in examples.batches():
        x = x if examples.bin is None else dequantised(x, examples.bin, noise)
        log_p = log_likelihood(
            denoiser,
            model.path,
            x,
            cond,
            noise,
            solver=settings.solver,
            trace=settings.trace,
            smallest=settings.smallest,
        )
        if examples.bin is None:
            values.append(-(log_p + codec.log_scale(examples.pipe.config.shape)) / examples.dims)
        else:
            values.append(bits_per_dim(log_p, examples.dims, examples.bin))
        denoiser.batch += 1
    watch(1.0)
    return FlowFigures(Interval.of(torch.cat(values)), least, denoiser.calls / denoiser.batch)


def trace_for(shape: tuple[int, ...], probes: int | None) -> Exact | Hutchinson:
    """Hutchinson's estimate with the probes asked for; otherwise the exact trace where it is possible, or one probe."""
    return Exact() if probes is None and math.prod(shape) <= MOST_EXACT else Hutchinson(probes or 1)


def _plain(figures: BoundFigures | FlowFigures | None) -> dict[str, Any] | None:
    return None if figures is None else asdict(figures)


def bound_plot(found: Measurement) -> Image:
    """The bound's steps against their times, on a logarithmic scale. Raises ValueError where no bound was measured."""
    from inkwash.pictures import line_plot

    if found.bound is None:
        raise ValueError("Only the flow was measured: there is no bound to draw. Measure it as well.")
    at, steps = found.bound.times[:-1], found.bound.steps
    total = found.bound.total.mean
    return line_plot(
        {"bound": (at[::-1], [math.log10(v) if v > 0 else math.nan for v in steps[::-1]])},
        title=f"The bound step by step: {total:.3f} {found.unit} in all",
        xlabel="t, from which the step leads to the next smaller one",
        ylabel=f"log10 of {found.unit} of a step",
        smooth=False,
    )
