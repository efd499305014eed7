"""Voxel size and provenance in the three dialects of TIFF: OME, ImageJ and tifffile's own JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree

if TYPE_CHECKING:
    import tifffile

__all__ = ["imagej_options", "json_options", "ome_options", "read_metadata", "read_voxel_size_um"]

VoxelSize: TypeAlias = tuple[float, ...] | None
Options: TypeAlias = dict[str, Any]

NAMESPACE = "napari-tessera"

MICROMETRES = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "μm": 1.0,  # the Greek letter, where the line above has the micro sign
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "\\u00b5m": 1.0,  # how ImageJ escapes it
    "nm": 1e-3,
    "å": 1e-4,
    "pm": 1e-6,
    "inch": 25_400.0,
}


def read_voxel_size_um(file: tifffile.TiffFile, spatial_axes: str) -> tuple[float, ...] | None:
    """Return the voxel size along *spatial_axes* in micrometres, or None unless the file gives them all."""
    if file.is_ome:
        sizes = _ome_sizes_um(file.ome_metadata or "")
    elif file.is_imagej:
        sizes = _imagej_sizes_um(file)
    else:
        sizes = dict(zip("XYZ", reversed(_json_metadata(file).get("voxel_size_um") or []), strict=False))
    found = [sizes.get(axis, 0.0) for axis in spatial_axes]
    return tuple(found) if all(math.isfinite(size) and size > 0 for size in found) else None


def read_metadata(file: tifffile.TiffFile) -> Mapping[str, Any]:
    """Return what one of the ``*_options`` functions stored in the file; empty for a file of other origin."""
    if file.is_ome:
        text = _ome_annotation(file.ome_metadata or "")
    elif file.is_imagej:
        text = (file.imagej_metadata or {}).get("Info")
    else:
        stored = _json_metadata(file).get(NAMESPACE)
        return stored if isinstance(stored, dict) else {}
    try:
        stored = json.loads(text or "")
    except ValueError:
        return {}
    found = stored.get(NAMESPACE) if isinstance(stored, dict) else None
    return found if isinstance(found, dict) else {}


def ome_options(axes: str, voxel_size_um: VoxelSize, metadata: Mapping[str, Any]) -> Options:
    """Return the arguments of `tifffile.imwrite` for an OME-TIFF."""
    ome: dict[str, Any] = {"axes": axes}
    for axis, size in _by_axis(axes, voxel_size_um).items():
        ome |= {f"PhysicalSize{axis}": size, f"PhysicalSize{axis}Unit": "µm"}
    if metadata:
        ome["MapAnnotation"] = {"Namespace": NAMESPACE, "json": _dumps({NAMESPACE: metadata})}
    return {"ome": True, "metadata": ome}


def imagej_options(axes: str, voxel_size_um: VoxelSize, metadata: Mapping[str, Any]) -> Options:
    """Return the arguments of `tifffile.imwrite` for a file that ImageJ opens as a hyperstack."""
    sizes = _by_axis(axes, voxel_size_um)
    imagej: dict[str, Any] = {"axes": axes}
    options: Options = {"imagej": True, "metadata": imagej}
    if sizes:
        imagej["unit"] = "um"
        options["resolution"] = (1 / sizes["X"], 1 / sizes["Y"])
    if "Z" in sizes:
        imagej["spacing"] = sizes["Z"]
    if metadata:
        imagej["Info"] = _dumps({NAMESPACE: metadata})
    return options


def json_options(axes: str, voxel_size_um: VoxelSize, metadata: Mapping[str, Any]) -> Options:
    """Return the arguments of `tifffile.imwrite` for a TIFF with a JSON description, for any number type."""
    sizes = _by_axis(axes, voxel_size_um)
    description: dict[str, Any] = {"axes": axes}
    options: Options = {"metadata": description}
    if sizes:
        description["voxel_size_um"] = list(sizes.values())
        # y and x also where any program looks for them
        options |= {"resolution": (1e4 / sizes["X"], 1e4 / sizes["Y"]), "resolutionunit": "CENTIMETER"}
    if metadata:
        description[NAMESPACE] = json.loads(_dumps(metadata))
    return options


def _by_axis(axes: str, voxel_size_um: VoxelSize) -> dict[str, float]:
    spatial = [axis for axis in axes if axis in "ZYX"]
    return dict(zip(spatial, map(float, voxel_size_um), strict=True)) if voxel_size_um else {}


def _dumps(metadata: Mapping[str, Any]) -> str:
    """Return JSON in ASCII, which all dialects can hold; values that JSON does not know become text."""
    return json.dumps(metadata, default=str)


def _json_metadata(file: tifffile.TiffFile) -> Mapping[str, Any]:
    found = file.shaped_metadata
    return found[0] if found else {}


def _ome_sizes_um(xml: str) -> dict[str, float]:
    pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    if pixels is None:
        return {}
    sizes = {}
    for axis in "ZYX":
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        if size is not None and unit.lower() in MICROMETRES:
            sizes[axis] = size * MICROMETRES[unit.lower()]
    return sizes


def _ome_annotation(xml: str) -> str | None:
    ours = f".//{{*}}MapAnnotation[@Namespace='{NAMESPACE}']/{{*}}Value/{{*}}M"
    return ElementTree.fromstring(xml).findtext(ours)


def _imagej_sizes_um(file: tifffile.TiffFile) -> dict[str, float]:
    metadata = file.imagej_metadata or {}
    factor = MICROMETRES.get(str(metadata.get("unit", "")).lower())
    if factor is None:
        return {}
    tags = file.pages.first.tags
    sizes = {"Z": float(metadata.get("spacing", 1.0)) * factor}  # ImageJ leaves a spacing of 1 out
    for axis in "XY":
        numerator, denominator = tags.valueof(f"{axis}Resolution", (0, 1))
        if numerator:
            # The tag holds a ratio of 32-bit integers: what is past its precision is rounded off.
            sizes[axis] = float(f"{denominator / numerator * factor:.8g}")
    return sizes


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
