"""`push` and `pull` against a hub in a folder, with the real client's signatures; the network is never used."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import inkwash
from inkwash import checkpoint
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Grey, Paired
from inkwash.evaluation import append, evaluation_folder, weights_hash
from inkwash.evaluation.record import Measure, Record
from inkwash.exchange import pull, push
from inkwash.exchange.hub import card_of
from inkwash.features import DinoV2, Inception
from inkwash.fewstep import SoFlow
from inkwash.modelfolder import read_config, save_model
from inkwash.pictures import read_settings
from inkwash.recipes import InLatents, Teacher, read_recipe, write_recipe
from inkwash.text import T5, MiniLm
from inkwash.training import train
from tinytext import Words

hub = pytest.importorskip("huggingface_hub")
errors = importlib.import_module("huggingface_hub.errors")
REAL = hub.HfApi
http = importlib.import_module(errors.HTTPError.__module__.partition(".")[0])  # the client's library


class Hub:
    """The part of `HfApi` that is used, on a folder. Every call must fit the real method."""

    root: Path
    calls: list[tuple[str, dict[str, Any]]]
    fails: Callable[[], Exception] | None = None

    def _told(self, name: str, *args: Any, **given: Any) -> dict[str, Any]:
        bound = inspect.signature(getattr(REAL, name)).bind(self, *args, **given).arguments
        self.calls.append((name, bound))
        if self.fails is not None:
            raise type(self).fails()  # type: ignore[misc]
        return bound

    def create_repo(self, *args: Any, **given: Any) -> None:
        (self.root / self._told("create_repo", *args, **given)["repo_id"]).mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *args: Any, **given: Any) -> None:
        told = self._told("upload_folder", *args, **given)
        shutil.copytree(told["folder_path"], self.root / told["repo_id"], dirs_exist_ok=True)

    def snapshot_download(self, *args: Any, **given: Any) -> str:
        told = self._told("snapshot_download", *args, **given)
        repo = self.root / told["repo_id"]
        names = [p.relative_to(repo).as_posix() for p in repo.rglob("*") if p.is_file()]
        for name in hub.utils.filter_repo_objects(names, allow_patterns=told["allow_patterns"]):
            target = Path(told["local_dir"]) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(repo / name, target)
        return str(told["local_dir"])


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    """A hub, empty."""
    kind = type("Here", (Hub,), {"root": tmp_path / "hub", "calls": []})
    monkeypatch.setattr(hub, "HfApi", kind)
    monkeypatch.chdir(tmp_path)
    return kind


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on pictures in a folder whose place is private."""
    place = tmp_path_factory.mktemp("hub")
    (place / "secret").mkdir()
    rows = np.arange(40, dtype=np.uint8)
    np.savez(
        place / "secret/tiny.npz", images=rows[:, None, None, None] + np.zeros((1, 8, 8, 1), np.uint8), labels=rows % 2
    )
    recipe: dict[str, Any] = {
        "data": {"source": str(place / "secret/tiny.npz")},
        "net": {"kind": "unet", "preset": "tiny", "widths": [16]},
        "train": {"steps": 2, "batch_size": 4, "samples": 2, "snapshots": 0},
        "sampler": {"steps": 2},
    }
    list(train(recipe, place / "run"))
    return place / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_what_is_pushed_comes_back_and_draws_the_same(run: Path, there: type[Hub]) -> None:
    address = push(run, "me/tiny", licence="CC0", private=True)
    assert address == "https://huggingface.co/me/tiny"
    assert [name for name, _ in there.calls] == ["create_repo", "upload_folder"]
    assert there.calls[0][1] | {"self": None} == {
        "self": None, "repo_id": "me/tiny", "repo_type": "model", "private": True, "exist_ok": True
    }  # fmt: skip
    back = pull("me/tiny")
    assert back == Path("runs/tiny")
    checkpoint.verify(back / "model")
    assert np.array_equal(inkwash.load(back, device="cpu")(4).array, inkwash.load(run, device="cpu")(4).array)
    names = {p.name for p in (back / "model").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors", "manifest.json", "samples.png", "recipe.toml"}


def test_the_card_is_written_from_the_run(run: Path, there: type[Hub]) -> None:
    measure = Measure("fd", "tiny", "test", "h" * 64, 50, 60, "lite0")
    told = {"folder": "x", "weights_sha256": weights_hash(run / "model")}
    sampling = {"sampler": {"kind": "heun"}, "steps": 7, "guidance": 1.0, "seed": 3}
    append(evaluation_folder(run), [Record(measure, 12.375, model=told, sampling=sampling)])
    push(run, "me/tiny", licence="CC BY 4.0")
    repo = there.root / "me/tiny"
    card = (repo / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: inkwash\ntags:\n")
    assert "![Samples of seed 0, not chosen](samples.png)" in card
    assert "## Licence of the data\n\ntiny: CC BY 4.0.\n" in card
    assert "inkwash pull me/tiny" in card
    assert 'inkwash.load("runs/tiny")' in card
    assert "| 12.38 |" in card
    assert "heun, 7 steps" in card
    assert "batch_size = 4" in card
    assert 'source = "tiny.npz"' in card
    everything = b"".join(p.read_bytes() for p in repo.rglob("*") if p.is_file())
    assert b"secret" not in everything
    assert read_settings(repo / "samples.png")["seed"] == 0
    assert "README.md" not in json.loads((repo / "manifest.json").read_text())["files"]


def test_no_place_on_this_disk_is_pushed(run: Path, there: type[Hub]) -> None:
    file = run / "recipe.toml"
    recipe = read_recipe(file)
    train = dataclasses.replace(recipe.train, init_from="/home/secret/runs/first/model")
    data = dataclasses.replace(recipe.data, pairs="/home/secret/line-drawings")
    text = ByText(T5("/home/secret/my-t5", width=8), "f" * 64)
    teacher = Teacher("/home/secret/runs/large/model")
    recipe = dataclasses.replace(recipe, data=data, conditions=Conditions(text, image=ByImage(Paired())))
    recipe = dataclasses.replace(recipe, objective=SoFlow(), teacher=teacher)
    config = dataclasses.replace(read_config(run / "model"), conditions=Conditions(text))
    save_model(config, config.network().state_dict(), run / "model")
    features = Inception(weights="~/secret/inception.pth")
    for inception in (features, Inception(weights="/home/secret/inception.pth"), DinoV2()):
        evaluation = dataclasses.replace(recipe.evaluation, features=inception)
        codec = InLatents("secret/photos-codec", "f" * 64)
        file.write_text(write_recipe(dataclasses.replace(recipe, train=train, codec=codec, evaluation=evaluation)))
        push(run, "me/tiny", licence="CC0")
        repo = there.root / "me/tiny"
        assert b"/home" not in (everything := b"".join(p.read_bytes() for p in repo.rglob("*") if p.is_file()))
        assert b"secret" not in everything
        pushed = read_recipe(repo / "recipe.toml")
        assert pushed.train.init_from == "first"
        assert pushed.data.pairs == "line-drawings"
        assert pushed.codec == InLatents("photos-codec", "f" * 64)
        assert pushed.conditions is not None and pushed.conditions.text == read_config(repo).conditions.text
        assert pushed.conditions.text == dataclasses.replace(text, encoder=T5("my-t5", width=8))
        assert pushed.teacher == Teacher("large")
        assert not (repo / "samples.png").exists()  # the captions are not here
        checkpoint.verify(repo)
    assert pushed.evaluation.features == DinoV2()  # a name on a hub, which is no place here


@pytest.mark.parametrize(
    ("conditions", "task"),
    [
        (Conditions(), "unconditional-image-generation"),
        (Conditions(text=ByText()), "text-to-image"),
        (Conditions(text=ByText(), image=ByImage(Grey())), "image-to-image"),
        (Conditions(vector=ByVector(("angle",))), None),
    ],
)
def test_a_card_says_what_the_model_is_asked_for(trained: Path, conditions: Conditions, task: str | None) -> None:
    config = dataclasses.replace(read_config(trained / "model"), classes=(), conditions=conditions)
    head = card_of(config, "# A model", "me/tiny", "", "CC0", samples=False).split("---")[1]
    assert re.findall(r"pipeline_tag: (.*)", head) == ([task] if task else [])


def test_a_model_that_always_sees_a_picture_is_pushed_without_samples(run: Path, there: type[Hub]) -> None:
    config = dataclasses.replace(read_config(run / "model"), conditions=Conditions(image=ByImage(Grey())))
    save_model(config, config.network().state_dict(), run / "model")
    push(run, "me/shown", licence="CC0")
    assert not (there.root / "me/shown/samples.png").exists()
    assert "samples.png" not in (there.root / "me/shown/README.md").read_text()


def test_a_model_of_texts_shows_what_it_makes_of_captions_of_its_data(
    run: Path, there: type[Hub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MiniLm, "bind", lambda self, device="cpu": Words().bind(device))
    monkeypatch.setattr(MiniLm, "width", Words.width)
    words = [f"number {i}" if i % 2 else "" for i in range(40)]
    np.savez(tmp_path / "named.npz", images=np.zeros((40, 8, 8, 1), np.uint8), captions=np.array(words))
    recipe = read_recipe(run / "recipe.toml")
    data = dataclasses.replace(recipe.data, source=str(tmp_path / "named.npz"))
    (run / "recipe.toml").write_text(write_recipe(dataclasses.replace(recipe, data=data)))
    config = dataclasses.replace(read_config(run / "model"), conditions=Conditions(ByText()))
    save_model(config, config.network().state_dict(), run / "model")
    push(run, "me/told", licence="CC0")
    prompts = read_settings(there.root / "me/told/samples.png")["prompt"]
    assert prompts == [f"number {2 * (i * 20 // 16) + 1}" for i in range(16)]


def test_a_card_may_be_edited_on_the_hub_but_no_other_file(run: Path, there: type[Hub]) -> None:
    push(run, "me/tiny", licence="CC0")
    repo = there.root / "me/tiny"
    (repo / "README.md").write_text("Mine.")
    (repo / "extra.bin").write_bytes(b"not listed")
    assert (pull("me/tiny", "one") / "model/README.md").read_text() == "Mine."
    assert not (Path("one") / "model/extra.bin").exists()
    weights = (repo / "model.safetensors").read_bytes()
    (repo / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors was altered"):
        pull("me/tiny", "two")
    assert not Path("two").exists()


def test_foreign_code_is_refused_before_weights_are_loaded(run: Path, there: type[Hub]) -> None:
    push(run, "me/tiny", licence="CC0")
    repo = there.root / "me/tiny"
    config = json.loads((repo / "config.json").read_text())
    config["path"] = {"kind": "inkwash.paths:Linear"}
    texts = {"config.json": json.dumps(config)}
    saved = checkpoint.load(repo, ["model.safetensors"])
    shutil.rmtree(repo)
    checkpoint.publish(repo, {"model": saved.tensors["model"]}, texts)
    there.calls.clear()
    with pytest.raises(ValueError, match=r"code from outside inkwash.*--trust"):
        pull("me/tiny", "here")
    assert [told["allow_patterns"] for _, told in there.calls] == [["*.json", "*.md"]]
    assert inkwash.load(pull("me/tiny", "here", trust=True), trust=True).config.path == inkwash.Linear()


def test_what_is_no_model_of_ours_is_told(there: type[Hub]) -> None:
    other = there.root / "google/cats"
    other.mkdir(parents=True)
    (other / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is a model of diffusers'.*hf download google/cats.*inkwash import DIR"):
        pull("google/cats")
    (other / "model_index.json").rename(other / "else.json")
    with pytest.raises(ValueError, match=r"no model of inkwash's: it has no manifest\.json"):
        pull("google/cats")


def test_the_licence_is_asked_for_not_guessed(run: Path, there: type[Hub]) -> None:
    with pytest.raises(ValueError, match=r"Which licence have the data \(tiny\)\? Say it with --licence"):
        push(run, "me/tiny")
    assert there.calls == []
    recipe = (run / "recipe.toml").read_text()
    for source, stated in (("fashion-mnist", True), ("/home/me/fashion-mnist", False), ("mnist", False)):
        lines = [f'source = "{source}"' if line.startswith("source = ") else line for line in recipe.splitlines()]
        (run / "recipe.toml").write_text("\n".join(lines))
        if stated:
            push(run, "me/named")
            assert "tiny: MIT (as its authors" in (there.root / "me/named/README.md").read_text()
        else:
            with pytest.raises(ValueError, match="Which licence"):
                push(run, "me/named")


def response(status: int) -> Any:
    return http.Response(status, request=http.Request("GET", "https://hub"))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (lambda: errors.LocalTokenNotFoundError("no"), "You are not logged in to the hub: run `hf auth login`"),
        (lambda: http.ConnectError("no route"), "The hub cannot be reached: no route"),
        (lambda: errors.OfflineModeIsEnabled("offline"), "The hub cannot be reached: offline"),
        (lambda: errors.RepositoryNotFoundError("404", response=response(404)), "There is no me/tiny on the hub, or"),
        (lambda: errors.HfHubHTTPError("Forbidden", response=response(403)), "refused me/tiny: .*Are you logged in"),
        (lambda: errors.HfHubHTTPError("Broken", response=response(500)), "The hub refused me/tiny: Broken"),
    ],
)
def test_what_goes_wrong_on_the_way_is_told(
    run: Path, there: type[Hub], capsys: pytest.CaptureFixture[str], error: Callable[[], Exception], said: str
) -> None:
    there.fails = staticmethod(error)  # type: ignore[assignment]
    with pytest.raises(ValueError, match=said):
        pull("me/tiny")
    with pytest.raises(ValueError, match=said):
        push(run, "me/tiny", licence="CC0")
    assert not Path("runs").exists()


def test_mistakes(run: Path, there: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'tiny' is no name on a hub: it must be USER/NAME"):
        push(run, "tiny", licence="CC0")
    with pytest.raises(ValueError, match=r"There is a model in .* already"):
        pull("me/tiny", run)
    (run / "model/model.safetensors").write_bytes(b"")
    with pytest.raises(checkpoint.CheckpointError, match="damaged"):
        push(run, "me/tiny", licence="CC0")
    assert there.calls == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'needs huggingface_hub: install inkwash with `pip install "inkwash\[hf\]"`'):
        pull("me/tiny")
