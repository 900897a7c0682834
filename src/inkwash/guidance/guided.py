"""Guidance: the answer to a condition pushed away from another answer, both from one call of the network."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from inkwash.guidance.rules import AnyRule, Cfg, Terms
from inkwash.paths import ratio
from inkwash.types import CONDITIONS, Condition, Denoised, Denoiser, Path, Query, Steered, like


@dataclass(frozen=True)
class Guided:
    """base + scale·(given - base) + the weighted pushes of further conditions, or another rule's (math.md, eq. 22, 57).

    given answers the condition; base its null in `names`, or what a `Steered` condition has instead, such as a negative
    prompt; the others of a `Steered` condition are followed with their weights. All of it is one batched call.

    scale: a number, or one per row [B] on the host; that of a `Steered` condition goes before. At 1 the base makes no
    odds: without others it is the conditional model bit for bit and costs nothing. At 0 it is the base (`Cfg`). Only
    rows that need more answers have more rows in the call: all whose condition has its own scale. interval: (low,
    high); guidance acts where low < sigma/alpha <= high (Kynkäänniemi et al. 2024), and elsewhere the conditional model
    answers alone, at its own cost. weak: another denoiser that answers for the base, in a call of its own: the same
    condition, or the base of a `Steered` one (autoguidance, Karras et al. 2024). path: that of the queries, which an
    interval needs, and every rule but `Cfg`. whole: inside the interval or not, every row gets all its answers, and the
    interval only picks which are used. For samplers that ask about rows of one batch at different times: there the rows
    in a call, and with them a picture's last bits, would depend on its neighbours.
    Raises ValueError for an interval that is none or has no path, and for scales that are not one per row.
    """

    denoiser: Denoiser
    scale: float | Tensor
    names: Collection[str] = CONDITIONS
    rule: AnyRule = field(default_factory=Cfg)
    interval: tuple[float, float] | None = None
    weak: Denoiser | None = None
    path: Path | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        if self.interval is not None:
            check_interval(self.interval)
            if self.path is None:
                raise ValueError(f"interval = {self.interval} is of sigma/alpha, which a path tells. Give it: path=...")

    def __call__(self, query: Query, cond: Condition) -> Denoised:
        """The guided estimates."""
        steered = cond if isinstance(cond, Steered) else Steered(**vars(cond))
        rows, inside = self._guided_rows(query, every=bool(steered.others) or steered.scale is not None)
        n, m = len(query.x), len(rows)
        if m == 0:
            return self.denoiser(query, cond)
        part, here = query, rows
        if m < n:
            here = rows.to(query.x.device)
            part, steered = _joined([query], rows), steered.map(lambda v: v[here if v.device == here.device else rows])
        base = steered.base or (steered.null(self.names) if self.weak is None else steered)
        further = (base, *steered.others) if self.weak is None else steered.others
        if further:
            answer = self.denoiser(_joined([query, *[part] * len(further)]), cond.cat(*further))
        else:
            answer = self.denoiser(query, cond)
        cuts = range(n, n + m * len(further), m)
        x0, eps = (y.tensor_split(list(cuts)) for y in answer[:2])
        plain, *answers = (Denoised(*pair) for pair in zip(x0, eps, strict=True))
        if self.weak is not None:
            answers.insert(0, self.weak(part, base))
        given = plain if m == n else Denoised(plain.x0[here], plain.eps[here])
        weights = () if steered.weights is None else tuple(like(w, query.x) for w in steered.weights.unbind(1))
        scale = self._scale(rows, query.x) if steered.scale is None else like(steered.scale, query.x)
        terms = Terms(given, answers[0], tuple(answers[1:]), scale, weights, part.t, self.path)
        guided = self.rule(terms)
        if not bool(inside.all()):
            kept = like(inside, query.x).bool()
            guided = Denoised(*(torch.where(kept, *pair) for pair in zip(guided[:2], given[:2], strict=True)))
        if m < n:
            guided = Denoised(*(whole.index_copy(0, here, y) for whole, y in zip(plain[:2], guided[:2], strict=True)))
        return guided._replace(var_mix=None if answer.var_mix is None else answer.var_mix[:n])

    def _guided_rows(self, query: Query, *, every: bool) -> tuple[Tensor, Tensor]:
        """The numbers of the rows that need more answers than the conditional, and at which of them these count.

        Both are on the host. every: all do, whatever the scale.
        """
        n, scale = len(query.t), torch.as_tensor(self.scale, dtype=torch.float64)
        if scale.ndim and len(scale) != n:
            raise ValueError(f"{len(scale)} scales were given for {n} rows. Give one, or one for each.")
        acts = torch.ones(n, dtype=torch.bool) if every else (scale != 1).expand(n)
        inside = torch.ones(n, dtype=torch.bool)
        if self.interval is not None and self.path is not None:
            level, (low, high) = ratio(self.path(query.t)), self.interval
            inside = (level > low) & (level <= high)
        rows = (acts if self.whole else acts & inside).nonzero().flatten()
        return rows, inside[rows]

    def _scale(self, rows: Tensor, x: Tensor) -> Tensor:
        """The scales of these rows, to multiply rows of x; one number is made where x is, and not copied there."""
        if isinstance(self.scale, Tensor) and self.scale.ndim:
            return like(self.scale.double()[rows], x)
        return x.new_full((len(rows), *(1,) * (x.ndim - 1)), float(self.scale))


def check_interval(interval: Sequence[float]) -> None:
    """Raise ValueError for what is no interval of sigma/alpha: two numbers, 0 <= low < high."""
    if len(interval) != 2 or not 0 <= interval[0] < interval[1]:
        raise ValueError(
            f"interval = {tuple(interval)} must be two values of sigma/alpha between which guidance acts, (low, high) "
            "with 0 <= low < high. Try (0.3, 5)."
        )


def _joined(queries: Sequence[Query], rows: Tensor | None = None) -> Query:
    """All rows of the queries one after the other, or those with the numbers `rows`; s stays t itself where it was."""
    x, t, s = (torch.cat(parts) for parts in zip(*queries, strict=True))
    if rows is not None:
        x, t, s = x[rows.to(x.device)], t[rows], s[rows]
    return Query(x, t, t if all(q.s is q.t for q in queries) else s)
