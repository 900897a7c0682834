"""Training by texts, numbers and pictures finds the best denoiser where the data's law given the condition is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inkwash.data import Dataset
from inkwash.kinds import to_table
from inkwash.noise import Philox
from inkwash.recipes import Recipe, read_recipe
from inkwash.training.dropping import hidden
from inkwash.training.setup import Setup, set_up
from tinytext import Words


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INKWASH_CACHE", str(tmp_path / "cache"))


# The known minimum. x0 = mean(condition) + s·g with g standard normal, on the linear path with the flow's target: given
# x_t and the condition the target's variance is s²/((1 - t)² s² + t²), whose mean over uniform t is s·pi/2 exactly.
# Without the condition the same holds of the whole deviation where the mean is itself Gaussian.

S = 0.15


def least(deviation: float) -> float:
    return deviation * math.pi / 2


def fitted(setup: Setup, steps: int, lr: float = 4e-3) -> Setup:
    """Train by nothing but what a batch is, what is hidden of it, and the objective."""
    optim, n, size = (
        torch.optim.Adam(setup.model.net.parameters(), lr),
        len(setup.dataset),
        setup.recipe.train.batch_size,
    )
    for step in range(steps):
        number = step * size + torch.arange(size)
        noise = Philox(0, number)
        batch = hidden(setup.batch(setup.dataset.take(number.numpy() % n), number), noise, setup.rates)
        optim.param_groups[0]["lr"] = lr * min(1.0, 2 * (1 - step / steps))
        optim.zero_grad()
        setup.recipe.objective(setup.model, batch, noise, 0.0).mean().backward()
        optim.step()
    return setup


@torch.no_grad()
def error(setup: Setup, data: Dataset, hide: tuple[str, ...] = (), draws: int = 8) -> float:
    """The mean loss on all examples of a data set, over uniform times."""
    seen, total = setup.seen(data), 0.0
    for draw in range(draws):
        number = 10**6 + draw * len(data) + torch.arange(len(data))
        batch = setup.batch(seen.take(np.arange(len(data))), number)._replace(size=len(data))
        batch = batch._replace(cond=batch.cond.null(hide))
        total += float(setup.recipe.objective(setup.model, batch, Philox(9, number), 0.0).mean()) / draws
    return total


def a_recipe(conditions: dict[str, Any], **tables: Any) -> Recipe:
    base: dict[str, Any] = {
        "data": {"source": "x", "flip": False},
        "train": {"steps": 1, "batch_size": 128, "precision": "fp32"},
        "conditions": conditions,
    }
    return read_recipe({k: {**base.get(k, {}), **tables.get(k, {})} for k in {**base, **tables}})


def points(n: int, seed: int) -> Dataset:
    """x0 [N, 2] = (v_0/10, 1 - v_1)/2 + s·g, of v with mean (5, 1) and deviation (10, 1)."""
    r = np.random.default_rng(seed)
    v = (r.standard_normal((n, 2)) * [10, 1] + [5, 1]).astype(np.float32)
    x = np.stack([v[:, 0] / 10, 1 - v[:, 1]], 1) / 2 + S * r.standard_normal((n, 2))
    return Dataset(
        "line", x.astype(np.float32), None, (), None, f"{seed}", True, vectors=v, vector_names=("angle", "size")
    )


def test_numbers_tell_the_mean_and_nothing_is_left_but_the_noise() -> None:
    r = a_recipe({"vector": {"dropout": 0.2}}, net={"kind": "mlp", "width": 48, "depth": 2})
    data = points(4096, 0)
    setup = set_up(r, data)
    told = setup.config.conditions.vector
    assert told is not None and told.mean is not None and told.std is not None
    np.testing.assert_allclose(told.mean, data.vectors.mean(0), rtol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(told.std, data.vectors.std(0), rtol=1e-5)  # type: ignore[union-attr]
    fitted(setup, 500)
    fresh = points(2048, 1)
    scale = float(setup.codec.encode(torch.ones(1, 2))[0, 0] - setup.codec.encode(torch.zeros(1, 2))[0, 0])
    shown, guessed = error(setup, fresh), error(setup, fresh, ("vector",))
    assert 0.97 * least(scale * S) < shown < 1.25 * least(scale * S)
    # The null is learned as well: the whole data, of deviation sqrt(0.25 + s²).
    whole = scale * math.hypot(0.5, S)
    assert 0.93 * least(whole) < guessed < 1.1 * least(whole)


COLOURS = {"red": (1, -1, -1), "lime": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}


def stored(x: np.ndarray) -> np.ndarray:
    """x in [-1, 1] as bytes."""
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


def painted(n: int, seed: int) -> Dataset:
    """Pictures [4, 4, 3] of one colour, ±0.5 in x, with noise of deviation s on every pixel; captions name it."""
    r = np.random.default_rng(seed)
    which = r.integers(0, 4, n)
    mean = np.array(list(COLOURS.values()))[which] / 2
    x = mean[:, None, None, :] + S * r.standard_normal((n, 4, 4, 3))
    return Dataset("paint", stored(x), None, (), tuple(list(COLOURS)[i] for i in which), f"{seed}", True)


LATE = S**2 / ((0.1 * S) ** 2 + 0.9**2)
"""The least squared error of the velocity at t = 0.9, where hardly anything of a picture is left in x_t."""


@torch.no_grad()
def late(setup: Setup, data: Dataset, hide: tuple[str, ...] = ()) -> float:
    """The model's error there, as a multiple of the least."""
    batch = setup.batch(setup.seen(data).take(np.arange(len(data))), torch.arange(len(data)))
    t = torch.full((len(data),), 0.9, dtype=torch.float64)
    eps = Philox(4, batch.number)(batch.x0, 0, 0)
    y = setup.model.predict(0.1 * batch.x0 + 0.9 * eps, t, setup.model.path(t), batch.cond.null(hide))
    return float((y - (eps - batch.x0)).square().mean()) / LATE


def test_captions_tell_the_mean_through_tokens() -> None:
    net = {"kind": "dit", "preset": "S", "width": 32, "depth": 2, "heads": 2, "patch": 2}
    r = a_recipe({"text": {"encoder": to_table(Words()), "dropout": 0.2}}, net=net, train={"batch_size": 64})
    setup = fitted(set_up(r, painted(256, 0)), 250, 1e-2)
    fresh = painted(128, 1)
    assert 0.9 < late(setup, fresh) < 1.5 and error(setup, fresh, draws=4) < 1.12 * least(S)
    wrong = replace(fresh, captions=tuple(np.roll(np.array(fresh.captions), 1)))
    assert late(setup, wrong) > 15  # another colour is (1 - (-1))/2 away in two of three channels, or in all
    assert 8 < late(setup, fresh, ("text",)) < 14  # any colour: a variance of 1/4 less what x_t still says


def test_a_picture_that_is_shown_tells_the_mean_of_every_pixel() -> None:
    r = np.random.default_rng(5)
    partner = r.integers(60, 196, (256, 4, 4, 3), np.uint8)
    x = partner / 127.5 - 1 + S * r.standard_normal(partner.shape)
    data = Dataset("pairs", stored(x), None, (), None, "pairs", True, shown=partner)
    net = {"kind": "unet", "preset": "tiny", "widths": [16], "patch": 1, "depth": 1}
    tables: dict[str, Any] = {"train": {"batch_size": 64}, "data": {"pairs": "partners"}, "net": net}
    setup = fitted(set_up(a_recipe({"image": {"task": "paired"}}, **tables), data), 250, 1e-2)
    assert 0.9 < late(setup, data) < 1.4 and 0.97 * least(S) < error(setup, data, draws=4) < 1.08 * least(S)
    wrong = replace(data, shown=np.roll(partner, 1, 0))
    assert late(setup, wrong) > 6
