"""What a look at a volume tells its plan: the box that the network sees, and the windows that hold anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.source import ArraySource, Source
from napari_tessera.images.views.crop import Crop, measure_crop
from napari_tessera.images.views.plane_stack import find_stack_crops
from napari_tessera.images.views.window_mask import measure_window_mask
from napari_tessera.images.volume import Volume
from napari_tessera.models.given import as_model, as_settings
from napari_tessera.planning.as_source import as_image, as_source
from napari_tessera.planning.resampling import resampling_of, sizes_of_volumes
from napari_tessera.planning.stacked_planes import Plane, plane_loads, split_planes

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.given import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.models.spec.spec import ModelSpec
    from napari_tessera.planning.resampling import VoxelSize

    Windows = npt.NDArray[np.bool_] | list[npt.NDArray[np.bool_]] | None

__all__ = [
    "check_mask",
    "find_crop",
    "find_masked",
    "find_window_mask",
    "find_windows",
    "voxel_size_of",
    "window_grid",
]


def find_crop(volume: Any, model: GivenModel) -> Crop | tuple[Crop, ...] | None:
    """Return the box of *volume* that the network sees, None for all of it; reads the image once if the model crops.

    Parameters
    ----------
    volume, model
        As for `predict`.

    Returns
    -------
    Crop, tuple of Crop or None
        Of a stack for a 2D model one for each plane, in order.
    """
    model = as_model(model)
    if model.spec.crop == "none":
        return None
    volume = as_image(volume)
    above, planes = model.spec.crop_limit, split_planes(volume, model.spec)
    if planes is None:
        return measure_crop(as_source(volume, model.spec), above)
    loads = plane_loads(planes, model.spec)
    if model.spec.planes == "together":
        return find_stack_crops(loads, above)
    return tuple(measure_crop(load(), above) for load in loads)


def find_window_mask(
    volume: Any,
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    mask: Any = None,
    voxel_size_um: VoxelSize | None = None,
    crop: Crop | tuple[Crop, ...] | None = None,
) -> Windows:
    """Return which windows of *volume* a run computes, None for all of them; reads the image, or the mask, once.

    Parameters
    ----------
    volume, model, settings
        As for `predict`; windows without a voxel above ``settings.skip_below`` are left out.
    mask
        An array of the volume's spatial shape; windows in which it is 0 everywhere are left out, too.
    voxel_size_um
        As for `predict`.
    crop
        From `find_crop`: windows are those of the box.

    Returns
    -------
    numpy.ndarray, list of numpy.ndarray or None
        Boolean, one per window, shape of the plan's grid; of a stack for a 2D model with its planes in front, and a
        list of them where they are cropped.

    Raises
    ------
    InputError
        If the mask has another shape than the image.
    SettingsError
        If the window does not suit the model.
    """
    volume, model = as_image(volume), as_model(model)
    settings, wanted = as_settings(settings, model), None if mask is None else as_image(mask)
    wanted = wanted.data if isinstance(wanted, Volume) else wanted
    size = voxel_size_of(volume, voxel_size_um)
    planes = split_planes(volume, model.spec)
    if planes is None:
        box = crop if isinstance(crop, Crop) else None
        return find_windows(as_source(volume, model.spec), model.spec, settings, wanted, size, box)
    boxes = crop if isinstance(crop, tuple) else None
    return _find_plane_masks(
        planes, model, settings, wanted, None if size is None else model.spec.of_plane(size), boxes
    )


def _find_plane_masks(
    planes: Sequence[Plane],
    model: Model,
    settings: Settings,
    mask: Any,
    voxel_size_um: VoxelSize | None,
    crops: tuple[Crop, ...] | None,
) -> Windows:
    if mask is None and settings.skip_below is None:
        return None
    place = model.spec.plane_place
    if mask is not None:
        check_mask(mask, model.spec.of_stack(len(planes), as_source(planes[0](), model.spec).shape[1:]))
    found = [
        find_windows(
            as_source(plane(), model.spec),
            model.spec,
            settings,
            None if mask is None else mask[(slice(None),) * place + (z,)],
            voxel_size_um,
            None if crops is None else crops[z],
        )
        for z, plane in enumerate(planes)
    ]
    windows = [each for each in found if each is not None]
    return np.stack(windows) if crops is None else windows


def voxel_size_of(volume: Any, voxel_size_um: VoxelSize | None) -> VoxelSize | None:
    """Return the voxel size that is given, else the one that the volume knows of itself."""
    if voxel_size_um is None:
        return volume.voxel_size_um if isinstance(volume, Volume) else None
    return sizes_of_volumes(voxel_size_um, 1)[0]


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


def find_windows(
    source: Source,
    spec: ModelSpec,
    settings: Settings,
    mask: Any = None,
    voxel_size_um: VoxelSize | None = None,
    crop: Crop | None = None,
) -> npt.NDArray[np.bool_] | None:
    """Return which windows of one volume a run computes, None for all of them.

    Parameters
    ----------
    source
        The volume in its own voxels; read once, and only if ``settings.skip_below`` asks for it.
    spec, settings
        The model and what the user wants.
    mask
        An array of the volume's spatial shape: windows in which it is 0 everywhere are left out, too. None: no mask.
    voxel_size_um
        Of the volume, micrometres; needed where it is resampled.
    crop
        The box of the volume that the network sees; None: all of it.

    Returns
    -------
    numpy.ndarray or None
        Boolean, one per window, shape of the plan's grid.

    Raises
    ------
    InputError
        If the mask has another shape than the image, the image cannot be read, or it is to be resampled and its voxel
        size is unknown.
    SettingsError
        If the window does not suit the model.
    """
    shape = source.shape[1:]
    grid = window_grid(shape if crop is None else crop.shape, spec, settings, voxel_size_um)
    found: npt.NDArray[np.bool_] | None = None
    if mask is not None:
        check_mask(mask, shape)
        found = find_masked(mask, grid, crop)
    if settings.skip_below is not None:
        full = measure_window_mask(source if crop is None else crop.of(source), grid, above=settings.skip_below)
        found = full if found is None else full & found
    return found
