"""From a model's folder to new pictures: `pipe = load("runs/demo"); pipe(16, label="Sneaker")`.

A picture depends on the model, the seed, its index and the sampling settings, and on nothing else: not on how many are
drawn with it, nor in batches of which size.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from inkwash._version import __version__
from inkwash.codec import Codec, Pixels
from inkwash.device import pick_device
from inkwash.drive import Watch, drive
from inkwash.edit import Edit, clean_time, invert
from inkwash.grids import Grid
from inkwash.guidance import Along, Chunked, Clipped, Guided, same_noise
from inkwash.kinds import to_table
from inkwash.model import Model, Prepared
from inkwash.modelfolder import Config, load_whole
from inkwash.noise import Philox, Stream
from inkwash.sampling import Sampling
from inkwash.targets import check
from inkwash.types import Condition, Denoised, Denoiser, Path, Query, Sampler

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

CHUNK = {"cpu": 2, "mps": 32, "cuda": 64}
"""Pictures in every forward pass, by device; the last bits depend on it.

A single picture pays for a whole chunk. Two, which guidance makes four, cost the CPU a seventh of its speed in large
batches, and spare a single picture six others.
"""

VECTORS = 2048
"""Vectors in every forward pass; each is a thousandth of a picture's work."""


@dataclass(frozen=True)
class Samples:
    """What a pipeline drew: `array` [n, H, W, C] uint8 (floats for models of floats, [n, D] for vectors) and how.

    labels: the class name of each, or () without classes; settings: everything needed to draw them again.
    """

    array: np.ndarray
    labels: tuple[str, ...]
    settings: dict[str, Any]
    codec: Codec = field(default_factory=Pixels)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, i: int) -> Image:
        """Sample i as a picture."""
        from PIL.Image import fromarray

        picture = replace(self, array=self.array[[i]]).pictures()[0]
        return fromarray(picture[..., 0] if picture.shape[-1] < 3 else picture[..., :3])

    def pictures(self) -> np.ndarray:
        """All samples as 8-bit pictures [n, H, W, C]."""
        shown: np.ndarray = self.codec.picture(torch.from_numpy(self.array)).numpy()
        return shown


class Pipeline:
    """A loaded model, ready to draw: call it. See `load`.

    chunk: pictures in every forward pass, `CHUNK` by default; part of what a picture depends on, and of its settings.
    codec: the config's with its weights, where it has any; ValueError where they are missing.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        device: torch.device,
        chunk: int | None = None,
        codec: Codec | None = None,
    ) -> None:
        self.config = config
        self.model = model
        self.codec = (config.codec.bind() if codec is None else codec).to(device)
        self.device = device
        self.chunk = chunk or (CHUNK.get(device.type, 8) if len(config.shape) == 3 else VECTORS)
        model.net.to(device).eval()

    def __call__(
        self,
        n: int = 1,
        *,
        label: str | int | Sequence[str | int] | None = None,
        steps: int | Sequence[float] | None = None,
        sampler: Sampler | str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        grid: Grid | str | None = None,
        path: Path | str | None = None,
        size: int | Sequence[int] | None = None,
        seed: int = 0,
        first: int = 0,
        batch_size: int = 128,
        edit: Edit | None = None,
        watch: Callable[[float], None] | None = None,
        trace: Watch | None = None,
    ) -> Samples:
        """Draw n samples.

        label: a class name or index for all, one for each sample, or None for every class in turn; steps: a number, or
        a decreasing list of times within [0, 1]; sampler: an instance or its name ("heun", "dpm++(order=3)"); eta: of
        DDIM, which it implies; guidance: 1 is off; grid: which times are visited ("karras"); path: another path than
        the model's to sample along ("ve"); size: of the pictures, (height, width), or one number for both; the network
        has learned that of training, the default, and draws others as it can; first: the number of the first of them:
        64 from 1000 on are the last 64 of 1064; batch_size: how many are in flight at once (memory only: it changes no
        bit); edit: start from a picture, or keep to one (`inkwash.edit`); watch is told the fraction done after every
        call; trace sees each query and answer of the first batch.

        What is None comes from the model's own settings. Raises ValueError for settings or a label that do not fit it.
        """
        if n < 1 or batch_size < 1:
            raise ValueError(f"n and batch_size must be at least 1, not {n} and {batch_size}.")
        if first < 0:
            raise ValueError(f"first = {first} must be at least 0: samples are numbered from there.")
        own = self.settings(steps=steps, sampler=sampler, eta=eta, guidance=guidance, grid=grid, path=path)
        labels = self._labels(n, label, first)
        shape = self._shape(size)
        edit = edit or Edit()
        self._refuse_pictures(edit, shape)
        times = edit.times(own.times(self.model.path, edit.time))
        falls = float(-times[:, 0].diff().clamp(max=0).sum())  # a grid may go up as well
        check(self.model.path, self.model.target, own.asked(self.model.path, times[:-1]))
        # Batches start at multiples of the chunk, so that a picture also keeps its place in its chunk: what comes
        # before the first is drawn with it and dropped.
        block = -(-batch_size // self.chunk) * self.chunk
        starts = range(first - first % self.chunk, first + n, block)
        pieces = []
        for number, start in enumerate(starts):
            kept = slice(max(first - start, 0), min(first + n - start, block))
            rows = _filled(start, kept.stop, self.chunk)
            cond = Condition(None if labels is None else labels[(rows - first).clamp(min=0)].to(self.device))
            fallen, last = 0.0, float(times[0])

            def told(query: Query, answer: Denoised, number: int = number, kept: slice = kept) -> None:
                nonlocal fallen, last
                now = float(query.t[0])
                fallen, last = fallen + max(last - now, 0.0) / falls, now
                if watch is not None:
                    watch((number + min(fallen, 1.0)) / len(starts))
                if trace is not None and number == 0:
                    x, t, s = (part[kept] for part in query)
                    trace(Query(x, t, s), Denoised(answer.x0[kept], answer.eps[kept]))

            seen = None if watch is None and trace is None else told
            drawn = self._draw(rows, shape, cond, own, edit, times.expand(-1, len(rows)), Philox(seed, rows), seen)
            pieces.append(self.codec.decode(drawn)[kept].cpu())  # before the cut, each in its place
        if watch is not None:
            watch(1.0)
        settings = {
            "n": n,
            "seed": seed,
            **({"first": first} if first else {}),
            **({} if shape == self.config.shape else {"size": list(self.config.codec.pictured(shape)[1:])}),
            **self.described(own),
            "label": list(label) if isinstance(label, Sequence) and not isinstance(label, str) else label,
            **edit.settings(),
        }
        names = () if labels is None else tuple(self.config.classes[i] if i >= 0 else "any" for i in labels.tolist())
        return Samples(torch.cat(pieces).numpy(), names, settings, self.codec)

    def encode(
        self,
        x0: Tensor,
        *,
        label: str | int | Sequence[str | int] | None = -1,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | str | None = None,
        path: Path | str | None = None,
        time: float = 1.0,
    ) -> Tensor:
        """The latents at `time` from which sampling leads back to x0 [n, *shape], encoded data: see `edit.invert`.

        label: as in a call; -1, the default, is any class, also for models without classes. Without guidance. Give them
        back with `edit=Decode(latents, time)` and the same settings, whose times are visited upwards. Raises ValueError
        as a call does, and for a sampler that draws noise.
        """
        n, trained = len(x0), self.model.path
        own = self.settings(steps=steps, sampler=sampler, guidance=1.0, grid=grid, path=path)
        labels = self._labels(n, label if self.config.classes or label != -1 else None)
        along = own.path or trained
        clean = torch.tensor(clean_time(trained), dtype=torch.float64)
        first = float(clean if own.path is None else same_noise(along, trained, clean))
        if not first < time <= 1:
            raise ValueError(f"time = {time} must lie between {first:.3g}, where this path is clean, and 1.")
        grown = own.times(trained, time).flatten().flip(0)
        times = torch.cat([grown.new_tensor([first]), grown[grown > first * (1 + 1e-9)]])
        check(trained, self.model.target, own.asked(trained, times))
        cond = Condition(None if labels is None else labels.to(self.device))
        x0 = x0.to(self.device)
        return invert(own.method, self._denoiser(own, times, x0), along, x0, times[:, None].expand(-1, n), cond)

    def _denoiser(self, own: Sampling, times: Tensor, x: Tensor) -> Denoiser:
        """The model asked as these settings say, whole chunks of rows like x's at these times [N]."""
        denoiser: Denoiser = Prepared(self.model, own.asked(self.model.path, times), x)
        if own.path is not None:
            denoiser = Along(denoiser, self.model.path, own.path)
        if own.guidance != 1:
            denoiser = Guided(denoiser, own.guidance)
        return Chunked(denoiser, self.chunk)

    def _draw(
        self,
        rows: Tensor,
        shape: tuple[int, ...],
        cond: Condition,
        own: Sampling,
        edit: Edit,
        times: Tensor,
        noise: Philox,
        watch: Watch | None,
    ) -> Tensor:
        """The samples of one batch, before decoding."""
        path = own.path or self.model.path
        z = noise(torch.empty(len(rows), *shape, device=self.device), 0, Stream.START)
        x = edit.start(path, times[0], z, rows)
        denoiser = edit.denoiser(self._denoiser(own, times[:, 0], x), path, rows)
        if own.clip:
            denoiser = Clipped(denoiser, path)
        return drive(edit.method(own.method)(path, x, times, noise), denoiser, cond, watch)

    def settings(self, **changes: Any) -> Sampling:
        """The model's own sampling settings with changes (`Sampling.changed`). Raises ValueError if they do not fit."""
        own = self.config.sampling.changed(**changes)
        if own.guidance != 1 and not self.config.classes:
            whose = " (the model's own setting)" if changes.get("guidance") is None else ""
            raise ValueError(
                f"guidance = {own.guidance}{whose} needs a model with classes, and this one was trained without. "
                "Use guidance = 1."
            )
        return own

    def described(self, own: Sampling) -> dict[str, Any]:
        """All but the seed, the labels and an edit that samples drawn with these settings depend on; JSON-able."""
        return {
            "sampler": to_table(own.method),
            "steps": own.steps,
            "grid": to_table(own.grid),
            **({} if own.path is None else {"path": to_table(own.path)}),
            "guidance": own.guidance,
            "clip": own.clip,
            "precision": "fp32" if self.model.autocast is None else "bf16",
            "device": self.device.type,
            "chunk": self.chunk,
            "data": self.config.data,
            "trained": self.config.trained,
            "inkwash": __version__,
        }

    def _shape(self, size: int | Sequence[int] | None) -> tuple[int, ...]:
        """The shape of x for pictures of a size; ValueError for one that the network or the codec cannot make."""
        trained = self.config.shape
        if size is None:
            return trained
        if len(trained) != 3:
            raise ValueError(f"size = {size} is for models of pictures, and this one draws {trained[0]} numbers each.")
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shrunk = self.config.pictures[1] // trained[1]  # by the codec
        factor = shrunk * int(getattr(self.model.net, "factor", 1))
        if len(sides) != 2 or min(sides) < 1 or any(side % factor for side in sides):
            asked = sides if len(sides) == 2 else self.config.pictures[1:]
            fits = ", ".join(str(max(1, round(side / factor)) * factor) for side in asked)
            raise ValueError(
                f"size = {size} does not fit this model: give (height, width), both multiples of {factor}, for example "
                f"({fits}). It was trained on {' x '.join(map(str, self.config.pictures[1:]))}."
            )
        return trained[0], sides[0] // shrunk, sides[1] // shrunk

    def _refuse_pictures(self, edit: Edit, shape: tuple[int, ...]) -> None:
        """Raise ValueError for an edit of pictures where latents are diffused."""
        for name in ("x0", "x", "y"):
            x, (seen, here) = getattr(edit, name, None), (self.config.codec.pictured(shape), shape)
            if isinstance(x, Tensor) and tuple(x.shape[1:]) == seen != here:
                raise ValueError(
                    f"{name} is a picture {list(seen)}, and this model diffuses latents {list(here)}. Encode it first, "
                    f"with inkwash.editing.encoded(pipe, {name})."
                )

    def _labels(self, n: int, label: str | int | Sequence[str | int] | None, first: int = 0) -> Tensor | None:
        """Class indices [n] for what was asked; None for a model without classes."""
        classes = self.config.classes
        if not classes:
            if label is not None:
                raise ValueError(f"label = {label!r} was asked for, but this model was trained without classes.")
            return None
        if label is None:
            return torch.arange(first, first + n) % len(classes)
        if isinstance(label, (str, int)):
            return torch.full((n,), find_class(classes, label))
        if len(label) != n:
            raise ValueError(f"{len(label)} labels were given for n = {n} samples. Give one, or one for each.")
        return torch.tensor([find_class(classes, one) for one in label])


def _filled(start: int, count: int, chunk: int) -> Tensor:
    """The numbers of `count` samples from `start`, the last chunk filled up with its first: once, not at every step."""
    rows = torch.arange(start, start + count)
    return torch.cat([rows, rows[count // chunk * chunk :][:1].expand(-count % chunk)])


def load(
    run: str | File,
    *,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] = "fp32",
    chunk: int | None = None,
    trust: bool = False,
) -> Pipeline:
    """Load a model from its folder, or from the run's folder it is in, ready to be called.

    device: auto, cpu, cuda or mps; precision: what the network computes in; chunk: see `Pipeline`; 64 draws thousands
    of pictures faster on a CPU, above all in bf16; trust: whether classes from outside the package, named in the
    model's config, may be imported. Raises ValueError where there is no model.
    """
    where = pick_device(device)
    config, model, codec = load_whole(run, trust=trust)
    model.autocast = torch.bfloat16 if precision == "bf16" else None
    return Pipeline(config, model, where, chunk, codec)


def find_class(classes: Sequence[str], label: str | int) -> int:
    """The index of a class given by name (in any case where that says which) or index; -1 is the null label, "any".

    Raises ValueError with the nearest names for one that does not exist.
    """
    text = str(label).strip()
    if text in classes:
        return classes.index(text)
    by_name = {c.casefold(): i for i, c in enumerate(classes)}
    same = [c for c in classes if c.casefold() == text.casefold()]
    if len(same) > 1:
        raise ValueError(f"Class {text!r} could be {' or '.join(same)}. Write it as one of them.")
    if same:
        return classes.index(same[0])
    if text.removeprefix("-").isdigit():
        if -1 <= int(text) < len(classes):
            return int(text)
        raise ValueError(f"There is no class {text}: indices go from 0 to {len(classes) - 1}, and -1 is any class.")
    near = [classes[by_name[m]] for m in difflib.get_close_matches(text.casefold(), by_name, 3, 0.4)]
    hint = f"Did you mean {' or '.join(near)}?" if near else f"The classes are {', '.join(classes[:20])}."
    raise ValueError(f"This model has no class {text!r}. {hint}")
