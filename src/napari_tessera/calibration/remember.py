"""Keeps what a run really took, as its events tell it."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING

from napari_tessera.calibration.key import CalibrationKey
from napari_tessera.engine.events import Event, EventHandler, MemoryRecovered, PassFinished, RunFinished, RunStarted
from napari_tessera.errors import CalibrationError
from napari_tessera.planning.correction import fit_correction
from napari_tessera.planning.profile import Measurement
from napari_tessera.planning.workspace import PRIOR_SCALES

if TYPE_CHECKING:
    import torch

    from napari_tessera.calibration.store import CalibrationStore
    from napari_tessera.planning.plan import Plan

__all__ = ["RunMemory", "measurement_of"]

# Passes whose times count: the last ones, as the first fill caches and wake cores.
TIMED = 128


class RunMemory:
    """An event handler that hands every event on, and keeps peak and times once the run has ended well.

    A run in which memory ran out, or of which a volume failed, did not follow its plan, so nothing of it is kept. That
    a measurement cannot be kept costs no result: it is a warning.

    Parameters
    ----------
    network, plan
        What runs.
    store
        Where it is kept.
    hand_on
        Also receives all events.
    """

    def __init__(
        self, network: torch.nn.Module, plan: Plan, store: CalibrationStore, hand_on: EventHandler | None = None
    ) -> None:
        self._network = network
        self._plan = plan
        self._store = store
        self._hand_on = hand_on
        self._times: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=TIMED))
        self._deviates = False

    def __call__(self, event: Event) -> None:
        """Take note of *event*."""
        if isinstance(event, RunStarted):
            self._deviates |= event.volumes != len(self._plan.volumes)
        elif isinstance(event, PassFinished):
            self._times[event.windows].append(event.seconds)
        elif isinstance(event, MemoryRecovered):
            self._deviates = True
        elif isinstance(event, RunFinished) and not self._deviates:
            try:
                self._keep(event)
            except CalibrationError as error:
                warnings.warn(str(error), stacklevel=2)
        if self._hand_on is not None:
            self._hand_on(event)

    def _keep(self, run: RunFinished) -> None:
        plan = self._plan
        key = CalibrationKey.of(self._network, plan.settings, plan.device)
        if run.peak_bytes is not None and _is_full(plan):
            self._store.add(key, measurement_of(plan, run.peak_bytes))
        batch = plan.settings.sw_batch_size
        if times := self._times.get(batch):  # smaller ones are leftovers, timed once or twice
            self._store.add_times(key, plan.settings.window_size or (), {batch: median(times)})


def measurement_of(plan: Plan, measured_bytes: int) -> Measurement:
    """Return what a peak of *measured_bytes*, as torch counts them, says about the estimates of *plan*'s network."""
    prior = PRIOR_SCALES.get(plan.device.kind, 0.0)
    correction = fit_correction(plan.need, measured_bytes, prior_scale=prior)
    return Measurement(plan.memory.counted_bytes, measured_bytes, correction)


def _is_full(plan: Plan) -> bool:
    """Whether a pass of the run holds as many windows as its memory was planned for."""
    if plan.counts_are_bounds:
        return False
    planned = min(plan.settings.sw_batch_size, max(volume.layout.n_windows for volume in plan.volumes))
    return max(max(volume.block_windows) for volume in plan.volumes) >= planned
