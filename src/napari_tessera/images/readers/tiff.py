"""TIFF files: OME, ImageJ and plain, with axes and voxel size kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import ArrayLike as NumpyLike
from numpy.typing import NDArray

from napari_tessera.core.errors import OutputError
from napari_tessera.images.axes import name_axes, standard_order
from napari_tessera.images.deferred import DeferredArray
from napari_tessera.images.file_array import FileArray
from napari_tessera.images.output import check_writable, output_file
from napari_tessera.images.readers.tiff_images import TiffImage, find_image
from napari_tessera.images.readers.tiff_integrity import is_named_ome, opening, reading
from napari_tessera.images.readers.tiff_metadata import (
    imagej_options,
    json_options,
    ome_options,
    read_metadata,
    read_voxel_size_um,
)
from napari_tessera.images.volume import ArrayLike, Volume, unknown_voxel_size

__all__ = ["open_tiff", "write_tiff"]

# Beyond this a file needs 64-bit offsets; the difference to 4 GiB leaves room for tags, as in tifffile.
BIGTIFF_BYTES = 2**32 - 2**25


def open_tiff(
    path: str | os.PathLike[str], *, axes: str | None = None, voxel_size_um: tuple[float, ...] | None = None
) -> Volume:
    """Open a TIFF file; values that lie as one block are read as they are asked for, others all on first use.

    Equal planes are a stack, however they were written. Axes of length 1 other than y and x are dropped, colours become
    channels, and an unnamed axis of a stack is taken for z.

    Parameters
    ----------
    path
        The file.
    axes
        What the axes mean, one letter of ``"TCZYX"`` for each dimension longer than 1, in the file's order, where the
        file names them wrongly or not at all.
    voxel_size_um
        Micrometres along the spatial axes, where the file does not say or is wrong; None: as the file says.

    Raises
    ------
    InputError
        If the file is missing, no TIFF, truncated, has axes that cannot be told apart, or holds several images that are
        no stack.
    """
    path = Path(path)
    with opening(path) as file:
        image = find_image(path, file, axes)
        named, notes = name_axes(path, image.axes, image.shape, axes)
        order = standard_order(named)
        ordered = "".join(named[i] for i in order)
        if voxel_size_um is None:
            voxel_size_um, lack = read_voxel_size_um(file, "".join(axis for axis in ordered if axis in "ZYX"))
            notes += (unknown_voxel_size(path, lack),) if lack else ()
        return Volume(
            data=_open_values(path, file, image, order),
            axes=ordered,
            voxel_size_um=voxel_size_um,
            name=path.name.removesuffix(path.suffix).removesuffix(".ome"),
            metadata=read_metadata(file),
            notes=image.notes + notes,
        )


def write_tiff(
    path: str | os.PathLike[str],
    array: NumpyLike,
    *,
    axes: str,
    voxel_size_um: tuple[float, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write labels or probabilities as a compressed TIFF; it appears under its name only when complete.

    A name that ends in ``.ome.tif`` or ``.ome.tiff`` gives an OME-TIFF. Otherwise ImageJ can open the file
    as a hyperstack if it knows the number type (uint8, uint16, float32); for the others axes and voxel size
    stand in a JSON description. 64-bit integers that fit into 32 bits are stored so, and float16 as float32,
    since few programs read them; no value changes.

    Parameters
    ----------
    path
        Ends in ``.tif`` or ``.tiff``.
    array
        One dimension for each letter of *axes*.
    axes
        A selection of ``"TCZYX"`` in this order, such as ``"ZYX"`` or ``"CZYX"``.
    voxel_size_um
        Micrometres along the spatial axes, if known.
    metadata
        Settings and origin of the result, of anything that JSON can hold.
    overwrite
        Whether an existing file may be replaced.

    Raises
    ------
    OutputError
        If the path cannot be written, or the format cannot hold the number type.
    """
    path = Path(path)
    check_writable(path, overwrite)
    values = _storable(np.asarray(array))
    Volume(values, axes, voxel_size_um, path.name)  # refuses what does not fit together
    is_ome = is_named_ome(path)
    with output_file(path) as temporary:
        tifffile.imwrite(temporary, **_options(path, values, axes, is_ome, voxel_size_um, metadata or {}))


def _options(
    path: Path,
    values: NDArray[Any],
    axes: str,
    is_ome: bool,
    voxel_size_um: tuple[float, ...] | None,
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the arguments of `tifffile.imwrite` after the file name."""
    is_big = values.nbytes > BIGTIFF_BYTES
    common = {"photometric": "minisblack", "compression": "zlib", "bigtiff": is_big}
    if is_ome:
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
            raise OutputError(
                f"cannot write '{path}': OME-TIFF has no 64-bit integers, and these labels need them; "
                "let the name end in .tif instead of .ome.tif"
            )
        return {"data": values, **common, **ome_options(axes, voxel_size_um, metadata)}
    if values.dtype in (np.uint8, np.uint16, np.float32) and not is_big:
        # ImageJ's order is TZCYX
        order = sorted(range(len(axes)), key=lambda i: "TZCYX".index(axes[i]))
        imagej_axes = "".join(axes[i] for i in order)
        return {
            "data": np.transpose(values, order),
            **common,
            **imagej_options(imagej_axes, voxel_size_um, metadata),
        }
    return {"data": values, **common, **json_options(axes, voxel_size_um, metadata)}


def _storable(values: NDArray[Any]) -> NDArray[Any]:
    """Return the same values in a number type that other programs read, where there is one."""
    if values.dtype == np.float16:
        return values.astype(np.float32)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size:
        low, high = int(values.min()), int(values.max())
        for narrow in (np.int32, np.uint32):
            limits = np.iinfo(narrow)
            if limits.min <= low and high <= limits.max:
                return values.astype(narrow)
    return values


def _open_values(path: Path, file: tifffile.TiffFile, image: TiffImage, order: list[int]) -> ArrayLike:
    """Return the values of an image, its axes in *order*."""
    part = image.parts[0]
    alone = part if len(image.parts) == 1 and isinstance(part, tifffile.TiffPageSeries) else None
    if alone is not None and alone.dataoffset is not None and alone.keyframe.is_memmappable:
        holder = alone.keyframe.parent
        dtype = np.dtype(f"{holder.byteorder}{alone.dtype.char}")
        return FileArray(Path(holder.filehandle.path), alone.dataoffset, image.shape, dtype, order=order)

    def load() -> NDArray[Any]:
        with reading(path), tifffile.TiffFile(path) as file:
            return np.transpose(find_image(path, file, "any").read(), order)

    return DeferredArray(tuple(image.shape[i] for i in order), image.dtype, load)
