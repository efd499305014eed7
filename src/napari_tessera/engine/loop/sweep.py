"""What one volume's run is determined by, apart from the network and the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.settings.choices import AccumulatorType, Blend, Precision, TtaMode
from napari_tessera.core.settings.views import View
from napari_tessera.engine.geometry.grid import Block, WindowGrid, count_forward_passes
from napari_tessera.engine.geometry.interleaving import digits, view_number
from napari_tessera.engine.loop.forward import Window
from napari_tessera.engine.loop.tta import ViewAverage
from napari_tessera.engine.stitching.stitch import Weighting

if TYPE_CHECKING:
    from napari_tessera.engine.intensity import Intensity
    from napari_tessera.engine.loop.pass_check import PassCheck


@dataclass(frozen=True)
class Sweep:
    """Everything that one volume's run is determined by, apart from the network and the image.

    *views* has the identity first; *offsets* are those of affinity channels, in voxels. *blocks* are parts of the image
    that are stitched one after the other; empty: the whole at once. *window_mask*, boolean of shape ``grid.counts``,
    says which windows are computed; None: all. *read_ahead* None: what suits the device. *check* looks at the first
    passes; None: nobody does. For the rest see `Settings`.
    """

    grid: WindowGrid
    out_channels: int
    intensity: Intensity
    sw_batch_size: int = 1
    views: tuple[View, ...] = (View(),)
    offsets: tuple[tuple[int, ...], ...] = ()
    tta_mode: TtaMode = TtaMode.FULL
    blend: Blend = Blend.GAUSSIAN
    precision: Precision = Precision.FLOAT32
    accumulator: AccumulatorType = AccumulatorType.FLOAT32
    sigma_scale: float | tuple[float, ...] = 0.125
    blocks: tuple[Block, ...] = ()
    window_mask: npt.NDArray[Any] | None = None
    read_ahead: int | None = None
    check: PassCheck | None = None

    @property
    def all_blocks(self) -> tuple[Block, ...]:
        """The blocks, at least one."""
        return self.blocks or (self.grid.whole,)

    @property
    def views_per_pass(self) -> int:
        """How often every batch of windows is passed."""
        return count_views_per_pass(self.tta_mode, len(self.views))

    @property
    def is_interleaved(self) -> bool:
        """Whether every window sees one view of several."""
        return self.views_per_pass < len(self.views)

    @cached_property
    def _interleaved_views(self) -> tuple[View, ...]:
        """The views that windows are assigned: those that are valid for every channel; one where all see all."""
        if not self.is_interleaved:
            return (View(),)
        average = ViewAverage(self.views, self.grid.window, self.offsets)
        return tuple(view for view in self.views if average.covers_all_channels(view))

    def weighting(self, *, normalised: bool) -> Weighting:
        """Return how sums become averages, if *normalised* ones are asked for."""
        return choose_weighting(
            normalised=normalised,
            skips=self.window_mask is not None,
            partly_valid=self.is_interleaved and bool(self.offsets),
        )

    def passes_of(self, block: Block, sw_batch_size: int | None = None) -> int:
        """Return the forward passes of one block, with batches of another size if one is given."""
        windows = count_computed(self.grid, block, self.window_mask)
        batch = self.sw_batch_size if sw_batch_size is None else sw_batch_size
        return count_forward_passes(windows, sw_batch_size=batch, n_views=self.views_per_pass)

    @cached_property
    def forward_passes(self) -> int:
        """Calls of the network, if memory never runs out."""
        return sum(map(self.passes_of, self.all_blocks))

    @cached_property
    def window_passes(self) -> int:
        """Windows of all these passes: each once for every view and every block that it is passed for."""
        windows = (count_computed(self.grid, block, self.window_mask) for block in self.all_blocks)
        return sum(windows) * self.views_per_pass

    def windows_of(self, block: Block) -> list[Window]:
        """Return the windows that are computed for *block*, in order."""
        views = self._interleaved_views
        places = digits(self.grid, len(views))
        found = []
        for index in self.grid.iter_indices(block):
            if self.window_mask is not None and not self.window_mask[index]:
                continue
            view = views[view_number(index, places, len(views))]
            found.append(Window(self.grid.start_of(index), view))
        return found


def count_views_per_pass(tta_mode: TtaMode, n_views: int) -> int:
    """Return how often every batch of windows is passed: once where each window sees one view of several."""
    return 1 if tta_mode is TtaMode.INTERLEAVED else n_views


def choose_weighting(*, normalised: bool, skips: bool, partly_valid: bool) -> Weighting:
    """Return how sums become averages, if *normalised* ones are asked for.

    *skips*: windows are left out, so that rows differ. *partly_valid*: predictions may hold no valid value for some of
    their voxels and channels.
    """
    # Without weights, channels that few windows are valid for would lose against the others.
    if partly_valid:
        return Weighting.VALUES
    if not normalised:
        return Weighting.NONE
    return Weighting.VOXELS if skips else Weighting.ROWS


def count_computed(grid: WindowGrid, block: Block | None, window_mask: npt.NDArray[Any] | None) -> int:
    """Return how many windows of *block* are computed."""
    if window_mask is None:
        return grid.count_windows(block)
    return int(np.count_nonzero(window_mask[np.ix_(*grid.ranges(block))]))
