"""A stack of planes for a 2D model: every plane is an image of its own, normalised and labelled by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_tessera.engine.stack import in_stacks
from napari_tessera.volumes.as_source import as_array, as_source
from napari_tessera.volumes.volume import Volume

if TYPE_CHECKING:
    from napari_tessera.engine.source import Source
    from napari_tessera.models.spec import ModelSpec

__all__ = ["Plane", "how_planes_run", "plane_loads", "planes_note", "split_planes"]

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


def plane_loads(planes: Sequence[Plane], spec: ModelSpec) -> tuple[Callable[[], Source], ...]:
    """Return what loads each of *planes* for the engine; those that are taken together know their stack."""
    loads = tuple(partial(_load, plane, spec) for plane in planes)
    return in_stacks(loads, len(loads)) if spec.planes == "together" else loads


def _load(plane: Plane, spec: ModelSpec) -> Source:
    return as_source(plane(), spec)


def planes_note(name: str, planes: int, spec: ModelSpec) -> str:
    """Return the sentence that says how the stack *name* is run."""
    return f"{name} is 3D and the model '{spec.name}' is 2D: its {planes} planes run {how_planes_run(spec)}"


def how_planes_run(spec: ModelSpec) -> str:
    """Return how a 2D model takes the planes of a stack, for the user."""
    if spec.planes == "apart":
        return "one by one"
    return f"one by one, {'cropped and ' if spec.crop != 'none' else ''}normalised together"


def _plane_of(array: Any, index: tuple[Any, ...]) -> Plane:
    return lambda: array[index]


def _plane_of_volume(volume: Volume, z: int) -> Plane:
    index = tuple(z if axis == "Z" else slice(None) for axis in volume.axes)
    size = None if volume.voxel_size_um is None else volume.voxel_size_um[1:]
    return lambda: replace(volume, data=volume.data[index], axes=volume.axes.replace("Z", ""), voxel_size_um=size)
