"""What every reader returns: an array, the meaning of its axes and the size of its voxels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from napari_tessera.core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

__all__ = ["ArrayLike", "Volume", "unknown_voxel_size"]

AXES = "TCZYX"
"""The axes a volume can have, in the one order they come in."""


class ArrayLike(Protocol):
    """What is asked of the data of a volume, besides that `numpy.asarray` takes it and its slices.

    Numpy, memory-mapped, dask and zarr arrays have it.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths, voxels."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The number type."""

    @property
    def ndim(self) -> int:
        """Number of dimensions."""

    def __getitem__(self, key: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """An image with axes and voxel size. Owns no file handle; the data may be read when first used.

    Parameters
    ----------
    data
        Array of any number type in native byte order, one dimension for each letter of *axes*.
    axes
        A selection of ``"TCZYX"`` in that order, ending in ``"YX"``; ``"ZYX"`` for most volumes.
    voxel_size_um
        Micrometres along z, y, x (y, x in 2D), or None where the file does not say.
    name
        What to call the image: the file's name without its suffixes.
    metadata
        What Tessera stored with the image when it wrote it; empty for other images.
    notes
        Sentences about how the file was understood, for the person who opened it.

    Raises
    ------
    InputError
        If axes, shape and voxel size do not fit together, or the image is empty.
    """

    data: ArrayLike
    axes: str
    voxel_size_um: tuple[float, ...] | None = None
    name: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no later layer could make sense of."""
        ordered = "".join(axis for axis in AXES if axis in self.axes)
        if self.axes != ordered or not self.axes.endswith("YX"):
            raise InputError(f"axes '{self.axes}' of {self._label}: use letters of {AXES}, in this order, with Y and X")
        if len(self.axes) != len(self.data.shape):
            raise InputError(f"axes '{self.axes}' of {self._label} do not fit its shape {self.shape}")
        if 0 in self.data.shape:
            raise InputError(f"{self._label} is empty: its shape is {self.shape}")
        size = self.voxel_size_um
        if size is None:
            return
        if len(size) != len(self.spatial_axes) or not all(math.isfinite(s) and s > 0 for s in size):
            raise InputError(
                f"voxel size {size} of {self._label}: "
                f"give one positive number of micrometres for each of {self.spatial_axes}"
            )

    @property
    def _label(self) -> str:
        return f"'{self.name}'" if self.name else "the image"

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths along `axes`, voxels."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The number type of the data."""
        return self.data.dtype

    @property
    def spatial_axes(self) -> str:
        """``"ZYX"`` or ``"YX"``."""
        return "".join(axis for axis in self.axes if axis in "ZYX")

    @property
    def spatial_shape(self) -> tuple[int, ...]:
        """Lengths along `spatial_axes`, voxels."""
        return tuple(n for n, axis in zip(self.shape, self.axes, strict=True) if axis in "ZYX")


def unknown_voxel_size(path: Path, lack: str) -> str:
    """Return the note that the voxel size of the file *path* is not known; *lack* is a clause that says why."""
    return f"the voxel size of '{path.name}' is unknown: {lack}"
