"""The most that torch's host allocator gives out meanwhile, kernels' own memory included.

The allocator keeps no peak, so what it reports to a profiler is added up. Torch's older profiler is used: it belongs to
one thread, where the newer one is the whole process's, and two at once end it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _profiler

from napari_tessera.engine.events import DecodingStarted, Event, PassFinished

if TYPE_CHECKING:
    from typing import Self

__all__ = ["FirstPasses", "HostAllocations", "peak_of_allocations"]

_autograd: Any = torch.autograd  # whose private names its stubs do not have
_ALLOCATION = "memory_alloc"  # releases are reported under the same name, as negative sizes


class HostAllocations:
    """Adds up what the calling thread allocates on the host between `start` and `stop`.

    Attributes
    ----------
    peak_bytes
        By how much allocations exceeded releases at most; None until `stop`, or where another profile was under way.
    """

    def __init__(self) -> None:
        self.peak_bytes: int | None = None
        self._is_running = False

    def start(self) -> None:
        """Begin; nothing happens during another profile of this thread, or in a torch without that profiler."""
        if not hasattr(_autograd, "_enable_profiler_legacy") or _autograd._profiler_enabled():
            return
        memory_alone = _profiler.ProfilerConfig(
            _profiler.ProfilerState.CPU,
            False,  # no shapes
            True,  # memory
            False,  # no stacks
            False,  # no operations counted
            False,  # no modules
            _profiler._ExperimentalConfig(),
        )
        _autograd._enable_profiler_legacy(memory_alone)
        self._is_running = True

    def stop(self) -> None:
        """End, if it has not ended yet."""
        if not self._is_running:
            return
        self._is_running = False
        threads = _autograd._disable_profiler_legacy()
        sizes = (event.cpu_memory_usage() for events in threads for event in events if event.kind() == _ALLOCATION)
        self.peak_bytes = max(accumulate(sizes, initial=0))


class FirstPasses:
    """Measures, on the CPU, what a run allocates until its first passes are done; later ones repeat them.

    A context manager around the run of one volume, on the thread that runs it; it is to be told of the run's events.

    Parameters
    ----------
    passes
        How many: what is reported of each is kept until the last.
    """

    def __init__(self, passes: int = 3) -> None:
        self._left = passes
        self._allocations = HostAllocations()

    @property
    def peak_bytes(self) -> int | None:
        """By how much allocations exceeded releases at most; None where no pass was made, or none could be measured."""
        return self._allocations.peak_bytes

    def __enter__(self) -> Self:
        self._allocations.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._allocations.stop()

    def note(self, event: Event) -> None:
        """Take note of *event*."""
        self._left -= isinstance(event, PassFinished)
        if self._left <= 0 or isinstance(event, DecodingStarted):
            self._allocations.stop()


def peak_of_allocations(call: Callable[[], object]) -> int | None:
    """Call *call*, and return by how much its allocations on the host exceeded its releases at most, bytes.

    None during another profile of this thread.
    """
    allocations = HostAllocations()
    allocations.start()
    try:
        call()
    finally:
        allocations.stop()
    return allocations.peak_bytes
