"""Pictures depend on the model, the seed, their index and the settings, and on nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import inkwash
from inkwash import (
    MLP,
    VE,
    Ancestral,
    Condition,
    Config,
    Ddim,
    DpmSolver,
    Eps,
    Euler,
    Flow,
    Heun,
    Linear,
    Query,
    RungeKutta,
    Sampling,
    Table,
    UNet,
    UniPC,
    V,
)
from inkwash.asking import find_class
from inkwash.codec import Pixels, Scaled, Standard, codec_for
from inkwash.edit import Vary
from inkwash.grids import Listed
from inkwash.guidance import highest
from inkwash.model import Indexed, Model, Plain, Prepared, UnitVariance
from inkwash.modelfolder import save_model
from inkwash.nets import ClassicUNet, DiT
from inkwash.noise import Philox, Stream
from inkwash.paths import VP, SigmoidSchedule
from inkwash.pipeline import CHUNK, Pipeline
from inkwash.targets import X0
from inkwash.types import Coeffs

CLASSES = ("T-shirt/top", "Trouser", "Sneaker")
CLASSIC: dict[str, Any] = {"widths": (8, 8, 8), "depth": 1, "attention": (2,), "groups": 2}


def pipeline(**changes: Any) -> Pipeline:
    """A class-conditional U-Net with random weights, none of them zero."""
    settings: dict[str, Any] = {
        "shape": (1, 12, 12),
        "net": UNet("tiny", widths=(32, 32), depth=1),
        "path": Linear(),
        "target": Flow(),
        "inputs": Plain(),
        "codec": Pixels(),
        "classes": CLASSES,
        "sampling": Sampling(Heun(), steps=3, guidance=2.0),
    }
    config = Config(**settings | changes)
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for p in model.net.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return Pipeline(config, model, torch.device("cpu"))


@pytest.mark.parametrize(
    "sampler", [Heun(), Ddim(), Ancestral(), Euler(), DpmSolver(3, sde=True), UniPC(), RungeKutta(0.1, 0.1)]
)
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_a_picture_is_bit_identical_whatever_the_batch(sampler: Any, guidance: float) -> None:
    pipe = pipeline()
    label = ["Sneaker", "Trouser"] * 64

    def draw(n: int, batch_size: int) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        drawn = pipe(
            n,
            label=label[:n],
            sampler=sampler,
            guidance=guidance,
            seed=3,
            batch_size=batch_size,
            trace=lambda q, a: seen.append(a.x0),
        )
        return torch.from_numpy(drawn.array), seen[-1]  # type: ignore[return-value]

    pixels, x0 = draw(128, 128)
    for n, batch_size in ((1, 1), (3, 3), (7, 7), (7, 3), (128, 7), (128, 1)):
        other, other_x0 = draw(n, batch_size)
        assert torch.equal(other, pixels[:n]), (n, batch_size)
        assert torch.equal(other_x0, x0[: len(other_x0)]), (n, batch_size)  # floats, before rounding to pixels


def test_an_interval_leaves_the_bits_of_pictures_at_different_times_alone() -> None:
    """An adaptive sampler takes its neighbour into the interval when it likes: a picture's floats must not know."""
    pipe = pipeline(codec=Scaled(-1.0, 1.0))
    settings: dict[str, Any] = {"sampler": RungeKutta(0.1, 0.1), "guidance": 3.0, "interval": (0.3, 5.0)}
    rows: set[int] = set()
    pipe.model.net.register_forward_hook(lambda m, args, out: rows.add(len(args[0])))
    whole = pipe(4, label=["Sneaker", "Trouser"] * 2, **settings).array
    assert (pipe(1, label="Sneaker", **settings).array == whole[:1]).all()
    assert (pipe(3, label=["Sneaker", "Trouser", "Sneaker"], **settings).array == whole[:3]).all()
    assert rows == {2 * CHUNK["cpu"]}
    rows.clear()
    pipe(2, **settings | {"sampler": Heun()})
    assert rows == {CHUNK["cpu"], 2 * CHUNK["cpu"]}  # of equal times, only those inside have two halves


def test_seeds_and_indices_give_different_pictures() -> None:
    pipe = pipeline()
    a, b = pipe(2, label="Sneaker", seed=0).array, pipe(2, label="Sneaker", seed=1).array
    assert (a[0] != a[1]).any()
    assert (a != b).any()


def test_sampling_starts_from_noise_that_training_never_saw() -> None:
    """Seed, index and step may coincide with training's: the stream does not."""
    seen: list[torch.Tensor] = []
    pipeline()(2, seed=5, trace=lambda q, a: seen.append(q.x))
    noise = Philox(5, torch.arange(2))
    assert torch.equal(seen[0], noise(seen[0], 0, Stream.START))
    trained_with = noise(seen[0], 0, Stream.EPS)
    assert abs(float((seen[0] * trained_with).mean())) < 4 / seen[0].numel() ** 0.5


def test_guidance_1_is_the_conditional_model_and_0_the_unconditional_one() -> None:
    pipe = pipeline()
    plain = pipe(2, label=1, guidance=1.0).array
    calls: list[int] = []
    pipe.model.net.register_forward_hook(lambda m, args, out: calls.append(len(args[0])))
    assert (pipe(2, label=1, guidance=1.0).array == plain).all()
    assert set(calls) == {CHUNK["cpu"]}  # no second half
    assert (pipe(2, label=1, guidance=0.0).array == pipe(2, label=-1, guidance=1.0).array).all()
    assert (pipe(2, label=1, guidance=3.0).array != plain).any()


def test_a_saved_model_draws_the_same_pictures(tmp_path: Path) -> None:
    pipe = pipeline(path=Table(), target=V(), inputs=Indexed(1000), sampling=Sampling(Ddim(0.5), 4, 1.5, clip=True))
    save_model(pipe.config, pipe.model.net.state_dict(), tmp_path / "m")
    loaded = inkwash.load(tmp_path / "m", device="cpu")
    assert loaded.config == pipe.config
    mine, theirs = pipe(3, seed=5), loaded(3, seed=5)
    assert (mine.array == theirs.array).all()
    assert mine.labels == theirs.labels == CLASSES
    assert theirs.settings["sampler"] == {"kind": "ddim", "eta": 0.5, "added": "small"}


@pytest.mark.parametrize("net", [UNet("tiny", widths=(32, 32), depth=1), DiT("S", 4, 1, 32), ClassicUNet(**CLASSIC)])
def test_pictures_can_have_another_size_than_those_of_training(net: Any) -> None:
    pipe = pipeline(net=net)
    wide = pipe(3, size=(8, 20), seed=4)
    assert wide.array.shape == (3, 8, 20, 1)
    assert wide.settings["size"] == [8, 20]
    for again in (pipe(3, size=[8, 20], seed=4, batch_size=1), pipe(3, size=(8, 20), seed=4)):
        assert (again.array == wide.array).all()
    assert (pipe(3, size=(8, 20), seed=5).array != wide.array).any()
    assert (pipe(1, size=(8, 20), first=2, label=CLASSES[2], seed=4).array[0] == wide.array[2]).all()
    trained = pipe(2, seed=4)
    assert trained.array.shape == (2, 12, 12, 1)
    assert "size" not in trained.settings
    for same in (pipe(2, size=12, seed=4), pipe(2, size=(12, 12), seed=4)):
        assert (same.array == trained.array).all()
        assert same.settings == trained.settings
    seen: list[torch.Tensor] = []
    pipe(2, size=(8, 20), seed=5, trace=lambda q, a: seen.append(q.x))
    assert torch.equal(seen[0], Philox(5, torch.arange(2))(torch.empty(2, 1, 8, 20), 0, Stream.START))
    x0 = torch.zeros(1, 1, 8, 20)
    assert pipe(1, size=(8, 20), edit=Vary(x0, 0.5)).array.shape == (1, 8, 20, 1)
    for size in ((8, 18), (6, 20), (8, 8, 8), (0, 8), -4):
        with pytest.raises(ValueError, match=r"^size = .*multiples of 4, for example \(.*trained on 12 x 12") as told:
            pipe(1, size=size)
        assert str(size) in str(told.value)
    with pytest.raises(ValueError, match=r"for example \(8, 20\)"):
        pipe(1, size=(7, 21))


def test_points_have_no_size() -> None:
    pipe = pipeline(net=MLP(8, 1), shape=(2,), codec=Standard((0.0, 0.0), (1.0, 1.0)), classes=(), sampling=Sampling())
    with pytest.raises(ValueError, match="size = 32 is for models of pictures"):
        pipe(1, size=32)


def test_settings_are_the_models_own_unless_given() -> None:
    pipe = pipeline()
    assert (pipe(1).array == pipe(1, steps=3, guidance=2.0, sampler="heun", label=0).array).all()
    assert (pipe(1, steps=4).array == pipe(1, steps=[1.0, 0.75, 0.5, 0.25, 0.0]).array).all()
    assert (pipe(1, eta=0.0).array == pipe(1, sampler=Ddim()).array).all()
    fractions: list[float] = []
    pipe(9, batch_size=8, watch=fractions.append)
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_what_does_not_fit_is_refused_with_the_reason() -> None:
    pipe = pipeline()
    for options, message in (
        ({"label": "Snaeker"}, "no class 'Snaeker'. Did you mean Sneaker"),
        ({"label": 3}, "indices go from 0 to 2"),
        ({"label": ["Sneaker"]}, "1 labels were given for n = 2"),
        ({"sampler": "huen"}, "no sampler 'huen'. Did you mean heun"),
        ({"sampler": "euler", "eta": 1.0}, "eta = 1.0 belongs to the ddim sampler"),
        ({"eta": 1.5}, r"eta must lie in \[0, 1\]"),
        ({"steps": 0}, "at least 1 step"),
        ({"steps": [0.0, 1.0]}, "decreasing within"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"guidance": float("nan")}, "guidance = nan must be a finite number"),
        ({"guidance": float("inf")}, "guidance = inf must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe(2, **options)
    bare = pipeline(classes=(), sampling=Sampling())
    with pytest.raises(ValueError, match="trained without classes"):
        bare(1, label="Sneaker")
    with pytest.raises(ValueError, match="needs a model with classes"):
        bare(1, guidance=2.0)
    own = pipeline(classes=(), sampling=Sampling(guidance=3.0))
    with pytest.raises(ValueError, match=r"guidance = 3.0 \(the model's own setting\) needs .* Use guidance = 1"):
        own(1)
    assert (own(1, steps=2, guidance=1.0).array == bare(1, steps=2).array).all()
    with pytest.raises(ValueError, match=r"No model in .*nowhere.*there is no such folder"):
        inkwash.load("nowhere")


def test_classes_by_name_in_any_case_and_by_index() -> None:
    assert [find_class(CLASSES, c) for c in ("sneaker", "2", 2, " Trouser ", -1)] == [2, 2, 2, 1, -1]
    assert [find_class(("Cat", "cat", "Dog"), c) for c in ("cat", "Cat", "DOG")] == [1, 0, 2]
    with pytest.raises(ValueError, match="'CAT' could be Cat or cat"):
        find_class(("Cat", "cat", "Dog"), "CAT")
    assert pipeline()(4).labels == (*CLASSES, CLASSES[0])


def test_settings_say_what_the_last_bits_depend_on() -> None:
    pipe = pipeline()
    assert {"precision": "fp32", "device": "cpu"}.items() <= pipe(1).settings.items()
    pipe.model.autocast = torch.bfloat16
    assert pipe(1).settings["precision"] == "bf16"


def test_one_sample_is_the_picture_among_all() -> None:
    samples = pipeline()(3)
    for i in (0, 2, -1):
        assert (np.asarray(samples[i]) == samples.pictures()[i, ..., 0]).all()
    with pytest.raises(IndexError):
        samples[3]


def test_data_choose_their_codec() -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(1, 8, 8, 1)
    assert codec_for(grey) == Pixels()
    assert codec_for(grey * 0.5 - 3) == Scaled(-3.0, 28.5)
    assert codec_for(np.full((1, 2, 2, 1), 7.0)) == Scaled(7.0, 8.0)
    assert codec_for(np.array([[1.0, 5.0], [3.0, 5.0]])) == Standard((2.0, 5.0), (1.0, 1.0))


def test_codecs_invert_exactly() -> None:
    u = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(Pixels().decode(Pixels().encode(u)), u)
    assert Pixels().encode(u).flatten()[[0, 255]].tolist() == [-1.0, 1.0]
    scaled, x = Scaled(-3.0, 5.0), torch.linspace(-3, 5, 12).reshape(1, 2, 2, 3)
    assert scaled.encode(x)[0, :, 0, 0].tolist() == pytest.approx([-1, -1 + 2 / 11, -1 + 4 / 11])
    assert torch.allclose(scaled.decode(scaled.encode(x)), x, atol=1e-6)
    assert scaled.picture(x).flatten()[[0, -1]].tolist() == [0, 255]
    standard, y = Standard((1.0, -2.0), (0.5, 4.0)), torch.tensor([[1.5, 2.0]])
    assert standard.encode(y).tolist() == [[1.0, 1.0]]
    assert torch.equal(standard.decode(standard.encode(y)), y)


def test_points_are_drawn_by_a_perceptron() -> None:
    pipe = pipeline(shape=(2,), net=MLP(16, 1), codec=Standard((3.0, 0.0), (2.0, 1.0)), classes=(), sampling=Sampling())
    x = pipe(500, steps=2).array
    assert x.shape == (500, 2)
    assert np.isfinite(x).all()
    assert (pipe(7, steps=2).array == x[:7]).all()


def test_sampling_along_another_path_is_the_same_trajectory() -> None:
    """At equal noise-to-signal ratios DDIM draws the same pictures on every path, but for rounding."""
    pipe = pipeline()
    own = pipe(3, sampler="ddim", grid="karras(low=0.02, high=20)", steps=6)
    for path in ("ve", "vp", "vp(schedule=cosine)"):
        other = pipe(3, sampler="ddim", grid="karras(low=0.02, high=20)", steps=6, path=path)
        assert np.abs(other.array.astype(int) - own.array).max() <= 1  # of 255
        assert other.settings["path"]["kind"] == path.partition("(")[0]
    assert own.array.std() > 10
    assert "path" not in own.settings
    assert own.settings["grid"] == {"kind": "karras", "low": 0.02, "high": 20.0, "rho": 7.0}


def test_a_grid_starts_where_the_model_ends() -> None:
    """A model trained up to a ratio of 80 cannot be asked at Linear's t = 1, where there is no data at all."""
    times = Sampling(path=Linear(), steps=4).times(VE())
    torch.testing.assert_close(times.flatten(), torch.linspace(1, 0, 5, dtype=torch.float64) * 80 / 81)
    assert Sampling(path=Linear()).asked(VE(), times[:1]).item() == pytest.approx(1.0, abs=1e-12)
    half = Sampling(path=VE(), steps=2).times(Linear(), 0.5)
    torch.testing.assert_close(half.flatten(), torch.tensor([0.5, 0.25, 0.0], dtype=torch.float64))
    assert Sampling(steps=3).asked(Linear(), half) is half


def test_a_list_of_times_is_a_grid() -> None:
    changed = Sampling().changed(steps=[1, 0.5, 0])
    assert changed.times(Linear()).flatten().tolist() == [1.0, 0.5, 0.0]
    assert changed.steps == 2
    assert Sampling(grid=Listed((1.0, 0.4, 0.1, 0.0))).changed(grid="listed(times=[1, 0.2, 0])").steps == 2
    with pytest.raises(ValueError, match="both say which times"):
        Sampling().changed(steps=[1, 0.5, 0], grid="karras")
    with pytest.raises(ValueError, match=r"begins at t = 1, above 0\.5"):
        changed.times(Linear(), 0.5)


def test_a_list_must_lead_from_noise_to_data() -> None:
    """Noise alone is noised data where sigma/alpha is 5 or more; and what ends above 0 is a noisy picture."""
    pipe = pipeline()
    with pytest.raises(ValueError, match=r"end at t = 0\.1, where there is still noise .*: end them at 0"):
        pipe(1, steps=[1, 0.5, 0.1])
    with pytest.raises(ValueError, match=r"begins at t = 0\.83, where sigma/alpha is 4\.88, .* it at 1, or .* 5 or"):
        pipe(1, steps=[0.83, 0.5, 0])
    pipe(1, steps=[0.84, 0])  # 5.25
    changed = Sampling(grid=Listed((0.5, 0.2, 0.0)), steps=2)
    assert changed.times(Linear(), 0.5).flatten().tolist() == [0.5, 0.2, 0.0]  # a noised picture, not noise alone
    with pytest.raises(ValueError, match=r"begins at t = 0\.5, where sigma/alpha is 1,"):
        changed.times(Linear())
    # A path of little noise is begun at its end, and along another path a list may begin where the model ends.
    assert Sampling(grid=Listed((1.0, 0.0)), steps=1).times(VE(2.0)).flatten().tolist() == [1.0, 0.0]
    end = float(highest(VE(2.0), Linear()))
    along = Sampling(grid=Listed((end, 0.0)), steps=1, path=Linear())
    assert along.times(VE(2.0))[0] == end == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"sigma/alpha is 1\.86, .* begin it at 0\.666666, or"):
        replace(along, grid=Listed((0.65, 0.0))).times(VE(2.0))


def test_a_rehearsal_counts_the_calls_and_finds_what_is_refused() -> None:
    assert Sampling(Heun(), 4).rehearse(Linear(), Flow()) == 7
    assert Sampling(Ddim(), 4, path=VE()).rehearse(Linear(), Flow()) == 4
    learned = Sampling(Ancestral("learned"), 3)
    assert learned.rehearse(Linear(), Flow(), learned_variance=True) == 3
    with pytest.raises(ValueError, match="needs a model that learned"):
        learned.rehearse(Linear(), Flow())
    with pytest.raises(ValueError, match="does not determine data and noise at t = 1 "):
        Sampling(Ddim(), 3).rehearse(Linear(), Eps())
    Sampling(Ddim(), 3).rehearse(Linear(), X0())  # of no use at t = 0, where nobody asks
    with pytest.raises(ValueError, match="infinite at t = 1"):
        Sampling(Euler(), 3).rehearse(VP(SigmoidSchedule()), V())


def test_settings_that_cannot_be_are_refused_at_once() -> None:
    assert Sampling(steps=10_000).steps == 10_000
    with pytest.raises(ValueError, match="steps = 10001 is too many: at most 10000"):
        Sampling(steps=10_001)
    for method in (Ancestral("learned"), Ddim(1.0, "learned")):
        with pytest.raises(ValueError, match='added = "learned" belongs to the path the model was trained on'):
            Sampling(method).changed(path="ve")
    assert Sampling(Ancestral("large")).changed(path="ve").path == VE()


@pytest.mark.parametrize("target", [Flow(), V(), Eps()])
def test_a_prepared_model_answers_as_the_model_does(target: Any) -> None:
    """Bit for bit: for rows at one time of its grid, at several, and at times it was not prepared for."""
    net = MLP(16, 1).build((3,))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(0))
    model = Model(net, Linear(), target, UnitVariance(0.7))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    prepared = Prepared(model, torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64), x)
    for times in ([0.5] * 4, [0.9, 0.1, 0.5, 0.5], [0.5, 0.5, 0.5, 0.3], [0.7] * 4, [0.1]):
        t = torch.tensor(times, dtype=torch.float64)
        query = Query(x[: len(t)], t, t)
        found, want = prepared(query, Condition()), model(query, Condition())
        assert torch.equal(found.x0, want.x0)
        assert torch.equal(found.eps, want.eps)
    with pytest.raises(ValueError, match="cannot answer a jump"):
        prepared(Query(x, torch.full((4,), 0.5), torch.zeros(4)), Condition())


@dataclass
class Twice:
    """Inputs that show x twice as large."""

    def scale(self, c: Coeffs) -> torch.Tensor:
        return torch.full_like(c.alpha, 2.0)

    def clock(self, t: torch.Tensor, c: Coeffs) -> torch.Tensor:
        return t


def test_a_prepared_model_scales_what_it_shows_and_asks_its_path_once() -> None:
    asked: list[int] = []

    class Counted(Linear):
        def __call__(self, t: torch.Tensor) -> Coeffs:
            asked.append(t.numel())
            return super().__call__(t)

    model = Model(lambda x, t, s, cond: x + t[:, None], Counted(), X0(), Twice())  # type: ignore[arg-type]
    asked.clear()
    x, t = torch.ones(2, 3), torch.full((2,), 0.5, dtype=torch.float64)
    prepared = Prepared(model, torch.tensor([0.9, 0.5], dtype=torch.float64), x)
    assert torch.equal(prepared(Query(x, t, t), Condition()).x0, torch.full((2, 3), 2.5))
    assert asked == [2]  # once, about both times
    prepared(Query(x, t / 2, t / 2), Condition())
    assert asked == [2, 2]  # a time that is not of the grid


def test_answers_have_the_datas_dtype_under_autocast() -> None:
    net = torch.nn.Linear(3, 3)
    model = Model(lambda x, t, s, cond: net(x), Linear(), Eps(), autocast=torch.bfloat16)  # type: ignore[arg-type]
    t = torch.full((2,), 0.5, dtype=torch.float64)
    for denoiser in (
        model,
        Prepared(model, t[:1], torch.ones(2, 3)),
    ):  # in the second the noise is the net's own output
        answer = denoiser(Query(torch.ones(2, 3), t, t), Condition())
        assert answer.x0.dtype == answer.eps.dtype == torch.float32
    assert not torch.equal(answer.eps, net(torch.ones(2, 3)))  # it did run in bfloat16


def test_defaults_of_inputs() -> None:
    assert Indexed() == Indexed(1000)
    assert UnitVariance() == UnitVariance(0.5)
