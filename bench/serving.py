"""Time to one picture: a student of one and of four steps, its teacher, and diffusers' DDIM, in one alternating run.

    python bench/serving.py [--rounds 9] [--threads 2]

Warm is a call in a process that has drawn before; cold is the whole process, from its start to a PNG on the disk. The
models are the network of the recipe `fashion-mnist` with random weights, saved and loaded as users do: what is drawn
does not matter to the clock. Theirs is a `UNet2DModel` of like parameters and FLOPs, on pictures already folded by our
network's patch, without labels, since their pipeline has none. Batch 1; wall time; medians. A quiet machine is needed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import inkwash
from inkwash.codec import Pixels
from inkwash.compare import some
from inkwash.kinds import in_text
from inkwash.model import UnitVariance
from inkwash.modelfolder import Config, save_model
from inkwash.recipes import read_recipe
from inkwash.samplers import Jumps
from inkwash.sampling import Sampling
from nets import PRESETS, like

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

diffusers.logging.disable_progress_bar()

COLUMNS = (("warm", "fp32"), ("warm", "bf16"), ("cold", "Python"), ("cold", "CLI"))
SHAPE, FOLDED = (1, 28, 28), (4, 14, 14)
DDIM_STEPS, DRAWS = 20, 5

OURS = """
import inkwash
inkwash.load({folder!r})(1, label=0, steps={steps}, seed=1)[0].save({out!r})
"""
THEIRS = """
from diffusers import DDIMPipeline
from PIL import Image
pipe = DDIMPipeline.from_pretrained({folder!r}, low_cpu_mem_usage=False)
pipe.set_progress_bar_config(disable=True)
folded = pipe(batch_size=1, num_inference_steps={steps}, output_type="np").images[0]
whole = folded.reshape(14, 14, 2, 2).transpose(0, 2, 1, 3).reshape(28, 28)
Image.fromarray((255 * whole).astype("uint8")).save({out!r})
"""


@dataclass
class Way:
    """A way to one picture: how it is said, its network's parameters and calls, and what is run."""

    name: str
    parameters: int
    calls: str
    warm: dict[str, Callable[[], Any]]
    cold: dict[str, list[str]]


def ours(folder: Path, *, jumps: bool) -> tuple[Config, int]:
    """Save a model of the recipe, or its student, with random weights; its config and parameters."""
    recipe = read_recipe("fashion-mnist")
    assert recipe.net is not None
    net: Any = recipe.net
    config = Config(
        SHAPE, net.resolve(SHAPE), recipe.path, recipe.target, UnitVariance(), Pixels(),
        classes=tuple(map(str, range(10))), sampling=recipe.sampler, data="random",
    )  # fmt: skip
    if jumps:
        config = replace(config, jumps=True, label_dropout=0.0, sampling=Sampling(method=Jumps(), steps=4))
    torch.manual_seed(0)
    weights = {k: 0.02 * torch.randn_like(v) for k, v in config.network().state_dict().items()}
    save_model(config, weights, folder)
    return config, sum(v.numel() for v in weights.values())


def theirs(folder: Path) -> int:
    """Save their pipeline with random weights; its network's parameters."""
    peer = PRESETS["small"].peer
    assert peer is not None
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(**(like(peer, FOLDED) | {"num_class_embeds": None, "sample_size": FOLDED[1]}))
    diffusers.DDIMPipeline(net, diffusers.DDIMScheduler()).save_pretrained(folder)
    return sum(p.numel() for p in net.parameters())


def our_way(who: str, folder: Path, config: Config, parameters: int, steps: int, out: Path) -> Way:
    """Ours in so many steps of its own sampler, guided as it is, from Python and from the command line."""
    own = config.sampling.changed(steps=steps)
    guided = own.guidance != 1
    name = f"{who}, {in_text(own.method)}, {some(steps, 'step')}{', guided' * guided}"
    calls = f"{own.rehearse(config.path, config.target)}{', each of two' * guided}"
    pipes = {"fp32": inkwash.load(folder), "bf16": inkwash.load(folder, precision="bf16")}
    warm = {kind: lambda pipe=pipe: pipe(1, label=0, steps=steps, seed=1)[0] for kind, pipe in pipes.items()}
    code = OURS.format(folder=str(folder), steps=steps, out=str(out))
    command = ["sample", str(folder), "-n", "1", "--label", "0", "--steps", str(steps), "--out", str(out)]
    cold = {"Python": [sys.executable, "-c", code], "CLI": [sys.executable, "-m", "inkwash", *command]}
    return Way(name, parameters, calls, warm, cold)


def their_way(folder: Path, parameters: int, out: Path) -> Way:
    """Theirs, from Python."""
    pipe = diffusers.DDIMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipe.set_progress_bar_config(disable=True)

    def draw() -> Any:
        return pipe(batch_size=1, num_inference_steps=DDIM_STEPS, output_type="np")

    def rounded() -> Any:  # loaded in bfloat16 it fails at its end, where NumPy knows no such type
        with torch.autocast("cpu", torch.bfloat16):
            return draw()

    warm: dict[str, Callable[[], Any]] = {"fp32": draw, "bf16": rounded}
    code = THEIRS.format(folder=str(folder), steps=DDIM_STEPS, out=str(out))
    return Way(
        f"diffusers' DDIM, {DDIM_STEPS} steps", parameters, str(DDIM_STEPS), warm,
        {"Python": [sys.executable, "-c", code]},
    )  # fmt: skip


def whole(command: list[str], out: Path, threads: int | None) -> float:
    """Seconds from a process's start to its end, which leaves a PNG."""
    out.unlink(missing_ok=True)
    limit = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env=os.environ | limit)
    took = time.perf_counter() - began
    if not out.is_file():
        raise RuntimeError(f"{command} left no picture.")
    return took


def main() -> None:
    """Time every way in turn, in every round from another one on, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of torch (default: its own choice)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found: dict[tuple[str, str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place), Path(place) / "picture.png"
        teacher, student = ours(folder / "teacher", jumps=False), ours(folder / "student", jumps=True)
        ways = [
            our_way("student", folder / "student", *student, 1, out),
            our_way("student", folder / "student", *student, 4, out),
            our_way("teacher", folder / "teacher", *teacher, teacher[0].sampling.steps, out),
            their_way(folder / "theirs", theirs(folder / "theirs"), out),
        ]
        for way in ways:
            for draw in way.warm.values():
                draw()
        for number in range(options.rounds):
            for i in range(len(ways)):
                way = ways[(number + i) % len(ways)]
                for kind, command in way.cold.items():
                    found.setdefault((way.name, "cold", kind), []).append(whole(command, out, options.threads))
                for kind, draw in way.warm.items():
                    for _ in range(DRAWS):
                        began = time.perf_counter()
                        draw()
                        found.setdefault((way.name, "warm", kind), []).append(time.perf_counter() - began)
    middle = {key: statistics.median(values) for key, values in found.items()}
    print(
        f"torch {torch.__version__}, diffusers {diffusers.__version__}, {torch.get_num_threads()} threads, "
        f"{options.rounds} rounds; in brackets how many times faster than DDIM (our cold CLI: than its cold Python)\n"
    )
    print("| | parameters | network calls | warm, fp32, ms | warm, bf16, ms | cold, Python, s | cold, CLI, s |")
    print("|---|---|---|---|---|---|---|")
    last = ways[-1].name
    for way in ways:
        cells = [way.name, f"{way.parameters / 1e6:.2f}M", way.calls]
        for how, kind in COLUMNS:
            took = middle.get((way.name, how, kind))
            other = middle.get((last, how, kind), middle[last, "cold", "Python"])
            ratio = "" if took is None or way.name == last else f" ({other / took:.1f})"
            cells.append("" if took is None else f"{(1e3 if how == 'warm' else 1) * took:.3g}{ratio}")
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
