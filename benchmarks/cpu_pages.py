"""What two measures for the CPU bring: huge pages for large allocations, and arg-max one channel after the other.

    python benchmarks/cpu_pages.py [--repeats 7]

Huge pages: median seconds of one forward pass, in a process of its own with and without them, in turn. Linux only.
Arg-max: median milliseconds over finished planes of a slab, torch's reduction beside the one that the engine uses.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
ONE_PASS = """
import time, torch
from cases import CASES
case = CASES[{case!r}]
network, windows = case.build_network(), torch.randn(4, 1, *case.window)
with torch.inference_mode():
    network(windows)
    began = time.perf_counter()
    for _ in range(3):
        network(windows)
print((time.perf_counter() - began) / 3)
"""


def pass_seconds(case: str, switch: str) -> float:
    """Return the seconds of one forward pass of *case* in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", ONE_PASS.format(case=case)],
        env=os.environ | {HUGE_PAGES: switch},
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median time of *function* after one call to warm up."""
    function()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


def main() -> None:
    """Measure both and print a table each."""
    from napari_tessera.decode import get_decoder
    from napari_tessera.models.spec import OutputSpec

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    print("forward pass    small pages s  huge pages s  ratio")
    for case in ("stitching", "classes", "unet"):
        taken = {"0": [], "1": []}
        for _ in range(repeats):
            for switch, seconds in taken.items():
                seconds.append(pass_seconds(case, switch))
        small, huge = (statistics.median(seconds) for seconds in taken.values())
        print(f"{case:<15} {small:>13.3f}  {huge:>12.3f}  {huge / small:>5.2f}")
    print("\narg-max         torch ms  by channel ms  ratio")
    decoder, output = get_decoder("argmax"), OutputSpec()
    for classes in (3, 8, 32):
        planes = torch.randn(classes, 165, 112, 384)[:, :, :8]
        torch_ms = milliseconds(lambda planes=planes: planes.argmax(0, keepdim=True).to(torch.uint8), repeats)
        ours_ms = milliseconds(lambda planes=planes: decoder.reduce(planes, output), repeats)
        print(f"{classes:>2} classes      {torch_ms:>8.1f}  {ours_ms:>13.1f}  {ours_ms / torch_ms:>5.2f}")


if __name__ == "__main__":
    main()
