"""Does every measure move the right way? Real pictures, changed in known ways, measured as if a model had drawn them.

    python bench/measures.py [--data fashion-mnist] [--n 2000] [--features lite0,classifier,raw] [--threads 2]

The reference is n pictures of the test split; what is measured are n others of it, changed. Copies are sought among n
of the train split, from which they were taken. By the very functions that `inkwash eval` calls. Prints a table for
every feature net, a row a change: docs/evaluation.md shows it.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from pathlib import Path

import numpy as np
import torch

from inkwash.data import Dataset, DataSpec, load, order
from inkwash.evaluation import Pictures, Record, real, reference, score
from inkwash.features import Classifier, Judge, classifier_file, extractor, load_judge
from inkwash.noise import Philox, Stream

SEED = 0


def as_drawn(array: np.ndarray, labels: np.ndarray | None, data: Dataset) -> Pictures:
    """Pictures uint8 [n, H, W, C] as a model would have drawn them, asked for these classes."""
    key = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return Pictures(array, labels, data.classes, {}, key)


def blurred(pictures: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """By a Gaussian of so many pixels; the edge goes on beyond the edge."""
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    x = pictures.astype(np.float64)
    for axis in (1, 2):
        padded = np.pad(x, [(reach, reach) if a == axis else (0, 0) for a in range(4)], mode="edge")
        size = x.shape[axis]
        x = sum(w * padded.take(range(k, k + size), axis) for k, w in enumerate(weights / weights.sum()))
    return np.rint(x).astype(np.uint8)


def noisy(pictures: np.ndarray, sigma: float = 0.1) -> np.ndarray:
    """With white noise, sigma of the range from black to white."""
    like = torch.empty(pictures.shape, dtype=torch.float64)
    z = Philox(SEED, torch.arange(len(pictures)))(like, 0, Stream.EPS).numpy()
    return np.clip(np.rint(pictures + 255 * sigma * z), 0, 255).astype(np.uint8)


def changes(test: Dataset, rows: np.ndarray, n: int, train: Pictures) -> dict[str, Pictures]:
    """Every change by name. rows: of the test split, those that may be used, more than n."""

    def of(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return np.asarray(test.images[chosen]), None if test.labels is None else test.labels[chosen]

    plain, labels = of(rows[:n])
    half = n // 2
    seen = None if labels is None or train.labels is None else np.concatenate([train.labels[:half], labels[half:]])
    made = {
        "real, of test": (plain, labels),
        "blurred, sigma 1 pixel": (blurred(plain), labels),
        "with noise, sigma 0.1": (noisy(plain), labels),
        "half copied from train": (np.concatenate([train.array[:half], plain[half:]]), seen),
    }
    if test.labels is not None:
        kept = rows[test.labels[rows] < (len(test.classes) + 1) // 2]
        if len(kept) >= n:
            made["half of the classes"] = of(kept[:n])
    return {name: as_drawn(*made, test) for name, made in made.items()}


def cell(record: Record) -> str:
    """A number, its unit and its interval."""
    interval = "" if record.low is None else f" ({record.low:.3g} to {record.high:.3g})"
    return f"{record.value:.3g}{f' {record.unit}' if record.unit else ''}{interval}"


def table(found: dict[str, tuple[Record, ...]]) -> str:
    """What was found of every change, as Markdown; last what is expected by chance, where that is known."""
    real = next(iter(found.values()))
    names = [r.measure.name for r in real]
    lines = [["", *(r.measure.title for r in real)], ["---"] * (1 + len(names))]
    for change, records in found.items():
        by = {r.measure.name: cell(r) for r in records}
        lines.append([change, *(by.get(name, "") for name in names)])
    for what, values in (
        ("floor: two halves of the reference", [r.floor for r in real]),
        ("expected of two sets of one distribution", [r.bias for r in real]),
    ):
        lines.append([what, *("" if v is None else f"{v:.3g}" for v in values)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(
    name: str, test: Dataset, rows: np.ndarray, n: int, train: Pictures, file: Path | None, judge: Judge | None
) -> dict[str, tuple[Record, ...]]:
    """Every change's records by one feature net; `classifier` is the data set's own."""
    net = extractor(Classifier(weights=str(file)) if name == "classifier" and file is not None else name)
    known = reference(test, rows[:n], "test", net, classifier=file)
    made = changes(test, rows[n:], n, train)
    return {what: score(drawn, known, net, judge=judge, train=train).records for what, drawn in made.items()}


def main() -> None:
    """Measure all changes with all nets that are there."""
    parser = argparse.ArgumentParser(description="Does every measure move the right way?")
    parser.add_argument("--data", default="fashion-mnist", help="a source with labels and a test split")
    parser.add_argument("--n", type=int, default=2000, help="pictures a side (default 2000)")
    parser.add_argument("--features", default="lite0", help="feature nets, with commas between (default lite0)")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train_set, test = load(args.data), load(DataSpec(args.data, split="test"))
    n = min(args.n, len(train_set), len(test) // 2)
    train = real(train_set, np.arange(len(train_set)), "train", n, SEED)
    file = classifier_file(test, train_set)
    judge = None if file is None else load_judge(file)
    print(f"{test.name}: {n:,} pictures of test, changed, against {n:,} others of test; seed {SEED}")
    for name in args.features.split(","):
        begin = time.perf_counter()
        try:
            found = measured(name, test, order(SEED, 0, len(test)), n, train, file, judge)
        except (ValueError, ImportError) as error:
            print(f"\n{name}: left out. {error}")
            continue
        print(f"\n### `{name}`\n\n{table(found)}\n\n{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
