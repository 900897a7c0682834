"""Wrappers that take a denoiser and give a denoiser: guidance, clipping, fixed chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.paths import ratio
from inkwash.types import Coeffs, Condition, Denoised, Denoiser, Path, Query, like


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans 2022): u + scale·(c - u) of the null and the conditional answer.

    scale: a number, or one per row [B] on the host. 1 is the conditional model bit for bit and costs nothing; 0 is the
    unconditional one. Only rows with another scale get a second, unconditional half, in the same batched call.
    """

    denoiser: Denoiser
    scale: float | Tensor

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The guided estimates."""
        scale = torch.as_tensor(self.scale, dtype=torch.float64).expand(len(query.x))
        rows = (scale != 1).nonzero().flatten()
        if len(rows) == 0:
            return self.denoiser(query, cond)
        here = rows.to(query.x.device)
        both = Query(
            torch.cat([query.x, query.x[here]]),
            torch.cat([query.t, query.t[rows]]),
            torch.cat([query.s, query.s[rows]]),
        )
        n = len(query.x)
        answer = self.denoiser(both, cond.cat(cond.map(lambda v: v[rows.to(v.device)]).null()))
        w = like(scale[rows], query.x)

        def push(y: Tensor) -> Tensor:
            c, u = y[:n], y[n:]
            return c.index_copy(0, here, u + w * (c[here] - u))

        var_mix = None if answer.var_mix is None else answer.var_mix[:n]
        return Denoised(push(answer.x0), push(answer.eps), var_mix)


@dataclass(frozen=True)
class Clipped:
    """The estimate of the data kept within [low, high], and the noise recomputed to match it.

    With the noise recomputed, an ancestral step has exactly DDPM's posterior mean with the clipped x0 (math.md, eq. 8).
    At sigma = 0 there is no noise to recompute and it is left as it is.
    """

    denoiser: Denoiser
    path: Path
    low: float = -1.0
    high: float = 1.0

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The clipped estimates."""
        answer = self.denoiser(query, cond)
        return revised(answer, answer.x0.clamp(self.low, self.high), self.path(query.t))


def revised(answer: Denoised, x0: Tensor, c: Coeffs) -> Denoised:
    """The answer with another x0, and the noise moved so that alpha·x0 + sigma·eps is what it was; c = path(t).

    At sigma = 0 there is no noise to move, and it is left as it is.
    """
    inverse = torch.where(c.sigma > 0, 1 / c.sigma, 0.0)
    return answer._replace(x0=x0, eps=answer.eps + like(c.alpha * inverse, x0) * (answer.x0 - x0))


@dataclass(frozen=True)
class Chunked:
    """Every call cut into pieces of exactly `size` rows, the last one filled up with copies of its first row.

    Kernels for convolution and matrix products are chosen by batch size and differ in the last bits; with one fixed
    size a picture has the same bits whatever it is drawn together with.
    """

    denoiser: Denoiser
    size: int

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The same answers, computed in chunks."""
        n = query.x.shape[0]
        if n == self.size:
            return self.denoiser(query, cond)
        pieces = []
        for start in range(0, n, self.size):
            keep = min(self.size, n - start)
            row: slice | Tensor = slice(start, start + self.size)
            if keep < self.size:
                row = torch.cat([torch.arange(start, n), torch.full((self.size - keep,), start)])
            part = Query(query.x[_on(query.x, row)], query.t[row], query.s[row])
            answer = self.denoiser(part, cond.map(lambda v, row=row: v[_on(v, row)]))  # type: ignore[misc]
            var_mix = None if answer.var_mix is None else answer.var_mix[:keep]
            pieces.append(Denoised(answer.x0[:keep], answer.eps[:keep], var_mix))
        var_mixes = [p.var_mix for p in pieces if p.var_mix is not None]
        return Denoised(
            torch.cat([p.x0 for p in pieces]),
            torch.cat([p.eps for p in pieces]),
            torch.cat(var_mixes) if var_mixes else None,
        )


def _on(x: Tensor, row: slice | Tensor) -> slice | Tensor:
    """Rows, on the device of what they are picked from."""
    return row.to(x.device) if isinstance(row, Tensor) else row


@dataclass(frozen=True)
class Along:
    """A model trained on the path `trained`, for sampling along another `path`: the exact change of variables.

    What is asked of x at t is asked of k·x at the time at which `trained` has the same sigma/alpha, where k is the
    ratio of the two sqrt(alpha² + sigma²); data and noise in the answer are those of both (math.md, eq. 27). A table is
    then asked between its entries, where its network was not trained but is smooth. A learned variance is left out: it
    lies between two of which the large one depends on the path's scale.
    Raises ValueError for a time of `path` with more noise than `trained` has at its end: see `highest`.
    """

    denoiser: Denoiser
    trained: Path
    path: Path

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The estimates for query.x, at the times query.t of `path`."""
        t, k = self._there(query.t)
        s = t if query.s is query.t else self._there(query.s)[0]
        return self.denoiser(Query(like(k, query.x) * query.x, t, s), cond)._replace(var_mix=None)

    def _there(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """The times [B] of `trained` with the same noise-to-signal ratio, and the factors k [B] of x."""
        here = self.path(t)
        asked, end = ratio(here), _end(self.trained)
        if bool((asked > end * (1 + 1e-9)).any()):  # a time found by inverting the ratio is off by its rounding
            raise ValueError(
                f"t = {float(t[asked.argmax()]):.6g} of {self.path} has more noise than the model has ever seen: "
                f"sigma/alpha = {float(asked.max()):.4g}, and {self.trained} ends at {float(end):.4g}. "
                f"Start at t = {math.floor(1e6 * highest(self.trained, self.path)) / 1e6:.6f} or below."
            )
        there = same_noise(self.trained, self.path, t)
        c = self.trained(there)
        return there, ((c.alpha**2 + c.sigma**2) / (here.alpha**2 + here.sigma**2)).sqrt()


def same_noise(trained: Path, path: Path, t: Tensor) -> Tensor:
    """The times of `trained` with the noise-to-signal ratio that `path` has at t; its end where it has no such."""
    return trained.time(ratio(path(t)).minimum(_end(trained)))


def highest(trained: Path, path: Path) -> float:
    """The largest time of `path` at which a model trained on `trained` can be asked: 1 where nothing is in the way."""
    end = _end(trained)
    return 1.0 if bool(_end(path) <= end) else float(path.time(end))


def _end(path: Path) -> Tensor:
    return ratio(path(torch.ones(1, dtype=torch.float64)))
