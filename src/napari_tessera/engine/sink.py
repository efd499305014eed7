"""Where finished planes go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from napari_tessera.engine.source import Region

__all__ = ["ArraySink", "Sink"]


class Sink(Protocol):
    """Takes finished planes, in any order, each exactly once."""

    def write(self, region: Region, planes: npt.NDArray[Any]) -> None:
        """Take *planes*, (C, *region); the buffer is the engine's and may be used again after the call."""
        ...


class ArraySink:
    """A `Sink` that is an array in memory, or a memory map.

    Parameters
    ----------
    array
        (C, *spatial); owned by the caller.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: npt.DTypeLike) -> ArraySink:
        """Return a sink over new zeros, so that planes that never arrive (a cancelled run) read as background."""
        return cls(np.zeros(shape, dtype))

    @classmethod
    def filled(cls, shape: tuple[int, ...], dtype: npt.DTypeLike, value: float) -> ArraySink:
        """Return a sink over a new array of *value*; zeros take no memory before they are written."""
        return cls.empty(shape, dtype) if value == 0 else cls(np.full(shape, value, dtype))

    def write(self, region: Region, planes: npt.NDArray[Any]) -> None:
        """Copy *planes* into the array."""
        self.array[(slice(None), *region)] = planes
