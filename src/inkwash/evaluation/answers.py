"""Do pictures show what they were asked for? Captions found again, numbers read off, pictures like their partners.

Captions and numbers are read off a picture by a probe (`features.probe`), which is fitted on training pictures with
their own captions and numbers, and never sees those that are measured. How well it reads real pictures that were held
out stands beside every number: of a drawn picture no more can be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from inkwash.conditions import ByImage
from inkwash.evaluation.figures import Figure, Side
from inkwash.evaluation.interval import Interval, quotient
from inkwash.evaluation.partner import BLOCK, psnr, squared, structure
from inkwash.evaluation.requests import Requests, changed
from inkwash.evaluation.retrieval import Retrieved, retrieve, sentences
from inkwash.evaluation.sets import Pictures
from inkwash.features.probe import LEAST, Probe, fit

ANSWERS = ("text", "vector", "image")
"""The measures of pictures that were asked for more than a class, by the condition each looks at."""

APART = 8
"""Numbers that are told one by one; of more, as an embedding has, only the whole is."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Questions:
    """Everything the measures look at.

    asked: of the pictures that were drawn; real: the pictures whose conditions those are, in their order; fake_side,
    real_side: what is known of both; train: pictures that were trained on, and their features, or None.
    """

    asked: Requests
    fake: Pictures
    real: Pictures
    fake_side: Side
    real_side: Side
    train: Pictures | None = None
    train_features: npt.NDArray[Any] | None = None

    @property
    def turn(self) -> npt.NDArray[np.int64]:
        """[n]: which of the real ones each drawn picture was asked for by."""
        return np.arange(len(self.fake)) % len(self.asked.rows)


def answers(name: str, q: Questions) -> tuple[list[Figure], str]:
    """What a measure of `ANSWERS` finds, and why not all of it, "" where it did or was not asked for."""
    if name not in q.asked.config.conditions.names:
        return [], ""
    found: list[Figure] = []
    try:
        found.extend(_FOUND[name](q))  # those before an error stay
    except _MissingError as error:
        return found, f"{name} {'is not whole' if found else 'was left out'}: {error}."
    return found, ""


class _MissingError(Exception):
    """Why something cannot be measured."""


def text(q: Questions) -> Iterator[Figure]:
    """Is the caption of each picture found among those of all the real ones?"""
    captions = q.asked.data.captions
    assert captions is not None, "a model of captions is asked for them"
    mine = [captions[i] for i in q.asked.rows]
    names = list(dict.fromkeys(c for c in mine if c.strip()))
    if len(names) < 2:
        raise _MissingError(f"the real pictures have {len(names)} captions, and one is to be found among several")
    number = {c: i for i, c in enumerate(names)}
    first = [mine.index(c) for c in names]
    known = np.array([number.get(c, -1) for c in mine])
    probe, about, mean = _reader(q, _embeddings)
    candidates = _embeddings(q.asked, q.asked.rows[first]) - mean

    def found(features: npt.NDArray[Any], own: npt.NDArray[np.int64]) -> Retrieved:
        with_one = np.flatnonzero(own >= 0)
        return retrieve(probe(features[with_one]) - mean, candidates, own[with_one])

    drawn, real = found(q.fake_side.features, known[q.turn]), found(q.real_side.features, known)
    about |= {"candidates": len(names)}
    named = (("text-top-1", "first"), ("text-top-5", "five"), ("text-rank", "rank"))
    for (name, what), chance in zip(named, drawn.by_chance, strict=True):
        a, b = getattr(drawn, what), getattr(real, what)
        value, beside = (a.value, b.value) if what == "rank" else (a.mean, b.mean)
        yield Figure(
            name,
            value,
            a.low,
            a.high,
            better="lower" if what == "rank" else "higher",
            real=(beside, b.low, b.high),
            chance=chance,
            settings=about,
        )


def vector(q: Questions) -> Iterator[Figure]:
    """How near are the numbers read off a picture to those it was asked for?"""
    values, names = q.asked.data.vectors, q.asked.data.vector_names
    assert values is not None, "a model of numbers is asked for them"
    wanted = np.asarray(values[q.asked.rows], dtype=np.float64)
    if len(names) > APART:
        yield from _numbers(q, wanted, "", slice(None))
        return
    left = []
    for i, name in enumerate(names):
        try:
            yield from _numbers(q, wanted, name, slice(i, i + 1))
        except _MissingError as error:
            left.append(str(error))
    if left:
        raise _MissingError("; ".join(dict.fromkeys(left)))


def image(q: Questions) -> Iterator[Figure]:
    """How near is each picture to the one that what was shown is of, and does it agree with what was shown?"""
    told = q.asked.config.conditions.image
    if told is None or q.real.array.ndim != 4:
        raise _MissingError("these are not pictures")
    fake, real = np.asarray(q.fake.array), np.asarray(q.real.array[: len(q.asked.rows)])
    partner, how = real[q.turn], {"task": told.task.kind}
    shown = _shown(told, q, real)
    for name, unit, measure in (("psnr", "dB", psnr), ("ssim", "", structure)):
        each = measure(fake, partner)
        if each is None:
            continue
        beside = None if shown is None else measure(shown, real)
        of, idle = Interval.of(torch.from_numpy(each)), None if beside is None else float(beside.mean())
        yield Figure(name, of.mean, of.low, of.high, unit, "higher", by="", chance=idle, settings=how)
    if (kept := _kept(told, q, fake, partner)) is not None:
        error, half = quotient(kept, np.ones_like(kept))
        low, high = (None, None) if half is None else (max(error - half, 0.0) ** 0.5, (error + half) ** 0.5)
        yield Figure("kept", error**0.5, low, high, "levels", by="", real=(0.0, None, None), settings=how)


_FOUND: dict[str, Callable[[Questions], Iterator[Figure]]] = {"text": text, "vector": vector, "image": image}


def reads(asked: npt.NDArray[Any], read: npt.NDArray[Any]) -> tuple[Interval, Interval]:
    """R² of numbers [n, K] read where others were asked for, and the slope of what is read on what was asked.

    R² = 1 - sum |asked - read|²/sum |asked - their mean|²: 1 where each is what was asked, 0 for what the mean alone
    would do, below for worse. slope = 1 where asking for one more gives one more (math.md, eq. 62).
    """
    apart = asked - asked.mean(0)
    spread = np.square(apart).sum(1)
    missed, half = quotient(np.square(asked - read).sum(1), spread)
    slope, wide = quotient((apart * (read - read.mean(0))).sum(1), spread)
    return Interval(1 - missed, half), Interval(slope, wide)


def _numbers(q: Questions, wanted: Floats, name: str, columns: slice) -> Iterator[Figure]:
    """R² and slope of some columns of the numbers, in units of their deviation where they are several."""

    def of(asked: Requests, rows: npt.NDArray[np.int64]) -> Floats:
        values = asked.data.vectors
        assert values is not None
        found = np.asarray(values[rows], dtype=np.float64)[:, columns]
        return np.where(np.isfinite(found).all(1, keepdims=True), found, 0.0)

    def known(asked: Requests, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        values = asked.data.vectors
        assert values is not None
        return np.asarray(np.isfinite(np.asarray(values[rows])[:, columns]).all(1))

    probe, about, _ = _reader(q, of, known)
    here = np.asarray(np.isfinite(wanted[:, columns]).all(1))
    if here.sum() < 2 or not wanted[here][:, columns].std():
        raise _MissingError(f"{name or 'the numbers'} of the real pictures do not vary")
    scale = wanted[here][:, columns].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    turn = q.turn[here[q.turn]]
    drawn = np.flatnonzero(here[q.turn])
    found = reads(wanted[turn][:, columns] / scale, probe(q.fake_side.features[drawn]) / scale)
    beside = reads(wanted[here][:, columns] / scale, probe(q.real_side.features[np.flatnonzero(here)]) / scale)
    for what, a, b, chance in zip(("r2", "slope"), found, beside, (0.0, 0.0), strict=True):
        yield Figure(
            f"{what}({name})" if name else what,
            a.mean,
            a.low,
            a.high,
            better="higher" if what == "r2" else "",
            real=(b.mean, b.low, b.high),
            chance=chance,
            settings=about,
        )


def _embeddings(asked: Requests, rows: npt.NDArray[np.int64]) -> Floats:
    """Sentence embeddings [n, W] of the captions of these rows, a few at a time: their tokens are far more."""
    parts = []
    for start in range(0, len(rows), BLOCK):
        taken = asked.data.take(rows[start : start + BLOCK])
        parts.append(sentences(np.asarray(taken.tokens), np.asarray(taken.present).sum(1)))
    return np.concatenate(parts)


def _reader(
    q: Questions,
    targets: Callable[[Requests, npt.NDArray[np.int64]], Floats],
    known: Callable[[Requests, npt.NDArray[np.int64]], npt.NDArray[np.bool_]] | None = None,
) -> tuple[Probe, dict[str, Any], Floats]:
    """A probe of targets fitted on the training pictures, what a record says of it, and the targets' mean there."""
    if q.train is None or q.train_features is None or q.train.data is None or q.train.rows is None:
        raise _MissingError("what reads it off a picture is fitted on training pictures, and there are none here")
    asked = changed(q.asked, q.train.data, q.train.rows)
    y = targets(asked, q.train.rows)
    whole = np.square(y).sum(1) > 0 if known is None else known(asked, q.train.rows)
    rows = np.flatnonzero(whole)
    if len(rows) < LEAST:
        raise _MissingError(f"{len(rows)} training pictures have what is to be read, and {LEAST} are needed")
    probe = fit(np.asarray(q.train_features)[rows], y[rows])
    about = {"probe": {"train": q.train.key, "n": probe.n, "lambda": probe.lam, "missed": round(probe.missed, 6)}}
    return probe, about, y[rows].mean(0)


def _shown(told: ByImage, q: Questions, real: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8] | None:
    """What a model is shown, as pictures: what it would be to give just that back. None for one with holes in it."""
    if told.task.itself:
        return None
    if told.task.paired:
        held = q.real.data
        return None if held is None or held.shown is None else np.asarray(held.shown[q.asked.rows])
    return _as_shown(told, real)


def _as_shown(told: ByImage, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What would be shown of pictures [n, H, W, C], a few at a time: on the way they take four times the memory."""
    parts = [np.asarray(told.task.show(np.array(pictures[i : i + BLOCK]))) for i in range(0, len(pictures), BLOCK)]
    return np.concatenate(parts)


def _kept(told: ByImage, q: Questions, fake: npt.NDArray[np.uint8], partner: npt.NDArray[np.uint8]) -> Floats | None:
    """[n]: the squared error, in grey levels, between what was shown and what would be of the answer."""
    if told.task.paired:
        return None
    if not told.task.itself:
        return squared(_as_shown(told, fake), _as_shown(told, partner))
    parts = []
    for start in range(0, len(fake), BLOCK):
        seen = q.asked(start, min(start + BLOCK, len(fake))).image
        assert seen is not None
        there = ~torch.isnan(seen[:, 0]).cpu().numpy()  # in latents coarser than the picture
        high, wide = (fake.shape[1 + i] // there.shape[1 + i] for i in (0, 1))
        parts.append(there.repeat(high, 1).repeat(wide, 2))
    each = squared(fake, partner, np.concatenate(parts))
    return each[~np.isnan(each)]


def check_asked(names: Sequence[str], told: Sequence[str]) -> list[str]:
    """What is wrong with measures that were named, for a model that is told of these conditions."""
    return [
        f"{name} measures how a model follows {'a ' if name != 'text' else ''}{name}, and this one is told of "
        f"{' and '.join(told) or 'a label at most'}. Leave it out."
        for name in names
        if name in ANSWERS and name not in told
    ]
