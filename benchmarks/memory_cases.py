"""What a forward pass and a run are predicted to take, beside what they took. `memory_accuracy.py` prints it."""

from __future__ import annotations

import gc
import statistics
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from driver import DriverPeak
from engines import choose_device
from memory_networks import CLASSES, EVERY, Window

import napari_tessera as nt
from napari_tessera import api
from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.loop.events import Event, EventHandler, MemoryRecovered, RunFinished
from napari_tessera.jobs.pipeline import iter_results
from napari_tessera.memory.activations import ActivationCache
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.memory.trace import measure_forward

__all__ = ["CALIBRATED", "CPU", "CUDA", "Limits", "Row", "Runs", "cpu_rows", "iter_runs"]

BATCHES = (1, 2, 4)
CUDA_WINDOWS: tuple[Window, ...] = ((64, 64, 64), (96, 96, 96), (128, 128, 128))
CUDA_PRECISIONS = (Precision.FLOAT32, Precision.BFLOAT16)
# The volume of a run has that many windows per axis: more than one pass of the largest batch.
WINDOWS_PER_AXIS = 2
# What a run must leave of the device to be tried.
ROOM = 0.9


@dataclass(frozen=True)
class Row:
    """One prediction and what came of it.

    Attributes
    ----------
    predicted_bytes, actual_bytes
        Of a pass on the CPU live bytes, weights not counted; of a run the peak of torch's counter.
    reserved_bytes, driver_bytes
        What CUDA's allocator held for it at most, and what the driver lost to it; None on the CPU.
    calibrated_bytes
        As *predicted_bytes*, once one run of the network, with another window or batch, had been measured; None for a
        pass, and for the run that was.
    claimed_bytes
        What the plan says that the device loses, the context included; None for a pass.
    """

    network: str
    window: Window
    batch: int
    predicted_bytes: int
    actual_bytes: int
    precision: str = "float32"
    reserved_bytes: int | None = None
    calibrated_bytes: int | None = None
    claimed_bytes: int | None = None
    driver_bytes: int | None = None

    @property
    def error(self) -> float:
        """How far the prediction is above what came, as a fraction of that; negative where it is below."""
        return self.predicted_bytes / self.actual_bytes - 1

    @property
    def calibrated(self) -> Row:
        """The row as it is after one calibrating run."""
        assert self.calibrated_bytes is not None
        return replace(self, predicted_bytes=self.calibrated_bytes)


@dataclass(frozen=True)
class Limits:
    """How far predictions may be off, as fractions; `under` is for those that are too low."""

    median: float
    worst: float
    under: float

    def verdict(self, rows: Iterable[Row]) -> tuple[bool, str]:
        """Return whether all *rows* keep them, and a line that says so with the figures."""
        errors = [row.error for row in rows]
        if not errors:
            return False, "FAIL: nothing was measured"
        sizes = [abs(error) for error in errors]
        median, worst, under = statistics.median(sizes), max(sizes), max(0.0, -min(errors))
        passed = median <= self.median and worst <= self.worst and under <= self.under
        figures = f"median {median:.3%}, worst {worst:.3%}, too low by at most {under:.3%} over {len(errors)} cases"
        return passed, (
            f"{'PASS' if passed else 'FAIL'}: {figures} (limits: {self.median:.1%}, {self.worst:.1%}, {self.under:.1%})"
        )


CPU = Limits(0.005, 0.02, 0.02)
CUDA = Limits(0.05, 0.1, 0.05)
CALIBRATED = Limits(0.03, 0.03, 0.03)


def cpu_rows(name: str, *, thin: bool) -> Iterator[Row]:
    """Yield traced beside measured live bytes of one network's passes; batch 4 follows from traces of 2 and 3."""
    cache = ActivationCache()
    for network, windows in EVERY[name].built(thin=thin):
        for window in windows:
            for batch in BATCHES:
                predicted = cache.profile(network, in_channels=1, window=window, batch=batch).activations_bytes
                measured = measure_forward(network, (batch, 1, *window))
                yield Row(name, window, batch, predicted, measured.activations_bytes)


def iter_runs(name: str, *, device: str = "cuda", thin: bool = False) -> Iterator[Runs]:
    """Yield one network's runs on a device, to be measured against their plans, by precision."""
    entry = EVERY[name]
    for network, windows in entry.built(entry.small[:2] if thin else CUDA_WINDOWS, thin=thin):
        for precision in CUDA_PRECISIONS:
            yield Runs(name, network, windows, precision, device)


class Runs:
    """The runs of one network at one precision; what could not be run is `missing` afterwards."""

    def __init__(
        self, name: str, network: torch.nn.Module, windows: tuple[Window, ...], precision: Precision, device: str
    ) -> None:
        self.missing: list[str] = []
        self._name, self._windows, self._precision = name, windows, precision
        self._device = choose_device(device)
        self._model = nt.Model.from_network(network, in_channels=1, out_channels=CLASSES, name=name)
        folder = Path(tempfile.mkdtemp())
        self._nothing, self._kept, self._unused = (CalibrationStore(folder / f"{n}.json") for n in range(3))

    def measure(self) -> Iterator[Row]:
        """Run every window and batch that the device has room for; the first run is the one that calibrates."""
        first = self._plan(self._windows[0], BATCHES[1], self._nothing)
        self._predict(first, self._kept)
        for window in self._windows:
            for batch in BATCHES:
                yield from self._run_one(window, batch)

    def _calibrates(self, window: Window, batch: int) -> bool:
        return (window, batch) == (self._windows[0], BATCHES[1])

    def _plan(self, window: Window, batch: int, known: CalibrationStore) -> nt.Plan:
        settings = nt.Settings(
            window_size=window, sw_batch_size=batch, precision=self._precision, device=self._device.type
        )
        return nt.plan(_shape(window), self._model, settings, decoder=api.PROBABILITIES, calibrations=known)

    def _predict(self, planned: nt.Plan, kept: CalibrationStore, on_event: EventHandler | None = None) -> None:
        volume = np.random.default_rng(0).random(planned.volumes[0].shape, np.float32)
        loads = [lambda: api.as_source(volume, self._model.spec)]
        with suppress(nt.OutOfMemoryError):
            # Not `predict`, which would use and change what the user has measured.
            for _ in iter_results(loads, self._model, planned, None, on_event=on_event, calibrations=kept):
                pass

    def _run_one(self, window: Window, batch: int) -> Iterator[Row]:
        gc.collect()
        torch.cuda.empty_cache()
        planned = self._plan(window, batch, self._nothing)
        case = f"{self._name}, {self._precision}, window {window}, batch {batch}"
        if planned.memory.total_bytes > ROOM * planned.device.free_bytes:
            self.missing.append(f"{case}: needs more than {ROOM:.0%} of what is free")
            return
        events: list[Event] = []
        with DriverPeak(self._device) as driver:
            self._predict(planned, self._unused, events.append)
        peaks = [event.peak_bytes for event in events if isinstance(event, RunFinished)]
        if not peaks or any(isinstance(event, MemoryRecovered) for event in events):
            self.missing.append(f"{case}: memory ran out")
            return
        if peaks[0] is None:
            self.missing.append(f"{case}: the run's peak could not be told")
            return
        reserved = torch.cuda.max_memory_reserved() if self._device.type == "cuda" else None
        predicted = planned.memory.counted_bytes
        # The run that calibrated says nothing of how well it does for others.
        calibrates = self._calibrates(window, batch)
        calibrated = None if calibrates else self._plan(window, batch, self._kept).memory.counted_bytes
        taken = (reserved, calibrated, planned.memory.total_bytes, driver.taken_bytes)
        yield Row(self._name, window, batch, predicted, peaks[0], self._precision, *taken)


def _shape(window: Window) -> tuple[int, ...]:
    """Return the volume of `WINDOWS_PER_AXIS` windows per axis that overlap by half."""
    return tuple(side + (WINDOWS_PER_AXIS - 1) * (side // 2) for side in window)
