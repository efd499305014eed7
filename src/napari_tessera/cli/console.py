"""Where text goes: results to stdout, everything said on the way to stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from napari_tessera.core.errors import lines_without_control, without_control


class _PlainConsole(Console):
    """Shows text as it is: no markup in it, no names of pictures, and nothing that moves the cursor.

    Much of what is printed are the names and words of strangers' files.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Yield what *renderable* consists of, its text without control characters."""
        for segment in super().render(renderable, options):
            if segment.control or not segment.text:
                yield segment
            else:
                yield Segment(lines_without_control(segment.text), segment.style)


OUT = _PlainConsole()
ERR = _PlainConsole(stderr=True)

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
    """Write one line to stderr, never broken where it is piped; *kind*, of `_STYLES`, is the word in front."""
    sentence = without_control(sentence)
    line = Text.assemble((f"{kind}: ", _STYLES[kind]), sentence) if kind else Text(sentence)
    ERR.print(line, soft_wrap=True)


def write_line(line: str) -> None:
    """Write one line to stdout, never broken; brackets mean nothing."""
    OUT.print(Text(without_control(line)), soft_wrap=True)


def show_json(content: object) -> None:
    """Write *content* to stdout as JSON in ASCII, which every reader of JSON takes: numbers that it lacks are null."""
    typer.echo(json.dumps(_finite(content), indent=1, allow_nan=False))


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


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
