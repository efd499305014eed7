"""Intensities that were measured before, for images that have not changed since.

A number that is stale would spoil a whole run without a word, so what is kept is known by the array's identity and by
what tells that its values are the same:

- **In memory**, every view of an array can be written to, and nobody is told. So the values themselves are looked at: a
  CRC-32 of the whole volume, much faster than measuring. A sample of the voxels would not see a retouched spot.
- **In a file that is mapped for reading**, and of a **zarr array in a folder**, times and sizes of the files tell.
- **Of dask**, values are taken not to change as long as the array is the same object. What its graph reads may be
  written all the same, so what would leave out a part of an image is not remembered: see `is_taken_to_stay`.
- **Of any other** nothing is known, so it is measured anew.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

# An intensity map, or the box of what is not zero.
Found = TypeVar("Found")

# A file that was written a moment ago may be written again without its time changing: clocks of file systems tick.
SETTLED_S = 2.0


def version_of(data: Any) -> Hashable | None:
    """Return what is different as soon as the values of *data* are; None where that cannot be told.

    Reads the values of arrays in memory, and of no others.
    """
    if not isinstance(data, np.ndarray):
        return "unchanging" if is_taken_to_stay(data) else _store_version(data) if _is_of("zarr", data) else None
    source: Any = data
    mapped: np.memmap[Any, Any] | None = None
    is_writable = False
    while isinstance(source, np.ndarray):
        is_writable |= bool(source.flags.writeable)
        mapped = source if isinstance(source, np.memmap) else mapped
        source = source.base
    if isinstance(source, bytes):
        return "bytes"
    if isinstance(source, mmap.mmap):
        name = None if mapped is None or is_writable else mapped.filename
        return None if name is None else _file_version(name)
    return _checksum(data) if data.dtype.kind in "biuf" else None


def is_taken_to_stay(data: Any) -> bool:
    """Whether *data* do not change by convention, which nothing ensures."""
    return _is_of("dask", data)


def _is_of(package: str, data: Any) -> bool:
    return type(data).__module__.partition(".")[0] == package


def _store_version(array: Any) -> Hashable | None:
    """Return what tells the files of a zarr *array* from those that it had before; None if it lies in no folder."""
    root = getattr(getattr(array, "store", None), "root", None)
    if not isinstance(root, Path):
        return None
    files = size = times = newest = 0
    try:
        for folder, _, names in os.walk(root / array.path):
            for name in names:
                found = (Path(folder) / name).stat()
                files, size, times = files + 1, size + found.st_size, times + found.st_mtime_ns
                newest = max(newest, found.st_mtime_ns)
    except OSError:  # removed meanwhile
        return None
    if not files or time.time() - newest / 1e9 < SETTLED_S:
        return None
    return str(root), array.path, files, size, times, newest


def _checksum(values: npt.NDArray[Any]) -> int:
    """Return the CRC-32 of *values*, plane by plane: a plane is all that is copied where they are not contiguous."""
    found = 0
    for plane in values:
        found = zlib.crc32(np.ascontiguousarray(plane).view(np.uint8).data, found)
    return found


def _file_version(path: str | os.PathLike[str]) -> Hashable | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a name from numpy, of whatever kind
    except OSError:
        return None
    if time.time() - found.st_mtime < SETTLED_S:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(slots=True)
class _Entry:
    """What was measured of one array: for everything that is measured of it, the version and the numbers."""

    alive: weakref.ref[Any]
    found: dict[Hashable, tuple[Hashable, Any]] = field(default_factory=dict)


class IntensityCache:
    """Remembers what was measured of arrays as long as they live and do not change. Safe to use from any thread."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._lock = threading.Lock()

    def measure(self, data: Any, what: Hashable, measure: Callable[[], Found], *, part: Any = None) -> Found:
        """Return what *measure* gives, or gave before for the same *data*, by identity, in the same state.

        *what* tells what is measured: intensities or box, frame, channels, normalisation, shape after resampling.
        *part* is the view of *data* that *measure* reads, such as a frame: only changes of it count. None: all of it.
        """
        looked_at = data if part is None else part
        version = version_of(looked_at)
        if version is None:
            return measure()
        with self._lock:
            entry = self._entry(data)
            known = entry.found.get(what)
        if known is not None and known[0] == version:
            same: Found = known[1]
            return same
        found = measure()
        if version_of(looked_at) == version:  # else it was written meanwhile
            with self._lock:
                if self._entries.get(id(data)) is entry:  # else it was forgotten meanwhile
                    entry.found[what] = (version, found)
        return found

    def forget(self, data: Any) -> None:
        """Measure *data* anew the next time."""
        with self._lock:
            self._entries.pop(id(data), None)

    def _entry(self, data: Any) -> _Entry:
        """Return the entry of *data*, a new one where there is none, or one of an array that had its place before."""
        self._entries = {key: entry for key, entry in self._entries.items() if entry.alive() is not None}
        entry = self._entries.get(id(data))
        if entry is None or entry.alive() is not data:
            entry = self._entries[id(data)] = _Entry(weakref.ref(data))
        return entry
