"""What a run shows on stderr: a bar that a person watches, or now and then a line for a log."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.progress import BarColumn, Progress, TextColumn

from napari_tessera.cli.console import ERR, say, stderr_is_terminal
from napari_tessera.core.errors import without_control
from napari_tessera.core.units import format_duration
from napari_tessera.engine.loop.events import (
    DecodingStarted,
    Event,
    MemoryRecovered,
    PassFinished,
    VolumeStarted,
)
from napari_tessera.jobs.progress_meter import ProgressMeter, VolumeProgress

if TYPE_CHECKING:
    from napari_tessera import Plan

# Often enough to see that a job lives, rarely enough for its log to stay readable.
LINE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """What the run does, and its forward passes; those of a volume that failed count as done."""

    text: str
    done: int
    total: int
    seconds_left: float | None

    @property
    def time_left(self) -> str:
        """The time left in words, or nothing."""
        return "" if self.seconds_left is None else f"{format_duration(self.seconds_left)} left"


class RunProgress:
    """Counts passes and seconds, volume by volume, from the run's events; subclasses show them."""

    def __init__(self, planned: Plan, names: Sequence[str]) -> None:
        self._names = names
        self._planned = planned.forward_passes
        self._meter = ProgressMeter()
        self.recovered: list[MemoryRecovered] = []

    @property
    def volumes(self) -> Sequence[VolumeProgress]:
        """What each volume has taken until now; nothing before the run starts."""
        return self._meter.volumes

    @property
    def noticed(self) -> tuple[str, ...]:
        """Sentences on the network that its first passes showed."""
        return self._meter.progress.noticed

    @property
    def passes(self) -> int:
        """Forward passes made in the whole run."""
        return self._meter.progress.done

    @property
    def total(self) -> int:
        """Forward passes of the whole run; grows when memory ran out."""
        return self._meter.progress.total or self._planned

    def __call__(self, event: Event) -> None:
        """Take in one event and show what it changes."""
        noticed = len(self.noticed)
        self._meter.observe(event)
        match event:
            case VolumeStarted(volume=volume) | PassFinished(volume=volume):
                self._show(volume, "")
            case DecodingStarted(volume=volume, decoder=decoder):
                self._show(volume, f": {decoder}")
            case MemoryRecovered():
                self.recovered.append(event)
                self.note_recovery(event)
        for sentence in self.noticed[noticed:]:
            say(sentence, kind="Warning")

    def _show(self, volume: int, stage: str) -> None:
        done = sum(each.total for each in self.volumes[:volume]) + self.volumes[volume].done
        which = f" ({volume + 1} of {len(self._names)})" if len(self._names) > 1 else ""
        left_s = self._meter.progress.seconds_left
        self.show(Status(f"{self._names[volume]}{which}{stage}", done, self.total, left_s or None))

    def show(self, status: Status) -> None:
        """Show *status*; nothing here, for ``--quiet``."""

    def note_recovery(self, event: MemoryRecovered) -> None:
        """Say what was done when memory ran out; also when quiet, as the user will want to change the setting."""
        say(
            f"{self._names[event.volume]}: memory was full at pass {event.failed_pass}: going on with {event.remedy}",
            kind="Warning",
        )


class BarProgress(RunProgress):
    """One bar over all passes of the run."""

    def __init__(self, planned: Plan, names: Sequence[str]) -> None:
        super().__init__(planned, names)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed} / {task.total} passes", markup=False),
            TextColumn("{task.fields[time_left]}", markup=False),
        )
        self.bar = Progress(*columns, console=ERR, transient=True, redirect_stdout=False)
        self._task = self.bar.add_task(without_control(f"reading {names[0]}"), total=self.total, time_left="")

    def show(self, status: Status) -> None:
        """Move the bar."""
        self.bar.update(
            self._task,
            description=without_control(status.text),
            completed=status.done,
            total=status.total,
            time_left=status.time_left,
        )


class LineProgress(RunProgress):
    """A line when a volume begins, when its labels are made, and every few seconds between."""

    def __init__(self, planned: Plan, names: Sequence[str], *, every_s: float = LINE_EVERY_S) -> None:
        super().__init__(planned, names)
        self._every_s = every_s
        self._last = time.monotonic()
        self._text = ""

    def show(self, status: Status) -> None:
        """Write a line if something new happens or enough time has passed."""
        now = time.monotonic()
        if status.text == self._text and now - self._last < self._every_s:
            return
        self._text, self._last = status.text, now
        left = f", {status.time_left}" if status.time_left else ""
        say(f"{status.text}: {status.done} of {status.total} passes{left}")


@contextmanager
def show_progress(planned: Plan, names: Sequence[str], *, quiet: bool = False) -> Iterator[RunProgress]:
    """Yield an event handler that shows the run as the place where stderr goes allows."""
    if quiet:
        yield RunProgress(planned, names)
    elif stderr_is_terminal():
        progress = BarProgress(planned, names)
        with progress.bar:
            yield progress
    else:
        yield LineProgress(planned, names)
