"""What `inkwash eval --sweep` does: measure many ways to draw, show them side by side, and adopt one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inkwash.cli.words import say

if TYPE_CHECKING:
    from inkwash.evaluation import RealSide
    from inkwash.pipeline import Pipeline
    from inkwash.ranks import Ranks


@dataclass(frozen=True)
class Sweep:
    """What was asked for: varied: the values of each axis; by: the measure; adopt: best, or a point's number; also:
    further measures of each point.
    """

    varied: Mapping[str, Sequence[str]]
    by: Literal["fd", "kid"]
    skip: bool
    adopt: str | None
    also: Sequence[str] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        """All that is measured of a point."""
        return (self.by, *(name for name in self.also if name != self.by))

    def check(self, pipe: Pipeline, weak: Pipeline | None = None) -> list[str]:
        """What the model refuses, and is left out. Raises ValueError for what is not to be measured at all."""
        from inkwash.evaluation.sweep import planned

        these, refused = planned(pipe, self.varied, skip=self.skip, weak=weak)
        if self.adopt not in (None, "best") and not 1 <= int(self.adopt) <= len(these):
            raise ValueError(f"--adopt {self.adopt}: the sweep has points 1 to {len(these)}.")
        return [f"Left out: {why}" for why in refused]


def read_sweep(
    texts: Sequence[str] | None,
    how: Mapping[str, Any],
    by: Literal["fd", "kid"] | None,
    skip: bool,
    adopt: str | None,
    mistakes: list[str],
    also: Sequence[str] = (),
) -> Sweep | None:
    """The sweep that these options ask for, None for none; how: of what is not varied. What is wrong is noted."""
    from inkwash.evaluation.sweep import SweepError, axes

    if adopt is not None and adopt != "best" and not adopt.isdecimal():
        mistakes.append(f"--adopt {adopt} is neither best nor a point's number in the sweep's table.")
    if not texts:
        if adopt is not None:
            mistakes.append("--adopt takes a point of a sweep: give the same --sweep again; what was measured is kept.")
        if by is not None:
            mistakes.append(
                f"--by {by} says what a --sweep measures, and there is none. For one way to draw: --measures."
            )
        if skip:
            mistakes.append("--skip leaves out combinations of a --sweep, and there is none. Add one, or drop --skip.")
        return None
    try:
        varied = axes(texts)
    except SweepError as error:
        mistakes += error.mistakes
        return None
    fixed = {name: [str(value)] for name, value in how.items() if value is not None}
    if "interval" in fixed:
        fixed["interval"] = [f"({fixed['interval'][0]})"]
    mistakes += [
        f"--{name} {fixed[name][0]} and --sweep {name}={','.join(values)} both give {name}. Drop one."
        for name, values in varied.items()
        if name in fixed
    ]
    return Sweep(fixed | varied, by or "fd", skip, adopt, tuple(also))


def swept(
    wanted: Sweep,
    run: Path,
    pipe: Pipeline,
    side: RealSide,
    n: int,
    seed: int,
    folder: Path,
    model: Mapping[str, Any],
    ranks: Ranks,
    trust: bool,
    more: Mapping[str, Any],
) -> None:
    """Measure every combination, show the table and the picture, and take one as the model's own if asked to."""
    from inkwash.evaluation import append, evaluate, read_records
    from inkwash.evaluation.front import best, curve, plot, table
    from inkwash.evaluation.sweep import SWEEP, adopt, sweep
    from inkwash.pictures import save_png

    points = sweep(
        pipe,
        side.reference,
        side.net,
        wanted.varied,
        n,
        evaluate=evaluate,
        file=folder / SWEEP,
        model=model,
        by=wanted.by,
        also=wanted.also,
        judge=side.judge,
        train=side.train,
        seed=seed,
        skip=wanted.skip,
        folder=folder / "swept",
        ranks=ranks,
        **more,
    )
    if not ranks.first:
        return
    known = {record.line for record in read_records(folder)}
    append(folder, [r for p in points for r in (p.record, *p.also) if r.line not in known])
    about = {"n": n, "seed": seed, "by": wanted.by}
    drawn = [save_png(plot(points), folder / "sweep.png", about)]
    if wanted.also and (image := curve(points)) is not None:
        drawn.append(save_png(image, folder / "curve.png", about))
    say(table(points))
    say(f"Points in {folder / SWEEP}, picture{'s' * (len(drawn) > 1)} in {', '.join(map(str, drawn))}")
    if wanted.adopt is not None:
        chosen = best(points) if wanted.adopt == "best" else points[int(wanted.adopt) - 1]
        taken = adopt(run, chosen.settings, trust=trust)
        say(f"{taken.folder} is now sampled with {taken.now}, before with {taken.before}. {taken.note}".rstrip())
