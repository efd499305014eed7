"""What a network takes here is measured, and the settings that are fastest within a budget are found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from math import prod
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from napari_tessera.core.errors import CalibrationError, OutOfMemoryError, SettingsError
from napari_tessera.core.settings.views import View
from napari_tessera.core.units import format_bytes, format_sides
from napari_tessera.engine.devices.choice import open_devices
from napari_tessera.engine.loop.events import raise_if_cancelled
from napari_tessera.engine.loop.forward import Forward, Window
from napari_tessera.engine.loop.window_reader import CHANNELS_LAST
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES
from napari_tessera.jobs.remember import measurement_of
from napari_tessera.memory.allocations import peak_of_allocations
from napari_tessera.memory.calibration.key import CalibrationKey
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.memory.device_state import measure_device
from napari_tessera.memory.trace import torch_sees_memory_of, weights_bytes
from napari_tessera.models.load import as_model, as_settings
from napari_tessera.planning.autotune import check_room, fit_batch, fit_window
from napari_tessera.planning.request import PROBABILITIES, plan

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.calibration.pass_time import PassTime
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.memory.estimate import Measurement
    from napari_tessera.models.load import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.planning.plan import Plan
    from napari_tessera.planning.resampling import VoxelSize

    WindowMasks = Sequence[npt.NDArray[Any] | None]

# Passes twice as large are timed while windows become cheaper by this much, up to so many windows.
GAIN = 0.03
MOST_TIMED = 64
# A process's first passes are slower than all others, on two cores for 2 s of the bundled network (benchmarks/eta.py).
WARM_UP_ROUNDS = 2


def autotune(
    shapes: Sequence[int] | Sequence[Sequence[int]],
    model: GivenModel,
    settings: GivenSettings = None,
    budget_bytes: int | None = None,
    *,
    choose_window: bool = False,
    decoder: str | None = None,
    dtype: npt.DTypeLike = "float32",
    voxel_size_um: VoxelSize | Sequence[VoxelSize | None] | None = None,
    pass_time: PassTime | None = None,
    device: DeviceState | None = None,
    window_masks: WindowMasks | Callable[[Settings], WindowMasks | None] | None = None,
    crops: Sequence[Crop | Sequence[Crop] | None] | None = None,
    results_held: int = 1,
    calibrations: CalibrationStore | None = None,
) -> Plan:
    """Return the plan of the ``sw_batch_size`` that is fastest within a budget; nothing runs, and no memory is tried.

    Parameters
    ----------
    shapes, model, decoder, dtype, voxel_size_um, device, crops, results_held, calibrations
        As for `plan`.
    settings
        What the user wants, what the model suggests if None; all but ``sw_batch_size`` stays, and the window if that is
        to be chosen, too.
    budget_bytes
        What the run may take of the device, the estimate's error included; None: what is free, less 10 % headroom.
    choose_window
        Whether ``window_size`` is chosen, too: the model's default or larger; smaller only where that does not fit.
    pass_time
        How long passes take; None: as earlier runs or `calibrate` found, and where nothing is known, the fewest passes
        are taken to be fastest and at least 80 % of the largest batch that fits is chosen. With *choose_window* that of
        the model's default window.
    window_masks
        As for `plan`, or a function that finds it for settings: with *choose_window* it depends on the window, and is
        asked for once for each that is tried.

    Returns
    -------
    Plan
        Its ``settings`` are those to run.

    Raises
    ------
    SettingsError
        If not even one window at a time fits, with what would; if *window_masks* hold for one window and that is to be
        chosen; or as for `plan`.
    InputError, ModelError
        As for `plan`.
    """
    model = as_model(model)
    settings = as_settings(settings, model)
    state = device or measure_device(settings.device)
    if budget_bytes is not None:
        state = replace(state, budget_bytes=budget_bytes)

    if choose_window and not callable(window_masks) and any(windows is not None for windows in window_masks or ()):
        raise SettingsError(
            "window_masks are of one window_size, but choose_window compares several: give a function that finds "
            "them for the settings it is called with"
        )
    find_masks = _once_per_window(window_masks) if callable(window_masks) else lambda settings: window_masks

    def plan_of(settings: Settings) -> Plan:
        return plan(
            shapes,
            model,
            settings,
            decoder=decoder,
            dtype=dtype,
            voxel_size_um=voxel_size_um,
            device=state,
            window_masks=find_masks(settings),
            crops=crops,
            results_held=results_held,
            calibrations=calibrations,
        )

    if choose_window:
        return fit_window(plan_of, settings, model.spec.window, pass_time=pass_time)
    return fit_batch(plan_of, settings, pass_time=pass_time)


def _once_per_window(find: Callable[[Settings], WindowMasks | None]) -> Callable[[Settings], WindowMasks | None]:
    """Return *find* with its last answer remembered: batches change from plan to plan, windows seldom."""

    @lru_cache(maxsize=1)
    def find_at(settings: Settings) -> WindowMasks | None:
        return find(settings)

    return lambda settings: find_at(settings.replace(sw_batch_size=1))


def calibrate(
    model: GivenModel,
    settings: GivenSettings = None,
    *,
    calibrations: CalibrationStore | None = None,
    cancel: threading.Event | None = None,
) -> Measurement | None:
    """Measure what passes of *model* take of memory and time here, and keep it for the plans to come.

    Memory of one window at a time and of ``sw_batch_size`` of them, two where that is 1 and they fit. Times of the
    same, and of twice as many, again and again, as long as that makes windows cheaper. No memory is tried: all are
    planned first.

    Parameters
    ----------
    model
        The network; no run may use it, and nothing else in this program the device, meanwhile.
    settings
        Window, ``sw_batch_size``, precision and device to measure at; what the model suggests if None.
    calibrations
        Where it is kept; the user's own if None.
    cancel
        Ends it within one forward pass.

    Returns
    -------
    Measurement or None
        What was estimated until now and what was measured, the weights and a pass over ``sw_batch_size`` windows; None
        where the device counts no memory (MPS), so that only times were measured.

    Raises
    ------
    SettingsError
        If such a pass is not expected to fit, or as for `plan`.
    ModelError, OutOfMemoryError, CancelledError, CalibrationError
        If the pass fails or is not waited for, or nothing can be kept.
    """
    model = as_model(model)
    settings, store = as_settings(settings, model), calibrations or CalibrationStore()

    def plan_of(batch: int) -> Plan:
        window = settings.window_size or model.spec.window.default
        shape = (*window[:-1], batch * window[-1])
        at_batch = settings.replace(sw_batch_size=batch, overlap=0.0, tta_num=1, resample=False)
        return plan(shape, model, at_batch, decoder=PROBABILITIES, calibrations=store).of_pass()

    asked, other = plan_of(settings.sw_batch_size), plan_of(1 if settings.sw_batch_size > 1 else 2)
    check_room(asked)
    plans = [planned for planned in (other, asked) if planned.fits]
    measured: Measurement | None = None
    for planned in plans:
        measured = _measure(planned, model, store, cancel)
    batches = sorted(planned.settings.sw_batch_size for planned in plans)
    times = measure_times(model, settings, batches=batches, cancel=cancel)
    while (more := _worth_timing(times, lambda batch: plan_of(batch).fits)) is not None:
        times |= measure_times(model, settings, batches=[more], cancel=cancel)
    store.add_times(
        CalibrationKey.of(model.network, settings, asked.device), asked.volumes[0].layout.window, times, anew=True
    )
    return measured


def _worth_timing(times: Mapping[int, float], fits: Callable[[int], bool]) -> int | None:
    """Return twice the most windows that were timed, while that fits and windows have become cheaper until there."""
    fewer, most = [1, *sorted(times)][-2:]
    cheaper = len(times) < 3 or times[most] / most < (1 - GAIN) * times[fewer] / fewer
    return 2 * most if cheaper and 2 * most <= MOST_TIMED and fits(2 * most) else None


def _measure(
    planned: Plan, model: Model, store: CalibrationStore, cancel: threading.Event | None
) -> Measurement | None:
    """Measure one pass and keep what it took; None where that is not counted."""
    peak = measure_peak(model, planned.settings, cancel=cancel) if torch_sees_memory_of(model.network) else None
    if peak is None:
        return None
    measured = measurement_of(planned, peak)
    batch = planned.settings.sw_batch_size
    key = CalibrationKey.of(model.network, planned.settings, planned.device, windows=batch)
    store.add(key, planned.volumes[0].layout.window, batch, measured)
    return measured


def measure_times(
    model: Model,
    settings: Settings,
    *,
    batches: Sequence[int] = (1, 2),
    repeats: int = 3,
    cancel: threading.Event | None = None,
) -> dict[int, float]:
    """Return the seconds of a forward pass on the first device of *settings*, for each of *batches*, windows per pass.

    Batches take turns; two passes of each warm up, and *repeats* more are timed. What a run does beside its passes
    (reading, stitching, decoding) is not in it. No run may use the model at the same time, and the caller has found
    each batch to fit into memory: larger ones are not tried.
    """
    samples: dict[int, list[float]] = {batch: [] for batch in batches}
    with _ready(model, settings, max(batches)) as (forward, device):
        for number in range(WARM_UP_ROUNDS + repeats):
            for batch in batches:  # in turn, so that a machine that becomes slower does so for all of them
                raise_if_cancelled(cancel)
                seconds = _seconds_of_pass(forward, _shape(model, settings, batch), device)
                if number >= WARM_UP_ROUNDS:
                    samples[batch].append(seconds)
    return {batch: median(seconds) for batch, seconds in samples.items()}


def measure_peak(model: Model, settings: Settings, *, cancel: threading.Event | None = None) -> int | None:
    """Return the most that weights and a pass over ``sw_batch_size`` windows take of the first device, bytes.

    On CUDA as torch's allocator counts it, on the CPU as its allocator reports it to torch's profiler; None on MPS,
    which counts nothing, and during another profile of this thread. Neither a run nor anything else in this program may
    use the device at the same time. Raises `CalibrationError` if the allocator reported less than the windows
    themselves take.
    """
    shape = _shape(model, settings, settings.sw_batch_size)
    with _ready(model, settings, settings.sw_batch_size) as (forward, device):
        raise_if_cancelled(cancel)
        # What the first pass alone makes, such as tables that are kept, is no trait of the passes.
        _seconds_of_pass(forward, shape, device)
        raise_if_cancelled(cancel)
        if device.torch_device.type == "cpu":
            counted = peak_of_allocations(lambda: _seconds_of_pass(forward, shape, device))
            held = weights_bytes(model.network)
        else:
            device.start_peak(model.bytes_on(device.torch_device))
            _seconds_of_pass(forward, shape, device)
            counted, held = device.peak_bytes(), 0
        if counted is None:
            return None
        peak = held + counted
        least = FLOAT_BYTES * prod(shape)
        if peak < least:
            raise CalibrationError(
                f"{format_bytes(peak)} were counted of a pass whose windows alone take {format_bytes(least)}: memory "
                f"cannot be measured with torch {torch.__version__} here"
            )
        return peak


@contextmanager
def _ready(model: Model, settings: Settings, batch: int) -> Iterator[tuple[Forward, Device]]:
    """Lend the network on the first device; *batch* is the largest that will be passed."""
    device = open_devices(settings.device)[0]
    window = _shape(model, settings, batch)[2:]
    try:
        with model.ready_on(device.torch_device) as network, device.running(settings.precision):
            yield Forward(network, model.spec.out_channels, window, device, model.spec.halo), device
    except (RuntimeError, MemoryError) as error:
        if not device.is_out_of_memory(error):
            raise
        free = format_bytes(device.memory().free_bytes)
        raise OutOfMemoryError(
            f"passes over {format_sides(window)} voxels, {batch} windows at once, do not fit into the "
            f"memory of {device.name} ({free} free): close other programs, or choose a smaller window_size"
        ) from error.with_traceback(None)  # whose frames keep tensors alive
    finally:
        device.release_cached()


def _shape(model: Model, settings: Settings, batch: int) -> tuple[int, ...]:
    """Return the shape of a pass's input, (B, C, *window)."""
    return (batch, model.spec.in_channels, *(settings.window_size or model.spec.window.default))


def _seconds_of_pass(forward: Forward, shape: tuple[int, ...], device: Device) -> float:
    """Return the seconds of one pass over new windows of *shape*, (B, C, *window): a network may write into them."""
    stream = device.open_stream(main=True)
    tensor = _ramp(shape, device)
    stream.record_event().synchronize()
    began = time.perf_counter()
    output = forward(tensor, [Window((0,) * len(shape[2:]), View())] * shape[0])
    stream.record_event().synchronize()
    output[(0,) * output.dim()].item()  # Apple's events do not wait, but a value that is read has been computed
    return time.perf_counter() - began


def _ramp(shape: tuple[int, ...], device: Device) -> torch.Tensor:
    """Return float32 from 0 to 1 on *device*, laid out as a run lays out its windows."""
    last = CHANNELS_LAST.get(len(shape), torch.contiguous_format)
    memory_format = last if device.channels_last else torch.contiguous_format
    # Not `contiguous`: it takes one channel for laid out either way, and the network's layers then choose the other.
    windows = torch.empty(shape, memory_format=memory_format, device=device.torch_device)
    # Along x alone: nothing as large as the windows may be there beside them while their memory is measured.
    return windows.copy_(torch.linspace(0, 1, shape[-1], device=device.torch_device))
