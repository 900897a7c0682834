"""Models to and from a hub: `push` uploads a model with a card written from its run, `pull` brings one here."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from inkwash import checkpoint, gallery, pictures
from inkwash.asking import hideable
from inkwash.conditions import Conditions
from inkwash.data import load as data_of
from inkwash.data.generated import POINTS
from inkwash.evaluation import evaluation_folder, measured_lines, newest, read_records, weights_hash
from inkwash.exchange.staging import needs
from inkwash.modelfolder import Config, find_model, is_model, read_config
from inkwash.pipeline import load
from inkwash.recipes import Recipe, read_recipe, write_recipe

STATED = {
    "fashion-mnist": "MIT (as its authors, Zalando Research, state)",
    **dict.fromkeys(POINTS, "made by a formula in inkwash (Apache-2.0)"),
}
"""The licences of named data sets whose authors state one."""

_SUMMARY = ("*.json", "*.md")
_CARD = "README.md"
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def push(
    run: str | File,
    name: str,
    *,
    licence: str | None = None,
    private: bool = False,
    trust: bool = False,
    watch: Callable[[float], None] | None = None,
) -> str:
    """Upload a run's model to the hub as `name`, "USER/NAME", and return its address there.

    Its card has samples, which are drawn now (watch: the fraction of them; of a model of texts by captions of its data,
    where they are there), the recipe, what was measured and with
    what, and the licence of the data. licence: of the data; only a named set whose authors state one needs none.
    private: for a repository that does not exist yet. Needs the extra `inkwash[hf]` and a login. Raises ValueError
    where something is missing, and checkpoint.CheckpointError for a damaged model.
    """
    needs("hf", "huggingface_hub")
    model = find_model(run)
    _check_name(name)
    checkpoint.verify(model)
    config = read_config(model, trust=trust)
    recipe = _recipe(model)
    licence = licence or STATED.get(recipe.data.source if recipe else "")
    if not licence:
        raise ValueError(
            f"Which licence have the data ({config.data or 'not named'})? Say it with --licence, for example "
            '--licence "CC BY 4.0", or --licence "my own photographs, all rights reserved".'
        )
    with tempfile.TemporaryDirectory(prefix="inkwash-push-") as temporary:
        place = File(temporary) / "model"
        copies = {file: model / file for file in _listed(model) if file not in (_CARD, "config.json")}
        sheet = File(temporary) / "samples.png"
        needed = set(config.conditions.names) - set(hideable(config))  # without which it draws nothing
        asked: dict[str, Any] = {"prompt": _captions(model)} if config.conditions.text else {"n": _count(config)}
        if (len(config.shape) == 3 or config.shape == (2,)) and not needed and all(asked.values()):
            pipe = load(run, trust=trust)
            samples = pipe(**asked, seed=0, watch=watch)
            copies["samples.png"] = pictures.save_png(gallery.sheet(samples), sheet, samples.settings)
        texts = {"config.json": _placeless(checkpoint.load_text(model, "config.json"))}
        texts |= {"recipe.toml": written} if (written := _written(recipe)) else {}
        checkpoint.publish(place, {}, texts, copies)
        # The card is not in the manifest: it may be edited on the hub.
        card = _measured(run, checkpoint.load_text(model, _CARD))
        (place / _CARD).write_text(card_of(config, card, name, written, licence, "samples.png" in copies), "utf-8")
        with _hub(name) as api:
            api.create_repo(repo_id=name, repo_type="model", private=private, exist_ok=True)
            told = f"Model of {config.data or 'unnamed data'}, {config.trained.get('steps', 0):,.0f} steps"
            api.upload_folder(repo_id=name, repo_type="model", folder_path=place, commit_message=told)
    return f"https://huggingface.co/{name}"


def pull(name: str, out: str | File | None = None, *, revision: str | None = None, trust: bool = False) -> File:
    """Bring a model from the hub into the folder `out` (default: runs/NAME), which is returned.

    revision: a branch, tag or commit. trust: whether it may name classes from outside the package; else such a model is
    refused before its weights are loaded. Files that its manifest does not list are left there. Needs the extra
    `inkwash[hf]`. Raises ValueError for what is no model of inkwash's, and checkpoint.CheckpointError for one that is
    not what its manifest says.
    """
    needs("hf", "huggingface_hub")
    _check_name(name)
    folder = File(out) if out is not None else File("runs") / name.partition("/")[2]
    if is_model(folder):
        raise ValueError(f"There is a model in {folder} already. Choose another place with --out.")
    with tempfile.TemporaryDirectory(prefix="inkwash-pull-") as temporary:
        place = File(temporary)
        with _hub(name) as api:
            api.snapshot_download(name, revision=revision, local_dir=place, allow_patterns=list(_SUMMARY))
            if not (place / checkpoint.MANIFEST).is_file():
                raise ValueError(_stranger(name, place))
            read_config(place, trust=trust)
            files = _listed(place)
            api.snapshot_download(name, revision=revision, local_dir=place, allow_patterns=files)
        checkpoint.verify(place)
        copies = {file: place / file for file in [*files, _CARD] if (place / file).is_file()}
        checkpoint.publish(folder / "model", {}, {}, copies)
    return folder


def card_of(config: Config, card: str, name: str, recipe: str, licence: str, samples: bool) -> str:
    """The card for the hub: the model's own, which has what was measured, with samples, licence, recipe and use."""
    pictured = len(config.shape) == 3
    head = [
        "---",
        "library_name: inkwash",
        *([f"pipeline_tag: {task}"] if pictured and (task := _task(config)) else []),
        "tags:",
        "- diffusion",
        *(["- image-generation"] if pictured else []),
        "---",
        "",
    ]
    sections = [card.replace("path/to/this/folder", f"runs/{name.partition('/')[2]}").rstrip("\n")]
    if samples:
        sections.append("## Samples\n\n![Samples of seed 0, not chosen](samples.png)\n\nSeed 0, none left out.")
    sections.append(f"## Licence of the data\n\n{config.data or 'The data'}: {licence}.".replace("..", "."))
    sections.append(f"## Use\n\n```\npip install inkwash[hf]\ninkwash pull {name}\n```")
    if recipe:
        sections.append(f"## Recipe\n\n```toml\n{recipe.rstrip()}\n```")
    return "\n".join(head) + "\n\n".join(sections) + "\n"


def _task(config: Config) -> str:
    """What the hub calls drawing such pictures; "" for what it has no name for."""
    told = config.conditions
    if told.image or told.text:
        return "image-to-image" if told.image else "text-to-image"
    return "" if config.classes or told.vector else "unconditional-image-generation"


def _measured(run: str | File, card: str) -> str:
    """A model's card with the newest numbers of these very weights."""
    mine = weights_hash(find_model(run))
    records = [r for r in read_records(evaluation_folder(run)) if r.model.get("weights_sha256") == mine]
    return card.partition("\n## Measured")[0] + measured_lines(newest(records))


def _recipe(model: File) -> Recipe | None:
    """The recipe of a model's run; None for a model that is in no run."""
    file = model.parent / "recipe.toml"
    return read_recipe(file) if file.is_file() else None


def _written(recipe: Recipe | None) -> str:
    """A recipe with the names of files and folders, but not their places here, nobody else's business; "" for none."""
    if recipe is None:
        return ""
    start, codec, pairs = recipe.train.init_from, recipe.codec, recipe.data.pairs
    features: Any = recipe.evaluation.features
    weights = File(getattr(features, "weights", "")).expanduser()
    if weights.name and (weights.is_absolute() or weights.exists()):  # else it is a name on a hub
        features = replace(features, weights=weights.name)
    return write_recipe(
        replace(
            recipe,
            data=replace(recipe.data, source=File(recipe.data.source).resolve().name, pairs=pairs and File(pairs).name),
            train=replace(recipe.train, init_from=start and _run(start)),
            codec=codec and replace(codec, folder=_run(codec.folder)),
            conditions=_told(recipe.conditions),
            teacher=recipe.teacher and replace(recipe.teacher, run=_run(recipe.teacher.run)),
            evaluation=replace(recipe.evaluation, features=features),
        )
    )


def _placeless(config: str) -> str:
    """A model's config.json with the name of its text encoder's folder, but not its place here."""
    table = json.loads(config)
    encoder = table.get("conditions", {}).get("text", {}).get("encoder", {})
    if "source" in encoder:
        encoder["source"] = _named(encoder["source"])
    return json.dumps(table, indent=2) + "\n"


def _told(conditions: Conditions | None) -> Conditions | None:
    """The same with the name of a text encoder's folder alone."""
    text = conditions and conditions.text
    if conditions is None or not text or not hasattr(text.encoder, "source"):
        return conditions
    encoder: Any = text.encoder
    return replace(conditions, text=replace(text, encoder=replace(encoder, source=_named(encoder.source))))


def _named(source: str) -> str:
    """The last name of a place on this disk; a name on a hub, which is none, as it is."""
    place = File(source).expanduser()
    return place.name if place.is_absolute() or place.exists() else source


def _captions(model: File) -> list[str]:
    """Captions of the run's data, 16 evenly spread; none where the data are not there."""
    recipe = _recipe(model)
    try:
        captions = data_of(recipe.data).captions if recipe is not None else None
    except (OSError, ValueError):
        captions = None
    there = [caption for caption in captions or () if caption.strip()]
    return [there[i * len(there) // 16] for i in range(16)] if there else []


def _run(place: str) -> str:
    """The name of a run, also of the model or codec in it."""
    folder = File(place).resolve()
    return folder.parent.name if folder.name in ("model", "codec") else folder.name


def _count(config: Config) -> int:
    """How many samples are shown: four of each class, where that is a picture of a usual size."""
    return 4 * len(config.classes) if 1 < len(config.classes) <= 20 else 16 if len(config.shape) == 3 else 2000


def _listed(folder: File) -> list[str]:
    """The files in a folder's manifest, which was checked."""
    return list(json.loads((folder / checkpoint.MANIFEST).read_text("utf-8"))["files"])


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name on a hub: it must be USER/NAME, of letters, digits, - _ and .")


def _stranger(name: str, place: File) -> str:
    """What to say of a repository that is no model of ours."""
    if (place / "model_index.json").is_file() or "_class_name" in _text(place / "config.json"):
        return (
            f"{name} is a model of diffusers', not of inkwash's. Download it with "
            f"`hf download {name} --local-dir DIR`, and bring it here with `inkwash import DIR`."
        )
    return f"{name} is no model of inkwash's: it has no {checkpoint.MANIFEST}."


def _text(file: File) -> str:
    return file.read_text("utf-8", errors="replace") if file.is_file() else ""


@contextmanager
def _hub(name: str) -> Iterator[Any]:
    """The hub's client; what goes wrong there is told as a ValueError that says what to do."""
    from huggingface_hub import HfApi, errors

    network = getattr(errors, "HTTPError", ConnectionError)  # the base of its HTTP library's errors, whichever that is
    try:
        yield HfApi()
    except errors.LocalTokenNotFoundError as error:
        raise ValueError("You are not logged in to the hub: run `hf auth login`, or set HF_TOKEN.") from error
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no {name} on the hub, or it is private and you may not see it (`hf auth login`)."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ValueError(f"{name} is on the hub, but has no such revision.") from error
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        hint = " Are you logged in as someone who may (`hf auth login`)?" if status in (401, 403) else ""
        raise ValueError(f"The hub refused {name}: {error}.{hint}") from error
    except (ConnectionError, errors.LocalEntryNotFoundError, network) as error:
        raise ValueError(f"The hub cannot be reached: {str(error).splitlines()[0]}") from error
