"""Ctrl-C during a run: the first one cancels, the second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from napari_tessera.cli.console import say
from napari_tessera.engine.events import CancelToken

__all__ = ["cancel_on_interrupt"]


@contextmanager
def cancel_on_interrupt() -> Iterator[CancelToken]:
    """Yield a token that Ctrl-C sets. A second Ctrl-C raises `KeyboardInterrupt`, as it would without this."""
    token = CancelToken()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield token
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        token.cancel()
        say("stopping after this forward pass; Ctrl-C again stops at once", kind="Note")

    signal.signal(signal.SIGINT, stop)
    try:
        yield token
    finally:
        signal.signal(signal.SIGINT, before)
