"""The two sets that are compared: pictures, drawn or real, and their features, as arrays on the disk.

A set is the first n of an endless sequence, or of a long one: picture i is the same however many are asked for, by
however many ranks and in however many attempts they were made. So a set that is asked for again is there, and a larger
one goes on where the smaller ended; but not where more are drawn than there are real examples to ask for, which then
begin anew. No more than a block of it is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inkwash.codec import AnyCodec, Pixels, Scaled, Standard, codec_for
from inkwash.data import Dataset, cache_dir, order
from inkwash.evaluation.blocks import Row, Watch, filled, rows_hash, sha256
from inkwash.evaluation.proportions import Asked
from inkwash.evaluation.requests import Requests
from inkwash.kinds import to_table
from inkwash.modelfolder import Config, model_hash
from inkwash.pipeline import Pipeline
from inkwash.ranks import ALONE, Ranks
from inkwash.types import Denoised, Query

if TYPE_CHECKING:
    from inkwash.features import Extractor, Judge

SHOWN = 64
"""Pictures shown to a net before the disk has what it saw, or a chunk of the net's, where that is more."""

AS_THEY_ARE = "as they are"
"""What becomes of the values of vectors."""

COPIED = 1024
"""Real pictures copied at once."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """A set of pictures, the first `len` of their sequence.

    array: uint8 [n, H, W, C], or float32 [n, D] for vectors; memory-mapped, changing it changes nothing on the disk.
    labels: int64 [n]: the class asked for, or a real picture's own; -1 for none; None where there are no classes.
    about: where they are from, JSON-able. key: SHA-256 of everything that determines the sequence, whatever n is.
    folder: where they are, and their features. data, rows: of real pictures the data set, and which example of it each
    is [n]; asked: of drawn ones what they were asked for besides a class.
    """

    array: np.ndarray
    labels: np.ndarray | None
    classes: tuple[str, ...]
    about: dict[str, Any]
    key: str
    folder: File | None = None
    data: Dataset | None = field(default=None, repr=False)
    rows: np.ndarray | None = field(default=None, repr=False)
    asked: Requests | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.array)


def real(
    data: Dataset,
    rows: np.ndarray,
    split: str,
    n: int | None = None,
    seed: int = 0,
    *,
    scale: Scaled | None = None,
    cache: File | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
) -> Pictures:
    """n of the examples `rows` of a data set, chosen and ordered at random by the seed; all of them for None.

    split: what these rows are called, train, val or test. scale: which values of floats are black and white; by default
    the least and the greatest in the data set. A copy is kept in cache (`cache_dir()` by default). Raises ValueError
    where there are not n.

    about: where they are from; values: what became of the data's values; counts: how often each class comes among all
    the rows, and last how many have none; None where there are no labels.
    """
    n = len(rows) if n is None else n
    if not 1 <= n <= len(rows):
        raise ValueError(
            f"{n:,} pictures of {data.name} ({split}) were asked for, and there are {len(rows):,}. Ask for 1 to "
            f"{len(rows):,}, or take another split."
        )
    floats = data.images.ndim == 4 and data.images.dtype != np.uint8
    codec = (scale or codec_for(data.images)) if floats else Pixels()
    of = {
        "what": "real",
        "fingerprint": data.fingerprint,
        "split": split,
        "rows": rows_hash(rows),
        "seed": seed,
        "values": values_of(codec) if data.images.ndim == 4 else AS_THEY_ARE,
    }
    row = Row(data.images.shape[1:], "|u1" if data.images.ndim == 4 else "<f4", of)
    chosen = rows[order(seed, 0, len(rows))[:n]]

    def copied(start: int, stop: int, told: Watch) -> tuple[np.ndarray, float]:
        part = np.ascontiguousarray(data.images[chosen[start:stop]])
        if part.ndim == 4:
            return codec.picture(torch.from_numpy(part)).numpy(), 0.0
        return part.astype(np.float32, copy=False), 0.0

    folder = (cache or cache_dir()) / "sets" / row.key[:16]
    found = filled(folder / "pictures.bin", row, n, copied, block=COPIED, ranks=ranks, watch=watch)
    labels = None if data.labels is None else np.asarray(data.labels[chosen], dtype=np.int64)
    about = of | {"data": data.name, "shape": list(row.shape), "generated": data.generated, "n": n, "of": len(rows)}
    about["counts"] = None if data.labels is None else _counts(data.labels[rows], len(data.classes))
    return Pictures(found.array, labels, data.classes, about, row.key, folder, data, chosen)


def generate(
    pipe: Pipeline,
    n: int,
    folder: File,
    *,
    weights: str,
    labels: Sequence[int] | np.ndarray | None = None,
    asked: Requests | None = None,
    seed: int = 0,
    batch_size: int = 256,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
    **settings: Any,
) -> Pictures:
    """Draw the first n pictures of a seed into a folder of their own in `folder`, or find them there.

    Picture i is the one that `pipe(..., seed=seed)` draws as number i, bit for bit. weights: SHA-256 of the model's;
    labels: classes asked for by index, -1 for any; `asked` gives them in the proportions of real data, and only those
    let a set grow; None: every class in turn. asked: what else they are asked for, labels among it, for a model that is
    told more than a class. batch_size: memory, and after how many the disk has them; settings: of sampling (steps,
    sampler, eta, guidance, rule, interval, weak (a pipeline), grid, path), as a pipeline's call takes them.

    about: the sampling's settings, and for each picture `calls` of the denoiser, for all of them `seconds` (summed over
    ranks and attempts); model: SHA-256 of its config, which the array's head has whole; drawn: by which commits of the
    code, and when; values: as of real pictures. Raises ValueError for what does not fit the model, and where it answers
    with NaN.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be at least 1, not {n} and {batch_size}.")
    config, chunk = pipe.config, pipe.chunk
    weak = settings.get("weak")
    own = pipe.settings(**{k: v for k, v in settings.items() if k != "weak"} | ({"weak": True} if weak else {}))
    config.rehearse(own)
    if labels is None and config.classes and asked is None:
        labels = Asked((*(1 for _ in config.classes), 0), n)
    wanted = _wanted(labels, n, config.classes) if asked is None else asked.labels(n)
    model = {k: v for k, v in to_table(config).items() if k not in ("sampling", "trained")}
    of = {"what": "generated", "weights": weights, "seed": seed, "model": model, "torch": torch.__version__}
    of |= pipe.described(own) | ({"label": _rule(labels)} if asked is None else {"asked": asked.about(n)})
    of |= {} if weak is None else {"weak": model_hash(weak.config, weak.model)}
    shape, vectors = shape_of(config), len(config.shape) == 1
    row = Row(shape, "<f4" if vectors else "|u1", of)
    size = -(-batch_size // chunk) * chunk

    def drawn(start: int, stop: int, told: Watch) -> tuple[np.ndarray, float]:
        parts, cost = [], 0
        for first in range(start - start % size, stop, size):  # a block of before may be longer than a batch of now
            low, high = max(first, start), min(first + size, stop)
            if asked is not None:
                told_of: dict[str, Any] = {"cond": asked(low, high)}
            else:
                told_of = {"label": None if wanted is None else wanted[low:high].tolist()}
            seen = _Seen(low)
            samples = pipe(
                high - low,
                **told_of,
                seed=seed,
                first=low,
                batch_size=size,
                trace=seen,
                watch=lambda f, low=low, high=high: told((low - start + f * (high - low)) / (stop - start)),  # type: ignore[misc]
                **settings,
            )
            parts.append(samples.array if vectors else samples.pictures())
            cost += seen.calls * (high - low)
        return np.concatenate(parts), cost

    block = _block(size, n, chunk, ranks)
    place = folder / row.key[:16]
    found = filled(place / "pictures.bin", row, n, drawn, block=block, ranks=ranks, watch=watch)
    about = of | {"model": sha256(model), "drawn": list(found.made), "values": values_of(config.codec)}
    about |= {"n": n, "calls": round(found.cost / n, 3), "seconds": found.seconds}
    return Pictures(found.array, wanted, config.classes, about, row.key, place, asked=asked)


def features(
    pictures: Pictures,
    extractor: Extractor,
    *,
    folder: File | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
) -> np.ndarray:
    """What a feature net says of each picture: float32 [n, d], memory-mapped, computed once.

    Kept in `folder`, by default with the pictures; found again by the pictures' key and the net's name, weights, resize
    and version, whatever device computed them. Raises ValueError for features that are not finite.
    """
    row = Row((extractor.width(pictures.array),), "<f4", {"pictures": pictures.key, **extractor.identity})

    def seen(shown: np.ndarray) -> np.ndarray:
        found = extractor(shown).numpy()
        if not np.isfinite(found).all():
            worst = int((~np.isfinite(found)).any(1).argmax())
            raise ValueError(
                f"{extractor.name} gives NaN or infinity for a picture with values {shown[worst].min()} to "
                f"{shown[worst].max()}. Look at the pictures and at the net's weights."
            )
        return found

    return _kept(pictures, f"features-{plain(extractor.name)}", row, extractor.chunk, seen, folder, ranks, watch)


def predictions(
    pictures: Pictures,
    judge: Judge,
    *,
    net: Extractor | None = None,
    found: np.ndarray | None = None,
    folder: File | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
) -> np.ndarray:
    """The class that a judge sees in each picture: int64 [n], kept as features are.

    net, found: a feature net and its features of these pictures; a judge that reads those need not see the pictures.
    """
    if net is not None and found is not None and (read := judge.read(found, net)) is not None:
        return read
    of = {"pictures": pictures.key, "judge": judge.weights, "classes": list(judge.classes)}
    row = Row((), "<i8", of | {"version": judge.logits.version})
    chunk = judge.logits.chunk
    return _kept(pictures, "classes", row, chunk, lambda shown: judge(shown).numpy(), folder, ranks, watch)


def shape_of(config: Config) -> tuple[int, ...]:
    """Of a picture that a model draws, as it is kept: (H, W, C), or (D,) of vectors."""
    shape = config.pictures
    return shape if len(shape) == 1 else (*shape[1:], shape[0])


def values_of(codec: AnyCodec) -> Any:
    """What becomes of a value of the data in a picture: floats are scaled, 8-bit pictures stay, and so do vectors."""
    return AS_THEY_ARE if isinstance(codec, Standard) else to_table(codec if isinstance(codec, Scaled) else Pixels())


def plain(name: str) -> str:
    """A component's text form as a part of a file's name: its kind."""
    return "".join(c if c.isalnum() else "-" for c in name.partition("(")[0])


def _kept(
    pictures: Pictures,
    name: str,
    row: Row,
    chunk: int,
    seen: Callable[[np.ndarray], np.ndarray],
    folder: File | None,
    ranks: Ranks,
    watch: Watch | None,
) -> np.ndarray:
    """What is seen in each picture, in a file beside them; a net that takes chunks always sees the same ones."""

    def computed(start: int, stop: int, told: Watch) -> tuple[np.ndarray, float]:
        first = start - start % chunk
        return seen(pictures.array[first:stop])[start - first :], 0.0

    where = folder or pictures.folder or cache_dir() / "features" / pictures.key[:16]
    file = where / f"{name}-{row.key[:16]}.bin"
    block = _block(SHOWN, len(pictures), chunk, ranks)
    return filled(file, row, len(pictures), computed, block=block, ranks=ranks, watch=watch).array


def _block(size: int, n: int, chunk: int, ranks: Ranks) -> int:
    """Whole chunks, at least `size` pictures, but no more than leave every rank something to do."""
    return min(-(-size // chunk), -(-n // (ranks.world * chunk))) * chunk


@dataclass
class _Seen:
    """Counts the denoiser's answers, and stops at the first that holds NaN or infinity."""

    first: int
    calls: int = 0

    def __call__(self, query: Query, answer: Denoised) -> None:
        self.calls += 1
        if not answer.x0.isfinite().all():
            row = int((~answer.x0.isfinite().flatten(1).all(1)).nonzero()[0])
            raise ValueError(
                f"The model answers with NaN or infinity at t = {float(query.t[row]):.3g} for picture "
                f"{self.first + row}: no number about its pictures would mean anything. Try fp32, less guidance, or "
                "more steps."
            )


def _counts(labels: np.ndarray, classes: int) -> list[int]:
    """How often each class comes, and last how many have none."""
    found: list[int] = np.bincount(labels + 1, minlength=classes + 1).tolist()  # -1 comes first
    return [*found[1:], found[0]]


def _wanted(labels: Sequence[int] | np.ndarray | None, n: int, classes: Sequence[str]) -> np.ndarray | None:
    """The classes asked for, [n] int64; None for a model without."""
    if labels is None:
        return None
    if not classes:
        raise ValueError("Labels were given, but this model was trained without classes. Leave them out.")
    wanted = labels.array if isinstance(labels, Asked) else np.asarray(labels, dtype=np.int64)
    if wanted.shape != (n,) or wanted.min() < -1 or wanted.max() >= len(classes):
        raise ValueError(
            f"labels must be {n} indices of classes, 0 to {len(classes) - 1}, or -1 for any; they are "
            f"{wanted.shape}, {wanted.min(initial=0)} to {wanted.max(initial=0)}."
        )
    return wanted


def _rule(labels: Sequence[int] | np.ndarray | None) -> Any:
    """What tells one choice of labels from another: where there is a rule, that, whatever n is."""
    if labels is None:
        return None
    if isinstance(labels, Asked):
        return {"shares": list(labels.shares)}
    return {"given": sha256(np.asarray(labels).tolist())}
