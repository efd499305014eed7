"""Which part of a volume is final: all of it, or what a cancelled run had reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.images.views.resample import resample_labels
from napari_tessera.images.views.window_mask import covered_voxels

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import WindowGrid

__all__ = ["FinishedPart"]

Array = npt.NDArray[Any]
Limits = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class FinishedPart:
    """The finished part of one volume.

    Parameters
    ----------
    layout
        Where its windows lie.
    window_mask
        Boolean, shape ``layout.counts``: the windows that are computed; None: all of them.
    result_shape
        Of a result that has been resampled to the image grid; None: that of the layout. A voxel is final if the one of
        the layout that its middle lies in is: the next one counts less.
    """

    layout: WindowGrid
    window_mask: npt.NDArray[Any] | None = None
    result_shape: tuple[int, ...] | None = None
    _regions: list[Limits] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """The result's, (*spatial)."""
        return self.result_shape or self.layout.shape

    @property
    def axis(self) -> int:
        """The sweep axis."""
        return self.layout.sweep_axis

    def add(self, region: Limits) -> None:
        """Take note of a region of the layout, (start, stop) per axis; no two overlap."""
        pairs = zip(region, self.layout.shape, self.shape, strict=True)
        self._regions.append(tuple((_moved(a, old, new), _moved(b, old, new)) for (a, b), old, new in pairs))

    @property
    def planes(self) -> int:
        """Planes along the sweep axis, from the first, that are final across the whole volume."""
        across = int(np.prod([side for axis, side in enumerate(self.shape) if axis != self.axis]))
        done = np.zeros(self.shape[self.axis], np.int64)
        for region in self._regions:
            area = np.prod([stop - start for axis, (start, stop) in enumerate(region) if axis != self.axis])
            done[slice(*region[self.axis])] += int(area)
        return int(np.argmax(np.append(done, 0) != across))

    @property
    def is_all(self) -> bool:
        """Whether nothing is missing."""
        return self.planes == self.shape[self.axis]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there yet."""
        return not self._regions

    def missing(self) -> npt.NDArray[np.bool_] | None:
        """Return where nothing is final or no window is computed, boolean, of the result's shape; None: nowhere."""
        missing = None if self.is_all else ~self.mask()
        uncovered = self._uncovered()
        if missing is None or uncovered is None:
            return uncovered if missing is None else missing
        missing |= uncovered
        return missing

    def _uncovered(self) -> npt.NDArray[np.bool_] | None:
        if self.window_mask is None or self.window_mask.all():
            return None
        return resample_labels(~covered_voxels(self.layout, self.window_mask), self.shape)

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return which voxels are final, boolean, of the volume's shape."""
        final = np.zeros(self.shape, bool)
        for region in self._regions:
            final[tuple(slice(*limits) for limits in region)] = True
        return final

    def decode(self, reduced: Array, decode: Callable[[Array], Array]) -> Array:
        """Return the labels of the finished part; 0 elsewhere, and where no window is computed.

        Parameters
        ----------
        reduced
            (C, *spatial), background where nothing is final.
        decode
            Makes labels of such an array.
        """
        labels = self._decode(reduced, decode)
        uncovered = self._uncovered()
        if uncovered is not None:
            labels[uncovered] = 0
        return labels

    def _decode(self, reduced: Array, decode: Callable[[Array], Array]) -> Array:
        if self.is_all:
            return decode(reduced)
        if self.is_empty:
            return np.zeros(self.shape, np.int32)
        end = max(region[self.axis][1] for region in self._regions)
        part = tuple(slice(0, end) if axis == self.axis else slice(None) for axis in range(len(self.shape)))
        found = decode(reduced[(slice(None), *part)])
        labels = np.zeros(self.shape, found.dtype)
        labels[part] = found
        if self.planes < end:  # stitched in blocks, and not all of them have got that far
            labels[~self.mask()] = 0
        return labels


def _moved(edge: int, size: int, new_size: int) -> int:
    """Return the first of *new_size* voxels whose middle lies behind voxel *edge* - 1 of *size*."""
    # The least i with (2 i + 1) * size // (2 * new_size) >= edge, in whole numbers.
    return max(-(-(2 * edge * new_size - size) // (2 * size)), 0)
