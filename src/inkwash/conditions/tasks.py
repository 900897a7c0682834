"""What a picture shown to a model is: a function of the picture it is to make, in two halves.

The first works on pictures as they are stored, 8-bit, so that the result goes through the same codec as what is
diffused: in pixels or in latents. The second works on what the codec made of it, x: noise, and what is hidden (NaN).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from inkwash.types import Component, Noise

Bytes = npt.NDArray[np.uint8]


class Own(NamedTuple):
    """A user's own picture, as a model is to be shown it: pixels [H, W, C] uint8; hidden [H, W] bool, or None."""

    pixels: Bytes
    hidden: npt.NDArray[np.bool_] | None = None


class Task(Protocol):
    """See `inkwash.conditions.tasks`."""

    @property
    def paired(self) -> bool:
        """Whether what is shown is the data set's own (`Dataset.shown`), and not made of its pictures."""
        ...

    @property
    def itself(self) -> bool:
        """Whether `show` gives the pictures themselves: what is diffused need not be encoded again to be shown."""
        ...

    def check(self, shape: tuple[int, ...]) -> None:
        """ValueError where data of this shape, (C, H, W), cannot be shown so."""
        ...

    def show(self, pictures: Any) -> Any:
        """What is shown of pictures uint8 [B, H, W, C], the same shape: an array of an array, a tensor of a tensor."""
        ...

    def seen(self, x: Tensor, noise: Noise, hidden: Tensor | None = None) -> Tensor:
        """What the network sees of what is shown, once encoded: x [B, c, h, w], with noise, or NaN where it is hidden.

        A function of x and the sample indices in `noise` alone: their numbers in the run, or in sampling. hidden:
        [B, H, W] bool, what a user hides, in pixels; None: as training draws it.
        """
        ...

    def own(self, picture: Bytes, shape: tuple[int, ...]) -> Own:
        """A user's picture uint8 [h, w, c] of any size, brought to what is shown of data of a shape (C, H, W)."""
        ...


class Plain(Component):
    """Base of tasks whose picture is seen as it is, all of it."""

    paired: ClassVar[bool] = False
    itself: ClassVar[bool] = False

    def seen(self, x: Tensor, noise: Noise, hidden: Tensor | None = None) -> Tensor:
        """x itself. Raises ValueError where something is to be hidden."""
        if hidden is not None:
            raise ValueError("Only a model that learned to fill in (task masked) takes a picture with a part hidden.")
        return x


@dataclass(frozen=True)
class Paired(Plain):
    """The partner of each picture, from `data.pairs`: translation from one kind of picture to another."""

    kind: Literal["paired"] = field(default="paired", kw_only=True, repr=False)

    paired: ClassVar[bool] = True

    def check(self, shape: tuple[int, ...]) -> None:
        """Every shape will do."""

    def show(self, pictures: Any) -> Any:
        """The partners themselves: give those."""
        return pictures

    def own(self, picture: Bytes, shape: tuple[int, ...]) -> Own:
        """The picture, brought to the data's shape."""
        return Own(framed(picture, shape))


def framed(picture: Bytes, shape: tuple[int, ...], *, by_area: bool = False) -> Bytes:
    """A picture uint8 [h, w, c] as data of a shape (C, H, W): scaled to fill it, what is left over cut off evenly.

    Scaled as pictures of a data set are, or, by_area, so that each pixel is the mean over the area it covers.
    One, two, three or four channels are grey, grey and alpha, RGB, RGBA; what is transparent is laid on white where
    the data have no alpha.
    """
    from PIL import Image

    from inkwash.data.decode import Framing, framed_image

    check_bytes(picture)
    image = Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[2] == 1 else picture))
    c, h, w = shape
    return framed_image(image, Framing(h, w, c, "crop", (255, 255, 255), 1 << 62), by_area=by_area)


def check_bytes(picture: Bytes) -> None:
    """ValueError where this is not one picture of bytes."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] > 4 or 0 in picture.shape:
        raise ValueError(
            f"A picture to be shown is uint8 [height, width, 1 to 4 channels], not {picture.dtype} of shape "
            f"{list(picture.shape)}."
        )


def tensors(pictures: Any) -> Tensor:
    """Pictures uint8 [B, H, W, C], array or tensor, as a tensor of int32; ValueError for others."""
    u = torch.from_numpy(np.array(pictures)) if isinstance(pictures, np.ndarray) else pictures
    if u.dtype != torch.uint8 or u.ndim != 4:
        kind = str(u.dtype).removeprefix("torch.")
        raise ValueError(f"Only 8-bit pictures [B, H, W, C] can be shown so, not {kind} of shape {list(u.shape)}.")
    return u.to(torch.int32)


def like(u: Tensor, pictures: Any) -> Any:
    """Values 0 to 255 as bytes, in the form of `pictures`."""
    made = u.to(torch.uint8)
    return made.numpy() if isinstance(pictures, np.ndarray) else made
