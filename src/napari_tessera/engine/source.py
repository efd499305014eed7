"""Where windows are read from: any array that can be sliced, channel first, without loading it whole."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_tessera.core.errors import InputError

if TYPE_CHECKING:
    from napari_tessera.engine.geometry.grid import WindowGrid

Region = tuple[slice, ...]

# Voxels looked at together: bounds the memory of a pass over a lazy image, as far as its chunks allow.
PIECE_VOXELS = 8_000_000


class Source(Protocol):
    """An image that the engine can read from."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether reading costs nothing, so that caching planes would only waste memory."""
        return False

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """Voxels per spatial axis that a lazy image computes or reads together; None where it names none."""
        return None

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of the spatial *region*, all channels, shape (C, *region)."""
        ...


def check_numbers(dtype: Any) -> None:
    """Raise `InputError` unless *dtype* is one of real numbers that torch has, too, or truth values."""
    found = np.dtype(dtype)
    if found.kind not in "biuf" or found.itemsize > 8:
        raise InputError(f"the image holds values of type {found}: give real numbers of at most 64 bits")


class ArraySource:
    """An array-like (numpy, memory map, dask, zarr, ...) as a `Source`; *channel_axis* None: there is one channel.

    Anything with ``shape``, ``dtype`` and slicing will do; `InputError` if its values are no real numbers.
    """

    def __init__(self, array: Any, *, channel_axis: int | None = None) -> None:
        check_numbers(array.dtype)
        self.array = array
        self.channel_axis = None if channel_axis is None else channel_axis % len(array.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        sides = [int(side) for side in self.array.shape]
        channels = 1 if self.channel_axis is None else sides.pop(self.channel_axis)
        return (channels, *sides)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The array's own dtype."""
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def in_memory(self) -> bool:
        """Whether the array is one of numpy's."""
        return isinstance(self.array, np.ndarray)

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """What a lazy array computes or reads together; None where it names none."""
        sides = getattr(self.array, "chunks", None)
        if sides is None or len(sides) != len(self.array.shape):
            return None
        largest = [max(side, default=1) if isinstance(side, tuple) else int(side) for side in sides]
        if self.channel_axis is not None:
            largest.pop(self.channel_axis)
        return tuple(max(side, 1) for side in largest)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of the spatial *region*, shape (C, *region); a view where the array allows."""
        try:
            if self.channel_axis is None:
                return np.asarray(self.array[region])[np.newaxis]
            full = (*region[: self.channel_axis], slice(None), *region[self.channel_axis :])
            return np.moveaxis(np.asarray(self.array[full]), self.channel_axis, 0)
        except OSError as error:  # a lazy array reads its files only now
            if error.errno == errno.ENOMEM:
                raise MemoryError(str(error)) from error
            raise InputError(f"the image cannot be read: {error}") from error


class SourceView:
    """A `Source` that is another one seen in some way; what a subclass does not change is that one's own."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        return self.source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns."""
        return self.source.dtype

    @property
    def in_memory(self) -> bool:
        """False: what is seen is computed anew whenever it is read."""
        return False

    @property
    def chunk(self) -> tuple[int, ...] | None:
        """What the other one is read in."""
        return self.source.chunk

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of the spatial *region*, all channels, shape (C, *region)."""
        return self.source.read(region)


class PlaneCache(SourceView):
    """A `Source` that reads every plane of a lazy array once, while windows advance along *axis*.

    Windows overlap, and a lazy array (dask, zarr) would compute the shared part again for each of them. The cache holds
    the planes that the present row of windows spans, at most twice as many. *across* is the part of the image that
    windows lie in, slices per axis; that of *axis* does not matter. None: all of it.
    """

    def __init__(self, source: Source, axis: int, across: Region | None = None) -> None:
        super().__init__(source)
        self._axis = axis
        self._across = across if across is not None else tuple(slice(0, side) for side in source.shape[1:])
        self._held: deque[tuple[int, npt.NDArray[Any]]] = deque()  # first plane, (C, *planes)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*; planes before it are forgotten."""
        start, stop, _ = region[self._axis].indices(self.shape[1 + self._axis])
        self._hold(start, stop)
        inside = [
            slice(part.start - whole.start, part.stop - whole.start)
            for part, whole in zip(region, self._across, strict=True)
        ]
        pieces = []
        for first, planes in self._held:
            inside[self._axis] = slice(max(start - first, 0), max(stop - first, 0))
            pieces.append(planes[(slice(None), *inside)])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1 + self._axis)

    def _hold(self, start: int, stop: int) -> None:
        while self._held and self._end_of(0) <= start:
            self._held.popleft()
        if self._held and self._held[0][0] > start:
            self._held.clear()  # an earlier row again, after memory ran out
        end = self._end_of(-1) if self._held else start
        if stop > end:
            part = list(self._across)
            part[self._axis] = slice(end, stop)
            self._held.append((end, self.source.read(tuple(part))))

    def _end_of(self, number: int) -> int:
        first, planes = self._held[number]
        return first + int(planes.shape[1 + self._axis])


def iter_regions(source: Source) -> Iterator[Region]:
    """Yield regions that cover *source*, of `PIECE_VOXELS` over all channels as far as its chunks allow.

    They are whole chunks of a lazy array, which it would else compute again and again.
    """
    channels, *spatial = source.shape
    box = list(source.chunk or (1, *spatial[1:]))
    for axis in reversed(range(len(box))):  # as many chunks at once as may be
        fitting = PIECE_VOXELS // max(channels * prod(box), 1)
        box[axis] = min(box[axis] * max(fitting, 1), spatial[axis])
    for corner in product(*(range(0, side, step) for side, step in zip(spatial, box, strict=True))):
        ends = (min(start + step, side) for start, step, side in zip(corner, box, spatial, strict=True))
        yield tuple(map(slice, corner, ends))


def estimate_cache_bytes(source: Source, across: Region, grid: WindowGrid) -> int:
    """Return the most that a `PlaneCache` holds: twice the planes of a row of windows, in the image's own type."""
    sides: list[int] = [part.stop - part.start for part in across]
    sides[grid.sweep_axis] = min(2 * grid.window[grid.sweep_axis], grid.shape[grid.sweep_axis])
    return source.dtype.itemsize * source.shape[0] * prod(sides)
