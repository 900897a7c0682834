"""Texts told with few tokens where they fit, so that no long text changes its neighbours' bits, or costs them much."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from inkwash.types import Condition, Denoised, Denoiser, Query, Steered, like


@dataclass(frozen=True)
class Fitted:
    """Rows whose texts have no more than `length` tokens are answered with just so many, the others with `most`.

    The last bits of an answer depend on how many tokens its text is told with, the absent ones among them. So that is
    decided by a row's own texts, those of a `Steered` condition's base and further terms included. Where both kinds of
    rows stand in one call, the denoiser is called twice with all of them.
    """

    denoiser: Denoiser
    length: int
    most: int

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The denoiser's answers."""
        parts = _parts(cond)
        if all(one.tokens is None or one.tokens.shape[1] <= self.length for one in parts):
            return self.denoiser(query, _told(cond, self.length))
        long = torch.stack([one.present[:, self.length :].any(1) for one in parts if one.present is not None]).any(0)
        if bool(long.all()):
            return self.denoiser(query, _told(cond, self.most))
        few = self.denoiser(query, _told(cond, self.length))
        if not bool(long.any()):
            return few
        many, rows = self.denoiser(query, _told(cond, self.most)), like(long, query.x).bool()
        mix = None if few.var_mix is None or many.var_mix is None else torch.where(rows, many.var_mix, few.var_mix)
        return Denoised(torch.where(rows, many.x0, few.x0), torch.where(rows, many.eps, few.eps), mix)


def _parts(cond: Condition) -> list[Condition]:
    if not isinstance(cond, Steered):
        return [cond]
    return [cond, *([] if cond.base is None else [cond.base]), *cond.others]


def _told(cond: Condition, tokens: int) -> Condition:
    """With so many tokens in every text: cut, or filled up with absent ones."""
    if isinstance(cond, Steered):
        base = None if cond.base is None else _told(cond.base, tokens)
        cond = replace(cond, base=base, others=tuple(_told(one, tokens) for one in cond.others))
    if cond.tokens is None or cond.present is None or cond.tokens.shape[1] == tokens:
        return cond
    more = tokens - cond.tokens.shape[1]
    return replace(cond, tokens=F.pad(cond.tokens, (0, 0, 0, more)), present=F.pad(cond.present, (0, more)))
