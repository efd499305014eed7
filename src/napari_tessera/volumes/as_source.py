"""From whatever a caller has as an image to the source that the engine reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.engine.source import ArraySource, Source
from napari_tessera.errors import InputError
from napari_tessera.volumes.volume import Volume

if TYPE_CHECKING:
    from napari_tessera.models.spec import ModelSpec

__all__ = ["as_array", "as_source"]


def as_source(volume: Any, spec: ModelSpec) -> Source:
    """Return *volume* as a `Source` of the channels and axes that the model needs; nothing is copied or read.

    Raises
    ------
    InputError
        If it has the wrong number of axes or channels, or no voxels.
    """
    if isinstance(volume, Volume):
        array, channel_axis = volume.data, volume.axes.find("C")
        if "T" in volume.axes:
            raise InputError(
                f"'{volume.name}' has a time axis ({volume.axes}): run its frames one by one, as 'tessera run' does"
            )
        return _checked(ArraySource(array, channel_axis=None if channel_axis < 0 else channel_axis), spec)
    array = as_array(volume)
    shape, dims = tuple(array.shape), spec.spatial_dims
    if len(shape) == dims:
        return _checked(ArraySource(array), spec)
    if len(shape) == dims + 1:
        last = shape[-1] == spec.in_channels and shape[0] != spec.in_channels
        return _checked(ArraySource(array, channel_axis=-1 if last else 0), spec)
    raise InputError(
        f"the image has the shape {shape}, but the model '{spec.name}' is {spec.spatial_dims}D with "
        f"{spec.in_channels} channel(s): it needs {dims} axes, or {dims + 1} with the channels first"
    )


def as_array(volume: Any) -> Any:
    """Return *volume* as something that has a shape, a numpy dtype and slices, lazy where it is lazy."""
    if hasattr(volume, "detach"):  # a torch tensor
        return volume.detach().cpu().numpy()
    if hasattr(volume, "shape") and hasattr(volume, "dtype"):
        if not all(isinstance(side, (int, np.integer)) for side in volume.shape):  # NaN: dask's unknown chunks
            raise InputError(f"the image has the shape {tuple(volume.shape)}: compute its chunk sizes first")
        return volume
    try:
        return np.asarray(volume)
    except ValueError as error:
        raise InputError(f"the image is no regular array: {error}") from error


def _checked(source: ArraySource, spec: ModelSpec) -> Source:
    channels, *spatial = source.shape
    if min(source.shape) < 1:
        raise InputError(f"the image is empty: its shape is {tuple(source.array.shape)}")
    if len(spatial) != spec.spatial_dims:
        raise InputError(
            f"the image has the axes of a {len(spatial)}D volume {tuple(spatial)}, "
            f"but the model '{spec.name}' is {spec.spatial_dims}D"
        )
    if channels != spec.in_channels:
        raise InputError(
            f"the image has {channels} channel(s), but the model '{spec.name}' needs {spec.in_channels}: "
            f"choose the channels it was trained on"
        )
    return source
