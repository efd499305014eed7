"""Tessera's engine on one case. Only the process that times Tessera may import this: it sets up torch's allocator."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np

from napari_tessera.decode import get_decoder
from napari_tessera.engine.device import Device, open_device
from napari_tessera.engine.grid import WindowGrid, count_forward_passes
from napari_tessera.engine.intensity import IntensityMap
from napari_tessera.engine.run import Sweep, run_sweep
from napari_tessera.engine.settings import Precision
from napari_tessera.engine.sink import ArraySink
from napari_tessera.engine.source import ArraySource
from napari_tessera.engine.tta import views
from napari_tessera.models.spec import OutputSpec

if TYPE_CHECKING:
    import torch
    from cases import Case


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


def run(volume: torch.Tensor, network: torch.nn.Module, case: Case, device: torch.device) -> None:
    """Run Tessera in the case's precision, which `run_tessera` leaves to the sweep's default."""
    in_precision = partial(Sweep, precision=Precision(case.precision))
    with mock.patch.object(sys.modules[__name__], "Sweep", in_precision):
        run_tessera(volume, network, case, open_device(str(device)))
