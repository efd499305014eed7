"""One way to run the engine, with every knob of it, for all tests of the engine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from napari_tessera.core.settings.views import views
from napari_tessera.engine.devices.cpu import CpuDevice
from napari_tessera.engine.geometry.grid import WindowGrid
from napari_tessera.engine.intensity import Identity
from napari_tessera.engine.loop.events import Event, PassFinished
from napari_tessera.engine.loop.parallel import Worker
from napari_tessera.engine.loop.sweep import Sweep
from napari_tessera.engine.loop.sweep_run import run_sweep
from napari_tessera.engine.sink import ArraySink, Reduction
from napari_tessera.engine.source import ArraySource

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device

Array = npt.NDArray[Any]


class Beside(CpuDevice):
    """A CPU that the engine takes for a device of its own: it reads ahead, writes behind and has a host beside it."""

    shares_host_memory = False
    read_ahead = 2
    passes_ahead = 2


@dataclass
class EngineRun:
    """What came of a run: the array, the events, and the passes that were counted and planned."""

    array: Array
    sweep: Sweep
    events: list[Event] = field(default_factory=list)

    @property
    def passes(self) -> list[PassFinished]:
        return [event for event in self.events if isinstance(event, PassFinished)]


def run_engine(
    network: Callable[[torch.Tensor], Any],
    volume: Any,
    window: tuple[int, ...],
    *,
    overlap: float = 0.5,
    channels: int = 3,
    tta_num: int = 1,
    devices: tuple[Device, ...] = (CpuDevice(),),
    reduction: Reduction | None = None,
    into: Array | None = None,
    on_event: Callable[[Event], None] | None = None,
    cancel: threading.Event | None = None,
    channel_axis: int | None = None,
    grid: WindowGrid | None = None,
    **knobs: Any,
) -> EngineRun:
    source = ArraySource(volume, channel_axis=channel_axis)
    _, *shape = source.shape
    sweep = Sweep(
        grid or WindowGrid.regular(shape, window, overlap),
        channels,
        Identity(),
        views=views(tta_num, len(shape)),
        **{"sw_batch_size": 3, **knobs},
    )
    array = np.zeros((channels, *shape), np.float32) if into is None else into
    result = EngineRun(array, sweep)

    def observe(event: Event) -> None:
        result.events.append(event)
        if on_event is not None:
            on_event(event)

    run_sweep(
        [Worker(device, network) for device in devices],
        source,
        sweep,
        reduction=reduction or Reduction(lambda planes: planes),
        sink=ArraySink(array),
        on_event=observe,
        cancel=cancel,
    )
    return result


@pytest.fixture(name="run_engine", scope="session")
def run_engine_fixture() -> Callable[..., EngineRun]:
    return run_engine


@pytest.fixture(scope="session")
def beside() -> Callable[[], Device]:
    """Make a device that reads ahead, writes behind and has a host beside it."""
    return Beside


@pytest.fixture(scope="session")
def convolution() -> Callable[..., torch.nn.Module]:
    """Make a small network with fixed weights."""

    def make(dims: int = 3, in_channels: int = 1, out_channels: int = 3) -> torch.nn.Module:
        torch.manual_seed(1)
        kind = torch.nn.Conv2d if dims == 2 else torch.nn.Conv3d
        return torch.nn.Sequential(kind(in_channels, 4, 3, padding=1), torch.nn.ReLU(), kind(4, out_channels, 1))

    return make


@pytest.fixture(scope="session")
def volume_of() -> Callable[..., npt.NDArray[np.float32]]:
    """Make a volume of fixed random values."""

    def make(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    return make


def float16_error_bound(coverage: int, largest: float, smallest_weight: float = 1e-3) -> float:
    """Return how far an average summed in float16 can be from the exact one.

    Each of *coverage* additions rounds a sum that is at most the total weight times the *largest* magnitude among the
    predictions: 2^-11 of it, or 2^-25 below the normal range of float16, which counts against a total weight of at
    least *smallest_weight*: the floor of the importance map times `float16_scale`. Holds for predictions up to 8188.
    """
    return coverage * (2**-11 * largest + 2**-25 / smallest_weight)
