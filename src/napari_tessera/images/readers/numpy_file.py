"""Arrays that numpy saved (``.npy``): values without axes or voxel size."""

from __future__ import annotations

import os
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from napari_tessera.core.errors import InputError
from napari_tessera.images.readers.file_array import FileArray
from napari_tessera.images.readers.tiff_integrity import reading
from napari_tessera.images.volume import AXES, Volume, name_axes, standard_order, unknown_voxel_size

__all__ = ["open_npy"]

USUAL_AXES = {2: "YX", 3: "ZYX", 4: "CZYX", 5: "TCZYX"}


def open_npy(
    path: str | os.PathLike[str], *, axes: str | None = None, voxel_size_um: tuple[float, ...] | None = None
) -> Volume:
    """Open a ``.npy`` file; its values are read as they are asked for.

    *axes* say what its dimensions mean, in any order; by default YX, ZYX, CZYX or TCZYX. Raises `InputError` if it is
    missing, damaged, holds Python objects, or its axes cannot be told.
    """
    path = Path(path)
    with reading(path, "a numpy array"):
        shape, in_f_order, dtype, offset = _read_header(path)
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
    block, in_block = (shape[::-1], [last - axis for axis in order]) if in_f_order else (shape, order)
    data = FileArray(path, offset, block, dtype, order=in_block)
    return Volume(data, "".join(named[i] for i in order), voxel_size_um, name=path.stem, notes=notes)


def _read_header(path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return shape, whether in Fortran's order, number type and where the values begin."""
    # Not numpy.load, which would also open archives, and leave a damaged one open; nor a mapping, which needs as many
    # addresses as there are values.
    with path.open("rb") as file:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"version {version} of the format is for named columns")
        shape, in_f_order, dtype = readers[version](file)
        offset, size = file.tell(), file.seek(0, os.SEEK_END)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if min(shape, default=0) < 0 or offset + prod(shape) * dtype.itemsize > size:
        raise ValueError(f"it holds {size - offset} bytes, but names the shape {shape} of {dtype}")
    return shape, in_f_order, dtype, offset
