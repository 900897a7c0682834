"""Calls of one size, so that a picture has the same bits in any batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inkwash.guidance.guided import Guided
from inkwash.types import Condition, Denoised, Denoiser, Query


@dataclass(frozen=True)
class Chunked:
    """Every call cut into pieces of exactly `size` rows, the last one filled up with copies of its first row.

    Kernels for convolution and matrix products are chosen by batch size and differ in the last bits; with one fixed
    size a picture has the same bits whatever it is drawn together with. The rows of the condition are cut with those
    of x, numbers that a wrapper inside holds for each row are not: raises ValueError for a `Guided` with such scales.
    """

    denoiser: Denoiser
    size: int

    def __post_init__(self) -> None:
        inner: object = self.denoiser
        while inner is not None:
            if isinstance(inner, Guided) and isinstance(inner.scale, Tensor) and inner.scale.ndim:
                raise ValueError(
                    f"Chunks of {self.size} rows would each be guided with the first of {len(inner.scale)} scales, "
                    "whichever rows they are of. Put the guidance outside: Guided(Chunked(denoiser, size), scale)."
                )
            inner = getattr(inner, "denoiser", None)

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
