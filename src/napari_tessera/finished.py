"""Which part of a volume is final: all of it, or what a cancelled run had reached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["FinishedPart"]

Array = npt.NDArray[Any]
Limits = tuple[tuple[int, int], ...]


@dataclass(slots=True)
class FinishedPart:
    """The finished part of one volume.

    Parameters
    ----------
    shape
        The volume's, (*spatial).
    axis
        The sweep axis.
    """

    shape: tuple[int, ...]
    axis: int
    _regions: list[Limits] = field(default_factory=list)

    def add(self, region: Limits) -> None:
        """Take note of a region, (start, stop) per axis; no two overlap."""
        self._regions.append(region)

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

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return which voxels are final, boolean, of the volume's shape."""
        final = np.zeros(self.shape, bool)
        for region in self._regions:
            final[tuple(slice(*limits) for limits in region)] = True
        return final

    def decode(self, reduced: Array, decode: Callable[[Array], Array]) -> Array:
        """Return the labels of the finished part, 0 elsewhere.

        Parameters
        ----------
        reduced
            (C, *spatial), background where nothing is final.
        decode
            Makes labels of such an array.
        """
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
