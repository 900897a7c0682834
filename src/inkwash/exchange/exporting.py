"""A model as a folder that plain diffusers loads, published only if it draws the same pictures there."""

from __future__ import annotations

import json
import runpy
from pathlib import Path as File
from typing import Any

import torch
from torch import Tensor

from inkwash.codec import LatentCodec
from inkwash.codecfolder import to_diffusers as codec_to_diffusers
from inkwash.exchange.comparing import (
    TOLERANCE,
    Compared,
    calm,
    compared,
    default_steps,
    drawn,
    even_times,
    starting_noise,
)
from inkwash.exchange.graphs import Decoding
from inkwash.exchange.schedules import to_scheduler
from inkwash.exchange.scripts import draw_py, readme
from inkwash.exchange.staging import needs, refuse_others, staged
from inkwash.exchange.theirs import NAMES, ROOMS, Theirs, pipeline_of, to_theirs
from inkwash.modelfolder import Config
from inkwash.pipeline import Pipeline, load


def to_diffusers(run: str | File, folder: str | File, *, trust: bool = False) -> list[Compared]:
    """Write a model as a folder of diffusers', and say how little its pictures there differ from those here.

    A `ClassicUNet` becomes a UNet2DModel in unet/, a `DiT` a DiTTransformer2DModel in transformer/, the codec of
    latents an autoencoder in vae/, and the path with its target a scheduler in scheduler/. Where there is a ready
    pipeline (DDPMPipeline, DDIMPipeline, DiTPipeline), model_index.json names it; draw.py has the loop in any case.
    Before the folder is published, both are run from it, and compared with our DDIM from the same noise.
    Needs the extra `inkwash[hf]`. trust: as in `load`. Raises ValueError, and writes nothing, where diffusers has no
    such network, path or target, or draws something else, and for a folder that holds anything but an earlier export.
    """
    needs("hf", "diffusers")
    refuse_others(folder)
    pipe = load(run, device="cpu", trust=trust)
    config = pipe.config
    theirs = to_theirs(config, pipe.model.net.state_dict())
    scheduler, settings = to_scheduler(config, random=theirs.kind == "UNet2DModel")  # DiTPipeline takes no DDPM
    ready = pipeline_of(config, theirs, scheduler)
    with staged(folder) as place, calm():
        vae = _write(place, pipe, theirs, scheduler, settings, ready)
        (place / "draw.py").write_text(draw_py(config, theirs, scheduler, vae), encoding="utf-8")
        found = [_compared_loop(place, pipe, theirs)]
        if ready == "DiTPipeline" or (ready is not None and not config.learned_variance):  # their DDIM knows no such
            found.append(_compared_pipeline(place, pipe, ready))
        if config.classes and ready is None:
            (place / NAMES).write_text(json.dumps(_numbered(config), ensure_ascii=False) + "\n", encoding="utf-8")
        text = readme(config, theirs, scheduler, ready, [str(line) for line in found])
        (place / "README.md").write_text(text, encoding="utf-8")
    return found


def _write(
    place: File, pipe: Pipeline, theirs: Theirs, scheduler: str, settings: dict[str, Any], ready: str | None
) -> str | None:
    """What diffusers itself can write, written by it. Returns the class of the autoencoder, where there is one."""
    import diffusers

    def built(kind: str, settings: dict[str, Any], weights: dict[str, Tensor]) -> Any:
        net = getattr(diffusers, kind)(**settings)
        net.load_state_dict(weights)
        return net.eval()

    parts = {ROOMS[theirs.kind]: built(*theirs[:3]), "scheduler": getattr(diffusers, scheduler)(**settings)}
    vae = None
    if isinstance(pipe.codec, LatentCodec):
        table, weights = codec_to_diffusers(pipe.codec)
        vae = str(table.pop("_class_name"))
        parts["vae"] = built(vae, table, weights)
    if ready is None:
        for name, part in parts.items():
            part.save_pretrained(place / name)
        return vae
    whole = getattr(diffusers, ready)(**parts)
    if ready == "DiTPipeline":
        whole.register_to_config(id2label=_numbered(pipe.config))
    whole.save_pretrained(place)
    return vae


def _numbered(config: Config) -> dict[str, str]:
    return {str(i): name for i, name in enumerate(config.classes)}


def _compared_loop(place: File, pipe: Pipeline, theirs: Theirs) -> Compared:
    """draw.py against our sampler, before decoding."""
    config, own, steps = pipe.config, pipe.config.sampling, default_steps(pipe.config)
    x = starting_noise(config.shape)
    label = torch.tensor([len(config.classes) - 1, -1]) if config.classes else None
    told = None if label is None else label.where(label >= 0, theirs.null or 0)
    draw = runpy.run_path(str(place / "draw.py"), run_name="draw")["draw"]
    here = drawn(pipe.model, x, even_times(steps), label, clip=own.clip, guidance=own.guidance)
    what = "latents" if isinstance(pipe.codec, LatentCodec) else "values in [-1, 1]"
    return compared(f"draw.py with diffusers' classes, {steps} steps, {what}", here, draw(x, told, steps), TOLERANCE)


def _compared_pipeline(place: File, pipe: Pipeline, ready: str) -> Compared:
    """Their pipeline against our sampler, in pictures. Their DDPM draws noise as it goes: it is run as their DDIM."""
    import diffusers
    from diffusers.utils import logging

    config, own, steps = pipe.config, pipe.config.sampling, default_steps(pipe.config)
    kind = "DDIMPipeline" if ready == "DDPMPipeline" else ready
    bars: Any = logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        whole = getattr(diffusers, kind).from_pretrained(place)
    finally:
        if shown:
            bars.enable_progress_bar()
    whole.set_progress_bar_config(disable=True)
    label = torch.arange(2) % len(config.classes) if config.classes else None
    if ready == "DiTPipeline":
        numbers = [0, 0] if label is None else label.tolist()
        options: dict[str, Any] = {"class_labels": numbers, "guidance_scale": own.guidance}
    else:
        options = {"batch_size": 2, "use_clipped_model_output": own.clip}
    generator = torch.Generator().manual_seed(0)
    there = whole(**options, generator=generator, num_inference_steps=steps, output_type="np").images
    x = starting_noise(config.shape)
    x = drawn(pipe.model, x, even_times(steps), label, clip=own.clip, guidance=own.guidance)
    if isinstance(pipe.codec, LatentCodec):
        with torch.no_grad():
            x = Decoding(pipe.codec)(x)[0]
    here = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return compared(f"{kind}, {steps} steps, pictures in [0, 1]", here, torch.from_numpy(there), TOLERANCE)
