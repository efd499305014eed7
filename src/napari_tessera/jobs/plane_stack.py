"""Stacks of planes for a 2D model: every plane is an image of its own, or one of those that are taken together.

Planes that are taken together are cropped and normalised as the stack that they are, and labelled one by one all the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import SourceView
from napari_tessera.images.views.crop import Crop
from napari_tessera.images.views.window_mask import find_masked
from napari_tessera.images.volume import Volume
from napari_tessera.jobs.as_source import as_image, as_source

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.engine.source import Region, Source
    from napari_tessera.images.volume import ArrayLike
    from napari_tessera.models.spec.spec import ModelSpec

Plane = Callable[[], Any]
"""Gives one plane when it is called: nothing of a lazy stack is read before."""
Load = Callable[[], "Source"]
FindMasked = Callable[["WindowGrid", Crop | None], npt.NDArray[np.bool_]]


class StackSource(SourceView):
    """The planes, (C, Y, X), that *loads* give, as one `Source`, (C, Z, Y, X); each is loaded when it is read.

    *plane* is one of them. `loads` is the same object in every source of the same stack, if it was given as a tuple.
    """

    def __init__(self, loads: Sequence[Load], plane: Source) -> None:
        super().__init__(plane)
        self.loads = tuple(loads)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, Z, Y, X)."""
        channels, *plane = self.source.shape
        return (channels, len(self.loads), *plane)

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """What the planes are read in; None where they do not say."""
        of_plane = super().chunk
        return None if of_plane is None else (1, *of_plane)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*, (C, *region)."""
        planes, *within = region
        return np.stack([load().read(tuple(within)) for load in self.loads[planes]], axis=1)


class StackPlane(SourceView):
    """Plane number *place*, (C, Y, X), of a *stack*, (C, Z, Y, X), that it knows."""

    def __init__(self, source: Source, stack: StackSource, place: int) -> None:
        super().__init__(source)
        self.stack = stack
        self.place = place


def load_in_stack(loads: tuple[Load, ...], place: int) -> StackPlane:
    """Return plane number *place* of the stack that *loads* give, the same tuple for all of its planes."""
    plane = loads[place]()
    return StackPlane(plane, StackSource(loads, plane), place)


def in_stacks(loads: Sequence[Load], planes: int) -> tuple[Load, ...]:
    """Return *loads*, of stacks one after another that have so many *planes* each, so that a plane knows its stack."""
    stacks = [tuple(loads[first : first + planes]) for first in range(0, len(loads), planes)]
    return tuple(partial(load_in_stack, stack, place) for stack in stacks for place in range(len(stack)))


def plane_crop(box: Crop, place: int) -> Crop:
    """Return what of plane number *place* lies in *box*, which is of its stack."""
    _, *shape = box.image_shape
    planes, *sides = box.box
    if box.is_empty or place not in range(*planes):
        return Crop.empty(shape)
    return Crop(tuple(shape), tuple(sides), planes=planes)


def masked_finders(mask: Any, planes: int | None, spec: ModelSpec) -> list[FindMasked]:
    """Return what finds the windows that *mask* leaves, for every plane of a stack; once where *planes* is None.

    Frames that share a mask and a grid have it looked at once.
    """
    along = (slice(None),) * spec.plane_place
    parts = [mask] if planes is None else [mask[*along, plane] for plane in range(planes)]
    return [cache(partial(find_masked, part)) for part in parts]


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
