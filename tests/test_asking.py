"""What is asked for reaches the model as meant: by nets that paint what they are told, and by small real ones."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inkwash import Condition, Config, Ddim, Flow, Heun, Linear, Sampling, UNet, load
from inkwash.asking import Ask, condition_of, hideable, opened, taken, takes
from inkwash.codec import Latents, Pixels, Scaled
from inkwash.conditions import ByImage, ByText, ByVector, Conditions, Edges, LowResolution, Masked
from inkwash.edit import Decode, Vary
from inkwash.kinds import from_table, to_table
from inkwash.model import Model, Plain
from inkwash.modelfolder import model_hash, save_model
from inkwash.nets import DiT, TinyAutoencoder
from inkwash.noise import Philox, Stream
from inkwash.paths import VE
from inkwash.pipeline import Pipeline
from inkwash.targets import X0
from inkwash.training import snapshots
from inkwash.types import Steered
from letters import Letters

BLACK = np.zeros((4, 4, 1), np.uint8)
ANGLE = ByVector(("angle", "size"), mean=(90.0, 2.0), std=(30.0, 0.5))


TEXT = ByText(Letters(), "letters")  # type: ignore[arg-type]


class Painter(torch.nn.Module):
    """Predicts x0: 10·(label + 1) + 1000·(sum of words' lengths) + 1e5·angle + what it is shown, 7 where hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Condition] = []

    def forward(self, x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, cond: Condition) -> torch.Tensor:
        self.seen.append(cond)
        y = torch.zeros(len(x), dtype=torch.float64)
        if cond.label is not None:
            y = y + 10 * (cond.label + 1)
        if cond.tokens is not None:
            assert cond.present is not None
            y = y + 1000 * (cond.tokens[..., 0] * cond.present).sum(1)
        if cond.vector is not None:
            y = y + 1e5 * cond.vector.nan_to_num(5.0)[:, 0]
        painted = y[:, None, None, None].expand(x.shape).to(x)
        return painted if cond.image is None else painted + cond.image.nan_to_num(7.0)


def painter(
    classes: tuple[str, ...] = (), guidance: float = 1.0, size: int = 4, label_dropout: float = 0.1, **told: Any
) -> Pipeline:
    """Its samples are floats: the painter's answers themselves."""
    config = Config(
        (1, size, size), UNet("tiny"), Linear(), X0(), Plain(), Scaled(-1.0, 1.0), classes,
        conditions=Conditions(**told), sampling=Sampling(Ddim(), 2, guidance), label_dropout=label_dropout,
    )  # fmt: skip
    return Pipeline(config, Model(Painter(), Linear(), X0(), Plain()), torch.device("cpu"))


def values(samples: Any) -> list[float]:
    """What each sample is painted with, all over."""
    assert (samples.array == samples.array[:, :1, :1]).all()
    return [round(float(v), 3) for v in samples.array[:, 0, 0, 0]]


def real(net: Any = None, **told: Any) -> Pipeline:
    """A small real model, none of its weights zero."""
    net = net or UNet("tiny", widths=(32, 32), depth=1, attention=(1,))
    config = Config(
        (1, 8, 8), net, Linear(), Flow(), Plain(), Pixels(), ("a", "b"),
        conditions=Conditions(**told), sampling=Sampling(Heun(), 2, 2.0),
    )  # fmt: skip
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return Pipeline(config, model, torch.device("cpu"))


# Words and numbers


def test_prompts_reach_the_net_one_for_all_or_one_for_each() -> None:
    pipe = painter(text=TEXT)
    assert values(pipe(3, prompt="ab abc")) == [5000.0] * 3
    assert values(pipe(prompt=["a", "", "abc"])) == [1000.0, 0.0, 3000.0]  # as many as there are
    assert values(pipe(2)) == [0.0, 0.0]
    drawn = pipe(2, prompt=["a", "bc"], seed=4)
    assert drawn.captions == ("a", "bc")
    assert drawn.labels == ()
    assert drawn.settings["prompt"] == ["a", "bc"]
    assert values(pipe(1, first=2, prompt="abcd")) == [4000.0]
    with pytest.raises(ValueError, match=r"2 texts \(prompt\) were given for n = 3"):
        pipe(3, prompt=["a", "b"])
    with pytest.raises(ValueError, match="longer than the 5 tokens this model reads"):
        pipe(1, prompt="a b c d e f")


def test_texts_are_told_with_as_many_tokens_as_captions_had_and_longer_ones_with_all() -> None:
    pipe = painter(text=replace(TEXT, length=2))
    seen = pipe.model.net.seen

    def told(**asked: Any) -> list[int]:
        seen.clear()
        pipe(guidance=2.0, **asked)
        return [cond.tokens.shape[1] for cond in seen[: len(seen) // 2]]  # of the first of two steps

    assert told(prompt="ab abc") == [2]
    assert told(prompt="ab", negative="a b", also={"c": 1.0}) == [2]
    assert told(prompt="a b c") == told(prompt="a", negative="a b c") == told(prompt="a", also={"a b c": 1.0}) == [5]
    assert told(prompt=["a", "b", "a b c", "d e f"]) == [2, 5]  # two in a call
    assert told(prompt=["a", "a b c"]) == [2, 5]  # both, of which each is used for its own
    assert values(pipe(prompt=["a", "ab c de f"], negative=["a b c", ""], guidance=3.0)) == [-3000.0, 18000.0]
    data = Letters().bind("cpu").encode(["a b c d", "ab"])
    for rows, want in (([0], [5]), ([1], [2]), ([0, 1], [2, 5])):
        assert told(cond=Condition(tokens=data.values[rows], present=data.present[rows])) == want


def test_no_prompt_loads_no_encoder_and_is_the_empty_one() -> None:
    pipe = real(text=TEXT)
    plain = pipe(3, seed=2, label=0)
    assert pipe._encoder is None
    for prompt in ("", "  ", ["", "", ""]):
        assert (pipe(3, seed=2, label=0, prompt=prompt).array == plain.array).all()
    beside = pipe(3, seed=2, label=0, prompt=["", "cat", ""]).array  # whatever stands beside it
    assert (beside[[0, 2]] == plain.array[[0, 2]]).all()
    assert (beside[1] != plain.array[1]).any()


def test_an_encoder_with_other_weights_is_refused() -> None:
    pipe = painter(text=replace(TEXT, sha256="other weights"))
    with pytest.raises(ValueError, match=r"with the weights other weight, and those here are letters"):
        pipe(1, prompt="cat")


def test_guidance_pushes_from_the_null_or_a_negative_prompt_towards_each_of_several() -> None:
    """base + 3·(prompt - base) + sum of weights·(other - base), with texts worth 1000 a letter and labels 10."""
    pipe = painter(("x", "y"), text=TEXT)
    cat, hat = 3000.0, 1000.0 * len("hat")
    assert cat == hat
    assert values(pipe(1, prompt="ab", guidance=3)) == [3 * 2000.0]
    assert values(pipe(1, prompt="ab", label="y", guidance=3)) == [3 * (2000.0 + 20)]  # away from no text, no label
    assert values(pipe(1, prompt="ab", negative="a", guidance=3)) == [1000 + 3 * 1000.0]
    assert values(pipe(2, prompt="ab", negative=["a", ""], guidance=3)) == [4000.0, 6000.0]
    both = pipe(1, prompt="ab", also={"abc": 2.0, "a": -0.5}, guidance=3)
    assert values(both) == [6000 + 2 * 3000.0 - 0.5 * 1000]
    assert both.settings["also"] == {"abc": 2.0, "a": -0.5}
    assert values(pipe(1, prompt="ab", also={"abc": 2.0}, guidance=1)) == [2000 + 6000.0]
    told = pipe(1, prompt="ab", label="y", also={"abc": 2.0}, negative="abcd", guidance=3)
    assert values(told) == [4000 + 3 * (2020 - 4000) + 2 * (3000 - 4000.0)]  # each text alone, without the label


def test_what_is_asked_for_beside_a_class_leaves_the_class_open() -> None:
    pipe = painter(("x", "y"), text=TEXT, vector=ANGLE)
    assert pipe(3).labels == ("x", "y", "x")
    assert pipe(3, first=1).labels == ("y", "x", "y")
    for asked in ({"prompt": "ab"}, {"vector": {"angle": 90}}):
        assert pipe(2, **asked).labels == ("any", "any")
    assert pipe(2, prompt="ab", label="y").captions == ("y, ab", "y, ab")
    assert pipe(2).captions == ("x", "y")


def test_vectors_are_in_the_datas_own_units() -> None:
    """(v - 90)/30 reaches the net, times 1e5; 5 stands for a number that is not known."""
    pipe = painter(vector=ANGLE)
    for given, want in (
        ({"angle": 120}, [1e5, 1e5]),
        ({"angle": [60, 105]}, [-1e5, 5e4]),
        ([120.0, 2.0], [1e5, 1e5]),
        (np.array([[75.0, 1.0], [90.0, 3.0]]), [-5e4, 0.0]),
        ([{"angle": 150}, {"size": 1}], [2e5, 5e5]),
        ({"size": 1.0}, [5e5, 5e5]),
        ({}, [5e5, 5e5]),
        (None, [5e5, 5e5]),
        ([np.nan, 2.0], [5e5, 5e5]),
    ):
        assert values(pipe(2, vector=given)) == want
    seen = pipe.model.net.seen
    seen.clear()
    drawn = pipe(2, vector=[{"angle": 120, "size": 1.75}, {"size": 3}])
    torch.testing.assert_close(
        seen[0].vector, torch.tensor([[1.0, -0.5], [torch.nan, 2.0]]), equal_nan=True, rtol=0, atol=0
    )
    assert drawn.settings["vector"] == [[120.0, 1.75], [None, 3.0]]
    assert drawn.captions == ("angle 120, size 1.75", "size 3")
    assert pipe(2, vector=[120.0, 2.0]).settings["vector"] == [120.0, 2.0]
    assert values(pipe(vector={"angle": [60, 105]})) == [-1e5, 5e4]
    assert values(pipe(1, vector={"angle": 120}, guidance=3)) == [5e5 + 3 * (1e5 - 5e5)]
    for given, message in (
        ({"angel": 1}, "no number 'angel'. Did you mean angle"),
        ({"q": 1}, "It is told angle, size"),
        ([1.0], r"vector is \[1\], and this model takes 2 numbers \(angle, size\)"),
        ({"angle": [1, 2, 3]}, "3 vectors were given for n = 2"),
        ({"angle": "steep"}, "holds what is no number"),
        ({"angle": float("inf")}, "infinite"),
        ({"angle": [1, 2], "size": [1, 2, 3]}, "of one length"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(2, vector=given)


# Pictures


def test_a_picture_goes_through_the_models_task_and_codec(tmp_path: Path) -> None:
    """LowResolution of 2: four pixels' mean; a picture of the small size is taken as it is. x is the bytes here."""
    pipe = painter(size=4, image=ByImage(LowResolution(2)))
    task = LowResolution(2)
    large = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), dtype=np.uint8)
    small = task.small(large)
    want = task.enlarged(small).astype(np.float32)
    assert not (want == large).all()
    Image.fromarray(small[0, ..., 0]).save(tmp_path / "a.png")
    Image.fromarray(small[1, ..., 0]).save(tmp_path / "b.png")
    np.save(tmp_path / "all.npy", small)
    for image, rows in (
        (small[0], [0]),
        (small[0, ..., 0], [0]),
        (Image.fromarray(small[2, ..., 0]), [2]),
        (small, [0, 1, 2]),
        (large, [0, 1, 2]),
        (tmp_path / "a.png", [0]),
        (str(tmp_path / "all.npy"), [0, 1, 2]),
        (tmp_path, [0, 1]),
        ([tmp_path / "b.png", small[2]], [1, 2]),
    ):
        drawn = pipe(image=image)
        assert (drawn.array == want[rows]).all()
        assert (drawn.shown == want[rows]).all()
    again = pipe(2, image=small[0])  # one for all
    assert (again.array == want[[0, 0]]).all()
    assert again.settings["image"] == pipe(1, image=large[0]).settings["image"]  # of what is shown
    assert again.settings["image"] != pipe(1, image=large[1]).settings["image"]
    with pytest.raises(ValueError, match="3 images were given for n = 2"):
        pipe(2, image=small)
    with pytest.raises(ValueError, match="never trained without its image: give image="):
        pipe(2)
    with pytest.raises(ValueError, match=r"\[4, 4\] of float64 is no picture"):
        pipe(1, image=np.zeros((4, 4)))
    with pytest.raises(ValueError, match="is not there"):
        pipe(1, image="nowhere.png")


def test_no_further_text_is_nothing_said() -> None:
    assert Ask(also={}).given() == {}
    pipe = painter(("cat", "dog"))
    assert values(pipe(2, also={})) == values(pipe(2)) == [10.0, 20.0]


def test_files_are_looked_at_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(60 * i, 60 * i + 60, (64, 64), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    decoded: list[str] = []
    reading = import_module("inkwash.asking.opened")
    own = reading._decoded

    def counted(blob: Any) -> np.ndarray:
        decoded.append(blob.name)
        return own(blob)

    monkeypatch.setattr(reading, "_decoded", counted)
    pipe = painter(image=ByImage(LowResolution(2)))
    ask = Ask(image=tmp_path)
    assert ask.count(pipe.config) == 3 and decoded == []
    ask.understood(pipe.config, 3, 0, (1, 4, 4), pipe._read)
    assert decoded == ["0.png", "1.png", "2.png"]
    assert [int(one[0, 0, 0]) // 60 for one in opened(tmp_path).round(4).pictures] == [0, 1, 2, 0]
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"1\.png cannot be read as a picture: "):
        pipe(3, image=tmp_path)


def test_a_cascade_upscales_what_another_model_drew() -> None:
    base, fine = real(), painter(size=16, image=ByImage(LowResolution(2)))
    drawn = base(3, label="a")
    assert (fine(image=drawn).array == LowResolution(2).enlarged(drawn.array)).all()


def test_what_is_transparent_lies_on_white() -> None:
    pipe = painter(image=ByImage(LowResolution(2)))
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[:, 2:, 3] = 255  # its right half black, its left half nothing
    drawn = pipe(1, image=Image.fromarray(rgba, "RGBA")).array[0, ..., 0]
    assert (drawn[:, 0] == 255).all()
    assert (drawn[:, 3] == 0).all()


def test_noise_on_what_is_shown_belongs_to_the_sample() -> None:
    pipe = painter(image=ByImage(LowResolution(2, noise=0.5)))
    image = np.full((4, 4, 1), 100, np.uint8)
    want = 100 + 0.5 * Philox(3, torch.arange(5))(torch.empty(5, 1, 4, 4), 0, Stream.SHOWN)
    drawn = pipe(5, image=image, seed=3)
    np.testing.assert_array_equal(drawn.array[..., 0], want[:, 0].numpy())
    assert (pipe(2, image=image, seed=3, first=3, batch_size=1).array == drawn.array[3:]).all()


def test_a_mask_hides_what_is_to_be_painted() -> None:
    pipe = painter(image=ByImage(Masked()))
    image = np.arange(16, dtype=np.uint8).reshape(4, 4, 1) + 20
    mask = np.zeros((4, 4), np.uint8)
    mask[1:3, :2] = 255
    drawn = pipe(2, image=image, mask=mask)
    want = np.where(mask[..., None] > 0, 7, image)
    assert (drawn.array == want).all()
    assert {"image", "mask"} <= drawn.settings.keys()
    two = pipe(image=image, mask=np.stack([mask, mask.T])[..., None])
    assert (two.array[1] == np.where(mask.T[..., None] > 0, 7, image)).all()
    with pytest.raises(ValueError, match="nothing is: add mask="):
        pipe(1, image=image)
    with pytest.raises(ValueError, match="Give image= too"):
        pipe(1, mask=mask)
    with pytest.raises(ValueError, match="no white in it"):
        pipe(1, image=image, mask=mask * 0)
    with pytest.raises(ValueError, match="for a model trained to fill in"):
        painter(image=ByImage(LowResolution(2)))(1, image=image, mask=mask)


def test_a_picture_that_was_hidden_at_times_may_be_left_out_and_is_pushed_from() -> None:
    image = np.full((4, 4, 1), 50, np.uint8)
    pipe = painter(text=TEXT, image=ByImage(Edges(), dropout=0.1))
    assert values(pipe(2, prompt="a")) == [1007.0, 1007.0]
    assert values(pipe(1, prompt="a", image=image, guidance=3)) == [7 + 3 * (1000.0 - 7)]  # a flat picture has no edges
    always = painter(text=TEXT, image=ByImage(LowResolution(2)))
    assert values(always(1, prompt="a", image=image, guidance=3)) == [50 + 3 * 1000.0]  # in both halves
    assert values(always(1, prompt="a", also={"ab": 2.0}, image=image, guidance=3)) == [50 + 3000 + 4000.0]


# All together


@pytest.mark.parametrize("net", [None, DiT("S", 4, 1, 32)])
def test_a_picture_is_bit_identical_whatever_is_drawn_with_it(net: Any) -> None:
    # Of three tokens, "a longer one" has too many for how captions were.
    pipe = real(net, text=replace(TEXT, length=2), vector=ANGLE, image=ByImage(Edges(), dropout=0.1))
    rng = np.random.default_rng(0)
    prompts = ["cat", "a longer one", "", "dog house", "x"]
    vector = [{"angle": 10.0 * i} for i in range(5)]
    images = rng.integers(0, 256, (5, 8, 8, 1), dtype=np.uint8)

    def draw(rows: slice, batch: int = 128) -> np.ndarray:
        n = len(prompts[rows])
        return pipe(
            n, prompt=prompts[rows], negative="blurry thing", also={"snow": 0.7}, vector=vector[rows],
            image=images[rows], label=["a", "b", "a", "b", "b"][rows], seed=7, first=rows.start, batch_size=batch,
            guidance=2.5,
        ).array  # fmt: skip

    whole = draw(slice(0, 5))
    assert len({row.tobytes() for row in whole}) == 5
    assert (draw(slice(0, 5), 1) == whole).all()
    assert (draw(slice(0, 5), 3) == whole).all()
    for i in range(5):
        assert (draw(slice(i, i + 1)) == whole[i]).all(), i


def test_guidance_1_is_the_plain_model_and_runs_no_second_half() -> None:
    pipe = real(text=TEXT)
    calls: list[int] = []
    pipe.model.net.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    one = pipe(2, prompt="cat", guidance=1.0)
    assert set(calls) == {2}
    calls.clear()
    inside = pipe(2, prompt="cat", guidance=5.0, interval=(1e6, 1e7))  # never there
    assert set(calls) == {2}
    assert (inside.array == one.array).all()
    assert inside.settings["interval"] == [1e6, 1e7]
    calls.clear()
    other = pipe(2, prompt="cat", guidance=5.0, rule="rescaled(phi=0.5)")
    assert set(calls) == {4}
    assert other.settings["rule"] == {"kind": "rescaled", "phi": 0.5}
    assert (other.array != one.array).any()


def test_rows_of_a_data_set_are_taken_as_they_are() -> None:
    pipe = real(text=TEXT, vector=ANGLE)
    tokens = Letters().bind("cpu").encode(["cat", "a longer one"]).padded(5)
    vector = ANGLE.standard(torch.tensor([[60.0, 2.0], [torch.nan, 1.0]]))
    cond = Condition(torch.tensor([1, 0]), tokens.values, tokens.present, vector)
    given = pipe(2, cond=cond, seed=1)
    said = pipe(2, label=["b", "a"], prompt=["cat", "a longer one"], vector=[[60.0, 2.0], [np.nan, 1.0]], seed=1)
    assert (given.array == said.array).all()
    assert given.labels == ("b", "a")
    assert given.settings["cond"] == "given"
    assert (pipe(cond=cond.map(lambda v: v[1:]), first=1, seed=1).array == given.array[1]).all()
    for change, message in (
        ({"label": 0, "cond": cond}, "and label was given as well"),
        ({"cond": replace(cond, vector=None)}, "cond lacks vector"),
        ({"cond": replace(cond, image=torch.zeros(2, 1, 8, 8))}, "cond has image"),
        ({"cond": cond.map(lambda v: v[:1])}, "1 rows of cond were given for n = 2"),
        ({"cond": replace(cond, vector=vector[:1])}, r"cond.vector of shape \[1, 2\] must have n = 2 rows"),
        ({"cond": Steered(**vars(cond), base=cond.map(lambda v: v[:1]))}, r"cond.label of shape \[1\] must have n = 2"),
        ({"cond": replace(cond, label=torch.tensor([1, 2]))}, "cond.label holds 2, which is no class .* 0 to 1"),
        ({"cond": replace(cond, label=torch.tensor([-2, 0]))}, "cond.label holds -2, which is no class"),
        ({"cond": replace(cond, label=torch.tensor([0.0, 1.0]))}, "cond.label holds 0.0, which is no class"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(2, **change)


@pytest.mark.parametrize(
    ("told", "classes", "asked", "message"),
    [
        ({"text": TEXT}, (), {"prompt": "a", "also": ["x"]}, r"also = \['x'\] must be texts with their weights"),
        ({}, ("cat", "dog"), {"prompt": "a cat"}, r"prompt = 'a cat' .*without texts. It takes label= \(cat, dog\)\."),
        ({"text": TEXT}, (), {"label": "cat"}, r"label = 'cat' .*without classes. It takes prompt= \(a text\)\."),
        (
            {"vector": ANGLE},
            (),
            {"negative": "x", "guidance": 2.0},
            r"without texts. It takes vector= \(angle, size\)\.",
        ),
        ({}, (), {"vector": [1.0]}, "without vectors. It was trained without any condition."),
        ({"text": TEXT}, (), {"image": "x.png"}, "trained without pictures to go by"),
        ({"text": TEXT}, (), {"also": {"x": 1.0}, "image": "x.png"}, "trained without pictures to go by"),
        ({}, ("cat",), {"also": {"x": 1.0}}, "also = {'x': 1.0} was asked for"),
        (
            {"image": ByImage(LowResolution(2))},
            (),
            {"image": BLACK, "guidance": 2.0},
            r"needs a model .*image= \(for lowres\)",
        ),
        ({"text": TEXT}, (), {"negative": "x", "guidance": 1.0}, "negative is what guidance pushes away from"),
        *(
            (
                {"text": TEXT},
                (),
                {"also": {"snow": weight}},
                f"also = 'snow' has weight {weight}, which must be a finite",
            )
            for weight in (float("nan"), float("inf"))
        ),
        (
            {"text": replace(TEXT, dropout=0.0)},
            (),
            {"prompt": "x", "also": {"snow": 1.0}},
            r"^also needs a model .* to push away from. .* Leave it out\.",
        ),
        ({"text": replace(TEXT, dropout=0.0)}, (), {}, "never trained without its prompt: give prompt="),
        ({"vector": replace(ANGLE, dropout=0.0)}, (), {}, "never trained without its vector: give vector="),
        ({"label_dropout": 0.0}, ("x", "y"), {"label": -1}, r"without its label: .* takes label= \(x, y\)"),
        ({"label_dropout": 0.0, "text": TEXT}, ("x", "y"), {"prompt": "a"}, "never trained without its label"),
        ({"label_dropout": 0.0}, ("x", "y"), {"label": "x", "guidance": 2.0}, r"guidance = 2\.0 needs a model"),
    ],
)
def test_what_a_model_does_not_take_is_refused_with_what_it_takes(
    told: Any, classes: Any, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        painter(classes, **told)(1, **asked)


def test_a_label_that_was_never_hidden_stays_in_both_halves_of_guidance() -> None:
    pipe = painter(("x", "y"), text=TEXT, label_dropout=0.0)
    assert pipe(3).labels == ("x", "y", "x")
    assert values(pipe(2, prompt="ab", label=["x", "y"], guidance=3.0)) == [10 + 3 * 2000.0, 20 + 3 * 2000.0]
    assert values(pipe(1, prompt="ab", label="y", negative="a", guidance=3.0)) == [1020 + 3 * 1000.0]
    assert hideable(replace(pipe.config, label_dropout=0.1)) == ("label", "text")
    table = to_table(replace(pipe.config, conditions=Conditions()))
    assert from_table(Config, table).label_dropout == table.pop("label_dropout") == 0
    assert from_table(Config, table).label_dropout == 0.1  # models from before it was kept


def test_what_several_models_are_asked_is_shared_out() -> None:
    asked = {"label": "x", "prompt": "y", "negative": None, "vector": [1.0], "image": 0, "seed": 3}
    assert taken(painter(("x",)).config, asked) == {"label": "x", "seed": 3}
    assert taken(painter(text=TEXT).config, asked) == {"prompt": "y", "negative": None, "seed": 3}
    assert takes(painter(tuple("abcdefghijkl")).config) == "It takes label= (a, b, c, d, e, f, g, h, i, j, ...)."
    assert Ask(prompt=["a", "b"]).count(painter(text=TEXT).config) == 2


# Guidance by a weaker model


def test_a_weaker_model_is_pushed_away_from(tmp_path: Path) -> None:
    """weak + 3·(own - weak), each asked along the path that is sampled, here those of two trainings."""
    strong, weak = painter(text=TEXT), painter(text=TEXT)
    weak.model.net.forward = lambda x, t, s, cond: torch.full_like(x, 100.0) + 0 * cond.tokens.sum()  # type: ignore
    assert values(strong(1, prompt="a", weak=weak, guidance=3)) == [100 + 3 * 900.0]
    asked: list[float] = []

    def clocked(x: torch.Tensor, t: torch.Tensor, s: torch.Tensor, cond: Condition) -> torch.Tensor:
        asked.append(float(t[0]))
        return torch.full_like(x, 100.0)

    other = replace(weak.config, path=VE())
    slow = Pipeline(other, Model(Painter(), VE(), X0(), Plain()), weak.device)
    slow.model.net.forward = clocked  # type: ignore[method-assign]
    assert values(strong(1, prompt="a", weak=slow, guidance=3, steps=[0.9, 0.5, 0])) == [2800.0]
    # VE has sigma/alpha = 80 t, the straight path t/(1 - t); the clock is 1000 t.
    assert asked == pytest.approx([1000 * 9 / 80, 1000 * 1 / 80], rel=1e-6)
    assert painter()(1, weak=painter(), guidance=2).array.shape == (1, 4, 4, 1)  # a model of nothing can be guided so
    with pytest.raises(ValueError, match="weak is what guidance pushes away from"):
        strong(1, prompt="a", weak=weak, guidance=1)
    for wrong, what in ((painter(), "conditions"), (painter(size=8, text=TEXT), "shape")):
        with pytest.raises(ValueError, match=f"The weak model differs in its {what}"):
            strong(1, prompt="a", weak=wrong, guidance=3)
    rarer = painter(text=replace(TEXT, dropout=0.5))
    assert strong(1, prompt="a", weak=rarer, guidance=3).settings["weak"] == {
        "sha256": model_hash(rarer.config, rarer.model)
    }


def test_an_earlier_step_of_a_run_is_a_model_too(tmp_path: Path) -> None:
    pipe = real()
    run, weights = tmp_path / "run", pipe.model.net.state_dict()
    config = replace(pipe.config, ema=0.1, trained={"steps": 64.0})
    save_model(config, weights, run / "model")
    earlier = {k: v * 0.5 for k, v in weights.items()}
    kept = {"short": earlier, "long": {k: v * 0 for k, v in weights.items()}}
    snapshots.take(run, 32, kept, {"short": 0.09, "long": 0.2}, {"steps": 32.0}, 10)
    old = load(f"{run}@32", device="cpu")
    assert old.config.trained == {"steps": 32.0}
    assert old.config.ema == 0.09  # the length nearest to the model's own
    for name, w in old.model.net.state_dict().items():
        assert torch.equal(w, earlier[name].half().float()), name
    now = load(run, device="cpu")
    guided = now(2, weak=f"{run}@32", guidance=2.0)
    named = {"model": f"{run}@32", "sha256": model_hash(old.config, old.model)}
    assert guided.settings["weak"] == named  # which another run of this name would not have
    assert model_hash(now.config, now.model) != named["sha256"]
    assert (guided.array == now(2, weak=old, guidance=2.0).array).all()
    assert (guided.array != now(2, guidance=2.0).array).any()
    with pytest.raises(ValueError, match=r"keeps no weights of step 33\. The nearest: 32"):
        load(f"{run}@33", device="cpu")
    with pytest.raises(ValueError, match=r"No model in .*@,"):
        load(f"{run}@,", device="cpu")


# Editing


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda one: [np.int64(i) for i in one]])
def test_labels_may_be_numpys_and_torchs(kind: Any) -> None:
    pipe = real()
    want, drawn = pipe(3, label=[1, 0, -1]), pipe(label=kind([1, 0, -1]))
    assert (drawn.array == want.array).all() and drawn.settings["label"] == [1, 0, -1]
    one = pipe(1, label=kind([1])[0])
    assert one.labels == (pipe.config.classes[1],) and one.settings["label"] == 1
    x0 = torch.zeros(3, *pipe.config.shape)
    assert torch.equal(pipe.encode(x0, label=kind([1, 0, -1])), pipe.encode(x0, label=[1, 0, -1]))


def test_conditions_survive_editing_and_inversion() -> None:
    pipe = real(text=TEXT, vector=ANGLE)
    x0 = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    asked: dict[str, Any] = {"prompt": "cat", "vector": {"angle": 100}, "label": "a"}
    z = pipe.encode(x0, **asked, steps=24)
    assert not torch.equal(z, pipe.encode(x0, **{**asked, "prompt": "doghouse"}, steps=24))
    back: list[torch.Tensor] = []
    pipe(2, **asked, edit=Decode(z), guidance=1.0, steps=24, trace=lambda q, a: back.append(a.x0))
    assert float((back[-1] - x0).abs().max()) < 0.05
    draw = partial(pipe, 2, edit=Vary(x0, 0.6))
    assert (draw(**asked).array != draw(**{**asked, "vector": {"angle": 40}}).array).any()
    plain = pipe.encode(x0, steps=2)
    assert torch.equal(plain, pipe.encode(x0, steps=2, prompt="", vector={}))


def test_rows_of_data_and_what_people_say_mean_the_same() -> None:
    """`condition_of`, for training and measuring, and `Ask`, for sampling, give one and the same condition."""
    from inkwash.data.dataset import Rows

    pipe = real(text=TEXT, vector=ANGLE, image=ByImage(LowResolution(2, noise=0.3)))
    pictures = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    tokens = Letters().bind("cpu").encode(["cat", "a longer one"]).padded(5)
    vectors = np.array([[60.0, 2.0], [np.nan, 1.0]], np.float32)
    rows = Rows(
        pictures, np.array([1, 0]), vectors, tokens=tokens.values.half().numpy(), present=tokens.present.numpy()
    )
    noise = Philox(5, torch.arange(2))
    given = condition_of(pipe.config, pipe.codec, rows, noise, "cpu")
    paired = rows._replace(shown=255 - pictures)  # partners are for models that translate
    assert torch.equal(condition_of(pipe.config, pipe.codec, paired, noise, "cpu").image, given.image)
    asked = Ask(["b", "a"], ["cat", "a longer one"], vector=vectors, image=pictures)
    said = asked.understood(pipe.config, 2, 0, (1, 8, 8), pipe._read)
    want = said.rows(torch.arange(2), pipe.config, pipe.codec, (1, 8, 8), noise, torch.device("cpu"))
    for name in ("label", "tokens", "present", "vector", "image"):
        torch.testing.assert_close(getattr(given, name), getattr(want, name), rtol=0, atol=0, equal_nan=True)
    assert said.names == ("label", "text", "vector")


def test_in_latents_a_picture_goes_through_the_codec_of_what_is_diffused() -> None:
    """And a latent is hidden with its whole square of pixels."""
    net = TinyAutoencoder(1, 2, 8, (1, 1), (1, 1))
    torch.manual_seed(0)
    codec = Latents(net, (0.1, -0.2), (0.5, 2.0), "f" * 64).bind(net.build().state_dict())
    config = Config(
        (2, 4, 4), UNet("tiny"), Linear(), X0(), Plain(), codec.config,
        conditions=Conditions(image=ByImage(Masked())), sampling=Sampling(Ddim(), 1),
    )  # fmt: skip
    pipe = Pipeline(config, Model(Painter(), Linear(), X0(), Plain()), torch.device("cpu"), codec=codec)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 1), dtype=np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[0, 1] = 255
    seen = pipe.model.net.seen
    pipe(1, image=image, mask=mask)
    grey = image.copy()
    grey[0, 1] = 128  # what is under the mask is no one's
    want = codec.encode(torch.from_numpy(grey[None]))
    want[:, :, 0, 0] = torch.nan
    torch.testing.assert_close(seen[0].image[:1], want, rtol=0, atol=0, equal_nan=True)
