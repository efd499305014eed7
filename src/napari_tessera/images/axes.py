"""What the dimensions of a file are: one letter each, as the file or the user says, in the one order of a volume."""

from __future__ import annotations

import re
from pathlib import Path

from napari_tessera.core.errors import InputError
from napari_tessera.images.volume import AXES

__all__ = ["name_axes", "standard_order"]


def name_axes(
    path: Path, found: str, shape: tuple[int, ...], by_hand: str | None = None
) -> tuple[str, tuple[str, ...]]:
    """Return one letter of TCZYX for each dimension of *shape*, in the file's order, and what to tell about it.

    Parameters
    ----------
    path
        The file.
    found
        What the file itself names its axes; S, the samples of a colour, is a channel. One letter that is none of a
        volume's is taken for z, and said.
    shape
        Of the file.
    by_hand
        What the user says that they are, in capitals or not, with blanks and commas or not; counts more.

    Raises
    ------
    InputError
        If there is not one letter for each dimension, each at most once, Y and X among them.
    """
    named = str(found if by_hand is None else by_hand).upper().replace("S", "C")
    notes: tuple[str, ...] = ()
    if by_hand is not None:
        named = re.sub(r"[\s,]", "", named)
    if by_hand is not None and (len(named) != len(shape) or not _is_sound(named)):
        raise InputError(
            f"axes '{by_hand}' do not fit '{path}': give one letter of {AXES} for each of its {len(shape)} dimensions "
            f"{shape}, each once, Y and X among them"
        )
    unknown = [axis for axis in named if axis not in AXES]
    if len(unknown) == 1 and "Z" not in named and len(named) == len(shape):
        n_planes = shape[named.index(unknown[0])]
        named = named.replace(unknown[0], "Z")
        notes = (f"'{path.name}' does not name its axes; its {n_planes} planes were taken for z",)
    if len(named) != len(shape) or not _is_sound(named):
        remedy = f"save what is meant as an image of 2 to {len(AXES)} axes, of {AXES}"
        if 2 <= len(shape) <= len(AXES):
            example = AXES[-len(shape) :]
            remedy = f"say what they are with letters of {AXES}, such as --axes {example}, or save it as OME-TIFF"
        raise InputError(f"cannot tell the axes of '{path}' apart: it names them '{found}' for shape {shape}; {remedy}")
    spatial = [axis for axis in named if axis in "ZYX"]
    if spatial != sorted(spatial, reverse=True):
        ordered = "".join(sorted(spatial, reverse=True))
        notes += (f"'{path.name}' has its axes in the order {named}: it is run, and its result written, as {ordered}",)
    return named, notes


def standard_order(named: str) -> list[int]:
    """Return the places of the axes *named* in the order of a volume, TCZYX."""
    return sorted(range(len(named)), key=lambda place: AXES.index(named[place]))


def _is_sound(named: str) -> bool:
    return not set(named) - set(AXES) and len(set(named)) == len(named) and {"Y", "X"} <= set(named)
