"""JSON of a stranger as plain data, whose integers are no longer than a number in use can be."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["MAX_DIGITS", "load_json"]

# The largest number that a computer counts with has 309 digits. Longer ones fail later, and not as what they
# are: they become no float, and Python refuses to print them.
MAX_DIGITS = 300


def load_json(text: str | bytes) -> Any:
    """Return what *text* says; ``NaN`` and ``Infinity``, which are no JSON but are written, stay numbers.

    Raises
    ------
    ValueError
        If it is no JSON, or holds an integer of more than `MAX_DIGITS` digits.
    RecursionError
        If it is nested too deeply.
    """
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds an integer of more than {MAX_DIGITS} digits, which is not read")
    return int(digits)
