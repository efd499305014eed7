"""A request completed and planned: model, settings and shapes in, what will happen out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError, ModelError, SettingsError
from napari_tessera.decode import Decoder, get_decoder
from napari_tessera.engine.loop.forward import margins_of
from napari_tessera.engine.loop.several_outputs import choose_output
from napari_tessera.memory.activations import ActivationCache
from napari_tessera.memory.calibration.key import CalibrationKey
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.memory.device_state import DeviceState, measure_device
from napari_tessera.memory.estimate import (
    CPU_SINGLE_ERROR,
    PRIOR_ERRORS,
    PRIOR_SCALES,
    Correction,
    Known,
    PassProfile,
    round_up,
)
from napari_tessera.memory.trace import LARGEST_STRIDE_VOX
from napari_tessera.models.load import as_model, as_settings
from napari_tessera.planning.needs import Traced
from napari_tessera.planning.plan import PlanTime, describe_decoder
from napari_tessera.planning.plane_stacks import plane_by_plane
from napari_tessera.planning.resolve import complete_settings, resolve

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.engine.loop.several_outputs import Shapes
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.recorder import PassTrace
    from napari_tessera.models.load import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.planning.plan import Plan
    from napari_tessera.planning.plane_stacks import Windows
    from napari_tessera.planning.resampling import VoxelSize


Shape = tuple[int, ...]

PROBABILITIES = "probabilities"

# What networks need their sides to be divisible by: products of small strides. One of the larger ones is a multiple of
# almost every other.
STEPS_VOX = (2, 3, 4, 5, 6, 8, 9, 10, 12, 16, 18, 20, 24, 27, 30, 32, 36, 48, 64, 96)
COARSE_STEPS_VOX = (32, 96, 64, 60, 72, 108, 120)

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


def plan(
    shapes: Sequence[int] | Sequence[Sequence[int]],
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    decoder: str | None = None,
    dtype: npt.DTypeLike = "float32",
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None = None,
    device: DeviceState | None = None,
    window_masks: Sequence[Windows] | None = None,
    crops: Sequence[Crop | Sequence[Crop] | None] | None = None,
    output_chunk: Shape | None = None,
    results_held: int = 1,
    keep_probabilities: bool = False,
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
    window_masks
        For every one of *shapes*, which windows are computed, from `find_window_mask`; None counts all of them.
    crops
        For every one of *shapes*, the box that the network sees, from `find_crop`; None: all of it, which is the most
        for a model that crops.
    output_chunk
        Voxels per axis that the output is written in: where a volume is cut into blocks, they are whole chunks.
    results_held
        Volumes whose results are in the host's memory at the same time: the frames of a file that is written as one.
    keep_probabilities
        Whether they are kept beside the labels, which are then made of them afterwards.
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
    volumes = plane_by_plane(_several(shapes), model.spec, voxel_size_um, window_masks, crops)
    chosen = None if decoder == PROBABILITIES else choose_decoder(model, settings, decoder)

    settings = complete_settings(settings, model.spec, chosen)
    alone = _trace(model, settings, state.kind)
    taken = (calibrations or CalibrationStore()).read()

    window = settings.window_size or model.spec.window.default
    weights_bytes = _TRACES.weights_bytes(model.network, device_type=state.kind)

    @cache
    def key_of(windows: int) -> CalibrationKey:
        return CalibrationKey.of(model.network, settings, state, windows=windows)

    @cache
    def known_of(windows: int) -> Known:
        known = taken.known(key_of(min(windows, 2)), window, windows)  # only one window has a key of its own
        return _no_surer_than(alone, known or _assumed(state.kind, windows))

    def profile(window: Shape, sw_batch_size: int) -> PassProfile:
        return _TRACES.profile(
            model.network,
            in_channels=model.spec.in_channels,
            window=window,
            batch=sw_batch_size,
            precision=settings.precision.value,
            device_type=state.kind,
            as_of=max(sw_batch_size, settings.sw_batch_size),
        )

    time = PlanTime(taken.pass_time(key_of(2), window), taken.decoding_time(describe_decoder(settings)))
    return resolve(
        volumes.shapes,
        model.spec,
        settings,
        traced=Traced(weights_bytes, profile, known_of, time),
        device=state,
        decoder=chosen,
        itemsize=_itemsize(dtype),
        voxel_size_um=volumes.voxel_sizes_um,
        window_masks=volumes.window_masks,
        crops=volumes.crops,
        output_chunk=output_chunk,
        results_held=results_held * volumes.most_planes,
        keeps_probabilities=keep_probabilities,
    )


def _itemsize(dtype: npt.DTypeLike) -> int:
    try:
        return np.dtype(dtype).itemsize
    except TypeError:
        raise InputError(f"dtype is {dtype!r}, but it must be a number type, such as 'uint8'") from None


def _trace(model: Model, settings: Settings, device_type: str) -> PassTrace:
    """Return a trace of a pass, after checking that the network gives what its description promises."""

    def trace(window: Shape) -> PassTrace:
        return _TRACES.trace(
            model.network,
            in_channels=model.spec.in_channels,
            window=window,
            batch=settings.sw_batch_size,
            precision=settings.precision.value,
            device_type=device_type,
        )

    def shape_of(outputs: Shapes, window: Shape) -> Shape:
        return outputs[choose_output(outputs, out_channels=model.spec.out_channels, window=window)]

    def margins_at(window: Shape) -> Shape | None:
        """Return what the output leaves out of any window; None if it is of another resolution, or uneven."""
        margins = margins_of(shape_of(trace(window).outputs, window)[2:], window)
        if not margins or not any(margins):
            return margins
        wider = tuple(side + LARGEST_STRIDE_VOX for side in window)
        try:
            return margins if margins_of(shape_of(trace(wider).outputs, wider)[2:], wider) == margins else None
        except ModelError:  # stored for one window alone: only its description can tell
            return margins if model.spec.halo else None

    def is_suited(window: Shape) -> bool:
        try:
            margins = margins_at(window)
        except ModelError:
            return False
        return margins is not None and all(map(operator.le, margins, model.spec.halo or (0,) * len(window)))

    window = settings.window_size or model.spec.window.default
    refusal: ModelError | None = None
    shape: Shape = ()
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


def nearest_windows(window: Shape, accepts: Callable[[Shape], bool]) -> tuple[Shape, ...]:
    """Return the windows next to *window* that the network takes: the one below, the one above, or none.

    Starts from some window that it does take and looks at one axis after the other, so that an axis that is right is
    left alone. On each axis it tries multiples of 2, 3, 4, ... and stops at the first of which the network takes both
    neighbours: one alone may be a multiple of more by chance.

    Examples
    --------
    >>> nearest_windows((18, 50), lambda window: window[1] % 16 == 0)
    ((18, 48), (18, 64))
    """
    start = next(filter(accepts, _coarse(window)), None)
    if start is None:
        return ()
    below, above = [], []
    for axis, side in enumerate(window):

        def accepts_side(other: int, axis: int = axis) -> bool:
            return accepts(_with(start, axis, other))

        near = _nearest_sides(side, accepts_side)
        below.append(near[0] if near else start[axis])
        above.append(near[-1] if near else start[axis])
    return tuple(near for near in dict.fromkeys((tuple(below), tuple(above))) if accepts(near)) or (start,)


def _coarse(window: Shape) -> Iterator[Shape]:
    for step in COARSE_STEPS_VOX:
        yield tuple(round_up(side, step) for side in window)


def _with(window: Shape, axis: int, side: int) -> Shape:
    return (*window[:axis], side, *window[axis + 1 :])


def _nearest_sides(side: int, accepts: Callable[[int], bool]) -> Shape:
    """Return the accepted sides next to *side*, ascending: itself alone if that is accepted."""
    if accepts(side):
        return (side,)
    found: Shape = ()
    for step in STEPS_VOX:
        if side % step == 0:
            continue
        around = (max(side // step * step, step), round_up(side, step))
        taken = tuple(other for other in dict.fromkeys(around) if accepts(other))
        if len(taken) == len(set(around)):
            return taken
        found = taken or found
    return found


def _assumed(device_type: str, windows: int) -> Known:
    """Return what holds for passes over so many *windows* before anything has been measured."""
    alone = device_type == "cpu" and windows == 1
    error = CPU_SINGLE_ERROR if alone else PRIOR_ERRORS.get(device_type, 0.0)
    return Known(Correction(PRIOR_SCALES.get(device_type, 0.0)), error)


def _no_surer_than(alone: PassTrace, found: Known) -> Known:
    """Return *found* with an error no smaller than that of the trace, where no measurement makes up for it."""
    if not alone.is_scaled and found.latest is not None:
        return found
    return replace(found, error_fraction=max(found.error_fraction, alone.error_fraction))


def _size_error(model: Model, window: Shape, shape: Shape) -> ModelError:
    return ModelError(
        f"the network of '{model.spec.name}' gives {shape[2:]} voxels for a window of {window}: Tessera needs a "
        f"network whose output is as large as its input, or smaller by as many voxels along each side of any window"
    )


def _margin_error(model: Model, window: Shape, shape: Shape, margins: Shape) -> ModelError:
    return ModelError(
        f"the network of '{model.spec.name}' gives {shape[2:]} voxels for a window of {window}: say halo: "
        f"{list(margins)}, the voxels that it leaves out along each side, in its description (in Python: "
        f"halo={margins})"
    )


def _several(shapes: Any) -> list[Shape]:
    """Return *shapes*, one or several, as tuples of whole numbers."""
    try:
        items = list(shapes)
        several = items if items and np.ndim(items[0]) else [items]
        return [tuple(operator.index(side) for side in shape) for shape in several]
    except TypeError:
        raise InputError(
            f"the shape is {shapes!r}, but it must be whole numbers, (z, y, x) or (y, x), or a list of such shapes"
        ) from None
