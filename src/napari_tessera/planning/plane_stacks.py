"""Stacks among the shapes of a plan for a 2D model: every plane is a volume of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.core.errors import InputError
from napari_tessera.images.views.crop import Crop
from napari_tessera.planning.resampling import VoxelSize, sizes_of_volumes

if TYPE_CHECKING:
    import numpy.typing as npt

    from napari_tessera.models.spec.spec import ModelSpec

    Windows = npt.NDArray[Any] | Sequence[npt.NDArray[Any]] | None

__all__ = ["PlannedVolumes", "count_planes", "plane_by_plane"]


@dataclass(frozen=True, slots=True)
class PlannedVolumes:
    """What a plan is made of, one entry for each volume that is run.

    *window_masks* of None compute all windows, *crops* of None show the network all of the volume. The results of
    *most_planes* volumes are one.
    """

    shapes: tuple[tuple[int, ...], ...]
    voxel_sizes_um: tuple[VoxelSize | None, ...]
    window_masks: tuple[npt.NDArray[Any] | None, ...]
    crops: tuple[Crop | None, ...]
    most_planes: int = 1


def count_planes(shape: Sequence[int], spec: ModelSpec) -> int | None:
    """Return how many planes of a volume of spatial *shape* a 2D model runs one by one; None where it is no stack."""
    return shape[spec.plane_place] if spec.spatial_dims == 2 and len(shape) == 3 and min(shape) > 0 else None


def plane_by_plane(
    shapes: Sequence[tuple[int, ...]],
    spec: ModelSpec,
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None,
    window_masks: Sequence[Windows] | None,
    crops: Sequence[Crop | Sequence[Crop] | None] | None = None,
) -> PlannedVolumes:
    """Return the volumes of a plan, the planes of each stack in the place of the stack.

    Voxel sizes, window masks and crops are one for each of *shapes*. Of a stack sizes may be of two axes or three,
    window masks have its planes in front, or are one for each of them, as crops are.
    """
    sizes = sizes_of_volumes(voxel_size_um, len(shapes))
    windows, boxes = _one_each("window_masks", window_masks, len(shapes)), _one_each("crops", crops, len(shapes))
    for shape, size in zip(shapes, sizes, strict=True):
        if size is not None and len(size) not in (len(shape), spec.spatial_dims):
            raise InputError(f"the voxel size is {size}, but the shape {shape}: give one length per axis")
    counts = [count_planes(shape, spec) for shape in shapes]
    volumes: list[tuple[tuple[int, ...], VoxelSize | None, Any, Any]] = [
        volume
        for shape, size, which, box, planes in zip(shapes, sizes, windows, boxes, counts, strict=True)
        for volume in ([(shape, size, which, box)] if planes is None else _planes(shape, size, which, box, spec))
    ]
    for *_, box in volumes:
        if not isinstance(box, Crop | None):
            raise InputError(f"a box of crops is {box!r}, but it must be what find_crop gives")
    return PlannedVolumes(
        shapes=tuple(shape for shape, *_ in volumes),
        voxel_sizes_um=tuple(size for _, size, _, _ in volumes),
        window_masks=tuple(which for _, _, which, _ in volumes),
        crops=tuple(box for *_, box in volumes),
        most_planes=max((planes or 1 for planes in counts), default=1),
    )


def _one_each(name: str, given: Any, volumes: int, what: str = "volume") -> tuple[Any, ...]:
    if given is None:
        return (None,) * volumes
    if not getattr(given, "ndim", 1) or not isinstance(given, (list, tuple, np.ndarray)):
        raise InputError(f"{name} is {given!r}, but it must be a list, one for each {what}")
    if len(given) != volumes:
        raise InputError(f"{name} says it of {len(given)} {what}(s), but there are {volumes}: give one for each")
    return tuple(given)


def _planes(
    shape: tuple[int, ...], size: VoxelSize | None, window_masks: Any, crops: Any, spec: ModelSpec
) -> list[tuple[tuple[int, ...], VoxelSize | None, Any, Any]]:
    planes = shape[spec.plane_place]
    windows, boxes = (
        _one_each("window_masks", window_masks, planes, "plane"),
        _one_each("crops", crops, planes, "plane"),
    )
    own = None if size is None else spec.of_plane(size)
    return [(spec.of_plane(shape), own, which, box) for which, box in zip(windows, boxes, strict=True)]
