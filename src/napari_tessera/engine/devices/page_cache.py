"""Memory pages on the CPU: keep those that passes use again, instead of giving them back after each pass.

A forward pass allocates and frees buffers of up to hundreds of megabytes. By default the C library gives each of them
back to the system and takes fresh pages for the next, and the faults on those pages cost several times the arithmetic
of a light network. Two measures, both of Linux with glibc, whose gains are in benchmarks/README.md: torch asks for huge
pages (one fault for 2 MiB), and during a run the C library keeps what is freed of buffers up to 32 MiB, the most that
it can.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

from napari_tessera.engine.devices.shared_switch import SharedSwitch

__all__ = ["ask_for_huge_pages", "kept_pages"]

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The largest threshold that glibc takes: half of an arena's heap.
LARGEST_KEPT_BYTES = 32 * 2**20
# What glibc itself arrives at (twice the other) once buffers of that size have been freed.
SETTLED_TRIM_BYTES = 2 * LARGEST_KEPT_BYTES


def ask_for_huge_pages() -> None:
    """Let torch ask for huge pages; whoever has set its switch already keeps their choice.

    torch reads the switch at its first allocation, so this comes before the engine makes one.
    """
    if sys.platform == "linux":
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _keep_pages() -> Callable[[], object]:
    library = _glibc()
    if library is None:
        return lambda: None
    library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return lambda: (library.mallopt(M_TRIM_THRESHOLD, SETTLED_TRIM_BYTES), library.malloc_trim(0))


# Keeps freed pages while the body runs, and gives them back afterwards. Does nothing without glibc.
kept_pages = SharedSwitch(_keep_pages).held
