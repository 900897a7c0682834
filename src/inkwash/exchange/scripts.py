"""What lies beside an exported diffusers model: `draw.py`, a sampling loop in diffusers' own classes, and a README."""

from __future__ import annotations

from collections.abc import Sequence

from inkwash._version import __version__
from inkwash.exchange.comparing import default_steps
from inkwash.exchange.schedules import FLOW
from inkwash.exchange.theirs import ROOMS, Theirs
from inkwash.guidance import Cfg
from inkwash.modelfolder import Config

_DRAW = '''\
import sys
from pathlib import Path

import torch
from diffusers import {classes}

here = Path(__file__).parent
{parts}


@torch.no_grad()
def draw(x, label=None, steps={steps}):
    """Normals x [n, {shape}] to {what}, without fresh noise on the way.{labels}"""
    {prepare}
    for t in scheduler.timesteps:
        {predict}
        x = scheduler.step(y, t, x{options}).prev_sample
    return x


def decode(x):
    """What `draw` gives to 8-bit pictures [n, H, W, C]."""{decode}
    return ((x + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    from PIL import Image

    n, seed = map(int, sys.argv[1:3] + ["4", "0"][len(sys.argv) - 1 :])
    x = torch.randn(n, {shape}, generator=torch.Generator().manual_seed(seed))
    for i, picture in enumerate(decode(draw(x{chosen}))):
        Image.fromarray(picture.squeeze()).save(f"{{i}}.png")
'''

_DECODE = """
    with torch.no_grad():
        x = vae.decode(x / vae.config.scaling_factor + (vae.config.shift_factor or 0)).sample"""


def draw_py(config: Config, theirs: Theirs, scheduler: str, vae: str | None) -> str:
    """The program that draws with a folder's network and scheduler. vae: the class of its autoencoder, or None."""
    flow, own, null = scheduler == FLOW, config.sampling, theirs.null
    loaded = {"net": (theirs.kind, ROOMS[theirs.kind]), "scheduler": (FLOW if flow else "DDIMScheduler", "scheduler")}
    if vae is not None:
        loaded["vae"] = (vae, "vae")
    prepare = [f"scheduler.set_timesteps({'sigmas=[1 - i / steps for i in range(steps)]' if flow else 'steps'})"]
    mean = "[:, : x.shape[1]]" if config.learned_variance else ""  # the other half says how wide the posterior is
    predict = [f"y = net(x, t.expand(len(x)){'' if null is None else ', label'}).sample{mean}"]
    if null is not None:
        prepare = [
            f"anything = torch.full((len(x),), {null})",
            "label = anything if label is None else label",
            *prepare,
        ]
        if own.guidance != 1:
            predict = [
                *predict,
                f"y0 = net(x, t.expand(len(x)), anything).sample{mean}",
                f"y = y0 + {own.guidance!r} * (y - y0)",
            ]
    return _DRAW.format(
        classes=", ".join(sorted({kind for kind, _ in loaded.values()})),
        parts="\n".join(f'{name} = {kind}.from_pretrained(here / "{room}")' for name, (kind, room) in loaded.items()),
        steps=default_steps(config, 50),
        shape=", ".join(map(str, config.shape)),
        what="data in about [-1, 1]" if vae is None else "latents",
        labels=f" label: classes [n], {null} is any." if config.classes else "",
        prepare="\n    ".join(prepare),
        predict="\n        ".join(predict),
        options=", use_clipped_model_output=True" if own.clip and not flow else "",
        decode="" if vae is None else _DECODE,
        chosen=f", torch.arange(n) % {len(config.classes)}" if config.classes else "",
    )


def readme(config: Config, theirs: Theirs, scheduler: str, ready: str | None, compared: Sequence[str]) -> str:
    """The folder's README: what is in it, how to load it, and what was checked."""
    own, trained = config.sampling, config.trained
    lines = [
        f"# A diffusion model for diffusers, made with inkwash {__version__}",
        "",
        f"- Data: {config.data or 'not stated'}; pictures of {' x '.join(map(str, config.pictures))}.",
        f"- Classes: {', '.join(config.classes) if config.classes else 'none'}.",
        f"- Trained for {trained.get('steps', 0):,.0f} steps on {trained.get('images', 0):,.0f} pictures.",
        f"- {theirs.kind} in {ROOMS[theirs.kind]}/, {scheduler} in scheduler/.",
        "",
    ]
    if ready is None:
        why = "diffusers has no ready pipeline for this model: its classes are used by hand, as in draw.py."
        lines += [why, "", "```sh", "python draw.py 4 0  # four pictures of seed 0", "```", ""]
    else:
        steps = default_steps(config, 10**9 if ready == "DDPMPipeline" else 50)
        call = [f"num_inference_steps={steps}"]
        if ready == "DiTPipeline":
            call = ["class_labels=[0]", f"guidance_scale={own.guidance!r}", *call]
        elif own.clip and ready == "DDIMPipeline":
            call.append("use_clipped_model_output=True")
        lines += [
            "```python",
            f"from diffusers import {ready}",
            "",
            f'pipe = {ready}.from_pretrained("path/to/this/folder")',
            f"pipe({', '.join(call)}).images[0]",
            "```",
            "",
            f"Or `python draw.py 4 0` for four pictures of seed 0, by DDIM. The number of steps should divide "
            f"{default_steps(config, 10**9)}.",
            "",
        ]
    if own.guidance != 1 and (own.interval or own.rule != Cfg()):
        lines += ["Guidance there is plain, at all times: the model's own rule and interval have no place in it.", ""]
    lines += ["Checked when this was written, against inkwash from the same noise:", "", *(f"- {c}" for c in compared)]
    return "\n".join(lines) + "\n"
