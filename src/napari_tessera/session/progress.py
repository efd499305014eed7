"""Where a run stands, from its events: passes done, passes left, seconds left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

from napari_tessera.engine.events import (
    DecodingStarted,
    Event,
    MemoryRecovered,
    PassFinished,
    RunFinished,
    RunStarted,
    VolumeFinished,
    VolumeStarted,
)

__all__ = ["Progress", "ProgressMeter"]

# Passes whose mean duration tells the time left; enough to be steady, few enough to follow a change of pace.
RECENT_PASSES = 32


@dataclass(frozen=True, slots=True)
class Progress:
    """A run's progress.

    Parameters
    ----------
    done, total
        Forward passes over all volumes; *total* grows when memory runs out and passes become smaller.
    seconds_left
        Time that the passes left will take, at the pace of the last ones; None before the first is done.
    seconds_per_pass
        That pace.
    recovered
        The last time that memory ran out.
    decoding
        The decoder that is making labels now.
    finished
        The run's closing words, once it has ended by itself.
    """

    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    seconds_per_pass: float | None = None
    recovered: MemoryRecovered | None = None
    decoding: str | None = None
    finished: RunFinished | None = None


class ProgressMeter:
    """Turns events into `Progress`, one after the other."""

    def __init__(self) -> None:
        self.progress = Progress()
        self._earlier = 0
        self._done_here = 0
        self._planned_here = 0
        self._durations: deque[float] = deque(maxlen=RECENT_PASSES)
        self._warm = False

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        now = self.progress
        if isinstance(event, RunStarted):
            self.progress = replace(now, total=event.forward_passes)
        elif isinstance(event, VolumeStarted):
            self._earlier += self._done_here
            self._done_here, self._planned_here = 0, event.forward_passes
            self.progress = replace(now, decoding=None)
        elif isinstance(event, PassFinished):
            self._count(event)
        elif isinstance(event, MemoryRecovered):
            self._durations.clear()  # smaller passes have another pace
            self.progress = replace(now, recovered=event)
        elif isinstance(event, DecodingStarted):
            self.progress = replace(now, decoding=event.decoder)
        elif isinstance(event, VolumeFinished):
            self.progress = replace(now, decoding=None)
        elif isinstance(event, RunFinished):
            self.progress = replace(now, decoding=None, seconds_left=0.0, finished=event)

    def _count(self, event: PassFinished) -> None:
        if self._warm:  # the very first pass fills caches and is slower than all others
            self._durations.append(event.seconds)
        self._warm = True
        now = self.progress
        self._done_here = event.done
        total = now.total + event.total - self._planned_here
        self._planned_here = event.total
        done = self._earlier + event.done
        durations = self._durations or [event.seconds]
        pace = sum(durations) / len(durations)
        self.progress = replace(now, done=done, total=total, seconds_per_pass=pace, seconds_left=pace * (total - done))
