"""A stack of planes for a 2D model: every plane is an image of its own, normalised and labelled by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from napari_tessera.volumes.as_source import as_array
from napari_tessera.volumes.volume import Volume

if TYPE_CHECKING:
    from napari_tessera.models.spec import ModelSpec

__all__ = ["Plane", "planes_note", "split_planes"]

Plane = Callable[[], Any]
"""Gives one plane when it is called: nothing of a lazy stack is read before."""


def split_planes(volume: Any, spec: ModelSpec) -> tuple[Plane, ...] | None:
    """Return the planes of *volume*, (Z, Y, X) with or without channels, for a 2D model; None if it is no stack.

    An array is a stack if it has one axis more than it needs for a single image: (Z, Y, X) for one channel, and
    (C, Z, Y, X) or (Z, Y, X, C) where C is the number of the model's channels.
    """
    if spec.spatial_dims != 2:
        return None
    if isinstance(volume, Volume):
        if "Z" not in volume.axes or "T" in volume.axes:
            return None
        return tuple(_plane_of_volume(volume, z) for z in range(volume.spatial_shape[0]))
    array = as_array(volume)
    shape, channels = tuple(array.shape), spec.in_channels
    if len(shape) == 3 and channels == 1 and shape[0] != 1 and shape[-1] != 1:
        return tuple(_plane_of(array, (z,)) for z in range(shape[0]))
    if len(shape) == 4 and shape[0] == channels:
        return tuple(_plane_of(array, (slice(None), z)) for z in range(shape[1]))
    if len(shape) == 4 and shape[-1] == channels:
        return tuple(_plane_of(array, (z,)) for z in range(shape[0]))
    return None


def planes_note(name: str, planes: int, spec: ModelSpec) -> str:
    """Return the sentence that says how the stack *name* is run."""
    return f"{name} is 3D and the model '{spec.name}' is 2D: its {planes} planes run one by one"


def _plane_of(array: Any, index: tuple[Any, ...]) -> Plane:
    return lambda: array[index]


def _plane_of_volume(volume: Volume, z: int) -> Plane:
    index = tuple(z if axis == "Z" else slice(None) for axis in volume.axes)
    size = None if volume.voxel_size_um is None else volume.voxel_size_um[1:]
    return lambda: replace(volume, data=volume.data[index], axes=volume.axes.replace("Z", ""), voxel_size_um=size)
