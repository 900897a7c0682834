"""`inkwash distill` from teachers of every kind: the student begins as its teacher, wherever that came from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash.cli.app import run as main
from inkwash.codec import Latents
from inkwash.codecfolder import save_codec
from inkwash.distilling.report import Contestant
from inkwash.guidance import Along
from inkwash.kinds import to_table
from inkwash.modelfolder import model_hash
from inkwash.nets.autoencoder import KLAutoencoder
from inkwash.paths import Linear
from inkwash.pipeline import Pipeline, load
from inkwash.recipes import read_recipe
from inkwash.types import Condition, Denoiser, Query
from tinyruns import TINY, finish
from tinytext import Words

torch.set_num_threads(1)

STILL = ["--set", "train.steps=1", "--set", "optim.lr=1e-12", "--set", "train.samples=1", "--set", "train.batch_size=4"]
"""One step in which nothing is learned: what a student is then, it was given."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def teacher(**tables: Any) -> Pipeline:
    """A U-Net trained for two steps, in teacher/."""
    return taught({**TINY, **{name: {**TINY.get(name, {}), **table} for name, table in tables.items()}})


def taught(tables: dict[str, Any], **train: int) -> Pipeline:
    """A run of two steps, in teacher/; its head is not zeros then."""
    short = {"steps": 2, "batch_size": 4, "snapshots": 0, "samples": 1, "precision": "fp32"}
    finish(read_recipe({**tables, "train": {**short, **train}}), Path("teacher"))
    return load("teacher", chunk=4, trust=True)


def student(*options: str, of: str = "teacher") -> Pipeline:
    assert main(["distill", of, "--out", "student", *STILL, *options]) == 0
    return load("student", chunk=4, trust=True)


def assert_begins_as(theirs: Pipeline, mine: Pipeline, cond: Condition) -> None:
    """Data and noise are those of the teacher along the linear path, and so is a jump from t to s."""
    n = 3
    x = torch.randn(n, *mine.config.shape, generator=torch.Generator().manual_seed(0))
    t, s = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64), torch.tensor([0.0, 0.2, 0.5], dtype=torch.float64)
    model: Denoiser = theirs.model
    if theirs.model.path != Linear():
        model = Along(theirs.model, theirs.model.path, Linear())
    with torch.no_grad():
        expected = model(Query(x, t, t), cond)
        for until in (t, s) if mine.config.jumps else (t,):
            found = mine.model(Query(x, t, until), cond)
            torch.testing.assert_close(found.x0, expected.x0, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(found.eps, expected.eps, rtol=1e-4, atol=1e-4)


def test_of_latents() -> None:
    """By pairs of latents, as they are diffused."""
    net = KLAutoencoder(widths=(8, 16), groups=1, attention=False, channels=1)
    bound = Latents(net, (0.1, -0.2, 0.3, 0.0), (0.5, 0.25, 1.0, 2.0)).bind(net.build().state_dict())
    save_codec(bound, Path("codec"), data="shapes")
    theirs = teacher(
        codec={"folder": "codec"},
        data={"source": "shapes", "limit": 12, "size": 16, "channels": 1},
        net={"kind": "unet", "preset": "tiny", "widths": [16], "patch": 1, "depth": 1},
    )
    mine = student("--pairs", "6")
    assert mine.config.codec == theirs.config.codec
    assert (mine.config.shape, mine(1, steps=1).array.shape) == ((4, 8, 8), (1, 16, 16, 1))
    assert_begins_as(theirs, mine, Condition(torch.tensor([0, 1, 0])))


def test_of_texts() -> None:
    """What captions say is told to student and teacher alike, and pushed away from by the teacher alone."""
    folder = Path("data")
    folder.mkdir()
    lines = []
    for i in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * i, np.uint8)).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "text": f"grey number {i}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    theirs = teacher(data={"source": str(folder), "limit": 12}, conditions={"text": {"encoder": to_table(Words())}})
    assert main(["distill", "teacher", *STILL]) != 0  # the encoder is code from outside
    mine = student("--trust")
    text = theirs.config.conditions.text
    assert text is not None
    bound = text.encoder.bind().encode(["grey number 1", "grey", ""])
    cond = Condition(tokens=bound.values.float(), present=bound.present)
    assert_begins_as(theirs, mine, cond)
    assert mine(prompt="grey number 3", steps=1).captions == ("grey number 3",)


POINTS: dict[str, Any] = {
    "data": {"source": "moons", "limit": 12},
    "net": {"kind": "mlp", "width": 16, "depth": 1},
    "optim": {"kind": "muon", "lr": 0.01},
    "sampler": {"steps": 2},
}


@pytest.mark.parametrize(
    ("path", "target", "method"),
    [
        ("table", "eps", "soflow"),
        ("table", "eps", "reflow(pairs=6)"),
        ("table", "v", "soflow"),
        ("ve", "edm", "consistency"),
        ("ve", "edm", "reflow(pairs=6)"),
        ("ve", "eps", "shortcut"),
    ],
)
def test_of_other_paths(path: str, target: str, method: str) -> None:
    tables = {**POINTS, "path": {"kind": path}, "target": {"kind": target}}
    if path == "ve":
        tables |= {"objective": {"times": "log-normal-noise"}, "sampler": {"steps": 2, "grid": "karras"}}
    theirs, mine = taught(tables), student("--method", method)
    assert mine.config.path == Linear()
    if target != "eps":  # who says the noise has a new meaning to learn
        assert_begins_as(theirs, mine, Condition(torch.tensor([0, 1, 0])))
    assert mine(1, steps=1).array.std() > 0


NETS: list[dict[str, Any]] = [
    {"kind": "dit", "width": 64, "heads": 1, "depth": 1, "patch": 4},
    {"kind": "mlp", "width": 16, "depth": 1},
]


@pytest.mark.parametrize("net", NETS, ids=["dit", "mlp"])
def test_of_a_learned_variance_which_the_student_has_no_use_for(net: dict[str, Any]) -> None:
    theirs = taught(
        {
            **POINTS,
            "data": {"source": "moons" if net["kind"] == "mlp" else "shapes", "limit": 12},
            "net": net,
            "path": {"kind": "table"},
            "target": {"kind": "v"},
            "objective": {"kind": "hybrid", "steps": 20},
        }
    )
    assert theirs.config.learned_variance
    mine = student()
    assert not mine.config.learned_variance
    assert_begins_as(theirs, mine, Condition(torch.tensor([0, 1, 0])))


def test_of_a_folder_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
        sample_size=16,
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    scheduler = diffusers.DDPMScheduler(30, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    diffusers.DDPMPipeline(net, scheduler).save_pretrained("theirs")
    assert main(["import", "theirs", "--out", "teacher"]) == 0
    assert main(["distill", "teacher", "--out", "student", *STILL]) == 2  # what was it trained on?
    mine = student("--data", "shapes", "--set", "data.limit=16")
    assert mine.config.pictures == (3, 16, 16)
    assert_begins_as(load("teacher", chunk=4), mine, Condition())


def test_of_an_earlier_step(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    taught(POINTS, steps=4, checkpoint_every=2)
    mine = student(of="teacher@2")
    theirs, last = load("teacher@2", chunk=4), load("teacher", chunk=4)
    assert_begins_as(theirs, mine, Condition(torch.tensor([0, 1, 0])))
    with pytest.raises(AssertionError):
        assert_begins_as(last, mine, Condition(torch.tensor([0, 1, 0])))
    stated = read_recipe("student/recipe.toml")
    assert stated.teacher is not None
    assert stated.teacher.run.endswith("teacher/model@2")
    assert stated.train.init_from == stated.teacher.run
    assert stated.teacher.sha256 == model_hash(theirs.config, theirs.model)
    assert main(["distill", "teacher@2", "--method", "reflow(pairs=6)", *STILL]) == 0
    assert Path("teacher@2-reflow/model").is_dir()
    capsys.readouterr()
    assert main(["distill", "teacher@3", *STILL]) == 2
    assert "keeps no weights of step 3" in capsys.readouterr().err
    # In the report it is the earlier step that is measured, and what is kept of the last says nothing of it.
    seen: list[Contestant] = []
    monkeypatch.setattr("inkwash.distilling.report.measured", lambda models, *a, **k: seen.extend(models) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["few-steps", "student", "-n", "16", "--split", "train", "--features", "raw"])
    assert_begins_as(seen[0].pipe, mine, Condition(torch.tensor([0, 1, 0])))
    assert seen[0].about["weights_sha256"] is None
    assert seen[1].about["weights_sha256"]


def test_what_it_would_cost_is_said_and_nothing_written(capsys: pytest.CaptureFixture[str]) -> None:
    taught(POINTS)
    assert main(["distill", "teacher", "--guidance", "1:4", "--minutes", "1", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"teacher \S*teacher/model: its velocities", said)
    assert "guidance told, from 1 to 4" in said
    assert "FLOPs" in said
    assert "and what it learns from" in said
    assert " pairs " not in said
    assert main(["distill", "teacher", "--method", "reflow(pairs=500)", "--dry-run"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "500 of its pictures, which are drawn before" in said
    assert re.search(r" pairs about [\d.]+ m?s to draw, unless they are there from before time about 10 min", said)
    assert "and what it learns from" not in said
    assert not Path("teacher-soflow").exists()
    assert not Path("teacher-reflow").exists()
    assert not Path("cache/pairs").exists()


def test_a_mistaken_option_is_told() -> None:
    taught(POINTS)
    assert main(["distill", "teacher", "--step", "4", "--guidance", "1:2:3"]) == 2
    assert main(["distill", "teacher", "--guidance", "4:1", "--dry-run"]) == 2
    assert main(["few-steps", "teacher", "--featurs", "raw"]) == 2
