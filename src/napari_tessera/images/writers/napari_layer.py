"""A layer of napari as TIFF: values, voxel size and where a result comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pint

from napari_tessera.core.errors import OutputError
from napari_tessera.images.volume import AXES, standard_order
from napari_tessera.images.writers.tiff import write_tiff

if TYPE_CHECKING:
    from napari_tessera.images.writers.output import TiffOptions

METADATA_KEY = "tessera"
"""Where a layer's metadata hold the settings and origin of a result."""

USUAL_AXES = {2: "YX", 3: "ZYX", 4: "TZYX", 5: "TCZYX"}


def write_layer(path: str, data: Any, meta: Mapping[str, Any], options: TiffOptions | None = None) -> list[str]:
    """Write a layer of labels or an image with its voxel size; napari has asked about replacing a file already.

    *meta* holds the layer's attributes: ``scale`` and ``units`` give the voxel size, ``axis_labels`` the axes if they
    are letters of TCZYX, ``metadata["tessera"]`` goes into the file. Of a multiscale layer the first level is written.
    """
    values = np.asarray(data[0] if meta.get("multiscale") else data)
    if meta.get("rgb"):
        values = np.moveaxis(values, -1, 0)
        spatial = _axes(meta, values.ndim - 1)
        axes = "C" + spatial
    else:
        axes = spatial = _axes(meta, values.ndim)
    order = standard_order(axes)
    write_tiff(
        path,
        np.transpose(values, order),
        axes="".join(axes[i] for i in order),
        voxel_size_um=_voxel_size_um(meta, spatial),
        metadata=_provenance(meta),
        options=options,
        overwrite=True,
    )
    return [str(Path(path))]


def _axes(meta: Mapping[str, Any], ndim: int) -> str:
    labels = "".join(str(label).upper() for label in meta.get("axis_labels", ()))
    if len(labels) == ndim == len(set(labels) & set(AXES)) and labels.endswith("YX"):
        return labels
    if ndim not in USUAL_AXES:
        raise OutputError(f"a layer of {ndim} dimensions cannot be written as TIFF; slice it to 2 to 5")
    return USUAL_AXES[ndim]


def _voxel_size_um(meta: Mapping[str, Any], axes: str) -> tuple[float, ...] | None:
    """Return micrometres along the spatial axes, or None where a unit is no length, as napari's pixel."""
    scale, units = meta.get("scale", ()), meta.get("units", ())
    if len(scale) != len(axes) or len(units) != len(axes):
        return None
    registry = pint.get_application_registry()  # type: ignore[no-untyped-call]
    try:
        return tuple(
            float(registry.Quantity(float(step), str(unit)).to("micrometer").magnitude)
            for step, unit, axis in zip(scale, units, axes, strict=True)
            if axis in "ZYX"
        )
    except pint.PintError:
        return None


def _provenance(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    found = meta.get("metadata", {}).get(METADATA_KEY, {})
    return found if isinstance(found, Mapping) else {METADATA_KEY: str(found)}
