"""How tests look at an error: its type, and the values, limits and remedies in its sentence, never its wording.

The wording itself is pinned in one table, `tests/test_messages.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

__all__ = ["raises", "says"]


@contextmanager
def raises(error: type[BaseException], *values: Any) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Fail unless *error* is raised and says each of *values*; one may be a tuple of several."""
    with pytest.raises(error) as caught:
        yield caught
    missing = [value for value in _flat(values) if not says(str(caught.value), value)]
    assert not missing, f"{missing} not in: {caught.value}"


def says(sentence: str, value: Any) -> bool:
    """Whether *value* stands in *sentence* by itself: 3 does not stand in 'the 30 planes'."""
    text = str(value)
    before = r"(?<![\w.])" if text[:1].isalnum() else ""
    after = r"(?!\w|\.\d)" if text[-1:].isalnum() else ""
    return bool(text) and re.search(before + re.escape(text) + after, sentence) is not None


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        yield from _flat(value) if isinstance(value, tuple | list) else (value,)
