"""Ctrl-C, SIGTERM and SIGHUP: heard in every stage, whatever library is at work, and what is finished is kept."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from contextvars import copy_context
from types import FrameType
from typing import Any, NoReturn, TypeVar

from napari_tessera.cli.console import say
from napari_tessera.engine.loop.events import CancelToken, raise_if_cancelled

T = TypeVar("T")

# A batch system sends SIGTERM, a terminal that closes SIGHUP, Windows SIGBREAK.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
# How often the main thread looks up, and how long it waits for a stage to end by itself once it is to stop.
POLL_S, PATIENCE_S = 0.1, 0.5

# Signals are of the process, and so is what is known of them: those that came, in order, and threads left at work.
_heard: list[int] = []
_left_behind: list[threading.Thread] = []


class StopToken(CancelToken):
    """A `CancelToken` that knows how often it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.times = 0
        self._told = 0

    def tell(self) -> None:
        """Say what has been heard since it was last said. Not for a handler: it may come while a line is written."""
        told, self._told = self._told, self.times
        if told == 0 < self._told:
            say("stopping; what is finished is kept", kind="Note")
        if told < 2 <= self._told:  # once: a key may be held down
            say("what is finished is being written: this ends by itself", kind="Note")


@contextmanager
def hearing_stops() -> Iterator[None]:
    """Make SIGTERM and SIGHUP raise `KeyboardInterrupt` as Ctrl-C does, so that what is open is closed and removed.

    Only the first signal does: those that follow must not break off the closing and the last words.
    """
    _heard.clear()

    def stop(number: int, frame: FrameType | None) -> None:
        if len(_heard) == 1:
            raise KeyboardInterrupt

    with _handled_by(stop):
        yield


@contextmanager
def ending_quietly() -> Iterator[None]:
    """Let signals pass that come once the work is done, until `end_process`, which keeps them away for good."""
    with _handled_by(lambda number, frame: None):
        yield


@contextmanager
def cancel_on_stop() -> Iterator[StopToken]:
    """Yield a token that these signals set; inside, none of them raises anything, however often it comes."""
    token = StopToken()

    def stop(number: int, frame: FrameType | None) -> None:
        token.times += 1
        if token.times == 1:  # setting an event takes a lock, which a second signal would find taken by its own thread
            token.cancel()

    try:
        with _handled_by(stop):
            yield token
    finally:
        token.tell()


@contextmanager
def _handled_by(stop: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield
        return
    terminals = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and stream.isatty()]

    def handle(number: int, frame: FrameType | None) -> None:
        _heard.append(number)
        if number == getattr(signal, "SIGHUP", None):
            _let_go(terminals)
        stop(number, frame)

    before: Mapping[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:  # not where the process is about to end
                signal.signal(number, handler)


def _let_go(terminals: list[Any]) -> None:
    """Write nowhere from now on: the terminal is gone, and what is still said must not fail for it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in terminals:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def stopped_code() -> int:
    """Return the exit code of a process that the signal stopped which came first: 130, 143 or 129."""
    return 128 + (_heard[0] if _heard else signal.SIGINT)


def heard_call(function: Callable[[], T]) -> T:
    """Return what *function* returns, which runs on a thread of its own: see `heard`."""
    with closing(heard(function() for _ in range(1))) as results:
        return next(results)


def heard(iterator: Generator[T, None, None], token: StopToken | None = None) -> Generator[T, None, None]:
    """Yield what *iterator* yields, which runs on a thread of its own, while the next value is waited for.

    Signals are handled between two instructions of Python in the main thread: it would hear none while a library
    decodes or measures a whole volume. So it waits, and hears at once. *token* stops it, with `CancelledError`: a stage
    that does not end by itself soon is left behind, until `end_process`. Without one, an exception of the signal's
    handler does.
    """
    wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()
    # Not a SimpleQueue: once its time is up while a handler runs, it waits for ever.
    found: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue()

    def work() -> None:
        with closing(iterator):
            while wanted.get():
                try:
                    found.put((next(iterator), None))
                except BaseException as error:  # raised where it is waited for
                    found.put((None, error))

    worker = threading.Thread(target=copy_context().run, args=(work,), name="tessera-run", daemon=True)
    worker.start()
    at_work = False
    try:
        while True:
            wanted.put(True)
            at_work = True
            value, error = _wait(found, token)
            at_work = False
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value  # type: ignore[misc]  # None only beside an error, or where the values are None
            del value  # it may be a volume
    finally:
        wanted.put(False)
        if at_work:
            _left_behind.append(worker)
        else:
            worker.join()


def _wait(found: queue.Queue[T], token: StopToken | None) -> T:
    waited_s = 0.0
    while True:
        try:
            return found.get(timeout=POLL_S)
        except queue.Empty:
            if token is not None and token.cancelled:
                token.tell()
                waited_s += POLL_S
                if waited_s > PATIENCE_S or token.times > 1:
                    raise_if_cancelled(token)


def end_process(code: int) -> NoReturn:
    """End the process with *code*: at once where a thread was left at work, which nothing else can stop."""
    for number in _SIGNALS:  # Python puts its own handlers back before it is gone: a signal then would kill it
        signal.signal(number, signal.SIG_IGN)
    if any(thread.is_alive() for thread in _left_behind):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)
