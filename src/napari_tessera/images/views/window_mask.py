"""Which windows hold anything: found by one pass over the image, or over a mask, before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError
from napari_tessera.engine.source import ArraySource, PlaneCache, Source

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.images.views.crop import Crop


def measure_window_mask(source: Source, grid: WindowGrid, *, above: float) -> npt.NDArray[np.bool_]:
    """Return which windows hold a voxel above a value in image units, in any channel: boolean, shape ``grid.counts``.

    Reads every plane once; memory is that of the planes that one row of windows spans. Where *source* is not of the
    grid's shape, the windows are those of the image resampled to that shape, and every voxel of *source* counts that
    one of them touches.
    """
    axis, shape = grid.sweep_axis, source.shape[1:]
    planes = PlaneCache(source, axis)
    window_mask = np.zeros(grid.counts, bool)
    across: list[slice] = [slice(0, side) for side in shape]
    limits = [_touched(_limits(grid, number), grid.shape[number], side) for number, side in enumerate(shape)]
    for row, (first, stop) in enumerate(limits[axis]):
        region = tuple(slice(first, stop) if a == axis else part for a, part in enumerate(across))
        hit: npt.NDArray[Any] = np.any(planes.read(region) > above, axis=0)
        hit = np.any(hit, axis=axis, keepdims=True)
        for other in range(len(grid.axes)):
            if other != axis:
                parts = [np.any(hit.take(range(a, b), other), axis=other) for a, b in limits[other]]
                hit = np.stack(parts, axis=other)
        window_mask[(*(slice(None) for _ in range(axis)), slice(row, row + 1))] = hit
    return window_mask


def check_mask(mask: Any, shape: tuple[int, ...], name: str = "the mask") -> None:
    """Raise `InputError` unless *mask*, called *name*, has the image's spatial *shape*."""
    found = tuple(int(side) for side in mask.shape)
    if found != shape:
        raise InputError(f"{name} has the shape {found}, but the image is {shape}: give one of the same shape")


def find_masked(mask: Any, grid: WindowGrid, crop: Crop | None = None) -> npt.NDArray[np.bool_]:
    """Return which windows of *grid* hold a voxel of *mask* that is above 0; the mask is read once.

    The mask is of all of the image, in its own voxels, also where the windows are those of the resampled image, or of
    the box *crop*.
    """
    whole = ArraySource(mask)
    return measure_window_mask(whole if crop is None else crop.of(whole), grid, above=0)


def _limits(grid: WindowGrid, axis: int, halo: int = 0) -> list[tuple[int, int]]:
    """Return the first voxel of every window on one axis and the one after its last, but for a *halo*, in the image."""
    before, side, image = grid.pad_vox[axis][0], grid.window[axis], grid.shape[axis]
    firsts = (start - before for start in grid.starts[axis])
    return [(max(first + halo, 0), min(first + side - halo, image)) for first in firsts]


def _touched(limits: list[tuple[int, int]], side: int, own_side: int) -> list[tuple[int, int]]:
    """Return *limits* on an axis of *side* voxels in voxels of one of *own_side*: all that they overlap."""
    return [(first * own_side // side, -(-stop * own_side // side)) for first, stop in limits]


def covered_voxels(grid: WindowGrid, window_mask: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which voxels of the image lie in what counts of a window that is computed, boolean (*spatial)."""
    covered = np.zeros(grid.shape, bool)
    limits = [_limits(grid, axis, halo) for axis, halo in enumerate(grid.halo)]
    for index in zip(*np.nonzero(window_mask), strict=True):
        covered[tuple(slice(*limits[axis][number]) for axis, number in enumerate(index))] = True
    return covered
