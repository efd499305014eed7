"""Whether one calibration on this device makes estimates right at other windows and batches.

    python benchmarks/calibration.py [--device cuda] [--thin]

Calibrates every network of `memory_networks` at its smallest window and two windows per pass, then predicts passes at
all its windows and batches of 1, 2 and 4 and measures each: weights and one pass, as the device's allocator counts.
The measurements of the user are neither used nor changed. Ends with status 1 where an estimate is off by more than the
error that its plan states, or typical ones by more than LARGEST_MEDIAN.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memory_networks import CLASSES, EVERY, NETWORKS

import napari_tessera as nt
from napari_tessera.api import PROBABILITIES, measure_device
from napari_tessera.jobs.tuning import measure_peak
from napari_tessera.memory.calibration.store import CalibrationStore

BATCHES = (1, 2, 4)
LARGEST_MEDIAN = 0.03


@dataclass(frozen=True)
class Case:
    """How far estimates are off, as fractions of what was measured, without and with the calibration."""

    window: tuple[int, ...]
    batch: int
    before: float
    after: float
    stated: float

    @property
    def is_kept(self) -> bool:
        """Whether the calibrated estimate is off by no more than it states."""
        return abs(self.after) <= self.stated


def cases(name: str, device: str, *, thin: bool) -> Iterator[Case]:
    """Yield the cases of one network."""
    for network, windows in EVERY[name].built(thin=thin):
        model = nt.Model.from_network(network, in_channels=1, out_channels=CLASSES, name=name)
        start = nt.Settings(window_size=windows[0], sw_batch_size=2, device=device)
        with tempfile.TemporaryDirectory() as folder:
            nothing, store = CalibrationStore(Path(folder) / "none.json"), CalibrationStore(Path(folder) / "kept.json")
            nt.calibrate(model, start, calibrations=store)
            for window in windows:
                for batch in BATCHES:
                    settings = start.replace(window_size=window, sw_batch_size=batch)
                    measured = measure_peak(model, settings)
                    if measured is None:
                        sys.exit(f"{device} does not count its memory")
                    before, after = (_plan(model, settings, known) for known in (nothing, store))
                    off = (plan.memory.counted_bytes / measured - 1 for plan in (before, after))
                    yield Case(window, batch, *off, after.memory_error)


def _plan(model: nt.Model, settings: nt.Settings, calibrations: CalibrationStore) -> nt.Plan:
    *sides, last = settings.window_size or ()
    shape = (*sides, last * settings.sw_batch_size)
    settings = settings.replace(overlap=0.0)
    return nt.plan(shape, model, settings, decoder=PROBABILITIES, calibrations=calibrations).of_pass()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--thin", action="store_true", help="narrow networks and small windows")
    arguments = parser.parse_args()
    print(f"{measure_device(arguments.device).name}\n")
    print("| network | cases | off before, median | worst | off after, median | worst |")
    print("|---|---|---|---|---|---|")
    every: list[Case] = []
    for name, network in NETWORKS.items():
        if network.missing:
            print(f"| {name} | needs {', '.join(network.missing)} | | | | |")
            continue
        found = list(cases(name, arguments.device, thin=arguments.thin))
        every += found
        print(_row(name, found), flush=True)
    print(_row("all", every))
    if not _verdict(every):
        sys.exit(1)


def _verdict(every: list[Case]) -> bool:
    """Print for passes over one window and over several whether what plans state was kept, and return it for both."""
    passed = True
    print()
    for what, cases_of in (
        ("several windows", [c for c in every if c.batch > 1]),
        ("one", [c for c in every if c.batch == 1]),
    ):
        beyond = [case for case in cases_of if not case.is_kept]
        median = statistics.median(abs(case.after) for case in cases_of)
        kept = not beyond and median <= LARGEST_MEDIAN
        passed &= kept
        figures = (
            f"median {median:.1%} (limit {LARGEST_MEDIAN:.0%}), worst {max((c.after for c in cases_of), key=abs):+.1%}"
        )
        stated = f"{len(beyond)} of {len(cases_of)} off by more than was stated"
        print(f"- passes over {what}: {'PASS' if kept else 'FAIL'}: {figures}, {stated}")
    return passed


def _row(name: str, found: list[Case]) -> str:
    before, after = [case.before for case in found], [case.after for case in found]
    figures = (f"{statistics.median(map(abs, side)):.1%} | {max(side, key=abs):+.1%}" for side in (before, after))
    return f"| {name} | {len(found)} | {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
