"""Whether one calibration on this device makes estimates right at other windows and batches.

    python benchmarks/calibration.py [--device cuda] [--thin]

Calibrates every network of `memory_networks` at its smallest window and two windows per pass, then predicts passes at
all its windows and batches of 1, 2 and 4 and measures each: weights and one pass, as the device's allocator counts.
The measurements of the user are neither used nor changed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from memory_networks import CLASSES, NETWORKS

import napari_tessera as nt
from napari_tessera.api import PROBABILITIES, measure_device
from napari_tessera.calibration.store import CalibrationStore
from napari_tessera.probe import measure_peak

BATCHES = (1, 2, 4)


@dataclass(frozen=True)
class Case:
    """How far estimates are off, as fractions of what was measured, without and with the calibration."""

    window: tuple[int, ...]
    batch: int
    before: float
    after: float


def cases(name: str, device: str, *, thin: bool) -> Iterator[Case]:
    """Yield the cases of one network."""
    for network, windows in NETWORKS[name].built(thin=thin):
        model = nt.Model.from_network(network, in_channels=1, out_channels=CLASSES, name=name)
        start = nt.Settings(window_size=windows[0], sw_batch_size=2, device=device)
        with tempfile.TemporaryDirectory() as folder:
            nothing, store = CalibrationStore(Path(folder) / "none.json"), CalibrationStore(Path(folder) / "kept.json")
            nt.calibrate(model, start, calibrations=store)
            for window in windows:
                for batch in BATCHES:
                    settings = replace(start, window_size=window, sw_batch_size=batch)
                    measured = measure_peak(model, settings)
                    off = (_estimate(model, settings, known) / measured - 1 for known in (nothing, store))
                    yield Case(window, batch, *off)


def _estimate(model: nt.Model, settings: nt.Settings, calibrations: CalibrationStore) -> int:
    *sides, last = settings.window_size or ()
    shape = (*sides, last * settings.sw_batch_size)
    plan = nt.plan(shape, model, settings, decoder=PROBABILITIES, calibrations=calibrations)
    return plan.of_pass().memory.counted_bytes


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


def _row(name: str, found: list[Case]) -> str:
    before, after = [case.before for case in found], [case.after for case in found]
    figures = (f"{statistics.median(map(abs, side)):.1%} | {max(side, key=abs):+.1%}" for side in (before, after))
    return f"| {name} | {len(found)} | {' | '.join(figures)} |"


if __name__ == "__main__":
    main()
