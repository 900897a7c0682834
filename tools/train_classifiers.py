"""Train a classifier that ships with inkwash, and measure it on the set's test split.

    python tools/train_classifiers.py fashion-mnist
    python tools/train_classifiers.py path/to/mnist    # a folder with MNIST's four idx files, if it cannot be fetched

Writes src/inkwash/features/shipped/<name>.safetensors, with what it reached in its header. Ten epochs, about four
minutes on two cores. The same machine and number of threads give the same weights again; another gives others, which
is why they ship: a Fréchet distance in a classifier's features belongs to its weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from inkwash.data import DataSpec, load
from inkwash.data.known import KNOWN
from inkwash.device import keep_memory
from inkwash.features.classifier import SHIPPED, write_classifier
from inkwash.features.judge import accuracy, train_classifier


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help=f"one of {', '.join(SHIPPED)}, or a folder with its idx files")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, help="instead of the package's own file")
    args = parser.parse_args()
    keep_memory()
    train, test = (load(DataSpec(args.source, split=split)) for split in ("train", "test"))
    if train.name not in SHIPPED or train.classes != KNOWN[train.name].classes:
        raise SystemExit(f"{args.source} holds {train.name}, which is none of {', '.join(SHIPPED)}.")

    def progress(what: str, done: int, total: int) -> None:
        if done % 12_800 == 0 or done == total:
            print(f"\r{what}: {done / total:.0%}", end="", file=sys.stderr, flush=True)

    about, net = train_classifier(train, held=0.0, examples=args.epochs * len(train), progress=progress)
    about = replace(
        about,
        accuracy=accuracy(about, net, test),
        measured=f"the {len(test):,} test pictures of {test.name}",
        command=f"python tools/train_classifiers.py {train.name} --epochs {args.epochs}",
    )
    file = args.out or SHIPPED[train.name]
    write_classifier(file, about, net)
    print(f"\n{train.name}: {about.accuracy:.2%} of {about.measured}; {file} has {file.stat().st_size:,} bytes.")


if __name__ == "__main__":
    main()
