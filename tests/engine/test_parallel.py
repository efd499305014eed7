"""Several devices: the first error ends all of them, and a cancel reaches all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from tests.refusals import raises

from napari_tessera.core.errors import CancelledError, ModelError
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.geometry.blocks import split_blocks
from napari_tessera.engine.geometry.grid import Block, WindowGrid
from napari_tessera.engine.loop.events import CancelToken, Event, PassFinished

if TYPE_CHECKING:
    import numpy as np
    import torch

Make = Callable[..., Any]


@pytest.fixture
def volume(volume_of: Make) -> np.ndarray:
    return volume_of(64, 12, 12)


def split(volume: np.ndarray, devices: int) -> tuple[Block, ...]:
    grid = WindowGrid.regular(volume.shape, (8, 8, 8), 0.5)
    return split_blocks(grid, (grid.whole,), devices)


def test_the_first_error_ends_all_devices(run_engine: Make, volume: np.ndarray) -> None:
    calls = 0

    def network(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise ValueError("broken")
        if calls > 5:
            time.sleep(0.2)  # a pass that takes longer than an error on its way through another thread
        return x

    with raises(ModelError, "broken"):
        run_engine(
            network,
            volume,
            (8, 8, 8),
            channels=1,
            devices=(CpuDevice(), CpuDevice()),
            blocks=split(volume, 2),
            sw_batch_size=1,
        )
    # the layout is asked for once more by the device that failed in its first pass; the others stop within a pass
    assert calls <= 5 + 3
    assert not [t for t in threading.enumerate() if t.name.startswith("tessera")]


def test_a_cancel_reaches_all_devices(run_engine: Make, volume: np.ndarray) -> None:
    cancel = CancelToken()

    def on_event(event: Event) -> None:
        assert threading.current_thread() is threading.main_thread()
        if isinstance(event, PassFinished) and event.done == 3:
            cancel.cancel()

    calls = 0

    def network(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls > 6:  # the caller hears of the first passes a little later
            cancel.wait(30)
        return x

    with pytest.raises(CancelledError):
        run_engine(
            network,
            volume,
            (8, 8, 8),
            channels=1,
            devices=(CpuDevice(), CpuDevice(), CpuDevice()),
            blocks=split(volume, 3),
            sw_batch_size=1,
            cancel=cancel,
            on_event=on_event,
        )


def test_an_error_of_the_handler_ends_the_run(run_engine: Make, volume: np.ndarray) -> None:
    def on_event(event: Event) -> None:
        raise KeyError("handler")

    with raises(KeyError, "handler"):
        run_engine(
            lambda x: x,
            volume,
            (8, 8, 8),
            channels=1,
            devices=(CpuDevice(), CpuDevice()),
            blocks=split(volume, 2),
            on_event=on_event,
        )
    assert not [t for t in threading.enumerate() if t.name.startswith("tessera")]
