"""`inkwash ema`: another average of a trained run's weights, without training again."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from inkwash.cli.command import mistakes_so_far, refuse
from inkwash.cli.terminal import stages
from inkwash.cli.told import sampling_line
from inkwash.cli.words import columns, say, table

if TYPE_CHECKING:
    from inkwash.training.posthoc import Kept, Rebuilt
    from inkwash.training.search import Candidate

_what, _search, _where = (partial(typer.Option, rich_help_panel=name) for name in ("What", "Search", "Where to"))


def ema(
    ctx: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    sigma: Annotated[
        float | None,
        _what(help="The length: the width of the averaging window as a share of the run. Usual are 0.02 to 0.2."),
    ] = None,
    step: Annotated[int | None, _what(help="Where the average ends (default: the newest checkpoint).")] = None,
    search: Annotated[
        Literal["fd", "kid"] | None, _search(help="Measure several lengths, and take the best by this measure.")
    ] = None,
    sigmas: Annotated[
        str | None, _search(help="Which, with commas (default: 0.02,0.03,0.05,0.075,0.1,0.15,0.2 where possible).")
    ] = None,
    split: Annotated[
        Literal["test", "val", "train"] | None,
        _search(help="Of the real pictures: the data's test split, what the run held out, or what it saw. Required."),
    ] = None,
    n: Annotated[int, _search("--n", "-n", help="Pictures drawn for each length, and real ones.", min=2)] = 2000,
    features: Annotated[str, _search(help="As for `inkwash eval`: lite0, classifier, inception, ...")] = "lite0",
    seed: Annotated[int, _search(help="Of the pictures, the same for each length.")] = 0,
    device: Annotated[str, _search(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    trust: Annotated[bool, typer.Option("--trust", help="Run code from outside inkwash that the model names.")] = False,
    out: Annotated[Path | None, _where(help="The model's folder (default: RUN/ema-0.080, by the length).")] = None,
) -> None:
    """Average a trained run's weights over another length.

    From the snapshots the run kept. What comes out is a model like any other. A search that was stopped goes on where
    it was.

    inkwash ema runs/photos --sigma 0.08

    inkwash ema runs/photos --search fd --split val
    """
    mistakes = mistakes_so_far(ctx)
    if (sigma is None) == (search is None):
        mistakes.append(
            "Which length? Give one with --sigma 0.08, or have the best one found with --search fd --split val."
            if sigma is None
            else f"--sigma {sigma:g} and --search {search} both say which length. Drop one, or use --sigmas."
        )
    if search is not None and split is None:
        mistakes.append(
            "Against which real pictures? --split test (the data's own test split), val (what the run held out) or "
            "train (what it saw): numbers against different ones are not comparable, so none is guessed."
        )
    lengths = _lengths(sigmas, mistakes)
    if sigmas is not None and search is None:
        mistakes.append(f"--sigmas {sigmas} are lengths to search among: add --search fd or --search kid.")
    refuse(mistakes)
    from inkwash.training.posthoc import assemble, kept

    have = kept(run, step)
    if search is None or split is None:
        rebuilt = assemble(run, have, sigma or 0.0, trust=trust)
        _write(rebuilt, out or _place(run, rebuilt, step), "")
        return
    found, best = _searched(run, have, lengths, split, features, n, search, seed, device, trust)
    _keep(run, out or _place(run, best, step), found, best, search)


def _searched(
    run: Path,
    have: Kept,
    lengths: list[float] | None,
    split: Literal["test", "val", "train"],
    features: str,
    n: int,
    by: Literal["fd", "kid"],
    seed: int,
    device: str,
    trust: bool,
) -> tuple[list[Candidate], Rebuilt]:
    """Each length with its number, in a table; and the best."""
    from inkwash.device import pick_device
    from inkwash.evaluation import real_side
    from inkwash.training.search import possible, search

    with stages() as told:
        side = real_side(run, split, None, features, n, measures=(by,), device=pick_device(device), watch=told)
        found, best = search(run, have, lengths or possible(have), side, n, by=by, seed=seed, trust=trust, watch=told)
    m, chosen = found[0].record.measure, best.fit.wanted.sigma_rel
    rows = [[f"{c.sigma:g}", _value(c), f"{c.residual:.1%}", "<- best" if c.sigma == chosen else ""] for c in found]
    say(columns([["length", m.title, "profile missed by", ""], *rows]))
    say(f"  {m.n:,} pictures of seed {seed} each, against {m.reference:,} of {m.data} {m.split}; {m.weights[:12]}")
    return found, best


def _keep(run: Path, folder: Path, found: list[Candidate], best: Rebuilt, by: str) -> None:
    """Write the best as a model, every number as a record, and the picture."""
    from inkwash.evaluation import append, evaluation_folder, measured_lines, weights_hash
    from inkwash.pictures import line_plot, save_png
    from inkwash.training.search import stamped

    chosen = next(c for c in found if c.sigma == best.fit.wanted.sigma_rel)
    _write(best, folder, measured_lines([chosen.record]))
    place = evaluation_folder(run)
    append(place, [stamped(c, folder, weights_hash(folder)) if c is chosen else c.record for c in found])
    picture = line_plot(
        {"": ([c.sigma for c in found], [c.record.value for c in found])},
        title="The length of the average",
        xlabel="sigma_rel, as a share of the run",
        ylabel=chosen.record.measure.title,
        smooth=False,
    )
    file = save_png(picture, place / "ema.png", {"run": str(run), "by": by})
    say(f"Records in {place / 'records.jsonl'}, picture in {file}")


def _write(rebuilt: Rebuilt, folder: Path, measured: str) -> None:
    """Write the model, and say how well it was rebuilt."""
    rebuilt.save(folder, measured)
    fit = rebuilt.fit
    say(
        table(
            {
                "length": f"{fit.wanted.sigma_rel:g} of {fit.wanted.step:,} steps",
                "made of": f"{len(fit.parts)} averages that were kept, at {len({p.step for p in fit.parts})} steps",
                "profile missed by": f"{fit.residual:.2%} of its norm",
                "rounding grows by": f"{fit.gain:.2g}",
                "model": str(folder),
            }
        )
    )
    say(f"Next:\n  {sampling_line(folder)}")


def _place(run: Path, rebuilt: Rebuilt, step: int | None) -> Path:
    """RUN/ema-0.080, or RUN/ema-0.080-step-N where a step was asked for."""
    from inkwash.training.run import Run

    length = rebuilt.fit.wanted.sigma_rel
    name = f"{length:.3f}" if round(length, 3) == length else f"{length:g}"
    return Run.at(run, "").folder / f"ema-{name}{'' if step is None else f'-step-{step}'}"


def _value(candidate: Candidate) -> str:
    record = candidate.record
    interval = "" if record.low is None or record.high is None else f" ({record.low:.4g} to {record.high:.4g})"
    return f"{record.value:.4g}{interval}"


def _lengths(text: str | None, mistakes: list[str]) -> list[float] | None:
    """Numbers with commas; what they are not is noted."""
    if text is None:
        return None
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        mistakes.append(f"--sigmas {text} are no numbers. Write them with commas, as in 0.05,0.1,0.15.")
        return None
    return found
