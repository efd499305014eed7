"""TIFF files: OME, ImageJ and plain, with axes, voxel size and provenance."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias
from xml.etree import ElementTree

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import RESUNIT

from napari_tessera.core.errors import without_control
from napari_tessera.core.plain_data import load_json
from napari_tessera.core.units import micrometres_per
from napari_tessera.images.readers.file_array import FileArray
from napari_tessera.images.readers.ome import physical_sizes
from napari_tessera.images.readers.tiff_images import TiffImage, find_image
from napari_tessera.images.readers.tiff_integrity import opening, reading
from napari_tessera.images.volume import ArrayLike, Volume, name_axes, standard_order, unknown_voxel_size

__all__ = ["NAMESPACE", "DeferredArray", "open_tiff"]

NAMESPACE = "napari-tessera"
"""Under which the provenance of a result stands in its file."""

Size: TypeAlias = tuple[float | None, str]
"""A number and its unit, as a file gives them."""


def open_tiff(
    path: str | os.PathLike[str], *, axes: str | None = None, voxel_size_um: tuple[float, ...] | None = None
) -> Volume:
    """Open a TIFF file; values that lie as one block are read as they are asked for, others all on first use.

    Equal planes are a stack, however they were written. Axes of length 1 other than y and x are dropped, colours become
    channels, and an unnamed axis of a stack is taken for z. *axes* has one letter for each dimension longer than 1, in
    the file's order. Raises `InputError` as `open_volume`.
    """
    path = Path(path)
    with opening(path) as file:
        image = find_image(path, file, axes)
        named, notes = name_axes(path, image.axes, image.shape, axes)
        order = standard_order(named)
        ordered = "".join(named[i] for i in order)
        if voxel_size_um is None:
            voxel_size_um, lack = _read_voxel_size_um(file, "".join(axis for axis in ordered if axis in "ZYX"))
            notes += (unknown_voxel_size(path, lack),) if lack else ()
        return Volume(
            data=_open_values(path, file, image, order),
            axes=ordered,
            voxel_size_um=voxel_size_um,
            name=path.name.removesuffix(path.suffix).removesuffix(".ome"),
            metadata=_read_metadata(file),
            notes=image.notes + notes,
        )


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


class DeferredArray:
    """Shape and number type at once, values from *load* on first use, always in native byte order.

    Planning a run asks for the shape alone, and must not decompress a volume for it. Safe to use from several threads;
    the values are loaded once and kept. Errors of *load* reach whoever first uses the values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], load: Callable[[], NDArray[Any]]) -> None:
        self.shape = shape
        self.dtype = dtype.newbyteorder("=")
        self._load = load
        self._loaded: NDArray[Any] | None = None
        self._lock = Lock()

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        return self._native(self._values()[key])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self._native(self._values())
        return np.array(values, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        return f"DeferredArray(shape={self.shape}, dtype={self.dtype})"

    def _values(self) -> NDArray[Any]:
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _native(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(values).astype(self.dtype, copy=False)


def _read_voxel_size_um(file: tifffile.TiffFile, spatial_axes: str) -> tuple[tuple[float, ...] | None, str]:
    """Return the voxel size along *spatial_axes* in micrometres, or None and a clause on what is missing of it."""
    if file.is_ome:
        sizes = physical_sizes(file.ome_metadata or "")
    elif file.is_imagej:
        sizes = _imagej_sizes(file)
    else:
        own = _json_metadata(file).get("voxel_size_um") or []
        sizes = {axis: (size, "µm") for axis, size in zip("XYZ", reversed(own), strict=False)}
    if not any(value for value, _ in sizes.values()):
        return None, "the file gives none"
    found = []
    for axis in spatial_axes:
        value, unit = sizes.get(axis, (None, ""))
        factor = micrometres_per(unit)
        if value is None or not math.isfinite(value) or value <= 0:
            return None, f"the file gives none along {axis.lower()}"
        if factor is None:
            named = f"in '{without_control(unit)}', which is no known length" if unit else "without a unit"
            return None, f"the file gives it along {axis.lower()} {named}"
        # What is past the precision of a ratio of 32-bit integers is rounded off.
        found.append(float(f"{value * factor:.8g}") if file.is_imagej else value * factor)
    return tuple(found), ""


def _read_metadata(file: tifffile.TiffFile) -> Mapping[str, Any]:
    """Return what `write_tiff` stored in the file; empty for a file of other origin."""
    if file.is_ome:
        text = _ome_annotation(file.ome_metadata or "")
    elif file.is_imagej:
        text = (file.imagej_metadata or {}).get("Info")
    else:
        stored = _json_metadata(file).get(NAMESPACE)
        return stored if isinstance(stored, dict) else {}
    try:
        stored = load_json(text or "")
    except ValueError:
        return {}
    found = stored.get(NAMESPACE) if isinstance(stored, dict) else None
    return found if isinstance(found, dict) else {}


def _json_metadata(file: tifffile.TiffFile) -> Mapping[str, Any]:
    found = file.shaped_metadata
    return found[0] if found else {}


def _ome_annotation(xml: str) -> str | None:
    ours = f".//{{*}}MapAnnotation[@Namespace='{NAMESPACE}']/{{*}}Value/{{*}}M"
    return ElementTree.fromstring(xml).findtext(ours)


def _imagej_sizes(file: tifffile.TiffFile) -> dict[str, Size]:
    """Return the sizes as ImageJ reads them: ``unit`` is that of x, and of y and z unless they have their own."""
    metadata = file.imagej_metadata or {}
    unit = str(metadata.get("unit", ""))
    tags = file.pages.first.tags
    # ImageJ leaves a spacing of 1 out, and takes a negative one for the planes' order.
    spacing = metadata.get("spacing", 1.0)
    sizes: dict[str, Size] = {
        "Z": (abs(spacing) if isinstance(spacing, (int, float)) else None, str(metadata.get("zunit", unit)))
    }
    # Where the tag counts pixels per centimetre and the description is in "um", it is the tag that counts.
    factor = 1e4 if unit == "um" and tags.valueof("ResolutionUnit") == RESUNIT.CENTIMETER else 1.0
    for axis, own in (("X", unit), ("Y", str(metadata.get("yunit", unit)))):
        numerator, denominator = tags.valueof(f"{axis}Resolution", (0, 1))
        sizes[axis] = (denominator / numerator * factor if numerator else None, own)
    return sizes
