"""Bytes, durations and voxel sizes as people read and write them. Pure functions, no state."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import isclose
from typing import Any

_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_FACTORS: dict[str, int] = {
    "": 1,
    "b": 1,
    **{f"{p}ib": 1024 ** (i + 1) for i, p in enumerate("kmgtp")},
    **{f"{p}b": 1000 ** (i + 1) for i, p in enumerate("kmgtp")},
}

_AXES = {
    "T": ("t", "time", "frame", "frames"),
    "C": ("c", "ch", "channel", "channels"),
    "Z": ("z", "plane", "planes", "slice", "slices", "depth"),
    "Y": ("y", "row", "rows"),
    "X": ("x", "col", "column", "columns"),
}
# Symbols tell prefixes apart by their case (a megametre is no millimetre), words do not.
_SYMBOLS = {"m": 1e6, "dm": 1e5, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4, "in": 25_400.0}
_WORDS = {
    "micron": 1.0,
    "inch": 25_400.0,
    "inche": 25_400.0,  # of "inches"
    "angstrom": 1e-4,
    "ångström": 1e-4,
    "foot": 304_800.0,
    "yard": 914_400.0,
    "kilometer": 1e9,
    "meter": 1e6,
    "decimeter": 1e5,
    "centimeter": 1e4,
    "millimeter": 1e3,
    "micrometer": 1.0,
    "nanometer": 1e-3,
    "picometer": 1e-6,
    "femtometer": 1e-9,
    "attometer": 1e-12,
}


def axis_letter(label: str) -> str:
    """Return the letter of TCZYX that people mean by the *label* of an axis, nothing where that is not known.

    Examples
    --------
    >>> axis_letter("Channel"), axis_letter("depth"), axis_letter("band")
    ('C', 'Z', '')
    """
    return next((letter for letter, labels in _AXES.items() if label.strip().lower() in labels), "")


def micrometres_per(unit: str) -> float | None:
    """Return how many micrometres the *unit* of length is, None where it is none that image files use.

    Examples
    --------
    >>> [micrometres_per(unit) for unit in ("\u00b5m", "Nanometres", "inch", "pixel")]
    [1.0, 0.001, 25400.0, None]
    """
    # ImageJ escapes the micro sign; Unicode has it twice, as it has the Angstrom.
    name = re.sub(r"\\+u00[bB]5|[\u00b5\u03bc]", "u", unit.strip()).replace("\u212b", "\u00c5")
    if name in _SYMBOLS:
        return _SYMBOLS[name]
    word = name.lower().replace("metre", "meter").removesuffix("s")
    return _WORDS.get(word, _SYMBOLS.get(name.lower()) if name[:1] in "UNC" else None)


def format_bytes(n_bytes: float) -> str:
    """Return a byte count with a binary unit and at most three significant digits.

    Examples
    --------
    >>> format_bytes(6_650_000_000), format_bytes(512), format_bytes(0)
    ('6.19 GiB', '512 B', '0 B')
    """
    value = float(n_bytes)
    for unit in _BINARY:
        if abs(value) < 999.5 or unit == _BINARY[-1]:
            break
        value /= 1024
    digits = 0 if unit == "B" or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f} {unit}"


def parse_bytes(text: str) -> int:
    """Return the bytes that *text* such as ``"8GiB"``, ``"500 MB"`` or ``"1024"`` stands for; `ValueError` for others.

    Examples
    --------
    >>> parse_bytes("8GiB"), parse_bytes("1.5 kB")
    (8589934592, 1500)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if not match or match[2].lower() not in _FACTORS:
        raise ValueError(f"'{text}' is not a size in bytes: write a number and a unit, such as 8GiB or 500MB")
    return round(float(match[1]) * _FACTORS[match[2].lower()])


def format_duration(seconds: float) -> str:
    """Return a duration in the two largest units that matter.

    Examples
    --------
    >>> [format_duration(s) for s in (0.4, 9.2, 160, 7384)]
    ['under 1 s', '9 s', '2 min 40 s', '2 h 3 min']
    """
    whole = round(seconds)
    if whole < 1:
        return "under 1 s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(whole, 3600)
    return f"{hours} h {rest // 60} min" if rest >= 60 else f"{hours} h"


def format_voxel_size(voxel_size_um: tuple[float, ...]) -> str:
    """Return a voxel size such as ``"0.3 x 0.1 x 0.1 µm"``, axis order kept.

    Examples
    --------
    >>> format_voxel_size((0.01, 0.01, 0.01))
    '0.01 x 0.01 x 0.01 µm'
    """
    return " x ".join(f"{size:g}" for size in voxel_size_um) + " µm"


def format_sides(sides: Iterable[int]) -> str:
    """Return lengths along axes such as ``"2 x 18 x 13"``."""
    return " x ".join(map(str, sides))


def format_estimate(seconds: float) -> str:
    """Return an expected duration for people, rounded as `format_duration` does.

    Examples
    --------
    >>> [format_estimate(s) for s in (0.4, 9.2)]
    ['under 1 s', 'about 9 s']
    """
    text = format_duration(seconds)
    return text if text.startswith("under") else f"about {text}"


def format_parameters(parameters: Iterable[tuple[str, Any]]) -> str:
    """Return *parameters* of a decoder or a normalisation on one line, numbers as short as float32 tells them apart."""
    return ", ".join(f"{name}={_short(value)}" for name, value in parameters)


def _short(value: Any) -> str:
    """Return *value* in six digits where that is it or its neighbour: the threshold just below 0.5 is shown as 0.5."""
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and isclose(float(short), value, rel_tol=2e-7) else str(value)
