"""Finding and loading the weights of text encoders: quietly, from safetensors alone, and told apart by their hash."""

from __future__ import annotations

import hashlib
import importlib.util
import logging as log
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inkwash.text.encoder import Encoder

INSTALL = 'pip install "inkwash[text]"'

_READ = ("*.json", "*.safetensors", "*.txt", "*.model")
"""What is fetched of a repository: no pickled weights, and none of other frameworks."""


_MEANING = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"),
)
"""Of what lies beside the weights, that on which the tokens of a text may depend."""


def packaged(package: str) -> Path:
    """The folder of a model in an installed package, which is not imported; ValueError where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"{package.replace('_', '-')}, a text encoder, is not installed. Install it: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations))) / "model"


def from_hub(source: str) -> Path:
    """The folder `source`, or of the hub's model of this name, fetched where it is not there yet; else ValueError."""
    place = Path(source).expanduser()
    if place.is_dir():
        return place
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError(f"A text encoder from the hub needs transformers. Install it: {INSTALL}") from error
    try:
        return Path(snapshot_download(source, allow_patterns=list(_READ)))
    except (OSError, ValueError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"The text encoder {source!r} cannot be had: {first} Without a network, fetch it where there is one "
            f"(`hf download {source} --local-dir FOLDER`) and name that folder as its source."
        ) from error


def load(folder: Path, architecture: str, width: int, max_tokens: int, device: torch.device) -> Encoder:
    """The encoder in a folder. ValueError where transformers is missing, or the folder does not hold such a model.

    The last one is kept: a run asks for its encoder when it checks its recipe, and again for each set of captions.
    """
    return _loaded(folder, architecture, width, max_tokens, device, sha256(folder))


@lru_cache(maxsize=1)
def _loaded(folder: Path, architecture: str, width: int, max_tokens: int, device: torch.device, digest: str) -> Encoder:
    """digest: `sha256` of the folder, which may hold another model by now."""
    try:
        import transformers
    except ImportError as error:
        raise ValueError(f"A text encoder needs transformers, which is not installed. Install it: {INSTALL}") from error
    if not any(folder.glob("*.safetensors")):
        raise ValueError(f"{folder} has no .safetensors: weights of other formats, which may run code, are not read.")
    read: dict[str, Any] = {"local_files_only": True}
    more = {"add_pooling_layer": False} if architecture == "BertModel" else {}
    try:
        with _silent():
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder, **read)
            found: tuple[Any, dict[str, Any]] = getattr(transformers, architecture).from_pretrained(
                folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **more, **read
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"{folder} holds no text encoder ({architecture}) that can be read: {first}") from error
    model, told = found
    if missing := sorted(told["missing_keys"]):  # transformers would go on with random numbers in their place
        raise ValueError(
            f"{folder} holds another model than {architecture}: it has no weights {', '.join(missing[:3])}."
        )
    wide = int(model.config.hidden_size)
    if wide != width:
        raise ValueError(f"The tokens of {folder} are {wide} wide, not {width}: set width = {wide}.")
    model.to(device).eval().requires_grad_(False)

    def net(ids: Tensor) -> Tensor:
        states: Tensor = model(input_ids=ids).last_hidden_state
        return states

    return Encoder(
        width=width,
        max_tokens=max_tokens,
        sha256=digest,
        device=device,
        read=lambda text: list(tokenizer(text, verbose=False)["input_ids"]),
        fit=lambda text: list(tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]),
        net=net,
    )


def sha256(folder: Path) -> str:
    """SHA-256 (hex) of an encoder's weights, its config and its tokenizer, as files."""
    files = [*sorted(folder.glob("*.safetensors")), *(folder / f for f in _MEANING if (folder / f).is_file())]
    return _digest(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=8)  # a tenth of a second for 90 MB; time and size of a file tell whether it is the same
def _digest(files: tuple[tuple[str, int, int], ...]) -> str:
    whole = hashlib.sha256()
    for name, size, _ in files:
        with Path(name).open("rb") as file:
            whole.update(f"{Path(name).name} {size}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


@contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' progress bar for reading a file, and its report of which weights a model left unused."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity(log.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
