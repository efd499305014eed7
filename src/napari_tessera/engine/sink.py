"""Where finished planes go, and what they become before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

    from napari_tessera.engine.source import Region


@dataclass(frozen=True, slots=True)
class Reduction:
    """What becomes of finished planes on the device, before the sink takes them.

    *function* makes (C', *region) of planes (C, *region). It is strictly voxelwise, so that it does not matter how the
    volume is cut, and may write into its argument if *normalised*; otherwise its result has memory of its own.
    *normalised*: the planes have to be averages, float32; where only the order of the channels at a voxel matters,
    weighted sums do. *background* is written where no window was computed.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    normalised: bool = True
    background: float = 0

    def apply(self, planes: torch.Tensor, missing: torch.Tensor | None) -> torch.Tensor:
        """Return the reduced *planes*, with the background where *missing* is True."""
        reduced = self.function(planes)
        return reduced if missing is None else reduced.masked_fill(missing, self.background)


class Sink(Protocol):
    """Takes finished planes, in any order, each exactly once."""

    def write(self, region: Region, planes: npt.NDArray[Any]) -> None:
        """Take *planes*, (C, *region); the buffer is the engine's and may be used again after the call."""
        ...


class ArraySink:
    """A `Sink` that is an array in memory, or a memory map, (C, *spatial); owned by the caller."""

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
