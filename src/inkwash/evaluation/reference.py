"""The real side, measured once: features, their moments, the spectrum, what a classifier sees, and the floors.

It travels: whoever loads what `save_reference` wrote measures against exactly the same numbers, without the pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as File
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from inkwash import checkpoint
from inkwash._version import __version__
from inkwash.checkpoint.atomic import write
from inkwash.codec import Scaled
from inkwash.data import Dataset, cache_dir
from inkwash.data.cache import published
from inkwash.evaluation.blocks import Watch, sha256
from inkwash.evaluation.figures import VERSION
from inkwash.evaluation.frechet import Moments, moments
from inkwash.evaluation.sets import Pictures, plain, predictions, real
from inkwash.evaluation.sets import features as features_of
from inkwash.evaluation.spectrum import spectrum
from inkwash.features import Classifier, Extractor, extractor, load_judge
from inkwash.ranks import ALONE, Ranks

if TYPE_CHECKING:
    from inkwash.features import AnyFeatures

FORMAT = 2
"""The version of a saved reference: another is refused."""

CLASSIFIER = "classifier.safetensors"
STATISTICS = "statistics.safetensors"

OTHER = "other-"
"""What the name of a net begins with whose weights are not the published ones."""


@dataclass(frozen=True, eq=False)
class Reference:
    """n real pictures of a split, and everything that is measured of them once.

    pictures: None where it was loaded from a folder. features: float32 [n, d], memory-mapped; moments: theirs;
    spectrum: [R], None for vectors; labels: int64 [n], -1 for none, or None; classifier: the file of a classifier of
    the classes, and predicted [n], what it sees, where there is one. about: where all that is from, JSON-able. store:
    the folder in which what is found later is remembered, a file each; saved: what came with it.
    """

    pictures: Pictures | None
    features: np.ndarray
    moments: Moments
    spectrum: np.ndarray | None
    labels: np.ndarray | None
    classes: tuple[str, ...]
    about: dict[str, Any]
    store: File
    classifier: File | None = None
    predicted: np.ndarray | None = None
    saved: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.features)

    @property
    def data(self) -> str:
        """The name of the data set."""
        return str(self.about["data"])

    @property
    def split(self) -> str:
        """Which part of it: train, val or test."""
        return str(self.about["split"])

    @property
    def key(self) -> str:
        """SHA-256 (hex) of what determines the pictures: the data, the split, its rows and their order, not n."""
        return str(self.about["key"])

    def check(self, net: Extractor) -> None:
        """Raise ValueError where a feature net is not the one of this reference, naming what differs."""
        mine = net.identity | {"features": plain(net.name)}
        was = {k: self.about[k] for k in mine} | {"features": plain(self.about["features"])}
        if differing := [k for k in mine if mine[k] != was[k]]:
            told = "; ".join(f"{k}: {was[k]!s:.40} there, {mine[k]!s:.40} here" for k in differing)
            raise ValueError(
                f"The reference of {self.data} ({self.split}) was measured with another feature net ({told}): a number "
                "between the two would mean nothing. Use the same net, or measure the reference again."
            )

    def extractor(self, device: torch.device) -> Extractor:
        """The feature net of this reference on a device.

        Raises ValueError where it cannot be had by its name alone, and where this machine has other weights.
        """
        name = self.about["features"]
        if plain(name) == Classifier().kind and self.classifier is not None:
            net = Classifier(weights=str(self.classifier)).load(device)
        else:
            try:
                net = extractor(name, device)
            except ValueError as error:
                kind = plain(name).removeprefix(OTHER)
                raise ValueError(
                    f"The reference of {self.data} ({self.split}) was measured with the feature net {name}, which is "
                    f"not found here by that name alone. Say where it is: --features '{kind}(weights=\"FILE\")', or "
                    f"net=inkwash.features.extractor(...) in Python. (The search said: {error})"
                ) from error
        self.check(net)
        return net

    def remember(self, name: str, value: Any) -> None:
        """Keep what was found about this reference, such as a floor; JSON-able. name: fit for a file's."""
        write(self.store / f"{name}.json", (json.dumps(value) + "\n").encode())

    def remembered(self, name: str) -> Any:
        """What was kept under this name; None if nothing was."""
        try:
            return json.loads((self.store / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: it is found again
            return self.saved.get(name)

    def _all(self) -> dict[str, Any]:
        kept = {file.stem: self.remembered(file.stem) for file in sorted(self.store.glob("*.json"))}
        return {**self.saved, **{name: value for name, value in kept.items() if value is not None}}


def reference(
    data: Dataset,
    rows: np.ndarray,
    split: str,
    features: Extractor | AnyFeatures | nn.Module | str,
    n: int | None = None,
    *,
    seed: int = 0,
    scale: Scaled | None = None,
    device: torch.device | None = None,
    classifier: File | None = None,
    cache: File | None = None,
    ranks: Ranks = ALONE,
    watch: Watch | None = None,
) -> Reference:
    """Measure n of the examples `rows` of a data set, chosen by the seed (all of them for None), or find it done.

    split: what these rows are called; features: a feature net, ready or to be loaded on `device`; scale: which values
    of floats are black and white (`real`); for a model's pictures those of its codec; classifier: the file of a
    classifier of the data's classes. Everything is kept in the cache by the hash of all it depends on. Raises
    ValueError where there are not n pictures, and what the nets raise.
    """
    net = features if isinstance(features, Extractor) else extractor(features, device or torch.device("cpu"))
    pictures = real(data, rows, split, n, seed, scale=scale, cache=cache, ranks=ranks)
    found = features_of(pictures, net, ranks=ranks, watch=watch)
    judge = None if classifier is None else load_judge(classifier, net.device)
    predicted = None if judge is None else predictions(pictures, judge, net=net, found=found, ranks=ranks)
    about = pictures.about | {
        "key": pictures.key,
        **net.identity,
        "classifier": None if judge is None else judge.weights,
        "accuracy": None if judge is None else judge.accuracy,
        "halves": "even and odd rows",
    }
    folder = pictures.folder or cache_dir()
    name = sha256([FORMAT, VERSION, __version__, about])[:16]
    place = folder / f"measured-{name}"
    published(place, lambda there: (there / STATISTICS).is_file(), lambda new: _measure(new, pictures, found))
    held = load_file(place / STATISTICS)
    return Reference(
        pictures,
        found,
        Moments(len(found), held["mean"].numpy(), held["cov"].numpy()),
        held["spectrum"].numpy() if "spectrum" in held else None,
        pictures.labels,
        pictures.classes,
        about,
        folder / f"remembered-{name}",
        classifier,
        predicted,
    )


def save_reference(known: Reference, folder: File) -> File:
    """Publish a reference for others to measure against: everything but its pictures, at once, with a manifest.

    What was remembered of it goes along, and the classifier's weights, because training one elsewhere gives others.
    Its features are in memory meanwhile.
    """
    arrays = {"mean": known.moments.mean, "cov": known.moments.cov, "spectrum": known.spectrum}
    arrays |= {"labels": known.labels, "predicted": known.predicted}
    statistics = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items() if a is not None}
    table = {
        "format": FORMAT,
        "inkwash": __version__,
        "about": known.about,
        "classes": list(known.classes),
        "remembered": known._all(),
    }
    about = known.about
    card = (
        f"# {about['data']}, {about['split']}: what pictures are measured against\n\n"
        f"{about['n']:,} of {about['of']:,} pictures, chosen with seed {about['seed']}; data {about['fingerprint']}.\n"
        f"Features {about['features']}, weights {about['weights']}; resize: {about['resize']}.\n\n"
        "    inkwash eval RUN --reference THIS_FOLDER\n"
    )
    return checkpoint.publish(
        folder,
        {"features": {"features": torch.from_numpy(known.features)}, "statistics": statistics},
        {"reference.json": json.dumps(table, indent=1) + "\n", "README.md": card},
        {} if known.classifier is None else {CLASSIFIER: known.classifier},
    )


def load_reference(folder: File) -> Reference:
    """What `save_reference` wrote, checked against its manifest; without the pictures.

    Raises CheckpointError where it is damaged or no reference, and ValueError for one of another format.
    """
    held = checkpoint.load(folder)
    if "reference.json" not in held.texts:
        raise checkpoint.CheckpointError(f"{folder} is no saved reference: it has no reference.json.")
    table = json.loads(held.texts["reference.json"])
    if table.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {table.get('format')!r}, and this inkwash ({__version__}) reads {FORMAT}. It was "
            f"written by inkwash {table.get('inkwash', 'unknown')}: use that one, or save the reference again."
        )
    statistics: dict[str, Tensor] = held.tensors["statistics"]
    arrays = {name: tensor.numpy() for name, tensor in statistics.items()}
    features = held.tensors["features"]["features"].numpy()
    manifest = sha256((folder / checkpoint.MANIFEST).read_text(encoding="utf-8"))
    return Reference(
        None,
        features,
        Moments(len(features), arrays["mean"], arrays["cov"]),
        arrays.get("spectrum"),
        arrays.get("labels"),
        tuple(table["classes"]),
        table["about"],
        cache_dir() / "references" / manifest[:16],
        folder / CLASSIFIER if (folder / CLASSIFIER).is_file() else None,
        arrays.get("predicted"),
        table["remembered"],
    )


def _measure(folder: File, pictures: Pictures, found: np.ndarray) -> None:
    """Compute and write what is measured once."""
    of = moments(found)
    arrays = {"mean": of.mean, "cov": of.cov}
    if pictures.array.ndim == 4:
        arrays["spectrum"] = spectrum(pictures.array)
    save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / STATISTICS)
    (folder / STATISTICS).chmod(0o644)  # safetensors makes it readable by its owner only, and a cache may be shared
