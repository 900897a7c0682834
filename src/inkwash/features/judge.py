"""A judge says which class a picture shows: the classifier that ships for a data set, one trained on it once, or a
linear probe of a feature net.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.data import Dataset, Progress, Stream, cache_dir, order
from inkwash.data.cache import published
from inkwash.data.stream import Index
from inkwash.features.choose import extractor
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
from inkwash.features.extract import Extractor
from inkwash.features.probe import FORMAT as PROBE_FORMAT
from inkwash.features.probe import LEAST, AboutProbe, Probe, fit, probe_hash, read_probe, write_probe
from inkwash.optim import AdamW, Schedule

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
    what it sees in pictures, as an extractor of one number for each class. probe, net: of one that reads the features
    of a net, what reads them, and that net's identity.
    """

    classes: tuple[str, ...]
    weights: str
    accuracy: float | None
    logits: Extractor
    probe: Probe | None = None
    net: dict[str, Any] | None = None

    def read(self, features: npt.NDArray[Any], net: Extractor) -> npt.NDArray[np.int64] | None:
        """The likeliest classes [n] by features that are there already; None where it does not read those of `net`."""
        if self.probe is None or self.net != net.identity:
            return None
        return np.asarray(self.probe(features).argmax(1), dtype=np.int64)

    def __call__(self, pictures: npt.NDArray[Any]) -> Tensor:
        """uint8 [B, H, W, C] of the shape it was trained on to the likeliest classes, [B] int64 on the CPU."""
        return self.logits(pictures).argmax(1)


def load_judge(file: Path, device: torch.device | None = None) -> Judge:
    """The judge in a file that inkwash wrote; on the CPU unless a device is given.

    Raises ValueError where the feature net that a probe reads is not found here, or has other weights.
    """
    if (held := read_probe(file)) is not None:
        return _probing(*held, device or torch.device("cpu"))
    about, net = read_classifier(file)
    logits = as_extractor("logits", len(about.classes), about, net, net, device or torch.device("cpu"))
    return Judge(about.classes, logits.weights, about.accuracy, logits)


def probe_file(
    features: npt.NDArray[Any],
    labels: Index,
    classes: Sequence[str],
    net: Extractor,
    name: str,
    key: str,
    cache: Path | None = None,
) -> Path | None:
    """The file of a probe that reads classes off a net's features [n, d], fitted once on pictures with labels [n].

    Pictures labelled -1 are left out. name, key: of the set of pictures, and what determines it. None where there are
    too few, or of one class only.
    """
    known = np.flatnonzero(labels >= 0)
    if len(known) < LEAST or len(np.unique(labels[known])) < 2:
        return None
    told = hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").data).hexdigest()
    of = [PROBE_FORMAT, key, told, list(classes), net.identity]
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()
    place = (cache or cache_dir()) / "classifiers" / f"{_safe(name)}-probe-{digest[:16]}"

    def build(staged: Path) -> None:
        f, wanted = np.asarray(features)[known], labels[known]
        probe = fit(f, np.eye(len(classes))[wanted])
        shuffled, count = order(0, 0, len(known)), round(HELD * len(known))
        out, mine = shuffled[:count], shuffled[count:]
        blind = fit(f[mine], np.eye(len(classes))[wanted[mine]], lambdas=(probe.lam,))
        about = AboutProbe(
            data=name,
            fingerprint=key,
            classes=tuple(classes),
            net=net.identity,
            lam=probe.lam,
            n=probe.n,
            accuracy=float((blind(f[out]).argmax(1) == wanted[out]).mean()),
            measured=f"{count:,} held-out pictures of {name}",
            date=datetime.now(UTC).date().isoformat(),
        )
        write_probe(staged / FILE, about, probe)

    return published(place, lambda folder: read_probe(folder / FILE) is not None, build) / FILE


def _probing(about: AboutProbe, probe: Probe, device: torch.device) -> Judge:
    """A probe with its feature net before it, as a judge."""
    net = extractor(about.net["features"], device)
    if net.identity != about.net:
        raise ValueError(
            f"This probe of {about.data} reads the features of {about.net['features']} with the weights "
            f"{about.net['weights'][:12]}, and those here are {net.weights[:12]}. Fit another: --judge probe."
        )
    weights = probe_hash(probe, about.net)

    def logits(x: Tensor) -> Tensor:
        return torch.from_numpy(probe(net.net(x).cpu().numpy())).to(x.device)

    seen = replace(net, name="logits", num_features=len(about.classes), weights=weights, net=logits)
    return Judge(about.classes, weights, about.accuracy, seen, probe, about.net)


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
    place = (cache or cache_dir()) / "classifiers" / f"{_safe(train.name)}-{key[:16]}"

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


def _safe(name: str) -> str:
    """A data set's name as a part of a folder's."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:48]


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
