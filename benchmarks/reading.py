"""Should windows be read on a thread of their own while the network computes? Seconds of a run, by batches read ahead.

    python benchmarks/reading.py [--repeats 5] [--device auto]

Three sources: an array in memory, planes that have to be decompressed (a reader that computes), and planes that take 5
ms each to arrive (a reader that waits). Runs take turns in one process; the table gives medians, and the ratio to
reading between the passes. On a CPU the thread and the network share the cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from cases import CASES
from tessera_engine import argmax_reduction, sweep_of

from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import ArraySource

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device

AHEAD = (0, 1, 2)
WAIT_S = 0.005


class Compressed:
    """An array whose planes are kept compressed."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self._planes = [zlib.compress(plane.tobytes(), 1) for plane in array]

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        first, *rest = region
        planes = [np.frombuffer(zlib.decompress(plane), self.dtype) for plane in self._planes[first]]
        return np.stack([plane.reshape(self.shape[1:]) for plane in planes])[(slice(None), *rest)]


class Distant:
    """An array whose planes take a while to arrive."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype, self._array = array.shape, array.dtype, array

    def __getitem__(self, region: tuple[slice, ...]) -> np.ndarray:
        planes = self._array[region]
        time.sleep(WAIT_S * planes.shape[0])
        return planes


SOURCES: dict[str, Callable[[np.ndarray], Any]] = {
    "in memory": lambda array: array,
    "compressed": Compressed,
    "distant": Distant,
}


def run_seconds(network: Any, source: Any, read_ahead: int, device: Device) -> float:
    """Return the seconds of one run."""
    case = CASES["unet"]
    began = time.perf_counter()
    run_sweep(
        [Worker(device, network)],
        ArraySource(source),
        sweep_of(case, read_ahead=read_ahead),
        reduction=argmax_reduction(),
        sink=ArraySink.empty((1, *case.shape), np.uint8),
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    case, device = CASES["unet"], open_device(options.device)
    network, volume = case.build_network().to(device.torch_device), case.build_volume().numpy()
    print(f"{device.name}, MONAI UNet on {case.shape}\n")
    print("| source | " + " | ".join(f"{n} ahead, s" for n in AHEAD) + " | ratio of 1 | ratio of 2 |")
    print("|---|---|---|---|---|---|")
    for name, make in SOURCES.items():
        source = make(volume)
        taken: dict[int, list[float]] = {n: [] for n in AHEAD}
        for repeat in range(options.repeats + 1):
            for ahead, seconds in taken.items():
                measured = run_seconds(network, source, ahead, device)
                if repeat:  # the first round warms up
                    seconds.append(measured)
        medians = [statistics.median(seconds) for seconds in taken.values()]
        cells = [f"{m:.2f}" for m in (*medians, medians[1] / medians[0], medians[2] / medians[0])]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
