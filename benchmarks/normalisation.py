"""What it costs to turn weighted sums into averages, in time and memory, by how the weights are kept.

    python benchmarks/normalisation.py [--case stitching] [--repeats 5] [--device auto]

Only stitching: one prediction is added at the place of every window and finished planes are dropped. The ways:

- none: sums stay sums (what arg-max needs);
- rows: the weights of one row of windows, from which the normaliser of every plane follows (what probabilities get);
- voxels: a slab of one channel that weights are accumulated in (what skipped windows need);
- folded: every window has weights of its own, normalised beforehand, one map per position class.
"""

from __future__ import annotations

import argparse
import statistics
import time
from math import prod
from typing import TYPE_CHECKING

import torch
from cases import CASES, Case

from napari_tessera.core.settings.choices import Precision
from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.stitching.importance_map import importance_map
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES, Finished, SlabStitcher, Weighting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from napari_tessera.engine.devices.protocol import Device

MIB = 2**20


def folded_maps(grid: WindowGrid, importance: torch.Tensor) -> dict[tuple[int, ...], torch.Tensor]:
    """Return the normalised weights of every window, windows that lie alike among their neighbours sharing one map."""
    lines = [_axis_classes(grid, axis) for axis in range(3)]
    maps: dict[tuple[int, ...], torch.Tensor] = {}
    total = torch.zeros(grid.padded_shape, device=importance.device)
    for start in map(grid.start_of, grid.iter_indices()):
        total[tuple(slice(a, a + w) for a, w in zip(start, grid.window, strict=True))] += importance
    for index in grid.iter_indices():
        key = tuple(line[i] for line, i in zip(lines, index, strict=True))
        if key not in maps:
            start = grid.start_of(index)
            maps[key] = importance / total[tuple(slice(a, a + w) for a, w in zip(start, grid.window, strict=True))]
    return maps


def _axis_classes(grid: WindowGrid, axis: int) -> list[int]:
    """Return a number for each window of an axis; those with equal distances to all their neighbours share it."""
    starts, window = grid.starts[axis], grid.window[axis]
    seen: dict[tuple[int, ...], int] = {}
    distances = [tuple(other - start for other in starts if abs(other - start) < window) for start in starts]
    return [seen.setdefault(each, len(seen)) for each in distances]


def stitch_seconds(case: Case, prediction: torch.Tensor, way: str, device: Device) -> tuple[float, int]:
    """Return seconds, and bytes of the weights, of stitching one volume."""
    grid = WindowGrid.regular(case.shape, case.window, case.overlap)
    importance = importance_map(case.window, device=device.torch_device)
    maps = folded_maps(grid, importance) if way == "folded" else {}
    classes = [_axis_classes(grid, axis) for axis in range(3)]
    weighting = Weighting.NONE if way == "folded" else Weighting(way)
    with device.running(Precision.FLOAT32):
        began = time.perf_counter()
        stitcher = SlabStitcher(
            grid, grid.whole, case.classes, importance, weighting, _drop, device=device.torch_device
        )
        for index in grid.iter_indices():
            if maps:
                stitcher._importance = maps[tuple(line[i] for line, i in zip(classes, index, strict=True))]
            stitcher.add(grid.start_of(index), prediction)
        stitcher.finish()
        device.open_stream(main=True).record_event().synchronize()
        seconds = time.perf_counter() - began
    slab = prod(grid.slab_shape(grid.sweep_axis))
    kept = FLOAT_BYTES * len(maps) * prod(case.window) if maps else weighting.bytes_per_voxel(case.classes) * slab
    return seconds, kept


def _drop(finished: Finished) -> None:
    """Take finished planes and do nothing with them."""


def table(case: Case, repeats: int, device: Device) -> Sequence[str]:
    """Return one row per way."""
    prediction = torch.randn(case.classes, *case.window, device=device.torch_device)
    ways = ("none", "rows", "voxels", "folded")
    taken: dict[str, list[tuple[float, int]]] = {way: [] for way in ways}
    for repeat in range(repeats + 1):
        for way, measured in taken.items():
            one = stitch_seconds(case, prediction, way, device)
            if repeat:
                measured.append(one)
    medians = {way: statistics.median(seconds for seconds, _ in measured) for way, measured in taken.items()}
    return [
        f"| {way} | {medians[way]:.2f} | {medians[way] / medians['none']:.2f} | {taken[way][0][1] / MIB:.0f} |"
        for way in ways
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="stitching")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = open_device(options.device)
    print(f"{device.name}, stitching alone of the case '{options.case}'\n")
    print("| weights | s | x none | weights MiB |\n|---|---|---|---|")
    print("\n".join(table(CASES[options.case], options.repeats, device)))


if __name__ == "__main__":
    main()
