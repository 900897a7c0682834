"""Step by step the same pictures as diffusers' DDPM and DDIM schedulers, on the same betas, network and noise.

Their entry i, counted from 0, is our time (i + 1)/T. Traps of theirs that are stepped around here, none of them ours:

- `timestep_spacing="leading"`, the default, starts at entry T - T/N and never visits the end of the table, though
  sampling starts from pure noise. "trailing" starts at the end: it is our even grid.
- With "trailing" and "fixed_large" DDPM adds noise on the step that arrives at clean data, since that step's index is
  not 0: the finished picture is noisy. We add none there.
- With `clip_sample=True` DDIM keeps the network's own noise beside the clipped data, so that the two no longer add up
  to x, unless `use_clipped_model_output=True`. Ours is always recomputed.
- DDIM takes the previous entry to be `T // N` before, whatever the grid: with "linspace" that is not the next entry.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from inkwash.drive import drive
from inkwash.guidance import Clipped
from inkwash.model import Indexed, Model
from inkwash.noise import Philox, Stream
from inkwash.paths import CosineBetas, LinearBetas, QuadraticBetas, Table
from inkwash.samplers import Ancestral, Ddim
from inkwash.targets import X0, Eps, V
from inkwash.types import Condition, Denoised, Query, Sampler

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own and its dependencies' deprecations on import
    ddpm = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    ddim = pytest.importorskip("diffusers.schedulers.scheduling_ddim")

TARGETS = {"epsilon": Eps(), "sample": X0(), "v_prediction": V()}
X = torch.randn(3, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """An arbitrary smooth function of x and of the entry's index; its x0 leaves [-1, 1]."""

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        index = t_emb.double().round().reshape(-1, 1, 1, 1)
        return torch.sin(1.3 * x + 0.01 * index) + 0.2 * x.flip(-1)


def scheduler(kind: Any, **options: Any) -> Any:
    """Their scheduler, its table computed again in float64 (theirs is float32)."""
    made = kind(**options)
    table = {"linear": LinearBetas, "scaled_linear": QuadraticBetas, "squaredcos_cap_v2": CosineBetas}
    betas = table[made.config.beta_schedule](made.config.num_train_timesteps)()
    torch.testing.assert_close(made.betas.double(), betas, rtol=2e-4, atol=1e-6)  # the same schedule as ours
    made.betas, made.alphas = betas, 1 - betas
    made.alphas_cumprod = torch.cumprod(made.alphas, 0)
    return made


def ours(made: Any, sampler: Sampler, times: list[float], clip: bool) -> list[Tensor]:
    """Every x of our run, the last one included."""
    steps = made.config.num_train_timesteps
    table = Table(made.betas)
    model = Model(Net(), table, TARGETS[made.config.prediction_type], Indexed(steps))
    seen: list[Tensor] = []

    def watch(query: Query, answer: Denoised) -> None:
        seen.append(query.x)

    grid = torch.tensor(times, dtype=torch.float64)[:, None].expand(-1, len(X))
    coroutine = sampler(table, X, grid, Philox(0, torch.arange(len(X))))
    last = drive(coroutine, Clipped(model, table) if clip else model, Condition(), watch)
    return [*seen, last]


def theirs(made: Any, step: Any) -> list[Tensor]:
    """Every x of their run; `step` is told the network's output, the index, x, and the noise we would add."""
    seen = [X]
    for i, t in enumerate(made.timesteps):
        x = seen[-1]
        y = Net()(x, torch.full((len(x),), float(t)), torch.zeros(1), Condition())
        seen.append(step(y, t, x, Philox(0, torch.arange(len(X)))(x, i, Stream.STEP)))
    return seen


def times_of(made: Any) -> list[float]:
    return [(int(i) + 1) / made.config.num_train_timesteps for i in made.timesteps] + [0.0]


def assert_same(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("added", ["small", "large"])
@pytest.mark.parametrize(
    ("schedule", "steps", "taken", "spacing", "prediction"),
    [
        ("linear", 10, 10, "leading", "epsilon"),
        ("scaled_linear", 60, 60, "leading", "v_prediction"),
        ("squaredcos_cap_v2", 40, 40, "leading", "sample"),
        ("linear", 1000, 50, "leading", "epsilon"),
        ("linear", 1000, 50, "trailing", "v_prediction"),
        ("squaredcos_cap_v2", 1000, 50, "trailing", "sample"),
    ],
)
def test_ancestral_is_ddpm(
    schedule: str,
    steps: int,
    taken: int,
    spacing: str,
    prediction: str,
    added: Literal["small", "large"],
    clip: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = scheduler(
        ddpm.DDPMScheduler,
        num_train_timesteps=steps,
        beta_schedule=schedule,
        variance_type=f"fixed_{added}",
        clip_sample=clip,
        prediction_type=prediction,
        timestep_spacing=spacing,
    )
    made.set_timesteps(taken)

    def step(y: Tensor, t: Tensor, x: Tensor, z: Tensor) -> Tensor:
        if spacing == "trailing" and t == made.timesteps[-1]:
            z = torch.zeros_like(z)  # they would add noise to the finished picture (see above)
        monkeypatch.setattr(ddpm, "randn_tensor", lambda *_, **__: z)
        return made.step(y, t, x).prev_sample

    assert_same(ours(made, Ancestral(added), times_of(made), clip), theirs(made, step))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("schedule", "steps", "taken", "spacing", "prediction"),
    [
        ("linear", 10, 10, "leading", "epsilon"),
        ("scaled_linear", 200, 50, "trailing", "v_prediction"),
        ("linear", 1000, 50, "leading", "epsilon"),
        ("squaredcos_cap_v2", 1000, 20, "trailing", "sample"),
    ],
)
def test_ddim_is_ddim(
    schedule: str, steps: int, taken: int, spacing: str, prediction: str, eta: float, clip: bool
) -> None:
    made = scheduler(
        ddim.DDIMScheduler,
        num_train_timesteps=steps,
        beta_schedule=schedule,
        clip_sample=clip,
        prediction_type=prediction,
        timestep_spacing=spacing,
    )
    made.set_timesteps(taken)

    def step(y: Tensor, t: Tensor, x: Tensor, z: Tensor) -> Tensor:
        noise = {"variance_noise": z} if eta > 0 else {}
        return made.step(y, int(t), x, eta=eta, use_clipped_model_output=clip, **noise).prev_sample

    assert_same(ours(made, Ddim(eta), times_of(made), clip), theirs(made, step))


def test_trailing_is_the_even_grid() -> None:
    made = ddim.DDIMScheduler(num_train_timesteps=1000, timestep_spacing="trailing")
    made.set_timesteps(50)
    torch.testing.assert_close(times_of(made), torch.linspace(1, 0, 51, dtype=torch.float64).tolist())
