"""Pictures for a model to edit: read at its size, drawn between two others, and shown beside what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash import pictures
from inkwash.asking.opened import MAX_PIXELS, of_data, opened, painted
from inkwash.codec import LatentCodec, Pixels, Scaled, codec_for
from inkwash.conditions.tasks import framed
from inkwash.edit import Decode, check_deterministic, slerp
from inkwash.modelfolder import Config
from inkwash.noise import Philox, Stream

if TYPE_CHECKING:
    from PIL.Image import Image

    from inkwash.pipeline import Pipeline
    from inkwash.samples import Samples


def read_picture(source: str, config: Config, *, shrink: int = 1, split: Literal["train", "test"] = "train") -> Tensor:
    """A picture of the kind the model draws, [1, C, H, W] in [-1, 1]: the middle of it, brought to the model's size.

    source: a picture file, or SOURCE:INDEX, a picture of a data set ("fashion-mnist:7"). shrink: H and W are this many
    times smaller than the model's. Raises ValueError where there is no such picture, or it does not fit the model.
    """
    if len(config.shape) != 3:
        raise ValueError(f"This model draws vectors of {config.shape[0]} numbers; editing is for models of pictures.")
    channels, height, width = config.pictures
    if height % shrink or width % shrink:
        raise ValueError(
            f"This model's pictures, {height}x{width}, cannot be {shrink} times smaller: not a whole size."
        )
    height, width = height // shrink, width // shrink
    if (found := of_data(source, split)) is not None:
        from inkwash.data.decode import Framing, fit

        data, number = found
        frame = Framing(height, width, channels, "crop", (255, 255, 255), MAX_PIXELS)
        codec = codec_for(data.images[:1]) if data.images.dtype == "uint8" else _scale(config, data.images)
        return codec.encode(torch.from_numpy(np.array(fit(data.images[number], frame))[None]))
    if File(source).expanduser().is_dir():
        raise ValueError(f"{source} is a folder. Give a picture file, or a picture of a data set: fashion-mnist:7.")
    if channels not in (1, 3, 4):
        raise ValueError(f"This model's pictures have {channels} channels, which no picture file has.")
    picture, many = opened(source, "picture")
    if many:
        raise ValueError(f"{source} holds several pictures. Name one of them: {source}:0.")
    return Pixels().encode(torch.from_numpy(np.array(framed(picture[0], (channels, height, width)))[None]))


def read_mask(file: File, config: Config) -> Tensor:
    """What of a picture is known, [1, 1, H, W] in [0, 1]: 0 where the mask is white, 1 where it is black.

    It is brought to the model's size as the picture is. Raises ValueError for a file that is no picture, a folder, or a
    mask without any white.
    """
    _, height, width = config.pictures
    masks = painted(file, height, width)
    if len(masks) > 1:
        raise ValueError(f"{file} holds {len(masks)} masks, and one picture is edited. Give one.")
    return 1 - torch.from_numpy(masks)[:, None].float() / 255


def encoded(pipe: Pipeline, x0: Tensor) -> Tensor:
    """Pictures [n, C, H, W] in [-1, 1] as the model diffuses them: themselves, or their latents [n, c, h, w]."""
    return pipe.codec.encode(Pixels().decode(x0).to(pipe.device)) if isinstance(pipe.codec, LatentCodec) else x0


def as_kept(pipe: Pipeline, known: Tensor) -> tuple[Tensor, Tensor]:
    """What is known of pictures, [n, 1, H, W] in [0, 1], as the model can keep it; and what that is in pixels.

    A latent stands for a square of pixels, and is kept as far as the least known of them: with one pixel to be drawn
    anew, all of its square is.
    """
    if not isinstance(pipe.codec, LatentCodec):
        return known, known
    factor = pipe.codec.config.autoencoder.factor
    kept = -F.max_pool2d(-known, factor)
    return kept, kept.repeat_interleave(factor, 2).repeat_interleave(factor, 3)


def between(
    pipe: Pipeline,
    ends: tuple[Tensor, Tensor],
    n: int,
    *,
    label: str | int = -1,
    told: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Samples:
    """n pictures along the arc between two latents, each [C, H, W] where sampling begins (`slerp`), with both ends.

    told: prompt, vector, image ..., as in a pipeline's call; settings: sampler, steps, guidance, grid, path and watch,
    likewise. Raises ValueError for n < 2 and for a sampler that draws noise.
    """
    if n < 2:
        raise ValueError(f"n = {n} pictures cannot include both ends: ask for 2 or more.")
    own = pipe.settings(**{k: v for k, v in settings.items() if k != "watch"})
    check_deterministic(own.method, own.path or pipe.model.path, own.times(pipe.model.path))
    latents = slerp(*ends, torch.linspace(0, 1, n, dtype=torch.float64))
    kind = label if pipe.config.classes else None
    return pipe(n, label=kind, **(told or {}), edit=Decode(latents), **settings)


def seed_latent(pipe: Pipeline, seed: int, **settings: Any) -> Tensor:
    """The latent [C, H, W] from which a pipeline draws the first picture of a seed; settings: as in `between`."""
    like = torch.empty(1, *pipe.config.shape, device=pipe.device)
    own = pipe.settings(**settings)
    sigma = float((own.path or pipe.model.path)(own.times(pipe.model.path)[0]).sigma)
    return Philox(seed, torch.zeros(1, dtype=torch.int64))(like, 0, Stream.START)[0] * sigma


def beside(shown: Sequence[tuple[str, Tensor]], samples: Samples, captions: Sequence[str], title: str = "") -> Image:
    """What was given, each [1, C, h, w] in [-1, 1] with its caption, and what became of it, on one sheet.

    Smaller pictures, such as measurements, are shown at the samples' size, in squares.
    """
    results = samples.pictures()
    height, width = results.shape[1:3]
    given = []
    for _, x in shown:
        u = Pixels().decode(x).numpy()
        u = u.repeat(height // u.shape[1], 1).repeat(width // u.shape[2], 2)
        given.append(u if u.shape[3] == results.shape[3] else u[..., :1].repeat(results.shape[3], 3))
    return _page(np.concatenate([*given, results]), [*(caption for caption, _ in shown), *captions], title)


def _page(images: np.ndarray, captions: Sequence[str], title: str) -> Image:
    return pictures.strip(images, captions, scale=max(1, round(96 / max(images.shape[1:3]))), title=title or None)


def _scale(config: Config, images: np.ndarray) -> Scaled:
    """What brings floats to [-1, 1]: the model's own scale, where it has one."""
    codec = config.codec if isinstance(config.codec, Scaled) else codec_for(images)
    assert isinstance(codec, Scaled)
    return codec
