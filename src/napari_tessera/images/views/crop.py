"""The part of an image that is not zero: found by one pass over it, cut out, and results put back in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import SourceView, iter_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_tessera.engine.source import Region, Source

__all__ = ["Crop", "CroppedSource", "measure_crop"]


@dataclass(frozen=True, slots=True)
class Crop:
    """The box of an image that its network sees; the rest is background without being looked at.

    *box* has the first voxel and the one after the last, per axis; where no voxel counts it is all of the image, and
    *is_empty*. *planes*, of a plane whose stack is cropped as one, are the first of the stack's box and the one after
    its last.
    """

    image_shape: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    is_empty: bool = False
    planes: tuple[int, int] | None = None

    @classmethod
    def empty(cls, image_shape: Sequence[int]) -> Crop:
        """Return that of an image without a voxel that counts."""
        return cls(tuple(image_shape), tuple((0, side) for side in image_shape), is_empty=True)

    @property
    def region(self) -> Region:
        """The box as slices."""
        return tuple(slice(first, stop) for first, stop in self.box)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the box, spatial."""
        return tuple(stop - first for first, stop in self.box)

    def of(self, source: Source) -> Source:
        """Return the box of *source*, the image; no copy."""
        return CroppedSource(source, self)

    def put_back(self, result: npt.NDArray[Any], background: Sequence[float] = ()) -> npt.NDArray[Any]:
        """Return *result*, labels (*shape) or channels (C, *shape), in an array of the whole image, in its own type.

        *background* is what is outside of it, one number for each channel; labels are 0 there.
        """
        if not background:
            whole = np.zeros(self.image_shape, result.dtype)
        else:
            whole = np.empty((len(background), *self.image_shape), result.dtype)
            for channel, value in zip(whole, background, strict=True):
                channel[...] = value
        if not self.is_empty:
            inside: Any = (..., *self.region)
            whole[inside] = result
        return whole

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers by name."""
        return {"box": [list(limits) for limits in self.box], "is_empty": self.is_empty}


class CroppedSource(SourceView):
    """A `Source` that is the box *crop* of another."""

    def __init__(self, source: Source, crop: Crop) -> None:
        super().__init__(source)
        self.crop = crop

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial) of the box."""
        return (self.source.shape[0], *self.crop.shape)

    @property
    def in_memory(self) -> bool:
        """Whether the image is."""
        return self.source.in_memory

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region* of the box, (C, *region)."""
        limits = (part.indices(side) for part, side in zip(region, self.crop.shape, strict=True))
        shifted = zip(limits, self.crop.box, strict=True)
        return self.source.read(tuple(slice(first + a, stop + a) for (first, stop, _), (a, _) in shifted))


def measure_crop(source: Source, above: float | None = None) -> Crop:
    """Return the smallest box of *source* outside of which all channels are 0; reads the image once, in pieces.

    Where *above* is a number, outside of which no channel is above it.
    """
    shape = source.shape[1:]
    hit = [np.zeros(side, bool) for side in shape]
    for region in iter_regions(source):
        values = source.read(region)
        counts = np.any(values != 0 if above is None else values > above, axis=0)
        for axis, part in enumerate(region):
            hit[axis][part] |= counts.any(axis=tuple(other for other in range(len(shape)) if other != axis))
    if not hit[0].any():
        return Crop.empty(shape)
    return Crop(shape, tuple((int(found.argmax()), int(len(found) - found[::-1].argmax())) for found in hit))
