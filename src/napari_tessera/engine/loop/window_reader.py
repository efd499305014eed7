"""From the image to the device: windows read ahead into host memory, copied while the network computes.

Three things happen at once where the device allows: a thread reads batch n + 2, the copy stream takes batch n + 1 to
the device, and the network computes batch n. The buffers go round, so a reader that is faster waits; nothing piles up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import cycle
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from napari_tessera.engine.geometry.grid import PadMode
from napari_tessera.engine.intensity import on_host
from napari_tessera.engine.source import PlaneCache, Source

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device, Stream, StreamEvent
    from napari_tessera.engine.geometry.grid import Block, WindowGrid
    from napari_tessera.engine.intensity import Intensity
    from napari_tessera.engine.loop.forward import Window

# By the number of axes, batch and channels included.
CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_NUMPY_MODES: dict[PadMode, Any] = {
    PadMode.REFLECT: "reflect",
    PadMode.REPLICATE: "edge",
    PadMode.CIRCULAR: "wrap",
}


class WindowReader:
    """Reads the windows of *block*, (C, *window), padded where the image is smaller, into host memory."""

    def __init__(self, source: Source, grid: WindowGrid, intensity: Intensity, block: Block) -> None:
        self._source = source if source.in_memory else PlaneCache(source, grid.sweep_axis, grid.reach(block))
        self._grid, self._intensity = grid, intensity
        # Beyond the image a halo sees what a window further in would: nothing that looks like an edge.
        # None: it is filled with a number.
        self._mode: Any = "symmetric" if any(grid.halo) else _NUMPY_MODES.get(grid.padding.mode)
        # float32 holds whole numbers of 16 bits; wider ones are mapped before they are rounded.
        self.maps_on_host = source.dtype.itemsize >= 4 and source.dtype != np.float32
        self.shape = (source.shape[0], *grid.window)

    def read(self, windows: Sequence[Window], into: torch.Tensor) -> None:
        """Fill *into*, (B, C, *window) on the host."""
        values = into.numpy()
        for place, window in enumerate(windows):
            self._read_window(window.start, values[place])

    def _read_window(self, start: Sequence[int], into: Any) -> None:
        of_image, of_window = self._covered(start)
        if self._mode is not None and self._grid.is_padded:
            values = self._source.read(of_image)
            values = on_host(self._intensity, values) if self.maps_on_host else values
            beyond = [(part.start, side - part.stop) for part, side in zip(of_window, into.shape[1:], strict=True)]
            into[...] = np.pad(values, [(0, 0), *beyond], mode=self._mode)
            return
        if self._grid.is_padded:
            into[...] = self._grid.padding.value
        values = self._source.read(of_image)
        into[(slice(None), *of_window)] = on_host(self._intensity, values) if self.maps_on_host else values

    def _covered(self, start: Sequence[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Return which part of the image a window has, and which part of the window that is; the rest is padding."""
        of_image: list[slice] = []
        of_window: list[slice] = []
        for axis, (pad, _), first in zip(self._grid.axes, self._grid.pad_vox, start, strict=True):
            low, high = max(first - pad, 0), min(first - pad + axis.window_vox, axis.image_vox)
            of_image.append(slice(low, high))
            of_window.append(slice(low + pad - first, high + pad - first))
        return tuple(of_image), tuple(of_window)

    def finish(self, values: torch.Tensor, windows: Sequence[Window]) -> torch.Tensor:
        """Bring *values*, (B, C, *window) on the device, which are of *windows*, to the network's, in place."""
        if self.maps_on_host:
            return values
        mapped = self._intensity.apply_(values)
        if self._grid.is_padded and self._mode is None and not self._intensity.is_identity:
            # Padding is a number of the network's intensities, and there may be no value that the map brings there.
            for place, window in enumerate(windows):
                _fill_outside(mapped[place], self._covered(window.start)[1], self._grid.padding.value)
        return mapped


def _fill_outside(values: torch.Tensor, covered: Sequence[slice], value: float) -> None:
    """Make *value* of what of *values*, (C, *window), lies outside the part that is *covered*."""
    for axis, part in enumerate(covered, start=1):
        values.narrow(axis, 0, part.start).fill_(value)
        values.narrow(axis, part.stop, values.shape[axis] - part.stop).fill_(value)


class _Slot:
    """One batch's memory, on the host and on the device; the same where the device is the host."""

    def __init__(self, shape: tuple[int, ...], device: Device) -> None:
        last = CHANNELS_LAST.get(len(shape), torch.contiguous_format)
        memory_format = last if device.channels_last else torch.contiguous_format
        self.host = device.host_buffer(shape, torch.float32, memory_format)
        same = device.torch_device == self.host.device
        self.device = self.host if same else torch.empty_like(self.host, device=device.torch_device)
        self.copied: StreamEvent | None = None
        self.used: StreamEvent | None = None


class WindowPrefetcher:
    """Takes batches of windows to the device, reading ahead; on exit its thread has ended and its memory is free.

    *values* are those of the present batch, (B, C, *window), float32 on the device, for use in *stream*. A thread reads
    so many batches ahead as *read_ahead*; 0: they are read when asked for, on the thread that asks.
    """

    def __init__(
        self,
        reader: WindowReader,
        windows: Sequence[Window],
        batch: int,
        *,
        device: Device,
        stream: Stream,
        read_ahead: int,
    ) -> None:
        self._reader, self._device, self._stream = reader, device, stream
        self._copying = device.open_stream()
        # New memory may still be read by work of the stream that had it before.
        self._copying.wait_event(stream.record_event())
        self._batches = [windows[at : at + batch] for at in range(0, len(windows), batch)]
        shape = (min(batch, len(windows)), *reader.shape)
        self._slots = [_Slot(shape, device) for _ in range(min(read_ahead, len(self._batches) - 1) + 1)]
        self._pool: ThreadPoolExecutor | None = None
        if len(self._slots) > 1:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="tessera-read")
        self.values = torch.empty(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._slots.clear()
        self.values = torch.empty(0)

    def __iter__(self) -> Iterator[Sequence[Window]]:
        """Yield the windows of each batch; `values` are then theirs, until the next is asked for."""
        waiting = deque(zip(self._batches, cycle(self._slots), strict=False))
        ahead: deque[tuple[Sequence[Window], _Slot, Future[None] | None]] = deque()
        while waiting or ahead:
            while waiting and len(ahead) < len(self._slots):  # the slot that the caller has just given back is the next
                windows, slot = waiting.popleft()
                done = None if self._pool is None else self._pool.submit(self._read, windows, slot)
                ahead.append((windows, slot, done))
            windows, slot, done = ahead.popleft()
            if done is None:
                self._read(windows, slot)
            else:
                done.result()
            self.values = self._copy_to_device(windows, slot)
            yield windows

    def _read(self, windows: Sequence[Window], slot: _Slot) -> None:
        if slot.copied is not None:
            slot.copied.synchronize()
        self._reader.read(windows, slot.host[: len(windows)])

    def _copy_to_device(self, windows: Sequence[Window], slot: _Slot) -> torch.Tensor:
        """Copy a batch to the device, once its place there is free; the stream that uses it waits for the copy."""
        there = slot.device[: len(windows)]
        if slot.device is not slot.host:
            if slot.used is not None:
                self._copying.wait_event(slot.used)
            with self._device.use_stream(self._copying):
                there.copy_(slot.host[: len(windows)], non_blocking=True)
            slot.copied = self._copying.record_event()
            self._stream.wait_event(slot.copied)
        return self._reader.finish(there, windows)

    def used(self) -> None:
        """Record that all batches yielded until now have been used; call it before the next is asked for."""
        event = self._stream.record_event()
        for slot in self._slots:
            slot.used = event
