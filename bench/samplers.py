"""What a step costs besides the network: microseconds, ours and diffusers', in one alternating run.

    python bench/samplers.py [--batch 1] [--rounds 15]

The network is a stub that returns its input, so all that is timed is the rest: the driver, the denoiser around the
network, the solver. Two lengths of run are timed, in the processor's own time, and the difference divided by the
difference in steps. What is left is done once a run: preparing the grid's coefficients, noise, decoding.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import inkwash
from inkwash.codec import Pixels
from inkwash.model import Indexed
from inkwash.pipeline import Pipeline
from inkwash.types import Condition

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.models.modeling_utils import ModelMixin
    from diffusers.models.unets.unet_2d import UNet2DOutput

SHORT, LONG = 20, 120
SHAPE = (3, 32, 32)


class Stub(nn.Module):
    """A network that costs nothing."""

    def forward(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """The input."""
        return x


class TheirStub(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """The same, as their pipelines want it."""

    @register_to_config
    def __init__(self, sample_size: int = SHAPE[1], in_channels: int = SHAPE[0]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, sample: Tensor, timestep: Any, return_dict: bool = True, **_: Any) -> Any:
        """The input."""
        return UNet2DOutput(sample=sample) if return_dict else (sample,)


def ours(sampler: Any, batch: int) -> Callable[[int], None]:
    """Our whole pipeline as it comes, on the stub: DDPM's table of 1000 steps, no clipping."""
    config = inkwash.Config(SHAPE, inkwash.UNet("tiny"), inkwash.Table(), inkwash.Eps(), Indexed(1000), Pixels())
    model = inkwash.Model(Stub(), config.path, config.target, config.inputs)
    pipe = Pipeline(config, model, torch.device("cpu"))
    return lambda steps: void(pipe(batch, sampler=sampler, steps=steps, batch_size=batch))


def bare(batch: int) -> Callable[[int], None]:
    """DDIM's arithmetic alone: one line a step."""

    def run(steps: int) -> None:
        x = torch.zeros(batch, *SHAPE)
        a, b, c, d = (torch.ones(steps, 1, 1, 1, 1) for _ in range(4))
        for i in range(steps):
            x0 = a[i] * x - b[i] * x
            x = c[i] * x0 + d[i] * x

    return run


def theirs(scheduler: Any, batch: int) -> Callable[[int], None]:
    """Their unconditional pipeline, with schedulers whose step takes what it gives."""
    pipeline = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
    pipe = pipeline(TheirStub(), scheduler)
    pipe.scheduler = scheduler  # the constructor turns every scheduler into its own kind
    pipe.set_progress_bar_config(disable=True)
    return lambda steps: void(pipe(batch_size=batch, num_inference_steps=steps, output_type="np"))


def their_scheduler(scheduler: Any, batch: int) -> Callable[[int], None]:
    """Their scheduler without their pipeline."""

    def run(steps: int) -> None:
        scheduler.set_timesteps(steps)
        x = torch.zeros(batch, *SHAPE)
        for t in scheduler.timesteps:
            x = scheduler.step(x, t, x).prev_sample

    return run


def void(_: Any) -> None:
    """Nothing, of anything."""


def per_step(run: Callable[[int], None]) -> tuple[float, float]:
    """Microseconds of a step, and of what is done once a run."""
    took = {}
    for steps in (SHORT, LONG):
        began = time.thread_time()
        run(steps)
        took[steps] = time.thread_time() - began
    step = (took[LONG] - took[SHORT]) / (LONG - SHORT)
    return 1e6 * step, 1e6 * (took[SHORT] - SHORT * step)


def main() -> None:
    """Time everything in turn, several times, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet = {"clip_sample": False}
    batch = options.batch
    runs: dict[str, Callable[[int], None]] = {
        "ddim, bare arithmetic": bare(batch),
        "ddim, ours": ours(inkwash.Ddim(), batch),
        "ddim, diffusers' pipeline": theirs(diffusers.DDIMScheduler(**quiet), batch),
        "ddim, diffusers' scheduler alone": their_scheduler(diffusers.DDIMScheduler(**quiet), batch),
        "dpm++ 2M, ours": ours(inkwash.DpmSolver(), batch),
        "dpm++ 2M, diffusers' pipeline": theirs(diffusers.DPMSolverMultistepScheduler(), batch),
        "unipc 2, ours": ours(inkwash.UniPC(), batch),
        "unipc 2, diffusers' scheduler alone": their_scheduler(diffusers.UniPCMultistepScheduler(), batch),
        "deis 3, ours": ours(inkwash.Deis(), batch),
        "deis 3, diffusers' scheduler alone": their_scheduler(diffusers.DEISMultistepScheduler(solver_order=3), batch),
        "heun, ours (a call)": ours(inkwash.Heun(), batch),
        "heun, diffusers' scheduler alone (a call)": their_scheduler(diffusers.HeunDiscreteScheduler(), batch),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(options.rounds + 1):
        for name, run in runs.items():
            measured = per_step(run)
            if number:  # the first round warms up
                found[name].append(measured)
    print(f"torch {torch.__version__}, diffusers {diffusers.__version__}, batch {batch} of {SHAPE}, 1 thread")
    print(f"{'':42s} {'us a step':>10s} {'once a run':>12s}")
    for name, values in found.items():
        calls = 2 if "a call" in name else 1
        step, once = (statistics.median(v) for v in zip(*values, strict=True))
        print(f"{name:42s} {step / calls:10.1f} {once:12.0f}")


if __name__ == "__main__":
    main()
