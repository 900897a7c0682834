"""What is shown while something runs: a live panel on a terminal, plain lines elsewhere, and Ctrl-C."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any

from inkwash.cli.words import duration, say, size

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from inkwash.training import Progress

LINE_EVERY = 8.0
"""Seconds between two plain lines, where nothing happens that is worth one."""

STOPPING = "Stopping after this step, and saving. Ctrl-C again stops at once."

PATIENCE = 1.5
"""Seconds before something that may be short gets a progress bar."""


class Lines:
    """Training told in plain lines: for files, pipes and logs."""

    def __init__(self, run: str, checkpoint_every: int) -> None:
        self.run, self.checkpoint_every = run, checkpoint_every
        self.loss = math.nan
        self.said = -math.inf
        self.skipped = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, text: str) -> None:
        """A line that stays."""
        say(text)

    def asked_to_stop(self) -> None:
        """Confirm a first Ctrl-C. Called from a signal handler, where Python's own streams must not be used."""
        os.write(sys.stderr.fileno(), f"\n{STOPPING}\n".encode())

    def preparing(self, what: str, done: int, total: int) -> None:
        """How far preparing the data is."""
        if time.monotonic() - self.said >= LINE_EVERY:
            self.said = time.monotonic()
            say(f"{what}{f' {done:,}' if done else ''}{f' of {total:,}' if total else ''}")

    def report(self, progress: Progress) -> None:
        """Where training is."""
        self.loss = smoothed(self.loss, progress.loss)
        for event in self.events(progress):
            self.say(event)
        if math.isfinite(progress.loss) and (progress.done or time.monotonic() - self.said >= LINE_EVERY):
            self.said = time.monotonic()
            self.say(" · ".join([f"step {progress.step:,}", *self.figures(progress)]))

    def figures(self, progress: Progress) -> list[str]:
        """The figures of a moment, each in words."""
        left = duration(progress.eta)
        to_save = self.checkpoint_every - progress.step % self.checkpoint_every
        to_end = progress.step * (1 / progress.fraction - 1) if progress.fraction else to_save
        return [
            f"{progress.fraction:.0%}",
            *([f"loss {self.loss:.4f}"] if math.isfinite(self.loss) else []),
            *([f"{progress.images_per_second:,.0f} images/s"] if progress.images_per_second else []),
            *([f"{left} left"] if left and not progress.done else []),
            size(progress.memory),
            *([] if progress.done else [f"checkpoint in {min(to_save, round(to_end)):,} steps"]),
        ]

    def events(self, progress: Progress) -> Iterator[str]:
        """What just happened, in words."""
        yield from progress.notes
        if progress.sampled:
            yield f"step {progress.step:,}: samples in {progress.sampled}"
        if progress.validation is not None:
            seen = progress.figures.get("validation_train")
            beside = "" if seen is None else f", {seen:.4f} on training pictures"
            yield f"step {progress.step:,}: validation loss {progress.validation:.4f}{beside}"
        if progress.saved:
            yield f"step {progress.step:,}: saved {progress.saved}"
        if progress.skipped > self.skipped:
            times = "once" if progress.skipped == 1 else f"{progress.skipped} times"
            yield f"step {progress.step:,}: the loss or its gradient was not finite, {times} so far; nothing learned"
            self.skipped = progress.skipped


class Panel(Lines):
    """Training on a terminal: two lines that stay at the bottom, and what happens above them."""

    def __init__(self, run: str, checkpoint_every: int) -> None:
        super().__init__(run, checkpoint_every)
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.live = Live(self, console=self.console, refresh_per_second=4, transient=True)
        self.progress: Progress | None = None
        self.data = ("Preparing", 0, 0)
        self.stopping = False
        self.at = time.monotonic()

    def __enter__(self) -> Panel:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def say(self, text: str) -> None:
        """A line that stays, above the panel."""
        self.console.print(text, markup=False, soft_wrap=True)

    def asked_to_stop(self) -> None:
        """Confirm a first Ctrl-C: the panel's own thread will say so."""
        self.stopping = True

    def preparing(self, what: str, done: int, total: int) -> None:
        """How far preparing the data is."""
        self.data = (what, done, total)

    def report(self, progress: Progress) -> None:
        """Where training is."""
        self.loss = smoothed(self.loss, progress.loss)
        for event in self.events(progress):
            self.say(event)
        self.progress, self.at = progress, time.monotonic()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The two lines, drawn anew four times a second."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self.progress
        if progress is None:
            what, done, total = self.data
            fraction = done / total if total else None
            head, below = what, f"{done:,} of {total:,}" if total else ""
        else:
            fraction = progress.fraction
            length = f" / {round(progress.step / fraction):,}" if fraction > 0 and progress.step else ""
            head = f"{self.run}  step {progress.step:,}{length}"
            since = time.monotonic() - self.at
            below = " · ".join(self.figures(replace(progress, eta=max(progress.eta - since, 0.0))))
        line = Table.grid(padding=(0, 1), expand=False)
        bar = ProgressBar(total=1.0, completed=fraction or 0.0, pulse=fraction is None, width=24)
        line.add_row(Text(head, style="bold"), bar)
        yield line
        yield Text(
            f"  {STOPPING if self.stopping else below}", style="yellow" if self.stopping else "dim", no_wrap=True
        )


def live(run: str, checkpoint_every: int) -> Lines:
    """What suits where standard output goes: a panel on a terminal, lines elsewhere."""
    shown = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Panel(run, checkpoint_every) if shown else Lines(run, checkpoint_every)


def smoothed(before: float, now: float) -> float:
    """A running mean of the reported losses, over about five reports; what is not finite changes nothing."""
    if not math.isfinite(now):
        return before
    return now if not math.isfinite(before) else 0.8 * before + 0.2 * now


class Stopper:
    """Ctrl-C (or a request to terminate): once asks to stop, which `stopper()` tells; twice stops now.

    Before `gentle` is set there is nothing to finish, and once stops now.
    """

    def __init__(self, confirm: Callable[[], None]) -> None:
        self.confirm = confirm
        self.asked = False
        self.gentle = False
        self._old: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop after this step."""
        return self.asked

    def __enter__(self) -> Stopper:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._old[signum] = signal.signal(signum, self._on)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._old.items():
            signal.signal(signum, handler)

    def _on(self, signum: int, frame: FrameType | None) -> None:
        if self.asked or not self.gentle:
            raise KeyboardInterrupt
        self.asked = True
        self.confirm()


@contextmanager
def bar(what: str) -> Iterator[Callable[[float], None]]:
    """Give a function that is told the fraction done; a bar appears if it takes long, on a terminal."""
    began, shown = time.monotonic(), sys.stderr.isatty()
    progress: Any = None
    task: Any = None

    def told(fraction: float) -> None:
        nonlocal progress, task
        if progress is None and shown and fraction < 1 and time.monotonic() - began > PATIENCE:
            progress = _bars()
            task = progress.add_task(what, total=1.0)
        if progress is not None:
            progress.update(task, completed=fraction)

    try:
        yield told
    finally:
        if progress is not None:
            progress.stop()


@contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """Give a function that is told what is being done and the fraction of it: a bar each on a terminal, else lines."""
    began: dict[str, tuple[float, float]] = {}
    last, current = time.monotonic(), ""
    live: Any = None

    def told(what: str, fraction: float) -> None:
        nonlocal last, current, live
        now = time.monotonic()
        start, first = began.setdefault(what, (now, fraction))  # what an earlier attempt did is not this one's speed
        rate = (fraction - first) / max(now - start, 1e-9)
        left = duration((1 - fraction) / rate) if rate > 0 and fraction < 1 else ""
        if sys.stderr.isatty():
            if live is None and now - last < PATIENCE:
                return
            live = live or _bars()
            if what != current:
                for task in live.task_ids:
                    live.remove_task(task)
                live.add_task(what, total=1.0)
            live.update(live.task_ids[-1], completed=fraction)
            current = what
        elif now - last >= LINE_EVERY and fraction < 1:
            last = now
            say(f"{what}: {fraction:.0%}{f', {left} left' if left else ''}")

    try:
        yield told
    finally:
        if live is not None:
            live.stop()


def _bars() -> Any:
    from rich.console import Console
    from rich.progress import Progress as Bar

    shown = Bar(console=Console(stderr=True), transient=True)
    shown.start()
    return shown


def counted(told: Callable[[float], None]) -> Callable[[str, int, int], None]:
    """The same for those who count: (what, done, total)."""
    return lambda what, done, total: told(done / total if total else 0.0)
