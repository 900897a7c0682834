"""Does every measure move the right way? Real pictures, changed in known ways, measured as if a model had drawn them.

    python bench/measures.py [--data fashion-mnist] [--n 2000] [--features raw,classifier,lite0] [--threads 2]

The reference is n pictures of the train split; what is measured are n of the test split, changed. Other n pictures of
the test split are those that say how near to a training picture is near by chance. Prints, for every feature net, a
table of all measures, a row a change: docs/evaluation.md shows it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from inkwash.data import Dataset, DataSpec, load, order
from inkwash.evaluation.classes import class_accuracy, class_distance, class_histogram
from inkwash.evaluation.frechet import frechet, frechet_bias, moments
from inkwash.evaluation.kernel import kid
from inkwash.evaluation.manifold import density_coverage, memorised, nearest, precision_recall
from inkwash.evaluation.spectrum import spectrum, spectrum_error
from inkwash.features import Classifier, Extractor, Judge, classifier_file, extractor, load_judge
from inkwash.noise import Philox, Stream

SEED = 0
MODES = 100
"""Different pictures that are left when modes are lost."""


@dataclass(frozen=True)
class Set:
    """Pictures uint8 [n, H, W, C] and the classes they would have been asked for [n]."""

    pictures: np.ndarray
    labels: np.ndarray


def chosen(data: Dataset, rows: np.ndarray) -> Set:
    """So many of a data set."""
    labels = np.full(len(data), -1) if data.labels is None else data.labels
    return Set(np.asarray(data.images[rows]), labels[rows])


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


def changes(plain: Set, test: Dataset, train: Set, rows: np.ndarray) -> dict[str, Set]:
    """Every change by name; rows: of the test split, those that may be used."""
    n = len(plain.labels)
    made = {
        "untouched": plain,
        "blur, sigma 1": Set(blurred(plain.pictures), plain.labels),
        "noise, sigma 0.1": Set(noisy(plain.pictures), plain.labels),
    }
    if test.labels is not None:
        kept = rows[test.labels[rows] < (len(test.classes) + 1) // 2]
        if len(kept) >= n:
            made["half of the classes"] = chosen(test, kept[:n])
    half = n // 2
    made["half copied from train"] = Set(
        np.concatenate([train.pictures[:half], plain.pictures[half:]]),
        np.concatenate([train.labels[:half], plain.labels[half:]]),
    )
    few = np.arange(n) % MODES
    made[f"{MODES} pictures repeated"] = Set(plain.pictures[few], plain.labels[few])
    return made


def features(net: Extractor, pictures: np.ndarray) -> np.ndarray:
    """float32 [n, d]."""
    return net(pictures).numpy()


def by_features(net: Extractor, sets: dict[str, Set], train: Set, held_out: Set) -> list[list[str]]:
    """The rows of one net's table."""
    real, near = features(net, train.pictures), features(net, held_out.pictures)
    reference, chance = moments(real), nearest(near, real)[0]
    table = []
    for name, changed in sets.items():
        fake = features(net, changed.pictures)
        k, share = kid(fake, real), memorised(nearest(fake, real)[0], chance)
        precision, recall = precision_recall(real, fake)
        density, coverage = density_coverage(real, fake)
        numbers = (precision, recall, density, coverage)
        distance = significant(frechet(moments(fake), reference))
        kernel = f"{significant(1000 * k.mean)} ± {significant(1000 * (k.half or 0))}"
        table.append([name, distance, kernel, *(f"{v:.3f}" for v in numbers), f"{100 * share.mean:.1f} %"])
    bias = frechet_bias(reference.cov, len(near), len(real))
    table.append(["expected (Gaussian, n ≫ d)", significant(bias), "0", "", "", "1.000", "0.969", "1.0 %"])
    return table


def by_pictures(judge: Judge | None, sets: dict[str, Set], train: Set) -> list[list[str]]:
    """The rows of the table that needs no features."""
    seen = spectrum(train.pictures)
    found = None if judge is None else histogram(judge, train.pictures)
    table = []
    for name, changed in sets.items():
        row = [name, f"{spectrum_error(spectrum(changed.pictures), seen):.2f}"]
        if judge is not None and found is not None:
            accuracy = class_accuracy(judge(changed.pictures), changed.labels)
            row += [
                f"{100 * accuracy.mean:.1f} % ({100 * accuracy.low:.1f} to {100 * accuracy.high:.1f})",
                f"{class_distance(histogram(judge, changed.pictures), found):.3f}",
            ]
        table.append(row)
    return table


def histogram(judge: Judge, pictures: np.ndarray) -> np.ndarray:
    """Of the classes a judge sees."""
    return class_histogram(judge(pictures), len(judge.classes))


def significant(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.{max(0, 2 - int(np.floor(np.log10(abs(value)))))}f}" if value else "0"


def markdown(head: list[str], table: list[list[str]]) -> str:
    """A table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *table])


def net(name: str, file: Path | None) -> Extractor:
    """A feature net by name; `classifier` is the data set's own."""
    return extractor(Classifier(weights=str(file)) if name == "classifier" and file is not None else name)


def timed(what: str, job: Callable[[], list[list[str]]], head: list[str]) -> None:
    """Print a table and the seconds it took."""
    begin = time.perf_counter()
    table = job()
    print(f"\n### {what}\n\n{markdown(head, table)}\n\n{time.perf_counter() - begin:.0f} s", flush=True)


def main() -> None:
    """Measure all changes with all nets that are there."""
    parser = argparse.ArgumentParser(description="Does every measure move the right way?")
    parser.add_argument("--data", default="fashion-mnist", help="a source with labels and a test split")
    parser.add_argument("--n", type=int, default=2000, help="pictures a side (default 2000)")
    parser.add_argument("--features", default="raw,classifier,lite0", help="feature nets, with commas between")
    parser.add_argument("--threads", type=int, help="of torch (default: all cores)")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    train_set, test_set = load(args.data), load(DataSpec(args.data, split="test"))
    rows = order(SEED, 0, len(test_set))
    n = min(args.n, len(train_set), len(test_set) // 2)
    held_out, plain = chosen(test_set, rows[:n]), chosen(test_set, rows[n : 2 * n])
    train = chosen(train_set, order(SEED, 0, len(train_set))[:n])
    sets = changes(plain, test_set, train, rows[n:])
    file = classifier_file(test_set, train_set)
    print(f"{test_set.name}: {n:,} pictures of test against {n:,} of train, seed {SEED}")
    judge = None if file is None else load_judge(file)
    head = ["", "spectrum, dB", *(["accuracy of the class", "class histogram"] if judge else [])]
    timed("Without a feature net", lambda: by_pictures(judge, sets, train), head)
    head = ["", "", "KID · 1000", "precision", "recall", "density", "coverage", "memorised"]
    for name in args.features.split(","):
        try:
            ready = net(name, file)
        except (ValueError, ImportError) as error:
            print(f"\n{name}: left out. {error}")
            continue
        head[1] = "FID" if ready.name == "inception" else f"FD-{ready.name}"
        timed(f"`{name}`", lambda ready=ready: by_features(ready, sets, train, held_out), head)


if __name__ == "__main__":
    main()
