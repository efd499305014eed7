"""What a look at a volume tells its plan: the box that the network sees, and the windows that hold anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.images.views.crop import Crop, measure_crop
from napari_tessera.images.views.plane_stack import find_stack_crops
from napari_tessera.images.volume import Volume
from napari_tessera.models.given import as_model, as_settings
from napari_tessera.planning.as_source import as_image, as_source
from napari_tessera.planning.resampling import sizes_of_volumes
from napari_tessera.planning.stacked_planes import Plane, plane_loads, split_planes
from napari_tessera.planning.window_mask import check_mask, find_windows

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.models.given import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.planning.resampling import VoxelSize

    Windows = npt.NDArray[np.bool_] | list[npt.NDArray[np.bool_]] | None

__all__ = ["find_crop", "find_occupied", "voxel_size_of"]


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


def find_occupied(
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
    return _find_occupied_planes(
        planes, model, settings, wanted, None if size is None else model.spec.of_plane(size), boxes
    )


def _find_occupied_planes(
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
