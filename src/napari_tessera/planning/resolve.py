"""Settings, model, volumes and device in; plan out. Pure: it touches no device and reads no voxel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError, SettingsError
from napari_tessera.core.settings.views import views
from napari_tessera.core.units import format_sides
from napari_tessera.decode.reduction import check_probabilities
from napari_tessera.planning.advice import advise
from napari_tessera.planning.needs import RunNeeds, Traced, directed_offsets
from napari_tessera.planning.plan import Plan, PlanLayout
from napari_tessera.planning.resampling import (
    VoxelSize,
    check_resolution,
    lay_windows,
    sizes_of_volumes,
)

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.decode import Decoder
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.models.spec.spec import ModelSpec


Shape = tuple[int, ...]


def resolve(
    shapes: Sequence[Shape],
    spec: ModelSpec,
    settings: Settings,
    *,
    traced: Traced,
    device: DeviceState,
    decoder: Decoder | None,
    itemsize: int = 4,
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None = None,
    window_masks: Sequence[npt.NDArray[Any] | None] | None = None,
    crops: Sequence[Crop | None] | None = None,
    output_chunk: Shape | None = None,
    results_held: int = 1,
    keeps_probabilities: bool = False,
) -> Plan:
    """Return what a run with these settings will do; most parameters are those of `request.plan`.

    *decoder* makes labels of probabilities; None keeps these. *itemsize*: bytes per value of the images. Of *crops* and
    *window_masks* there is one for every volume, a plane of a stack included.

    Raises
    ------
    SettingsError
        If the settings do not suit the model.
    InputError
        If a shape has no voxels or the wrong number of axes, is none that the model is given as it is, or a volume is
        to be resampled and its voxel size is unknown.
    """
    settings = complete_settings(settings, spec, decoder)
    if keeps_probabilities:
        check_probabilities(spec, settings.probabilities)
    _check_shapes(shapes, spec)
    sizes = sizes_of_volumes(voxel_size_um, len(shapes))
    boxes = _checked_crops(crops, shapes)
    own_shapes = [tuple(shape) if box is None else box.shape for shape, box in zip(shapes, boxes, strict=True)]
    seen = views(settings.tta_num, spec.spatial_dims, settings.tta_axes, settings.tta_views)
    _check_transposes(settings, any(view.transpose for view in seen))
    laid = [lay_windows(shape, size, spec, settings) for shape, size in zip(own_shapes, sizes, strict=True)]
    resamplings, grids = tuple(new for new, _ in laid), tuple(grid for _, grid in laid)
    _check_sides([grid.shape for grid in grids], spec)
    skipped = tuple(window_masks) if window_masks is not None else (None,) * len(grids)
    _check_window_masks(skipped, grids)
    skipped = tuple(_left(*each) for each in zip(skipped, grids, boxes, strict=True))
    # Chunks of a result are no whole numbers of resampled voxels, and a box begins anywhere in one.
    chunk = output_chunk if not any((*resamplings, *boxes)) else None
    run = RunNeeds(
        grids, resamplings, boxes, spec, settings, traced, device, decoder, keeps_probabilities, skipped, chunk
    )
    needs = run.of_run(itemsize, results_held)
    return Plan(
        settings=settings,
        device=device,
        layout=PlanLayout(
            run.volumes, seen, directed_offsets(spec), spec.out_channels, spec.crop != "none" and None in boxes
        ),
        needs=needs,
        time=traced.time,
        advice=advise(run, needs, sizes),
    )


def _checked_crops(crops: Sequence[Crop | None] | None, shapes: Sequence[Shape]) -> tuple[Crop | None, ...]:
    boxes = (None,) * len(shapes) if crops is None else tuple(crops)
    if len(boxes) != len(shapes) or any(
        box is not None and box.image_shape != tuple(shape) for box, shape in zip(boxes, shapes, strict=False)
    ):
        raise InputError(
            f"the crops are of images of {[box and box.image_shape for box in boxes]}, but the volumes are of "
            f"{[tuple(shape) for shape in shapes]}: measure one for each of them"
        )
    return boxes


def _check_window_masks(window_masks: Sequence[Any], grids: Sequence[WindowGrid]) -> None:
    for windows, grid in zip(window_masks, grids, strict=True):
        if windows is not None and (np.shape(windows) != grid.counts or np.asarray(windows).dtype != bool):
            raise InputError(
                f"window_masks has {np.asarray(windows).dtype} of shape {np.shape(windows)}, but it needs one bool for "
                f"each window, shape {grid.counts}, as find_window_mask gives it for the same settings"
            )


def _left(window_masks: npt.NDArray[Any] | None, grid: WindowGrid, crop: Crop | None) -> npt.NDArray[Any] | None:
    """Return which windows are computed: none of an image that is empty."""
    return np.zeros(grid.counts, bool) if crop is not None and crop.is_empty else window_masks


def complete_settings(settings: Settings, spec: ModelSpec, decoder: Decoder | None) -> Settings:
    """Return *settings* with what they leave to the model filled in.

    Raises
    ------
    SettingsError
        If window, resolution or decoder do not suit the model.
    """
    window = settings.window_size or spec.window.default
    spec.window.check(window)
    if decoder is not None:
        decoder.check(spec.output, spec.out_channels)
    else:
        check_probabilities(spec, settings.probabilities)
    check_resolution(settings, spec)
    return settings.replace(window_size=window, **_decoding(decoder))


def _decoding(decoder: Decoder | None) -> dict[str, Any]:
    """Return the settings that name *decoder* and all its parameters, so that a result says what made it."""
    if decoder is None:
        return {"decoder": None, "decoder_parameters": ()}
    return {"decoder": decoder.name, "decoder_parameters": dict(decoder)}


def _check_shapes(shapes: Sequence[Shape], spec: ModelSpec) -> None:
    if not shapes:
        raise InputError("there is no volume to run on: name at least one")
    for shape in shapes:
        if len(shape) != spec.spatial_dims:
            raise InputError(
                f"a volume of shape {tuple(shape)} has {len(shape)} spatial axes, "
                f"but the model '{spec.name}' is {spec.spatial_dims}D"
            )
        if min(shape) < 1:
            raise InputError(f"a volume of shape {tuple(shape)} is empty: every axis needs at least one voxel")


def _check_sides(shapes: Sequence[Shape], spec: ModelSpec) -> None:
    """Refuse images that the model's author pads before the network, by what Tessera does not compute."""
    for shape in shapes:
        rule = spec.image_sides
        padded = shape if rule is None else tuple(rule.nearest(axis, side)[-1] for axis, side in enumerate(shape))
        if padded != shape:
            raise InputError(
                f"the model '{spec.name}' pads images of {format_sides(shape)} voxels to "
                f"{format_sides(padded)} before it runs its network, which Tessera does not do: give it an "
                f"image of that size, or open it without that step"
            )


def _check_transposes(settings: Settings, transposed: bool) -> None:
    *_, height, width = settings.window_size or (0, 0)
    if transposed and height != width:
        raise SettingsError(
            f"tta_num {settings.tta_num} turns windows by a transpose of y and x, which needs equal sides, but "
            f"window_size is {height} in y and {width} in x: make them equal, or lower tta_num"
        )
