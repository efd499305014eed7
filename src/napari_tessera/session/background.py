"""Work on threads, answers on the thread that owns the session. No Qt: whoever owns it calls `drain` now and then."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from psygnal import Signal

Answer = TypeVar("Answer")

# A drain that finds more than it can do in this time leaves the rest to the next one: the viewer has a frame to draw.
DRAIN_SECONDS = 0.008


class Background:
    """Runs functions on threads of their own and hands what they say to the owner's thread.

    A plain thread and a queue, since a generator under napari's ``thread_worker`` that raises RuntimeError (as torch
    does when memory runs out) never finishes.
    """

    started = Signal()
    """Emitted on the owner's thread when there is something to drain from now on."""
    drained = Signal()
    """Emitted on the owner's thread after each drain that ran something."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._closed = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a thread is at work or something waits to be drained."""
        return bool(self._threads) or not self._calls.empty()

    def submit(
        self,
        work: Callable[[], Answer],
        done: Callable[[Answer], None],
        failed: Callable[[Exception], None],
        *,
        name: str,
    ) -> None:
        """Run *work* on a thread named *name*; then, on the owner's thread, *done* or *failed* with its answer."""

        def answer() -> None:
            call: Callable[[], None]
            try:
                value = work()
                call = lambda: done(value)  # noqa: E731
            except Exception as error:  # whatever it is, the person at the screen must hear of it
                caught = error
                call = lambda: failed(caught)  # noqa: E731
            self.post(call)
            self.post(lambda: self._threads.discard(thread))

        # A daemon: a forward pass cannot be interrupted, and must not keep the process from ending.
        thread = threading.Thread(target=answer, name=f"tessera-{name}", daemon=True)
        self._threads.add(thread)
        thread.start()
        self.started.emit()

    def post(self, call: Callable[[], Any]) -> None:
        """Have *call* run on the owner's thread at the next drain; from any thread. Nothing runs after `close`."""
        if not self._closed.is_set():
            self._calls.put(call)

    def drain(self, seconds: float = DRAIN_SECONDS) -> None:
        """Run what has been posted, for about *seconds* at most. To be called on the owner's thread."""
        if self._calls.empty():
            return
        until = time.perf_counter() + seconds
        while not self._calls.empty() and time.perf_counter() < until:
            self._calls.get()()
        self.drained.emit()

    def close(self, timeout_s: float) -> bool:
        """Drop what has been posted, wait for the threads, and return whether all of them ended in time."""
        self._closed.set()
        until = time.perf_counter() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.perf_counter()))
        ended = not any(thread.is_alive() for thread in self._threads)
        self._threads.clear()
        while not self._calls.empty():
            self._calls.get()
        return ended
