"""Which share of a run a CUDA device is busy: the union of its kernels and copies over the wall time.

    python benchmarks/gpu_busy.py [--case cuda-unet]

Needs a CUDA device; says so and ends with status 0 where there is none. The run is warmed up on one batch of windows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable

import torch
from cases import CASES, Case
from engines import synchronize, take_seconds
from torch.profiler import ProfilerActivity, profile


def busy_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of (start, end), in their unit.

    Examples
    --------
    >>> busy_seconds([(0, 2), (1, 3), (5, 6)])
    4
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def measure(case: Case, device: torch.device) -> tuple[float, float]:
    """Return the seconds in which the device was busy during a run of Tessera's engine, and those that the run took.

    On the CPU busy is what happens in torch's operators, on whichever thread.
    """
    from tessera_engine import run

    on_cuda = device.type == "cuda"
    network, volume, small = case.build_network().to(device), case.build_volume(), case.for_warm_up()
    run(small.build_volume(), network, small, device)
    synchronize(device)
    with profile(activities=[ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU]) as profiler:
        wall = take_seconds(lambda: run(volume, network, case, device), device)
    kind = torch.autograd.DeviceType.CUDA if on_cuda else torch.autograd.DeviceType.CPU
    events = [event.time_range for event in profiler.events() if event.device_type == kind]
    if not events:
        sys.exit("the profiler recorded nothing on the device")
    return busy_seconds((event.start, event.end) for event in events) / 1e6, wall


def main() -> None:
    """Profile one run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="cuda-unet")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return
    busy, wall = measure(CASES[options.case], torch.device("cuda", 0))
    print(f"{torch.cuda.get_device_name(0)}, {options.case}: busy {busy:.2f} s of {wall:.2f} s = {busy / wall:.1%}")


if __name__ == "__main__":
    main()
