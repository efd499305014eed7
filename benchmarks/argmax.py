"""Arg-max over finished planes on the CPU: torch's reduction, and what the engine does, by the layout in memory.

python benchmarks/argmax.py [--repeats 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from napari_tessera.decode import get_decoder
from napari_tessera.engine.stitching.stitch import PIECE_VALUES
from napari_tessera.models.spec.spec import OutputSpec


def milliseconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median time of *function* after one call to warm up."""
    function()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)


def planes_of(classes: int) -> int:
    """Return how many planes of 64 x 64 voxels the engine reduces together."""
    return max(1, PIECE_VALUES // (classes * 64 * 64))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    decoder, output = get_decoder("argmax"), OutputSpec()
    print("| classes | channels | torch ms | engine ms | ratio |\n|---|---|---|---|---|")
    for classes in (3, 8, 32):
        first = torch.randn(classes, 64, 256, 64)[:, :, : planes_of(classes)]
        last = torch.randn(64, 256, 64, classes).movedim(-1, 0)[:, :, : planes_of(classes)]
        for layout, planes in (("first", first), ("last", last)):
            theirs = milliseconds(lambda planes=planes: planes.argmax(0, keepdim=True).to(torch.uint8), repeats)
            ours = milliseconds(lambda planes=planes: decoder.reduce(planes, output), repeats)
            print(f"| {classes} | {layout} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
