"""Posterior sampling: pictures that fit a linear measurement y = A·x0 + noise (math.md, eq. 43).

Chung et al. (2023, DPS) add the gradient of the likelihood to the score, through the network; Song et al. (2023,
PiGDM) give the likelihood at time t its covariance. With that it is exact for Gaussian data of one variance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from inkwash.guidance import revised
from inkwash.types import Condition, Denoised, Denoiser, Path, Query, like

Measure = Callable[[Tensor], Tensor]
"""A linear measurement A: [B, ...] to [B, ...] row by row, differentiable by autograd."""

FAINT = 0.05
"""Where alpha·data_std is below this share of sigma, the network's Jacobian is all error: what it tends to is taken."""


@dataclass(frozen=True)
class Posterior:
    """The estimates given y = A·x0 + noise_std·z as well: x0 + (sigma²/alpha)·g, eps - sigma·g (math.md, eq. 43).

    g = J^T·A^T·(r²·A·A^T + noise_std²)^-1·(y - A·x0), with J = dx0/dx and r² = data_std²·sigma²/(alpha²·data_std² +
    sigma²), the variance of x0 given x for data of deviation data_std. Exact for Gaussian data of covariance data_std²,
    an approximation for others. measure: A; y: a measurement [1, ...] or [B, ...]; iterations: of conjugate gradients,
    by which the system is solved. Each call costs the network's backward pass besides. Raises ValueError for a negative
    noise_std, a data_std or iterations not above 0, and a measure that is not linear or does not fit y.
    """

    denoiser: Denoiser
    path: Path
    measure: Measure
    y: Tensor
    noise_std: float
    data_std: float = 0.5
    iterations: int = 10

    def __post_init__(self) -> None:
        if not (self.noise_std >= 0 and math.isfinite(self.noise_std)):
            raise ValueError(f"noise_std = {self.noise_std} must be 0 or more: the noise in y, in units of the data.")
        if not (self.data_std > 0 and math.isfinite(self.data_std)):
            raise ValueError(f"data_std = {self.data_std} must be above 0. Of pictures in [-1, 1] it is about 0.5.")
        if self.iterations < 1:
            raise ValueError(f"iterations = {self.iterations} must be at least 1. Usual are 5 to 20.")

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The estimates moved towards the measurement; gradients are taken even under `no_grad`."""
        c = self.path(query.t)
        r2 = self.data_std**2 * c.sigma**2 / (c.alpha**2 * self.data_std**2 + c.sigma**2)
        with torch.enable_grad():
            x = query.x.detach().requires_grad_()
            answer = self.denoiser(query._replace(x=x), cond)
            pull = self._pull(answer.x0.detach(), r2)
            (g,) = torch.autograd.grad(answer.x0, x, pull)
        answer = Denoised(*(None if v is None else v.detach() for v in answer))  # type: ignore[arg-type]
        # (sigma²/alpha)·J is the covariance of x0 given x (Tweedie), and r² what it tends to as alpha goes to 0.
        faint = c.alpha * self.data_std <= FAINT * c.sigma
        through = torch.where(faint, 0.0, c.sigma**2 / torch.where(faint, 1.0, c.alpha))
        beside = torch.where(faint, r2, 0.0)
        return revised(answer, answer.x0 + like(through, x) * g + like(beside, x) * pull, c)

    def _pull(self, x0: Tensor, r2: Tensor) -> Tensor:
        """A^T·(r²·A·A^T + noise_std²)^-1·(y - A·x0), with gradients of A·0 for the transpose."""
        zero = torch.zeros_like(x0).requires_grad_()
        image = self.measure(zero)
        if bool(image.detach().any()):
            raise ValueError("The measurement of nothing is not 0: it must be linear. Subtract its constant from y.")
        if self.y.shape[1:] != image.shape[1:] or len(self.y) not in (1, len(image)):
            raise ValueError(
                f"y is {list(self.y.shape)}, and the measurement of x is {list(image.shape)}. Measure pictures of "
                "the model's size, and give one y for all or one for each."
            )
        with torch.no_grad():
            residual = self.y.to(image) - self.measure(x0)

        def transposed(w: Tensor) -> Tensor:
            (back,) = torch.autograd.grad(image, zero, w, retain_graph=True)
            return back

        r2 = like(r2, image)

        def system(w: Tensor) -> Tensor:
            with torch.no_grad():
                seen = self.measure(transposed(w))
            return r2 * seen + self.noise_std**2 * w

        return transposed(_solved(system, residual, self.iterations))


@dataclass(frozen=True)
class Blur:
    """Gaussian blur of pictures [B, C, H, W], `std` in pixels; the borders reflect (the edge pixel twice)."""

    std: float

    def __post_init__(self) -> None:
        if not (self.std > 0 and math.isfinite(self.std)):
            raise ValueError(f"std = {self.std} of a blur must be above 0, in pixels.")

    def __call__(self, x: Tensor) -> Tensor:
        """The blurred pictures, of x's shape."""
        down, across = (self._weights(n).to(x) for n in x.shape[-2:])
        return torch.einsum("ij,bcjk,lk->bcil", down, x, across)

    def _weights(self, n: int) -> Tensor:
        """The row i of [n, n] holds what each pixel gives to pixel i."""
        reach = math.ceil(4 * self.std)
        offset = torch.arange(-reach, reach + 1)
        kernel = torch.softmax(-0.5 * (offset.double() / self.std) ** 2, 0)
        place = (torch.arange(n)[:, None] + offset) % (2 * n)  # reflected and repeated, a line has period 2n
        place = torch.where(place < n, place, 2 * n - 1 - place)
        return torch.zeros(n, n, dtype=torch.float64).scatter_add_(1, place, kernel.expand(n, -1))


@dataclass(frozen=True)
class Downsample:
    """Pictures [B, C, H, W] made smaller by an integer factor: the mean of each factor x factor square.

    Raises ValueError for sides that are not multiples of the factor.
    """

    factor: int

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor = {self.factor} must be at least 1. 2 makes half as many pixels a side.")

    def __call__(self, x: Tensor) -> Tensor:
        """The smaller pictures."""
        height, width = x.shape[2:]
        if height % self.factor or width % self.factor:
            raise ValueError(
                f"Pictures of {height}x{width} cannot be made {self.factor} times smaller: "
                "the factor must divide both sides."
            )
        return F.avg_pool2d(x, self.factor)


def _solved(system: Callable[[Tensor], Tensor], b: Tensor, iterations: int) -> Tensor:
    """w with system(w) = b, for a symmetric positive system on each row of b, by conjugate gradients from 0."""
    w, rest = torch.zeros_like(b), b
    along, size = rest, _dot(rest, rest)
    for _ in range(iterations):
        image = system(along)
        step = _ratio(size, _dot(along, image))
        w, rest = w + step * along, rest - step * image
        before, size = size, _dot(rest, rest)
        along = rest + _ratio(size, before) * along
    return w


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """The scalar product of each row, with axes to multiply it."""
    return (a * b).sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a/b, and 0 once there is nothing left to solve."""
    return torch.where(b > 0, a / b, 0.0)
