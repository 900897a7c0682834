"""The contract between the parts: what each is given, what it answers, and in which shapes.

Time runs from t = 0 (data) to t = 1 (noise) everywhere. Times and path coefficients are float64 and live on the
host: they are a handful of numbers, decisions about them must not wait for an accelerator, and some accelerators
have no float64. `Coeffs.like` brings them to a picture's device and dtype where the arithmetic happens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from inkwash.model import Model


class Component:
    """Base of every frozen dataclass that is its own configuration: `Ddim(eta=0.5)`, `Linear()`, `UNet(...)`.

    Each ends with a keyword-only field `kind`, the name by which a recipe tells it from its siblings.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}  # a misspelt key in a recipe is an error


class Coeffs(NamedTuple):
    """A path's coefficients and their time derivatives at given times: x_t = alpha·x0 + sigma·eps.

    Four float64 tensors of one shape: [B] for a batch, [N+1, B] for a whole grid of times.
    """

    alpha: Tensor
    sigma: Tensor
    dalpha: Tensor
    dsigma: Tensor

    def at(self, i: int | slice) -> Coeffs:
        """The coefficients at step i (or a slice of steps) of a grid."""
        return Coeffs(*(c[i] for c in self))

    def like(self, x: Tensor) -> Coeffs:
        """The same numbers on x's device and in its dtype, with singleton axes so that they multiply x [B, ...]."""
        return Coeffs(*(like(c, x) for c in self))


def like(c: Tensor, x: Tensor) -> Tensor:
    """Cast c [..., B] to x's device and dtype as [..., B, 1, ..., 1], to be multiplied with x [B, ...]."""
    return carry(c, x.device, x.dtype).reshape(*c.shape, *(1,) * (x.ndim - 1))


def carry(c: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copy c to a device in a dtype, without waiting for the device where that is safe.

    CUDA has read c by the time the call returns; MPS may read it when it is freed already (pytorch issue 139550).
    """
    return c.to(device=device, dtype=dtype, non_blocking=device.type == "cuda")


Factor = Tensor | float
"""What multiplies x [B, ...]: a number for all rows, or a tensor [B, 1, ...] of x's dtype and device.

A number is cheaper. In float32 and float64 it is rounded as a tensor's entries are: the product has the same bits.
"""


class Path(Protocol):
    """How data and noise are mixed at each time. A frozen dataclass; see `inkwash.paths`."""

    def __call__(self, t: Tensor) -> Coeffs:
        """The coefficients at times t in [0, 1], of any shape; float64."""
        ...

    def time(self, ratio: Tensor) -> Tensor:
        """The inverse of sigma/alpha: the time at which the noise-to-signal ratio (0 to inf) is `ratio`."""
        ...

    def snap(self, t: Tensor) -> Tensor:
        """The times this path can be trained at, nearest above t: t itself, or the next entry of a table."""
        ...


Target = Callable[[Coeffs], tuple[Tensor, Tensor]]
"""What a network predicts, y = a·x0 + b·eps: coefficients in, (a, b) of the same shape out. See `inkwash.targets`."""


class Denoised(NamedTuple):
    """A denoiser's answer, each [B, ...]: its estimates of the clean data and of the noise in x.

    They always satisfy x = alpha·x0 + sigma·eps. `var_mix` is for learned variances: where between the small and
    the large posterior variance this element lies.
    """

    x0: Tensor
    eps: Tensor
    var_mix: Tensor | None = None


class Query(NamedTuple):
    """A sampler's question: "what do you see in x [B, ...] at times t [B]?".

    s [B] equals t except for a deterministic few-step jump, which asks for the mean velocity from t to s.
    Examples of one batch may be at different times.
    """

    x: Tensor
    t: Tensor
    s: Tensor


CONDITIONS = ("label", "text", "vector", "image")
"""What a model may be told besides x and t. Each is hidden, and asked for, apart from the others."""

_NULLS: dict[str, tuple[str, float]] = {
    "label": ("label", -1),
    "text": ("present", False),
    "vector": ("vector", math.nan),
    "image": ("image", math.nan),
}


@dataclass(frozen=True)
class Condition:
    """What the pictures should show, row by row. A field that is None is absent from the model altogether.

    label: [B] int64 class indices; -1 is the null label, which means "any class". tokens: [B, N, W], a text's tokens;
    present: [B, N] bool, which of them there are; a row without any is the null text. vector: [B, V] numbers, NaN where
    one is not known. image: [B, C', H, W] of x's height and width, NaN where it is not known. All that is not known is
    the null.
    """

    label: Tensor | None = None
    tokens: Tensor | None = None
    present: Tensor | None = None
    vector: Tensor | None = None
    image: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) != (self.present is None):
            raise ValueError("A condition has both tokens [B, N, W] and present [B, N], or neither.")

    def null(self, names: Collection[str] = CONDITIONS) -> Condition:
        """The same with every row of the conditions `names` replaced by its null: what guidance pushes away from.

        It is asked for at every step, and made where the condition is, with nothing copied there. Raises ValueError as
        `hide` does.
        """
        held = [(field, null, getattr(self, field)) for field, null in map(_null_of, names)]
        return replace(self, **{field: torch.full_like(v, null) for field, null, v in held if v is not None})

    def hide(self, masks: Mapping[str, Tensor]) -> Condition:
        """Replace in each named condition (`CONDITIONS`) the rows where its mask [B] (bool) is true by their null.

        Raises ValueError for a name that is no condition's.
        """
        hidden: dict[str, Tensor] = {}
        for name, mask in masks.items():
            field, null = _null_of(name)
            value = getattr(self, field)
            if value is not None:
                rows = mask.to(value.device).reshape(-1, *(1,) * (value.ndim - 1))
                hidden[field] = value.masked_fill(rows, null)
        return replace(self, **hidden)

    def map(self, f: Callable[[Tensor], Tensor]) -> Condition:
        """Apply f to every tensor present: to move the condition, or to pick rows of it."""
        return Condition(**{n: None if v is None else f(v) for n, v in self._items()})

    def cat(self, *others: Condition) -> Condition:
        """The rows of self followed by those of the others.

        Texts of different lengths are filled up with absent tokens. Raises ValueError where one has what another lacks.
        """
        rows = [self, *others]
        for other in others:
            for name, value in self._items():
                if (value is None) != (getattr(other, name) is None):
                    first, second = ("no", "a") if value is None else ("a", "no")
                    raise ValueError(
                        f"Conditions are joined that hold different things: one has {first} {name}, another {second} "
                        f"{name}. Give all of them the same, with the null in rows where it is not known."
                    )
        most = max((c.tokens.shape[1] for c in rows if c.tokens is not None), default=0)
        rows = [c._filled(most) for c in rows]
        return Condition(
            **{n: None if v is None else torch.cat([getattr(c, n) for c in rows]) for n, v in rows[0]._items()}
        )

    def _filled(self, tokens: int) -> Condition:
        """With so many tokens in every text."""
        if self.tokens is None or self.present is None or self.tokens.shape[1] == tokens:
            return self
        more = tokens - self.tokens.shape[1]
        filled = F.pad(self.tokens, (0, 0, 0, more)), F.pad(self.present, (0, more))
        return replace(self, tokens=filled[0], present=filled[1])

    def _items(self) -> list[tuple[str, Any]]:
        return [(f.name, getattr(self, f.name)) for f in fields(Condition)]


def _null_of(name: str) -> tuple[str, float]:
    """The field of a condition in which a row can be its null, and the null. ValueError for what is no condition."""
    if name not in _NULLS:
        raise ValueError(f"{name!r} is no condition: they are {', '.join(_NULLS)}.")
    return _NULLS[name]


@dataclass(frozen=True)
class Steered(Condition):
    """A condition with more of what guidance works with: what it pushes away from, and what else it pushes towards.

    base: instead of the condition's null, such as a negative prompt; others, weights [B, K]: K further conditions and
    how strongly each is followed; scale [B]: of every row's guidance, instead of one for all. A denoiser without
    guidance sees the condition alone. Only rows are taken of it (`map`); it is not joined to others.
    """

    base: Condition | None = None
    others: tuple[Condition, ...] = ()
    weights: Tensor | None = None
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.weights.ndim != 2:
            raise ValueError(
                f"weights of shape {list(self.weights.shape)} must be [B, K]: for every row one of each further "
                "condition."
            )
        given = 0 if self.weights is None else self.weights.shape[1]
        if given != len(self.others):
            raise ValueError(f"{len(self.others)} further conditions have {given} weights. Each needs one: [B, K].")

    def map(self, f: Callable[[Tensor], Tensor]) -> Steered:
        """Apply f to every tensor of every condition, to the weights and to the scale."""
        return Steered(
            **{n: None if v is None else f(v) for n, v in self._items()},
            base=None if self.base is None else self.base.map(f),
            others=tuple(c.map(f) for c in self.others),
            weights=None if self.weights is None else f(self.weights),
            scale=None if self.scale is None else f(self.scale),
        )


class Denoiser(Protocol):
    """Answers a sampler's queries: a `Model`, or a wrapper around one (guidance, clipping, chunking)."""

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """Estimate data and noise in query.x."""
        ...


class Noise(Protocol):
    """Randomness as a pure function of (seed, sample index, step, stream): see `inkwash.noise.Philox`.

    stream says what the numbers are for (an `inkwash.noise.Stream`): no two uses share any.
    """

    def __call__(self, like: Tensor, step: int, stream: int) -> Tensor:
        """Standard normals of like's shape [B, ...], device and dtype; row i depends on sample index i alone."""
        ...

    def uniform(self, step: int, stream: int) -> Tensor:
        """One uniform number in (0, 1) per sample: [B], float64, on the host."""
        ...

    def at(self, index: Tensor) -> Noise:
        """The same seed for other sample indices [B]."""
        ...


class Sampler(Protocol):
    """A frozen dataclass whose call is a coroutine: it yields queries, is sent answers, and returns the final x.

    times: [N+1, B] float64 from noise to data; x: [B, ...] at times[0]. One that asks about rows of one batch at
    different times, though their grids are equal, has a class attribute `adaptive = True`: see `Guided`.
    """

    def __call__(self, path: Path, x: Tensor, times: Tensor, noise: Noise) -> Generator[Query, Denoised, Tensor]:
        """Start the coroutine; `inkwash.drive.drive` runs it to the end."""
        ...


class Batch(NamedTuple):
    """What an objective is given.

    x0: [B, ...] floats; cond: its condition; number: [B] int64 on the host, the running number of each example in
    the whole run (step·size + position in the batch), to which all its randomness is tied; size: the number of
    examples in the whole batch over all ranks and accumulated parts; eps: noise paired with x0, where it is given;
    memory: what a `Remembering` objective has kept so far; bin: the width of the bins x0 falls into, None for floats.
    """

    x0: Tensor
    cond: Condition
    number: Tensor
    size: int
    eps: Tensor | None = None
    memory: Mapping[str, Tensor] | None = None
    bin: float | None = None


class Objective(Protocol):
    """What training minimises. A teacher, where there is one, is bound when the objective is built."""

    def __call__(self, model: Model, batch: Batch, noise: Noise, progress: float) -> Tensor:
        """The loss of each example, [B], float32; progress in [0, 1] is how much of the run is done."""
        ...


@runtime_checkable
class Remembering(Protocol):
    """An objective that learns from its own losses, for example which times to draw.

    Its memory, named tensors on the host, belongs to the run: it is saved in checkpoints, and given back in
    `Batch.memory`. It changes after a step, never between the parts of a batch.
    """

    def memory(self) -> dict[str, Tensor]:
        """The memory before the first step; {} for one that, as it is set, needs none."""
        ...

    def remember(
        self, memory: Mapping[str, Tensor], model: Model, batch: Batch, noise: Noise, losses: Tensor
    ) -> dict[str, Tensor]:
        """The memory with the losses [B] of a batch in it, which was drawn with `batch.memory`."""
        ...


@dataclass(frozen=True)
class Given:
    """What a network is told besides x and t, and so what it is built for; 0 or False is: not at all.

    classes: labels 0 .. classes - 1, and -1 for any. tokens: the width of a text's tokens. jumps: it is asked for the
    mean velocity from t to s, and so looks at s_emb as well. vector: how many numbers it is told. image: channels of
    the picture it is shown beside x.
    """

    classes: int = 0
    tokens: int = 0
    jumps: bool = False
    vector: int = 0
    image: int = 0


class Net(Protocol):
    """A network: (x [B, ...], t_emb [B], s_emb [B], condition) -> a tensor of x's shape, or of twice its channels.

    t_emb and s_emb are the model's reading of the two times (about 0 to 1000), float32.
    """

    def __call__(self, x: Tensor, t_emb: Tensor, s_emb: Tensor, cond: Condition) -> Tensor:
        """Predict the target."""
        ...
