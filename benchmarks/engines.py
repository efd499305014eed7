"""One engine on one case, in a process of its own; prints one line of JSON. `compare.py` runs many of these.

    python benchmarks/engines.py ENGINE CASE [--device cpu]

Engines: ``passes`` (the forward passes alone, the limit of any engine), ``tessera``, ``monai``, ``monai-buffered``. All
of them end with a label volume (arg-max) on the host. Extra memory is the highest resident memory of the process during
the run, less that before it, when image and network are there; on CUDA also the peak of torch's allocator.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from cases import CASES, Case

from napari_tessera.decode import get_decoder
from napari_tessera.engine.device import Device, open_device
from napari_tessera.engine.grid import WindowGrid, count_forward_passes
from napari_tessera.engine.intensity import IntensityMap
from napari_tessera.engine.run import Sweep, run_sweep
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import ArraySource
from napari_tessera.engine.tta import views
from napari_tessera.models.spec import OutputSpec

Run = Callable[[torch.Tensor, torch.nn.Module, Case, Device], None]


def run_passes(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: Device) -> None:
    """Call the network as often as a run does, on windows that are there already."""
    n_windows = WindowGrid.regular(case.shape, case.window, case.overlap).n_windows
    batch = min(case.sw_batch_size, n_windows)
    windows = torch.randn(batch, 1, *case.window, device=device.torch_device)
    full, rest = divmod(n_windows, batch)
    with torch.inference_mode():
        for _ in range(case.tta_num):
            for n in [batch] * full + [rest] * (rest > 0):
                network(windows[:n])
    if device.torch_device.type == "cuda":
        torch.cuda.synchronize()


def run_tessera(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: Device) -> None:
    """Run Tessera's engine with arg-max on the device."""
    sweep = Sweep(
        WindowGrid.regular(case.shape, case.window, case.overlap),
        case.classes,
        IntensityMap.identity(1),
        sw_batch_size=case.sw_batch_size,
        views=views(case.tta_num, 3),
    )
    sink = ArraySink.empty((1, *case.shape), np.uint8)
    decoder = get_decoder("argmax")
    passes = run_sweep(
        network,
        ArraySource(volume.numpy()),
        sweep,
        device=device,
        reduce=lambda planes: decoder.reduce(planes, OutputSpec()),
        sink=sink,
    )
    n_windows = sweep.grid.n_windows
    assert passes == count_forward_passes(n_windows, sw_batch_size=case.sw_batch_size, n_views=case.tta_num)


def run_monai(
    volume: torch.Tensor, network: torch.nn.Module, case: Case, device: Device, buffer_steps: int | None = None
) -> None:
    """Run MONAI's sliding window inference, views one after another, then arg-max."""
    from monai.inferers import sliding_window_inference

    total: torch.Tensor | None = None
    with torch.inference_mode():
        for view in views(case.tta_num, 3):
            logits = sliding_window_inference(
                view.apply(volume[None, None]),
                case.window,
                case.sw_batch_size,
                network,
                overlap=case.overlap,
                mode="gaussian",
                sw_device=device.torch_device,
                device=torch.device("cpu") if buffer_steps else device.torch_device,
                buffer_steps=buffer_steps,
                buffer_dim=0 if buffer_steps else -1,
            )
            back = view.undo(logits)
            total = back if total is None else total.add_(back)
        assert total is not None
        total.argmax(1).to(torch.uint8).cpu()


ENGINES: dict[str, Run] = {
    "passes": run_passes,
    "tessera": run_tessera,
    "monai": run_monai,
    "monai-buffered": lambda volume, network, case, device: run_monai(volume, network, case, device, 1),
}


def resident_bytes() -> int:
    """Return the highest resident memory of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Run once to warm up on a small volume, then once for the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    case, device = CASES[options.case], open_device(options.device)
    network, volume = case.build_network().to(device.torch_device), case.build_volume()
    small = Case(case.window, case.window, case.classes, case.network, 1)
    ENGINES[options.engine](small.build_volume(), network, small, device)
    device.start_peak()
    before, began = resident_bytes(), time.perf_counter()
    ENGINES[options.engine](volume, network, case, device)
    seconds = time.perf_counter() - began
    record = {
        "engine": options.engine,
        "case": options.case,
        "seconds": seconds,
        "extra_bytes": resident_bytes() - before,
        "device_peak_bytes": device.peak_bytes(),
        "device": device.name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
