"""From the device to the sink: finished planes are copied to the host and written while the network computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from napari_tessera.core.errors import OutOfMemoryError

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device, Stream, StreamEvent
    from napari_tessera.engine.sink import Sink
    from napari_tessera.engine.source import Region

# Pieces on their way: one is copied, one written.
MOST_ON_THE_WAY = 2


class PlaneWriter:
    """Takes reduced planes from a stream of the device and writes them to the sink, in order.

    Where the device works beside the host, copies have their own stream and a thread writes; at most two pieces are
    on their way, so a slow sink slows the run down and never fills the memory. Elsewhere they are written at once.
    *on_written* gets the region of each piece that is in the sink, on the thread that calls `put` or `flush`.
    """

    def __init__(self, device: Device, stream: Stream, sink: Sink, on_written: Callable[[Region], None]) -> None:
        self._device, self._stream, self._sink, self._on_written = device, stream, sink, on_written
        self._copying = device.open_stream()
        self._pool: ThreadPoolExecutor | None = None
        self._writing: deque[tuple[Region, Future[None]]] = deque()
        if device.passes_ahead:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="tessera-write")

    def put(self, region: Region, planes: torch.Tensor) -> None:
        """Take *planes*, (C, *region); the tensor must not change afterwards."""
        if self._pool is None or planes.device != self._device.torch_device:
            self.flush()
            self._write_twice(region, planes.cpu())
            self._on_written(region)
            return
        while len(self._writing) >= MOST_ON_THE_WAY:
            self._await_first()
        host = self._device.host_buffer(tuple(planes.shape), planes.dtype, torch.contiguous_format)
        self._copying.wait_event(self._stream.record_event())
        with self._device.use_stream(self._copying):
            host.copy_(planes, non_blocking=True)
        written = self._pool.submit(self._write, region, planes, host, self._copying.record_event())
        self._writing.append((region, written))

    def _write(self, region: Region, planes: torch.Tensor, host: torch.Tensor, copied: StreamEvent) -> None:
        # planes is held until it has been copied: its memory belongs to another stream, which would use it again.
        copied.synchronize()
        self._write_twice(region, host)

    def flush(self) -> None:
        """Wait for all pieces."""
        while self._writing:
            self._await_first()

    def _write_twice(self, region: Region, host: torch.Tensor) -> None:
        """Write, and once more if the sink finds no memory: others may have let go of some since.

        It is not the engine's own lack of memory, which would be answered with smaller pieces of other planes.
        """
        try:
            self._sink.write(region, host.numpy())
        except MemoryError:
            try:
                self._sink.write(region, host.numpy())
            except MemoryError as error:
                limits = " x ".join(f"{part.start}-{part.stop}" for part in region)
                raise OutOfMemoryError(
                    f"the host's memory did not suffice for writing the result of voxels {limits}: close other programs"
                ) from error

    def _await_first(self) -> None:
        region, written = self._writing.popleft()
        written.result()
        self._on_written(region)

    def close(self) -> None:
        """End the thread, after what it has begun."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
