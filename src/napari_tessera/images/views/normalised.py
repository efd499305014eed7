"""An image whose intensities are brought to the network's before anything else happens to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.intensity import on_host
from napari_tessera.engine.source import SourceView

if TYPE_CHECKING:
    from napari_tessera.engine.intensity import Intensity
    from napari_tessera.engine.source import Region, Source

__all__ = ["MAPPING_BYTES", "NormalisedSource"]

# Values mapped together: bounds the float64 beside what is read, three arrays of it.
PIECE_VOXELS = 1_000_000
MAPPING_BYTES = 3 * 8 * PIECE_VOXELS


class NormalisedSource(SourceView):
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

    def __init__(
        self,
        source: Source,
        intensity: Intensity,
        inside: npt.NDArray[np.bool_] | None = None,
        masked: tuple[bool, ...] = (),
    ) -> None:
        super().__init__(source)
        self.intensity = intensity
        self._inside = inside
        self._masked = masked

    @property
    def dtype(self) -> np.dtype[Any]:
        """Float32."""
        return np.dtype(np.float32)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*, (C, *region), mapped."""
        values = self.source.read(region)
        mapped = np.empty(values.shape, np.float32)
        self._map(values, mapped)
        if self._inside is not None:
            outside = ~self._inside[region]
            for channel, masked in zip(mapped, self._masked, strict=True):
                if masked:
                    channel[outside] = 0
        return mapped

    def _map(self, values: npt.NDArray[Any], mapped: npt.NDArray[np.float32]) -> None:
        """Fill *mapped*, half by half until the halves are small."""
        longest = int(np.argmax(values.shape[1:])) + 1
        middle = values.shape[longest] // 2
        if values.size <= PIECE_VOXELS or middle == 0:
            mapped[...] = on_host(self.intensity, values)
            return
        for half in (slice(None, middle), slice(middle, None)):
            part = (slice(None),) * longest + (half,)
            self._map(values[part], mapped[part])
