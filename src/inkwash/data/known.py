"""The real data sets that have a name: what their files are called, hold, and hash to, and where they are public.

Hashes are SHA-256. Those of idx files are of the *uncompressed* contents: distributions compress the same contents
anew, so that their .gz files differ (Debian's Fashion-MNIST does). They were checked against the publishers' MD5 sums.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from dataclasses import dataclass

import numpy as np

from inkwash.data.dataset import Array
from inkwash.data.spec import Split


@dataclass(frozen=True)
class Known:
    """A named set: per split its files as {name: SHA-256}, the folders on the web that hold them, and its classes.

    gzipped: whether the public files are the named ones with .gz added (their hashes are of the contents).
    package: the Debian package that has the files, in /usr/share/datasets/<name>; "" if there is none.
    """

    name: str
    files: dict[Split, dict[str, str]]
    urls: tuple[str, ...]
    classes: tuple[str, ...]
    flip: bool
    gzipped: bool = True
    package: str = ""


FASHION = Known(
    name="fashion-mnist",
    files={
        "train": {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        },
        "test": {
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    },
    urls=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    # As the set's authors list them.
    classes=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    flip=True,
    package="dataset-fashion-mnist",
)  # fmt: skip

MNIST = Known(
    name="mnist",
    files={
        "train": {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        },
        "test": {
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    },
    urls=("https://storage.googleapis.com/cvdf-datasets/mnist", "https://ossci-datasets.s3.amazonaws.com/mnist"),
    classes=tuple("0123456789"),
    flip=False,
)

_CIFAR = {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"}

CIFAR10 = Known(
    name="cifar10",
    files={"train": _CIFAR, "test": _CIFAR},
    urls=("https://www.cs.toronto.edu/~kriz",),
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    flip=True,
    gzipped=False,
)

KNOWN = {k.name: k for k in (FASHION, MNIST, CIFAR10)}


def parse(known: Known, split: Split, files: dict[str, bytes]) -> tuple[Array, Array]:
    """Images [N, H, W, C] uint8 and labels [N] int64 from the files of one split."""
    if known is CIFAR10:
        return read_cifar(next(iter(files.values())), split)
    images, labels = (read_idx(files[name]) for name in known.files[split])
    return images[..., None], labels.astype(np.int64)


def read_idx(raw: bytes) -> Array:
    """The uint8 array of an idx file (LeCun's format: 0, 0, type, number of axes, sizes big-endian, data), gz or not.

    ValueError where it is not one, or is cut short.
    """
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise ValueError(f"Not an idx file of bytes: it begins with {raw[:4].hex(' ')}, not with 00 00 08.")
    shape = np.frombuffer(raw, ">u4", raw[3], offset=4).astype(np.int64)
    data = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if data.size != shape.prod():
        raise ValueError(f"An idx file of shape {shape.tolist()} has {data.size} bytes of data: it is cut short.")
    return data.reshape(shape)


def read_cifar(archive: bytes, split: Split) -> tuple[Array, Array]:
    """CIFAR-10's binary version: records of one label byte and 3x32x32 pixels, planes one after the other."""
    wanted = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    parts: list[Array] = []
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for name in wanted:
            member = tar.extractfile(f"cifar-10-batches-bin/{name}")
            if member is None:
                raise ValueError(f"{name} is not a file in CIFAR-10's archive.")
            parts.append(np.frombuffer(member.read(), np.uint8).reshape(-1, 3073))
    rows = np.concatenate(parts)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), rows[:, 0].astype(np.int64)
