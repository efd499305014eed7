"""The loop: read windows, call the network on every view, stitch, hand finished planes to the sink.

Memory that runs out costs one pass: its windows are run again with half the batch, and nothing of a failed pass has
been stitched, so the result does not change.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from napari_tessera.engine.blend import importance_map
from napari_tessera.engine.device import Device, autocast
from napari_tessera.engine.events import (
    EventHandler,
    MemoryRecovered,
    PassFinished,
    PlanesFinished,
    raise_if_cancelled,
)
from napari_tessera.engine.grid import WindowGrid, count_forward_passes
from napari_tessera.engine.settings import Blend, Precision
from napari_tessera.engine.source import ArraySource, PlaneCache, Region, Source
from napari_tessera.engine.stitch import SlabStitcher
from napari_tessera.engine.tta import View, ViewAverage
from napari_tessera.errors import ModelError, OutOfMemoryError, TesseraError
from napari_tessera.units import format_bytes

if TYPE_CHECKING:
    from napari_tessera.engine.intensity import IntensityMap
    from napari_tessera.engine.sink import Sink

__all__ = ["Sweep", "run_sweep"]

Network = Callable[[torch.Tensor], Any]
Reduce = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Sweep:
    """Everything that one volume's run is determined by, apart from the network and the image.

    Parameters
    ----------
    grid
        Where the windows lie.
    out_channels
        Channels of the network's output.
    sw_batch_size
        Windows per forward pass.
    views
        TTA views, the identity first.
    offsets
        Offsets of affinity channels, in voxels; empty where channels have no direction.
    blend, precision
        See `Settings`.
    intensity
        From the image's values to the network's.
    """

    grid: WindowGrid
    out_channels: int
    intensity: IntensityMap
    sw_batch_size: int = 1
    views: tuple[View, ...] = (View(),)
    offsets: tuple[tuple[int, ...], ...] = ()
    blend: Blend = Blend.GAUSSIAN
    precision: Precision = Precision.FLOAT32

    @cached_property
    def forward_passes(self) -> int:
        """Calls of the network, if memory never runs out."""
        return count_forward_passes(self.grid.n_windows, sw_batch_size=self.sw_batch_size, n_views=len(self.views))


def run_sweep(
    network: Network,
    source: Source,
    sweep: Sweep,
    *,
    device: Device,
    reduce: Reduce,
    sink: Sink,
    volume: int = 0,
    on_event: EventHandler | None = None,
    cancel: threading.Event | None = None,
) -> int:
    """Run the network over one volume and return the number of forward passes that succeeded.

    Parameters
    ----------
    network
        Called with float32 (B, C, *window) on the device; gives (B, C', *window), or a tuple, list or dictionary whose
        first tensor is that.
    source
        The image; must have the grid's shape.
    sweep
        What to do.
    device
        Where the network is.
    reduce
        Called on the device with normalised planes, float32 (C', *region); what it gives goes to the sink.
    sink
        Takes the finished planes.
    volume
        Number that the events carry.
    on_event, cancel
        Receives events, on the calling thread; stops the run within one pass.

    Raises
    ------
    CancelledError
        If *cancel* was set; finished planes are in the sink.
    ModelError
        If the network raises (kept as ``__cause__``) or gives an output of another shape.
    OutOfMemoryError
        If memory does not suffice for one window.
    """
    try:
        with autocast(device.torch_device, sweep.precision):
            return _SweepRun(network, source, sweep, device, reduce, sink, volume, on_event, cancel).run()
    except (RuntimeError, MemoryError) as error:
        if not device.is_out_of_memory(error):
            raise
        slab = " x ".join(map(str, sweep.grid.slab_shape(sweep.grid.sweep_axis)))
        raise OutOfMemoryError(
            f"the accumulator of {sweep.out_channels} channels x {slab} voxels, or a buffer beside it, does not fit "
            f"into the memory of {_free_memory(device)}: choose a smaller window_size, or crop the image"
        ) from error


class _SweepRun:
    """The state of one `run_sweep`."""

    def __init__(
        self,
        network: Network,
        source: Source,
        sweep: Sweep,
        device: Device,
        reduce: Reduce,
        sink: Sink,
        volume: int,
        on_event: EventHandler | None,
        cancel: threading.Event | None,
    ) -> None:
        self._network = network
        self._sweep = sweep
        self._grid = sweep.grid
        self._device = device
        self._reduce = reduce
        self._sink = sink
        self._volume = volume
        self._on_event = on_event or (lambda event: None)
        self._cancel = cancel
        cached = isinstance(source, ArraySource) and source.in_memory
        self._source = source if cached else PlaneCache(source, self._grid.sweep_axis)
        self._map_on_host = source.dtype.itemsize >= 4 and source.dtype != np.float32
        self._average = ViewAverage(sweep.views, self._grid.window, sweep.offsets)
        self._done = 0
        self._total = sweep.forward_passes
        self._last = time.perf_counter()

    def run(self) -> int:
        weights = importance_map(self._grid.window, self._sweep.blend, device=self._device.torch_device)
        stitcher = SlabStitcher(self._grid, self._sweep.out_channels, weights, self._hand_on)
        starts = list(self._grid.iter_windows())
        batch = self._sweep.sw_batch_size
        buffer = self._device.host_buffer((min(batch, len(starts)), self._channels, *self._grid.window))
        index = 0
        while index < len(starts):
            taken = starts[index : index + batch]
            # The except block must be left before the retry: the traceback keeps the failed pass's tensors alive.
            failure: BaseException | None = None
            try:
                predictions = self._predict(taken, buffer)
            except (RuntimeError, MemoryError) as error:
                if not self._device.is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)
            if failure is not None:
                batch = self._shrink(len(taken), len(starts) - index, failure)
                continue
            for start, prediction in zip(taken, predictions, strict=True):
                stitcher.add(start, prediction)
            del predictions
            index += len(taken)
        stitcher.finish()
        return self._done

    @property
    def _channels(self) -> int:
        return self._source.shape[0]

    def _predict(self, starts: Sequence[tuple[int, ...]], buffer: torch.Tensor) -> torch.Tensor:
        """Return the mean prediction over all views of the windows at *starts*, float32 (B, C', *window)."""
        windows = self._read(starts, buffer)
        total: torch.Tensor | None = None
        before = self._done
        try:
            for view in self._sweep.views:
                raise_if_cancelled(self._cancel)
                prediction = self._forward(self._seen(windows, view))
                if total is None:
                    # The network's output may be its own buffer (or its input): the sum needs memory of its own.
                    total = prediction if len(self._sweep.views) == 1 else prediction.clone()
                else:
                    self._average.add(total, prediction, view)
                self._report_pass(len(starts))
        except (RuntimeError, MemoryError):
            self._done = before  # the views of an unfinished batch will run again
            raise
        assert total is not None
        return self._average.finish(total)

    def _seen(self, windows: torch.Tensor, view: View) -> torch.Tensor:
        """Return *windows* through *view*, in memory of its own while other views need them.

        A network may write into its input (an in-place activation as the first layer does); a flip is a copy anyway.
        """
        seen = view.apply(windows)
        return seen if view.flips or len(self._sweep.views) == 1 else seen.clone()

    def _report_pass(self, windows: int) -> None:
        self._done += 1
        now = time.perf_counter()
        self._on_event(PassFinished(self._volume, self._done, self._total, windows, now - self._last))
        self._last = now

    def _read(self, starts: Sequence[tuple[int, ...]], buffer: torch.Tensor) -> torch.Tensor:
        """Return the windows at *starts* on the device, in the network's intensities, zero where padded."""
        host = buffer[: len(starts)]
        values = host.numpy()
        for i, start in enumerate(starts):
            self._read_window(start, values[i])
        windows = host.to(self._device.torch_device, copy=True)
        return windows if self._map_on_host else self._sweep.intensity.apply_(windows)

    def _read_window(self, start: Sequence[int], into: Any) -> None:
        inside: list[slice] = []
        outside: list[slice] = []
        for axis, (pad, _), first in zip(self._grid.axes, self._grid.pad_vox, start, strict=True):
            low, high = max(first - pad, 0), min(first - pad + axis.window_vox, axis.image_vox)
            inside.append(slice(low, high))
            outside.append(slice(low + pad - first, high + pad - first))
        if self._grid.is_padded:
            # Padding is zero in the network's intensities: the value that the map takes there is its shift.
            fill = 0.0 if self._map_on_host else np.asarray(self._sweep.intensity.shift, np.float32)
            into[...] = np.reshape(fill, (-1,) + (1,) * len(self._grid.axes))
        values = self._source.read(tuple(inside))
        into[(slice(None), *outside)] = self._sweep.intensity.on_host(values) if self._map_on_host else values

    def _forward(self, windows: torch.Tensor) -> torch.Tensor:
        try:
            output = _first_tensor(self._network(windows))
        except TesseraError:
            raise
        except Exception as error:
            if self._device.is_out_of_memory(error):
                raise
            raise ModelError(
                f"the network failed on an input of shape {tuple(windows.shape)}: "
                f"{type(error).__name__}: {_last_line(error)}"
            ) from error
        expected = (windows.shape[0], self._sweep.out_channels, *self._grid.window)
        if tuple(output.shape) != expected:
            raise ModelError(
                f"the network gave an output of shape {tuple(output.shape)} for an input of shape "
                f"{tuple(windows.shape)}, but {expected} was expected: check out_channels of the model's description"
            )
        return output.float()

    def _shrink(self, failed: int, windows_left: int, error: BaseException) -> int:
        """Return the smaller batch to go on with, after a batch of *failed* windows did not fit."""
        self._device.release_cached()
        if failed == 1:
            raise OutOfMemoryError(
                f"one window of {' x '.join(map(str, self._grid.window))} voxels does not fit into the memory of "
                f"{_free_memory(self._device)}: choose a smaller window_size"
            ) from error
        batch = max(1, failed // 2)
        views = len(self._sweep.views)
        self._total = self._done + count_forward_passes(windows_left, sw_batch_size=batch, n_views=views)
        self._on_event(MemoryRecovered(self._volume, self._done + 1, failed, batch))
        return batch

    def _hand_on(self, region: Region, planes: torch.Tensor) -> None:
        self._sink.write(region, self._reduce(planes).cpu().numpy())
        axis = self._grid.sweep_axis
        self._on_event(PlanesFinished(self._volume, axis, region[axis].start, region[axis].stop))


def _free_memory(device: Device) -> str:
    memory = device.memory()
    return f"{device.name} ({format_bytes(memory.free_bytes)} of {format_bytes(memory.total_bytes)} free)"


def _last_line(error: Exception) -> str:
    """Return what *error* comes down to: TorchScript puts its traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "no more is known"


def _first_tensor(output: Any) -> torch.Tensor:
    """Return the network's output, or the first tensor of a tuple, list or dictionary of them."""
    while not isinstance(output, torch.Tensor):
        if isinstance(output, Mapping):
            output = next(iter(output.values()))
        elif isinstance(output, (list, tuple)) and output:
            output = output[0]
        else:
            raise TypeError(f"the network gave {type(output).__name__}, not a tensor")
    return output
