"""Where text goes: results to stdout, everything said on the way to stderr."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

__all__ = ["ERR", "LOOKING", "OUT", "count", "say", "say_assumed", "stderr_is_terminal"]

OUT = Console(highlight=False)
ERR = Console(stderr=True, highlight=False)

# Said before the images are read for the first time: that may take as long as reading them.
LOOKING = "reading the images to find what is empty ..."

_STYLES = {
    "Error": "bold red",
    "Warning": "bold yellow",
    "Stopped": "bold yellow",
    "Note": "bold",
    "Assumed": "bold yellow",
}


def say(sentence: str, *, kind: str = "") -> None:
    """Write one line to stderr, never broken where it is piped into a file or another program.

    Parameters
    ----------
    sentence
        Plain text; brackets mean nothing.
    kind
        ``Error``, ``Warning``, ``Stopped``, ``Note``, ``Assumed``, or empty: the word in front, in its colour.
    """
    line = Text.assemble((f"{kind}: ", _STYLES[kind]), sentence) if kind else Text(sentence)
    ERR.print(line, soft_wrap=True)


def say_assumed(sentences: Iterable[str]) -> None:
    """Say what a model's file does not, and was taken for granted."""
    for sentence in sentences:
        say(sentence, kind="Assumed")


def stderr_is_terminal() -> bool:
    """Whether a person watches, so that a line may be drawn over."""
    return ERR.is_terminal and not ERR.is_dumb_terminal


def count(n: int, things: str) -> str:
    """Return how many there are, the word in the singular for one.

    Examples
    --------
    >>> count(3, "objects"), count(1, "objects"), count(1, "forward passes")
    ('3 objects', '1 object', '1 forward pass')
    """
    if n == 1:
        things = things.removesuffix("es") if things.endswith("sses") else things.removesuffix("s")
    return f"{n} {things}"
