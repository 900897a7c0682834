"""A small convolutional classifier of a data set's own classes: features that see what an ImageNet net does not.

The weights for Fashion-MNIST and MNIST ship with the package; `inkwash.features.judge` trains others. A file holds the
net's state dict, and in its header what the net is for and how well it does.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from inkwash.features.extract import Extractor
from inkwash.features.weights import tensors_hash
from inkwash.types import Component

FEATURES = 128
FORMAT = 1
"""The version of the net and of its file: another is refused."""

SHIPPED = {name: Path(__file__).parent / "shipped" / f"{name}.safetensors" for name in ("fashion-mnist", "mnist")}
"""The files that ship with the package, by the data set they are for."""


@dataclass(frozen=True)
class About:
    """What a classifier is for and how well it does: the header of its file.

    data: the set's name; fingerprint: of the set it was trained on; shape: of a picture, (C, H, W); accuracy: on
    pictures it was not trained on, None if unmeasured; measured: on which; command, date: how and when it was made.
    """

    data: str
    fingerprint: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    accuracy: float | None = None
    measured: str = ""
    command: str = ""
    date: str = ""
    format: int = FORMAT


@dataclass(frozen=True)
class Classifier(Component):
    """The 128 features before the last layer of a classifier of the data's classes.

    weights: a file that inkwash wrote, or "fashion-mnist" or "mnist" for those that ship with the package. A net cannot
    know what it will be shown: `inkwash.features.judge.classifier_file` finds the one for a data set.
    """

    weights: str = ""
    kind: Literal["classifier"] = field(default="classifier", kw_only=True, repr=False)

    def load(self, device: torch.device) -> Extractor:
        """The net on a device. Raises ValueError where no such file is there, or none was named."""
        about, net = read_classifier(self.file())
        return as_extractor(self.kind, FEATURES, about, net, net.features, device)

    def file(self) -> Path:
        """Where its weights lie."""
        if not self.weights:
            raise ValueError(
                f"A classifier belongs to a data set, and none was named. Take classifier(weights=fashion-mnist), one "
                f'of {", ".join(SHIPPED)}, or a file that inkwash trained: classifier(weights="FILE").'
            )
        file = SHIPPED.get(self.weights, Path(self.weights).expanduser())
        if not file.is_file():
            near = difflib.get_close_matches(self.weights, SHIPPED, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Name a file, or one of {', '.join(SHIPPED)}."
            raise ValueError(f"There is no classifier {self.weights!r}. {hint}")
        return file


class ClassifierNet(nn.Module):
    """Planes [B, C, H, W] in -1..1 to one logit for each class, by way of 128 features.

    Pictures with a side above 40 are first averaged over blocks; then five convolutions, each with a batch norm and
    ReLU, and the mean over all positions.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, *sides = shape
        self.block = max(1, math.ceil(max(sides) / 40))
        layers: list[nn.Module] = []
        for out, kernel, stride in ((24, 3, 1), (48, 4, 2), (64, 3, 2), (64, 3, 1), (FEATURES, 1, 1)):
            layers.append(nn.Conv2d(channels, out, kernel, stride, (kernel - 1) // 2, bias=False))
            layers += [nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(FEATURES, classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's annotations

    def features(self, x: Tensor) -> Tensor:
        """[B, 128]."""
        if self.block > 1:
            x = F.avg_pool2d(x, self.block, ceil_mode=True)
        out: Tensor = self.body(x).mean((2, 3))
        return out

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        out: Tensor = self.head(self.features(x))
        return out


def as_extractor(
    name: str,
    num_features: int,
    about: About,
    net: ClassifierNet,
    called: Callable[[Tensor], Tensor],
    device: torch.device,
) -> Extractor:
    """A net, or a part of it that is `called`, as an extractor for pictures of the shape it was trained on."""
    c, h, w = about.shape
    net.to(device).eval()

    def prepare(u: Tensor) -> Tensor:
        if u.dtype != torch.uint8 or tuple(u.shape[1:]) != (h, w, c):
            raise ValueError(
                f"This classifier of {about.data} takes 8-bit pictures [B, {h}, {w}, {c}], "
                f"not {u.dtype} of shape {list(u.shape)}."
            )
        return scaled(u)

    return Extractor(
        name=name,
        num_features=num_features,
        weights=tensors_hash(net.state_dict()),
        resize=f"none ({w}x{h})" if net.block == 1 else f"mean over blocks of {net.block}x{net.block} (from {w}x{h})",
        device=device,
        net=called,
        prepare=prepare,
        chunk=256,
    )


def scaled(u: Tensor) -> Tensor:
    """Pictures [B, H, W, C] uint8 to planes [B, C, H, W] in -1..1, laid out channels last."""
    return u.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def read_classifier(file: Path) -> tuple[About, ClassifierNet]:
    """What a file says of itself and its net; ValueError where it is no classifier of this version."""
    try:
        with safe_open(file, "pt") as held:
            table = json.loads((held.metadata() or {}).get("inkwash", "{}"))
            state = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ValueError(f"{file} cannot be read as a classifier: {error}.") from error
    if table.get("format") != FORMAT:
        raise ValueError(
            f"{file} is no classifier of this inkwash: its header has format {table.get('format')!r}, expected "
            f"{FORMAT}. Delete it, and one is trained anew."
        )
    about = About(**table | {"classes": tuple(table["classes"]), "shape": tuple(table["shape"])})
    net = ClassifierNet(about.shape, len(about.classes))
    net.load_state_dict(state)
    return about, net.eval()


def write_classifier(file: Path, about: About, net: ClassifierNet) -> None:
    """The net in float32 and what is to be said of it, in one safetensors file."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, file, metadata={"inkwash": json.dumps(asdict(about), ensure_ascii=False)})
    file.chmod(0o644)  # safetensors' is private; a cache may be shared
