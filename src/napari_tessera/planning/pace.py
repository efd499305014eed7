"""How long a run will take: what a forward pass costs, times the passes of a plan. Neither torch nor a device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, median
from typing import TYPE_CHECKING

from napari_tessera.engine.grid import count_forward_passes

if TYPE_CHECKING:
    from napari_tessera.planning.plan import Plan

__all__ = ["Pace"]


@dataclass(frozen=True, slots=True)
class Pace:
    """What forward passes cost: one over n windows takes ``per_pass_s + n * per_window_s``.

    Parameters
    ----------
    per_pass_s
        Seconds that any pass takes however few windows it holds, >= 0.
    per_window_s
        Seconds for each window on top, >= 0.
    compares_batches
        Whether passes over different numbers of windows were timed: only then does it say which number is fastest.

    Examples
    --------
    >>> pace = Pace.fit([(1, 0.3), (1, 0.3), (1, 9.0), (4, 0.9)])
    >>> round(pace.per_pass_s, 3), round(pace.per_window_s, 3)
    (0.1, 0.2)
    >>> round(pace.seconds([10], sw_batch_size=4, views=2), 3)  # (4 + 4 + 2 windows) x 2 views
    4.6
    """

    per_pass_s: float
    per_window_s: float
    compares_batches: bool = True

    @classmethod
    def fit(cls, samples: Sequence[tuple[int, float]]) -> Pace:
        """Return the pace that suits *samples* best: least squares over the median of each number of windows.

        Parameters
        ----------
        samples
            (windows, seconds) of passes, windows >= 1, at least one. Where all held as many windows, what a pass costs
            by itself cannot be told apart and is taken to be nothing; see `compares_batches`.

        Raises
        ------
        ValueError
            If there is no sample.
        """
        if not samples:
            raise ValueError("a pace needs at least one pass that has been timed")
        timed: dict[int, list[float]] = defaultdict(list)
        for windows, seconds in samples:
            timed[windows].append(seconds)
        points = [(windows, median(seconds)) for windows, seconds in timed.items()]
        mean_windows, mean_s = fmean(n for n, _ in points), fmean(s for _, s in points)
        spread = sum((n - mean_windows) ** 2 for n, _ in points)
        through_zero = sum(n * s for n, s in points) / sum(n * n for n, _ in points)
        if spread == 0:
            return cls(0.0, through_zero, compares_batches=False)
        slope = sum((n - mean_windows) * (s - mean_s) for n, s in points) / spread
        if slope < 0:
            return cls(mean_s, 0.0)
        per_pass_s = mean_s - slope * mean_windows
        return cls(per_pass_s, slope) if per_pass_s >= 0 else cls(0.0, through_zero)

    def seconds(self, block_windows: Sequence[int], sw_batch_size: int, views: int) -> float:
        """Return the seconds of all passes over one volume.

        Parameters
        ----------
        block_windows
            Windows of each block. A batch never mixes blocks, so the last pass of each may hold fewer.
        sw_batch_size
            Windows per forward pass, >= 1.
        views
            Passes of every batch of windows, >= 1: the views, or 1 where each window sees a view of its own.
        """
        passes = sum(count_forward_passes(n, sw_batch_size=sw_batch_size, n_views=views) for n in block_windows)
        return passes * self.per_pass_s + views * sum(block_windows) * self.per_window_s

    def of_plan(self, plan: Plan) -> float:
        """Return the seconds of all passes of *plan*; devices that share a volume's blocks work side by side."""
        batch, views = plan.settings.sw_batch_size, plan.views_per_pass
        return sum(
            self.seconds(volume.block_windows, batch, views) / min(plan.device.count, len(volume.blocks))
            for volume in plan.volumes
        )

    def scaled(self, voxels_ratio: float) -> Pace:
        """Return the pace for windows of *voxels_ratio* times the voxels, each voxel taken to cost as much."""
        return replace(self, per_window_s=self.per_window_s * voxels_ratio)

    def to_dict(self) -> dict[str, float]:
        """Return the pace as plain numbers, for JSON."""
        return asdict(self)
