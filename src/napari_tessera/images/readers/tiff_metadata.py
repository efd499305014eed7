"""Voxel size and provenance in the three dialects of TIFF: OME, ImageJ and tifffile's own JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias
from xml.etree import ElementTree

from tifffile import RESUNIT

from napari_tessera.core.errors import without_control
from napari_tessera.core.units import micrometres_per
from napari_tessera.images.readers.ome import physical_sizes

if TYPE_CHECKING:
    import tifffile

__all__ = ["imagej_options", "json_options", "ome_options", "read_metadata", "read_voxel_size_um"]

VoxelSize: TypeAlias = tuple[float, ...] | None
Options: TypeAlias = dict[str, Any]

NAMESPACE = "napari-tessera"

Size: TypeAlias = tuple[float | None, str]
"""A number and its unit, as a file gives them."""


def read_voxel_size_um(file: tifffile.TiffFile, spatial_axes: str) -> tuple[VoxelSize, str]:
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
