"""One engine on one case, in a process of its own; prints one line of JSON. `compare.py` runs many of these.

    python benchmarks/engines.py ENGINE CASE [--device auto] [--precision float32] [--runs 1]

Engines: ``passes`` (the forward passes alone, the limit of any engine), ``passes-tuned`` (the same with the memory
layout and pages that Tessera chooses), ``tessera``, and its peers. All of them but the passes end with a label volume
(arg-max) on the host. Extra memory is the highest resident memory of the process during the runs, less that before
them, when image and network are there; on CUDA also the peak of torch's allocator.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import peers
import torch
from cases import CASES, ENGINES, Case

Run = Callable[[torch.Tensor, torch.nn.Module, Case, torch.device], None]

PEERS: dict[str, Run] = {
    "passes": peers.run_passes,
    "monai": peers.run_monai,
    "monai-buffered": peers.run_monai_buffered,
    "nnunet": peers.run_nnunet,
    "torchio": peers.run_torchio,
}


def load_engine(name: str) -> Run:
    """Return the engine; Tessera is imported here and only when asked for, before torch allocates anything."""
    if name in PEERS:
        return PEERS[name]
    import tessera_engine

    return tessera_engine.run if name == "tessera" else tessera_engine.run_passes


def choose_device(name: str) -> torch.device:
    """Return the torch device called *name*; ``auto`` is CUDA, else MPS, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    # An index, so that every library compares equal devices.
    return torch.device("cuda", 0) if name == "cuda" else torch.device(name)


def status_bytes(field: str) -> int | None:
    """Return a field of /proc/self/status, None where there is no such file."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def start_peak() -> int | None:
    """Forget the highest resident memory until now and return the present one, None where Linux cannot do that.

    Memory that the warm-up freed goes back to the system first, or the run would take it again unseen.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return status_bytes("VmRSS")


def highest_resident_bytes() -> int:
    """Return the highest resident memory of this process since it began (kilobytes on Linux, bytes on a Mac)."""
    unit = 1024 if Path("/proc").exists() else 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def take_seconds(run: Callable[[], None], device: torch.device) -> float:
    """Return the seconds of one run."""
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - began


def measure(
    engine: Run, network: torch.nn.Module, volume: torch.Tensor, case: Case, device: torch.device, runs: int
) -> dict[str, Any]:
    """Warm up on a small volume, then time *runs* runs over *volume* and take their peak memory."""
    small = case.for_warm_up()
    engine(small.build_volume(), network, small, device)
    synchronize(device)
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    highest, before = highest_resident_bytes(), start_peak()
    seconds = [take_seconds(lambda: engine(volume, network, case, device), device) for _ in range(runs)]
    # Where the peak cannot be reset, what the warm-up took and gave back is missing from the difference.
    peak = status_bytes("VmHWM") if before is not None else None
    return {
        "seconds": seconds,
        "extra_bytes": highest_resident_bytes() - highest if peak is None else peak - before,
        "device_peak_bytes": torch.cuda.max_memory_allocated(device) if on_cuda else None,
    }


def main() -> None:
    """Print the record, or what is missing for one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--precision", choices=("float32", "default", "tf32", "bfloat16"), help="the case's own unless given"
    )
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    case, device = CASES[options.case], choose_device(options.device)
    case = replace(case, precision=options.precision or case.precision)
    engine = load_engine(options.engine)
    try:
        network = case.build_network().to(device)
    except ImportError as error:
        print(json.dumps({"no_network": str(error)}))
        return
    try:
        record = measure(engine, network, case.build_volume(), case, device, options.runs)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}))
        return
    record |= {
        # The passes alone make no label volume.
        "result_bytes": 0 if options.engine.startswith("passes") else prod(case.shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
