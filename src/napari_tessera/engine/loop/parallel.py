"""Several devices of one machine: the blocks of a volume are assigned to them, and each runs its own loop.

A block is stitched by one device from all windows that touch it, so it does not matter which one that is, and devices
exchange nothing but the next number. Each has a thread of its own, as torch needs one to wait in.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from napari_tessera.core.errors import CancelledError
from napari_tessera.engine.loop.events import Event, EventHandler, PassFinished
from napari_tessera.engine.source import SourceView

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device
    from napari_tessera.engine.geometry.grid import Block
    from napari_tessera.engine.loop.forward import Network
    from napari_tessera.engine.loop.sweep import Sweep
    from napari_tessera.engine.sink import Sink
    from napari_tessera.engine.source import Region, Source


@dataclass(frozen=True, slots=True)
class Worker:
    """A device and the network that lies on it."""

    device: Device
    network: Network


def run_together(
    run: Callable[..., int],
    workers: Sequence[Worker],
    source: Source,
    sweep: Sweep,
    sink: Sink,
    notify: EventHandler,
    cancel: threading.Event | None,
) -> int:
    """Have each of *workers* *run* the blocks that it is assigned, on its own thread, and return the passes of all."""
    shared = _Shared(sweep, cancel)
    run = partial(run, source=_LockedSource(source), sweep=sweep, sink=_LockedSink(sink), cancel=shared.stop)
    with (
        # Arithmetic is switched for the whole process: no worker that ends may switch it back under the others.
        workers[0].device.running(sweep.precision),
        ThreadPoolExecutor(len(workers), thread_name_prefix="tessera-device") as pool,
    ):
        futures = [pool.submit(shared.work, number, partial(run, [worker])) for number, worker in enumerate(workers)]
        shared.pass_on(len(workers), notify)
    errors = [error for future in futures if (error := future.exception()) is not None]
    if errors:
        # The one that stopped the others, not their cancellation.
        raise next((error for error in errors if not isinstance(error, CancelledError)), errors[0])
    return sum(future.result() for future in futures)


class _Stop(threading.Event):
    """Set by the first device that fails; also set when the user's own token is."""

    def __init__(self, cancel: threading.Event | None) -> None:
        super().__init__()
        self._cancel = cancel

    def is_set(self) -> bool:
        return super().is_set() or (self._cancel is not None and self._cancel.is_set())


class _Shared:
    """What the devices of one run share: the blocks that are left, the count of passes, and the way to the caller."""

    def __init__(self, sweep: Sweep, cancel: threading.Event | None) -> None:
        self.stop = _Stop(cancel)
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        self._sweep = sweep
        self._blocks = deque(sweep.all_blocks)
        self._passes: dict[int, tuple[int, int]] = {}  # done and total, of the blocks that a device has taken
        self._not_taken = sweep.forward_passes
        self._lock = threading.Lock()

    def work(self, device: int, run: Callable[..., int]) -> int:
        """Run the blocks that device number *device* is assigned, on its own thread."""
        try:
            return run(on_event=partial(self.tell, device), assigned=self.assign(device))
        except BaseException:
            self.stop.set()
            raise
        finally:
            self.events.put(None)

    def pass_on(self, devices: int, notify: EventHandler) -> None:
        """Give the events of all devices to *notify*, on this thread, until all of them have ended."""
        try:
            while devices:
                event = self.events.get()
                if event is None:
                    devices -= 1
                else:
                    notify(event)
        except BaseException:
            self.stop.set()
            raise

    def assign(self, device: int) -> Iterator[Block]:
        """Yield the next block whenever a device asks for it."""
        while True:
            with self._lock:
                if not self._blocks:
                    return
                block = self._blocks.popleft()
                passes = self._sweep.passes_of(block)
                done, total = self._passes.get(device, (0, 0))
                self._not_taken, self._passes[device] = self._not_taken - passes, (done, total + passes)
            yield block

    def tell(self, device: int, event: Event) -> None:
        """Pass an event of a device on; passes are counted over all of them."""
        if not isinstance(event, PassFinished):
            self.events.put(event)
            return
        with self._lock:
            self._passes[device] = event.done, event.total
            done = sum(done for done, _ in self._passes.values())
            total = self._not_taken + sum(total for _, total in self._passes.values())
            self.events.put(replace(event, done=done, total=total))


class _LockedSource(SourceView):
    """A source that one thread reads at a time: file formats and lazy arrays seldom promise more."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._lock = threading.Lock()

    @property
    def in_memory(self) -> bool:
        return self.source.in_memory

    def read(self, region: Region) -> npt.NDArray[Any]:
        with self._lock:
            return self.source.read(region)


class _LockedSink:
    """A sink that one thread writes at a time."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._lock = sink, threading.Lock()

    def write(self, region: Region, planes: npt.NDArray[Any]) -> None:
        with self._lock:
            self._sink.write(region, planes)
