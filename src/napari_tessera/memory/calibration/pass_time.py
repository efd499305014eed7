"""How long a run will take: forward passes, and making labels. Neither torch nor a device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median, median_low

# Passes at the start that may be slower than all others, as they fill caches and wake cores: 2 s of a bundled network's
# run on two cores (benchmarks/eta.py).
WARM_UP_PASSES = 4
# Labels of fewer voxels are made within a second or two, most of which any volume takes, such as loading libraries.
SMALL_VOXELS = 2**20


@dataclass(frozen=True, slots=True)
class PassTime:
    """What forward passes cost, by how many windows they hold.

    Between the numbers of windows that were timed, seconds are interpolated. Beyond them a window is taken to cost what
    it does at the nearest: that larger passes are cheaper is believed only as far as it was seen. A pass over one
    window is a point of its own, as devices may have other kernels for it.

    Parameters
    ----------
    points
        (windows, seconds), ascending in windows, at least one.

    Examples
    --------
    >>> pass_time = PassTime.fit([(1, 0.3), (1, 0.3), (1, 9.0), (4, 0.9)])
    >>> [round(pass_time.of_pass(windows), 3) for windows in (1, 2, 4, 8)]
    [0.3, 0.5, 0.9, 1.8]
    >>> round(pass_time.seconds([10], sw_batch_size=4, views=2), 3)  # (4 + 4 + 2 windows) x 2 views
    4.6
    """

    points: tuple[tuple[int, float], ...]

    @classmethod
    def fit(cls, samples: Sequence[tuple[int, float]]) -> PassTime:
        """Return what *samples* show: the median of each number of windows, of two the shorter.

        Passes over more windows are not taken to need less time, one window apart: where they seem to, it was noise.
        *samples*: (windows, seconds) of passes, windows >= 1, at least one.
        """
        timed: dict[int, list[float]] = defaultdict(list)
        for windows, seconds in samples:
            timed[windows].append(seconds)
        points: list[tuple[int, float]] = []
        for windows in sorted(timed):
            seconds = median_low(timed[windows])  # what disturbs a pass makes it longer
            if points and points[-1][0] > 1:
                seconds = max(seconds, points[-1][1])
            points.append((windows, seconds))
        return cls(tuple(points))

    @property
    def compares_batches(self) -> bool:
        """Whether passes over different numbers of windows were timed: only then does it say which is fastest."""
        return len(self.points) > 1

    def of_pass(self, windows: int) -> float:
        """Return the seconds of a pass over *windows*, >= 1."""
        for (fewer, low), (more, high) in pairwise(self.points):
            if fewer <= windows <= more:
                return low + (high - low) * (windows - fewer) / (more - fewer)
        nearest, seconds = self.points[0] if windows < self.points[0][0] else self.points[-1]
        return seconds * windows / nearest

    def seconds(self, block_windows: Sequence[int], sw_batch_size: int, views: int) -> float:
        """Return the seconds of all passes over one volume; *views*: passes of every batch of windows.

        A batch never mixes blocks, so the last pass of each may hold fewer.
        """
        full = sum(windows // sw_batch_size for windows in block_windows)
        rests = [windows % sw_batch_size for windows in block_windows if windows % sw_batch_size]
        return views * (full * self.of_pass(sw_batch_size) + sum(map(self.of_pass, rests)))

    def scaled(self, voxels_ratio: float) -> PassTime:
        """Return the time for windows of *voxels_ratio* times the voxels, each voxel taken to cost as much."""
        return PassTime(tuple((windows, seconds * voxels_ratio) for windows, seconds in self.points))

    def to_dict(self) -> dict[int, float]:
        """Return the seconds by the number of windows, for JSON."""
        return dict(self.points)


@dataclass(frozen=True, slots=True)
class DecodingTime:
    """How long making labels takes.

    Parameters
    ----------
    fixed_s
        What any volume takes, however small.
    s_per_voxel
        What each voxel takes beside that; None where only small volumes were timed, which do not tell.

    Examples
    --------
    >>> time = DecodingTime.fit([(1, 0.5), (2_000_000, 8.5), (4_000_000, 16.5)])
    >>> time.of(10_000_000)
    40.5
    """

    fixed_s: float
    s_per_voxel: float | None

    @classmethod
    def fit(cls, samples: Sequence[tuple[int, float]]) -> DecodingTime | None:
        """Return what *samples*, (voxels, seconds) of volumes, show by their medians; None if there is none."""
        if not samples:
            return None
        small = [seconds for voxels, seconds in samples if is_small(voxels)]
        fixed_s = median(small) if small else 0.0
        # At most half: had libraries to be loaded for the small ones alone, a voxel would seem to take nothing.
        rates = [max(seconds - fixed_s, seconds / 2) / voxels for voxels, seconds in samples if not is_small(voxels)]
        return cls(fixed_s, median(rates) if rates else None)

    def of(self, voxels: int) -> float | None:
        """Return the seconds that a volume of *voxels* takes; None where that cannot be told."""
        if self.s_per_voxel is None:
            return self.fixed_s if is_small(voxels) else None
        return self.fixed_s + self.s_per_voxel * voxels


def is_small(voxels: int) -> bool:
    """Whether the time that labels of so many voxels take says nothing of larger volumes."""
    return voxels < SMALL_VOXELS
