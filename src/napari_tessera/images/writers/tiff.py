"""Results as TIFF, in three dialects: OME, ImageJ and tifffile's own JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tifffile
from numpy.typing import ArrayLike, NDArray

from napari_tessera.core.errors import OutputError
from napari_tessera.images.readers.tiff import NAMESPACE
from napari_tessera.images.readers.tiff_integrity import is_named_ome
from napari_tessera.images.volume import Volume
from napari_tessera.images.writers.output import TiffOptions, check_writable, output_file

__all__ = ["write_tiff"]

# Beyond this a file needs 64-bit offsets; the difference to 4 GiB leaves room for tags, as in tifffile.
BIGTIFF_BYTES = 2**32 - 2**25

VoxelSize: TypeAlias = tuple[float, ...] | None
Arguments: TypeAlias = dict[str, Any]


def write_tiff(
    path: str | os.PathLike[str],
    array: ArrayLike,
    *,
    axes: str,
    voxel_size_um: tuple[float, ...] | None = None,
    metadata: Mapping[str, Any] | None = None,
    options: TiffOptions | None = None,
    overwrite: bool = False,
) -> None:
    """Write labels or probabilities as TIFF; it appears under its name only when complete.

    A name that ends in ``.ome.tif`` or ``.ome.tiff`` gives an OME-TIFF. Otherwise ImageJ can open the file as a
    hyperstack if it knows the number type (uint8, uint16, float32); for the others axes and voxel size stand in a JSON
    description. 64-bit integers that fit into 32 bits are stored so, and float16 as float32, since few programs read
    them; no value changes.

    *axes* are a selection of ``"TCZYX"`` in this order, *voxel_size_um* is along the spatial ones, *metadata* of
    anything that JSON can hold.

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
        arguments = _arguments(path, values, axes, is_ome, voxel_size_um, metadata or {})
        compression = (options or TiffOptions()).compression
        tifffile.imwrite(temporary, compression=None if compression == "none" else compression, **arguments)


def _arguments(
    path: Path,
    values: NDArray[Any],
    axes: str,
    is_ome: bool,
    voxel_size_um: tuple[float, ...] | None,
    metadata: Mapping[str, Any],
) -> Arguments:
    """Return the arguments of `tifffile.imwrite` after the file name."""
    is_big = values.nbytes > BIGTIFF_BYTES
    common = {"photometric": "minisblack", "bigtiff": is_big}
    if is_ome:
        if values.dtype.kind in "iu" and values.dtype.itemsize == 8:
            raise OutputError(
                f"cannot write '{path}': OME-TIFF has no 64-bit integers, and these labels need them; "
                "let the name end in .tif instead of .ome.tif"
            )
        return {"data": values, **common, **_ome_arguments(axes, voxel_size_um, metadata)}
    if values.dtype in (np.uint8, np.uint16, np.float32) and not is_big:
        # ImageJ's order is TZCYX
        order = sorted(range(len(axes)), key=lambda i: "TZCYX".index(axes[i]))
        imagej_axes = "".join(axes[i] for i in order)
        return {
            "data": np.transpose(values, order),
            **common,
            **_imagej_arguments(imagej_axes, voxel_size_um, metadata),
        }
    return {"data": values, **common, **_json_arguments(axes, voxel_size_um, metadata)}


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


def _ome_arguments(axes: str, voxel_size_um: VoxelSize, metadata: Mapping[str, Any]) -> Arguments:
    """Return the arguments of `tifffile.imwrite` for an OME-TIFF."""
    ome: dict[str, Any] = {"axes": axes}
    for axis, size in _by_axis(axes, voxel_size_um).items():
        ome |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    if metadata:
        ome["MapAnnotation"] = {"Namespace": NAMESPACE, "json": _dumps({NAMESPACE: metadata})}
    return {"ome": True, "metadata": ome}


def _imagej_arguments(axes: str, voxel_size_um: VoxelSize, metadata: Mapping[str, Any]) -> Arguments:
    """Return the arguments of `tifffile.imwrite` for a file that ImageJ opens as a hyperstack."""
    sizes = _by_axis(axes, voxel_size_um)
    imagej: dict[str, Any] = {"axes": axes}
    arguments: Arguments = {"imagej": True, "metadata": imagej}
    if sizes:
        imagej["unit"] = "um"
        arguments["resolution"] = (1 / sizes["X"], 1 / sizes["Y"])
    if "Z" in sizes:
        imagej["spacing"] = sizes["Z"]
    if metadata:
        imagej["Info"] = _dumps({NAMESPACE: metadata})
    return arguments


def _json_arguments(axes: str, voxel_size_um: VoxelSize, metadata: Mapping[str, Any]) -> Arguments:
    """Return the arguments of `tifffile.imwrite` for a TIFF with a JSON description, for any number type."""
    sizes = _by_axis(axes, voxel_size_um)
    description: dict[str, Any] = {"axes": axes}
    arguments: Arguments = {"metadata": description}
    if sizes:
        description["voxel_size_um"] = list(sizes.values())
        # y and x also where any program looks for them
        arguments |= {"resolution": (1e4 / sizes["X"], 1e4 / sizes["Y"]), "resolutionunit": "CENTIMETER"}
    if metadata:
        description[NAMESPACE] = json.loads(_dumps(metadata))
    return arguments


def _by_axis(axes: str, voxel_size_um: VoxelSize) -> dict[str, float]:
    spatial = [axis for axis in axes if axis in "ZYX"]
    return dict(zip(spatial, map(float, voxel_size_um), strict=True)) if voxel_size_um else {}


def _dumps(metadata: Mapping[str, Any]) -> str:
    """Return JSON in ASCII, which all dialects can hold; values that JSON does not know become text."""
    return json.dumps(metadata, default=str)
