"""What lies beside an exported graph: `draw.py`, a sampling loop that needs no inkwash, and the `model.json` it reads.

The loop is DDIM without noise, the simplest sampler there is; that of a model drawn by jumps is its own, with noise on
the way where it has any. Any other can be written around the same graph: alpha and sigma of the whole path are in
`model.json` too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from inkwash._version import __version__
from inkwash.asking import hideable
from inkwash.grids import Listed
from inkwash.guidance import Cfg
from inkwash.kinds import to_table
from inkwash.modelfolder import Config
from inkwash.paths import Table, ratio
from inkwash.samplers import Jumps
from inkwash.samplers.jumps import back
from inkwash.sampling import Sampling
from inkwash.types import Path

Format = Literal["onnx", "torch-export"]
"""The formats a graph can be in."""

ENTRIES = 1000
"""Of a path in continuous time, alpha and sigma are listed at i/ENTRIES."""


def about(config: Config) -> dict[str, Any]:
    """What the loop needs to know of a model, and a reader wants to: `model.json`.

    times: how many the graph takes after x, two where it jumps from one to the other; told: what it takes after these,
    in order, with the shape for one picture; hidden: what of it can be left out, and guidance pushes away from by
    leaving it out. guidance: what is left to the loop of it; steps: the times that it visits, as many as the model's
    own sampler asks its network (`_steps`); normals: how many the loop needs for each number of a sample; path: alpha
    and sigma at all entries of a table, or at i/1000.
    """
    own = replace(config.sampling, guidance=config.conditions.pushed(config.sampling.guidance))
    calls = config.rehearse(own)
    kept = isinstance(own.grid, Listed) or own.path is not None
    steps = _steps(replace(own, path=None, steps=own.steps if kept else calls), config.path)
    entries = config.path.steps if isinstance(config.path, Table) else ENTRIES
    only_scale = ["vector"] if config.given.vector and not config.conditions.vector else []
    hidden = [*hideable(config), *only_scale]
    return {
        "format": 1,
        "inkwash": __version__,
        "shape": list(config.shape),
        "times": 1 + config.jumps,
        "told": {name: list(shape) for name, shape in told(config).items()},
        "hidden": [name for name in told(config) if _OF.get(name, name) in hidden],
        "classes": list(config.classes),
        "conditions": to_table(config.conditions),
        "data": config.data,
        "trained": config.trained,
        "codec": _codec(config),
        "guidance": own.guidance,
        "rule": to_table(own.rule),
        "clip": own.clip,
        "steps": steps,
        "normals": 1 + sum(step.get("fresh", 0) > 0 for step in steps),
        "formula": to_table(config.path),
        "target": to_table(config.target),
        "path": _listed(config.path, torch.arange(entries + 1, dtype=torch.float64) / entries),
    }


def told(config: Config) -> dict[str, tuple[int, ...]]:
    """The fields of a `Condition` that a model's graph takes, in order, with the shape of each for one picture.

    Those of a text are given for a text of one token; the graph takes any number of them.
    """
    given, shapes = config.given, dict[str, tuple[int, ...]]()
    if given.classes:
        shapes["label"] = ()
    if given.tokens:
        shapes |= {"tokens": (1, given.tokens), "present": (1,)}
    if given.vector:
        shapes["vector"] = (given.vector,)
    if given.image:
        shapes["image"] = (given.image, *config.shape[1:])
    return shapes


_OF = {"tokens": "text", "present": "text"}
"""The conditions that fields of another name belong to."""

_MEANS = {
    "label": "int64, a class from 0 on, -1 for any",
    "tokens": "float32, a text as its encoder tells it, of any length",
    "present": "bool, which of the tokens there are; without any, no text is asked for",
    "vector": "float32, numbers of mean 0 and deviation 1, NaN for one that is not asked for",
    "image": "float32, the picture to go by, encoded as x is, NaN where it is not known",
}


_SCALE = (
    "The last number of `vector` is the scale of guidance, less {0.mean:g} and divided by {0.std:.7g}; NaN is {1:g}."
)


def draw_py(config: Config, format: Format) -> str:
    """The program that draws with a graph of this format, in numpy."""
    run, module = {"onnx": (_ONNX, "onnxruntime"), "torch-export": (_TORCH, "torch")}[format]
    start = f"import json\nimport sys\n\nimport numpy as np\nimport {module}\n"
    load = _ABOUT + run.format(name="denoiser")
    if len(config.shape) == 1:
        return start + load + _LOOP + _SAVE_VECTORS
    ends = {"latents": _LATENTS + run.format(name="decoder"), "scaled": _SCALED}
    return start + load + _LOOP + ends.get(config.codec.kind, _PIXELS) + _SAVE


def readme(config: Config, format: Format, compared: list[str]) -> str:
    """The folder's README."""
    ending, package = {"onnx": ("onnx", "onnxruntime"), "torch-export": ("pt2", "torch")}[format]
    takes = {"x": (config.shape, "float32"), "t": ((), "float64 in [0, 1], 0 data and 1 noise")}
    until = "float64, where to jump to, at most t: s of the steps in model.json; at t itself it is an ordinary denoiser"
    takes |= {"s": ((), until)} if config.jumps else {}
    takes |= {name: (shape, _MEANS[name]) for name, shape in told(config).items()}
    of_any = {"tokens": ("tokens", config.given.tokens), "present": ("tokens",)}
    sizes = {name: ("n", *of_any.get(name, shape)) for name, (shape, _) in takes.items()}
    inputs = [f"- `{name}` [{', '.join(map(str, sizes[name]))}]: {what}" for name, (_, what) in takes.items()]
    needed = [name for name in told(config) if name not in about(config)["hidden"]]
    scale = config.conditions.guidance
    lines = [
        f"# A diffusion model as a graph ({format}), made with inkwash {__version__}",
        "",
        f"`denoiser.{ending}` takes, in this order,",
        "",
        *inputs,
        "",
        "and gives `x0` and `eps`, its estimates of the data and of the noise in x = alpha(t)·x0 + sigma(t)·eps.",
        "`model.json` has alpha and sigma, the classes and the settings.",
        "",
        f"`python draw.py 4 0` draws four samples of seed 0 with numpy, pillow and {package}, without inkwash;",
        "`python draw.py 4 0 asked.npz` those that the arrays in a file of numpy's ask for, by the names above.",
        *([f"It has always been given {', '.join(needed)}, and needs it."] if needed else []),
        *([] if scale is None else [_SCALE.format(scale, config.sampling.guidance)]),
        *(["Its loop has plain guidance, and none of the model's own rule."] if config.sampling.rule != Cfg() else []),
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


def _steps(own: Sampling, path: Path) -> list[dict[str, float]]:
    """The times that these settings visit, as `_listed`, with the scale of guidance, and of each step how it is made.

    s: where a network of two times is asked to jump to; the next x is alpha·x0 + kept·eps + fresh·noise, with the next
    alpha, and kept² + fresh² the next sigma².
    """
    times = own.times(path)
    s, kept, fresh = times[:-1], path(times[1:]).sigma, torch.zeros_like(times[1:])
    if isinstance(own.method, Jumps):
        s = own.method.ends(path, times)
        at, grow, fresh = back(path, times, s)
        kept = grow * at.sigma
    made = [dict(zip(("s", "kept", "fresh"), row, strict=True)) for row in torch.cat([s, kept, fresh], 1).tolist()]
    low, high = own.interval or (-1.0, float("inf"))
    scales = [own.guidance if low < level <= high else 1.0 for level in ratio(path(times)).flatten().tolist()]
    rows = zip(_listed(path, times.flatten()), scales, [*made, {}], strict=True)
    return [{**place, "guidance": scale, **step} for place, scale, step in rows]


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

UNKNOWN = {
    "label": np.int64(-1),
    "tokens": np.float32(0),
    "present": np.bool_(False),
    "vector": np.float32(np.nan),
    "image": np.float32(np.nan),
}


def draw(noise, *told, fresh=()):
    \"\"\"DDIM: normals [n, ...], and what the model is told, to data in about [-1, 1]; fresh: normals for later.\"\"\"
    fresh = iter(fresh)
    base = [np.full_like(v, UNKNOWN[k]) if k in about["hidden"] else v for k, v in zip(about["told"], told)]
    x = (about["steps"][0]["sigma"] * noise).astype(np.float32)
    for now, then in zip(about["steps"], about["steps"][1:]):
        when = [np.full(len(x), now[time]) for time in ("t", "s")[: about["times"]]]
        x0, eps = run_denoiser(x, *when, *told)[:2]
        if now["guidance"] != 1:
            any_x0, any_eps = run_denoiser(x, *when, *base)[:2]
            x0 = any_x0 + now["guidance"] * (x0 - any_x0)
            eps = any_eps + now["guidance"] * (eps - any_eps)
        if about["clip"]:
            eps = eps + now["alpha"] / now["sigma"] * (x0 - x0.clip(-1, 1))
            x0 = x0.clip(-1, 1)
        x = then["alpha"] * x0 + now["kept"] * eps
        if now["fresh"]:
            x += now["fresh"] * next(fresh)
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
    normals = np.random.default_rng(seed).standard_normal((n, about["normals"], *about["shape"]))
    noise, *fresh = normals.swapaxes(0, 1)
    asked = dict(np.load(sys.argv[3])) if len(sys.argv) > 3 else {}
    if unknown := [k for k in asked if k not in about["told"]]:
        sys.exit(f"This model is not told {', '.join(unknown)}, but {', '.join(about['told']) or 'nothing'}.")
    if wrong := [k for k, v in asked.items() if len(np.atleast_1d(v)) != n]:
        sys.exit(f"{', '.join(wrong)}: there must be one for each of {n} samples.")
    if about["classes"] and not asked:
        asked["label"] = np.arange(n) % len(about["classes"])
    if missing := [k for k in about["told"] if k not in about["hidden"] and k not in asked]:
        sys.exit(f"This model is always told {', '.join(missing)}: python draw.py {n} {seed} ASKED.npz")
    if ("tokens" in asked) != ("present" in asked):
        sys.exit("A text is both tokens and present.")
    told = [
        np.asarray(asked.get(k, np.full((n, *shape), UNKNOWN[k])), UNKNOWN[k].dtype)
        for k, shape in about["told"].items()
    ]
"""

_SAVE = (
    _MAIN
    + """    from PIL import Image

    for i, picture in enumerate(decode(draw(noise, *told, fresh=fresh))):
        Image.fromarray(picture.squeeze()).save(f"{i}.png")
"""
)

_SAVE_VECTORS = (
    _MAIN
    + """    mean, std = (np.array(about["codec"][name]) for name in ("mean", "std"))
    np.save("vectors.npy", draw(noise, *told, fresh=fresh) * std + mean)
"""
)
