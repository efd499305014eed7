"""Arrays that numpy saved (``.npy``): values without axes or voxel size."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from napari_tessera.errors import InputError
from napari_tessera.volumes.axes import name_axes, standard_order
from napari_tessera.volumes.file_array import FileArray
from napari_tessera.volumes.tiff_integrity import reading
from napari_tessera.volumes.volume import AXES, Volume, unknown_voxel_size

__all__ = ["open_npy"]

USUAL_AXES = {2: "YX", 3: "ZYX", 4: "CZYX", 5: "TCZYX"}


def open_npy(
    path: str | os.PathLike[str], *, axes: str | None = None, voxel_size_um: tuple[float, ...] | None = None
) -> Volume:
    """Open a ``.npy`` file; its values are read as they are asked for.

    Parameters
    ----------
    path
        The file.
    axes
        What its dimensions mean, in any order; by default YX, ZYX, CZYX or TCZYX.
    voxel_size_um
        Micrometres along the spatial axes; the file itself cannot say.

    Raises
    ------
    InputError
        If the file is missing, damaged, holds Python objects, or its axes cannot be told.
    """
    path = Path(path)
    with reading(path, "a numpy array"):
        # Not numpy.load, which would also open archives, and leave a damaged one open. The mapping finds out whether
        # the file holds all that it names.
        mapped = np.lib.format.open_memmap(path, mode="r")
        shape, dtype, offset, in_c_order = mapped.shape, mapped.dtype, mapped.offset, mapped.flags.c_contiguous
        del mapped
    usual = USUAL_AXES.get(len(shape))
    if usual is None:
        raise InputError(f"'{path}' has {len(shape)} dimensions; an image has 2 to 5, of {AXES}")
    named, notes = name_axes(path, usual, shape, axes)
    if axes is None:
        notes = (f"'{path.name}' does not name its axes; they were taken for {named}",)
    if voxel_size_um is None:
        notes += (unknown_voxel_size(path, "a .npy file gives none"),)
    order = standard_order(named)
    last = len(shape) - 1
    block, in_block = (shape, order) if in_c_order else (shape[::-1], [last - axis for axis in order])
    data = FileArray(path, offset, block, dtype, order=in_block)
    return Volume(data, "".join(named[i] for i in order), voxel_size_um, name=path.stem, notes=notes)
