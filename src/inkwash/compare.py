"""The same pictures drawn in several ways: samplers, guidance, numbers of steps, with seconds and calls."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from inkwash import pictures
from inkwash.grids import AnyGrid
from inkwash.guidance import AnyRule
from inkwash.kinds import from_text, in_text
from inkwash.pipeline import Pipeline
from inkwash.samplers import AnySampler
from inkwash.samples import Samples
from inkwash.sampling import EVERYWHERE, MOST_STEPS, Sampling
from inkwash.types import Denoised, Query

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Way:
    """One way to draw: its row, the number its column asks for (None: the sampler takes no number), and settings."""

    row: str
    column: int | None
    settings: Sampling

    @property
    def sampler(self) -> str:
        """The sampler as it is written on a command line."""
        return in_text(self.settings.method)


@dataclass(frozen=True)
class Drawn:
    """What a way drew: the samples, the network's calls for each of them, and the seconds for all together."""

    way: Way
    samples: Samples
    calls: int
    seconds: float


class ComparisonError(ValueError):
    """Ways that do not exist or do not fit the model: `mistakes` has all of them."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = list(mistakes)


_AWAY = ("weak", "negative")
"""What guidance pushes away from, and what a guidance of 1 does not take."""


def ways(
    pipe: Pipeline,
    samplers: Sequence[str],
    counts: Sequence[int],
    *,
    by: Literal["steps", "calls"] = "steps",
    grids: Sequence[str] = (),
    guidance: float | Sequence[float] | None = None,
    rules: Sequence[str] = (),
    **changes: Any,
) -> list[Way]:
    """Every sampler on every grid, at every guidance, by every rule, with every count, tried without the network.

    What is not given is the model's own. changes: others of its settings, as `Pipeline.settings` takes them, for all.
    by: what the counts say: steps, or calls, where a sampler takes as many steps as make that many calls or just fewer.
    A sampler that chooses its own steps, and a listed grid, which has its own, come once, and so does what is asked
    for twice, and a guidance of 1, of which no rule makes anything else. Beside others it is drawn without what they
    are pushed away from. Raises ComparisonError.
    """
    mistakes: list[str] = []
    if wrong := [n for n in counts if n < 1]:
        mistakes.append(f"{by} = {', '.join(map(str, wrong))}: a sampler needs at least 1.")
    if many := [n for n in counts if n > MOST_STEPS]:
        mistakes.append(f"{by} = {', '.join(map(str, many))}: at most {MOST_STEPS} can be compared.")
    for what, union, texts in (("sampler", AnySampler, samplers), ("grid", AnyGrid, grids), ("rule", AnyRule, rules)):
        for text in texts:
            _noted(mistakes, from_text, union, text, what)
    one = guidance is None or isinstance(guidance, int | float)
    given: Any = [guidance] if one else guidance
    scales = list(dict.fromkeys(given)) or [None]

    def settings(scale: float | None, **more: Any) -> Sampling:
        alone = scale == 1 and len(scales) > 1 and not changes.get("also")
        return pipe.settings(guidance=scale, **{k: v for k, v in changes.items() if not (alone and k in _AWAY)}, **more)

    for scale in scales:
        _noted(mistakes, settings, scale)
    if mistakes:
        raise ComparisonError(mistakes)
    found: list[Way] = []
    spacings: list[str | None] = [*_once(AnyGrid, grids)] or [None]
    manners: list[str | None] = [*_once(AnyRule, rules)] or [None]
    counts = list(dict.fromkeys(counts))
    for sampler, grid, scale, rule in product(_once(AnySampler, samplers), spacings, scales, manners):
        off = not changes.get("also") and (pipe.config.sampling.guidance if scale is None else scale) == 1
        if off and rule != manners[0]:
            continue
        row = sampler if len(spacings) < 2 else f"{sampler} on {grid}"
        row += f", guidance {scale:g}" if scale is not None and len(scales) > 1 else ""
        row += f", {rule}" if len(manners) > 1 and not off else ""
        own = _noted(mistakes, settings, scale, sampler=sampler, grid=grid, rule=None if off else rule)
        if own is None:
            continue
        if (alone := _noted(mistakes, pipe.config.own_steps, own)) is not None:
            tried = [_noted(mistakes, _way, pipe, row, own, n, by) for n in ([None] if alone else counts)]
            found += [way for way in tried if way is not None]
    if mistakes:
        raise ComparisonError(list(dict.fromkeys(mistakes)))
    return found


def steps_for(pipe: Pipeline, own: Sampling, calls: int) -> int:
    """The most steps that make no more than `calls` calls, of a sampler that is asked for steps; 0: not one does."""
    low, high = 0, calls + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if pipe.config.calls(own.changed(steps=middle)) <= calls else (low, middle)
    return low


def draw(
    pipe: Pipeline,
    these: Sequence[Way],
    n: int,
    *,
    seed: int = 0,
    watch: Callable[[float], None] | None = None,
    **told: Any,
) -> list[Drawn]:
    """n samples in each way, all from the same noise, and asked for the same.

    told: label, prompt, vector, weak ..., as in a pipeline's call. The network is run once before the clock is looked
    at. Raises ValueError for what the model does not take.
    """
    found = []
    with suppress(_WarmError):
        _run(pipe, these[0].settings, n, seed, **told, trace=_warm)
    for number, way in enumerate(these):
        calls = 0

        def count(query: Query, answer: Denoised) -> None:
            nonlocal calls
            calls += 1

        def heard(fraction: float, number: int = number) -> None:
            if watch is not None:
                watch((number + fraction) / len(these))

        began = time.perf_counter()
        samples = _run(pipe, way.settings, n, seed, **told, watch=heard, trace=count)
        found.append(Drawn(way, samples, calls, time.perf_counter() - began))
    return found


class _WarmError(Exception):
    """The network has run once: no mistake."""


def _warm(query: Query, answer: Denoised) -> None:
    raise _WarmError


def _run(pipe: Pipeline, own: Sampling, n: int, seed: int, **told: Any) -> Samples:
    if own.guidance == 1 and not told.get("also"):
        told = {name: said for name, said in told.items() if name not in _AWAY}
    return pipe(
        n,
        steps=own.steps,
        sampler=own.method,
        guidance=own.guidance,
        rule=own.rule,
        interval=own.interval or EVERYWHERE,
        grid=own.grid,
        path=own.path,
        seed=seed,
        batch_size=n,
        **told,
    )


def _once(union: Any, texts: Sequence[str]) -> list[str]:
    """The texts without those that say again what another has said."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(in_text(from_text(union, text, "")), text)
    return list(found.values())


def comparison(
    found: Sequence[Drawn],
    by: Literal["steps", "calls"] = "steps",
    *,
    title: str | None = None,
    note: str | None = None,
) -> Image:
    """All of it in one picture: a row for each sampler, a column for each count, seconds and calls under each.

    title and a smaller note stand above.
    Raises ValueError for vectors of other than 2 numbers.
    """
    rows = list(dict.fromkeys(one.way.row for one in found))
    columns = sorted({one.way.column for one in found if one.way.column is not None})
    tiles = _tiles([one.samples for one in found])
    cells: dict[tuple[int, int], tuple[Image, str]] = {}
    for one, tile in zip(found, tiles, strict=True):
        at = rows.index(one.way.row), 0 if one.way.column is None else columns.index(one.way.column)
        cells[at] = tile, _caption(one, by)
    heads = [some(n, by[:-1]) for n in columns] or [""]
    return pictures.matrix(cells, [re.sub(r",\s*", ", ", row) for row in rows], heads, title=title, note=note)


def settings_of(found: Sequence[Drawn]) -> dict[str, Any]:
    """Everything needed to draw the comparison again, and what was measured."""
    each = [one.samples.settings for one in found]
    guided = {k for k in ("guidance", "rule") if any(s.get(k) != each[0].get(k) for s in each)}
    varied = {"sampler", "steps", "grid", *guided}
    common = {k: v for k, v in each[0].items() if k not in varied}
    return common | {
        "compared": [
            {k: v for k, v in one.samples.settings.items() if k in varied}
            | {"calls": one.calls, "seconds": round(one.seconds, 4)}
            for one in found
        ]
    }


def some(count: int, what: str) -> str:
    """1 step, 5 steps."""
    return f"{count} {what}{'s' * (count != 1)}"


def _caption(one: Drawn, by: str) -> str:
    took = f"{one.seconds:.2f} s" if one.seconds < 9.995 else f"{one.seconds:.0f} s"
    calls = some(one.calls, "call")
    if one.way.column is None:
        return f"its own steps\n{calls} · {took}"
    steps = some(one.way.settings.steps, "step")
    return f"{calls} · {took}" if by == "steps" else f"{steps}, {calls} · {took}"


def _tiles(samples: Sequence[Samples]) -> list[Image]:
    """Each way's samples as one picture, all of one size; points on axes of the same range."""
    first = samples[0].array
    if first.ndim > 2:
        across = int(np.ceil(np.sqrt(len(first))))
        return [pictures.grid(s.pictures(), across, margin=0) for s in samples]
    if first.shape[1] != 2:
        raise ValueError(f"Vectors of {first.shape[1]} numbers have no picture to compare.")
    reach = 1.05 * max(float(np.abs(s.array[np.isfinite(s.array)]).max(initial=1e-3)) for s in samples)
    names = list(dict.fromkeys(samples[0].labels))
    index = np.array([names.index(label) for label in samples[0].labels]) if len(names) > 1 else None
    limits = (-reach, reach, -reach, reach)
    return [pictures.scatter(s.array, labels=index, limits=limits, axes=False, size=(180, 180)) for s in samples]


def _way(pipe: Pipeline, row: str, own: Sampling, count: int | None, by: str) -> Way:
    """A way that was tried. Raises ValueError where it does not fit."""
    if count is not None and by == "calls":
        if (steps := steps_for(pipe, own, count)) == 0:
            least = pipe.config.calls(own.changed(steps=1))
            raise ValueError(f"{in_text(own.method)} makes {least} calls in a single step, more than {count}.")
        own = own.changed(steps=steps)
    elif count is not None:
        own = own.changed(steps=count)
    pipe.config.rehearse(own)
    return Way(row, count, own)


def _noted(mistakes: list[str], what: Callable[..., Any], *args: Any, **settings: Any) -> Any:
    """What a call returns, or None with what it says noted."""
    try:
        return what(*args, **settings)
    except ValueError as error:
        mistakes.append(str(error))
        return None
