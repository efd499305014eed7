"""Planes that a network sees one by one, but that are cropped and normalised as the stack that they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from napari_tessera.engine.source import SourceView
from napari_tessera.images.views.crop import Crop

if TYPE_CHECKING:
    from napari_tessera.engine.source import Region, Source

__all__ = ["StackPlane", "StackSource", "in_stacks", "plane_crop"]

Load = Callable[[], "Source"]


class StackSource(SourceView):
    """The planes of a stack as one `Source`, (C, Z, Y, X); each is loaded when it is read.

    Parameters
    ----------
    loads
        Give the planes, (C, Y, X), in order.
    plane
        One of them.

    Attributes
    ----------
    loads
        The same object in every source of the same stack, if it was given as a tuple.
    """

    def __init__(self, loads: Sequence[Load], plane: Source) -> None:
        super().__init__(plane)
        self.loads = tuple(loads)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, Z, Y, X)."""
        channels, *plane = self.source.shape
        return (channels, len(self.loads), *plane)

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """What the planes are read in; None where they do not say."""
        of_plane = super().chunk
        return None if of_plane is None else (1, *of_plane)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*, (C, *region)."""
        planes, *within = region
        return np.stack([load().read(tuple(within)) for load in self.loads[planes]], axis=1)


class StackPlane(SourceView):
    """A plane that knows its stack.

    Parameters
    ----------
    source
        The plane, (C, Y, X).
    stack
        All planes, (C, Z, Y, X).
    place
        Which of them it is.
    """

    def __init__(self, source: Source, stack: StackSource, place: int) -> None:
        super().__init__(source)
        self.stack = stack
        self.place = place


@dataclass(frozen=True, slots=True)
class _LoadInStack:
    """Gives one plane of a stack."""

    loads: tuple[Load, ...]
    place: int

    def __call__(self) -> Source:
        plane = self.loads[self.place]()
        return StackPlane(plane, StackSource(self.loads, plane), self.place)


def in_stacks(loads: Sequence[Load], planes: int) -> tuple[Load, ...]:
    """Return *loads*, of stacks one after another that have so many *planes* each, so that a plane knows its stack."""
    stacks = [tuple(loads[first : first + planes]) for first in range(0, len(loads), planes)]
    return tuple(_LoadInStack(stack, place) for stack in stacks for place in range(len(stack)))


def plane_crop(box: Crop, place: int) -> Crop:
    """Return what of plane number *place* lies in *box*, which is of its stack."""
    _, *shape = box.image_shape
    (first, stop), *sides = box.box
    if box.is_empty or not first <= place < stop:
        return Crop.empty(shape)
    return Crop(tuple(shape), tuple(sides))
