"""Where windows are read from: any array that can be sliced, channel first, without loading it whole."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from napari_tessera.errors import InputError

__all__ = ["ArraySource", "PlaneCache", "Source"]

Region = tuple[slice, ...]


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

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of the spatial *region*, all channels, shape (C, *region)."""
        ...


class ArraySource:
    """An array-like (numpy, memory map, dask, zarr, ...) as a `Source`.

    Parameters
    ----------
    array
        Anything with ``shape``, ``dtype`` and slicing.
    channel_axis
        Which axis holds the channels; None if there is none (one channel).
    """

    def __init__(self, array: Any, *, channel_axis: int | None = None) -> None:
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
        """Whether slicing costs nothing, so that caching planes would only waste memory."""
        return isinstance(self.array, np.ndarray)

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of the spatial *region*, shape (C, *region); a view where the array allows."""
        try:
            if self.channel_axis is None:
                return np.asarray(self.array[region])[np.newaxis]
            full = (*region[: self.channel_axis], slice(None), *region[self.channel_axis :])
            return np.moveaxis(np.asarray(self.array[full]), self.channel_axis, 0)
        except OSError as error:  # a lazy array reads its files only now
            raise InputError(f"the image cannot be read: {error}") from error


class PlaneCache:
    """A `Source` that reads every plane of a lazy array once, while windows advance along *axis*.

    Windows overlap, and a lazy array (dask, zarr) would compute the shared part again for each of them. The cache
    holds the planes that the present row of windows spans, and no more.
    """

    def __init__(self, source: Source, axis: int) -> None:
        self._source = source
        self._axis = axis
        self._planes: npt.NDArray[Any] | None = None
        self._start = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, *spatial)."""
        return self._source.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` returns."""
        return self._source.dtype

    def read(self, region: Region) -> npt.NDArray[Any]:
        """Return the voxels of *region*; planes before it are forgotten."""
        start, stop, _ = region[self._axis].indices(self.shape[1 + self._axis])
        planes = self._hold(start, stop)
        inside = list(region)
        inside[self._axis] = slice(start - self._start, stop - self._start)
        return planes[(slice(None), *inside)]

    def _hold(self, start: int, stop: int) -> npt.NDArray[Any]:
        axis = 1 + self._axis
        held = self._planes
        if held is None or not self._start <= start <= self._start + held.shape[axis]:
            # The first window, or an earlier row again after memory ran out: nothing held is of use.
            held, self._start = self._read_planes(start, stop), start
        if start > self._start:
            held = np.delete(held, slice(0, start - self._start), axis=axis)
            self._start = start
        end = self._start + held.shape[axis]
        if stop > end:
            held = np.concatenate([held, self._read_planes(end, stop)], axis=axis)
        self._planes = held
        return held

    def _read_planes(self, start: int, stop: int) -> npt.NDArray[Any]:
        whole: list[slice] = [slice(None)] * (len(self.shape) - 1)
        whole[self._axis] = slice(start, stop)
        return self._source.read(tuple(whole))
