"""Shows how uploads and jobs get on: bars on a terminal, a few lines elsewhere.

Everything here goes to stderr; results go to stdout, so that a pipe gets only them.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress as RichProgress,
    ProgressColumn,
    TaskID,
    TextColumn,
)

from asyncflow.cli.terminal import clean, name_of, shorten, size_text, time_text
from asyncflow.client import Job, Progress

# a log wants to know that it goes on, not every percent
_LINE_EVERY_S = 3.0
# below this width a bar tells less than the figures beside it
_WIDTH_FOR_BARS = 60
_WINDOW_S = 5.0
STEP_OVER = frozenset({"done", "skipped", "dead", "cancelled"})


class Reporter(Protocol):
    """Where progress is told; *label* is a file's name."""

    def sending(self, label: str, progress: Progress) -> None:
        """Tell how much of a file is over there."""
        ...

    def working(self, label: str, job: Job) -> None:
        """Tell how far a job is."""
        ...

    def share(self, label: str, percent: float, text: str) -> None:
        """Tell how far anything else is, 0 to 100."""
        ...

    def done(self, label: str) -> None:
        """Stop showing a file."""
        ...

    def note(self, text: str) -> None:
        """Tell something in passing."""
        ...

    def result(self, text: str) -> None:
        """Print a line of the result on stdout."""
        ...


class Silence:
    """Tells results only."""

    def sending(self, label: str, progress: Progress) -> None:
        """Tell nothing."""

    def working(self, label: str, job: Job) -> None:
        """Tell nothing."""

    def share(self, label: str, percent: float, text: str) -> None:
        """Tell nothing."""

    def done(self, label: str) -> None:
        """Tell nothing."""

    def note(self, text: str) -> None:
        """Tell nothing."""

    def result(self, text: str) -> None:
        """Print it."""
        click.echo(text)


@dataclass(slots=True)
class _Rate:
    """Bytes per second over the last few seconds."""

    seen: list[tuple[float, int]] = field(default_factory=list)

    def at(self, count: int, now: float) -> float | None:
        """Return the rate once there is enough to tell one."""
        self.seen.append((now, count))
        while len(self.seen) > 2 and self.seen[1][0] < now - _WINDOW_S:  # noqa: PLR2004 -- two points make a rate
            del self.seen[0]
        then, before = self.seen[0]
        return (count - before) / (now - then) if now > then else None


def figures(progress: Progress, rate: float | None) -> str:
    """Say `45 % of 1.2 GiB · 3.4 MiB/s · 12 s left`."""
    total = progress.total_bytes
    parts = [f"{percent_of(progress):3.0f} % of {size_text(total)}"]
    if rate:
        parts.append(f"{size_text(rate)}/s")
        if progress.sent_bytes < total:
            parts.append(f"{time_text((total - progress.sent_bytes) / rate)} left")
    return " · ".join(parts)


def percent_of(progress: Progress) -> float:
    """Return how much of the file is over there; all of it if it is empty."""
    if progress.total_bytes == 0:
        return 100.0
    return 100 * progress.sent_bytes / progress.total_bytes


def share_of(job: Job) -> float:
    """Return how far *job* is, 0 to 100: of its upload first, then of its steps."""
    if job.is_final:
        return 100.0
    if job.status == "UPLOADING":
        return 100.0 * (job.uploaded_bytes or 0) / (job.file_size or 1)
    done = sum(100.0 if s.status in STEP_OVER else s.progress for s in job.steps)
    return done / len(job.steps) if job.steps else 0.0


def step_text(job: Job) -> str:
    """Say what happens to *job* now: `image 40 %`, `image retries`, `waiting`."""
    if job.is_final:
        return job.status
    for wanted in ("running", "retrying", "ready"):
        for step in job.steps:
            if step.status != wanted:
                continue
            if wanted == "running":
                return f"{step.name} {step.progress:.0f} %"
            return f"{step.name} {'tries again' if wanted == 'retrying' else 'waits'}"
    return job.status.lower()


class Lines:
    """Tells progress in single lines, seldom."""

    def __init__(self) -> None:
        self._rates: dict[str, _Rate] = {}
        self._told: dict[str, float] = {}
        self._whole: set[str] = set()
        self._texts: dict[str, str] = {}

    def sending(self, label: str, progress: Progress) -> None:
        """Print a line every few seconds, and one when all of it is over there."""
        now = time.monotonic()
        rate = self._rates.setdefault(label, _Rate()).at(progress.sent_bytes, now)
        if label in self._whole:
            return  # the last answer tells the same as the last piece
        if progress.sent_bytes == progress.total_bytes:
            self._whole.add(label)
        elif now - self._told.setdefault(label, now) < _LINE_EVERY_S:
            return
        self._told[label] = now
        self.note(f"{name_of(label)}: {figures(progress, rate)}")

    def working(self, label: str, job: Job) -> None:
        """Print a line when a step begins or ends."""
        for step in job.steps:
            self.share(f"{label}: {step.name}", step.progress, step.status)

    def share(self, label: str, percent: float, text: str) -> None:  # noqa: ARG002 -- a line for each percent would be many
        """Print a line when the text is another one."""
        if text != self._texts.get(label) and text not in {"waiting", "ready"}:
            self.note(f"{name_of(label)} {clean(text)}")
        self._texts[label] = text

    def done(self, label: str) -> None:
        """Forget what was told about a file."""
        self._rates.pop(label, None)
        self._told.pop(label, None)
        self._whole.discard(label)
        steps = [known for known in self._texts if known.startswith(f"{label}: ")]
        for known in steps:
            del self._texts[known]

    def note(self, text: str) -> None:
        """Print a line."""
        click.echo(text, err=True)

    def result(self, text: str) -> None:
        """Print a line of the result."""
        click.echo(text)


class Bars:
    """Draws a bar per file on the terminal behind stderr."""

    def __init__(self, console: Console) -> None:
        columns: list[ProgressColumn] = [TextColumn("{task.description}", markup=False)]
        if console.width >= _WIDTH_FOR_BARS:
            columns.append(BarColumn(bar_width=None))
        columns.append(TextColumn("{task.fields[figures]}", markup=False))
        self.progress = RichProgress(
            *columns,
            console=console,
            expand=True,
            # a result that goes into a pipe must not be taken to the terminal
            redirect_stdout=sys.stdout.isatty(),
        )
        self._console = console
        self._rates: dict[str, _Rate] = {}
        self._bars: dict[str, TaskID] = {}

    def sending(self, label: str, progress: Progress) -> None:
        """Move the bar to where the upload is."""
        rate = self._rates.setdefault(label, _Rate())
        text = figures(progress, rate.at(progress.sent_bytes, time.monotonic()))
        self.share(label, percent_of(progress), text)

    def working(self, label: str, job: Job) -> None:
        """Move the bar to where the job is."""
        self.share(label, share_of(job), step_text(job))

    def share(self, label: str, percent: float, text: str) -> None:
        """Move the bar."""
        bar = self._bars.get(label)
        if bar is None:
            name = shorten(name_of(label), max(8, self._console.width // 3))
            bar = self.progress.add_task(name, total=100.0, figures="")
            self._bars[label] = bar
        self.progress.update(bar, completed=percent, figures=text)

    def done(self, label: str) -> None:
        """Take the bar away: a line of the result takes its place."""
        self._rates.pop(label, None)
        bar = self._bars.pop(label, None)
        if bar is not None:
            self.progress.remove_task(bar)

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(text, soft_wrap=True)

    def result(self, text: str) -> None:
        """Print a line of the result; above the bars if both share a terminal."""
        if sys.stdout.isatty():
            self._console.print(text, soft_wrap=True)
        else:
            click.echo(text)


@contextmanager
def reporter(*, quiet: bool = False) -> Iterator[Reporter]:
    """Yield what suits the place stderr goes to."""
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if quiet:
        yield Silence()
    elif console.is_terminal and not console.is_dumb_terminal:
        bars = Bars(console)
        with bars.progress:
            yield bars
    else:
        yield Lines()
