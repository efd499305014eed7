"""Switches of the whole process, which runs at the same time share."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["SharedSwitch"]


class SharedSwitch:
    """On as long as any thread is in the body of `held`.

    Parameters
    ----------
    turn_on
        Called by the first that needs it; returns what the last one calls to turn it back.
    """

    def __init__(self, turn_on: Callable[[], Callable[[], object]]) -> None:
        self._turn_on = turn_on
        self._lock = threading.Lock()
        self._holders: int = 0
        self._turn_back: Callable[[], object] = turn_on

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep it on while the body runs."""
        with self._lock:
            if self._holders == 0:
                self._turn_back = self._turn_on()
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if self._holders == 0:
                    self._turn_back()
