"""What every reader returns: an array, the meaning of its axes and the size of its voxels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from napari_tessera.core.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

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


def name_axes(
    path: Path, found: str, shape: tuple[int, ...], by_hand: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """Return one letter of TCZYX for each dimension of *shape*, in the file's order, and what to tell about it.

    *found* is what the file itself names its axes; S, the samples of a colour, is a channel. One letter that is none of
    a volume's is taken for z, and said. *by_hand*, what the user says, in capitals or not, with blanks and commas or
    not, counts more. Raises `InputError` if there is not one letter for each dimension, each once, Y and X among them.
    """
    named = str(found if by_hand is None else by_hand).upper().replace("S", "C")
    notes: tuple[str, ...] = ()
    if by_hand is not None:
        named = re.sub(r"[\s,]", "", named)
    if by_hand is not None and (len(named) != len(shape) or not _is_sound(named)):
        raise InputError(
            f"axes '{by_hand}' do not fit '{path}': give one letter of {AXES} for each of its {len(shape)} dimensions "
            f"{shape}, each once, Y and X among them"
        )
    unknown = [axis for axis in named if axis not in AXES]
    if len(unknown) == 1 and "Z" not in named and len(named) == len(shape):
        n_planes = shape[named.index(unknown[0])]
        named = named.replace(unknown[0], "Z")
        notes = (f"'{path.name}' does not name its axes; its {n_planes} planes were taken for z",)
    if len(named) != len(shape) or not _is_sound(named):
        remedy = f"save what is meant as an image of 2 to {len(AXES)} axes, of {AXES}"
        if 2 <= len(shape) <= len(AXES):
            example = AXES[-len(shape) :]
            remedy = f"say what they are with letters of {AXES}, such as --axes {example}, or save it as OME-TIFF"
        raise InputError(f"cannot tell the axes of '{path}' apart: it names them '{found}' for shape {shape}; {remedy}")
    spatial = [axis for axis in named if axis in "ZYX"]
    if spatial != sorted(spatial, reverse=True):
        ordered = "".join(sorted(spatial, reverse=True))
        notes += (f"'{path.name}' has its axes in the order {named}: it is run, and its result written, as {ordered}",)
    return named, notes


def standard_order(named: str) -> list[int]:
    """Return the places of the axes *named* in the order of a volume, TCZYX."""
    return sorted(range(len(named)), key=lambda place: AXES.index(named[place]))


def _is_sound(named: str) -> bool:
    return not set(named) - set(AXES) and len(set(named)) == len(named) and {"Y", "X"} <= set(named)
