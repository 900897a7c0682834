"""The report: one page that stands alone, says what there is, and what is missing; numbers, pictures, hostile text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inkwash import MLP, Euler, Sampling, checkpoint, gallery
from inkwash.cli import main
from inkwash.codec import Standard
from inkwash.evaluation import evaluation_folder, weights_hash
from inkwash.evaluation.record import append
from inkwash.report import report
from pages import HOSTILE, Page, config, metrics, record, saved, sheet, write_metrics

SECTIONS = ["recipe", "curves", "progress", "denoising", "samples", "measures", "use"]


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
            record("fd", 12.3456, folder, floor=1.23456, floor_n=1000, bias=0.98765),
            record("kid", 0.00123456, folder, low=0.00111111, high=0.00135555),
            record("spectrum", 1.5, folder, unit="dB"),
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
    assert "FD-lite0 ↓12.351.235 (two halves of 1,000)0.9877" in text.replace("> ", ">").replace("↓ ", "↓")
    assert "0.0012350.001111 to 0.001356" in text and "1.5 dB" in text
    assert "In all rows: Pictures: 10,000; Against: pets test, 2,000; Drawn with: heun, 10 steps, guidance 1.5" in text
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
    there = tmp_path / "bare-report.html"  # a model's folder is published whole: nothing is put into it
    assert report(folder).file == there and there.is_file()
    assert sorted(f.name for f in folder.iterdir()) == before
    monkeypatch.chdir(folder)
    assert report(".").file == there


def test_what_is_measured_of_a_bare_model_is_on_its_page(tmp_path: Path) -> None:
    folder = saved(tmp_path / "bare")
    append(evaluation_folder(folder), [record("fd", 12.3456, folder)])
    sheet(evaluation_folder(folder) / "nearest.png", 99)
    page, _ = written(folder)
    assert "12.35" in page.text("measures") and "Closest training neighbours" in page.text("measures")


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
    "records": ("evaluation/records.jsonl", b'+{"value": 1}\n{"val', "1 of 3 lines"),
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
    append(folder / "evaluation", [record("fd", 12.3456, folder), record("kid", 0.5, folder)])
    return folder


def test_bands_have_a_picture_of_their_own(small: Path) -> None:
    logged = [line | {"validation_band_1": 0.5, "validation_train_band_1": "?"} for line in metrics(3)]
    write_metrics(small, logged)
    page, _ = written(small)
    plot = gallery.band_plot([line | {"validation_train_band_1": float("nan")} for line in logged])
    assert plot is not None and plot.size in [i.size for i in page.images]
    assert "band of noise levels" in page.text("curves")


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


def test_records_of_other_weights_are_told_apart(small: Path) -> None:
    """Of earlier steps, of averages that were only tried, whose weights were kept nowhere."""
    mine, theirs = {"weights_sha256": weights_hash(small)}, {"weights_sha256": "0" * 64, "trained": {"steps": 5000}}
    (small / "evaluation" / "records.jsonl").unlink()
    old = record("fd", 1.75, model=mine)
    tried = record("fd", 4.5, model={"weights_sha256": None, "ema": 0.02})
    append(small / "evaluation", [tried, old, record("fd", 2.5, model=theirs), replace(old, value=3.5)])
    page, _ = written(small)
    text = page.text("measures").replace("↓ ", "↓")
    now, others = text.split("Of other weights 2: ")
    assert "FD-lite0 ↓3.5" in now and "1.75" not in now  # of a measure the newest
    assert "2.5" not in now and "4.5" not in now
    assert "other weights, 5,000 steps2.5" in others and "other weights, ema 0.024.5" in others
    assert page.all("details", "others") == [{"class": "others"}]  # folded


def test_records_of_other_weights_alone_are_shown(small: Path) -> None:
    (small / "evaluation" / "records.jsonl").unlink()
    append(small / "evaluation", [record("fd", 4.5)])
    page, _ = written(small)
    assert page.all("details", "others") == [{"class": "others", "open": ""}] and "4.5" in page.text("measures")


def test_only_the_runs_own_model_stands_for_the_run(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert report(small / "model").file == small / "report.html"
    monkeypatch.chdir(small / "model")
    assert report(".").file == small / "report.html"
    before = (small / "report.html").read_bytes()
    other = saved(small / "ema-0.080", data="other data", sampling=Sampling(Euler(), steps=1))
    done = report(other)
    assert done.file == small / "ema-0.080-report.html" and (small / "report.html").read_bytes() == before
    page = Page(done.file.read_text(encoding="utf-8"))
    assert "trained on other data" in page.text("") and "curves" in missing(page) and "measures" in missing(page)


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
