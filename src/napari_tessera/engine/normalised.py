"""An image whose intensities are brought to the network's before anything else happens to it."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_tessera.engine.intensity import IntensityMap
    from napari_tessera.engine.source import Region, Source

__all__ = ["NormalisedSource"]

# Voxels mapped together: bounds the float64 beside what is read.
PIECE_VOXELS = 1_000_000


class NormalisedSource:
    """A `Source` whose values are mapped as they are read, float32.

    Parameters
    ----------
    source
        The image.
    intensity
        What its values become.
    inside
        Where the image's foreground is, boolean (*spatial); None: everywhere.
    masked
        For each channel whether it becomes 0 outside of the foreground.
    """

    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __init__(
        self,
        source: Source,
        intensity: IntensityMap,
        inside: npt.NDArray[np.bool_] | None = None,
        masked: tuple[bool, ...] = (),
    ) -> None:
        self.source = source
        self.intensity = intensity
        self._inside = inside
        self._masked = masked

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        return self.source.shape

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """What the image is read in; None where it does not say."""
        return getattr(self.source, "chunk", None)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*, (C, *region), mapped."""
        values = self.source.read(region)
        mapped = np.empty(values.shape, np.float32)
        channels, planes, *across = values.shape
        step = max(PIECE_VOXELS // max(channels * prod(across), 1), 1)
        for first in range(0, planes, step):
            part = slice(first, first + step)
            mapped[:, part] = self.intensity.on_host(values[:, part])
        if self._inside is not None:
            outside = ~self._inside[region]
            for channel, masked in zip(mapped, self._masked, strict=True):
                if masked:
                    channel[outside] = 0
        return mapped
