"""Where to compute at all: a mask, as captured from the viewer."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.session.sources import VolumeInput

_numbers = count()


@dataclass(frozen=True, slots=True, eq=False)
class MaskInput:
    """A mask: windows in which it is 0 everywhere are not computed.

    Its *data*, which the viewer owns, are of the image's spatial shape; or with axes in front, as long as those that
    the image has there, the last of them at least: of a stack for a 2D model with z.
    """

    name: str  # the layer's
    data: Any  # anything with shape, dtype and slicing
    number: int = field(default_factory=lambda: next(_numbers), init=False)  # tells this capture from all others
    _found: dict[Hashable, npt.NDArray[np.bool_]] = field(default_factory=dict, init=False)

    def check(self, volume: VolumeInput) -> None:
        """Raise `InputError` unless the mask has the shape of *volume*, or the image's axes in front as well."""
        from napari_tessera.images.views.window_mask import check_mask

        lengths = tuple(volume.image.shape[axis] for axis in self._axes(volume))
        check_mask(self.data, lengths, f"'{self.name}'")

    def part_of(self, volume: VolumeInput) -> Any:
        """Return what of the mask lies over *volume*, of its spatial shape."""
        place = self._place(volume)
        if not place:
            return self.data
        frames = iter(place)
        letters = [volume.reading.axes[axis] for axis in self._axes(volume)]
        return self.data[tuple(next(frames) if letter == "T" else slice(None) for letter in letters)]

    def find_windows(self, volume: VolumeInput, grid: WindowGrid, crop: Crop | None = None) -> npt.NDArray[np.bool_]:
        """Return which windows of *grid* hold a voxel of the mask; it is read once for every grid and frame.

        The grid may be that of the resampled image, or of its box *crop*; the mask is in the image's own voxels.
        """
        from napari_tessera.images.views.window_mask import find_masked

        key = grid, crop, self._place(volume)
        if key not in self._found:
            self._found[key] = find_masked(self.part_of(volume), grid, crop)
        return self._found[key]

    def _place(self, volume: VolumeInput) -> tuple[int, ...]:
        front = len(self.data.shape) - len(volume.shape)
        return volume.frame[-front:] if front else ()

    def _axes(self, volume: VolumeInput) -> list[int]:
        """Return the image's axes that the mask has: the spatial ones, and as many of those in front as it has."""
        reading = volume.reading.axes
        frames = [axis for axis, letter in enumerate(reading) if letter == "T"]
        front = max(len(self.data.shape) - len(volume.shape), 0)
        left_out = frames[:-front] if front else frames
        return [axis for axis, letter in enumerate(reading) if letter != "C" and axis not in left_out]
