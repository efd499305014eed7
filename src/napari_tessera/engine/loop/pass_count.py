"""Counting forward passes: how many are done, how many are on their way, and whether to go on."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from napari_tessera.engine.loop.events import EventHandler, PassFinished, raise_if_cancelled

if TYPE_CHECKING:
    from napari_tessera.engine.devices.protocol import Device, Stream, StreamEvent


class Passes:
    """Lets a bounded number of passes be on their way, and reports each when it is done.

    Without the bound, Python would issue passes much faster than a device computes them, and a cancel would wait for
    all of them.
    """

    def __init__(
        self,
        device: Device,
        stream: Stream,
        volume: int,
        notify: EventHandler,
        cancel: threading.Event | None,
    ) -> None:
        self._stream, self._ahead = stream, device.passes_ahead
        self._volume, self._notify, self._cancel = volume, notify, cancel
        self._on_the_way: deque[tuple[StreamEvent, int]] = deque()
        self._last = time.perf_counter()
        self.done, self.total = 0, 0

    def raise_if_cancelled(self) -> None:
        """Raise `CancelledError` once the run is to stop; called before every pass."""
        raise_if_cancelled(self._cancel)

    def issued(self, windows: int) -> None:
        """Take note of a pass over *windows* windows; waits for earlier ones where too many are on their way."""
        self._on_the_way.append((self._stream.record_event(), windows))
        while len(self._on_the_way) > self._ahead:
            self._await_first()

    def settle(self) -> None:
        """Wait for all passes that have been issued."""
        while self._on_the_way:
            self._await_first()

    def _await_first(self) -> None:
        event, windows = self._on_the_way.popleft()
        event.synchronize()
        self.done += 1
        now = time.perf_counter()
        self._notify(PassFinished(self._volume, self.done, self.total, windows, now - self._last))
        self._last = now
