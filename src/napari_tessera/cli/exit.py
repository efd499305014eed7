"""From errors to sentences and exit codes: no traceback reaches the user, unless asked for."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from napari_tessera.cli.console import say
from napari_tessera.cli.interrupt import hearing_stops, stopped_code
from napari_tessera.core.errors import (
    CancelledError,
    OutOfMemoryError,
    TesseraError,
    as_sentence,
    lacks_memory,
    lines_without_control,
)

if TYPE_CHECKING:
    import typer

DEBUG_VARIABLE = "TESSERA_DEBUG"
INTERRUPTED = CancelledError.exit_code

_with_tracebacks = ContextVar("with_tracebacks", default=False)


def run_app(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Run *app* and return its exit code, whatever happens; what went wrong is said in one sentence on stderr."""
    # Accepted anywhere in the line: who adds it does so at the end of a command that has just failed.
    debug = "--debug" in arguments or os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    token = _with_tracebacks.set(debug)
    try:
        with hearing_stops(), _third_parties_quiet(unless=debug):
            code = app([a for a in arguments if a != "--debug"], prog_name="tessera", standalone_mode=False)
    except Exception as error:
        report(error, describe(error))
        return exit_code_of(error)
    finally:
        _with_tracebacks.reset(token)
    if code == INTERRUPTED:
        say("interrupted", kind="Stopped")
        return stopped_code()
    return code if isinstance(code, int) else 0


def report(error: BaseException, sentence: str) -> None:
    """Say *sentence* on stderr, below the traceback of *error* where the user asked for tracebacks."""
    if _with_tracebacks.get():
        # What a stranger's file put into an error moves no cursor here either.
        sys.stderr.write(lines_without_control("".join(traceback.format_exception(error))))
    say(sentence, kind="Stopped" if isinstance(error, CancelledError) else "Error")


def describe(error: BaseException) -> str:
    """Return what to tell the user about *error*: one sentence with a remedy."""
    if isinstance(error, TesseraError):
        return str(error)
    if _is_out_of_memory(error):
        what = as_sentence(str(error)) or "of the host"
        return f"memory did not suffice ({what}): lower sw_batch_size and batch_size, or choose a smaller window"
    if _is_usage_error(error):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "tessera"
        return f"{error.format_message().rstrip('.')} (see '{command} --help')"  # type: ignore[attr-defined]
    what = as_sentence(str(error)) or "no more is known"
    return (
        f"unexpected {type(error).__name__}: {what}. This is a fault of Tessera: run it again with --debug and "
        f"report what it prints, together with what 'tessera doctor' says"
    )


def exit_code_of(error: BaseException) -> int:
    """Return what the process returns to the shell for *error*."""
    if _is_out_of_memory(error):
        return OutOfMemoryError.exit_code
    return stopped_code() if isinstance(error, CancelledError) else int(getattr(error, "exit_code", 1))


def _is_out_of_memory(error: BaseException) -> bool:
    torch: Any = sys.modules.get("torch")  # not loaded for this: who has not used it cannot have met its error
    return lacks_memory(error) or (torch is not None and isinstance(error, torch.OutOfMemoryError))


def _is_usage_error(error: BaseException) -> bool:
    # Known by its method: typer brings click along under a private name, or uses the installed one, by its version.
    return hasattr(error, "format_message")


@contextmanager
def _third_parties_quiet(*, unless: bool) -> Iterator[None]:
    """Keep warnings and log lines of libraries, which are for programmers, off the user's screen."""
    ours, everything = logging.getLogger("napari_tessera"), logging.getLogger()
    to_screen, silence = _ToScreen(logging.WARNING), logging.NullHandler()
    ours.addHandler(to_screen)
    if not unless:
        everything.addHandler(silence)
    try:
        with warnings.catch_warnings():
            if not unless:
                warnings.simplefilter("ignore")
            yield
    finally:
        ours.removeHandler(to_screen)
        everything.removeHandler(silence)


class _ToScreen(logging.Handler):
    """Tessera's own warnings, in the form of every other line."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), kind="Warning")
