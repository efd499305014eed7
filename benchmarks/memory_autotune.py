"""Budgets drawn at random, and whether what `napari_tessera.autotune` chooses stays below them and near them.

Each network is calibrated first, at the case's window and in a file of its own: what the user has measured is neither
used nor changed. On the CPU a run exceeds its budget if torch's allocator gives out more over the whole of it, kernels'
own memory included; that also finds the largest batch that fits. On CUDA torch's own limit does both.
"""

from __future__ import annotations

import gc
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from driver import DriverPeak
from engines import choose_device
from memory_networks import CLASSES, EVERY, Window

import napari_tessera as nt
from napari_tessera.api import PROBABILITIES, as_source
from napari_tessera.engine.loop.events import Event, MemoryRecovered
from napari_tessera.jobs.pipeline import iter_results
from napari_tessera.memory.allocations import peak_of_allocations
from napari_tessera.memory.calibration.pass_time import PassTime
from napari_tessera.memory.calibration.store import CalibrationStore
from napari_tessera.memory.trace import weights_bytes

__all__ = ["COLUMNS", "Case", "Outcome", "draw_cases", "measure_peak", "try_case", "verdict"]

COLUMNS = ("network", "volume", "window", "windows", "budget MiB", "chosen", "largest", "share", "")
CASES = 30
SEED = 3
MIB = 2**20
# A budget lies between what one window at a time needs, and a little, and what this many at a time do.
MOST_WINDOWS, LITTLE = 16, 1.05
MOST_WINDOWS_PER_AXIS = 3
# Sides that five halvings divide.
CUDA_WINDOWS: tuple[Window, ...] = ((32, 64, 64), (64, 64, 64), (64, 96, 96))
# What the choice must reach of the largest batch that fits.
SHARE = 0.8
# One pass size alone was timed: then it is not known that smaller ones are as fast.
FEWEST_PASSES = PassTime(((1, 1.0),))


@dataclass(frozen=True)
class Case:
    """A network, a volume and the memory that a run over it may take."""

    name: str
    model: nt.Model
    shape: tuple[int, ...]
    settings: nt.Settings
    budget_bytes: int
    calibrations: CalibrationStore

    @property
    def on_cuda(self) -> bool:
        """Whether it runs on CUDA."""
        return self.settings.device == "cuda"


@dataclass(frozen=True)
class Outcome:
    """What became of a case: the batch that was chosen, 0 if none, and the largest that fits, as measured."""

    case: Case
    windows: int
    chosen: int
    largest: int
    ran_out: bool

    @property
    def failure(self) -> str:
        """What is wrong with it, nothing if all is well."""
        if self.chosen == 0:
            return "refused"
        if self.ran_out:
            return "memory ran out"
        return "" if self.chosen >= SHARE * self.largest else "too small"

    def as_row(self) -> str:
        """Return a row of a table of `COLUMNS`."""
        sizes = ["x".join(map(str, sides)) for sides in (self.case.shape, self.case.settings.window_size or ())]
        numbers = [f"{self.case.budget_bytes / MIB:.1f}", str(self.chosen), str(self.largest)]
        share = f"{self.chosen / max(self.largest, 1):.2f}"
        cells = [self.case.name, *sizes, str(self.windows), *numbers, share, self.failure or "ok"]
        return f"| {' | '.join(cells)} |"


def verdict(outcomes: list[Outcome]) -> tuple[bool, str]:
    """Return whether all is well, and a line that says so with the figures."""
    failures = [outcome.failure for outcome in outcomes if outcome.failure]
    least = min((outcome.chosen / max(outcome.largest, 1) for outcome in outcomes), default=0.0)
    said = ", ".join(f"{failures.count(kind)} {kind}" for kind in sorted(set(failures))) or "none failed"
    passed = bool(outcomes) and not failures
    line = f"{len(outcomes)} budgets, {said}, the smallest share {least:.2f} (limit: {SHARE})"
    return passed, f"{'PASS' if passed else 'FAIL'}: {line}"


def draw_cases(names: list[str], *, device: str, count: int = CASES, seed: int = SEED) -> Iterator[Case]:
    """Yield *count* cases over the networks called *names*, in turn: volume, overlap, views and budget at random."""
    dice = random.Random(seed)
    on_cuda = device == "cuda"
    for number in range(count):
        name = names[number % len(names)]
        window = dice.choice(CUDA_WINDOWS if on_cuda else EVERY[name].small[:2])
        ((network, _),) = EVERY[name].built((window,), thin=not on_cuda)
        settings = nt.Settings(
            window_size=window, overlap=dice.choice((0.25, 0.5)), tta_num=dice.choice((1, 1, 2)), device=device
        )
        shape = tuple(side + dice.randint(side // 2, (MOST_WINDOWS_PER_AXIS - 1) * side // 2) for side in window)
        model = nt.Model.from_network(network, in_channels=1, out_channels=CLASSES, name=name)
        store = CalibrationStore(Path(tempfile.mkdtemp()) / "calibrations.json")
        nt.calibrate(model, settings.replace(sw_batch_size=2), calibrations=store)
        blank = Case(name, model, shape, settings, 0, store)
        yield replace(blank, budget_bytes=_draw_budget(dice, blank))


def _draw_budget(dice: random.Random, case: Case) -> int:
    one, most = (_plan(case, batch) for batch in (1, MOST_WINDOWS))
    # Below the first a plan may refuse, as it counts its own error in.
    low = max(LITTLE * one.memory.total_bytes, one.most_bytes)
    return round(dice.uniform(low, max(low, most.memory.total_bytes)))


def _plan(case: Case, batch: int, **more: Any) -> nt.Plan:
    settings = case.settings.replace(sw_batch_size=batch)
    return nt.plan(case.shape, case.model, settings, decoder=PROBABILITIES, calibrations=case.calibrations, **more)


def try_case(case: Case, *, by_time: bool = False) -> Outcome:
    """Choose a batch for the budget, run it, and look for the largest that fits.

    *by_time*: choose by the times that were measured, as the button of the widget does, which may be far fewer windows;
    else the fewest passes, for which the choice has to be near the largest.
    """
    pass_time = None if by_time else FEWEST_PASSES
    try:
        chosen = nt.autotune(
            case.shape,
            case.model,
            case.settings,
            case.budget_bytes,
            decoder=PROBABILITIES,
            pass_time=pass_time,
            calibrations=case.calibrations,
        )
    except nt.SettingsError:
        return Outcome(case, _plan(case, 1).windows, 0, 1, ran_out=False)
    fits = _on_cuda(case) if case.on_cuda else _on_cpu(case)
    ran_out = not fits(chosen)
    largest = chosen.settings.sw_batch_size
    most = max(max(volume.block_windows) for volume in chosen.volumes)
    while not by_time and largest < most and fits(_plan(case, largest + 1, device=chosen.device)):
        largest += 1
    return Outcome(case, chosen.windows, chosen.settings.sw_batch_size, largest, ran_out)


Fits = Callable[[nt.Plan], bool]


def measure_peak(case: Case, batch: int) -> int:
    """Return what a run of *batch* windows per pass takes of the device where nothing limits it, bytes.

    On the CPU what torch's allocator gives out; on CUDA what the driver loses, and the context as the plan has it.
    """
    planned = _plan(case, batch)
    if not case.on_cuda:
        return _take_on_cpu(case, planned)[0]
    _empty_cache()
    with DriverPeak(choose_device(case.settings.device)) as driver:
        _runs_out(case, case.model, planned)
    assert driver.taken_bytes is not None
    return driver.taken_bytes + planned.memory.context_bytes


def _take_on_cpu(case: Case, planned: nt.Plan) -> tuple[int, bool]:
    """Run a plan and return what torch's allocator gives out meanwhile, and whether memory ran out."""
    failed: list[bool] = []
    peak = peak_of_allocations(lambda: failed.append(_runs_out(case, case.model, planned)))
    assert peak is not None, "another profile is under way"
    return weights_bytes(case.model.network) + peak, any(failed)


def _on_cpu(case: Case) -> Fits:
    """Return what tells whether a plan keeps the budget, by what torch's allocator gives out while it runs."""

    def fits(planned: nt.Plan) -> bool:
        peak, failed = _take_on_cpu(case, planned)
        return peak <= case.budget_bytes and not failed

    return fits


def _on_cuda(case: Case) -> Fits:
    """Return what tells whether a plan keeps the budget, by running it within that much of the device's memory."""

    def fits(planned: nt.Plan) -> bool:
        with _cuda_limit(case.budget_bytes - planned.memory.context_bytes):
            return not _runs_out(case, case.model, planned)

    return fits


@contextmanager
def _cuda_limit(limit_bytes: int) -> Iterator[None]:
    """Let torch's allocator hold no more than *limit_bytes* of the device, what it caches included."""
    _empty_cache()
    torch.cuda.set_per_process_memory_fraction(limit_bytes / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def _empty_cache() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _runs_out(case: Case, model: nt.Model, planned: nt.Plan) -> bool:
    """Run a plan and return whether memory ran out on the way."""
    volume = np.random.default_rng(0).random(case.shape, np.float32)
    events: list[Event] = []
    try:
        loads = [lambda: as_source(volume, model.spec)]
        store = CalibrationStore(Path(tempfile.mkdtemp()) / "unused.json")
        for _ in iter_results(loads, model, planned, None, on_event=events.append, calibrations=store):
            pass
    except nt.OutOfMemoryError:
        return True
    return any(isinstance(event, MemoryRecovered) for event in events)
