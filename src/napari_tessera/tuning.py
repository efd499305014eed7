"""What a network takes here is measured, and the settings that are fastest within a budget are found."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.api import PROBABILITIES, measure_device, plan
from napari_tessera.calibration.key import CalibrationKey
from napari_tessera.calibration.remember import measurement_of
from napari_tessera.calibration.store import CalibrationStore
from napari_tessera.engine.events import raise_if_cancelled
from napari_tessera.engine.settings import Settings
from napari_tessera.planning.autotune import fit_batch, fit_window
from napari_tessera.probe import measure_peak, measure_times

if TYPE_CHECKING:
    from napari_tessera.models.model import Model
    from napari_tessera.planning.pace import Pace
    from napari_tessera.planning.plan import DeviceState, Plan
    from napari_tessera.planning.profile import Measurement

__all__ = ["autotune", "calibrate"]


def autotune(
    shapes: Sequence[int] | Sequence[Sequence[int]],
    model: Model,
    settings: Settings | None = None,
    budget_bytes: int | None = None,
    *,
    choose_window: bool = False,
    decoder: str | None = None,
    dtype: npt.DTypeLike = "float32",
    voxel_size_um: tuple[float, ...] | None = None,
    pace: Pace | None = None,
    device: DeviceState | None = None,
    occupied: Sequence[npt.NDArray[Any] | None] | None = None,
    calibrations: CalibrationStore | None = None,
) -> Plan:
    """Return the plan of the ``sw_batch_size`` that is fastest within a budget; nothing runs, and no memory is tried.

    Parameters
    ----------
    shapes, model, decoder, dtype, voxel_size_um, device, occupied, calibrations
        As for `plan`.
    settings
        What the user wants; all but ``sw_batch_size`` stays, and the window if that is to be chosen, too.
    budget_bytes
        What the run may take of the device, the estimate's error included; None: what is free, less 10 % headroom.
    choose_window
        Whether ``window_size`` is chosen, too: the model's default or larger; smaller only where that does not fit.
    pace
        How long passes take; None: as earlier runs or `calibrate` found, and where nothing is known, the fewest passes
        are taken to be fastest and at least 80 % of the largest batch that fits is chosen.

    Returns
    -------
    Plan
        Its ``settings`` are those to run.

    Raises
    ------
    SettingsError
        If not even one window at a time fits, with what would; or as for `plan`.
    InputError, ModelError
        As for `plan`.
    """
    settings = settings or Settings()
    state = device or measure_device(settings.device)
    if budget_bytes is not None:
        state = replace(state, budget_bytes=budget_bytes)

    plan_of = partial(
        plan,
        shapes,
        model,
        decoder=decoder,
        dtype=dtype,
        voxel_size_um=voxel_size_um,
        device=state,
        occupied=occupied,
        calibrations=calibrations,
    )
    if choose_window:
        return fit_window(plan_of, settings, model.spec.window)
    return fit_batch(plan_of, settings, pace=pace)


def calibrate(
    model: Model,
    settings: Settings | None = None,
    *,
    calibrations: CalibrationStore | None = None,
    cancel: threading.Event | None = None,
) -> Measurement:
    """Measure what passes of *model* take of memory and time here, and keep it for the plans to come.

    Parameters
    ----------
    model
        The network; no run may use it meanwhile.
    settings
        Window, ``sw_batch_size``, precision and device to measure at; the defaults if None.
    calibrations
        Where it is kept; the user's own if None.
    cancel
        Ends it within one forward pass.

    Returns
    -------
    Measurement
        What was estimated and what was measured, the weights and a pass over ``sw_batch_size`` windows.

    Raises
    ------
    SettingsError
        If the device counts no memory, or as for `plan`.
    ModelError, OutOfMemoryError, CancelledError, CalibrationError
        If the pass fails or is not waited for, or nothing can be kept.
    """
    settings, store = settings or Settings(), calibrations or CalibrationStore()
    window, most = settings.window_size or model.spec.window.default, settings.sw_batch_size
    batches = sorted({1, most})
    for batch in batches:
        shape = (*window[:-1], batch * window[-1])  # which holds as many windows, or more
        at_batch = replace(settings, sw_batch_size=batch)
        planned = plan(shape, model, at_batch, decoder=PROBABILITIES, calibrations=store)
        key = CalibrationKey.of(model.network, planned.settings, planned.device)
        measured = measurement_of(planned.of_pass(), measure_peak(model, planned.settings))
        store.add(key, measured)
        raise_if_cancelled(cancel)
    store.add_times(key, window, measure_times(model, settings, batches=batches, cancel=cancel))
    return measured
