"""Tessera's engine on one case. Only the process that times Tessera may import this: it sets up torch's allocator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from napari_tessera.core.settings.choices import Precision
from napari_tessera.core.settings.views import views
from napari_tessera.decode import get_decoder
from napari_tessera.engine.devices.choice import open_device
from napari_tessera.engine.devices.cpu import ask_for_huge_pages
from napari_tessera.engine.geometry.grid import WindowGrid, count_forward_passes
from napari_tessera.engine.intensity import Identity
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.sweep import Sweep
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.engine.sink import ArraySink, Reduction
from napari_tessera.engine.source import ArraySource
from napari_tessera.models.spec.spec import OutputSpec

if TYPE_CHECKING:
    import torch
    from cases import Case

ask_for_huge_pages()

__all__ = ["argmax_reduction", "run", "run_passes", "sweep_of"]


def sweep_of(case: Case, **changes: Any) -> Sweep:
    """Return the sweep that a case stands for, with some knobs changed."""
    knobs = {
        "sw_batch_size": case.sw_batch_size,
        "views": views(case.tta_num, 3),
        "precision": Precision(case.precision),
    }
    grid = WindowGrid.regular(case.shape, case.window, case.overlap)
    return Sweep(grid, case.classes, Identity(), **{**knobs, **changes})


def argmax_reduction() -> Reduction:
    """Return the arg-max that labels are made with."""
    decoder = get_decoder("argmax")
    return Reduction(lambda planes: decoder.reduce(planes, OutputSpec()), normalised=False)


def run_passes(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Call the network as often as a run does, the way Tessera calls it: what is left of a run is the engine's own."""
    import torch

    opened = open_device(str(device))
    sweep = sweep_of(case)
    layout = torch.channels_last_3d if opened.channels_last else torch.contiguous_format
    full, rest = divmod(sweep.grid.n_windows, case.sw_batch_size)
    windows = torch.empty((case.sw_batch_size, 1, *case.window), device=device, memory_format=layout).normal_()
    with opened.running(sweep.precision):
        for _ in range(case.tta_num):
            for n in [case.sw_batch_size] * full + [rest] * (rest > 0):
                network(windows[:n])


def run(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Run Tessera's engine with arg-max on the device."""
    sweep = sweep_of(case)
    passes = run_sweep(
        [Worker(open_device(str(device)), network)],
        ArraySource(volume.numpy()),
        sweep,
        reduction=argmax_reduction(),
        sink=ArraySink.empty((1, *case.shape), np.uint8),
    )
    n_windows = sweep.grid.n_windows
    assert passes == count_forward_passes(n_windows, sw_batch_size=case.sw_batch_size, n_views=case.tta_num)
