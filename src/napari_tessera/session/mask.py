"""Where to compute at all: a mask, as captured from the viewer."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_tessera.engine.crop import Crop
    from napari_tessera.engine.grid import WindowGrid

__all__ = ["MaskInput"]

_numbers = count()


@dataclass(frozen=True, slots=True, eq=False)
class MaskInput:
    """A mask: windows in which it is 0 everywhere are not computed.

    Parameters
    ----------
    name
        The layer's name.
    data
        Anything with ``shape``, ``dtype`` and slicing, of the image's spatial shape. Not copied; the viewer owns it.

    Attributes
    ----------
    number
        Tells this capture from all others.
    """

    name: str
    data: Any
    number: int = field(default_factory=lambda: next(_numbers), init=False)
    _found: dict[tuple[WindowGrid, Crop | None], npt.NDArray[np.bool_]] = field(default_factory=dict, init=False)

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise `InputError` unless the mask has the image's spatial *shape*."""
        from napari_tessera.planning.occupied import check_mask

        check_mask(self.data, shape, f"'{self.name}'")

    def find_windows(self, grid: WindowGrid, crop: Crop | None = None) -> npt.NDArray[np.bool_]:
        """Return which windows of *grid* hold a voxel of the mask; it is read once for every grid.

        The grid may be that of the resampled image, or of its box *crop*; the mask is in the image's own voxels.
        """
        from napari_tessera.planning.occupied import find_masked

        key = grid, crop
        if key not in self._found:
            self._found[key] = find_masked(self.data, grid, crop)
        return self._found[key]
