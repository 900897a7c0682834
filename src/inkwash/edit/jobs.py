"""The edits a pipeline can be asked for: `pipe(4, edit=Vary(x0, 0.6))`.

An edit says where sampling starts and what is changed about the grid, the sampler and the denoiser. One of your own
derives from `Edit`. Tensors of pictures are in the model's own range, [1, ...] for all samples or one for each.
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass
from typing import Any

import torch
from torch import Tensor

from inkwash.edit.latents import noised
from inkwash.edit.posterior import Measure, Posterior
from inkwash.edit.replacement import Inpainted, Resampled, repaint
from inkwash.kinds import to_table
from inkwash.types import Denoiser, Path, Sampler


class Edit:
    """Ordinary sampling. `rows` [n] are the numbers of the samples in a batch."""

    @property
    def time(self) -> float:
        """The time in (0, 1] at which sampling starts."""
        return 1.0

    def times(self, times: Tensor) -> Tensor:
        """The grid [N+1, 1], given the plain one from `time` to 0."""
        return times

    def start(self, path: Path, t: Tensor, eps: Tensor, rows: Tensor) -> Tensor:
        """x [n, ...] at t [n], given standard normals eps."""
        return noised(path, torch.zeros_like(eps), t, eps)

    def denoiser(self, denoiser: Denoiser, path: Path, rows: Tensor) -> Denoiser:
        """The denoiser to ask."""
        return denoiser

    def method(self, method: Sampler) -> Sampler:
        """The sampler to run."""
        return method

    def settings(self) -> dict[str, Any]:
        """What to note of the edit; tensors are left out."""
        return {}


@dataclass(frozen=True)
class Vary(Edit):
    """Image-to-image: x0 is noised to t = strength and sampled from there (Meng et al. 2022, SDEdit).

    strength in (0, 1]: little changes little; 1 is ordinary sampling, bit for bit, and sees nothing of x0.
    """

    x0: Tensor
    strength: float = 0.6

    def __post_init__(self) -> None:
        _check_time("strength", self.strength)

    @property
    def time(self) -> float:
        """The strength."""
        return self.strength

    def start(self, path: Path, t: Tensor, eps: Tensor, rows: Tensor) -> Tensor:
        """x0 with noise."""
        # A path may keep a trace of the data at t = 1, and sampling starts without it.
        return noised(path, _rows(self.x0, rows) if self.strength < 1 else torch.zeros_like(eps), t, eps)

    def settings(self) -> dict[str, Any]:
        """Strength."""
        return {"edit": "vary", "strength": self.strength}


@dataclass(frozen=True)
class Fill(Edit):
    """Inpainting: x0 is kept where mask is 1, and made up where it is 0: see `Inpainted`, `Resampled` and `repaint`.

    mask: broadcastable to x0, in [0, 1]; resamplings 1: plain replacement, more: RePaint's grid.
    """

    x0: Tensor
    mask: Tensor
    resamplings: int = 1
    jump: int = 1

    def __post_init__(self) -> None:
        if not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise ValueError("A mask must lie in [0, 1]: 1 where the picture is known, 0 where it is to be made up.")
        repaint(torch.zeros(2), self.jump, self.resamplings)  # its errors are told before anything is loaded or drawn

    def times(self, times: Tensor) -> Tensor:
        """RePaint's grid."""
        return repaint(times, self.jump, self.resamplings)

    def start(self, path: Path, t: Tensor, eps: Tensor, rows: Tensor) -> Tensor:
        """Noise, with whatever the path keeps of the known part."""
        return noised(path, _rows(self.mask * self.x0, rows), t, eps)

    def denoiser(self, denoiser: Denoiser, path: Path, rows: Tensor) -> Denoiser:
        """With the known part in place."""
        return Inpainted(denoiser, path, _rows(self.x0, rows), _rows(self.mask, rows))

    def method(self, method: Sampler) -> Sampler:
        """One that can go up."""
        return Resampled(method)

    def settings(self) -> dict[str, Any]:
        """RePaint's numbers."""
        return {"edit": "fill", "resamplings": self.resamplings, "jump": self.jump}


@dataclass(frozen=True)
class Restore(Edit):
    """Pictures of which `measure` would see y, but for noise of deviation noise_std: see `Posterior`.

    y: [1, ...] or one for each; data_std: the data's deviation in the model's range.
    """

    measure: Measure
    y: Tensor
    noise_std: float = 0.05
    data_std: float = 0.5
    iterations: int = 10

    def denoiser(self, denoiser: Denoiser, path: Path, rows: Tensor) -> Denoiser:
        """With the measurement taken into account."""
        return Posterior(
            denoiser, path, self.measure, _rows(self.y, rows), self.noise_std, self.data_std, self.iterations
        )

    def settings(self) -> dict[str, Any]:
        """The measurement, the deviations it was weighed with, and the iterations."""
        measure = to_table(self.measure) if is_dataclass(self.measure) else repr(self.measure)
        name = type(self.measure).__name__.lower()
        told = {"measure": name, **measure} if isinstance(measure, dict) else {"measure": measure}
        weighed = {"noise_std": self.noise_std, "data_std": self.data_std, "iterations": self.iterations}
        return {"edit": "restore", **told, **weighed}


@dataclass(frozen=True)
class Decode(Edit):
    """Sampling from given latents x at t = time, [1, ...] or one for each: what `invert` or `slerp` gave."""

    x: Tensor
    time: float = 1.0

    def __post_init__(self) -> None:
        _check_time("time", self.time)

    def start(self, path: Path, t: Tensor, eps: Tensor, rows: Tensor) -> Tensor:
        """The latents."""
        return _rows(self.x, rows).to(eps).expand_as(eps)

    def settings(self) -> dict[str, Any]:
        """Where the latents are from, in time."""
        return {"edit": "decode", "time": self.time}


def refuse_pictures(edit: Edit, seen: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Raise ValueError for an edit of pictures, of shape `seen`, where latents of another shape are diffused."""
    for name in ("x0", "x", "y"):
        x = getattr(edit, name, None)
        if isinstance(x, Tensor) and tuple(x.shape[1:]) == seen != shape:
            raise ValueError(
                f"{name} is a picture {list(seen)}, and this model diffuses latents {list(shape)}. Encode it first, "
                f"with inkwash.editing.encoded(pipe, {name})."
            )


def _check_time(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(
            f"{name} = {value} must lie in (0, 1]: near 0 the picture stays as it is, 1 is ordinary sampling. Try 0.6."
        )


def _rows(x: Tensor, rows: Tensor) -> Tensor:
    """What belongs to the samples of these numbers: x itself where there is one for all."""
    return x if len(x) == 1 else x[rows.to(x.device)]
