"""Where a run stands, from its events: passes done, passes left, seconds left."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, replace

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

# Passes that tell the time left: enough to hold those that come once a row of windows and read or write more than the
# others, few enough to follow a change. While they are fewer than twice those at the start that may be slower,
# the earlier half is left out.
RECENT_PASSES = 128


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands, over all of its volumes."""

    done: int = 0  # forward passes
    total: int = 0  # grows when memory runs out and passes become smaller
    seconds_left: float | None = None  # passes and labels, as far as is known; None before the first pass is done
    seconds_per_pass: float | None = None  # as the last ones took
    recovered: MemoryRecovered | None = None  # the last time that memory ran out
    noticed: tuple[str, ...] = ()  # sentences on the network that its first passes showed
    decoding: str | None = None  # the decoder that is making labels now
    passes_s: float = 0.0
    decoding_s: float = 0.0
    finished: RunFinished | None = None  # once it has ended by itself


@dataclass(slots=True)
class VolumeProgress:
    """Where one volume of a run stands."""

    total: int  # forward passes
    window_passes: int  # the windows of all of them
    voxels: int = 0  # that labels are made of
    expected_s: float | None = None  # how long making them took before; None: not known
    done: int = 0
    windows_done: int = 0
    seconds: float = 0.0  # that it took, once it is finished; of them those of its passes and of making labels
    passes_s: float = 0.0
    decoding_s: float = 0.0


class ProgressMeter:
    """Turns the events of a run into `Progress`, one after the other, volume by volume."""

    def __init__(self) -> None:
        self.progress = Progress()
        self.volumes: list[VolumeProgress] = []  # none before the run starts
        self._decoded: list[tuple[int, float]] = []
        self._next_decoded = 0
        self._passes_left_s: float | None = None
        self._last_pass = 0.0  # when it ended, or its volume began
        self._recent: deque[PassFinished] = deque(maxlen=RECENT_PASSES)
        self._since = 0  # passes since the start, or since memory ran out
        self._batch = 1  # windows of a pass at most
        self._repeats_windows = False  # which no plan has counted

    def observe(self, event: Event) -> None:
        """Take one event into account."""
        now = self.progress
        match event:
            case RunStarted():
                self.volumes = [
                    VolumeProgress(each.forward_passes, each.window_passes, each.decoded_voxels, each.decoding_s)
                    for each in event.volumes
                ]
                self._batch = event.sw_batch_size
                self.progress = replace(now, total=self._total)
            case VolumeStarted():
                self._start(event)
            case PassFinished():
                self._count(event)
            case MemoryRecovered():
                self._recent.clear()  # smaller passes take another time
                self._since = 0
                self._repeats_windows |= event.step is Recovery.BLOCKS
                self.progress = replace(now, recovered=event)
            case Noticed(sentence=sentence) if sentence not in now.noticed:
                self.progress = replace(now, noticed=(*now.noticed, sentence))
            case DecodingStarted(decoder=decoder):
                self.progress = replace(now, decoding=decoder, seconds_left=self._seconds_left)
            case DecodingFinished(volume=volume, voxels=voxels, seconds=seconds):
                self._decoded.append((voxels, seconds))
                self._next_decoded = volume + 1
                self.volumes[volume].decoding_s = seconds
                decoding_s = now.decoding_s + seconds
                self.progress = replace(now, decoding=None, decoding_s=decoding_s, seconds_left=self._seconds_left)
            case VolumeFinished(volume=volume, seconds=seconds):
                self.volumes[volume].seconds = seconds
                self.progress = replace(now, decoding=None, seconds_left=self._seconds_left)
            case RunFinished():
                self.progress = replace(now, decoding=None, seconds_left=0.0, finished=event)

    @property
    def decoding_left_s(self) -> float:
        """Of labels that are not made yet, as far as is known."""
        shown, left_s = DecodingTime.fit(self._decoded), 0.0
        for volume in self.volumes[self._next_decoded :]:
            # What this run has shown counts first.
            expected_s = None if shown is None else shown.of(volume.voxels)
            left_s += (expected_s if expected_s is not None else volume.expected_s or 0.0) if volume.voxels else 0.0
        return left_s

    @property
    def _total(self) -> int:
        return sum(volume.total for volume in self.volumes)

    @property
    def _seconds_left(self) -> float | None:
        return None if self._passes_left_s is None else self._passes_left_s + self.decoding_left_s

    def _start(self, event: VolumeStarted) -> None:
        self._next_decoded = event.volume  # of one that failed no labels are made
        self._last_pass = time.perf_counter()
        volume = self.volumes[event.volume]
        volume.total, volume.window_passes = event.forward_passes, event.window_passes
        self.progress = replace(self.progress, total=self._total, decoding=None)

    def _count(self, event: PassFinished) -> None:
        ended = time.perf_counter()
        self._recent.append(event)
        self._since += 1
        if self._since % 2 == 0 and self._since <= 2 * WARM_UP_PASSES:
            self._recent.popleft()
        volume = self.volumes[event.volume]
        volume.done, volume.total = event.done, event.total
        volume.windows_done += event.windows
        volume.passes_s += ended - self._last_pass
        per_window_s = _seconds_per_window(self._recent)
        per_pass = sum(each.windows for each in self._recent) / len(self._recent)
        self._passes_left_s = per_window_s * self._windows_left(event.volume, per_pass)
        self.progress = replace(
            self.progress,
            done=sum(each.done for each in self.volumes),
            total=self._total,
            passes_s=self.progress.passes_s + ended - self._last_pass,
            seconds_per_pass=per_window_s * per_pass,
            seconds_left=self._seconds_left,
        )
        self._last_pass = ended

    def _windows_left(self, volume: int, per_pass: float) -> float:
        # Windows are counted, each for every pass that it goes through: passes of unequal size are no measure of work.
        to_do = self.volumes[volume:]  # those before it are finished, or failed
        passes = sum(each.total - each.done for each in to_do)
        if self._repeats_windows:
            return passes * per_pass
        left = sum(each.window_passes - each.windows_done for each in to_do)
        return min(max(left, passes), passes * self._batch)  # where memory ran out, some are passed again


def _seconds_per_window(passes: Collection[PassFinished]) -> float:
    """Return the seconds per window of *passes*; the slowest counts as the second slowest, as it may be an accident."""
    limit = sorted(each.seconds / each.windows for each in passes)[-2:][0]
    return sum(min(each.seconds, limit * each.windows) for each in passes) / sum(each.windows for each in passes)
