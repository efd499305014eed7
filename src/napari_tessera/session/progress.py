"""Where a run stands, from its events: passes done, passes left, seconds left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING

from napari_tessera.engine.loop.events import (
    DecodingFinished,
    DecodingStarted,
    Event,
    MemoryRecovered,
    Noticed,
    PassFinished,
    Recovery,
    RunFinished,
    RunStarted,
    VolumeFinished,
    VolumeStarted,
)
from napari_tessera.memory.calibration.pass_time import WARM_UP_PASSES, DecodingTime

if TYPE_CHECKING:
    from napari_tessera.planning.plan import Plan

# Passes that tell the time left: enough to hold those that come once a row of windows and read or write more than the
# others, few enough to follow a change of pace. While they are fewer than twice those at the start that may be slower,
# the earlier half is left out.
RECENT_PASSES = 128


@dataclass(frozen=True, slots=True)
class Progress:
    """A run's progress.

    Parameters
    ----------
    done, total
        Forward passes over all volumes; *total* grows when memory runs out and passes become smaller.
    seconds_left
        Time that the passes left will take, at the pace of the last ones, and making labels, as far as is known; None
        before the first pass is done.
    seconds_per_pass
        That pace.
    recovered
        The last time that memory ran out.
    noticed
        Sentences on the network that its first passes showed.
    decoding
        The decoder that is making labels now.
    passes_s, decoding_s
        Time that passes and making labels have taken, over all volumes.
    finished
        The run's closing words, once it has ended by itself.
    """

    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    seconds_per_pass: float | None = None
    recovered: MemoryRecovered | None = None
    noticed: tuple[str, ...] = ()
    decoding: str | None = None
    passes_s: float = 0.0
    decoding_s: float = 0.0
    finished: RunFinished | None = None


class ProgressMeter:
    """Turns events into `Progress`, one after the other.

    Parameters
    ----------
    plan
        What is run, which says how long making labels may take; None while it is not known.
    """

    def __init__(self, plan: Plan | None = None) -> None:
        self.progress = Progress()
        self._voxels: Sequence[int] = ()
        self._known: DecodingTime | None = None
        self._decoded: list[tuple[int, float]] = []
        self._next_decoded = 0
        self._passes_left_s: float | None = None
        self._last_pass = 0.0  # when it ended, or its volume began
        self._earlier = 0
        self._done_here = 0
        self._planned_here = 0
        self._windows = _WindowCount(RunStarted(0, 0, 0))
        self._recent: deque[PassFinished] = deque(maxlen=RECENT_PASSES)
        self._since = 0  # passes since the start, or since memory ran out
        if plan is not None:
            self.expect_decoding(plan)

    def expect_decoding(self, plan: Plan) -> None:
        """Take from *plan* what labels will be made of, and how long that takes."""
        self._voxels = [volume.decoded_voxels for volume in plan.volumes] if plan.settings.decoder else ()
        self._known = plan.decoding

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        now = self.progress
        if isinstance(event, RunStarted):
            self._windows = _WindowCount(event)
            self.progress = replace(now, total=event.forward_passes)
        elif isinstance(event, VolumeStarted):
            self._start(event)
        elif isinstance(event, PassFinished):
            self._count(event)
        elif isinstance(event, MemoryRecovered):
            self._recent.clear()  # smaller passes have another pace
            self._since = 0
            self._windows.note_recovery(event)
            self.progress = replace(now, recovered=event)
        elif isinstance(event, Noticed):
            if event.sentence not in now.noticed:
                self.progress = replace(now, noticed=(*now.noticed, event.sentence))
        elif isinstance(event, DecodingStarted):
            self.progress = replace(now, decoding=event.decoder, seconds_left=self._seconds_left)
        elif isinstance(event, DecodingFinished):
            self._decoded.append((event.voxels, event.seconds))
            self._next_decoded = event.volume + 1
            decoding_s = now.decoding_s + event.seconds
            self.progress = replace(now, decoding=None, decoding_s=decoding_s, seconds_left=self._seconds_left)
        elif isinstance(event, VolumeFinished):
            self.progress = replace(now, decoding=None, seconds_left=self._seconds_left)
        elif isinstance(event, RunFinished):
            self.progress = replace(now, decoding=None, seconds_left=0.0, finished=event)

    @property
    def decoding_left_s(self) -> float:
        """Of labels that are not made yet, as far as is known."""
        shown, left_s = DecodingTime.fit(self._decoded), 0.0
        for voxels in self._voxels[self._next_decoded :]:
            # What this run has shown counts first.
            expected = (time.of(voxels) for time in (shown, self._known) if time is not None)
            left_s += next((seconds for seconds in expected if seconds is not None), 0.0)
        return left_s

    @property
    def _seconds_left(self) -> float | None:
        return None if self._passes_left_s is None else self._passes_left_s + self.decoding_left_s

    def _start(self, event: VolumeStarted) -> None:
        self._next_decoded = event.volume  # of one that failed no labels are made
        self._last_pass = time.perf_counter()
        self._earlier += self._done_here
        self._done_here, self._planned_here = 0, event.forward_passes
        is_last = self._windows.start(event)
        total = self._earlier + event.forward_passes if is_last else self.progress.total
        self.progress = replace(self.progress, total=total, decoding=None)

    def _count(self, event: PassFinished) -> None:
        ended = time.perf_counter()
        self._recent.append(event)
        self._since += 1
        if self._since % 2 == 0 and self._since <= 2 * WARM_UP_PASSES:
            self._recent.popleft()
        now = self.progress
        self._done_here = event.done
        total = now.total + event.total - self._planned_here
        self._planned_here = event.total
        done = self._earlier + event.done
        self._windows.add(event.windows)
        per_window_s = _pace(self._recent)
        per_pass = sum(each.windows for each in self._recent) / len(self._recent)
        self._passes_left_s = per_window_s * self._windows.left(total - done, per_pass)
        self.progress = replace(
            now,
            done=done,
            total=total,
            passes_s=now.passes_s + ended - self._last_pass,
            seconds_per_pass=per_window_s * per_pass,
            seconds_left=self._seconds_left,
        )
        self._last_pass = ended


def _pace(passes: Collection[PassFinished]) -> float:
    """Return the seconds per window of *passes*; the slowest counts as the second slowest, as it may be an accident."""
    limit = sorted(each.seconds / each.windows for each in passes)[-2:][0]
    return sum(min(each.seconds, limit * each.windows) for each in passes) / sum(each.windows for each in passes)


class _WindowCount:
    """Counts windows, each once for every pass that it goes through: passes of unequal size are no measure of work.

    Events give the windows of the whole run once, and the passes. How often a window is passed follows from both where
    every volume is one block: then the last batch of each volume, and no other, holds fewer windows than the rest.
    """

    def __init__(self, run: RunStarted) -> None:
        self._run = run
        self._promised = 0
        self._divisor = run.forward_passes  # whatever number of views there is, it divides the passes of any volume
        self._share = 1.0  # of the plan's windows, which may all be counted before empty ones are looked for
        self._batch = -(-run.windows // max(run.forward_passes, 1))  # at least
        self._done = 0

    def start(self, event: VolumeStarted) -> bool:
        """Take note of a volume, and return whether it is the last one, so that all passes are known."""
        self._promised += event.forward_passes
        self._divisor = gcd(self._divisor, event.forward_passes)
        is_last = event.volume == self._run.volumes - 1
        if is_last and self._run.forward_passes:
            self._share = self._promised / self._run.forward_passes
        return is_last

    def add(self, windows: int) -> None:
        """Count the windows of one pass."""
        self._done += windows
        self._batch = max(self._batch, windows)

    def note_recovery(self, event: MemoryRecovered) -> None:
        """Learn the planned batch from the pass that failed; smaller blocks repeat windows that the plan did not."""
        self._batch = max(self._batch, event.failed_batch)
        if event.step is Recovery.BLOCKS:
            self._run = replace(self._run, windows=0)

    def left(self, passes_left: int, per_pass: float) -> float:
        """Return the windows of *passes_left* passes, where the last ones held *per_pass* windows."""
        by_passes = passes_left * per_pass
        totals = [n * self._run.windows * self._share for n in self._possible_views()]
        if not totals:
            return by_passes
        left = min((total - self._done for total in totals), key=lambda windows: abs(windows - by_passes))
        return min(max(left, passes_left), passes_left * self._batch)

    def _possible_views(self) -> list[int]:
        """Return how often each window may be passed, by the plan's numbers; nothing where blocks repeat some."""
        windows, passes, volumes = self._run.windows, self._run.forward_passes, self._run.volumes
        if not windows:
            return []
        fewest = -(-windows // self._batch)  # were the batches of one volume filled up from the next
        most = (windows + volumes * (self._batch - 1)) // self._batch  # held the last pass of each volume one window
        return [n for n in range(1, passes // fewest + 1) if self._divisor % n == 0 and fewest <= passes // n <= most]
