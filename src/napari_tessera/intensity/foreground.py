"""The foreground of an image whose background is exactly 0, as far as normalisations of it alone need it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import SourceView, iter_regions

if TYPE_CHECKING:
    from napari_tessera.engine.source import Source
    from napari_tessera.intensity.normalisation import Chain, Normalisation


def is_masked(
    normalisation: Normalisation | Chain | Sequence[Normalisation | Chain], channels: int
) -> tuple[bool, ...]:
    """Return for each channel whether it is normalised by its foreground alone."""
    each = normalisation if isinstance(normalisation, Sequence) else [normalisation] * channels
    return tuple(any(step.has("masked") for step in one.steps) for one in each)


def measure_foreground(source: Source) -> npt.NDArray[np.bool_]:
    """Return where any channel of *source* is not 0, boolean (*spatial); reads it once, and holds a byte per voxel.

    Zeros that a volume encloses count as foreground; those of a plane do not, as nnU-Net takes it for a volume of one
    plane, whose zeros are all at its surface.
    """
    inside = np.empty(source.shape[1:], bool)
    for region in iter_regions(source):
        inside[region] = (source.read(region) != 0).any(axis=0)
    if inside.ndim < 3 or inside.all():
        return inside
    from scipy import ndimage

    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(inside)
    return filled


class ForegroundSource(SourceView):
    """A `Source` of which it is known where its foreground is, boolean (*spatial)."""

    def __init__(self, source: Source, inside: npt.NDArray[np.bool_]) -> None:
        super().__init__(source)
        self.inside = inside
