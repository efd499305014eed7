"""An array that lies in a file as one block, read region by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BufferedReader
from math import prod
from os import fstat, stat_result
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_tessera.core.errors import InputError

__all__ = ["FileArray"]


class FileArray:
    """An array in a file; what is asked for is read when it is asked for, in native byte order.

    Nothing is mapped: where a mapped file is cut short, the system ends the program. A file that has changed since it
    was opened is refused. Safe to use from several threads.

    Parameters
    ----------
    path
        The file.
    offset
        Where its values begin, bytes.
    shape, dtype
        Of the block, in C order.
    order
        Which axes of the block are those of the array; None: all, as they are.
    at
        The places of the block's other axes.
    """

    def __init__(
        self,
        path: Path,
        offset: int,
        shape: Sequence[int],
        dtype: np.dtype[Any],
        *,
        order: Sequence[int] | None = None,
        at: Mapping[int, int] | None = None,
    ) -> None:
        self._path, self._offset, self._block, self._stored = path, offset, tuple(map(int, shape)), dtype
        self._order = tuple(range(len(self._block))) if order is None else tuple(order)
        self._at = dict(at or {})
        self._version = _version(path.stat())
        self.shape = tuple(self._block[axis] for axis in self._order)
        self.dtype = dtype.newbyteorder("=")

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any, /) -> NDArray[Any]:
        parts = _parts(key, self.shape)
        if parts is None:
            return np.asarray(np.asarray(self)[key])
        box = {axis: range(at, at + 1) for axis, at in self._at.items()}
        box |= {
            axis: range(part, part + 1) if isinstance(part, int) else part
            for axis, part in zip(self._order, parts, strict=True)
        }
        values = self._read([box[axis] for axis in range(len(self._block))])
        values = values.transpose(*self._order, *self._at).reshape([values.shape[axis] for axis in self._order])
        # What was asked for by a number is no axis any more.
        return np.asarray(values[tuple(0 if isinstance(part, int) else slice(None) for part in parts)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        values = self[...]
        return values if dtype is None else values.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"FileArray({str(self._path)!r}, shape={self.shape}, dtype={self.dtype})"

    def frame(self, index: Sequence[int | slice]) -> FileArray:
        """Return the part at *index*, for each axis a place or a whole slice, still unread."""
        places = {axis: part for axis, part in zip(self._order, index, strict=True) if isinstance(part, int)}
        order = [axis for axis in self._order if axis not in places]
        return FileArray(self._path, self._offset, self._block, self._stored, order=order, at=self._at | places)

    def _read(self, box: Sequence[range]) -> NDArray[Any]:
        """Return the values of *box*, a range for each axis of the block."""
        values = np.empty([len(part) for part in box], self._stored)
        n_outer = _outer_axes(self._block, box)
        try:
            with self._path.open("rb") as file:
                if _version(fstat(file.fileno())) != self._version:
                    raise InputError(f"'{self._path}' has changed since it was opened: run again when it is whole")
                for place in np.ndindex(values.shape[:n_outer]) if values.size else ():
                    self._read_run(file, box, place, values)
        except OSError as error:
            raise InputError(f"'{self._path}' cannot be read: {error.strerror or error}") from error
        return values.astype(self.dtype, copy=False)

    def _read_run(self, file: BufferedReader, box: Sequence[range], place: tuple[int, ...], into: NDArray[Any]) -> None:
        """Read what follows *place*, which counts along the first axes of *box*: rows that lie behind one another."""
        along = box[len(place)]
        corner = (*(part[i] for part, i in zip(box, place, strict=False)), along[0])
        shape = (along[-1] - along[0] + 1, *self._block[len(corner) :])
        whole = into[place].shape == shape
        run = into[place] if whole else np.empty(shape, self._stored)
        row = int(np.ravel_multi_index(corner, self._block[: len(corner)]))
        file.seek(self._offset + row * prod(shape[1:]) * run.itemsize)
        if file.readinto(run.view(np.uint8).data) != run.nbytes:
            raise InputError(f"'{self._path}' was cut short while it was read: run again when it is whole")
        if not whole:
            inner = (slice(part.start, part.stop, part.step) for part in box[len(corner) :])
            into[place] = run[(slice(None, None, along.step), *inner)]


def _version(status: stat_result) -> tuple[int, int, int]:
    """Return what changes with the content of a file."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def _parts(key: Any, shape: tuple[int, ...]) -> list[int | range] | None:
    """Return a place or a range for each axis; None where *key* is anything but numbers and ascending slices."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(each is Ellipsis or isinstance(each, (int, np.integer, slice)) for each in keys):
        return None
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (len(shape) - len(keys) + 1)
    keys += [slice(None)] * (len(shape) - len(keys))
    # A range raises the IndexError of a place that it does not have.
    parts = [
        range(side)[each if isinstance(each, slice) else int(each)] for each, side in zip(keys, shape, strict=True)
    ]
    return None if any(isinstance(part, range) and part.step < 0 for part in parts) else parts


def _outer_axes(block: tuple[int, ...], box: Sequence[range]) -> int:
    """Return how many axes are gone through one by one: those behind the next one are whole, or all but the last."""
    n = len(block) - 1
    whole = [part == range(side) for part, side in zip(box, block, strict=True)]
    if not whole[n]:  # of rows, more is read than is kept: of few at a time
        return max(n - 1, 0)
    while n and whole[n]:
        n -= 1
    return n
