"""What is wrong with a file in the words of torch's readers, without what they tell only their own authors."""

from __future__ import annotations

import re

from napari_tessera.core.errors import first_line

MOST_LETTERS = 200
# Where in its source torch stands.
_PLACE = re.compile(r"^\[enforce fail at [^\]]*\][ .]*| \(of Python compilation unit at: 0x[0-9a-f]+\)")


def reason_of_torch(error: BaseException) -> str:
    """Return the first sentence of *error*, short, without places in torch's source.

    Examples
    --------
    >>> reason_of_torch(RuntimeError("[enforce fail at inline.cc:215] . No such record. This is an internal error."))
    'No such record'
    """
    line = _PLACE.sub("", first_line(error))
    said = line.partition(". ")[0].partition("  (Could")[0].strip()[:MOST_LETTERS]
    return "torch does not understand a part of it" if not said or "INTERNAL ASSERT" in line else said
