"""How right the time left is: what a run says at 5, 10, 25 and 50 % of its passes, over what it then took, with labels.

    python benchmarks/eta.py [--sw-batch-size 2] [--shape 128 256 352] [--device auto] [--repeats 3] [--probe]

Runs of the bundled network over noise, at least 100 passes each, and their medians; a first one, which is not counted,
warms up and tells how long labels take. Ends with status 1 if the median at 5 % is off by more than 20 %. With --probe,
also the time that measured passes predict before the run, over that of the run's passes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import numpy as np

import napari_tessera as nt
from napari_tessera.engine.loop.events import Event, PassFinished, RunFinished, VolumeStarted
from napari_tessera.jobs.progress_meter import ProgressMeter
from napari_tessera.jobs.tuning import measure_times
from napari_tessera.memory.calibration.pass_time import PassTime

SHAPE, SHARES, FEWEST_PASSES = (128, 256, 352), (0.05, 0.1, 0.25, 0.5), 100
# What the time left may be of the true one after the first of the shares.
LEAST, MOST = 0.8, 1.2


class Watch:
    """Notes when each pass was done, the time left that was shown then, and when the labels were there."""

    def __init__(self) -> None:
        self._meter = ProgressMeter()
        self._shown_s: list[float] = []
        self._at_s: list[float] = []
        self._began_s = self._ended_s = 0.0

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        now_s = time.perf_counter()
        self._meter.observe(event)
        if isinstance(event, VolumeStarted):
            self._began_s = now_s
        elif isinstance(event, PassFinished):
            left_s = self._meter.progress.seconds_left
            assert left_s is not None
            self._shown_s.append(left_s)
            self._at_s.append(now_s)
        elif isinstance(event, RunFinished):
            self._ended_s = now_s

    @property
    def seconds(self) -> float:
        """From the start of the volume to its labels."""
        return self._ended_s - self._began_s

    @property
    def passes_seconds(self) -> float:
        """From the start of the volume to its last pass."""
        return self._at_s[-1] - self._began_s

    def ratio(self, share: float) -> float:
        """Return the time left that was shown after *share* of the passes, over the true one."""
        number = max(1, round(share * len(self._at_s))) - 1
        return self._shown_s[number] / (self._ended_s - self._at_s[number])


def main() -> None:
    """Predict, run, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sw-batch-size", type=int, default=2)
    parser.add_argument("--shape", type=int, nargs=3, default=SHAPE)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--probe", action="store_true")
    options = parser.parse_args()
    model = nt.load_model("bundled")
    settings = nt.Settings(sw_batch_size=options.sw_batch_size, device=options.device)
    plan = nt.plan(options.shape, model, settings)
    if plan.forward_passes < FEWEST_PASSES:
        parser.error(f"{plan.forward_passes} passes are too few to tell: choose a shape that needs {FEWEST_PASSES}")
    volume = np.random.default_rng(0).integers(0, 256, options.shape, np.uint8)
    print(f"{plan.device.name}: {plan.windows} windows in {plan.forward_passes} passes")
    if options.probe:
        began = time.perf_counter()
        pass_time = PassTime.fit(list(measure_times(model, settings).items()))
        took, predicted = time.perf_counter() - began, plan.seconds_at(pass_time)
        print(f"probe, {took:.1f} s: " + ", ".join(f"{n} windows {s:.3g} s" for n, s in pass_time.points))
    runs = []
    for number in range(1 + options.repeats):
        watch = Watch()
        nt.segment(volume, model, settings, on_event=watch)
        shown = ", ".join(f"{share:.0%}: {watch.ratio(share):.2f}" for share in SHARES)
        print(f"run {number}, {watch.seconds:.1f} s: shown / true at {shown}")
        if number:  # the one before them all tells how long labels take
            runs.append(watch)
    medians = {share: statistics.median(watch.ratio(share) for watch in runs) for share in SHARES}
    print("median: shown / true at " + ", ".join(f"{share:.0%}: {ratio:.2f}" for share, ratio in medians.items()))
    if options.probe:
        took = statistics.median(watch.passes_seconds for watch in runs)
        print(f"predicted {predicted:.1f} s, took {took:.1f} s: predicted / true {predicted / took:.2f}")
    if not LEAST <= medians[SHARES[0]] <= MOST:
        sys.exit(f"FAIL: {medians[SHARES[0]]:.2f} after {SHARES[0]:.0%} is not within {LEAST} to {MOST}")


if __name__ == "__main__":
    main()
