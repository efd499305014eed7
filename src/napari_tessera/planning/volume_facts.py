"""Which windows of an image a mask leaves, on the grid that a plan lays over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from napari_tessera.core.errors import InputError
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.source import ArraySource
from napari_tessera.images.views.window_mask import measure_window_mask
from napari_tessera.planning.resampling import resampling_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.planning.resampling import VoxelSize


def window_grid(
    shape: tuple[int, ...], spec: ModelSpec, settings: Settings, voxel_size_um: VoxelSize | None = None
) -> WindowGrid:
    """Return the windows of an image or a box of one, spatial *shape*, as a plan lays them: if resampled, of that.

    Raises
    ------
    SettingsError, InputError
        If the window does not suit the model, or the image is to be resampled and its voxel size is unknown.
    """
    window = settings.window_size or spec.window.default
    spec.window.check(window)
    resampling = resampling_of(shape, voxel_size_um, spec, settings)
    seen = shape if resampling is None else resampling.shape
    return WindowGrid.regular(seen, window, settings.overlap, spec.tiling, spec.halo, spec.padding)


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
