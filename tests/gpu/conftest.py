"""One way to run the engine on CUDA and, for comparison, on the CPU. Needs torch and numpy alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture
def device() -> Any:
    from napari_tessera.engine.devices.choice import open_device

    return open_device("cuda")


@pytest.fixture
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(1, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv3d(16, 3, 3, padding=1)
    return torch.nn.Sequential(*layers).eval()


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(60, 90, 75)).astype(np.float32)


@pytest.fixture
def run() -> Callable[..., tuple[np.ndarray, list[Any]]]:
    """Run a network over a volume; the result and the events."""
    from napari_tessera.core.settings.views import views
    from napari_tessera.engine.geometry.grid import WindowGrid
    from napari_tessera.engine.intensity import Identity
    from napari_tessera.engine.loop.parallel import Worker
    from napari_tessera.engine.loop.sweep import Sweep
    from napari_tessera.engine.loop.sweep_run import run_sweep
    from napari_tessera.engine.sink import ArraySink, Reduction
    from napari_tessera.engine.source import ArraySource

    def run(
        network: Any,
        volume: Any,
        window: tuple[int, ...],
        *devices: Any,
        overlap: float = 0.5,
        channels: int = 3,
        tta_num: int = 1,
        reduction: Any = None,
        into: Any = None,
        on_event: Any = None,
        cancel: Any = None,
        **knobs: Any,
    ) -> tuple[np.ndarray, list[Any]]:
        sweep = Sweep(
            WindowGrid.regular(volume.shape, window, overlap),
            channels,
            Identity(),
            views=views(tta_num, len(volume.shape)),
            **{"sw_batch_size": 4, **knobs},
        )
        array = np.zeros((channels, *volume.shape), np.float32) if into is None else into
        events: list[Any] = []

        def observe(event: Any) -> None:
            events.append(event)
            if on_event is not None:
                on_event(event)

        networks = network if isinstance(network, list) else [network] * len(devices)
        run_sweep(
            [Worker(device, net) for device, net in zip(devices, networks, strict=True)],
            ArraySource(volume),
            sweep,
            reduction=reduction or Reduction(lambda planes: planes),
            sink=ArraySink(array),
            on_event=observe,
            cancel=cancel,
        )
        return array, events

    return run


@pytest.fixture(autouse=True)
def memory_returns_to_its_start() -> Iterator[None]:
    """Fail a test after which torch holds more of the device's memory than before; skip where there is no device."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    # Libraries keep a workspace from their first use on: let them have it before.
    torch.nn.functional.conv3d(torch.ones(1, 1, 8, 8, 8, device="cuda"), torch.ones(1, 1, 3, 3, 3, device="cuda"))
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    yield
    gc.collect()
    assert torch.cuda.memory_allocated() <= before
