"""The one tree of errors a caller can meet.

Every message is one sentence that names the value, the limit and the remedy. An exception that a third party
raised (a network, a file reader) is kept as ``__cause__``.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

# Of a message; and of a word in it that is longer than the name of a file can be.
MOST_LETTERS, SHOWN_LETTERS = 2000, 80
_LONG_WORD = re.compile(r"[^\s/\\]{260,}")
# Lines, tabs, escapes of terminals, marks that turn the direction of writing or are not seen, and what stands for bytes
# of a file's name that are no text.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]+"
)


class TesseraError(Exception):
    """Anything that Tessera reports to its caller.

    Attributes
    ----------
    exit_code
        What the command line returns to the shell for this error.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(as_sentence(message))


class SettingsError(TesseraError):
    """A setting is unknown, mistyped, out of range or does not fit the model or the volume.

    Attributes
    ----------
    by_field
        A clause for each field that is wrong, where a declared model was given values.
    """

    exit_code = 2

    def __init__(self, message: str = "", *, by_field: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.by_field = dict(by_field or {})


class OutputError(TesseraError):
    """The result cannot be written where it was asked for; found before the run starts."""

    exit_code = 2


class InputError(TesseraError):
    """The image cannot be read, has the wrong axes or channels, or holds values that are not numbers."""

    exit_code = 3


class ModelError(TesseraError):
    """The model file cannot be opened, or the network cannot run on such an input."""

    exit_code = 3


class UntrustedModelError(ModelError):
    """The model file can run code and nobody has said yet that it may.

    Attributes
    ----------
    format_name
        What people call the model's format.
    does
        A clause on what opening it may do.
    files
        Those that nobody has allowed yet: SHA-256 of the content that was read to the file's path.
    """

    def __init__(
        self, message: str, *, format_name: str = "", does: str = "", files: Mapping[str, Path] | None = None
    ) -> None:
        super().__init__(message)
        self.format_name, self.does, self.files = format_name, does, dict(files or {})


class CalibrationError(TesseraError):
    """The file of what earlier runs took cannot be read or written."""

    exit_code = 3


class OutOfMemoryError(TesseraError):
    """Device or host memory did not suffice, even after every step of recovery."""

    exit_code = 4


class CancelledError(TesseraError):
    """The run was cancelled by its caller; what had been finished is not lost (see the sink)."""

    exit_code = 130


# How a failed allocation on the host shows in errors that have no type of their own: the system's words, from mmap and
# from Rust, the loader of libraries, torch's allocator, C++ and onnxruntime.
_NO_MEMORY = (
    os.strerror(errno.ENOMEM),
    "failed to map segment from shared object",
    "DefaultCPUAllocator: ",
    "std::bad_alloc",
    "Failed to allocate memory",
)


def lacks_memory(error: BaseException | None) -> bool:
    """Whether *error*, or one that it came of, is a failed allocation of the host's memory.

    Who reads a file often takes it for damage, and says so: then it is what that error came of.
    """
    while error is not None and not isinstance(error, CancelledError):
        if isinstance(error, (MemoryError, OutOfMemoryError)) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if not isinstance(error, TesseraError) and any(words in str(error) for words in _NO_MEMORY):
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


MORE_MEMORY = "close other programs, or raise the memory limit of this job or shell"


@contextmanager
def host_memory_for(what: str, remedy: str = "crop the image, or close other programs") -> Iterator[None]:
    """Turn a failed allocation on the host into the error that says what it was for."""
    try:
        yield
    except (OutOfMemoryError, CancelledError):
        raise
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise OutOfMemoryError(f"the host's memory did not suffice for {what}: {remedy}") from error


def as_sentence(text: str) -> str:
    """Return *text*, much of which may be a stranger's, so that it does not fill the screen or move its cursor.

    Of several lines it is the first and the last: those between, in a network's own error, are its source code.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = without_control(" ... ".join(lines[:1] + lines[1:][-1:]))
    line = _LONG_WORD.sub(lambda word: f"{word[0][:SHOWN_LETTERS]}...", line)
    return line if len(line) <= MOST_LETTERS else f"{line[:MOST_LETTERS]} ..."


def without_control(text: str) -> str:
    """Return *text* in one line: without ends of lines, escapes of terminals, and marks that turn the writing."""
    return _CONTROL.sub(" ", text)


def lines_without_control(text: str) -> str:
    """Return *text* of several lines, each as `without_control` gives it."""
    return "\n".join(map(without_control, text.split("\n")))


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the choice nearest to *word*, or an empty string.

    Examples
    --------
    >>> nearest("overlp", ["overlap", "window_size"])
    "; did you mean 'overlap'?"
    """
    from difflib import get_close_matches

    found = get_close_matches(word, list(choices), n=1)
    return f"; did you mean '{found[0]}'?" if found else ""


def first_line(error: BaseException) -> str:
    r"""Return the first line of what *error* says, or its class where it says nothing.

    Examples
    --------
    >>> first_line(ValueError("too large\nat line 3"))
    'too large'
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
