"""The page: one HTML file with everything in it, which needs no network and no script."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path as File

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from inkwash import gallery
from inkwash._version import __version__
from inkwash.asking import options
from inkwash.checkpoint import CheckpointError
from inkwash.checkpoint.atomic import write
from inkwash.data import DatasetUnavailableError
from inkwash.evaluation import held_out
from inkwash.evaluation.likelihood import Split
from inkwash.kinds import in_text
from inkwash.modelfolder import needed_code
from inkwash.pipeline import Pipeline, load
from inkwash.report import drawings
from inkwash.report.drawings import SHEETS, Drawn, Shown, curves, draw, opened, overfitting, parameters, sheets
from inkwash.report.gather import Material, gather
from inkwash.report.words import columns, duration, row
from inkwash.training.previews import Asked

PLOTS = {
    "nearest": "Closest training neighbours: generated pictures above the training picture that is nearest to each. "
    "Pairs that are the same picture are memorised.",
    "spectrum": "Radial power spectrum: how much detail of each size generated and real pictures have. A gap at the "
    "right is detail that is missing or too much.",
    "classes": "Class histogram: the share of each class, as a classifier sees it in generated and in real pictures.",
    "sweep": "Quality against network calls and seconds a picture, for the sampling settings of the last sweep. Ringed "
    "points are beaten by no other.",
    "curve": "Every measure against the guidance scale: what following more strictly gains, and what it costs. Grey: "
    "what real pictures get.",
}
_CHARTS = ("spectrum", "classes", "sweep", "curve")
_WIDE = 1200


@dataclass(frozen=True)
class Report:
    """A page that was written. problems: what could not be read, as the page says it too."""

    file: File
    problems: tuple[str, ...]


def report(
    run: str | File,
    out: str | File | None = None,
    *,
    device: str = "auto",
    trust: bool = False,
    watch: Callable[[float], None] | None = None,
) -> Report:
    """Write a run's page to `out`, in place of one that may be there; by default report.html in the run's folder.

    That of a model which is not a run's own, as one that `inkwash ema` wrote, is MODEL-report.html beside it. watch:
    told the fraction of the drawing that is done.

    run: a run's folder, finished or not, or a model's. Its model, if it has one, draws some samples. Raises ValueError
    where there is neither.
    """
    found = gather(run, trust=trust)
    file = found.page if out is None else File(out)
    drawn, undrawn = _drawn(found, device, trust, watch)
    html = _page(found, drawn, undrawn)
    write(file, html.encode())
    return Report(file, tuple(found.problems))


def _drawn(
    found: Material, device: str, trust: bool, watch: Callable[[float], None] | None
) -> tuple[Drawn | None, str]:
    """What the model draws now, or why it draws nothing."""
    if found.model is None:
        return None, f"No model yet: it is saved with the first checkpoint of {found.folder}."
    if found.config is None:
        return None, "The model cannot be read; what is wrong with it is said above."
    try:
        pipe = load(found.model, device=device, trust=trust, chunk=16 if len(found.config.shape) == 3 else None)
        return draw(pipe, watch, _asked(found.model, pipe)), ""
    except (ValueError, CheckpointError, DatasetUnavailableError) as error:
        return None, f"No samples were drawn: {error}"


def _asked(model: File, pipe: Pipeline) -> Asked | None:
    """What examples of the run's data have, held out where any were; None for a model that is told a class at most.

    Also where there are none, if the model can do without; else raises ValueError, or DatasetUnavailableError.
    """
    if not pipe.config.conditions.names:
        return None
    count = drawings.POINTS if len(pipe.config.shape) == 1 else drawings.ASKED

    def of(part: Split) -> Asked:
        return Asked.told(pipe.config, pipe.codec, held_out(model, None, part), count, pipe.device)

    try:
        return of("val")
    except (ValueError, DatasetUnavailableError):
        try:
            return of("train")
        except (ValueError, DatasetUnavailableError):
            if pipe.config.needed:
                raise
            return None


def _page(found: Material, drawn: Drawn | None, undrawn: str) -> str:
    points = found.config is not None and len(found.config.shape) == 1
    overtime = sheets(found.sheets, "chart" if points else "picture", found.problems)
    plots = []
    for plot in found.plots:
        image = opened(plot, _WIDE, found.problems)
        if image is not None:
            chart = plot.stem in _CHARTS
            plots.append((plot.stem, Shown(image, PLOTS.get(plot.stem, plot.name), "chart" if chart else "picture")))
    order = [*PLOTS]
    plots.sort(key=lambda one: order.index(one[0]) if one[0] in order else len(order))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["picture"] = _picture
    rows = [row(r, found.weights) for r in found.records]
    heads, common = columns(rows)
    template = environment.from_string(files("inkwash.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        name=_name(found),
        what=_sentence(found),
        state=_state(found),
        facts=_facts(found),
        recipe=found.recipe,
        config=found.config_text,
        curves=curves(found.metrics),
        bands=_bands(found),
        warning=overfitting(found.metrics),
        sheets=overtime,
        sheet_count=len(found.sheets),
        most_sheets=SHEETS,
        drawn=drawn,
        undrawn=undrawn,
        rows=[r for r in rows if not r.other],
        others=[r for r in rows if r.other],
        columns=heads,
        common=common,
        plots=plots,
        commands=_commands(found),
        run=shlex.quote(str(found.folder)),
        source=shlex.quote(found.source or "SOURCE"),
        model=shlex.quote(str(found.model or found.folder)),
        is_run=found.is_run,
        problems=found.problems,
        version=__version__,
        now=_date(datetime.now(UTC)),
    )


def _picture(shown: Shown) -> Markup:
    """An img element: its own size, its caption as the text for those who cannot see it."""
    element = Markup('<img class="{}" src="{}" width="{}" height="{}" alt="{}">')
    return element.format(shown.kind, shown.uri, shown.image.width, shown.image.height, shown.caption)


def _name(found: Material) -> str:
    return found.folder.resolve().name


def _sentence(found: Material) -> str:
    """What it is: net, parameters, data, and how long it was trained."""
    config, last = found.config, found.metrics[-1] if found.metrics else {}
    if config is None:
        data = found.source or "data that are not named"
        steps = f" It has trained for {last['step']:,.0f} steps." if last else ""
        return f"A diffusion model of {data}, of which no model can be read yet.{steps}"
    size = parameters(config)
    pictures = len(config.shape) == 3
    shape = " × ".join(map(str, config.pictures))
    what = f"pictures of {shape} (channels × height × width)" if pictures else "points in the plane"
    if not pictures and config.shape != (2,):
        what = f"vectors of {shape} numbers"
    classes = f" in {len(config.classes):,} classes" if config.classes else ""
    trained = config.trained
    words = f"{type(config.net).__name__} of {size:,} parameters that draws {what}{classes}"
    words += f", trained on {config.data}" if config.data else ""
    if trained.get("steps"):
        words += f" for {trained['steps']:,.0f} steps on {trained.get('images', 0):,.0f} "
        words += "pictures" if pictures else "points"
        words += f" in {duration(float(trained.get('seconds', 0.0)))}"
    return words + (f"; last written on {_date(found.finished)}." if found.finished else ".")


def _state(found: Material) -> str:
    """What is to be said of a run that is not at its end."""
    if found.fraction is None or found.fraction >= 1:
        return ""
    resume = f"inkwash train --resume {shlex.quote(str(found.folder))}"
    return f"{found.fraction:.0%} of the training is done: it is going on, or was stopped, and {resume} continues it."


def _facts(found: Material) -> list[tuple[str, str]]:
    config = found.config
    if config is None:
        return []
    own = config.sampling
    classes = ", ".join(config.classes[:40]) + (" …" if len(config.classes) > 40 else "")
    guided = f", guidance {own.guidance:g}" if own.guidance != 1 else ""
    told = [
        ("Classes", classes),
        ("Path", in_text(config.path)),
        ("Target", in_text(config.target)),
        ("Net", in_text(config.net)),
        ("Sampling", f"{in_text(own.method)}, {own.steps} steps, grid {in_text(own.grid)}{guided}"),
        ("Weights", f"SHA-256 {found.weights}" if found.weights else ""),
    ]
    return [(name, value) for name, value in told if value]


def _bands(found: Material) -> Shown | None:
    """The validation loss by noise level, where the run measured it."""
    image = gallery.band_plot(found.metrics)
    caption = (
        "The validation loss in each band of noise levels sigma/alpha, from details to what the picture is of; faintly "
        "the same on training pictures."
    )
    return None if image is None else Shown(image, caption, "chart")


def _commands(found: Material) -> list[tuple[str, str]]:
    """How to use the model, line by line: what for, and the command."""
    where = shlex.quote(str(found.folder))
    config = found.config
    if config is None:
        return [("Continue training", f"inkwash train --resume {where}")] if found.is_run else []
    needed = options(config)
    commands = [("Draw new samples", f"inkwash sample {where} -n 16{needed}")]
    if config.classes:
        label = shlex.quote(config.classes[0])
        commands.append(("Of one class", f"inkwash sample {where} -n 16{needed} --label {label}"))
    commands += [
        ("Compare samplers", f"inkwash compare {where}{needed}"),
        ("Measure it", f"inkwash eval {where} --split test"),
    ]
    if found.is_run:
        commands.append(("Continue training", f"inkwash train --resume {where}"))
    told = needed_code(config)
    commands.append(("In Python", f"import inkwash; images = inkwash.load({str(found.folder)!r})(16, {told}seed=0)"))
    return commands


def _date(when: datetime) -> str:
    return f"{when.day} {when:%B %Y, %H:%M} UTC"
