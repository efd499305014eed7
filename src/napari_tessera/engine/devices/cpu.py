"""The CPU, whose work is done when a call returns, and what the host says when its memory does not suffice.

A forward pass allocates and frees buffers of up to hundreds of megabytes. By default the C library gives each of them
back to the system and takes fresh pages for the next, and the faults on those pages cost several times the arithmetic
of a light network. Two measures, both of Linux with glibc, whose gains are in benchmarks/README.md: torch asks for huge
pages, and during a run the C library keeps what is freed of buffers up to 32 MiB, the most that it can.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from napari_tessera.core.errors import lacks_memory
from napari_tessera.engine.devices.arithmetic import SharedSwitch, arithmetic
from napari_tessera.engine.devices.host_memory import host_memory

if TYPE_CHECKING:
    from napari_tessera.core.settings.choices import Precision
    from napari_tessera.engine.devices.protocol import DeviceMemory, Stream, StreamEvent

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
# The largest threshold that glibc takes: half of an arena's heap.
LARGEST_KEPT_BYTES = 32 * 2**20
# What glibc itself arrives at (twice the other) once buffers of that size have been freed.
SETTLED_TRIM_BYTES = 2 * LARGEST_KEPT_BYTES


def ask_for_huge_pages() -> None:
    """Let torch ask for huge pages (one fault for 2 MiB); whoever has set its switch already keeps their choice.

    torch reads the switch at its first allocation: in a process that has made one this is without effect.
    """
    if sys.platform == "linux":
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _glibc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _cache_pages() -> Callable[[], object]:
    library = _glibc()
    if library is None:
        return lambda: None
    library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    return lambda: (library.mallopt(M_TRIM_THRESHOLD, SETTLED_TRIM_BYTES), library.malloc_trim(0))


# Keeps freed memory for the next pass while the body runs, and gives it back afterwards. Does nothing without glibc.
page_cache = SharedSwitch(_cache_pages).held


def is_host_out_of_memory(error: BaseException) -> bool:
    """Whether *error* is a failed host allocation.

    torch raises a plain RuntimeError for it, without a type of its own.
    """
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, (RuntimeError, MemoryError)) and lacks_memory(error)


class _Done:
    """Stream and event of a device that has done its work when the call returns."""

    def record_event(self) -> StreamEvent:
        return self

    def wait_event(self, event: StreamEvent) -> None:
        event.synchronize()

    def synchronize(self) -> None:
        return


class CpuDevice:
    """The CPU: device memory is host memory.

    Windows are read between passes, not beside them: a thread that reads takes a core from the network, and passes on
    few cores then take several times as long (benchmarks/README.md).
    """

    torch_device = torch.device("cpu")
    name = "CPU"
    shares_host_memory = True
    channels_last = True
    read_ahead = 0
    passes_ahead = 0

    def __init__(self) -> None:
        ask_for_huge_pages()

    def memory(self) -> DeviceMemory:
        """Return the host's total and available memory."""
        return host_memory()

    def start_peak(self, held_bytes: int = 0) -> None:
        """Do nothing: the host's allocator keeps no peak."""

    def peak_bytes(self) -> int | None:
        """Return None: the host's allocator keeps no peak."""
        return None

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether *error* is a failed host allocation."""
        return is_host_out_of_memory(error)

    def release_cached(self) -> None:
        """Do nothing: freed memory goes back when the run ends."""

    def host_buffer(
        self, shape: tuple[int, ...], dtype: torch.dtype, memory_format: torch.memory_format
    ) -> torch.Tensor:
        """Return plain host memory."""
        return torch.empty(shape, dtype=dtype, memory_format=memory_format)

    @contextmanager
    def running(self, precision: Precision) -> Iterator[None]:
        """Run the body without gradients, in *precision*, with freed memory kept from pass to pass."""
        with page_cache(), arithmetic("cpu", precision):
            yield

    def open_stream(self, *, main: bool = False) -> Stream:
        """Return a stream whose work is always done."""
        return _Done()

    def use_stream(self, stream: Stream) -> AbstractContextManager[object]:
        """Do nothing: there is one stream."""
        return nullcontext()
