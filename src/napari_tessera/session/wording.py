"""Lines of text as views show them, numbers for people, and what a person hears of an error."""

from __future__ import annotations

import platform
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from napari_tessera.core.errors import TesseraError
from napari_tessera.core.units import format_bytes
from napari_tessera.core.version import __version__

# Labels that are made faster need no word of their own.
WORTH_SAYING_S = 1.0

NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"


class Tone(StrEnum):
    """How serious a line is; views give it a colour, its words say it too."""

    PLAIN = "plain"
    GOOD = "good"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Line:
    """One line on screen."""

    text: str = ""
    tone: Tone = Tone.PLAIN
    tooltip: str = ""


def count(number: int) -> str:
    """Return *number* with its thousands set apart.

    Examples
    --------
    >>> count(999), count(1214).replace(NARROW_SPACE, "_")
    ('999', '1_214')
    """
    return f"{number:,}".replace(",", NARROW_SPACE)


def counted(number: int, noun: str) -> str:
    """Return *number* and its noun, which takes an s or es.

    Examples
    --------
    >>> counted(1, "forward pass"), counted(2, "forward pass"), counted(3, "volume")
    ('1 forward pass', '2 forward passes', '3 volumes')
    """
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{count(number)} {noun}{plural}"


def part_of(part_bytes: float, whole_bytes: float) -> str:
    """Return two sizes with one unit where they share it.

    Examples
    --------
    >>> part_of(2**31, 2**33), part_of(2**20, 2**33)
    ('2.00 of 8.00 GiB', '1.00 MiB of 8.00 GiB')
    """
    part, whole = format_bytes(part_bytes), format_bytes(whole_bytes)
    number, unit = part.split(" ")
    return f"{number if whole.endswith(' ' + unit) else part} of {whole}"


def unknown_there(names: Sequence[str]) -> str:
    """Return what becomes of the settings *names*, for which PyTorch Connectomics has no key."""
    return f"PyTorch Connectomics has no key for {', '.join(names)}: they stand in a comment that only Tessera reads"


def sentence(error: BaseException) -> str:
    """Return what went wrong in one sentence."""
    if isinstance(error, TesseraError):
        return str(error)
    if isinstance(error, MemoryError):
        return f"the memory of this computer did not suffice ({error}): crop the image, or close other programs"
    return f"something unexpected went wrong ({type(error).__name__}: {error}): please copy the report into an issue"


def problem(text: str) -> Line:
    """Return the line that says what is wrong; a name in quotes or a number keeps its case."""
    return Line(text[:1].upper() + text[1:] if text.split(" ", 1)[0].isalpha() else text, Tone.PROBLEM)


def make_report(error: BaseException) -> str:
    """Return the traceback of *error*, its causes included, with the versions that matter."""
    where = f"napari-tessera {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return f"{where}\n\n{''.join(traceback.format_exception(error))}"
