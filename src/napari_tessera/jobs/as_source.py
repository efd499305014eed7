"""From whatever a caller has as an image to the source that the engine reads."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.core.errors import InputError
from napari_tessera.core.units import axis_letter
from napari_tessera.engine.source import ArraySource, Source, check_numbers
from napari_tessera.images.channel_stack import pick_channels
from napari_tessera.images.open import open_volume
from napari_tessera.images.volume import Volume, standard_order

if TYPE_CHECKING:
    from napari_tessera.models.spec.spec import ModelSpec

__all__ = ["as_image", "as_source", "check_planes"]

# Of torch, with no match in numpy: 16 bits of another kind, and 8.
_FLOATS_OF_TORCH_ALONE = re.compile(r"(torch\.)?(bfloat16|float8|float4)")


def as_source(volume: Any, spec: ModelSpec, channels: Sequence[int] | None = None) -> Source:
    """Return *volume*, or its *channels* in their order, as a `Source` that suits the model; nothing is copied or read.

    Raises
    ------
    InputError
        If it has the wrong number of axes or channels, or no voxels.
    """
    image = as_image(volume)
    if isinstance(image, Volume):
        return _source_of_volume(image, spec, channels)
    shape, dims = tuple(image.shape), spec.spatial_dims
    if len(shape) == dims:
        return _checked(ArraySource(image), spec)
    if len(shape) == dims + 1:
        last = shape[-1] == spec.in_channels and shape[0] != spec.in_channels
        return _checked(ArraySource(image, channel_axis=-1 if last else 0), spec)
    raise InputError(
        f"the image has the shape {shape}, but the model '{spec.name}' is {spec.spatial_dims}D with "
        f"{spec.in_channels} channel(s): it needs {dims} axes, or {dims + 1} with the channels first"
    )


def _source_of_volume(volume: Volume, spec: ModelSpec, channels: Sequence[int] | None) -> Source:
    check_planes(volume, spec)
    if "T" in volume.axes:
        raise InputError(
            f"'{volume.name}' has a time axis ({volume.axes}): run its frames one by one, as 'tessera run' does"
        )
    data, axis = volume.data, volume.axes.index("C") if "C" in volume.axes else None
    if channels is not None:
        data = pick_channels(data, axis, channels)
    return _checked(ArraySource(data, channel_axis=0 if channels is not None and axis is None else axis), spec)


def check_planes(volume: Volume, spec: ModelSpec) -> None:
    """Refuse single planes for a 3D model, and say of several frames or channels that they may be meant as z."""
    if len(volume.spatial_axes) >= spec.spatial_dims:
        return
    lengths = dict(zip(volume.axes, volume.shape, strict=True))
    several = [axis for axis in "TC" if lengths.get(axis, 1) > 1 and (axis == "T" or lengths["C"] != spec.in_channels)]
    if not several:
        raise InputError(
            f"the image has the axes of a 2D volume {volume.spatial_shape}, but the model '{spec.name}' is 3D"
        )
    axis = several[0]
    kind = {"T": "frames", "C": "channels"}[axis]
    raise InputError(
        f"the image has {lengths[axis]} {kind} of single planes ({volume.axes}), but the model '{spec.name}' is 3D: if "
        f"the {kind} are the planes of a stack, say so with --axes {volume.axes.replace(axis, 'Z')}"
    )


def as_image(volume: Any) -> Any:
    """Return *volume* as a `Volume`, or as something that has a shape, a numpy dtype and slices, lazy where it is lazy.

    A path is opened; an array of xarray becomes a `Volume` of the axes that its dimensions name; floats that only torch
    has become float32. Raises `InputError` if it is no image of real numbers, its axes cannot be told, or parts of it
    are masked.
    """
    if isinstance(volume, Volume):
        return volume
    if isinstance(volume, (str, os.PathLike)):
        return open_volume(volume)
    if type(volume).__module__.partition(".")[0] == "xarray" and hasattr(volume, "data"):
        return _of_xarray(volume)
    array = _as_array(volume)
    if isinstance(getattr(array, "_meta", array), np.ma.MaskedArray):  # dask has the type of its pieces there
        raise InputError(
            "the image is a masked array, and what stands under its mask is no image: fill it, such as "
            "volume.filled(0), and say where to compute with mask=~volume.mask"
        )
    check_numbers(array.dtype)
    return array


def _as_array(volume: Any) -> Any:
    if hasattr(volume, "detach"):
        return _of_torch(volume)
    if hasattr(volume, "shape") and hasattr(volume, "dtype"):
        if not all(isinstance(side, (int, np.integer)) for side in volume.shape):  # NaN: dask's unknown chunks
            raise InputError(f"the image has the shape {tuple(volume.shape)}: compute its chunk sizes first")
        return volume.astype("float32") if _FLOATS_OF_TORCH_ALONE.match(str(volume.dtype)) else volume
    try:
        return np.asarray(volume)
    except (TypeError, ValueError) as error:
        raise InputError(f"the image is no regular array: {error}") from error


def _of_torch(tensor: Any) -> np.ndarray[Any, Any]:
    try:
        values = tensor.detach().cpu()
        values = values.float() if _FLOATS_OF_TORCH_ALONE.match(str(values.dtype)) else values
        return np.asarray(values.numpy())
    except (TypeError, RuntimeError) as error:  # sparse, quantised or without values
        raise InputError(f"the tensor cannot be read as an array: {error}") from error


def _of_xarray(volume: Any) -> Any:
    """Return an array of xarray with its axes in the order of a volume, or as it is where they have no names."""
    dims = [str(dim) for dim in volume.dims]
    if all(re.fullmatch(r"dim_\d+", dim) for dim in dims):
        return as_image(volume.data)
    letters = [axis_letter(dim) for dim in dims]
    if "" in letters or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
        raise InputError(
            f"the dimensions of the image are {', '.join(dims)}: rename them to t, c, z, y and x, each once, "
            "y and x among them"
        )
    order = standard_order("".join(letters))
    data = as_image(volume.transpose(*(volume.dims[place] for place in order)).data)
    return Volume(data, "".join(letters[place] for place in order), name=str(volume.name or "the image"))


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
        wanted = ",".join(map(str, range(spec.in_channels)))
        remedy = f"choose those that it was trained on, such as --channels {wanted}"
        if channels == 1:
            remedy = (
                f"give a file for each, named as nnU-Net does: image_0000.tif to image_{spec.in_channels - 1:04}.tif"
            )
        raise InputError(
            f"the image has {channels} channel(s), but the model '{spec.name}' needs {spec.in_channels}: {remedy}"
        )
    return source
