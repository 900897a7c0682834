"""What lies beside an exported graph: `draw.py`, a sampling loop that needs no inkwash, and the `model.json` it reads.

The loop is DDIM without noise, the simplest sampler there is. Any other can be written around the same graph: alpha and
sigma of the whole path are in `model.json` too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from inkwash._version import __version__
from inkwash.grids import Listed
from inkwash.kinds import to_table
from inkwash.modelfolder import Config
from inkwash.paths import Table
from inkwash.samplers import Ddim
from inkwash.types import Path

Format = Literal["onnx", "torch-export"]
"""The formats a graph can be in."""

ENTRIES = 1000
"""Of a path in continuous time, alpha and sigma are listed at i/ENTRIES."""


def about(config: Config) -> dict[str, Any]:
    """What the loop needs to know of a model, and a reader wants to: `model.json`.

    steps: the times the loop visits, with alpha and sigma there, as many as the model's own sampler asks its network;
    path: alpha and sigma at all entries of a table, or at i/1000.
    """
    own = config.sampling
    calls = own.rehearse(config.path, config.target, learned_variance=config.learned_variance)
    kept = isinstance(own.grid, Listed) or own.path is not None
    ddim = replace(own, method=Ddim(), path=None, steps=own.steps if kept else calls)
    entries = config.path.steps if isinstance(config.path, Table) else ENTRIES
    return {
        "format": 1,
        "inkwash": __version__,
        "shape": list(config.shape),
        "classes": list(config.classes),
        "data": config.data,
        "trained": config.trained,
        "codec": _codec(config),
        "guidance": own.guidance,
        "clip": own.clip,
        "steps": _listed(config.path, ddim.times(config.path).flatten()),
        "formula": to_table(config.path),
        "target": to_table(config.target),
        "path": _listed(config.path, torch.arange(entries + 1, dtype=torch.float64) / entries),
    }


def draw_py(config: Config, format: Format) -> str:
    """The program that draws with a graph of this format, in numpy."""
    run, module = {"onnx": (_ONNX, "onnxruntime"), "torch-export": (_TORCH, "torch")}[format]
    start = f"import json\nimport sys\n\nimport numpy as np\nimport {module}\n"
    load = _ABOUT + run.format(name="denoiser", inputs="x, t, label")
    if len(config.shape) == 1:
        return start + load + _LOOP + _SAVE_VECTORS
    ends = {"latents": _LATENTS + run.format(name="decoder", inputs="x"), "scaled": _SCALED}
    return start + load + _LOOP + ends.get(config.codec.kind, _PIXELS) + _SAVE


def readme(config: Config, format: Format, compared: list[str]) -> str:
    """The folder's README."""
    ending, package = {"onnx": ("onnx", "onnxruntime"), "torch-export": ("pt2", "torch")}[format]
    label = f", `label` [n] int64 (0 to {len(config.classes) - 1}, or -1 for any)" if config.classes else ""
    shape = ", ".join(map(str, ("n", *config.shape)))
    inputs = f"`x` [{shape}] float32, `t` [n] float64 in [0, 1], 0 data and 1 noise{label}"
    lines = [
        f"# A diffusion model as a graph ({format}), made with inkwash {__version__}",
        "",
        f"`denoiser.{ending}` takes {inputs}, and gives `x0` and `eps`, its estimates of the data and of the noise in",
        "x = alpha(t)·x0 + sigma(t)·eps. `model.json` has alpha and sigma, the classes and the settings.",
        "",
        f"`python draw.py 4 0` draws four samples of seed 0 with numpy, pillow and {package}, without inkwash.",
        "",
        "Checked when this was written:",
        "",
        *(f"- {line}" for line in compared),
    ]
    return "\n".join(lines) + "\n"


def _listed(path: Path, times: torch.Tensor) -> list[dict[str, float]]:
    c = path(times)
    rows = zip(times.tolist(), c.alpha.tolist(), c.sigma.tolist(), strict=True)
    return [{"t": t, "alpha": alpha, "sigma": sigma} for t, alpha, sigma in rows]


def _codec(config: Config) -> dict[str, Any]:
    table: dict[str, Any] = to_table(config.codec)
    return table


_ABOUT = """
with open("model.json", encoding="utf-8") as file:
    about = json.load(file)
"""

_ONNX = """
{name} = onnxruntime.InferenceSession("{name}.onnx")


def run_{name}(*inputs):
    return {name}.run(None, dict(zip([i.name for i in {name}.get_inputs()], inputs)))
"""

_TORCH = """
{name} = torch.export.load("{name}.pt2").module()


def run_{name}(*inputs):
    return [y.numpy() for y in {name}(*map(torch.from_numpy, inputs))]
"""

_LOOP = """

def draw(noise, *label):
    \"\"\"DDIM: normals [n, ...], and classes [n] of a model with classes (-1 is any), to data in about [-1, 1].\"\"\"
    x = (about["steps"][0]["sigma"] * noise).astype(np.float32)
    for now, then in zip(about["steps"], about["steps"][1:]):
        t = np.full(len(x), now["t"])
        x0, eps = run_denoiser(x, t, *label)[:2]
        if about["guidance"] != 1:
            any_x0, any_eps = run_denoiser(x, t, np.full_like(label[0], -1))[:2]
            x0 = any_x0 + about["guidance"] * (x0 - any_x0)
            eps = any_eps + about["guidance"] * (eps - any_eps)
        if about["clip"]:
            eps = eps + now["alpha"] / now["sigma"] * (x0 - x0.clip(-1, 1))
            x0 = x0.clip(-1, 1)
        x = then["alpha"] * x0 + then["sigma"] * eps
    return x
"""

_PIXELS = """

def decode(x):
    \"\"\"Data to 8-bit pictures [n, H, W, C].\"\"\"
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
"""

_SCALED = """

def decode(x):
    \"\"\"Data to 8-bit pictures [n, H, W, C]; in the data's own units they go from codec.low to codec.high.\"\"\"
    return ((x + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
"""

_LATENTS = """

def decode(x):
    \"\"\"Latents to 8-bit pictures [n, H, W, C], one at a time.\"\"\"
    pixels = np.concatenate([run_decoder(x[i : i + 1])[0] for i in range(len(x))])
    return ((pixels + 1) * 127.5).round().clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)

"""

_MAIN = """

if __name__ == "__main__":
    n, seed = map(int, sys.argv[1:3] + ["4", "0"][len(sys.argv) - 1 :])
    noise = np.random.default_rng(seed).standard_normal((n, *about["shape"]))
    label = [np.arange(n) % len(about["classes"])] if about["classes"] else []
"""

_SAVE = (
    _MAIN
    + """    from PIL import Image

    for i, picture in enumerate(decode(draw(noise, *label))):
        Image.fromarray(picture.squeeze()).save(f"{i}.png")
"""
)

_SAVE_VECTORS = (
    _MAIN
    + """    mean, std = (np.array(about["codec"][name]) for name in ("mean", "std"))
    np.save("vectors.npy", draw(noise, *label) * std + mean)
"""
)
