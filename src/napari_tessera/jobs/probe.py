"""What a network takes, measured before the first run: forward passes over made-up windows, and no image."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from statistics import median
from typing import TYPE_CHECKING

import torch

from napari_tessera.core.errors import CalibrationError, OutOfMemoryError
from napari_tessera.core.settings.views import View
from napari_tessera.core.units import format_bytes
from napari_tessera.engine.devices.choice import open_devices
from napari_tessera.engine.loop.events import raise_if_cancelled
from napari_tessera.engine.loop.forward import Forward, Window
from napari_tessera.engine.loop.window_reader import CHANNELS_LAST
from napari_tessera.engine.stitching.stitch import FLOAT_BYTES
from napari_tessera.memory.allocations import peak_of_allocations
from napari_tessera.memory.trace import weights_bytes

if TYPE_CHECKING:
    from napari_tessera.core.settings.settings import Settings
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.models.model import Model

__all__ = ["measure_peak", "measure_times"]

# A process's first passes are slower than all others, on two cores for 2 s of the bundled network (benchmarks/eta.py).
WARM_UP_ROUNDS = 2


def measure_times(
    model: Model,
    settings: Settings,
    *,
    batches: Sequence[int] = (1, 2),
    repeats: int = 3,
    cancel: threading.Event | None = None,
) -> dict[int, float]:
    """Return the seconds of a forward pass on the first device of *settings*, for each of *batches*, windows per pass.

    Batches take turns; two passes of each warm up, and *repeats* more are timed. What a run does beside its passes
    (reading, stitching, decoding) is not in it. No run may use the model at the same time, and the caller has found
    each batch to fit into memory: larger ones are not tried.
    """
    samples: dict[int, list[float]] = {batch: [] for batch in batches}
    with _ready(model, settings, max(batches)) as (forward, device):
        for number in range(WARM_UP_ROUNDS + repeats):
            for batch in batches:  # in turn, so that a machine that becomes slower does so for all of them
                raise_if_cancelled(cancel)
                seconds = _seconds_of_pass(forward, _shape(model, settings, batch), device)
                if number >= WARM_UP_ROUNDS:
                    samples[batch].append(seconds)
    return {batch: median(seconds) for batch, seconds in samples.items()}


def measure_peak(model: Model, settings: Settings, *, cancel: threading.Event | None = None) -> int | None:
    """Return the most that weights and a pass over ``sw_batch_size`` windows take of the first device, bytes.

    On CUDA as torch's allocator counts it, on the CPU as its allocator reports it to torch's profiler; None on MPS,
    which counts nothing, and during another profile of this thread. Neither a run nor anything else in this program may
    use the device at the same time. Raises `CalibrationError` if the allocator reported less than the windows
    themselves take.
    """
    shape = _shape(model, settings, settings.sw_batch_size)
    with _ready(model, settings, settings.sw_batch_size) as (forward, device):
        raise_if_cancelled(cancel)
        # What the first pass alone makes, such as tables that are kept, is no trait of the passes.
        _seconds_of_pass(forward, shape, device)
        raise_if_cancelled(cancel)
        if device.torch_device.type == "cpu":
            counted = peak_of_allocations(lambda: _seconds_of_pass(forward, shape, device))
            held = weights_bytes(model.network)
        else:
            device.start_peak(model.bytes_on(device.torch_device))
            _seconds_of_pass(forward, shape, device)
            counted, held = device.peak_bytes(), 0
        if counted is None:
            return None
        peak = held + counted
        least = FLOAT_BYTES * prod(shape)
        if peak < least:
            raise CalibrationError(
                f"{format_bytes(peak)} were counted of a pass whose windows alone take {format_bytes(least)}: memory "
                f"cannot be measured with torch {torch.__version__} here"
            )
        return peak


@contextmanager
def _ready(model: Model, settings: Settings, batch: int) -> Iterator[tuple[Forward, Device]]:
    """Lend the network on the first device; *batch* is the largest that will be passed."""
    device = open_devices(settings.device)[0]
    window = _shape(model, settings, batch)[2:]
    try:
        with model.ready_on(device.torch_device) as network, device.running(settings.precision):
            yield Forward(network, model.spec.out_channels, window, device, model.spec.halo), device
    except (RuntimeError, MemoryError) as error:
        if not device.is_out_of_memory(error):
            raise
        free = format_bytes(device.memory().free_bytes)
        raise OutOfMemoryError(
            f"passes over {' x '.join(map(str, window))} voxels, {batch} windows at once, do not fit into the "
            f"memory of {device.name} ({free} free): close other programs, or choose a smaller window_size"
        ) from error.with_traceback(None)  # whose frames keep tensors alive
    finally:
        device.release_cached()


def _shape(model: Model, settings: Settings, batch: int) -> tuple[int, ...]:
    """Return the shape of a pass's input, (B, C, *window)."""
    return (batch, model.spec.in_channels, *(settings.window_size or model.spec.window.default))


def _seconds_of_pass(forward: Forward, shape: tuple[int, ...], device: Device) -> float:
    """Return the seconds of one pass over new windows of *shape*, (B, C, *window): a network may write into them."""
    stream = device.open_stream(main=True)
    tensor = _ramp(shape, device)
    stream.record_event().synchronize()
    began = time.perf_counter()
    output = forward(tensor, [Window((0,) * len(shape[2:]), View())] * shape[0])
    stream.record_event().synchronize()
    output[(0,) * output.dim()].item()  # Apple's events do not wait, but a value that is read has been computed
    return time.perf_counter() - began


def _ramp(shape: tuple[int, ...], device: Device) -> torch.Tensor:
    """Return float32 from 0 to 1 on *device*, laid out as a run lays out its windows."""
    last = CHANNELS_LAST.get(len(shape), torch.contiguous_format)
    memory_format = last if device.channels_last else torch.contiguous_format
    # Not `contiguous`: it takes one channel for laid out either way, and the network's layers then choose the other.
    windows = torch.empty(shape, memory_format=memory_format, device=device.torch_device)
    # Along x alone: nothing as large as the windows may be there beside them while their memory is measured.
    return windows.copy_(torch.linspace(0, 1, shape[-1], device=device.torch_device))
