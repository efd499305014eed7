"""The Python interface: plan, predict, segment. The widget and the command line go through the same functions."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import SettingsError
from napari_tessera.jobs.as_source import as_source
from napari_tessera.jobs.job import find_crop, find_window_mask, request_of_image
from napari_tessera.jobs.pipeline import provenance
from napari_tessera.jobs.result_stack import ResultStack
from napari_tessera.memory.device_state import measure_device
from napari_tessera.planning.request import PROBABILITIES, choose_decoder, plan

if TYPE_CHECKING:
    from napari_tessera.engine.loop.events import EventHandler
    from napari_tessera.models.load import GivenModel, GivenSettings
    from napari_tessera.planning.resampling import VoxelSize


__all__ = [
    "PROBABILITIES",
    "as_source",
    "choose_decoder",
    "find_crop",
    "find_window_mask",
    "measure_device",
    "plan",
    "predict",
    "provenance",
    "segment",
]


def predict(
    volume: Any,
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    mask: Any = None,
    voxel_size_um: VoxelSize | None = None,
    on_event: EventHandler | None = None,
    cancel: threading.Event | None = None,
) -> npt.NDArray[Any]:
    """Return the network's output over the whole volume.

    Parameters
    ----------
    volume
        `Volume`, the path of a file, or an array (numpy, dask, zarr, torch) of shape (Z, Y, X) or (Y, X), with a first
        or last axis of channels if the model has several; one of xarray in the order that its dimensions are named. Any
        real number type. A 2D model runs the planes of a stack one by one, each as an image of its own.
    model, settings
        What to run and how, as for `plan`; None: as `Model.suggested_settings` says, with the model's own overlap and
        views.
    mask
        An array of the volume's spatial shape: windows in which it is 0 everywhere are not computed, and what only they
        cover is background.
    voxel_size_um
        Of the volume along its spatial axes, micrometres; None takes what a `Volume` says of itself. Needed where
        ``settings.resample`` is on: the network then sees the image at the voxel size that the model expects, and the
        result comes back to the image's own voxels.
    on_event
        Called with every `Event`, on this thread; None: what the first passes show (`Noticed`) is logged as a warning.
    cancel
        Set it from another thread to stop within one forward pass.

    Returns
    -------
    numpy.ndarray
        (C, Z, Y, X), or (C, Y, X) for a single plane, activated as the model says; float32, or what
        ``settings.probabilities`` names.

    Raises
    ------
    TesseraError
        InputError, SettingsError, ModelError, OutOfMemoryError or CancelledError.
    """
    return _run_one(volume, model, settings, PROBABILITIES, mask, voxel_size_um, on_event, cancel)


def segment(
    volume: Any,
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    decoder: str | None = None,
    mask: Any = None,
    voxel_size_um: VoxelSize | None = None,
    on_event: EventHandler | None = None,
    cancel: threading.Event | None = None,
) -> npt.NDArray[Any]:
    """Return labels for the whole volume.

    Parameters
    ----------
    volume, model, settings, mask, voxel_size_um, on_event, cancel
        As for `predict`.
    decoder
        Name of the step from probabilities to labels; the settings' or the model's own if None.

    Returns
    -------
    numpy.ndarray
        (Z, Y, X) or (Y, X), integers; 0 is background. Objects of a 2D model are numbered in each plane from 1.

    Raises
    ------
    TesseraError
        As for `predict`.
    """
    if decoder == PROBABILITIES:
        raise SettingsError("segment gives labels: for probabilities call predict")
    return _run_one(volume, model, settings, decoder, mask, voxel_size_um, on_event, cancel)


def _run_one(
    volume: Any,
    model: GivenModel,
    settings: GivenSettings,
    decoder: str | None,
    mask: Any,
    voxel_size_um: VoxelSize | None,
    on_event: EventHandler | None,
    cancel: threading.Event | None,
) -> npt.NDArray[Any]:
    asked, is_stack = request_of_image(volume, model, settings, decoder=decoder, mask=mask, voxel_size_um=voxel_size_um)
    asked = asked.with_crops()
    planned = asked.plan(asked.find_windows())
    found = ResultStack((len(asked.volumes),) if is_stack else ())
    for result in asked.run(planned, on_event=on_event, cancel=cancel, keep_partial=False):
        found.add(result.volume, result)
    # Of planes the channels stay in front.
    return np.moveaxis(found.array, 0, asked.model.spec.plane_place - 3) if is_stack else found.array
