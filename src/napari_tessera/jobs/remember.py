"""Keeps what a run really took, as its events tell it."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING

from napari_tessera.core.errors import CalibrationError
from napari_tessera.core.units import format_bytes
from napari_tessera.engine.loop.events import (
    DecodingFinished,
    Event,
    EventHandler,
    MemoryRecovered,
    PassFinished,
    RunFinished,
    RunStarted,
    VolumeFailed,
)
from napari_tessera.memory.calibration.key import CalibrationKey
from napari_tessera.memory.calibration.pass_time import WARM_UP_PASSES
from napari_tessera.memory.estimate import LARGEST_SCALE, PRIOR_SCALES, Measurement, fit_correction
from napari_tessera.memory.trace import torch_sees_memory_of

if TYPE_CHECKING:
    import torch

    from napari_tessera.memory.calibration.store import CalibrationStore
    from napari_tessera.planning.plan import Plan

__all__ = ["RunMemory", "measurement_of"]

logger = logging.getLogger(__name__)

# Passes whose times count: the last ones, as the first fill caches and wake cores.
TIMED = 128
# Tensors that take more than so many times what a trace of the very same network sees are not its own.
LARGEST_FACTOR = 2.0


class RunMemory:
    """An event handler that hands every event on, and keeps peak and times in *store* once the run has ended well.

    A run in which memory ran out, or of which a volume failed, did not follow its plan, so nothing of it is kept. That
    a measurement cannot be kept costs no result: it is a warning in the log.
    """

    def __init__(
        self, network: torch.nn.Module, plan: Plan, store: CalibrationStore, forward_to: EventHandler | None = None
    ) -> None:
        self._network = network
        self._plan = plan
        self._store = store
        self._forward_to = forward_to
        self._times: dict[int, deque[float]] = defaultdict(lambda: deque(maxlen=TIMED))
        self._deviates = False
        self._decoded: list[tuple[int, float]] = []

    def __call__(self, event: Event) -> None:
        """Take note of *event*."""
        if isinstance(event, RunStarted):
            self._deviates |= len(event.volumes) != len(self._plan.volumes)
        elif isinstance(event, PassFinished):
            self._times[event.windows].append(event.seconds)
        elif isinstance(event, DecodingFinished):
            self._decoded.append((event.voxels, event.seconds))
        elif isinstance(event, MemoryRecovered | VolumeFailed):
            self._deviates = True
        elif isinstance(event, RunFinished) and not self._deviates:
            try:
                self._keep(event)
            except CalibrationError as error:
                logger.warning(str(error))
            except Exception:
                logger.warning("what the run took could not be kept", exc_info=True)
        if self._forward_to is not None:
            self._forward_to(event)

    def _keep(self, run: RunFinished) -> None:
        plan = self._plan
        key, window = CalibrationKey.of(self._network, plan.settings, plan.device), plan.settings.window_size or ()
        if self._decoded:
            self._store.add_decoding(plan.decoder_text, self._decoded)
        batch = plan.settings.sw_batch_size
        times = list(self._times[batch])  # smaller ones are leftovers, timed once or twice
        if len(times) > 1 or (times and plan.time.pass_time is None):  # a lone pass is the slow first one
            settled = times[min(WARM_UP_PASSES, len(times) // 2) :]
            self._store.add_times(key, window, {batch: median(settled)})
        if run.peak_bytes is not None and not plan.counts_are_bounds and torch_sees_memory_of(self._network):
            of_pass = CalibrationKey.of(self._network, plan.settings, plan.device, windows=plan.needs.need.windows)
            self._store.add(of_pass, window, plan.needs.need.windows, measurement_of(plan, run.peak_bytes))


def measurement_of(plan: Plan, measured_bytes: int) -> Measurement:
    """Return what a peak of *measured_bytes*, as torch counts them, says about the estimates of *plan*'s network.

    Raises `CalibrationError` if something else in this program must have taken part of it: torch's counters tell no
    users apart.
    """
    prior = PRIOR_SCALES.get(plan.device.kind, 0.0)
    correction = fit_correction(plan.needs.need, measured_bytes, prior_scale=prior)
    estimated = plan.memory.counted_bytes
    shared = plan.device.kind != "cpu"  # whose allocations are counted call by call
    if shared and (correction.workspace_scale >= LARGEST_SCALE or correction.activations_factor >= LARGEST_FACTOR):
        raise CalibrationError(
            f"{format_bytes(measured_bytes)} were measured where {format_bytes(estimated)} were estimated, which is "
            f"not kept: let nothing else in this program use {plan.device.name} meanwhile, and run again"
        )
    return Measurement(estimated, measured_bytes, correction)
