"""A stack of planes for a 2D model: every plane is an image of its own, normalised and labelled by itself."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from napari_tessera.images.views.plane_stack import in_stacks
from napari_tessera.images.volume import Volume
from napari_tessera.planning.as_source import as_image, as_source

if TYPE_CHECKING:
    from napari_tessera.engine.source import Source
    from napari_tessera.images.volume import ArrayLike
    from napari_tessera.models.spec.spec import ModelSpec

__all__ = ["Plane", "how_planes_run", "plane_loads", "plane_of_volume", "planes_note", "split_planes", "without_axes"]

Plane = Callable[[], Any]
"""Gives one plane when it is called: nothing of a lazy stack is read before."""


def split_planes(volume: Any, spec: ModelSpec) -> tuple[Plane, ...] | None:
    """Return the planes of *volume*, (Z, Y, X) with or without channels, for a 2D model; None if it is no stack.

    An array is a stack if it has one axis more than it needs for a single image: (Z, Y, X) for one channel, and
    (C, Z, Y, X) or (Z, Y, X, C) where C is the number of the model's channels.
    """
    if spec.spatial_dims != 2:
        return None
    array = as_image(volume)
    if isinstance(array, Volume):
        if "Z" not in array.axes or "T" in array.axes:
            return None
        planes = range(array.spatial_shape[spec.plane_place])
        return tuple(partial(plane_of_volume, array, {spec.plane_axis.upper(): number}, spec) for number in planes)
    shape, channels, place = tuple(array.shape), spec.in_channels, spec.plane_place
    if 0 in shape:
        return None
    if len(shape) == 3 and channels == 1 and shape[0] != 1 and shape[-1] != 1:
        return _planes_along(array, place)
    if len(shape) == 4 and shape[0] == channels:
        return _planes_along(array, 1 + place)
    if len(shape) == 4 and shape[-1] == channels:
        return _planes_along(array, place)
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
    one_by_one = "one by one" if spec.plane_axis == "z" else f"one by one along {spec.plane_axis}"
    if spec.planes == "apart":
        return one_by_one
    return f"{one_by_one}, {'cropped and ' if spec.crop != 'none' else ''}normalised together"


def _planes_along(array: Any, axis: int) -> tuple[Plane, ...]:
    def plane(number: int) -> Any:
        return array[(slice(None),) * axis + (number,)]

    return tuple(partial(plane, number) for number in range(array.shape[axis]))


def plane_of_volume(volume: Volume, place: Mapping[str, int], spec: ModelSpec) -> Volume:
    """Return the part of *volume* that lies at *place*, an index for some of its axes, as an image of its own.

    Of a stack, what is left of z, y and x becomes y and x.
    """
    index = tuple(place.get(axis, slice(None)) for axis in volume.axes)
    part_at = getattr(volume.data, "frame", volume.data.__getitem__)  # unread, where that can be
    return without_axes(volume, place, part_at(index), spec)


def without_axes(volume: Volume, gone: Container[str], data: ArrayLike, spec: ModelSpec) -> Volume:
    """Return *data*, a part of *volume* without the axes *gone*, with what the volume says of the others."""
    kept = "".join(axis for axis in volume.axes if axis not in gone)
    in_front, dims = kept.rstrip("ZYX"), len(kept.rstrip("ZYX"))
    size = volume.voxel_size_um
    if size is not None and len(kept) - dims < len(size):
        size = spec.of_plane(size)
    return replace(volume, data=data, axes=in_front + "ZYX"[dims - len(kept) :], voxel_size_um=size)
