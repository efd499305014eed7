"""Plans while sliders move: at once where the network has been traced, else on a thread; late answers are dropped."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_tessera import Plan
    from napari_tessera.session.background import Background
    from napari_tessera.session.task import Task

# A frame of a 60 Hz screen: a plan that takes longer does not belong on the owner's thread.
AT_ONCE_SECONDS = 0.016

Deliver = Callable[["Plan | Exception"], None]


class Planner:
    """Answers the latest request, and only that.

    Parameters
    ----------
    background
        Where a network is traced. One task at a time is planned there, the latest next.
    deliver
        Called on the owner's thread with a plan, or with what is wrong.
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
        self._generation += 1
        self._waiting = None
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
