"""Which ways to run a network pay: layout in memory, pages, cuDNN's autotuning, lower precisions, torch.compile.

    python benchmarks/formats.py [--networks stitching unet ...] [--repeats 5] [--device auto] [--batch 4] [--compile]

Milliseconds of one forward pass and the peak of memory beside network and input, medians over processes that take
turns. A way that names no precision is float32 without TF32. The engine uses what is faster here on most networks
without costing memory; everything else stays off.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from cases import CASES
from engines import choose_device, start_peak, status_bytes, synchronize, take_seconds
from peers import arithmetic
from plain_unet import PlainUNet

HERE = Path(__file__).parent
MIB = 2**20
PASSES = 8
CPU_WAYS = ("plain", "huge pages", "huge and kept pages", "channels last", "channels last, huge and kept pages")
LAYOUTS = ("plain", "channels last", "autotuned", "channels last, autotuned")
PRECISIONS = ("tf32", "bfloat16", "float16")
CUDA_WAYS = (*LAYOUTS, *(f"{way}, {precision}" for precision in PRECISIONS for way in LAYOUTS))
COMPILED = "compiled"


def build_segresnet() -> torch.nn.Module:
    """Return MONAI's SegResNet."""
    from monai.networks.nets import SegResNet

    return SegResNet(spatial_dims=3, in_channels=1, out_channels=3)


def build_bundled() -> torch.nn.Module:
    """Return the bundled network."""
    import napari_tessera as nt

    return nt.load_model("bundled").network


NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...]]] = {
    "pointwise, 3 classes": (CASES["stitching"].build_network, CASES["stitching"].window),
    "pointwise, 32 classes": (CASES["classes"].build_network, CASES["classes"].window),
    "UNet": (CASES["unet"].build_network, CASES["unet"].window),
    "DynUNet": (CASES["cuda-dynunet"].build_network, (64, 64, 64)),
    "SegResNet": (build_segresnet, (64, 64, 64)),
    "plain U-Net": (lambda: PlainUNet(classes=3), (64, 64, 64)),
    "bundled": (build_bundled, (64, 64, 64)),
}


def measure(
    name: str, way: str, batch: int, device: torch.device, *, window: tuple[int, ...] | None = None
) -> dict[str, float]:
    """Measure one way in this process, in the network's window or another; ``first_ms`` is the pass that warms up."""
    build, usual = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval().to(device)
    layout = torch.channels_last_3d if "channels last" in way else torch.contiguous_format
    windows = torch.empty((batch, 1, *(window or usual)), device=device, memory_format=layout).normal_()
    if COMPILED in way:
        network = torch.compile(network)
    torch.backends.cudnn.benchmark = "autotuned" in way
    with ExitStack() as stack:
        precision = next((precision for precision in PRECISIONS if precision in way), "float32")
        stack.enter_context(arithmetic(device, precision))
        if "kept" in way:
            from napari_tessera.engine.devices.cpu import page_cache

            stack.enter_context(page_cache())
        first_s = take_seconds(lambda: network(windows), device)
        on_cuda = device.type == "cuda"
        before = torch.cuda.memory_allocated() if on_cuda else start_peak() or 0
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(PASSES):
            network(windows)
        synchronize(device)
        seconds = (time.perf_counter() - began) / PASSES
        peak = torch.cuda.max_memory_allocated() if on_cuda else status_bytes("VmHWM") or 0
    return {"ms": 1e3 * seconds, "mib": (peak - before) / MIB, "first_ms": 1e3 * first_s}


def run(name: str, way: str, options: argparse.Namespace) -> dict[str, float]:
    """Return what a process of its own measured."""
    environment: dict[str, str] = os.environ | {"THP_MEM_ALLOC_ENABLE": "1" if "huge" in way else "0"}
    command = [sys.executable, str(HERE / "formats.py"), "--one", name, way, "--batch", str(options.batch)]
    done = subprocess.run(
        [*command, "--device", options.device], env=environment, check=True, capture_output=True, text=True
    )
    record: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return record


def main() -> None:
    """Measure and print a table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes a minute per process")
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*options.one, options.batch, choose_device(options.device))))
        return
    on_cuda = choose_device(options.device).type == "cuda"
    ways = (CUDA_WAYS if on_cuda else CPU_WAYS) + ((COMPILED,) if options.compile else ())
    print(f"{'CUDA' if on_cuda else 'CPU'}, batch {options.batch}, {options.repeats} processes each\n")
    print("| network | way | ms a pass | ratio | extra MiB |\n|---|---|---|---|---|")
    for name in options.networks:
        taken: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, records in taken.items():
                records.append(run(name, way, options))
        plain = statistics.median(record["ms"] for record in taken["plain"])
        for way, records in taken.items():
            ms, mib = (statistics.median(record[key] for record in records) for key in ("ms", "mib"))
            print(f"| {name} | {way} | {ms:.1f} | {ms / plain:.2f} | {mib:.0f} |", flush=True)


if __name__ == "__main__":
    main()
