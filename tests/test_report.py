"""The report: one page that stands alone, says what there is, and what is missing; numbers, pictures, hostile text."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash import MLP, Config, Euler, Flow, Heun, Linear, Sampling, UNet, checkpoint, gallery
from inkwash.cli import main
from inkwash.codec import Pixels, Standard
from inkwash.evaluation.record import Measure, Record, append
from inkwash.model import Plain
from inkwash.modelfolder import save_model
from inkwash.pictures import save_png
from inkwash.pipeline import load
from inkwash.report import report
from inkwash.report.drawings import curves, draw, overfitting
from inkwash.report.words import duration, figure, plain, row, sampling

SECTIONS = ["recipe", "curves", "progress", "denoising", "samples", "measures", "use"]
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


def record(name: str, value: float, **changes: Any) -> Record:
    measure = Measure(name, "pets", "test", "d" * 64, 10_000, 2_000, "lite0", "a" * 64, "to 224 x 224", {"k": 3})
    drawn = {"sampler": {"kind": "heun"}, "steps": 10, "guidance": 1.5, "seed": 7, "grid": {"kind": "karras", "rho": 7}}
    made = {"inkwash": "9.9", "commit": "c0ffee", "torch": "2.13", "device": "cpu", "date": "2026-11-21T10:00:00+00:00"}
    return replace(Record(measure, value, sampling=drawn, made=made, model={"ema": 0.05}), **changes)


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


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything in it."""
    folder = tmp_path_factory.mktemp("runs") / "pets & co"
    saved(folder / "model")
    (folder / "recipe.toml").write_text(f'[data]\nsource = "pets"\n# {HOSTILE}\n')
    write_metrics(folder, metrics())
    for i in range(12):
        sheet(folder / "samples" / f"step-{100 * i:07d}.png", 20 * i, 1200)
    append(
        folder / "evaluation",
        [
            record("fd", 12.3456, floor=1.23456, floor_n=1000, bias=0.98765),
            record("kid", 0.00123456, low=0.00111111, high=0.00135555),
            record("spectrum", 1.5, unit="dB"),
        ],
    )
    for name in ("nearest", "spectrum", "other"):
        sheet(folder / "evaluation" / f"{name}.png", 99)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    done = report(run)
    assert done.file == run / "report.html" and done.problems == ()
    assert not list(run.glob(".*"))  # nothing half-written is left
    return Page(done.file.read_text(encoding="utf-8"))


def test_the_page_stands_alone(page: Page) -> None:
    assert not re.search(r"https?:|//\w|@import|url\(", re.sub(r"data:image/png;base64,[^\"]*", "", page.html))
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster", "onload", "onclick"):
            assert attributes.get(name, "#")[:1] == "#" or attributes[name].startswith("data:image/png;base64,")
    assert not page.all("script") and not page.all("link") and not page.all("iframe")
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script" not in policy


def test_every_section_is_there_with_its_anchor(page: Page) -> None:
    assert [a["id"] for a in page.all("h2")] == SECTIONS
    linked = [a["href"].removeprefix("#") for a in page.all("a")]
    assert [name for name in SECTIONS if linked.count(name) == 2] == SECTIONS  # above, and at the heading itself
    assert not page.all("p", "missing") and not page.all("div", "problems")


def test_every_picture_is_a_png_of_its_size(page: Page) -> None:
    """5 curves, 8 of 12 sheets, 4 times and what is expected then and the end, 2 classes, 3 of the evaluation."""
    assert len(page.images) == 5 + 8 + (2 * 4 + 1) + 2 + 3
    kinds = [a["class"] for a in page.all("img")]
    assert kinds == ["chart"] * 5 + ["picture"] * 8 + ["pixels"] * 11 + ["picture", "chart", "picture"]


def test_what_it_is_is_said_in_a_sentence(page: Page) -> None:
    size = sum(p.numel() for p in config().build().net.parameters())
    assert f"UNet of {size:,} parameters that draws pictures of 1 × 8 × 8" in page.text("")
    assert "in 2 classes, trained on pets for 1,200 steps on 76,800 pictures in 4.0 minutes" in page.text("")
    assert page.text("").startswith("pets & co: a report") and "pets & co UNet of" in page.text("")


def test_hostile_text_is_only_text(page: Page) -> None:
    assert "<script" not in page.html and page.html.count("&lt;script&gt;") >= 3
    assert HOSTILE in page.text("samples") and HOSTILE in page.text("recipe")
    assert HOSTILE in next(a for a in page.all("img", "pixels")[-1:])["alt"]


def test_the_recipe_is_there_whole(page: Page) -> None:
    assert 'source = "pets"' in page.text("recipe") and "euler, 4 steps, grid even, guidance 1.5" in page.text("recipe")


def test_sheets_are_thinned_evenly_and_the_newest_is_largest(page: Page) -> None:
    text = page.text("progress")
    assert "Of 12 sheets 8 are shown" in text
    # evenly of 0 to 11, the newest first
    assert re.findall(r"step ([\d,]+)", text) == ["1,100", "900", "800", "600", "500", "300", "200", "0"]
    shown = page.images[5:13]
    assert [i.size for i in shown] == [(1000, 500)] + [(340, 170)] * 7
    assert [i.convert("L").getpixel((5, 5)) for i in shown] == [220, 180, 160, 120, 100, 60, 40, 0]


def test_measures_have_their_digits_and_their_provenance(page: Page) -> None:
    text = page.text("measures")
    assert "FD-lite0 ↓12.351.235 (n = 1,000)0.9877" in text.replace("> ", ">").replace("↓ ", "↓")
    assert "0.0012350.001111 to 0.001356" in text and "1.500 dB" in text
    assert "In all rows: Pictures: 10,000 against 2,000; Reference: pets, test; Drawn with: heun, 10 steps" in text
    assert len(page.all("details", "provenance")) == 3
    for words in (
        "a" * 64,
        "d" * 64,
        "to 224 x 224",
        "c0ffee",
        "2026-11-21T10:00:00",
        "karras(rho=7)",
        "0.05",
        "k = 3",
    ):
        assert text.count(words) == 3, words
    assert text.count("grid karras") == 4  # of each record, and of all rows


def test_the_evaluations_pictures_say_what_they_show(page: Page) -> None:
    text = page.text("measures")
    assert text.index("Closest training neighbours") < text.index("Radial power spectrum") < text.index("other.png")


def test_commands_can_be_copied(page: Page, run: Path) -> None:
    assert f"inkwash sample '{run}' -n 16" in page.text("use")
    assert "--label cat" in page.text("use") and f"inkwash train --resume '{run}'" in page.text("use")


def test_a_run_that_overfits_says_so(page: Page) -> None:
    said = "the held-out loss was lowest at step 300 (0.5) and is higher at step 600 (0.8), by more than"
    assert said in page.text("curves") and "went from 0.47 to 0.44" in page.text("curves")


# Curves.


def lines_of(monkeypatch: pytest.MonkeyPatch, logged: list[dict[str, Any]]) -> dict[str, Any]:
    """What is drawn: by title, the lines and the logarithmic axes."""
    seen: dict[str, Any] = {}

    def spy(lines: Any, *, title: str, log: str, **_: Any) -> Image.Image:
        seen[title] = (dict(lines), log)
        return Image.new("L", (1, 1))

    monkeypatch.setattr("inkwash.pictures.line_plot", spy)
    curves(logged)
    return seen


def test_curves_are_what_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = lines_of(monkeypatch, metrics(20))
    assert list(seen) == ["Training loss", "Validation loss", "Gradient norm", "Learning rate", "Speed"]
    lines, log = seen["Training loss"]
    assert lines[""][0] == [10.0 * i for i in range(1, 21)] and lines[""][1][3] == 0.5 and log == "y"
    assert seen["Validation loss"] == (
        {"held out": ([100, 200], [0.7, 0.6]), "training": ([100, 200], [0.49, 0.48])},
        "",
    )


def test_what_is_measured_on_a_schedule_has_its_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = [{"step": 1, "fd": 30.0}, {"step": 2}, {"step": 3, "fd": 20.0}]
    logged[0] |= {"seconds": 1.0, "memory": 5, "eta": 2.0, "skipped": 0, "validation_band_0": 1.0}
    seen = lines_of(monkeypatch, logged)
    assert seen == {"fd": ({"": ([1.0, 3.0], [30.0, 20.0])}, "")}


def test_bands_have_a_picture_of_their_own(small: Path) -> None:
    logged = [line | {"validation_band_1": 0.5, "validation_train_band_1": "?"} for line in metrics(3)]
    write_metrics(small, logged)
    page, _ = written(small)
    plot = gallery.band_plot([line | {"validation_train_band_1": float("nan")} for line in logged])
    assert plot is not None and plot.size in [i.size for i in page.images]
    assert "band of noise levels" in page.text("curves")


def test_overfitting_is_what_the_last_validation_found() -> None:
    low, high = {"step": 10, "validation": 0.5}, {"step": 30, "validation": 0.75, "overfitting": 0.25}
    later = {"step": 40, "loss": 0.1}
    assert overfitting([low, high, later]).endswith(
        "(0.5) and is higher at step 30 (0.75), by more than two standard errors."
    )
    assert overfitting([low, high, {"step": 50, "validation": 0.4}]) == ""
    assert overfitting([low, later]) == "" and overfitting([later]) == ""


# What the model draws.


def test_the_model_draws_each_class_and_the_way_there(tmp_path: Path) -> None:
    pipe = load(saved(tmp_path / "m"), device="cpu", chunk=16)
    drawn, again = draw(pipe), draw(pipe)
    assert [s.caption for s in drawn.samples] == ["cat", HOSTILE]
    assert [s.uri for s in drawn.samples] == [s.uri for s in again.samples]
    assert drawn.how == "euler, 4 steps, guidance 1.5, seed 0"
    assert [round(m.t, 6) for m in drawn.strip] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert [m.x0 is None for m in drawn.strip] == [False] * 4 + [True]
    samples = pipe(32, steps=4, seed=0).array
    cats = np.asarray(drawn.samples[0].image)  # 4 by 4, a transparent pixel between
    assert cats.shape == (35, 35, 2)
    for i, cat in enumerate(samples[::2]):
        down, across = 9 * (i // 4), 9 * (i % 4)
        assert (cats[down : down + 8, across : across + 8, 0] == cat[..., 0]).all()
    assert (cats[8, :, 1] == 0).all() and (cats[0, :8, 1] == 255).all()
    end = np.asarray(drawn.strip[-1].x.image)
    assert (end[9:17, :, 0] == samples[1, ..., 0]).all()  # the strip follows the first pictures


def test_the_strip_asks_at_falling_times_only(tmp_path: Path) -> None:
    pipe = load(saved(tmp_path / "m", sampling=Sampling(Heun(), steps=20)), device="cpu", chunk=16)
    times = [m.t for m in draw(pipe).strip]
    assert len(times) == 9 and times[0] == 1.0 and times[-1] == 0.0
    assert all(a > b for a, b in pairwise(times))
    pipe = load(saved(tmp_path / "m", sampling=Sampling(Heun(), steps=3)), device="cpu", chunk=16)
    assert [round(m.t, 3) for m in draw(pipe).strip] == [
        1.0,
        0.667,
        0.333,
        0.0,
    ]  # Heun asks twice at each but the first


def test_long_samplers_are_cut_and_it_is_said(tmp_path: Path) -> None:
    slow = Sampling(Euler(), steps=400)
    pipe = load(saved(tmp_path / "m", sampling=slow, classes=(), shape=(3, 4, 4)), device="cpu", chunk=16)
    drawn = draw(pipe)
    assert drawn.how == "euler, 50 steps, seed 0 (the model's own 400 steps would take long)"
    assert len(drawn.samples) == 1 and drawn.samples[0].image.size == (8 * 5 - 1, 6 * 5 - 1)
    assert drawn.samples[0].image.mode == "RGBA"


def test_large_pictures_are_reduced_and_not_pixelled(tmp_path: Path) -> None:
    made = config(shape=(1, 128, 128), classes=(), sampling=Sampling(Euler(), steps=1))

    class Flat:
        config = made

        def __call__(self, n: int, trace: Any, **_: Any) -> Any:
            from inkwash.pipeline import Samples
            from inkwash.types import Denoised, Query

            x = torch.zeros(n, 1, 128, 128)
            trace(Query(x, torch.ones(n), torch.ones(n)), Denoised(x, x))
            told = {"sampler": {"kind": "euler"}, "steps": 1, "guidance": 1.0}
            return Samples(np.full((n, 128, 128, 1), 9, np.uint8), (), told)

    drawn = draw(Flat())  # type: ignore[arg-type]
    (shown,) = drawn.samples
    assert shown.kind == "picture" and shown.image.size == (6 * 110 - 4, 4 * 110 - 4)


# What is missing, and what is damaged.


def missing(page: Page) -> dict[str, str]:
    """The grey lines, by section."""
    found: dict[str, str] = {}
    pieces = re.split(r'<h2 id="(\w+)">', page.html)
    for name, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        lines = re.findall(r'<p class="quiet missing">(.*?)</p>', piece, re.S)
        if lines:
            found[name] = " ".join(re.sub(r"<.*?>", "", " ".join(lines)).split())
    return found


def written(folder: Path, **settings: Any) -> tuple[Page, tuple[str, ...]]:
    done = report(folder, folder.parent / "out" / "page.html", **settings)
    return Page(done.file.read_text(encoding="utf-8")), done.problems


def test_a_bare_model_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = saved(tmp_path / "bare")
    page, problems = written(folder)
    lines = missing(page)
    assert set(lines) == {"recipe", "curves", "progress", "measures"} and problems == ()
    assert f"inkwash eval {folder} --split test" in lines["measures"]
    assert '"kind": "linear"' in page.text("recipe")
    assert len(page.images) == 9 + 2 and "--resume" not in page.html
    before = sorted(f.name for f in folder.iterdir())
    assert report(folder).file == Path("report.html")  # a model's folder is published whole: nothing is put into it
    assert (tmp_path / "report.html").is_file() and sorted(f.name for f in folder.iterdir()) == before


def test_a_run_in_training_has_a_page_before_its_first_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "young"
    folder.mkdir()
    (folder / "recipe.toml").write_text('[data]\nsource = "pets"\n')
    write_metrics(folder, metrics(60)[:24])
    page, problems = written(folder)
    assert problems == () and "40% of the training is done" in page.text("")
    assert "has trained for 240 steps" in page.text("")
    assert set(missing(page)) == {"progress", "denoising", "samples", "measures"}
    assert len(page.images) == 5
    (folder / "metrics.jsonl").unlink()
    assert "10 steps" in missing(written(folder)[0])["curves"]


def test_a_finished_run_is_not_said_to_go_on(page: Page) -> None:
    assert "of the training is done" not in page.text("")


def test_points_in_the_plane_are_scattered(tmp_path: Path) -> None:
    points = {"shape": (2,), "net": MLP(width=8, depth=1), "codec": Standard((0.0, 0.0), (1.0, 1.0)), "classes": ()}
    saved(tmp_path / "points" / "model", **points, sampling=Sampling(Euler(), steps=2))
    sheet(tmp_path / "points" / "samples" / "step-0000000.png", 9)
    page, _ = written(tmp_path / "points")
    assert [a["class"] for a in page.all("img")] == ["chart"] * (1 + 2 * 2 + 1 + 1)
    assert "draws points in the plane" in page.text("") and "on 76,800 points" in page.text("")


def test_vectors_without_a_picture_say_so(tmp_path: Path) -> None:
    three = {"shape": (3,), "net": MLP(width=8, depth=1), "codec": Standard((0.0,) * 3, (1.0,) * 3), "classes": ()}
    page, problems = written(saved(tmp_path / "vectors", **three, sampling=Sampling(Euler(), steps=2)))
    assert "Vectors of 3 numbers have no picture" in missing(page)["samples"] and problems == ()


DAMAGES: dict[str, tuple[str, bytes, str]] = {
    "recipe": ("recipe.toml", b"[data\nsource =", "no whole recipe"),
    "sheet": ("samples/step-0000100.png", b"\x89PNG nothing", "opened as a picture"),
    "records": ("evaluation/records.jsonl", b'+{"value": 1}\n{"val', "2 of 4 lines"),
    "config": ("model/config.json", b'{"format": 1', "cannot be read"),
    "bytes": ("model/config.json", b"\xff\xfe\x00", "cannot be read"),
    "manifest": ("model/manifest.json", b"[]", "cannot be read"),
}
"""A file and what is in it instead, or with "+" after what is in it; and what is said of it."""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = tmp_path / "small"
    saved(folder / "model", sampling=Sampling(Euler(), steps=1))
    (folder / "recipe.toml").write_text('[data]\nsource = "pets"\n')
    write_metrics(folder, metrics(3))
    for step in (0, 100):
        sheet(folder / "samples" / f"step-{step:07d}.png", 9)
    append(folder / "evaluation", [record("fd", 12.3456), record("kid", 0.5)])
    return folder


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_is_said_and_the_rest_is_shown(small: Path, what: str) -> None:
    name, content, said = DAMAGES[what]
    file = small / name
    file.write_bytes(file.read_bytes() + content[1:] if content[:1] == b"+" else content)
    page, problems = written(small)
    assert len(problems) == 1 and said in problems[0] and str(small) in problems[0]
    assert said in page.text("") and "Not everything could be read" in page.text("")
    assert "12.35" in page.text("measures") and [a["id"] for a in page.all("h2")] == SECTIONS


def test_damaged_weights_leave_out_the_drawings(small: Path) -> None:
    file = small / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    page, _ = written(small)
    assert "No samples were drawn" in missing(page)["samples"] and "UNet of" in page.text("")


def test_metrics_of_any_kind_are_survived(small: Path) -> None:
    lines = [{"step": "x"}, {"step": 20, "loss": "y"}, {"step": 10, "loss": 1.0, "lr": None}, {"step": True}, [1], "a"]
    write_metrics(small, lines)
    with (small / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "loss": NaN}\n{"step": 40, "lo')
    page, problems = written(small)
    assert problems == () and len(page.all("img", "chart")) == 1


def test_code_from_outside_is_not_run_unasked(small: Path) -> None:
    whole = checkpoint.load(small / "model")
    table = json.loads(whole.texts["config.json"]) | {"net": {"kind": "antigravity:Net"}}
    checkpoint.publish(small / "model", whole.tensors, whole.texts | {"config.json": json.dumps(table)})
    page, problems = written(small)
    assert "--trust" in problems[0] and "cannot be read" in missing(page)["samples"]


def test_records_of_other_weights_come_last_and_are_marked(small: Path) -> None:
    from inkwash.evaluation import weights_hash

    mine, theirs = {"weights_sha256": weights_hash(small)}, {"weights_sha256": "0" * 64}
    (small / "evaluation" / "records.jsonl").unlink()
    old = record("fd", 1.0, model=mine)
    append(small / "evaluation", [old, record("fd", 2.0, model=theirs), replace(old, value=3.0)])
    text = written(small)[0].text("measures")
    assert "FD-lite0 ↓3.000" in text.replace("↓ ", "↓") and "1.000" not in text  # of a measure the newest
    assert text.index("3.000") < text.index("other weights2.000")


def test_the_model_in_a_run_stands_for_the_run(small: Path) -> None:
    assert report(small / "model").file == small / "report.html"


def test_where_there_is_nothing_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        report(tmp_path / "nothing")
    with pytest.raises(ValueError, match="no model, no recipe"):
        report(tmp_path)


def test_an_interrupted_report_leaves_the_old_one(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "report.html").write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inkwash.checkpoint.atomic.flush", full)
    with pytest.raises(OSError, match="No space"):
        report(small)
    assert (small / "report.html").read_text() == "old" and not list(small.glob(".*"))


def test_the_command_says_where_it_is(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (small / "samples" / "step-0000100.png").write_bytes(b"")
    with pytest.raises(SystemExit) as end:
        main(["report", str(small), "--device", "cpu"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert re.search(r"The report is .*report\.html \(\d+ kB\)", out) and "Left out: " in out
    with pytest.raises(SystemExit) as end:
        main(["report", str(small), "--out", "page.pdf"])
    assert end.value.code == 2 and ".html" in capsys.readouterr().err


# Words.


def test_figures_have_four_digits() -> None:
    shown = {12.3456: "12.35", 0.00123456: "0.001235", 9999.96: "10,000", 123456.7: "123,457", 1.0: "1.000", 0.0: "0"}
    shown |= {-0.5: "-0.5000", 2.5e-7: "2.5e-07", 1.5e7: "1.5e+07", float("nan"): "not finite"}
    assert {value: figure(value) for value in shown if value == value} == {k: v for k, v in shown.items() if k == k}
    assert figure(float("nan")) == "not finite"
    assert figure(1.0, 12.3456) == "1.00" and figure(0.0011111, 0.00123) == "0.001111"
    assert figure(1e-9, 2.5e-7) == "1e-09"


def test_words_of_records() -> None:
    assert [duration(s) for s in (45, 99.4, 240, 7500)] == ["45 seconds", "99 seconds", "4.0 minutes", "2.1 hours"]
    assert plain({"steps": 1200, "images": 76800.0, "empty": None}) == "steps = 1,200, images = 76,800"
    assert plain({"kind": "ddim", "eta": 0.5}) == "ddim(eta=0.5)" and plain([1, "a", True]) == "1, a, yes"
    assert (
        sampling({"sampler": {"kind": "heun"}, "steps": 3, "guidance": 1.0, "grid": {"kind": "even"}})
        == "heun, 3 steps"
    )
    full = {"sampler": {"kind": "ddim", "eta": 0.5, "added": "small"}, "grid": {"kind": "their.grid", "a": 1}}
    assert (
        sampling(full | {"path": {"kind": "ve", "top": 50.0}})
        == "ddim(eta=0.5), grid their.grid(a=1), along ve(top=50.0)"
    )
    assert sampling({}) == ""
    assert row(record("precision", 0.5, better="higher"), None).better == "↑"
