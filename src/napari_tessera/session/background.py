"""Work on threads, answers on the thread that owns the session; and plans, of which only the latest counts. No Qt."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from psygnal import Signal

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.session.task import Task

Answer = TypeVar("Answer")
Deliver = Callable[["Plan | Exception"], None]

# A delivery that finds more than it can do in this time leaves the rest to the next: the viewer has a frame to draw.
DELIVERY_SECONDS = 0.008
# A frame of a 60 Hz screen: a plan that takes longer does not belong on the owner's thread.
AT_ONCE_SECONDS = 0.016


class Background:
    """Runs functions on threads of their own; whoever owns it calls `deliver` now and then to hear what they say.

    A plain thread and a queue, since a generator under napari's ``thread_worker`` that raises RuntimeError (as torch
    does when memory runs out) never finishes.
    """

    started = Signal()
    """Emitted on the owner's thread when there is something to deliver from now on."""
    delivered = Signal()
    """Emitted on the owner's thread after each delivery that ran something."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._closed = threading.Event()

    @property
    def busy(self) -> bool:
        """Whether a thread is at work or something waits to be delivered."""
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
        """Have *call* run on the owner's thread at the next delivery; from any thread. Nothing runs after `close`."""
        if not self._closed.is_set():
            self._calls.put(call)

    def deliver(self, seconds: float = DELIVERY_SECONDS) -> None:
        """Run what has been posted, for about *seconds* at most. To be called on the owner's thread."""
        if self._calls.empty():
            return
        until = time.perf_counter() + seconds
        while not self._calls.empty() and time.perf_counter() < until:
            self._calls.get()()
        self.delivered.emit()

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


class Planner:
    """Plans at once where the network has been traced, else on a thread, one task at a time.

    *deliver* is called on the owner's thread with the plan of the latest request, or with what is wrong.
    """

    def __init__(self, background: Background, deliver: Deliver) -> None:
        self._background = background
        self._deliver = deliver
        self._generation = 0
        self._quick: set[tuple[object, ...]] = set()
        self._waiting: tuple[int, Task] | None = None
        self._answering: int | None = None

    @property
    def pending(self) -> bool:
        """Whether the latest request is still to be answered."""
        return self._waiting is not None or self._answering == self._generation

    def request(self, task: Task) -> None:
        """Ask for the plan of *task*; answers to earlier requests are dropped from now on."""
        self.withdraw()
        if task.trace_key in self._quick:
            self._answer_at_once(task)
            return
        self._waiting = (self._generation, task)
        self._start_next()

    def withdraw(self) -> None:
        """Drop the answers to all earlier requests."""
        self._generation += 1
        self._waiting = None

    def forget(self) -> None:
        """Take every network for untraced; to be called when the model changes."""
        self.withdraw()
        self._quick.clear()

    def _answer_at_once(self, task: Task) -> None:
        began = time.perf_counter()
        answer: Plan | Exception
        try:
            answer = task.resolve()
        except Exception as error:  # as on the thread: whatever it is, it is told
            answer = error
        if time.perf_counter() - began > AT_ONCE_SECONDS:
            self._quick.discard(task.trace_key)
        self._deliver(answer)

    def _start_next(self) -> None:
        if self._answering is not None or self._waiting is None:
            return
        (generation, task), self._waiting = self._waiting, None
        self._answering = generation
        self._background.submit(
            task.resolve,
            lambda plan: self._answered(generation, plan, task),
            lambda error: self._answered(generation, error, task),
            name="plan",
        )

    def _answered(self, generation: int, answer: Plan | Exception, task: Task) -> None:
        self._answering = None
        if generation == self._generation:
            if not isinstance(answer, Exception):
                self._quick.add(task.trace_key)
            self._deliver(answer)
        self._start_next()
