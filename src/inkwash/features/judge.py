"""A judge says which class a picture shows: the classifier that ships for a data set, or one trained on it once."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.data import Dataset, Progress, Stream, cache_dir, order
from inkwash.data.cache import published
from inkwash.data.stream import Index
from inkwash.features.classifier import (
    FORMAT,
    SHIPPED,
    About,
    ClassifierNet,
    as_extractor,
    read_classifier,
    scaled,
    write_classifier,
)
from inkwash.optim import AdamW, Schedule

if TYPE_CHECKING:
    from inkwash.features.extract import Extractor

HELD = 0.1
"""The share of labelled pictures that a classifier trained here is measured on, and not trained on."""

BATCH = 128
EXAMPLES = 600_000
"""How many examples a training run sees: about 3 minutes for 28x28 on two cores."""

FILE = "classifier.safetensors"


@dataclass(frozen=True)
class Judge:
    """A classifier of the data's classes.

    weights: SHA-256 of its weights; accuracy: on real pictures it was not trained on, kept with its weights; logits:
    what it sees in pictures, as an extractor of one number for each class.
    """

    classes: tuple[str, ...]
    weights: str
    accuracy: float | None
    logits: Extractor

    def __call__(self, pictures: npt.NDArray[Any]) -> Tensor:
        """uint8 [B, H, W, C] of the shape it was trained on to the likeliest classes, [B] int64 on the CPU."""
        return self.logits(pictures).argmax(1)


def load_judge(file: Path, device: torch.device | None = None) -> Judge:
    """The judge in a file that inkwash wrote; on the CPU unless a device is given."""
    about, net = read_classifier(file)
    logits = as_extractor("logits", len(about.classes), about, net, net, device or torch.device("cpu"))
    return Judge(about.classes, logits.weights, about.accuracy, logits)


def classifier_file(
    data: Dataset,
    train: Dataset | None,
    cache: Path | None = None,
    progress: Progress | None = None,
    device: torch.device | None = None,
    *,
    rows: Index | None = None,
) -> Path | None:
    """The file of a classifier for pictures like those of `data`.

    The one that ships where name, classes and shape of `data` are Fashion-MNIST's or MNIST's. Else one trained on the
    labelled pictures of `train`, once: it is kept in the cache by that set's fingerprint and the rows, and training
    again on the same machine gives the same bits. None where there is nothing to learn from: no `train`, no labels, one
    class only, no 8-bit pictures, or pictures of other classes or of another shape.

    progress: called with ("Training a classifier of …", examples seen, examples in all); device: to train on; rows:
    those of `train` that may be used, all by default: those that a run was trained on, so that what it held out is as
    new to the classifier as to the model. (The one that ships has seen the whole of its train split.)
    """
    shipped = SHIPPED.get(data.name)
    if shipped is not None and shipped.is_file():
        about, _ = read_classifier(shipped)
        if (about.classes, about.shape) == (data.classes, data.shape):
            return shipped
    if train is None or train.labels is None or (train.classes, train.shape) != (data.classes, data.shape):
        return None
    rows = np.arange(len(train)) if rows is None else rows
    labels = train.labels[rows]
    if train.images.dtype != np.uint8 or len(np.unique(labels[labels >= 0])) < 2:
        return None
    which = hashlib.sha256(np.ascontiguousarray(rows, dtype="<i8").data).hexdigest()
    of = [FORMAT, train.fingerprint, which, HELD, BATCH, EXAMPLES]
    key = hashlib.sha256(json.dumps(of).encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9._-]", "_", train.name).lstrip(".")[:48]
    place = (cache or cache_dir()) / "classifiers" / f"{name}-{key[:16]}"

    def build(staged: Path) -> None:
        about, net = train_classifier(train, rows, examples=EXAMPLES, progress=progress, device=device)
        write_classifier(staged / FILE, about, net)

    return published(place, _whole, build) / FILE


def train_classifier(
    data: Dataset,
    rows: Index | None = None,
    *,
    held: float = HELD,
    examples: int = EXAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    device: torch.device | None = None,
) -> tuple[About, ClassifierNet]:
    """Train a classifier on the labelled pictures of a set, and measure it on a tenth of them that is held out.

    rows: those that may be used, all by default; held: the share of them that is held out, 0 for none. examples: how
    many to see, in random order, mirrored where the set says so. Cross-entropy with labels smoothed by 0.05, AdamW, and
    a learning rate that falls linearly to zero after 2 % of warm-up. The same seed, device and number of threads give
    the same bits.
    """
    device = device or torch.device("cpu")
    labels = data.labels
    if labels is None:
        raise ValueError(f"{data.name} has no labels: a classifier cannot be trained on it.")
    rows = np.arange(len(data)) if rows is None else rows
    rows = rows[labels[rows] >= 0]
    shuffled, count = rows[order(seed, 0, len(rows))], round(held * len(rows))
    out, mine = np.sort(shuffled[:count]), np.sort(shuffled[count:])
    shape = (data.images.shape[3], data.images.shape[1], data.images.shape[2])
    net = _fresh(shape, len(data.classes), seed).to(device)
    stream = Stream(data, seed, mine)
    steps = max(1, examples // BATCH)
    optim = AdamW(lr=4e-3, weight_decay=0.05, schedule=Schedule(warmup=steps // 50, decay=1.0))
    (optimiser,) = optim.build(net)
    what = f"Training a classifier of {len(data.classes)} classes of {data.name}"
    with _deterministic(device):
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = optim.lr * optim.schedule(step, step / steps)
            batch = stream.rows(np.arange(step * BATCH, (step + 1) * BATCH))
            x, y = torch.from_numpy(batch.images).to(device), torch.from_numpy(batch.labels).to(device)
            loss = F.cross_entropy(net(scaled(x)), y, label_smoothing=0.05)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            if progress is not None:
                progress(what, (step + 1) * BATCH, steps * BATCH)
    about = About(
        data=data.name,
        fingerprint=data.fingerprint,
        classes=data.classes,
        shape=shape,
        date=datetime.now(UTC).date().isoformat(),
    )
    if len(out):
        measured = f"{len(out):,} held-out pictures of {data.name}"
        about = replace(about, accuracy=accuracy(about, net, data, out, device), measured=measured)
    return about, net.eval()


def accuracy(
    about: About, net: ClassifierNet, data: Dataset, rows: Index | None = None, device: torch.device | None = None
) -> float:
    """The share of a set's labelled pictures (of those in `rows`, ascending) whose class a net finds."""
    if data.labels is None:
        raise ValueError(f"{data.name} has no labels: a classifier cannot be measured on it.")
    rows = np.flatnonzero(data.labels >= 0) if rows is None else rows
    logits = as_extractor("logits", len(about.classes), about, net, net, device or torch.device("cpu"))
    right = 0
    for i in range(0, len(rows), 4096):
        part = rows[i : i + 4096]
        found = logits(data.images[part]).argmax(1).numpy()
        right += int((found == data.labels[part]).sum())
    return right / len(rows)


def _fresh(shape: tuple[int, int, int], classes: int, seed: int) -> ClassifierNet:
    """torch's own initial weights under a seed, without a trace in its global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClassifierNet(shape, classes)


def _deterministic(device: torch.device) -> AbstractContextManager[None]:
    """On CUDA, algorithms whose results do not change from run to run; elsewhere they are the only ones."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _whole(folder: Path) -> bool:
    try:
        read_classifier(folder / FILE)
    except ValueError:
        return False
    return True
