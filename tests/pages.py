"""A report's page taken apart, and what reports are made of: models, records, logs, sheets."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from inkwash import Config, Euler, Flow, Linear, Sampling, UNet
from inkwash.codec import Pixels
from inkwash.evaluation import weights_hash
from inkwash.evaluation.record import Measure, Record
from inkwash.model import Plain
from inkwash.modelfolder import save_model
from inkwash.pictures import save_png

VOID = {"meta", "img", "br", "link", "hr", "input"}
HOSTILE = "<script>alert(1)</script>"


@dataclass
class Page(HTMLParser):
    """A page taken apart: its elements, its pictures, the text of each section; it must be well-formed."""

    html: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    here: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {k: v or "" for k, v in attrs}
        self.elements.append((tag, named))
        if tag == "h2":
            self.here = named["id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts[self.here] = self.texts.get(self.here, "") + data

    def text(self, section: str) -> str:
        return " ".join(self.texts[section].split())

    def all(self, tag: str, kind: str = "") -> list[dict[str, str]]:
        return [a for t, a in self.elements if t == tag and (not kind or kind in a.get("class", "").split())]

    @property
    def images(self) -> list[Image.Image]:
        found = []
        for one in self.all("img"):
            data = base64.b64decode(one["src"].removeprefix("data:image/png;base64,"), validate=True)
            image = Image.open(io.BytesIO(data))
            image.load()
            assert image.format == "PNG" and image.size == (int(one["width"]), int(one["height"])) and one["alt"]
            found.append(image)
        return found


def config(**changes: Any) -> Config:
    settings: dict[str, Any] = {
        "shape": (1, 8, 8),
        "net": UNet("tiny", widths=(16,), depth=1, attention=()),
        "path": Linear(),
        "target": Flow(),
        "inputs": Plain(),
        "codec": Pixels(),
        "classes": ("cat", HOSTILE),
        "sampling": Sampling(Euler(), steps=4, guidance=1.5),
        "data": "pets",
        "trained": {"steps": 1200, "images": 76800, "seconds": 240.0},
    }
    return Config(**settings | changes)


def saved(folder: Path, **changes: Any) -> Path:
    made = config(**changes)
    torch.manual_seed(0)
    save_model(made, made.build().net.state_dict(), folder)
    return folder


def record(name: str, value: float, of: Path | None = None, **changes: Any) -> Record:
    """A record with everything in it, of the weights of a run's model."""
    measure = Measure(name, "pets", "test", "d" * 64, 10_000, 2_000, "lite0", "a" * 64, "to 224 x 224", {"k": 3})
    drawn = {"sampler": {"kind": "heun"}, "steps": 10, "guidance": 1.5, "seed": 7, "grid": {"kind": "karras", "rho": 7}}
    made = {"inkwash": "9.9", "commit": "c0ffee", "torch": "2.13", "device": "cpu", "date": "2026-11-21T10:00:00+00:00"}
    model = {"ema": 0.05, "weights_sha256": None if of is None else weights_hash(of)}
    return replace(Record(measure, value, sampling=drawn, made=made, model=model), **changes)


def metrics(steps: int = 60) -> list[dict[str, float]]:
    """A run whose held-out loss falls until step 300."""
    lines = []
    for i in range(1, steps + 1):
        line = {"step": 10 * i, "fraction": i / steps, "loss": 2.0 / i, "lr": 1e-3, "grad_norm": 0.5}
        line["images_per_second"] = 99.0
        if i % 10 == 0:
            line |= {"validation": 0.5 + abs(i - 30) / 100, "validation_train": 0.5 - i / 1000}
            line |= {"overfitting": (i - 30) / 100} if i > 30 else {}
        lines.append(line)
    return lines


def write_metrics(folder: Path, lines: list[Any]) -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def sheet(file: Path, grey: int, size: int = 40) -> None:
    save_png(Image.new("RGB", (size, size // 2), (grey, grey, grey)), file)
