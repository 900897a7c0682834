"""From a model's folder to new pictures: `pipe = load("runs/demo"); pipe(16, label="Sneaker")`.

A picture depends on the model, the seed, its index and the sampling settings, and on nothing else: not on how many are
drawn with it, nor in batches of which size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from inkwash._version import __version__
from inkwash.asking import Ask, check_alike, check_guidance, encoder_of, hideable
from inkwash.codec import Codec
from inkwash.device import pick_device
from inkwash.drive import Watch, drive
from inkwash.earlier import split_step, weights_at
from inkwash.edit import Edit, clean_time, invert, refuse_pictures
from inkwash.grids import Grid
from inkwash.guidance import Along, Cfg, Chunked, Clipped, Fitted, Rule, same_noise
from inkwash.kinds import to_table
from inkwash.model import Model, Prepared
from inkwash.modelfolder import Config, load_whole, model_hash
from inkwash.noise import Philox, Stream
from inkwash.samples import Samples
from inkwash.sampling import Sampling
from inkwash.targets import check
from inkwash.types import Condition, Denoised, Denoiser, Path, Query, Sampler

if TYPE_CHECKING:
    from inkwash.text import Encoder, Tokens

CHUNK = {"cpu": 2, "mps": 32, "cuda": 64}
"""Pictures in every forward pass, by device; the last bits depend on it.

A single picture pays for a whole chunk. Two, which guidance makes four, cost the CPU a seventh of its speed in large
batches, and spare a single picture six others.
"""

VECTORS = 2048
"""Vectors in every forward pass; each is a thousandth of a picture's work."""


class Pipeline:
    """A loaded model, ready to draw: call it. See `load`.

    chunk: pictures in every forward pass, `CHUNK` by default; part of what a picture depends on, and of its settings.
    codec: the config's with its weights, where it has any; ValueError where they are missing. trust: as in `load`.
    """

    def __init__(
        self,
        config: Config,
        model: Model,
        device: torch.device,
        chunk: int | None = None,
        codec: Codec | None = None,
        trust: bool = False,
    ) -> None:
        self.config = config
        self.model = model
        self.codec = (config.codec.bind() if codec is None else codec).to(device)
        self.device = device
        self.chunk = chunk or (CHUNK.get(device.type, 8) if len(config.shape) == 3 else VECTORS)
        model.net.to(device).eval()
        self.trust = trust
        self._encoder: Encoder | None = None
        self._weaker: dict[str, Pipeline] = {}

    def __call__(
        self,
        n: int | None = None,
        *,
        label: str | int | Sequence[str | int] | None = None,
        prompt: str | Sequence[str] | None = None,
        negative: str | Sequence[str] | None = None,
        also: Mapping[str, float] | None = None,
        vector: Any = None,
        image: Any = None,
        mask: Any = None,
        cond: Condition | None = None,
        steps: int | Sequence[float] | None = None,
        sampler: Sampler | str | None = None,
        eta: float | None = None,
        guidance: float | None = None,
        rule: Rule | str | None = None,
        interval: Sequence[float] | str | None = None,
        weak: Pipeline | str | File | None = None,
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
        """Draw n samples; by default as many as were asked for in a list (of prompts, of pictures), or 1.

        What to show, each for all samples or in a list for each (docs/conditions.md, "Asking"). label: a class name or
        index, -1 for any. prompt: a text; negative: one that guidance pushes away from; also: further texts that are
        followed, with their weights. vector: numbers in the data's units, by name or in order. image: a picture in any
        form (a file, a folder, uint8, Pillow's, another model's samples); mask: white where to fill it in. cond: rows
        of a data set instead, as `asking.condition_of` gives them. What is None is left open; of a model of classes
        that is asked for nothing, every class is drawn in turn.

        How: steps: a number, or a decreasing list of times within [0, 1]; sampler: an instance or its name ("heun",
        "dpm++(order=3)"); eta: of DDIM, which it implies; guidance: 1 is off; a student that is told it takes those
        it learned; rule: how it is done ("apg"); interval: of sigma/alpha, outside of which it is off; weak: another
        model, a run's folder, or RUN@STEP for an earlier step of one, to push away from; grid: which times are visited
        ("karras"); path: another one to sample along ("ve"); size: of the pictures, (height, width), or one number for
        both; the network has learned that of training, the default, and draws others as it can; first: the number of
        the first: 64 from 1000 on are the last 64 of 1064; batch_size: how many are in flight at once (memory only: it
        changes no bit); edit: start from a picture, or keep to one (`inkwash.edit`); watch is told the fraction done
        after every call; trace sees each query and answer of the first batch.

        What is None comes from the model's own settings. Raises ValueError for what does not fit the model, saying what
        it takes.
        """
        ask = Ask(label, prompt, negative, also, vector, image, mask, cond)
        ask.check(self.config)
        n = ask.count(self.config) if n is None else n
        if n < 1 or batch_size < 1:
            raise ValueError(f"n and batch_size must be at least 1, not {n} and {batch_size}.")
        if first < 0:
            raise ValueError(f"first = {first} must be at least 0: samples are numbered from there.")
        other = self._other(weak)
        own = self.settings(
            weak=other is not None, negative=negative is not None, also=bool(also),
            steps=steps, sampler=sampler, eta=eta, guidance=guidance, rule=rule, interval=interval, grid=grid,
            path=path,
        )  # fmt: skip
        shape = self._shape(size)
        asked = ask.understood(self.config, n, first, self.config.codec.pictured(shape), self._read, guidance)
        edit = edit or Edit()
        refuse_pictures(edit, self.config.codec.pictured(shape), shape)
        times = edit.times(own.times(self.model.path, edit.time))
        falls = float(-times[:, 0].diff().clamp(max=0).sum())  # a grid may go up as well
        check(self.model.path, self.model.target, own.asked(self.model.path, times[:-1]))
        if edit.time == 1:  # an edit begins at any time, between those learned
            self.config.refuse(own)
        # Batches start at multiples of the chunk, so that a picture also keeps its place in its chunk: what comes
        # before the first is drawn with it and dropped.
        block = -(-batch_size // self.chunk) * self.chunk
        starts = range(first - first % self.chunk, first + n, block)
        pieces = []
        for number, start in enumerate(starts):
            kept = slice(max(first - start, 0), min(first + n - start, block))
            rows = _filled(start, kept.stop, self.chunk)
            noise, at = Philox(seed, rows), (rows - first).clamp(min=0)
            cond_here = asked.rows(at, self.config, self.codec, shape, noise, self.device)
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
            each = times.expand(-1, len(rows))
            drawn = self._draw(rows, shape, cond_here, own, other, edit, each, noise, seen)
            pieces.append(self.codec.decode(drawn)[kept].cpu())  # before the cut, each in its place
        if watch is not None:
            watch(1.0)
        settings = {
            "n": n,
            "seed": seed,
            **({"first": first} if first else {}),
            **({} if shape == self.config.shape else {"size": list(self.config.codec.pictured(shape)[1:])}),
            **self.described(own),
            **asked.settings,
            **({} if other is None else {"weak": _named(other, weak)}),
            **edit.settings(),
        }
        return Samples(torch.cat(pieces).numpy(), asked.labels, settings, self.codec, asked.captions, asked.shown)

    def encode(
        self,
        x0: Tensor,
        *,
        label: str | int | Sequence[str | int] | None = -1,
        prompt: str | Sequence[str] | None = None,
        vector: Any = None,
        image: Any = None,
        mask: Any = None,
        cond: Condition | None = None,
        steps: int | None = None,
        sampler: Sampler | str | None = None,
        grid: Grid | str | None = None,
        path: Path | str | None = None,
        time: float = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """The latents at `time` from which sampling leads back to x0 [n, *shape], encoded data: see `edit.invert`.

        label, prompt, vector, image, mask, cond: what x0 shows, as in a call; -1, the default, is any class, also for
        models without classes. seed: for a task that draws noise. Without guidance. Give them back with
        `edit=Decode(latents, time)` and the same settings, whose times are visited upwards. Raises ValueError as a call
        does, and for a sampler that draws noise.
        """
        n, trained = len(x0), self.model.path
        own = self.settings(steps=steps, sampler=sampler, guidance=self.unguided, grid=grid, path=path)
        ask = Ask(label, prompt, None, None, vector, image, mask, cond)
        if ask.label == -1 and (not self.config.classes or cond is not None):
            ask = replace(ask, label=None)
        asked = ask.understood(self.config, n, 0, self.config.codec.pictured(tuple(x0.shape[1:])), self._read)
        along = own.path or trained
        clean = torch.tensor(clean_time(trained), dtype=torch.float64)
        first = float(clean if own.path is None else same_noise(along, trained, clean))
        if not first < time <= 1:
            raise ValueError(f"time = {time} must lie between {first:.3g}, where this path is clean, and 1.")
        grown = own.times(trained, time).flatten().flip(0)
        times = torch.cat([grown.new_tensor([first]), grown[grown > first * (1 + 1e-9)]])
        check(trained, self.model.target, own.asked(trained, times))
        self.config.refuse(own, times[:, None])
        rows = torch.arange(n)
        shown = asked.rows(rows, self.config, self.codec, tuple(x0.shape[1:]), Philox(seed, rows), self.device)
        x0 = x0.to(self.device)
        return invert(own.method, self._denoiser(own, None, times, x0), along, x0, times[:, None].expand(-1, n), shown)

    def ends(self, rows: Tensor, cond: Condition, own: Sampling, seed: int) -> Tensor:
        """Where the samples of the numbers `rows` [n] end, as they are diffused: x [n, *shape], not decoded.

        cond: what each is asked for, as `asking.condition_of` gives it; own: `settings`.
        """
        times = own.times(self.model.path).expand(-1, len(rows))
        return self._draw(rows, self.config.shape, cond, own, None, Edit(), times, Philox(seed, rows), None)

    def guided(self, own: Sampling, trained: Path, denoiser: Denoiser, weak: Denoiser | None = None) -> Denoiser:
        """This model's answers with the guidance of these settings: pushed, or told the scale where it is told it.

        trained: the path of the queries, unless the settings name one.
        """
        told = self.config.conditions
        denoiser, pushed = told.tell(denoiser, own.guidance), replace(own, guidance=told.pushed(own.guidance))
        return pushed.guided(denoiser, hideable(self.config), trained, weak)

    @property
    def unguided(self) -> float:
        """The scale at which it is drawn without guidance: 1, or the nearest of those that it learned to be told."""
        told = self.config.conditions.guidance
        return 1.0 if told is None else told.nearest(1.0)

    def _denoiser(self, own: Sampling, weak: Pipeline | None, times: Tensor, x: Tensor) -> Denoiser:
        """The model asked as these settings say, whole chunks of rows like x's at these times [N]."""
        path = own.path or self.model.path
        both = [_along(model, path, times, x) for model in (self.model, *([] if weak is None else [weak.model]))]
        denoiser = self.guided(own, self.model.path, *both)
        if (text := self.config.conditions.text) is not None and text.length is not None:
            denoiser = Fitted(denoiser, text.length, text.encoder.max_tokens)
        return Chunked(denoiser, self.chunk)

    def _draw(
        self,
        rows: Tensor,
        shape: tuple[int, ...],
        cond: Condition,
        own: Sampling,
        weak: Pipeline | None,
        edit: Edit,
        times: Tensor,
        noise: Philox,
        watch: Watch | None,
    ) -> Tensor:
        """The samples of one batch, before decoding."""
        path = own.path or self.model.path
        z = noise(torch.empty(len(rows), *shape, device=self.device), 0, Stream.START)
        x = edit.start(path, times[0], z, rows)
        denoiser = edit.denoiser(self._denoiser(own, weak, times[:, 0], x), path, rows)
        if own.clip:
            denoiser = Clipped(denoiser, path)
        return drive(edit.method(own.method)(path, x, times, noise), denoiser, cond, watch)

    def settings(self, *, weak: bool = False, negative: bool = False, also: bool = False, **changes: Any) -> Sampling:
        """The model's own sampling settings with changes (`Sampling.changed`). Raises ValueError if they do not fit.

        weak, negative: whether there is another model, or a text, to push away from; also: whether there are further
        texts to follow, which is guidance at every scale.
        """
        own = self.config.sampling.changed(**changes)
        whose = " (the model's own setting)" if changes.get("guidance") is None else ""
        check_guidance(self.config, own, weak=weak, negative=negative, also=also, whose=whose)
        return own

    def described(self, own: Sampling) -> dict[str, Any]:
        """All but the seed, the labels and an edit that samples drawn with these settings depend on; JSON-able."""
        return {
            "sampler": to_table(own.method),
            "steps": own.steps,
            "grid": to_table(own.grid),
            **({} if own.path is None else {"path": to_table(own.path)}),
            "guidance": own.guidance,
            **({} if own.rule == Cfg() else {"rule": to_table(own.rule)}),
            **({} if own.interval is None else {"interval": list(own.interval)}),
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

    def _read(self, texts: Sequence[str]) -> Tokens:
        """The tokens of texts, by the model's own encoder, which is loaded when it is first asked."""
        assert self.config.conditions.text is not None
        if self._encoder is None:
            self._encoder = encoder_of(self.config.conditions.text, self.device)
        return self._encoder.encode(texts)

    def _other(self, weak: Pipeline | str | File | None) -> Pipeline | None:
        """The weaker model, loaded once. Raises ValueError for one that cannot be asked what this one is."""
        if weak is None:
            return None
        if not isinstance(weak, Pipeline):
            if str(weak) not in self._weaker:
                device, precise = str(self.device), self.model.autocast is None
                self._weaker[str(weak)] = load(
                    weak, device=device, precision="fp32" if precise else "bf16", chunk=self.chunk, trust=self.trust
                )
            weak = self._weaker[str(weak)]
        check_alike(self.config, weak.config)
        return weak


def _named(other: Pipeline, weak: Pipeline | str | File | None) -> dict[str, str]:
    """A weaker model as settings have it: by what it is, and by its place where it was given so."""
    place = {} if weak is other else {"model": str(weak)}
    return place | {"sha256": model_hash(other.config, other.model)}


def _along(model: Model, path: Path, times: Tensor, x: Tensor) -> Denoiser:
    """A model asked along a path, about rows like x's at these times [N] of it."""
    if path == model.path:
        return Prepared(model, times, x)
    return Along(Prepared(model, same_noise(model.path, path, times), x), model.path, path)


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
    """Load a model from its folder, or from the run's folder it is in, ready to be called; RUN@STEP as it was then.

    device: auto, cpu, cuda or mps; precision: what the network computes in; chunk: see `Pipeline`; 64 draws thousands
    of pictures faster on a CPU, above all in bf16; trust: whether classes from outside the package, named in the
    model's config, may be imported. Raises ValueError where there is no model.
    """
    where = pick_device(device)
    run, step = split_step(run)
    config, model, codec = load_whole(run, trust=trust)
    if step is not None:
        config, weights = weights_at(run, step, config)
        model.net.load_state_dict(weights)
    model.autocast = torch.bfloat16 if precision == "bf16" else None
    return Pipeline(config, model, where, chunk, codec, trust)
