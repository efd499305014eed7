"""The Python interface: plan, predict, segment. The widget and the command line go through the same functions."""

from __future__ import annotations

import logging
import operator
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.calibration.key import CalibrationKey
from napari_tessera.calibration.remember import RunMemory
from napari_tessera.calibration.store import CalibrationStore, NetworkMemory
from napari_tessera.decode import Decoder, get_decoder
from napari_tessera.engine.device import host_memory, open_devices
from napari_tessera.engine.events import Noticed
from napari_tessera.engine.network import margins_of
from napari_tessera.engine.several_outputs import choose_output
from napari_tessera.errors import InputError, ModelError, SettingsError
from napari_tessera.models.given import as_model, as_settings
from napari_tessera.pipeline import iter_results
from napari_tessera.planning.activations import ActivationCache
from napari_tessera.planning.plan import DeviceState, Plan
from napari_tessera.planning.planes import plane_by_plane
from napari_tessera.planning.profile import Correction, Known, PassProfile
from napari_tessera.planning.resolve import Traced, complete_settings, resolve
from napari_tessera.planning.survey import find_crop, find_occupied, voxel_size_of
from napari_tessera.planning.trace import LARGEST_STRIDE_VOX
from napari_tessera.planning.windows import nearest_windows
from napari_tessera.planning.workspace import CPU_SINGLE_ERROR, PRIOR_ERRORS, PRIOR_SCALES
from napari_tessera.volumes.as_source import as_image, as_source
from napari_tessera.volumes.planes import plane_loads, split_planes

if TYPE_CHECKING:
    from napari_tessera.engine.crop import Crop
    from napari_tessera.engine.events import Event, EventHandler
    from napari_tessera.engine.settings import Settings
    from napari_tessera.engine.several_outputs import Shapes
    from napari_tessera.engine.source import Source
    from napari_tessera.models.given import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.planning.resampling import VoxelSize
    from napari_tessera.planning.survey import Windows
    from napari_tessera.planning.trace import PassTrace


__all__ = [
    "PROBABILITIES",
    "as_source",
    "choose_decoder",
    "find_crop",
    "find_occupied",
    "measure_device",
    "plan",
    "predict",
    "provenance",
    "remembering",
    "segment",
]

PROBABILITIES = "probabilities"

logger = logging.getLogger(__name__)

# A trace is a pure function of a network's code, a window and a precision, so all callers share one memo of them. It
# holds networks weakly.
_TRACES = ActivationCache()


def choose_decoder(model: Model, settings: Settings, name: str | None = None) -> Decoder:
    """Return the decoder called *name*, else the settings' one, else the one the model suggests.

    Parameters come from the settings where they name the same decoder, else from the model's suggestion.

    Raises
    ------
    SettingsError
        If there is no such decoder or it has no such parameter.
    """
    suggested = model.spec.suggested_decoder
    chosen = name or settings.decoder or suggested.name
    parameters = dict(suggested.parameters) if chosen == suggested.name else {}
    if settings.decoder in (None, chosen):
        parameters |= dict(settings.decoder_parameters)
    return get_decoder(chosen, **parameters)


def measure_device(name: str = "auto") -> DeviceState:
    """Return what the device called *name* has and what is free of it now."""
    devices, host = open_devices(name), host_memory()
    device = devices[0]
    # Devices that share the work are planned as the one with the least room.
    memory = min((each.memory() for each in devices), key=lambda memory: memory.free_bytes)
    return DeviceState(
        kind=device.torch_device.type,
        name=device.name if len(devices) == 1 else f"{len(devices)} x {device.name}",
        count=len(devices),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        host_total_bytes=host.total_bytes,
        host_free_bytes=host.free_bytes,
    )


def plan(
    shapes: Sequence[int] | Sequence[Sequence[int]],
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    decoder: str | None = None,
    dtype: npt.DTypeLike = "float32",
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None = None,
    device: DeviceState | None = None,
    occupied: Sequence[Windows] | None = None,
    crops: Sequence[Crop | Sequence[Crop] | None] | None = None,
    output_chunk: tuple[int, ...] | None = None,
    results_held: int = 1,
    calibrations: CalibrationStore | None = None,
) -> Plan:
    """Return what a run would do: windows, forward passes, memory, sizes, advice.

    Parameters
    ----------
    shapes
        Spatial shape of the volume, (z, y, x) or (y, x), or several of them. A 2D model runs the planes of (z, y, x)
        one by one: each is a volume of the plan.
    model
        The network to run, or the name or path of one that `load_model` opens.
    settings
        What the user wants, as `Settings` or a dictionary; what the model suggests if None.
    decoder
        Name of a decoder, ``"probabilities"`` for none, or None for the model's own.
    dtype
        Of the images' values.
    voxel_size_um
        Of all volumes, or of each one, micrometres; None where unknown. Needed where ``settings.resample`` is on.
    device
        The device's state if it has been measured already; measured now if None.
    occupied
        For every one of *shapes*, which windows are computed, from `find_occupied`; None counts all of them.
    crops
        For every one of *shapes*, the box that the network sees, from `find_crop`; None: all of it, which is the most
        for a model that crops.
    output_chunk
        Voxels per axis that the output is written in: where a volume is cut into blocks, they are whole chunks.
    results_held
        Volumes whose results are in the host's memory at the same time: the frames of a file that is written as one.
    calibrations
        What earlier runs took, which corrects the memory; the user's own if None.

    Raises
    ------
    SettingsError, InputError, ModelError
        If settings, shapes and model do not fit together. Nothing has run by then.

    Notes
    -----
    The first plan for a network and a window traces one forward pass, without computing it; later ones take
    milliseconds.
    """
    model = as_model(model)
    settings = as_settings(settings, model)
    if not isinstance(device, DeviceState | None):
        raise SettingsError(f"device is {device!r}, but it must be a DeviceState: a device's name goes into settings")
    state = device or measure_device(settings.device)
    volumes = plane_by_plane(_several(shapes), model.spec, voxel_size_um, occupied, crops)
    chosen = None if decoder == PROBABILITIES else choose_decoder(model, settings, decoder)

    settings = complete_settings(settings, model.spec, chosen)
    alone = _trace(model, settings, state.kind)
    taken = (calibrations or CalibrationStore()).read()

    window = settings.window_size or model.spec.window.default

    @cache
    def measured_of(windows: int) -> NetworkMemory:
        return taken.of(CalibrationKey.of(model.network, settings, state, windows=windows))

    def known_of(windows: int) -> Known:
        known = measured_of(min(windows, 2)).known(window, windows)
        return _no_surer_than(alone, known or _assumed(state.kind, windows))

    def profile(window: tuple[int, ...], sw_batch_size: int) -> PassProfile:
        return _TRACES.profile(
            model.network,
            in_channels=model.spec.in_channels,
            window=window,
            batch=sw_batch_size,
            precision=settings.precision.value,
            device_type=state.kind,
            as_of=max(sw_batch_size, settings.sw_batch_size),
        )

    planned = resolve(
        volumes.shapes,
        model.spec,
        settings,
        traced=Traced(alone.weights_bytes, profile, known_of),
        device=state,
        decoder=chosen,
        itemsize=_itemsize(dtype),
        voxel_size_um=volumes.voxel_sizes_um,
        occupied=volumes.occupied,
        crops=volumes.crops,
        output_chunk=output_chunk,
        results_held=results_held * volumes.most_planes,
    )
    timed = CalibrationKey.of(model.network, settings, state)
    return replace(planned, pace=taken.pace(timed, window), decoding=taken.decoding_time(planned.decoder_text))


def _itemsize(dtype: npt.DTypeLike) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        raise InputError(f"dtype is {dtype!r}, but it must be a number type, such as 'uint8'") from None


def _trace(model: Model, settings: Settings, device_type: str) -> PassTrace:
    """Return a trace of a pass, after checking that the network gives what its description promises."""

    def trace(window: tuple[int, ...]) -> PassTrace:
        return _TRACES.trace(
            model.network,
            in_channels=model.spec.in_channels,
            window=window,
            batch=settings.sw_batch_size,
            precision=settings.precision.value,
            device_type=device_type,
        )

    def shape_of(outputs: Shapes, window: tuple[int, ...]) -> tuple[int, ...]:
        return outputs[choose_output(outputs, out_channels=model.spec.out_channels, window=window)]

    def margins_at(window: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return what the output leaves out of any window; None if it is of another resolution, or uneven."""
        margins = margins_of(shape_of(trace(window).outputs, window)[2:], window)
        if not margins or not any(margins):
            return margins
        wider = tuple(side + LARGEST_STRIDE_VOX for side in window)
        try:
            return margins if margins_of(shape_of(trace(wider).outputs, wider)[2:], wider) == margins else None
        except ModelError:  # stored for one window alone: only its description can tell
            return margins if model.spec.halo else None

    def is_suited(window: tuple[int, ...]) -> bool:
        try:
            margins = margins_at(window)
        except ModelError:
            return False
        return margins is not None and all(map(operator.le, margins, model.spec.halo or (0,) * len(window)))

    window = settings.window_size or model.spec.window.default
    refusal: ModelError | None = None
    shape: tuple[int, ...] = ()
    try:
        traced = trace(window)
    except ModelError as error:
        refusal = error
    else:
        shape = shape_of(traced.outputs, window)
    if shape[2:] != window and not is_suited(window):
        if shape and (margins := margins_at(window)) is not None:
            raise _margin_error(model, window, shape, margins)
        near = nearest_windows(window, is_suited)
        if near:
            raise SettingsError(
                f"window_size {window} does not suit the network of '{model.spec.name}': the nearest that does is "
                f"{' or '.join(map(str, near))}"
            ) from (refusal and refusal.__cause__)
        raise refusal or _size_error(model, window, shape)
    if shape[1] != model.spec.out_channels:
        raise ModelError(
            f"the network of '{model.spec.name}' gives {shape[1]} channel(s), but its description says "
            f"{model.spec.out_channels}: correct out_channels"
        )
    return traced


def _assumed(device_type: str, windows: int) -> Known:
    """Return what holds for passes over so many *windows* before anything has been measured."""
    alone = device_type == "cpu" and windows == 1
    error = CPU_SINGLE_ERROR if alone else PRIOR_ERRORS.get(device_type, 0.0)
    return Known(Correction(PRIOR_SCALES.get(device_type, 0.0)), error)


def _no_surer_than(alone: PassTrace, found: Known) -> Known:
    """Return *found* with an error no smaller than that of the trace, where no measurement makes up for it."""
    if alone.method == "traced" and found.latest is not None:
        return found
    return replace(found, error_fraction=max(found.error_fraction, alone.error_fraction))


def _size_error(model: Model, window: tuple[int, ...], shape: tuple[int, ...]) -> ModelError:
    return ModelError(
        f"the network of '{model.spec.name}' gives {shape[2:]} voxels for a window of {window}: Tessera needs a "
        f"network whose output is as large as its input, or smaller by as many voxels along each side of any window"
    )


def _margin_error(
    model: Model, window: tuple[int, ...], shape: tuple[int, ...], margins: tuple[int, ...]
) -> ModelError:
    return ModelError(
        f"the network of '{model.spec.name}' gives {shape[2:]} voxels for a window of {window}: say halo: "
        f"{list(margins)}, the voxels that it leaves out along each side, in its description (in Python: "
        f"halo={margins})"
    )


def _several(shapes: Any) -> list[tuple[int, ...]]:
    """Return *shapes*, one or several, as tuples of whole numbers."""
    try:
        items = list(shapes)
        several = items if items and np.ndim(items[0]) else [items]
        return [tuple(operator.index(side) for side in shape) for shape in several]
    except TypeError:
        raise InputError(
            f"the shape is {shapes!r}, but it must be whole numbers, (z, y, x) or (y, x), or a list of such shapes"
        ) from None


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
    volume, model = as_image(volume), as_model(model)
    settings = as_settings(settings, model)
    planes = split_planes(volume, model.spec)
    source = as_source(volume if planes is None else planes[0](), model.spec)
    size, crop = voxel_size_of(volume, voxel_size_um), find_crop(volume, model)
    planned = plan(
        source.shape[1:] if planes is None else model.spec.of_stack(len(planes), source.shape[1:]),
        model,
        settings,
        decoder=decoder,
        dtype=source.dtype,
        voxel_size_um=size,
        occupied=[find_occupied(volume, model, settings, mask=mask, voxel_size_um=size, crop=crop)],
        crops=[crop],
    )
    chosen = None if decoder == PROBABILITIES else choose_decoder(model, settings, decoder)
    loads: list[Callable[[], Source]] = [lambda: source]
    if planes is not None:
        loads = [*plane_loads(planes, model.spec)]
    remember = remembering(planned, model, on_event or _log_noticed)
    results = iter_results(loads, model, planned, chosen, on_event=remember, cancel=cancel, keep_partial=False)
    arrays = [result.array for result in results]
    # Of planes the channels stay in front.
    return arrays[0] if planes is None else np.stack(arrays, axis=model.spec.plane_place - 3)


def _log_noticed(event: Event) -> None:
    if isinstance(event, Noticed):
        logger.warning(event.sentence)


def remembering(planned: Plan, model: Model, on_event: EventHandler | None = None) -> EventHandler:
    """Return a handler for the events of a run of *planned* that also keeps what it takes, for later estimates."""
    return RunMemory(model.network, planned, CalibrationStore(), on_event)


def provenance(planned: Plan, model: Model) -> dict[str, Any]:
    """Return what a reader of the result needs to make it again: version, model, settings, counts."""
    from napari_tessera import __version__

    crop = next((volume.crop for volume in planned.volumes if volume.crop is not None), None)
    resampled = next((volume.resampling for volume in planned.volumes if volume.resampling is not None), None)
    return (
        {
            "software": f"napari-tessera {__version__}",
            "model": model.spec.name,
            "model_origin": model.origin,
            "settings": planned.settings.to_dict(),
            "windows": planned.windows,
            "skipped_windows": planned.skipped_windows,
            "forward_passes": planned.forward_passes,
            "device": planned.device.name,
        }
        | ({"assumed": list(model.spec.assumed)} if model.spec.assumed else {})
        | ({} if resampled is None else {"resampled": resampled.to_dict()})
        | ({} if crop is None else {"crop": crop.to_dict()})
    )
