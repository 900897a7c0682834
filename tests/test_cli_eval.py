"""`inkwash eval` and `inkwash records`: what they print, keep and refuse."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash.cli import main, terminal
from inkwash.codec import Pixels, Standard
from inkwash.conditions import ByVector, Conditions
from inkwash.data import Dataset, DataSpec, load
from inkwash.data.mix import uniform
from inkwash.evaluation import RealSide, load_reference, read_records, real_side, weights_hash
from inkwash.evaluation.evaluate import LEAST
from inkwash.kinds import from_table
from inkwash.model import Plain
from inkwash.modelfolder import Config, read_config, save_model
from inkwash.nets import MLP, UNet
from inkwash.paths import Linear
from inkwash.pictures import bars
from inkwash.pictures.chart import COLOURS
from inkwash.targets import Flow
from test_evaluate import blots


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/photos, a model of photos.npy, half of which is held out; runs/moons, of points with a test split."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("INKWASH_DEBUG", "")
    monkeypatch.setattr(sys, "path", list(sys.path))
    torch.manual_seed(0)
    config = Config((1, 8, 8), UNet("tiny"), Linear(), Flow(), Plain(), Pixels(), data="photos")
    save_model(config, config.network().state_dict(), "runs/photos/model")
    np.save("photos.npy", blots(120))
    Path("runs/photos/recipe.toml").write_text('[data]\nsource = "photos.npy"\nval_fraction = 0.5\n')
    points = Config((2,), MLP(8, 1), Linear(), Flow(), Plain(), Standard((0.0, 0.0), (1.0, 1.0)), ("upper", "lower"))
    points = replace(points, data="moons")
    save_model(points, points.network().state_dict(), "runs/moons/model")
    Path("runs/moons/recipe.toml").write_text('[data]\nsource = "moons"\n')
    return tmp_path


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(list(args))
    return int(left.value.code or 0)


PLAIN = ("--features", "raw", "-n", "40")
QUICK = (*PLAIN, "--steps", "1")


def test_pictures_are_measured_and_every_number_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "runs/photos", "--split", "val", *QUICK) == 0
    said = capsys.readouterr().out
    records = read_records(Path("runs/photos/evaluation"))
    assert [r.measure.name for r in records] == ["fd", "kid", "precision", "recall", "density", "coverage", "spectrum"]
    fd = records[0]
    assert re.search(rf"^FD-raw +{fd.value:.4g} ", said, re.MULTILINE)
    assert f"{fd.floor:.4g} (two halves of 20)" in said
    assert "photos val, 40" in said and "heun, 1 steps, 1 calls, guidance 1, seed 0" in said
    assert f"about {fd.bias:.4g} is expected, of the floor's halves {2 * fd.bias:.4g}" in said
    assert "classes was left out: photos has no labels" in said
    assert "shown, not counted" in said
    assert fd.model["weights_sha256"] == weights_hash("runs/photos") and fd.sampling["steps"] == 1
    assert fd.measure.split == "val" and fd.measure.n == 40
    assert f"| FD-raw | {fd.value:.4g} |" in Path("runs/photos/model/README.md").read_text()
    names = sorted(f.name for f in Path("runs/photos/evaluation").glob("*.png"))
    assert names == ["nearest.png", "spectrum.png"]
    assert run("eval", "runs/photos", "--split", "val", *QUICK, "--measures", "fd", "--seed", "1") == 0
    again = read_records(Path("runs/photos/evaluation"))
    assert again[:-1] == records and again[-1].value != fd.value and again[-1].measure == fd.measure


def test_more_pictures_of_a_seed_go_on_where_the_fewer_ended() -> None:
    assert run("eval", "runs/photos", "--split", "val", *QUICK, "--measures", "fd") == 0
    (place,) = Path("runs/photos/evaluation/generated").iterdir()
    first = (place / "pictures.bin").read_bytes()
    assert run("eval", "runs/photos", "--split", "val", *QUICK, "-n", "50", "--measures", "fd") == 0
    assert (place / "pictures.bin").read_bytes()[: len(first)] == first
    assert [r.measure.n for r in read_records(Path("runs/photos/evaluation"))] == [40, 50]


def test_points_are_measured_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("eval", "runs/moons", "--split", "test", *QUICK, "--against", "200")
    assert run(*args) == 0
    said = capsys.readouterr().out
    assert "spectrum was left out: these are not pictures." in said
    assert "moons test, 200" in said and "memorised" in said


def test_the_real_side_travels(capsys: pytest.CaptureFixture[str]) -> None:
    two = ("--measures", "fd,spectrum")
    assert run("eval", "runs/photos", "--split", "val", *QUICK, *two, "--save-reference", "ref") == 0
    assert len(load_reference(Path("ref"))) == 40
    assert run("eval", "runs/photos", *QUICK, *two, "--reference", "ref", "--out", "again") == 0
    first, second = read_records(Path("runs/photos/evaluation")), read_records(Path("again"))
    assert [r.value for r in first] == [r.value for r in second]
    assert [r.measure for r in first] == [r.measure for r in second]
    assert [r.floor for r in first] == [r.floor for r in second] and first[1].floor > 0
    assert "copies" not in capsys.readouterr().out.lower()


def test_pictures_that_no_model_drew() -> None:
    np.save("drawn.npy", blots(40, 2))
    assert run("eval", "drawn.npy", "--data", "photos.npy", "--split", "train", *PLAIN, "--measures", "fd") == 0
    (record,) = read_records(Path("drawn.npy-evaluation"))
    assert record.measure.data == "photos" and record.sampling["data"] == "drawn" and record.model == {}


def test_a_path_is_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`./moons` is the folder here, `moons` the points that ship; and the classifier never learns what is measured."""
    for key, split in enumerate(("train", "test")):
        for number, picture in enumerate(blots(40, key)):
            file = Path("moons") / split / ("dark", "light")[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[..., 0]).save(file)
    taught: list[str] = []

    def classifier(data: Dataset, train: Dataset, **_: object) -> None:
        taught.extend((data.fingerprint, train.fingerprint))

    monkeypatch.setattr("inkwash.evaluation.job.classifier_file", classifier)
    args = ("--data", "./moons", "--split", "test", *PLAIN, "--measures", "fd,classes")
    assert run("eval", "./moons", *args) == 0
    (record,) = read_records(Path("moons-evaluation"))
    assert record.sampling["shape"] == [8, 8, 1]
    assert taught == [load(DataSpec("./moons", split=split)).fingerprint for split in ("test", "train")]


def test_bits_are_records_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "runs/moons", "--split", "test", *QUICK, "--measures", "fd", "--bits", "8") == 0
    bits = {r.measure.name: r for r in read_records(Path("runs/moons/evaluation")) if r.unit == "nats/dim"}
    assert set(bits) == {"bits-bound", "bits-flow"}
    bound = bits["bits-bound"]
    assert bound.measure.n == 8 and bound.measure.settings["steps"] == 100 and bound.low < bound.value < bound.high
    assert bound.measure.settings["labels"] == "own" and bits["bits-flow"].measure.settings["trace"] == {
        "kind": "exact"
    }
    assert f"{bound.value:.4g} nats/dim" in capsys.readouterr().out


def test_a_sweep_and_its_best_point(capsys: pytest.CaptureFixture[str]) -> None:
    before = weights_hash("runs/photos")
    args = ("eval", "runs/photos", "--split", "val", "-n", "24", "--features", "raw", "--sweep", "steps=2,3")
    assert run(*args, "--sweep", "sampler=euler,heun", "--adopt", "best") == 0
    said = capsys.readouterr().out
    records = read_records(Path("runs/photos/evaluation"))
    assert len(records) == 4 and {r.sampling["steps"] for r in records} == {2, 3}
    best = min(records, key=lambda r: (r.value, r.sampling["calls"]))
    own = read_config(Path("runs/photos/model")).sampling
    assert (own.steps, own.method.kind) == (best.sampling["steps"], best.sampling["sampler"]["kind"])
    assert weights_hash("runs/photos") == before
    assert "is now sampled with" in said and Path("runs/photos/evaluation/sweep.png").is_file()
    assert not Path("runs/photos/evaluation/swept").exists()
    points = Path("runs/photos/evaluation/sweep.jsonl").read_text()
    assert run(*args, "--sweep", "sampler=euler,heun", "--adopt", "3") == 0
    assert Path("runs/photos/evaluation/sweep.jsonl").read_text() == points
    third = read_records(Path("runs/photos/evaluation"))[2].sampling
    own = read_config(Path("runs/photos/model")).sampling
    assert (own.steps, own.method.kind) == (third["steps"], third["sampler"]["kind"])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("runs/photos",), "Against which real pictures? --split test"),
        (("runs/photos", "--split", "test"), "photos.npy is one array, without a test split. Use --split val"),
        (("runs/photos", "--split", "val", "--measures", "fid"), "There is no measure 'fid'. Did you mean fd?"),
        (
            ("runs/photos", "--split", "val", "--features", "lite"),
            "There is no feature net 'lite'. Did you mean lite0?",
        ),
        (("runs/photos", "--split", "val", "--features", "classifier"), "no labels to learn"),
        (("runs/photos", "--reference", "ref", "--split", "val"), "--split and --reference ref both say what is real"),
        (("runs/photos", "--reference", "nowhere"), "no checkpoint nowhere"),
        (("runs/photos", "--split", "val", "--adopt", "best"), "--adopt takes a point of a sweep"),
        (
            ("runs/photos", "--split", "val", "--sweep", "steps=1", "--adopt", "first"),
            "neither best nor a",
        ),
        (("runs/photos", "--split", "val", "--sweep", "stepz=1"), "Did you mean steps?"),
        (("nowhere", "--split", "test", "--data", "photos.npy"), "There is no data set or folder named nowhere"),
        (("photos.npy", "--split", "test"), "say what to compare them with: --data SOURCE"),
        (("photos.npy", "--data", "photos.npy", "--split", "val"), "What a run held out only a run can say"),
        (("photos.npy", "--data", "photos.npy", "--split", "train", "--bits", "3"), "holds no model"),
        (("runs/photos", "--split", "val", "-n", f"{LEAST - 1}"), f"-n {LEAST - 1}"),
        (("runs/photos", "--split", "val", "--against", f"{LEAST - 1}"), f"--against {LEAST - 1}"),
        (("runs/photos", "--split", "val", "--by", "kid"), "--by kid says what a --sweep measures, and there is none"),
        (("runs/photos", "--split", "val", "--skip"), "--skip leaves out combinations of a --sweep, and there is none"),
        (("runs/photos", "--split", "val", "--features", "raw", "--guidance", "2"), "needs a model with classes"),
    ],
)
def test_mistakes(args: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", *args) == 2
    assert says in capsys.readouterr().err
    assert not Path("runs/photos/evaluation/records.jsonl").exists()


DRAWING = ("--sampler", "ddim", "--steps", "5", "--grid", "karras", "--path", "ve", "--guidance", "2", "--seed", "0")


def test_what_would_be_ignored_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("eval", "photos.npy", "--data", "photos.npy", "--split", "train")
    assert run(*args, *DRAWING, "--precision", "bf16", "--sweep", "steps=1") == 2
    said = capsys.readouterr().err
    assert "There are 9 mistakes" in said  # steps are given twice, too
    for name in (*DRAWING[::2], "--precision", "--sweep"):
        assert f"photos.npy holds no model, which {name} says" in said
    more = ("--bits", "4", "--save-reference", "ref", "--steps", "7")
    assert run("eval", "runs/photos", "--split", "val", "--sweep", "steps=5,10", *more) == 2
    said = capsys.readouterr().err
    assert "There are 3 mistakes" in said and "--steps 7 and --sweep steps=5,10 both give steps" in said
    assert all(f"{name} goes with one way to draw" in said for name in more[:3:2])
    assert not list(Path().glob("*-evaluation"))


def test_what_is_not_varied_is_as_asked_for() -> None:
    args = ("eval", "runs/moons", "--split", "test", "-n", "16", "--features", "raw", "--sweep", "steps=3,2")
    assert run(*args, "--sampler", "dpm++(order=3)", "--guidance", "1.5", "--grid", "karras", "--path", "ve") == 0
    drawn = [r.sampling for r in read_records(Path("runs/moons/evaluation"))]
    assert [s["steps"] for s in drawn] == [3, 2]
    for s in drawn:
        assert s["sampler"] | {"kind": "dpm++", "order": 3} == s["sampler"] and s["guidance"] == 1.5
        assert s["grid"]["kind"] == "karras" and s["path"]["kind"] == "ve"


def test_points_are_drawn_by_the_thousand() -> None:
    assert run("eval", "runs/moons", "--split", "test", *QUICK, "--measures", "fd") == 0
    assert run("eval", "runs/photos", "--split", "val", *QUICK, "--measures", "fd") == 0
    moons, photos = (read_records(Path(f"runs/{name}/evaluation"))[0].sampling for name in ("moons", "photos"))
    assert (moons["chunk"], photos["chunk"]) == (2048, 64)


def test_a_sweep_asks_for_the_real_side_of_its_measure_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The training set and a classifier would take minutes; and nothing at all is done for a point there is not."""
    asked: list[object] = []

    def spy(*args: object, **settings: object) -> RealSide:
        asked.append(settings["measures"])
        return real_side(*args, **settings)

    monkeypatch.setattr("inkwash.evaluation.real_side", spy)
    args = ("eval", "runs/moons", "--split", "test", "-n", "16", "--features", "raw", "--sweep", "steps=1,2")
    assert run(*args, "--adopt", "3") == 2
    assert "--adopt 3: the sweep has points 1 to 2" in capsys.readouterr().err and asked == []
    assert run(*args, "--sweep", "sampler=hein") == 2 and "Did you mean heun?" in capsys.readouterr().err
    plain = ("eval", "runs/photos", "--split", "val", *args[4:8], "--sweep", "guidance=1,2")
    assert run(*plain) == 2 and "guidance=2: " in capsys.readouterr().err
    assert asked == []
    assert run(*plain, "--skip", "--by", "kid") == 0
    assert "Left out: guidance=2: " in capsys.readouterr().out
    assert asked == [("kid",)]
    assert [r.measure.name for r in read_records(Path("runs/photos/evaluation"))] == ["kid"]


def test_a_point_of_a_model_with_code_of_its_own_is_adopted(tmp_path: Path) -> None:
    (tmp_path / "half_way.py").write_text(
        "from dataclasses import dataclass\n"
        "import torch\n"
        "@dataclass(frozen=True)\n"
        "class Half:\n"
        "    def __call__(self, c):\n"
        "        return torch.full_like(c.alpha, -0.5), torch.full_like(c.alpha, 0.5)\n"
    )
    model = Path("runs/moons/model")
    table = json.loads((model / "config.json").read_text()) | {"target": {"kind": "half_way:Half"}}
    sys.path.append(str(tmp_path))
    config = from_table(Config, {k: v for k, v in table.items() if k not in ("format", "inkwash")}, trust=True)
    save_model(config, config.network().state_dict(), model)
    args = ("eval", "runs/moons", "--split", "test", "-n", "16", "--features", "raw", "--sweep", "steps=4")
    assert run(*args, "--adopt", "best", "--trust") == 0
    assert read_config(model, trust=True).sampling.steps == 4


def test_a_repeated_sweep_adds_only_what_is_new() -> None:
    args = ("eval", "runs/moons", "--split", "test", "-n", "16", "--features", "raw", "--sweep")
    folder = Path("runs/moons/evaluation")
    assert run(*args, "steps=1,2") == 0
    first = read_records(folder)
    assert run(*args, "steps=1,2,3") == 0 and run(*args, "steps=2,3") == 0
    assert read_records(folder)[:2] == first and [r.sampling["steps"] for r in read_records(folder)] == [1, 2, 3]


def test_each_source_has_a_folder_of_its_own() -> None:
    for name in ("imgs.v1.npy", "imgs.v2.npy", "a/imgs.npy", "b/imgs.npy"):
        Path(name).parent.mkdir(exist_ok=True)
        np.save(name, blots(20, 2))
        assert (
            run("eval", name, "--data", "photos.npy", "--split", "train", *PLAIN[:2], "-n", "16", "--measures", "fd")
            == 0
        )
    found = sorted(str(f) for f in Path().glob("*-evaluation"))
    expected = ["a-imgs.npy", "b-imgs.npy", "imgs.v1.npy", "imgs.v2.npy"]
    assert found == [f"{name}-evaluation" for name in expected]


def test_all_mistakes_are_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("eval", "runs/photos", "--measures", "fid", "--adopt", "1", "--precision", "fp8") == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("Against which", "'fid'", "--adopt takes", "--precision"))


def test_runs_are_compared_where_they_measured_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree("runs/photos", "runs/other")
    quick = (*QUICK, "--measures", "fd")
    assert run("eval", "runs/photos", "--split", "val", *quick) == 0
    assert run("eval", "runs/other", "--split", "val", *quick, "--steps", "2", "--seed", "5") == 0
    capsys.readouterr()
    assert run("records", "runs/photos", "runs/other") == 0
    said = capsys.readouterr().out
    one, two = (read_records(Path(f"runs/{name}/evaluation"))[-1] for name in ("photos", "other"))
    assert re.search(rf"^runs/photos +FD-raw +{one.value:.4g} ", said, re.MULTILINE)
    assert re.search(rf"^runs/other +FD-raw +{two.value:.4g} .*2 steps", said, re.MULTILINE)
    assert "Not shown" not in said
    sweep = ("--split", "train", "-n", "16", "--features", "raw", "--sweep", "steps=1,2")
    assert run("eval", "runs/other", *sweep) == 0
    capsys.readouterr()
    for names in (("runs/photos", "runs/other"), ("runs/other", "runs/photos", "--measure", "fd")):
        assert run("records", *names) == 0  # what a sweep measured besides is in nobody's way
        said = capsys.readouterr().out
        assert said.count("FD-raw ") == 2 and "photos train" not in said
        assert "Not shown: 2 numbers of what not every one" in said
    shutil.copytree("runs/photos", "runs/third", ignore=shutil.ignore_patterns("evaluation"))
    assert run("eval", "runs/third", *sweep[:-2], "--measures", "fd", "--steps", "1") == 0
    for more in ((), ("--measure", "fd")):
        capsys.readouterr()
        assert run("records", "runs/photos", "runs/third", *more) == 2
        said = capsys.readouterr().err
        assert "They differ in split: 'val' and 'train'; data_hash:" in said and "runs/photos and runs/third" in said
    assert run("records", "runs/other", "--all") == 0
    assert capsys.readouterr().out.count("FD-raw ") == 3
    assert run("records", "runs/other", "--measure", "kid") == 2
    assert "There is no kid measured in runs/other/evaluation" in capsys.readouterr().err


def test_stages_are_told_in_lines_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    with terminal.stages() as told:
        told("Drawing", 0.5)  # found there: not this one's speed
        for seconds, fraction in ((4.0, 0.55), (6.0, 0.6), (4.0, 0.65), (6.0, 1.0)):
            now[0] += seconds
            told("Drawing", fraction)
    assert capsys.readouterr().out == "Drawing: 60%, 40 s left\n"


def test_bars_are_as_high_as_their_values() -> None:
    image = np.asarray(bars({"a": [0.1, 0.4], "b": [0.2, 0.0]}, ["x", "y"], title="t", ylabel="share"))
    below = image[90:]  # without the legend

    def height(colour: tuple[int, int, int], half: slice) -> int:
        return int((np.abs(below[:, half].astype(int) - colour).sum(2) < 30).any(1).sum())

    left, right = slice(70, 480), slice(480, 880)
    a, b = (np.array(c) for c in COLOURS[:2])
    assert height(a, right) == pytest.approx(4 * height(a, left), abs=4)
    assert height(b, left) == pytest.approx(2 * height(a, left), abs=3)
    assert height(b, right) <= 1
    with pytest.raises(ValueError, match="a has 1 values for 2 places"):
        bars({"a": [1.0]}, ["x", "y"], title="", ylabel="")


def test_records_are_one_json_object_a_line() -> None:
    assert run("eval", "runs/photos", "--split", "val", *QUICK, "--measures", "spectrum") == 0
    (line,) = Path("runs/photos/evaluation/records.jsonl").read_text().splitlines()
    table = json.loads(line)
    assert table["unit"] == "dB" and table["measure"]["features"] == "" and table["made"]["date"].endswith("+00:00")


def told(tmp_path: Path) -> None:
    """runs/told, a model of classes and one number, of told.npz, half of which is held out."""
    amount = uniform(np.arange(200), 7)
    images = blots(200) // 2
    images[:, :, :4] += (100 * amount[:, None, None, None]).astype(np.uint8)
    labels, vectors = np.arange(200) % 2, amount[:, None].astype(np.float32)
    classes, names = np.array(["dark", "bright"]), np.array(["amount"])
    np.savez("told.npz", images=images, labels=labels, classes=classes, vectors=vectors, vector_names=names)
    conditions = Conditions(vector=ByVector(("amount",), (0.5,), (0.3,)))
    config = Config(
        (1, 8, 8), UNet("tiny", widths=(16,), patch=2, depth=1), Linear(), Flow(), Plain(), Pixels(),
        ("dark", "bright"), conditions=conditions, data="told",
    )  # fmt: skip
    save_model(config, config.network().state_dict(), "runs/told/model")
    Path("runs/told/recipe.toml").write_text('[data]\nsource = "told.npz"\nval_fraction = 0.5\n')


def test_a_model_of_numbers_is_asked_for_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for what the held-out pictures have, and read by a probe; by default classes are seen by a classifier."""
    told(tmp_path)
    assert run("eval", "runs/told", "--split", "val", *QUICK, "--measures", "classes,vector", "--judge", "probe") == 0
    said = capsys.readouterr().out
    records = {r.measure.name: r for r in read_records(Path("runs/told/evaluation"))}
    assert list(records) == ["class-histogram", "class-accuracy", "r2(amount)", "slope(amount)"]
    accuracy, r2 = records["class-accuracy"], records["r2(amount)"]
    assert accuracy.floor is not None and accuracy.floor > 0.7 and accuracy.chance == pytest.approx(0.5, abs=0.05)
    assert r2.floor is not None and r2.floor > 0.8 and r2.floor_of == "own" and r2.value < 0.5
    assert r2.sampling["asked"]["of"] == ["label", "vector"]
    assert re.search(rf"^r2\(amount\) .*{r2.floor:.4g} \(the real 40, .*\), chance 0 ", said, re.MULTILINE)
    assert r2.measure.settings["probe"]["n"] > 80
    assert run("eval", "runs/told", "--split", "val", *QUICK, "--measures", "text") == 2
    assert "text measures how a model follows text, and this one is told of vector." in capsys.readouterr().err
    assert run("records", "runs/told", "--measure", "r2(amount)") == 0
    assert f"{r2.value:.4g}" in capsys.readouterr().out


def test_a_sweep_measures_all_that_guidance_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One pass over the pictures of a point for all measures; a curve of each; and nothing is measured again."""
    told(tmp_path)
    args = ("eval", "runs/told", "--split", "val", *QUICK, "--sweep", "guidance=1,2,4", "--judge", "probe")
    args = (*args, "--measures", "fd,kid,precision-recall,classes,vector")
    assert run(*args) == 0
    said = capsys.readouterr().out
    head = next(line for line in said.splitlines() if line.startswith("| #"))
    for name in ("FD-raw ↓", "kid", "precision", "recall", "class-accuracy", "r2(amount)", "slope(amount)"):
        assert f"| {name} " in head
    assert "curve.png" in said and Path("runs/told/evaluation/curve.png").is_file()
    records = read_records(Path("runs/told/evaluation"))
    assert [r.sampling["guidance"] for r in records if r.measure.name == "recall"] == [1, 2, 4]
    assert run(*args) == 0
    assert read_records(Path("runs/told/evaluation")) == records
    lines = Path("runs/told/evaluation/sweep.jsonl").read_text().splitlines()
    assert len(lines) == 3 and not list(Path("runs/told/evaluation").glob("swept/*"))
    assert run(*args[:-1], "fd") == 0  # other measures are another sweep
    assert len(Path("runs/told/evaluation/sweep.jsonl").read_text().splitlines()) == 6


def test_rules_and_intervals_are_swept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told(tmp_path)
    args = ("eval", "runs/told", "--split", "val", *PLAIN, "--steps", "2", "--guidance", "3", "--sweep")
    assert run(*args, "rule=cfg,apg", "--sweep", "interval=(0.3,5),(0,inf)") == 0
    said = capsys.readouterr().out
    assert "| cfg in 0.3 to 5 " in said and "| apg " in said and said.count("| heun ") == 4
    drawn = [r.sampling for r in read_records(Path("runs/told/evaluation"))]
    assert [s.get("interval") for s in drawn if "rule" not in s] == [[0.3, 5.0], None]


def test_a_weaker_model_is_pushed_away_from(tmp_path: Path) -> None:
    """Its weights are part of what pictures depend on."""
    told(tmp_path)
    config = read_config(Path("runs/told/model"))
    torch.manual_seed(5)
    weak = {k: v + 0.01 * torch.randn(v.shape) for k, v in config.network().state_dict().items()}
    save_model(config, weak, "runs/weak/model")
    args = ("eval", "runs/told", "--split", "val", *QUICK, "--measures", "fd", "--guidance", "2")
    assert run(*args) == 0 and run(*args, "--weak", "runs/weak") == 0
    plain, other = read_records(Path("runs/told/evaluation"))
    assert "weak" not in plain.sampling and len(other.sampling["weak"]) == 64 and plain.measure == other.measure
    assert plain.value != other.value


def test_what_a_model_cannot_be_drawn_with_is_told_before_the_real_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*args: object, **settings: object) -> None:
        raise AssertionError("the real side takes minutes")

    monkeypatch.setattr("inkwash.evaluation.real_side", never)
    for more, why in (
        (("--guidance", "3"), "guidance = 3.0 needs a model with classes"),
        (("--interval", "5,0.3"), "interval"),
        (("--rule", "cgf"), "Did you mean cfg"),
        (("--grid", "listed(times=[1, 0.5])"), "The times end at t = 0.5"),
        (("--weak", "runs/photos"), "guidance = 1 is off"),
        (("--weak", "runs/moons", "--guidance", "2"), "The weak model differs in its shape"),
        (("--weak", "runs/photos", "--sweep", "steps=1,2"), "guidance = 1 is off"),
    ):
        assert run("eval", "runs/photos", "--split", "val", *PLAIN, *more) == 2
        assert why in capsys.readouterr().err, more
