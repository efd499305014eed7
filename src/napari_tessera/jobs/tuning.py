"""What a network takes here is measured, and the settings that are fastest within a budget are found."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.core.errors import SettingsError
from napari_tessera.jobs.probe import measure_peak, measure_times
from napari_tessera.jobs.remember import measurement_of
from napari_tessera.memory.calibration.key import CalibrationKey
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.memory.device_state import measure_device
from napari_tessera.memory.trace import torch_sees_memory_of
from napari_tessera.models.load import as_model, as_settings
from napari_tessera.planning.autotune import check_room, fit_batch, fit_window
from napari_tessera.planning.request import PROBABILITIES, plan

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.images.views.crop import Crop
    from napari_tessera.memory.calibration.pass_time import PassTime
    from napari_tessera.memory.device_state import DeviceState
    from napari_tessera.memory.estimate import Measurement
    from napari_tessera.models.load import GivenModel, GivenSettings
    from napari_tessera.models.model import Model
    from napari_tessera.planning.plan import Plan
    from napari_tessera.planning.resampling import VoxelSize

    WindowMasks = Sequence[npt.NDArray[Any] | None]

__all__ = ["autotune", "calibrate"]

# Passes twice as large are timed while windows become cheaper by this much, up to so many windows.
GAIN = 0.03
MOST_TIMED = 64


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
