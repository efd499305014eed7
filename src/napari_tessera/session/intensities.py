"""Intensities that were measured before, for images of which it can be seen that they have not changed since.

A number that is stale would spoil a whole run without a word, and measuring costs one pass. So numbers are kept only
where every change leaves a trace: values in a file that is mapped for reading, whose time and size tell, and bytes that
nobody can write. An array in memory can be written through any view of it, and a lazy array may compute other values
each time: those are measured anew.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from napari_tessera.engine.intensity import IntensityMap

__all__ = ["IntensityCache", "version_of"]

# A file that was written a moment ago may be written again without its time changing: clocks of file systems tick.
SETTLED_S = 2.0


def version_of(data: Any) -> Hashable | None:
    """Return what is different as soon as the values of *data* are; None where that cannot be told.

    Reads no value.
    """
    source: Any = data
    mapped: np.memmap[Any, Any] | None = None
    while isinstance(source, np.ndarray):
        if source.flags.writeable:
            return None
        mapped = source if isinstance(source, np.memmap) else mapped
        source = source.base
    if isinstance(source, bytes):
        return "bytes"
    if isinstance(source, mmap.mmap) and mapped is not None and mapped.filename is not None:
        return _file_version(mapped.filename)
    return None


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
    """What was measured of one array, as it was at *version*."""

    alive: weakref.ref[Any]
    version: Hashable
    maps: dict[Hashable, IntensityMap] = field(default_factory=dict)


class IntensityCache:
    """Remembers the intensities of arrays as long as the arrays live and do not change. Safe to use from any thread."""

    def __init__(self) -> None:
        self._entries: dict[int, _Entry] = {}
        self._lock = threading.Lock()

    def measure(self, data: Any, what: Hashable, measure: Callable[[], IntensityMap]) -> IntensityMap:
        """Return what *measure* gives, or gave before for the same *data* in the same state.

        Parameters
        ----------
        data
            The array that is measured; known by its identity.
        what
            What is measured of it: frame, channels, normalisation, shape after resampling.
        measure
            Reads the array.
        """
        version = version_of(data)
        if version is None:
            return measure()
        with self._lock:
            entry = self._entries.get(id(data))
            if entry is not None and entry.alive() is data and entry.version == version and what in entry.maps:
                return entry.maps[what]
        found = measure()
        if version_of(data) == version:  # else it was written meanwhile
            self._keep(data, version, what, found)
        return found

    def _keep(self, data: Any, version: Hashable, what: Hashable, found: IntensityMap) -> None:
        with self._lock:
            self._entries = {key: entry for key, entry in self._entries.items() if entry.alive() is not None}
            entry = self._entries.get(id(data))
            if entry is None or entry.alive() is not data or entry.version != version:
                entry = self._entries[id(data)] = _Entry(weakref.ref(data), version)
            entry.maps[what] = found
