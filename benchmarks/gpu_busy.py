"""Which share of a run a CUDA device is busy: the union of its kernels and copies over the wall time.

    python benchmarks/gpu_busy.py [--case cuda-unet]

Needs a CUDA device; says so and ends with status 0 where there is none. The run is warmed up on one batch of windows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

import torch
from cases import CASES


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


def main() -> None:
    """Profile one run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="cuda-unet")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return
    from tessera_engine import run
    from torch.profiler import ProfilerActivity, profile

    case, device = CASES[options.case], torch.device("cuda", 0)
    network, volume = case.build_network().to(device), case.build_volume()
    small = case.for_warm_up()
    run(small.build_volume(), network, small, device)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        began = time.perf_counter()
        run(volume, network, case, device)
        torch.cuda.synchronize()
        wall = time.perf_counter() - began
    events = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not events:
        sys.exit("the profiler recorded nothing on the device")
    busy = busy_seconds((event.time_range.start, event.time_range.end) for event in events) / 1e6
    print(f"{torch.cuda.get_device_name(0)}, {options.case}: busy {busy:.2f} s of {wall:.2f} s = {busy / wall:.1%}")


if __name__ == "__main__":
    main()
